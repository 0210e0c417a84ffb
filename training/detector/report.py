"""The report of a detector: WiLoR's Table 1 with its own row, all figures, curves and the worst images, in one folder.

Each test set leaves `SET.json` there; the page and the plots are drawn anew from all that lie in the folder, so sets may be measured
one by one, on different days.
"""

import json
import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import UInt8

from fitting.files import sha256_of
from hands.drawing.hands import DROPPED_COLOUR, TARGET_COLOUR, draw_box
from hands.drawing.sheets import Worst, sheet, thumbnail, write_image
from hands.drawing.tables import markdown
from hands.metrics.detections import RECALLS, coco_curves, matched
from hands.metrics.labels import SIZES
from training.data.readers.labelled_image import LabelledImage
from training.detector.evaluate import DetectorEvaluation, metrics_by_size
from training.detector.inference import DetectedHands, HandDetector

_THUMB = 400
"""Pixels of a side."""

PAPER_SETS = {"coco-wholebody": "COCO-WholeBody", "oxford-hands": "Oxford-Hands", "whim": "WHIM"}

PAPER: Mapping[str, Sequence[float]] = {
    "MediaPipe": (25, 25, 15.43, 3.72, 8.72, 1.80, 53.09, 12.01),
    "OpenPose": (141, 29, 37.05, 9.06, 20.74, 4.41, 76.8, 34.25),
    "ContactHands": (819, 3, 50.29, 16.67, 70.02, 36.41, 93.42, 49.44),
    "ViTDet": (1400, 1, 41.64, 13.21, 67.56, 29.77, 84.76, 35.42),
    "WiLoR, S": (7, 175, 46.96, 18.56, 75.21, 38.16, 91.80, 46.50),
    "WiLoR, M": (25, 138, 62.48, 25.97, 82.64, 48.98, 96.06, 53.79),
}
"""Size (MB), frames a second (an RTX 4090), then AP at .5 and AP at .5:.95 on each of `PAPER_SETS`, percent: WiLoR, Table 1."""

ABLATIONS: Mapping[str, tuple[str, Sequence[float]]] = {
    "detector_250k": ("w. 0.25M", (49.15, 26.69, 75.75, 38.48)),
    "detector_500k": ("w. 0.5M", (58.32, 35.15, 83.03, 42.11)),
    "detector_1m": ("w. 1M", (69.21, 43.04, 88.37, 47.92)),
    "detector_oxford_hands": ("w. OxfordHands", (68.15, 40.34, 70.14, 35.29)),
    "detector_resnet50": ("w. ResNet50", (74.13, 47.34, 95.43, 51.85)),
    "detector_hrnet": ("w. HRNet", (84.82, 49.83, 97.23, 54.12)),
    "detector_no_augmentation": ("w/o Augmentations", (70.76, 42.17, 91.13, 49.93)),
    "detector_no_landmarks": ("w/o Landmark Loss", (72.57, 45.96, 92.43, 51.44)),
    "detector_m": ("M", (82.64, 48.98, 96.06, 53.79)),
}
"""The row, and AP at .5 and .5:.95 on Oxford-Hands and on WHIM, percent, by the recipe that trains it: WiLoR, Table 2."""


@dataclass(slots=True)
class WorstImages:
    """The images with the most misses, false hands and wrong sides: an onlooker of `evaluate`."""

    threshold: float
    min_iou: float
    worst: Worst = field(default_factory=Worst)

    def __call__(self, labelled: LabelledImage, image: UInt8[np.ndarray, "h w 3"], hands: DetectedHands) -> None:
        hands = hands.take(hands.score >= self.threshold)
        match, false = matched(hands.box, hands.score, labelled.box, labelled.ignore, self.min_iou)
        hit = match >= 0
        side = labelled.side[match[hit]]
        missed, wrong = len(labelled.box) - int(hit.sum()), int(((side >= 0) & (side != hands.side[hit])).sum())
        title = f"{labelled.name}: {missed} missed, {int(false.sum())} false, {wrong} of the wrong side"
        self.worst.offer(missed + int(false.sum()) + wrong, lambda: _drawn(labelled, image, hands, title))

    def write(self, path: Path) -> None:
        """The sheet, worst first; none where nothing went wrong."""
        images = self.worst.images()
        if images:
            write_image(path, sheet(images, 4))


def _drawn(labelled: LabelledImage, image: UInt8[np.ndarray, "h w 3"], hands: DetectedHands, title: str) -> UInt8[np.ndarray, "400 400 3"]:
    """A thumbnail: labels white, what is ignored grey and dashed, left hands blue, right hands orange."""
    canvas = image.copy()
    for box in labelled.ignore:
        draw_box(canvas, box, DROPPED_COLOUR, dashed=True)
    for box in labelled.box:
        draw_box(canvas, box, TARGET_COLOUR)
    hands.draw(canvas)
    return thumbnail(canvas, _THUMB, title)


def write_report(
    folder: Path,
    name: str,
    checkpoint: Path,
    detector: HandDetector,
    evaluation: DetectorEvaluation,
    found: Mapping[str, float],
    worst: WorstImages,
) -> None:
    """Add a test set's figures to the folder and draw the page again. Raises as `measured_in`."""
    folder.mkdir(parents=True, exist_ok=True)
    measured = measured_in(folder, checkpoint)
    precision, _ = coco_curves(evaluation.targets, evaluation.predictions, evaluation.num_images, by_side=False)
    mine = {
        "checkpoint": sha256_of(checkpoint),
        "network": network_facts(detector),
        "num_pictures": evaluation.num_images,
        "num_hands": int((evaluation.targets.ignore == 0).sum()),
        "figures": dict(found),
        "by_size": {size: value for size, value in metrics_by_size(evaluation).items() if not math.isnan(value)},
        "precision_at_recall": precision[0, :, 0, 0].clip(0).round(4).tolist(),
    }
    worst.write(folder / f"worst-{name}.jpg")
    aside = folder / f"{name}.partial"
    aside.write_text(json.dumps(mine, indent=1))
    aside.replace(folder / f"{name}.json")
    measured[name] = mine
    _plot(folder, measured)
    (folder / "report.md").write_text(page(measured, mine["network"], [path.name for path in sorted(folder.glob("worst-*.jpg"))]))


