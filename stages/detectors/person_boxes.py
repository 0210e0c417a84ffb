"""Person boxes by D-FINE or RT-DETR, through `transformers`: the step before every pose network, which the paper leaves unsaid.

Both see the whole picture squeezed to a square (no letterbox), RGB in [0, 1], and answer with 300 boxes and 80 COCO classes each.
Without a suppression of overlaps: the networks are trained to name everybody once (Carion et al., ECCV 2020).
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float32
from torch import Tensor, nn
from torch.nn.functional import interpolate

from stages import boxes
from stages.detectors.networks import Batches, ready
from stages.detectors.pictures import AnyPicture, Picture, rgb
from stages.detectors.weights import BadWeights, State

SIZE = 640
PERSON = 0
"""COCO's first class."""
ARCHITECTURES: Mapping[str, tuple[str, Mapping[str, Any]]] = {
    "rtdetr_r50": ("RTDetr", {}),
    "dfine_large": ("DFine", {"decoder_n_points": [3, 6, 3]}),
}
"""By name in the manifest: transformers' class, and what of its configuration is not the default."""

FindPersons = Callable[[Sequence[AnyPicture], float], list[Float32[np.ndarray, "n 5"]]]
"""Pictures and least score to x1, y1, x2, y2 in pixels and score of every person, best first."""


class PersonDetector(nn.Module):
    """A DETR of `transformers` that keeps people only."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, pictures: Float32[Tensor, "n 3 640 640"]) -> Float32[Tensor, "n queries 5"]:
        """x1, y1, x2, y2 as shares of the picture, and the score, of every query."""
        found = self.network(pictures)
        centre, size = found.pred_boxes.float().split(2, -1)
        score = found.logits[..., PERSON : PERSON + 1].float().sigmoid()
        return torch.cat([centre - size / 2, centre + size / 2, score], -1)


def person_detector(name: str, state: State, source: Path) -> PersonDetector:
    """The network with the weights of its checkpoint on the hub. Raises BadWeights when they are another network's."""
    import transformers

    prefix, options = ARCHITECTURES[name]
    config = getattr(transformers, f"{prefix}Config")(num_labels=80, **options)
    kind = getattr(transformers, f"{prefix}ForObjectDetection")
    with _quiet():
        network, report = kind.from_pretrained(
            None, config=config, state_dict=state, output_loading_info=True, ignore_mismatched_sizes=True
        )
    faults = {
        "missing": [name for name in report["missing_keys"] if not name.endswith("num_batches_tracked")],
        "unexpected": report["unexpected_keys"],
        "of another shape": [name for name, *_ in report["mismatched_keys"]],
    }
    if any(faults.values()):
        words = "; ".join(f"{len(names)} {what}: {', '.join(sorted(names)[:4])}" for what, names in faults.items() if names)
        raise BadWeights(f"{source} is another network's checkpoint, not {name}'s: {words}")
    return PersonDetector(network)


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep transformers' progress bars and reports off the terminal meanwhile: what is wrong comes as an exception."""
    from transformers.utils import logging

    level, bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.set_verbosity(level)
        if bars:
            logging.enable_progress_bar()


def squeezed(image: Picture) -> Float32[Tensor, "3 640 640"]:
    """The picture as the networks saw it in training: resampled with antialiasing, whatever its shape."""
    pixels = torch.from_numpy(np.ascontiguousarray(image)).permute(2, 0, 1)[None]
    small = interpolate(pixels, size=(SIZE, SIZE), mode="bilinear", antialias=True, align_corners=False)
    return small[0].float() / 255


def person_finder(network: nn.Module, *, device: str, bf16: bool, batch_size: int) -> FindPersons:
    """The network as a function of pictures."""
    run = ready(network, device=device, bf16=bf16)

    def look(images: Sequence[Picture]) -> np.ndarray:
        return run(torch.stack([squeezed(image) for image in images])).cpu().numpy()

    batches = Batches[Picture, np.ndarray](look, batch_size, "pictures")

    def find(images: Sequence[AnyPicture], min_score: float) -> list[np.ndarray]:
        pictures = [rgb(image) for image in images]
        return [_persons(found, image, min_score) for found, image in zip(batches(pictures), pictures, strict=True)]

    return find


def _persons(found: Float32[np.ndarray, "queries 5"], image: Picture, min_score: float) -> Float32[np.ndarray, "n 5"]:
    height, width = image.shape[:2]
    found = found * np.array([width, height, width, height, 1], np.float32)
    kept = found[(found[:, 4] >= min_score) & np.isfinite(found).all(1) & (boxes.area(found[:, :4]) >= 1)]
    return kept[np.argsort(-kept[:, 4], kind="stable")]
