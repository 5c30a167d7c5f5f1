"""Linear layers with scattered zeros on AVX2: the work is that of the nonzeros or 4 x 4 blocks.

Activations are turned into tiles ``[k][lanes]`` of up to 64 rows side by side. A nonzero weight is
broadcast and multiplied with one line of the tile, so no pattern of zeros is needed. Columns come
in blocks whose part of a tile stays in a 32 KiB L1. Codes are multiplied as floats, which is exact
(kernels.exact), and cost a widening of weights that 8 FMAs a nonzero hide.
"""

import numpy as np
from numba import float32, int8, int32, int64, prange, uint16

from kernels.csr import (
    CSR_F32,
    CSR_I8,
    LINE_BYTES,
    NARROW_F32,
    NARROW_I8,
    OUTPUT_BLOCK,
    SQUARES_F32,
    SQUARES_I8,
)
from kernels.exact import has_forbidden, raw_rows, scale_rows, widen, widen_padded
from kernels.finish import (
    FINISH,
    FORBIDDEN_CODE,
    MISFIT,
    PLAN_BYTES,
    ROW_BLOCK,
    bias_at,
    fill,
    finish_block,
    is_raw,
    misfit,
    needs_rows,
    share,
    splits_rows,
    target_at,
    target_step,
    w_scale_at,
    x_scale_at,
    x_scale_step,
)
from kernels.finish_rows import RAW
from kernels.jit import compiled, entry, in1, in2
from kernels.lanes import LANES, fill_tile, lanes_for, write_out
from kernels.registry import SIMD, kernel
from kernels.simd import row_at, stack_bytes
from kernels.sparse_tiles import (
    EDGE,
    square_1,
    square_2,
    tile_1,
    tile_2,
    tile_4,
    tile_8,
    tile_one,
)

FEW_OUTPUTS = 1024
"""Up to so many, all sums stay in L2, and a tile is filled one block of columns at a time."""

PANEL_BYTES = 80
_VALUES, _ARE_CODES, _COLUMNS, _ROWS, _STARTS, _PAIRS, _K, _STEP, _EDGE = range(9)
"""What a panel notes: addresses of its arrays, whether values are codes, and sizes."""


