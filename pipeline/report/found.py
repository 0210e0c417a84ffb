"""Everything a run found, in columns: what the report counts, ranks and draws. A run may be unfinished."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace

import numpy as np

from pipeline.dataset.cameras import cameras_of_clip
from pipeline.engine.store import Store
from stages import boxes
from stages.digest import CorruptFileError
from stages.pack import ClipTables
from stages.tables import Clips, Fits, Hands, Reviews, Videos

_OF_HANDS = ("video", "frame", "time_s", "hand", "track", "side", "score", "num_agree", "num_run")
NOT_REVIEWED = "not_reviewed"
"""Reason of hands whose clip has no review yet."""


@dataclass(frozen=True, eq=False, slots=True, kw_only=True)
class Found:
    """Every hand of a run, one item each in columns of equal length."""

    video: np.ndarray
    clip: np.ndarray
    row: np.ndarray  # within the clip's tables
    frame: np.ndarray
    time_s: np.ndarray
    hand: np.ndarray
    track: np.ndarray
    side: np.ndarray
    size_px: np.ndarray  # longer side of the box
    size_share: np.ndarray  # the same over the frame's longer side
    score: np.ndarray
    quality: np.ndarray
    error_px: np.ndarray
    error_share: np.ndarray
    num_agree: np.ndarray
    num_run: np.ndarray
    keep: np.ndarray
    box_only: np.ndarray
    reason: np.ndarray

    @property
    def waiting(self) -> np.ndarray:
        """Hands without a verdict."""
        return np.asarray(self.reason == NOT_REVIEWED)


@dataclass(frozen=True, eq=False, slots=True, kw_only=True)
class Run:
    """What lies in a data folder."""

    videos: Mapping[str, Videos]
    clips: Mapping[str, Clips]
    found: Found
    seen_by: Mapping[str, np.ndarray]  # by detector, which hands it saw
    damaged: Sequence[str] = ()
    """Parts that cannot be read, a sentence each: their videos or hands are not here."""


def gather(store: Store) -> Run:
    """All videos and clips that landed, and all hands of these clips; what of them is damaged is named."""
    damaged: list[str] = []
    videos: dict[str, Videos] = {}
    clips: dict[str, Clips] = {}
    sources: list[set[str]] = []
    columns: dict[str, list[np.ndarray]] = {f.name: [] for f in fields(Found)}
    for video in store.keys("videos"):
        try:
            videos[video] = store.read(Videos, "videos", video)
            if store.has("clips", video):
                clips |= {clip.clip[0]: clip for clip in store.read(Clips, "clips", video).rows()}
        except CorruptFileError as error:
            damaged.append(str(error))
    for clip in clips:
        if not store.has("hands", clip):
            continue
        try:
            tables = _tables(store, clip)
        except CorruptFileError as error:
            damaged.append(str(error))
            continue
        sources += map(set, tables[0].sources)
        for name, values in _columns(clip, *tables).items():
            columns[name].append(values)
    empty = _columns("", Hands.empty(), Fits.empty(), Reviews.empty())
    found = Found(**{name: np.concatenate(parts) if parts else empty[name] for name, parts in columns.items()})
    seen_by = {name: np.array([name in names for names in sources], bool) for name in sorted(set().union(*sources))}
    return Run(videos=videos, clips=clips, found=found, seen_by=seen_by, damaged=damaged)


def _tables(store: Store, clip: str) -> tuple[Hands, Fits, Reviews]:
    """Hands of a clip with their fits and reviews; rows of NaN, and of no verdict, where these have not landed."""
    hands = store.read(Hands, "hands", clip)
    key = {"video": hands.video, "frame": hands.frame, "time_s": hands.time_s, "hand": hands.hand}
    n = len(hands)
    fits = store.read(Fits, "fits", clip) if store.has("fits", clip) else None
    if fits is None or len(fits) != n:
        blank = Fits.empty()
        nan = {f.name: np.full((n, *getattr(blank, f.name).shape[1:]), np.nan, np.float32) for f in fields(Fits) if f.name != "camera_from"}
        fits = Fits(**{**nan, **key, "side": hands.side, "outcome": np.full(n, "", object), "num_points": np.zeros(n, np.int16)})
    reviews = store.read(Reviews, "reviews", clip) if store.has("reviews", clip) else None
    if reviews is None or len(reviews) != n:
        nothing = np.zeros(n, bool)
        verdict = {"quality": np.full(n, np.nan, np.float32), "reason": np.full(n, NOT_REVIEWED, object)}
        reviews = Reviews(**key, **verdict, keep=nothing, box_only=nothing)
    return hands, fits, reviews


def _columns(clip: str, hands: Hands, fits: Fits, reviews: Reviews) -> dict[str, np.ndarray]:
    size_px = boxes.long_side(hands.box)
    return {
        **{name: getattr(hands, name) for name in _OF_HANDS},
        **{name: getattr(reviews, name) for name in ("quality", "keep", "box_only", "reason")},
        "clip": np.full(len(hands), clip, object),
        "row": np.arange(len(hands)),
        "size_px": size_px,
        "size_share": size_px / np.maximum(1, np.maximum(hands.width, hands.height)),
        "error_px": fits.error_px,
        "error_share": fits.error_share,
    }


def load_clip(store: Store, run: Run, clip: str) -> ClipTables:
    """The tables of one clip, to draw its hands."""
    clips = run.clips[clip]
    hands, fits, reviews = _tables(store, clip)
    videos = run.videos[clips.video[0]]
    path = store.root / videos.path[0]
    if store.mirror and path.is_relative_to(store.root):
        store.mirror.have_video(path)
    videos = replace(videos, path=np.array([str(path)], object))
    cameras = cameras_of_clip(store, videos, clips)
    return ClipTables(videos=videos, clips=clips, hands=hands, fits=fits, reviews=reviews, cameras=cameras)
