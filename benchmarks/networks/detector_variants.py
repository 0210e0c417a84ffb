"""`make bench-detector-variants`: detectors that differ in one thing on the frames of `make bench-detector-real`.

`--training CHECKPOINT DATA`, once for each: what it learned from. `--sizes PX ...`: the size of its images, with the `--fold`s of
`detector_real` as checkpoints, and with `--speed` frames a second too. What other calls measured stays in the file.
"""

import argparse
import json
import os
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np

from benchmarks.networks.detector_real import (
    LEAST_SCORE,
    RESULT,
    ROOT,
    ROUNDS,
    Folds,
    Look,
    Seen,
    by_judge,
    curve,
    images_seen,
    judges,
    mediapipe_loop,
    network_look,
    read_folds,
    read_frame,
    summary,
)
from hands.metrics.labels import LabelledFrame, load_labels
from stages.detectors.whim import WhimNetwork, open_network
from training.data.dataset import Dataset
from training.data.readers.shard_frames import shard_frames
from training.data.samples import Frames
from training.detector.evaluate import evaluate, metrics
from training.detector.export import export
from training.detector.inference import SHIPPED, HandDetector

ENGINES: Mapping[str, Callable[[Path], WhimNetwork]]
"""How the file of an export is opened, on one thread."""


def by_training(
    frames: Sequence[LabelledFrame], images: Sequence[np.ndarray], trainings: Sequence[tuple[Path, str]], held_out: Path | None
) -> dict[str, Any]:
    """Figures of checkpoints, each with what it learned from, at the size it was trained at: none may have seen the frames' videos.

    `held_out` are shards of images that none of them learned from; AP50 is taken there.
    """
    found: dict[str, Any] = {}
    for checkpoint, data in trainings:
        detector = HandDetector.load(checkpoint, threshold=LEAST_SCORE)
        seen = [_seen_by(detector, image) for image in images]
        figures = {"image_px": detector.size, "pictures_seen": images_seen(checkpoint), **summary(curve(frames, seen))}
        if held_out:
            held = Frames(dataset=_whole(held_out), size=detector.size)
            figures["held_out_ap50"] = round(metrics(evaluate(detector, shard_frames(held)))["ap50"], 3)
        found[f"{detector.network.settings.backbone}: {data}"] = figures
    return found


def _whole(folder: Path) -> Dataset:
    dataset = Dataset.held_out([folder])
    if dataset is None:
        raise ValueError(f"{folder} has no shard of a val or test split: nothing to measure on")
    return dataset


def _look(size: int, checkpoint: Path) -> Look:
    return partial(_seen_by, HandDetector.load(checkpoint, size=size, threshold=LEAST_SCORE))


def _seen_by(detector: HandDetector, image: np.ndarray) -> Seen:
    (hands,) = detector([image])
    return Seen(box=hands.box, score=hands.score, side=hands.side)


def by_size(
    frames: Sequence[LabelledFrame], images: Sequence[np.ndarray], network: Path, folds: Folds, sizes: Sequence[int]
) -> dict[str, Any]:
    """Recall of checkpoints for images of each size."""
    networks, found = judges(frames, network, folds), {}
    for size in sizes:
        looks = by_judge(partial(_look, size), networks)
        found[str(size)] = summary(curve(frames, [look(image) for look, image in zip(looks, images, strict=True)]))
    return found


def speed_by_size(images: Sequence[np.ndarray], network: Path, sizes: Sequence[int]) -> dict[str, Any]:
    """Frames a second of a checkpoint exported for images of each size, by each engine on one thread, with MediaPipe's loop by turns.

    OpenVINO computes in the arithmetic that it chooses for the processor (bfloat16 where there is such), as it does unless told otherwise.
    """
    looks: dict[tuple[str, str], Look] = {("mediapipe", "litert"): mediapipe_loop()}
    with TemporaryDirectory() as folder:
        for size in sizes:
            file = Path(folder) / f"{size}.onnx"
            export(file, network, size=size)
            looks |= {(str(size), engine): network_look(opened(file)) for engine, opened in ENGINES.items()}
        spent_s = dict.fromkeys(looks, np.inf)
        for _ in range(ROUNDS):
            for which, look in looks.items():
                began = time.process_time()
                for image in images:
                    look(image)
                spent_s[which] = min(spent_s[which], time.process_time() - began)
    found: dict[str, Any] = {}
    for (name, engine), seconds in spent_s.items():
        found.setdefault(name, {})[engine] = round(len(images) / seconds, 1)
    return found


