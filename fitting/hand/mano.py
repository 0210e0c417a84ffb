"""The hand model: MANO's arrays and its forward pass, equal to smplx.MANO, with 21 joints and mirrored left hands.

Frame: metres in camera axes, x right, y down, z forward. Parameters are smplx's: `betas` [n, 10], `global_orient` [n, 3] and
`hand_pose` [n, 45], axis-angle radians, the mean pose already added (flat_hand_mean=True). The model is a right hand; a left hand
is the right one mirrored in x. MANO_LEFT.pkl is not used: its `shapedirs` keep the right hand's sign in x (vchoutas/smplx, issue 48),
so that betas fitted with it mean another shape than the mirrored hand's.
"""

from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
import torch
from jaxtyping import Float, Int, Int64
from torch import Tensor

from fitting.files import STANDIN, hand_of, model_file, read_arrays
from fitting.hand.anatomy import PARENTS, TIP_VERTICES, WRIST_RING
from fitting.hand.mano_pickle import SHAPES, check_arrays, read_mano_pickle
from fitting.hand.rotation import matrix_from_axis_angle, mirror_axis_angle

OPENPOSE_ORDER = (0, 13, 14, 15, 16, 1, 2, 3, 17, 4, 5, 6, 18, 10, 11, 12, 19, 7, 8, 9, 20)
"""Of each of OpenPose's 21 keypoints, its row among MANO's 16 joints followed by the 5 tips (as in HaMeR, WiLoR and manopth)."""

LEFT, RIGHT = 0, 1


class PosedHand(NamedTuple):
    """Vertices and 21 joints in OpenPose's order, metres."""

    vertices: Float[Tensor, "n 778 3"]
    joints: Float[Tensor, "n 21 3"]


@dataclass(frozen=True, eq=False, slots=True, kw_only=True)
class HandModel:
    """MANO's arrays under smplx's names."""

    v_template: Float[Tensor, "778 3"]
    shapedirs: Float[Tensor, "778 3 10"]
    posedirs: Float[Tensor, "778 3 135"]
    J_regressor: Float[Tensor, "16 778"]
    weights: Float[Tensor, "778 16"]
    hands_components: Float[Tensor, "45 45"]
    hands_mean: Float[Tensor, "45"]
    faces: Int64[Tensor, "1538 3"]
    source: Literal["mano", "standin"]

    def to(self, device: str | torch.device = "cpu", dtype: torch.dtype = torch.float32) -> "HandModel":
        """Copy of the model on another device, in another precision."""
        moved: dict[str, Any] = {}
        for field in fields(self):
            value = getattr(self, field.name)
            if isinstance(value, Tensor):
                moved[field.name] = value.to(device, dtype if value.is_floating_point() else value.dtype)
        return replace(self, **moved)

    def shaped(self, betas: Float[Tensor, "10"]) -> "HandModel":
        """The model whose mean hand is the one of this shape: its betas count from there."""
        return replace(self, v_template=self.v_template + torch.einsum("vcb,b->vc", self.shapedirs, betas.to(self.v_template)))

    def rest_joints(self) -> tuple[Float[Tensor, "16 3"], Float[Tensor, "5 3"]]:
        """Joints in MANO's order and tips (thumb, index, middle, ring, little) of the mean hand at rest."""
        return self.J_regressor @ self.v_template, self.v_template[list(TIP_VERTICES)]

    def for_smplx(self) -> dict[str, np.ndarray]:
        """Arrays for `smplx.MANO(..., data_struct=smplx.utils.Struct(**arrays))`, which takes this hand for MANO's own."""
        arrays = {name: getattr(self, name).detach().cpu().double().numpy() for name in SHAPES if name != "f"}
        tree = np.array([[2**32 - 1, *PARENTS[1:]], list(range(16))], dtype=np.uint32)
        return arrays | {"f": self.faces.cpu().numpy().astype(np.uint32), "kintree_table": tree}


def load_hand_model(path: Path | None = None, *, device: str | torch.device = "cpu", dtype: torch.dtype = torch.float32) -> HandModel:
    """The model of `path` (default: `model_file()`): MANO's pickle or an npz of its arrays.

    FileNotFoundError when there is no file; ValueError that names the file when it is not a right hand's model.
    """
    path = path or model_file()
    arrays = _read_npz(path) if path.suffix == ".npz" else read_mano_pickle(path)
    faces = torch.as_tensor(arrays.pop("f").astype(np.int64))
    tensors = {name: torch.as_tensor(np.asarray(values, dtype=np.float64)) for name, values in arrays.items()}
    model = HandModel(**tensors, faces=faces, source=hand_of(path))
    return model.to(device, dtype)


