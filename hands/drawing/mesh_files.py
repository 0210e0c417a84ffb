"""Meshes of hands as files that other programs open: Wavefront OBJ, and binary glTF 2.0 (GLB), one object a hand.

Given in camera axes (x right, y down, z forward), written in the files' own: y up, z towards the viewer. Metres.
"""

import json
import struct
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float, Int

FLOAT, UNSIGNED_SHORT, UNSIGNED_INT = 5126, 5123, 5125
VERTICES, INDICES = 34962, 34963
"""glTF 2.0's component types and buffer targets (Khronos, sections 3.6.2 and 3.6.1)."""


@dataclass(frozen=True, eq=False, slots=True, kw_only=True)
class NamedMesh:
    """One object of a file."""

    name: str
    vertices: Float[np.ndarray, "n 3"]
    faces: Int[np.ndarray, "f 3"]
    colour: tuple[int, int, int]


def write_meshes(path: Path, meshes: Sequence[NamedMesh]) -> None:
    """An `.obj` or `.glb`, by the ending; written aside and renamed. Raises ValueError for another ending."""
    if path.suffix not in (".obj", ".glb"):
        raise ValueError(f"meshes are written as .obj or .glb, got {path}")
    path.parent.mkdir(parents=True, exist_ok=True)
    aside = path.with_name(f"partial-{path.name}")
    aside.write_bytes(_obj(meshes).encode() if path.suffix == ".obj" else _glb(meshes))
    aside.rename(path)


def _upright(mesh: NamedMesh) -> Float[np.ndarray, "n 3"]:
    """A half turn about x: no reflection, so faces look outward still."""
    return np.ascontiguousarray(mesh.vertices * [1.0, -1.0, -1.0], np.float32)


def _obj(meshes: Sequence[NamedMesh]) -> str:
    lines, start = [], 1
    for mesh in meshes:
        share = " ".join(f"{channel / 255:.3f}" for channel in mesh.colour)
        lines.append(f"o {mesh.name}")
        lines += [f"v {x:.6f} {y:.6f} {z:.6f} {share}" for x, y, z in _upright(mesh).tolist()]
        lines += [f"f {a} {b} {c}" for a, b, c in (mesh.faces + start).tolist()]
        start += len(mesh.vertices)
    return "\n".join([*lines, ""])


def _glb(meshes: Sequence[NamedMesh]) -> bytes:
    """One buffer: positions and indices of each mesh in turn."""
    views: list[dict[str, Any]] = []
    accessors: list[dict[str, Any]] = []
    data = bytearray()
    for mesh in meshes:
        points = _upright(mesh)
        wide = len(points) > 0xFFFF
        indices = np.ascontiguousarray(mesh.faces.reshape(-1), np.uint32 if wide else np.uint16)
        bounds = {"min": points.min(0).tolist(), "max": points.max(0).tolist()}
        for values, target, told in (
            (points, VERTICES, {"componentType": FLOAT, "count": len(points), "type": "VEC3", **bounds}),
            (indices, INDICES, {"componentType": UNSIGNED_INT if wide else UNSIGNED_SHORT, "count": len(indices), "type": "SCALAR"}),
        ):
            accessors.append({"bufferView": len(views), **told})
            views.append({"buffer": 0, "byteOffset": len(data), "byteLength": values.nbytes, "target": target})
            data += values.tobytes() + bytes(-values.nbytes % 4)
    scene: dict[str, Any] = {"asset": {"version": "2.0", "generator": "whim"}, "scene": 0, "scenes": [{"nodes": list(range(len(meshes)))}]}
    if meshes:
        colours = [[*((np.array(mesh.colour) / 255) ** 2.2).tolist(), 1.0] for mesh in meshes]
        looks = [{"pbrMetallicRoughness": {"baseColorFactor": c, "metallicFactor": 0.0, "roughnessFactor": 0.7}} for c in colours]
        parts = [[{"attributes": {"POSITION": 2 * k}, "indices": 2 * k + 1, "material": k}] for k in range(len(meshes))]
        scene |= {
            "nodes": [{"name": mesh.name, "mesh": k} for k, mesh in enumerate(meshes)],
            "meshes": [{"name": mesh.name, "primitives": part} for mesh, part in zip(meshes, parts, strict=True)],
            "materials": looks,
            "accessors": accessors,
            "bufferViews": views,
            "buffers": [{"byteLength": len(data)}],
        }
    else:
        scene["scenes"] = [{}]
    header = json.dumps(scene, separators=(",", ":")).encode()
    header += b" " * (-len(header) % 4)
    chunks = struct.pack("<II", len(header), 0x4E4F534A) + header
    chunks += struct.pack("<II", len(data), 0x004E4942) + bytes(data) if meshes else b""
    return struct.pack("<III", 0x46546C67, 2, 12 + len(chunks)) + chunks
