"""AlphaPose: body and hand keypoints of each person that another detector found (Fang et al., TPAMI 2022, arXiv:2211.03375).

Own code from the published description. The weights are SJTU's, for academic or non-profit, non-commercial use: optional, fetched by
whoever agrees to that. AlphaPose's own score of a person (0 to about 3.25: a sum of keypoint scores and the box's) is not
computed: people are let in by the detector's score.

Convention. A view is [centre x, centre y, width, height] in pixels of the frame, of the crop's aspect. Crop pixel (u, v) of 192 x 256
shows the frame at centre + width / 192 * (u - 96, v - 128), without half-pixel shift: AlphaPose's own. Maps have a quarter of that.
"""

from collections.abc import Callable, Sequence
from typing import Literal

import numpy as np
import torch
from jaxtyping import Float, Float32, Float64
from torch import Tensor

from stages.detectors.alphapose.network import FastPose
from stages.detectors.networks import Batches, ready
from stages.detectors.pictures import AnyPicture, Picture, rgb
from stages.tables import LEFT, RIGHT

WIDTH, HEIGHT, STRIDE = 192, 256, 4
MEANS = np.array([0.406, 0.457, 0.480], np.float32)[:, None, None]
"""Subtracted from R, G, B in [0, 1]: ImageNet's in the wrong order, as the networks were trained. No division."""
MARGIN = 1.25
BODY = slice(0, 17)
"""Halpe's first 17 of 26 or 136 keypoints are COCO's."""
HANDS = {LEFT: slice(94, 115), RIGHT: slice(115, 136)}
"""Of Halpe's 136, each in OpenPose's order."""

Decode = Literal["integral", "peak"]
"""How a map becomes a point: networks trained by regression need the mean, those trained on heatmaps the maximum."""
Look = tuple[AnyPicture, Float64[np.ndarray, "4"]]
Reader = Callable[[Sequence[Look]], Float32[np.ndarray, "n k 3"]]
"""Pictures and views to x, y in pixels of the frame and score of each keypoint."""


def views_of(box: Float[np.ndarray, "n 4"]) -> Float64[np.ndarray, "n 4"]:
    """About each box, with a margin of 25 %, grown to the crop's aspect."""
    box = box.astype(np.float64)
    centre, size = (box[:, :2] + box[:, 2:]) / 2, box[:, 2:] - box[:, :2]
    width = np.maximum(size[:, 0], size[:, 1] * WIDTH / HEIGHT) * MARGIN
    return np.column_stack([centre, width, width * HEIGHT / WIDTH])


def cut_person(image: Picture, view: Float64[np.ndarray, "4"]) -> Float32[np.ndarray, "3 256 192"]:
    """The view as the network wants it: RGB in [0, 1] less `MEANS`, black outside the frame."""
    import cv2

    step = view[2] / WIDTH
    left, top = view[0] - step * WIDTH / 2, view[1] - step * HEIGHT / 2
    matrix = np.array([[step, 0, left], [0, step, top]], np.float64)
    crop = cv2.warpAffine(image, matrix, (WIDTH, HEIGHT), flags=cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP)
    return np.ascontiguousarray(crop.transpose(2, 0, 1), np.float32) / np.float32(255) - MEANS


def to_frame(cells: Float[np.ndarray, "k 2"], view: Float64[np.ndarray, "4"]) -> Float64[np.ndarray, "k 2"]:
    """Points of the maps, in cells, in pixels of the frame."""
    return view[:2] + view[2] / WIDTH * (STRIDE * cells.astype(np.float64) - np.array([WIDTH, HEIGHT]) / 2)


def mean_points(maps: Float[Tensor, "n k h w"]) -> Float32[Tensor, "n k 3"]:
    """x, y in cells: the mean of the sigmoids' distribution; score: the largest sigmoid."""
    likely = maps.float().sigmoid()
    share = likely / likely.sum((2, 3), keepdim=True)
    x, y = (torch.arange(size, device=maps.device, dtype=torch.float32) for size in (maps.shape[3], maps.shape[2]))
    return torch.stack([share.sum(2) @ x, share.sum(3) @ y, likely.amax((2, 3))], -1)


def peak_points(maps: Float[Tensor, "n k h w"]) -> Float32[Tensor, "n k 3"]:
    """x, y in cells: the highest cell, a quarter of a cell towards its higher neighbour; score: its height."""
    width = maps.shape[3]
    height, place = maps.float().flatten(2).max(-1)
    cell = torch.stack([place % width, place // width], -1)
    padded = torch.nn.functional.pad(maps.float(), (1, 1, 1, 1), mode="replicate").flatten(2)
    middle = (cell[..., 1] + 1) * (width + 2) + cell[..., 0] + 1
    steps = [(padded.gather(2, (middle + d)[..., None]) - padded.gather(2, (middle - d)[..., None]))[..., 0].sign() for d in (1, width + 2)]
    inside = (cell > 0) & (cell < torch.tensor([width - 1, maps.shape[2] - 1], device=maps.device))
    return torch.cat([cell + 0.25 * torch.stack(steps, -1) * inside, height[..., None]], -1)


def keypoint_reader(network: FastPose, *, decode: Decode, device: str, bf16: bool, batch_size: int) -> Reader:
    """The network as a function of looks; crops are cut a batch at a time."""
    run, points_of = ready(network, device=device, bf16=bf16), mean_points if decode == "integral" else peak_points

    def keypoints_of(looks: Sequence[Look]) -> list[np.ndarray]:
        crops = np.stack([cut_person(rgb(image), view) for image, view in looks])
        found = points_of(run(torch.from_numpy(crops))).cpu().numpy()
        return [np.column_stack([to_frame(points[:, :2], view), points[:, 2]]) for points, (_, view) in zip(found, looks, strict=True)]

    batches = Batches[Look, np.ndarray](keypoints_of, batch_size, "crops")
    return lambda looks: np.array(batches(looks), np.float32).reshape(len(looks), network.conv_out.out_channels, 3)
