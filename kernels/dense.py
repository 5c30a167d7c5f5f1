"""Float linear layers on AVX2: register tiles of 6 rows by 16 outputs.

Panels hold 16 outputs side by side, ``[ceil(n / 16)][k][16]``, so that a step along k loads two
vectors of weights and broadcasts one activation per row. Activations stay where they are; rows
may overlap.
"""

import functools

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
from kernels.jit import compiled, entry, in1, in2
from kernels.memory import aligned_zeros
from kernels.registry import SIMD, Arguments, Layout, Matrix, kernel
from kernels.simd import F32 as F32_LANE
from kernels.simd import F32X8, I64, Value, Writer, constant, row_at, stack_bytes, tile

WIDTH = 16
STEP_BLOCK = 384
"""Steps of k per block: 96 rows by 384 steps of activations stay in a 512 KiB L2."""
EDGE_BYTES = ROW_BLOCK * WIDTH * 4
UNROLL = 4


def pack_f32(matrix: Matrix) -> Arguments:
    """Panels ``[ceil(n / 16)][k][16]``, zeros past n, and n."""
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


def _step(w: Writer, acc, rows, at_x, at_w, offset):
    """Add one step of k to ``acc``, two vectors per row."""
    weights = [w.load(F32X8, at_w, offset * 64 + 32 * j) for j in range(2)]
    for r, row in enumerate(rows):
        value = w.splat(w.load(F32_LANE, w.b.add(row, at_x), offset * 4), F32X8)
        for j in range(2):
            acc[2 * r + j] = w.fma(value, weights[j], acc[2 * r + j])


