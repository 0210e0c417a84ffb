"""The dataset card: README.md beside the shards, front matter for readers and what a person should know."""

import json
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import pyarrow as pa

from pipeline.dataset.oddities import ODD
from stages.shards import Shards
from stages.verdicts import PERSON

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
reviewed, and dropped with a reason when its fit is poor. {people}

- **Detectors**, by the number of hands that each saw: {sources}.
- **Hand model**: {hand_model}.
- **Pose prior**, towards which the fitted fingers lean: {pose_prior}.
- **Generator**: {generators}.
{audits}
## Limits and intended use
- Meant for training and testing hand detectors and hand pose networks. Test against labels made by people before you trust a figure.
- Labels inherit the detectors' faults. Small, blurred, gloved and interlocked hands are missed more often than others, so a frame
  listed without a hand may show one. Sides are wrong more often where no arm is in view.
- Depth comes from the size of the hand model and the camera, of which is known: {cameras}. Where it is assumed depths are to scale
  alone, not metres; column `camera_from` says so of each frame.
- How videos were read: {odd}.
- Videos of the same content as another one, whose frames are here twice: {same}.
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

CAMERAS: Mapping[str, str] = {
    "manifest": "by the list of videos",
    "metadata": "by tags of the file",
    "assumed": "not at all: a focal length is assumed",
}

HAND_MODELS: Mapping[str, str] = {
    "mano": "MANO (Romero et al. 2017; its own licence governs the use of its parameters)",
    "standin": "the builder's stand-in hand: MANO's format, not MANO's shape space; its `betas` and poses fit no other model",
}


def dataset_card(
    stats: Mapping[str, Any],
    entries: Sequence[Mapping[str, Any]],
    hand_model: str,
    pose_prior: str,
    audits: Sequence[str] = (),
    *,
    name: str = "whim",
) -> str:
    """README.md: front matter that `datasets` and the Hub read, then what a person should know."""
    splits, videos = stats["splits"], stats["videos"]
    sources = sum((Counter(s["hands_by_source"]) for s in splits.values()), Counter())
    by_licence: Counter[str] = Counter(v["licence"] or "not stated" for v in videos.values())
    of_split = Counter(v["split"] for v in videos.values())
    by_person = sources.get(PERSON, 0)
    people = f"People confirmed or corrected {by_person:,} hands." if by_person else "No person drew or corrected a box."
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
        sources=", ".join(f"{table_cell(source)} ({n:,})" for source, n in sorted(sources.items())) or "none",
        hand_model=HAND_MODELS.get(hand_model, "not stated"),
        pose_prior=pose_prior or "not stated",
        cameras=_counted(videos, "camera_from", CAMERAS) or "nothing",
        odd=_counted(videos, "odd", ODD) or "all as they are",
        same=_same(videos) or "none",
        people=people,
        audits="".join(f"- **Audit**: {table_cell(line)}.\n" for line in audits),
        generators="; ".join(sorted({table_cell(e["generator"]) for e in entries})),
        licences=_lines(f"- {table_cell(licence)} ({n:,})" for licence, n in sorted(by_licence.items())),
        all_videos=_lines(
            _row(video, v["split"], v["frames"], v["hands"], v["licence"] or "not stated", v["channel"], v["title"])
            + f" {table_cell(v['source'], is_address=True)} |"
            for video, v in sorted(videos.items())
        ),
    )


def _same(videos: Mapping[str, Mapping[str, Any]]) -> str:
    """Which videos have the same content as another one, in words; nothing is known of videos without a sha256."""
    first: dict[str, str] = {}
    pairs = [(name, first.setdefault(video.get("sha256") or name, name)) for name, video in sorted(videos.items())]
    return ", ".join(f"{table_cell(later)} is {table_cell(one)}" for later, one in pairs if later != one)


def _counted(videos: Mapping[str, Mapping[str, Any]], column: str, words: Mapping[str, str]) -> str:
    """How many videos each word of a column is said of, in words."""
    counts = Counter(word for video in videos.values() for word in str(video.get(column, "")).split())
    return "; ".join(f"{n:,} {'video' if n == 1 else 'videos'} {words.get(word, table_cell(word))}" for word, n in sorted(counts.items()))


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
    return f"| {' | '.join(f'{c:,}' if isinstance(c, int) else table_cell(str(c)) for c in cells)} |"


def table_cell(text: str, *, is_address: bool = False) -> str:
    """Text that came from outside, as plain text in a table: nothing of it is an image, code or HTML, and a link only where it is meant.

    Entities stand for what Markdown reads as marks, and for the colons by which readers make links of bare addresses.
    """
    plain = "".join(one for one in " ".join(text.split()) if one.isprintable())
    marks = r"[&<\[\]!`*|~\\]" if not is_address else r"[<\[\]!`*|\\]"
    known = {"\\": "\\\\", "|": "\\|", "<": "&lt;"}
    plain = re.sub(marks, lambda found: known.get(found[0], f"&#{ord(found[0])};"), plain)
    return plain if is_address else re.sub(r"(?<=[a-zA-Z]):(?=//)|(?<=www)\.", lambda found: f"&#{ord(found[0])};", plain)
