"""CSP-DarkNet, PANet and anchor-free heads for box, side and 21 keypoints (WiLoR, section 4.1), S and M.

Frame of reference: pixels of the network's input, x right, y down. An anchor is the middle of a cell of one of three grids, 8, 16
and 32 pixels apart.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, NamedTuple, get_args

import torch
from jaxtyping import Float
from torch import Tensor, nn

from training.detector.backbones import HRNet, PalmNetwork, ResNet50, Trunk

NUM_KEYPOINTS, NUM_SIDES = 21, 2
STRIDES = (8, 16, 32)
PALM_LEVEL, PALM_HEAD = 80, 64
"""Channels of a level and of a branch of the heads on the palm network: the file with it stays below 4 MB in half precision. Ours."""


@dataclass(frozen=True, slots=True, kw_only=True)
class DetectorSettings:
    """The size of the network, and the ablations of the paper's Table 2."""

    size: Literal["s", "m"] = "s"
    """3.4 or 11.8 million parameters: 7 and 24 MB in half precision (paper, Table 1)."""
    backbone: Literal["darknet", "resnet50", "hrnet", "palm"] = "darknet"
    """Network below the pyramid, of one size whatever `size` is but for darknet. resnet50 and hrnet are the paper's ablation under the
    same neck; palm, MediaPipe's palm network, is a pyramid already: the heads stand on its levels, and it learns in minutes."""
    num_bins: int = 16
    """Bins of the distance distributions of a box side (DFL; Li et al. 2020)."""
    landmarks: bool = True
    """Predict keypoints; False is the paper's ablation without landmark loss."""
    one_to_one: bool = True
    """A second head, trained with one anchor a hand, needs no suppression of duplicates (Wang et al. 2024, YOLOv10). It learns slowly:
    a run of less than some 20,000 steps does better without."""
    image: int = 640
    """Side of the images it is trained on and used at, pixels."""

    def __post_init__(self) -> None:
        if not 2 <= self.num_bins <= 64:
            raise ValueError(f"detector.num_bins must lie in [2, 64], got {self.num_bins}")
        if self.backbone not in get_args(type(self).__annotations__["backbone"]):
            raise ValueError(f"detector.backbone is {self.backbone!r}, which this version does not know")
        if self.image % 32 or not 0 < self.image <= 8192:
            raise ValueError(f"detector.image must be a multiple of 32 up to 8192, got {self.image}")

    @property
    def width(self) -> float:
        return {"s": 0.25, "m": 0.5}[self.size]

    @property
    def depth(self) -> float:
        return 0.33


class Raw(NamedTuple):
    """Outputs of the heads for every anchor, undecoded."""

    box: Float[Tensor, "b anchors logits"]  # logits of the distances left, top, right, bottom in strides
    side: Float[Tensor, "b anchors 2"]  # logits of left and right
    keypoints: Float[Tensor, "b anchors 63"]  # x, y, logit of visibility of each


class Detections(NamedTuple):
    """Decoded outputs, one row an anchor."""

    box: Float[Tensor, "b anchors 4"]
    score: Float[Tensor, "b anchors 2"]  # of left and right
    keypoints: Float[Tensor, "b anchors 21 3"]  # x, y, visibility


