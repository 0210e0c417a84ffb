"""Read pickles that hold data only: names on an allow-list become inert nodes of ours, every other name is refused, nothing is run.

numpy's arrays are rebuilt here from their bytes and shape: `numpy.dtype` and `ndarray.__setstate__` trust their arguments.
"""

import io
import math
import pickle
import re
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np


class Node:
    """State of a pickled object, collected and never interpreted while unpickling."""

    def __init__(self, *_: Any) -> None:
        self.state: dict[str, Any] = {}

    def __setstate__(self, state: Any) -> None:
        parts = state if isinstance(state, tuple) else (state,)
        if not all(part is None or isinstance(part, dict) for part in parts):
            raise pickle.UnpicklingError("refused: the state of an object is not a dictionary")
        self.state = {str(key): value for part in parts if part for key, value in part.items()}


class Allowed:
    """A function of ours that a pickle may call. It has no state that a pickle could set."""

    __slots__ = ("_function",)

    def __init__(self, function: Callable[..., Any]) -> None:
        self._function = function

    def __call__(self, *arguments: Any) -> Any:
        return self._function(*arguments)

    def __setstate__(self, _: Any) -> None:
        raise pickle.UnpicklingError("refused: the state of a function")


class _DType(Node):
    """numpy.dtype of numbers, strings or objects."""

    def __init__(self, code: str = "", *_: Any) -> None:
        if not re.fullmatch(r"[biufSU]\d+|O\d?", code):
            raise pickle.UnpicklingError(f"refused: arrays of type {code!r}")
        self.dtype = np.dtype(code if code[0] != "O" else "O")

    def __setstate__(self, state: Any) -> None:
        _, order, *parts = state
        if any(part is not None for part in parts[:3]):
            raise pickle.UnpicklingError("refused: arrays of records")
        self.dtype = self.dtype.newbyteorder(order)


class _Array(Node):
    """numpy.ndarray, whole once its state is set."""

    values: np.ndarray | list[Any] | None = None
    """A list where the array is one of objects."""

    def __setstate__(self, state: Any) -> None:
        _, shape, kind, in_columns, content = state
        self.values = _array(shape, kind, content, "F" if in_columns else "C")


def _array(shape: Any, kind: Any, content: Any, order: Any) -> np.ndarray | list[Any]:
    if not isinstance(kind, _DType) or not all(isinstance(n, int) and n >= 0 for n in shape):
        raise pickle.UnpicklingError("refused: an array of unknown shape or type")
    if kind.dtype.hasobject:
        if not isinstance(content, list) or len(content) != math.prod(shape):
            raise pickle.UnpicklingError("refused: an array of objects that lists none")
        return content
    data = content.encode("latin1") if isinstance(content, str) else content
    if not isinstance(data, bytes | bytearray) or order not in ("C", "F"):
        raise pickle.UnpicklingError("refused: an array of unknown content or order")
    if len(data) != math.prod(shape) * kind.dtype.itemsize:
        raise pickle.UnpicklingError(f"an array of shape {shape} has {len(data)} bytes")
    return np.ndarray(shape, kind.dtype, buffer=data, order=order).copy()


def _new_array(kind: Any, *_: Any) -> _Array:
    if kind is not _Array:
        raise pickle.UnpicklingError("refused: a subclass of ndarray")
    return _Array()


def _new_scalar(kind: Any, data: Any) -> _Array:
    scalar = _Array()
    scalar.__setstate__((1, (), kind, False, data))
    return scalar


def _from_buffer(content: Any, kind: Any, shape: Any, order: Any, axes: Any = None) -> _Array:
    """An array as protocol 5 writes it; `axes` is how the axes of the bytes lie in order "K"."""
    array = _Array()
    array.values = _array(shape, kind, content, "C" if order == "K" else order)
    if order == "K":
        if isinstance(array.values, list) or sorted(axes) != list(range(len(shape))):
            raise pickle.UnpicklingError("refused: an array of unknown order")
        array.values = array.values.transpose(axes)
    return array


