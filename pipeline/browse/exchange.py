"""Verdicts as files of other tools: CSV, COCO annotations, Label Studio tasks; each is read back as it was.

CSV holds every verdict, the undone ones too; COCO and Label Studio hold what stands, a box each: boxes that somebody drew there come back
as hands that were added. Boxes in pixels of the full upright frame; Label Studio's in hundredths of its sides.
"""

import csv
import io
import json
import math
import time
import uuid
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from pipeline.browse.decisions import refuse_beyond
from pipeline.browse.images import looked_at
from pipeline.dataset.cameras import cameras_of_clip
from pipeline.engine.store import Store
from pipeline.engine.verdicts import change_verdicts, read_verdicts, videos_with_verdicts
from stages.errors import UserError
from stages.tables import LEFT, RIGHT, Clips, Verdicts, Videos
from stages.verdicts import What, is_box, standing

Row = dict[str, Any]
_TEXTS = ("video", "fingerprint", "decision", "who", "what", "undoes", "audit")
_WHOLE = ("frame", "hand", "side", "to_side")
_REAL = ("time_s", "when_s")
_BOXES = ("box", "to_box")
_FAULTS = (KeyError, TypeError, ValueError, AttributeError, IndexError)
"""Exceptions that reading a malformed row raises."""
_CATEGORIES = {LEFT: 1, RIGHT: 2, -1: 3}
_NAMES = {1: "left hand", 2: "right hand", 3: "hand"}


def export_verdicts(store: Store, kind: str, out: Path) -> int:
    """Write a data folder's verdicts as csv, coco or labelstudio; how many. Raises CorruptFileError."""
    write = {"csv": _as_csv, "coco": _as_coco, "labelstudio": _as_label_studio}[kind]
    tables = [read_verdicts(store, video) for video in sorted(videos_with_verdicts(store))]
    rows = [row for table in tables for row in _rows(table if kind == "csv" else standing(table))]
    text = write(store, rows)
    out.parent.mkdir(parents=True, exist_ok=True)
    with Store(out.parent).aside(out) as temporary:
        temporary.write_text(text, "utf-8")
    return len(rows)


def import_verdicts(store: Store, source: Path, who: str) -> tuple[int, int]:
    """Take up the verdicts of a file that `export_verdicts` or another tool wrote; how many are new, how many were known.

    Nothing is taken up of a file with faults. Raises UserError that names the row and what is wrong with it.
    """
    rows = [_checked(store, row, f"{source}, {place}") for place, row in _read(source, who)]
    new, known = 0, 0
    by_video: dict[str, list[Row]] = defaultdict(list)
    for row in rows:
        by_video[row["video"]].append(row)
    for video, of_video in by_video.items():
        fresh = _unknown(of_video, read_verdicts(store, video))
        new, known = new + len(fresh), known + len(of_video) - len(fresh)
        if fresh:
            change_verdicts(store, video, _joined(of_video))
    return new, known


def _unknown(rows: Sequence[Row], known: Verdicts) -> list[Row]:
    """The rows that are not known, each once."""
    here = {_identity(row) for row in _rows(known)}
    return list({_identity(row): row for row in rows if _identity(row) not in here}.values())


def _joined(rows: Sequence[Row]) -> Callable[[Verdicts], Verdicts]:
    """Known verdicts with new ones among them, by time. Those known stay in their order, and so do the new ones: a later one outdoes an
    earlier one, and a clock may have been set back between them."""

    def join(known: Verdicts) -> Verdicts:
        parts = [known, _table(_unknown(rows, known))]
        when_s = np.concatenate([np.maximum.accumulate(part.when_s) for part in parts])
        return Verdicts.concat(parts).take(np.argsort(when_s, kind="stable"))

    return join


def _rows(verdicts: Verdicts) -> Iterator[Row]:
    """A mapping a verdict; what is unknown (NaN) is None."""
    for i in range(len(verdicts)):
        row: Row = {name: str(getattr(verdicts, name)[i]) for name in _TEXTS}
        row |= {name: int(getattr(verdicts, name)[i]) for name in _WHOLE}
        row |= {name: _known(float(getattr(verdicts, name)[i])) for name in _REAL}
        yield row | {name: [_known(float(v)) for v in getattr(verdicts, name)[i]] for name in _BOXES}


