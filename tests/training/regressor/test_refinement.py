"""The refinement reads where the mesh is: a painted cell is found by the vertex on it, on every map, anywhere, by left hands too."""

import pytest
import torch

from fitting.hand.rotation import matrix_from_axis_angle
from training.regressor.camera import crop_translation, mirrored_camera, mirrored_points, project_to_crop
from training.regressor.network import Regressor, RegressorSettings
from training.regressor.refinement import PaperRefinement, Pyramid, Refinement, sample_map

CAMERA = torch.tensor([[5.5, 0.02, -0.03]])
PLACES = [(0, 0), (0, 11), (15, 0), (15, 11), (7, 5), (3, 9), (12, 2)]
"""Row and column among 16 x 12."""


def middle_of(row: int, column: int, scale: int) -> torch.Tensor:
    """Middle of a cell of a map that shows columns 32 to 224 of 256, in crop units."""
    return torch.tensor([(32 + (column + 0.5) * 16 / scale) / 256 - 0.5, (row + 0.5) * 16 / scale / 256 - 0.5])


def vertex_at(point: torch.Tensor, depth: float = 0.04) -> torch.Tensor:
    """A point in space, metres about the wrist, that the camera sees there."""
    wrist = crop_translation(CAMERA)[0]
    return torch.cat([point * (wrist[2] + depth) * 256 / 5000 - wrist[:2], torch.tensor([depth])])


@pytest.mark.parametrize("scale", [1, 2, 4])
@pytest.mark.parametrize(("row", "column"), PLACES)
def test_a_painted_cell_is_found_by_the_vertex_on_it(scale: int, row: int, column: int) -> None:
    row, column = row * scale + scale // 2, column * scale + scale // 2
    painted = torch.zeros(1, 3, 16 * scale, 12 * scale)
    painted[0, :, row, column] = torch.tensor([1.0, -2.0, 3.0])
    point = project_to_crop(vertex_at(middle_of(row, column, scale))[None, None], CAMERA)
    torch.testing.assert_close(sample_map(painted, point)[0, 0], torch.tensor([1.0, -2.0, 3.0]), atol=1e-3, rtol=0)


@pytest.mark.parametrize("scale", [1, 2, 4])
@pytest.mark.parametrize(("row", "column"), PLACES)
def test_a_left_hand_finds_it_in_the_mirrored_image(scale: int, row: int, column: int) -> None:
    left = torch.tensor([True])
    painted = torch.zeros(1, 1, 16 * scale, 12 * scale)
    painted[0, 0, row * scale, column * scale] = 1
    vertex = vertex_at(middle_of(row * scale, column * scale, scale))[None, None]
    seen = project_to_crop(mirrored_points(vertex, left), mirrored_camera(CAMERA, left))
    torch.testing.assert_close(sample_map(painted.flip(-1), seen), torch.ones(1, 1, 1), atol=1e-3, rtol=0)


def test_between_two_cells_both_count_by_their_distance() -> None:
    painted = torch.zeros(1, 1, 16, 12)
    painted[0, 0, 4, 6] = 1
    point = 0.75 * middle_of(4, 6, 1) + 0.25 * middle_of(4, 7, 1)
    assert sample_map(painted, point[None, None]).item() == pytest.approx(0.75, abs=1e-5)


def test_beyond_the_map_its_border_is_read() -> None:
    ramp = torch.arange(12.0).expand(1, 1, 16, 12)
    points = torch.tensor([[[-0.49, 0.0], [0.49, 0.0], [7.0, 0.2]]])
    assert sample_map(ramp, points).flatten().tolist() == [0, 11, 11]


def test_another_crop_unit_is_another_cell() -> None:
    """A map that says its own columns and rows is read as the points themselves."""
    columns, rows = torch.meshgrid(torch.arange(48.0), torch.arange(64.0), indexing="xy")
    points = torch.rand(1, 778, 2, generator=torch.Generator().manual_seed(0)) * torch.tensor([0.7, 0.9]) - torch.tensor([0.35, 0.45])
    read = sample_map(torch.stack([columns, rows])[None], points)
    pixels = (points + 0.5) * 256 - torch.tensor([32.0, 0.0])
    torch.testing.assert_close(read, pixels / 4 - 0.5, atol=1e-3, rtol=0)


