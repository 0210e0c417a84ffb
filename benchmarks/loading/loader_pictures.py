"""The pictures of the loader benchmark, and the same samples in each peer's own format."""

from collections.abc import Iterator
from pathlib import Path

import cv2
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from stages.tables import SCHEMA_VERSION

WIDTH, HEIGHT = 640, 360


def pictures(count: int) -> Iterator[bytes]:
    """JPEGs of about 54 kB: noise of a photograph's spectrum (1/f), and shapes with hard edges."""
    rng = np.random.default_rng(0)
    y, x = np.fft.fftfreq(HEIGHT)[:, None], np.fft.rfftfreq(WIDTH)[None]
    frequency = np.hypot(x, y)
    frequency[0, 0] = 1
    for _ in range(count):
        fall = frequency ** -rng.uniform(1.0, 1.35)
        layers = [np.fft.irfft2(fall * np.exp(2j * np.pi * rng.random(fall.shape)), s=(HEIGHT, WIDTH)) for _ in range(4)]
        grey, *colours = (layer / layer.std() for layer in layers)
        image = np.stack([0.92 * grey + 0.25 * colour for colour in colours], 2) * rng.uniform(35, 60) + rng.uniform(90, 150)
        image = np.clip(image, 0, 255).astype(np.uint8)
        for _ in range(6):
            colour, centre = rng.integers(0, 255, 3).tolist(), (int(rng.integers(WIDTH)), int(rng.integers(HEIGHT)))
            axes, width = (int(rng.integers(10, 90)), int(rng.integers(10, 60))), -1 if rng.random() < 0.5 else 3
            cv2.ellipse(image, centre, axes, float(rng.uniform(0, 180)), 0, 360, colour, width)
        yield cv2.imencode(".jpg", image, [cv2.IMWRITE_JPEG_QUALITY, int(rng.integers(58, 82))])[1].tobytes()


def write_files(folder: Path, count: int) -> list[Path]:
    """One file a picture; what is there stays."""
    folder.mkdir(parents=True, exist_ok=True)
    paths = [folder / f"{k:06d}.jpg" for k in range(count)]
    if not all(path.exists() for path in paths):
        for path, data in zip(paths, pictures(count), strict=True):
            path.write_bytes(data)
    return paths


def hand(rng: np.random.Generator) -> dict[str, object]:
    """A label of about a kilobyte."""
    low = rng.uniform(0, 250, 2)
    points = low + rng.uniform(0, 100, (21, 2))
    return {
        "box": [*low.tolist(), *(low + 100).tolist()],
        "side": int(rng.integers(2)),
        "keypoints": np.concatenate([points, np.ones((21, 1))], 1).tolist(),
        "joints_2d": points.tolist(),
        "joints_3d": rng.normal(size=(21, 3)).tolist(),
        "betas": rng.normal(size=10).tolist(),
        "global_orient": rng.normal(size=3).tolist(),
        "hand_pose": rng.normal(size=45).tolist(),
        "camera": [900.0, 320.0, 180.0],
        "quality": 1.0,
        "keep": True,
    }


def write_parquet(files: list[Path], folder: Path, per_shard: int = 500) -> list[Path]:
    """Shards as `pack` writes them."""
    f32, rng = pa.float32(), np.random.default_rng(1)
    shapes = {"box": (4,), "keypoints": (21, 3), "joints_2d": (21, 2), "joints_3d": (21, 3), "betas": (10,)}
    shapes |= {"global_orient": (3,), "hand_pose": (45,), "camera": (3,)}
    fields = [pa.field(name, _listed(f32, shape), nullable=False) for name, shape in shapes.items()]
    fields += [
        pa.field("side", pa.int8(), nullable=False),
        pa.field("quality", f32, nullable=False),
        pa.field("keep", pa.bool_(), nullable=False),
    ]
    hands = pa.list_(pa.field("element", pa.struct(fields), nullable=False))
    columns = [pa.field("hands", hands, nullable=False), pa.field("image", pa.binary(), nullable=False)]
    schema = pa.schema(columns, {"schema_version": str(SCHEMA_VERSION), "fingerprint": f"benchmark {len(files)}"})
    folder.mkdir(parents=True, exist_ok=True)
    paths = []
    for start in range(0, len(files), per_shard):
        part = files[start : start + per_shard]
        labels = [[hand(rng) for _ in range(rng.integers(1, 4))] for _ in part]
        table = pa.table([pa.array(labels, hands), pa.array([path.read_bytes() for path in part], pa.binary())], schema=schema)
        paths.append(folder / f"train-{start:06d}.parquet")
        pq.write_table(
            table,
            paths[-1],
            row_group_size=128,
            compression={"image": "none"},
            use_dictionary=False,
            column_encoding={"image": "PLAIN"},
            write_page_checksum=True,
        )
    return paths


def _listed(kind: pa.DataType, shape: tuple[int, ...]) -> pa.DataType:
    for side in reversed(shape):
        kind = pa.list_(kind, side)
    return kind
