"""Labelled images as shards of frames: a group stands for a video, an image for a frame of it. Run again, it goes on where it stopped.

A shard is labelled and written whole; one whose images, labels, teachers and settings are the same as before is left as it lies.
"""

import hashlib
import json
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from jaxtyping import UInt8
from rich.console import Console
from rich.progress import track

from fitting.files import sha256_of
from hands.images import decoded
from pipeline.dataset.index import write_index
from pipeline.engine.files.shard import write_shard
from pipeline.engine.store import Store
from pipeline.evaluate.annotators import finders_and_fusion
from pipeline.images.formats import LabelledImage
from pipeline.images.labelling import Taught, Teach, Trust, teacher
from stages.digest import UNREADABLE
from stages.pack import Pack
from stages.shards import HAND, HAND_COLUMNS, NO_CAMERA, Shards, unit_hash
from stages.stage import Stage

STAGE, VERSION = "import-images", 1
"""Name and version of what makes rows of images, in the recipe of a shard."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ImageShards:
    """How images become rows."""

    images_a_shard: int = 128
    """About."""
    trust: Trust = field(default_factory=Trust)
    pack: Pack = field(default_factory=lambda: Pack(max_side=640))
    """How rows are stored."""

    def __post_init__(self) -> None:
        if self.images_a_shard < 1:
            raise ValueError(f"import_images.images_a_shard must be at least 1, got {self.images_a_shard}")


def write_image_shards(
    images: Sequence[LabelledImage], out: Path, stages: Sequence[Stage], settings: ImageShards, console: Console, *, leave: bool = False
) -> int:
    """Write the shards of `images` that are missing, by the hands that a recipe's `stages` see; the number of rows written.

    An image that cannot be read, or is of another size than its labels say, is named and left out; of the splits of `images`, shards of
    images that are no more are removed with `leave`. Raises ValueError without it: a disk may be half mounted; and for a group that an
    earlier import put into another split, which stays.
    """
    store, teach, num_rows = Store(out), None, 0
    dealt, members = _dealt(images, settings.images_a_shard), _members(stages)
    with store.lock():
        _refuse_loss(images, store, leave=leave)
        _refuse_torn_groups(images, store)
        for name in sorted(dealt):
            recipe = _recipe(dealt[name], members, settings)
            if (store.made_by(*name.split("/")) or {}).get("fingerprint") == recipe["fingerprint"]:
                continue
            teach = teach or teacher(stages, settings.trust)
            shown = track(dealt[name], name, console=console, transient=True) if console.is_terminal else dealt[name]
            with store.aside(store.root / f"{name}.parquet") as temporary:
                rows = write_shard(settings.pack, _batches(shown, teach, settings.pack, console), temporary, recipe)
            num_rows += rows
            console.print(f"{name}: {rows} images", markup=False)
        splits = {name.partition("/")[0] for name in dealt}
        for path in _written_here(store):
            if path.parent.name in splits and f"{path.parent.name}/{path.stem}" not in dealt:
                path.unlink()
        write_index(store.root, _written_here(store))
    return num_rows


def _dealt(images: Sequence[LabelledImage], images_a_shard: int) -> dict[str, list[LabelledImage]]:
    """Images by shard, of each split by a hash of their names: a split holds whole groups, a shard need not."""
    count = {split: max(1, round(number / images_a_shard)) for split, number in Counter(image.split for image in images).items()}
    dealt: dict[str, list[LabelledImage]] = {}
    for image in images:
        number = int(unit_hash(f"images {image.name}") * count[image.split])
        dealt.setdefault(f"{image.split}/{image.split}-{number:05d}-of-{count[image.split]:05d}", []).append(image)
    return dealt


def _written_here(store: Store) -> list[Path]:
    """Shards of the folder that an import wrote; what somebody else put there is neither listed nor removed."""
    return [path for path in store.root.glob("*/*.parquet") if (store.made_by(path.parent.name, path.stem) or {}).get("stage") == STAGE]


def num_left_out(images: Sequence[LabelledImage], out: Path) -> int:
    """How many of the images have no row in the shards of a folder: unreadable, or of another size than their labels say."""
    splits = {image.split for image in images}
    return len(images) - sum(pq.read_metadata(path).num_rows for path in _written_here(Store(out)) if path.parent.name in splits)


def _refuse_loss(images: Sequence[LabelledImage], store: Store, *, leave: bool) -> None:
    """Raise ValueError that counts the images of an earlier import which would leave the shards."""
    here, splits = {image.name for image in images}, {image.split for image in images}
    leaving: set[str] = set()
    for path in [] if leave else _written_here(store):
        if path.parent.name in splits:
            leaving |= _column(path, "sample") - here
    if leaving:
        raise ValueError(
            f"{len(leaving):,} images of {store.root} are not among those named, the first {min(leaving)}: name all of them, or let those "
            "go with --leave"
        )


def _refuse_torn_groups(images: Sequence[LabelledImage], store: Store) -> None:
    """Raise ValueError where a group of the images lies in a split of an earlier import that this one does not write anew."""
    here = {image.group: image.split for image in images}
    for path in _written_here(store):
        split = path.parent.name
        if split in here.values():
            continue
        torn = here.keys() & _column(path, "video")
        if torn:
            group = min(torn)
            raise ValueError(
                f"group {group} lies in {here[group]} now and in {store.root / split} by an earlier import: import both splits at once, "
                f"or remove {store.root / split}"
            )


def _column(path: Path, name: str) -> set[str]:
    """Values of one column of a shard; none where the shard is damaged."""
    try:
        return {*pq.read_table(path, columns=[name])[name].to_pylist()}
    except UNREADABLE:
        return set()


def _members(stages: Sequence[Stage]) -> list[Any]:
    """Everything that decides what the teachers see."""
    finders, fuse = finders_and_fusion(stages)
    return [[stage.name, stage.detector, stage.version, asdict(stage), dict(stage.weights)] for stage in [*finders, fuse]]  # type: ignore[call-overload]


def _recipe(images: Sequence[LabelledImage], members: Sequence[Any], settings: ImageShards) -> Mapping[str, Any]:
    """All that a shard is made by: the images' own bytes, what people drew, who else looked, and how."""
    facts = [
        [
            i.name,
            i.group,
            i.box.tolist(),
            i.side.tolist(),
            i.ignore.tolist(),
            i.labelled,
            i.exhaustive,
            dict(i.about),
            _sha256(i.path),
            *_marked(i),
        ]
        for i in images
    ]
    told = {"stage": STAGE, "version": VERSION, "settings": asdict(settings), "members": members}
    whole = hashlib.sha256(json.dumps([told, facts], sort_keys=True, default=str).encode()).hexdigest()
    return told | {"num_images": len(images), "fingerprint": whole}


