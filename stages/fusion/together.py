"""Two hands of one person before a known camera, placed together after each was fitted alone: one shape, no wrist within the other.

A camera tells a small hand from a far one by nothing but the hand's shape, and that of one hand alone is told badly. Both hands of a person
have one shape, so they get one, the mean of what was found of both over their tracks, and are fitted again as hands of that shape. What is
in front then is what the sizes say; hands that reach into each other are moved apart along their rays until they touch. Frame: as
`fitting.lens`.
"""

from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
from jaxtyping import Bool, Float64, Int64

from stages.fusion.pairs import WRIST_M, pairs_of, palm_m
from stages.tables import HAND_KEYPOINTS, Fits, Hands

if TYPE_CHECKING:
    from fitting.hand.mano import HandModel

MOST_RATIO = 1.3
"""Ratio of the lengths of two palms beyond which they are taken for those of two people. Ours: the shape of one hand alone errs by less."""

Project = Callable[[Int64[np.ndarray, "m"], Float64[np.ndarray, "m points 3"]], Float64[np.ndarray, "m points 2"]]
"""Pixels of points in the axes of the cameras of some rows."""


Refit = Callable[[Hands, Float64[np.ndarray, "10"]], Fits]
"""Fits of hands whose shape is known, which their `betas` leave out."""


def together(model: "HandModel", hands: Hands, fits: Fits, refit: Refit, project: Project) -> Fits:
    """Fits of which the two hands of a person have one shape and do not reach into each other; others as they are."""
    pairs = pairs_of(hands, fits)
    rows, betas = _one_shape(hands, fits, pairs)
    if not len(rows):
        return fits
    again = _refitted(hands, fits, rows, betas, refit)
    joints, outline = _posed(model, again, betas)
    place = again.transl.astype(np.float64)
    of_row = np.full(len(fits), -1)
    of_row[rows] = np.arange(len(rows))
    both = of_row[pairs][(of_row[pairs] >= 0).all(1)]
    near = both[_within_reach(joints[both], place[both])]
    if len(near):
        place[near] = apart(place[near], *_balls_of(near, joints, outline, model.faces.cpu().numpy()))
    return _with(fits, rows, again, betas, joints, outline, place, both, project, hands)


def _refitted(hands: Hands, fits: Fits, rows: Int64[np.ndarray, "m"], betas: Float64[np.ndarray, "m 10"], refit: Refit) -> Fits:
    """Fits of hands of known shapes, in the order of their rows."""
    sided = replace(hands.take(rows), side=fits.side[rows])
    _, person = np.unique(betas, axis=0, return_inverse=True)
    order = np.argsort(person, kind="stable")
    of_people = [np.flatnonzero(person == one) for one in range(int(person.max()) + 1)]
    found = Fits.concat([refit(sided.take(mine), betas[mine[0]]) for mine in of_people])
    return found.take(np.argsort(order, kind="stable"))


def _one_shape(hands: Hands, fits: Fits, pairs: Int64[np.ndarray, "k 2"]) -> tuple[Int64[np.ndarray, "m"], Float64[np.ndarray, "m 10"]]:
    """Rows of hands whose person's other hand is known, and the shape of both."""
    known = np.isfinite(fits.betas).all(1) & np.isfinite(fits.transl).all(1)
    alone = hands.track.max(initial=-1) + 1 + np.arange(len(hands))  # a hand of no track is one by itself
    track = np.where(hands.track < 0, alone, hands.track)
    betas = np.zeros((len(hands), 10))
    taken = np.zeros(len(hands), bool)
    met = Counter((int(min(two)), int(max(two))) for two in track[pairs].tolist() if two[0] != two[1])
    used: set[int] = set()
    for (first, second), _ in met.most_common():
        if used & {first, second}:
            continue
        ours = [np.flatnonzero((track == one) & known) for one in (first, second)]
        lengths = [float(np.median(palm_m(fits)[rows])) for rows in ours]
        if max(lengths) > MOST_RATIO * min(lengths) or len(set(fits.side[np.concatenate(ours)].tolist())) != 2:
            continue
        used |= {first, second}
        rows = np.concatenate(ours)
        taken[rows] = True
        betas[rows] = np.mean([fits.betas[some].astype(np.float64).mean(0) for some in ours], 0)
    rows = np.flatnonzero(taken)
    return rows, betas[rows]


