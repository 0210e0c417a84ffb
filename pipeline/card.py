"""What lies beside the shards: index.json (where every row is), stats.json (what is in them) and README.md (the dataset card).

All three are made from the shards alone, hold no time stamp, and are the same bytes whenever the shards are.
"""

import json
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from fitting.files import sha256_of
from pipeline.store import Store
from stages.shards import SPLITS, Shards
from stages.tables import LEFT, SCHEMA_VERSION

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


def write_index(shards: Path, *, hand_model: str = "") -> None:
    """Write index.json, stats.json and README.md for the shards `<split>/<split>-<n>-of-<count>.parquet` of a folder.

    `hand_model` says whose shape and pose the parameters are ("mano" or "standin", `HandModel.source`).
    Raises ValueError when there is no shard, or when shards of two different counts lie in one split.
    """
    store = Store(shards)
    paths = sorted(shards.glob("*/*.parquet"), key=lambda p: (SPLITS.index(p.parent.name), p.name))
    _refuse_mixture(shards, paths)
    before = {s["path"]: s for s in (store.read_json("index.json") or {}).get("shards", ())}
    tallies: dict[str, Tally] = {}
    videos: dict[str, dict[str, Any]] = {}
    entries = []
    for path in paths:
        split, name = path.parent.name, str(path.relative_to(shards))
        num_hands = _count(path, split, tallies.setdefault(split, Tally()), videos)
        entries.append(_entry(path, name, num_hands, before.get(name, {})))
    stats = {"splits": {split: _stats(tally) for split, tally in tallies.items()}, "videos": videos}
    columns = [{"name": f.name, "type": str(f.type)} for f in Shards.schema()]
    store.write_json("index.json", {"schema_version": SCHEMA_VERSION, "columns": columns, "hand_model": hand_model, "shards": entries})
    store.write_json("stats.json", stats)
    with store.aside(shards / "README.md") as temporary:
        temporary.write_text(dataset_card(stats, entries, hand_model))


def _refuse_mixture(shards: Path, paths: Sequence[Path]) -> None:
    if not paths:
        raise ValueError(f"no shards in {shards}: nothing has been packed yet")
    for split in {p.parent.name for p in paths}:
        counts = {p.stem.rsplit("-of-")[-1] for p in paths if p.parent.name == split}
        if len(counts) > 1:
            raise ValueError(f"{shards / split} holds shards of {' and of '.join(sorted(counts))}: remove the ones of the older run")


def _entry(path: Path, name: str, num_hands: int, before: Mapping[str, Any]) -> dict[str, Any]:
    """One shard of the index. `row_groups`: first row, rows, then offset and bytes of the image column in the file."""
    metadata = pq.read_metadata(path)
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
        "sha256": before["sha256"] if known else sha256_of(path),
        "fingerprint": facts["fingerprint"],
        "generator": facts["generator"],
        "row_groups": row_groups,
    }


def _count(path: Path, split: str, tally: Tally, videos: dict[str, dict[str, Any]]) -> int:
    """Add one shard to the sums of its split and of its videos, a row group at a time, without its images; its number of hands."""
    num_hands = 0
    file = pq.ParquetFile(path)
    fields = [f"hands.list.element.{name}" for name in _HAND_FIELDS]
    for group in range(file.num_row_groups):
        table = file.read_row_group(group, columns=[*_FRAME_COLUMNS, *fields])
        frames = {name: table.column(name).to_pylist() for name in _FRAME_COLUMNS}
        lists = table.column("hands").combine_chunks()
        on_frame = lists.value_lengths().to_numpy()
        hands = lists.flatten()
        for i, video in enumerate(frames["video"]):
            new = {"split": split, "frames": 0, "hands": 0} | {k: frames[k][i] for k in ("source", "title", "channel", "licence")}
            of_video = videos.setdefault(video, new)
            of_video["frames"] += 1
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


