"""The regressor as an ONNX file: crops in, the most refined hand out.

Input `images` float32 [batch, 3, 256, 256], red, green, blue in [0, 1], right hands. Outputs are those of
`training.regressor.hand.HandEstimate`: `rotations` [batch, 16, 3, 3], `betas`, `camera`, `vertices`, `joints`, `points`.
"""

from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor, nn

from training.regressor.hand import HandEstimate
from training.regressor.inference import SIZE, read
from training.regressor.network import Regressor

OPSET = 18


class LastHand(nn.Module):
    """A regressor that says its last estimate alone."""

    def __init__(self, network: Regressor) -> None:
        super().__init__()
        self.network = network

    def forward(self, images: Float[Tensor, "b 3 256 256"]) -> tuple[Tensor, ...]:
        return tuple(self.network(images)[-1])


def export(path: Path, checkpoint: Path) -> None:
    """Write the averaged weights of a checkpoint. Raises ValueError for an ending other than `.onnx`.

    The file holds arrays of the hand model in use: where that is MANO, its licence binds the file.
    """
    if path.suffix != ".onnx":
        raise ValueError(f"export to a file that ends in .onnx, got {path}")
    network = read(checkpoint)
    images = torch.zeros(2, 3, SIZE, SIZE)
    batch = torch.export.Dim("batch", min=1)
    with torch.no_grad():
        program = torch.export.export(LastHand(network).eval(), (images,), dynamic_shapes=({0: batch},))
    made = torch.onnx.export(
        program,
        opset_version=OPSET,
        dynamo=True,
        input_names=["images"],
        output_names=list(HandEstimate._fields),
        dynamic_shapes=({0: "batch"},),
        verbose=False,
    )
    assert made is not None
    made.model.metadata_props.update({"format": "whim regressor 1", "hand": network.settings.hand, "pictures": "float32 RGB in [0, 1]"})
    path.parent.mkdir(parents=True, exist_ok=True)
    aside = path.with_name(f"partial-{path.name}")
    try:
        made.save(aside, external_data=False)
        aside.rename(path)
    finally:
        aside.unlink(missing_ok=True)
