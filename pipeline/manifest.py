"""Reading what to build from: lists of videos, folders, files, globs, single addresses.

A list is text, one video a line: a YouTube id, an http address or a path, then what is known of it, `#` for comments:

    5-TyAsFwo40 split=train fps=29.97 frames=3185 size=960x720
    -ChOGBEL5uE split=train
    https://example.org/hands.mp4 id=hands_a
    ../mine/kitchen.mp4          # relative to the list
    talk.mp4 start=1:30 end=95.5 signer=ann gloss=HAND   # seconds, or minutes:seconds; any other name=value is a column of yours
    walk/frame_%04d.png fps=30   # numbered images are one film; so is a folder of them, walk/ fps=30
    cup.mp4 focal=1180           # pixels of the upright image; or hfov=62, camera=file.json, projection=equirectangular

`removed.txt` beside a list, or in a folder of videos, names ids, one a line, whose owners withdrew them: they are left out, and leave
the shards with the next run.
"""

import argparse
import glob
import hashlib
import json
import os
import re
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from difflib import get_close_matches
from pathlib import Path
from urllib.parse import unquote, urlsplit

import numpy as np

from pipeline.video_files import LeftOut, find_files, has_video_name, ids_of, safe_id, shown_name
from stages.cameras.words import CAMERA_EXAMPLES, CAMERA_FIELDS, camera_said
from stages.digest import CorruptFileError, check_text
from stages.media.probe import is_video
from stages.media.sequence import DEFAULT_RATE, images_of_pattern, is_pattern, name_of
from stages.tables import Manifest
from stages.web.address import without_secrets

_YOUTUBE_URL = re.compile(
    r"https?://(?:[\w-]+\.)?(?:youtube\.com/(?:watch\?(?:.*&)?v=|shorts/|embed/|live/)|youtu\.be/)([\w-]{11})(?![\w-])", re.ASCII
)
_ID_LIKE = re.compile(r"[A-Za-z0-9_-]+")
_LONGEST_ID_BYTES = 100
_LONGEST_PATH_BYTES, _LONGEST_NAME_BYTES = 4095, 255
_FIELD = re.compile(r"\s+(?=\w+=\S*(?:\s|$))")
_COMMENT = re.compile(r"(^|\s)#.*")
_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f\u2028\u2029]")


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
    start_s: float = 0.0
    end_s: float = 0.0
    extra: str = ""
    camera: str = ""


@dataclass(frozen=True, slots=True)
class Listing:
    """The videos that some words name, and the files beside them that are not taken."""

    manifest: Manifest
    left_out: tuple[LeftOut, ...] = ()
    withdrawn: frozenset[str] = frozenset()
    """Ids and sources that lists of withdrawn videos name."""


def read_manifest(given: Path | str | Sequence[Path | str], known: Mapping[str, str] | None = None) -> Manifest:
    """The videos that `read_listing` finds."""
    return read_listing(given, known).manifest


def read_listing(
    given: Path | str | Sequence[Path | str], known: Mapping[str, str] | None = None, withdrawn: Path | None = None
) -> Listing:
    """The videos of lists, of all files below folders, of files, globs and single addresses; withdrawn ones left out.

    `known` are ids by source that an earlier run gave: they stay. `withdrawn` is another list of withdrawn videos. Raises ValueError
    that names file and line of a malformed or contradictory line, FileNotFoundError when there is no such path or no video below it.
    """
    words = [given] if isinstance(given, str | Path) else list(given)
    lines: list[Line] = []
    files: list[tuple[Path, Path]] = []
    left_out: list[LeftOut] = []
    removed: list[Path] = [withdrawn] if withdrawn else []
    for path in [one for word in words for one in _expanded(word)]:
        if isinstance(path, str):  # an address, an id, or a pattern of images
            lines.append(parse_line(path, "--videos", Path()))
        elif path.is_dir():
            found = find_files(path)
            if not found.taken and len(words) == 1:
                raise FileNotFoundError(
                    f"{path}: no video below this folder (looked for .mp4, .mkv, .webm and the like){_few(found.left_out)}"
                )
            files += [(path, file) for file in found.taken]
            left_out += found.left_out
            removed.append(path / "removed.txt")
        elif has_video_name(path.name) or (path.is_file() and is_video(path)):
            files.append((path.parent, path))
        else:
            lines += _read_list(path)
            removed.append(path.parent / "removed.txt")
    ids = ids_of(files, known or {})
    taken = [Line(where=str(file), video=video, source=str(file.resolve())) for (_, file), video in zip(files, ids, strict=True)]
    manifest = _manifest(_merged([*taken, *lines]))
    gone = frozenset[str]().union(*map(withdrawn_in, dict.fromkeys(removed)))
    stays = without(manifest, gone)
    left_out += [LeftOut(str(video), "withdrawn") for video in sorted({*manifest.video} - {*stays.video})]
    return Listing(stays, tuple(left_out), gone)


