"""Hands of a video as tracks, and tracks made smooth: no network, only what neighbouring frames say (after the fact, not live).

Frame of reference: pixels of the image; rotations as matrices.
"""

from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float, Float32, Int
from scipy.sparse import csr_array

from fitting.hand.mano import LEFT
from hands.drawing.space import frame_focal
from stages import boxes
from training.regressor.camera import mirrored_camera, mirrored_rotations
from training.regressor.hand import HandEstimate, HandLayer
from training.regressor.inference import ReconstructedHands, hands_of

_AT_ONCE = 1024
"""Hands that are posed together: the intermediate arrays of one take half a megabyte."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TrackSettings:
    """How hands are followed and smoothed."""

    match_iou: float = 0.2
    """Least overlap of a hand's boxes in two frames, one of them moved on at the track's speed. Ours."""
    max_gap_s: float = 0.2
    """Longest time out of sight of the detector that a track spans; its boxes in between lie on a line. Ours."""
    smooth_s: float = 0.05
    """Deviation of the Gaussian over time that weighs neighbours; 0 leaves every frame as it is. Ours."""

    def __post_init__(self) -> None:
        if not 0 < self.match_iou < 1:
            raise ValueError(f"track.match_iou must lie in (0, 1), got {self.match_iou}")
        for name in ("max_gap_s", "smooth_s"):
            if not 0 <= getattr(self, name) < float("inf"):
                raise ValueError(f"track.{name} must be 0 or more, got {getattr(self, name)}")


@dataclass(frozen=True, eq=False, slots=True, kw_only=True)
class FoundHands:
    """Hands that a detector finds in a video: one row a hand, by frame."""

    frame: Int[np.ndarray, "n"]
    box: Float[np.ndarray, "n 4"]
    side: Int[np.ndarray, "n"]
    score: Float[np.ndarray, "n"]  # 0 in a gap
    track: Int[np.ndarray, "n"]  # -1 before `follow`


def follow(found: FoundHands, time_s: Float[np.ndarray, "frames"], settings: TrackSettings) -> FoundHands:
    """Found hands with their tracks, gaps filled, each track of the side with the largest sum of scores; by frame and track."""
    last: dict[int, tuple[int, np.ndarray, np.ndarray]] = {}  # frame, box and pixels a frame of each track
    track = np.full(len(found.frame), -1)
    for frame in np.unique(found.frame).tolist():
        rows = np.flatnonzero(found.frame == frame)
        last = {k: at for k, at in last.items() if at[0] == frame - 1 or time_s[frame] - time_s[at[0]] <= settings.max_gap_s + 1e-9}
        alive, where = list(last), [box + speed * (frame - before) for before, box, speed in last.values()]
        overlap = boxes.iou(found.box[rows], np.array(where).reshape(-1, 4))
        sides = [_side(found, track, k) for k in alive]
        overlap *= np.where(found.side[rows][:, None] == np.array(sides, int), 1.0, 0.6)
        for row, k in _pairs(overlap, settings.match_iou):
            track[rows[row]] = alive[k]
        for row in rows.tolist():
            if track[row] < 0:
                track[row] = track.max() + 1
            before = last.get(int(track[row]))
            speed = (found.box[row] - before[1]) / (frame - before[0]) if before else np.zeros(4)
            last[int(track[row])] = (frame, found.box[row], speed)
    return _filled(FoundHands(frame=found.frame, box=found.box, side=found.side, score=found.score, track=track))


def smooth(
    hands: ReconstructedHands,
    track: Int[np.ndarray, "n"],
    time_s: Float[np.ndarray, "n"],
    layer: HandLayer,
    size: tuple[int, int],
    focal_px: float | None,
    settings: TrackSettings,
) -> ReconstructedHands:
    """Each hand as the mean of its track about its moment: rotations by their nearest mean, one shape for all of a track.

    The place is smoothed in pixels, so that a camera's jumps with its box go too.
    """
    if not settings.smooth_s or not len(hands):
        return hands
    rotations, betas, camera = (values.copy() for values in (hands.rotations, hands.betas, hands.camera))
    for number in np.unique(track):
        rows = np.flatnonzero(track == number)
        rows = rows[np.argsort(time_s[rows], kind="stable")]
        weights = over_time(time_s[rows], settings.smooth_s)
        rotations[rows] = nearest_rotations((weights @ hands.rotations[rows].reshape(-1, 16 * 9)).reshape(-1, 16, 3, 3))
        betas[rows] = hands.betas[rows].mean(0)
        camera[rows] = _of_places(weights @ _places(hands, rows), hands.square[rows])
    left = torch.from_numpy(hands.side == LEFT)
    rotation, place = mirrored_rotations(torch.from_numpy(rotations), left), mirrored_camera(torch.from_numpy(camera), left)
    as_right = (torch.split(values, _AT_ONCE) for values in (rotation, torch.from_numpy(betas), place))
    with torch.no_grad():
        parts = [layer(*some) for some in zip(*as_right, strict=True)]
    prediction = HandEstimate(*(torch.cat(values) for values in zip(*parts, strict=True)))
    return hands_of(prediction, hands.square, hands.side, size, frame_focal(size, focal_px))


def over_time(time_s: Float[np.ndarray, "n"], deviation_s: float) -> csr_array:
    """Gaussian weights of moments about each moment, [n, n], that sum to 1 in each row; times in order.

    Beyond five deviations there are none, so that an hour of one hand takes no more memory a frame than a second.
    """
    first = np.searchsorted(time_s, time_s - 5 * deviation_s, "left")
    end = np.searchsorted(time_s, time_s + 5 * deviation_s, "right")
    count = end - first
    starts = np.concatenate([[0], np.cumsum(count)])
    column = np.arange(starts[-1]) + np.repeat(first - starts[:-1], count)
    weight = np.exp(-0.5 * ((time_s[column] - np.repeat(time_s, count)) / deviation_s) ** 2)
    weight /= np.repeat(np.add.reduceat(weight, starts[:-1]), count)
    return csr_array((weight, column, starts), shape=(len(time_s), len(time_s)))


def nearest_rotations(matrices: Float[np.ndarray, "*batch 3 3"]) -> Float32[np.ndarray, "*batch 3 3"]:
    """The rotations nearest to means of rotations, by the Frobenius norm (chordal mean; Hartley et al., IJCV 2013, section 5.3)."""
    u, _, vt = np.linalg.svd(matrices.astype(np.float64))
    flip = np.ones((*matrices.shape[:-2], 3))
    flip[..., 2] = np.linalg.det(u @ vt)
    return np.asarray((u * flip[..., None, :]) @ vt, np.float32)


def _places(hands: ReconstructedHands, rows: Int[np.ndarray, "k"]) -> Float[np.ndarray, "k 3"]:
    """Logarithm of the pixels a metre, and the wrist's pixel under weak perspective."""
    per_metre = hands.camera[rows, 0] * hands.square[rows, 2] / 2
    return np.concatenate([np.log(per_metre)[:, None], hands.square[rows, :2] + hands.camera[rows, 1:] * per_metre[:, None]], 1)