def test_the_network_lays_the_whole_coarse_mesh_on_its_maps() -> None:
    torch.manual_seed(0)
    network = Regressor(RegressorSettings(size="xs")).eval()
    seen = []
    network.refinement.register_forward_pre_hook(lambda _, given: seen.append(given))  # type: ignore[union-attr]
    with torch.no_grad():
        coarse, _ = network(torch.rand(2, 3, 256, 256))
    maps, points, _ = seen[0]
    assert [tuple(features.shape[1:]) for features in maps] == [(96, 16, 12), (48, 32, 24), (24, 64, 48)]
    torch.testing.assert_close(points, project_to_crop(coarse.vertices, coarse.camera))
    assert (points.amax(1) - points.amin(1)).max() == pytest.approx(0.5, abs=0.1)
    assert points.abs().max() < 0.375


def test_what_the_refinement_says_is_done_to_the_coarse_hand() -> None:
    """Eq. 7: the pose turns by its residual, the shape and the camera move by theirs, each by itself."""
    torch.manual_seed(0)
    network = Regressor(RegressorSettings(size="xs")).eval()
    said = 0.1 * torch.randn(61, generator=torch.Generator().manual_seed(1))
    images = torch.rand(1, 3, 256, 256)
    for part in (slice(0, 48), slice(48, 58), slice(58, 61), slice(0, 61)):
        only = torch.zeros(61)
        only[part] = said[part]
        with torch.no_grad():
            network.refinement.say.bias.copy_(only)  # type: ignore[union-attr]
            coarse, refined = network(images)
        turned = matrix_from_axis_angle(only[:48].reshape(1, 16, 3)) @ coarse.rotations
        torch.testing.assert_close(refined.rotations, turned, atol=1e-5, rtol=0)
        torch.testing.assert_close(refined.betas, coarse.betas + only[None, 48:58], atol=1e-5, rtol=0)
        camera = torch.cat([coarse.camera[:, :1] * only[58].exp(), coarse.camera[:, 1:] + only[None, 59:]], 1)
        torch.testing.assert_close(refined.camera, camera, atol=1e-4, rtol=0)
        assert not torch.allclose(refined.points, coarse.points, atol=1e-4), "and so does what is seen of it"


