"""Pack the frames of a shard's clips with their hands: rows of JPEG bytes and annotations, batch by batch.

Frame of reference: pixels of the stored image, see `stages.shards`.
"""

import dataclasses
import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, ClassVar, TypeVar

import numpy as np
import pyarrow as pa
from jaxtyping import Bool, Float32, UInt8

from stages.cameras.path import world_from_view
from stages.cameras.views import in_view, rays_of, through_views
from stages.fuse_hands import Refusal
from stages.media.frames import read_frames
from stages.packed import Earlier, Picture, earlier_of
from stages.shards import HAND, HAND_COLUMNS, NO_CAMERA, Shards, unit_hash
from stages.stage import Key, MissingVideoError, Resources, check_settings, setting
from stages.tables import CameraPoses, Cameras, Clips, Fits, Hands, RefusedHands, Reviews, Table, Verdicts, Videos
from stages.verdicts import PERSON, corrected

BELOW_MIN_QUALITY = "min_quality"
"""Reason of a hand that the review kept and `Pack.min_quality` drops."""

STORED_ALIKE = (3, 4)
"""Versions of `Pack` whose images are stored alike: they differ in what is said of them."""

Row = dict[str, Any]


Found = TypeVar("Found", Hands, Fits)


@dataclass(frozen=True, eq=False, slots=True, kw_only=True)
class ClipTables:
    """All that is known of one clip: the one row of its video (absolute path), its own row, and the rows of its hands."""

    videos: Videos
    clips: Clips
    hands: Hands
    fits: Fits
    reviews: Reviews
    verdicts: Verdicts = dataclasses.field(default_factory=Verdicts.empty)
    """What people decided on its hands."""
    cameras: Cameras | None = None
    """The clip's camera and its views; None: nobody knows it."""
    poses: CameraPoses = dataclasses.field(default_factory=CameraPoses.empty)
    """Where the video's camera stood."""
    earlier: Iterable[Picture] | None = None
    """What an earlier shard holds of the clip, for the day when its video was put away."""
    refused: RefusedHands = dataclasses.field(default_factory=RefusedHands.empty)
    """What detectors saw and fusion did not take for a hand."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Pack:
    """Shards of frames for training: one row a frame, a JPEG and the list of its hands."""

    name: ClassVar[str] = "pack"
    version: ClassVar[int] = 4
    key: ClassVar[Key] = "shard"
    reads: ClassVar[tuple[type, ...]] = (Videos, Clips, Hands, Fits, Reviews, Verdicts, Cameras, CameraPoses, RefusedHands)
    may_lack: ClassVar[tuple[type, ...]] = (RefusedHands,)
    """Of what it reads: a recipe whose hands were not fused refuses nothing."""
    writes: ClassVar[type[Table]] = Shards
    detector: ClassVar[str] = ""
    resources: ClassVar[Resources] = Resources(cpus=1, limit_s=6 * 3600)

    num_shards: int = setting(4, least=1, most=99_999)
    """Shards of each split, at least; about one for every 5,000 frames gives files of 256 MB. Ours."""
    shard_mb: int = setting(256, least=1, most=1 << 20, identity=False)
    """Megabytes above which a shard becomes several files, by what its frames are expected to take (`expected_bytes`). Ours."""
    jpeg_quality: int = setting(90, least=1, most=100)
    """Of libjpeg, in [1, 100]. Ours."""
    max_side: int = setting(0, least=0, most=65_500)
    """Longest side of a stored image in pixels, larger ones are shrunk; 0 = as the video is. Ours."""
    min_quality: float = setting(0.0, least=0, most=1)
    """Hands whose review is below this quality are dropped. Ours."""
    keep_dropped: bool = False
    """List the dropped hands too, with `keep` false and their reason. Their boxes stay in `ignore_boxes`. Ours."""
    unsure_score: float = setting(0.05, least=0, most=1)
    """Least calibrated score of what fusion refused whose box is ignored: it may be a hand. Below, it is background. Ours."""
    negatives: float = setting(0.1, least=0, most=1)
    """Share of the frames on which no hand was found that are kept as negatives, chosen by a hash of the frame. Ours."""
    row_group_size: int = setting(128, least=1, most=1 << 20)
    """Most rows of a row group: what a reader fetches at once. Ours, measured."""
    row_group_bytes: int = setting(32 << 20, least=1, most=1 << 30)
    """A row group ends early when its images exceed this: it bounds memory for large frames. Ours."""

    def __post_init__(self) -> None:
        check_settings(self)

    @property
    def weights(self) -> Mapping[str, str]:
        """No model files."""
        return {}

    def build(self) -> Callable[..., Iterator[pa.RecordBatch]]:
        import simplejpeg

        encode = partial(simplejpeg.encode_jpeg, quality=self.jpeg_quality, colorspace="RGB", colorsubsampling="420")
        return partial(pack, settings=self, encode=encode)

    def expected_bytes(self, clip: Clips, width: int, height: int) -> int:
        """What the frames of a clip take, if all that are looked at have hands; `width` and `height` are its video's."""
        width, height = (int(clip.width[0]), int(clip.height[0])) if clip.width[0] else (width, height)
        scale = min(1.0, self.max_side / max(width, height, 1)) if self.max_side else 1.0
        rate, num_frames = float(clip.frames_per_second[0]), int(clip.num_frames[0])
        looked_at = min(num_frames, math.ceil((clip.end_s[0] - clip.start_s[0]) * rate)) if rate else num_frames
        return math.ceil(looked_at * width * height * scale**2 * _BYTES_PER_PIXEL)

    def gather(self, clips: Iterable[Sequence[Any]], before: Sequence[Path]) -> Iterator[ClipTables]:
        """The clips of a shard as `pack` takes them; the shards before speak for a video that was put away."""
        earlier: Earlier | None = None
        for videos, clip, hands, fits, reviews, verdicts, cameras, poses, refused in clips:
            if earlier is None and not Path(videos.path[0]).exists():
                stored_by = {"version": STORED_ALIKE, "jpeg_quality": (self.jpeg_quality,), "max_side": (self.max_side,)}
                earlier = earlier_of(before, stored_by)
            yield ClipTables(
                videos=videos,
                clips=clip,
                hands=hands,
                fits=fits,
                reviews=reviews,
                verdicts=verdicts,
                cameras=cameras,
                poses=poses,
                earlier=earlier and earlier(clip.clip[0], videos.sha256[0]),
                refused=RefusedHands.empty() if refused is None else refused,
            )


