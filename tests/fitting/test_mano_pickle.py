"""MANO's own file is read without chumpy, and no pickle runs code."""

import io
import os
import pickle
import struct
import sys
import types
from typing import ClassVar

import numpy as np
import pytest

from fitting.files import STANDIN
from fitting.mano import load_hand_model, pose_hand
from fitting.mano_pickle import SHAPES, read_mano_pickle

FOREIGN = {"chumpy.ch": "Ch", "chumpy.reordering": "Select", "scipy.sparse.csc": "csc_matrix"}


class Python2Pickler(pickle._Pickler):
    """Writes text and bytes as Python 2 did."""

    dispatch: ClassVar = dict(pickle._Pickler.dispatch)

    def save_raw(self, value) -> None:
        data = value.encode("latin1") if isinstance(value, str) else value
        short = len(data) < 256
        self.write((b"U" + bytes([len(data)]) if short else b"T" + struct.pack("<i", len(data))) + data)
        self.memoize(value)

    dispatch[bytes] = dispatch[str] = save_raw


@pytest.fixture
def foreign(monkeypatch) -> dict[str, type]:
    """Classes that pickle under the names in MANO's file; neither package is imported."""
    classes = {}
    for module, name in FOREIGN.items():
        if module.startswith("chumpy"):
            monkeypatch.setitem(sys.modules, "chumpy", types.ModuleType("chumpy"))
        monkeypatch.setitem(sys.modules, module, types.ModuleType(module))
        classes[name] = type(name, (), {"__module__": module, "__qualname__": name})
        setattr(sys.modules[module], name, classes[name])
    return classes


@pytest.fixture
def arrays() -> dict[str, np.ndarray]:
    """The stand-in's arrays, as if they were MANO's, in float64."""
    with np.load(STANDIN) as archive:
        return {name: archive[name].astype("u4" if name == "f" else "f8") for name in archive.files}


@pytest.fixture
def mano_like(foreign, arrays) -> bytes:
    """A protocol 2 pickle with chumpy's Select over Ch and scipy's csc_matrix, as in MANO_RIGHT.pkl."""

    def instance(name: str, **state):
        made = foreign[name]()
        made.__dict__.update(state)
        return made

    from scipy.sparse import csc_matrix

    regressor = csc_matrix(arrays["J_regressor"])
    wide = np.concatenate([arrays["shapedirs"], np.ones((778, 3, 35))], 2)
    chosen = np.arange(wide.size).reshape(wide.shape)[:, :, :10].ravel()
    content = dict(arrays)
    content["shapedirs"] = instance("Select", a=instance("Ch", x=wide, _itr=None), idxs=chosen, preferred_shape=(778, 3, 10))
    parts = {"_shape": (16, 778), "data": regressor.data, "indices": regressor.indices, "indptr": regressor.indptr, "format": "csc"}
    content["J_regressor"] = instance("csc_matrix", **parts)
    tree = np.array([[2**32 - 1, 0, 1, 2, 0, 4, 5, 0, 7, 8, 0, 10, 11, 0, 13, 14], list(range(16))], np.uint32)
    content |= {"kintree_table": tree, "bs_style": "lbs", "bs_type": "lrotmin"}
    out = io.BytesIO()
    Python2Pickler(out, 2).dump(content)
    return out.getvalue().replace(b"numpy._core.multiarray", b"numpy.core.multiarray")


def test_file_like_manos_is_read_exactly(mano_like, arrays):
    got = read_mano_pickle(mano_like)
    for name in SHAPES:
        np.testing.assert_array_equal(got[name], arrays[name], err_msg=name)


def test_licensed_file_takes_the_place_of_the_standin(mano_like, tmp_path, monkeypatch):
    path = tmp_path / "MANO_RIGHT.pkl"
    path.write_bytes(mano_like)
    monkeypatch.setenv("WHIM_MANO", str(path))
    model = load_hand_model()
    assert model.source == "mano"
    zero = model.v_template.new_zeros(1, 58)
    assert pose_hand(model, zero[:, :10], zero[:, 10:13], zero[:, 13:]).joints.isfinite().all()


class Command:
    def __reduce__(self):
        return os.system, ("touch pwned",)


HOSTILE = {
    "os.system": pickle.dumps({"v_template": Command()}, 2),
    "eval": b"c__builtin__\neval\n(S'1+1'\ntR.",
    "getattr": b"cbuiltins\ngetattr\n.",
    "numpy.load": b"cnumpy\nload\n(S'/etc/passwd'\ntR.",
    "module in numpy": b"cnumpy.f2py\nos\n.",
    "no ndarray": b"cnumpy.core.multiarray\n_reconstruct\n(c__builtin__\nset\n(I0\ntS'b'\ntR.",
    "module in scipy": b"cscipy.sparse.csc\nnp\n.",
    "rest of chumpy": b"cchumpy.ch_ops\nadd\n.",
    "persistent id": b"P1\n.",
    "extension registry": b"\x80\x02\x82\x01.",
    "dotted name": b"\x80\x04\x8c\x05numpy\x8c\x0cndarray.load\x93.",
    "codec": b"c_codecs\nencode\n(V1\nVrot13\ntR.",
    "empty": b"",
    "no dictionary": pickle.dumps([1, 2], 2),
    "truncated": pickle.dumps({"v_template": np.zeros((778, 3))}, 2)[:-20],
}


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_pickle_is_refused(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ValueError, match=r"not a MANO_RIGHT\.pkl"):
        read_mano_pickle(HOSTILE[name])
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("v_template", np.zeros((777, 3))),
        ("weights", np.full((778, 16), np.nan)),
        ("f", np.full((1538, 3), 778)),
        ("hands_mean", np.array(["x"] * 45)),
        ("kintree_table", np.zeros((2, 16))),
    ],
)
def test_wrong_array_is_named(name, value, arrays):
    tree = np.array([[-1, 0, 1, 2, 0, 4, 5, 0, 7, 8, 0, 10, 11, 0, 13, 14], list(range(16))])
    with pytest.raises(ValueError, match=name):
        read_mano_pickle(pickle.dumps({**arrays, "kintree_table": tree, name: value}, 2))
