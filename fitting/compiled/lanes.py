"""A float32 of each of LANES hands as one value, one SIMD register: what the compiled fit computes with.

Ordinary code over such values (`+ - * /`, comparisons, `where`) is code for LANES hands at once, and a hand's result does not depend on
its neighbours. Arrays [rows, LANES] hold them in memory. No operation assumes that its numbers are finite; a product and a sum may become
one fused operation.
"""

import operator
from collections.abc import Callable
from typing import Any, TypeAlias

import llvmlite.binding as llvm
import numpy as np
from jaxtyping import Float32
from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic, lower_builtin, models, register_model, type_callable

_WIDE = llvm.get_host_cpu_features().get("avx512f", False)
LANES = 16 if _WIDE else 8
"""One register of AVX-512, or of AVX."""
TILE = 5 if _WIDE else 3
"""Side of the square of sums that fits the registers beside its factors."""

Lanes: TypeAlias = Any
"""In a kernel's signature: LANES numbers in a register, or one number for all lanes. Only numba knows the type."""
Rows: TypeAlias = Float32[np.ndarray, "rows lanes"]
"""A work array, from which `load` and `store` read and write Lanes by row."""

_FLAGS = ("contract", "nsz")
VECTOR = ir.VectorType(ir.FloatType(), LANES)
_BITS = ir.VectorType(ir.IntType(1), LANES)


class _Lanes(types.Type):  # type: ignore[misc]
    """The numba type of LANES numbers."""


class _Mask(types.Type):  # type: ignore[misc]
    """The numba type of LANES truth values."""


lanes, mask = _Lanes(f"float32x{LANES}"), _Mask(f"boolx{LANES}")


@register_model(_Lanes)
class _LanesModel(models.PrimitiveModel):  # type: ignore[misc]
    def __init__(self, manager, numba_type):
        super().__init__(manager, numba_type, VECTOR)


@register_model(_Mask)
class _MaskModel(models.PrimitiveModel):  # type: ignore[misc]
    def __init__(self, manager, numba_type):
        super().__init__(manager, numba_type, _BITS)


def empty(rows: int) -> Float32[np.ndarray, "rows lanes"]:
    """Zeros whose rows start at multiples of their size: a row never lies in two lines of the cache."""
    buffer = np.zeros((rows + 1) * LANES, np.float32)
    skip = -buffer.ctypes.data % (4 * LANES) // 4
    return buffer[skip : skip + rows * LANES].reshape(rows, LANES)


def in_all_lanes(builder, value, numba_type):
    """A number in all lanes."""
    if numba_type is lanes:
        return value
    if isinstance(numba_type, types.Integer):
        value = builder.sitofp(value, ir.FloatType())
    elif numba_type is types.float64:
        value = builder.fptrunc(value, ir.FloatType())
    first = builder.insert_element(ir.Constant(VECTOR, ir.Undefined), value, ir.Constant(ir.IntType(32), 0))
    zeros = ir.Constant(ir.VectorType(ir.IntType(32), LANES), None)
    return builder.shuffle_vector(first, ir.Constant(VECTOR, ir.Undefined), zeros)


_OTHERS = (lanes, types.float32, types.float64, types.int64)


def _define_operator(symbol: Callable[..., Any], operand, result, build: Callable[..., Any]) -> None:
    """Give an operator of Python a meaning for lanes (or masks), and for lanes with a number."""

    @type_callable(symbol)
    def type_operator(context):
        def typer(left, right):
            if operand in (left, right) and {left, right} <= {operand, *_OTHERS}:
                return result
            return None

        return typer

    def lower(context, builder, signature, args):
        if operand is lanes:
            args = [in_all_lanes(builder, value, kind) for value, kind in zip(args, signature.args, strict=True)]
        return build(builder, *args)

    for other in _OTHERS if operand is lanes else (mask,):
        lower_builtin(symbol, operand, other)(lower)
        if other is not operand:
            lower_builtin(symbol, other, operand)(lower)


for _symbol, _name in ((operator.add, "fadd"), (operator.sub, "fsub"), (operator.mul, "fmul"), (operator.truediv, "fdiv")):
    _define_operator(_symbol, lanes, lanes, lambda builder, a, b, name=_name: getattr(builder, name)(a, b, flags=_FLAGS))
for _symbol, _sign in ((operator.lt, "<"), (operator.gt, ">"), (operator.le, "<="), (operator.ge, ">="), (operator.eq, "==")):
    _define_operator(_symbol, lanes, mask, lambda builder, a, b, sign=_sign: builder.fcmp_ordered(sign, a, b))
for _symbol, _name in ((operator.and_, "and_"), (operator.or_, "or_")):
    _define_operator(_symbol, mask, mask, lambda builder, a, b, name=_name: getattr(builder, name)(a, b))


def row_address(context, builder, array_type, array, row, type_=VECTOR):
    """The address of a row of an array [rows, LANES]."""
    data = context.make_array(array_type)(context, builder, array).data
    start = builder.gep(data, [builder.mul(row, ir.Constant(row.type, LANES))])
    return builder.bitcast(start, type_.as_pointer())


def llvm_function(builder, name, num_arguments):
    """One of LLVM's own functions, of vectors."""
    kind = ir.FunctionType(VECTOR, [VECTOR] * num_arguments)
    return cgutils.get_or_insert_function(builder.module, kind, f"llvm.{name}.v{LANES}f32")


@intrinsic
def load(typing, array, row):
    """A row of an array [rows, LANES]."""

    def build(context, builder, signature, args):
        return builder.load(row_address(context, builder, array, *args), align=4)

    return lanes(array, types.int64), build


@intrinsic
def store(typing, array, row, value):
    """Write a row of an array [rows, LANES]."""

    def build(context, builder, signature, args):
        value_ = in_all_lanes(builder, args[2], value)
        builder.store(value_, row_address(context, builder, array, *args[:2]), align=4)

    return types.void(array, types.int64, value), build


@intrinsic
def number(typing, array, place):
    """One number of an array, all its axes counted as one: `array.ravel()[place]`, for a place that is not negative."""

    def build(context, builder, signature, args):
        assert array.layout == "C", "the array must lie in one piece"
        data = context.make_array(array)(context, builder, args[0]).data
        return builder.load(builder.gep(data, [args[1]]))

    return array.dtype(array, types.int64), build


@intrinsic
def where(typing, condition, yes, no):
    """One of two values by lane."""

    def build(context, builder, signature, args):
        return builder.select(args[0], in_all_lanes(builder, args[1], yes), in_all_lanes(builder, args[2], no))

    return lanes(condition, yes, no), build


@intrinsic
def everywhere(typing, value):
    """A number in all lanes."""

    def build(context, builder, signature, args):
        return in_all_lanes(builder, args[0], value)

    return lanes(value), build


@intrinsic
def root(typing, value):
    """Square root."""

    def build(context, builder, signature, args):
        return builder.call(llvm_function(builder, "sqrt", 1), args)

    return lanes(value), build


@intrinsic
def size(typing, value):
    """Absolute value."""

    def build(context, builder, signature, args):
        return builder.call(llvm_function(builder, "fabs", 1), args)

    return lanes(value), build


@intrinsic
def rounded(typing, value):
    """Nearest whole number."""

    def build(context, builder, signature, args):
        return builder.call(llvm_function(builder, "rint", 1), args)

    return lanes(value), build
