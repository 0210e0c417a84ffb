"""Shards as a stream of frames with the hands that a filter takes: what every format is written from, a row group in memory.

Frame of reference: that of `stages.shards`: pixels of the stored image, boxes xyxy and never clipped, NaN for what is unknown.
"""

import hashlib
import json
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from jaxtyping import Bool, Float32, Float64, Int64, UInt8

from fitting.files import below
from pipeline.dataset.where import ALL, Where, columns_of, flat, free_columns, matching, read_where
from pipeline.engine.durable import have_rows
from pipeline.engine.store import Store
from stages.digest import UNREADABLE, CorruptFileError
from stages.errors import UserError
from stages.shards import HAND, HAND_COLUMNS, NO_CAMERA, SPLITS, Shards
from stages.tables import LEFT, RIGHT, to_numpy

ABOUT = ("source", "title", "channel", "licence", "video_sha256")
"""Columns of a frame that say whose it is."""
SIDES: Mapping[int, str] = {LEFT: "left", RIGHT: "right"}
"""Names of the sides; a hand without one is 'unknown'."""


@dataclass(frozen=True, eq=False, slots=True, kw_only=True)
class Frame:
    """One frame with the hands that were asked for."""

    split: str
    sample: str
    video: str
    clip: str
    frame: int
    time_s: float
    width: int
    height: int
    scale: float
    view: int
    """Of a camera that bends straight lines, which view of the frame the image is; 0 of a whole frame."""
    about: Mapping[str, str]
    """`ABOUT`: source, title, channel, licence, video_sha256."""
    extra: Mapping[str, Any]
    """Free columns of the list of videos."""
    world_from_camera: Float64[np.ndarray, "3 4"]
    """Rotation and place of the image's camera, metres; NaN where nobody says them."""
    hands: Mapping[str, np.ndarray]
    """Columns of the hands, by the names of `stages.shards.HAND`."""
    ignore: Float32[np.ndarray, "m 4"]
    """Hands that were dropped, and those that the filter does not take: neither hand nor background."""
    image: bytes
    """JPEG; empty where it was not asked for."""

    def __len__(self) -> int:
        return len(self.hands["side"])

    def rgb(self) -> UInt8[np.ndarray, "h w 3"]:
        """The image."""
        import simplejpeg

        return np.asarray(simplejpeg.decode_jpeg(self.image, "RGB"))

    @property
    def is_view(self) -> bool:
        """Whether the image is one of several views of its frame."""
        return self.sample == f"{self.video}/{self.frame}/{self.view}"

    @property
    def name(self) -> str:
        """Path of its image, without an ending and its own among all: the video, then the frame's number, of a view that of the view too;
        of an image that was no film's its own."""
        if self.is_view:
            return f"{self.video}/{self.frame:08d}-{self.view:02d}"
        if self.sample == f"{self.video}/{self.frame}":
            return f"{self.video}/{self.frame:08d}"
        return name_of_image(self.sample)

    def about_it(self) -> dict[str, Any]:
        """All that is known of it but its hands and its image, as plain values."""
        own = {"sample": self.sample, "video": self.video, "clip": self.clip, "frame": self.frame, "time_s": self.time_s}
        pose = {"world_from_camera": plain(self.world_from_camera)} if np.isfinite(self.world_from_camera).all() else {}
        views = {"view": self.view} if self.is_view else {}
        return own | {"split": self.split, "scale": self.scale, **self.about, "extra": dict(self.extra)} | views | pose


def name_of_image(sample: str) -> str:
    """Path of an image that was no film's, without a point in its name: `a/b.jpg` is `a/b_jpg`. A name that another one could become too,
    such as `a/b.c.jpg` and `a/b_c.jpg`, ends in a part of its hash."""
    folder, slash, name = sample.rpartition("/")
    plain = name.replace(".", "_")
    if re.fullmatch(rf"[^.]*\.{_ENDING}", name, re.IGNORECASE) or ("." not in name and not re.search(rf"_{_ENDING}$", name, re.IGNORECASE)):
        return f"{folder}{slash}{plain}"
    return f"{folder}{slash}{plain}-{hashlib.sha256(sample.encode()).hexdigest()[:8]}"


_ENDING = r"(jpe?g|png|webp|bmp|tiff?)"


