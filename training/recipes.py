"""Recipes of whole trainings, each a function that returns every value that decides the result, the data aside.

The command line says on what, where and how long: `whim train regressor --recipe regressor_h --data DIR`, or `--recipe my.py:mine`.
The rows of WiLoR's Tables 2 and 5 are recipes too; what the paper measured with them is in the reports.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal

from training.data.sets.table import HAMER_SETS, PAPER_SETS
from training.detector.augment import Augmentation
from training.detector.network import DetectorSettings
from training.detector.objective import DetectorLossWeights
from training.regressor.augment import CropAugmentation
from training.regressor.network import RegressorSettings
from training.regressor.objective import RegressorLossWeights
from training.run.loop import TrainSettings


@dataclass(frozen=True, slots=True, kw_only=True)
class DetectorRecipe:
    """Everything that decides what a detector becomes, the data aside."""

    network: DetectorSettings = field(default_factory=DetectorSettings)
    augmentation: Augmentation = field(default_factory=Augmentation)
    loss: DetectorLossWeights = field(default_factory=DetectorLossWeights)
    train: TrainSettings = field(default_factory=TrainSettings)
    image_px: int = 640
    """Side of the images, a multiple of 32 (paper, sec. 4.1)."""
    batch_size: int = 16
    """Images of a step, of all workers together. Ours."""
    share: float = 1.0
    """Share of the shards' images, always the same ones."""
    num_images: int | None = None
    """So many of the shards' images, always the same ones (paper, Table 2), in place of a share; fewer are refused."""
    epoch_images: int | None = None
    """Images seen between two measurements; none takes as many as there are. With `--epochs`, one budget whatever the data."""
    sets: tuple[str, ...] = ()
    """Published sets that it learns from and from nothing else, each named by `--sets` (paper, Table 2); none leaves the choice."""
    backbone_weights: Path | None = None
    """Learned on ImageNet, as torchvision or timm save a resnet50 or hrnet_w32."""
    start: Path | None = None
    """A detector's checkpoint to begin with instead of random heads: a second round on better labels."""
    plain_share: float = 0.1
    """Share of the run, its end, that sees no mosaic and no mixup (YOLOX)."""

    def __post_init__(self) -> None:
        if self.image_px <= 0 or self.image_px % 32:
            raise ValueError(f"detector.image_px must be a multiple of 32, got {self.image_px}")
        if self.num_images is not None and self.num_images < 1:
            raise ValueError(f"detector.num_images must be at least 1, got {self.num_images}")
        if self.epoch_images is not None and self.epoch_images < self.batch_size:
            raise ValueError(f"detector.epoch_images must be at least a batch, {self.batch_size}, got {self.epoch_images}")
        _check("detector", self.batch_size, self.share)

    def refuse_other_data(self, sets: Sequence[str], num_folders: int) -> None:
        """Raise ValueError where the data given are not those that the recipe names."""
        _refuse_other_sets("detector", self.sets, sets, num_folders)


@dataclass(frozen=True, slots=True, kw_only=True)
class RegressorRecipe:
    """Everything that decides what a regressor becomes, the data aside."""

    network: RegressorSettings = field(default_factory=RegressorSettings)
    augmentation: CropAugmentation = field(default_factory=CropAugmentation)
    loss: RegressorLossWeights = field(default_factory=RegressorLossWeights)
    train: TrainSettings = field(
        default_factory=lambda: TrainSettings(learning_rate=1e-4, weight_decay=1e-4, clip_norm=1.0, warmup_steps=2000, patience=1_000_000)
    )
    batch_size: int = 256
    """Hands of a step, of all workers together (release)."""
    share: float = 1.0
    """Share of the shards' hands, always the same ones."""
    min_quality: float = 0.0
    """Least quality of a hand to learn from, in [0, 1]."""
    adversary: bool = True
    """Learn against a discriminator of poses (release)."""
    start: Path | None = None
    """A regressor's checkpoint to begin with: fine-tuning."""
    vitpose: Path | None = None
    """ViTPose checkpoint that the transformer begins with (paper); none begins at random."""
    begins: Literal["either", "vitpose", "random"] = "either"
    """What the backbone begins with: vitpose refuses to train without its checkpoint, random refuses one (paper, Table 5)."""
    sets: tuple[str, ...] = ()
    """Published sets that it learns from and from nothing else, each named by `--sets` (paper, Table 5); none leaves the choice."""
    layer_decay: float | None = None
    """Factor of the learning rate from each block to the one before it; none is 0.75 with `vitpose` and 1 without."""

    def __post_init__(self) -> None:
        _check("regressor", self.batch_size, self.share)
        if not 0 <= self.min_quality <= 1:
            raise ValueError(f"regressor.min_quality must lie in [0, 1], got {self.min_quality}")

    def refuse_other_data(self, sets: Sequence[str], num_folders: int) -> None:
        """Raise ValueError where the backbone's weights or the data given are not those that the recipe names."""
        if self.begins == "vitpose" and self.vitpose is None:
            raise ValueError("this recipe begins with ViTPose's weights: --set vitpose=FILE, or regressor_no_vitpose for the row without")
        if self.vitpose is not None and (self.begins == "random" or self.network.backbone != "vit"):
            with_it = "this recipe begins at random" if self.network.backbone == "vit" else "FastViT has no use for ViTPose's weights"
            raise ValueError(f"{with_it}, and vitpose is {self.vitpose}: leave it out, or take regressor_full")
        _refuse_other_sets("regressor", self.sets, sets, num_folders)


