"""Files beside the shards: index.json (where every row is), stats.json (what is in them), and the dataset card.

All three are made from the shards alone, hold no time stamp, and are the same bytes whenever the shards are, on any machine.
"""

from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from fitting.files import hand_of, model_file, prior_source, sha256_of
from pipeline.dataset.audits import card_lines
from pipeline.dataset.card import dataset_card
from pipeline.engine.durable import have_rows, remove
from pipeline.engine.files.corrupt import set_corrupt_aside
from pipeline.engine.files.shard import check_shard, open_shard
from pipeline.engine.finish import ShardFiles
from pipeline.engine.store import Store
from stages.digest import HTML, UNREADABLE, CorruptFileError, seal_text
from stages.shards import SPLITS, Shards
from stages.tables import LEFT, SCHEMA_VERSION

CARD = "README.md"

MEASURED: Mapping[str, np.ndarray] = {
    "size_share": np.linspace(0, 1, 51),  # longer side of the box over the image's
    "score": np.linspace(0, 1, 51),
    "quality": np.linspace(0, 1, 51),
    "error_px": np.linspace(0, 50, 51),
    "error_share": np.linspace(0, 0.25, 51),
}
"""Histograms of stats.json and their bin edges; what lies outside counts in the outermost bin."""

_HAND_FIELDS = ("box", "side", "score", "quality", "error_px", "error_share", "sources", "betas", "hand_pose")
_FRAME_COLUMNS = ("video", "clip", "width", "height", "source", "title", "channel", "licence")
_NAMED = ("odd", "camera_from")
"""Columns that the card counts videos by; shards of before lack them."""
_CONTENT = "video_sha256"
_MIRROR = np.tile(np.array([1.0, -1.0, -1.0]), 15)
"""What turns a left hand's axis-angle pose into the right hand's that it mirrors."""


@dataclass(slots=True, eq=False)
class Tally:
    """Sums over the shards of one split."""

    counts: Counter[str] = field(default_factory=Counter)
    sources: Counter[str] = field(default_factory=Counter)
    clips: set[str] = field(default_factory=set)
    histograms: dict[str, np.ndarray] = field(default_factory=lambda: {n: np.zeros(len(e) - 1, np.int64) for n, e in MEASURED.items()})
    pose: np.ndarray = field(default_factory=lambda: np.zeros(45))
    betas: np.ndarray = field(default_factory=lambda: np.zeros(10))


def renew_index(shards: ShardFiles | None) -> list[Path]:
    """Bring what lies beside a run's shards up to date, with the hand model and the prior in use; without a shard it goes.

    None, what a recipe has that makes no shards, is left alone. Returns the shards that were found damaged: each is set aside, and the
    next run makes it again.
    """
    if shards is None:
        return []
    store, paths, damaged = Store(shards.folder), [*shards.current, *shards.stale], list[Path]()
    model, prior = hand_of(model_file()), prior_source()
    audits = card_lines(Store(shards.folder.parent))
    while paths:
        stale = [path for path in shards.stale if path in paths]
        try:
            write_index(shards.folder, paths, stale=stale, hand_model=model, pose_prior=prior, audits=audits)
        except CorruptFileError as error:
            if error.path not in paths:
                raise
            set_corrupt_aside(store, error.path)
            paths.remove(error.path)
            damaged.append(error.path)
        else:
            return damaged
    for name in ("index.json", "stats.json", CARD):  # the last video left: nothing may go on naming it
        remove(shards.folder / name)
    return damaged


