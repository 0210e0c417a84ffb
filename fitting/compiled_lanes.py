"""A float32 of each of LANES hands as one value, one SIMD register: what the compiled fit computes with.

Ordinary code over such values (`+ - * /`, comparisons, `where`) is code for LANES hands at once, and a hand's result does not depend on
its neighbours. Arrays [rows, LANES] hold them in memory. No operation assumes that its numbers are finite; a product and a sum may become
one fused operation.
"""

import operator
from collections.abc import Callable
from typing import Any, no_type_check

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

_FLAGS = ("contract", "nsz")
_VECTOR = ir.VectorType(ir.FloatType(), LANES)
_BITS = ir.VectorType(ir.IntType(1), LANES)


class _Lanes(types.Type):  # type: ignore[misc]
    """The numba type of LANES numbers."""


class _Mask(types.Type):  # type: ignore[misc]
    """The numba type of LANES truth values."""


lanes, mask = _Lanes(f"float32x{LANES}"), _Mask(f"boolx{LANES}")


@register_model(_Lanes)
class _LanesModel(models.PrimitiveModel):  # type: ignore[misc]
    @no_type_check
    def __init__(self, manager, numba_type):
        super().__init__(manager, numba_type, _VECTOR)


@register_model(_Mask)
class _MaskModel(models.PrimitiveModel):  # type: ignore[misc]
    @no_type_check
    def __init__(self, manager, numba_type):
        super().__init__(manager, numba_type, _BITS)


def empty(rows: int) -> Float32[np.ndarray, "rows lanes"]:
    """Zeros whose rows start at multiples of their size: a row never lies in two lines of the cache."""
    buffer = np.zeros((rows + 1) * LANES, np.float32)
    skip = -buffer.ctypes.data % (4 * LANES) // 4
    return buffer[skip : skip + rows * LANES].reshape(rows, LANES)


@no_type_check
def _vector(builder, value, numba_type):
    """A number in all lanes."""
    if numba_type is lanes:
        return value
    if isinstance(numba_type, types.Integer):
        value = builder.sitofp(value, ir.FloatType())
    elif numba_type is types.float64:
        value = builder.fptrunc(value, ir.FloatType())
    first = builder.insert_element(ir.Constant(_VECTOR, ir.Undefined), value, ir.Constant(ir.IntType(32), 0))
    zeros = ir.Constant(ir.VectorType(ir.IntType(32), LANES), None)
    return builder.shuffle_vector(first, ir.Constant(_VECTOR, ir.Undefined), zeros)


_OTHERS = (lanes, types.float32, types.float64, types.int64)


@no_type_check
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
            args = [_vector(builder, value, kind) for value, kind in zip(args, signature.args, strict=True)]
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


@no_type_check
def _row(context, builder, array_type, array, row, type_=_VECTOR):
    """The address of a row of an array [rows, LANES]."""
    data = context.make_array(array_type)(context, builder, array).data
    start = builder.gep(data, [builder.mul(row, ir.Constant(row.type, LANES))])
    return builder.bitcast(start, type_.as_pointer())


@no_type_check
def _llvm(builder, name, num_arguments):
    """One of LLVM's own functions, of vectors."""
    kind = ir.FunctionType(_VECTOR, [_VECTOR] * num_arguments)
    return cgutils.get_or_insert_function(builder.module, kind, f"llvm.{name}.v{LANES}f32")


@intrinsic
@no_type_check
def load(typing, array, row):
    """A row of an array [rows, LANES]."""

    def build(context, builder, signature, args):
        return builder.load(_row(context, builder, array, *args), align=4)

    return lanes(array, types.int64), build


@intrinsic
@no_type_check
def store(typing, array, row, value):
    """Write a row of an array [rows, LANES]."""

    def build(context, builder, signature, args):
        value_ = _vector(builder, args[2], value)
        builder.store(value_, _row(context, builder, array, *args[:2]), align=4)

    return types.void(array, types.int64, value), build


@intrinsic
@no_type_check
def where(typing, condition, yes, no):
    """One of two values by lane."""

    def build(context, builder, signature, args):
        return builder.select(args[0], _vector(builder, args[1], yes), _vector(builder, args[2], no))

    return lanes(condition, yes, no), build


@intrinsic
@no_type_check
def everywhere(typing, value):
    """A number in all lanes."""

    def build(context, builder, signature, args):
        return _vector(builder, args[0], value)

    return lanes(value), build


