"""A frame with all that is known of its hands, as JSON: each source's box, what fusion made of it, what was refused and why."""

import dataclasses
import math
from collections.abc import Iterable
from functools import lru_cache
from typing import Any

import numpy as np

from pipeline.browse.hand_rows import refused_numbers
from pipeline.engine.store import Store
from stages.errors import UserError
from stages.tables import Clips, Fits, Hands, People, RefusedHands, Reviews, Table
from stages.verdicts import What

Json = dict[str, Any]
_OF_HANDS = (
    "hand", "side", "score", "side_log_odds", "landmark_score", "box", "keypoints", "person", "track", "track_length", "num_agree",
    "num_run", "sources", "source_scores", "source_boxes", "width", "height", "view", "box_source",
)  # fmt: skip
_OF_FITS = ("outcome", "joints_2d", "box", "error_px", "error_share", "inlier_ratio", "flip_margin", "violation_deg")
_OF_REVIEWS = ("quality", "keep", "reason", "box_only")
_OF_REFUSED = ("hand", "side", "score", "side_log_odds", "box", "sources", "source_scores", "source_boxes", "reason", "view", "box_source")
WHOLE = -1
"""In place of a view: the whole image of a camera that bends straight lines."""


def plain(value: Any) -> Any:
    """A value as JSON has it: what is unknown (NaN) is null, numbers are short."""
    if isinstance(value, np.ndarray):
        return plain(value.tolist())
    if isinstance(value, np.generic):
        return plain(value.item())
    if isinstance(value, float):
        return float(f"{value:.5g}") if math.isfinite(value) else None
    if isinstance(value, dict):
        return {name: plain(one) for name, one in value.items()}
    return [plain(one) for one in value] if isinstance(value, list | tuple) else value


def clip_row(store: Store, clip: str) -> Clips:
    """The row of a clip. Raises UserError where there is none."""
    video = clip.rpartition("-")[0]
    try:
        clips = store.read(Clips, "clips", video)
    except FileNotFoundError as error:
        raise UserError(f"no clip {clip[:100]!r}") from error
    row = clips.take(clips.clip == clip)
    if not len(row):
        raise UserError(f"no clip {clip[:100]!r}")
    return row


def frame_detail(store: Store, clip: str, frame: int, view: int) -> Json:
    """All that is known of the hands in a view of a frame. Tables that have not landed are passed over."""
    hands = _part(store, Hands, "hands", clip)
    here = _shown(hands, frame, view)
    found = _columns(hands, _OF_HANDS, here)
    for kind, table, names in ((Fits, "fits", _OF_FITS), (Reviews, "reviews", _OF_REVIEWS)):
        part = _part(store, kind, table, clip)
        if len(part) == len(hands):
            for one, more in zip(found, _columns(part, names, here), strict=True):
                one |= {("box_mesh" if name == "box" else name): value for name, value in more.items()}
    refused = _part(store, RefusedHands, "refused_hands", clip)
    people = _part(store, People, "people", clip)
    numbered = dataclasses.replace(refused, hand=refused_numbers(refused.frame))
    detail = {
        "clip": clip,
        "frame": frame,
        "look": view,
        "hands": found,
        "refused": _columns(numbered, _OF_REFUSED, _shown(refused, frame, view)),
        "people": _columns(people, ("person", "box", "score"), np.flatnonzero((people.frame == frame) & (people.view == view))),
    }
    return _in_whole_image(detail) if view == WHOLE else detail


def _shown(hands: Hands, frame: int, view: int) -> np.ndarray:
    """Rows of the hands in a view of a frame; all of the frame's in the whole image of a bent camera."""
    return np.flatnonzero((hands.frame == frame) & ((hands.view == view) | (view == WHOLE)))


def _in_whole_image(detail: Json) -> Json:
    """Boxes where the video itself has them, those of the views beside; nothing else of a view can be drawn there."""
    for one in (*detail["hands"], *detail["refused"]):
        one |= {"box_seen": one["box"], "box": one["box_source"], "source_boxes": []} | dict.fromkeys(
            ("keypoints", "joints_2d", "box_mesh")
        )
    return detail


def mesh(store: Store, clip: str, frame: int, hand: int) -> Json:
    """The fitted hand: vertices in metres about the wrist, camera axes, and the camera of its fit. Raises UserError for an unfitted one."""
    fits = _part(store, Fits, "fits", clip)
    here = np.flatnonzero((fits.frame == frame) & (fits.hand == hand))
    if not len(here) or not np.isfinite(fits.hand_pose[here[0]]).all():
        raise UserError(f"hand {hand} of frame {frame} was not fitted")
    row = fits.take(here[:1])
    model, faces = _model()
    import torch

    from fitting.hand.mano import pose_either_hand

    with torch.no_grad():
        given = [torch.from_numpy(np.ascontiguousarray(getattr(row, name))) for name in ("betas", "global_orient", "hand_pose")]
        vertices = pose_either_hand(model, torch.from_numpy(row.side.astype(np.int64)), *given).vertices[0].numpy()
    return {
        "side": int(row.side[0]),
        "vertices": np.round(vertices, 5).tolist(),
        "camera": plain(row.camera[0]),
        "faces": faces if row.side[0] == 1 else [face[::-1] for face in faces],
        "joints": plain(row.joints_3d[0]),
    }


def hands_in(store: Store, clip: str) -> Hands:
    """The hands of a clip."""
    hands: Hands = _part(store, Hands, "hands", clip)
    return hands


def refused_in(store: Store, clip: str) -> RefusedHands:
    """The candidates that fusion refused in a clip, under numbers of their own."""
    refused: RefusedHands = _part(store, RefusedHands, "refused_hands", clip)
    return dataclasses.replace(refused, hand=refused_numbers(refused.frame))


def refused_with_box(store: Store, clip: str, frame: int, box: np.ndarray) -> int | None:
    """Number of the candidate refused on a frame that has just this box."""
    refused = _part(store, RefusedHands, "refused_hands", clip)
    rows = np.flatnonzero((refused.frame == frame) & (refused.box == box.astype(np.float32)).all(1))
    return int(refused_numbers(refused.frame)[rows[0]]) if len(rows) else None


def verdict_words(what: Iterable[tuple[str, int]]) -> str:
    """What stands decided on a hand, in words: "keep, right side"."""
    words = {
        str(What.KEEP): "kept",
        str(What.REJECT): "rejected",
        str(What.LANDMARKS): "wrong landmarks",
        str(What.BOX): "box moved",
        str(What.ADD): "added",
    }
    said = {("side: right" if to_side == 1 else "side: left") if w == What.SIDE else words.get(w, w): None for w, to_side in what}
    return ", ".join(said)


def _columns(table: Table, names: Iterable[str], rows: np.ndarray) -> list[Json]:
    columns = {name: getattr(table, name)[rows] for name in names}
    return [{name: plain(column[i]) for name, column in columns.items()} for i in range(len(rows))]


def _part(store: Store, kind: Any, table: str, clip: str) -> Any:
    """A part, held against its digest once while it stays as it is; empty where there is none."""
    stamp = store.stamp(table, clip)
    return _read(store, kind, table, clip, stamp) if stamp else kind.empty()


@lru_cache(32)
def _read(store: Store, kind: Any, table: str, clip: str, stamp: str) -> Any:
    return store.read(kind, table, clip)


@lru_cache(1)
def _model() -> tuple[Any, list[list[int]]]:
    from fitting.hand.mano import load_hand_model

    model = load_hand_model()
    return model, model.faces.tolist()
