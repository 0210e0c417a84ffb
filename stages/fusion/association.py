"""Which detections are the same hand, and what they say together (WiLoR, eq. 1). One frame at a time, boxes xyxy in its pixels."""

from typing import TypeVar

import numpy as np
from jaxtyping import Bool, Float, Float64, Int16, Int64

from stages import boxes
from stages.fusion.tracks import assign
from stages.tables import HAND_KEYPOINTS, HandDetections

Found = TypeVar("Found", bound=HandDetections)
WRIST, MIDDLE1 = HAND_KEYPOINTS.index("wrist"), HAND_KEYPOINTS.index("middle1")
SURE = 0.98
"""A vote for a side counts as no surer than this: detectors are known to be wrong at 0.99."""


def log_odds(p_right: Float[np.ndarray, "*n"]) -> Float[np.ndarray, "*n"]:
    """Log-odds of right against left, 0 where the detector does not say, clipped at `SURE`."""
    p = np.clip(np.nan_to_num(p_right, nan=0.5), 1 - SURE, SURE)
    return np.log(p / (1 - p))


def weighted_box(box: Float[np.ndarray, "n 4"], score: Float[np.ndarray, "n"]) -> Float[np.ndarray, "4"]:
    """Mean of boxes weighted by P(b|d) (WiLoR, eq. 1); the plain mean when nobody is sure of anything."""
    weight = score.astype(np.float64) if score.any() else np.ones(len(score))
    return weight @ box / weight.sum()


def without_copies(detections: Found, width: int, height: int, *, copy_iou: float, copy_distance: float) -> Found:
    """Each source's hands of one frame once, whatever crops it was found in; best score first, those cut by their crop last.

    Two hands of one source are copies when their landmarks lie within `copy_distance` box sides of each other on average
    or, where the source has none, when their boxes overlap by more than `copy_iou`: crossing hands overlap, copies coincide.
    """
    cut = boxes.is_cut(detections.box, detections.crop, width, height)
    order = np.lexsort((*detections.box.T, -detections.score, cut))
    ranked = detections.take(order)
    overlap = boxes.iou(ranked.box, ranked.box)
    points = ranked.keypoints[..., :2]
    apart = np.linalg.norm(points[:, None] - points[None], axis=-1).mean(-1) / boxes.long_side(ranked.box)[:, None]
    copies = np.where(np.isfinite(apart), apart <= copy_distance, overlap > copy_iou)
    copies &= ranked.source[:, None] == ranked.source[None]
    return ranked.take(boxes.each_once(copies))


NESTED_IOU = 0.15
"""Overlap of a box with a larger one that holds it, at least, to be the same hand: fingers are, and a hand with the cup it holds. Ours."""


def _same_hand_cost(
    fused: Float[np.ndarray, "n 4"],
    box: Float[np.ndarray, "m 4"],
    conflict: Bool[np.ndarray, "n m"],
    match_iou: float,
    match_distance: float,
    nested_share: float,
) -> Float[np.ndarray, "n m"]:
    """1 - IoU, and half more for other sides; infinite where neither overlap, nearness nor lying within makes it one hand."""
    overlap = boxes.iou(fused, box)
    smaller = np.maximum(np.minimum(boxes.area(fused)[:, None], boxes.area(box)[None]), 1e-6)
    nested = (boxes.intersection(fused, box) > nested_share * smaller) & (overlap >= NESTED_IOU)
    ratio = np.maximum(boxes.area(fused), 1e-6)[:, None] / np.maximum(boxes.area(box), 1e-6)[None]
    size = (np.sqrt(boxes.area(fused))[:, None] + np.sqrt(boxes.area(box))[None]) / 2
    distance = np.linalg.norm(boxes.centre(fused)[:, None] - boxes.centre(box)[None], axis=-1) / np.maximum(size, 1e-6)
    near = (distance <= match_distance) & (ratio >= 1 / 3) & (ratio <= 3)
    return np.where((overlap >= match_iou) | near | nested, 1 - overlap + 0.5 * conflict, np.inf)


def associate(
    detections: HandDetections, *, match_iou: float, match_distance: float, nested_share: float = 1.0
) -> list[Int64[np.ndarray, "_"]]:
    """Rows of one frame that are the same hand, at most one of each source, whatever side they claim.

    Source by source, the one with the surest hand first, detections join the clusters whose fused box they match by the
    assignment of least total cost, so that hands that cross or touch are told apart; the rest open clusters of their own.
    """
    clusters: list[list[int]] = []
    sides = np.sign(log_odds(detections.p_right))
    best = {s: float(detections.score[detections.source == s].max()) for s in set(detections.source)}
    for source in sorted(best, key=lambda s: (-best[s], s)):
        rows = np.flatnonzero(detections.source == source)
        pairs: list[tuple[int, int]] = []
        if clusters:
            fused = np.stack([weighted_box(detections.box[c], detections.score[c]) for c in clusters])
            votes = np.array([np.sign(sides[c].sum()) for c in clusters])
            conflict = votes[:, None] * sides[rows][None] < 0
            pairs = assign(_same_hand_cost(fused, detections.box[rows], conflict, match_iou, match_distance, nested_share))
        for i, j in pairs:
            clusters[i].append(int(rows[j]))
        joined = {j for _, j in pairs}
        clusters += [[int(row)] for j, row in enumerate(rows) if j not in joined]
    return [np.array(c, np.int64) for c in clusters]


def fuse_box(
    box: Float[np.ndarray, "n 4"], score: Float[np.ndarray, "n"], *, stranger_iou: float
) -> tuple[Float[np.ndarray, "4"], Bool[np.ndarray, "n"]]:
    """Equation 1, once more without the members that overlap its first result by less than `stranger_iou`; who stayed."""
    fused = weighted_box(box, score)
    stays = boxes.iou(fused[None], box)[0] >= stranger_iou
    if not stays.any():
        stays = np.arange(len(score)) == score.argmax()
    return (fused if stays.all() else weighted_box(box[stays], score[stays])), stays


