"""Linear layers with unstructured zeros on AVX2: the work is that of the nonzeros.

Activations are turned into tiles ``[k][lanes]`` of up to 64 rows side by side. A nonzero weight is
broadcast and multiplied with one line of the tile, so no pattern of zeros is needed. Columns come
in blocks whose part of a tile stays in a 32 KiB L1. Codes are multiplied as floats, which is exact
(kernels.exact), and cost a widening of weights that 8 FMAs a nonzero hide.
"""

import sys

import numpy as np
from numba import float32, int8, int32, int64, prange, uint16
from numpy.typing import NDArray

from kernels.exact import has_forbidden, raw_rows, require_exact, scale_rows, widen, widen_padded
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
from kernels.jit import compiled, entry, host_features, in1, in2
from kernels.lanes import LANES, fill_tile, lanes_for, write_out
from kernels.memory import aligned_zeros
from kernels.registry import SIMD, Arguments, Layout, Matrix, kernel
from kernels.simd import row_at, stack_bytes
from kernels.sparse_tiles import tile_1, tile_2, tile_4, tile_8, tile_one

STEP_BLOCK, LONG_STEP_BLOCK = 96, 128
"""Columns per block: 96 lines of 64 floats are 24 KiB; few nonzeros gain from fewer blocks."""
LONG_DENSITY = 0.15
OUTPUT_BLOCK = 512
"""Outputs per block: their sums for 64 rows, 128 KiB, stay in a 512 KiB L2."""
FEW_OUTPUTS = 1024
"""Up to so many, all sums stay in L2, and a tile is filled one block of columns at a time."""
SLACK = 8
"""Values after the last that may be read; the widened codes of a line have as many."""
WIDENED_BYTES = 4 * (LONG_STEP_BLOCK + SLACK)


BREAK_EVEN = ((2, 0.55), (8, 0.4), (24, 0.5), (sys.maxsize, 0.6))
"""Density below which a sparse kernel wins over the dense one, for up to so many rows at a time.

Measured at 384 x 1536 on a Zen 3 core (99 GFLOP/s, 20 GB/s). Up to 8 rows are those of decoding,
whose steps read every layer once: 24 layers took turns, so weights came from memory; more rows are
those of encoders, with weights in the L3. Speed against the dense kernel at densities 0.8, 0.65,
0.5, 0.35, 0.2: 1 row 0.95, 1.0, 1.2, 1.4, 1.5; 8 rows 0.8, 0.9, 1.2, 1.6, 2.4; 16 rows 0.7, 0.85,
1.1, 1.45, 2.1; 1500 rows 0.9, 1.1, 1.4, 2.0, 2.8. Between 2 and 8 rows it is the least, as tiles of
8 lanes are filled in part.
"""
MASK_ROWS = 2
MASK_DENSITY = 0.15
"""Up to 2 rows and down to this density, masks (kernels.sparse_rows) beat indices."""


def choose_values(density: float, rows: int) -> tuple[str, str]:
    """Which form of a float matrix to prepare (f32, f32_csr, f32_mask) for ``rows``, and why.

    >>> choose_values(0.9, 1500)
    ('f32', 'density 0.90 above the break-even 0.60 at 1500 rows: widened to dense')
    """
    limit = next(limit for most, limit in BREAK_EVEN if rows <= most)
    if density >= limit:
        why = f"density {density:.2f} above the break-even {limit:.2f} at {rows} rows"
        return "f32", f"{why}: widened to dense"
    if not host_features().issuperset(SIMD):
        return "f32", f"density {density:.2f}, but the sparse kernels need AVX2: widened to dense"
    why = f"density {density:.2f} below the break-even {limit:.2f} at {rows} rows"
    if rows <= MASK_ROWS and density >= MASK_DENSITY:
        return "f32_mask", f"{why}: nonzeros read under masks"
    return "f32_csr", f"{why}: only nonzeros multiplied"


def step_block(density: float) -> int:
    """Columns per block for a share of nonzeros."""
    return STEP_BLOCK if density > LONG_DENSITY else LONG_STEP_BLOCK


