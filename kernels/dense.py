"""Float linear layers on AVX2.

Panels hold 16 outputs side by side, ``[ceil(n / 16)][k][16]``, so that a step along k loads two
vectors of weights and broadcasts one activation per row. Work is cut along k: a block of a panel
(16 KiB) stays in L1 while all rows of the block pass it, and the next one is fetched meanwhile.
Rows of activations may overlap.
"""

import numpy as np
from numba import float32, int64, prange
from numpy.typing import NDArray

from kernels.finish import (
    FINISH,
    PLAN_BYTES,
    ROW_BLOCK,
    bias_at,
    fill,
    finish_block,
    misfit,
    needs_rows,
    share,
    splits_rows,
    target_at,
    target_step,
)
from kernels.float_tiles import (
    LONGEST_BLOCK,
    STREAMS,
    WIDTH,
    block_steps,
    copy_block,
    copy_step,
    panel_rows,
    panels_row,
)
from kernels.jit import compiled, entry, in1, in2
from kernels.memory import aligned_zeros
from kernels.registry import SIMD, Arguments, Layout, Matrix, kernel
from kernels.row_ops import copy_row
from kernels.simd import row_at, stack_bytes

LARGEST_BLOCK = ROW_BLOCK + 24
"""Rows of the last block at most: reading all weights again for a few rows would cost more."""
ZEROS_BYTES = STREAMS * WIDTH * 4
EDGE_BYTES = LARGEST_BLOCK * WIDTH * 4
FEW_ROWS = 3
"""Up to this many rows, reading the weights is the work: several panels are read at once."""
FEW_PANELS = 16
"""With fewer panels than this, copying activations costs more than it saves."""
PANEL_GROUP = 8
"""Panels that pass a block of rows together, when the copies of all its columns fit L2."""
SHORT_K = 1024


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
def block_rows(left):
    """Rows of the next block when ``left`` rows remain: ROW_BLOCK, or all if few more."""
    return left if left <= LARGEST_BLOCK else ROW_BLOCK


@compiled
def copies_bytes(rows, panels, k):
    """Bytes that the copied activations of one block of up to ``rows`` rows take, 0 for none."""
    if rows <= FEW_ROWS or panels < FEW_PANELS:
        return 0
    widest = copy_step(LONGEST_BLOCK) if k > SHORT_K else 0
    left = k if k <= SHORT_K else 0
    while left > 0:
        widest += copy_step(block_steps(left))
        left -= block_steps(left)
    return min(rows, LARGEST_BLOCK) * widest


@compiled
def _few_rows(x, x_step, rows, panels, first, last, k, bias, zeros, out, out_step):
    """Write the outputs of panels ``first`` to ``last``, all of 16, STREAMS panels at a time."""
    for p in range(first, last, STREAMS):
        k0 = 0
        while k0 < k:
            steps = block_steps(k - k0)
            panel = panels + (p * k + k0) * 64
            for r in range(rows):
                a, y = x + r * x_step + k0 * 4, out + r * out_step + p * 64
                start = y if k0 else (bias + p * 64 if bias else zeros)
                panels_row(a, panel, k * 64, steps, start, y)
            k0 += steps


@compiled
def _fill_starts(zeros, edge_start, left, bias):
    """Write what outputs without a bias start from, and those of a last panel of ``left``."""
    row = row_at(zeros, STREAMS * WIDTH, np.float32)
    for i in range(row.size):
        row[i] = float32(0.0)
    copy_row(zeros, edge_start, WIDTH)
    if bias:
        copy_row(bias, edge_start, left)