_BYTES_PER_PIXEL = 0.065
"""What a JPEG takes: 60 kB a frame of 1280 x 720 pixels. Ours, measured."""


def pack(
    sources: Iterable[ClipTables], notes: list[str] | None = None, *, settings: Pack, encode: Callable[[np.ndarray], bytes]
) -> Iterator[pa.RecordBatch]:
    """Rows of all clips, in record batches that become the row groups; no more than one batch and one stretch of frames in memory.

    Where of samples with hands no picture is left, in the video or in the earlier shard, `notes` gets a sentence that says so.
    Raises ValueError when tables contradict each other or the video, MissingVideoError when there is neither video nor earlier shard.
    """
    left_out: list[str] = []
    rows: list[Row] = []
    size_bytes = 0
    for source in sources:
        for row in _rows(source, left_out, settings, encode):
            rows.append(row)
            size_bytes += len(row["image"])
            if len(rows) == settings.row_group_size or size_bytes >= settings.row_group_bytes:
                yield _batch(rows)
                rows, size_bytes = [], 0
    if rows:
        yield _batch(rows)
    if left_out and notes is not None:
        why = "no video and no image in the earlier shard, or a hand was added where nobody looks any more"
        notes.append(f"{len(left_out)} frames left out, the first {left_out[0]}: {why}")