def _sha256(path: Path) -> str:
    return sha256_of(path) if path.is_file() else ""


def _marked(image: LabelledImage) -> list[Any]:
    """Keypoints that people marked, where they marked any: shards of images without such are as they were."""
    if image.keypoints is None or not np.isfinite(image.keypoints).any():
        return []
    return [np.nan_to_num(image.keypoints, nan=-1).tolist()]


def _batches(images: Iterable[LabelledImage], teach: Teach, pack: Pack, console: Console) -> Iterator[pa.RecordBatch]:
    import cv2
    import simplejpeg

    def encode(image: UInt8[np.ndarray, "height width 3"]) -> bytes:
        return simplejpeg.encode_jpeg(image, quality=pack.jpeg_quality, colorspace="RGB", colorsubsampling="420")

    rows: list[dict[str, Any]] = []
    for number, label in enumerate(images):
        data = label.path.read_bytes() if label.path.is_file() else b""
        image = decoded(data, cv2.IMREAD_COLOR_RGB | cv2.IMREAD_IGNORE_ORIENTATION)
        if image is None:
            console.print(f"{label.path} is no image, too large, or not there: left out", style="yellow", markup=False)
            continue
        size = (image.shape[1], image.shape[0])
        if label.size not in (None, size):
            console.print(
                f"{label.path} is {_pixels(size)} as it is stored, its labels are of {_pixels(label.size)}: left out",
                style="yellow",
                markup=False,
            )
            continue
        rows.append(_row(label, number, data, image, teach(label, image), encode, pack.max_side))
        if len(rows) == pack.row_group_size:
            yield _batch(rows)
            rows = []
    if rows:
        yield _batch(rows)