@dataclass(eq=False, slots=True, kw_only=True)
class Source:
    """The shards of a folder and the hands wanted of them."""

    folder: Path
    shards: Sequence[tuple[Path, str, str]]
    """File, split and fingerprint of each."""
    where: Where
    filter: str
    """As it was written."""
    free: Mapping[str, pa.DataType]
    num_rows: int
    hand_model: str
    pose_prior: str
    on_rows: Callable[[int], None] = lambda _: None
    """Told of rows as they have been read."""
    videos: dict[str, dict[str, Any]] = field(default_factory=dict)
    """Of each video that was read: where it is from, and how many frames and hands were taken of it."""

    @property
    def splits(self) -> list[str]:
        """Those that there are, in their order."""
        return [split for split in SPLITS if any(split == of for _, of, _ in self.shards)]

    def frames(self, split: str | None = None, *, images: bool = True) -> Iterator[Frame]:
        """Frames in the order of the shards, of all splits or one. Those of which the filter takes no hand are left out; without a
        filter frames on which no hand was found stay, as backgrounds."""
        for path, of, _ in self.shards:
            if split in (None, of):
                for group in self.groups(path, of, images=images):
                    yield from self._of_group(group, of)

    def groups(self, path: Path, split: str, *, images: bool = True) -> Iterator["Group"]:
        """The row groups of one shard, with the hands that are taken."""
        with _damage_named(path):
            file = pq.ParquetFile(path, memory_map=True, page_checksum_verification=True)
            names = [name for name in Shards.schema().names if name in file.schema_arrow.names and (images or name != "image")]
        for number in range(file.num_row_groups):
            with _damage_named(path):
                group = self._group(file.read_row_group(number, columns=names), split)
                self._count(group, split)
            yield group
            self.on_rows(len(group.rows))

    def _group(self, rows: pa.Table, split: str) -> "Group":
        for name in ("sample", "video", "clip"):  # files are named after them
            for told in pc.unique(rows.column(name)).to_pylist():
                below(self.folder, told)
        for name, value in {"extra": "", **NO_CAMERA}.items():  # what shards of an earlier version lack
            if name not in rows.column_names:
                rows = rows.append_column(name, pa.array([value] * len(rows), Shards.schema().field(name).type))
        lists = rows.column("hands").combine_chunks()
        hands = lists.flatten()
        columns = hand_columns(hands)
        kept = columns["keep"].astype(bool)
        taken = kept if self.where is ALL else kept & matching(self._asked(rows, split), self.where)
        end = np.cumsum(lists.value_lengths().to_numpy())
        return Group(rows=rows, hands=hands, columns=columns, kept=kept, taken=taken, end=end, filtered=self.where is not ALL)

    def _of_group(self, group: "Group", split: str) -> Iterator[Frame]:
        values = {name: group.rows.column(name).to_pylist() for name in group.rows.column_names if name not in ("hands", "image")}
        data = group.rows.column("image") if "image" in group.rows.column_names else None
        poses = values["world_from_camera"]
        extras = {text: json.loads(text) if text else {} for text in set(values["extra"])}
        for row, chosen, ignore in group.frames():
            frame = Frame(
                split=split,
                **{name: values[name][row] for name in ("sample", "video", "clip", "frame", "time_s", "width", "height", "scale", "view")},
                about={name: values[name][row] for name in ABOUT},
                extra=extras[values["extra"][row]],
                world_from_camera=np.array(poses[row], np.float64),
                hands={name: column[chosen] for name, column in group.columns.items()},
                ignore=np.concatenate([np.array(values["ignore_boxes"][row], np.float32).reshape(-1, 4), ignore]),
                image=data[row].as_py() if data is not None else b"",
            )
            yield frame

    def _asked(self, rows: pa.Table, split: str) -> pa.Table:
        """The hands as a filter sees them, with every free column of any shard."""
        table = flat(rows, split)
        for name, kind in self.free.items():
            if name not in table.column_names:
                table = table.append_column(name, pa.nulls(len(table), kind))
        return table

    def _count(self, group: "Group", split: str) -> None:
        """Note the frames that are taken, and whose they are."""
        told = group.rows.select(["video", "extra", *ABOUT]).to_pylist()
        for row, chosen, _ in group.frames():
            about = told[row]
            new = {"split": split, "frames": 0, "hands": 0, **{name: about[name] for name in ABOUT}}
            of = self.videos.setdefault(about["video"], new | {"extra": json.loads(about["extra"] or "{}")})
            of["frames"] += 1
            of["hands"] += len(chosen)


@dataclass(frozen=True, eq=False, slots=True, kw_only=True)
class Group:
    """A row group of a shard and the hands that are taken of it."""

    rows: pa.Table
    hands: pa.StructArray
    columns: Mapping[str, np.ndarray]
    kept: Bool[np.ndarray, "n"]
    """By the review."""
    taken: Bool[np.ndarray, "n"]
    """And by the filter."""
    end: Int64[np.ndarray, "rows"]
    """Of each row the hand after its last."""
    filtered: bool

    def frames(self) -> Iterator[tuple[int, Int64[np.ndarray, "k"], Float32[np.ndarray, "m 4"]]]:
        """Row, hands taken, and boxes of those that are kept and not taken; under a filter rows with a hand that is taken alone."""
        start = 0
        for row, end in enumerate(self.end.tolist()):
            of = slice(start, end)
            chosen = np.flatnonzero(self.taken[of]) + start
            others = np.asarray(self.columns["box"][of][self.kept[of] & ~self.taken[of]])
            start = end
            if len(chosen) or not self.filtered:
                yield row, chosen, others


