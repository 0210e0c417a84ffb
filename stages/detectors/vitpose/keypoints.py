"""ViTPose: 17 body or 133 whole-body keypoints of each person that a detector boxed (Xu et al., NeurIPS 2022, arXiv:2204.12484).

Convention, unbiased data processing (UDP; Huang et al., CVPR 2020, arXiv:1911.07524). A view is [centre x, centre y, width, height] in
pixels of the frame, of the crop's aspect. Pixels are points, so n of them span n - 1 steps: crop pixel u of 192 shows the frame
at left + width * u / 191, and cell u of the 48 of a heatmap at left + width * u / 47.
"""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Float32, Float64, Int64
from torch import Tensor, nn
from torch.nn.functional import pad

from stages.detectors.networks import Batches, ready
from stages.detectors.pictures import AnyPicture, Picture, rgb
from stages.tables import LEFT, RIGHT

WIDTH, HEIGHT, CELLS_X, CELLS_Y = 192, 256, 48, 64
MARGIN = 1.25
MEAN, STD = (np.array(values, np.float32) for values in ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)))
"""ImageNet's, of R, G, B."""

BODY = slice(0, 17)
HANDS = {LEFT: slice(91, 112), RIGHT: slice(112, 133)}
"""Of COCO-WholeBody's 133 keypoints (body, feet, face, hands), each hand in OpenPose's order (Jin et al., ECCV 2020)."""

_BODY_PAIRS = ((1, 2), (3, 4), (5, 6), (7, 8), (9, 10), (11, 12), (13, 14), (15, 16))
_FEET_PAIRS = ((17, 20), (18, 21), (19, 22))
_FACE_PAIRS = (
    *((i, 16 - i) for i in range(8)), *((17 + i, 26 - i) for i in range(5)), (31, 35), (32, 34), (36, 45), (37, 44), (38, 43), (39, 42),
    (40, 47), (41, 46), (48, 54), (49, 53), (50, 52), (55, 59), (56, 58), (60, 64), (61, 63), (65, 67),
)  # fmt: skip
"""Of the 68 points of a face: jaw, brows, nostrils, eyes, lips."""

Look = tuple[AnyPicture, Float64[np.ndarray, "4"]]
Reader = Callable[[Sequence[Look]], Float32[np.ndarray, "n k 3"]]
"""Pictures and views to x, y in pixels of the frame and score of each keypoint."""


def mirrored_order(num_keypoints: int) -> list[int]:
    """For each of the 17 or 133 keypoints, which one of a mirrored picture it is."""
    order = list(range(num_keypoints))
    pairs = [*_BODY_PAIRS]
    if num_keypoints == 133:
        hands = zip(range(133)[HANDS[LEFT]], range(133)[HANDS[RIGHT]], strict=True)
        pairs += [*_FEET_PAIRS, *((23 + a, 23 + b) for a, b in _FACE_PAIRS), *hands]
    for left, right in pairs:
        order[left], order[right] = right, left
    return order


def views_of(box: Float[np.ndarray, "n 4"]) -> Float64[np.ndarray, "n 4"]:
    """About each box, grown to the crop's aspect and by a margin of 25 %; at least a pixel wide."""
    box = box.astype(np.float64)
    centre, size = (box[:, :2] + box[:, 2:]) / 2, np.maximum(box[:, 2:] - box[:, :2], 1.0)
    width = np.maximum(size[:, 0], size[:, 1] * WIDTH / HEIGHT) * MARGIN
    return np.column_stack([centre, width, width * HEIGHT / WIDTH])


def cut_person(image: Picture, view: Float64[np.ndarray, "4"]) -> Float32[np.ndarray, "3 256 192"]:
    """The view as the network wants it: RGB, by ImageNet's mean and deviation, black outside the frame."""
    import cv2

    (left, top), (x, y) = view[:2] - view[2:] / 2, view[2:] / np.array([WIDTH - 1, HEIGHT - 1])
    matrix = np.array([[x, 0, left], [0, y, top]], np.float64)
    crop = cv2.warpAffine(image, matrix, (WIDTH, HEIGHT), flags=cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP)
    return np.ascontiguousarray(((crop.astype(np.float32) / 255 - MEAN) / STD).transpose(2, 0, 1))


def to_frame(cells: Float[np.ndarray, "n k 2"], view: Float64[np.ndarray, "n 4"]) -> Float64[np.ndarray, "n k 2"]:
    """Points of the heatmaps, in cells, in pixels of the frame."""
    corner, size = view[:, None, :2] - view[:, None, 2:] / 2, view[:, None, 2:]
    return corner + size * cells.astype(np.float64) / np.array([CELLS_X - 1, CELLS_Y - 1])


