"""Sums of products of lanes that stay in registers: unrolled code, written out for sizes known when it is compiled."""

from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

from fitting.compiled.lanes import LANES, VECTOR, in_all_lanes, llvm_function, row_address


@intrinsic(prefer_literal=True)
def set_products(typing, height, width, out, out_at, left, left_at, right, right_at, count, factor):
    """out[i, j] = factor * sum over k < count of left[i, k] * right[j, k], for i < height and j < width, both literals.

    `out_at` is (row of the first element, rows from one i to the next), `left_at` and `right_at` are (the same, rows from one k to the
    next).
    """
    return _products(height, width, out, out_at, left, left_at, right, right_at, count, factor, adds=False)


@intrinsic(prefer_literal=True)
def add_products(typing, height, width, out, out_at, left, left_at, right, right_at, count, factor):
    """Add the sums of products that `set_products` writes to those that are there."""
    return _products(height, width, out, out_at, left, left_at, right, right_at, count, factor, adds=True)


def _products(height, width, out, out_at, left, left_at, right, right_at, count, factor, adds):
    """Signature and code of `set_products` and `add_products`."""
    size = height.literal_value, width.literal_value

    def build(context, builder, signature, args):
        _, _, out_, out_place, left_, left_place, right_, right_place, count_, factor_ = args
        fused, zero = llvm_function(builder, "fmuladd", 3), ir.Constant(VECTOR, None)
        sums = [[cgutils.alloca_once_value(builder, zero) for _ in range(size[1])] for _ in range(size[0])]

        def addresses(kind, array, place, length, offset):
            first, step = (builder.extract_value(place, k) for k in (0, 1))
            rows = [builder.add(builder.add(first, offset), builder.mul(step, ir.Constant(step.type, i))) for i in range(length)]
            return [row_address(context, builder, kind, array, row) for row in rows]

        def values(kind, array, place, length, k):
            offset = builder.mul(builder.extract_value(place, 2), k)
            return [builder.load(address, align=4) for address in addresses(kind, array, place, length, offset)]

        with cgutils.for_range(builder, count_) as loop:
            lefts = values(left, left_, left_place, size[0], loop.index)
            rights = values(right, right_, right_place, size[1], loop.index)
            for line, a in zip(sums, lefts, strict=True):
                for total, b in zip(line, rights, strict=True):
                    builder.store(builder.call(fused, [a, b, builder.load(total)]), total)
        scale = in_all_lanes(builder, factor_, factor)
        for j in range(size[1]):
            column = addresses(out, out_, out_place, size[0], ir.Constant(ir.IntType(64), j))
            for line, address in zip(sums, column, strict=True):
                before = builder.load(address, align=4) if adds else zero
                builder.store(builder.call(fused, [scale, builder.load(line[j]), before]), address, align=4)

    return types.void(height, width, out, out_at, left, left_at, right, right_at, count, factor), build


@intrinsic(prefer_literal=True)
def add_scaled(typing, width, out, out_row, table, start, stop, rows, at):
    """out[out_row + i] += sum over start <= k < stop of table[k, i] * out[at + rows[k]], for i < width, a literal, the table's width."""

    def build(context, builder, signature, args):
        _, out_, out_row_, table_, start_, stop_, rows_, at_ = args
        fused = llvm_function(builder, "fmuladd", 3)
        factors = context.make_array(table)(context, builder, table_).data
        sources = context.make_array(rows)(context, builder, rows_).data
        assert rows.layout == table.layout == "C", "the table's arrays must lie in one piece"
        offsets = [ir.Constant(ir.IntType(64), i) for i in range(width.literal_value)]
        places = [row_address(context, builder, out, out_, builder.add(out_row_, offset)) for offset in offsets]
        sums = [cgutils.alloca_once_value(builder, builder.load(place, align=4)) for place in places]
        with cgutils.for_range_slice(builder, start_, stop_, ir.Constant(start_.type, 1), start_.type) as (k, _):
            source = builder.add(at_, builder.load(builder.gep(sources, [k])))
            value = builder.load(row_address(context, builder, out, out_, source), align=4)
            first = builder.gep(factors, [builder.mul(k, ir.Constant(k.type, width.literal_value))])
            for offset, total in zip(offsets, sums, strict=True):
                factor = in_all_lanes(builder, builder.load(builder.gep(first, [offset])), types.float32)
                builder.store(builder.call(fused, [factor, value, builder.load(total)]), total)
        for place, total in zip(places, sums, strict=True):
            builder.store(builder.load(total), place, align=4)

    return types.void(width, out, types.int64, table, types.int64, types.int64, rows, types.int64), build


@intrinsic(prefer_literal=True)
def divide_row(typing, width, matrix, row, block, stride):
    """Solve x L' = b in place, b the `width` (a literal) elements from `row` on, L the lower triangle that begins at `block`.

    L's rows lie `stride` apart; its diagonal holds inverses.
    """

    def build(context, builder, signature, args):
        _, matrix_, row_, block_, stride_ = args
        fused, minus = llvm_function(builder, "fmuladd", 3), ir.Constant(VECTOR, [-1.0] * LANES)

        def address(first, offset):
            return row_address(context, builder, matrix, matrix_, builder.add(first, ir.Constant(first.type, offset)))

        solved: list[ir.Value] = []
        for j in range(width.literal_value):
            lower = builder.add(block_, builder.mul(stride_, ir.Constant(stride_.type, j)))
            value = builder.load(address(row_, j), align=4)
            for k, before in enumerate(solved):
                value = builder.call(fused, [before, builder.load(address(lower, k), align=4), value])
            value = builder.fmul(value, builder.load(address(lower, j), align=4))
            builder.store(value, address(row_, j), align=4)
            solved.append(builder.fmul(value, minus))

    return types.void(width, matrix, types.int64, types.int64, types.int64), build
