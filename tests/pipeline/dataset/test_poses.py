"""The map of poses: hands of one pose lie together on it, rare ones stand out, and what was not fitted is nowhere."""

from functools import cache

import numpy as np
import pyarrow as pa

from pipeline.dataset.poses import PoseMap, learn_poses
from stages.tables import LEFT, RIGHT

NUM_KINDS, NUM_LEARNED, NUM_OTHERS = 80, 10, 4
RNG = np.random.default_rng(0)
KINDS = RNG.normal(0, 0.3, (NUM_KINDS, 12)) @ np.linalg.qr(RNG.normal(0, 1, (45, 45)))[0][:12]
MIRRORED = np.tile([1, -1, -1], 15)


def fits(poses: np.ndarray, side: int = RIGHT) -> pa.Table:
    """Fits of poses, as clips hold them."""
    columns = pa.FixedSizeListArray.from_arrays(pa.array(poses.astype(np.float32).ravel()), 45)
    return pa.table({"side": np.full(len(poses), side, np.int8), "hand_pose": columns})


def of_kinds(num: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Poses of each kind, nearly the same among themselves, and their kinds."""
    kind = np.repeat(np.arange(NUM_KINDS), num)
    return KINDS[kind] + np.random.default_rng(seed).normal(0, 0.04, (len(kind), 45)), kind


def placed(on: PoseMap, table: pa.Table) -> dict[str, np.ndarray]:
    return on.place(table["side"].to_numpy(), table["hand_pose"])


@cache
def learned() -> PoseMap:
    poses, _ = of_kinds(NUM_LEARNED, 1)
    found = learn_poses([fits(poses[:400]), None, fits(poses[400:])], 3)
    assert found is not None
    return PoseMap.from_json(found.as_json())


def test_hands_of_one_pose_are_neighbours_on_the_map() -> None:
    """More kinds than two axes can keep apart: on the two main axes 72 % of the nearest are of the same kind."""
    poses, kind = of_kinds(NUM_OTHERS, 2)
    found = placed(learned(), fits(poses))
    where = np.stack([found["map_x"], found["map_y"]], 1)
    apart = np.linalg.norm(where[:, None] - where[None], axis=2) + np.diag(np.full(len(where), np.inf))
    assert (kind[apart.argmin(1)] == kind).mean() > 0.9


def test_rarity_is_the_angle_to_the_nearest_other_pose() -> None:
    on = learned()
    known, _ = of_kinds(NUM_LEARNED, 1)
    far = KINDS[:1] + 3.0
    rarity = placed(on, fits(np.concatenate([known, far])))["rarity"]
    assert rarity[-1] > 100
    assert rarity[:-1].max() < 10
    assert rarity[:-1].min() > 0.1, "a hand that the map was learned of is not its own neighbour"


def test_left_hands_are_held_against_right_ones_and_unfitted_ones_against_none() -> None:
    poses, _ = of_kinds(1, 3)
    on = learned()
    right, left = placed(on, fits(poses)), placed(on, fits(poses * MIRRORED, LEFT))
    for name, values in right.items():
        np.testing.assert_array_equal(values, left[name])
    poses[0] = np.nan
    unknown = placed(on, fits(poses))
    for name, values in unknown.items():
        assert np.isnan(values[0])
        np.testing.assert_array_equal(values[1:], right[name][1:])


def test_two_fitted_hands_make_no_map_and_three_do() -> None:
    poses, _ = of_kinds(1, 4)
    assert learn_poses([fits(poses[:2])], 1) is None
    few = learn_poses([fits(poses[:3])], 1)
    assert few is not None
    assert np.isfinite(placed(few, fits(poses))["map_x"]).all()