def storable(manifest: Manifest) -> Manifest:
    """A manifest as it may be written down: its addresses without passwords and tokens."""
    return replace(manifest, source=np.array([without_secrets(str(source)) for source in manifest.source], object))


def _expanded(word: Path | str) -> list[Path | str]:
    """The paths that a word names: itself, or what a glob matches; an address or a YouTube id stays a word."""
    text = str(word)
    if isinstance(word, str) and re.match(r"[a-z][a-z0-9+.-]*://", text, re.IGNORECASE):
        return [text]
    if isinstance(word, str) and is_pattern(os.path.realpath(_home(_FIELD.split(text)[0], "--videos"))):
        return [text if "/" in text else f"./{text}"]
    path = Path(_home(text, "--videos"))
    try:
        if path.exists() or path.is_symlink():
            return [path]
    except (OSError, ValueError) as error:
        raise ValueError(f"{shown_name(text)[:200]}: {getattr(error, 'strerror', None) or error}") from None
    if isinstance(word, str) and re.search(r"[*?\[]", text):
        matching = sorted(glob.glob(str(path), recursive=True))  # noqa: PTH207  a word with an absolute pattern
        if matching:
            return [Path(one) for one in matching]
        raise FileNotFoundError(f"{text}: no file matches")
    if isinstance(word, str) and re.fullmatch(r"[A-Za-z0-9_-]{11}", text):
        return [text]
    raise FileNotFoundError(f"{shown_name(text)}: no such file or folder: neither a list of videos, nor an address or id")


def _few(left_out: Sequence[LeftOut]) -> str:
    return f"; not taken: {', '.join(map(str, left_out[:3]))}{' ...' if len(left_out) > 3 else ''}" if left_out else ""


def _read_list(path: Path) -> list[Line]:
    """The lines of a list. Raises ValueError when it is no text, or names nothing."""
    if not path.is_file():
        why = "a link that leads nowhere" if path.is_symlink() and not path.exists() else "no file of the disk"
        raise ValueError(f"{shown_name(path)} is no list of videos: {why}")
    try:
        content = path.read_bytes()
        text = content.decode("utf-8-sig")
    except PermissionError:
        raise ValueError(f"{path} cannot be read by this user: chmod it, or run as its owner") from None
    except UnicodeDecodeError as error:
        number = content.count(b"\n", 0, error.start) + 1
        what = f"line {number} is no UTF-8" if b"\0" not in content[:4096] else "it is no text"
        raise ValueError(f"{path}: {what}: a list names one video a line, a video is known by its suffix (.mp4, .mkv ...)") from None
    text = text.replace("\r\n", "\n").replace("\r", "\n")
    folder, folders = path.parent, dict[str, str]()
    parsed = [
        parse_line(line, f"{path}:{number}", folder, folders) for number, line in enumerate(text.split("\n"), 1) if _without_comment(line)
    ]
    if not parsed:
        raise ValueError(f"{path} names no video: one a line, a YouTube id, an http address or a path")
    return parsed


def withdrawn_in(removed: Path) -> frozenset[str]:
    """The ids and sources that a list of withdrawn videos names; none where there is no such list.

    Raises ValueError for what is no text, and for a list that is not as `whim remove` left it: nobody comes back unasked.
    """
    if not removed.exists():
        return frozenset()
    try:
        check_text(removed)
        text = removed.read_text("utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise ValueError(
            f"{removed} cannot be read ({getattr(error, 'strerror', None) or 'no UTF-8'}): it names withdrawn videos, one a line"
        ) from None
    except CorruptFileError:
        raise ValueError(
            f"{removed} is not as whim remove left it: if you changed it, take away its line of sha256; else copy it from a backup"
        ) from None
    return frozenset(_without_comment(line) for line in text.splitlines()) - {""}


def without(manifest: Manifest, withdrawn: Collection[str]) -> Manifest:
    """A manifest without the videos whose ids or sources are withdrawn."""
    pairs = zip(manifest.video, manifest.source, strict=True)
    stays = [not {str(video), str(source), without_secrets(str(source))} & set(withdrawn) for video, source in pairs]
    return manifest.take(np.array(stays, bool))


