"""Reading what to build from: a list of videos, a folder of files, or one file.

A list is text, one video a line: a YouTube id, an http address or a path, then what is known of it, `#` for comments:

    5-TyAsFwo40 split=train fps=29.97 frames=3185 size=960x720
    -ChOGBEL5uE split=train
    https://example.org/hands.mp4 id=hands_a
    ../mine/kitchen.mp4          # relative to the list

`removed.txt` beside a list, or in a folder of videos, names ids, one a line, whose owners withdrew them: they are left out, and leave
the shards with the next run.
"""

import argparse
import hashlib
import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import unquote, urlsplit

import numpy as np

from stages.tables import Manifest

_VIDEO_SUFFIX = re.compile(r"\.(mp4|m4v|mov|mkv|webm|avi|gif|mpe?g|mts|m2ts|ts|flv|wmv|ogv|3gp|y4m)", re.IGNORECASE)
_YOUTUBE_URL = re.compile(
    r"https?://(?:[\w-]+\.)?(?:youtube\.com/(?:watch\?(?:.*&)?v=|shorts/|embed/|live/)|youtu\.be/)([\w-]{11})(?![\w-])"
)
_SAFE_ID = re.compile(r"[A-Za-z0-9_-][A-Za-z0-9_.-]{0,99}")
_LONGEST_ID = 100


@dataclass(frozen=True, slots=True, kw_only=True)
class Line:
    """One video of a list, and where it is named."""

    where: str  # file:line
    video: str
    source: str
    split: str = ""
    frames_per_second: float = 0.0
    num_frames: int = 0
    width: int = 0
    height: int = 0


def read_manifest(path: Path) -> Manifest:
    """The videos of a list, of all video files below a folder, or of one video file; withdrawn ones left out.

    Raises ValueError that names file and line of a malformed or contradictory line, FileNotFoundError when there is no such path or no
    video below it.
    """
    path = Path(path)
    if path.is_dir():
        files = sorted(p for p in path.rglob("*") if _VIDEO_SUFFIX.fullmatch(p.suffix) and p.is_file())
        if not files:
            raise FileNotFoundError(f"{path}: no video below this folder (looked for .mp4, .mkv, .webm and the like)")
        return without_removed(_manifest(_named_by_path(path, files)), path / "removed.txt")
    if not path.exists():
        raise FileNotFoundError(f"{path}: neither a list of videos, nor a folder, nor a video")
    if _VIDEO_SUFFIX.fullmatch(path.suffix):
        return _manifest(_named_by_path(path.parent, [path]))
    try:
        lines = [(f"{path}:{number}", text) for number, text in enumerate(path.read_text("utf-8-sig").splitlines(), 1)]
    except UnicodeDecodeError:
        raise ValueError(f"{path} is no text: a list names one video a line, a video is known by its suffix (.mp4, .mkv ...)") from None
    parsed = [parse_line(text, where, path.parent) for where, text in lines if _without_comment(text)]
    return without_removed(_manifest(_merged(parsed)), path.parent / "removed.txt")


def without_removed(manifest: Manifest, removed: Path) -> Manifest:
    """The manifest without the videos that a list of withdrawn ids (or sources) names, if there is that list."""
    if not removed.exists():
        return manifest
    gone = {_without_comment(text) for text in removed.read_text("utf-8-sig").splitlines()}
    return manifest.take(np.array([v not in gone and s not in gone for v, s in zip(manifest.video, manifest.source, strict=True)], bool))


def parse_line(text: str, where: str, folder: Path) -> Line:
    """One line of a list; paths are relative to `folder`. Raises ValueError that names `where` and how to mend it."""
    source, *wishes = re.split(r"\s+(?=\w+=\S*(?:\s|$))", _without_comment(text))
    known: dict[str, str] = {}
    for wish in wishes:
        name, _, value = wish.partition("=")
        if name not in _FIELDS or not re.fullmatch(_FIELDS[name], value):
            raise ValueError(f"{where}: {wish!r} is none of split=train|val|test fps=29.97 frames=5000 size=1280x720 id=name")
        if name in known:
            raise ValueError(f"{where}: {name} is given twice; keep one")
        known[name] = value
    width, _, height = known.get("size", "0x0").partition("x")
    source, video = _source(source, where, folder)
    return Line(
        where=where,
        video=known.get("id", video),
        source=source,
        split=known.get("split", ""),
        frames_per_second=float(known.get("fps", 0)),
        num_frames=int(known.get("frames", 0)),
        width=int(width),
        height=int(height),
    )


