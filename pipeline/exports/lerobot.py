"""LeRobot v3.0: `data/`, `meta/` and `videos/` as `lerobot.datasets.LeRobotDataset(repo_id, root=folder)` reads them.

An episode is an unbroken stretch of a clip. A frame's state is that of one left and one right hand, those of its clip that are seen on most
frames; `present` says whether one is there, all else is 0 where it is not. Times are frame numbers over `fps`, the rate of most clips;
`source.time_s` is when the frame truly was. Images of other sizes are fitted into the commonest one, on grey, and all pixels with them.
"""

import json
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from jaxtyping import Float32, UInt8

from pipeline.exports.glb import place
from pipeline.exports.source import Frame, Source, json_of, seen
from stages.tables import HAND_KEYPOINTS, LEFT, RIGHT

CAMERA = "observation.images.camera"
FILES_A_CHUNK, ROWS_A_FILE, BYTES_A_FILE = 1000, 50_000, 200 << 20
RATE_TOLERANCE = 0.25
"""Clips whose rate is farther from that of most are left out, by name."""
GREY = 114
SIDES = {"left": LEFT, "right": RIGHT}
FINGERS = ("index", "middle", "little", "ring", "thumb")
IMAGE_SAMPLES = 200
"""Images that the statistics are taken of."""
PATHS = {
    "data": "data/chunk-{chunk_index:03d}/file-{file_index:03d}.parquet",
    "video": "videos/{video_key}/chunk-{chunk_index:03d}/file-{file_index:03d}.mp4",
}


def _pose_names() -> list[str]:
    return [f"{finger}{joint}_{axis}_rad" for finger in FINGERS for joint in (1, 2, 3) for axis in "xyz"]


