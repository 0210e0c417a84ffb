"""Fetching one address with yt-dlp, once, in a process of its own: `python -P -m stages.web.fetch`.

A process, because yt-dlp and the JavaScript runtime it starts may hang or grow, and because only a process can be killed. The
request is one JSON line on stdin (a command line is read by every user of the machine), the answer one JSON line on stdout. The
process ends itself when its standard input closes, so that it never outlives whoever started it.
"""

import errno
import json
import os
import re
import sys
import tempfile
import threading
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any
from urllib.request import getproxies

from stages.reasons import Reason
from stages.web.address import Gate, Refused, without_secrets
from stages.web.refusals import classify as classify

KEPT_INFO = (
    "license",
    "channel",
    "channel_id",
    "uploader",
    "title",
    "upload_date",
    "format_id",
    "availability",
    "age_limit",
    "webpage_url",
)
"""What is kept of yt-dlp's description of a video."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """One attempt: where from, where to, which of the offered streams."""

    url: str
    folder: str  # holds the parts; kept between attempts so that they resume
    stem: str  # file name without suffix
    lines: int  # wanted shorter side in pixels
    frames_per_second: float  # wanted rate; 0 = any
    socket_timeout_s: float
    cookies_file: str = ""
    proxy: str = ""
    largest_bytes: int = 0  # 0 = any
    private_hosts: tuple[str, ...] = ()  # may be reached though their addresses are not public
    plugins: bool = False
    only_ask: bool = False  # whether it is offered: nothing is fetched


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """What came of an attempt: a whole file, or a message."""

    path: str = ""
    info: dict[str, Any] = field(default_factory=dict)
    tool: str = ""
    message: str = ""
    warnings: list[str] = field(default_factory=list)
    reason: str = ""  # where it is known without reading the message
    disk_full: bool = False


def fetch(request: Request) -> Answer:
    """Download one video as one file; the file is complete when its path is given."""
    import yt_dlp

    from stages.web.ytdlp import Downloader, TooLarge

    log, folder = _Log(), Path(request.folder)
    tool = f"yt-dlp {yt_dlp.version.__version__}"
    try:
        with Downloader(_options(request, log), folder, request.largest_bytes) as downloader:
            info = downloader.extract_info(request.url, download=False)
            if "entries" in info:
                return Answer(tool=tool, message=f"{request.url} is a playlist or a page of several videos")
            if info.get("live_status") in ("is_live", "is_upcoming"):
                return Answer(tool=tool, message=f"{request.url} is currently live or not yet begun")
            if request.only_ask:
                return Answer(tool=tool, info={"availability": info.get("availability") or "offered"})
            downloader.process_info(info)
    except Refused as refused:
        reason = Reason.PRIVATE_ADDRESS if refused.address else Reason.FORMAT_MISSING
        return Answer(tool=tool, message=str(refused), reason=reason)
    except Exception as error:  # the far side of a process boundary: whatever it was is handed on as a message
        message = re.sub(r"\x1b\[[0-9;]*m|^ERROR: ", "", str(error)) or type(error).__name__
        large = any(isinstance(one, TooLarge) for one in _causes(error))
        full = any(isinstance(one, OSError) and one.errno in (errno.ENOSPC, errno.EDQUOT) for one in _causes(error))
        return Answer(
            tool=tool, message=message[:2000], warnings=log.warnings[-20:], reason=Reason.TOO_LARGE if large else "", disk_full=full
        )
    path = info.get("filepath") or next(d["filepath"] for d in info["requested_downloads"])
    kept = {k: info[k] for k in KEPT_INFO if info.get(k) is not None}
    return Answer(path=str(path), tool=tool, info=kept | {k: without_secrets(kept[k]) for k in ("webpage_url",) if k in kept})


def _causes(error: BaseException) -> list[BaseException]:
    """An error with all that led to it, as Python and as yt-dlp keep them."""
    found: list[BaseException] = []
    waiting: list[Any] = [error]
    while waiting:
        one = waiting.pop()
        if isinstance(one, BaseException) and one not in found:
            found.append(one)
            exc_info = getattr(one, "exc_info", None) or ()
            waiting += [one.__cause__, one.__context__, getattr(one, "cause", None), *exc_info]
    return found


def cache_folder() -> Path:
    """Where this user's caches lie; nothing in it decides a result."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path(os.environ.get("HOME") or tempfile.gettempdir()) / ".cache") / "whim"


def _options(request: Request, log: "_Log") -> dict[str, Any]:
    import imageio_ffmpeg

    order = [f"res~{request.lines}", *([f"fps~{request.frames_per_second:g}"] if request.frames_per_second else []), "vcodec:avc"]
    target = str(Path(request.folder) / request.stem).replace("%", "%%")
    return {
        "format": "bv/bv*/b",  # video only where it is offered
        "format_sort": order,  # nearest size, then rate, then what decodes at least cost: avc1, vp9, av01
        "outtmpl": {"default": target + ".%(ext)s"},
        "cachedir": str(cache_folder() / "yt-dlp"),  # not in the data folder, which is data
        "ffmpeg_location": imageio_ffmpeg.get_ffmpeg_exe(),
        "socket_timeout": request.socket_timeout_s,
        "retries": 3,
        "fragment_retries": 10,
        "extractor_retries": 1,
        "retry_sleep_functions": {"http": lambda n: min(2.0**n / 2, 20), "fragment": lambda n: min(2.0**n / 2, 20)},
        "noplaylist": True,
        "extract_flat": "in_playlist",
        "allow_playlist_files": False,
        "fixup": "never",
        "updatetime": False,
        "noprogress": True,
        "quiet": True,
        "logger": log,
        "color": "never",
        **({"cookiefile": request.cookies_file} if request.cookies_file else {}),
        **({"proxy": request.proxy} if request.proxy else {}),
    }


class _Log:
    """yt-dlp's logger: keeps the warnings, which say what the error does not."""

    def __init__(self) -> None:
        self.warnings: list[str] = []

    def debug(self, message: str) -> None: ...

    def info(self, message: str) -> None: ...

    def warning(self, message: str) -> None:
        self.warnings.append(message[:500])

    def error(self, message: str) -> None: ...


def main() -> None:
    """The process: dies with its parent, answers in one line."""

    request = Request(**json.loads(sys.stdin.buffer.readline()))

    def die_with_parent() -> None:
        sys.stdin.buffer.read()
        os._exit(1)

    threading.Thread(target=die_with_parent, daemon=True).start()
    Gate(request.url, request.private_hosts, [request.proxy, *getproxies().values()]).close()
    answer = fetch(request)
    sys.stdout.write(json.dumps(asdict(answer)) + "\n")
    sys.stdout.flush()
    os._exit(0)


if __name__ == "__main__":
    main()