def open_source(folder: Path, where: str = "") -> Source:
    """The shards of a data folder, or of a folder of shards.

    Raises UserError where there are none, for a shard that its index names and that is not there, and for a filter that cannot be read;
    CorruptFileError for an index or a shard that cannot be read. Reading checks its pages; `check_shard` all of its bytes.
    """
    shards = folder / "shards" if (folder / "shards").is_dir() else folder
    if not folder.is_dir():
        raise UserError(f"there is no folder {folder}: name a data folder, as `whim run` makes, or one of shards")
    index = Store(shards).read_json("index.json") or {}
    listed_paths = [entry["path"] for entry in Store(shards).read_list("index.json", "shards", path=str)]
    paths = [below(shards, path) for path in listed_paths] or sorted(shards.glob("*/*.parquet"))
    if not paths:
        store = Store(folder)
        raise UserError(f"{store.name} holds no shards: let `whim run --data {store.word()}` come to its end, which packs them")
    listed, free, num_rows = [], dict[str, pa.DataType](), 0
    for path in paths:
        if not path.is_file():
            raise UserError(f"shard {path} is missing, index.json lists it: `whim run` packs it again")
        with _damage_named(path):
            have_rows(path)
            file = pq.ParquetFile(path, memory_map=True)
            facts = {key.decode(): value.decode() for key, value in (file.schema_arrow.metadata or {}).items()}
            split = facts.get("split", path.parent.name)
            if split not in SPLITS:
                raise ValueError(f"it is of a split {split[:40]!r}, and splits are {', '.join(SPLITS)}")
            listed.append((path, split, facts.get("fingerprint", "")))
            num_rows += file.metadata.num_rows
            if "extra" in file.schema_arrow.names:
                texts = pc.unique(file.read(columns=["extra"])["extra"].combine_chunks()).to_pylist()
                free |= {name: column.type for name, column in free_columns(texts).items()}
    about = {"hand_model": index.get("hand_model", ""), "pose_prior": index.get("pose_prior", "")}
    asked = read_where(where, _columns(listed[0][0], free)) if where.strip() else ALL
    return Source(folder=shards, shards=listed, where=asked, filter=where.strip(), free=free, num_rows=num_rows, **about)


@contextmanager
def _damage_named(path: Path) -> Iterator[None]:
    """Name the shard in what its reader says of damage."""
    try:
        yield
    except (FileNotFoundError, UserError):
        raise
    except UNREADABLE as error:
        raise CorruptFileError(path, str(error).splitlines()[0] if str(error) else type(error).__name__) from error


def _columns(path: Path, free: Mapping[str, pa.DataType]) -> Any:
    """What a filter may ask for."""
    file = pq.ParquetFile(path)
    names = [name for name in file.schema_arrow.names if name != "image"]
    return columns_of(flat(file.schema_arrow.empty_table().select(names)).schema) | columns_of(pa.schema(list(free.items())))


def hand_columns(hands: pa.StructArray) -> dict[str, np.ndarray]:
    """Columns of hands as arrays; what shards of an earlier version lack says what it said then."""
    columns = {}
    for wanted in HAND:
        if hands.type.get_field_index(wanted.name) >= 0:
            columns[wanted.name] = to_numpy(pa.chunked_array([hands.field(wanted.name)]))
        else:
            table, name = HAND_COLUMNS[wanted.name]
            before = table.young_columns().get(name)
            empty = [np.nan] if pa.types.is_floating(wanted.type) else [0]
            columns[wanted.name] = np.array([before] if before is not None else empty).repeat(len(hands), axis=0)
    return columns


def side_name(side: int) -> str:
    """left, right, or unknown."""
    return SIDES.get(int(side), "unknown")


def seen(keypoints: Float32[np.ndarray, "n 21 3"]) -> Bool[np.ndarray, "n 21"]:
    """Which keypoints are known."""
    return np.asarray(np.isfinite(keypoints[..., :2]).all(-1))


def plain(values: np.ndarray) -> Any:
    """An array as lists for JSON: float32 by nine digits, which give the same float32 again; None for what is unknown."""
    if values.dtype.kind != "f":
        return values.tolist()
    wide = values.astype(np.float64)
    with np.errstate(divide="ignore", invalid="ignore"):
        digits = np.nan_to_num(8 - np.floor(np.log10(np.abs(wide))), nan=0, posinf=0, neginf=0).clip(-300, 300)
    unit = 10.0**digits
    short = np.round(wide * unit) / unit
    known = np.isfinite(short)
    found: np.ndarray = short if known.all() else np.where(known, short, np.array(None))
    return found.tolist()


def json_of(value: Any) -> str:
    """A line of JSON, the same for the same value."""
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"), allow_nan=False)
