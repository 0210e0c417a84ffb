"""OpenPose's hand network: the 21 keypoints of each hand that an arm leads to (Simon et al., CVPR 2017, arXiv:1704.07809).

Own code from the published architecture. The weights are CMU's, for academic or non-profit, non-commercial use: optional, fetched by
whoever agrees to that. The network knows right hands only, so left ones are mirrored; it always returns 21 points, so its word
alone never makes a hand.

Convention. A square is [left, top, side] in pixels of the frame. Crop pixel (u, v) of n x n shows the frame at
(left, top) + side / n * (u, v), or at left + side - side / n * u when mirrored, without half-pixel shift: OpenPose's own.
"""

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Bool, Float, Float32, Float64, Int64
from torch import Tensor, nn
from torch.nn.functional import interpolate, max_pool2d, relu

from stages.detectors.found import Extent, FindHands, FoundHands, hull_boxes
from stages.detectors.mediapipe.hand_search import ELBOWS, SHOULDERS, WRISTS
from stages.detectors.networks import Batches, ready
from stages.detectors.pictures import AnyPicture, Picture, rgb
from stages.detectors.weights import State, fill
from stages.tables import LEFT, People

STRIDE = 8
MAPS = 22
"""21 joints and the background."""
MIN_ARM_SCORE = 0.03
"""Least score of wrist, elbow and shoulder (OpenPose)."""
MIN_AREA = 10.0
"""Square pixels that a hand's square must exceed (OpenPose)."""
SEEN = 0.1
"""A joint of more than this peak counts for the box and for `min_joints`. Ours."""

TRUNK = (
    (("conv1_1", 64), ("conv1_2", 64)),
    (("conv2_1", 128), ("conv2_2", 128)),
    (("conv3_1", 256), ("conv3_2", 256), ("conv3_3", 256), ("conv3_4", 256)),
    (*((f"conv4_{i}", 512) for i in (1, 2, 3, 4)), ("conv5_1", 512), ("conv5_2", 512), ("conv5_3_CPM", 128)),
)
"""3x3 convolutions and their widths: VGG19's up to conv4_4, then its own; between the groups, 2x2 max-pools."""
STAGES = (2, 3, 4, 5, 6)
PREFIX = re.compile(r"^model\d(_\d)?\.")
"""What pytorch-openpose's module puts before the layers' Caffe names; the published file has the names alone."""

Look = tuple[Picture, Float64[np.ndarray, "3"], bool]
"""Where a hand may be: picture, square, and whether it is a left one, to be mirrored."""
Reader = Callable[[Sequence[Look]], Float32[np.ndarray, "n 21 3"]]
"""Looks to x, y in pixels of the frame and peak of each joint."""


class HandNetwork(nn.Module):
    """Convolutional pose machine of six stages on VGG19's features. Layers have their Caffe names."""

    def __init__(self) -> None:
        super().__init__()
        width = 3
        for name, outputs in (layer for group in TRUNK for layer in group):
            self.add_module(name, nn.Conv2d(width, outputs, 3, padding=1))
            width = outputs
        self.conv6_1_CPM = nn.Conv2d(width, 512, 1)
        self.conv6_2_CPM = nn.Conv2d(512, MAPS, 1)
        for stage in STAGES:
            for i in (1, 2, 3, 4, 5):
                self.add_module(f"Mconv{i}_stage{stage}", nn.Conv2d(width + MAPS if i == 1 else width, width, 7, padding=3))
            self.add_module(f"Mconv6_stage{stage}", nn.Conv2d(width, width, 1))
            self.add_module(f"Mconv7_stage{stage}", nn.Conv2d(width, MAPS, 1))

    def forward(self, crops: Float[Tensor, "n 3 height width"]) -> Float[Tensor, "n 22 height/8 width/8"]:
        """The last stage's maps of BGR crops in [-0.5, 0.5]: peaks of about 1 at the joints of a right hand."""
        features = crops
        for number, group in enumerate(TRUNK):
            if number:
                features = max_pool2d(features, 2)
            for name, _ in group:
                features = relu(self.get_submodule(name)(features))
        maps = self.conv6_2_CPM(relu(self.conv6_1_CPM(features)))
        for stage in STAGES:
            x = torch.cat([maps, features], 1)
            for i in (1, 2, 3, 4, 5, 6):
                x = relu(self.get_submodule(f"Mconv{i}_stage{stage}")(x))
            maps = self.get_submodule(f"Mconv7_stage{stage}")(x)
        return maps