def _pixels(size: tuple[float, float]) -> str:
    return f"{size[0]:g}x{size[1]:g}"


def _row(
    label: LabelledImage,
    number: int,
    data: bytes,
    image: UInt8[np.ndarray, "height width 3"],
    taught: Taught,
    encode: Callable[[UInt8[np.ndarray, "height width 3"]], bytes],
    max_side: int,
) -> dict[str, Any]:
    import cv2

    longest = max(image.shape[:2])
    scale = min(1.0, max_side / longest) if max_side else 1.0
    if scale < 1 or not is_plain_jpeg(data):
        wide, high = (max(1, round(side * scale)) for side in (image.shape[1], image.shape[0]))
        image = cv2.resize(image, (wide, high), interpolation=cv2.INTER_AREA)
        stored = encode(np.ascontiguousarray(image))
    else:
        stored = data
    about = dict(label.about)
    tier = f", tier {about['tier']}" if about.get("tier") else ""
    return {
        "sample": label.name,
        "video": label.group,
        "clip": label.group,
        "frame": number,
        "time_s": float(number),
        "width": image.shape[1],
        "height": image.shape[0],
        "scale": scale,
        "source": about.get("origin", ""),
        "title": label.name,
        "channel": about.get("source", "") + tier,
        "licence": about.get("licence", ""),
        "video_sha256": hashlib.sha256(data).hexdigest(),
        "extra": "",
        **NO_CAMERA,
        "hands": _hands(label, number, image, taught, scale),
        "ignore_boxes": (taught.ignore * scale).tolist(),
        "image": stored,
    }


def is_plain_jpeg(data: bytes) -> bool:
    """Whether a file's bytes are a JPEG that every program shows alike, whatever its name: no CMYK, and no EXIF, which may say that it
    lies on its side (boxes are in pixels as stored)."""
    import simplejpeg

    try:
        kind = simplejpeg.decode_jpeg_header(data)[2]
    except ValueError:
        return False
    return kind in ("YCbCr", "Gray") and b"Exif\0\0" not in data[: 1 << 16]


def _hands(
    label: LabelledImage, number: int, image: UInt8[np.ndarray, "height width 3"], taught: Taught, scale: float
) -> list[dict[str, Any]]:
    """The structs of an image's hands; what only a fit would know is unknown."""
    found = []
    for row in range(len(taught.box)):
        known: dict[str, Any] = {
            "hand": row,
            "box": (taught.box[row] * scale).tolist(),
            "score": float(taught.score[row]),
            "side": int(taught.side[row]),
            "keypoints": (taught.keypoints[row] * [scale, scale, 1]).tolist(),
            "sources": taught.sources[row],
            "keep": True,
            "quality": float(taught.score[row]),
        }
        found.append({name: known.get(name, _unknown(table.schema().field(column).type)) for name, (table, column) in HAND_COLUMNS.items()})
    return found


def _unknown(kind: pa.DataType) -> Any:
    """NaN of numbers, -1 of counts, nothing of texts and lists, in the shape of a column."""
    if pa.types.is_fixed_size_list(kind):
        return [_unknown(kind.value_type)] * kind.list_size
    if pa.types.is_list(kind):
        return []
    if pa.types.is_string(kind):
        return ""
    if pa.types.is_boolean(kind):
        return False
    return float("nan") if pa.types.is_floating(kind) else -1


def _batch(rows: Sequence[Mapping[str, Any]]) -> pa.RecordBatch:
    schema = Shards.schema()
    columns = [
        pa.array(
            [row[column.name] for row in rows],
            pa.list_(pa.field("element", HAND, nullable=False)) if column.name == "hands" else column.type,
        )
        for column in schema
    ]
    return pa.RecordBatch.from_arrays(columns, schema=schema)
