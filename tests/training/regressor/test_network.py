"""The network has the size of the paper's, begins at the mean hand, refines by nothing at first, and every part of it learns."""

from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import pytest
import torch

from fitting.hand.mano import load_hand_model, pose_rotations
from fitting.hand.rotation import matrix_from_six
from training.data.sets.table import HAMER_SETS, PAPER_SETS
from training.recipes import REGRESSORS
from training.regressor.hand import HAND_SHARE
from training.regressor.network import Regressor, RegressorSettings
from training.regressor.paper import ABLATIONS
from training.regressor.refinement import Pyramid
from training.regressor.vit import SHAPES, Attention, ViT

IMAGES = torch.rand(2, 3, 256, 256, generator=torch.Generator().manual_seed(0))


def count(module: torch.nn.Module) -> int:
    return sum(p.numel() for p in module.parameters())


def spoken(network: Regressor) -> Regressor:
    """With a last layer of the refinement as after some training; at zero it passes no gradient on."""
    torch.nn.init.normal_(network.refinement.say.weight, std=0.01)  # type: ignore[union-attr]
    return network


@pytest.mark.parametrize(
    ("size", "millions", "refine_millions", "features"),
    [("s", 21.68, 0.78, 336), ("b", 85.83, 3.02, 672), ("l", 303.34, 5.34, 896), ("h", 630.96, 8.32, 1120)],
)
def test_parameters_are_those_of_the_released_network(
    size: Literal["s", "b", "l", "h"], millions: float, refine_millions: float, features: int
) -> None:
    """Transformer, its embeddings (of a mean shape too) and heads; maps of independent branches, and its one layer of 6-D residuals."""
    with torch.device("meta"):
        backbone = ViT(SHAPES[size])
        pyramid = Pyramid(backbone.width, (1, 2, 4), chain=False)
    embeddings, heads = (6 + 10 + 3 + 3) * backbone.width, (6 + 10 + 3) * (backbone.width + 1)
    assert (count(backbone) + embeddings + heads) / 1e6 == pytest.approx(millions, abs=5e-3)
    assert sum(pyramid.channels) == features
    assert (count(pyramid) + (96 + 10 + 3) * (features + 1)) / 1e6 == pytest.approx(refine_millions, abs=1e-2)


def test_tokens_and_heads_are_as_large_as_counted() -> None:
    network = Regressor(RegressorSettings(size="xs", tokens="released"))
    assert count(network.tokens) == (6 + 3 + 3) * 192
    assert count(network.heads) == (6 + 10 + 3) * 193
    assert count(Regressor(RegressorSettings(size="xs")).tokens) == (6 + 3 + 3 + 18) * 192


@pytest.mark.parametrize("settings", [{"size": "xs", "refine_steps": 3}, {"backbone": "fastvit"}])
def test_residual_is_zero_before_the_first_step(settings: Any) -> None:
    hands = Regressor(RegressorSettings(**settings)).eval()(IMAGES)
    assert len(hands) == 1 + settings.get("refine_steps", 1)
    for hand in hands[1:]:
        for mine, coarse in zip(hand, hands[0], strict=True):
            torch.testing.assert_close(mine, coarse, atol=1e-6, rtol=0)


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"tokens": "released", "pyramid": "branches", "aggregation": ("max",)},
        {"aggregation": ("sum", "joints"), "refine_steps": 2, "detach_vertices": False},
        {"scales": (4,)},
        {"backbone": "fastvit", "drop_path": 0.0},
        {"checkpoint_activations": True},
        {"drop_path": 0.5},
    ],
)
def test_gradient_reaches_every_parameter_of_every_part(settings: Any) -> None:
    torch.manual_seed(0)
    network = spoken(Regressor(RegressorSettings(**{"size": "xs"} | settings)).train())
    coarse, *_, refined = network(IMAGES.repeat(2, 1, 1, 1))
    sum(((v - 0.1) ** 2).sum() for v in (*coarse, *refined)).backward()
    still = [name for name, p in network.named_parameters() if p.grad is None or not p.grad.abs().max() > 0]
    assert not still
    assert all(torch.isfinite(p.grad).all() for p in network.parameters())  # type: ignore[arg-type]


def test_the_refined_hand_alone_teaches_every_part() -> None:
    torch.manual_seed(0)
    network = spoken(Regressor(RegressorSettings(size="xs")))
    refined = network(IMAGES)[-1]
    (refined.vertices.square().sum() + refined.points.square().sum()).backward()
    parts = {"backbone": network.backbone, "tokens": network.tokens, "heads": network.heads, "refinement": network.refinement}
    assert {name for name, part in parts.items() if not all(p.grad is not None for p in part.parameters())} == set()  # type: ignore[union-attr]


def test_the_first_layer_of_a_fresh_refinement_learns_from_the_second_step_on() -> None:
    torch.manual_seed(0)
    network = Regressor(RegressorSettings(size="xs"))
    optimizer = torch.optim.SGD(network.refinement.parameters(), 1e-3)  # type: ignore[union-attr]
    for _ in range(2):
        optimizer.zero_grad()
        network(IMAGES)[-1].joints[:, 8].sum().backward()
        optimizer.step()
    assert all(p.grad.abs().max() > 0 for p in network.refinement.parameters())  # type: ignore[union-attr]


