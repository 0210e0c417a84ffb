"""How hands move from frame to frame, and how far that is from how they truly do (WiLoR, Table 6).

Frame of reference: camera axes, metres, rows of one track in time. None of the table's figures says how well motion is followed: a
frozen hand has 0 in each. So they are to be read beside the truth's own, and `error_of_motion_mm` beside them.
"""

from collections.abc import Iterator, Mapping, Sequence

import numpy as np
from jaxtyping import Float, Float64, Int64

from fitting.hand.similarity import aligned
from hands.metrics.hands import WRIST, Hands3D

_Track = Float[np.ndarray, "frames points 3"]


def motion_mm(track: _Track) -> Float64[np.ndarray, "steps"]:
    """Mean distance of the points between consecutive frames, millimetres."""
    return 1000 * np.linalg.norm(np.diff(track.astype(np.float64), axis=0), axis=2).mean(1)


def motion_frobenius(track: _Track) -> Float64[np.ndarray, "steps"]:
    """Root of the sum of all points' squared distances between consecutive frames, metres, x 100.

    Table 6 says "mean per frame Euclidean distance (x 100)"; its ratios of vertices to joints are those of this norm, sqrt(778 / 21).
    """
    return 100 * np.linalg.norm(np.diff(track.astype(np.float64), axis=0), axis=(1, 2))


def error_of_motion_mm(prediction: _Track, target: _Track) -> Float64[np.ndarray, "steps"]:
    """Mean distance of the points' steps from the true steps, millimetres."""
    return motion_mm(prediction.astype(np.float64) - target)


def jitter(track: _Track, frames_per_second: float) -> Float64[np.ndarray, "steps"]:
    """Mean jerk of the points, in 10 m/s^3 (WHAM: third difference x rate^3 / 10)."""
    jerk = np.diff(track.astype(np.float64), n=3, axis=0) * frames_per_second**3
    return np.linalg.norm(jerk, axis=2).mean(1) / 10


def shaking_mm(joints: Float[np.ndarray, "n 21 3"], track: Int64[np.ndarray, "n"], frame: Int64[np.ndarray, "n"]) -> float:
    """Mean acceleration of joints about their wrist along tracks, millimetres a frame squared; NaN where none has three in a row.

    Rows of no track (-1) do not count, nor those that are not finite.
    """
    known = np.flatnonzero((track >= 0) & np.isfinite(joints).all((1, 2)))
    about = joints[known] - joints[known, :1]
    along = [np.diff(about[rows].astype(np.float64), n=2, axis=0) for rows in runs(track[known], frame[known]) if len(rows) > 2]
    return float(1000 * np.linalg.norm(np.concatenate(along)[:, 1:], axis=2).mean()) if along else float("nan")


def root_translation_error(
    prediction: Float[np.ndarray, "frames 3"], target: Float[np.ndarray, "frames 3"]
) -> Float64[np.ndarray, "frames"]:
    """WHAM's RTE: distance of the wrists after the best rotation and shift of the whole path, over the true path's length, per cent."""
    path = np.linalg.norm(np.diff(target.astype(np.float64), axis=0), axis=1).sum()
    return 100 * np.linalg.norm(aligned(prediction[None], target[None], scaled=False)[0] - target, axis=1) / max(path, 1e-9)


def runs(sequence: Sequence[object] | np.ndarray, frame: Int64[np.ndarray, "n"]) -> Iterator[Int64[np.ndarray, "frames"]]:
    """Rows of consecutive frames of one sequence, in order of time; a frame that is missing ends a run.

    Consecutive is what most frames of the sequence are: every n-th where every n-th was annotated.
    """
    _, number = np.unique(np.asarray(sequence, dtype=str), return_inverse=True)
    order = np.lexsort((frame, number))
    for rows in np.split(order, np.flatnonzero(np.diff(number[order])) + 1):
        steps = np.diff(frame[rows])
        usual = np.bincount(steps).argmax() if len(steps) else 1
        yield from np.split(rows, np.flatnonzero(steps != usual) + 1)


def motion_metrics(prediction: Hands3D, target: Hands3D, tracks: Sequence[np.ndarray], frames_per_second: float) -> Mapping[str, float]:
    """Means over all steps of all tracks (rows in time), of the estimates and, as `true_...`, of the truth.

    `mpfve_frobenius` and `mpfje_frobenius` are Table 6's, `mpfve_mm` and `mpfje_mm` the same as a mean of points. Tracks of fewer than
    four frames are left out; empty when none is left.
    """
    found: dict[str, list[np.ndarray]] = {}
    for rows in (rows for rows in tracks if len(rows) >= 4):
        for prefix, hands in (("", prediction), ("true_", target)):
            joints, vertices = hands.joints[rows], hands.vertices[rows]
            of_track = {
                "mpfve_frobenius": motion_frobenius(vertices),
                "mpfje_frobenius": motion_frobenius(joints),
                "mpfve_mm": motion_mm(vertices),
                "mpfje_mm": motion_mm(joints),
                "jitter": jitter(joints, frames_per_second),
            }
            for name, values in of_track.items():
                found.setdefault(prefix + name, []).append(values)
        found.setdefault("error_of_motion_mm", []).append(error_of_motion_mm(prediction.joints[rows], target.joints[rows]))
    return {name: float(np.concatenate(values).mean()) for name, values in found.items()}


def path_metrics(prediction: Hands3D, target: Hands3D, tracks: Sequence[np.ndarray]) -> Mapping[str, float]:
    """Means of the wrist's path before the camera: `rte` is WHAM's, `wrist_mm` how Table 6 words it."""
    found: dict[str, list[np.ndarray]] = {}
    for rows in (rows for rows in tracks if len(rows) >= 4):
        path, truth = prediction.joints[rows, WRIST], target.joints[rows, WRIST]
        for name, values in (("wrist_mm", motion_mm(path[:, None])), ("true_wrist_mm", motion_mm(truth[:, None]))):
            found.setdefault(name, []).append(values)
        found.setdefault("rte", []).append(root_translation_error(path, truth))
    return {name: float(np.concatenate(values).mean()) for name, values in found.items()}
