"""Linear layers of one-bit weights and int8 activations on AVX2, exact sums.

Every four codes of a row become two tables of sixteen bytes, the digits of all sums that their
signs can make; ``binary_tiles`` looks up and adds those that the weights choose.
"""

import numpy as np
from numba import float32, int8, int64, prange, uint8

from kernels.binary_panels import (
    BLOCK_BYTES,
    EDGE_BYTES,
    FACTOR_BYTES,
    INDEX_BYTES,
    copy_bytes,
    emit_pair,
    emit_raw,
    factors_of,
    fill_bytes,
    pack_bits,
    round_up,
    unpack_rows,
)
from kernels.binary_tiles import (
    CODES_OFFSET,
    EIGHT,
    PANEL,
    WIDE,
    code_tables,
    prefetch_rows,
    sum_codes,
    unpack,
)
from kernels.finish import (
    FINE,
    FINISH,
    FORBIDDEN_CODE,
    MISFIT,
    PLAN_BYTES,
    ROW_BLOCK,
    fill,
    finish_block,
    is_raw,
    misfit,
    needs_rows,
    share,
    splits_rows,
    target_at,
    target_step,
    x_scale_at,
    x_scale_step,
)
from kernels.finish_rows import RAW
from kernels.jit import compiled, entry, in1, in2
from kernels.registry import Layout
from kernels.simd import row_at, stack_bytes

BITS = Layout("panels_bits", pack_bits, unpack_rows)
TABLES_BYTES = 128 * 1024
"""Tables of some rows, which stay in L2 while all weights pass by."""
FEWEST_ROWS = 10
"""Rows that share unpacked weights, however long their tables are."""
ROW_SUM_BYTES = 4 * WIDE
START_BYTES, WORD_BYTES = 4 * ROW_BLOCK, 2 * WIDE


