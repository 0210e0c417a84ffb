"""The detector as a file for other runtimes: ONNX, or torch.export's own, with decoding and the choice of the best hands inside.

Input `images` float32 [batch, 3, height, width], red, green, blue in [0, 1]; sides are multiples of 32, from `least_side` to `size`.
Outputs `box` [batch, k, 4] and `keypoints` [batch, k, 21, 3] (x, y, visibility) in pixels of the input, `score` [batch, k] in falling
order, `side` [batch, k], 0 left, 1 right, `side_score` [batch, k] of that side beside the other, in [0.5, 1].
`stages/detectors/whim.py` reads such files.
"""

import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int64
from torch import Tensor, nn
from torch.nn import functional

from training.detector.fast_decode import best_hands, is_dense
from training.detector.inference import fused, read
from training.detector.network import STRIDES, Detector
from training.run.checkpoint import Checkpoint

OPSET = 18
_WORTH_HALVING = 64
"""Numbers that a weight must have."""


class BestHands(nn.Module):
    """A detector that says its best `max_hands` anchors; of the one-to-one head these are hands, without further ado."""

    def __init__(self, network: Detector, max_hands: int) -> None:
        super().__init__()
        self.network, self.max_hands = network, max_hands

    def forward(
        self, images: Float[Tensor, "b 3 h w"]
    ) -> tuple[Float[Tensor, "b k 4"], Float[Tensor, "b k"], Int64[Tensor, "b k"], Float[Tensor, "b k"], Float[Tensor, "b k 21 3"]]:
        prediction = best_hands(self.network, images, self.max_hands)
        score, side = prediction.score.max(2)
        return prediction.box, score, side, score / prediction.score.sum(2).clamp_min(1e-9), prediction.keypoints


