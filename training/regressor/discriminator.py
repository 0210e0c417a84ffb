"""The discriminator, which tells real poses and shapes from estimated ones: HMR's factorised discriminator (Kanazawa et al., CVPR 2018)."""

import torch
from jaxtyping import Float
from torch import Tensor, nn

NUM_JOINTS = 15
NUM_OPINIONS = NUM_JOINTS + 2


class Discriminator(nn.Module):
    """17 opinions, of each finger joint, of all of them and of the shape: 1 for real, 0 for invented (Mao et al., ICCV 2017)."""

    def __init__(self) -> None:
        super().__init__()
        self.joint = nn.Sequential(nn.Linear(9, 32), nn.ReLU(), nn.Linear(32, 32), nn.ReLU())
        self.each = nn.ModuleList(nn.Linear(32, 1) for _ in range(NUM_JOINTS))
        self.pose = nn.Sequential(nn.Linear(32 * NUM_JOINTS, 1024), nn.ReLU(), nn.Linear(1024, 1024), nn.ReLU(), nn.Linear(1024, 1))
        self.shape = nn.Sequential(nn.Linear(10, 10), nn.ReLU(), nn.Linear(10, 5), nn.ReLU(), nn.Linear(5, 1))
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.xavier_uniform_(module.weight)
                nn.init.zeros_(module.bias)

    def forward(
        self,
        hand_pose: Float[Tensor, "b 15 3 3"],  # rotations without the root's
        betas: Float[Tensor, "b 10"],
    ) -> Float[Tensor, "b 17"]:
        joints = self.joint(hand_pose.flatten(2))
        each = [say(joints[:, k]) for k, say in enumerate(self.each)]
        return torch.cat([*each, self.pose(joints.flatten(1)), self.shape(betas)], 1)