def by_onnxruntime(path: Path) -> WhimNetwork:
    """The file of an export as `ProposeHands` opens it."""
    return open_network(path, device="cpu")


def by_openvino(path: Path) -> WhimNetwork:
    """The file of an export opened by OpenVINO."""
    sys.modules.setdefault("openvino_telemetry", None)  # type: ignore[arg-type]  # would tell its makers of every import
    import openvino

    plain = open_network(path, device="cpu")
    model = openvino.Core().read_model(path)
    model.reshape([1, 3, plain.size, plain.size])
    return WhimNetwork(
        session=_Compiled(openvino.Core().compile_model(model, "CPU", {"INFERENCE_NUM_THREADS": 1, "NUM_STREAMS": 1})),
        size=plain.size,
        least_side=plain.size,
        without_doubles=plain.without_doubles,
        landmarks=plain.landmarks,
    )


class _Compiled:
    """A network of OpenVINO that is called as onnxruntime's are."""

    def __init__(self, model: Any) -> None:
        self.request = model.create_infer_request()

    def run(self, names: Sequence[str], inputs: Mapping[str, np.ndarray]) -> list[np.ndarray]:
        said = self.request.infer(dict(inputs))
        return [said[name].copy() for name in names]

    def get_providers(self) -> list[str]:
        return ["CPUExecutionProvider"]


ENGINES = {"onnxruntime": by_onnxruntime, "openvino": by_openvino}


def main() -> None:
    """Measure and write."""
    media = Path(os.environ.get("WHIM_MEDIA", ROOT.parent / "shared" / "media"))
    parser = argparse.ArgumentParser(prog="python -m benchmarks.networks.detector_variants", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--labels", type=Path, default=media / "labels" / "bench_A.json")
    parser.add_argument("--media", type=Path, default=media)
    by = "a checkpoint that saw none of the videos, and what it learned from, such as 'a + studio'; again for more"
    parser.add_argument("--training", nargs=2, action="append", default=[], metavar=("CHECKPOINT", "DATA"), help=by)
    parser.add_argument("--held-out", type=Path, help="shards of images for the AP50 of each --training")
    parser.add_argument("--sizes", type=int, nargs="+", default=[], metavar="PX", help="recall for images of these sizes")
    parser.add_argument("--speed", action="store_true", help="frames a second at these sizes as well")
    parser.add_argument("--checkpoint", type=Path, default=SHIPPED, help="the network of --sizes where there is no --fold")
    parser.add_argument("--fold", nargs=2, type=Path, action="append", default=[], metavar=("CHECKPOINT", "VIDEOS"))
    parser.add_argument("--out", type=Path, default=RESULT)
    given = parser.parse_args()
    frames = load_labels(given.labels)
    images = [read_frame(given.media / frame.image) for frame in frames]
    trainings = [(Path(checkpoint), data) for checkpoint, data in given.training]
    figures = {
        "by_training": by_training(frames, images, trainings, given.held_out),
        "by_size": by_size(frames, images, given.checkpoint, read_folds(given.fold), given.sizes) if given.sizes else {},
        "frames_per_s_by_size": speed_by_size(images, given.checkpoint, given.sizes) if given.speed else {},
    }
    before = json.loads(given.out.read_text()) if given.out.exists() else {}
    given.out.write_text(json.dumps(before | {name: before.get(name, {}) | of for name, of in figures.items() if of}, indent=1) + "\n")
    print(json.dumps(figures, indent=1))


if __name__ == "__main__":
    main()