def peaks(maps: Float[Tensor, "n k h w"], *, kernel: int = 11) -> Float32[Tensor, "n k 3"]:
    """x, y in cells and height of each map's peak, between the cells: one Newton step on the logarithm of the smoothed map.

    DARK (Zhang et al., CVPR 2020, arXiv:1910.06278, eq. 7) as UDP has it: the smoothed map is a Gaussian about the peak, its
    logarithm a parabola. Where the map does not bend down in both directions, as at a plateau, the highest cell itself is taken.
    """
    score, place = maps.float().flatten(2).max(-1)
    cell = torch.stack([place % maps.shape[-1], place // maps.shape[-1]], -1)
    log = _smoothed_about(maps.float(), cell, kernel).clamp(1e-3, 50).log()
    (nw, n, _), (w, here, e), (_, s, se) = (row.unbind(-1) for row in log.unbind(-2))
    slope_x, slope_y = (e - w) / 2, (s - n) / 2
    bend_x, bend_y = e - 2 * here + w, s - 2 * here + n
    twist = (se - e - s + 2 * here - w - n + nw) / 2
    determinant = bend_x * bend_y - twist**2
    step = torch.stack([bend_y * slope_x - twist * slope_y, bend_x * slope_y - twist * slope_x], -1) / -determinant[..., None]
    domed = (bend_x < 0) & (bend_y < 0) & (determinant > 1e-9) & (step.abs().amax(-1) < 2)
    return torch.cat([cell + torch.where(domed[..., None], step, 0), score[..., None]], -1)


def _smoothed_about(maps: Float32[Tensor, "n k h w"], cell: Int64[Tensor, "n k 2"], kernel: int) -> Float32[Tensor, "n k 3 3"]:
    """The 3 x 3 cells about a cell of each map, smoothed by a Gaussian of `kernel` cells and of OpenCV's deviation for that size.

    Beyond the map's border is nothing, as mmpose 1.x has it: a peak there is found five times as exactly as with a mirrored border. The
    smoothed border itself is repeated.
    """
    half, sigma = kernel // 2, 0.3 * ((kernel - 1) / 2 - 1) + 0.8
    taps = torch.arange(kernel, device=maps.device)
    weight = torch.exp(-((taps - half) ** 2) / (2 * sigma**2))
    weight = weight / weight.sum()
    size = torch.tensor([maps.shape[-1], maps.shape[-2]], device=maps.device)
    about = (cell[..., None, :] + torch.arange(-1, 2, device=maps.device)[:, None]).clamp(torch.zeros_like(size), size - 1)
    x, y = (about[..., None] + taps).movedim(-2, 0).flatten(3)  # of the padded map: which cells each of the three is made from
    padded = pad(maps, (half, half, half, half))
    patch = padded.flatten(2).gather(2, (y[..., None] * padded.shape[-1] + x[..., None, :]).flatten(2))
    return torch.einsum("nkaibj,i,j->nkab", patch.view(*cell.shape[:2], 3, kernel, 3, kernel), weight, weight)


class HeatmapNetwork(nn.Module):
    """transformers' ViTPose as crops to heatmaps, with the mean over the crop and its mirror image when `flip`."""

    def __init__(self, network: Any, *, flip: bool) -> None:
        super().__init__()
        self.network, self.flip = network, flip
        self.order = mirrored_order(network.config.num_labels)

    def forward(self, crops: Float32[Tensor, "n 3 256 192"]) -> Float[Tensor, "n k 64 48"]:
        maps: Tensor = self.network(crops).heatmaps
        if not self.flip:
            return maps
        return (maps + self.network(crops.flip(-1)).heatmaps.flip(-1)[:, self.order]) / 2


def keypoint_reader(network: Any, *, flip: bool, device: str, bf16: bool, batch_size: int) -> Reader:
    """transformers' ViTPose as a function of looks; crops are cut a batch at a time."""
    run = ready(HeatmapNetwork(network, flip=flip), device=device, bf16=bf16)

    def read(looks: Sequence[Look]) -> np.ndarray:
        views = np.stack([view for _, view in looks])
        found = peaks(run(torch.from_numpy(np.stack([cut_person(rgb(image), view) for image, view in looks])))).cpu().numpy()
        return np.concatenate([to_frame(found[..., :2], views), found[..., 2:]], -1).astype(np.float32)

    batches = Batches[Look, np.ndarray](read, batch_size, "crops of people")
    return lambda looks: np.array(batches(looks), np.float32).reshape(len(looks), network.config.num_labels, 3)
