"""The stand-in hand as an implicit surface: round cones and ellipsoids about a skeleton, blended. Own design, no third-party data.

Frame: MANO's rest pose of a right hand, metres: fingers along -x, back of the hand +y, thumb +z.
"""

from collections.abc import Sequence

import numpy as np
from jaxtyping import Float64, Int64

Points = Float64[np.ndarray, "n 3"]
Distances = Float64[np.ndarray, "n"]
Vector = Float64[np.ndarray, "3"]

CHAINS: dict[str, tuple[int, int, int]] = {
    "thumb": (13, 14, 15),
    "index": (1, 2, 3),
    "middle": (4, 5, 6),
    "ring": (10, 11, 12),
    "little": (7, 8, 9),
}
"""MANO's three joints of each finger, from palm to tip."""

WRIST = np.array([0.090, 0.0, 0.004])
WRIST_CUT_X = 0.118
"""The forearm is cut here, which leaves the open ring of MANO's wrist."""

_FIRST_JOINTS = {
    "thumb": (-0.020, -0.010, 0.021),
    "index": (-0.093, 0.004, 0.027),
    "middle": (-0.093, 0.006, 0.0045),
    "ring": (-0.086, 0.004, -0.0165),
    "little": (-0.077, -0.001, -0.0345),
}
"""Relative to the wrist."""

_DIRECTIONS = {
    "thumb": ((-0.70, -0.28, 0.66), (-0.84, -0.12, 0.50), (-0.88, -0.08, 0.44)),
    "index": ((-1, -0.06, 0.10),) * 3,
    "middle": ((-1, -0.08, 0.0),) * 3,
    "ring": ((-1, -0.09, -0.10),) * 3,
    "little": ((-1, -0.09, -0.24),) * 3,
}

_LENGTHS = {
    "thumb": (0.044, 0.033, 0.027),
    "index": (0.041, 0.025, 0.023),
    "middle": (0.045, 0.029, 0.024),
    "ring": (0.041, 0.027, 0.024),
    "little": (0.033, 0.020, 0.021),
}

_RADII = {
    "thumb": (0.0135, 0.0108, 0.0096, 0.0082),
    "index": (0.0098, 0.0086, 0.0078, 0.0066),
    "middle": (0.0100, 0.0088, 0.0079, 0.0067),
    "ring": (0.0096, 0.0083, 0.0075, 0.0064),
    "little": (0.0086, 0.0074, 0.0068, 0.0058),
}
"""At the three joints and at the tip."""

_METACARPAL_RADII = {"index": (0.0150, 0.0118), "middle": (0.0155, 0.0122), "ring": (0.0150, 0.0116), "little": (0.0142, 0.0104)}


def skeleton() -> tuple[Float64[np.ndarray, "16 3"], Float64[np.ndarray, "5 3"]]:
    """Joints in MANO's order and fingertips (thumb, index, middle, ring, little), in metres."""
    joints, tips = np.zeros((16, 3)), np.zeros((5, 3))
    joints[0] = WRIST
    for finger, (name, chain) in enumerate(CHAINS.items()):
        point = WRIST + _FIRST_JOINTS[name]
        for joint, direction, length in zip(chain, _DIRECTIONS[name], _LENGTHS[name], strict=True):
            joints[joint] = point
            point = point + length * _unit(np.asarray(direction, float))
        tips[finger] = point
    return joints, tips


def _unit(vector: Vector) -> Vector:
    unit: Vector = vector / np.linalg.norm(vector)
    return unit


def _from_wrist(x: float, y: float, z: float) -> Vector:
    point: Vector = WRIST + np.array([x, y, z])
    return point


def _round_cone(points: Points, start: Vector, end: Vector, start_radius: float, end_radius: float) -> Distances:
    axis = end - start
    along = np.clip(((points - start) @ axis) / (axis @ axis), 0, 1)
    radius = start_radius + (end_radius - start_radius) * along
    distance: Distances = np.linalg.norm(points - start - along[:, None] * axis, axis=1) - radius
    return distance


def _ellipsoid(points: Points, centre: Vector, radii: Sequence[float], axes: Float64[np.ndarray, "3 3"] | None = None) -> Distances:
    """First-order distance to an ellipsoid whose axes are the columns of `axes`."""
    local = points - centre if axes is None else (points - centre) @ axes
    level = np.linalg.norm(local / np.asarray(radii), axis=1)
    slope = np.linalg.norm(local / np.asarray(radii) ** 2, axis=1)
    distance: Distances = level * (level - 1) / np.maximum(slope, 1e-9)
    return distance


def _blend(first: Distances, second: Distances, width: float) -> Distances:
    """Smooth minimum: a fillet of about `width` metres where two surfaces meet."""
    share = np.clip(0.5 + 0.5 * (second - first) / width, 0, 1)
    blended: Distances = second * (1 - share) + first * share - width * share * (1 - share)
    return blended


