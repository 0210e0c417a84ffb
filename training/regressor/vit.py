"""The plain vision transformer of ViTPose (Xu et al., NeurIPS 2022) with tokens of our own before those of the image.

Names of parameters are those of ViTPose's official checkpoints. Images are 256 pixels high and 192 wide, 16 x 12 patches.
"""

from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float, Float32
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

ROWS, COLUMNS, PATCH = 16, 12, 16


class Shape(NamedTuple):
    """Width, depth and heads of a transformer."""

    width: int
    depth: int
    heads: int
    drop_path: float


SHAPES = {
    "xs": Shape(192, 6, 3, 0.0),
    "s": Shape(384, 12, 12, 0.1),
    "b": Shape(768, 12, 12, 0.3),
    "l": Shape(1024, 24, 16, 0.5),
    "h": Shape(1280, 32, 16, 0.55),
}
"""ViT-S to H as ViTPose has them, with its drop path; xs is ours."""


class Attention(nn.Module):
    """Self-attention, fused, but for training in bfloat16 on a processor, where torch's fused one takes half as long again as products."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.qkv = nn.Linear(width, 3 * width)
        self.proj = nn.Linear(width, width)

    def forward(self, x: Float[Tensor, "b tokens width"]) -> Float[Tensor, "b tokens width"]:
        q, k, v = self.qkv(x).unflatten(-1, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)
        if q.requires_grad and q.device.type == "cpu" and q.dtype == torch.bfloat16:
            mixed = ((q * q.shape[-1] ** -0.5) @ k.mT).softmax(-1) @ v
        else:
            mixed = F.scaled_dot_product_attention(q, k, v)
        out: Tensor = self.proj(mixed.transpose(1, 2).flatten(2))
        return out


class Mlp(nn.Module):
    """Two layers, four times as wide between them."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.fc1 = nn.Linear(width, 4 * width)
        self.fc2 = nn.Linear(4 * width, width)

    def forward(self, x: Float[Tensor, "b tokens width"]) -> Float[Tensor, "b tokens width"]:
        out: Tensor = self.fc2(F.gelu(self.fc1(x)))
        return out


class Block(nn.Module):
    """Attention and a perceptron, each after a norm and added to what came (Dosovitskiy et al., ICLR 2021)."""

    def __init__(self, width: int, heads: int, drop: float) -> None:
        super().__init__()
        self.norm1, self.norm2 = nn.LayerNorm(width, eps=1e-6), nn.LayerNorm(width, eps=1e-6)
        self.attn, self.mlp = Attention(width, heads), Mlp(width)
        self.drop = drop

    def forward(self, x: Float[Tensor, "b tokens width"]) -> Float[Tensor, "b tokens width"]:
        x = self._add(x, self.norm1, self.attn)
        return self._add(x, self.norm2, self.mlp)

    def _add(self, x: Tensor, norm: nn.Module, layer: nn.Module) -> Tensor:
        """In training only for some of the samples, the others cost nothing (stochastic depth as DINOv2 batches it; Oquab et al. 2023)."""
        kept = max(1, round(len(x) * (1 - self.drop))) if self.training else 0
        if not self.training or kept == len(x):
            out: Tensor = layer(norm(x))
            return x + out
        rows = torch.randperm(len(x), device=x.device)[:kept]
        out = layer(norm(x[rows]))
        return x.index_add(0, rows, out.to(x.dtype), alpha=len(x) / kept)


class ViT(nn.Module):
    """Images and tokens to tokens and a map of features."""

    def __init__(self, shape: Shape, *, drop_path: float | None = None, checkpoint_activations: bool = False) -> None:
        super().__init__()
        self.width, self.checkpointed = shape.width, checkpoint_activations
        last = shape.drop_path if drop_path is None else drop_path
        self.patch_embed = nn.ModuleDict({"proj": nn.Conv2d(3, shape.width, PATCH, PATCH, padding=2)})
        self.pos_embed = nn.Parameter(torch.zeros(1, 1 + ROWS * COLUMNS, shape.width))
        """The first is the class token's, which ViTPose adds to all."""
        self.blocks = nn.ModuleList(Block(shape.width, shape.heads, last * i / (shape.depth - 1)) for i in range(shape.depth))
        self.last_norm = nn.LayerNorm(shape.width, eps=1e-6)
        self.apply(initialise)
        with torch.no_grad():
            self.pos_embed[:, 1:] = torch.from_numpy(waves(shape.width)).to(self.pos_embed.device)

    def forward(
        self, images: Float[Tensor, "b 3 256 192"], tokens: Float[Tensor, "b tokens width"]
    ) -> tuple[Float[Tensor, "b tokens width"], Float[Tensor, "b width 16 12"]]:
        patches = self.patch_embed["proj"](images).flatten(2).mT
        x = torch.cat([tokens.to(patches.dtype), patches + self.pos_embed[:, 1:] + self.pos_embed[:, :1]], 1)
        for block in self.blocks:
            x = checkpoint(block, x, use_reentrant=False) if self.checkpointed and self.training else block(x)
        x = self.last_norm(x)
        tokens, cells = x.split([tokens.shape[1], ROWS * COLUMNS], 1)
        return tokens, cells.mT.unflatten(2, (ROWS, COLUMNS))


def waves(width: int) -> Float32[np.ndarray, "192 width"]:
    """Where each patch is, as sines and cosines of its column, then of its row, from one radian a patch to 1 / 10000 (MAE; He et al. 2022).

    From scratch a network learns where things are sooner from these than from small random numbers.
    """
    frequency = 10_000.0 ** -np.linspace(0, 1, width // 4, endpoint=False)
    row, column = np.divmod(np.arange(ROWS * COLUMNS), COLUMNS)
    angles = [place[:, None] * frequency for place in (column, row)]
    return np.concatenate([wave(angle) for angle in angles for wave in (np.sin, np.cos)], 1).astype(np.float32)


def initialise(module: nn.Module) -> None:
    """Draw weights as for a transformer trained from scratch (timm's and MAE's)."""
    if isinstance(module, nn.Linear):
        nn.init.trunc_normal_(module.weight, std=0.02)
        nn.init.zeros_(module.bias)
    elif isinstance(module, nn.Conv2d):
        nn.init.xavier_uniform_(module.weight.flatten(1))