def parse_line(text: str, where: str, folder: Path, folders: dict[str, str] | None = None) -> Line:
    """One line of a list; paths are relative to `folder`. Raises ValueError that names `where` and how to mend it.

    `folders` remembers where the folders of paths really are, between the lines of a list.
    """
    if _CONTROL.search(text):
        raise ValueError(f"{where}: a control character stands in {shown_name(text)[:80]!r}; a list is plain text")
    source, *wishes = _FIELD.split(_without_comment(text))
    known: dict[str, str] = {}
    for wish in wishes:
        name, _, value = wish.partition("=")
        if name not in _FIELDS and (meant := get_close_matches(name.lower(), _FIELDS, 1, 0.75)):
            raise ValueError(f"{where}: {wish[:80]!r} is a column of yours or {meant[0]}=: give it a name less like that")
        if not _FIELDS.get(name, _FREE).fullmatch(value):
            wanted = (
                f"{name}= is written as {_EXAMPLES[name]}" if name in _FIELDS else "a column of yours is name=value, 1000 signs at most"
            )
            raise ValueError(f"{where}: {wish[:80]!r}: {wanted}")
        if name in known:
            raise ValueError(f"{where}: {name} is given twice; keep one")
        known[name] = value
    width, _, height = known.get("size", "0x0").partition("x")
    source, video = _source(source, where, folder, {} if folders is None else folders)
    moments = (0, 0.0)
    if "%" in source and is_pattern(source):
        images, video = images_of_pattern(Path(source)), safe_id(str(name_of(Path(source)).relative_to(Path(source).parent.parent)))
        moments = images[0].number if images else 0, float(known.get("fps", 0)) or DEFAULT_RATE
        if not images and "camera" in known and "pose_first" not in known:
            raise ValueError(f"{where}: no image is named {source}, so pose_first= must say which number in a name is the first frame's")
    start_s, end_s = (_seconds(known.get(name, "0")) for name in ("start", "end"))
    if "end" in known and end_s <= start_s:
        raise ValueError(f"{where}: end={known['end']} is not after start={known.get('start', '0')}")
    if 0 < float(known.get("fps", 0)) < _LOWEST_RATE:
        raise ValueError(f"{where}: fps={known['fps']} is less than {_LOWEST_RATE:g}, a frame in {1 / _LOWEST_RATE:g} seconds")
    if "id" in known and len(known["id"].encode()) > _LONGEST_ID_BYTES:
        raise ValueError(f"{where}: id={known['id'][:20]}... is longer than {_LONGEST_ID_BYTES} bytes")
    return Line(
        where=where,
        video=known.get("id", video),
        source=source,
        split=known.get("split", ""),
        frames_per_second=float(known.get("fps", 0)),
        num_frames=int(known.get("frames", 0)),
        width=int(width),
        height=int(height),
        start_s=start_s,
        end_s=end_s,
        extra=json.dumps(free, sort_keys=True, ensure_ascii=False) if (free := _free(known)) else "",
        camera=camera_said(known, where, folder, moments),
    )


def _pattern_of(folder: str, where: str) -> str:
    """The pattern of the one film of numbered images that a folder is. Raises ValueError."""
    found = find_files(Path(folder))
    if found.videos or found.images or len(found.films) != 1:
        raise ValueError(f"{where}: {folder} is a folder, and not numbered images of one size: name a file, or images as frame_%04d.png")
    return str(found.films[0])


def _seconds(text: str) -> float:
    """95.5, 1:35.5 or 0:01:35.5 in seconds."""
    total_s = 0.0
    for part in text.split(":"):
        total_s = 60 * total_s + float(part)
    return total_s


def _free(known: Mapping[str, str]) -> dict[str, str]:
    return {name: value for name, value in known.items() if name not in _FIELDS}


_LOWEST_RATE = 0.01
"""Frames a second: the ticks of numbered images' film are thousandths of this and no finer. Ours."""
_FREE = re.compile(r"\S{1,1000}")
_TIME = re.compile(r"([0-9]{1,3}:)?([0-9]{1,3}:)?[0-9]{1,6}(\.[0-9]{1,9})?")
_FIELDS: Mapping[str, re.Pattern[str]] = {
    "split": re.compile("train|val|test"),
    "fps": re.compile(r"[0-9]{1,4}(\.[0-9]{1,20})?"),
    "frames": re.compile(r"[0-9]{1,12}"),
    "size": re.compile(r"[1-9][0-9]{0,5}x[1-9][0-9]{0,5}"),
    "id": re.compile(r"[\w-][\w.-]{0,99}"),
    "start": _TIME,
    "end": _TIME,
    **CAMERA_FIELDS,
}
"""What each field looks like, and how large it may be."""
_EXAMPLES: Mapping[str, str] = {
    "split": "train|val|test",
    "fps": "29.97",
    "frames": "5000",
    "size": "1280x720",
    "id": "name",
    "start": "1:30",
    "end": "95.5",
    **CAMERA_EXAMPLES,
}