@compiled
def _panel_of(panel):
    return row_at(panel, PANEL_BYTES // 8, np.int64)


@compiled
def _padded(count, edge):
    """Round a number of steps or outputs up to whole blocks."""
    return (count + edge - 1) // edge * edge


@compiled
def _multiply_pair(panel, x, lanes, n, block, sums):
    """Add the columns of a block to the sums ``[outputs][lanes]`` of the output block of ``n``.

    ``x`` is where the block's lines of the tile begin; the first block of columns starts the sums.
    """
    p = _panel_of(panel)
    blocks, edge, is_codes = (p[_K] + p[_STEP] - 1) // p[_STEP], p[_EDGE], p[_ARE_CODES] != 0
    pair = row_at(p[_PAIRS] + (n // OUTPUT_BLOCK * blocks + block) * 8, 2, np.int64)
    lines = pair[1] - pair[0]
    zeros, widened = stack_bytes(256), stack_bytes(LINE_BYTES)
    row_at(zeros, 64, np.float32)[:] = float32(0.0)
    place = row_at(p[_ROWS] + pair[0] * 4, lines, np.int32)
    bound = row_at(p[_STARTS] + pair[0] * 8, lines + 1, np.int64)
    for line in range(lines):
        first, count = bound[line], bound[line + 1] - bound[line]
        target = sums + int64(place[line]) * edge * lanes * 4
        start = target if block else zeros
        value = p[_VALUES] + first * edge * edge * (1 if is_codes else 4)
        column = p[_COLUMNS] + 2 * first
        if is_codes:
            widen_padded(value, count * edge * edge, widened)
            value = widened
        if edge == EDGE:
            if lanes == 16:
                square_2(x, value, column, count, start, target)
            else:
                square_1(x, value, column, count, start, target)
        elif lanes == 64:
            tile_8(x, value, column, count, start, target)
        elif lanes == 32:
            tile_4(x, value, column, count, start, target)
        elif lanes == 16:
            tile_2(x, value, column, count, start, target)
        elif lanes == 1:
            tile_one(x, value, column, count, start, target)
        else:
            tile_1(x, value, column, count, start, target)


@compiled
def _fill(panel, x, x_step, x_codes, count, k0, steps, target, lanes):
    """Make the tile of ``steps`` columns from ``k0``; lines that fill up a block are zeros."""
    at = x + k0 * (1 if x_codes else 4)
    fill_tile(at, x_step, x_codes, count, steps, target, lanes)
    more = _padded(steps, _panel_of(panel)[_EDGE]) - steps
    row_at(target + steps * lanes * 4, more * lanes, np.float32)[:] = float32(0.0)


@compiled
def _tile_lines(panel, n0, n1):
    """Lines of the tile that ``_many`` holds at a time."""
    p = _panel_of(panel)
    return _padded(min(p[_STEP], p[_K]) if n1 - n0 <= FEW_OUTPUTS else p[_K], p[_EDGE])


@compiled
def _many(panel, x, x_step, x_codes, count, lanes, work, n0, n1, plan, t, out, out_step):
    """Write outputs ``n0`` to ``n1`` of ``count <= lanes`` rows, scaled, at ``out``.

    ``work`` holds a tile and sums. With few outputs all their sums stay in L2, and each block of
    columns of the tile is made once, just before its only use; with many the whole tile is made.
    """
    p = _panel_of(panel)
    k, step = p[_K], p[_STEP]
    is_few = n1 - n0 <= FEW_OUTPUTS
    at_once = n1 - n0 if is_few else OUTPUT_BLOCK
    sums = work + _tile_lines(panel, n0, n1) * lanes * 4
    if not is_few:
        _fill(panel, x, x_step, x_codes, count, 0, k, work, lanes)
    for first in range(n0, n1, at_once):
        last = min(first + at_once, n1)
        for block in range((k + step - 1) // step):
            k0 = block * step
            at = work if is_few else work + k0 * lanes * 4
            if is_few:
                _fill(panel, x, x_step, x_codes, count, k0, min(step, k - k0), work, lanes)
            for n in range(first, last, OUTPUT_BLOCK):
                _multiply_pair(panel, at, lanes, n, block, sums + (n - first) * lanes * 4)
        write_out(
            sums,
            lanes,
            count,
            last - first,
            x_scale_at(plan, t) if x_codes else 0,
            x_scale_step(plan),
            w_scale_at(plan, first) if p[_ARE_CODES] else 0,
            bias_at(plan, first),
            out + first * 4,
            out_step,
        )


@compiled
def _single(panel, x, x_codes, work, n0, n1, plan, t, out):
    """Write outputs ``n0`` to ``n1`` of one row, scaled, at ``out``; ``work`` holds k floats."""
    p = _panel_of(panel)
    k, step = p[_K], p[_STEP]
    if x_codes:
        widen(x, k, work)
    source = work if x_codes else x
    for n in range(n0, n1, OUTPUT_BLOCK):
        for block in range((k + step - 1) // step):
            _multiply_pair(panel, source + block * step * 4, 1, n, block, out + n * 4)
    at_x = x_scale_at(plan, t) if x_codes else 0
    at_w = w_scale_at(plan, n0) if p[_ARE_CODES] else 0
    scale_rows(out + n0 * 4, 0, 1, n1 - n0, at_x, 0, at_w, bias_at(plan, n0))


@compiled
def _next_lanes(panel, rows):
    """Lanes of the tile for the next of so many rows."""
    return lanes_for(rows) if _panel_of(panel)[_EDGE] == 1 else 16 if rows > 8 else 8


@compiled
def _span(panel, x, x_step, x_codes, t0, t1, n0, n1, plan, workspace, finishes):
    """Compute rows ``t0`` to ``t1`` of outputs ``n0`` to ``n1``; finish rows if they are whole.

    ``workspace`` holds one block when the span finishes its rows, else all of them.
    """
    if t0 == t1 or n0 == n1:
        return
    k, edge = _panel_of(panel)[_K], _panel_of(panel)[_EDGE]
    held = _padded(min(n1 - n0, FEW_OUTPUTS), edge) + _tile_lines(panel, n0, n1)
    scratch = np.empty(max(_next_lanes(panel, t1 - t0) * held, k) + 16, np.float32)
    work = (scratch.ctypes.data + 63) // 64 * 64
    out_step = target_step(plan, workspace)
    t = t0
    while t < t1:
        lanes = _next_lanes(panel, t1 - t)
        count = min(lanes, t1 - t)
        mine = workspace if finishes or not workspace else workspace + t * out_step
        at, out = x + t * x_step, target_at(plan, mine, t)
        if lanes == 1:
            _single(panel, at, x_codes, work, n0, n1, plan, t, out)
        else:
            _many(panel, at, x_step, x_codes, count, lanes, work, n0, n1, plan, t, out, out_step)
        if is_raw(plan):
            raw_rows(out + n0 * 4, out_step, count, n1 - n0)
        if finishes:
            finish_block(plan, mine, t, count)
        t += count
    scratch[0] = float32(0.0)  # keeps the array alive until here


def linear_sparse(
    x,
    values,
    columns,
    rows,
    starts,
    pairs,
    places,
    n,
    k,
    step,
    edge,
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
    """Nonzeros in blocks of columns; activations and weights are floats or codes."""
    status = misfit(
        x, k, n, w_scale, x_scale, bias, residual, out, codes, codes_scale, steps, threads
    )
    if status:
        return status
    x_codes, w_codes = x.itemsize == 1, values.itemsize == 1
    raw = (steps & RAW) != 0
    if (raw and not x_codes) or (w_codes and not raw and w_scale.size != n):
        return MISFIT
    if x_codes and not raw and x_scale.size == 0:
        return MISFIT
    height, at_x, x_step = x.shape[0], x.ctypes.data, x.strides[0]
    if x_codes and has_forbidden(at_x, x_step, height, k):
        return FORBIDDEN_CODE
    plan, panel = stack_bytes(PLAN_BYTES), stack_bytes(PANEL_BYTES)
    fill(plan, n, w_scale, x_scale, bias, residual, out, codes, codes_scale, steps)
    p = _panel_of(panel)
    p[_VALUES], p[_ARE_CODES], p[_COLUMNS] = values.ctypes.data, w_codes, columns.ctypes.data
    p[_ROWS], p[_STARTS], p[_PAIRS] = rows.ctypes.data, starts.ctypes.data, pairs.ctypes.data
    p[_K], p[_STEP], p[_EDGE] = k, step, edge
    by_rows = splits_rows(height, threads)
    held = (ROW_BLOCK * threads if by_rows else height) if needs_rows(out, steps) else 0
    memory = np.empty((held, n), np.float32)
    for c in prange(threads):
        t0, t1 = share(height, LANES, threads, c) if by_rows else (0, height)
        n0, n1 = (0, n) if by_rows else share(n, OUTPUT_BLOCK, threads, c)
        mine = memory.ctypes.data if held else 0
        if mine and by_rows:
            mine += c * ROW_BLOCK * n * 4
        _span(panel, at_x, x_step, x_codes, t0, t1, n0, n1, plan, mine, by_rows)
    if not by_rows:
        finish_block(plan, memory.ctypes.data if held else 0, 0, height)
    if held:
        memory[0, 0] = float32(0.0)  # keeps the rows alive until here
    return 0


def _entry(x, values):
    indices = (in1(uint16), in1(int32), in1(int64), in1(int64), in1(int64))
    sizes = (int64, int64, int64, int64)
    return entry(in2(x), in1(values), *indices, *sizes, *FINISH)(linear_sparse)


_floats, _codes, _wide = _entry(float32, float32), _entry(int8, int8), _entry(float32, int8)

for _name, _values, _activation, _layout, _run in (
    ("f32_csr_blocks", "f32_csr", "f32", CSR_F32, _floats),
    ("i8_csr_blocks", "i8_csr", "i8", CSR_I8, _codes),
    ("i8_csr_blocks_f32", "i8_csr", "f32", CSR_I8, _wide),
    ("f32_csr_narrow", "f32_narrow", "f32", NARROW_F32, _floats),
    ("i8_csr_narrow", "i8_narrow", "i8", NARROW_I8, _codes),
    ("i8_csr_narrow_f32", "i8_narrow", "f32", NARROW_I8, _wide),
    ("f32_squares", "f32_4x4", "f32", SQUARES_F32, _floats),
    ("i8_squares", "i8_4x4", "i8", SQUARES_I8, _codes),
    ("i8_squares_f32", "i8_4x4", "f32", SQUARES_I8, _wide),
):
    kernel(
        _name, op="linear", values=_values, activation=_activation, layout=_layout, requires=SIMD
    )(_run)
