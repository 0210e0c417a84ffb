"""Hands as the fit takes them, right ones with landmarks on the model's joints, and its answers as a table, each hand on its own side."""

from collections.abc import Mapping, Sequence
from dataclasses import fields, replace
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from jaxtyping import Float32, Float64, Int64

from fitting.landmarks.offsets import Offsets, corrected
from stages.cameras.sight import Sight
from stages.tables import LEFT, Fits, Hands

if TYPE_CHECKING:
    from fitting.fit import Fitter, HandFits


def on_joints(hands: Hands, offsets: Mapping[str, Offsets]) -> Hands:
    """Hands whose landmarks are moved onto the model's joints, by the offsets of the detectors they are from.

    A landmark that is the mean of several detectors' takes its part of each one's offset; 3D landmarks are one detector's.
    """
    keypoints, world = hands.keypoints.copy(), hands.world.copy()
    joined = np.maximum(np.bitwise_count(hands.keypoint_sources), 1)
    for name, known in offsets.items():
        bit = np.array([[*sources].index(name) if name in sources else -1 for sources in hands.sources], np.int16)
        rows = np.flatnonzero(bit >= 0)
        moved, world[rows] = corrected(hands.keypoints[rows], hands.world[rows], known)
        part = (hands.keypoint_sources[rows] >> bit[rows, None] & 1) / joined[rows]
        keypoints[rows] += part[..., None].astype(np.float32) * (moved - hands.keypoints[rows])
    return replace(hands, keypoints=keypoints, world=world)


class Asked(NamedTuple):
    """What a `Fitter` is asked, of right hands."""

    keypoints: Float32[np.ndarray, "n 21 3"]
    world: Float32[np.ndarray, "n 21 3"]
    deviation: Float32[np.ndarray, "n 21"]
    track: Int64[np.ndarray, "n"]
    time_s: Float64[np.ndarray, "n"]
    focal_px: Float64[np.ndarray, "n"]
    """0 where projection is weak perspective, of all hands."""
    principal: Float64[np.ndarray, "n 2"]

    @classmethod
    def of(cls, hands: Hands, sight: Sight | None, weak: bool) -> "Asked":
        """Hands of a clip, left ones mirrored."""
        mirror = _mirror(hands)[:, None]
        track = np.where(hands.track < 0, -1, 2 * hands.track.astype(np.int64) + hands.side)
        track += np.where(track < 0, 0, hands.view * (track.max() + 1))  # axes are a view's own
        keypoints, focal, principal = hands.keypoints, np.zeros(len(hands)), np.zeros((len(hands), 2))
        if sight is not None:
            keypoints = sight.keypoints
            if not weak:
                focal, principal = sight.focal_px, sight.principal * mirror[:, 0, :2].astype(np.float64)
        hinted = np.isfinite(hands.hint).all((1, 2)) & (hands.hint[..., 3] > 0).all(1)
        world = np.where(hinted[:, None, None], hands.hint[..., :3], hands.world)
        deviation = hands.hint[..., 3] * np.where(hinted, np.float32(1), np.float32(np.nan))[:, None]
        return cls(keypoints * mirror, world * mirror, deviation, track, hands.time_s, focal, principal)

    @classmethod
    def concat(cls, clips: Sequence["Asked"]) -> "Asked":
        """Hands of several clips, none of one in a track of another's."""
        if len(clips) == 1:
            return clips[0]
        ends = np.cumsum([int(clip.track.max()) + 1 for clip in clips])
        apart = [np.where(one.track < 0, -1, one.track + before) for one, before in zip(clips, (0, *ends[:-1]), strict=True)]
        return cls(*(np.concatenate(columns) for columns in zip(*clips, strict=True)))._replace(track=np.concatenate(apart))

    def fit(self, fitter: "Fitter") -> "HandFits":
        from fitting.lens import Lens

        lens = Lens(self.focal_px, self.principal) if self.focal_px.any() else None
        return fitter.fit(self.keypoints, self.world, deviation=self.deviation, track=self.track, time_s=self.time_s, lens=lens)


