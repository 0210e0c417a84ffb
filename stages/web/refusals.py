"""Why a site gave no video: told by the status of its answer, else by yt-dlp's words, never by the words of the address itself."""

import re
from collections.abc import Sequence
from urllib.parse import unquote, urlsplit

from stages.reasons import Failure, Reason

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
    (Reason.LOGIN_REQUIRED, r"requires payment|premium members|sign in|login details|use --cookies"),
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


def classify(message: str, warnings: Sequence[str] = (), url: str = "") -> Failure:
    """Why an attempt failed, from yt-dlp's error message and the warnings before it.

    A status decides alone: the words beside it are the server's, who may say what he likes. `url` is what was asked for.
    """
    text = _without_address(message.lower().replace("\u2019", "'"), url.lower())
    status = re.search(r"http error (\d{3})", text)
    if status:
        reason = _BY_STATUS.get(int(status[1]), Reason.TRANSIENT)
    else:
        reason = next((reason for reason, pattern in _BY_MESSAGE if re.search(pattern, text)), Reason.TRANSIENT)
    if reason == Reason.FORMAT_MISSING and any(re.search(_TOOL, warning.lower()) for warning in warnings):
        reason = Reason.TOOL_MISSING  # formats are missing because they could not be unlocked
    return Failure(reason, message, permanent=reason in _PERMANENT)


def _without_address(text: str, url: str) -> str:
    """A message without addresses, paths, and the id that yt-dlp makes of an address: `[generic] captcha: ...`."""
    text = re.sub(r"\w+://\S+", " ", text)
    text = re.sub(r"'/[^'\n]*'", " ", text)
    name = urlsplit(url).path.rstrip("/").rpartition("/")[2]
    for one in sorted({name, name.rpartition(".")[0], unquote(name), unquote(name).rpartition(".")[0]}, key=len, reverse=True):
        text = text.replace(f"] {one}: ", "] ") if one else text
    return text