HAND: Mapping[str, list[str]] = {
    "present": ["present"],
    "quality": ["quality"],
    "box": ["x1_px", "y1_px", "x2_px", "y2_px"],
    "keypoints": [f"{name}_{axis}" for name in HAND_KEYPOINTS for axis in ("x_px", "y_px", "confidence")],
    "wrist": ["wrist_x_m", "wrist_y_m", "wrist_z_m"],
    "global_orient": ["orient_x_rad", "orient_y_rad", "orient_z_rad"],
    "hand_pose": _pose_names(),
    "betas": [f"shape_{k}" for k in range(10)],
    "joints_3d": [f"{name}_{axis}_m" for name in HAND_KEYPOINTS for axis in "xyz"],
    "camera": ["scale_px_per_m", "wrist_x_px", "wrist_y_px"],
}
"""State of a hand, with names and units: `observation.left_hand.box` and so on. Camera axes: x right, y down, z forward."""
STATE = ("present", "wrist", "global_orient", "hand_pose")
"""What `observation.state` holds of each hand, one after the other: what policies take."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """What a first reading, without images, decides."""

    fps: float
    size: tuple[int, int]  # width and height of all images
    tracks: Mapping[tuple[str, int], int]  # of clip and side the track that is shown
    left_out: frozenset[str]  # clips of another rate


def write(source: Source, folder: Path, options: Mapping[str, object]) -> None:
    """Write data, videos and metadata; a frame is in memory, and the numbers of an episode."""
    plan = planned(source)
    video = not options.get("images")
    with ExitStack() as stack:
        writer = _Writer(folder, plan, video=video)
        stack.callback(writer.close)
        for episode in _episodes(source, plan):
            writer.add(episode)
    _write_meta(folder, source, plan, writer, video=video)


def planned(source: Source) -> Plan:
    """Read everything but the images once."""
    sizes: Counter[tuple[int, int]] = Counter()
    seen_on: defaultdict[tuple[str, int], Counter[int]] = defaultdict(Counter)
    times: defaultdict[str, list[float]] = defaultdict(list)
    for frame in source.frames(images=False):
        sizes[frame.width, frame.height] += 1
        times[frame.clip].append(frame.time_s)
        for side, track in zip(frame.hands["side"].tolist(), frame.hands["track"].tolist(), strict=True):
            seen_on[frame.clip, side][track] += 1
    source.videos.clear()  # they are counted again by the reading that writes
    steps = {clip: float(np.diff(of).min()) for clip, of in times.items() if len(of) > 1}
    rates = Counter[float]()
    for clip, step in steps.items():
        rates[_round(1 / max(step, 1e-3))] += len(times[clip])
    fps = max(rates, key=lambda rate: (rates[rate], rate)) if rates else 1.0
    other = frozenset(clip for clip, step in steps.items() if abs(step * fps - 1) > RATE_TOLERANCE)
    tracks = {key: min(of, key=lambda track: (-of[track], track)) for key, of in seen_on.items()}
    size = max(sizes, key=lambda one: (sizes[one], one)) if sizes else (2, 2)
    return Plan(fps=fps, size=(size[0] - size[0] % 2, size[1] - size[1] % 2), tracks=tracks, left_out=other)


def _round(rate: float) -> float:
    """29.97 of every sixth frame is 5 frames a second: timestamps count frames."""
    return float(round(rate)) if round(rate) and abs(rate / round(rate) - 1) < 0.01 else round(rate, 3)


def _episodes(source: Source, plan: Plan) -> Iterator[Iterator[Frame]]:
    """Frames by episode; each is read to its end before the next is asked for."""
    frames = (frame for frame in source.frames() if frame.clip not in plan.left_out)
    ahead = next(frames, None)

    def stretch() -> Iterator[Frame]:
        nonlocal ahead
        while ahead is not None:
            before = ahead
            yield before
            ahead = next(frames, None)
            if ahead is None or ahead.clip != before.clip or (ahead.time_s - before.time_s) * plan.fps > 1.5:
                return

    while ahead is not None:
        yield stretch()


@dataclass(eq=False, slots=True)
class _Sums:
    """Statistics of a feature, grown by rows."""

    width: int
    count: int = 0
    total: Any = 0.0
    squares: Any = 0.0
    low: Any = np.inf
    high: Any = -np.inf

    def add(self, rows: np.ndarray) -> None:
        rows = rows.reshape(len(rows), -1).astype(np.float64)
        if len(rows):
            self.count += len(rows)
            self.total, self.squares = self.total + rows.sum(0), self.squares + (rows**2).sum(0)
            self.low, self.high = np.minimum(self.low, rows.min(0)), np.maximum(self.high, rows.max(0))

    def told(self) -> dict[str, list[float]]:
        zero = np.zeros(self.width)
        mean = self.total / self.count if self.count else zero
        std = np.sqrt(np.maximum(self.squares / self.count - mean**2, 0)) if self.count else zero
        low, high = (self.low, self.high) if self.count else (zero, zero)
        told = {"min": low, "max": high, "mean": mean, "std": std}
        return {name: np.broadcast_to(value, self.width).tolist() for name, value in told.items()} | {"count": [self.count]}


class _Writer:
    """Files of data and video that grow by an episode."""

    def __init__(self, folder: Path, plan: Plan, *, video: bool) -> None:
        self.folder, self.plan, self.video = folder, plan, video
        self.episodes: list[dict[str, Any]] = []
        self.tasks: dict[str, int] = {}
        self.num_frames = 0
        self.num_others = 0  # hands of others than the two that are shown
        self.data: Any = None
        self.data_number, self.data_rows, self.data_bytes = -1, 0, 0
        self.film: _Film | None = None
        self.film_number = -1
        self.sums = {name: _Sums(len(of["names"])) for name, of in features(plan, video=video).items() if name != CAMERA}
        self.sums[CAMERA] = _Sums(3)

    def add(self, frames: Iterator[Frame]) -> None:
        """One episode."""
        self._open_files()
        rows: list[dict[str, Any]] = []
        first: Frame | None = None
        start_s = self.film.seconds if self.film else 0.0
        for number, frame in enumerate(frames):
            first = first or frame
            rows.append(self._row(frame, number))
        assert first
        task = self.tasks.setdefault(_task(first), len(self.tasks))
        for row in rows:
            row["task_index"] = task
        table = _table(rows, features(self.plan, video=self.video))
        self.data.write_table(table)
        self.data_rows, self.data_bytes = self.data_rows + len(rows), self.data_bytes + table.nbytes
        facts = {
            "episode_index": len(self.episodes),
            "tasks": [_task(first)],
            "length": len(rows),
            "data/chunk_index": self.data_number // FILES_A_CHUNK,
            "data/file_index": self.data_number % FILES_A_CHUNK,
            "dataset_from_index": self.num_frames - len(rows),
            "dataset_to_index": self.num_frames,
            "meta/episodes/chunk_index": 0,
            "meta/episodes/file_index": 0,
            "split": first.split,
            "video": first.video,
            "clip": first.clip,
            **first.about,
            "extra": json_of(dict(first.extra)),
        }
        if self.film:
            facts |= {
                f"videos/{CAMERA}/chunk_index": self.film_number // FILES_A_CHUNK,
                f"videos/{CAMERA}/file_index": self.film_number % FILES_A_CHUNK,
                f"videos/{CAMERA}/from_timestamp": start_s,
                f"videos/{CAMERA}/to_timestamp": self.film.seconds,
            }
        self.episodes.append(facts)

    def _row(self, frame: Frame, number: int) -> dict[str, Any]:
        import simplejpeg

        image = simplejpeg.decode_jpeg(frame.image, "RGB")
        image, scale, shift = fitted(image, self.plan.size)
        row = state(frame, self.plan, scale, shift)
        self.num_others += len(frame) - int(row["observation.left_hand.present"][0] + row["observation.right_hand.present"][0])
        if self.num_frames % max(1, self.num_frames // IMAGE_SAMPLES) == 0:
            self.sums[CAMERA].add(image.reshape(-1, 3)[::97] / 255)
        if self.film:
            self.film.add(image)
        else:
            row[CAMERA] = {"bytes": _png(image), "path": f"{frame.name}.png"}
        row |= {"source.time_s": frame.time_s, "source.frame": frame.frame, "timestamp": number / self.plan.fps, "frame_index": number}
        row |= {"episode_index": len(self.episodes), "index": self.num_frames}
        self.num_frames += 1
        self._sum(row)
        return row

    def _sum(self, row: Mapping[str, Any]) -> None:
        """A hand that is not there does not count."""
        for name, sums in self.sums.items():
            hand = name.rpartition(".")[0]
            present = not hand.endswith("_hand") or name.endswith(".present") or row[f"{hand}.present"][0]
            if name in row and name != CAMERA and present:
                sums.add(np.asarray(row[name], np.float64).reshape(1, -1))

    def _open_files(self) -> None:
        if self.data is None or self.data_rows >= ROWS_A_FILE or self.data_bytes >= BYTES_A_FILE:
            if self.data is not None:
                self.data.close()
            self.data_number, self.data_rows, self.data_bytes = self.data_number + 1, 0, 0
            path = self._path("data", self.data_number)
            self.data = pq.ParquetWriter(path, _schema(features(self.plan, video=self.video)), compression="zstd")
        if self.video and (self.film is None or self.film.path.stat().st_size >= BYTES_A_FILE):
            if self.film:
                self.film.close()
            self.film_number += 1
            self.film = _Film(self._path("video", self.film_number), self.plan)

    def _path(self, what: str, number: int) -> Path:
        chunk, file = divmod(number, FILES_A_CHUNK)
        path = self.folder / PATHS[what].format(chunk_index=chunk, file_index=file, video_key=CAMERA)
        path.parent.mkdir(parents=True, exist_ok=True)
        return path

    def close(self) -> None:
        if self.data is not None:
            self.data.close()
        if self.film:
            self.film.close()


class _Film:
    """An MP4 that grows, H.264, every second frame a key frame, as LeRobot seeks in it."""

    def __init__(self, path: Path, plan: Plan) -> None:
        import av

        self.path, self.fps, self.count = path, plan.fps, 0
        self.container = av.open(str(path), "w")
        self.codec = "libx264" if "libx264" in av.codecs_available else "mpeg4"
        options = {"g": "2", "bf": "0", "crf": "18", "threads": "1"} if self.codec == "libx264" else {"g": "2", "bf": "0", "qscale": "2"}
        self.stream = self.container.add_stream(self.codec, rate=Fraction(plan.fps).limit_denominator(60_000), options=options)
        self.stream.width, self.stream.height = plan.size
        self.stream.pix_fmt = "yuv420p"

    @property
    def seconds(self) -> float:
        """How long it is."""
        return self.count / self.fps

    def add(self, image: UInt8[np.ndarray, "h w 3"]) -> None:
        import av
        import cv2

        planes = cv2.cvtColor(image, cv2.COLOR_RGB2YUV_I420)  # BT.601
        self.container.mux(self.stream.encode(av.VideoFrame.from_ndarray(planes, format="yuv420p")))
        self.count += 1

    def close(self) -> None:
        self.container.mux(self.stream.encode())
        self.container.close()


def fitted(image: UInt8[np.ndarray, "h w 3"], size: tuple[int, int]) -> tuple[UInt8[np.ndarray, "rows columns 3"], float, np.ndarray]:
    """An image of this width and height, with the scale and shift (pixels) that took its points there."""
    height, width = image.shape[:2]
    if (width - width % 2, height - height % 2) == size:
        return np.ascontiguousarray(image[: size[1], : size[0]]), 1.0, np.zeros(2)
    import cv2

    scale = min(size[0] / width, size[1] / height)
    wide, high = max(1, round(width * scale)), max(1, round(height * scale))
    left, top = (size[0] - wide) // 2, (size[1] - high) // 2
    whole = np.full((size[1], size[0], 3), GREY, np.uint8)
    whole[top : top + high, left : left + wide] = cv2.resize(image, (wide, high), interpolation=cv2.INTER_AREA)
    return whole, scale, np.array([left, top], np.float64)


def state(frame: Frame, plan: Plan, scale: float, shift: np.ndarray) -> dict[str, Any]:
    """The two hands of a frame, and the vector of both."""
    row: dict[str, Any] = {}
    vector: list[np.ndarray] = []
    for name, side in SIDES.items():
        track = plan.tracks.get((frame.clip, side))
        of = np.flatnonzero((frame.hands["side"] == side) & (frame.hands["track"] == track))
        hand = _hand(frame, int(of[0]), plan, scale, shift) if len(of) else {key: np.zeros(len(names)) for key, names in HAND.items()}
        row |= {f"observation.{name}_hand.{key}": hand[key].astype(np.float32) for key in HAND}
        vector += [hand[key].astype(np.float32) for key in STATE]
    return row | {"observation.state": np.concatenate(vector)}


def _hand(frame: Frame, row: int, plan: Plan, scale: float, shift: np.ndarray) -> dict[str, Float32[np.ndarray, "k"]]:
    """A hand's numbers in pixels of the stored image; what is unknown is 0."""
    hands = {name: values[row].astype(np.float64) for name, values in frame.hands.items() if values.dtype.kind == "f"}
    points = hands["keypoints"].copy()
    points[:, :2] = points[:, :2] * scale + shift
    points = np.where(seen(hands["keypoints"])[:, None], np.nan_to_num(points), 0)
    camera = np.concatenate([hands["camera"][:1] * scale, hands["camera"][1:] * scale + shift])
    wrist = place(camera[None], np.array([plan.size], np.float64))[0]
    told = {
        "present": np.ones(1),
        "quality": np.atleast_1d(hands["quality"]),
        "box": (hands["box"].reshape(2, 2) * scale + shift).ravel(),
        "keypoints": points.ravel(),
        "wrist": wrist,
        "camera": camera,
        **{name: hands[name].ravel() for name in ("global_orient", "hand_pose", "betas", "joints_3d")},
    }
    return {name: np.nan_to_num(values).astype(np.float32) for name, values in told.items()}


