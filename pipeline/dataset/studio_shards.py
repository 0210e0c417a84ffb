"""Shards of rendered hands with exact truth, what a regressor can learn from with no download: `whim render shards OUT`.

An album of `studio.stills` stands for a video: its hands are dealt to train, val or test together. The rows are `pack`'s own; the
studio's truth fills the columns of hands, fits and reviews. Run again, it writes only what is missing.
"""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from rich.console import Console

from pipeline.dataset.index import write_index
from pipeline.engine.files.shard import write_shard
from pipeline.engine.store import Store
from stages.pack import ClipTables, Pack
from stages.packed import Picture
from stages.shards import SPLITS, shard_of
from stages.tables import Clips, Fits, Hands, Reviews, Table, Videos
from studio.stills import Album, render_album
from studio.truth import CLEAR_VISIBLE

T = TypeVar("T", bound=Table)

SOURCE = "studio truth"
"""Who says where the hands are: `sources` and `outcome` of every row."""

HIDDEN = "hidden"
"""Reason of a hand of which less than `CLEAR_VISIBLE` is seen; its box is one to ignore."""

README = """\
# Rendered hands with exact truth

Pictures and labels are made by the studio, a renderer of the stand-in hand: nothing was detected, fitted or drawn by anybody. Boxes,
keypoints, joints and MANO parameters are exact; `camera` is the weak perspective at the wrist of the pinhole that took the picture.
Each album (`video`) is one person before one wall in unrelated poses; albums are dealt whole to train, val and test.
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class StudioShards:
    """What to render."""

    num_albums: int = 800
    """Of 24 pictures and about 27 hands that are seen clearly."""
    seed: int = 0
    """Of the first album; the others follow."""
    album: Album = field(default_factory=Album)
    pack: Pack = field(default_factory=lambda: Pack(num_shards=4, negatives=0))

    def __post_init__(self) -> None:
        if self.num_albums < 1:
            raise ValueError(f"studio_shards.num_albums must be at least 1, got {self.num_albums}")


def write_studio_shards(folder: Path, settings: StudioShards, console: Console) -> int:
    """Write the shards that are missing, and what lies beside them; the number of pictures written."""
    store, pack, num_rows = Store(folder), settings.pack.build(), 0
    shards: dict[str, list[Album]] = {}
    for number in range(settings.num_albums):
        album = replace(settings.album, seed=settings.seed + number)
        shards.setdefault(shard_of(name_of(album), "", settings.pack.num_shards), []).append(album)
    with store.lock():
        for name, albums in sorted(shards.items(), key=lambda item: (SPLITS.index(item[0].partition("/")[0]), item[0])):
            recipe = _recipe(settings, albums)
            if (store.made_by(*name.split("/")) or {}).get("fingerprint") == recipe["fingerprint"]:
                continue
            with store.aside(folder / f"{name}.parquet") as temporary:
                clips = (album_tables(album, settings.pack.jpeg_quality) for album in albums)
                rows = write_shard(settings.pack, pack(clips), temporary, recipe)
            num_rows += rows
            console.print(f"{name}: {len(albums)} albums, {rows} pictures", markup=False)
        write_index(folder, hand_model="standin", pose_prior=SOURCE, card=README)
    return num_rows


def name_of(album: Album) -> str:
    """Name of an album as a video."""
    return f"album-{album.seed:06d}"


def _recipe(settings: StudioShards, albums: list[Album]) -> Mapping[str, Any]:
    """What a shard is made by."""
    told = {"stage": "pack", "version": settings.pack.version, "settings": asdict(settings.pack), "albums": [asdict(a) for a in albums]}
    return told | {"source": SOURCE, "fingerprint": hashlib.sha256(json.dumps(told, sort_keys=True).encode()).hexdigest()}


def album_tables(album: Album, jpeg_quality: int) -> ClipTables:
    """An album as `pack` reads a clip: the pictures in place of a video, the truth in place of what detectors and fit would say."""
    import simplejpeg

    pictures, rows = [], []
    for number, (picture, truths) in enumerate(render_album(album)):
        jpeg = simplejpeg.encode_jpeg(picture.image, quality=jpeg_quality, colorspace="RGB", colorsubsampling="420")
        pictures.append(Picture(number, float(number), album.size, album.size, 1.0, jpeg))
        rows += [truth | {"hand": np.int16(hand)} for hand, truth in enumerate(truths)]
    truth = {name: np.stack([row[name] for row in rows]) for name in rows[0]}
    truth["video"] = np.full(len(rows), name_of(album), object)
    return ClipTables(
        videos=_video(album),
        clips=_clip(album),
        hands=_table(Hands, truth | _as_found(truth)),
        fits=_table(Fits, truth | _as_fitted(truth)),
        reviews=_table(Reviews, truth | _as_reviewed(truth)),
        earlier=pictures,
    )


def _as_found(truth: Mapping[str, np.ndarray]) -> dict[str, Any]:
    """`Hands`' columns of hands that one source sees exactly."""
    sure = np.ones((*truth["keypoints"].shape[:2], 1))
    count = len(truth["side"])
    return {
        "score": np.ones(count),
        "side_log_odds": np.where(truth["side"] == 1, 20.0, -20.0),
        "keypoints": np.concatenate([truth["keypoints"], sure], 2),
        "landmark_score": np.ones(count),
        "world": truth["joints_3d"] - truth["joints_3d"].mean(1, keepdims=True),
        "person": np.zeros(count),
        "track": np.full(count, -1),
        "track_length": np.ones(count),
        "num_agree": np.ones(count),
        "num_run": np.ones(count),
        "keypoint_sources": np.ones((count, 21)),
        "sources": _ragged([[SOURCE]] * count),
        "source_scores": _ragged([[1.0]] * count),
        "source_scores_raw": _ragged([[1.0]] * count),
        "source_boxes": _ragged([[box.tolist()] for box in truth["box"]]),
    }


