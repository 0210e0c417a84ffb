"""Exact truth of the studio's images: one row a hand and frame, and the same as a label file.

Frame of reference: pixels of the frame, which spans (0, 0) to (width, height); metres in camera axes, x right, y down, z forward.
Keypoints and joints are 21 in OpenPose's order. Side: 0 left, 1 right. Parameters are smplx's for a hand of the row's side (left =
right mirrored in x), the mean pose added.
"""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

TRUTH = pa.schema(
    [
        pa.field("video", pa.string(), nullable=False),
        pa.field("frame", pa.int64(), nullable=False),  # decode index
        pa.field("time_s", pa.float64(), nullable=False),
        pa.field("shot", pa.int16(), nullable=False),
        pa.field("side", pa.int8(), nullable=False),
        pa.field("width", pa.int32(), nullable=False),
        pa.field("height", pa.int32(), nullable=False),
        pa.field("box", pa.list_(pa.float32(), 4), nullable=False),  # of the 778 projected vertices, xyxy, not clipped
        pa.field("inside", pa.float32(), nullable=False),  # share of the hand's area that lies within the picture
        pa.field("visible", pa.float32(), nullable=False),  # share that lies within the picture and behind nothing else
        pa.field("keypoints", pa.list_(pa.list_(pa.float32(), 2), 21), nullable=False),  # pixels
        pa.field("joints_3d", pa.list_(pa.list_(pa.float32(), 3), 21), nullable=False),  # metres, wrist-centred
        pa.field("betas", pa.list_(pa.float32(), 10), nullable=False),
        pa.field("global_orient", pa.list_(pa.float32(), 3), nullable=False),
        pa.field("hand_pose", pa.list_(pa.float32(), 45), nullable=False),
        pa.field("transl", pa.list_(pa.float32(), 3), nullable=False),  # the wrist before the pinhole camera, metres
        pa.field("camera", pa.list_(pa.float32(), 3), nullable=False),  # weak perspective at the wrist: pixels a metre, its pixel x, y
        pa.field("focal_px", pa.float32(), nullable=False),  # pinhole; its centre is the picture's
    ],
    {"table": "Truth", "schema_version": "1"},
)

CLEAR_VISIBLE = 0.5
"""Hands of which less than this share is seen need not be found, and finding them is no error either."""

LABEL_FRAMES_PER_SECOND = 5.0


def write_truth(path: Path, columns: dict[str, np.ndarray]) -> None:
    """One Parquet file of all rows; written aside and renamed."""
    arrays = [pa.array(np.asarray(columns[field.name]).tolist(), field.type) for field in TRUTH]
    aside = path.with_name(path.name + ".part")
    pq.write_table(pa.Table.from_arrays(arrays, schema=TRUTH), aside, compression="zstd")
    aside.replace(path)


def read_truth(path: Path) -> dict[str, np.ndarray]:
    """Columns by name. ValueError when the file holds something else."""
    table = pq.read_table(path)
    if table.schema.names != TRUTH.names:
        raise ValueError(f"{path} is no truth of the studio: its columns are {table.schema.names}")
    return {field.name: np.array(table.column(field.name).to_pylist(), _number_type(field.type)) for field in TRUTH}


def _number_type(kind: pa.DataType) -> np.dtype:
    """Number type of a column's values, however deep in lists; object for text."""
    while pa.types.is_fixed_size_list(kind):
        kind = kind.value_type
    return np.dtype(kind.to_pandas_dtype())


def write_labels(path: Path, truths: dict[str, dict[str, np.ndarray]], frames_per_second: float) -> None:
    """The label file of several videos (truth columns by file name), some frames a second, in the format of the hand benchmark.

    Hands that are mostly hidden or mostly outside the picture become `ignore` regions; boxes are clipped to the picture.
    """
    step = max(round(frames_per_second / LABEL_FRAMES_PER_SECOND), 1)
    images = [image for name, truth in truths.items() for image in _label_images(name, truth, step)]
    note = (
        "boxes xyxy in pixels of the decoded frame, exact; side is the person's own hand; frame = 0-based index in decode order; "
        "ignore = regions where a detection counts neither way"
    )
    aside = path.with_name(path.name + ".part")
    aside.write_text(json.dumps({"format": "handmedia-bench/1", "note": note, "images": images}, indent=1) + "\n")
    aside.replace(path)


def _label_images(name: str, truth: dict[str, np.ndarray], step: int) -> list[dict[str, Any]]:
    images = []
    for frame in np.unique(truth["frame"])[::step]:
        rows = np.flatnonzero(truth["frame"] == frame)
        width, height = int(truth["width"][rows[0]]), int(truth["height"][rows[0]])
        hands, ignore = [], []
        for row in rows[truth["inside"][rows] > 0]:
            box = [round(float(v), 1) for v in np.clip(truth["box"][row], 0, [width, height, width, height])]
            if truth["visible"][row] >= CLEAR_VISIBLE:
                hands.append({"box": box, "side": ("left", "right")[truth["side"][row]], "label_source": "rendered"})
            else:
                ignore.append(box)
        stem = f"{Path(name).stem}-{frame:05d}"
        images.append({"id": stem, "video": name, "frame": int(frame), "width": width, "height": height, "hands": hands, "ignore": ignore})
    return images
