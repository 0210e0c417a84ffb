"""Why an item has no table: the reasons that are counted, what mends each, and the value that a stage gives in place of a table.

The process that fetches a video imports this and no table, which would be a third of its start.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum


class Reason(StrEnum):
    """Why an item has no table. Counted in the report; `ADVICE` says how to mend each."""

    MALFORMED_ID = "malformed_id"
    GONE = "gone"
    GEO_BLOCKED = "geo_blocked"
    LOGIN_REQUIRED = "login_required"
    BLOCKED = "blocked"
    TRANSIENT = "transient"
    FORMAT_MISSING = "format_missing"
    TOOL_MISSING = "tool_missing"
    FILE_MISSING = "file_missing"
    EMPTY_FILE = "empty_file"
    NOT_A_VIDEO = "not_a_video"
    NO_VIDEO_STREAM = "no_video_stream"
    BROKEN_FILE = "broken_file"
    NO_FRAMES = "no_frames"
    TOO_LARGE = "too_large"
    PRIVATE_ADDRESS = "private_address"
    OUT_OF_STEP = "out_of_step"
    TIMEOUT = "timeout"
    WORKER_DIED = "worker_died"
    CORRUPT = "corrupt"
    CAMERA = "camera"
    DECIDED = "decided"
    EXCEPTION = "exception"


ADVICE: Mapping[Reason, str] = {
    Reason.MALFORMED_ID: "correct the id in the manifest, or remove the line",
    Reason.GONE: "the owner or YouTube removed it; remove the line, or leave it listed as lost",
    Reason.GEO_BLOCKED: "run the download from another country",
    Reason.LOGIN_REQUIRED: "pass a cookies file of an account that may see it",
    Reason.BLOCKED: "the site refuses this address for a while; run again in an hour",
    Reason.TRANSIENT: "a network or server fault; run again",
    Reason.FORMAT_MISSING: "no video-only stream near the wanted height; change the height in the manifest",
    Reason.TOOL_MISSING: "yt-dlp needs a JavaScript runtime: pip install 'yt-dlp[default,deno]'",
    Reason.FILE_MISSING: "put the file back, or correct the path in the manifest",
    Reason.EMPTY_FILE: "fetch the file again",
    Reason.NOT_A_VIDEO: "the address gave something else than a video; correct it",
    Reason.NO_VIDEO_STREAM: "the file has no pictures, only sound or text; remove the line",
    Reason.BROKEN_FILE: "fetch the file again",
    Reason.NO_FRAMES: "no frame could be decoded; fetch the file again",
    Reason.TOO_LARGE: "larger than this run allows; raise download.largest_bytes or --max-pixels, then `whim retry`",
    Reason.PRIVATE_ADDRESS: "it leads into the inner network; if you trust it name the host in download.private_hosts, then `whim retry`",
    Reason.OUT_OF_STEP: "the labels are of another cut of the video; fetch that one, or leave its clips out",
    Reason.TIMEOUT: "it took longer than its stage allows; make clips shorter (split.max_clip_s) or the machine faster, then `whim retry`",
    Reason.WORKER_DIED: "the worker crashed on this item each time; look at its log, then `whim retry`",
    Reason.CORRUPT: "a file of the data folder was damaged and has been set aside; the next run makes it again",
    Reason.CAMERA: "correct focal=, hfov=, projection= or camera= in the list",
    Reason.DECIDED: "somebody decided on its hands while it was worked on; run again",
    Reason.EXCEPTION: "an error of ours; the traceback is in the part's .error.json",
}


@dataclass(frozen=True, slots=True)
class Failure:
    """An expected end without a table: a value, not an exception."""

    reason: Reason
    message: str
    permanent: bool = True
    """A permanent failure is settled for this fingerprint; the other kind is tried again by the next run."""