def _new_object(kind: Any, *_: Any) -> Node:
    if not (isinstance(kind, type) and issubclass(kind, Node)):
        raise pickle.UnpicklingError("refused: an object of an unknown class")
    return kind()


def _encode(text: str, codec: str = "latin1") -> bytes:
    if codec not in ("latin1", "latin-1"):
        raise pickle.UnpicklingError(f"refused: codec {codec!r}")
    return text.encode("latin1")


Names = Mapping[tuple[str, str], Any]
"""What each allowed name (module, global) becomes."""

ARRAYS: Names = {
    ("numpy", "ndarray"): _Array,
    ("numpy", "dtype"): _DType,
    ("_codecs", "encode"): Allowed(_encode),
    **{(f"numpy.{core}.multiarray", "_reconstruct"): Allowed(_new_array) for core in ("core", "_core")},
    **{(f"numpy.{core}.multiarray", "scalar"): Allowed(_new_scalar) for core in ("core", "_core")},
    **{(f"numpy.{core}.numeric", "_frombuffer"): Allowed(_from_buffer) for core in ("core", "_core")},
}
"""numpy's arrays and scalars, as numpy 1 and 2 name them under Python 2 and 3."""

OBJECTS: Names = {
    **{(module, "_reconstructor"): Allowed(_new_object) for module in ("copy_reg", "copyreg")},
    **{(module, name): kind for module in ("__builtin__", "builtins") for name, kind in (("object", object), ("set", set))},
    ("collections", "OrderedDict"): dict,  # the class itself takes attributes
}
"""What Python needs to rebuild objects of allowed classes."""


class _RestrictedUnpickler(pickle.Unpickler):
    def __init__(self, data: bytes, names: Names) -> None:
        super().__init__(io.BytesIO(data), encoding="latin1")
        self._names = names

    def find_class(self, module_name: str, global_name: str, /) -> Any:
        try:
            return self._names[module_name, global_name]
        except KeyError:
            raise pickle.UnpicklingError(f"refused: {module_name}.{global_name}") from None

    def persistent_load(self, pid: Any, /) -> Any:
        raise pickle.UnpicklingError("refused: a persistent id")


def read_pickle(data: bytes, names: Names) -> Any:
    """What a pickle holds, arrays as nodes for `as_array`. ValueError that says why when it is damaged or names what is not in `names`."""
    try:
        return _RestrictedUnpickler(data, names).load()
    except pickle.UnpicklingError as error:
        refused = str(error).startswith("refused")
        raise ValueError(f"it holds more than data, {error}" if refused else f"it is damaged or cut short: {error}") from error
    except Exception as error:  # a hostile or truncated pickle may raise anything
        raise ValueError(f"it is damaged or cut short: {type(error).__name__}: {error}") from error


def as_array(value: Any) -> np.ndarray:
    """The array or number that a value of a pickle stands for. ValueError for anything else, nested lists among it."""
    if isinstance(value, _Array) and isinstance(value.values, np.ndarray):
        return value.values
    if isinstance(value, list) and all(isinstance(item, int | float) for item in value):
        return np.array(value, dtype=np.float64)
    if isinstance(value, int | float):
        return np.array(value)
    raise ValueError(f"not an array but {type(value).__name__.lstrip('_')}")


def objects_of_npy(data: bytes) -> list[Any]:
    """The objects in a file that `numpy.save` made of an array of objects. ValueError as `read_pickle`, and for an array of numbers."""
    file = io.BytesIO(data)
    try:
        version = np.lib.format.read_magic(file)
        header = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
        of_objects = header(file)[2].hasobject
    except Exception as error:  # numpy reads it by Python's tokenizer and parser, which may raise anything
        raise ValueError(f"its header is damaged: {error}") from error
    if not of_objects:
        raise ValueError("it holds numbers, not objects")
    content = read_pickle(data[file.tell() :], ARRAYS)
    if not (isinstance(content, _Array) and isinstance(content.values, list)):
        raise ValueError("it is not an array of objects")
    return content.values