def export(path: Path, checkpoint: Path, *, size: int | None = None, max_hands: int = 100, half: bool = False) -> None:
    """Write the averaged weights of a checkpoint as `.onnx` or, by torch.export, `.pt2`, at the size it was trained on unless one is named.

    That is the longer side: the shorter one is open, so that of a frame of 16:9 no square is computed. Raises ValueError for another
    ending.

    With `half` an ONNX file holds its weights in half the bytes; whoever opens it computes in float32 all the same.
    A network without the one-to-one head finds a hand several times; whoever reads the file must drop the doubles.
    """
    if path.suffix not in (".onnx", ".pt2"):
        raise ValueError(f"export to a file that ends in .onnx or .pt2, got {path}")
    if size is not None and (size % 32 or size <= 0):
        raise ValueError(f"the side of the images must be a multiple of 32, got {size}")
    network = fused(read(checkpoint))
    size = size or network.settings.image
    without_doubles = network.single is not None
    if network.single is not None:
        network.heads, network.single = network.single, None
    if path.suffix == ".onnx":
        _ease_slopes(network)
    model = BestHands(network, max_hands).eval()
    least = _least_side(size, max_hands)
    images = torch.zeros(2, 3, least, size)
    shapes = {0: torch.export.Dim("batch", min=1)}
    if least < size:
        shapes |= {axis: 32 * torch.export.Dim(name, min=least // 32, max=size // 32) for axis, name in ((2, "rows"), (3, "columns"))}
    with torch.no_grad():
        program = torch.export.export(model, (images,), dynamic_shapes=(shapes,))
    facts = {
        "format": "whim detector 2",
        "size": str(size),
        "least_side": str(least),
        "max_hands": str(max_hands),
        "classes": "left,right",
        "pictures": "float32 RGB in [0, 1], letterboxed with 114 / 255",
        "without_doubles": str(without_doubles).lower(),
        "landmarks": str(network.settings.landmarks).lower(),
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    aside = path.with_name(f"partial-{path.name}")
    try:
        if path.suffix == ".pt2":
            torch.export.save(program, aside, extra_files={"whim.json": json.dumps(facts)})
        else:
            _save_onnx(program, aside, facts, half, open_sides=least < size)
        aside.rename(path)
    finally:
        aside.unlink(missing_ok=True)


def shrink(path: Path, checkpoint: Path, *, size: int | None = None) -> None:
    """Write a checkpoint's averaged weights alone, in half precision: enough to detect with, at `size` where one is named."""
    saved = Checkpoint.load(checkpoint, "detector")
    settings = dict(saved.settings) | ({"image": size} if size else {})
    weights = {name: values.half() if values.is_floating_point() else values for name, values in saved.ema.items()}
    replace(saved, settings=settings, network={}, ema=weights, optimizer={}, adversary={}).save(path)


class EasedSlopes(nn.Module):
    """PReLU by convolutions of one pixel a channel: slope x + (1 - slope) max(x, 0).

    onnxruntime has no PReLU for the blocked memory that its convolutions want: with PReLU itself a network takes twice the time.
    """

    def __init__(self, slopes: Float[Tensor, "channels"]) -> None:
        super().__init__()
        self.all, self.positive = (nn.Conv2d(len(slopes), len(slopes), 1, groups=len(slopes), bias=False) for _ in range(2))
        self.all.weight.data = slopes.detach()[:, None, None, None].clone()
        self.positive.weight.data = 1 - self.all.weight.data

    def forward(self, x: Float[Tensor, "b channels h w"]) -> Float[Tensor, "b channels h w"]:
        eased: Tensor = self.all(x) + self.positive(functional.relu(x))
        return eased


def _ease_slopes(network: nn.Module) -> None:
    """Every PReLU of a network replaced by `EasedSlopes`, in place."""
    for module in list(network.modules()):
        for name, layer in list(module.named_children()):
            if isinstance(layer, nn.PReLU):
                setattr(module, name, EasedSlopes(layer.weight))


def _least_side(size: int, max_hands: int) -> int:
    """The least side of images that the network takes the same way as squares of `size`: an export knows one way alone."""

    def way(side: int) -> tuple[bool, ...]:
        cells = [(side // stride) ** 2 for stride in STRIDES]
        return (sum(cells) >= max_hands, *(is_dense(of_level, max_hands) for of_level in cells))

    return next((side for side in range(64, size, 32) if way(side) == way(size)), size)  # of a single cell torch would make a constant


def _save_onnx(program: torch.export.ExportedProgram, path: Path, facts: Mapping[str, str], half: bool, *, open_sides: bool) -> None:
    """One file, weights included."""
    made = torch.onnx.export(
        program,
        opset_version=OPSET,
        dynamo=True,
        input_names=["images"],
        output_names=["box", "score", "side", "side_score", "keypoints"],
        dynamic_shapes=({0: "batch"} | ({2: "height", 3: "width"} if open_sides else {}),),
        verbose=False,
    )
    assert made is not None
    for node in made.model.graph:  # where in torch's source each came from: a tenth of a small file
        node.metadata_props.clear()
    made.model.metadata_props.update(facts)
    if half:
        _halve(made.model)
    made.save(path, external_data=False)


def _halve(model: Any) -> None:
    """Weights of an ONNX model in float16, each cast back where it is read."""
    import onnx_ir as ir

    for value in list(model.graph.initializers.values()):
        if value.const_value is None or value.dtype != ir.DataType.FLOAT or value.const_value.size < _WORTH_HALVING:
            continue
        if tuple(value.shape or ())[1:] == (1, 1, 1):  # of `EasedSlopes`: two that belong together must not be rounded apart
            continue
        narrow = ir.Value(
            name=f"{value.name}_half",
            shape=value.shape,
            type=ir.TensorType(ir.DataType.FLOAT16),
            const_value=ir.tensor(value.const_value.numpy().astype(np.float16), name=f"{value.name}_half"),
        )
        cast = ir.node("Cast", inputs=[narrow], attributes={"to": ir.DataType.FLOAT.value}, num_outputs=1)
        cast.outputs[0].name, cast.outputs[0].dtype, cast.outputs[0].shape = f"{value.name}_wide", ir.DataType.FLOAT, value.shape
        value.replace_all_uses_with(cast.outputs[0])
        del model.graph.initializers[value.name]
        model.graph.register_initializer(narrow)
        model.graph.insert_before(model.graph[0], cast)