def features(plan: Plan, *, video: bool) -> dict[str, dict[str, Any]]:
    """Every feature with its type, shape and names, as info.json states them."""
    width, height = plan.size
    of_image: dict[str, Any] = {
        "dtype": "video" if video else "image",
        "shape": [height, width, 3],
        "names": ["height", "width", "channels"],
    }
    if video:
        facts = {"height": height, "width": width, "codec": "h264", "pix_fmt": "yuv420p", "is_depth_map": False, "fps": plan.fps}
        of_image["info"] = {f"video.{name}": value for name, value in (facts | {"channels": 3}).items()} | {"has_audio": False}
    both = [f"{side}_{name}" for side in SIDES for key in STATE for name in HAND[key]]
    vectors = {"observation.state": both} | {f"observation.{side}_hand.{key}": names for side in SIDES for key, names in HAND.items()}
    told = {CAMERA: of_image} | {name: {"dtype": "float32", "shape": [len(of)], "names": of} for name, of in vectors.items()}
    single = {"source.time_s": "float64", "source.frame": "int64", "timestamp": "float32"}
    single |= dict.fromkeys(("frame_index", "episode_index", "index", "task_index"), "int64")
    return told | {name: {"dtype": kind, "shape": [1], "names": [name]} for name, kind in single.items()}