def hand_network(state: State, source: Path) -> HandNetwork:
    """The network with a checkpoint's weights (`hand_pose_model.pth`). Raises BadWeights when they are another network's."""
    network = HandNetwork()
    fill(network, {PREFIX.sub("", name): value for name, value in state.items()}, source)
    return network


@dataclass(frozen=True, eq=False, slots=True, kw_only=True)
class Arms:
    """Where the arms in a few pictures say that hands are, in columns."""

    picture: Int64[np.ndarray, "n"]
    person: Int64[np.ndarray, "n"]
    """Index within the picture."""
    side: Int64[np.ndarray, "n"]
    wrist: Float64[np.ndarray, "n"]
    """The body's confidence in the wrist."""
    square: Float64[np.ndarray, "n 3"]


def arms_of(people: Sequence[People]) -> Arms:
    """A square about each hand whose wrist, elbow and shoulder are seen, beyond the wrist along the forearm (OpenPose).

    An arm of no length, of which a square would have no area, gives no row.
    """
    everybody = People.concat(people)
    picture = np.repeat(np.arange(len(people)), [len(here) for here in people])
    points = everybody.keypoints.astype(np.float64)
    shoulder, elbow, wrist = (points[:, joints] for joints in (SHOULDERS, ELBOWS, WRISTS))  # [person, side, 3]
    seen = np.minimum(np.minimum(shoulder[..., 2], elbow[..., 2]), wrist[..., 2]) > MIN_ARM_SCORE
    along = wrist[..., :2] - elbow[..., :2]
    upper_arm = np.linalg.norm(elbow[..., :2] - shoulder[..., :2], axis=-1)
    size = 1.5 * np.maximum(np.linalg.norm(along, axis=-1), 0.9 * upper_arm)[..., None]
    square = np.concatenate([wrist[..., :2] + 0.33 * along - size / 2, size], -1)
    row, side = np.nonzero(seen & np.isfinite(square).all(-1) & (size[..., 0] ** 2 > MIN_AREA))
    return Arms(
        picture=picture[row],
        person=everybody.person[row].astype(np.int64),
        side=side,
        wrist=wrist[row, side, 2],
        square=square[row, side],
    )


def scaled(square: Float64[np.ndarray, "n 3"], scale: float) -> Float64[np.ndarray, "n 3"]:
    """The squares about the same centres, `scale` times as wide."""
    grown = square[:, 2:] * scale
    return np.concatenate([square[:, :2] + (square[:, 2:] - grown) / 2, grown], 1)


def cut_hand(image: Picture, square: Float64[np.ndarray, "3"], size: int, *, mirror: bool) -> Float32[np.ndarray, "3 {size} {size}"]:
    """The square as the network wants it: BGR, value / 256 - 0.5, black outside the frame."""
    import cv2

    left, top, side = square
    step = side / size
    matrix = np.array([[-step, 0, left + side] if mirror else [step, 0, left], [0, step, top]], np.float64)
    crop = cv2.warpAffine(image, matrix, (size, size), flags=cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP)
    return np.ascontiguousarray(crop[..., ::-1].transpose(2, 0, 1), np.float32) / np.float32(256) - np.float32(0.5)


def to_frame(points: Float[np.ndarray, "k 2"], square: Float64[np.ndarray, "3"], size: int, *, mirror: bool) -> Float64[np.ndarray, "k 2"]:
    """Points of the crop in pixels of the frame."""
    moved = points * (square[2] / size)
    if mirror:
        moved[:, 0] = square[2] - moved[:, 0]
    return square[:2] + moved


