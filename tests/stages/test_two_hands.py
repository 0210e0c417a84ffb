"""Two hands of one person before a known camera: one shape, as large in the image as they were, no wrist within the other."""

from dataclasses import fields, replace
from functools import partial
from typing import Any

import numpy as np
import pytest
import torch

from fitting.camera import Camera
from fitting.fit import Fitter
from fitting.hand.mano import load_hand_model, pose_either_hand
from fitting.settings import Backend, FitSettings
from stages.cameras.said import cameras_of
from stages.cameras.sight import Sight
from stages.fit import Fit, of_known_shape
from stages.fusion.pairs import WRIST_M, contradiction_m, pairs_of
from stages.fusion.together import BETWEEN_M, EVERY, MOST_BALL_M, SPARED_M, balls, together
from stages.tables import HAND_KEYPOINTS, Cameras, Clips, Fits, Hands
from tests.small_tables import columns

SAID = '{"focal_px": [900, 900], "from": "manifest", "projection": "rectilinear"}'
CAMERA = Camera.pinhole(1280, 960, 900)
FACES = load_hand_model().faces.numpy()


def scene(apart_m: float = 0.3, behind_m: float = 0.1, betas: float = 0.8, **changes: Any) -> tuple[Hands, Fits, Cameras]:
    """Three frames of a left and a right hand of one person, of opposite shapes, and a hand of somebody else on the first."""
    model = load_hand_model()
    n = 7
    side = np.array([0, 1] * 3 + [1], np.int8)
    shape = np.zeros((n, 10), np.float32)
    shape[:, 0] = np.where(side == 0, betas, -betas)
    shape[6, 0] = 0.3
    wrist = np.array([[-apart_m / 2, 0, 0.6], [apart_m / 2, 0.02, 0.6 + behind_m]] * 3 + [[0.3, -0.2, 0.9]], np.float32)
    orient, pose = np.tile(np.array([0.3, 0.2, 0.4], np.float32), (n, 1)), np.full((n, 45), 0.1, np.float32)
    hand = pose_either_hand(model, torch.from_numpy(side.astype(np.int64)), *map(torch.from_numpy, (shape, orient, pose)))
    joints = hand.joints.numpy()
    pixels = CAMERA.project(joints + wrist[:, None])
    frame = np.array([0, 0, 1, 1, 2, 2, 0])
    key = {"video": "v", "frame": frame, "time_s": frame / 5}
    person = np.array([0] * 6 + [1])
    keypoints = np.concatenate([pixels, np.full((n, 21, 1), 0.9)], 2)
    told = {
        "person": person,
        "track": np.array([0, 1] * 3 + [2]),
        "side": side,
        "keypoints": keypoints,
        "world": joints,
        "width": 1280,
        "height": 960,
    }
    hands = columns(Hands, n, **key, **told | changes)
    fits = columns(
        Fits, n, **key, side=side, betas=shape, global_orient=orient, hand_pose=pose, transl=wrist, joints_3d=joints, joints_2d=pixels,
        focal_px=900, principal=[640, 480], outcome="converged", camera_from="manifest",
    )  # fmt: skip
    assert isinstance(hands, Hands)
    assert isinstance(fits, Fits)
    return hands, fits, cameras_of(SAID, 1280, 960)


def test_a_pair_is_two_known_hands_of_one_person_frame_and_view() -> None:
    hands, fits, _ = scene()
    assert pairs_of(hands, fits).tolist() == [[0, 1], [2, 3], [4, 5]]
    unknown = replace(fits, focal_px=np.where(np.arange(7) == 0, np.nan, 900).astype(np.float32))
    assert pairs_of(hands, unknown).tolist() == [[2, 3], [4, 5]]
    lost = fits.transl.copy()
    lost[3, 1] = np.nan
    assert pairs_of(hands, replace(fits, transl=lost)).tolist() == [[0, 1], [4, 5]]
    assert pairs_of(replace(hands, view=np.array([0, 0, 0, 1, 0, 0, 0], np.int16)), fits).tolist() == [[0, 1], [4, 5]]
    assert pairs_of(replace(hands, person=np.array([0, 0, 0, 0, 0, 0, 0], np.int16)), fits).tolist() == [[2, 3], [4, 5]], "three are none"
    assert pairs_of(replace(hands, person=np.array([-1, -1, 5, 5, 0, 1, 0], np.int16)), fits).tolist() == [[2, 3]]
    assert len(pairs_of(hands, replace(fits, focal_px=np.full(7, np.nan, np.float32)))) == 0
    assert len(pairs_of(hands.take(np.zeros(0, np.int64)), fits.take(np.zeros(0, np.int64)))) == 0