def _schema(of: Mapping[str, Mapping[str, Any]]) -> pa.Schema:
    fields = []
    for name, told in of.items():
        if told["dtype"] == "image":
            fields.append(pa.field(name, pa.struct({"bytes": pa.binary(), "path": pa.string()})))
        elif told["dtype"] != "video":
            kind = pa.from_numpy_dtype(np.dtype(told["dtype"]))
            fields.append(pa.field(name, kind if told["shape"] == [1] else pa.list_(kind, told["shape"][0])))
    return pa.schema(fields)


def _table(rows: list[dict[str, Any]], of: Mapping[str, Mapping[str, Any]]) -> pa.Table:
    columns = []
    for wanted in _schema(of):
        values = [row[wanted.name] for row in rows]
        if pa.types.is_fixed_size_list(wanted.type):
            columns.append(pa.FixedSizeListArray.from_arrays(pa.array(np.concatenate(values), pa.float32()), wanted.type.list_size))
        elif pa.types.is_struct(wanted.type):
            columns.append(pa.array(values, wanted.type))
        else:
            columns.append(pa.array(np.array(values).ravel(), wanted.type))
    return pa.Table.from_arrays(columns, schema=_schema(of))


def _png(image: UInt8[np.ndarray, "h w 3"]) -> bytes:
    import cv2

    return bytes(cv2.imencode(".png", image[..., ::-1])[1].tobytes())