def _as_fitted(truth: Mapping[str, np.ndarray]) -> dict[str, Any]:
    """`Fits`' columns of hands that are known: no loss, no error."""
    count = len(truth["side"])
    nothing = [name for name in Fits.schema().names if name.startswith(("loss_", "error_"))]
    return {name: np.zeros(count) for name in nothing} | {
        "outcome": np.full(count, SOURCE, object),
        "joints_2d": truth["keypoints"],
        "inlier_ratio": np.ones(count),
        "flip_margin": np.ones(count),
        "violation_deg": np.zeros(count),
        "num_points": np.full(count, 21),
    }


def _as_reviewed(truth: Mapping[str, np.ndarray]) -> dict[str, Any]:
    """`Reviews`' columns: what is seen clearly is as good as can be."""
    clear = truth["visible"] >= CLEAR_VISIBLE
    return {
        "quality": np.ones(len(clear)),
        "keep": clear,
        "box_only": np.zeros(len(clear), bool),
        "reason": np.where(clear, "", HIDDEN).astype(object),
    }


def _video(album: Album) -> Videos:
    name, nothing = name_of(album), np.zeros(1)
    texts = {"video": name, "path": f"{name}.no-video", "source": f"rendered, seed {album.seed}", "title": f"studio album {album.seed}"}
    texts |= {"licence": "Apache-2.0", "channel": "studio", "sha256": hashlib.sha256(repr(album).encode()).hexdigest()}
    texts |= dict.fromkeys(("codec", "pixel_format", "format_id", "upload_date", "tool"), "")
    numbers = {"size_bytes": nothing, "width": [album.size], "height": [album.size], "frames_per_second": [1.0]}
    numbers |= {"duration_s": [float(album.num_pictures)], "rotation_deg": nothing}
    return _table(Videos, {key: np.array([text], object) for key, text in texts.items()} | numbers)


def _clip(album: Album) -> Clips:
    texts = {"clip": f"{name_of(album)}-0000", "video": name_of(album), "ends_with": "end"}
    numbers = {"start_s": 0, "end_s": album.num_pictures, "first_frame": 0, "num_frames": album.num_pictures, "frames_per_second": 1}
    return _table(Clips, {key: np.array([text], object) for key, text in texts.items()} | {key: [n] for key, n in numbers.items()})


def _ragged(lists: list[Any]) -> np.ndarray:
    column = np.empty(len(lists), object)
    column[:] = lists
    return column


def _table(kind: type[T], columns: Mapping[str, Any]) -> T:
    """A table of these columns, each in the type that the schema names; young ones as they are where they are lacking."""
    empty, young = kind.empty(), kind.young_columns()
    names = [name for name in kind.schema().names if name in columns or name not in young]
    return kind.of(**{name: np.asarray(columns[name]).astype(getattr(empty, name).dtype) for name in names})


def write_on(out: Path, settings: StudioShards, console: Console, *, num_threads: int) -> None:
    """Render with so many threads, and write."""
    import cv2
    import numba

    cv2.setNumThreads(num_threads)
    numba.set_num_threads(num_threads)
    write_studio_shards(out, settings, console)
