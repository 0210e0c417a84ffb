"""Read MANO_RIGHT.pkl, a Python 2 pickle of chumpy and scipy objects, without either package and without running its code.

Only names that carry data are resolved, and those become inert nodes of ours; every other name is refused.
"""

import io
import pickle
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

SHAPES: Mapping[str, tuple[int, ...]] = {
    "v_template": (778, 3),
    "shapedirs": (778, 3, 10),
    "posedirs": (778, 3, 135),
    "J_regressor": (16, 778),
    "weights": (778, 16),
    "f": (1538, 3),
    "hands_components": (45, 45),
    "hands_mean": (45,),
}

_MAX_DEPTH = 8


class _Node:
    """State of a pickled object, collected and never interpreted while unpickling."""

    def __init__(self, *_: Any) -> None:
        self.state: dict[str, Any] = {}

    def __setstate__(self, state: Any) -> None:
        parts = state if isinstance(state, tuple) else (state,)
        if not all(part is None or isinstance(part, dict) for part in parts):
            raise pickle.UnpicklingError("refused: the state of an object is not a dictionary")
        self.state = {str(key): value for part in parts if part for key, value in part.items()}


class _Array(_Node):
    """chumpy.ch.Ch: an array held in `x`."""


class _Select(_Node):
    """chumpy.reordering.Select: some entries of another array."""


class _Sparse(_Node):
    """scipy.sparse.csc_matrix."""


def _new_array(subtype: Any, shape: Any, dtype: Any) -> np.ndarray:
    if subtype is not np.ndarray:
        raise pickle.UnpicklingError("refused: a subclass of ndarray")
    return np.ndarray((0,), np.dtype("f8"))


def _new_object(cls: Any, base: Any = None, state: Any = None) -> _Node:
    if not (isinstance(cls, type) and issubclass(cls, _Node)):
        raise pickle.UnpicklingError("refused: an object of an unknown class")
    return cls()


def _encode(text: str, codec: str = "latin1") -> bytes:
    if codec not in ("latin1", "latin-1"):
        raise pickle.UnpicklingError(f"refused: codec {codec!r}")
    return text.encode("latin1")


_ALLOWED: Mapping[tuple[str, str], Any] = {
    ("chumpy.ch", "Ch"): _Array,
    ("chumpy", "Ch"): _Array,
    ("chumpy.reordering", "Select"): _Select,
    ("numpy", "ndarray"): np.ndarray,
    ("numpy", "dtype"): np.dtype,
    ("_codecs", "encode"): _encode,
    **{(module, "_reconstructor"): _new_object for module in ("copy_reg", "copyreg")},
    **{(module, name): kind for module in ("__builtin__", "builtins") for name, kind in (("object", object), ("set", set))},
    **{(module, "_reconstruct"): _new_array for module in ("numpy.core.multiarray", "numpy._core.multiarray")},
    **{(module, "csc_matrix"): _Sparse for module in ("scipy.sparse", "scipy.sparse.csc", "scipy.sparse._csc")},
}


class _DataUnpickler(pickle.Unpickler):
    def find_class(self, module_name: str, global_name: str, /) -> Callable[..., Any]:
        try:
            return _ALLOWED[module_name, global_name]  # type: ignore[no-any-return]
        except KeyError:
            raise pickle.UnpicklingError(f"refused: {module_name}.{global_name}") from None

    def persistent_load(self, pid: Any, /) -> Any:
        raise pickle.UnpicklingError("refused: a persistent id")


def _evaluate(value: Any, depth: int = 0) -> np.ndarray:
    """The array that a node stands for."""
    if depth > _MAX_DEPTH:
        raise ValueError("chumpy expression is nested too deep")
    if isinstance(value, _Array):
        return _evaluate(value.state["x"], depth + 1)
    if isinstance(value, _Select):
        source = _evaluate(value.state["a"], depth + 1).ravel()
        chosen = source[_indices(value.state["idxs"], len(source))]
        shape = value.state.get("preferred_shape", chosen.shape)
        return np.reshape(chosen, shape)
    if isinstance(value, _Sparse):
        return _dense(value.state)
    return np.asarray(value)


def _indices(values: Any, size: int) -> np.ndarray:
    indices = np.asarray(values)
    if indices.dtype.kind not in "iu" or (indices.size and (indices.min() < 0 or indices.max() >= size)):
        raise ValueError("indices are out of range")
    return indices


def _dense(state: Mapping[str, Any]) -> np.ndarray:
    """A compressed sparse column matrix of MANO's regressor size, filled in."""
    shape = tuple(int(n) for n in (state.get("_shape") or state["shape"]))
    if shape != SHAPES["J_regressor"]:
        raise ValueError(f"sparse matrix has shape {shape}")
    data, starts = np.asarray(state["data"], dtype=np.float64), np.asarray(state["indptr"])
    rows = _indices(state["indices"], shape[0])
    if starts.shape != (shape[1] + 1,) or starts[0] != 0 or starts[-1] != len(data) or (np.diff(starts) < 0).any():
        raise ValueError("sparse matrix is malformed")
    matrix = np.zeros(shape)
    np.add.at(matrix, (rows, np.repeat(np.arange(shape[1]), np.diff(starts))), data)
    return matrix


def read_mano_pickle(source: Path | bytes) -> dict[str, np.ndarray]:
    """Arrays of `SHAPES` from MANO's own file. ValueError that says why when it is anything else, or would run code."""
    data = source if isinstance(source, bytes) else source.read_bytes()
    try:
        content = _DataUnpickler(io.BytesIO(data), encoding="latin1").load()
        if not isinstance(content, dict):
            raise ValueError("it holds no dictionary")
        arrays = {name: _checked(name, _evaluate(content[name])) for name in SHAPES}
        _check_tree(_evaluate(content["kintree_table"]))
    except Exception as error:  # a hostile or truncated pickle may raise anything
        raise ValueError(f"not a MANO_RIGHT.pkl: {type(error).__name__}: {error}; get the file from mano.is.tue.mpg.de") from error
    return arrays


def _checked(name: str, array: np.ndarray) -> np.ndarray:
    if array.shape != SHAPES[name] or array.dtype.kind not in "fiu" or not np.isfinite(array.astype(np.float64)).all():
        raise ValueError(f"{name} has shape {array.shape} and type {array.dtype}, or is not finite")
    if name == "f" and (array.astype(np.int64).min() < 0 or array.max() >= 778):
        raise ValueError("f names a vertex that does not exist")
    return array


def _check_tree(table: np.ndarray) -> None:
    if table.shape != (2, 16) or table[0, 1:].tolist() != [0, 1, 2, 0, 4, 5, 0, 7, 8, 0, 10, 11, 0, 13, 14]:
        raise ValueError("kintree_table is not MANO's tree")
