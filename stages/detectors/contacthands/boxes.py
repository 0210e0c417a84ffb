"""ContactHands' hand boxes (Narasimhaswamy et al., NeurIPS 2020, arXiv:2010.09676): the plain Faster R-CNN within its network.

Own code after detectron2's published conventions. Of the official file the mask and contact heads are left out: boxes and scores come
out before them. It tells neither left from right nor one joint from another.

Convention. A look is a rectangle of whole pixels of the frame, resized to the network's input: input pixel (u, v) shows the frame at
(left + u * width / input width, top + v * height / input height), as areas, so borders fall on borders.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float32
from torch import nn

from stages.detectors.contacthands.network import FasterRCNN
from stages.detectors.found import FindHands, FoundHands
from stages.detectors.networks import Batches, ready
from stages.detectors.pictures import AnyPicture, Picture, rgb
from stages.detectors.weights import State, fill
from stages.tables import People

WIDTH, MAX_HEIGHT, MULTIPLE = 720, 1333, 32
"""Pixels: pictures are made 720 wide (ContactHands' detect.py), unless that is too high, and padded for the pyramid."""
MEANS = np.array([103.53, 116.28, 123.675], np.float32)
"""Of B, G, R in 0..255; no division."""
LEFT_OUT = (r"roi_heads\.mask_head\.", r"roi_heads\.contact_head\.", r"proposal_generator\.anchor_generator\.", r"pixel_(mean|std)$")


@dataclass(frozen=True, eq=False, slots=True, kw_only=True)
class Look:
    """A part of a picture, and the size at which the network sees it."""

    picture: int
    person: int
    left: int
    top: int
    width: int
    height: int
    scale: float

    @property
    def input_size(self) -> tuple[int, int]:
        """Height and width."""
        return max(int(self.height * self.scale), 1), max(int(self.width * self.scale), 1)

    @property
    def padded(self) -> tuple[int, int]:
        """The input's size with its padding."""
        height, width = (-(-side // MULTIPLE) * MULTIPLE for side in self.input_size)
        return height, width


def contact_hands(state: State, source: Path, *, min_score: float, max_iou: float) -> FasterRCNN:
    """The network with the hands' part of a checkpoint. Raises BadWeights when it is another network's."""
    network = FasterRCNN(min_score=min_score, max_iou=max_iou)
    fill(network, state, source, ignore=LEFT_OUT)
    return network


def looks_of(images: Sequence[Picture], people: Sequence[People], *, margin: float, gain: float, max_zoom: float) -> list[Look]:
    """The whole of each picture, and each person (their box grown by `margin` on every side) who is thereby seen `gain` times larger.

    Parts of no area, outside the frame for instance, are left out.
    """
    looks = []
    for number, (image, here) in enumerate(zip(images, people, strict=True)):
        height, width = image.shape[:2]
        whole = Look(picture=number, person=-1, left=0, top=0, width=width, height=height, scale=_scale(width, height, max_zoom))
        looks.append(whole)
        grown = here.box + margin * np.tile(here.box[:, 2:] - here.box[:, :2], 2) * np.array([-1, -1, 1, 1])
        within = np.clip(np.nan_to_num(grown), 0, [width, height, width, height]).round().astype(int)
        for person, (left, top, right, bottom) in zip(here.person.tolist(), within.tolist(), strict=True):
            scale = _scale(right - left, bottom - top, max_zoom) if right > left and bottom > top else 0.0
            if scale >= gain * whole.scale:
                looks.append(Look(picture=number, person=person, left=left, top=top, width=right - left, height=bottom - top, scale=scale))
    return looks


def _scale(width: int, height: int, max_zoom: float) -> float:
    return min(WIDTH / width, MAX_HEIGHT / height, max_zoom)


def cut_look(image: Picture, look: Look) -> Float32[np.ndarray, "3 height width"]:
    """The look as the network wants it: BGR less `MEANS`, with zeros to the right and below."""
    import cv2

    height, width = look.input_size
    part = image[look.top : look.top + look.height, look.left : look.left + look.width]
    padded = np.zeros((*look.padded, 3), np.float32)
    padded[:height, :width] = cv2.resize(part, (width, height), interpolation=cv2.INTER_LINEAR)[..., ::-1] - MEANS
    return padded.transpose(2, 0, 1)


def to_frame(box: Float32[np.ndarray, "n 4"], look: Look) -> Float32[np.ndarray, "n 4"]:
    """Boxes of the network's input in pixels of the frame."""
    height, width = look.input_size
    per_pixel = np.array([look.width / width, look.height / height] * 2)
    return (box * per_pixel + np.array([look.left, look.top] * 2)).astype(np.float32)


def find_hands(network: nn.Module, *, device: str, bf16: bool, batch_size: int, margin: float, gain: float, max_zoom: float) -> FindHands:
    """A network called as `FasterRCNN` is, as a function of pictures and people; settings as in `DetectHandsContactHands`.

    Looks of one size share a batch.
    """
    run = ready(network, device=device, bf16=bf16)

    def boxes_of(work: Sequence[tuple[Picture, Look]]) -> list[np.ndarray]:
        inputs = torch.from_numpy(np.stack([cut_look(image, look) for image, look in work]))
        found = run(inputs, torch.tensor([look.input_size for _, look in work])).cpu().numpy()
        return [hands[hands[:, 4] > 0] for hands in found]

    batches = Batches[tuple[Picture, Look], np.ndarray](boxes_of, batch_size, "pictures")

    def find(images: Sequence[AnyPicture], people: Sequence[People]) -> FoundHands:
        pictures = [rgb(image) for image in images]
        looks = sorted(looks_of(pictures, people, margin=margin, gain=gain, max_zoom=max_zoom), key=lambda look: look.padded)
        found: list[np.ndarray] = []
        for _, alike in groupby(looks, key=lambda look: look.padded):
            found += batches([(pictures[look.picture], look) for look in alike])
        hands = _columns(looks, found)
        return hands.take(np.argsort(hands.picture, kind="stable"))

    return find


def _columns(looks: Sequence[Look], found: Sequence[Float32[np.ndarray, "_ 5"]]) -> FoundHands:
    counts = [len(hands) for hands in found]
    count = sum(counts)
    crop = np.array([[look.left, look.top, look.left + look.width, look.top + look.height] for look in looks], np.float32)
    return FoundHands(
        picture=np.repeat([look.picture for look in looks], counts),
        route=np.repeat(np.array(["frame" if look.person < 0 else "person" for look in looks], object), counts),
        person=np.repeat([look.person for look in looks], counts),
        crop=np.repeat(crop, counts, 0),
        box=np.concatenate([to_frame(hands[:, :4], look) for hands, look in zip(found, looks, strict=True)]),
        score=np.concatenate([hands[:, 4] for hands in found]),
        p_right=np.full(count, np.nan, np.float32),
        keypoints=np.full((count, 21, 3), np.nan, np.float32),
    )
