"""Small shards with images that say which sample they are."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import simplejpeg

from stages.tables import SCHEMA_VERSION

WIDTH, HEIGHT = 96, 64


def picture(number: int) -> np.ndarray:
    """A flat image whose colour tells `number`, with one bright corner."""
    image = np.full((HEIGHT, WIDTH, 3), (number * 37 % 200 + 20, number * 91 % 200 + 20, number * 13 % 200 + 20), np.uint8)
    image[:8, :8] = 255
    return image


def rows(first: int, count: int) -> pa.Table:
    """Frames first..first + count - 1; frame k has k % 3 hands, whose numbers follow from k."""
    hands, ignore = [], []
    for k in range(first, first + count):
        box = [float(k % 20), 5.0, float(k % 20) + 30, 45.0]
        hands.append(
            [
                {
                    "box": box,
                    "side": (k + h) % 2,
                    "keypoints": [[box[0] + j, box[1] + j, 0.5] for j in range(21)],
                    "joints_2d": [[box[0] + j, box[1] + j] for j in range(21)],
                    "joints_3d": [[j / 100, 0.0, 0.0] for j in range(21)],
                    "betas": [k / 100] * 10,
                    "global_orient": [0.1, 0.2, 0.3],
                    "hand_pose": [float("nan") if k % 7 == 6 else 0.1] * 45,
                    "camera": [900.0, 40.0, 30.0],
                    "quality": 0.5 + 0.1 * h,
                    "keep": True,
                    "reason": "",
                }
                for h in range(k % 3)
            ]
        )
        ignore.append([[1.0, 2.0, 3.0, 4.0]] if k % 5 == 0 else [])
    jpegs = [simplejpeg.encode_jpeg(picture(k), quality=95, colorspace="RGB", colorsubsampling="444") for k in range(first, first + count)]
    f32 = pa.float32()
    point3, point2, box = pa.list_(f32, 3), pa.list_(f32, 2), pa.list_(f32, 4)
    of = {"box": box, "side": pa.int8(), "keypoints": pa.list_(point3, 21), "joints_2d": pa.list_(point2, 21)}
    of |= {"joints_3d": pa.list_(point3, 21), "betas": pa.list_(f32, 10), "global_orient": pa.list_(f32, 3)}
    of |= {"hand_pose": pa.list_(f32, 45), "camera": pa.list_(f32, 3), "quality": f32, "keep": pa.bool_(), "reason": pa.string()}
    hand = pa.struct([pa.field(name, kind, nullable=False) for name, kind in of.items()])
    schema = pa.schema(
        [
            pa.field("hands", pa.list_(pa.field("element", hand, nullable=False)), nullable=False),
            pa.field("ignore_boxes", pa.list_(pa.field("element", box, nullable=False)), nullable=False),
            pa.field("image", pa.binary(), nullable=False),
        ],
        {"schema_version": str(SCHEMA_VERSION), "fingerprint": f"test {first} {count}"},
    )
    return pa.table([pa.array(hands, schema.field(0).type), pa.array(ignore, schema.field(1).type), pa.array(jpegs)], schema=schema)


def write(path: Path, table: pa.Table, **options: Any) -> Path:
    """Write a shard with the options of `pack`, unless told otherwise."""
    path.parent.mkdir(parents=True, exist_ok=True)
    settings = {
        "compression": {"image": "none"},
        "use_dictionary": False,
        "column_encoding": {"image": "PLAIN"},
        "write_page_checksum": True,
        "row_group_size": 16,
        "data_page_size": 8192,
    }
    pq.write_table(table, path, **(settings | options))
    return path


@pytest.fixture
def shards(tmp_path: Path) -> Callable[..., list[Path]]:
    """Writes n shards of some rows each."""

    def make(num_shards: int = 3, num_rows: int = 40, **options: Any) -> list[Path]:
        return [write(tmp_path / "train" / f"train-{k}.parquet", rows(k * num_rows, num_rows), **options) for k in range(num_shards)]

    return make


@pytest.fixture
def cache(tmp_path: Path) -> Path:
    return tmp_path / "cache"