CARD = """\
---
pretty_name: {name}
license: other
tags: [hand-pose, hand-detection, mano, 3d]
task_categories: [object-detection, keypoint-detection]
configs:
- config_name: default
  data_files:
{data_files}
dataset_info:
  features:
{features}
---

# {name}: hands in video, with boxes, keypoints and a 3D hand model

Hands: {hands:,}. Frames: {frames:,}. Videos: {videos:,}.

| split | videos | clips | frames | without a hand | hands | left | right |
|---|--:|--:|--:|--:|--:|--:|--:|
{splits}

## How to read it
One row a frame: the JPEG and the list of the hands on it. Columns and units: `index.json` and docs/shards.md of the builder.

```python
import datasets  # or pyarrow, or duckdb: the shards are plain Parquet
frames = datasets.load_dataset(".", split="{first_split}", streaming=True)
frame = next(iter(frames))
frame["image"], [hand["box"] for hand in frame["hands"]]
```

## How it was made
Every label is automatic, after WiLoR (Potamias et al., CVPR 2025), section 3: videos are cut into clips within one shot; hand
detectors run on sampled frames; their boxes are averaged by confidence; a hand model is fitted to the landmarks; each hand is
reviewed, and dropped with a reason when its fit is poor. No person drew or checked a box.

- **Detectors**, by the number of hands that each saw: {sources}.
- **Hand model**: {hand_model}.
- **Generator**: {generators}.

## Limits and intended use
- Meant for training and testing hand detectors and hand pose networks. Test against labels made by people before you trust a figure.
- Labels inherit the detectors' faults. Small, blurred, gloved and interlocked hands are missed more often than others, so a frame
  listed without a hand may show one. Sides are wrong more often where no arm is in view.
- Depth comes from the hand model and a weak-perspective camera: sizes in metres are those of the model, not measured.
- `ignore_boxes` are hands that were seen and not trusted. Count them neither as hands nor as background.
- People are recognisable. Do not identify anyone, and do not infer health, origin or any other trait of a person.
- Who wants to be left out is left out: remove the video from the manifest and run again; one shard is rewritten.

## Where the videos came from
Each video keeps its own licence, as its source states it; the frames here are under that licence, not under one of this dataset.
'not stated' means that all rights stay with the owner. Videos by licence:

{licences}

<details><summary>All videos ({videos:,})</summary>

| video | split | frames | hands | licence | by | title | source |
|---|---|--:|--:|---|---|---|---|
{all_videos}

</details>
"""

HAND_MODELS: Mapping[str, str] = {
    "mano": "MANO (Romero et al. 2017; its own licence governs the use of its parameters)",
    "standin": "the builder's stand-in hand: MANO's format, not MANO's shape space; its `betas` and poses fit no other model",
}


def dataset_card(stats: Mapping[str, Any], entries: Sequence[Mapping[str, Any]], hand_model: str, *, name: str = "whim") -> str:
    """README.md: front matter that `datasets` and the Hub read, then what a person should know."""
    splits, videos = stats["splits"], stats["videos"]
    sources = sum((Counter(s["hands_by_source"]) for s in splits.values()), Counter())
    by_licence: Counter[str] = Counter(v["licence"] or "not stated" for v in videos.values())
    of_split = Counter(v["split"] for v in videos.values())
    columns = ("clips", "frames", "negatives", "hands", "left", "right")
    return CARD.format(
        name=name,
        hands=sum(s["hands"] for s in splits.values()),
        frames=sum(s["frames"] for s in splits.values()),
        videos=len(videos),
        splits=_lines(_row(split, of_split[split], *(s[c] for c in columns)) for split, s in splits.items()),
        data_files=_lines(f"  - split: {split}\n    path: {split}/*.parquet" for split in splits),
        features=_lines(f"  - {json.dumps(_feature(f.name, f.type))}" for f in Shards.schema()),
        first_split=next(iter(splits)),
        sources=", ".join(f"{source} ({n:,})" for source, n in sorted(sources.items())) or "none",
        hand_model=HAND_MODELS.get(hand_model, "not stated"),
        generators="; ".join(sorted({e["generator"] for e in entries})),
        licences=_lines(f"- {_cell(licence)} ({n:,})" for licence, n in sorted(by_licence.items())),
        all_videos=_lines(
            _row(video, v["split"], v["frames"], v["hands"], v["licence"] or "not stated", v["channel"], v["title"], v["source"])
            for video, v in sorted(videos.items())
        ),
    )


def _feature(name: str, arrow: pa.DataType) -> dict[str, Any]:
    """A column in the notation of the front matter's `dataset_info`; the image is declared one, so that readers decode it."""
    return {"name": name, "dtype": "image"} if name == "image" else {"name": name, **_feature_type(arrow)}


def _feature_type(arrow: pa.DataType) -> dict[str, Any]:
    if pa.types.is_struct(arrow):
        return {"struct": [_feature(f.name, f.type) for f in arrow]}
    if pa.types.is_list(arrow) or pa.types.is_fixed_size_list(arrow):
        inner = _feature_type(arrow.value_type)
        length = {"length": arrow.list_size} if pa.types.is_fixed_size_list(arrow) else {}
        return {"list": inner.get("struct", inner.get("dtype", inner)), **length}
    return {"dtype": {"float": "float32", "double": "float64"}.get(str(arrow), str(arrow))}


def _lines(lines: Iterable[str]) -> str:
    return "\n".join(lines)


def _row(*cells: object) -> str:
    return f"| {' | '.join(f'{c:,}' if isinstance(c, int) else _cell(str(c)) for c in cells)} |"


def _cell(text: str) -> str:
    """Text that came from outside, safe in a table."""
    return " ".join(text.split()).replace("\\", "\\\\").replace("|", "\\|").replace("<", "&lt;")
