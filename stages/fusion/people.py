"""The union of what several person detectors see, of their boxes and of their bodies: each person once. One frame, pixels.

Boxes are joined as weighted boxes fusion joins them (Solovyev et al., IVC 2021, arXiv:1910.13302): surest first, to the group whose mean so
far overlaps most. The score is the surest member's: each detector has its own gate before this, and one that missed somebody is
no witness against them.
"""

from dataclasses import replace

import numpy as np
from jaxtyping import Bool, Float, Float32, Int64

from stages import boxes
from stages.tables import People, PersonBoxes, PersonDetections

MIN_IOU = 0.55
"""Weighted boxes fusion's own."""


def groups(
    box: Float[np.ndarray, "n 4"], score: Float[np.ndarray, "n"], alike: Bool[np.ndarray, "n n"], *, min_iou: float
) -> list[Int64[np.ndarray, "_"]]:
    """Rows that are one person, surest person first: each overlaps the mean of those before it and is `alike` all of them."""
    found: list[list[int]] = []
    for row in np.lexsort((*box.T, -score)).tolist():
        means = np.array([mean_box(box[members], score[members]) for members in found]).reshape(-1, 4)
        overlap = boxes.iou(box[row][None], means)[0] if found else np.zeros(0)
        open_ = [g for g in np.argsort(-overlap, kind="stable") if overlap[g] > min_iou and alike[row, found[g]].all()]
        if open_:
            found[open_[0]].append(row)
        else:
            found.append([row])
    return [np.array(members, np.int64) for members in found]


def mean_box(box: Float[np.ndarray, "k 4"], score: Float[np.ndarray, "k"]) -> Float[np.ndarray, "4"]:
    """Weighted by score."""
    weight = np.maximum(score.astype(np.float64), 1e-9)
    return np.asarray(weight @ box.astype(np.float64) / weight.sum(), np.float64)


def _fused(box: Float32[np.ndarray, "n 4"], score: Float32[np.ndarray, "n"], members: list[Int64[np.ndarray, "_"]]) -> np.ndarray:
    return np.array([mean_box(box[rows], score[rows]) for rows in members], np.float32).reshape(-1, 4)


def union_of_boxes(found: PersonBoxes, *, min_iou: float = MIN_IOU) -> PersonBoxes:
    """Each person of one frame once, surest first; two boxes of one detector are never the same person. The source is the surest's."""
    alike = found.source[:, None] != found.source[None]
    members = groups(found.box, found.score, alike, min_iou=min_iou)
    surest = found.take(np.array([rows[0] for rows in members], np.int64))
    return replace(surest, box=_fused(found.box, found.score, members))


def union_of_people(found: PersonDetections) -> People:
    """Each person of one frame once, surest first, numbered anew; two bodies are one where boxes overlap and the limbs coincide.

    The box is the mean, weighted by score; the limbs are those of the member that sees most of them.
    """
    members = groups(found.box, found.score, limbs_coincide(found), min_iou=MIN_IOU)
    seen = np.nan_to_num(found.keypoints[..., 2]).sum(1)
    clearest = found.take(np.array([rows[seen[rows].argmax()] for rows in members], np.int64))
    return People(
        video=clearest.video,
        frame=clearest.frame,
        time_s=clearest.time_s,
        person=np.arange(len(members), dtype=np.int16),
        box=_fused(found.box, found.score, members),
        score=np.array([found.score[rows[0]] for rows in members], np.float32),
        keypoints=clearest.keypoints,
        sources=_ragged([found.source[rows] for rows in members]),
        source_persons=_ragged([found.person[rows] for rows in members]),
    )


def _ragged(items: list[np.ndarray]) -> np.ndarray:
    column = np.empty(len(items), object)
    column[:] = [item.tolist() for item in items]
    return column


def limbs_coincide(found: PersonDetections) -> Bool[np.ndarray, "n n"]:
    """Whether two bodies' keypoints, weighted by both confidences, lie within a tenth of the larger box side on average; true of bodies
    of which one has no keypoints."""
    points, sure = np.nan_to_num(found.keypoints[..., :2]), np.nan_to_num(found.keypoints[..., 2])
    weight = sure[:, None] * sure[None]
    apart = (weight * np.linalg.norm(points[:, None] - points[None], axis=-1)).sum(-1) / np.maximum(weight.sum(-1), 1e-6)
    size = boxes.long_side(found.box)
    return np.asarray(apart < 0.1 * np.maximum(size[:, None], size[None]), np.bool_)
