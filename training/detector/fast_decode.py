"""The best hands of an image without decoding all of it: scores are computed of every anchor, box and keypoints of the best alone.

A fine level has thousands of anchors and an image a handful of hands: half of a small network's arithmetic would go into boxes and
keypoints that nobody looks at. An anchor's box is two 3 x 3 convolutions away from 5 x 5 cells around it; those are gathered.
"""

import torch
from jaxtyping import Float, Int64
from torch import Tensor, nn
from torch.nn import functional

from training.detector.network import NUM_KEYPOINTS, Detections, Detector, Raw, anchors, decode

_WORTH = 9
"""Cells a level must have for each hand that is looked for; with fewer, all of it is faster."""


def best_hands(network: Detector, images: Float[Tensor, "b 3 h w"], count: int) -> Detections:
    """The `count` anchors of the highest scores, best first, of the one-to-one head where there is one."""
    levels = network.neck(network.backbone(images))
    heads = network.heads if network.single is None else network.single
    prediction = torch.cat([branch(x).flatten(2) for branch, x in zip(heads.branches["side"], levels, strict=True)], 2).mT  # type: ignore[call-overload]
    count = min(count, prediction.shape[1])
    order = prediction.amax(2).topk(count, 1).indices
    side = prediction.gather(1, order[..., None].expand(-1, -1, prediction.shape[2]))
    box = _of_anchors(heads.branches["box"], levels, order)
    if "keypoints" in heads.branches:
        keypoints = _of_anchors(heads.branches["keypoints"], levels, order)
    else:
        keypoints = side.new_zeros(*order.shape, 3 * NUM_KEYPOINTS)
    points, strides = anchors(images.shape[2], images.shape[3], side)
    rows = Raw(*(values.flatten(0, 1)[None] for values in (box, side, keypoints)))
    found = decode(rows, points[order.flatten()], strides[order.flatten()])
    return Detections(*(values[0].reshape(*order.shape, *values.shape[2:]) for values in found))


def is_dense(cells: int | torch.SymInt, num_hands: int | torch.SymInt) -> bool:
    """Whether a level of so few cells is decoded whole."""
    return bool(cells <= _WORTH * num_hands)


def _of_anchors(branches: nn.Module, levels: list[Tensor], order: Int64[Tensor, "b k"]) -> Float[Tensor, "b k outputs"]:
    """Outputs of a branch at anchors, which are numbered level after level."""
    prediction: Tensor | None = None
    first = 0
    for branch, x in zip(branches, levels, strict=True):  # type: ignore[call-overload]
        cells = x.shape[2] * x.shape[3]
        place = (order - first).clamp(0, cells - 1)
        if is_dense(cells, order.shape[1]):
            dense = branch(x).flatten(2).mT
            here = dense.gather(1, place[..., None].expand(-1, -1, dense.shape[2]))
        else:
            here = at_cells(branch, x, place)
        prediction = here if prediction is None else torch.where((order >= first)[..., None], here, prediction)
        first += cells
    assert prediction is not None
    return prediction


def at_cells(branch: nn.Sequential, x: Float[Tensor, "b c h w"], place: Int64[Tensor, "b k"]) -> Float[Tensor, "b k outputs"]:
    """Two blocks of 3 x 3 and a 1 x 1 convolution at some cells of a level, as if they had run over all of it."""
    height, width = x.shape[2:]
    y = place // width
    column = place - y * width  # torch exports no remainder by a side that is open
    near = torch.arange(5, device=x.device)
    cells = ((y[..., None] + near)[..., None] * (width + 4) + (column[..., None] + near)[..., None, :]).flatten(1)
    rows = functional.pad(x, (2, 2, 2, 2)).permute(0, 2, 3, 1).flatten(1, 2)
    patches = rows.gather(1, cells[..., None].expand(-1, -1, x.shape[1])).reshape(-1, 5, 5, x.shape[1]).permute(0, 3, 1, 2)
    inside = [(at[..., None] + near[1:4] - 2 >= 0) & (at[..., None] + near[1:4] - 2 < side) for at, side in ((y, height), (column, width))]
    seen = (inside[0][..., None] & inside[1][..., None, :]).flatten(0, 1)[:, None]
    middle = _without_padding(branch[0], patches) * seen.to(x.dtype)  # beyond the edge the second convolution sees zeros
    prediction: Tensor = branch[2](_without_padding(branch[1], middle))
    return prediction.reshape(*place.shape, -1)


def _without_padding(block: nn.Module, x: Float[Tensor, "n c h w"]) -> Float[Tensor, "n o h2 w2"]:
    conv, *rest = block.children()
    assert isinstance(conv, nn.Conv2d)
    y = functional.conv2d(x, conv.weight, conv.bias)
    for layer in rest:
        y = layer(y)
    return y