@compiled
def _table_step(k):
    """Bytes of the tables of a row of ``k`` codes: 32 for four, whole lots of EIGHT lookups."""
    return 32 * round_up((k + 7) // 8 * 2, EIGHT)


@compiled
def _rows_at_once(rows, k):
    """Rows whose tables are made together, an even number or all."""
    return min(rows, max(FEWEST_ROWS, TABLES_BYTES // _table_step(k) // 2 * 2))


@compiled
def _prepare(x, x_step, rows, k, copy, tables, starts):
    """Write the tables of rows, and what to add to each sum; FORBIDDEN_CODE after a code -128.

    ``copy`` is memory for one row in blocks of 8 codes, and 32 bytes.
    """
    blocks, step = (k + 7) // 8, _table_step(k)
    forbidden = copy + 8 * blocks
    for r in range(rows):
        copy_bytes(x + r * x_step, copy, k)
        fill_bytes(copy + k, 8 * blocks - k, 0)
        mine = tables + r * step
        code_tables(copy, mine, blocks, forbidden)
        fill_bytes(mine + 64 * blocks, step - 64 * blocks, 0)
        row_at(starts + 4 * r, 1, np.int32)[0] = -CODES_OFFSET * 2 * blocks
        found = row_at(forbidden, 4, np.int64)
        for i in range(4):
            if found[i] != 0:
                return FORBIDDEN_CODE
    return FINE


@compiled
def _outputs(tables, rows, panel, has_two, k, indices, zeros, sums, starts, width, x_scale, x_step,
             w_scale, bias, edge, target, step, raw):  # fmt: skip
    """Write up to 128 outputs of some rows from one or two packed panels.

    ``sums`` has room for all rows where k takes several blocks; ``zeros`` are followed by memory
    for the words of ``sum_codes``.
    """
    size, table_step, words = (k + 7) // 8, _table_step(k), zeros + ROW_SUM_BYTES
    for first in range(0, size, BLOCK_BYTES):
        part, is_last = min(BLOCK_BYTES, size - first), first + BLOCK_BYTES >= size
        unpack(panel + first * PANEL, indices, part)
        if has_two:
            unpack(panel + (size + first) * PANEL, indices + PANEL, part)
        eights = (2 * part + EIGHT - 1) // EIGHT
        for r in range(0, rows, 2):
            height = min(2, rows - r)
            y, at_starts = target + r * step, starts + 4 * r
            mine = sums + r * ROW_SUM_BYTES if size > BLOCK_BYTES else sums
            if is_last:
                prefetch_rows(y, step, height - 1, width // 16)
            for i in range(height):
                at, to = tables + (r + i) * table_step + first * 64, mine + i * ROW_SUM_BYTES
                sum_codes(at, indices, eights, to if first else zeros, words, to)
            if is_last and raw:
                emit_raw(mine, height, width, at_starts, y, step, False)
            elif is_last:
                emit_pair(mine, height, width, at_starts, x_scale + r * x_step, x_step, w_scale,
                          bias, edge, y, step, False)  # fmt: skip


@compiled
def _span(x, x_step, t0, t1, panels, first, last, n, k, plan, workspace, finishes):
    """Compute rows ``t0`` to ``t1`` of some panels; finish blocks of rows if they are whole.

    ``workspace`` holds one block when the span finishes its rows, else all of them. Returns
    FORBIDDEN_CODE after a code -128.
    """
    size, most = (k + 7) // 8, _rows_at_once(min(t1 - t0, ROW_BLOCK), k)
    summed = round_up(most if size > BLOCK_BYTES else 2, 2) * ROW_SUM_BYTES
    listed, copied = most * _table_step(k), 8 * size + 32
    scratch = np.empty(
        64 + INDEX_BYTES + ROW_SUM_BYTES + WORD_BYTES + summed + listed + copied, np.uint8
    )
    indices = (int64(scratch.ctypes.data) + 63) // 64 * 64
    zeros = indices + INDEX_BYTES
    sums = zeros + ROW_SUM_BYTES + WORD_BYTES
    tables = sums + summed
    copy = tables + listed
    fill_bytes(zeros, ROW_SUM_BYTES, 0)
    starts, held, edge = (
        stack_bytes(START_BYTES),
        stack_bytes(FACTOR_BYTES),
        stack_bytes(EDGE_BYTES),
    )
    fill_bytes(held, FACTOR_BYTES, 0)
    step, raw, x_next = int64(target_step(plan, workspace)), is_raw(plan), x_scale_step(plan)
    for t in range(t0, t1, ROW_BLOCK):
        count = min(ROW_BLOCK, t1 - t)
        mine = workspace if finishes or not workspace else workspace + t * step
        target, x_scale = int64(target_at(plan, mine, t)), int64(x_scale_at(plan, t))
        for r in range(0, count, most):
            rows = min(most, count - r)
            if _prepare(x + (t + r) * x_step, x_step, rows, k, copy, tables, starts):
                return FORBIDDEN_CODE
            for p in range(first, last, 2):
                n0 = p * PANEL
                width = min(WIDE, n - n0)
                w_scale, bias = (held, held) if raw else factors_of(plan, n0, width, held)
                _outputs(tables, rows, panels + n0 * size, p + 1 < last, k, indices, zeros, sums,
                         starts, min(width, (last - p) * PANEL), x_scale + r * x_next, x_next,
                         w_scale, bias, edge, target + r * step + 4 * n0, step, raw)  # fmt: skip
        if finishes:
            finish_block(plan, mine, t, count)
    scratch[0] = 0  # keeps the array alive until here
    return FINE


@entry(in2(int8), in1(uint8), int64, int64, *FINISH)
def linear_signs(
    x, panels, n, k, w_scale, x_scale, bias, residual, out, codes, codes_scale, steps, threads
):
    """Codes times one-bit weights in exact sums, then scales and bias."""
    status = misfit(
        x, k, n, w_scale, x_scale, bias, residual, out, codes, codes_scale, steps, threads
    )
    rows, wide = x.shape[0], (n + PANEL - 1) // PANEL
    if status:
        return status
    if not steps & RAW and (w_scale.size != n or (x_scale.size == 0 and rows > 0)):
        return MISFIT
    plan = stack_bytes(PLAN_BYTES)
    fill(plan, n, w_scale, x_scale, bias, residual, out, codes, codes_scale, steps)
    by_rows = splits_rows(rows, threads)
    held = (ROW_BLOCK * threads if by_rows else rows) if needs_rows(out, steps) else 0
    memory = np.empty((held, n), np.float32)
    at_memory = int64(memory.ctypes.data) if held else int64(0)
    at_x, x_step, at_panels = int64(x.ctypes.data), int64(x.strides[0]), int64(panels.ctypes.data)
    found = np.zeros(threads, np.int64)
    for c in prange(threads):
        t0, t1 = share(rows, ROW_BLOCK, threads, c) if by_rows else (0, rows)
        first, last = (0, wide) if by_rows else share(wide, 2, threads, c)
        mine = at_memory + c * ROW_BLOCK * n * 4 if by_rows and held else at_memory
        found[c] = _span(at_x, x_step, t0, t1, at_panels, first, last, n, k, plan, mine, by_rows)
    if found.max() == FINE and not by_rows:
        finish_block(plan, at_memory, 0, rows)
    if memory.size:
        memory[0, 0] = float32(0.0)  # keeps the array alive until here
    return found.max()
