"""Read MANO_RIGHT.pkl, a Python 2 pickle of chumpy and scipy objects, without either package and without running its code."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from fitting.hand.restricted_pickle import ARRAYS, OBJECTS, Names, Node, as_array, read_pickle

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

OTHER_MODELS: Mapping[int, str] = {10475: "SMPL-X", 6890: "SMPL or SMPL+H", 5023: "FLAME"}
"""Whose template has how many vertices."""

_MAX_DEPTH = 8


class _Ch(Node):
    """chumpy.ch.Ch: an array held in `x`."""


class _Select(Node):
    """chumpy.reordering.Select: some entries of another array."""


class _Sparse(Node):
    """A sparse matrix of scipy: csc, whose columns are compressed, where nothing else is said."""


class _SparseRows(_Sparse):
    """scipy.sparse.csr_matrix: rows are compressed."""


class _SparseEntries(_Sparse):
    """scipy.sparse.coo_matrix: row and column of each entry."""


_SPARSE: Mapping[str, type[_Sparse]] = {"csc": _Sparse, "csr": _SparseRows, "coo": _SparseEntries}


_NAMES: Names = {
    **ARRAYS,
    **OBJECTS,
    ("chumpy.ch", "Ch"): _Ch,
    ("chumpy", "Ch"): _Ch,
    ("chumpy.reordering", "Select"): _Select,
    **{
        (f"scipy.sparse{module}", f"{name}_{kind}"): node
        for name, node in _SPARSE.items()
        for module in ("", f".{name}", f"._{name}")
        for kind in ("matrix", "array")
    },
}


def _evaluate(value: Any, depth: int = 0) -> np.ndarray:
    """The array that a node stands for."""
    if depth > _MAX_DEPTH:
        raise ValueError("a chumpy expression is nested too deep")
    if isinstance(value, _Ch):
        return _evaluate(_part(value, "x"), depth + 1)
    if isinstance(value, _Select):
        source = _evaluate(_part(value, "a"), depth + 1).ravel()
        chosen = source[_indices(as_array(_part(value, "idxs")), len(source))]
        return np.reshape(chosen, _shape(value.state.get("preferred_shape", chosen.shape)))
    if isinstance(value, _Sparse):
        return _dense(value)
    return as_array(value)


def _part(node: Node, name: str) -> Any:
    if name not in node.state:
        raise ValueError(f"an object lacks its {name}")
    return node.state[name]


def _shape(values: Any) -> tuple[int, ...]:
    return tuple(int(as_array(n)) for n in values)


def _indices(indices: np.ndarray, size: int) -> np.ndarray:
    if indices.dtype.kind not in "iu" or (indices.size and (indices.min() < 0 or indices.max() >= size)):
        raise ValueError("indices are out of range")
    return indices


def _dense(matrix: _Sparse) -> np.ndarray:
    """A sparse matrix of MANO's regressor size, filled in."""
    shape = _shape(matrix.state.get("_shape") or _part(matrix, "shape"))
    if shape != SHAPES["J_regressor"]:
        raise ValueError(f"a sparse matrix has shape {shape}")
    data, (rows, columns) = as_array(_part(matrix, "data")), _places(matrix, shape)
    if not data.shape == rows.shape == columns.shape or data.ndim != 1:
        raise ValueError("a sparse matrix is malformed")
    filled = np.zeros(shape)
    np.add.at(filled, (_indices(rows, shape[0]), _indices(columns, shape[1])), data)
    return filled


def _places(matrix: _Sparse, shape: tuple[int, ...]) -> tuple[np.ndarray, np.ndarray]:
    """Row and column of each entry of a sparse matrix, not checked yet."""
    if isinstance(matrix, _SparseEntries):
        rows, columns = matrix.state.get("coords") or (_part(matrix, "row"), _part(matrix, "col"))
        return as_array(rows), as_array(columns)
    listed, starts = (as_array(_part(matrix, name)) for name in ("indices", "indptr"))
    num_compressed = shape[0] if isinstance(matrix, _SparseRows) else shape[1]
    ends = starts.astype(np.int64)
    lengths = ends[1:] - ends[:-1]
    if starts.shape != (num_compressed + 1,) or starts[0] != 0 or starts[-1] != len(listed) or (lengths < 0).any():
        raise ValueError("a sparse matrix is malformed")
    compressed = np.repeat(np.arange(num_compressed), lengths)
    return (compressed, listed) if isinstance(matrix, _SparseRows) else (listed, compressed)


def read_mano_pickle(source: Path | bytes) -> dict[str, np.ndarray]:
    """Arrays of `SHAPES` from MANO's own file. ValueError that names the file and says what else it is."""
    data = source if isinstance(source, bytes) else source.read_bytes()
    try:
        content = read_pickle(data, _NAMES)
        if not isinstance(content, dict):
            raise ValueError("it holds no dictionary")
        arrays = check_arrays({name: _array(content, name) for name in SHAPES if name in content})
        _check_tree(_array(content, "kintree_table"))
    except ValueError as error:
        name = "the pickle" if isinstance(source, bytes) else source
        raise ValueError(f"{name} is not a MANO_RIGHT.pkl: {error}; get the file (MANO v1.2) from mano.is.tue.mpg.de") from error
    return arrays


def _array(content: Mapping[str, Any], name: str) -> np.ndarray:
    try:
        return _evaluate(content.get(name))
    except Exception as error:  # states are what the file says they are
        raise ValueError(f"{name}: {error}") from error


def check_arrays(arrays: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """The arrays of `SHAPES`, if they are a right hand's. ValueError that says what they are instead."""
    num_vertices = len(np.atleast_1d(arrays.get("v_template", ())))
    if num_vertices in OTHER_MODELS:
        raise ValueError(f"it is {OTHER_MODELS[num_vertices]}'s: v_template has {num_vertices} vertices, not 778")
    missing = [name for name in SHAPES if name not in arrays]
    if missing:
        raise ValueError(f"it lacks {', '.join(missing)}")
    checked = {name: _checked(name, arrays[name]) for name in SHAPES}
    if not _is_right(checked["J_regressor"].astype(np.float64) @ checked["v_template"]):
        raise ValueError("it is a left hand's, MANO_LEFT.pkl: a left hand is the right one mirrored here, so give the right one")
    return checked


def _checked(name: str, array: np.ndarray) -> np.ndarray:
    if array.shape != SHAPES[name] or array.dtype.kind not in "fiu":
        raise ValueError(f"{name} has shape {array.shape} and type {array.dtype}, not {SHAPES[name]} and numbers")
    if not np.isfinite(array).all():
        raise ValueError(f"{name} is not finite")
    if name == "f" and (array.astype(np.int64).min() < 0 or array.max() >= 778):
        raise ValueError("f names a vertex that does not exist")
    return array


def _is_right(joints: np.ndarray) -> bool:
    """Whether the thumb lies where a right hand has its palm. A mirror turns this round, and no rotation does."""
    wrist, index, middle, little, thumb = joints[[0, 1, 4, 7, 15]]
    return bool(np.cross(middle - wrist, index - little) @ (thumb - wrist) < 0)


def _check_tree(table: np.ndarray) -> None:
    if table.shape != (2, 16) or table[0, 1:].tolist() != [0, 1, 2, 0, 4, 5, 0, 7, 8, 0, 10, 11, 0, 13, 14]:
        raise ValueError("kintree_table is not MANO's tree")
