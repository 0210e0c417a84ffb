"""MANO's own file is read without chumpy, and no pickle runs code."""

import contextlib
import io
import os
import pickle
import struct
import sys
import types
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
import scipy.sparse

from fitting.files import STANDIN, hand_of, model_file
from fitting.hand.mano import load_hand_model, pose_hand
from fitting.hand.mano_pickle import SHAPES, read_mano_pickle

FOREIGN = {"chumpy.ch": "Ch", "chumpy.reordering": "Select", "scipy.sparse.csc": "csc_matrix"}


class Python2Pickler(pickle._Pickler):
    """Writes text and bytes as Python 2 did."""

    dispatch: ClassVar[dict[type, Any]] = dict(pickle._Pickler.dispatch)

    def save_raw(self, value: Any) -> None:
        data = value.encode("latin1") if isinstance(value, str) else value
        short = len(data) < 256
        self.write((b"U" + bytes([len(data)]) if short else b"T" + struct.pack("<i", len(data))) + data)  # type: ignore[attr-defined]
        self.memoize(value)  # type: ignore[attr-defined]

    dispatch[bytes] = dispatch[str] = save_raw


@pytest.fixture
def foreign(monkeypatch: pytest.MonkeyPatch) -> dict[str, type]:
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
def mano_like(foreign: Any, arrays: Any) -> bytes:
    """A protocol 2 pickle with chumpy's Select over Ch and scipy's csc_matrix, as in MANO_RIGHT.pkl."""

    def instance(name: str, **state: Any) -> Any:
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


def test_file_like_manos_is_read_exactly(mano_like: Any, arrays: Any) -> None:
    got = read_mano_pickle(mano_like)
    for name in SHAPES:
        np.testing.assert_array_equal(got[name], arrays[name], err_msg=name)


