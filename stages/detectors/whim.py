"""The detector that this project trains, as `whim export detector` writes it: an ONNX file with decoding and the choice of hands inside.

Convention. The network sees a grey rectangle with the picture resized in its middle: rectangle pixel = scale x picture pixel + shift.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float32

from stages.detectors.found import FindHands, FoundHands
from stages.detectors.networks import Batches
from stages.detectors.pictures import AnyPicture, Picture, rgb
from stages.detectors.roi import suppress
from stages.detectors.sessions import open_session
from stages.detectors.weights import BadWeights
from stages.tables import RIGHT, People

FORMAT = "whim detector 2"
OUTPUTS = ("box", "score", "side", "side_score", "keypoints")
GREY = 114
"""Of what lies outside the picture."""

Answer = Sequence[np.ndarray]
"""`OUTPUTS` of one picture, in its pixels."""


@dataclass(frozen=True, eq=False, slots=True, kw_only=True)
class WhimNetwork:
    """An open file."""

    session: Any
    size: int
    """Longer side of what it sees, pixels."""
    least_side: int
    """The shorter side is a multiple of 32 from here on."""
    without_doubles: bool
    """A hand is found once; otherwise boxes that overlap must be dropped."""
    landmarks: bool
    """It says keypoints."""


def open_network(path: Path, *, device: str) -> WhimNetwork:
    """The network of a file, on one core or on a GPU. Raises BadWeights when the file is none of this kind."""
    session = open_session(path, device=device, setting="propose_hands_whim.device")
    facts: Mapping[str, str] = session.get_modelmeta().custom_metadata_map
    if facts.get("format") != FORMAT:
        raise BadWeights(f"{path} has format {facts.get('format')!r}, this code reads {FORMAT!r}: whim export detector writes it")
    return WhimNetwork(
        session=session,
        size=int(facts["size"]),
        least_side=int(facts.get("least_side", facts["size"])),
        without_doubles=facts["without_doubles"] == "true",
        landmarks=facts["landmarks"] == "true",
    )


def in_rectangle(image: Picture, size: int, least_side: int) -> tuple[Float32[np.ndarray, "3 height width"], Float32[np.ndarray, "3"]]:
    """The network's input, in [0, 1], and scale and shift of x and y that lead there."""
    import cv2

    height, width = image.shape[:2]
    scale = size / max(width, height)
    inner = np.array([max(1, round(height * scale)), max(1, round(width * scale))])
    outer = np.maximum(-(-inner // 32) * 32, least_side)
    (high, wide), (top, left) = inner.tolist(), ((outer - inner) // 2).tolist()
    rectangle = np.full((*outer, 3), GREY, np.uint8)
    resized = cv2.resize(image, (wide, high), interpolation=cv2.INTER_AREA if scale < 1 else cv2.INTER_LINEAR)
    rectangle[top : top + high, left : left + wide] = resized
    return np.divide(rectangle.transpose(2, 0, 1), np.float32(255), dtype=np.float32), np.array([scale, left, top], np.float32)


def find_hands(network: WhimNetwork, *, min_score: float, max_iou: float, batch_size: int) -> FindHands:
    """The network as a function of pictures, the whole of each; settings as in `ProposeHands`. It asks nobody who is there.

    On a CPU pictures go through it one by one: several at once leave its cache, and take an eighth longer each.
    """

    def answers_of(images: Sequence[Picture]) -> list[Answer]:
        inputs = [in_rectangle(image, network.size, network.least_side) for image in images]
        answers: list[Answer] = []
        for _, group in groupby(inputs, key=lambda one: one[0].shape):
            rectangles, to_rectangle = zip(*group, strict=True)
            said = network.session.run(OUTPUTS, {"images": np.stack(rectangles)})
            answers += map(_in_picture, zip(*said, strict=True), to_rectangle)
        return answers

    def chosen(answer: Answer) -> Answer:
        box, score = answer[0], answer[1]
        rows = np.flatnonzero(score >= min_score)
        if not network.without_doubles:
            rows = rows[suppress(torch.from_numpy(box[rows]), torch.from_numpy(score[rows]), max_iou).numpy()]
        return [values[rows] for values in answer]

    on_gpu = "CUDAExecutionProvider" in network.session.get_providers()
    batches = Batches[Picture, Answer](answers_of, batch_size if on_gpu else 1, "pictures")

    def find(images: Sequence[AnyPicture], people: Sequence[People]) -> FoundHands:
        pictures = [rgb(image) for image in images]
        found = [chosen(answer) for answer in batches(pictures)]
        counts = [len(answer[0]) for answer in found]
        box, score, side, side_score, keypoints = (np.concatenate(values) for values in zip(*found, strict=True))
        count = len(box)
        frames = np.array([[0, 0, image.shape[1], image.shape[0]] for image in pictures], np.float32)
        return FoundHands(
            picture=np.repeat(np.arange(len(pictures)), counts),
            route=np.full(count, "frame", object),
            person=np.full(count, -1),
            crop=np.repeat(frames, counts, 0),
            box=box,
            score=score,
            p_right=np.where(side == RIGHT, side_score, 1 - side_score).astype(np.float32),
            keypoints=keypoints if network.landmarks else np.full_like(keypoints, np.nan),
        )

    return find


def _in_picture(answer: Answer, to_rectangle: Float32[np.ndarray, "3"]) -> Answer:
    """From pixels of the rectangle to the picture's."""
    box, score, side, side_score, keypoints = answer
    scale, shift = to_rectangle[0], to_rectangle[1:]
    places = np.concatenate([(keypoints[..., :2] - shift) / scale, keypoints[..., 2:]], -1)
    return [(box - np.tile(shift, 2)) / scale, score, side, side_score, places]
