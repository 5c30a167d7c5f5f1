"""What can happen to one row of float32: activations, sums, gates and codes.

Every tile takes addresses and a number of elements; the target may be the source. They are the
same code for a whole matrix (``kernels.pointwise``) and for a finished block (``kernels.
finish_rows``), so both give the same bits.
"""

import numpy as np
from llvmlite import ir
from numba import float32, int32

from kernels.jit import compiled
from kernels.mathematics import (
    ROUND_MAGIC,
    absmax_bits,
    write_exp,
    write_gate,
    write_gelu,
    write_relu,
    write_sigmoid,
    write_silu,
    write_tanh,
)
from kernels.row_tiles import WIDE, Fold, codes_tile, map_tile, splat, sum_fold, sweep, zip_tile
from kernels.simd import F32, I32, Value, Writer, constant, float_of, row_at, stack_bytes, tile

INFINITY_BITS = 0x7F800000
SMALLEST_BITS = (127 - 100) << 23
"""Bits of 2**-100: a smaller absmax counts as zero, as 127 / absmax would overflow."""
LARGEST_CODE = 127.0
NAN_CODE = 0x80
"""NaN becomes the code -128, which every integer kernel refuses."""

relu_row, gelu_row, silu_row, tanh_row, sigmoid_row = (
    map_tile(function)
    for function in (write_relu, write_gelu, write_silu, write_tanh, write_sigmoid)
)
"""Tiles (source, target, count)."""
copy_row = map_tile(lambda _w, value: value)
"""Tile (source, target, count)."""
gate_row = zip_tile(write_gate)
"""Tile (values, gates, target, count): values times the sigmoid of gates."""
add_row = zip_tile(lambda w, a, c: w.b.fadd(a, c))
"""Tile (first, second, target, count)."""


def _round(w: Writer, value: Value) -> Value:
    """int32 lanes whose low byte is the nearest integer, ties to even, of magnitude below 2**22."""
    lanes = isinstance(value.type, ir.VectorType)
    whole = ir.VectorType(I32, value.type.count) if lanes else I32
    return w.b.bitcast(w.b.fadd(value, constant(value.type, float(ROUND_MAGIC))), whole)


def _write_code(w: Writer, value: Value, factor: Value) -> Value:
    return _round(w, w.b.fmul(value, factor))


def _write_static_code(w: Writer, value: Value, scale: Value) -> Value:
    b = w.b
    steps = b.fdiv(value, scale)
    top, bottom = constant(value.type, LARGEST_CODE), constant(value.type, -LARGEST_CODE)
    clipped = b.select(b.fcmp_ordered(">", steps, top), top, steps)
    clipped = b.select(b.fcmp_ordered("<", clipped, bottom), bottom, clipped)
    rounded = _round(w, clipped)
    is_nan = b.fcmp_unordered("uno", steps, steps)
    return b.select(is_nan, constant(rounded.type, NAN_CODE), rounded)


_codes = codes_tile(_write_code)
static_codes_row = codes_tile(_write_static_code)
"""Tile (source, address of the scale, codes, count): clip(rint(x / scale)), NaN becomes -128."""


@compiled
def scale_of(largest):
    """Scale of a row whose largest magnitude has the bits ``largest``."""
    if largest >= INFINITY_BITS:
        return float32(np.nan)
    return float32(1.0) if largest < SMALLEST_BITS else float_of(int32(largest)) / float32(127.0)


@compiled
def codes_row(source, count, largest, codes):
    """Write codes of a row by the bits of a largest magnitude: 0 if that is tiny or not finite."""
    if largest >= INFINITY_BITS or largest < SMALLEST_BITS:
        row_at(codes, count, np.int8)[:] = 0
        return
    factor = stack_bytes(64)
    row_at(factor, 1, np.float32)[0] = float32(127.0) / float_of(int32(largest))
    _codes(source, factor, codes, count)


@compiled
def quantize_row(source, count, codes, scale):
    """Write codes rint(x * (127 / absmax)) and, at address ``scale``, absmax / 127 of one row."""
    largest = absmax_bits(source, count)
    row_at(scale, 1, np.float32)[0] = scale_of(largest)
    codes_row(source, count, largest, codes)


@tile(3)
def softmax_row(w: Writer, source, target, count) -> None:
    """Tile (source, target, count): exp(x - max) over its sum."""
    b = w.b
    peak = Fold(float("-inf"), lambda a, c: w.larger(c, a))

    def largest(kind, offset, so_far):
        return [w.larger(w.load(kind, b.add(source, offset)), so_far)]

    (top,) = sweep(w, count, [peak], largest, widths=WIDE)

    def power(kind, offset, so_far):
        shifted = b.fsub(w.load(kind, b.add(source, offset)), splat(w, top, kind))
        value = write_exp(w, shifted)
        w.store(value, b.add(target, offset))
        return [b.fadd(so_far, value)]

    (total,) = sweep(w, count, [sum_fold(w)], power)
    inverse = b.fdiv(F32(1.0), total)

    def scaled(kind, offset):
        at = b.add(target, offset)
        w.store(b.fmul(w.load(kind, at), splat(w, inverse, kind)), at)
        return []

    sweep(w, count, [], scaled)
