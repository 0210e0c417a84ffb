"""The single-shot detectors of MediaPipe (palms, people): anchors, decoding, weighted suppression.

Coordinates are shares of the detector's square input. Anchors have a centre only: their size is fixed at 1
(`fixed_anchor_size` of MediaPipe's SsdAnchorsCalculator).
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float32, Float64

from stages import boxes
from stages.detectors.mediapipe.crops import Region, to_frame


@dataclass(frozen=True, eq=False, slots=True, kw_only=True)
class Candidates:
    """What a detector found: boxes xyxy with their keypoints, best first."""

    score: Float64[np.ndarray, "n"]
    box: Float64[np.ndarray, "n 4"]
    keypoints: Float64[np.ndarray, "n k 2"]

    def take(self, rows: np.ndarray) -> "Candidates":
        """The rows of a mask or an index array."""
        return Candidates(score=self.score[rows], box=self.box[rows], keypoints=self.keypoints[rows])

    def in_frame(self, region: Region) -> "Candidates":
        """Candidates in pixels of the frame, from those of the upright region that they were found in."""
        box, keypoints = (to_frame(points.reshape(-1, 2), region).reshape(points.shape) for points in (self.box, self.keypoints))
        return Candidates(score=self.score, box=box, keypoints=keypoints)


def anchor_centres(size: int, strides: Sequence[int]) -> Float32[np.ndarray, "anchors 2"]:
    """Centres of two anchors a cell and layer, cell by cell; layers of equal stride share their cells, as MediaPipe orders them."""
    centres = []
    for stride in sorted(set(strides)):
        cells = (np.arange(size // stride, dtype=np.float32) + 0.5) / (size // stride)
        grid = np.stack(np.meshgrid(cells, cells), axis=-1).reshape(-1, 2)
        centres.append(np.repeat(grid, 2 * list(strides).count(stride), axis=0))
    return np.concatenate(centres)


def decode(
    values: Float32[np.ndarray, "anchors values"],
    logits: Float32[np.ndarray, "anchors 1"],
    anchors: Float32[np.ndarray, "anchors 2"],
    *,
    size: int,
    min_score: float,
) -> Candidates:
    """Candidates of at least `min_score` from a network's raw values: centre, size and keypoints in input pixels off the anchor."""
    score = 1 / (1 + np.exp(-np.clip(logits[:, 0].astype(np.float64), -100, 100)))
    keep = np.flatnonzero(score >= min_score)
    keep = keep[np.argsort(-score[keep], kind="stable")]
    points = values[keep].astype(np.float64).reshape(len(keep), values.shape[1] // 2, 2) / size
    centre, extent = points[:, 0] + anchors[keep], points[:, 1]
    box = np.concatenate([centre - extent / 2, centre + extent / 2], axis=1)
    return Candidates(score=score[keep], box=box, keypoints=points[:, 2:] + anchors[keep, None])


def weighted_suppression(found: Candidates, *, max_iou: float) -> Candidates:
    """One candidate a group: the best score, with the score-weighted mean of the boxes and keypoints it overlaps (MediaPipe's WEIGHTED)."""
    score, box, keypoints = [], [], []
    left = np.argsort(-found.score, kind="stable")
    while len(left):
        near = boxes.iou(found.box[left[:1]], found.box[left])[0] > max_iou
        near[0] = True
        group, weight = left[near], found.score[left[near]]
        score.append(found.score[left[0]])
        box.append(np.average(found.box[group], axis=0, weights=weight))
        keypoints.append(np.average(found.keypoints[group], axis=0, weights=weight))
        left = left[~near]
    if not score:
        return found
    return Candidates(score=np.array(score), box=np.array(box), keypoints=np.array(keypoints))