def _tile(rows: int):
    """Make the tile: out[r][0:16] = start[r] + sum over k of x[r][k] w[k][0:16].

    ``start`` is an address whose rows are ``start_step`` bytes apart: a bias with step 0, or the
    sums so far. With few rows several sets of sums run side by side to hide the FMA's latency.
    """
    sets = max(1, 4 // rows)
    size = 2 * rows

    def generate(w: Writer, x, x_step, panel, steps, start, start_step, out, out_step) -> None:
        b = w.b
        row = [b.add(x, b.mul(x_step, I64(r))) for r in range(rows)]
        whole = b.sdiv(steps, I64(UNROLL))

        def body(i, *carried: Value):
            acc = [list(carried[s * size : (s + 1) * size]) for s in range(sets)]
            at_x, at_w = b.mul(i, I64(UNROLL * 4)), b.add(panel, b.mul(i, I64(UNROLL * 64)))
            for u in range(UNROLL):
                _step(w, acc[u % sets], row, at_x, at_w, u)
            return [value for one in acc for value in one]

        def rest(i, *carried: Value):
            acc = list(carried)
            k = b.add(i, b.mul(whole, I64(UNROLL)))
            _step(w, acc, row, b.mul(k, I64(4)), b.add(panel, b.mul(k, I64(64))), 0)
            return acc

        first = [
            w.load(F32X8, b.add(start, b.mul(start_step, I64(r))), 32 * j)
            for r in range(rows)
            for j in range(2)
        ]
        first += [constant(F32X8, 0.0)] * (size * (sets - 1))
        acc = w.loop(whole, first, body)
        acc = w.loop(b.srem(steps, I64(UNROLL)), acc, rest)
        for i in range(size):
            total = functools.reduce(b.fadd, acc[i::size])
            w.store(total, b.add(out, b.mul(out_step, I64(i // 2))), 32 * (i % 2))

    return tile(8)(generate)


_tile_1, _tile_2, _tile_4, _tile_6 = (_tile(rows) for rows in (1, 2, 4, 6))


@compiled
def _panel_rows(x, x_step, rows, panel, steps, start, start_step, out, out_step):
    """Run the tiles of one panel over ``rows`` activation rows."""
    t = 0
    while t < rows:
        a, s, y = x + t * x_step, start + t * start_step, out + t * out_step
        left = rows - t
        if left >= 6:
            _tile_6(a, x_step, panel, steps, s, start_step, y, out_step)
            t += 6
        elif left >= 4:
            _tile_4(a, x_step, panel, steps, s, start_step, y, out_step)
            t += 4
        elif left >= 2:
            _tile_2(a, x_step, panel, steps, s, start_step, y, out_step)
            t += 2
        else:
            _tile_1(a, x_step, panel, steps, s, start_step, y, out_step)
            t += 1


@compiled
def _last_panel(x, x_step, rows, panel, n, k, bias, out, out_step):
    """Run a panel of ``n < 16`` outputs through a tile of 16 on the stack, and copy n of them."""
    edge = stack_bytes(EDGE_BYTES)
    start = stack_bytes(64)
    first = row_at(start, 16, np.float32)
    first[:] = float32(0.0)
    if bias:
        first[:n] = row_at(bias, n, np.float32)
    _panel_rows(x, x_step, rows, panel, k, start, 0, edge, 64)
    for r in range(rows):
        row_at(out + r * out_step, n, np.float32)[:] = row_at(edge + r * 64, n, np.float32)


@compiled
def _block(x, x_step, rows, panels, first, last, n, k, bias, out, out_step):
    """Write outputs of panels ``first`` to ``last`` of ``x w^T + bias`` for up to ROW_BLOCK rows.

    All but the counts are addresses and bytes; ``bias`` 0 is none.
    """
    zeros = stack_bytes(64)
    row_at(zeros, 16, np.float32)[:] = float32(0.0)
    full = min(last, n // 16)
    for k0 in range(0, k, STEP_BLOCK):
        steps = min(STEP_BLOCK, k - k0)
        for p in range(first, full):
            panel, target = panels + (p * k + k0) * 64, out + p * 64
            start = target if k0 else (bias + p * 64 if bias else zeros)
            start_step = out_step if k0 else 0
            _panel_rows(x + k0 * 4, x_step, rows, panel, steps, start, start_step, target, out_step)
    if last > full:
        at_bias = bias + full * 64 if bias else 0
        panel, target = panels + full * k * 64, out + full * 64
        _last_panel(x, x_step, rows, panel, n - full * 16, k, at_bias, target, out_step)


@compiled
def matmul(x, x_step, rows, panels, n, k, bias, out, out_step):
    """Write ``x w^T + bias`` for any number of rows; addresses and bytes as in ``_block``."""
    wide = (n + WIDTH - 1) // WIDTH
    for t in range(0, rows, ROW_BLOCK):
        count = min(ROW_BLOCK, rows - t)
        a, y = x + t * x_step, out + t * out_step
        _block(a, x_step, count, panels, 0, wide, n, k, bias, y, out_step)


@compiled
def _span(x, x_step, t0, t1, panels, first, last, n, k, plan, workspace, finishes):
    """Compute rows ``t0`` to ``t1`` of some panels block by block; finish blocks if they are whole.

    ``workspace`` holds one block when the span finishes its rows, else all of them.
    """
    for t in range(t0, t1, ROW_BLOCK):
        count = min(ROW_BLOCK, t1 - t)
        step = target_step(plan, workspace)
        mine = workspace if finishes or not workspace else workspace + t * step
        _block(
            x + t * x_step,
            x_step,
            count,
            panels,
            first,
            last,
            n,
            k,
            bias_at(plan, 0),
            target_at(plan, mine, t),
            step,
        )
        if finishes:
            finish_block(plan, mine, t, count)


@kernel("f32_6x16", op="linear", values="f32", activation="f32", layout=PANELS_F32, requires=SIMD)
@entry(in2(float32), in1(float32), int64, int64, *FINISH)
def linear_f32(
    x,
    panels,
    n,
    k,
    w_scale,
    x_scale,
    bias,
    residual,
    out,
    codes,
    codes_scale,
    steps,
    threads,
):
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
    held = (ROW_BLOCK * threads if by_rows else rows) if needs_rows(out, steps) else 0
    memory = np.empty((held, n), np.float32)
    at_x, x_step, at_panels = x.ctypes.data, x.strides[0], panels.ctypes.data
    for c in prange(threads):
        t0, t1 = share(rows, ROW_BLOCK, threads, c) if by_rows else (0, rows)
        first, last = (0, wide) if by_rows else share(wide, 1, threads, c)
        mine = memory.ctypes.data if held else 0
        if mine and by_rows:
            mine += c * ROW_BLOCK * n * 4
        _span(at_x, x_step, t0, t1, at_panels, first, last, n, k, plan, mine, by_rows)
    if not by_rows:
        finish_block(plan, memory.ctypes.data if held else 0, 0, rows)
    return 0