def test_a_contradiction_is_what_wrists_share_and_palms_differ_by() -> None:
    hands, fits, _ = scene()
    transl, joints = np.zeros((7, 3), np.float32), np.zeros((7, 21, 3), np.float32)
    transl[:, 2], transl[1, 0], transl[3, 0], transl[5, 1] = 0.5, 0.03, 0.05, 0.2
    joints[:, HAND_KEYPOINTS.index("middle1"), 1] = [0.08, 0.09, 0.1, 0.1, 0.1, 0.07, 0.2]
    joints += 0.25  # wherever the wrist is
    told = contradiction_m(hands, replace(fits, transl=transl, joints_3d=joints))
    np.testing.assert_allclose(told, [0.02 + 0.01, 0.03, 0, 0, 0.03, 0.03, np.nan], atol=1e-6)


def placed(hands: Hands, fits: Fits, cameras: Cameras) -> Fits:
    sight = Sight.of(hands, cameras)
    assert sight is not None
    return together(load_hand_model(), hands, fits, refit(cameras), sight.project)


def refit(cameras: Cameras) -> Any:
    return partial(of_known_shape, Fitter(load_hand_model()), cameras)


def same(one: Fits, other: Fits, rows: Any) -> bool:
    return all(repr(getattr(one, f.name)[rows].tolist()) == repr(getattr(other, f.name)[rows].tolist()) for f in fields(Fits))


def test_both_hands_have_one_shape_and_are_as_large_as_they_were() -> None:
    hands, fits, cameras = scene()
    found = placed(hands, fits, cameras)
    assert (contradiction_m(hands, fits)[:6] > 0.004).all()
    assert contradiction_m(hands, found)[:6] == pytest.approx(np.zeros(6), abs=1e-6)
    assert np.ptp(found.betas[:6], axis=0).max() < 1e-6
    assert same(found, fits, [6])
    extent = np.ptp(found.joints_2d, axis=1) / np.ptp(fits.joints_2d, axis=1)
    assert np.abs(extent - 1).max() < 0.04
    assert np.linalg.norm(found.joints_2d - fits.joints_2d, axis=2).mean() < 3
    nearer, farther = found.transl[[0, 1], 2] - fits.transl[[0, 1], 2]
    assert nearer * farther < 0
    assert found.joints_2d == pytest.approx(CAMERA.project(found.joints_3d + found.transl[:, None]), abs=0.05)
    pixels = found.camera[:6, 0]
    assert pixels == pytest.approx(900 / found.transl[:6, 2], rel=1e-5)


def test_what_hangs_on_a_place_is_told_anew() -> None:
    """Errors are of the landmarks that are known, by their confidence, and a share of the longer side of the box."""
    hands, fits, cameras = scene()
    hands.keypoints[0, :10, 0] += 40
    hands.keypoints[0, 10:, 2] = 0.3
    hands.keypoints[1, 5] = np.nan
    found = placed(hands, fits, cameras)
    gap = np.linalg.norm(hands.keypoints[:6, :, :2] - found.joints_2d[:6], axis=2)
    weight = np.where(np.isfinite(gap), hands.keypoints[:6, :, 2], 0)
    error_px = np.where(np.isfinite(gap), gap * weight, 0).sum(1) / weight.sum(1)
    assert found.error_px[:6] == pytest.approx(error_px, rel=1e-3)
    assert error_px[0] > 5
    longer = np.maximum(*(found.box[:6, 2:] - found.box[:6, :2]).T)
    assert found.error_share[:6] == pytest.approx(error_px / longer, rel=1e-3)
    np.testing.assert_allclose(found.camera[:6, 1:], found.joints_2d[:6, 0], rtol=1e-5)
    np.testing.assert_allclose(found.loss_shape[:6], (found.betas[:6] ** 2).sum(1), rtol=1e-4, atol=1e-9)
    assert (found.box[:6, :2] <= found.joints_2d[:6].min(1) + 1).all()
    assert (found.box[:6, 2:] >= found.joints_2d[:6].max(1) - 1).all()