_FIELDS: Mapping[str, str] = {
    "split": "train|val|test",
    "fps": r"\d+(\.\d+)?",
    "frames": r"\d+",
    "size": r"[1-9]\d*x[1-9]\d*",
    "id": _SAFE_ID.pattern,
}


def _source(token: str, where: str, folder: Path) -> tuple[str, str]:
    """What `download` is given, and the id. A token that looks like an id but is none stays: download settles it with its reason."""
    if "://" in token:
        if not re.match(r"https?://[^/]", token):
            raise ValueError(f"{where}: {token} is no http or https address")
        if youtube := _YOUTUBE_URL.match(token):
            return youtube[1], youtube[1]
        name = unquote(Path(urlsplit(token).path).stem) or urlsplit(token).netloc
        return token, f"{_safe(name)}-{hashlib.sha256(token.encode()).hexdigest()[:8]}"
    if "/" in token or _VIDEO_SUFFIX.fullmatch(Path(token).suffix):
        path = (folder / Path(token).expanduser()).resolve()
        return str(path), _safe(path.stem)
    if not re.fullmatch(r"[A-Za-z0-9_-]+", token):
        raise ValueError(f"{where}: {token!r} is no YouTube id, http address or path (a path has a / or ends like a video)")
    return token, token[:_LONGEST_ID]


def _named_by_path(folder: Path, files: Iterable[Path]) -> list[Line]:
    """One line a file; ids come from the path below the folder, so that two files of one name keep apart."""
    lines: list[Line] = []
    taken: set[str] = set()
    for file in files:
        inside = file.relative_to(folder)
        video = _safe(str(inside.with_suffix("")))
        if video.lower() in taken:
            video = f"{video[: _LONGEST_ID - 9]}-{hashlib.sha256(str(inside).encode()).hexdigest()[:8]}"
        taken.add(video.lower())
        lines.append(Line(where=str(file), video=video, source=str(file.resolve())))
    return lines


def _safe(name: str) -> str:
    """A file name of plain characters: folders are joined by --, anything else unsafe becomes _."""
    return re.sub(r"[^A-Za-z0-9_-]", "_", name.replace("/", "--"))[:_LONGEST_ID] or "video"


def _without_comment(text: str) -> str:
    return re.sub(r"(^|\s)#.*", "", text).strip()


def _merged(lines: list[Line]) -> list[Line]:
    """Lines without plain repetitions. Raises ValueError on one id that means two things."""
    first: dict[str, Line] = {}
    for line in lines:
        seen = first.setdefault(line.video, line)
        facts, seen_facts = ([getattr(one, name) for name in Line.__slots__ if name != "where"] for one in (line, seen))
        if facts != seen_facts:
            what = "says something else" if line.source == seen.source else "is another video of the same id; give one an id=name"
            raise ValueError(f"{line.where}: {line.video} {what} (compare {seen.where})")
    return list(first.values())


def _manifest(lines: list[Line]) -> Manifest:
    def column(name: str, dtype: type) -> np.ndarray:
        return np.array([getattr(line, name) for line in lines], dtype)

    return Manifest(
        video=column("video", object),
        source=column("source", object),
        split=column("split", object),
        frames_per_second=column("frames_per_second", np.float64),
        num_frames=column("num_frames", np.int64),
        width=column("width", np.int32),
        height=column("height", np.int32),
    )


def from_wilor_json(files: Mapping[str, Path]) -> str:
    """The text of a list from WiLoR's files by split: {id: {"res": [height, width], "length": frames, "fps": rate}}."""
    text = [
        "# WHIM (WiLoR, CVPR 2025): the annotated YouTube videos. Made by: python -m pipeline.manifest --from-json train.json test.json"
    ]
    for split, file in files.items():
        for video, known in sorted(json.loads(file.read_text()).items()):
            height, width = known["res"]
            fps = f"{known['fps']:.6f}".rstrip("0").rstrip(".")
            text.append(f"{video} split={split} fps={fps} frames={known['length']} size={width}x{height}")
    return "\n".join(text) + "\n"


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="Print a list of videos made from WiLoR's two JSON files.")
    parser.add_argument("--from-json", nargs=2, required=True, metavar=("TRAIN", "TEST"), type=Path)
    train, test = parser.parse_args().from_json
    print(from_wilor_json({"train": train, "test": test}), end="")