def _table(rows: Sequence[Row]) -> Verdicts:
    columns = {}
    for name, empty in vars(Verdicts.empty()).items():
        values = [row[name] for row in rows]
        dtype = object if empty.dtype == object else np.float64 if empty.dtype.kind == "f" else empty.dtype
        columns[name] = np.array(values, dtype).astype(empty.dtype).reshape(len(rows), *empty.shape[1:])
    return Verdicts(**columns)


def _known(value: float) -> float | None:
    return value if math.isfinite(value) else None


def _identity(row: Row) -> tuple[Any, ...]:
    """What makes a verdict the same one: boxes drawn elsewhere have no id of ours, and are the same where they lie the same."""
    place = (row["video"], row["frame"], *row["box"])
    return ("drawn", *place, row["to_side"]) if row["what"] == What.ADD else (row["decision"], *place, row["hand"])


def _checked(store: Store, row: Row, place: str) -> Row:
    """A row that says something. Raises UserError that names the place."""
    if row["what"] not in set(What):
        raise UserError(f"{place}: what must be one of {', '.join(What)}, got {str(row['what'])[:40]!r}")
    if not store.has("clips", Path(row["video"]).name) or Path(row["video"]).name != row["video"]:
        raise UserError(f"{place}: the data folder has no video {str(row['video'])[:80]!r}")
    boxes = [row["box"]] + ([row["to_box"]] if row["what"] in (What.BOX, What.ADD) else [])
    if not all(map(is_box, boxes)):
        raise UserError(f"{place}: a box is x0, y0, x1, y1 in pixels, with x0 < x1 and y0 < y1")
    if row["what"] in (What.SIDE, What.ADD) and row["to_side"] not in (LEFT, RIGHT):
        raise UserError(f"{place}: a side is 0 (left) or 1 (right)")
    if not row["decision"] or row["when_s"] is None or not math.isfinite(row["when_s"]):
        raise UserError(f"{place}: a verdict has an id (decision) and a time (when_s)")
    bounds = {"frame": 1 << 62, "hand": 1 << 15, "side": 128, "to_side": 128}
    if any(not -bound <= row[name] < bound for name, bound in bounds.items()):
        raise UserError(f"{place}: {', '.join(bounds)} are whole numbers of a frame and a hand")
    if row["what"] in (What.BOX, What.ADD):
        _refuse_nowhere(store, row, place)
    return (
        row
        | {name: [math.nan if v is None else v for v in row[name]] for name in _BOXES}
        | {"time_s": math.nan if row["time_s"] is None else row["time_s"]}
    )


def _refuse_nowhere(store: Store, row: Row, place: str) -> None:
    """Raise UserError that names the place, where a box was drawn on no frame of its video, on one at which nobody looks, or shows
    nothing of the image."""
    clip, of_video = _clip_of(store, row["video"], row["frame"])
    if not len(clip):
        raise UserError(f"{place}: {row['video']} has no frame {row['frame']}")
    cameras = cameras_of_clip(store, of_video, clip)
    if row["what"] == What.ADD and len(cameras) > 1:
        raise UserError(f"{place}: hands are added to whole images: {row['video']} is looked at through views of a bent camera")
    try:
        refuse_beyond(row["to_box"], int(cameras.width[0]), int(cameras.height[0]))
    except UserError as error:
        raise UserError(f"{place}: {error}") from error
    path = store.root / str(of_video.path[0])
    if row["what"] == What.ADD and path.is_file() and row["frame"] not in (frames := dict(looked_at(str(path), clip))):
        nearest = min(frames, key=lambda frame: abs(frame - row["frame"]), default=None)
        raise UserError(f"{place}: frame {row['frame']} of {row['video']} is not among those that are looked at; the nearest is {nearest}")


def _read(source: Path, who: str) -> Iterator[tuple[str, Row]]:
    """Rows of a file with where they stand, by what the file is. Raises UserError."""
    try:
        text = source.read_text("utf-8-sig")
    except UnicodeDecodeError as error:
        raise UserError(f"{source} is no text") from error
    try:
        content = json.loads(text) if text.lstrip()[:1] in ("{", "[") else None
        if isinstance(content, dict):
            yield from _of_coco(content, who)
        elif isinstance(content, list):
            yield from _of_label_studio(content, who)
        else:
            yield from _of_csv(text)
    except (*_FAULTS, RecursionError, csv.Error) as error:
        raise UserError(f"{source} is no CSV, COCO or Label Studio file of verdicts: {type(error).__name__} {error}") from error


