"""Which content the videos of a data folder are: the sha256 decides what is the same; size and time only save the hashing."""

from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from fitting.files import sha256_of
from pipeline.engine.store import Store
from stages.digest import CorruptFileError
from stages.tables import Videos

_HASHES = "hashes.json"


@dataclass(eq=False)
class Contents:
    """The rows of the table `videos`, each read once, and the hashes of local files."""

    store: Store
    rows: dict[str, Videos | None] = field(default_factory=dict)
    hashes: dict[str, list[int | str]] | None = None
    """Size, time and sha256 of local files, by path."""

    def row(self, video: str) -> Videos | None:
        """A video's row; None without one that can be read."""
        if video not in self.rows:
            try:
                self.rows[video] = self.store.read(Videos, "videos", video)
            except (OSError, ValueError):
                self.rows[video] = None
        return self.rows[video]

    def duplicates(self, videos: Iterable[str]) -> dict[str, str]:
        """Videos of the same content as another one, with the first of these by name."""
        same: dict[str, list[str]] = defaultdict(list)
        for video in videos:
            row = self.row(str(video))
            if row is not None and row.sha256[0]:
                same[row.sha256[0]].append(str(video))
        return {later: first for first, *others in map(sorted, same.values()) for later in others}

    def is_lost(self, video: str) -> bool:
        """Whether the file of a fetched video is gone, or is not as long as it was; one outside the folder was put away."""
        row = self.row(video)
        if row is None or Path(row.path[0]).is_absolute():
            return False
        return self.store.size_of(self.store.root / row.path[0]) != row.size_bytes[0]

    def is_of(self, video: str, path: Path) -> bool:
        """Whether a local file has the content that a video's row was made of."""
        row = self.row(video)
        return row is not None and path.stat().st_size == row.size_bytes[0] and self._sha256(path) == row.sha256[0]

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