def test_the_vertices_are_the_hands_that_the_numbers_say() -> None:
    torch.manual_seed(0)
    network = spoken(Regressor(RegressorSettings(size="xs"))).eval()
    for hand in network(IMAGES):
        torch.testing.assert_close(torch.linalg.det(hand.rotations), torch.ones(2, 16), atol=1e-5, rtol=0)
        posed = pose_rotations(load_hand_model(), hand.betas, hand.rotations)
        torch.testing.assert_close(hand.vertices, posed.vertices - posed.joints[:, :1])
        torch.testing.assert_close(hand.joints, posed.joints - posed.joints[:, :1])
        depth = 2 * 5000 / (256 * hand.camera[:, 0])
        shifted = hand.joints + torch.stack([hand.camera[:, 1], hand.camera[:, 2], depth], 1)[:, None]
        torch.testing.assert_close(hand.points, 5000 / 256 * shifted[..., :2] / shifted[..., 2:])


def test_the_mean_hand_stands_upright_in_the_middle_and_takes_half_of_the_crop() -> None:
    network = Regressor(RegressorSettings(size="xs"))
    mean = network.hand.mean()
    six = mean.pose.reshape(16, 2, 3)
    torch.testing.assert_close(six @ six.mT, torch.eye(2).expand(16, 2, 2), atol=1e-6, rtol=0)
    hand = network.hand(matrix_from_six(mean.pose)[None], mean.betas[None], mean.camera[None])
    box = hand.vertices[0, :, :2] * mean.camera[0] / 2
    assert (box.amax(0) - box.amin(0)).max() == pytest.approx(HAND_SHARE, abs=1e-5)
    assert hand.points.abs().max() < 0.3


def test_images_are_normalised_inside_and_only_the_middle_columns_are_seen() -> None:
    network = Regressor(RegressorSettings(size="xs", refine_steps=0)).eval()
    seen = []
    network.backbone.register_forward_pre_hook(lambda _, given: seen.append(given[0]))
    network(IMAGES)
    red = (IMAGES[:, 0, :, 32:224] - 0.485) / 0.229
    torch.testing.assert_close(seen[0][:, 0], red)
    assert seen[0].shape == (2, 3, 256, 192)


def test_recomputed_activations_give_the_same_gradient() -> None:
    gradients = []
    for again in (False, True):
        torch.manual_seed(0)
        network = Regressor(RegressorSettings(size="xs", checkpoint_activations=again, drop_path=0.5))
        network(IMAGES)[-1].points.sum().backward()
        gradients.append(network.backbone.patch_embed["proj"].weight.grad)  # type: ignore[index, union-attr]
    torch.testing.assert_close(*gradients)


def test_in_bfloat16_the_answer_is_nearly_the_same_and_rotations_stay_rotations() -> None:
    torch.manual_seed(0)
    network = Regressor(RegressorSettings(size="xs")).eval()
    with torch.no_grad():
        single = network(IMAGES)[-1]
        with torch.autocast("cpu", torch.bfloat16):
            narrow = network(IMAGES)[-1]
    assert all(values.dtype == torch.float32 for values in narrow)
    torch.testing.assert_close(narrow.vertices, single.vertices, atol=1e-3, rtol=0)
    torch.testing.assert_close(torch.linalg.det(narrow.rotations), torch.ones(2, 16), atol=1e-5, rtol=0)


def test_attention_by_products_in_training_is_the_fused_one() -> None:
    torch.manual_seed(0)
    attention = Attention(48, 3).bfloat16()
    x = torch.randn(2, 30, 48, dtype=torch.bfloat16)
    with torch.no_grad():
        fused = attention(x)
    torch.testing.assert_close(attention(x), fused, atol=2e-2, rtol=2e-2)


def test_the_hand_stays_before_the_camera_whatever_the_head_says() -> None:
    network = Regressor(RegressorSettings(size="xs", refine_steps=0)).eval()
    torch.nn.init.constant_(network.heads.camera.bias, -50.0)
    (hand,) = network(IMAGES)
    assert (hand.camera[:, 0] > 0).all()
    assert torch.isfinite(hand.points).all()


def test_drop_path_is_the_whole_block_on_average() -> None:
    torch.manual_seed(0)
    shape = SHAPES["xs"]._replace(width=24, depth=2)
    network = ViT(shape, drop_path=0.5)
    block = network.blocks[1].train()
    x = torch.randn(8, 5, 24)
    with torch.no_grad():
        mean = torch.stack([block._add(x, block.norm2, block.mlp) for _ in range(600)]).mean(0)  # type: ignore[operator]
        torch.testing.assert_close(mean, x + block.mlp(block.norm2(x)), atol=0.05, rtol=0)  # type: ignore[operator]


def test_checkpoints_carry_no_arrays_of_the_hand_model() -> None:
    network = Regressor(RegressorSettings(size="xs"))
    assert not {name for name in network.state_dict() if name.startswith(("hand.", "mean_"))}


