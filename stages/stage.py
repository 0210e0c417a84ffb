"""What a stage is: settings now, models later; tables in, one table or a reason out."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, ClassVar, Literal, Protocol

from stages.tables import Table


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
    TIMEOUT = "timeout"
    WORKER_DIED = "worker_died"
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
    Reason.FILE_MISSING: "correct the path in the manifest",
    Reason.EMPTY_FILE: "fetch the file again",
    Reason.NOT_A_VIDEO: "the address gave something else than a video; correct it",
    Reason.NO_VIDEO_STREAM: "the file has sound only; remove the line",
    Reason.BROKEN_FILE: "fetch the file again",
    Reason.NO_FRAMES: "no frame could be decoded; fetch the file again",
    Reason.TIMEOUT: "the item ran over its limit; raise `limit_s` of the stage",
    Reason.WORKER_DIED: "the worker crashed on this item each time; look at its log, then `whim retry`",
    Reason.EXCEPTION: "an error of ours; the traceback is in the part's .error.json",
}


@dataclass(frozen=True, slots=True)
class Failure:
    """An expected end without a table: a value, not an exception."""

    reason: Reason
    message: str
    permanent: bool = True
    """A permanent failure is settled for this fingerprint; the other kind is tried again by the next run."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Resources:
    """What one worker of the stage holds while it works."""

    cpus: float = 1.0
    gpus: float = 0.0
    limit_s: float = 600.0
    """Wall-clock limit of one item; the worker is killed at it."""
    attempts: int = 2
    """How often a dying worker or an unexpected exception is tried within one run."""
    lane: str = ""
    """Stages with a lane run one item at a time on every node: a download lane is one address."""
    environment: str = ""
    """The worker runs by the Python of `.env-<environment>`, whose packages ours cannot live with; '' is our own."""


def setting(default: Any, *, identity: bool = True) -> Any:
    """A field of a stage; with `identity=False` a change of it does not change the result (a limit, a folder)."""
    return field(default=default, metadata={"identity": identity})


Key = Literal["video", "clip", "shard"]
"""What one part of a stage is about."""


class Stage(Protocol):
    """One step of the graph: a frozen dataclass whose fields are its settings.

    `build()` runs once on each worker: it imports and loads what is heavy and returns a plain function
    over the tables named in `reads`, in that order. A stage that reads `Frames` is called once per
    stretch of frames, with the rows of its other tables on those frames, and must not remember.
    """

    name: ClassVar[str]
    version: ClassVar[int]
    """Raised by hand when the code's result changes: every part it wrote is then recomputed."""
    key: ClassVar[Key]
    reads: ClassVar[tuple[type, ...]]
    writes: ClassVar[type[Table]]

    @property
    def detector(self) -> str:
        """Which of several stages of one name this is: parts lie in <table>/<detector>. '' when there is one only."""
        ...

    @property
    def resources(self) -> Resources:
        """What one of its workers holds: a constant of the class, or decided by a setting."""
        ...

    @property
    def weights(self) -> Mapping[str, str]:
        """sha256 by name of every model file that decides the result."""
        ...

    def build(self) -> Callable[..., Any]: ...