def _refuse_other_sets(owner: str, wanted: Sequence[str], given: Sequence[str], num_folders: int) -> None:
    """HaMeR's archives are ten of the sets at once."""
    if not wanted or tuple(wanted) == ("none",):
        return
    have = {name for one in given for name in (HAMER_SETS if one == "hamer" else (one,))}
    missing, other = [name for name in wanted if name not in have], sorted(have - set(wanted))
    if missing or other or num_folders:
        said = [f"{', '.join(missing)} missing"] * bool(missing) + [f"{', '.join(other)} besides"] * bool(other)
        said += [f"{num_folders} folders of --data besides"] * bool(num_folders)
        raise ValueError(
            f"this row learns from {', '.join(wanted)} alone; {'; '.join(said)}: --sets NAME=DIR,..., or --set {owner}.sets=none for others"
        )


def _check(owner: str, batch_size: int, share: float) -> None:
    if batch_size < 1:
        raise ValueError(f"{owner}.batch_size must be at least 1, got {batch_size}")
    if not 0 < share <= 1:
        raise ValueError(f"{owner}.share must lie in (0, 1], got {share}")


def detector_s() -> DetectorRecipe:
    """The small detector: 7 MB."""
    return DetectorRecipe(network=DetectorSettings(size="s"))


def detector_m() -> DetectorRecipe:
    """The medium detector, 24 MB: the last row of Table 2, from which every other row differs in one thing."""
    return DetectorRecipe(network=DetectorSettings(size="m"))


def detector_250k() -> DetectorRecipe:
    """Table 2, "w. 0.25M": 250,000 images."""
    return replace(detector_m(), num_images=250_000)


def detector_500k() -> DetectorRecipe:
    """Table 2, "w. 0.5M": 500,000 images."""
    return replace(detector_m(), num_images=500_000)


def detector_1m() -> DetectorRecipe:
    """Table 2, "w. 1M": 1,000,000 images."""
    return replace(detector_m(), num_images=1_000_000)


def detector_oxford_hands() -> DetectorRecipe:
    """Table 2, "w. OxfordHands": that set's training images alone, whose hands have boxes and neither sides nor keypoints."""
    return replace(detector_m(), sets=("oxford-hands",))


def detector_resnet50() -> DetectorRecipe:
    """Table 2, "w. ResNet50"."""
    return DetectorRecipe(network=DetectorSettings(size="m", backbone="resnet50"))


def detector_hrnet() -> DetectorRecipe:
    """Table 2, "w. HRNet"."""
    return DetectorRecipe(network=DetectorSettings(size="m", backbone="hrnet"))


def detector_no_augmentation() -> DetectorRecipe:
    """Table 2, "w/o Augmentations"."""
    return replace(detector_m(), augmentation=Augmentation.none())


def detector_no_landmarks() -> DetectorRecipe:
    """Table 2, "w/o Landmark Loss": keypoints are neither predicted nor learned from."""
    network = DetectorSettings(size="m", landmarks=False)
    return DetectorRecipe(network=network, loss=DetectorLossWeights(keypoints=0.0, visibility=0.0))