def test_hands_within_each_other_are_moved_apart_until_they_touch_and_keep_their_order() -> None:
    for behind_m in (0.02, -0.02):
        hands, fits, cameras = scene(apart_m=0.01, behind_m=behind_m, betas=0.0)
        found = placed(hands, fits, cameras)
        first, second = found.transl[[0, 2, 4]], found.transl[[1, 3, 5]]
        assert (np.linalg.norm(first - second, axis=1) >= 2 * WRIST_M * 0.999).all()
        assert (np.sign(second - first)[:, 2] == np.sign(behind_m)).all()
        before, after = refit(cameras)(hands.take(np.arange(6)), np.zeros(10)).transl, found.transl[:6]
        assert np.abs(before / before[:, 2:] - after / after[:, 2:]).max() < 1e-4
        assert gap_m(fits) < -0.01
        assert 0 <= gap_m(found) < 0.002


def gap_m(fits: Fits) -> float:
    """Between the balls that fill the first two hands, metres; below 0 where they are within each other."""
    turns = [torch.from_numpy(getattr(fits, name)[:2]) for name in ("betas", "global_orient", "hand_pose")]
    hand = pose_either_hand(load_hand_model(), torch.from_numpy(fits.side[:2].astype(np.int64)), *turns)
    (one, other), radius = balls(hand.joints.double().numpy(), hand.vertices.double().numpy(), FACES)
    apart = np.linalg.norm((one + fits.transl[0])[:, None] - (other + fits.transl[1])[None], axis=2)
    return float((apart - radius[0][:, None] - radius[1]).min())


@pytest.mark.parametrize("side", [0, 1])
def test_the_balls_of_a_hand_lie_inside_its_skin(side: int) -> None:
    hand = load_hand_model()
    posed = pose_either_hand(hand, torch.tensor([side]), *(torch.zeros(1, n) for n in (10, 3, 45)))
    centres, radius = balls(posed.joints.double().numpy(), posed.vertices.double().numpy(), FACES)
    apart = np.linalg.norm(centres[0][:, None] - posed.vertices.double().numpy()[0], axis=2)
    assert (apart.min(1)[1:] >= radius[0][1:] - BETWEEN_M - 1e-9).all()
    assert np.median(radius) > 0.005, "half a finger is 8 mm thick"
    below = len(range(0, 778, EVERY))
    assert (apart.min(1)[-below:] >= radius[0][-below:] + SPARED_M - 1e-6).all(), "no vertex within those beneath the skin"
    assert (apart.argmin(1)[-below:] % EVERY == 0).mean() > 0.7, "which touch their own, or one across as near"
    assert apart.min(1)[-below:].max() == pytest.approx(MOST_BALL_M)
    skin = apart - radius[0][:, None]
    bare, bare_before = ((some.min(0) > 0.006).mean() for some in (skin, skin[:-below]))
    assert bare < 0.7 * bare_before, "they lie where those along the bones leave skin out"


def test_a_pair_is_changed_as_a_whole_or_not_at_all() -> None:
    hands, fits, cameras = scene()
    sight = Sight.of(hands, cameras)
    assert sight is not None

    def project(rows: np.ndarray, points: np.ndarray) -> np.ndarray:
        pixels = sight.project(rows, points)
        pixels[rows == 3] = np.nan  # out of the camera's sight
        return pixels

    found = together(load_hand_model(), hands, fits, refit(cameras), project)
    assert same(found, fits, [2, 3])
    assert not same(found, fits, [0])
    assert same(found, placed(hands, fits, cameras), [0, 1, 4, 5])


