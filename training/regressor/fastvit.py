"""FastViT-SA12 (Vasu et al., ICCV 2023) as a backbone of the regressor: the paper's ablation of the vision transformer.

Convolutions are trained as sums of several with norms of their own, and folded into one each for use (`folded`). Two blocks of the plain
transformer let the tokens of the hand read the last map.
"""

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from training.regressor.vit import Attention, Block, initialise

CHANNELS = (64, 128, 256, 512)
DEPTHS = (2, 2, 6, 2)
DROP_PATH = 0.1
HEAD_WIDTH = 32


class RepConv(nn.Module):
    """A convolution, a smaller one and the input itself where it fits, each with a norm, summed (MobileOne; Vasu et al., CVPR 2023)."""

    def __init__(self, inputs: int, outputs: int, kernel: int, stride: int = 1, groups: int = 1, *, small: int = 1) -> None:
        super().__init__()
        self.stride, self.groups = stride, groups
        kernels = dict.fromkeys((kernel, small))
        self.convolutions = nn.ModuleList(nn.Conv2d(inputs, outputs, k, stride, k // 2, groups=groups, bias=False) for k in kernels)
        self.norms = nn.ModuleList(nn.BatchNorm2d(outputs) for _ in kernels)
        self.skip = nn.BatchNorm2d(outputs) if inputs == outputs and stride == 1 else None

    def forward(self, x: Float[Tensor, "b i h w"]) -> Float[Tensor, "b o h2 w2"]:
        total = sum(norm(convolution(x)) for convolution, norm in zip(self.convolutions, self.norms, strict=True))
        return total if self.skip is None else total + self.skip(x)

    @torch.no_grad()
    def fold(self) -> nn.Conv2d:
        """One convolution that answers the same, once training is over."""
        largest = self.convolutions[0]
        assert isinstance(largest, nn.Conv2d)
        (kernel, _), outputs = largest.kernel_size, largest.out_channels
        folded = nn.Conv2d(largest.in_channels, outputs, kernel, self.stride, kernel // 2, groups=self.groups).to(largest.weight)
        weight, bias = torch.zeros_like(folded.weight), torch.zeros_like(folded.bias)  # type: ignore[arg-type]
        for convolution, norm in zip(self.convolutions, self.norms, strict=True):
            assert isinstance(convolution, nn.Conv2d)
            scale, shift = _affine(norm)
            border = (kernel - convolution.weight.shape[-1]) // 2
            weight += F.pad(convolution.weight, (border,) * 4) * scale[:, None, None, None]
            bias += shift
        if self.skip is not None:
            scale, shift = _affine(self.skip)
            channel = torch.arange(outputs)
            weight[channel, channel % weight.shape[1], kernel // 2, kernel // 2] += scale
            bias += shift
        folded.weight.copy_(weight)
        folded.bias.copy_(bias)  # type: ignore[union-attr]
        return folded


def _affine(norm: nn.Module) -> tuple[Tensor, Tensor]:
    """A batch norm at rest: factor and summand of each channel."""
    assert isinstance(norm, nn.BatchNorm2d)
    assert norm.running_mean is not None
    assert norm.running_var is not None
    scale = norm.weight * (norm.running_var + norm.eps).rsqrt()
    return scale, norm.bias - scale * norm.running_mean


class ConvMlp(nn.Module):
    """A depthwise 7 x 7 convolution, then two layers a cell."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.around = nn.Sequential(nn.Conv2d(channels, channels, 7, padding=3, groups=channels, bias=False), nn.BatchNorm2d(channels))
        self.cell = nn.Sequential(nn.Conv2d(channels, 4 * channels, 1), nn.GELU(), nn.Conv2d(4 * channels, channels, 1))

    def forward(self, x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b c h w"]:
        out: Tensor = self.cell(self.around(x))
        return out


class CellAttention(nn.Module):
    """Self-attention between the cells of a map."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.norm = nn.BatchNorm2d(channels)
        self.attention = Attention(channels, channels // HEAD_WIDTH)

    def forward(self, x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b c h w"]:
        mixed: Tensor = self.attention(self.norm(x).flatten(2).mT)
        return mixed.mT.reshape(x.shape)


class RepMixer(nn.Module):
    """Mix cells by a depthwise convolution that folds together with the residual around it (FastViT, eq. 1-2)."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.mix = RepConv(channels, channels, 3, groups=channels)
        self.norm = nn.BatchNorm2d(channels)
        self.gain = _gain(channels)

    def forward(self, x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b c h w"]:
        out: Tensor = x + self.gain * (self.mix(x) - self.norm(x))
        return out

    @torch.no_grad()
    def fold(self) -> nn.Conv2d:
        """One convolution that answers the same."""
        folded = self.mix.fold()
        scale, shift = _affine(self.norm)
        gain = self.gain.flatten()
        folded.weight.mul_(self.gain[..., None])
        folded.weight[:, 0, 1, 1] += 1 - gain * scale
        folded.bias.sub_(shift).mul_(gain)  # type: ignore[union-attr]
        return folded


class MixBlock(nn.Module):
    """Mix cells, by convolution or attention, then channels."""

    def __init__(self, channels: int, drop: float, *, attend: bool) -> None:
        super().__init__()
        self.mixer = None if attend else RepMixer(channels)
        self.attention = CellAttention(channels) if attend else None
        self.attention_gain = _gain(channels) if attend else None
        self.mlp, self.mlp_gain = ConvMlp(channels), _gain(channels)
        self.drop = drop

    def forward(self, x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b c h w"]:
        if self.mixer is not None:
            x = self.mixer(x)
        else:
            x = x + self._dropped(self.attention_gain * self.attention(x))  # type: ignore[misc]
        return x + self._dropped(self.mlp_gain * self.mlp(x))

    def _dropped(self, x: Tensor) -> Tensor:
        """In training nothing for some of the samples."""
        if not self.training or not self.drop:
            return x
        return x * ((torch.rand(len(x), 1, 1, 1, device=x.device) >= self.drop).to(x.dtype) / (1 - self.drop))


class FastViT(nn.Module):
    """Images and tokens to tokens and a map of features, by convolutions mostly."""

    width = CHANNELS[-1]

    def __init__(self, *, drop_path: float | None = None) -> None:
        super().__init__()
        last = DROP_PATH if drop_path is None else drop_path
        first = CHANNELS[0]
        self.stem = nn.Sequential(
            RepConv(3, first, 3, 2), nn.GELU(), RepConv(first, first, 3, 2, first), nn.GELU(), RepConv(first, first, 1), nn.GELU()
        )
        drops = iter(torch.linspace(0, last, sum(DEPTHS)).tolist())
        self.stages = nn.ModuleList()
        for k, (channels, depth) in enumerate(zip(CHANNELS, DEPTHS, strict=True)):
            attend = k == len(CHANNELS) - 1
            layers: list[nn.Module] = [] if k == 0 else _halving(CHANNELS[k - 1], channels)
            layers += [RepConv(channels, channels, 7, groups=channels)] if attend else []
            self.stages.append(nn.Sequential(*layers, *(MixBlock(channels, next(drops), attend=attend) for _ in range(depth))))
        self.lateral = nn.Conv2d(CHANNELS[2], self.width, 1)
        self.blocks = nn.ModuleList(Block(self.width, self.width // HEAD_WIDTH, 0.0) for _ in range(2))
        self.last_norm = nn.LayerNorm(self.width, eps=1e-6)
        self.blocks.apply(initialise)

    def forward(
        self, images: Float[Tensor, "b 3 256 192"], tokens: Float[Tensor, "b tokens width"]
    ) -> tuple[Float[Tensor, "b tokens width"], Float[Tensor, "b width 16 12"]]:
        levels = [self.stem(images)]
        for stage in self.stages:
            levels.append(stage(levels[-1]))
        fine, coarse = levels[-2:]
        x = torch.cat([tokens.to(coarse.dtype), coarse.flatten(2).mT], 1)
        for block in self.blocks:
            x = block(x)
        tokens, cells = self.last_norm(x).split([tokens.shape[1], x.shape[1] - tokens.shape[1]], 1)
        coarse = cells.mT.unflatten(2, coarse.shape[2:])
        return tokens, self.lateral(fine) + F.interpolate(coarse, scale_factor=2.0, mode="bilinear")


def folded(network: nn.Module) -> nn.Module:
    """Every sum of convolutions as one, in place: the same answers in fewer passes. Not to be trained further."""
    for name, module in network.named_children():
        setattr(network, name, module.fold() if isinstance(module, RepConv | RepMixer) else folded(module))
    return network


def _halving(inputs: int, outputs: int) -> list[nn.Module]:
    """Half the sides, other channels: a large depthwise kernel, then a mix of channels."""
    return [RepConv(inputs, outputs, 7, 2, inputs, small=3), nn.GELU(), RepConv(outputs, outputs, 1), nn.GELU()]


def _gain(channels: int) -> nn.Parameter:
    """Gain of a residual, small at first (layer scale; Touvron et al., ICCV 2021)."""
    return nn.Parameter(torch.full((channels, 1, 1), 1e-2))
