"""The landmark network as a backbone: looks are the detector's, what is said in a look comes back into the crop, heads learn and go on."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from rich.console import Console

from benchmarks.fit.rendered_hands import render
from fitting.hand.mano import RIGHT
from pipeline.dataset.studio_shards import StudioShards, write_studio_shards
from pipeline.evaluate.studio_truth import pa_mpjpe_mm
from stages.detectors.mediapipe.hand_landmarks import load_hand_landmarks, tracked_region
from stages.detectors.mediapipe.hint import inputs_of, load_hint
from stages.detectors.mediapipe.kernel import placed
from studio.stills import Album
from training.regressor.camera import project_to_crop
from training.regressor.inference import SHIPPED, HandReconstructor
from training.regressor.landmark_heads import (
    HeadsSettings,
    chances,
    known_rows,
    train_coarse,
    train_hint,
    train_landmarks,
    train_refinement,
)
from training.regressor.landmark_kernel import GUARD, KernelSettings, Solver, lay
from training.regressor.landmark_layers import LayersSettings, train_layers
from training.regressor.landmark_trunk import LandmarkTrunk, tracked
from training.regressor.looks import Looks, looks_of
from training.regressor.network import Regressor, RegressorSettings


@pytest.fixture(scope="module")
def shards(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("rendered")
    settings = StudioShards(num_albums=6, seed=88_000, album=Album(num_pictures=3))
    write_studio_shards(folder, settings, Console(quiet=True))
    return folder


@pytest.fixture(scope="module")
def looks(shards: Path, tmp_path_factory: pytest.TempPathFactory) -> Looks:
    return looks_of([shards], tmp_path_factory.mktemp("looks"))


def test_regions_are_the_trackers() -> None:
    points = np.random.default_rng(0).normal(0, 0.2, (5, 21, 2))
    region = tracked(torch.from_numpy(points))
    for row, hand in enumerate(points):
        x, y, side, angle = tracked_region(1000 * hand)
        np.testing.assert_allclose([*region.middle[row], region.side[row]], np.array([x, y, side]) / 1000, atol=1e-9)
        np.testing.assert_allclose(region.turn[row] @ torch.tensor([0, -1.0]).double(), [np.sin(angle), -np.cos(angle)], atol=1e-9)


def test_a_look_says_what_the_detectors_does() -> None:
    scene = next(render("still", 90_000))
    image, points = scene.image, scene.joints_2d[0]
    left, top = (points.mean(0) - 128).round().astype(int).clip(0, np.array(image.shape[1::-1]) - 256)
    crop = np.ascontiguousarray(image[top : top + 256, left : left + 256])
    points = points - [left, top]
    (look,) = load_hand_landmarks()([(crop, tracked_region(points))])
    with torch.inference_mode():
        shown = torch.from_numpy(crop).permute(2, 0, 1)[None].float() / 255
        seen = LandmarkTrunk().eval()(shown, torch.from_numpy(points / 256 - 0.5)[None].float())
    assert look.said is not None
    gap = seen.said[0, 1152:1215].numpy() - look.said[1152:1215]
    assert np.abs(gap).mean() < 0.01, "shares of the look: half a pixel apart"


def test_what_is_said_in_a_look_lies_in_the_crop() -> None:
    network = Regressor(RegressorSettings(backbone="mediapipe", aggregation=("joints",))).eval()
    for values in network.reader.layers[-1].parameters():
        torch.nn.init.normal_(values, 0, 0.05)
    with torch.inference_mode():
        hands = network(torch.rand(2, 3, 256, 256, generator=torch.Generator().manual_seed(0)))
    for hand in hands:
        torch.testing.assert_close(project_to_crop(hand.joints, hand.camera), hand.points, atol=2e-3, rtol=0)


def test_looks_hold_the_hand_that_they_show(looks: Looks) -> None:
    assert looks.right.all(), "a left hand is looked at in the mirror"
    right = looks
    network = Regressor(RegressorSettings(backbone="mediapipe", refine_steps=0))
    hand = network.hand(*map(torch.from_numpy, (right.rotations, right.betas)), torch.tensor([[1.0, 0, 0]]).expand(len(right), 3))
    np.testing.assert_allclose(hand.joints, right.joints, atol=1e-4)
    screen = right.said[:, 1152:1215].reshape(-1, 21, 3)[..., :2]
    assert np.median(np.linalg.norm(screen - right.points, axis=2)) < 0.05, "where the network sees it"
    assert looks.exact.all()


def test_an_interrupted_training_goes_on(shards: Path, tmp_path: Path) -> None:
    small = HeadsSettings(kernel=KernelSettings(directions=16), layers=LayersSettings(hidden=8, steps=3))
    settings = replace(small, coarse_steps=4, refinement_steps=3, batch_size=8, warmup_steps=2)
    told: list[str] = []
    train_landmarks([shards], tmp_path, settings, told.append)
    made = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*.*")}
    assert {"hint.npz", "coarse.pt", "regressor.pt"} <= {path.name for path in made}
    (tmp_path / "regressor.pt").unlink()
    train_landmarks([shards], tmp_path, settings, told.append)
    again = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*.*")}
    assert {path.name for path in made if made[path] != again[path]} == {"regressor.pt"}, "what was there was kept"
    load_hint(tmp_path / "hint.npz")
    HandReconstructor.load(tmp_path / "regressor.pt")


def test_real_hands_have_their_share(looks: Looks) -> None:
    mixed = Looks.joined([looks, looks])
    mixed.exact[: len(looks)] = False
    mixed.weight[0] = 0
    chance = chances(mixed, 0.25)
    assert chance[: len(looks)].sum() == pytest.approx(0.25)
    assert chance[0] == 0
    for real in (0.25, 1.0):  # there are no real ones
        assert chances(looks, real).sum() == pytest.approx(1)
    mixed.weight[:] = 0
    with pytest.raises(ValueError, match="no look has a weight"):
        chances(mixed, 0.25)


def test_a_regressor_is_not_trained_on_no_hand(looks: Looks) -> None:
    left, settings = replace(looks, right=np.zeros(len(looks), bool)), HeadsSettings(coarse_steps=1, refinement_steps=1)
    network = Regressor(RegressorSettings(backbone="mediapipe", aggregation=("joints",)))
    for train in (train_coarse, train_refinement):
        with pytest.raises(ValueError, match="no look shows a right hand"):
            train(network, left, settings)
    with pytest.raises(ValueError, match="no look shows a right hand"):
        train_hint(left, settings)


def test_a_kernel_says_what_its_examples_say_and_knows_what_others_would_of_each() -> None:
    rng = np.random.default_rng(0)
    inputs = rng.normal(size=(60, 8)).astype(np.float32)
    target = np.stack([np.sin(inputs[:, 0]) + inputs[:, 1], inputs[:, 2] ** 2], 1).astype(np.float32)
    settings = KernelSettings(directions=8, narrow=2, ridge=0.02)
    laid, hand, weight = lay(inputs[:40], [5, 3], settings), np.arange(60) % 20, rng.uniform(0.2, 1, 60).astype(np.float32)
    looks = placed(laid.mean, laid.scale, laid.directions, laid.step)(inputs)
    solver = Solver(laid, looks, hand, weight, settings)
    said = solver.solve(target, 0.02).ready()
    assert np.abs(said(looks) - target).mean() < 0.25 * np.abs(target - target.mean(0)).mean()
    gap = solver.missed(target, 0.02)
    for half in (0, 1):
        others = np.where(hand % 2 == half, 0, weight)
        some = Solver(laid, looks[others > 0], hand[others > 0], weight[others > 0], settings).solve(target[others > 0], 0.02).ready()
        np.testing.assert_allclose(gap[others == 0], (target - some(looks))[others == 0], atol=2e-3)
    nearby = np.exp(-laid.narrow * ((looks[:, None] - solver.known) ** 2).sum(2))
    system = np.block(
        [
            [nearby.T @ (weight[:, None] * nearby), nearby.T @ (weight[:, None] * looks)],
            [looks.T @ (weight[:, None] * nearby), looks.T @ (weight[:, None] * looks)],
        ]
    )
    among = np.exp(-laid.narrow * ((solver.known[:, None] - solver.known) ** 2).sum(2))
    system[:40, :40] += 0.02 * (among + GUARD * np.eye(40))
    system[40:, 40:] += 0.02 / settings.linear * np.eye(8)
    centred = weight[:, None] * (target - np.average(target, 0, weight))
    wanted = np.linalg.solve(system.astype(np.float64), np.concatenate([nearby, looks], 1).T @ centred)
    found = np.concatenate([solver.solve(target, 0.02).gaussian, solver.solve(target, 0.02).linear])
    np.testing.assert_allclose(np.concatenate([nearby, looks], 1) @ (found - wanted), 0, atol=2e-3)


def test_the_first_look_of_each_hand_is_kept_before_a_second(looks: Looks) -> None:
    hands = np.unique(looks.hand)
    rows = known_rows(looks, HeadsSettings(examples=len(hands)))
    assert sorted(looks.hand[rows]) == sorted(hands)
    assert len(known_rows(looks, HeadsSettings())) == len(looks) > len(hands)
    assert len(known_rows(looks, HeadsSettings(examples=3))) == 3


def test_a_hint_is_the_mean_of_the_kernel_and_of_the_network_beside_it(looks: Looks) -> None:
    small = HeadsSettings(kernel=KernelSettings(directions=16), layers=LayersSettings(hidden=32, steps=150, batch_size=16))
    learned = train_hint(looks, small)
    inputs = inputs_of(looks.said, looks.near.astype(np.float32))
    own = learned.kernel
    laid = placed(own.mean, own.scale, own.directions, own.step)(inputs)
    kernel, layers = own.ready()(laid), learned.layers(laid)
    np.testing.assert_allclose(learned.ready()(inputs), (kernel + layers) / 2, atol=1e-5)
    assert np.abs(kernel - layers).max() > 1e-3


def test_the_network_beside_the_kernel_says_what_its_examples_say() -> None:
    rng = np.random.default_rng(0)
    laid = (rng.normal(size=(300, 8)) * np.arange(8, 0, -1)).astype(np.float32)
    joints = 0.05 * np.tanh(laid[:, :1] / 8 + np.linspace(-1, 1, 63) * laid[:, 1:2] / 7).astype(np.float32)
    unsure = (np.log(0.01) + laid[:, 2:3] / 6 * np.ones(21)).astype(np.float32)
    weight = np.ones(300, np.float32)
    weight[200:], joints[200:] = 0, 9.0  # metres: who has no weight teaches nothing
    said = train_layers(laid, joints, unsure, weight, LayersSettings(hidden=64, steps=200, batch_size=64, drop=0))(laid)[:200]
    for gap, target in ((said[:, :63] - joints[:200], joints[:200]), (said[:, 63:] - unsure[:200], unsure[:200])):
        assert np.abs(gap).mean() < 0.5 * np.abs(target - target.mean(0)).mean()


def test_the_refinement_learns_in_training_mode_and_what_is_frozen_does_not(shards: Path, tmp_path: Path) -> None:
    mapped, modes = looks_of([shards], tmp_path, mapped=True), list[tuple[bool, bool]]()
    network = Regressor(RegressorSettings(backbone="mediapipe", aggregation=("joints",)))
    assert network.refinement is not None
    network.refinement.register_forward_pre_hook(lambda module, _: modes.append((module.training, network.reader.training)))
    train_refinement(network, mapped, HeadsSettings(refinement_steps=2, refinement_batch_size=4))
    assert set(modes) == {(True, False)}


def test_the_regressor_that_ships_sees_hands_it_never_saw() -> None:
    reconstructor, scenes = HandReconstructor.load(SHIPPED), render("still", 91_000)
    find = load_hand_landmarks()
    found: list[np.ndarray] = []
    world, joints = [], []
    while len(found) < 16:
        scene = next(scenes)
        if scene.side[0] != RIGHT:
            continue
        points = scene.joints_2d[0]
        hand = reconstructor([scene.image], np.zeros(1, int), scene.box, scene.side, keypoints=points[None])
        found.append(hand.joints[0])
        world.append(find([(scene.image, tracked_region(points))])[0].world)
        joints.append(scene.joints_3d[0])
    error, before = (pa_mpjpe_mm(np.array(one, np.float64), np.array(joints, np.float64)).mean() for one in (found, world))
    assert error < 11
    assert error < 0.85 * before