def _mirror(hands: Hands) -> Float32[np.ndarray, "n 3"]:
    """What turns the axes of a hand into those of a right one."""
    sign = np.where(hands.side == LEFT, -1, 1).astype(np.float32)
    return np.stack([sign, np.ones_like(sign), np.ones_like(sign)], 1)


def as_table(fitted: "HandFits", of_clip: tuple[Hands, Sight | None], focal_share: float, weak: bool) -> Fits:
    """The fits of a clip's hands as its table."""
    hands, sight = of_clip
    return Fits(
        **{name: getattr(hands, name) for name in ("video", "frame", "time_s", "hand", "side")},
        outcome=np.array([str(outcome) for outcome in fitted.outcome], dtype=object),
        num_points=fitted.num_points.numpy().astype(np.int16),
        **_unknown_where_unfitted(_columns(fitted, hands, _mirror(hands), focal_share, sight, weak), fitted.outcome),
        **_camera_columns(sight),
    )


def _camera_columns(sight: Sight | None) -> dict[str, np.ndarray]:
    """The columns that name a hand's camera; of one that nobody knows they say so by themselves."""
    if sight is None:
        return {}
    origin = np.full(len(sight.which), sight.camera_from, object)
    return {"camera_from": origin, "focal_px": sight.focal_px.astype(np.float32), "principal": sight.principal.astype(np.float32)}


def _columns(
    fitted: "HandFits", hands: Hands, mirror: Float32[np.ndarray, "n 3"], focal_share: float, sight: Sight | None, weak: bool
) -> dict[str, np.ndarray]:
    """The number columns of `Fits`, mirrored back to each hand's side."""
    names = {field.name for field in fields(fitted)} & {field.name for field in fields(Fits)} - {"outcome", "num_points"}
    columns: dict[str, Any] = {name: getattr(fitted, name).numpy().astype(np.float32) for name in names}
    flip = mirror[:, :1]
    axis_angle = np.concatenate([np.ones_like(flip), flip, flip], 1)
    columns["global_orient"] = columns["global_orient"] * axis_angle
    columns["hand_pose"] = columns["hand_pose"] * np.tile(axis_angle, 15)
    columns["camera"] = columns["camera"] * np.concatenate([np.ones_like(flip), flip, np.ones_like(flip)], 1)
    columns["joints_3d"] = columns["joints_3d"] * mirror[:, None]
    columns["joints_2d"] = columns["joints_2d"] * mirror[:, None, :2]
    corners = columns["box"].reshape(-1, 2, 2) * mirror[:, None, :2]
    columns["box"] = np.concatenate([corners.min(1), corners.max(1)], 1)
    if sight is None:
        focal = focal_share * np.maximum(hands.width, hands.height)
        columns["transl"] = _translation(columns["camera"], focal, np.stack([hands.width, hands.height], 1) / 2)
    elif weak:
        columns["transl"] = _translation(columns["camera"], sight.focal_px, sight.principal)
    else:
        columns["transl"] = columns["transl"] * mirror
    if sight is not None:
        sight.bent(columns)
    return columns


def _translation(
    camera: Float32[np.ndarray, "n 3"], focal: Float64[np.ndarray, "n"], centre: Float64[np.ndarray, "n 2"]
) -> Float32[np.ndarray, "n 3"]:
    """Where the wrist stands, metres, before a pinhole that shows it as large as `camera` does."""
    scale, focal = np.maximum(camera[:, :1], 1e-6), focal[:, None]
    return np.concatenate([(camera[:, 1:] - centre) / scale, focal / scale], 1).astype(np.float32)


def _unknown_where_unfitted(columns: dict[str, np.ndarray], outcome: np.ndarray) -> dict[str, np.ndarray]:
    from fitting.fit import Outcome

    unfitted = ~np.isin(outcome, (Outcome.CONVERGED, Outcome.STALLED))
    for values in columns.values():
        values[unfitted] = np.nan
    return columns