def write_index(
    shards: Path,
    paths: Collection[Path] = (),
    *,
    stale: Collection[Path] = (),
    hand_model: str = "",
    pose_prior: str = "",
    audits: Sequence[str] = (),
    card: str = "",
) -> None:
    """Write index.json, stats.json and README.md for shards `<split>/<split>-<n>-of-<count>.parquet` of a folder.

    `paths`: which they are, by default all of them. `stale` ones are marked so: their frames are sound, their labels those of an
    earlier run. `card` stands in place of the card of videos. `hand_model` says whose shape and pose the parameters are ("mano" or
    "standin", `HandModel.source`), `pose_prior` from whose poses the fit's prior was learned (`fitting.files.prior_source`), `audits` what
    people found who looked at hands drawn by chance.
    Raises ValueError when there is no shard, or when shards of two different counts lie in one split and neither is stale;
    CorruptFileError for a shard that is damaged, where the index does not know its sha256 already.
    """
    store = Store(shards)
    paths = sorted(paths or shards.glob("*/*.parquet"), key=lambda p: (SPLITS.index(p.parent.name), p.name))
    _refuse_mixture(shards, [path for path in paths if path not in stale] or paths)
    before, kept = _before(store), _as_it_was(store, paths, stale)
    tallies: dict[str, Tally] = {}
    videos: dict[str, dict[str, Any]] = {}
    entries: list[dict[str, Any]] = []
    for path in paths if kept is None else ():
        split, name = path.parent.name, str(path.relative_to(shards))
        try:
            num_hands = _count(path, split, tallies.setdefault(split, Tally()), videos)
        except UNREADABLE as error:
            raise CorruptFileError(path, str(error).splitlines()[0] if str(error) else type(error).__name__) from error
        entries.append(_entry(path, name, num_hands, before.get(name, {})) | ({"stale": True} if path in stale else {}))
    if kept is None:
        stats = {"splits": {split: _stats(tally) for split, tally in tallies.items()}, "videos": videos}
    else:
        entries, stats = list(before.values()), kept
    columns = [{"name": f.name, "type": str(f.type)} for f in Shards.schema()]
    about = {"schema_version": SCHEMA_VERSION, "columns": columns, "hand_model": hand_model, "pose_prior": pose_prior}
    with store.aside(shards / CARD) as temporary:
        temporary.write_text(seal_text(card or dataset_card(stats, entries, hand_model, pose_prior, audits), *HTML))
    store.write_json("stats.json", stats)
    store.write_json("index.json", {**about, "shards": entries, "beside": [{"path": CARD, "sha256": sha256_of(shards / CARD)}]})


def _before(store: Store) -> dict[str, dict[str, Any]]:
    """The shards of the earlier index by path; none when it is damaged: all of it is made from the shards anew."""
    try:
        shards = (store.read_json("index.json") or {}).get("shards", [])
        return {shard["path"]: shard for shard in shards if {"path", "sha256"} <= shard.keys()}
    except (CorruptFileError, AttributeError, TypeError):
        return {}


def _as_it_was(store: Store, paths: Sequence[Path], stale: Collection[Path]) -> dict[str, Any] | None:
    """The stats of the earlier index of shards in an object store, where all of them were there before it; None where they are counted."""
    index = store.root / "index.json"
    try:
        told, entries = store.read_json("index.json") or {}, _before(store)
        if told.get("schema_version") != SCHEMA_VERSION or not (mirror := store.mirror):
            return None
        same = [(store.root / name, entry["bytes"], bool(entry.get("stale"))) for name, entry in entries.items()]
        now = [(path, path.stat().st_size, path in stale) for path in paths]
        unchanged = same == now and all(mirror.is_older(path, index) for path in paths)
        return store.read_json("stats.json") if unchanged else None
    except UNREADABLE:
        return None


def _refuse_mixture(shards: Path, paths: Sequence[Path]) -> None:
    if not paths:
        raise ValueError(f"no shards in {shards}: nothing has been packed yet")
    for split in {p.parent.name for p in paths}:
        counts = {p.stem.rsplit("-of-")[-1].partition("-")[0] for p in paths if p.parent.name == split}
        if len(counts) > 1:
            raise ValueError(f"{shards / split} holds shards of {' and of '.join(sorted(counts))}: remove the ones of the older run")


def _entry(path: Path, name: str, num_hands: int, before: Mapping[str, Any]) -> dict[str, Any]:
    """One shard of the index. `row_groups`: first row, rows, then offset and bytes of the image column in the file."""
    metadata = open_shard(path).metadata
    facts = {k.decode(): v.decode() for k, v in (metadata.metadata or {}).items()}
    row_groups, first = [], 0
    for group in map(metadata.row_group, range(metadata.num_row_groups)):
        image = group.column(metadata.num_columns - 1)
        row_groups.append([first, group.num_rows, image.data_page_offset, image.total_compressed_size])
        first += group.num_rows
    size = path.stat().st_size
    known = (before.get("fingerprint"), before.get("bytes")) == (facts["fingerprint"], size)
    return {
        "path": name,
        "split": facts["split"],
        "rows": metadata.num_rows,
        "hands": num_hands,
        "bytes": size,
        "sha256": before["sha256"] if known else _sha256_of_sound(path),
        "fingerprint": facts["fingerprint"],
        "generator": facts["generator"],
        "row_groups": row_groups,
    }


