"""The detector as a file for other runtimes: ONNX, or torch.export's own, with decoding and the choice of the best hands inside.

Input `images` float32 [batch, 3, size, size], red, green, blue in [0, 1]. Outputs `box` [batch, k, 4] and `keypoints`
[batch, k, 21, 3] (x, y, visibility) in pixels of the input, `score` [batch, k] in falling order, `side` [batch, k], 0 left, 1 right,
`side_score` [batch, k] of that side beside the other, in [0.5, 1]. `stages/detectors/whim.py` reads such files.
"""

import json
from collections.abc import Mapping
from pathlib import Path

import torch
from jaxtyping import Float, Int64
from torch import Tensor, nn

from training.detector.fast_decode import best_hands
from training.detector.inference import fused, read
from training.detector.network import Detector

OPSET = 18


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


def export(path: Path, checkpoint: Path, *, size: int = 640, max_hands: int = 100) -> None:
    """Write the averaged weights of a checkpoint as `.onnx` or, by torch.export, `.pt2`. Raises ValueError for another ending.

    A network without the one-to-one head finds a hand several times; whoever reads the file must drop the doubles.
    """
    if path.suffix not in (".onnx", ".pt2"):
        raise ValueError(f"export to a file that ends in .onnx or .pt2, got {path}")
    if size % 32 or size <= 0:
        raise ValueError(f"the side of the images must be a multiple of 32, got {size}")
    network = fused(read(checkpoint))
    without_doubles = network.single is not None
    if network.single is not None:
        network.heads, network.single = network.single, None
    model = BestHands(network, max_hands).eval()
    images = torch.zeros(2, 3, size, size)
    with torch.no_grad():
        program = torch.export.export(model, (images,), dynamic_shapes=({0: torch.export.Dim("batch", min=1)},))
    facts = {
        "format": "whim detector 2",
        "size": str(size),
        "max_hands": str(max_hands),
        "classes": "left,right",
        "pictures": "float32 RGB in [0, 1], letterboxed with 114 / 255",
        "without_doubles": str(without_doubles).lower(),
        "landmarks": str(network.settings.landmarks).lower(),
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    aside = path.with_name(f"partial-{path.name}")
    if path.suffix == ".pt2":
        torch.export.save(program, aside, extra_files={"whim.json": json.dumps(facts)})
    else:
        _save_onnx(program, aside, facts)
    aside.rename(path)


def _save_onnx(program: torch.export.ExportedProgram, path: Path, facts: Mapping[str, str]) -> None:
    """One file, weights included."""
    made = torch.onnx.export(
        program,
        opset_version=OPSET,
        dynamo=True,
        input_names=["images"],
        output_names=["box", "score", "side", "side_score", "keypoints"],
        dynamic_shapes=({0: "batch"},),
        verbose=False,
    )
    assert made is not None
    made.model.metadata_props.update(facts)
    made.save(path, external_data=False)
