"""Files of data and video that grow by an episode, and what is to be said of them at the end."""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from jaxtyping import UInt8

from pipeline.exports.lerobot.features import CAMERA, features, schema
from pipeline.exports.lerobot.film import Film
from pipeline.exports.lerobot.plan import Plan
from pipeline.exports.lerobot.state import fitted, state
from pipeline.exports.lerobot.statistics import Sums
from pipeline.exports.source import Frame, json_of

FILES_A_CHUNK, ROWS_A_FILE, BYTES_A_FILE = 1000, 50_000, 200 << 20
ROWS_A_GROUP, BYTES_A_GROUP = 1000, 32 << 20
"""Episodes are written together until they are so large: what a writer keeps of every row group would grow with the data."""
IMAGE_SAMPLES = 200
"""Images that the statistics are taken of."""
PATHS = {
    "data": "data/chunk-{chunk_index:03d}/file-{file_index:03d}.parquet",
    "video": "videos/{video_key}/chunk-{chunk_index:03d}/file-{file_index:03d}.mp4",
}


class Writer:
    """Files of data and video that grow by an episode."""

    def __init__(self, folder: Path, plan: Plan, *, video: bool) -> None:
        self.folder, self.plan, self.video = folder, plan, video
        self.episodes: list[dict[str, Any]] = []
        self.tasks: dict[str, int] = {}
        self.num_frames = 0
        self.num_others = 0  # hands of others than the two that are shown
        self.data: Any = None
        self.data_number, self.data_rows, self.data_bytes = -1, 0, 0
        self.waiting: list[pa.Table] = []
        self.film: Film | None = None
        self.film_number = -1
        self.sums = {name: Sums(len(of["names"])) for name, of in features(plan, video=video).items() if name != CAMERA}
        self.sums[CAMERA] = Sums(3)

    def add(self, frames: Iterator[Frame]) -> None:
        """One episode."""
        self._open_files()
        rows: list[dict[str, Any]] = []
        first: Frame | None = None
        start_s = self.film.seconds if self.film else 0.0
        for number, frame in enumerate(frames):
            first = frame if first is None else first  # a frame without a hand is no less one
            rows.append(self._row(frame, number))
        assert first is not None
        task = self.tasks.setdefault(_task(first), len(self.tasks))
        for row in rows:
            row["task_index"] = task
        table = _table(rows, features(self.plan, video=self.video))
        self.waiting.append(table)
        if sum(map(len, self.waiting)) >= ROWS_A_GROUP or sum(one.nbytes for one in self.waiting) >= BYTES_A_GROUP:
            self._write_waiting()
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
            self._close_data()
            self.data_number, self.data_rows, self.data_bytes = self.data_number + 1, 0, 0
            path = self._path("data", self.data_number)
            self.data = pq.ParquetWriter(path, schema(features(self.plan, video=self.video)), compression="zstd")
        if self.video and (self.film is None or self.film.path.stat().st_size >= BYTES_A_FILE):
            if self.film:
                self.film.close()
            self.film_number += 1
            self.film = Film(self._path("video", self.film_number), self.plan)

    def _write_waiting(self) -> None:
        if self.waiting:
            self.data.write_table(pa.concat_tables(self.waiting))
            self.waiting.clear()

    def _close_data(self) -> None:
        if self.data is not None:
            self._write_waiting()
            self.data.close()

    def _path(self, what: str, number: int) -> Path:
        chunk, file = divmod(number, FILES_A_CHUNK)
        path = self.folder / PATHS[what].format(chunk_index=chunk, file_index=file, video_key=CAMERA)
        path.parent.mkdir(parents=True, exist_ok=True)
        return path

    def close(self) -> None:
        """End the files that are open."""
        self._close_data()
        if self.film:
            self.film.close()


def _table(rows: list[dict[str, Any]], of: Mapping[str, Mapping[str, Any]]) -> pa.Table:
    columns = []
    for wanted in schema(of):
        values = [row[wanted.name] for row in rows]
        if pa.types.is_fixed_size_list(wanted.type):
            columns.append(pa.FixedSizeListArray.from_arrays(pa.array(np.concatenate(values), pa.float32()), wanted.type.list_size))
        elif pa.types.is_struct(wanted.type):
            columns.append(pa.array(values, wanted.type))
        else:
            columns.append(pa.array(np.array(values).ravel(), wanted.type))
    return pa.Table.from_arrays(columns, schema=schema(of))


def _png(image: UInt8[np.ndarray, "h w 3"]) -> bytes:
    import cv2

    return bytes(cv2.imencode(".png", image[..., ::-1])[1].tobytes())


def _task(frame: Frame) -> str:
    """What is done in an episode, as the list of videos says: its column `task`, else `gloss`."""
    return str(frame.extra.get("task") or frame.extra.get("gloss") or "hands")
