"""Boxes of two-stage detectors: deltas to boxes, suppression of overlaps, and the mean features of a box. Plain torch.

Boxes are xyxy in pixels of the network's input, corners included as real numbers (no pixel is added to a width).
"""

import math

import torch
from jaxtyping import Float, Int
from torch import Tensor

MAX_LOG_SIZE = math.log(1000 / 16)
"""A box grows by no more than this factor: detectron2's."""
CHUNK = 1 << 24
"""Numbers gathered at once from the maps."""


def moved(box: Float[Tensor, "n 4"], deltas: Float[Tensor, "n 4"], weights: tuple[float, float, float, float]) -> Float[Tensor, "n 4"]:
    """Boxes moved by dx, dy (in box sizes) and scaled by exp(dw), exp(dh), each delta divided by its weight (R-CNN, app. C)."""
    size, centre = box[:, 2:] - box[:, :2], (box[:, :2] + box[:, 2:]) / 2
    deltas = deltas / deltas.new_tensor(weights)
    centre = centre + deltas[:, :2] * size
    half = size * deltas[:, 2:].clamp(max=MAX_LOG_SIZE).exp() / 2
    return torch.cat([centre - half, centre + half], 1)


def iou(a: Float[Tensor, "n 4"], b: Float[Tensor, "m 4"]) -> Float[Tensor, "n m"]:
    """Intersection over union of every pair."""
    shared = (torch.minimum(a[:, None, 2:], b[:, 2:]) - torch.maximum(a[:, None, :2], b[:, :2])).clamp(min=0).prod(2)
    area_a, area_b = (a[:, 2:] - a[:, :2]).prod(1), (b[:, 2:] - b[:, :2]).prod(1)
    return shared / (area_a[:, None] + area_b - shared)


def suppress(box: Float[Tensor, "n 4"], score: Float[Tensor, "n"], max_iou: float) -> Int[Tensor, "k"]:
    """Rows of the boxes that overlap no better kept one by more than `max_iou`, best first: greedy suppression.

    Instead of box by box it is found as a fixed point: a box stays if no better one that stays covers it. Each round settles at least
    the best unsettled box, and in practice a few rounds settle all (Zheng et al., 2021, cluster-NMS).
    """
    order = score.argsort(descending=True, stable=True)
    covers = (iou(box[order], box[order]) > max_iou).triu(1)
    stays = torch.ones_like(order, dtype=torch.bool)
    while True:
        still = ~(covers & stays[:, None]).any(0)
        if torch.equal(still, stays):
            return order[stays]
        stays = still


def roi_align(
    maps: Float[Tensor, "b c h w"], box: Float[Tensor, "n 4"], picture: Int[Tensor, "n"], *, stride: int, size: int
) -> Float[Tensor, "n c {size} {size}"]:
    """Mean features of a size x size grid of cells of each box: ROIAlign (He et al., ICCV 2017) as detectron2's ROIAlignV2.

    A cell's mean is over ceil(cell's size) bilinear samples an axis. That is separable, so a box's features are two small matrix
    products with the window of the map that it covers.
    """
    pixels = maps.permute(0, 2, 3, 1)
    height, width = pixels.shape[1:3]
    at = box / stride - 0.5
    low, windows = [], []
    for axis, length in ((1, height), (0, width)):
        first = at[:, axis].floor().clamp(0, length - 1)
        needed = at[:, axis + 2].clamp(0, length - 1).floor() - first + 2
        low.append(first.long())
        windows.append(2 ** needed.log2().ceil().clamp(min=2).long())
    out = maps.new_zeros((len(box), maps.shape[1], size, size), dtype=torch.float32)
    for window in torch.unique(torch.stack(windows, 1), dim=0).tolist():
        rows = ((windows[0] == window[0]) & (windows[1] == window[1])).nonzero()[:, 0]
        for some in rows.split(max(1, CHUNK // (window[0] * window[1] * maps.shape[1]))):
            y, x = (low[i][some, None] + torch.arange(window[i], device=box.device) for i in (0, 1))
            patch = pixels[picture[some, None, None], y[:, :, None].clamp(max=height - 1), x[:, None].clamp(max=width - 1)].float()
            shares_y, shares_x = _shares(at[some][:, 1::2], y, height, size), _shares(at[some][:, ::2], x, width, size)
            bands = (shares_y @ patch.flatten(2)).reshape(len(some), size, *patch.shape[2:])  # [n, size, window, c]
            out[some] = (shares_x[:, None] @ bands).permute(0, 3, 1, 2)
    return out


def _shares(ends: Float[Tensor, "n 2"], cells: Int[Tensor, "n window"], length: int, size: int) -> Float[Tensor, "n {size} window"]:
    """Weight of each of the map's cells in each of a box's `size` means along one axis; samples more than a cell outside count as 0."""
    step = (ends[:, 1:] - ends[:, :1]) / size
    count = step.ceil().clamp(min=1)  # samples of each mean
    sample = torch.arange(int(count.max()), device=ends.device)
    bin_ = torch.arange(size, device=ends.device)[:, None]
    at = ends[:, :1, None] + step[..., None] * (bin_ + (sample + 0.5) / count[..., None])  # [n, size, sample]
    counts = (sample < count[..., None]) & (at >= -1) & (at <= length)
    near = (1 - (at.clamp(0, length - 1)[..., None] - cells[:, None, None]).abs()).clamp(min=0)  # bilinear weights
    return (near * counts[..., None]).sum(2) / count[..., None]
