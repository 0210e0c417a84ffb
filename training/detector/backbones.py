"""The backbones beside DarkNet: ResNet-50 and HRNet-W32 of the paper's ablation (WiLoR, Table 2), and MediaPipe's palm network.

With torchvision's and timm's names: He et al., CVPR 2016, the stride in the 3 x 3 convolution as torchvision has it; Wang et al.,
TPAMI 2020. The paper gives no width of HRNet; W32 is the one whose size in float32 is near its 132 MB. Images come in [0, 1]; those two
normalise them as for ImageNet.
"""

from collections.abc import Sequence
from functools import reduce
from operator import add
from pathlib import Path
from typing import ClassVar

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.functional import max_pool2d, relu

from stages.detectors.mediapipe.models import find
from stages.detectors.mediapipe.torch_modules import TfliteNetwork
from stages.detectors.weights import fill, load_checkpoint

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
"""Mean and deviation of ImageNet's red, green and blue."""


class Trunk(nn.Module):
    """A network whose last three levels, at strides 8, 16 and 32, are handed on as C3, C4 and C5."""

    channels: ClassVar[tuple[int, int, int]]
    left_over: ClassVar[tuple[str, ...]] = ()
    """Regular expressions of the names that only a classifier needs."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("mean", torch.tensor(MEAN)[:, None, None], persistent=False)
        self.register_buffer("std", torch.tensor(STD)[:, None, None], persistent=False)

    def normalised(self, images: Float[Tensor, "b 3 h w"]) -> Float[Tensor, "b 3 h w"]:
        mean, std = self.get_buffer("mean"), self.get_buffer("std")
        return (images - mean) / std

    def load(self, path: Path) -> None:
        """Weights learned on ImageNet, as torchvision or timm save them. Raises BadWeights that says how they differ."""
        fill(self, load_checkpoint(path), path, ignore=self.left_over)


class Bottleneck(nn.Module):
    """1 x 1, 3 x 3 and 1 x 1 convolutions, added to their input, projected where its shape is another."""

    def __init__(self, inputs: int, width: int, stride: int = 1) -> None:
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(inputs, width, 1, bias=False), nn.BatchNorm2d(width)
        self.conv2, self.bn2 = nn.Conv2d(width, width, 3, stride, 1, bias=False), nn.BatchNorm2d(width)
        self.conv3, self.bn3 = nn.Conv2d(width, 4 * width, 1, bias=False), nn.BatchNorm2d(4 * width)
        changes = stride != 1 or inputs != 4 * width
        self.downsample = _convolution(inputs, 4 * width, 1, stride) if changes else nn.Identity()

    def forward(self, x: Float[Tensor, "b i h w"]) -> Float[Tensor, "b o v u"]:
        y = relu(self.bn1(self.conv1(x)))
        y = relu(self.bn2(self.conv2(y)))
        return relu(self.bn3(self.conv3(y)) + self.downsample(x))


class Basic(nn.Module):
    """Two 3 x 3 convolutions, added to their input."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(width, width, 3, 1, 1, bias=False), nn.BatchNorm2d(width)
        self.conv2, self.bn2 = nn.Conv2d(width, width, 3, 1, 1, bias=False), nn.BatchNorm2d(width)

    def forward(self, x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b c h w"]:
        return relu(self.bn2(self.conv2(relu(self.bn1(self.conv1(x))))) + x)


class ResNet50(Trunk):
    """Four stages of bottlenecks."""

    channels = (512, 1024, 2048)
    left_over = (r"fc\.",)

    def __init__(self) -> None:
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(3, 64, 7, 2, 3, bias=False), nn.BatchNorm2d(64)
        self.layer1, self.layer2 = _stage(64, 64, 3, 1), _stage(256, 128, 4, 2)
        self.layer3, self.layer4 = _stage(512, 256, 6, 2), _stage(1024, 512, 3, 2)

    def forward(self, images: Float[Tensor, "b 3 h w"]) -> list[Tensor]:
        x = max_pool2d(relu(self.bn1(self.conv1(self.normalised(images)))), 3, 2, 1)
        c3 = self.layer2(self.layer1(x))
        c4 = self.layer3(c3)
        return [c3, c4, self.layer4(c4)]


class Exchange(nn.Module):
    """Branches of several resolutions, each four blocks long, then each of the `outputs` summed from all of them."""

    def __init__(self, widths: Sequence[int], outputs: Sequence[int]) -> None:
        super().__init__()
        self.branches = nn.ModuleList(nn.Sequential(*(Basic(width) for _ in range(4))) for width in widths)
        self.fuse_layers = nn.ModuleDict(
            {str(to): nn.ModuleList(_between(widths, here, to) for here in range(len(widths))) for to in outputs}
        )

    def forward(self, levels: list[Tensor]) -> list[Tensor]:
        levels = [branch(x) for branch, x in zip(self.branches, levels, strict=True)]
        return [
            relu(reduce(add, (layer(x) for layer, x in zip(layers, levels, strict=True))))  # type: ignore[call-overload]
            for layers in self.fuse_layers.values()
        ]


class HRNet(Trunk):
    """Resolutions down to a quarter kept side by side; the three coarser of the four are handed on."""

    widths = (32, 64, 128, 256)
    channels = (64, 128, 256)
    left_over = (r"incre_modules\.", r"downsamp_modules\.", r"final_layer\.", r"classifier\.", r"stage4\.2\.fuse_layers\.0\.")

    def __init__(self) -> None:
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(3, 64, 3, 2, 1, bias=False), nn.BatchNorm2d(64)
        self.conv2, self.bn2 = nn.Conv2d(64, 64, 3, 2, 1, bias=False), nn.BatchNorm2d(64)
        self.layer1 = _stage(64, 64, 4, 1)
        w = self.widths
        self.transition1 = nn.ModuleList(
            [_convolution(256, w[0], 3, 1, nn.ReLU()), nn.Sequential(_convolution(256, w[1], 3, 2, nn.ReLU()))]
        )
        self.transition2 = nn.ModuleList([*_kept(2), nn.Sequential(_convolution(w[1], w[2], 3, 2, nn.ReLU()))])
        self.transition3 = nn.ModuleList([*_kept(3), nn.Sequential(_convolution(w[2], w[3], 3, 2, nn.ReLU()))])
        self.stage2 = nn.Sequential(Exchange(w[:2], (0, 1)))
        self.stage3 = nn.Sequential(*(Exchange(w[:3], (0, 1, 2)) for _ in range(4)))
        self.stage4 = nn.Sequential(Exchange(w, (0, 1, 2, 3)), Exchange(w, (0, 1, 2, 3)), Exchange(w, (1, 2, 3)))

    def forward(self, images: Float[Tensor, "b 3 h w"]) -> list[Tensor]:
        x = relu(self.bn1(self.conv1(self.normalised(images))))
        x = self.layer1(relu(self.bn2(self.conv2(x))))
        levels: list[Tensor] = self.stage2([layer(x) for layer in self.transition1])
        for transition, stage in ((self.transition2, self.stage3), (self.transition3, self.stage4)):
            levels = stage([layer(x) for layer, x in zip(transition, [*levels, levels[-1]], strict=True)])
        return levels


class PalmNetwork(Trunk):
    """MediaPipe's palm network without its output branches, from its own weights; a pyramid from the coarse levels down is in it.

    Its first half knows edges and skin, and stays as it is. Images come in [0, 1], as it saw them.
    """

    channels = (128, 256, 256)
    taps = (261, 230, 207)
    kept = 82
    """Operators up to this one do not learn."""

    def __init__(self) -> None:
        super().__init__()
        self.network = TfliteNetwork(find("palm_detection_full"), self.taps)
        for number, operator in self.network.operators.items():
            operator.requires_grad_(int(number) > self.kept)

    def load(self, path: Path) -> None:
        raise ValueError(f"the palm network brings its own weights: leave {path} out")

    def forward(self, images: Float[Tensor, "b 3 h w"]) -> list[Tensor]:
        levels: list[Tensor] = self.network(images)
        return levels


def _convolution(inputs: int, outputs: int, kernel: int, stride: int = 1, *after: nn.Module) -> nn.Sequential:
    """A convolution and its norm, and what comes after."""
    return nn.Sequential(nn.Conv2d(inputs, outputs, kernel, stride, kernel // 2, bias=False), nn.BatchNorm2d(outputs), *after)


def _stage(inputs: int, width: int, count: int, stride: int) -> nn.Sequential:
    return nn.Sequential(Bottleneck(inputs, width, stride), *(Bottleneck(4 * width, width) for _ in range(count - 1)))


def _kept(count: int) -> list[nn.Module]:
    return [nn.Identity() for _ in range(count)]


def _between(widths: Sequence[int], here: int, to: int) -> nn.Module:
    """From one resolution to another: halved step by step, or narrowed and doubled."""
    if here == to:
        return nn.Identity()
    if here > to:
        return _convolution(widths[here], widths[to], 1, 1, nn.Upsample(scale_factor=2.0 ** (here - to)))
    steps = [_convolution(widths[here], widths[here], 3, 2, nn.ReLU()) for _ in range(to - here - 1)]
    return nn.Sequential(*steps, _convolution(widths[here], widths[to], 3, 2))
