"""The images on which a detector does worst, drawn on one sheet."""

import heapq
from dataclasses import dataclass, field
from pathlib import Path

import cv2
import numpy as np
from jaxtyping import UInt8

from hands.metrics.detections import matched
from training.data.readers.labelled_image import LabelledImage
from training.detector.draw import draw_box, draw_hands
from training.detector.inference import DetectedHands

_THUMB, _A_ROW = 400, 4
_TRUTH_COLOUR, _IGNORED_COLOUR = (255, 255, 255), (128, 128, 128)


@dataclass(slots=True)
class WorstImages:
    """Keeps the images with the most misses, false hands and wrong sides: an onlooker of `evaluate`."""

    threshold: float
    min_iou: float
    count: int = 12
    kept: list[tuple[int, int, UInt8[np.ndarray, "h w 3"]]] = field(default_factory=list)
    """A heap of faults, the order of coming backwards, and the image, drawn."""
    seen: int = 0

    def __call__(self, labelled: LabelledImage, image: UInt8[np.ndarray, "h w 3"], hands: DetectedHands) -> None:
        self.seen += 1
        hands = hands.take(hands.score >= self.threshold)
        match, false = matched(hands.box, hands.score, labelled.box, labelled.ignore, self.min_iou)
        hit = match >= 0
        side = labelled.side[match[hit]]
        missed, wrong = len(labelled.box) - int(hit.sum()), int(((side >= 0) & (side != hands.side[hit])).sum())
        faults = missed + int(false.sum()) + wrong
        if not faults or (len(self.kept) == self.count and faults <= self.kept[0][0]):
            return
        title = f"{labelled.name}: {missed} missed, {int(false.sum())} false, {wrong} of the wrong side"
        keep = heapq.heappush if len(self.kept) < self.count else heapq.heapreplace
        keep(self.kept, (faults, -self.seen, _drawn(labelled, image, hands, title)))

    def write(self, path: Path) -> None:
        """The sheet, worst first; none where nothing went wrong."""
        thumbs = [thumb for *_, thumb in sorted(self.kept, key=lambda item: item[:2], reverse=True)]
        if not thumbs:
            return
        thumbs += [np.zeros_like(thumbs[0])] * (-len(thumbs) % _A_ROW)
        sheet = np.concatenate([np.concatenate(thumbs[k : k + _A_ROW], 1) for k in range(0, len(thumbs), _A_ROW)])
        cv2.imwrite(str(path), sheet[..., ::-1])


def _drawn(
    labelled: LabelledImage, image: UInt8[np.ndarray, "h w 3"], hands: DetectedHands, title: str
) -> UInt8[np.ndarray, "side side 3"]:
    """Truth in white, what is ignored in grey, left hands blue, right ones red, in a square."""
    canvas = image.copy()
    for box in labelled.ignore:
        draw_box(canvas, box, _IGNORED_COLOUR)
    for box in labelled.box:
        draw_box(canvas, box, _TRUTH_COLOUR)
    draw_hands(canvas, hands)
    scale = _THUMB / max(canvas.shape)
    small = cv2.resize(canvas, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA if scale < 1 else cv2.INTER_LINEAR)
    square = np.zeros((_THUMB, _THUMB, 3), np.uint8)
    square[: small.shape[0], : small.shape[1]] = small[:_THUMB, :_THUMB]
    cv2.putText(square, title, (4, _THUMB - 6), cv2.FONT_HERSHEY_SIMPLEX, 0.4, _TRUTH_COLOUR)
    return square
