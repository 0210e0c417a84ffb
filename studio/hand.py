"""A hand ready to draw: the stand-in's mesh in skin colour, with a forearm and a sleeve that close its open wrist.

Frame of reference: metres in camera axes, x right, y down, z forward. The stand-in rests with its fingers along -x, the back of
the hand towards +y and the thumb towards +z, which makes it a right hand.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float64, Int64

from fitting.files import STANDIN
from fitting.hand.anatomy import FINGERS, TIPS_IN_MANO_ORDER, WRIST_RING, joint_axes
from fitting.hand.mano import RIGHT, HandModel, faces_of_side, load_hand_model
from studio.render import Mesh, join, normals, tube_faces

SKINS: Sequence[tuple[float, float, float]] = (
    (0.87, 0.68, 0.58), (0.78, 0.57, 0.46), (0.66, 0.46, 0.35), (0.50, 0.33, 0.24), (0.37, 0.24, 0.18), (0.92, 0.75, 0.66),
)  # fmt: skip
"""sRGB of skin in even light, from several people's photographs' usual range; ours."""

CLOTHS: Sequence[tuple[float, float, float]] = (
    (0.16, 0.20, 0.33), (0.45, 0.13, 0.15), (0.72, 0.72, 0.70), (0.17, 0.30, 0.22), (0.13, 0.13, 0.14), (0.55, 0.46, 0.30),
)  # fmt: skip

ARM_PART_OFFSET = 100
"""Part number of a hand's forearm and sleeve: the hand's own plus this."""

SECTIONS = 16
RING = len(WRIST_RING)


def studio_model() -> HandModel:
    """The stand-in in float64: always it, whatever other model is installed, so that a seed means one video."""
    return load_hand_model(STANDIN, dtype=torch.float64)


def finger_axes(model: HandModel) -> Float64[np.ndarray, "15 3 3"]:
    """Columns twist, bend and splay of each joint at rest; bend closes the finger towards the palm, the thumb across it."""
    return joint_axes(*model.rest_joints()).numpy()


def surface_detail(model: HandModel) -> Float64[np.ndarray, "778 2"]:
    """Place along the finger (0 in the palm, 1, 2, 3 at its joints, 4 at the tip) and share that faces the hand's back (-1 to 1)."""
    vertices, weights = model.v_template.numpy(), model.weights.numpy()
    joints, tips = (points.numpy() for points in model.rest_joints())
    facing = normals(vertices, model.faces.numpy())
    axes = finger_axes(model)
    detail = np.stack([np.zeros(len(vertices)), facing[:, 1]], axis=1)
    owner = weights[:, 1:].reshape(-1, 5, 3).sum(2)
    for finger in range(len(FINGERS)):
        rows = np.flatnonzero((owner.argmax(1) == finger) & (owner[:, finger] > 0.5))
        chain = np.concatenate([joints[3 * finger + 1 : 3 * finger + 4], tips[None, TIPS_IN_MANO_ORDER[finger]]])
        bones = np.diff(chain, axis=0)
        offset = vertices[rows, None] - chain[None, :3]
        share = np.clip((offset * bones).sum(2) / (bones**2).sum(1), 0, 1)
        away = np.linalg.norm(offset - share[..., None] * bones, axis=2)
        nearest = away.argmin(1)
        detail[rows, 0] = 1 + nearest + share[np.arange(len(rows)), nearest]
        detail[rows, 1] = facing[rows] @ axes[3 * finger + 2, :, 2]
    return detail


def _skin_albedo(detail: Float64[np.ndarray, "n 2"], skin: Sequence[float]) -> Float64[np.ndarray, "n 3"]:
    """Paler palms (more so in dark skin), redder fingertips and knuckles."""
    base = np.array(skin)
    palm = np.clip(-detail[:, 1] * 1.2 + 0.2, 0, 1)[:, None]
    tone = base + palm * 0.45 * (np.array([0.88, 0.66, 0.57]) - base)
    tip = np.clip((detail[:, 0] - 3.2) / 0.6, 0, 1)
    knuckle = np.exp(-(((detail[:, 0] - np.round(detail[:, 0])) / 0.12) ** 2)) * (detail[:, 0] > 0.9) * (detail[:, 1] > 0.3)
    red = np.clip(0.6 * tip + 0.5 * knuckle, 0, 1)[:, None]
    return np.clip(tone * (1 + red * np.array([0.02, -0.08, -0.07])), 0, 1)


@dataclass(frozen=True, eq=False, slots=True, kw_only=True)
class Dress:
    """How a hand is clothed and coloured."""

    skin: tuple[float, float, float]
    cloth: tuple[float, float, float]
    sleeve_m: float
    """Bare forearm between the wrist's ring and the sleeve's hem."""