def aggregated(kind: str, values: torch.Tensor, weights: torch.Tensor) -> torch.Tensor:
    """What a refinement of one map and one aggregation hands to its layers."""
    refinement = Refinement(192, (1,), (kind,), weights)  # type: ignore[arg-type]
    got = []
    refinement.read.register_forward_pre_hook(lambda _, given: got.append(given[0]))
    points = torch.stack([middle_of(k // 12, k % 12, 1) for k in range(192)])[torch.arange(778) % 192]
    features = torch.zeros(1, 96, 16, 12)
    features[0, 0] = values.reshape(16, 12)
    refinement([features], points[None], torch.zeros(1, 109))
    return got[0][0, :-109].reshape(-1, 96)[:, 0]


def test_aggregations_are_what_they_are_called() -> None:
    values = torch.randn(192, generator=torch.Generator().manual_seed(0))
    weights = torch.rand(778, 16, generator=torch.Generator().manual_seed(1))
    each = values[torch.arange(778) % 192]
    for kind, wanted in {"mean": each.mean(), "max": each.max(), "sum": each.sum()}.items():
        torch.testing.assert_close(aggregated(kind, values, weights), wanted[None], atol=2e-3, rtol=1e-3)
    about = torch.stack([(each * weights[:, j]).sum() / weights[:, j].sum() for j in range(16)])
    torch.testing.assert_close(aggregated("joints", values, weights), about, atol=1e-3, rtol=1e-3)


def given(num: int, seed: int = 2) -> tuple[list[torch.Tensor], torch.Tensor, torch.Tensor]:
    """A map of 8 channels, vertices on it and the numbers of hands."""
    generator = torch.Generator().manual_seed(seed)
    points = torch.rand(num, 778, 2, generator=generator) / 2 - 0.25
    return [torch.randn(num, 8, 16, 12, generator=generator)], points, torch.randn(num, 109, generator=generator)


def test_a_refinement_says_nothing_at_first_then_what_its_layers_say_of_features_and_hand() -> None:
    torch.manual_seed(0)
    refinement = Refinement(16, (1,), ("mean",), torch.rand(778, 16))
    assert not any(values.any() for values in refinement(*given(2)))
    assert refinement.read.weight.shape == (512, 8 + 16 * 6 + 10 + 3)
    assert refinement.say.weight.shape == (16 * 3 + 10 + 3, 512)
    assert "about_joints" not in refinement.state_dict(), "the hand model has it"
    chain = Refinement(64, (4,), ("mean",), torch.rand(778, 16)).pyramid
    assert isinstance(chain, Pyramid)
    assert [*chain.wider] == ["2", "4"], "a chain unless told otherwise"
    torch.nn.init.normal_(refinement.say.weight, std=0.05)
    maps, points, numbers = given(2)
    said = refinement(maps, points, numbers)
    features = sample_map(maps[0], points).mean(1)
    layers = refinement.say(torch.nn.functional.gelu(refinement.read(torch.cat([features, numbers], 1))))
    torch.testing.assert_close(torch.cat([said.turns.flatten(1), said.betas, said.camera], 1), layers)
    assert not torch.allclose(refinement(maps, points, -numbers).betas, said.betas), "it knows the hand as it is"


def test_the_papers_refinement_is_an_mlp_for_the_pose_and_one_for_the_shape_of_the_features_alone() -> None:
    torch.manual_seed(0)
    refinement = PaperRefinement(16, (1,), ("mean", "max"), torch.rand(778, 16))
    assert not any(values.any() for values in refinement(*given(2)))
    for layers in (refinement.pose, refinement.shape):
        torch.nn.init.normal_(layers[-1].weight, std=0.05)  # type: ignore[arg-type]
    maps, points, numbers = given(2)
    said, sampled = refinement(maps, points, numbers), sample_map(maps[0], points)
    features = torch.cat([sampled.mean(1), sampled.amax(1)], 1)
    torch.testing.assert_close(said.turns, refinement.pose(features).reshape(2, 16, 3))
    torch.testing.assert_close(said.betas, refinement.shape(features))
    assert said.betas.shape == (2, 10)
    assert said.camera.tolist() == [[0, 0, 0], [0, 0, 0]]
    assert said.turns.abs().max() > 0.01
    again = refinement(maps, points, -numbers)
    torch.testing.assert_close((again.turns, again.betas), (said.turns, said.betas))


def test_another_networks_maps_span_the_whole_crop() -> None:
    refinement = Refinement(99, (4,), ("mean",), torch.rand(778, 16), pyramid=Pyramid(16, (1,)))
    got = []
    refinement.read.register_forward_pre_hook(lambda _, given: got.append(given[0]))
    maps, points, numbers = given(1)
    refinement(maps, points, numbers)
    torch.testing.assert_close(got[0][:, :8], sample_map(maps[0], points, 1.0).mean(1))


def test_maps_are_made_of_those_of_half_their_size_or_all_of_the_first() -> None:
    """The release's way, without a chain, widens the first map by itself; a chain has no layers that nobody asks for."""
    torch.manual_seed(0)
    cells = torch.rand(1, 64, 16, 12)
    chain = Pyramid(64, (1, 2, 4))
    first, second, third = chain(cells)
    torch.testing.assert_close(first, chain.first(cells))
    torch.testing.assert_close(second, chain.wider["2"](first))
    torch.testing.assert_close(third, chain.wider["4"](second))
    apart = Pyramid(64, (1, 2, 4), chain=False)
    first, second, third = apart(cells)
    torch.testing.assert_close(second, apart.wider["2"](first))
    torch.testing.assert_close(third, apart.wider["4"](first))
    assert [len([*pyramid.wider["4"].children()]) for pyramid in (chain, apart)] == [1, 2]
    for scales, chained, alone in (((1,), [], []), ((2,), ["2"], ["2"]), ((4,), ["2", "4"], ["4"]), ((1, 4), ["2", "4"], ["4"])):
        assert [*Pyramid(64, scales).wider] == chained
        assert [*Pyramid(64, scales, chain=False).wider] == alone
    (block,) = chain.wider["2"].children()
    widened, normed, _ = block.children()
    assert widened.bias is None
    assert normed.num_groups == 8
    assert (second >= 0).all()


@pytest.mark.parametrize("scales", [(1,), (2,), (4,), (1, 4), (1, 2, 4)])
@pytest.mark.parametrize("chain", [True, False])
def test_maps_of_the_chosen_scales_only(scales: tuple[int, ...], chain: bool) -> None:
    maps = Pyramid(192, scales, chain=chain)(torch.rand(1, 192, 16, 12))
    assert [tuple(features.shape[1:]) for features in maps] == [(96 // k, 16 * k, 12 * k) for k in scales]


def test_a_hand_does_not_depend_on_who_shares_its_batch() -> None:
    torch.manual_seed(0)
    network = Regressor(RegressorSettings(size="xs")).train()
    images = torch.rand(3, 3, 256, 256)
    with torch.no_grad():
        together, alone = network(images)[-1], network(images[:1])[-1]
    torch.testing.assert_close(together.vertices[:1], alone.vertices, atol=1e-5, rtol=0)
