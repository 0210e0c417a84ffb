"""The 21 joints alone, without the mesh: forward kinematics and its Jacobian, exact in closed form.

Frame: that of `fitting.hand.mano`, a right hand. Points are in MANO's order of fingers (`fitting.hand.anatomy.FINGERS`):
the wrist, then four a finger from palm to tip. Rotations are perturbed on the right: R exp([delta]x).
"""

from dataclasses import dataclass, fields, replace
from typing import Any, NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from fitting.hand.anatomy import FINGERS, TIP_VERTICES, TIPS_IN_MANO_ORDER
from fitting.hand.mano import HandModel

KEYPOINT_FINGERS = ("thumb", "index", "middle", "ring", "little")

FROM_KEYPOINTS = (0, *(1 + 4 * KEYPOINT_FINGERS.index(finger) + k for finger in FINGERS for k in range(4)))
"""Of each point here, its row among OpenPose's 21 keypoints."""


class Points(NamedTuple):
    """Posed points, and what the Jacobian needs of the way there."""

    points: Float[Tensor, "n 21 3"]  # metres, wrist at the origin
    turns: Float[Tensor, "n 5 3 3 3"]  # of the finger bones, to camera axes
    tip_parts: Float[Tensor, "n 5 4 3"]  # the tip as the wrist and each bone of its finger would carry it


@dataclass(frozen=True, eq=False, slots=True, kw_only=True)
class JointModel:
    """What of a hand model decides its joints: bone vectors and tips, affine in the betas."""

    bones: Float[Tensor, "5 3 3"]  # rest vector from the parent joint, metres
    bones_shape: Float[Tensor, "5 3 3 10"]
    tips: Float[Tensor, "5 3"]  # rest place, relative to the wrist
    tips_shape: Float[Tensor, "5 3 10"]
    tips_pose: Float[Tensor, "5 3 135"]
    tip_weights: Float[Tensor, "5 4"]  # of the wrist and the three bones of the finger

    @classmethod
    def of(cls, model: HandModel) -> "JointModel":
        """The joints of a hand model. A tip's weight on foreign fingers, which MANO hardly has, goes to its last bone."""
        joints = model.J_regressor @ model.v_template
        shape = torch.einsum("jv,vcb->jcb", model.J_regressor, model.shapedirs)
        parents = torch.tensor([[0, 1 + 3 * f, 2 + 3 * f] for f in range(5)])
        own = torch.arange(1, 16).reshape(5, 3)
        vertices = torch.tensor(TIP_VERTICES)[list(TIPS_IN_MANO_ORDER)]
        weights = torch.stack([model.weights[v, [0, *own[f].tolist()]] for f, v in enumerate(vertices)])
        weights[:, 3] += 1 - weights.sum(1)
        return cls(
            bones=joints[own] - joints[parents],
            bones_shape=shape[own] - shape[parents],
            tips=model.v_template[vertices] - joints[0],
            tips_shape=model.shapedirs[vertices] - shape[0],
            tips_pose=model.posedirs[vertices],
            tip_weights=weights,
        )

    def to(self, device: str | torch.device, dtype: torch.dtype) -> "JointModel":
        """Copy of the model on another device, in another precision."""
        moved: dict[str, Any] = {field.name: getattr(self, field.name).to(device, dtype) for field in fields(self)}
        return replace(self, **moved)

    def pose(
        self,
        root: Float[Tensor, "n 3 3"],
        rotations: Float[Tensor, "n 15 3 3"],
        betas: Float[Tensor, "n 10"],
    ) -> Points:
        """Joints and tips of right hands, wrist at the origin; the same as `mano.pose_hand`'s."""
        n = len(root)
        local = rotations.reshape(n, 5, 3, 3, 3)
        bones = self.bones + torch.einsum("fkcb,nb->nfkc", self.bones_shape, betas)
        feature = (rotations - torch.eye(3).to(rotations)).reshape(n, 135)
        tips = self.tips + torch.einsum("fcb,nb->nfc", self.tips_shape, betas) + torch.einsum("fcp,np->nfc", self.tips_pose, feature)
        turn, place, rest = root[:, None].expand(n, 5, 3, 3), torch.zeros_like(tips), torch.zeros_like(tips)
        turns, places, parts = [], [], [_turned(turn, tips)]
        for k in range(3):
            place = place + _turned(turn, bones[:, :, k])
            rest = rest + bones[:, :, k]
            turn = turn @ local[:, :, k]
            turns.append(turn)
            places.append(place)
            parts.append(place + _turned(turn, tips - rest))
        tip_parts = torch.stack(parts, 2)
        places.append((self.tip_weights[:, :, None] * tip_parts).sum(2))
        points = torch.cat([root.new_zeros(n, 1, 3), torch.stack(places, 2).reshape(n, 20, 3)], 1)
        return Points(points, torch.stack(turns, 2), tip_parts)

    def finger_jacobian(self, posed: Points) -> Float[Tensor, "n 5 4 3 9"]:
        """Derivatives of the four points of each finger in the nine rotation components of its joints, metres a radian.

        A turn delta of joint j moves a point that hangs on it by (G_j delta) x (point - p_j). The pose correctives of the tips,
        about a millimetre a radian, are left out.
        """
        n = len(posed.points)
        places = posed.points[:, 1:].reshape(n, 5, 4, 3)
        levers = torch.zeros(n, 5, 4, 3, 3).to(places)
        for j in range(3):
            origin = places[:, :, j]
            levers[:, :, j + 1 : 3, j] = places[:, :, j + 1 : 3] - origin[:, :, None]
            weights = self.tip_weights[:, j + 1 :, None]
            levers[:, :, 3, j] = (weights * (posed.tip_parts[:, :, j + 1 :] - origin[:, :, None])).sum(2)
        axes = posed.turns.mT[:, :, None]  # n 5 1 joint component xyz
        moved = torch.linalg.cross(axes.expand(n, 5, 4, 3, 3, 3), levers[:, :, :, :, None].expand(n, 5, 4, 3, 3, 3))
        jacobian: Tensor = moved.reshape(n, 5, 4, 9, 3).transpose(3, 4)
        return jacobian

    def shape_jacobian(self, root: Float[Tensor, "n 3 3"], posed: Points) -> Float[Tensor, "n 20 3 10"]:
        """Derivatives of the finger points in the betas, metres a unit."""
        n = len(root)
        turns = torch.cat([root[:, None, None].expand(n, 5, 1, 3, 3), posed.turns], 2)
        steps = torch.einsum("nfkij,fkjb->nfkib", turns[:, :, :3], self.bones_shape)
        places = torch.cumsum(steps, 2)
        rest = torch.cumsum(self.bones_shape, 1)
        tips = torch.einsum("fk,nfkij,fkjb->nfib", self.tip_weights[:, :1], turns[:, :, :1], self.tips_shape[:, None])
        carried = places + torch.einsum("nfkij,fkjb->nfkib", turns[:, :, 1:], self.tips_shape[:, None] - rest)
        tips = tips + (self.tip_weights[:, 1:, None, None] * carried).sum(2)
        return torch.cat([places, tips[:, :, None]], 2).reshape(n, 20, 3, 10)


def _turned(turn: Float[Tensor, "n 5 3 3"], vector: Float[Tensor, "n 5 3"]) -> Float[Tensor, "n 5 3"]:
    turned: Tensor = (turn @ vector[..., None]).squeeze(-1)
    return turned