@contextmanager
def _placed(place: str) -> Iterator[None]:
    """Say where in the file a row stands that cannot be read."""
    try:
        yield
    except _FAULTS as error:
        lacking = "it lacks " if isinstance(error, KeyError) else ""
        raise ValueError(f"in {place}: {lacking}{error}") from error


def _as_csv(store: Store, rows: Sequence[Row]) -> str:
    corners = {name: [f"{name}_{corner}" for corner in ("x0", "y0", "x1", "y1")] for name in _BOXES}
    names = [*_TEXTS, *_WHOLE, *_REAL, *corners["box"], *corners["to_box"]]
    out = io.StringIO()
    writer = csv.DictWriter(out, names, lineterminator="\n")
    writer.writeheader()
    for row in rows:
        flat = {name: row[name] for name in (*_TEXTS, *_WHOLE, *_REAL)}
        flat |= {column: value for name in _BOXES for column, value in zip(corners[name], row[name], strict=True)}
        writer.writerow({name: "" if value is None else repr(value) if isinstance(value, float) else value for name, value in flat.items()})
    return out.getvalue()


def _of_csv(text: str) -> Iterator[tuple[str, Row]]:
    for number, line in enumerate(csv.DictReader(io.StringIO(text, newline="")), 2):
        with _placed(place := f"line {number}"):
            row: Row = {name: line[name] for name in _TEXTS} | {name: int(line[name]) for name in _WHOLE}
            row |= {name: float(line[name]) if line[name] else None for name in _REAL}
            for name in _BOXES:
                row[name] = [float(line[f"{name}_{c}"]) if line[f"{name}_{c}"] else None for c in ("x0", "y0", "x1", "y1")]
        yield place, row


def _shown(row: Row) -> tuple[list[float], int]:
    """The box and side that a verdict leaves its hand with."""
    box = row["to_box"] if row["to_box"][0] is not None else row["box"]
    return box, row["to_side"] if row["to_side"] in (LEFT, RIGHT) else row["side"]


def _as_coco(store: Store, rows: Sequence[Row]) -> str:
    images: dict[str, Row] = {}
    annotations = []
    for number, row in enumerate(rows, 1):
        name = f"{row['video']}/{row['frame']}"
        width, height = _size(store, row["video"], row["frame"])
        facts = {"video": row["video"], "frame": row["frame"], "time_s": row["time_s"]}
        image = images.setdefault(name, {"id": len(images) + 1, "file_name": name, "width": width, "height": height, **facts})
        (x0, y0, x1, y1), side = _shown(row)
        box = {"bbox": [x0, y0, x1 - x0, y1 - y0], "area": (x1 - x0) * (y1 - y0), "iscrowd": 0}
        annotations.append({"id": number, "image_id": image["id"], "category_id": _CATEGORIES[side], **box, "verdict": row})
    categories = [{"id": number, "name": name, "supercategory": "hand"} for number, name in _NAMES.items()]
    about = {"description": "verdicts of people on hands, by whim verdicts export"}
    return json.dumps({"info": about, "images": list(images.values()), "annotations": annotations, "categories": categories}, indent=1)


def _of_coco(content: Mapping[str, Any], who: str) -> Iterator[tuple[str, Row]]:
    images = {image["id"]: image for image in content["images"]}
    names = {category["id"]: str(category["name"]) for category in content["categories"]}
    for number, one in enumerate(content["annotations"], 1):
        with _placed(place := f"annotation {one.get('id', number)}"):
            if "verdict" in one:
                row = _plain(one["verdict"])
            else:
                x, y, width, height = map(float, one["bbox"])
                drawn = [x, y, x + width, y + height]
                row = _drawn(str(images[one["image_id"]]["file_name"]), drawn, names[one["category_id"]], who)
        yield place, row


