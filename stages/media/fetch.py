"""Fetching one address with yt-dlp, once, in a process of its own: `python -m stages.media.fetch REQUEST`.

A process, because yt-dlp and the JavaScript runtime it starts may hang or grow, and because only a process can be killed. The
request is JSON on the command line, the answer one JSON line on stdout. The process ends itself when its standard input closes,
so that it never outlives whoever started it.
"""

import json
import os
import re
import sys
import threading
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from stages.stage import Failure, Reason

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


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """What came of an attempt: a whole file, or a message."""

    path: str = ""
    info: dict[str, Any] = field(default_factory=dict)
    tool: str = ""
    message: str = ""
    warnings: list[str] = field(default_factory=list)


_TOOL = r"javascript runtime|challenge solv|po token|ffmpeg.* not installed"
_BY_MESSAGE: Sequence[tuple[Reason, str]] = (
    (Reason.BLOCKED, r"not a bot|try again later|rate.?limited|captcha|not available on this app|too many requests"),
    (Reason.GONE, r"private video|video is private"),
    (Reason.TRANSIENT, r"premieres in|live event will begin|is currently live|timed out|read timeout"),
    (Reason.GEO_BLOCKED, r"in your country|from your location|geo.?restrict|available in your region"),
    (
        Reason.LOGIN_REQUIRED,
        r"your age|inappropriate for some users|members.only|join this channel|log.?in (is )?required|registered users",
    ),
    (Reason.LOGIN_REQUIRED, r"requires payment|sign in|login details|use --cookies"),
    (Reason.GONE, r"has been (removed|terminated|closed)|no longer available|copyright|video (is )?(un|not )available"),
    (Reason.GONE, r"does not exist|account.*terminated|violat|content isn.t available"),
    (Reason.TOOL_MISSING, _TOOL),
    (Reason.FORMAT_MISSING, r"requested format is not available|no video formats found|drm protected"),
    (Reason.NOT_A_VIDEO, r"unsupported url|is a playlist"),
    (Reason.EMPTY_FILE, r"did not get any data blocks|downloaded file is empty"),  # left for the next run: servers fill files late
)
"""Decides in this order, by yt-dlp's own words (YouTube's, as it hands them on). Anything else is taken for transient."""
_BY_STATUS = {
    401: Reason.LOGIN_REQUIRED,
    403: Reason.BLOCKED,
    404: Reason.GONE,
    410: Reason.GONE,
    429: Reason.BLOCKED,
    451: Reason.GEO_BLOCKED,
}
_PERMANENT = (Reason.GONE, Reason.GEO_BLOCKED, Reason.LOGIN_REQUIRED, Reason.NOT_A_VIDEO)


def classify(message: str, warnings: Sequence[str] = ()) -> Failure:
    """Why an attempt failed, from yt-dlp's error message (which names the HTTP status, if any) and the warnings before it."""
    text = message.lower().replace("\u2019", "'")
    status = re.search(r"http error (\d{3})", text)
    reason = next((reason for reason, pattern in _BY_MESSAGE if re.search(pattern, text)), Reason.TRANSIENT)
    if reason == Reason.TRANSIENT and status:
        reason = _BY_STATUS.get(int(status[1]), Reason.TRANSIENT)
    if reason == Reason.FORMAT_MISSING and any(re.search(_TOOL, warning.lower()) for warning in warnings):
        reason = Reason.TOOL_MISSING  # formats are missing because they could not be unlocked
    return Failure(reason, message, permanent=reason in _PERMANENT)


def fetch(request: Request) -> Answer:
    """Download one video as one file; the file is complete when its path is given."""
    import yt_dlp

    log = _Log()
    tool = f"yt-dlp {yt_dlp.version.__version__}"
    try:
        with yt_dlp.YoutubeDL(_options(request, log)) as downloader:
            info = downloader.extract_info(request.url, download=False)
            if "entries" in info:
                return Answer(tool=tool, message=f"{request.url} is a playlist or a page of several videos")
            if info.get("live_status") in ("is_live", "is_upcoming"):
                return Answer(tool=tool, message=f"{request.url} is currently live or not yet begun")
            downloader.process_info(info)
    except Exception as error:  # the far side of a process boundary: whatever it was is handed on as a message
        message = re.sub(r"\x1b\[[0-9;]*m|^ERROR: ", "", str(error)) or type(error).__name__
        return Answer(tool=tool, message=message[:2000], warnings=log.warnings[-20:])
    path = info.get("filepath") or next(d["filepath"] for d in info["requested_downloads"])
    return Answer(path=str(path), tool=tool, info={k: info[k] for k in KEPT_INFO if info.get(k) is not None})


def _options(request: Request, log: "_Log") -> dict[str, Any]:
    import imageio_ffmpeg

    order = [f"res~{request.lines}", *([f"fps~{request.frames_per_second:g}"] if request.frames_per_second else []), "vcodec:avc"]
    target = str(Path(request.folder) / request.stem).replace("%", "%%")
    return {
        "format": "bv/bv*/b",  # video only where it is offered
        "format_sort": order,  # nearest size, then rate, then what decodes at least cost: avc1, vp9, av01
        "outtmpl": {"default": target + ".%(ext)s"},
        "cachedir": str(Path(request.folder).parent / "yt-dlp"),
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

    def die_with_parent() -> None:
        sys.stdin.buffer.read()
        os._exit(1)

    threading.Thread(target=die_with_parent, daemon=True).start()
    answer = fetch(Request(**json.loads(sys.argv[1])))
    sys.stdout.write(json.dumps(asdict(answer)) + "\n")
    sys.stdout.flush()
    os._exit(0)


if __name__ == "__main__":
    main()