def test_hands_of_two_people_get_their_own_shapes_as_if_each_were_alone() -> None:
    hands, fits, cameras = scene(person=[1, 1, 0, 0, 0, 0, 2], track=[3, 4, 0, 1, 0, 1, 2])
    fits.betas[:2, 1] = 1.0
    found = placed(hands, fits, cameras)
    np.testing.assert_allclose(found.betas[2:6], np.tile(found.betas[2], (4, 1)), atol=1e-6)
    np.testing.assert_allclose(found.betas[:2, 1], 1.0, atol=1e-6)
    for rows in (np.arange(2), np.arange(2, 6)):
        alone = placed(hands.take(rows), fits.take(rows), cameras)
        assert alone.frame.tolist() == found.frame[rows].tolist()
        for name in ("transl", "hand_pose", "joints_2d", "box", "error_px"):
            np.testing.assert_allclose(getattr(found, name)[rows], getattr(alone, name), rtol=1e-4, atol=1e-4)


def test_a_pair_of_two_people_moves_nobody() -> None:
    """Palms of one and one and a half times a length are nobody's two hands: they stay, and the other pair is as if it were alone."""
    hands, fits, cameras = scene(person=[0, 0, 0, 0, 1, 1, 2], track=[0, 1, 0, 1, 3, 4, 2])
    fits.joints_3d[4] *= 1.5
    found, alone = placed(hands, fits, cameras), placed(hands.take(np.arange(4)), fits.take(np.arange(4)), cameras)
    assert same(found, fits, [4, 5, 6])
    np.testing.assert_allclose(found.transl[:4], alone.transl, atol=1e-5)


def test_hands_that_are_no_pair_stay_as_they_are() -> None:
    for person in (-1, np.arange(7)):
        hands, fits, cameras = scene(person=person)
        assert same(placed(hands, fits, cameras), fits, slice(None))
    hands, fits, cameras = scene()
    one_side = replace(fits, side=np.ones(7, np.int8))
    assert same(placed(hands, one_side, cameras), one_side, slice(None))
    larger = replace(fits, joints_3d=fits.joints_3d * np.where(fits.side == 1, 1.5, 1).astype(np.float32)[:, None, None])
    assert same(placed(hands, larger, cameras), larger, slice(None))


def test_one_shape_costs_the_image_little_because_hands_are_fitted_again_with_it() -> None:
    hands, _, cameras = scene(betas=0.0)
    stages = [Fit(pairs=pairs, landmark_offsets=False).build() for pairs in ("apart", "together")]
    excess = []
    for seed in range(4):
        keypoints = hands.keypoints.copy()
        keypoints[..., :2] += 4 * np.random.default_rng(seed).normal(size=keypoints[..., :2].shape)
        apart, both = (stage(Clips.empty(), replace(hands, keypoints=keypoints), cameras=cameras) for stage in stages)
        excess.append(both.error_px[:6].mean() / apart.error_px[:6].mean() - 1)
        assert np.ptp(both.betas[:6], axis=0).max() < 1e-6 < 0.1 < np.ptp(apart.betas[:6], axis=0).max()
    assert np.mean(excess) < 0.011  # with the poses kept it is 0.015


def test_the_stage_places_pairs_by_both_backends_alike_and_only_before_a_known_camera() -> None:
    hands, _, cameras = scene()
    chosen: tuple[tuple[str, Backend], ...] = (("together", "compiled"), ("together", "torch"), ("apart", "compiled"))
    stages = {
        (pairs, backend): Fit(pairs=pairs, landmark_offsets=False, settings=FitSettings(backend=backend)) for pairs, backend in chosen
    }
    found = {key: stage.build()(Clips.empty(), hands, cameras=cameras) for key, stage in stages.items()}
    compiled, plain, apart = found.values()
    assert np.ptp(compiled.betas[:6], axis=0).max() < 1e-6
    assert np.ptp(apart.betas[:6], axis=0).max() > 0.01
    np.testing.assert_allclose(compiled.transl, plain.transl, atol=4e-3)
    np.testing.assert_allclose(compiled.joints_3d, plain.joints_3d, atol=4e-3)
    np.testing.assert_array_equal(compiled.contradiction_m, apart.contradiction_m)
    unknown = [
        stages[pairs, "compiled"].build()(Clips.empty(), hands, cameras=cameras_of("", 1280, 960)) for pairs in ("together", "apart")
    ]
    assert same(unknown[0], unknown[1], slice(None))