@compiled
def _block(x, x_step, rows, panels, first, last, n, k, bias, out, out_step, copies):
    """Write outputs of panels ``first`` to ``last`` of ``x w^T + bias`` for up to LARGEST_BLOCK.

    All but the counts are addresses and bytes; ``bias`` and ``copies`` 0 are none. Activations are
    copied block by block: with a short k those of all columns stay, with a long one each block of
    columns meets all panels at once.
    """
    zeros, edge_start, edge = stack_bytes(ZEROS_BYTES), stack_bytes(64), stack_bytes(EDGE_BYTES)
    left = n % WIDTH if last * WIDTH > n else 0
    _fill_starts(zeros, edge_start, left, bias + (n - left) * 4 if bias else 0)
    if rows <= FEW_ROWS:
        wide = first + max(0, min(last, n // WIDTH) - first) // STREAMS * STREAMS
        _few_rows(x, x_step, rows, panels, first, wide, k, bias, zeros, out, out_step)
        first = wide
    is_short = k <= SHORT_K
    group = PANEL_GROUP if is_short else max(1, last - first)
    for g in range(first, last, group):
        copy, k0, end = copies, 0, min(g + group, last)
        while k0 < k:
            steps = block_steps(k - k0)
            a, a_step = x + k0 * 4, x_step
            if copies:
                if g == first:
                    copy_block(a, x_step, rows, steps, copy)
                a, a_step = copy, copy_step(steps)
                copy += rows * a_step if is_short else 0
            for p in range(g, end):
                panel = panels + (p * k + k0) * 64
                ahead = panel + k * 64 if p + 1 < end else panels + (g * k + k0 + steps) * 64
                y, y_step, start = out + p * 64, out_step, bias + p * 64 if bias else zeros
                if (p + 1) * WIDTH > n:
                    y, y_step, start = edge, 64, edge_start
                start, start_step = (y, y_step) if k0 else (start, 0)
                panel_rows(
                    a, a_step, rows, panel, steps, start, start_step, y, y_step, ahead, steps * 64
                )
            k0 += steps
    for r in range(rows if first < last else 0):
        copy_row(edge + r * 64, out + r * out_step + (n - left) * 4, left)


@compiled
def matmul(x, x_step, rows, panels, n, k, bias, out, out_step):
    """Write ``x w^T + bias`` for any number of rows; addresses and bytes as in ``_block``."""
    wide = (n + WIDTH - 1) // WIDTH
    copies = np.empty(copies_bytes(rows, wide, k), np.uint8)
    at_copies = int64(copies.ctypes.data) if copies.size else int64(0)
    t = 0
    while t < rows:
        count = block_rows(rows - t)
        a, y = x + t * x_step, out + t * out_step
        _block(a, x_step, count, panels, 0, wide, n, k, bias, y, out_step, at_copies)
        t += count
    if copies.size:
        copies[0] = 0  # keeps the array alive until here


@compiled
def _span(x, x_step, t0, t1, panels, first, last, n, k, plan, workspace, finishes):
    """Compute rows ``t0`` to ``t1`` of some panels block by block; finish blocks if they are whole.

    ``workspace`` holds one block when the span finishes its rows, else all of them.
    """
    copies = np.empty(copies_bytes(t1 - t0, last - first, k), np.uint8)
    at_copies = int64(copies.ctypes.data) if copies.size else int64(0)
    step = target_step(plan, workspace)
    t = t0
    while t < t1:
        count = block_rows(t1 - t)
        mine = workspace if finishes or not workspace else workspace + t * step
        y = target_at(plan, mine, t)
        a, bias = x + t * x_step, bias_at(plan, 0)
        _block(a, x_step, count, panels, first, last, n, k, bias, y, step, at_copies)
        if finishes:
            finish_block(plan, mine, t, count)
        t += count
    if copies.size:
        copies[0] = 0  # keeps the array alive until here


@kernel("f32_6x16", op="linear", values="f32", activation="f32", layout=PANELS_F32, requires=SIMD)
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
    plan = stack_bytes(PLAN_BYTES)
    fill(plan, n, w_scale, x_scale, bias, residual, out, codes, codes_scale, steps)
    rows, wide = x.shape[0], (n + WIDTH - 1) // WIDTH
    by_rows = splits_rows(rows, threads)
    block = min(rows, LARGEST_BLOCK)
    held = (block * threads if by_rows else rows) if needs_rows(out, steps) else 0
    memory = np.empty((held, n), np.float32)
    at_x, at_panels, x_step = int64(x.ctypes.data), int64(panels.ctypes.data), x.strides[0]
    at_memory = int64(memory.ctypes.data) if held else int64(0)
    for c in prange(threads):
        t0, t1 = share(rows, ROW_BLOCK, threads, c) if by_rows else (0, rows)
        first, last = (0, wide) if by_rows else share(wide, 1, threads, c)
        mine = at_memory + (c * block * n * 4 if held and by_rows else 0)
        _span(at_x, x_step, t0, t1, at_panels, first, last, n, k, plan, mine, by_rows)
    if not by_rows:
        finish_block(plan, at_memory, int64(0), rows)
    return 0
