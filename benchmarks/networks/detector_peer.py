"""The peer of the detector benchmark, run by the environment it is installed in: `python detector_peer.py FOLDER`.

Reads one request a line, a JSON list of a measure's name and its arguments, and answers with one line of JSON each: a process that
waits, so that peer and ours take turns on the same machine. Imports nothing of ours, and nothing of ours imports it (AGPL-3.0).
`FOLDER/pictures` holds images and labels as Ultralytics wants them.
"""

import json
import os
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch
import ultralytics
import yaml
from ultralytics import YOLO
from ultralytics.utils.nms import non_max_suppression

SIDE, NAMES = 640, {"s": "yolov8n-pose", "m": "yolov8s-pose"}
"""Of the sizes that are equal to ours."""
CANDIDATES = 100
"""Anchors above the threshold that suppression begins from: some ten hands. Random weights would have none at the usual threshold."""

folder = Path(sys.argv[1])
threads = min(2, os.cpu_count() or 1)
torch.set_num_threads(threads)
held: dict[Any, Any] = {}
"""Networks made so far, with the threshold of each."""


class Enough(Exception):
    """Ends the peer's training after the steps that were asked for."""


def described(size: str) -> Path:
    """The network's own description, with two classes and the keypoints of a hand."""
    path = folder / f"{NAMES[size]}.yaml"
    source = Path(ultralytics.__file__).parent / "cfg" / "models" / "v8" / "yolov8-pose.yaml"
    path.write_text(yaml.safe_dump(yaml.safe_load(source.read_text()) | {"nc": 2, "kpt_shape": [21, 3]}))
    return path


def cost(size: str) -> dict[str, float]:
    """Parameters, and arithmetic of a picture in units of 10^9."""
    model = YOLO(described(size)).model
    parameters = sum(p.numel() for p in model.parameters())
    from ultralytics.utils.torch_utils import get_flops

    return {"parameters": parameters, "gflops": round(float(get_flops(model, SIDE)), 2)}


def infer(size: str, runtime: str, batch: int, repeats: int) -> float:
    """Milliseconds a picture, suppression of duplicates included; the quickest of some runs."""
    if (size, runtime) not in held:
        held[size, runtime] = running(size, runtime)
    network, threshold = held[size, runtime]
    pictures = torch.rand(batch, 3, SIDE, SIDE)

    def run() -> None:
        non_max_suppression(network(pictures), threshold, 0.7, nc=2, max_det=CANDIDATES)

    return quickest(run, repeats) * 1e3 / batch


def running(size: str, runtime: str, device: str = "cpu") -> tuple[Callable[[torch.Tensor], torch.Tensor], float]:
    """A network with its norms folded, and a threshold."""
    torch.manual_seed(0)
    model = YOLO(described(size))
    if runtime == "torch":
        fused = model.model.fuse(verbose=False).eval().to(device)
        fused = fused.half() if device != "cpu" else fused

        @torch.inference_mode()
        def network(pictures: torch.Tensor) -> torch.Tensor:
            return fused(pictures)[0]
    else:
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        exported = model.export(format="onnx", imgsz=SIDE, dynamic=True, simplify=True, verbose=False)
        session = onnxruntime.InferenceSession(exported, options, providers=["CPUExecutionProvider"])
        (name,) = (entry.name for entry in session.get_inputs())

        def network(pictures: torch.Tensor) -> torch.Tensor:
            return torch.from_numpy(session.run(None, {name: pictures.numpy()})[0])

    kind = torch.float16 if device != "cpu" else torch.float32
    said = network(torch.rand(1, 3, SIDE, SIDE, device=device, dtype=kind))
    return network, float(said[0, 4:6].amax(0).topk(CANDIDATES).values[-1])


def train(size: str, batch: int, steps: int) -> float:
    """Pictures a second of its trainer: loading, augmentation, loss, optimizer and average, from the end of the first step on."""
    ends: list[float] = []

    def note(_: Any) -> None:
        ends.append(time.perf_counter())
        if len(ends) > steps:
            raise Enough

    model = YOLO(described(size))
    model.add_callback("on_train_batch_end", note)
    wanted = {
        "optimizer": "AdamW",
        "lr0": 1e-3,
        "nbs": batch,
        "workers": threads,
        "amp": False,
        "val": False,
        "plots": False,
        "save": False,
    }
    with suppress(Enough):
        model.train(
            data=str(folder / "pictures.yaml"),
            imgsz=SIDE,
            batch=batch,
            epochs=100,
            project=str((folder / "runs").absolute()),
            exist_ok=True,
            device="cpu",
            verbose=False,
            **wanted,
        )
    return steps * batch / (ends[-1] - ends[0])


def gpu(size: str, batch: int, repeats: int) -> float:
    """Milliseconds a picture on the GPU in half precision, suppression of duplicates included."""
    network, threshold = running(size, "torch", "cuda")
    pictures = torch.rand(batch, 3, SIDE, SIDE, device="cuda", dtype=torch.float16)

    def run() -> None:
        non_max_suppression(network(pictures), threshold, 0.7, nc=2, max_det=CANDIDATES)
        torch.cuda.synchronize()

    return quickest(run, repeats) * 1e3 / batch


def quickest(run: Callable[[], None], repeats: int) -> float:
    """Seconds, after one run that does not count."""
    run()
    times = []
    for _ in range(repeats):
        before = time.perf_counter()
        run()
        times.append(time.perf_counter() - before)
    return min(times)


def main() -> None:
    """Answer until there are no more questions; an answer's line begins with `= `, others are Ultralytics' own."""
    print(
        "=", json.dumps({"ultralytics": ultralytics.__version__, "torch": torch.__version__, "gpu": torch.cuda.is_available()}), flush=True
    )
    for line in sys.stdin:
        name, *arguments = json.loads(line)
        told = {measure.__name__: measure for measure in (cost, infer, train, gpu)}[name](*arguments)
        print("=", json.dumps(told), flush=True)


if __name__ == "__main__":
    main()