def test_a_network_of_another_hand_is_refused() -> None:
    with pytest.raises(ValueError, match="rotations of the mano hand, and the hand in use is standin"):
        Regressor(RegressorSettings(size="xs", hand="mano"), load_hand_model())


@pytest.mark.parametrize(
    ("settings", "complaint"),
    [
        ({"refine_steps": 4}, r"refine_steps must lie in \[0, 3\], got 4"),
        ({"scales": ()}, r"scales must be some of \(1, 2, 4\)"),
        ({"scales": (1, 3)}, r"scales must be some of"),
        ({"aggregation": ()}, "aggregation must be some of"),
        ({"aggregation": ("max", "max")}, "each once"),
        ({"drop_path": 1.0}, r"drop_path must lie in \[0, 1\)"),
    ],
)
def test_bad_settings_are_named(settings: Any, complaint: str) -> None:
    with pytest.raises(ValueError, match=complaint):
        RegressorSettings(**settings)


def test_every_row_of_table_5_changes_what_it_names_and_learns() -> None:
    rows = {name: REGRESSORS[name]() for name in ABLATIONS}
    full = rows["regressor_full"]
    assert (full.network.size, full.share, full.begins, full.sets) == ("h", 1.0, "vitpose", PAPER_SETS)
    changed = {key: {name for name in full.__slots__ if getattr(row, name) != getattr(full, name)} for key, row in rows.items()}
    assert changed == {
        "regressor_full": set(),
        "regressor_fastvit": {"network", "begins"},
        "regressor_no_vitpose": {"begins"},
        "regressor_single_scale": {"network"},
        "regressor_no_refinement": {"network"},
        "regressor_freihand": {"sets"},
        "regressor_hamer": {"sets"},
    }
    assert rows["regressor_freihand"].sets == ("freihand",)
    assert rows["regressor_hamer"].sets == HAMER_SETS
    assert len(HAMER_SETS) == 10
    for settings in {replace(row.network, size="xs") for row in rows.values()}:
        hands = Regressor(settings)(IMAGES[:1])
        assert len(hands) == (1 if settings.refine_steps == 0 else 2)


@pytest.mark.parametrize(
    ("row", "change", "sets", "complaint"),
    [
        ("regressor_full", {}, PAPER_SETS, "begins with ViTPose's weights: --set vitpose=FILE, or regressor_no_vitpose"),
        ("regressor_fastvit", {"vitpose": Path("v.pth")}, PAPER_SETS, "FastViT has no use for ViTPose's weights, and vitpose is v.pth"),
        ("regressor_no_vitpose", {"vitpose": Path("v.pth")}, PAPER_SETS, "begins at random, and vitpose is v.pth"),
        ("regressor_no_vitpose", {}, PAPER_SETS[:-1], "learns from freihand, .*, hot3d alone; hot3d missing: --sets"),
        ("regressor_hamer", {"begins": "random"}, PAPER_SETS, "; arctic, bedlam, hot3d, reinterhand besides: --sets"),
        ("regressor_freihand", {"begins": "random"}, ("ho3d",), "freihand missing; ho3d besides"),
    ],
)
def test_a_row_refuses_the_weights_or_the_sets_that_it_does_not_name(row: str, change: Any, sets: Any, complaint: str) -> None:
    recipe = replace(REGRESSORS[row](), **change)
    with pytest.raises(ValueError, match=complaint):
        recipe.refuse_other_data(list(sets), num_folders=0)
    with pytest.raises(ValueError, match=r"1 folders of --data besides|begins|no use"):
        recipe.refuse_other_data(list(recipe.sets), num_folders=1)


def test_a_row_takes_what_it_names() -> None:
    REGRESSORS["regressor_no_vitpose"]().refuse_other_data(PAPER_SETS, num_folders=0)
    replace(REGRESSORS["regressor_hamer"](), vitpose=Path("v.pth")).refuse_other_data(["hamer"], num_folders=0)
    replace(REGRESSORS["regressor_full"](), vitpose=Path("v.pth"), sets=("none",)).refuse_other_data([], num_folders=2)
    REGRESSORS["regressor_h"]().refuse_other_data(["rhd"], num_folders=1)


def test_the_papers_refinement_has_a_layer_each_for_pose_and_shape_and_leaves_the_camera() -> None:
    torch.manual_seed(0)
    network = Regressor(replace(REGRESSORS["regressor_paper"]().network, size="xs")).eval()
    for layers, count in ((network.refinement.pose, 48), (network.refinement.shape, 10)):  # type: ignore[union-attr]
        torch.nn.init.normal_(layers[-1].weight, std=0.01)  # type: ignore[index, union-attr]
        assert layers[-1].out_features == count  # type: ignore[index, union-attr]
    with torch.no_grad():
        coarse, refined = network(IMAGES)
    torch.testing.assert_close(refined.camera, coarse.camera)
    assert (refined.betas - coarse.betas).abs().max() > 1e-4
    assert (refined.rotations - coarse.rotations).abs().max() > 1e-4
