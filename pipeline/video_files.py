"""Which files of a folder are taken as videos, the ids they get, and why every other one is left out."""

import hashlib
import os
import re
import stat
import unicodedata
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from stages.media.heif import is_heif_photo
from stages.media.probe import is_video
from stages.media.sequence import IMAGE_SUFFIXES, films_among, is_pattern, name_of

VIDEO_SUFFIXES = frozenset(
    ".mp4 .m4v .mov .mkv .webm .avi .gif .mpg .mpeg .mts .m2ts .ts .flv .wmv .ogv .3gp .y4m .apng".split()  # noqa: SIM905  one line reads better
)
_UNFINISHED = frozenset(".part .partial .crdownload .download .ytdl .tmp .temp .bak .old .orig".split())  # noqa: SIM905
"""What is not there yet, or was put aside: not taken, whatever it holds."""
_MAY_MOVE = frozenset({".webp", ".heic", ".heif", ".avif"})
_SUFFIXES = VIDEO_SUFFIXES | IMAGE_SUFFIXES
_LONGEST_ID_BYTES = 100
_PLAIN = re.compile(r"[A-Za-z0-9_-]{1,100}")
_SYSTEM_FOLDERS = frozenset({"$RECYCLE.BIN", "System Volume Information", "__MACOSX", "@eaDir", "lost+found"})


@dataclass(frozen=True, slots=True)
class LeftOut:
    """A file that is not taken, and why."""

    name: str
    why: str

    def __str__(self) -> str:
        return f"{self.name} ({self.why})"


@dataclass(slots=True)
class Found:
    """What lies below a folder, sorted."""

    videos: list[Path] = field(default_factory=list)
    images: list[Path] = field(default_factory=list)
    left_out: list[LeftOut] = field(default_factory=list)

    films: list[Path] = field(default_factory=list)
    """Patterns of numbered images that are one film each; `images` are the others."""

    @property
    def taken(self) -> list[Path]:
        """The videos; the films of images and the images where there is no video (beside videos they are thumbnails)."""
        return self.videos or [*self.films, *self.images]


def has_video_name(name: str) -> bool:
    """Whether a file is taken for a video, or for an image, by its name."""
    return f".{name.rpartition('.')[2].lower()}" in _SUFFIXES


def find_files(folder: Path) -> Found:
    """All videos and images below a folder. A link to a folder is followed, each folder once; hidden and system files are left out."""
    found, seen, waiting = Found(), set[tuple[int, int]](), [folder]
    links: list[Path] = []
    while waiting or links:
        place = waiting.pop(0) if waiting else links.pop(0)  # what lies here before what is linked: a folder keeps its own name
        try:
            about = place.stat()
            entries = sorted(os.scandir(place), key=lambda entry: entry.name)
        except OSError as error:
            found.left_out.append(LeftOut(shown_name(place), f"cannot be listed: {error.strerror}"))
            continue
        if (about.st_dev, about.st_ino) in seen:
            continue
        seen.add((about.st_dev, about.st_ino))
        if place != folder and (place / "run.json").is_file() and (place / ".lock").exists():
            found.left_out.append(LeftOut(shown_name(place), "a data folder of whim"))
            continue
        for entry in entries:
            _sort(Path(entry.path), found, links if entry.is_symlink() else waiting)
    found.videos.sort()
    found.images.sort()
    if found.videos:
        found.left_out += [LeftOut(shown_name(path), "an image beside videos") for path in found.images]
        return found
    films = films_among(found.images)
    within = {path for paths in films.values() for path in paths}
    found.films, found.images = sorted(films), [path for path in found.images if path not in within]
    return found


def _sort(path: Path, found: Found, folders: list[Path]) -> None:
    """Put one entry of a folder where it belongs."""
    name, suffix = path.name, path.suffix.lower()
    try:
        mode = path.stat().st_mode
    except OSError as error:
        mode, fault = 0, "a link that leads nowhere" if path.is_symlink() else str(error.strerror)
    if name.startswith(".") or name in _SYSTEM_FOLDERS:
        found.left_out.append(LeftOut(shown_name(path), "hidden"))
    elif stat.S_ISDIR(mode):
        folders.append(path)
    elif not _is_text(str(path)):
        found.left_out.append(LeftOut(shown_name(path), "its name is no UTF-8; rename it"))
    elif mode == 0:
        found.left_out.append(LeftOut(shown_name(path), fault))
    elif not stat.S_ISREG(mode):
        found.left_out.append(LeftOut(shown_name(path), "no file of the disk"))
    elif suffix in VIDEO_SUFFIXES:
        found.videos.append(path)
    elif suffix in IMAGE_SUFFIXES and not _is_film(path, suffix):
        found.images.append(path)
    elif suffix in _UNFINISHED:
        found.left_out.append(LeftOut(shown_name(path), "unfinished or put aside, by its name"))
    elif suffix in IMAGE_SUFFIXES or is_video(path):
        found.videos.append(path)
    else:
        found.left_out.append(LeftOut(shown_name(path), "no video by its name and content"))


def _is_film(path: Path, suffix: str) -> bool:
    """Whether a file that has the name of an image moves."""
    return suffix in _MAY_MOVE and not is_heif_photo(path) and is_video(path)


def _is_text(name: str) -> bool:
    try:
        name.encode()
    except UnicodeEncodeError:
        return False
    return True


def shown_name(path: Path | str) -> str:
    """A path as it can be printed and stored: bytes that are no UTF-8 as \\xe9, and no control characters."""
    text = os.fsencode(path).decode("utf-8", "backslashreplace")
    return "".join(one if one.isprintable() else f"\\x{ord(one):02x}" for one in text)


def ids_of(files: Sequence[tuple[Path, Path]], known: Mapping[str, str]) -> list[str]:
    """An id for each (folder that was named, file below it): its path there, so that two files of one name keep apart.

    A file keeps the id that it is known by (from its absolute path), whatever comes beside it later. Ids differ by more than case.
    """
    sources = [str(file.resolve()) for _, file in files]
    kept = [known.get(source) for source in sources]
    taken = {one.casefold() for one in kept if one}
    ids: list[str] = []
    for (folder, file), source, before in zip(files, sources, kept, strict=True):
        if is_pattern(str(file)):
            inside = name_of(file).relative_to(folder if file.parent != folder else folder.parent)
        else:
            inside = (file.relative_to(folder) if file.is_relative_to(folder) else Path(file.name)).with_suffix("")
        video = before or safe_id(str(inside))
        if not before and video.casefold() in taken:
            video = _with_hash(video, str(inside))
            if video.casefold() in taken:  # the same name in two folders that were named
                video = _with_hash(video, source)
        taken.add(video.casefold())
        ids.append(video)
    return ids


def safe_id(name: str) -> str:
    """A file name made of a path: letters and digits of any script stay, folders are joined by --, anything else becomes _."""
    if _PLAIN.fullmatch(name):
        return name
    name = unicodedata.normalize("NFC", name.replace("/", "--"))
    plain = "".join(one if one in "_-" or unicodedata.category(one)[0] in "LMN" else "_" for one in name)
    if len(plain.encode()) <= _LONGEST_ID_BYTES:
        return plain or "video"
    return plain[:_LONGEST_ID_BYTES] if plain.isascii() else _with_hash(plain, plain)


def _with_hash(video: str, of: str) -> str:
    room = _LONGEST_ID_BYTES - 9
    return f"{video.encode()[:room].decode(errors='ignore')}-{hashlib.sha256(of.encode(errors='surrogateescape')).hexdigest()[:8]}"
