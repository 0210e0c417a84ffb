"""A hand detector of your own in one file, here patches of skin colour: `whim run --recipe docs/new_detector.py --videos FOLDER`.

Copy it, give `find_hands` something better to do, and fusion weighs it with the others.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import numpy as np

from pipeline.members import with_detector
from pipeline.recipes import whim
from stages.detectors.as_hand_stage import rows_of
from stages.detectors.found import FoundHands
from stages.detectors.pictures import AnyPicture, rgb
from stages.media.frames import Frames
from stages.stage import Key, Resources, Stage, check_settings, setting
from stages.tables import HandDetections, Manifest, People, Table

LOW, HIGH = (0, 133, 77), (255, 173, 127)
"""Of skin in Y, Cr, Cb (Chai and Ngan, Face segmentation using skin-color map, IEEE TCSVT 1999)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class DetectHandsSkin:
    """Take every compact patch of skin colour for a hand; faces too."""

    name: ClassVar[str] = "detect-hands"
    version: ClassVar[int] = 1
    key: ClassVar[Key] = "clip"
    reads: ClassVar[tuple[type, ...]] = (Frames, People)
    writes: ClassVar[type[Table]] = HandDetections
    detector: ClassVar[str] = "skin"
    resources: ClassVar[Resources] = Resources(cpus=1)

    min_share: float = setting(0.001, least=0, most=1)
    """Least area of a patch, as a share of the frame."""
    max_share: float = setting(0.1, least=0, most=1)
    """Largest area of a patch, as a share of the frame."""

    def __post_init__(self) -> None:
        check_settings(self)

    @property
    def weights(self) -> Mapping[str, str]:
        """No model files. A network's: `weight_sha256(name)`, with a row in manifests/weights.toml."""
        return {}

    def build(self) -> Callable[[Frames, People], HandDetections]:
        """Load what is heavy here, once a worker: this detector has nothing to load."""

        def find_hands(images: Sequence[AnyPicture], people: Sequence[People]) -> FoundHands:
            found = [patches(rgb(image), self.min_share, self.max_share) for image in images]
            boxes = np.concatenate(found)
            count = len(boxes)
            size = np.array([[0, 0, image.shape[1], image.shape[0]] for image in images], np.float32)
            picture = np.repeat(np.arange(len(images)), [len(rows) for rows in found])
            return FoundHands(
                picture=picture,
                route=np.full(count, "frame", object),
                person=np.full(count, -1),
                crop=size[picture],
                box=boxes[:, :4],
                score=boxes[:, 4],
                p_right=np.full(count, np.nan, np.float32),
                keypoints=np.full((count, 21, 3), np.nan, np.float32),
            )

        return rows_of(find_hands, self.detector)


def patches(image: np.ndarray, min_share: float, max_share: float) -> np.ndarray:
    """x1, y1, x2, y2 of each patch and, as its score, how much of the box it fills: float32 [n, 5]."""
    import cv2

    skin = cv2.inRange(cv2.cvtColor(image, cv2.COLOR_RGB2YCrCb), LOW, HIGH)
    skin = cv2.morphologyEx(skin, cv2.MORPH_OPEN, np.ones((5, 5), np.uint8))
    left, top, width, height, area = cv2.connectedComponentsWithStats(skin)[2][1:].T.astype(np.float32)
    rows = np.column_stack([left, top, left + width, top + height, area / (width * height)])
    return np.asarray(rows[(area >= min_share * skin.size) & (area <= max_share * skin.size)], np.float32)


def recipe(manifest: Manifest, root: Path) -> list[Stage]:
    """The usual chain with one more witness."""
    return with_detector(whim(manifest, root), DetectHandsSkin())
