"""Images of frames and of hands: as a shard holds them, else as their video shows them."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import lru_cache
from pathlib import Path
from threading import Lock
from typing import Any

import numpy as np
import simplejpeg

from pipeline.browse.asking import Asking
from pipeline.dataset.cameras import cameras_of_clip
from pipeline.engine.files.shard import open_shard
from pipeline.engine.store import Store
from stages.cameras.views import Look
from stages.digest import UNREADABLE
from stages.errors import UserError
from stages.media.frames import read_frames
from stages.tables import Cameras, Clips, Videos

THUMB_PX = 144
_AROUND = 1.7
"""Side of the square that a hand is shown in, in longer sides of its box."""


@dataclass
class Images:
    """Images of a data folder, the last ones kept."""

    store: Store
    asking: Callable[[], Asking]
    _lock: Lock = field(default_factory=Lock)

    def __post_init__(self) -> None:
        self._group = lru_cache(4)(self._read_group)
        self._frame = lru_cache(24)(self._read_frame)

    def frame(self, video: str, frame: int, view: int) -> bytes:
        """A view of a frame as JPEG. Raises UserError where there is neither shard nor video."""
        with self._lock:  # a decoder at a time: neighbours come from one row group
            return self._frame(video, frame, view)

    def thumb(self, video: str, frame: int, view: int, box: Sequence[float], width: int) -> bytes:
        """A hand and what is around it, as a small JPEG; `width`: of the image that the box is measured in."""
        import cv2

        image = simplejpeg.decode_jpeg(self.frame(video, frame, view), colorspace="RGB", fastdct=True)
        scale = image.shape[1] / max(width, 1)
        x0, y0, x1, y1 = (value * scale for value in box)
        half = max(x1 - x0, y1 - y0, 4) * _AROUND / 2
        centre = ((x0 + x1) / 2, (y0 + y1) / 2)
        to_thumb = np.array([[1, 0, half - centre[0]], [0, 1, half - centre[1]]]) * (THUMB_PX / (2 * half))
        shown = cv2.warpAffine(image, to_thumb, (THUMB_PX, THUMB_PX), flags=cv2.INTER_AREA, borderValue=(127, 127, 127))
        return bytes(simplejpeg.encode_jpeg(np.ascontiguousarray(shown), quality=82, colorspace="RGB"))

    def frames_of(self, clip: Clips) -> list[tuple[int, float]]:
        """Index and time of the frames of a clip that were looked at: of its video, else those that a shard holds."""
        path = self._video(str(clip.video[0]))
        if path is not None:
            return looked_at(str(path), clip)
        first, last = int(clip.first_frame[0]), int(clip.first_frame[0] + clip.num_frames[0] - 1)
        frames = {int(row["frame"]): float("nan") for row in self.asking().images_of(str(clip.video[0]), first, last)}
        return list(frames.items())

    def cameras(self, clip: Clips) -> Cameras:
        """The camera of a clip and its views."""
        return cameras_of_clip(self.store, self.store.read(Videos, "videos", str(clip.video[0])), clip)

    def _read_frame(self, video: str, frame: int, view: int) -> bytes:
        for row in self.asking().images_of(video, frame, frame):
            if row["view"] != view:
                continue
            try:
                path = self.store.root / str(row["path"])
                shown = self._group(path, int(row["row_group"]), path.stat().st_mtime_ns).slice(row["row"], 1).to_pylist()[0]
            except UNREADABLE:
                continue
            if (shown["video"], shown["frame"], shown.get("view", 0)) == (video, frame, view):  # else packed again since
                return bytes(shown["image"])
        return self._of_video(video, frame, view)

    def _read_group(self, path: Path, group: int, written_ns: int) -> Any:
        shard = open_shard(path, memory_map=True)
        return shard.read_row_group(group, [name for name in ("video", "frame", "view", "image") if name in shard.schema_arrow.names])

    def _of_video(self, video: str, frame: int, view: int) -> bytes:
        path = self._video(video)
        clips = self.store.read(Clips, "clips", video) if path is not None else Clips.empty()
        for clip in clips.take((clips.first_frame <= frame) & (frame < clips.first_frame + clips.num_frames)).rows():
            times = dict(looked_at(str(path), clip))
            one = replace(clip, first_frame=np.array([frame]), num_frames=np.array([1]), frames_per_second=np.zeros(1))
            if frame in times and path is not None:
                one = replace(one, start_s=np.array([times[frame]]))
                for frames in read_frames(path, one):
                    shown = _through(self.cameras(clip), view, frames.images[0])
                    return bytes(simplejpeg.encode_jpeg(np.ascontiguousarray(shown), quality=90, colorspace="RGB"))
        raise UserError(f"no image of frame {frame} of {video}: no shard holds it, and its video is not here")

    def _video(self, video: str) -> Path | None:
        try:
            path = self.store.root / str(self.store.read(Videos, "videos", video).path[0])
        except FileNotFoundError:
            return None
        if self.store.mirror and path.is_relative_to(self.store.root):
            self.store.mirror.have_video(path)
        return path if path.is_file() else None


def _through(cameras: Cameras, view: int, image: np.ndarray) -> np.ndarray:
    """One view of a bent camera's image; of a plain camera, and as view -1, the image itself. Raises UserError for no such view."""
    rows = np.flatnonzero(cameras.view == view)
    if not len(rows):
        raise UserError(f"its frames have no view {view}")
    return image if len(cameras) == 1 or view < 0 else np.asarray(Look(cameras, int(rows[0]))(image))


_known: dict[tuple[Any, ...], list[tuple[int, float]]] = {}
_looking = Lock()


def looked_at(path: str, clip: Clips) -> list[tuple[int, float]]:
    """Frames of a clip that were looked at, by decoding it once, whoever asks beside."""
    key = path, str(clip.clip[0]), int(clip.first_frame[0]), int(clip.num_frames[0]), float(clip.frames_per_second[0])
    with _looking:
        if key not in _known:
            while len(_known) > 64:
                del _known[next(iter(_known))]
            stretches = read_frames(Path(path), clip)
            _known[key] = [(int(f), float(t)) for s in stretches for f, t in zip(s.frame, s.time_s, strict=True)]
        return _known[key]