def _pack(matrix: Matrix) -> Arguments:
    """Nonzeros by block of 512 outputs, block of columns, and output; then indices, n, k, block.

    Within a pair of blocks the outputs come by falling number of nonzeros: loops of equal length
    in sequence are what a CPU predicts. A line is one output of a pair: ``rows`` is its place in
    the output block and ``starts`` where its ``values`` and ``columns`` (counted from the block's
    first) are. Outputs without nonzeros have a line in the first column block only, which starts
    the sums. ``pairs`` says where the lines of each pair start, and ``places (n, column blocks)``
    which line holds an output, -1 for none.
    """
    table, (n, k) = matrix.values, matrix.shape
    step = step_block(np.count_nonzero(table) / table.size)
    blocks = -(-k // step)
    values, columns, rows, counts, pairs = [], [], [], [], [0]
    places = np.full((n, blocks), -1, np.int64)
    for n0 in range(0, n, OUTPUT_BLOCK):
        for index in range(blocks):
            block = table[n0 : n0 + OUTPUT_BLOCK, index * step : (index + 1) * step]
            count = np.count_nonzero(block, axis=1)
            order = np.argsort(-count, kind="stable")
            if index:
                order = order[count[order] > 0]
            block = block[order]
            values.append(block[block != 0])
            columns.append(np.nonzero(block)[1].astype(np.uint16))
            rows.append(order.astype(np.int32))
            counts.append(count[order])
            places[n0 + order, index] = pairs[-1] + np.arange(order.size)
            pairs.append(pairs[-1] + order.size)
    starts = np.zeros(pairs[-1] + 1, np.int64)
    np.cumsum(np.concatenate(counts), out=starts[1:])
    kept = aligned_zeros((int(starts[-1]) + SLACK,), table.dtype)
    kept[:-SLACK] = np.concatenate(values)
    return (
        kept,
        np.concatenate(columns),
        np.concatenate(rows),
        starts,
        np.array(pairs, np.int64),
        places.reshape(-1),
        n,
        k,
        step,
    )


def _pack_codes(matrix: Matrix) -> Arguments:
    require_exact(matrix.values, "sparse panel")
    return _pack(matrix)


def _rows(arguments: Arguments, ids: NDArray[np.int64]) -> NDArray[np.float32]:
    """Rows ``(R, k)`` of the weights in blocks."""
    values, columns, _, starts, _, places, n, k, step = arguments
    found = np.zeros((ids.size, k), np.float32)
    lines = places.reshape(n, -1)[ids]
    for r, index in zip(*np.nonzero(lines >= 0), strict=True):
        part = slice(starts[lines[r, index]], starts[lines[r, index] + 1])
        found[r, index * step + columns[part]] = values[part]
    return found


CSR_F32 = Layout("csr_blocks_f32", _pack, _rows)
CSR_I8 = Layout("csr_blocks_i8", _pack_codes, _rows)


# --- drivers --------------------------------------------------------------------------------


@compiled
def _multiply_pair(x, lanes, values, is_codes, columns, rows, starts, first, last, is_start, sums):
    """Add the lines of one pair of blocks to the sums ``[n][lanes]``, or start them."""
    zeros, widened = stack_bytes(256), stack_bytes(WIDENED_BYTES)
    row_at(zeros, 64, np.float32)[:] = float32(0.0)
    place = row_at(rows + first * 4, last - first, np.int32)
    until = row_at(starts + (first + 1) * 8, last - first, np.int64)
    begin = row_at(starts + first * 8, 1, np.int64)[0]
    for line in range(last - first):
        target = sums + int64(place[line]) * lanes * 4
        start = zeros if is_start else target
        count = until[line] - begin
        value, column = values + (begin if is_codes else 4 * begin), columns + 2 * begin
        begin += count
        if is_codes:
            widen_padded(value, count, widened)
            value = widened
        if lanes == 64:
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
def _block(
    x, x_step, x_codes, count, lanes, work, values, w_codes, columns, rows, starts, pairs,
    n0, n1, k, step, plan, t, out, out_step,
):  # fmt: skip
    """Write outputs ``n0`` to ``n1`` of ``count <= lanes`` rows, scaled, at ``out``.

    ``work`` holds a tile and sums. With few outputs all their sums stay in L2, and each block of
    columns of the tile is made once, just before its only use; with many the whole tile is made.
    """
    size, blocks = 1 if x_codes else 4, (k + step - 1) // step
    is_few = n1 - n0 <= FEW_OUTPUTS
    at_once = n1 - n0 if is_few else OUTPUT_BLOCK
    sums = work + tile_lines(n0, n1, k, step) * lanes * 4
    if not is_few:
        fill_tile(x, x_step, x_codes, count, k, work, lanes)
    for first in range(n0, n1, at_once):
        last = min(first + at_once, n1)
        for block in range(blocks):
            k0 = block * step
            at = work if is_few else work + k0 * lanes * 4
            if is_few:
                fill_tile(x + k0 * size, x_step, x_codes, count, min(step, k - k0), work, lanes)
            for n in range(first, last, OUTPUT_BLOCK):
                target = sums + (n - first) * lanes * 4
                pair = row_at(pairs + (n // OUTPUT_BLOCK * blocks + block) * 8, 2, np.int64)
                _multiply_pair(
                    at, lanes, values, w_codes, columns, rows, starts, pair[0], pair[1], k0 == 0,
                    target,
                )  # fmt: skip
        write_out(
            sums, lanes, count, last - first, x_scale_at(plan, t) if x_codes else 0,
            x_scale_step(plan), w_scale_at(plan, first) if w_codes else 0, bias_at(plan, first),
            out + first * 4, out_step,
        )  # fmt: skip


@compiled
def tile_lines(n0, n1, k, step):
    """Lines of the tiles that ``_block`` holds at a time."""
    return min(step, k) if n1 - n0 <= FEW_OUTPUTS else k


@compiled
def _single(
    x, x_codes, work, values, w_codes, columns, rows, starts, pairs, n0, n1, k, step, plan, t, out
):
    """Write outputs ``n0`` to ``n1`` of one row, scaled, at ``out``; ``work`` holds k floats."""
    source, blocks = x, (k + step - 1) // step
    if x_codes:
        widen(x, k, work)
        source = work
    for n in range(n0, n1, OUTPUT_BLOCK):
        for block in range(blocks):
            pair = row_at(pairs + (n // OUTPUT_BLOCK * blocks + block) * 8, 2, np.int64)
            _multiply_pair(
                source + block * step * 4, 1, values, w_codes, columns, rows, starts,
                pair[0], pair[1], block == 0, out + n * 4,
            )  # fmt: skip
    scale_rows(
        out + n0 * 4, 0, 1, n1 - n0, x_scale_at(plan, t) if x_codes else 0, 0,
        w_scale_at(plan, n0) if w_codes else 0, bias_at(plan, n0),
    )  # fmt: skip


@compiled
def _span(
    x, x_step, x_codes, t0, t1, values, w_codes, columns, rows, starts, pairs, n0, n1, k, step,
    plan, workspace, finishes,
):  # fmt: skip
    """Compute rows ``t0`` to ``t1`` of outputs ``n0`` to ``n1``; finish rows if they are whole.

    ``workspace`` holds one block when the span finishes its rows, else all of them.
    """
    if t0 == t1 or n0 == n1:
        return
    held = min(n1 - n0, FEW_OUTPUTS) + tile_lines(n0, n1, k, step)
    scratch = np.empty(max(lanes_for(t1 - t0) * held, k + SLACK) + 16, np.float32)
    work = (scratch.ctypes.data + 63) // 64 * 64
    out_step = target_step(plan, workspace)
    t = t0
    while t < t1:
        lanes = lanes_for(t1 - t)
        count = min(lanes, t1 - t)
        mine = workspace if finishes or not workspace else workspace + t * out_step
        at, out = x + t * x_step, target_at(plan, mine, t)
        if lanes == 1:
            _single(
                at, x_codes, work, values, w_codes, columns, rows, starts, pairs, n0, n1, k, step,
                plan, t, out,
            )  # fmt: skip
        else:
            _block(
                at, x_step, x_codes, count, lanes, work, values, w_codes, columns, rows, starts,
                pairs, n0, n1, k, step, plan, t, out, out_step,
            )  # fmt: skip
        if is_raw(plan):
            raw_rows(out + n0 * 4, out_step, count, n1 - n0)
        if finishes:
            finish_block(plan, mine, t, count)
        t += count
    scratch[0] = float32(0.0)  # keeps the array alive until here


def linear_csr(
    x, values, columns, rows, starts, pairs, places, n, k, step,
    w_scale, x_scale, bias, residual, out, codes, codes_scale, steps, threads,
):  # fmt: skip
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
    plan = stack_bytes(PLAN_BYTES)
    fill(plan, n, w_scale, x_scale, bias, residual, out, codes, codes_scale, steps)
    by_rows = splits_rows(height, threads)
    held = (ROW_BLOCK * threads if by_rows else height) if needs_rows(out, steps) else 0
    memory = np.empty((held, n), np.float32)
    at_values, at_columns, at_rows = values.ctypes.data, columns.ctypes.data, rows.ctypes.data
    at_starts, at_pairs = starts.ctypes.data, pairs.ctypes.data
    for c in prange(threads):
        t0, t1 = share(height, LANES, threads, c) if by_rows else (0, height)
        n0, n1 = (0, n) if by_rows else share(n, OUTPUT_BLOCK, threads, c)
        mine = memory.ctypes.data if held else 0
        if mine and by_rows:
            mine += c * ROW_BLOCK * n * 4
        _span(
            at_x, x_step, x_codes, t0, t1, at_values, w_codes, at_columns, at_rows, at_starts,
            at_pairs, n0, n1, k, step, plan, mine, by_rows,
        )  # fmt: skip
    if not by_rows:
        finish_block(plan, memory.ctypes.data if held else 0, 0, height)
    return 0


for _name, _values, _activation, _layout, _x, _w in (
    ("f32_csr_blocks", "f32_csr", "f32", CSR_F32, float32, float32),
    ("i8_csr_blocks", "i8_csr", "i8", CSR_I8, int8, int8),
    ("i8_csr_blocks_f32", "i8_csr", "f32", CSR_I8, float32, int8),
):
    kernel(
        _name, op="linear", values=_values, activation=_activation, layout=_layout, requires=SIMD
    )(
        entry(
            in2(_x), in1(_w), in1(uint16), in1(int32), in1(int64), in1(int64), in1(int64),
            int64, int64, int64, *FINISH,
        )(linear_csr)
    )  # fmt: skip