def _read_npz(path: Path) -> dict[str, np.ndarray]:
    arrays = read_arrays(path, SHAPES)
    try:
        return check_arrays(arrays)
    except ValueError as error:
        raise ValueError(f"{path} holds no hand model: {error}; give MANO_RIGHT.pkl or the stand-in, {STANDIN}") from error


def pose_hand(
    model: HandModel, betas: Float[Tensor, "n 10"], global_orient: Float[Tensor, "n 3"], hand_pose: Float[Tensor, "n 45"]
) -> PosedHand:
    """The right hand in smplx's own placement, its rotations given as axis-angle."""
    return pose_rotations(model, betas, matrix_from_axis_angle(torch.cat([global_orient, hand_pose], 1).reshape(-1, 16, 3)))


def pose_rotations(model: HandModel, betas: Float[Tensor, "n 10"], rotations: Float[Tensor, "n 16 3 3"]) -> PosedHand:
    """Hands posed by rotation matrices: linear blend skinning with shape and pose blend shapes (Romero et al. 2017, eq. 1-3)."""
    shaped = model.v_template + torch.einsum("vcb,nb->nvc", model.shapedirs, betas)
    rest = torch.einsum("jv,nvc->njc", model.J_regressor, shaped)
    feature = (rotations[:, 1:] - torch.eye(3).to(rotations)).flatten(1)
    shaped = shaped + torch.einsum("vcp,np->nvc", model.posedirs, feature)
    bones, joints = [rotations[:, 0]], [rest[:, 0]]
    for j in range(1, 16):
        parent = PARENTS[j]
        bones.append(bones[parent] @ rotations[:, j])
        joints.append(joints[parent] + torch.einsum("nab,nb->na", bones[parent], rest[:, j] - rest[:, parent]))
    turn, place = torch.stack(bones, 1), torch.stack(joints, 1)
    shift = place - torch.einsum("njab,njb->nja", turn, rest)
    blended = torch.einsum("vj,njab->nvab", model.weights, turn)
    vertices = torch.einsum("nvab,nvb->nva", blended, shaped) + torch.einsum("vj,nja->nva", model.weights, shift)
    tips = vertices[:, list(TIP_VERTICES)]
    return PosedHand(vertices, torch.cat([place, tips], 1)[:, list(OPENPOSE_ORDER)])


def pose_either_hand(
    model: HandModel,
    side: Int[Tensor, "n"],  # 0 left, 1 right
    betas: Float[Tensor, "n 10"],
    global_orient: Float[Tensor, "n 3"],
    hand_pose: Float[Tensor, "n 45"],
) -> PosedHand:
    """Hands of their own side, wrist at the origin: what the columns of a fit mean. A left hand is the mirrored right one."""
    left = (side == LEFT)[:, None]
    orient = torch.where(left, mirror_axis_angle(global_orient), global_orient)
    pose = torch.where(left, mirror_axis_angle(hand_pose.reshape(-1, 15, 3)).flatten(1), hand_pose)
    hand = pose_hand(model, betas, orient, pose)
    wrist = hand.joints[:, :1]
    flip = torch.ones(len(side), 1, 3).to(betas)
    flip[side == LEFT, :, 0] = -1
    return PosedHand((hand.vertices - wrist) * flip, (hand.joints - wrist) * flip)


def faces_of_side(model: HandModel, side: int) -> Int64[Tensor, "1538 3"]:
    """Triangles that look outward: a mirrored hand's run the other way round."""
    return model.faces if side == RIGHT else model.faces.flip(1)


def closed_faces(model: HandModel, side: int) -> Int64[Tensor, "1552 3"]:
    """Triangles of a hand with a fan over the ring of the wrist: without a gap, and without a new vertex."""
    ring = torch.tensor(WRIST_RING, device=model.faces.device)
    fan = torch.stack([ring[0].expand(14), ring[1:-1], ring[2:]], 1)
    return torch.cat([faces_of_side(model, side), fan if side == RIGHT else fan.flip(1)])


def project(points: Float[Tensor, "n points 3"], camera: Float[Tensor, "n 3"]) -> Float[Tensor, "n points 2"]:
    """Weak perspective (WiLoR, eq. 2, the map pi): pixels of wrist-centred points; camera = pixels a metre, then the wrist's pixel."""
    return camera[:, None, :1] * points[..., :2] + camera[:, None, 1:]
