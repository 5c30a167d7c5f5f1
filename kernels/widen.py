"""Weight-only linear layers on AVX2: codes of 8, 4, 3 and 2 bits times float32 activations.

The panels are those of the integer layers; no float copy of the weights is kept. With many rows a
block of a panel is widened once per block of rows, into L1, and multiplied as floats are; with few
rows codes become floats in registers. A weight is ``(code - zero point) * scale``; error bounds
are in ``kernels.float_blocks``.
"""

import numpy as np
from numba import float32, int64, prange, uint8

from kernels.finish import (
    FINISH,
    MISFIT,
    NAN_SCALE,
    PLAN_BYTES,
    ROW_BLOCK,
    fill,
    finish_block,
    misfit,
    needs_rows,
    share,
    splits_rows,
)
from kernels.float_blocks import LARGEST_BLOCK, WEIGHTS_BYTES, fill_weights, span
from kernels.float_tiles import WIDTH
from kernels.jit import compiled, entry, in1, in2
from kernels.quads import (
    GROUPS_2,
    GROUPS_3,
    GROUPS_4,
    GROUPS_8,
    PANELS_2,
    PANELS_3,
    PANELS_4,
    PANELS_8,
)
from kernels.registry import SIMD, kernel
from kernels.row_ops import copy_row
from kernels.simd import stack_bytes


@compiled
def _pad_scales(scales, n, w_scale):
    """Copy one scale per output to ``scales``, as many as the panels have, 0 past n."""
    for i in range(n, scales.size):
        scales[i] = float32(0.0)
    copy_row(int64(w_scale.ctypes.data), int64(scales.ctypes.data), n)


@compiled
def _has_nan(scales):
    found = 0
    for i in range(scales.size):
        found += np.isnan(scales[i])
    return found > 0


@entry(
    in2(float32), in1(uint8), in1(float32), in1(float32), int64, int64, int64, int64, *FINISH
)  # fmt: skip
def linear_wide(
    x, panels, scales, zeros, n, k, group, bits,
    w_scale, x_scale, bias, residual, out, codes, codes_scale, steps, threads,
):  # fmt: skip
    """Weight codes with a scale per output or with scales and zero points by group, float x."""
    status = misfit(
        x, k, n, w_scale, x_scale, bias, residual, out, codes, codes_scale, steps, threads
    )
    if status:
        return status
    if w_scale.size != (0 if scales.size else n):
        return MISFIT
    if _has_nan(w_scale):
        return NAN_SCALE
    rows, wide = x.shape[0], (n + WIDTH - 1) // WIDTH
    by_output = np.empty(0 if scales.size else wide * WIDTH, np.float32)
    at_scales = int64(scales.ctypes.data)
    if not scales.size:
        _pad_scales(by_output, n, w_scale)
        at_scales = int64(by_output.ctypes.data)
    at_zeros = int64(zeros.ctypes.data) if zeros.size else int64(0)
    plan, weights = stack_bytes(PLAN_BYTES), stack_bytes(WEIGHTS_BYTES)
    fill(plan, n, w_scale, x_scale, bias, residual, out, codes, codes_scale, steps)
    at_panels = int64(panels.ctypes.data)
    fill_weights(weights, at_panels, at_scales, at_zeros, n, k, group, bits)
    by_rows = splits_rows(rows, threads)
    height = min(rows, LARGEST_BLOCK)
    held = (height * threads if by_rows else rows) if needs_rows(out, steps) else 0
    memory = np.empty((held, n), np.float32)
    at_memory = int64(memory.ctypes.data) if held else int64(0)
    at_x, x_step = int64(x.ctypes.data), x.strides[0]
    for c in prange(threads):
        t0, t1 = share(rows, ROW_BLOCK, threads, c) if by_rows else (0, rows)
        first, last = (0, wide) if by_rows else share(wide, 1, threads, c)
        mine = at_memory + (c * height * n * 4 if held and by_rows else 0)
        span(at_x, x_step, t0, t1, weights, first, last, plan, mine, by_rows)
    if not by_rows:
        finish_block(plan, at_memory, int64(0), rows)
    if held:
        memory[0, 0] = float32(0.0)  # keeps the rows alive until here
    if by_output.size:
        by_output[0] = float32(0.0)  # keeps the array alive until here
    return 0


for _bits, _rows_layout, _groups_layout in (
    (8, PANELS_8, GROUPS_8),
    (4, PANELS_4, GROUPS_4),
    (3, PANELS_3, GROUPS_3),
    (2, PANELS_2, GROUPS_2),
):
    for _suffix, _layout in (("", _rows_layout), ("_group", _groups_layout)):
        kernel(
            f"w{_bits}a32{_suffix}",
            op="linear",
            values=f"i{_bits}{_suffix}",
            activation="f32",
            layout=_layout,
            requires=SIMD,
        )(linear_wide)
