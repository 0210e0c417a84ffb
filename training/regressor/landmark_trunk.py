"""MediaPipe's hand landmark network as a backbone: the crop is turned until the hand in it is upright, as that network wants hands, and
its last features and its own landmarks are read.

Frame of reference: crops of 256 pixels about a hand's box, crop units; a look is the turned square out of it, and everything that is
said of the hand is said in the look and then brought back into the crop.
"""

from typing import NamedTuple

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from stages.detectors.mediapipe.hand_landmarks import FEATURES, PALM_AND_KNUCKLES, SIZE
from stages.detectors.mediapipe.hint import NUM_SAID
from stages.detectors.mediapipe.models import find
from stages.detectors.mediapipe.torch_modules import TfliteNetwork
from training.regressor.hand import HandEstimate

MAPS = {46: 40, 104: 112}
"""Operators whose maps the refinement reads, of 28 x 28 and 14 x 14 cells, and their channels."""
SCREEN, WORLD = 161, 164
HIDDEN, WIDTH = 512, 32
_KNUCKLES = (5, 13)
"""Knuckles of index and ring finger, whose middle with the middle finger's says where up is (`tracked_region`)."""


class Region(NamedTuple):
    """The turned square of each crop."""

    middle: Float[Tensor, "b 2"]  # crop units
    side: Float[Tensor, "b"]  # crops
    turn: Float[Tensor, "b 2 2"]  # axes of the look to those of the crop

    def in_crop(self, points: Float[Tensor, "b n 2"]) -> Float[Tensor, "b n 2"]:
        """Points of the look, shares of its side from its middle."""
        return self.middle[:, None] + self.side[:, None, None] * points @ self.turn.mT

    def back(self, hand: HandEstimate) -> HandEstimate:
        """A hand of the look as one of the crop."""
        about_z = torch.eye(3).to(self.turn).repeat(len(self.turn), 1, 1)
        about_z[:, :2, :2] = self.turn
        scale = hand.camera[:, :1] * self.side[:, None]
        shift = torch.einsum("bij,bj->bi", self.turn, hand.camera[:, 1:]) + 2 / scale * self.middle
        return HandEstimate(
            torch.cat([about_z[:, None] @ hand.rotations[:, :1], hand.rotations[:, 1:]], 1),
            hand.betas,
            torch.cat([scale, shift], 1),
            hand.vertices @ about_z.mT,
            hand.joints @ about_z.mT,
            self.in_crop(hand.points),
        )


class Seen(NamedTuple):
    """What the network says of each crop's look."""

    said: Float[Tensor, "b 1278"]  # features, screen and world landmarks, as `Landmarks.said`
    maps: list[Tensor]
    region: Region


class LandmarkTrunk(nn.Module):
    """Crops to what the landmark network says of the upright hand in each. It does not learn, and is no part of a checkpoint: its own
    file is read."""

    def __init__(self) -> None:
        super().__init__()
        self.network = TfliteNetwork(find("hand_landmark_full"), (*MAPS, FEATURES, SCREEN, WORLD))
        for module in self.network.modules():
            for name, values in list(module.named_parameters(recurse=False)):
                delattr(module, name)
                module.register_buffer(name, values.detach(), persistent=False)

    def forward(self, images: Float[Tensor, "b 3 256 256"], points: Float[Tensor, "b 21 2"] | None = None) -> Seen:
        """`points`: where the hand's landmarks are, crop units; without them the network looks for them, first in the whole crop."""
        region = tracked(points) if points is not None else self._found(images)
        *maps, features, screen, world = self._look(images, region)
        return Seen(torch.cat([features, screen / SIZE - 0.5, world], 1), maps, region)

    def _found(self, images: Float[Tensor, "b 3 256 256"]) -> Region:
        whole = images.new_zeros(len(images), 2)
        region = Region(whole, whole[:, 0] + 1, torch.eye(2).to(images).expand(len(images), 2, 2))
        for _ in range(2):
            screen = self._look(images, region)[-2]
            region = tracked(region.in_crop(screen.reshape(-1, 21, 3)[..., :2] / SIZE - 0.5))
        return region

    def _look(self, images: Float[Tensor, "b 3 256 256"], region: Region) -> list[Tensor]:
        matrix = torch.cat([region.side[:, None, None] * region.turn, 2 * region.middle[..., None]], 2)
        grid = F.affine_grid(matrix, [len(images), 3, SIZE, SIZE], align_corners=False)
        found: list[Tensor] = self.network(F.grid_sample(images, grid, align_corners=False, padding_mode="border"))
        return found


def tracked(points: Float[Tensor, "b 21 2"], scale: float = 2.0) -> Region:
    """`stages.detectors.mediapipe.hand_landmarks.tracked_region` of a batch."""
    up = (points[:, _KNUCKLES[0]] + points[:, _KNUCKLES[1]]) / 4 + points[:, 9] / 2 - points[:, 0]
    up = F.normalize(up, dim=1, eps=1e-9)
    turn = torch.stack([torch.stack([-up[:, 1], -up[:, 0]], 1), torch.stack([up[:, 0], -up[:, 1]], 1)], 1)
    upright = points[:, PALM_AND_KNUCKLES] @ turn
    low, high = upright.amin(1), upright.amax(1)
    middle = (low + high) / 2 - 0.1 * (high - low) * up.new_tensor([0.0, 1.0])
    return Region(torch.einsum("bij,bj->bi", turn, middle), scale * (high - low).amax(1).clamp_min(1e-3), turn)


class LandmarkReader(nn.Module):
    """From what the network says of a look to a token for each of 16 joints, one for the shape, one for the camera."""

    mean: Float[Tensor, "1278"]
    scale: Float[Tensor, "1278"]

    def __init__(self, drop: float = 0.2) -> None:
        super().__init__()
        self.register_buffer("mean", torch.zeros(NUM_SAID))
        self.register_buffer("scale", torch.ones(NUM_SAID))
        self.layers = nn.Sequential(
            nn.Dropout(drop / 2), nn.Linear(NUM_SAID, HIDDEN), nn.ReLU(), nn.Dropout(drop),
            nn.Linear(HIDDEN, HIDDEN), nn.ReLU(), nn.Dropout(drop), nn.Linear(HIDDEN, 18 * WIDTH),
        )  # fmt: skip

    def forward(self, said: Float[Tensor, "b 1278"]) -> Float[Tensor, "b 18 width"]:
        tokens: Tensor = self.layers((said - self.mean) / self.scale)
        return tokens.reshape(-1, 18, WIDTH)


class LandmarkMaps(nn.Module):
    """The trunk's maps as the refinement reads them."""

    def __init__(self, channels: int = 64) -> None:
        super().__init__()
        self.channels = (channels,) * len(MAPS)
        self.first = nn.ModuleList(
            nn.Sequential(nn.Conv2d(given, channels, 1), nn.GroupNorm(8, channels), nn.ReLU()) for given in MAPS.values()
        )

    def forward(self, maps: list[Tensor]) -> list[Tensor]:
        return [layer(values) for layer, values in zip(self.first, maps, strict=True)]
