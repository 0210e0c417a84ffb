"""Meshes as files: what another reader of OBJ and GLB finds in them is what was written, upright and looking outward."""

import json
import struct
from pathlib import Path

import numpy as np
import pytest

from fitting.hand.mano import load_hand_model
from hands.drawing.hands import mesh_faces
from hands.drawing.mesh_files import NamedMesh, write_meshes


def hand(side: int, shift: float = 0.0) -> NamedMesh:
    vertices = load_hand_model().v_template.numpy().astype(float) * ([-1, 1, 1] if side == 0 else 1) + [0, 0, 0.5 + shift]
    return NamedMesh(name=f"{('left', 'right')[side]}-{side}", vertices=vertices, faces=mesh_faces(side), colour=(255, 128, 0))


def volume(vertices: np.ndarray, faces: np.ndarray) -> float:
    """Volume of a closed mesh, positive where it looks outward (the divergence theorem)."""
    a, b, c = (vertices[faces[:, k]] for k in range(3))
    return float((a * np.cross(b, c)).sum() / 6)


def test_obj_holds_the_hands_as_objects(tmp_path: Path) -> None:
    meshes = [hand(0), hand(1, 0.2)]
    write_meshes(tmp_path / "a" / "hands.obj", meshes)
    lines = [line.split() for line in (tmp_path / "a" / "hands.obj").read_text().splitlines()]
    assert [line[1] for line in lines if line[0] == "o"] == ["left-0", "right-1"]
    points = np.array([line[1:4] for line in lines if line[0] == "v"], float)
    faces = np.array([line[1:] for line in lines if line[0] == "f"], int) - 1
    assert points.shape == (2 * 778, 3)
    np.testing.assert_allclose(points[778:], meshes[1].vertices * [1, -1, -1], atol=1e-6)
    assert volume(points, faces) == pytest.approx(2 * volume(meshes[1].vertices, meshes[1].faces), rel=1e-3)
    assert volume(points, faces) > 0


def read_glb(data: bytes) -> tuple[dict, bytes]:
    magic, version, length = struct.unpack_from("<III", data)
    assert (magic, version, length) == (0x46546C67, 2, len(data))
    size, kind = struct.unpack_from("<II", data, 12)
    assert kind == 0x4E4F534A
    told, rest = json.loads(data[20 : 20 + size]), data[20 + size :]
    return told, rest[8 : 8 + struct.unpack_from("<I", rest)[0]] if rest else b""


def test_glb_holds_the_hands_as_nodes(tmp_path: Path) -> None:
    meshes = [hand(0), hand(1, 0.2)]
    write_meshes(tmp_path / "hands.glb", meshes)
    told, buffer = read_glb((tmp_path / "hands.glb").read_bytes())
    assert [node["name"] for node in told["nodes"]] == ["left-0", "right-1"]
    assert told["buffers"][0]["byteLength"] == len(buffer)
    for mesh, node in zip(meshes, told["nodes"], strict=True):
        part = told["meshes"][node["mesh"]]["primitives"][0]
        found = []
        for accessor, kind, width in ((part["attributes"]["POSITION"], np.float32, 3), (part["indices"], np.uint16, 3)):
            spec = told["accessors"][accessor]
            view = told["bufferViews"][spec["bufferView"]]
            assert view["byteOffset"] % 4 == 0
            found.append(np.frombuffer(buffer[view["byteOffset"] : view["byteOffset"] + view["byteLength"]], kind).reshape(-1, width))
        np.testing.assert_allclose(found[0], mesh.vertices * [1, -1, -1], atol=1e-6)  # type: ignore[arg-type]
        assert np.array_equal(found[1], mesh.faces)
        assert volume(found[0].astype(float), found[1]) > 0


def test_no_hand_is_an_empty_scene_and_another_ending_is_refused(tmp_path: Path) -> None:
    write_meshes(tmp_path / "none.glb", [])
    told, buffer = read_glb((tmp_path / "none.glb").read_bytes())
    assert told["scenes"] == [{}]
    assert buffer == b""
    with pytest.raises(ValueError, match=r"\.obj or \.glb"):
        write_meshes(tmp_path / "hands.stl", [hand(1)])