class DressedHand:
    """One person's one hand: everything that does not move is worked out once."""

    def __init__(self, model: HandModel, side: int, dress: Dress, part: int) -> None:
        self.dress, self.part, self.side = dress, part, side
        detail = surface_detail(model)
        self.faces: Int64[np.ndarray, "f 3"] = faces_of_side(model, side).numpy()
        self._rest = model.v_template.numpy()
        self._ring = np.array(WRIST_RING if side == RIGHT else WRIST_RING[::-1])
        self._detail = detail
        self._albedo = _skin_albedo(detail, dress.skin)

    def mesh(self, vertices: Float64[np.ndarray, "778 3"], elbow: Float64[np.ndarray, "3"]) -> Mesh:
        """The posed hand with an arm that leaves the wrist's ring smoothly and runs towards the elbow."""
        ring = vertices[self._ring]
        centre = ring.mean(0)
        out = np.linalg.svd(ring - centre)[2][2]
        out *= np.sign((centre - vertices.mean(0)) @ out)
        arm_length = max(float(np.linalg.norm(elbow - centre)), 0.06)
        distances = arm_length * np.linspace(0, 1, SECTIONS + 1)[1:] ** 1.5
        bare = self._tube(ring, centre, out, elbow, distances, self._bare_scale(distances))
        first = np.concatenate([ring[None], bare]).reshape(-1, 3)
        index = np.concatenate([self._ring, len(vertices) + np.arange(SECTIONS * RING)])
        faces = np.concatenate([self.faces, index[tube_faces(SECTIONS + 1, RING)]])
        arm_detail = np.tile(self._detail[self._ring] * [0, 1], (SECTIONS, 1))
        along = np.repeat(distances, RING)
        arm_texture = np.tile(self._rest[self._ring], (SECTIONS, 1)) + along[:, None] * [1.0, 0, 0]
        count = len(vertices) + SECTIONS * RING
        part = np.full(len(faces), self.part + ARM_PART_OFFSET, np.int32)
        part[: len(self.faces)] = self.part
        skin = Mesh(
            vertices=np.concatenate([vertices, first[RING:]]),
            faces=faces,
            albedo=np.concatenate([self._albedo, _skin_albedo(arm_detail, self.dress.skin)]),
            texture=np.concatenate([self._rest, arm_texture]),
            detail=np.concatenate([self._detail, arm_detail]),
            material=np.tile([0.55, 0.6, 1.0], (count, 1)),
            part=part,
        )
        sleeve = self._sleeve(ring, centre, out, elbow, arm_length)
        return skin if sleeve is None else join([skin, sleeve])

    @staticmethod
    def _bare_scale(distances: Float64[np.ndarray, "k"]) -> Float64[np.ndarray, "k"]:
        return 1.0 + 0.55 * np.clip(distances / 0.20, 0, 1) ** 1.2

    def _sleeve(
        self,
        ring: Float64[np.ndarray, "16 3"],
        centre: Float64[np.ndarray, "3"],
        out: Float64[np.ndarray, "3"],
        elbow: Float64[np.ndarray, "3"],
        arm_length: float,
    ) -> Mesh | None:
        """A tube wider than the arm, with a hem thick enough to be seen, and folds."""
        start = self.dress.sleeve_m
        if start > arm_length - 0.03:
            return None
        lengths = np.concatenate([[start + 0.004, start, start + 0.001], np.linspace(start + 0.012, arm_length + 0.03, 24)])
        width = self._bare_scale(lengths) + np.concatenate([[0.04, 0.12, 0.26], 0.30 + np.linspace(0, 0.15, 24)])
        angle = 2 * np.pi * np.arange(RING) / RING
        folds = 0.045 * np.sin(90 * lengths[:, None] + 2.0 * np.sin(angle + 7 * lengths[:, None]))
        folds[:3] = 0
        vertices = self._tube(ring, centre, out, elbow, lengths, width[:, None] + folds).reshape(-1, 3)
        count = len(vertices)
        around = np.tile(np.stack([np.zeros(RING), np.cos(angle), np.sin(angle)], 1) * 0.04, (len(lengths), 1))
        faces = tube_faces(len(lengths), RING)
        return Mesh(
            vertices=vertices,
            faces=faces,
            albedo=np.tile(np.array(self.dress.cloth), (count, 1)),
            texture=around + np.repeat(lengths, RING)[:, None] * [1.0, 0, 0],
            detail=np.zeros((count, 2)),
            material=np.tile([0.9, 0.0, 0.3], (count, 1)),
            part=np.full(len(faces), self.part + ARM_PART_OFFSET, np.int32),
        )

    @staticmethod
    def _tube(
        ring: Float64[np.ndarray, "16 3"],
        centre: Float64[np.ndarray, "3"],
        out: Float64[np.ndarray, "3"],
        elbow: Float64[np.ndarray, "3"],
        distances: Float64[np.ndarray, "k"],
        scale: Float64[np.ndarray, "k *around"],
    ) -> Float64[np.ndarray, "k 16 3"]:
        """Copies of the wrist's ring along a curve that leaves it straight and bends towards the elbow."""
        to_elbow = (elbow - centre) / np.linalg.norm(elbow - centre)
        bend = np.clip(distances / 0.07, 0, 1)[:, None]
        bend = bend * bend * (3 - 2 * bend)
        heading = out * (1 - bend) + to_elbow * bend
        heading /= np.linalg.norm(heading, axis=1, keepdims=True)
        lean = np.clip(distances / 0.07, 0, 1) ** 2
        swing = np.minimum(distances, 0.07)[:, None] * (out * (1 - 0.5 * lean[:, None]) + to_elbow * 0.5 * lean[:, None])
        middle = centre + swing + np.maximum(distances - 0.07, 0)[:, None] * to_elbow
        offsets = _shortest_turn(out, heading, ring - centre)
        return middle[:, None] + offsets * (scale[..., None] if scale.ndim == 2 else scale[:, None, None])


def _shortest_turn(
    start: Float64[np.ndarray, "3"], ends: Float64[np.ndarray, "k 3"], points: Float64[np.ndarray, "m 3"]
) -> Float64[np.ndarray, "k m 3"]:
    """Points turned by the smallest rotation that takes one unit vector to each of others (not to its opposite)."""
    axis = np.cross(start, ends)[:, None]
    once = np.cross(axis, points)
    return points + once + np.cross(axis, once) / (1 + np.maximum(ends @ start, -0.99))[:, None, None]