def measured_in(folder: Path, checkpoint: Path) -> dict[str, Any]:
    """The test sets whose figures lie in a folder. Raises ValueError when they are another checkpoint's."""
    measured = {path.stem: json.loads(path.read_text()) for path in sorted(folder.glob("*.json"))}
    mine = sha256_of(checkpoint)
    others = [key for key, of in measured.items() if not isinstance(of, dict) or of.get("checkpoint") != mine]
    if others:
        raise ValueError(f"{folder} holds figures of another checkpoint ({', '.join(others)}): name another folder, or remove them")
    return measured


def network_facts(detector: HandDetector, repeats: int = 10) -> dict[str, Any]:
    """Size in half precision, one head (MB), and the median time of an image of 1280 x 720, from pixels to hands (ms)."""
    network = detector.network
    spare = sum(p.numel() for p in network.heads.parameters()) if network.single is not None else 0
    parameter = next(network.parameters())
    image = np.random.default_rng(0).integers(0, 255, (720, 1280, 3), np.uint8)
    times_s = []
    for _ in range(2 + repeats):
        start = time.perf_counter()
        detector([image])
        times_s.append(time.perf_counter() - start)
    device = "CPU" if parameter.device.type == "cpu" else str(torch.cuda.get_device_name(parameter.device))
    return {
        "name": f"{network.settings.size.upper()}, {network.settings.backbone}",
        "size_mb": 2 * (sum(p.numel() for p in network.parameters()) - spare) / 1e6,
        "milliseconds": 1000 * float(np.median(times_s[2:])),
        "device": device,
        "side": detector.size,
    }


def page(measured: Mapping[str, Mapping[str, Any]], network: Mapping[str, Any], sheets: Sequence[str]) -> str:
    """The Markdown page."""
    titles = [f"{title} {name}" for title in PAPER_SETS.values() for name in ("AP50", "AP")]
    ours = [100 * measured[key]["figures"][name] if key in measured else math.nan for key in PAPER_SETS for name in ("ap50", "ap")]
    rows = [(f"{method} (paper)", size, 1000 / rate, rate, *values) for method, (size, rate, *values) in PAPER.items()]
    milliseconds = network["milliseconds"]
    rows.append((f"ours, {network['name']}", network["size_mb"], milliseconds, 1000 / milliseconds, *ours))
    names = list(dict.fromkeys(name for of in measured.values() for name in of["figures"]))
    parts: list[tuple[Any, ...]] = [(f"{row} (paper)", *paper) for row, paper in ABLATIONS.values()]
    parts.append((f"ours, {network['name']}", *ours[2:]))
    details = [
        (key, of["num_pictures"], of["num_hands"], *(of["figures"].get(name, math.nan) for name in names)) for key, of in measured.items()
    ]
    sizes = [(key, *(of["by_size"].get(name, math.nan) for name in SIZES)) for key, of in measured.items()]
    return "\n\n".join(
        [
            "# Hand detector",
            f"Percent, without regard to sides. Speed at batch 1: ours at {network['side']} pixels on {network['device']}, the paper's on "
            "an RTX 4090.",
            markdown(("method", "MB", "ms", "images/s", *titles), rows, "{:.4g}"),
            "The paper's ablations, each trained by a recipe of `training/recipes.py`.",
            markdown(("detector", *titles[2:]), parts, "{:.4g}"),
            "Every set, shares of 1. `side_` figures count a hand of the wrong side as wrong.",
            markdown(("set", "images", "hands", *names), details, "{:.4f}"),
            "AP by size of the hand: its box's longer side over that of the image.",
            markdown(("set", *SIZES), sizes, "{:.4f}"),
            "![precision and recall](precision.png)\n![AP by size](sizes.png)",
            *(f"The worst images, labels white: ![{sheet}]({sheet})" for sheet in sheets),
            "",
        ]
    )


def _plot(folder: Path, measured: Mapping[str, Mapping[str, Any]]) -> None:
    """`precision.png`, precision over recall at an overlap of .5, and `sizes.png`, AP by size."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6, 5), layout="constrained")
    axes = figure.subplots()
    for key, of in measured.items():
        axes.plot(RECALLS, of["precision_at_recall"], label=f"{key}, AP50 {of['figures']['ap50']:.3f}")
    axes.set(xlabel="recall", ylabel="precision", xlim=(0, 1), ylim=(0, 1.02))
    axes.legend()
    figure.savefig(folder / "precision.png", dpi=120)
    figure = Figure(figsize=(6, 5), layout="constrained")
    axes = figure.subplots()
    width = 0.8 / len(measured)
    for number, (key, of) in enumerate(measured.items()):
        axes.bar(np.arange(len(SIZES)) + number * width, [of["by_size"].get(name, 0) for name in SIZES], width, label=key)
    axes.set_xticks(np.arange(len(SIZES)) + 0.4 - width / 2, SIZES)
    axes.set(xlabel="longer side of the hand over that of the image", ylabel="AP", ylim=(0, 1))
    axes.legend()
    figure.savefig(folder / "sizes.png", dpi=120)
