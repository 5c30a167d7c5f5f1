"""Activations as tiles ``[k][lanes]``, rows side by side, and sums ``[n][lanes]`` as rows again.

A tile turns a product with an irregular weight matrix into regular vectors: a weight is broadcast
and multiplied with one line of the tile. Both ways move 8 x 4 numbers at a time through registers.
"""

import numpy as np
from llvmlite import ir
from numba import float32

from kernels.jit import compiled
from kernels.simd import F32 as F32_LANE
from kernels.simd import F32X8, I8, I64, Value, Writer, row_at, stack_bytes, tile

LANES = 64
"""Rows of activations in the widest tile."""
OUTPUTS = 64
"""Outputs that are written together: their sums for 64 rows, 16 KiB, stay in a 32 KiB L1."""


@compiled
def lanes_for(rows):
    """Lanes of the next tile, at most 64; one row needs no tile.

    The fewest that hold ``rows``, but 32 for up to 48 rows: 64 lanes cost more than 32 and 16.
    """
    if rows == 1:
        return 1
    if 32 < rows <= 48:
        return 32
    lanes = 8
    while lanes < rows and lanes < LANES:
        lanes *= 2
    return lanes


def _turned(w: Writer, kind: ir.Type, source: Value, step: Value) -> list[Value]:
    """Four columns of 8 from 8 rows of 4 numbers of ``kind``, ``step`` bytes apart, as floats."""
    quad = ir.VectorType(kind, 4)
    at = [w.b.add(source, w.b.mul(step, I64(i))) for i in range(8)]
    rows = [w.shuffle(w.load(quad, at[i]), w.load(quad, at[i + 4]), range(8)) for i in range(4)]
    if kind != F32_LANE:
        rows = [w.b.sitofp(row, F32X8) for row in rows]
    low, high = [0, 8, 1, 9, 4, 12, 5, 13], [2, 10, 3, 11, 6, 14, 7, 15]
    front, back = [0, 1, 8, 9, 4, 5, 12, 13], [2, 3, 10, 11, 6, 7, 14, 15]
    columns = []
    for order in (low, high):
        first, second = (w.shuffle(rows[i], rows[i + 1], order) for i in (0, 2))
        columns += [w.shuffle(first, second, half) for half in (front, back)]
    return columns


def _fill(kind: ir.Type):
    """Make the step: 4 columns of 8 rows of ``kind`` become 4 lines of 8 floats."""

    def generate(w: Writer, source, source_step, target, target_step) -> None:
        for i, column in enumerate(_turned(w, kind, source, source_step)):
            w.store(column, w.b.add(target, w.b.mul(target_step, I64(i))))

    return tile(4)(generate)


_fill_floats, _fill_codes = _fill(F32_LANE), _fill(I8)


@tile(8)
def _write_four(
    w: Writer, source, source_step, target, target_step, x_scale, x_scale_step, w_scale, bias
) -> None:
    """Write 4 columns of 8 rows as 4 rows of 8: value * x_scale[row] * w_scale + bias."""
    b = w.b
    scale, added = w.load(F32X8, w_scale), w.load(F32X8, bias)
    for i, column in enumerate(_turned(w, F32_LANE, source, source_step)):
        one = w.load(F32_LANE, b.add(x_scale, b.mul(x_scale_step, I64(i))))
        y = b.fmul(b.fmul(column, w.splat(one, F32X8)), scale)
        w.store(b.fadd(y, added), b.add(target, b.mul(target_step, I64(i))))


@compiled
def _number(at, is_codes):
    """One activation, a float or a code, as float."""
    return float32(row_at(at, 1, np.int8)[0]) if is_codes else row_at(at, 1, np.float32)[0]


@compiled
def fill_tile(x, x_step, is_codes, count, k, target, lanes):
    """Write ``count`` rows of k floats or codes side by side, zeros beyond them."""
    size = 1 if is_codes else 4
    t = 0
    while t < lanes:
        source, lane = x + t * x_step, target + t * 4
        k0 = 0
        if t + 8 <= count:
            k0 = k // 4 * 4
            if is_codes:
                for i in range(0, k0, 4):
                    _fill_codes(source + i, x_step, lane + i * lanes * 4, lanes * 4)
            else:
                for i in range(0, k0, 4):
                    _fill_floats(source + i * 4, x_step, lane + i * lanes * 4, lanes * 4)
        for i in range(k0, k):
            line = row_at(lane + i * lanes * 4, 8, np.float32)
            for j in range(8):
                value = float32(0.0)
                if t + j < count:
                    value = _number(source + j * x_step + i * size, is_codes)
                line[j] = value
        t += 8


@compiled
def write_out(sums, lanes, count, n, x_scale, x_scale_step, w_scale, bias, out, out_step):
    """Write sums ``[n][lanes]`` as ``count`` rows: sum * x_scale * w_scale + bias, each rounded.

    All but the counts are addresses and bytes; 0 means an absent scale (1) or bias (0).
    """
    ones, zeros, edge = stack_bytes(64), stack_bytes(64), stack_bytes(128)
    row_at(ones, 8, np.float32)[:] = float32(1.0)
    row_at(zeros, 8, np.float32)[:] = float32(0.0)
    for j0 in range(0, n, OUTPUTS):
        last = min(j0 + OUTPUTS, n)
        whole = j0 + (last - j0) // 8 * 8
        for t in range(0, count, 4):
            at_x = x_scale + t * x_scale_step if x_scale else ones
            step = x_scale_step if x_scale and count - t >= 4 else 0
            for j in range(j0, whole, 8):
                source, target = sums + (j * lanes + t) * 4, out + t * out_step + j * 4
                at_w, at_b = w_scale + j * 4 if w_scale else ones, bias + j * 4 if bias else zeros
                if count - t >= 4:
                    _write_four(source, lanes * 4, target, out_step, at_x, step, at_w, at_b)
                    continue
                for r in range(count - t):  # lanes beyond the last row hold zeros
                    one = at_x + r * x_scale_step if x_scale else ones
                    _write_four(source, lanes * 4, edge, 32, one, 0, at_w, at_b)
                    row_at(target + r * out_step, 8, np.float32)[:] = row_at(
                        edge + r * 32, 8, np.float32
                    )
    for j in range(n // 8 * 8, n):
        scale = row_at(w_scale + j * 4 if w_scale else ones, 1, np.float32)[0]
        added = row_at(bias + j * 4 if bias else zeros, 1, np.float32)[0]
        for t in range(count):
            one = row_at(x_scale + t * x_scale_step if x_scale else ones, 1, np.float32)[0]
            value = row_at(sums + (j * lanes + t) * 4, 1, np.float32)[0]
            row_at(out + t * out_step + j * 4, 1, np.float32)[0] = value * one * scale + added
