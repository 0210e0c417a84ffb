"""Rows of hands as the index holds them: a clip's hands beside their fits and reviews, and the candidates that fusion refused."""

from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np
import pyarrow as pa

from pipeline.browse.landed import Clip
from pipeline.dataset.poses import POSE_COLUMNS, PoseMap
from pipeline.engine.store import Store

HANDS = (
    "frame", "time_s", "hand", "width", "height", "box", "score", "side", "landmark_score", "person", "track", "track_length",
    "num_agree", "num_run", "sources", "view",
)  # fmt: skip
FITS = ("outcome", "error_px", "error_share", "inlier_ratio", "flip_margin", "violation_deg", "hand_pose")
REVIEWS = ("quality", "keep", "reason", "box_only")
NOT_REVIEWED = "not_reviewed"
"""Reason of hands whose clip has no review yet."""
FIRST_REFUSED = -1
"""Number of the first candidate refused on a frame; the next one is -2 and so on: hands that were found count from 0."""
_BATCH_ROWS = 100_000
_NUMBERS = ("error_px", "error_share", "inlier_ratio", "flip_margin", "violation_deg", "quality", *POSE_COLUMNS)


def batches(store: Store, clips: Iterable[Clip], poses: PoseMap | None, unreadable: list[str]) -> Iterator[pa.Table]:
    """Rows of many clips at once; parts that cannot be read are named."""
    tables: list[pa.Table] = []
    for clip in clips:
        name = str(clip.row.clip[0])
        hands = store.columns("hands", name, HANDS)
        if hands is None:
            unreadable.append(f"hands/{name}.parquet")
            continue
        tables.append(_rows(clip.number, hands, store.columns("fits", name, FITS), store.columns("reviews", name, REVIEWS), poses))
        refused = store.columns("refused_hands", name, (*HANDS, "reason"))
        if refused is not None and len(refused):
            tables.append(_refused_rows(clip.number, refused))
        if sum(map(len, tables)) >= _BATCH_ROWS:
            yield pa.concat_tables(tables)
            tables = []
    if tables:
        yield pa.concat_tables(tables)


def refused_numbers(frame: np.ndarray) -> np.ndarray:
    """Numbers of the candidates refused on frames, in their order: -1, -2 on each."""
    numbers = np.empty(len(frame), np.int16)
    for one in np.unique(frame):
        here = np.flatnonzero(frame == one)
        numbers[here] = FIRST_REFUSED - np.arange(len(here))
    return numbers


def _rows(clip: int, hands: pa.Table, fits: pa.Table | None, reviews: pa.Table | None, poses: PoseMap | None) -> pa.Table:
    """The hands of a clip, their fits and reviews beside them where these have landed."""
    n = len(hands)
    columns = _of_hands(clip, hands)
    if fits is not None and len(fits) == n:
        columns |= {name: fits[name] for name in FITS if name != "hand_pose"}
        if poses is not None:
            columns |= poses.place(hands["side"].to_numpy(), fits["hand_pose"])
    if reviews is not None and len(reviews) == n:
        columns |= {name: reviews[name] for name in reviews.column_names}
    else:
        columns |= {"keep": np.zeros(n, bool), "reason": pa.array([NOT_REVIEWED] * n, pa.string())}
    return _as_listed(columns, n)


def _refused_rows(clip: int, refused: pa.Table) -> pa.Table:
    """The candidates of a clip that fusion refused, under numbers of their own."""
    n = len(refused)
    numbers = refused_numbers(refused["frame"].to_numpy())
    columns = _of_hands(clip, refused) | {"hand": numbers, "keep": np.zeros(n, bool), "reason": refused["reason"]}
    return _as_listed(columns, n)


def _of_hands(clip: int, hands: pa.Table) -> dict[str, Any]:
    """Columns of the table of hands, boxes by their corners, with sizes."""
    n = len(hands)
    box = hands["box"].combine_chunks().flatten().to_numpy().reshape(n, 4)
    size_px = (box[:, 2:] - box[:, :2]).max(1, initial=0)
    longest = np.maximum(1, np.maximum(hands["width"].to_numpy(), hands["height"].to_numpy()))
    columns: dict[str, Any] = {name: hands[name] for name in HANDS if name != "box" and name in hands.column_names}
    columns.setdefault("view", np.zeros(n, np.int16))
    columns |= {"clip_id": pa.array(np.full(n, clip, np.int32)), "size_px": size_px, "size_share": size_px / longest}
    return columns | {name: box[:, i] for i, name in enumerate(("x0", "y0", "x1", "y1"))}


def _as_listed(columns: dict[str, Any], n: int) -> pa.Table:
    """Columns in the order and types of the index; unknown numbers are null."""
    columns = {"box_only": np.zeros(n, bool), **columns}
    arrays = {}
    for name, column in columns.items():
        array = column.combine_chunks() if isinstance(column, pa.ChunkedArray) else pa.array(column)
        arrays[name] = pa.array(array.to_numpy(), from_pandas=True) if pa.types.is_floating(array.type) else array
    wanted = dict.fromkeys(_NUMBERS, pa.float32()) | {"outcome": pa.string()}
    lacking = {name: pa.nulls(n, kind) for name, kind in wanted.items() if name not in arrays}
    casts = {name: arrays[name].cast(kind) for name, kind in wanted.items() if name in arrays}
    everything = arrays | casts | lacking
    return pa.table({name: everything[name] for name in sorted(everything)})