class ConvBlock(nn.Sequential):
    """Convolution, batch norm, SiLU."""

    def __init__(self, inputs: int, outputs: int, kernel: int = 1, stride: int = 1) -> None:
        super().__init__(
            nn.Conv2d(inputs, outputs, kernel, stride, kernel // 2, bias=False),
            nn.BatchNorm2d(outputs, eps=1e-3, momentum=0.03),
            nn.SiLU(inplace=True),
        )


class Residual(nn.Module):
    """Two 3 x 3 convolutions, added to their input where `add`."""

    def __init__(self, channels: int, add: bool) -> None:
        super().__init__()
        self.convs = nn.Sequential(ConvBlock(channels, channels, 3), ConvBlock(channels, channels, 3))
        self.add = add

    def forward(self, x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b c h w"]:
        y: Tensor = self.convs(x)
        return x + y if self.add else y


class CrossStage(nn.Module):
    """Cross-stage partial block: half of the channels run through a chain of residuals, every link of which is kept (Wang et al. 2022)."""

    def __init__(self, inputs: int, outputs: int, repeats: int, add: bool = True) -> None:
        super().__init__()
        half = outputs // 2
        self.split = ConvBlock(inputs, 2 * half)
        self.chain = nn.ModuleList(Residual(half, add) for _ in range(repeats))
        self.merge = ConvBlock((2 + repeats) * half, outputs)

    def forward(self, x: Float[Tensor, "b i h w"]) -> Float[Tensor, "b o h w"]:
        links = list(self.split(x).chunk(2, 1))
        for link in self.chain:
            links.append(link(links[-1]))
        merged: Tensor = self.merge(torch.cat(links, 1))
        return merged


class PyramidPool(nn.Module):
    """Three 5 x 5 maxima in a row, each kept (spatial pyramid pooling, He et al. 2014, as YOLOv5 stacks it)."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.reduce = ConvBlock(channels, channels // 2)
        self.pool = nn.MaxPool2d(5, 1, 2)
        self.merge = ConvBlock(2 * channels, channels)

    def forward(self, x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b c h w"]:
        pooled = [self.reduce(x)]
        for _ in range(3):
            pooled.append(self.pool(pooled[-1]))
        merged: Tensor = self.merge(torch.cat(pooled, 1))
        return merged


class DarkNet(nn.Module):
    """Five halvings; the last three levels are handed on as C3, C4 and C5."""

    def __init__(self, channels: Sequence[int], repeats: Sequence[int]) -> None:
        super().__init__()
        self.stem = ConvBlock(3, channels[0], 3, 2)
        pairs = list(zip(channels, channels[1:], repeats, strict=False))
        self.stages = nn.ModuleList(nn.Sequential(ConvBlock(i, o, 3, 2), CrossStage(o, o, n)) for i, o, n in pairs)
        self.pool = PyramidPool(channels[-1])
        self.channels = tuple(channels[2:])

    def forward(self, images: Float[Tensor, "b 3 h w"]) -> list[Tensor]:
        x, levels = self.stem(images), []
        for stage in self.stages:
            x = stage(x)
            levels.append(x)
        return [levels[1], levels[2], self.pool(levels[3])]


class PathAggregation(nn.Module):
    """Top-down, then bottom-up (PANet, Liu et al. 2018)."""

    def __init__(self, inputs: Sequence[int], channels: Sequence[int], repeats: int) -> None:
        super().__init__()
        (i3, i4, i5), (c3, c4, c5) = inputs, channels
        self.up = nn.Upsample(scale_factor=2.0)
        self.down4 = CrossStage(i5 + i4, c4, repeats, add=False)
        self.down3 = CrossStage(c4 + i3, c3, repeats, add=False)
        self.halve3, self.halve4 = ConvBlock(c3, c3, 3, 2), ConvBlock(c4, c4, 3, 2)
        self.up4 = CrossStage(c3 + c4, c4, repeats, add=False)
        self.up5 = CrossStage(c4 + i5, c5, repeats, add=False)

    def forward(self, levels: Sequence[Tensor]) -> list[Tensor]:
        c3, c4, c5 = levels
        p4 = self.down4(torch.cat([self.up(c5), c4], 1))
        p3 = self.down3(torch.cat([self.up(p4), c3], 1))
        p4 = self.up4(torch.cat([self.halve3(p3), p4], 1))
        return [p3, p4, self.up5(torch.cat([self.halve4(p4), c5], 1))]


class Narrowing(nn.Module):
    """Every level to so many channels, by itself: for a backbone that is a pyramid already."""

    def __init__(self, inputs: Sequence[int], channels: int) -> None:
        super().__init__()
        self.levels = nn.ModuleList(ConvBlock(count, channels) for count in inputs)

    def forward(self, levels: Sequence[Tensor]) -> list[Tensor]:
        return [narrow(x) for narrow, x in zip(self.levels, levels, strict=True)]


class Heads(nn.Module):
    """Three branches on each of three levels: box, side, keypoints."""

    def __init__(self, channels: Sequence[int], settings: DetectorSettings, width: int = 0) -> None:
        super().__init__()
        width = width or channels[0]
        outputs = {"box": 4 * settings.num_bins, "side": NUM_SIDES, "keypoints": 3 * NUM_KEYPOINTS}
        widths = {
            "box": max(16, width // 4, 4 * settings.num_bins),
            "side": max(width, NUM_SIDES),
            "keypoints": max(width // 4, 3 * NUM_KEYPOINTS),
        }
        if not settings.landmarks:
            del outputs["keypoints"]
        self.branches = nn.ModuleDict({name: self._branch(channels, widths[name], count) for name, count in outputs.items()})
        self._first_guess()

    @staticmethod
    def _branch(channels: Sequence[int], width: int, outputs: int) -> nn.ModuleList:
        return nn.ModuleList(
            nn.Sequential(ConvBlock(c, width, 3), ConvBlock(width, width, 3), nn.Conv2d(width, outputs, 1)) for c in channels
        )

    def _first_guess(self) -> None:
        """Biases that say what is true of most anchors: no hand, about five in an image of 640 pixels."""
        for level, stride in enumerate(STRIDES):
            box, side = self.branches["box"][level][-1], self.branches["side"][level][-1]  # type: ignore[index]
            nn.init.constant_(box.bias, 2.0)
            nn.init.constant_(side.bias, math.log(5 / NUM_SIDES / (640 / stride) ** 2))

    def forward(self, levels: Sequence[Tensor]) -> Raw:
        prediction = {
            name: torch.cat([branch(x).flatten(2) for branch, x in zip(branches, levels, strict=True)], 2).mT  # type: ignore[call-overload]
            for name, branches in self.branches.items()
        }
        if "keypoints" not in prediction:
            prediction["keypoints"] = prediction["side"].new_zeros(*prediction["side"].shape[:2], 3 * NUM_KEYPOINTS)
        return Raw(prediction["box"], prediction["side"], prediction["keypoints"])


class Detector(nn.Module):
    """Images in [0, 1], sides a multiple of 32, to what the heads say of every anchor."""

    def __init__(self, settings: DetectorSettings | None = None) -> None:
        super().__init__()
        self.settings = settings = settings or DetectorSettings()
        channels = [int(c * settings.width) for c in (64, 128, 256, 512, 1024)]
        repeats = [max(1, round(n * settings.depth)) for n in (3, 6, 6, 3)]
        trunks: dict[str, type[Trunk]] = {"resnet50": ResNet50, "hrnet": HRNet, "palm": PalmNetwork}
        self.backbone = DarkNet(channels, repeats) if settings.backbone == "darknet" else trunks[settings.backbone]()
        self.neck: nn.Module
        if settings.backbone == "palm":
            levels, width = [PALM_LEVEL] * 3, PALM_HEAD
            self.neck = Narrowing(self.backbone.channels, PALM_LEVEL)
        else:
            levels, width = channels[2:], channels[2]
            self.neck = PathAggregation(self.backbone.channels, levels, max(1, round(3 * settings.depth)))
        self.heads = Heads(levels, settings, width)
        self.single = Heads(levels, settings, width) if settings.one_to_one else None
        """The one-to-one head; it does not shape the features (its gradient stops here)."""

    def load_backbone(self, path: Path) -> None:
        """Start from a backbone learned on ImageNet. Raises ValueError where there is none of the kind."""
        if not isinstance(self.backbone, Trunk):
            raise ValueError(f"no weights of a {self.settings.backbone} learned on ImageNet are known: choose resnet50 or hrnet")
        self.backbone.load(path)

    def forward(self, images: Float[Tensor, "b 3 h w"]) -> tuple[Raw, Raw | None]:
        """Outputs of the one-to-many head, and of the one-to-one head where there is one."""
        levels = self.neck(self.backbone(images))
        return self.heads(levels), self.single([x.detach() for x in levels]) if self.single is not None else None


def anchors(
    height: int | torch.SymInt, width: int | torch.SymInt, like: Tensor
) -> tuple[Float[Tensor, "anchors 2"], Float[Tensor, "anchors"]]:
    """Middles of all cells (x, y, pixels) and their strides, level after level, row after row."""
    points, strides = [], []
    for stride in STRIDES:
        y, x = torch.meshgrid(
            (torch.arange(height // stride, device=like.device) + 0.5) * stride,
            (torch.arange(width // stride, device=like.device) + 0.5) * stride,
            indexing="ij",
        )
        points.append(torch.stack([x, y], -1).reshape(-1, 2))
        strides.append(torch.full_like(points[-1][:, 0], stride))
    return torch.cat(points).to(like.dtype), torch.cat(strides).to(like.dtype)


def decode(raw: Raw, points: Float[Tensor, "anchors 2"], strides: Float[Tensor, "anchors"]) -> Detections:
    """Boxes by the mean of each side's distance distribution (Li et al. 2020, eq. 5), keypoints as shifts of two strides a unit"""
    b, n, _ = raw.side.shape
    bins = raw.box.shape[2] // 4
    distance = raw.box.reshape(b, n, 4, bins).softmax(-1) @ torch.arange(bins, device=raw.box.device, dtype=raw.box.dtype)
    distance = distance * strides[:, None]
    box = torch.cat([points - distance[..., :2], points + distance[..., 2:]], -1)
    keypoints = raw.keypoints.reshape(b, n, NUM_KEYPOINTS, 3)
    places = points[:, None] + 2 * strides[:, None, None] * keypoints[..., :2]
    return Detections(box, raw.side.sigmoid(), torch.cat([places, keypoints[..., 2:].sigmoid()], -1))
