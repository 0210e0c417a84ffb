"""yt-dlp as it is used here: whole files or none, never half of one version and half of another, bounded before believed."""

import json
import re
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from yt_dlp import YoutubeDL
from yt_dlp.networking import Request as Asked
from yt_dlp.networking import Response
from yt_dlp.networking.exceptions import HTTPError, TransportError

_OVERLAP_BYTES = 65_536
"""A download goes on that much before its end: what arrives must be what is there already."""
_PAGE_BYTES = 64 << 20
"""No page, playlist or description is larger; a compressed one is counted as it unfolds."""


class TooLarge(Exception):
    """More bytes than a video of this list may have."""


@dataclass(frozen=True, slots=True)
class Version:
    """What a server says of the version of a file, in its own words; empty and 0 where it says nothing."""

    etag: str = ""
    last_modified: str = ""
    num_bytes: int = 0

    @classmethod
    def told_by(cls, answer: Response) -> "Version":
        """The version that an answer is about, whole or a range of it."""
        ranged = re.fullmatch(r"bytes \d+-\d+/(\d+)", answer.headers.get("Content-Range", "").strip())
        length = ranged[1] if ranged else answer.headers.get("Content-Length", "") if answer.status == 200 else ""
        return cls(answer.headers.get("ETag", ""), answer.headers.get("Last-Modified", ""), int(length) if length.isdigit() else 0)

    @property
    def condition(self) -> str:
        """The value of If-Range; empty when the server names no version."""
        return self.etag if self.etag and not self.etag.startswith("W/") else self.last_modified

    def contradicts(self, other: "Version") -> bool:
        """Whether both say something, and not the same."""
        return any(ours and theirs and ours != theirs for ours, theirs in zip(asdict(self).values(), asdict(other).values(), strict=True))


class Downloader(YoutubeDL):  # type: ignore[misc]
    """YoutubeDL that goes on with a part only when the server still has the version it began, and bounds what it reads."""

    def __init__(self, options: dict[str, Any], folder: Path, largest_bytes: int) -> None:
        self.folder, self.largest_bytes = folder, largest_bytes
        self.media_url = ""
        super().__init__(options | {"progress_hooks": [self._weigh]})

    def _weigh(self, progress: dict[str, Any]) -> None:
        size = max(progress.get("total_bytes") or 0, progress.get("downloaded_bytes") or 0)
        if self.largest_bytes and size > self.largest_bytes:
            raise TooLarge(f"{size:,} bytes and more, where {self.largest_bytes:,} are allowed")

    def dl(self, name: str, info: dict[str, Any], subtitle: bool = False, test: bool = False) -> Any:
        """Note which address is the video's; a stream in pieces is begun anew, its pieces may be of another version by now."""
        self.media_url = info["url"] if info.get("protocol") in ("http", "https") else ""
        if not self.media_url:
            for part in self.folder.glob("*.part*"):
                part.unlink()
            for state in self.folder.glob("*.ytdl"):
                state.unlink()
        return super().dl(name, info, subtitle, test)

    def urlopen(self, req: Any) -> Response:
        """Answer a request; the video's own goes on with the part on disk, others are read to a bound only."""
        if not isinstance(req, Asked) or req.url != self.media_url:
            return _bounded(super().urlopen(req))
        wanted = re.fullmatch(r"bytes=(\d+)-(\d*)", req.headers.get("Range") or "")
        start = int(wanted[1]) if wanted else 0
        part = next((path for path in self.folder.glob("*.part") if path.stat().st_size == start), None) if start else None
        if part is None:
            answer = super().urlopen(req)
            self._note(answer, begins=not start)
            return answer
        return self._go_on(req, part, start, wanted[2] if wanted else "")

    def _note(self, answer: Response, *, begins: bool) -> None:
        told, note = Version.told_by(answer), self.folder / "version.json"
        if begins:
            note.write_text(json.dumps(asdict(told)))
        elif told.num_bytes and told.num_bytes != (self._noted().num_bytes or told.num_bytes):
            answer.close()
            raise TransportError("the file on the server changed while it was fetched")

    def _noted(self) -> Version:
        try:
            return Version(**json.loads((self.folder / "version.json").read_text()))
        except (OSError, ValueError, TypeError):
            return Version()

    def _go_on(self, req: Asked, part: Path, start: int, end: str) -> Response:
        """The rest of a part, after the bytes before it have been compared; the whole file when it is not the same any more."""
        overlap, noted = min(start // 2, _OVERLAP_BYTES), self._noted()
        req.headers["Range"] = f"bytes={start - overlap}-{end}"
        if noted.condition:
            req.headers["If-Range"] = noted.condition
        try:
            answer = super().urlopen(req)
        except HTTPError as error:
            if error.status != 416:
                raise
            return self._anew(req)
        given = re.match(r"bytes (\d+)-(\d+)/", answer.headers.get("Content-Range", ""))
        if answer.status != 206 or not given:
            self._note(answer, begins=True)
            return answer  # the whole file: yt-dlp writes over what it has
        same = int(given[1]) == start - overlap and not Version.told_by(answer).contradicts(noted)
        with part.open("rb") as file:
            file.seek(start - overlap)
            same = same and _read(answer.read, overlap) == file.read(overlap)
        if not same:
            answer.close()
            return self._anew(req)
        whole = answer.headers["Content-Range"].replace(f"{given[1]}-", f"{start}-", 1)
        answer.headers.replace_header("Content-Range", whole)
        if answer.headers.get("Content-Length", "").isdigit():
            answer.headers.replace_header("Content-Length", str(int(answer.headers["Content-Length"]) - overlap))
        return answer

    def _anew(self, req: Asked) -> Response:
        for name in ("Range", "If-Range"):
            req.headers.pop(name, None)
        answer = super().urlopen(req)
        self._note(answer, begins=True)
        return answer


def _read(read: Callable[[int], bytes], num_bytes: int) -> bytes:
    found = bytearray()
    while len(found) < num_bytes and (more := read(min(num_bytes - len(found), 1 << 20))):
        found += more
    return bytes(found)


def _bounded(answer: Response) -> Response:
    """The answer, whose `read()` to the end gives up beyond the bound."""
    read = answer.read

    def bounded(amt: int | None = None) -> bytes:
        if amt is not None:
            return read(amt)
        found = _read(read, _PAGE_BYTES + 1)
        if len(found) > _PAGE_BYTES:
            answer.close()
            raise TooLarge(f"a page of more than {_PAGE_BYTES >> 20} MiB")
        return found

    answer.read = bounded
    return answer
