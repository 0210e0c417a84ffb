"""The regressor in the plain style of WiLoR's release: the same weights and answers, and how its code goes about them.

Attention is a product, a softmax and a product; pictures are normalised in single precision one hand at a time, as its data set does;
everything runs in single precision; what comes out is taken apart hand by hand, as in its demo. Drop path is off on both sides.
"""

from collections.abc import Sequence

import numpy as np
import torch
from jaxtyping import Float, Float32, UInt8
from torch import Tensor, nn

from training.regressor.network import MEAN, STD, HandEstimate, Regressor
from training.regressor.vit import Attention


class EagerAttention(nn.Module):
    """Attention in four separate steps, which timm and ViTPose had before there was a fused one."""

    def __init__(self, fused: Attention) -> None:
        super().__init__()
        self.heads, self.qkv, self.proj = fused.heads, fused.qkv, fused.proj

    def forward(self, x: Float[Tensor, "b n c"]) -> Float[Tensor, "b n c"]:
        b, n, c = x.shape
        q, k, v = self.qkv(x).reshape(b, n, 3, self.heads, c // self.heads).permute(2, 0, 3, 1, 4)
        q = q * (c // self.heads) ** -0.5
        attention = (q @ k.transpose(-2, -1)).softmax(dim=-1)
        mixed: Tensor = self.proj((attention @ v).transpose(1, 2).reshape(b, n, c))
        return mixed


def release_style(network: Regressor) -> Regressor:
    """The network itself with eager attention, for pictures that are normalised before it. In place."""
    for block in network.backbone.blocks:  # type: ignore[union-attr]
        block.attn = EagerAttention(block.attn)
    network.image_mean.zero_()
    network.image_std.fill_(1)
    return network


def normalised(crops: Sequence[UInt8[np.ndarray, "256 256 3"]]) -> Float32[Tensor, "n 3 256 256"]:
    """Hand by hand and channel by channel, then stacked: what a worker sends to the trainer, four times the bytes of the picture."""
    patches = []
    for crop in crops:
        patch = np.transpose(crop.astype(np.float32), (2, 0, 1))
        for channel in range(3):
            patch[channel] = (patch[channel] - 255 * MEAN[channel]) / (255 * STD[channel])
        patches.append(torch.from_numpy(np.ascontiguousarray(patch)))
    return torch.stack(patches)


def hand_by_hand(
    hands: HandEstimate, box: Float32[np.ndarray, "n 3"], right: Float32[np.ndarray, "n"], size: tuple[int, int], focal: float
) -> list[tuple[np.ndarray, np.ndarray, np.ndarray]]:
    """Vertices, joints and translation of each hand in the frame, mirrored back where it is a left one."""
    found = []
    for n in range(len(hands.vertices)):
        sign = 2 * right[n] - 1
        vertices, joints = hands.vertices[n].detach().cpu().numpy().copy(), hands.joints[n].detach().cpu().numpy().copy()
        vertices[:, 0], joints[:, 0] = sign * vertices[:, 0], sign * joints[:, 0]
        scale, x, y = hands.camera[n].detach().cpu().numpy()
        side = box[n, 2] * scale + 1e-9
        shift = np.array([sign * x + 2 * (box[n, 0] - size[0] / 2) / side, y + 2 * (box[n, 1] - size[1] / 2) / side, 2 * focal / side])
        found.append((vertices, joints, shift))
    return found


def flops_of_hand(network: Regressor) -> int:
    """Operations of the forward pass of one hand (a multiplication and an addition are two), counted as the eager network runs."""
    from torch.utils.flop_counter import FlopCounterMode

    device = network.mean_camera.device
    counter = FlopCounterMode(display=False)
    with counter, torch.no_grad():
        network(torch.zeros(1, 3, 256, 256, device=device))
    return int(counter.get_total_flops())
