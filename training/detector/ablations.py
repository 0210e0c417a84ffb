"""What a detector is trained as, and the rows of WiLoR's Table 2: `whim train-detector --ablation NAME`.

Its row "w. OxfordHands" is the whole recipe on other data: give shards of that set as --data.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from training.detector.augment import Augmentation
from training.detector.network import DetectorSettings
from training.detector.objective import DetectorLossWeights

PAPER_IMAGES = 2_000_000
"""Of WHIM, "over 2M" (sec. 3): the shares of 0.25, 0.5 and 1 million are taken of it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class DetectorRecipe:
    """Everything that Table 2 changes."""

    network: DetectorSettings = field(default_factory=DetectorSettings)
    augmentation: Augmentation = field(default_factory=Augmentation)
    weights: DetectorLossWeights = field(default_factory=DetectorLossWeights)
    share: float = 1.0
    """Of the data."""

    def without_augmentation(self) -> "DetectorRecipe":
        return replace(self, augmentation=Augmentation.none())

    def without_landmarks(self) -> "DetectorRecipe":
        """Neither predicted nor learned from."""
        return replace(self, network=replace(self.network, landmarks=False), weights=replace(self.weights, keypoints=0.0, visibility=0.0))


@dataclass(frozen=True, slots=True, kw_only=True)
class Ablation:
    """A row of the paper, percent."""

    title: str
    recipe: DetectorRecipe
    oxford_ap50: float
    oxford_ap: float
    whim_ap50: float
    whim_ap: float


def ablations() -> Mapping[str, Ablation]:
    """Table 2 by the names that the command line knows; the last is what the others are measured against."""
    full = DetectorRecipe(network=DetectorSettings(size="m"))
    rows = {
        "0.25m": ("w. 0.25M", replace(full, share=250_000 / PAPER_IMAGES), (49.15, 26.69, 75.75, 38.48)),
        "0.5m": ("w. 0.5M", replace(full, share=500_000 / PAPER_IMAGES), (58.32, 35.15, 83.03, 42.11)),
        "1m": ("w. 1M", replace(full, share=1_000_000 / PAPER_IMAGES), (69.21, 43.04, 88.37, 47.92)),
        "resnet50": ("w. ResNet50", replace(full, network=replace(full.network, backbone="resnet50")), (74.13, 47.34, 95.43, 51.85)),
        "hrnet": ("w. HRNet", replace(full, network=replace(full.network, backbone="hrnet")), (84.82, 49.83, 97.23, 54.12)),
        "no-augmentation": ("w/o Augmentations", full.without_augmentation(), (70.76, 42.17, 91.13, 49.93)),
        "no-landmarks": ("w/o Landmark Loss", full.without_landmarks(), (72.57, 45.96, 92.43, 51.44)),
        "full": ("M", full, (82.64, 48.98, 96.06, 53.79)),
    }
    names = ("oxford_ap50", "oxford_ap", "whim_ap50", "whim_ap")
    return {
        key: Ablation(title=title, recipe=recipe, **dict(zip(names, paper, strict=True))) for key, (title, recipe, paper) in rows.items()
    }