def detector_palm() -> DetectorRecipe:
    """MediaPipe's palm network under our heads: hours on two cores instead of days on GPUs, and the detector that comes with the project.

    Ours, by pilots of 20 minutes: turns of 60 degrees and four images in one are too hard for some thousand steps, the distance teaches
    keypoints from the first of them, and a head of many anchors a hand learns faster than one of a single anchor. Images are scaled widely:
    far hands are rare among posed ones, and what is no hand is seldom close.
    """
    return DetectorRecipe(
        network=DetectorSettings(backbone="palm", one_to_one=False),
        augmentation=Augmentation(rotation_deg=30, shift=0.25, scale=(0.25, 2.0), mosaic=0.4, mixup=0, masking=0.2),
        loss=DetectorLossWeights(keypoint_loss="distance", keypoints=20.0),
        train=TrainSettings(learning_rate=2e-3, warmup_steps=50, weight_decay=0.02, precision="auto"),
        image_px=416,
        plain_share=0.2,
    )


def regressor_xs() -> RegressorRecipe:
    """A transformer for a processor; ours."""
    return RegressorRecipe(network=RegressorSettings(size="xs"))


def regressor_s() -> RegressorRecipe:
    """ViT-S."""
    return RegressorRecipe(network=RegressorSettings(size="s"))


def regressor_b() -> RegressorRecipe:
    """ViT-B."""
    return RegressorRecipe(network=RegressorSettings(size="b"))


def regressor_l() -> RegressorRecipe:
    """ViT-L."""
    return RegressorRecipe(network=RegressorSettings(size="l"))


def regressor_h() -> RegressorRecipe:
    """ViT-H, the paper's network, on whatever data are given."""
    return RegressorRecipe(network=RegressorSettings(size="h"))


def regressor_full() -> RegressorRecipe:
    """Table 5, "Full": ViT-H from ViTPose's weights on all fourteen sets, from which every other row differs in what it names."""
    return replace(regressor_h(), begins="vitpose", sets=PAPER_SETS)


def regressor_fastvit() -> RegressorRecipe:
    """Table 5, "w. FastViT", which begins at random: nothing of ViTPose fits it."""
    return replace(regressor_full(), network=RegressorSettings(backbone="fastvit"), begins="random")


def regressor_no_vitpose() -> RegressorRecipe:
    """Table 5, "w/o ViTPose": the paper's network that begins at random."""
    return replace(regressor_full(), begins="random")


def regressor_single_scale() -> RegressorRecipe:
    """Table 5, "w. Single-Scale"."""
    return replace(regressor_full(), network=RegressorSettings(scales=(1,)))


def regressor_no_refinement() -> RegressorRecipe:
    """Table 5, "w/o Refinement"."""
    return replace(regressor_full(), network=RegressorSettings(refine_steps=0))


def regressor_freihand() -> RegressorRecipe:
    """Table 5, "w. FreiHAND": that set alone."""
    return replace(regressor_full(), sets=("freihand",))


def regressor_hamer() -> RegressorRecipe:
    """Table 5, "w. Datasets [HaMeR]": the ten sets that HaMeR was trained on, from its own archives or from the official files."""
    return replace(regressor_full(), sets=HAMER_SETS)


def detector_paper() -> DetectorRecipe:
    """The paper's words to the letter where ours go beyond them: eq. 5 has four terms, and its keypoints' is the L2 distance."""
    return replace(detector_m(), loss=DetectorLossWeights(keypoint_loss="distance", visibility=0.0))


def regressor_paper() -> RegressorRecipe:
    """The paper's words to the letter where ours go beyond them (docs/paper.md).

    Eq. 7 has a layer of its own for each of pose and shape, reads the sampled features alone and leaves the camera; eq. 8 has vertices
    and no joints in space, angles and not their matrices, and no weights; only the refined hand is said to be supervised.
    """
    return replace(
        regressor_full(),
        network=RegressorSettings(residual="paper", aggregation=("mean",), detach_vertices=False),
        loss=RegressorLossWeights(
            vertices=1.0, joints=0.0, points=1.0, rotations=1.0, betas=1.0, adversarial=1.0, coarse=0.0, rotation_loss="angles"
        ),
    )


DETECTORS: Mapping[str, Callable[[], DetectorRecipe]] = {
    recipe.__name__: recipe
    for recipe in (
        *(detector_s, detector_m, detector_palm, detector_250k, detector_500k, detector_1m),
        *(detector_oxford_hands, detector_resnet50, detector_hrnet, detector_no_augmentation, detector_no_landmarks, detector_paper),
    )
}
REGRESSORS: Mapping[str, Callable[[], RegressorRecipe]] = {
    recipe.__name__: recipe
    for recipe in (
        *(regressor_xs, regressor_s, regressor_b, regressor_l, regressor_h, regressor_full, regressor_fastvit, regressor_no_vitpose),
        *(regressor_single_scale, regressor_no_refinement, regressor_freihand, regressor_hamer, regressor_paper),
    )
}