def _task(frame: Frame) -> str:
    """What is done in an episode, as the list of videos says: its column `task`, else `gloss`."""
    return str(frame.extra.get("task") or frame.extra.get("gloss") or "hands")


def _write_meta(folder: Path, source: Source, plan: Plan, writer: _Writer, *, video: bool) -> None:
    meta = folder / "meta"
    (meta / "episodes" / "chunk-000").mkdir(parents=True)
    known = features(plan, video=video)
    info = {
        "codebase_version": "v3.0",
        "robot_type": "human_hands",
        "total_episodes": len(writer.episodes),
        "total_frames": writer.num_frames,
        "total_tasks": len(writer.tasks),
        "chunks_size": FILES_A_CHUNK,
        "data_files_size_in_mb": BYTES_A_FILE >> 20,
        "video_files_size_in_mb": BYTES_A_FILE >> 20,
        "fps": int(plan.fps) if plan.fps.is_integer() else plan.fps,
        "splits": _splits(writer.episodes),
        "data_path": PATHS["data"],
        "video_path": PATHS["video"] if video else None,
        "features": known,
        "hand_model": source.hand_model,
        "hands_of_others_left_out": writer.num_others,
        "clips_of_another_rate_left_out": sorted(plan.left_out),
    }
    (meta / "info.json").write_text(json.dumps(info, indent=1) + "\n")
    stats: dict[str, Any] = {name: sums.told() for name, sums in writer.sums.items()}
    stats[CAMERA] = {name: of if name == "count" else np.reshape(of, (3, 1, 1)).tolist() for name, of in stats[CAMERA].items()}
    (meta / "stats.json").write_text(json.dumps(stats) + "\n")
    pq.write_table(pa.Table.from_pylist(writer.episodes), meta / "episodes" / "chunk-000" / "file-000.parquet")
    pq.write_table(_tasks(writer.tasks), meta / "tasks.parquet")


def _splits(episodes: list[dict[str, Any]]) -> dict[str, str]:
    """Ranges of episodes; shards are read split by split."""
    of: defaultdict[str, list[int]] = defaultdict(list)
    for episode in episodes:
        of[episode["split"]].append(episode["episode_index"])
    return {split: f"{min(numbers)}:{max(numbers) + 1}" for split, numbers in of.items()}


def _tasks(tasks: Mapping[str, int]) -> pa.Table:
    """Tasks as pandas keeps a table whose index is the text."""
    index = "__index_level_0__"
    table = pa.table({"task_index": pa.array(list(tasks.values()), pa.int64()), index: pa.array(list(tasks), pa.string())})
    column = {"field_name": None, "metadata": None, "name": None, "numpy_type": "object", "pandas_type": "unicode"}
    columns = [
        {**column, "field_name": "task_index", "name": "task_index", "numpy_type": "int64", "pandas_type": "int64"},
        {**column, "field_name": index},
    ]
    told = {"index_columns": [index], "column_indexes": [column], "columns": columns, "pandas_version": "2.2.0"}
    return table.replace_schema_metadata({"pandas": json.dumps(told)})
