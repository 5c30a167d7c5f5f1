"""Float linear layers on AVX2, from panels of float weights.

Panels hold 16 outputs side by side, ``[ceil(n / 16)][k][16]``, so that a step along k loads two
vectors of weights and broadcasts one activation per row. Rows of activations may overlap.
"""

import numpy as np
from numba import float32, int64, prange
from numpy.typing import NDArray

from kernels.finish import (
    FINISH,
    PLAN_BYTES,
    ROW_BLOCK,
    fill,
    finish_block,
    misfit,
    needs_rows,
    share,
    splits_rows,
)
from kernels.float_blocks import (
    FLOATS,
    LARGEST_BLOCK,
    WEIGHTS_BYTES,
    block,
    block_rows,
    fill_weights,
    scratch_bytes,
    span,
)
from kernels.float_tiles import WIDTH
from kernels.jit import compiled, entry, in1, in2
from kernels.memory import aligned_zeros
from kernels.registry import SIMD, Arguments, Layout, Matrix, kernel
from kernels.simd import stack_bytes


def pack_f32(matrix: Matrix) -> Arguments:
    """Panels ``[ceil(n / 16)][k][16]``, zeros past n; n and k."""
    table, (n, k) = matrix.values, matrix.shape
    panels = aligned_zeros((-(-n // WIDTH), k, WIDTH), np.float32)
    full = n // WIDTH
    panels[:full] = table[: full * WIDTH].reshape(full, WIDTH, k).transpose(0, 2, 1)
    if n % WIDTH:
        panels[full, :, : n % WIDTH] = table[full * WIDTH :].T
    return (panels.reshape(-1), n, k)


def rows_f32(arguments: Arguments, ids: NDArray[np.int64]) -> NDArray[np.float32]:
    """Rows ``(R, k)`` of the weights in panels."""
    panels, _, k = arguments
    return panels.reshape(-1, k, WIDTH)[ids // WIDTH, :, ids % WIDTH]


PANELS_F32 = Layout("panels_f32", pack_f32, rows_f32)


@compiled
def matmul(x, x_step, rows, panels, n, k, bias, out, out_step):
    """Write ``x w^T + bias`` for any number of rows; addresses and bytes, ``bias`` 0 for none."""
    wide = (n + WIDTH - 1) // WIDTH
    weights = stack_bytes(WEIGHTS_BYTES)
    fill_weights(weights, panels, 0, 0, n, k, k, FLOATS)
    scratch = np.empty(scratch_bytes(weights, rows, wide), np.uint8)
    at_scratch = int64(scratch.ctypes.data) if scratch.size else int64(0)
    t = 0
    while t < rows:
        count = block_rows(rows - t)
        a, y = x + t * x_step, out + t * out_step
        block(a, x_step, count, weights, 0, wide, bias, y, out_step, at_scratch)
        t += count
    if scratch.size:
        scratch[0] = 0  # keeps the array alive until here


@kernel("f32_dense", op="linear", values="f32", activation="f32", layout=PANELS_F32, requires=SIMD)
@entry(in2(float32), in1(float32), int64, int64, *FINISH)
def linear_f32(
    x, panels, n, k,
    w_scale, x_scale, bias, residual, out, codes, codes_scale, steps, threads,
):  # fmt: skip
    """Float weights in panels and float activations; both scales are unused."""
    status = misfit(
        x, k, n, w_scale, x_scale, bias, residual, out, codes, codes_scale, steps, threads
    )
    if status:
        return status
    plan, weights = stack_bytes(PLAN_BYTES), stack_bytes(WEIGHTS_BYTES)
    fill(plan, n, w_scale, x_scale, bias, residual, out, codes, codes_scale, steps)
    fill_weights(weights, int64(panels.ctypes.data), 0, 0, n, k, k, FLOATS)
    rows, wide = x.shape[0], (n + WIDTH - 1) // WIDTH
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
    return 0
