"""What has landed in a data folder: its videos and clips, known by sizes and times of their parts before a hand is read."""

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from typing import Any, TypeVar

from pipeline.engine.store import Store
from stages.digest import CorruptFileError
from stages.shards import split_of
from stages.tables import Clips, Manifest, Videos

OF_VIDEOS = ("licence", "channel", "title")
OF_HANDS = ("hands", "fits", "reviews", "refused_hands")
"""Tables of which a clip's rows are made."""
_T = TypeVar("_T")


@dataclass(slots=True)
class Clip:
    """A clip as it lies in the folder."""

    number: int
    row: Clips
    video: int
    stamp: str
    """Sizes and times of its parts: what differs is read again."""


@dataclass(slots=True)
class Landed:
    """What is known of a data folder before a hand is read."""

    videos: dict[str, dict[str, Any]] = field(default_factory=dict)
    clips: dict[str, Clip] = field(default_factory=dict)
    unreadable: list[str] = field(default_factory=list)


def look(store: Store) -> Landed:
    """The videos and clips that landed; parts that cannot be read are named."""
    found = Landed()
    stamps = {table: store.stamps(table) for table in OF_HANDS}
    splits = _splits(store, found.unreadable)
    for key in store.keys("videos"):
        row = _sound(store, found.unreadable, partial(store.read, Videos, "videos", key))
        clips = _sound(store, found.unreadable, partial(store.read, Clips, "clips", key)) if row else None
        if row is None or clips is None:
            continue
        video = str(row.video[0])
        texts = {name: str(getattr(row, name)[0]) for name in OF_VIDEOS}
        found.videos[video] = {"video": video, "extra": str(row.extra[0]), **texts, "split": splits.get(video) or split_of(video, "")}
        for clip in clips.rows():
            name = str(clip.clip[0])
            stamp = " ".join(stamps[table].get(name, "") for table in OF_HANDS)
            if stamps["hands"].get(name):
                found.clips[name] = Clip(-1, clip, len(found.videos) - 1, stamp)
    return found


def _sound(store: Store, unreadable: list[str], read: Callable[[], _T]) -> _T | None:
    """What a file holds; None where there is none, or where it is damaged and now named so."""
    try:
        return read()
    except FileNotFoundError:
        return None
    except CorruptFileError as error:
        unreadable.append(str(error.path.relative_to(store.root)))
        return None


def _splits(store: Store, unreadable: list[str]) -> dict[str, str]:
    """The split of each video: as it was packed, or as the list has it."""
    manifest = _sound(store, unreadable, partial(store.read, Manifest, "", "manifest")) or Manifest.empty()
    listed = {str(v): split_of(str(v), str(s)) for v, s in zip(manifest.video, manifest.split, strict=True)}
    stats = _sound(store, unreadable, partial(store.read_json, "shards/stats.json")) or {}
    videos = stats.get("videos")  # of a stranger's folder it may be anything
    known = (
        {video: one["split"] for video, one in videos.items() if isinstance(one, dict) and "split" in one}
        if isinstance(videos, dict)
        else {}
    )
    return listed | {str(video): str(split) for video, split in known.items()}