@intrinsic
@no_type_check
def root(typing, value):
    """Square root."""

    def build(context, builder, signature, args):
        return builder.call(_llvm(builder, "sqrt", 1), args)

    return lanes(value), build


@intrinsic
@no_type_check
def size(typing, value):
    """Absolute value."""

    def build(context, builder, signature, args):
        return builder.call(_llvm(builder, "fabs", 1), args)

    return lanes(value), build


@intrinsic
@no_type_check
def rounded(typing, value):
    """Nearest whole number."""

    def build(context, builder, signature, args):
        return builder.call(_llvm(builder, "rint", 1), args)

    return lanes(value), build


@intrinsic(prefer_literal=True)
@no_type_check
def add_scaled(typing, width, out, out_row, table, start, stop, rows, at):
    """out[out_row + i] += sum over start <= k < stop of table[k, i] * out[at + rows[k]], for i < width, a literal, the table's width.

    The sums stay in registers.
    """

    def build(context, builder, signature, args):
        _, out_, out_row_, table_, start_, stop_, rows_, at_ = args
        fused = _llvm(builder, "fma", 3)
        factors = context.make_array(table)(context, builder, table_).data
        sources = context.make_array(rows)(context, builder, rows_).data
        places = [
            _row(context, builder, out, out_, builder.add(out_row_, ir.Constant(out_row_.type, i))) for i in range(width.literal_value)
        ]
        sums = [cgutils.alloca_once_value(builder, builder.load(place, align=4)) for place in places]
        with cgutils.for_range_slice(builder, start_, stop_, ir.Constant(start_.type, 1), start_.type) as (k, _):
            source = builder.add(at_, builder.load(builder.gep(sources, [k])))
            value = builder.load(_row(context, builder, out, out_, source), align=4)
            first = builder.gep(factors, [builder.mul(k, ir.Constant(k.type, width.literal_value))])
            for i, place in enumerate(sums):
                factor = _vector(builder, builder.load(builder.gep(first, [ir.Constant(k.type, i)])), types.float32)
                builder.store(builder.call(fused, [factor, value, builder.load(place)]), place)
        for place, total in zip(places, sums, strict=True):
            builder.store(builder.load(total), place, align=4)

    return types.void(width, out, types.int64, table, types.int64, types.int64, rows, types.int64), build


@intrinsic(prefer_literal=True)
@no_type_check
def add_products(typing, height, width, out, out_at, left, left_at, right, right_at, count, factor):
    """out[i, j] += factor * sum over k < count of left[i, k] * right[j, k], for i < height and j < width, both literals.

    `out_at` is (row of the first element, rows from one i to the next), `left_at` and `right_at` are (the same, rows from one k to the
    next). The sums stay in registers.
    """

    def build(context, builder, signature, args):
        _, _, out_, out_place, left_, left_place, right_, right_place, count_, factor_ = args
        sums = [
            [cgutils.alloca_once_value(builder, ir.Constant(_VECTOR, None)) for _ in range(width.literal_value)]
            for _ in range(height.literal_value)
        ]
        fused = _llvm(builder, "fma", 3)

        def places(array_type, array, place, size, offset):
            first, step = (builder.extract_value(place, k) for k in (0, 1))
            rows = [builder.add(builder.add(first, offset), builder.mul(step, ir.Constant(step.type, i))) for i in range(size)]
            return [_row(context, builder, array_type, array, row) for row in rows]

        def values(array_type, array, place, size, k):
            offset = builder.mul(builder.extract_value(place, 2), k)
            return [builder.load(address, align=4) for address in places(array_type, array, place, size, offset)]

        with cgutils.for_range(builder, count_) as loop:
            lefts = values(left, left_, left_place, height.literal_value, loop.index)
            rights = values(right, right_, right_place, width.literal_value, loop.index)
            for row, a in zip(sums, lefts, strict=True):
                for place, b in zip(row, rights, strict=True):
                    builder.store(builder.call(fused, [a, b, builder.load(place)]), place)
        scale = _vector(builder, factor_, factor)
        zero = ir.Constant(ir.IntType(64), 0)
        for j in range(width.literal_value):
            column = places(out, out_, out_place, height.literal_value, ir.Constant(zero.type, j))
            for row, address in zip(sums, column, strict=True):
                builder.store(builder.call(fused, [scale, builder.load(row[j]), builder.load(address, align=4)]), address, align=4)

    return types.void(height, width, out, out_at, left, left_at, right, right_at, count, factor), build