def _palm(points: Points) -> Distances:
    joints, _ = skeleton()
    palm = _ellipsoid(points, _from_wrist(-0.052, -0.004, 0.000), (0.045, 0.0145, 0.036))
    for name, (start_radius, end_radius) in _METACARPAL_RADII.items():
        knuckle = joints[CHAINS[name][0]]
        start = _from_wrist(-0.008, 0.0, (knuckle - WRIST)[2] * 0.42)
        palm = _blend(palm, _round_cone(points, start, knuckle + np.array([0.004, -0.002, 0.0]), start_radius, end_radius), 0.010)
    little_side = _ellipsoid(points, _from_wrist(-0.042, -0.010, -0.027), (0.033, 0.0125, 0.0125))
    palm = _blend(palm, little_side, 0.010)
    flattened = points * [1.0, 1.30, 1.0]
    forearm = _round_cone(flattened, _from_wrist(0.060, 0.0, 0.0), _from_wrist(0.002, 0.0, 0.0), 0.0285, 0.0255) * 0.85
    return _blend(palm, forearm, 0.018)


def _thumb_base(points: Points, joint: Vector, following: Vector) -> Distances:
    axis = _unit(following - joint)
    side = _unit(np.cross(axis, [0.0, 1.0, 0.0]))
    axes = np.stack([axis, np.cross(side, axis), side], 1)
    return _ellipsoid(points, joint + 0.020 * axis + [-0.006, -0.003, -0.004], (0.028, 0.0155, 0.0165), axes)


def distance_to_bones(points: Points) -> Float64[np.ndarray, "n 16"]:
    """Signed distance to the flesh of every MANO joint: column 0 is palm and forearm."""
    joints, tips = skeleton()
    columns = np.empty((len(points), 16))
    columns[:, 0] = _palm(points)
    for finger, (name, chain) in enumerate(CHAINS.items()):
        radii = _RADII[name]
        last = tips[finger] - radii[3] * _unit(tips[finger] - joints[chain[2]])
        ends = (joints[chain[1]], joints[chain[2]], last)
        for k, joint in enumerate(chain):
            columns[:, joint] = _round_cone(points, joints[joint], ends[k], radii[k], radii[k + 1])
    columns[:, 13] = _blend(columns[:, 13], _thumb_base(points, joints[13], joints[14]), 0.010)
    return columns


def signed_distance(points: Points) -> Distances:
    """Signed distance to the whole hand, negative inside: fingers hardly blend with each other, widely with the palm."""
    bones = distance_to_bones(points)
    fingers: Distances | None = None
    for chain in CHAINS.values():
        finger = _blend(_blend(bones[:, chain[0]], bones[:, chain[1]], 0.003), bones[:, chain[2]], 0.003)
        fingers = finger if fingers is None else _blend(fingers, finger, 0.0012)
    assert fingers is not None
    return _blend(fingers, bones[:, 0], 0.009)


def _project(points: Points, steps: int = 3, epsilon: float = 1e-4) -> Points:
    """Newton steps along the gradient onto the surface."""
    for _ in range(steps):
        offsets = epsilon * np.eye(3)
        slope = np.stack([(signed_distance(points + o) - signed_distance(points - o)) / (2 * epsilon) for o in offsets], 1)
        points = points - (signed_distance(points) / np.maximum((slope**2).sum(1), 0.2))[:, None] * slope
    return points


def dense_mesh(spacing: float) -> tuple[Points, Int64[np.ndarray, "m 3"]]:
    """The surface as triangles (outward), cut open at the wrist: surface nets on a grid of `spacing` metres, then projected.

    One vertex in every grid cell that the surface crosses, one quad about every grid edge that it crosses (Gibson, 1998).
    """
    low, high = np.array([-0.125, -0.050, -0.062]), np.array([WRIST_CUT_X + 0.004, 0.035, 0.100])
    size = np.ceil((high - low) / spacing).astype(int)
    grid = low + spacing * np.stack(np.meshgrid(*(np.arange(n) for n in size), indexing="ij"), -1)
    values = signed_distance(grid.reshape(-1, 3)).reshape(tuple(size))
    inside = values < 0

    corners = np.stack([inside[i : i + size[0] - 1, j : j + size[1] - 1, k : k + size[2] - 1] for i, j, k in np.ndindex(2, 2, 2)])
    mixed = corners.any(0) & ~corners.all(0)
    index = np.full(mixed.shape, -1)
    index[mixed] = np.arange(mixed.sum())
    vertices = _project(low + spacing * (np.argwhere(mixed) + 0.5), steps=4)

    faces = np.concatenate([_quads_along(axis, inside, index) for axis in range(3)])
    kept = vertices[:, 0] < WRIST_CUT_X
    used, renumbered = np.unique(faces[kept[faces].all(1)], return_inverse=True)
    return vertices[used], renumbered.reshape(-1, 3).astype(np.int64)


def _quads_along(axis: int, inside: np.ndarray, index: np.ndarray) -> Int64[np.ndarray, "m 3"]:
    """Two triangles about every grid edge parallel to `axis` whose ends lie on different sides."""
    first, second = (axis + 1) % 3, (axis + 2) % 3
    ends = np.moveaxis(inside, (axis, first, second), (0, 1, 2))
    cells = np.moveaxis(index, (axis, first, second), (0, 1, 2))
    enters = ends[:-1, 1:-1, 1:-1] != ends[1:, 1:-1, 1:-1]
    a, b, c = np.nonzero(enters)
    ring = np.stack([cells[a, b, c], cells[a, b + 1, c], cells[a, b + 1, c + 1], cells[a, b, c + 1]], 1)
    leaves = ends[a, b + 1, c + 1]
    ring[~leaves] = ring[~leaves, ::-1]
    return np.concatenate([ring[:, [0, 1, 2]], ring[:, [0, 2, 3]]])