def _of_places(places: Float[np.ndarray, "k 3"], square: Float[np.ndarray, "k 3"]) -> Float[np.ndarray, "k 3"]:
    """The cameras of squares that see the wrist there: the inverse of `_places`."""
    per_metre = np.exp(places[:, :1])
    return np.concatenate([2 * per_metre / square[:, 2:], (places[:, 1:] - square[:, :2]) / per_metre], 1)


def _filled(found: FoundHands) -> FoundHands:
    """Gaps of tracks on straight lines, sides by vote; rows by frame and track."""
    parts = []
    for number in np.unique(found.track).tolist():
        rows = np.flatnonzero(found.track == number)
        frame = np.arange(found.frame[rows[0]], found.frame[rows[-1]] + 1)
        seen = np.isin(frame, found.frame[rows])
        score = np.zeros(len(frame))
        score[seen] = found.score[rows]
        box = np.stack([np.interp(frame, found.frame[rows], found.box[rows, k]) for k in range(4)], 1)
        parts.append((frame, box, np.full(len(frame), _side(found, found.track, number)), score, np.full(len(frame), number)))
    if not parts:
        return found
    frame, box, side, score, track = (np.concatenate(values) for values in zip(*parts, strict=True))
    order = np.lexsort((track, frame))
    return FoundHands(frame=frame[order], box=box[order], side=side[order], score=score[order], track=track[order])


def _side(found: FoundHands, track: Int[np.ndarray, "n"], number: int) -> int:
    """The side that has the larger sum of scores so far."""
    mine = track == number
    right = found.side == 1
    return int(found.score[mine & right].sum() >= found.score[mine & ~right].sum())


def _pairs(overlap: Float[np.ndarray, "rows tracks"], least: float) -> list[tuple[int, int]]:
    """Greedy: the largest overlap first, each row and track once."""
    pairs = []
    overlap = overlap.copy()
    while overlap.size and overlap.max() >= least:
        row, k = np.unravel_index(overlap.argmax(), overlap.shape)
        pairs.append((int(row), int(k)))
        overlap[row], overlap[:, k] = -1, -1
    return pairs