def _source(token: str, where: str, folder: Path, folders: dict[str, str]) -> tuple[str, str]:
    """What `download` is given, and the id. A token that looks like an id but is none stays: download settles it with its reason."""
    if "://" in token:
        return _address(token, where)
    if "/" in token or has_video_name(token):
        if len(token) > _LONGEST_NAME_BYTES // 4:
            _check_length(token, where)
        above, _, name = f"{folder}/{_home(token, where)}".rpartition("/") if token[0] not in "/~" else _home(token, where).rpartition("/")
        real = folders.get(above)
        if real is None:
            real = folders[above] = os.path.realpath(above or "/")
        path = f"{real.rstrip('/')}/{name}"
        if name in ("", ".", "..") or os.path.islink(path):  # noqa: PTH114  a list may have a million lines
            path = os.path.realpath(path)
        if not has_video_name(name) and os.path.isdir(path):  # noqa: PTH112
            path = _pattern_of(path, where)
        return path, safe_id(name.rpartition(".")[0] or name)
    if not _ID_LIKE.fullmatch(token):
        raise ValueError(f"{where}: {token[:80]!r} is no YouTube id, http address or path (a path has a / or ends like a video)")
    return token, token[:_LONGEST_ID_BYTES]


def _check_length(token: str, where: str) -> None:
    if len(token.encode()) > _LONGEST_PATH_BYTES or any(len(part.encode()) > _LONGEST_NAME_BYTES for part in token.split("/")):
        raise ValueError(f"{where}: no disk has a path as long as {token[:40]!r}...")


def _address(token: str, where: str) -> tuple[str, str]:
    try:
        parts = urlsplit(token)
        sound = parts.scheme in ("http", "https") and bool(parts.hostname) and (parts.port or 1) > 0
    except ValueError:
        sound = False
    if not sound:
        raise ValueError(f"{where}: {without_secrets(token)[:200]} is no http or https address")
    token = parts.scheme + token[len(parts.scheme) :]  # HTTP:// is http://
    if youtube := _YOUTUBE_URL.match(token):
        return youtube[1], youtube[1]
    name = unquote(Path(parts.path).stem) or parts.netloc.rpartition("@")[2]
    digest = hashlib.sha256(without_secrets(token).encode()).hexdigest()[:8]
    return token, f"{_short(safe_id(name))}-{digest}"


def _short(video: str) -> str:
    """An id that leaves room for a digest behind it."""
    return video if len(video.encode()) <= _LONGEST_ID_BYTES else video[: _LONGEST_ID_BYTES - 9]


def _home(text: str, where: str) -> str:
    """A path with ~ written out. Raises ValueError for a user that there is not."""
    if not text.startswith("~"):
        return text
    path = os.path.expanduser(text)  # noqa: PTH111  Path.expanduser raises where this stays
    if path.startswith("~"):
        raise ValueError(f"{where}: there is no user {path.partition('/')[0][:80]}")
    return path


def _without_comment(text: str) -> str:
    return (_COMMENT.sub("", text) if "#" in text else text).strip()


def _merged(lines: Iterable[Line]) -> list[Line]:
    """Lines without plain repetitions. Raises ValueError on one id that means two things, on a disk that knows no case as well."""
    first: dict[str, Line] = {}
    for line in lines:
        seen = first.setdefault(line.video.casefold(), line)
        if seen is not line and replace(line, where=seen.where) != seen:
            what = "says something else" if line.source == seen.source else "is another video of the same id; give one an id=name"
            raise ValueError(f"{line.where}: {line.video} {what} (compare {seen.where})")
    return list(first.values())


def _manifest(lines: list[Line]) -> Manifest:
    def column(name: str, dtype: type) -> np.ndarray:
        return np.array([getattr(line, name) for line in lines], dtype)

    return Manifest.of(
        video=column("video", object),
        source=column("source", object),
        split=column("split", object),
        frames_per_second=column("frames_per_second", np.float64),
        num_frames=column("num_frames", np.int64),
        width=column("width", np.int32),
        height=column("height", np.int32),
        start_s=column("start_s", np.float64),
        end_s=column("end_s", np.float64),
        extra=column("extra", object),
        camera=column("camera", object),
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
