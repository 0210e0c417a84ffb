"""ResNet-101 and its feature pyramid (He et al., CVPR 2016; Lin et al., CVPR 2017), as detectron2 builds and names them.

The stride of a stage sits in its first 1x1 convolution, as in the networks that came from Caffe. Batch norms are frozen: evaluate only.
"""

from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.functional import interpolate, max_pool2d, relu

BLOCKS = {2: 3, 3: 4, 4: 23, 5: 3}
"""Of ResNet-101, by stage."""
CHANNELS = 256
STRIDES = (4, 8, 16, 32, 64)
"""Of the pyramid's maps."""


class Convolution(nn.Conv2d):
    """A convolution and its norm, which lies within it by name."""

    def __init__(self, inputs: int, outputs: int, kernel: int, stride: int = 1) -> None:
        super().__init__(inputs, outputs, kernel, stride, padding=kernel // 2, bias=False)
        self.norm = nn.BatchNorm2d(outputs)

    def forward(self, x: Float[Tensor, "n c h w"]) -> Float[Tensor, "n d i j"]:
        return self.norm(super().forward(x))


class Bottleneck(nn.Module):
    """ResNet's block; the first of a stage projects its input."""

    def __init__(self, inputs: int, width: int, stride: int) -> None:
        super().__init__()
        self.shortcut = Convolution(inputs, 4 * width, 1, stride) if inputs != 4 * width else nn.Identity()
        self.conv1 = Convolution(inputs, width, 1, stride)
        self.conv2 = Convolution(width, width, 3)
        self.conv3 = Convolution(width, 4 * width, 1)

    def forward(self, x: Float[Tensor, "n c h w"]) -> Float[Tensor, "n d i j"]:
        return relu(self.conv3(relu(self.conv2(relu(self.conv1(x))))) + self.shortcut(x))


class ResNet101(nn.Module):
    """Pictures to the maps of its four stages, at strides 4 to 32."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Module()
        self.stem.conv1 = Convolution(3, 64, 7, 2)
        inputs = 64
        for stage, blocks in BLOCKS.items():
            width, layer = 16 << stage, []
            for block in range(blocks):
                layer.append(Bottleneck(inputs, width, 2 if stage > 2 and block == 0 else 1))
                inputs = 4 * width
            self.add_module(f"res{stage}", nn.Sequential(*layer))

    def forward(self, x: Float[Tensor, "n 3 h w"]) -> list[Tensor]:
        x = max_pool2d(relu(self.stem.get_submodule("conv1")(x)), 3, 2, padding=1)
        maps = []
        for stage in BLOCKS:
            x = self.get_submodule(f"res{stage}")(x)
            maps.append(x)
        return maps


class FeaturePyramid(nn.Module):
    """Pictures, their sides multiples of 32, to five maps of 256 channels at `STRIDES`."""

    def __init__(self) -> None:
        super().__init__()
        self.bottom_up = ResNet101()
        for stage in BLOCKS:
            self.add_module(f"fpn_lateral{stage}", nn.Conv2d(64 << stage, CHANNELS, 1))
            self.add_module(f"fpn_output{stage}", nn.Conv2d(CHANNELS, CHANNELS, 3, padding=1))

    def forward(self, pictures: Float[Tensor, "n 3 h w"]) -> list[Tensor]:
        maps: list[Tensor] = []
        above: Tensor | None = None
        for stage, x in zip(reversed(BLOCKS), reversed(self.bottom_up(pictures)), strict=True):
            x = self.get_submodule(f"fpn_lateral{stage}")(x)
            above = x if above is None else x + interpolate(above, scale_factor=2.0, mode="nearest")
            maps.insert(0, self.get_submodule(f"fpn_output{stage}")(above))
        return [*maps, max_pool2d(maps[-1], 1, 2)]