def _rows(source: ClipTables, left_out: list[str], settings: Pack, encode: Callable[[np.ndarray], bytes]) -> Iterator[Row]:
    """One row a frame that is worth keeping: with hands, or one of the sampled frames without any."""
    video, clip = source.videos.video[0], source.clips.clip[0]
    _refuse_misaligned(source, clip)
    found_by_run = set(source.hands.frame.tolist())
    source, by_person = _corrected(source)
    keep, listed, reviews = _chosen(source.reviews, settings, by_person)
    if not listed.any() and not settings.negatives:
        return
    scale = _scale(source.hands.width, source.hands.height, settings.max_side)
    hands, fits = _without_doubtful(*_scaled(source.hands, source.fits, scale), reviews.box_only)
    structs = _structs(hands, fits, reviews)
    unsure = _unsure(source.refused, settings)
    origin = _origin(source.videos)
    views = source.cameras if source.cameras is not None and len(source.cameras) > 1 else None
    missing = set(zip(source.hands.frame[listed].tolist(), source.hands.view[listed].tolist(), strict=True))

    def sample(frame: int, view: int) -> str:
        return f"{video}/{frame}" + (f"/{view}" if views is not None else "")

    def is_wanted(frame: int, view: int) -> bool:
        return (frame, view) in missing or (frame not in source.hands.frame and unit_hash(sample(frame, view)) < settings.negatives)

    for picture in _pictures(source, settings, encode, is_wanted):
        on_frame = (source.hands.frame == picture.frame) & (source.hands.view == picture.view)
        missing.discard((picture.frame, picture.view))
        elsewhere = [] if views is None else [box for seen in (source.hands, unsure) for box in _boxes_elsewhere(seen, views, picture)]
        maybe = unsure.box[(unsure.frame == picture.frame) & (unsure.view == picture.view)] * np.float32(picture.scale)
        yield {
            "sample": sample(picture.frame, picture.view),
            "video": video,
            "clip": clip,
            **_camera_columns(source.cameras, source.poses, picture),
            **picture._asdict(),
            **origin,
            "video_sha256": source.videos.sha256[0],
            "extra": source.clips.extra[0],
            "odd": source.clips.odd[0],
            "hands": structs.take(pa.array(np.flatnonzero(on_frame & listed))),
            "ignore_boxes": hands.box[on_frame & ~keep].tolist() + maybe.tolist() + elsewhere,
        }
    by_hand = set(source.hands.frame[[PERSON in sources for sources in source.hands.sources]].tolist()) - found_by_run
    drawn = {place for place in missing if place[0] in by_hand}  # added to a frame that is not looked at any more
    left_out += [sample(*place) for place in sorted(drawn)]
    missing -= drawn
    if missing and _put_away(source):
        left_out += [sample(*place) for place in sorted(missing)]
    elif missing:
        first = min(missing)[0]
        raise ValueError(f"clip {clip}: {len(missing)} frames with hands can no longer be read, first frame {first}: fetch the video again")


def _unsure(refused: RefusedHands, settings: Pack) -> RefusedHands:
    """What fusion refused and nobody should learn to be background; no hand that is kept seen again, in its own view or in another."""
    return refused.take((refused.score >= settings.unsure_score) & np.isin(refused.reason, (Refusal.WEAK, Refusal.LONE)))


def _put_away(source: ClipTables) -> bool:
    """Whether the video is gone and an earlier shard speaks for it."""
    return source.earlier is not None and not Path(source.videos.path[0]).exists()