AGREE = 0.1
"""Two sources see a joint at one place when they are nearer than this many box sides. Ours."""


def fuse_keypoints(
    keypoints: Float[np.ndarray, "n 21 3"], score: Float[np.ndarray, "n"], box_side: float
) -> tuple[Float[np.ndarray, "21 3"], Int16[np.ndarray, "21"]]:
    """Landmarks joint by joint: the mean of the sources that agree, and a mask of who they are (bit i: source i).

    Of several opinions the one of most weight (score x the joint's confidence, summed) counts, so that a third source decides between
    two. Its confidence is its surest source's, halved where others of more than a tenth of its weight see the joint elsewhere.
    """
    points, there = keypoints[..., :2].astype(np.float64), np.isfinite(keypoints).all(-1)
    weight = np.where(there, np.maximum(keypoints[..., 2] * score[:, None], 1e-6), 0).astype(np.float64)
    near = np.linalg.norm(points[:, None] - points[None], axis=-1) <= AGREE * box_side  # false where somebody has none
    support = (near * weight[None]).sum(1)
    joint = np.arange(keypoints.shape[1])
    agree = near[support.argmax(0), :, joint].T
    together = np.where(agree, weight, 0)
    total = together.sum(0)
    with np.errstate(invalid="ignore"):  # a joint that nobody has stays NaN
        mean = (together[..., None] * np.nan_to_num(points)).sum(0) / total[:, None]
    confidence = np.where(agree, np.nan_to_num(keypoints[..., 2]), 0).max(0)
    disputed = weight.sum(0) - total > 0.1 * total
    confidence = np.where(total > 0, np.where(disputed, confidence / 2, confidence), np.nan)
    mask = (agree << np.arange(len(agree))[:, None]).sum(0).astype(np.int16)
    return np.concatenate([mean, confidence[:, None]], -1).astype(keypoints.dtype), mask


def looked(
    box: Float[np.ndarray, "n 4"],
    member: Bool[np.ndarray, "n sources"],
    follows_arms: Bool[np.ndarray, "sources"],
    person: Float[np.ndarray, "m 4"],
    by_eye: Bool[np.ndarray, "sources"] | None = None,
) -> Bool[np.ndarray, "n sources"]:
    """Which sources looked where each hand is: those that follow arms only within a person's box (grown as for crops), the others
    everywhere. Who looked and saw nothing is absent; who did not look has no voice, nor has one of `by_eye` about what another of them
    saw."""
    middle, size = boxes.centre(box), person[:, 2:] - person[:, :2]
    margin = (PERSON_CROP - 1) / 2 * size
    inside = (middle[:, None] >= person[None, :, :2] - margin) & (middle[:, None] <= person[None, :, 2:] + margin)
    with_somebody = inside.all(-1).any(-1)
    blind = np.zeros_like(member) if by_eye is None else by_eye[None] & (member & by_eye).any(1)[:, None]
    return np.asarray(member | (~blind & (~follows_arms[None] | with_somebody[:, None])), np.bool_)


PERSON_CROP = 1.25
"""A person's crop is so many times the box."""

WRISTS_APART = 0.6
"""Distance of two hands' own wrists, in longer sides of the larger box, beyond which they are two that hold each other and not one seen
twice. Ours; .5 to .8 are alike."""
SURE_VOTE = 3.0
"""Log-odds of a side that two hands one on the other both have by their own votes when they are one: whose sides are shared out has one
of either. Ours."""
PART_AREA = 0.6
"""A box within another and smaller than this share of it holds some fingers of that hand."""


def covered(
    box: Float[np.ndarray, "n 4"],
    score: Float[np.ndarray, "n"],
    side: Int64[np.ndarray, "n"],
    claimed: Bool[np.ndarray, "n"],
    votes: Float64[np.ndarray, "n"],
    wrist: Float64[np.ndarray, "n 2"],
    *,
    share: float,
    nested_share: float,
) -> Bool[np.ndarray, "n"]:
    """Hands that are a surer one seen again in another size: they share more than `share` of the smaller box with it, their own `wrist`
    (pixels) lies near its, and they have its side, or vote as surely for it (`votes`: log-odds of right by the detectors alone), or a
    body's wrist claims that one and none claims them; or the smaller lies within the larger by `nested_share`, as fingers taken for a
    hand do. Two hands that hold each other have two sides, two wrists and no such difference of size."""
    box = box.astype(np.float64)
    area = boxes.area(box)
    smaller, larger = np.minimum(area[:, None], area[None]), np.maximum(area[:, None], area[None])
    shared = boxes.intersection(box, box) / np.maximum(smaller, 1e-9)
    sure = np.where(np.abs(votes) > SURE_VOTE, np.sign(votes), 0.0)
    alike = (side[:, None] == side[None]) | (sure[:, None] * sure[None] > 0)
    again = (shared > share) & (alike | (~claimed[:, None] & claimed[None]))
    long_side = np.maximum(boxes.long_side(box)[:, None], boxes.long_side(box)[None])
    again &= np.linalg.norm(wrist[:, None] - wrist[None], axis=-1) <= WRISTS_APART * long_side
    again |= (shared > nested_share) & (~(claimed[:, None] & claimed[None]) | (smaller < PART_AREA * larger))
    gone = np.zeros(len(box), bool)
    order = np.lexsort((-area, -score))  # of equally sure ones the larger is the hand, the smaller its part
    for rank, i in enumerate(order):
        surer = order[:rank]
        gone[i] = bool((again[i, surer] & ~gone[surer]).any())
    return gone
