"""FastPose, AlphaPose's network: a ResNet-50 with squeeze-and-excitation, then three pixel shuffles (Fang et al., TPAMI 2022).

Own code from the published architecture, with the names of the official checkpoints. The variant with deformable convolutions is not
here.
"""

from pathlib import Path

from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.functional import max_pool2d, pixel_shuffle, relu

from stages.detectors.weights import BadWeights, State, fill

BLOCKS = (3, 4, 6, 3)
"""Of ResNet-50, by stage."""


class SqueezeExcite(nn.Module):
    """Channels weighted by what the whole map holds, without a bottleneck."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.fc = nn.Sequential(nn.Linear(width, width), nn.ReLU(), nn.Linear(width, width), nn.Sigmoid())

    def forward(self, x: Float[Tensor, "n c h w"]) -> Float[Tensor, "n c h w"]:
        return x * self.fc(x.mean((2, 3)))[..., None, None]


class Bottleneck(nn.Module):
    """ResNet's block, the stride in the 3x3 convolution; the first of a stage projects its input and excites its channels."""

    def __init__(self, inputs: int, width: int, *, stride: int, first: bool) -> None:
        super().__init__()
        outputs = 4 * width
        self.conv1, self.bn1 = nn.Conv2d(inputs, width, 1, bias=False), nn.BatchNorm2d(width)
        self.conv2, self.bn2 = nn.Conv2d(width, width, 3, stride, padding=1, bias=False), nn.BatchNorm2d(width)
        self.conv3, self.bn3 = nn.Conv2d(width, outputs, 1, bias=False), nn.BatchNorm2d(outputs)
        self.se = SqueezeExcite(outputs) if first else nn.Identity()
        project = nn.Sequential(nn.Conv2d(inputs, outputs, 1, stride, bias=False), nn.BatchNorm2d(outputs))
        self.downsample = project if first else nn.Identity()

    def forward(self, x: Float[Tensor, "n c h w"]) -> Float[Tensor, "n d i j"]:
        y = relu(self.bn2(self.conv2(relu(self.bn1(self.conv1(x))))))
        return relu(self.se(self.bn3(self.conv3(y))) + self.downsample(x))


class Backbone(nn.Module):
    """SE-ResNet-50 without its classifier."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(3, 64, 7, 2, padding=3, bias=False), nn.BatchNorm2d(64)
        inputs = 64
        for number, blocks in enumerate(BLOCKS):
            width, stride, layer = 64 << number, 1 if number == 0 else 2, []
            for block in range(blocks):
                layer.append(Bottleneck(inputs, width, stride=stride if block == 0 else 1, first=block == 0))
                inputs = 4 * width
            self.add_module(f"layer{number + 1}", nn.Sequential(*layer))

    def forward(self, x: Float[Tensor, "n 3 h w"]) -> Float[Tensor, "n 2048 h/32 w/32"]:
        x = max_pool2d(relu(self.bn1(self.conv1(x))), 3, 2, padding=1)
        for number in range(len(BLOCKS)):
            x = self.get_submodule(f"layer{number + 1}")(x)
        return x


class Upsampling(nn.Module):
    """Dense upsampling: a convolution whose channels become pixels."""

    def __init__(self, inputs: int, width: int) -> None:
        super().__init__()
        self.conv, self.bn = nn.Conv2d(inputs, width, 3, padding=1, bias=False), nn.BatchNorm2d(width)

    def forward(self, x: Float[Tensor, "n c h w"]) -> Float[Tensor, "n d 2*h 2*w"]:
        return pixel_shuffle(relu(self.bn(self.conv(x))), 2)


class FastPose(nn.Module):
    """Crops to one map a keypoint at a quarter of their size. `width` is that of the last upsampling: 128, 256 in some files."""

    def __init__(self, num_keypoints: int, width: int = 128) -> None:
        super().__init__()
        self.preact = Backbone()
        self.duc1, self.duc2 = Upsampling(512, 1024), Upsampling(256, 4 * width)
        self.conv_out = nn.Conv2d(width, num_keypoints, 3, padding=1)

    def forward(self, crops: Float[Tensor, "n 3 h w"]) -> Float[Tensor, "n k h/4 w/4"]:
        return self.conv_out(self.duc2(self.duc1(pixel_shuffle(self.preact(crops), 2))))


def fastpose(state: State, source: Path) -> FastPose:
    """The network of a checkpoint, with as many keypoints as it has. Raises BadWeights when it is another network's."""
    if any("offset" in name for name in state):
        raise BadWeights(
            f"{source} is a FastPose with deformable convolutions, which are not here: take one without, such as alphapose_136"
        )
    last = state.get("conv_out.weight")
    num_keypoints, width = (last.shape[0], last.shape[1]) if last is not None and last.ndim == 4 else (136, 128)
    network = FastPose(num_keypoints, width)
    fill(network, state, source)
    return network