def peaks(maps: Float[Tensor, "n 22 height width"]) -> Float32[Tensor, "n 21 3"]:
    """x, y in crop pixels and height of each joint's highest point, after bicubic enlargement to the crop's size."""
    large = interpolate(maps[:, :-1].float(), scale_factor=STRIDE, mode="bicubic", align_corners=False)
    height, place = large.flatten(2).max(-1)
    return torch.stack([place % large.shape[-1], place // large.shape[-1], height], -1)


def hand_reader(network: HandNetwork, *, device: str, bf16: bool, batch_size: int, size: int) -> Reader:
    """The network as a function of looks; crops are cut a batch at a time, `size` pixels wide."""
    run = ready(network, device=device, bf16=bf16)

    def joints_of(looks: Sequence[Look]) -> list[np.ndarray]:
        crops = np.stack([cut_hand(image, square, size, mirror=mirror) for image, square, mirror in looks])
        found = peaks(run(torch.from_numpy(crops))).cpu().numpy()
        return [
            np.column_stack([to_frame(joints[:, :2], square, size, mirror=mirror), joints[:, 2]])
            for joints, (_, square, mirror) in zip(found, looks, strict=True)
        ]

    batches = Batches[Look, np.ndarray](joints_of, batch_size, "crops")
    return lambda looks: np.array(batches(looks), np.float32).reshape(-1, 21, 3)


def find_hands(read: Reader, *, scales: Sequence[float], sure_wrist: float, min_joints: int, min_score: float, extent: Extent) -> FindHands:
    """Hands of pictures with people; settings as in `DetectHandsOpenPose`. Of several scales a hand's surest is taken."""

    def find(images: Sequence[AnyPicture], people: Sequence[People]) -> FoundHands:
        pictures, arms = [rgb(image) for image in images], arms_of(people)
        squares = np.stack([scaled(arms.square, scale) for scale in scales])  # [scale, arm, 3]
        doubtful = np.flatnonzero(arms.wrist < sure_wrist)
        arm = np.concatenate([np.arange(len(arms.side)), doubtful])  # of each look
        left = np.concatenate([arms.side == LEFT, arms.side[doubtful] != LEFT])
        hands = list(zip(arms.picture[arm], left.tolist(), strict=True))
        looks = [(pictures[p], square, of_left) for at in squares[:, arm] for (p, of_left), square in zip(hands, at, strict=True)]
        found = read(looks).reshape(len(scales), -1, 21, 3)
        best = found[..., 2].mean(-1).argmax(0), np.arange(len(arm))
        keypoints, square = found[best], squares[:, arm][best]
        keypoints[..., 2] = keypoints[..., 2].clip(0, 1)
        take, p_right = _surer_hand(keypoints[..., 2].mean(1), left, doubtful)
        keypoints, square = keypoints[take], square[take]
        peak = keypoints[..., 2]
        found_hands = FoundHands(
            picture=arms.picture,
            route=np.full(len(take), "wrist", object),
            person=arms.person,
            crop=np.concatenate([square[:, :2], square[:, :2] + square[:, 2:]], 1).astype(np.float32),
            box=hull_boxes(keypoints, min_score=SEEN, extent=extent),
            score=peak.mean(1),
            p_right=p_right,
            keypoints=keypoints,
        )
        return found_hands.take(((peak > SEEN).sum(1) >= min_joints) & (found_hands.score >= min_score))

    return find


def _surer_hand(
    score: Float32[np.ndarray, "looks"], left: Bool[np.ndarray, "looks"], doubtful: Int64[np.ndarray, "k"]
) -> tuple[Int64[np.ndarray, "n"], Float32[np.ndarray, "n"]]:
    """The look that counts for each arm, and the probability of a right hand.

    The last k looks are those at the `doubtful` arms' hands as the other hand. There the surer look counts, and half the log-odds of
    right : left = score : score is the vote. Of the other arms the side is the body's word, which fusion hears from the body: NaN.
    """
    num_arms = len(score) - len(doubtful)
    take, p_right = np.arange(num_arms), np.full(num_arms, np.nan, np.float32)
    own, other = np.sqrt(np.maximum(score[doubtful], 1e-6)), np.sqrt(np.maximum(score[num_arms:], 1e-6))
    take[doubtful] = np.where(other > own, num_arms + np.arange(len(doubtful)), doubtful)
    p_right[doubtful] = np.where(left[doubtful], other, own) / (own + other)
    return take, p_right
