"""WiLoR's Table 1 with the peers' rows measured: average precision of every member of an ensemble, and of their fusion, on one set.

`python -m benchmarks.networks.table1 --coco-wholebody DIR` (or `--oxford-hands DIR`, `--whim DIR`), with `--recipe whim_paper` for the
three that the paper compares with, where their weights lie. A member's row is what its stage finds, boxes and scores as they are; the
last row is the recipe's fusion. Each image stands for itself, without a video around it. The project's own detector as a network alone is
measured by `whim evaluate detector`.
"""

import argparse
import json
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import numpy as np

from hands.drawing.tables import markdown
from hands.metrics.detections import ImageBoxes, Part, average_precision
from hands.metrics.labels import LabelledFrame
from pipeline.evaluate.annotators import finders_and_fusion
from pipeline.evaluate.observe import seen_on
from pipeline.recipes import find_recipe
from stages.media.frames import Frames
from stages.stage import Stage
from stages.tables import Manifest
from training.data.readers.coco_wholebody import coco_wholebody
from training.data.readers.labelled_image import LabelledImage
from training.data.readers.official_whim import official_whim
from training.data.readers.oxford_hands import oxford_hands

FUSED = "fused"


def measure(images: Iterable[LabelledImage], stages: Sequence[Stage]) -> dict[str, dict[str, float]]:
    """`ap`, `ap50` and so on of each source of detections and of `FUSED`, without regard to sides. Raises ValueError without fusion."""
    finders, fuse = finders_and_fusion(stages)
    functions, fuse_tables = [(stage, stage.build()) for stage in finders], fuse.build()
    targets: list[Part] = []
    found: dict[str, list[Part]] = {name: [] for name in (*fuse.detectors, FUSED)}
    number = -1
    for number, labelled in enumerate(images):
        image, none = labelled.image(), np.zeros(len(labelled.ignore))
        targets.append((number, labelled.box, labelled.side, np.ones(len(labelled.box)), False))
        targets.append((number, labelled.ignore, none, none + 1, True))
        frames = Frames(video=labelled.name, frame=np.array([0]), time_s=np.array([0.0]), images=[image])
        seen = seen_on(functions, _label(labelled, image), frames, 0, 5.0)
        hands, _ = fuse_tables(seen.videos, seen.clips, seen.people, seen.detections)
        for name, parts in found.items():
            rows = hands if name == FUSED else seen.detections.take(seen.detections.source == name)
            parts.append((number, rows.box, np.zeros(len(rows)), rows.score, False))
    if number < 0:
        raise ValueError("no image to measure on")
    known = ImageBoxes.of(targets)
    return {name: average_precision(known, ImageBoxes.of(parts), number + 1, by_side=False) for name, parts in found.items()}


def _label(labelled: LabelledImage, image: np.ndarray) -> LabelledFrame:
    return LabelledFrame(
        name=labelled.name,
        video="",
        frame=0,
        image="",
        width=image.shape[1],
        height=image.shape[0],
        box=labelled.box,
        side=labelled.side,
        ignore=labelled.ignore,
    )


def _images(asked: argparse.Namespace) -> Iterator[LabelledImage]:
    if asked.coco_wholebody:
        return coco_wholebody(asked.coco_wholebody)
    return oxford_hands(asked.oxford_hands) if asked.oxford_hands else official_whim(asked.whim, asked.media)


def main() -> None:
    """Measure, print the table, and with --json write it."""
    parser = argparse.ArgumentParser(description=__doc__)
    on = parser.add_mutually_exclusive_group(required=True)
    on.add_argument("--coco-wholebody", type=Path, metavar="DIR")
    on.add_argument("--oxford-hands", type=Path, metavar="DIR")
    on.add_argument("--whim", type=Path, metavar="DIR")
    parser.add_argument("--media", type=Path, help="folder of --whim's videos")
    parser.add_argument("--recipe", default="whim_full", help="whose members (default: whim_full)")
    parser.add_argument("--every", type=int, default=1, help="of the set's images")
    parser.add_argument("--json", type=Path, metavar="FILE")
    asked = parser.parse_args()
    images = (image for number, image in enumerate(_images(asked)) if number % asked.every == 0)
    found = measure(images, find_recipe(asked.recipe)(Manifest.empty(), Path("unused")))
    print(markdown(("detector", "AP at 0.5", "mAP"), [(name, 100 * of["ap50"], 100 * of["ap"]) for name, of in found.items()], "{:.2f}"))
    if asked.json:
        asked.json.write_text(json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    main()
