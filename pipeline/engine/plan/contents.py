"""Which content the videos of a data folder are: the sha256 decides what is the same; size and time only save the hashing."""

from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

from fitting.files import sha256_of
from pipeline.engine.store import Store
from stages.digest import CorruptFileError
from stages.tables import Clips, Videos

_HASHES = "hashes.json"


_MOST_LISTS = 64
"""Clip lists that are kept at hand; all of a large folder would take too much."""


class Known(NamedTuple):
    """What a plan asks of a video's row: whole rows of a large folder would take too much."""

    path: str
    sha256: str
    size_bytes: int
    width: int
    height: int
    camera: str


@dataclass(eq=False)
class Contents:
    """What is known of videos by their rows, each read once; the clip lists read last; the hashes of local files."""

    store: Store
    rows: dict[str, Known | None] = field(default_factory=dict)
    lists: dict[str, Clips] = field(default_factory=dict)
    hashes: dict[str, list[int | str]] | None = None
    """Size, time and sha256 of local files, by path."""

    def row(self, video: str) -> Known | None:
        """What a video's row says; None without one that can be read."""
        if video not in self.rows:
            try:
                self.rows[video] = _known(self.store.read(Videos, "videos", video))
            except (OSError, ValueError):
                self.rows[video] = None
        return self.rows[video]

    def clips(self, video: str) -> Clips:
        """A video's clips. Raises CorruptFileError, FileNotFoundError."""
        if video not in self.lists:
            if len(self.lists) >= _MOST_LISTS:
                del self.lists[next(iter(self.lists))]
            self.lists[video] = self.store.read(Clips, "clips", video)
        return self.lists[video]

    def forget(self, video: str) -> None:
        """Read the row and the clips of a video anew: they have been made again."""
        self.rows.pop(video, None)
        self.lists.pop(video, None)

    def duplicates(self, videos: Iterable[str]) -> dict[str, str]:
        """Videos of the same content as another one, with the first of these by name."""
        same: dict[str, list[str]] = defaultdict(list)
        for video in videos:
            row = self.row(str(video))
            if row is not None and row.sha256:
                same[row.sha256].append(str(video))
        return {later: first for first, *others in map(sorted, same.values()) for later in others}

    def is_lost(self, video: str) -> bool:
        """Whether the file of a fetched video is gone, or is not as long as it was; one outside the folder was put away."""
        row = self.row(video)
        if row is None or Path(row.path).is_absolute():
            return False
        return self.store.size_of(self.store.root / row.path) != row.size_bytes

    def is_of(self, video: str, path: Path) -> bool:
        """Whether a local file has the content that a video's row was made of."""
        row = self.row(video)
        return row is not None and path.stat().st_size == row.size_bytes and self._sha256(path) == row.sha256

    def _sha256(self, path: Path) -> str:
        known = self._known()
        stat = path.stat()
        facts: list[int | str] = [stat.st_size, stat.st_mtime_ns]
        if known.get(str(path), [])[:2] != facts:
            known[str(path)] = [*facts, sha256_of(path)]
        return str(known[str(path)][2])

    def _known(self) -> dict[str, list[int | str]]:
        if self.hashes is None:
            try:
                kept: Mapping[str, list[int | str]] = (self.store.read_json(_HASHES) or {}).get("files", {})
                self.hashes = {path: facts for path, facts in kept.items() if len(facts) == 3}
            except (CorruptFileError, AttributeError, TypeError):
                self.hashes = {}
        return self.hashes

    def remember(self) -> None:
        """Write down the hashes of local files, so that the next plan need not take them again."""
        if self.hashes:
            self.store.write_json(_HASHES, {"files": self.hashes})


def _known(row: Videos) -> Known:
    camera = str(row.camera[0])
    return Known(row.path[0], row.sha256[0], int(row.size_bytes[0]), int(row.width[0]), int(row.height[0]), camera)