def _pictures(
    source: ClipTables, settings: Pack, encode: Callable[[np.ndarray], bytes], is_wanted: Callable[[int, int], bool]
) -> Iterator[Picture]:
    """The wanted frames of a clip as they are stored: from its video, or as the earlier shard has them."""
    if source.earlier is not None and _put_away(source):
        yield from (picture for picture in source.earlier if is_wanted(picture.frame, picture.view))
        return
    clip, hands, path = source.clips.clip[0], source.hands, Path(source.videos.path[0])
    if not path.exists():
        wanted = f"jpeg_quality {settings.jpeg_quality} and max_side {settings.max_side}"
        raise MissingVideoError(
            f"clip {clip}: its video {path} is not there, and no shard holds its images by {wanted}: put the video back, or pack as before"
        )
    stretches = read_frames(path, source.clips)
    for frames in stretches if source.cameras is None else through_views(stretches, source.cameras):
        for frame, time_s, image in zip(frames.frame.tolist(), frames.time_s.tolist(), frames.images, strict=True):
            if not is_wanted(frame, frames.view):
                continue
            height, width = image.shape[:2]
            for seen in np.flatnonzero((hands.frame == frame) & (hands.view == frames.view))[:1]:
                if (hands.width[seen], hands.height[seen]) != (width, height):
                    raise ValueError(f"clip {clip}, frame {frame}: the video is {width}x{height} now, its hands were found at another size")
            shrink = float(_scale(np.array([width]), np.array([height]), settings.max_side)[0])
            image = _shrunk(image, shrink)
            stored = encode(np.ascontiguousarray(image))
            yield Picture(frame, time_s, image.shape[1], image.shape[0], shrink, stored, frames.view)


def _camera_columns(cameras: Cameras | None, poses: CameraPoses, picture: Picture) -> dict[str, Any]:
    """The camera of a stored image."""
    if cameras is None:
        return {name: value for name, value in NO_CAMERA.items() if name != "odd"}
    row = int(np.flatnonzero(cameras.view == picture.view)[0])
    moment = np.array([picture.frame]), np.array([picture.time_s]), np.array([picture.view], np.int16)
    return {
        "world_from_camera": world_from_view(poses, cameras, *moment)[0].tolist(),
        "projection": cameras.projection[row],
        "focal_px": (cameras.focal_px[row] * picture.scale).tolist(),
        "principal": (cameras.principal[row] * picture.scale).tolist(),
        "distortion": list(cameras.distortion[row]),
        "camera_from": cameras.camera_from[row],
    }


def _boxes_elsewhere(hands: Hands, cameras: Cameras, picture: Picture) -> list[list[float]]:
    """Boxes, in a stored view, of what was found on the same frame in other views."""
    found = []
    for row in np.flatnonzero((hands.frame == picture.frame) & (hands.view != picture.view)).tolist():
        x1, y1, x2, y2 = hands.box[row].astype(np.float64)
        corners = np.array([[x1, y1], [x2, y1], [x2, y2], [x1, y2]])
        pixels = in_view(cameras, picture.view, rays_of(cameras, int(hands.view[row]), corners)) * picture.scale
        if np.isfinite(pixels).all() and (pixels.max(0) > 0).all() and (pixels.min(0) < (picture.width, picture.height)).all():
            found.append([*pixels.min(0).tolist(), *pixels.max(0).tolist()])
    return found


def _origin(videos: Videos) -> dict[str, str]:
    """Where a video came from and whose it is. Of a local file the name only: its path says nothing on another machine."""
    origin = {name: str(getattr(videos, name)[0]) for name in ("source", "title", "channel", "licence")}
    return origin | {"source": Path(origin["source"]).name} if origin["source"].startswith("/") else origin


def _refuse_misaligned(source: ClipTables, clip: str) -> None:
    """Fits and reviews have one row a hand, in the order of the hands."""
    for table in (source.fits, source.reviews):
        if not (np.array_equal(table.frame, source.hands.frame) and np.array_equal(table.hand, source.hands.hand)):
            raise ValueError(f"clip {clip}: rows of {type(table).__name__} are not those of Hands, run its stage again")


def _corrected(source: ClipTables) -> tuple[ClipTables, Bool[np.ndarray, "n"]]:
    """The clip's tables as people corrected them, and which hands they keep whatever their quality."""
    size = [int(getattr(source.clips, side)[0] or getattr(source.videos, side)[0]) for side in ("width", "height")]
    hands, fits, reviews, by_person = corrected(source.hands, source.fits, source.reviews, source.verdicts, *size)
    return dataclasses.replace(source, hands=hands, fits=fits, reviews=reviews), by_person