def test_licensed_file_takes_the_place_of_the_standin(mano_like: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "MANO_RIGHT.pkl"
    path.write_bytes(mano_like)
    monkeypatch.setenv("WHIM_MANO", str(path))
    model = load_hand_model()
    assert model.source == "mano"
    zero = model.v_template.new_zeros(1, 58)
    assert pose_hand(model, zero[:, :10], zero[:, 10:13], zero[:, 13:]).joints.isfinite().all()


def test_manos_arrays_in_an_npz_are_mano_and_a_copy_of_the_standin_is_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with np.load(STANDIN) as archive:
        np.savez(tmp_path / "MANO_RIGHT.npz", **dict(archive))
    (tmp_path / "copy.npz").write_bytes(STANDIN.read_bytes())
    for path, source in ((tmp_path / "MANO_RIGHT.npz", "mano"), (tmp_path / "copy.npz", "standin"), (STANDIN, "standin")):
        monkeypatch.setenv("WHIM_MANO", str(path))
        assert load_hand_model().source == source
        assert hand_of(model_file()) == source


REWRITTEN: dict[str, Callable[[dict[str, Any]], Any]] = {
    "plain": dict,
    "csc": lambda content: content | {"J_regressor": scipy.sparse.csc_matrix(content["J_regressor"])},
    "csr": lambda content: content | {"J_regressor": scipy.sparse.csr_matrix(content["J_regressor"])},
    "coo": lambda content: content | {"J_regressor": scipy.sparse.coo_matrix(content["J_regressor"])},
    "coo array": lambda content: content | {"J_regressor": scipy.sparse.coo_array(content["J_regressor"])},
    "OrderedDict": OrderedDict,
    "Fortran order": lambda content: content | {"posedirs": np.asfortranarray(content["posedirs"])},
    "transposed": lambda content: content | {"posedirs": np.ascontiguousarray(content["posedirs"].transpose(1, 0, 2)).transpose(1, 0, 2)},
}
"""How others write MANO's parameters once they have read them."""


@pytest.mark.parametrize("protocol", range(6))
@pytest.mark.parametrize("name", REWRITTEN)
def test_a_file_written_anew_is_read_exactly(name: str, protocol: int, arrays: Any) -> None:
    got = read_mano_pickle(pickle.dumps(REWRITTEN[name](arrays | {"kintree_table": TREE}), protocol))
    for part in SHAPES:
        np.testing.assert_array_equal(got[part], arrays[part], err_msg=part)


@pytest.mark.parametrize(
    ("kind", "harm"),
    [
        ("csr", {"indices": np.full(1, 778)}), ("csr", {"indptr": np.arange(779)}), ("coo", {"coords": (np.array([16]), np.array([0]))}),
        ("coo", {"coords": (np.array([0]), np.array([-1]))}), ("coo", {"coords": 5}), ("coo", {"data": np.zeros((1, 1))}),
    ],
)  # fmt: skip
def test_a_malformed_sparse_matrix_is_refused(kind: str, harm: dict[str, Any], arrays: Any) -> None:
    matrix = getattr(scipy.sparse, f"{kind}_matrix")(([1.0], ([0], [5])), (16, 778))
    matrix.__dict__ |= harm
    with pytest.raises(ValueError, match="J_regressor: "):
        read_mano_pickle(pickle.dumps(arrays | {"kintree_table": TREE, "J_regressor": matrix}, 5))


class Command:
    def __reduce__(self) -> Any:
        return os.system, ("touch pwned",)


TREE = np.array([[-1, 0, 1, 2, 0, 4, 5, 0, 7, 8, 0, 10, 11, 0, 13, 14], list(range(16))])

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
    "default of our function": b"c_codecs\nencode\n(N}V__defaults__\n(Vrot13\ntstb.",
    "array of records": pickle.dumps(np.zeros(2, "f8,O"), 2),
    "array longer than its bytes": pickle.dumps(np.zeros(3), 2).replace(b"K\x03\x85", b"K\x09\x85"),
    "buffer of another length": pickle.dumps(np.zeros(3), 5).replace(b"K\x03\x85", b"K\x09\x85"),
    "buffer of objects": pickle.dumps(np.zeros(3), 5).replace(b"\x8c\x02f8", b"\x8c\x02O8"),
    "buffer of an unknown order": pickle.dumps(np.zeros(3), 5).replace(b"\x8c\x01C", b"\x8c\x01A"),
    "another function beside": pickle.dumps(np.zeros(3), 5).replace(b"\x0b_frombuffer", b"\x0bfrombuffer_"),
    "attribute of a dictionary": b"\x80\x02ccollections\nOrderedDict\n)R}U\x05itemsK\x01sb.",
    "bytes as objects": pickle.dumps(np.zeros(3), 2).replace(b"f8", b"O8"),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_pickle_is_refused(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ValueError, match=r"not a MANO_RIGHT\.pkl: it (holds more than data, refused|is damaged)"):
        read_mano_pickle(HOSTILE[name])
    assert not list(tmp_path.iterdir())


def test_pickle_with_code_is_named_with_what_it_would_run(tmp_path: Path) -> None:
    path = tmp_path / "model.pkl"
    path.write_bytes(HOSTILE["os.system"])
    with pytest.raises(ValueError, match=rf"{path} is not .* it holds more than data, refused: (posix|nt)\.system; get the file"):
        read_mano_pickle(path)


@pytest.mark.parametrize("share", [0, 0.01, 0.5, 0.999])
def test_truncated_file_is_said_to_be_cut_short(mano_like: Any, share: Any) -> None:
    with pytest.raises(ValueError, match="it is damaged or cut short"):
        read_mano_pickle(mano_like[: int(share * len(mano_like))])


def test_a_changed_byte_never_raises_anything_but_a_value_error(mano_like: Any) -> None:
    rng = np.random.default_rng(0)
    for place in [*range(0, 400, 7), *rng.integers(0, len(mano_like), 40)]:
        changed = bytearray(mano_like)
        changed[place] ^= 1 << rng.integers(8)
        with contextlib.suppress(ValueError):  # most such bytes are some vertex's millimetre, and no reader can tell
            read_mano_pickle(bytes(changed))


def test_left_hand_is_refused_and_the_message_says_why(arrays: Any) -> None:
    flip = np.array([-1.0, 1, 1])
    left = {
        **arrays,
        "v_template": arrays["v_template"] * flip,
        "shapedirs": arrays["shapedirs"] * flip[:, None],
        "f": arrays["f"][:, ::-1],
    }
    with pytest.raises(ValueError, match=r"it is a left hand's, MANO_LEFT\.pkl: a left hand is the right one mirrored"):
        read_mano_pickle(pickle.dumps({**left, "kintree_table": TREE}, 2))


@pytest.mark.parametrize(("num_vertices", "name"), [(10475, "SMPL-X"), (6890, "SMPL"), (5023, "FLAME")])
def test_another_model_is_named(num_vertices: Any, name: str, arrays: Any, tmp_path: Path) -> None:
    body = {**arrays, "v_template": np.zeros((num_vertices, 3)), "kintree_table": TREE}
    with pytest.raises(ValueError, match=f"it is {name}.*: v_template has {num_vertices} vertices, not 778"):
        read_mano_pickle(pickle.dumps(body, 2))
    np.savez(tmp_path / "body.npz", **body)
    with pytest.raises(ValueError, match=f"{tmp_path}/body.npz holds no hand model: it is {name}"):
        load_hand_model(tmp_path / "body.npz")


def test_what_a_file_lacks_is_listed(arrays: Any) -> None:
    with pytest.raises(ValueError, match="it lacks hands_mean"):
        read_mano_pickle(pickle.dumps({name: values for name, values in arrays.items() if name != "hands_mean"}, 2))
    with pytest.raises(ValueError, match="it holds no dictionary"):
        read_mano_pickle(pickle.dumps([1, 2], 2))


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("v_template", np.zeros((777, 3))),
        ("weights", np.full((778, 16), np.nan)),
        ("f", np.full((1538, 3), 778)),
        ("hands_mean", np.array(["x"] * 45)),
        ("hands_mean", [[0.0]] * 45),
        ("posedirs", np.array([None])),
        ("kintree_table", np.zeros((2, 16))),
    ],
)
def test_wrong_array_is_named(name: str, value: Any, arrays: Any) -> None:
    with pytest.raises(ValueError, match=name):
        read_mano_pickle(pickle.dumps({**arrays, "kintree_table": TREE, name: value}, 2))


@pytest.mark.parametrize("content", [b"", b"text", b"PK\x03\x04"])
def test_damaged_npz_is_named(content: Any, tmp_path: Path) -> None:
    path = tmp_path / "model.npz"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=f"{path} is no npz"):
        load_hand_model(path)


def test_npz_with_a_damaged_member_is_named(tmp_path: Path) -> None:
    content = bytearray(STANDIN.read_bytes())
    content[5000] ^= 255
    path = tmp_path / "model.npz"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=f"{path} is damaged"):
        load_hand_model(path)