def _as_label_studio(store: Store, rows: Sequence[Row]) -> str:
    tasks: dict[str, Row] = {}
    for row in rows:
        width, height = _size(store, row["video"], row["frame"])
        name = f"{row['video']}/{row['frame']}"
        data = {"image": f"{name}.jpg", "video": row["video"], "frame": row["frame"]}
        task = tasks.setdefault(name, {"data": data, "annotations": [{"result": []}]})
        (x0, y0, x1, y1), side = _shown(row)
        value = {"x": 100 * x0 / width, "y": 100 * y0 / height, "width": 100 * (x1 - x0) / width, "height": 100 * (y1 - y0) / height}
        task["annotations"][0]["result"].append(
            {
                "id": uuid.uuid5(uuid.NAMESPACE_OID, repr(_identity(row))).hex[:10],
                "type": "rectanglelabels",
                "from_name": "hand",
                "to_name": "image",
                "original_width": width,
                "original_height": height,
                "value": {**value, "rotation": 0, "rectanglelabels": [_NAMES[_CATEGORIES[side]]]},
                "meta": {"text": [json.dumps(row, sort_keys=True)]},
            }
        )
    return json.dumps(list(tasks.values()), indent=1)


def _of_label_studio(content: Sequence[Mapping[str, Any]], who: str) -> Iterator[tuple[str, Row]]:
    for number, task in enumerate(content, 1):
        name = str(task["data"]["image"]).removesuffix(".jpg")
        for annotation in task["annotations"]:
            for result in annotation["result"]:
                with _placed(place := f"task {number}, region {result.get('id', '')}"):
                    row = _of_region(name, result, who)
                if row is not None:
                    yield place, row


def _of_region(name: str, result: Mapping[str, Any], who: str) -> Row | None:
    """The verdict that a region of Label Studio states, or the hand that it is drawn around; None of a region that is no box."""
    stated = next((text for text in result.get("meta", {}).get("text", []) if text.startswith("{")), None)
    if stated is not None:
        return _plain(json.loads(stated))
    if result["type"] != "rectanglelabels":
        return None
    value, size = result["value"], (result["original_width"], result["original_height"])
    x, y = value["x"] * size[0] / 100, value["y"] * size[1] / 100
    drawn = [x, y, x + value["width"] * size[0] / 100, y + value["height"] * size[1] / 100]
    return _drawn("/".join(name.split("/")[-2:]), drawn, str(value["rectanglelabels"][0]), who)


def _plain(row: Mapping[str, Any]) -> Row:
    """A verdict as a file states it whole."""
    read: Row = {name: str(row[name]) for name in _TEXTS} | {name: int(row[name]) for name in _WHOLE}
    read |= {name: None if row[name] is None else float(row[name]) for name in _REAL}
    return read | {name: [None if v is None else float(v) for v in row[name][:4]] for name in _BOXES}


def _drawn(name: str, box: list[float], label: str, who: str) -> Row:
    """A box that somebody drew in another tool, on `<video>/<frame>`: a hand that is added."""
    video, _, frame = name.rpartition("/")
    side = LEFT if "left" in label.lower() else RIGHT if "right" in label.lower() else -1
    box = np.asarray(box, np.float32).tolist()
    known = {"who": who, "when_s": time.time(), "decision": uuid.uuid4().hex, "fingerprint": "", "undoes": "", "audit": ""}
    place = {"video": video, "frame": int(frame), "time_s": None, "hand": -1}
    return {**known, **place, "what": str(What.ADD), "side": side, "to_side": side, "box": box, "to_box": box}


def _size(store: Store, video: str, frame: int) -> tuple[int, int]:
    """Width and height of a frame, pixels. Raises UserError where the video is not known, and where boxes are those of views of it."""
    try:
        clip, of_video = _clip_of(store, video, frame)
        cameras = cameras_of_clip(store, of_video, clip) if len(clip) else None
        of = of_video if cameras is None else cameras
    except FileNotFoundError as error:
        raise UserError(f"the data folder has no video {video} any more: whim verdicts export --format csv needs none") from error
    if cameras is not None and len(cameras) > 1:
        raise UserError(
            f"hands of {video} were seen through views of a bent camera, which are no frames: whim verdicts export --format csv"
        )
    return int(of.width[0]), int(of.height[0])


def _clip_of(store: Store, video: str, frame: int) -> tuple[Clips, Videos]:
    """The clip that a frame lies in, none where the video has no such frame, and the video. Raises FileNotFoundError without tables."""
    clips, of_video = store.read(Clips, "clips", video), store.read(Videos, "videos", video)
    here = clips.take((clips.first_frame <= frame) & (frame < clips.first_frame + clips.num_frames))
    return here.take(slice(0, 1)), of_video
