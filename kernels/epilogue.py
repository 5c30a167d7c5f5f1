"""From the sums of one panel to outputs: scales, bias, and the outputs that exist."""

import numpy as np
from numba import float32

from kernels.jit import compiled
from kernels.simd import F32 as F32_LANE
from kernels.simd import F32X8, I32X8, I64, Writer, row_at, stack_bytes, tile

WIDTH = 16
SCALED, RAW, FLOATS, ROW_SCALES = 0, 1, 2, 3
"""What becomes of sums: integers times both scales, integers as they are, floats times the scale
of the output, floats times the scale of the row."""


def _finish(*, is_integer: bool, by_row: bool, by_output: bool):
    """Make the step out[r] = sums[r] * x_scale[r] * w_scale + bias for 16 outputs.

    Every operation is rounded to float32, in this order, integers at first; a scale that is not
    asked for is left out.
    """

    def generate(w: Writer, sums, rows, x_scale, x_step, w_scale, bias, out, out_step) -> None:
        b = w.b

        def body(r):
            at, to = b.add(sums, b.mul(r, I64(64))), b.add(out, b.mul(r, out_step))
            for j in range(2):
                y = w.load(I32X8 if is_integer else F32X8, at, 32 * j)
                if is_integer:
                    y = w.to_f32(y)
                if by_row:
                    one = w.load(F32_LANE, b.add(x_scale, b.mul(r, x_step)))
                    y = b.fmul(y, w.splat(one, F32X8))
                if by_output:
                    y = b.fmul(y, w.load(F32X8, w_scale, 32 * j))
                w.store(b.fadd(y, w.load(F32X8, bias, 32 * j)), to, 32 * j)
            return []

        w.loop(rows, [], body)

    return tile(8)(generate)


_scaled = _finish(is_integer=True, by_row=True, by_output=True)
_floats = _finish(is_integer=False, by_row=False, by_output=True)
_row_scales = _finish(is_integer=False, by_row=True, by_output=False)


@compiled
def emit(sums, rows, width, x_scale, x_step, w_scale, bias, out, out_step, mode):
    """Write a panel's sums ``(rows, 16)`` as ``width <= 16`` outputs; ``bias`` 0 is none.

    All arguments but the counts and ``mode`` are addresses and bytes. The sums are overwritten.
    """
    if mode == RAW:
        for r in range(rows):
            row_at(out + r * out_step, width, np.int32)[:] = row_at(sums + r * 64, width, np.int32)
        return
    target, step = (out, out_step) if width == WIDTH else (sums, 64)
    scales, biases = stack_bytes(64), stack_bytes(64)
    row_at(biases, WIDTH, np.float32)[:] = float32(0.0)
    if width < WIDTH:
        row_at(scales, WIDTH, np.float32)[:] = float32(0.0)
        if mode != ROW_SCALES:
            row_at(scales, width, np.float32)[:] = row_at(w_scale, width, np.float32)
        if bias:
            row_at(biases, width, np.float32)[:] = row_at(bias, width, np.float32)
    at_scale = scales if width < WIDTH else w_scale
    at_bias = bias if bias and width == WIDTH else biases
    if mode == FLOATS:
        _floats(sums, rows, x_scale, x_step, at_scale, at_bias, target, step)
    elif mode == ROW_SCALES:
        _row_scales(sums, rows, x_scale, x_step, at_scale, at_bias, target, step)
    else:
        _scaled(sums, rows, x_scale, x_step, at_scale, at_bias, target, step)
    if width < WIDTH:
        for r in range(rows):
            y = row_at(out + r * out_step, width, np.float32)
            y[:] = row_at(sums + r * 64, width, np.float32)