def _sha256_of_sound(path: Path) -> str:
    """The sha256 of a shard that the index does not know. Raises CorruptFileError: damage never gets a digest of its own."""
    have_rows(path)
    check_shard(path)
    return sha256_of(path)


def _count(path: Path, split: str, tally: Tally, videos: dict[str, dict[str, Any]]) -> int:
    """Add one shard to the sums of its split and of its videos, a row group at a time, without its images; its number of hands."""
    num_hands = 0
    file = open_shard(path)
    fields = [f"hands.list.element.{name}" for name in _HAND_FIELDS]
    for group in range(file.num_row_groups):
        table = file.read_row_group(group, columns=[*_FRAME_COLUMNS, *_NAMED, _CONTENT, *fields])
        told = {name: table.column(name).to_pylist() for name in _NAMED if name in table.column_names}
        frames = {name: table.column(name).to_pylist() for name in _FRAME_COLUMNS}
        contents = table.column(_CONTENT).to_pylist() if _CONTENT in table.column_names else [""] * table.num_rows
        lists = table.column("hands").combine_chunks()
        on_frame = lists.value_lengths().to_numpy()
        hands = lists.flatten()
        for i, video in enumerate(frames["video"]):
            new = {"split": split, "frames": 0, "hands": 0, "sha256": contents[i]} | {
                k: frames[k][i] for k in ("source", "title", "channel", "licence")
            }
            of_video = videos.setdefault(video, new)
            of_video["frames"] += 1
            for name, words in told.items():
                of_video[name] = " ".join(sorted({*of_video.get(name, "").split(), *words[i].split()}))
            of_video["hands"] += int(on_frame[i])
        tally.clips.update(frames["clip"])
        tally.counts.update(frames=len(on_frame), negatives=int((on_frame == 0).sum()), hands=len(hands))
        num_hands += len(hands)
        if len(hands):
            longest = np.maximum(frames["width"], frames["height"]).repeat(on_frame)
            _count_hands({name: hands.field(name) for name in _HAND_FIELDS}, longest, tally)
    return num_hands


def _count_hands(columns: Mapping[str, pa.Array], longest: np.ndarray, tally: Tally) -> None:
    box, betas, pose = (columns[n].flatten().to_numpy().reshape(len(longest), -1) for n in ("box", "betas", "hand_pose"))
    values = {n: columns[n].to_numpy() for n in MEASURED if n in columns}
    values["size_share"] = (box[:, 2:] - box[:, :2]).max(1) / longest
    for name, edges in MEASURED.items():
        finite = values[name][np.isfinite(values[name])]
        tally.histograms[name] += np.histogram(np.clip(finite, edges[0], edges[-1]), edges)[0]
    left = columns["side"].to_numpy() == LEFT
    fitted = np.isfinite(pose).all(1) & np.isfinite(betas).all(1)
    tally.counts.update(left=int(left.sum()), right=int((~left).sum()), fitted=int(fitted.sum()))
    tally.sources.update(columns["sources"].flatten().to_pylist())
    tally.pose += (pose * np.where(left[:, None], _MIRROR, 1))[fitted].sum(0, dtype=np.float64)
    tally.betas += betas[fitted].sum(0, dtype=np.float64)


def _stats(tally: Tally) -> dict[str, Any]:
    """The sums of a split as they stand in stats.json. Means are over fitted hands, left ones mirrored into right ones."""
    counts, n = tally.counts, max(1, tally.counts["fitted"])
    names = ("frames", "negatives", "hands", "left", "right", "fitted")
    return {
        **{name: counts[name] for name in names},
        "clips": len(tally.clips),
        "hands_by_source": dict(tally.sources),
        "histograms": {
            name: {"edges": np.round(edges, 6).tolist(), "counts": tally.histograms[name].tolist()} for name, edges in MEASURED.items()
        },
        "mean_hand_pose": np.round(tally.pose / n, 5).tolist(),
        "mean_betas": np.round(tally.betas / n, 5).tolist(),
    }