def _posed(
    model: "HandModel", fits: Fits, betas: Float64[np.ndarray, "m 10"]
) -> tuple[Float64[np.ndarray, "m 21 3"], Float64[np.ndarray, "m 778 3"]]:
    """Joints and vertices about the wrist of the poses that were found, of a shape."""
    import torch

    from fitting.hand.mano import pose_either_hand

    turns = [torch.as_tensor(getattr(fits, name)).to(model.v_template) for name in ("global_orient", "hand_pose")]
    with torch.no_grad():
        hand = pose_either_hand(model, torch.as_tensor(fits.side.astype(np.int64)), torch.as_tensor(betas).to(turns[0]), *turns)
    return hand.joints.double().cpu().numpy(), hand.vertices.double().cpu().numpy()


def _balls_of(
    pairs: Int64[np.ndarray, "k 2"], joints: Float64[np.ndarray, "m 21 3"], outline: Float64[np.ndarray, "m 778 3"], faces: np.ndarray
) -> tuple[Float64[np.ndarray, "k 2 balls 3"], Float64[np.ndarray, "k 2 balls"]]:
    """Balls of both hands of pairs, some pairs at a time."""
    parts = [balls(joints[rows], outline[rows], faces) for rows in np.array_split(pairs.ravel(), len(pairs) // AT_ONCE + 1)]
    centres, radius = (np.concatenate(values) for values in zip(*parts, strict=True))
    return centres.reshape(*pairs.shape, *centres.shape[1:]), radius.reshape(*pairs.shape, -1)


def _within_reach(joints: Float64[np.ndarray, "k 2 21 3"], place: Float64[np.ndarray, "k 2 3"]) -> Bool[np.ndarray, "k"]:
    """Pairs of which two joints are so near that their skins may meet."""
    one, other = (joints[:, side] + place[:, side, None] for side in (0, 1))
    return np.asarray(np.linalg.norm(one[:, :, None] - other[:, None], axis=3).min((1, 2)) < REACH_M)


def balls(
    joints: Float64[np.ndarray, "m 21 3"], outline: Float64[np.ndarray, "m 778 3"], faces: Int64[np.ndarray, "f 3"]
) -> tuple[Float64[np.ndarray, "m balls 3"], Float64[np.ndarray, "m balls"]]:
    """Balls that fill hands, about the wrist: along the bones and between those of the palm, each as large as the skin lets it be, and
    beneath the skin."""
    along, below = _along_bones(joints, outline), _beneath(outline, faces)
    return np.concatenate([along[0], below[0]], 1), np.concatenate([along[1], below[1]], 1)


def _beneath(
    outline: Float64[np.ndarray, "m 778 3"], faces: Int64[np.ndarray, "f 3"]
) -> tuple[Float64[np.ndarray, "m balls 3"], Float64[np.ndarray, "m balls"]]:
    """Balls that touch the skin from within at every sixth vertex, as large as the other vertices let them be, `MOST_BALL_M` at most."""
    corners, normals = outline[:, faces], np.zeros_like(outline)
    across = np.cross(corners[:, :, 1] - corners[:, :, 0], corners[:, :, 2] - corners[:, :, 0])
    for corner in faces.T:
        np.add.at(normals.swapaxes(0, 1), corner, across.swapaxes(0, 1))
    outwards = np.sign((normals * (outline - outline.mean(1, keepdims=True))).sum((1, 2)))  # faces of left hands are wound the other way
    normals *= outwards[:, None, None] / np.maximum(np.linalg.norm(normals, axis=2, keepdims=True), 1e-12)
    touched, normal = outline[:, ::EVERY], normals[:, ::EVERY]
    behind = (touched * normal).sum(2)[:, :, None] - normal @ outline.transpose(0, 2, 1)
    squared = (touched**2).sum(2)[:, :, None] + (outline**2).sum(2)[:, None] - 2 * touched @ outline.transpose(0, 2, 1)
    radius = np.where(behind > LEAST_BEHIND_M, squared / np.maximum(2 * behind, LEAST_BEHIND_M), np.inf).min(2).clip(max=MOST_BALL_M)
    return touched - radius[:, :, None] * normal, radius - SPARED_M


def _along_bones(
    joints: Float64[np.ndarray, "m 21 3"], outline: Float64[np.ndarray, "m 778 3"]
) -> tuple[Float64[np.ndarray, "m balls 3"], Float64[np.ndarray, "m balls"]]:
    start = joints[:, [0 if k % 4 == 1 else k - 1 for k in range(1, 21)]]
    bones = start[:, :, None] + ALONG[:, None] * (joints[:, 1:] - start)[:, :, None]
    palm = bones[:, 4::4]
    between = (palm[:, :-1] + palm[:, 1:]) / 2
    across = joints[:, LITTLE] - joints[:, INDEX]
    across = across / np.maximum(np.linalg.norm(across, axis=1, keepdims=True), 1e-9)
    beside = joints[:, :1] + ACROSS_M[:, None] * across[:, None]
    centres = np.concatenate([joints[:, :1], beside, bones.reshape(len(joints), -1, 3), between.reshape(len(joints), -1, 3)], 1)
    squared = (centres**2).sum(2)[:, :, None] + (outline**2).sum(2)[:, None] - 2 * centres @ outline.transpose(0, 2, 1)
    radius = np.sqrt(np.maximum(squared.min(2), 0)) + BETWEEN_M
    radius[:, 0] = np.maximum(radius[:, 0], WRIST_M)
    return centres, radius


ALONG = np.array([1 / 4, 1 / 2, 3 / 4, 1])
"""Of a bone, where its balls are."""
ACROSS_M = np.array([-0.02, -0.01, 0.01, 0.02])
"""Beside the wrist, where the balls are that make it as wide as it is."""
INDEX, LITTLE = (HAND_KEYPOINTS.index(name) for name in ("index1", "little1"))
EVERY, MOST_BALL_M, LEAST_BEHIND_M = 6, 0.009, 1e-4
"""Vertices for one ball beneath the skin; its largest radius, half a finger; what lies less far behind the skin bounds none. Ours."""
SPARED_M = 0.003
"""By how much those balls are smaller than the skin lets them be: hands that touch press each other flat. Ours, by pairs of other seeds."""
AT_ONCE = 32
"""Pairs whose balls are sought together."""
REACH_M = 0.08
"""Joints of hands that are farther apart than this have no skin in common."""
BETWEEN_M = 0.002
"""By how much balls are larger than the vertices about them let them be: half of what is left out between two of them."""
AGAINST = 2.0
"""How much longer the way is by which the nearer hand becomes the farther one. Ours."""
MOST_APART_M, NUM_WAYS, NUM_HALVINGS = 0.2, 16, 8
"""How far hands are moved apart at most, in how many steps a way is looked for, and how often the last of them is halved."""


def apart(
    place: Float64[np.ndarray, "k 2 3"], centres: Float64[np.ndarray, "k 2 balls 3"], radius: Float64[np.ndarray, "k 2 balls"]
) -> Float64[np.ndarray, "k 2 3"]:
    """Wrists whose hands' balls are not within each other: moved along their rays, one towards the camera and the other away, as little
    as that takes, the nearer one towards it where that is not `AGAINST` times as far; those for which `MOST_APART_M` is too little stay."""
    reach = radius[:, 0, :, None] + radius[:, 1, None]

    def within(rows: Int64[np.ndarray, "m"], share: Float64[np.ndarray, "m"]) -> np.ndarray:
        first, second = (place[rows, k] * (1 + sign * share)[:, None] for k, sign in ((0, 1), (1, -1)))
        one, other = centres[rows, 0] + first[:, None], centres[rows, 1] + second[:, None]
        squared = (one**2).sum(2)[:, :, None] + (other**2).sum(2)[:, None] - 2 * one @ other.transpose(0, 2, 1)
        return np.asarray((squared < reach[rows] ** 2).any((1, 2)))

    moved = place.copy()
    rows = np.flatnonzero(within(np.arange(len(place)), np.zeros(len(place))))
    best, dear = np.full(len(rows), np.inf), np.full(len(rows), np.inf)
    order = np.sign(np.linalg.norm(place[rows, 0], axis=1) - np.linalg.norm(place[rows, 1], axis=1))
    most = MOST_APART_M / np.linalg.norm(place[rows].sum(1), axis=1)
    for sign in (-1.0, 1.0):
        clear = np.stack([~within(rows, sign * most * step / NUM_WAYS) for step in range(1, NUM_WAYS + 1)], 1)
        high = most * (clear.argmax(1) + 1) / NUM_WAYS
        low = high - most / NUM_WAYS
        for _ in range(NUM_HALVINGS):
            middle = (low + high) / 2
            inside = within(rows, sign * middle)
            low, high = np.where(inside, middle, low), np.where(inside, high, middle)
        cost = high * np.where(order * sign < 0, AGAINST, 1)
        better = clear.any(1) & (cost < dear)
        best, dear = np.where(better, sign * high, best), np.where(better, cost, dear)
    found = np.isfinite(best)
    rows, best = rows[found], best[found]
    moved[rows, 0] *= (1 + best)[:, None]
    moved[rows, 1] *= (1 - best)[:, None]
    return moved


def _with(
    fits: Fits,
    rows: Int64[np.ndarray, "m"],
    again: Fits,
    betas: Float64[np.ndarray, "m 10"],
    joints: Float64[np.ndarray, "m 21 3"],
    outline: Float64[np.ndarray, "m 778 3"],
    place: Float64[np.ndarray, "m 3"],
    both: Int64[np.ndarray, "k 2"],
    project: Project,
    hands: Hands,
) -> Fits:
    """Fits whose rows are those that were fitted again, and stand so, with all that hangs on it; where that is beyond the camera's sight,
    or could not be fitted, they stay as they were.

    `both`: which of the rows are a pair, that changes as a whole or not at all.
    """
    pixels, border = project(rows, joints + place[:, None]), project(rows, outline + place[:, None])
    sound = np.isfinite(pixels).all((1, 2)) & np.isfinite(border).all((1, 2)) & (place[:, 2] > 0)
    sound[both[~sound[both].all(1)].ravel()] = False
    box = np.concatenate([border.min(1), border.max(1)], 1)
    confidence = np.nan_to_num(hands.keypoints[rows, :, 2].astype(np.float64)) * np.isfinite(hands.keypoints[rows, :, :2]).all(2)
    gap = np.linalg.norm(np.nan_to_num(hands.keypoints[rows, :, :2]) - pixels, axis=2)
    error_px = (confidence * gap).sum(1) / np.maximum(confidence.sum(1), 1e-9)
    scale = fits.focal_px[rows] / np.maximum(place[:, 2], 1e-6)
    found = {
        "betas": betas,
        "transl": place,
        "joints_3d": joints,
        "joints_2d": pixels,
        "box": box,
        "camera": np.concatenate([scale[:, None], pixels[:, 0]], 1),
        "error_px": error_px,
        "error_share": error_px / np.maximum((box[:, 2:] - box[:, :2]).max(1), 1e-6),
        "loss_shape": (betas**2).sum(1),
    }
    columns = {name: values.copy() for name, values in vars(fits).items() if name != "contradiction_m"}
    for name, values in columns.items():
        values[rows[sound]] = found.get(name, getattr(again, name))[sound]
    return replace(fits, **columns)
