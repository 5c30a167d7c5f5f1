"""From the sums of one panel to outputs: scales, bias, and the outputs that exist."""

import numpy as np
from numba import int64

from kernels.jit import compiled
from kernels.simd import F32 as F32_LANE
from kernels.simd import F32X8, I32X8, I64, Writer, row_at, stack_bytes, tile

WIDTH = 16
SCALED, RAW, ROW_SCALES = 0, 1, 2
"""What becomes of sums: integers times both scales, integers as they are, floats times the scale
of the row."""


@compiled
def copy_words(source, target, count):
    """Copy ``count`` words of 32 bits, without the checks that assigning slices compiles."""
    a, b = row_at(source, count, np.int32), row_at(target, count, np.int32)
    for i in range(count):
        b[i] = a[i]


@compiled
def clear_words(target, count):
    """Set ``count`` words of 32 bits to zero."""
    b = row_at(target, count, np.int32)
    for i in range(count):
        b[i] = 0


def _finish(*, is_integer: bool):
    """Make the step out[r] = sums[r] * x_scale[r] * w_scale + bias for 16 outputs.

    Every operation is rounded to float32, in this order, integers at first. Floats have been
    multiplied by the scales of the weights.
    """

    def generate(w: Writer, sums, rows, x_scale, x_step, w_scale, bias, out, out_step) -> None:
        b = w.b

        def body(r):
            at, to = b.add(sums, b.mul(r, I64(64))), b.add(out, b.mul(r, out_step))
            one = w.splat(w.load(F32_LANE, b.add(x_scale, b.mul(r, x_step))), F32X8)
            for j in range(2):
                if is_integer:
                    y = b.fmul(w.to_f32(w.load(I32X8, at, 32 * j)), one)
                    y = b.fmul(y, w.load(F32X8, w_scale, 32 * j))
                else:
                    y = b.fmul(w.load(F32X8, at, 32 * j), one)
                w.store(b.fadd(y, w.load(F32X8, bias, 32 * j)), to, 32 * j)
            return []

        w.loop(rows, [], body)

    return tile(8)(generate)


_scaled, _row_scales = _finish(is_integer=True), _finish(is_integer=False)


@compiled
def emit(sums, rows, width, x_scale, x_step, w_scale, bias, out, out_step, mode):
    """Write a panel's sums ``(rows, 16)`` as ``width <= 16`` outputs; ``bias`` 0 is none.

    All arguments but the counts and ``mode`` are addresses and bytes. The sums are overwritten.
    """
    if mode != RAW:
        scales, biases = w_scale, bias
        if width < WIDTH:  # what lies past the last output is not read
            scales = stack_bytes(64)
            clear_words(scales, WIDTH)
            if mode == SCALED:
                copy_words(w_scale, scales, width)
        if width < WIDTH or not bias:
            biases = stack_bytes(64)
            clear_words(biases, WIDTH)
            if bias:
                copy_words(bias, biases, width)
        target, step = (out, out_step) if width == WIDTH else (sums, int64(64))
        if mode == ROW_SCALES:
            _row_scales(sums, rows, x_scale, x_step, scales, biases, target, step)
        else:
            _scaled(sums, rows, x_scale, x_step, scales, biases, target, step)
    if mode == RAW or width < WIDTH:
        for r in range(rows):
            copy_words(sums + r * 64, out + r * out_step, width)
