"""The note beside a fetched video: where it came from, what was wished for, its digest and size."""

import json
from pathlib import Path
from typing import Any

from stages.digest import CorruptFileError, unseal


def read_note(note: Path) -> dict[str, Any]:
    """What was noted beside a video, held against its digest; notes of an earlier version carry none.

    Raises CorruptFileError that names the file, FileNotFoundError.
    """
    text = note.read_bytes()
    if text.endswith(b"\n") or b"video_sha256" in text:
        return unseal(note)
    try:
        before = json.loads(text)
        return {**before, "video_sha256": before["sha256"]}
    except (ValueError, TypeError, LookupError, RecursionError) as error:
        raise CorruptFileError(note, f"it is no note on a video ({error!r})") from error


def kept_video(note: Path, wish: dict[str, Any]) -> dict[str, Any] | None:
    """What an earlier run noted beside a whole file of the same wish; None when the file must be fetched."""
    try:
        kept = read_note(note)
        path = note.parent / Path(kept["file"]).name  # a note names a file beside it, and no other
        whole = kept["wish"] == wish and path.is_file() and path.stat().st_size == kept["size_bytes"]
        return {**kept, "file": path.name} if whole and {"video_sha256", "info", "tool"} <= kept.keys() else None
    except (OSError, ValueError, TypeError, KeyError):
        return None