def _chosen(
    reviews: Reviews, settings: Pack, by_person: Bool[np.ndarray, "n"]
) -> tuple[Bool[np.ndarray, "n"], Bool[np.ndarray, "n"], Reviews]:
    """Which hands are good, which are listed, and the reviews that say so."""
    keep = reviews.keep & ((reviews.quality >= settings.min_quality) | by_person)
    reason = np.where(reviews.keep & ~keep, BELOW_MIN_QUALITY, reviews.reason).astype(object)
    listed = np.ones_like(keep) if settings.keep_dropped else keep
    return keep, listed, dataclasses.replace(reviews, keep=keep, reason=reason)


def _without_doubtful(hands: Hands, fits: Fits, doubtful: Bool[np.ndarray, "n"]) -> tuple[Hands, Fits]:
    """Landmarks that may be grossly wrong, and the hand that was fitted to them, as unknown (NaN): nobody shall learn them. The tables
    keep them."""

    def blank(table: Found, *names: str) -> Found:
        columns = {name: getattr(table, name).copy() for name in names}
        for values in columns.values():
            values[doubtful] = np.nan
        return dataclasses.replace(table, **columns)

    pose = ("betas", "global_orient", "hand_pose", "transl", "camera", "joints_3d", "joints_2d", "box")
    return blank(hands, "keypoints", "world"), blank(fits, *pose, "global_orient_world", "transl_world")


def _scale(width: np.ndarray, height: np.ndarray, max_side: int) -> Float32[np.ndarray, "n"]:
    """Stored size over the frame's size: never above 1."""
    longest = np.maximum(width, height).astype(np.float32)
    return np.minimum(1, max_side / longest).astype(np.float32) if max_side else np.ones_like(longest)


def _scaled(hands: Hands, fits: Fits, scale: Float32[np.ndarray, "n"]) -> tuple[Hands, Fits]:
    """Everything that is measured in pixels, in pixels of the stored image. The loss terms stay as the fit minimised them."""
    s = scale[:, None]
    source_boxes = np.empty(len(hands), object)
    source_boxes[:] = [(np.asarray(b, np.float32).reshape(-1, 4) * x).tolist() for b, x in zip(hands.source_boxes, scale, strict=True)]
    keypoints = hands.keypoints * np.stack([scale, scale, np.ones_like(scale)], 1)[:, None]
    hands = dataclasses.replace(hands, box=hands.box * s, keypoints=keypoints, source_boxes=source_boxes)
    in_pixels = {
        "focal_px": fits.focal_px * scale,
        "principal": fits.principal * s,
        "camera": fits.camera * s,
        "joints_2d": fits.joints_2d * s[:, None],
        "box": fits.box * s,
        "error_px": fits.error_px * scale,
    }
    return hands, dataclasses.replace(fits, **in_pixels)


def _structs(hands: Hands, fits: Fits, reviews: Reviews) -> pa.StructArray:
    """The rows of three tables as one struct a hand."""
    arrow: dict[type[Table], pa.Table] = {type(table): table.to_arrow() for table in (hands, fits, reviews)}
    columns = [arrow[table].column(column).combine_chunks() for table, column in HAND_COLUMNS.values()]
    return pa.StructArray.from_arrays(columns, fields=list(HAND))


def _shrunk(image: UInt8[np.ndarray, "height width 3"], scale: float) -> UInt8[np.ndarray, "h w 3"]:
    """The image at `scale`, sides rounded to whole pixels, averaged over areas."""
    if scale == 1:
        return image
    import cv2

    size = [max(1, round(side * scale)) for side in (image.shape[1], image.shape[0])]
    return np.asarray(cv2.resize(image, size, interpolation=cv2.INTER_AREA))


def _batch(rows: list[Row]) -> pa.RecordBatch:
    schema = Shards.schema()
    columns = []
    for field in schema:
        values = [row[field.name] for row in rows]
        if field.name == "hands":
            offsets = np.cumsum([0, *map(len, values)]).astype(np.int32)
            columns.append(pa.ListArray.from_arrays(pa.array(offsets), pa.concat_arrays(values), type=field.type))
        else:
            columns.append(pa.array(values, field.type))
    return pa.RecordBatch.from_arrays(columns, schema=schema)
