"""Block-sparse linear layers on AVX2: 16 or 8 outputs side by side share a list of columns.

A panel keeps a column if any of its outputs has a nonzero there, so it fits blocks of 16x1, 8x1 or
32x32, masks shared by 16 rows, and any table in which zeros come in such runs. Activations stay
where they are. A block of columns of six activation rows stays in L1 while a group of panels that
fits L2 streams by. Codes are multiplied as floats, which is exact (kernels.exact).
"""

import functools

import numpy as np
from numba import float32, int8, int64, prange, uint16
from numpy.typing import NDArray

from kernels.blocks_tiles import slim_1, slim_2, slim_4, slim_6, wide_1, wide_2, wide_4, wide_6
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
from kernels.jit import compiled, entry, in1, in2
from kernels.memory import aligned_zeros
from kernels.registry import SIMD, Arguments, Layout, Matrix, kernel
from kernels.simd import row_at, stack_bytes

STEP_BLOCK = 768
"""Columns per block, at most: six rows of 768 floats are 18 KiB of a 32 KiB L1."""
COPY_STEP = 4 * STEP_BLOCK + 72
"""Bytes between rows of widened codes: no power of two, so that they do not compete for lines."""
GROUP_VALUES = 1 << 16
"""Values of the panels of a group: 256 KiB as floats. One panel has at most a fifth of them."""
HEIGHT = 6
"""Rows of the highest tile."""
SLACK = 8
EDGE_BYTES = HEIGHT * 64


def panel_columns(nonzero: NDArray[np.bool_], width: int) -> NDArray[np.bool_]:
    """Tell which columns each panel of ``width`` outputs keeps: ``(ceil(n / width), k)``."""
    n, k = nonzero.shape
    padded = np.zeros((-(-n // width) * width, k), np.bool_)
    padded[:n] = nonzero
    return padded.reshape(-1, width, k).any(axis=1)


def _pack(matrix: Matrix, width: int) -> Arguments:
    """Kept columns by block of columns and panel: ``values [kept][width]`` and ``columns``.

    ``starts (blocks * panels + 1)`` counts kept columns before each panel of each block; columns
    count from the block's first. Then n, k, columns per block and width.
    """
    table, (n, k) = matrix.values, matrix.shape
    blocks = -(-k // STEP_BLOCK)
    step = -(-k // blocks)
    kept = panel_columns(table != 0, width)
    padded = np.zeros((kept.shape[0] * width, k), table.dtype)
    padded[:n] = table
    panels = padded.reshape(-1, width, k).transpose(0, 2, 1)
    counts, columns, values = [], [], []
    for k0 in range(0, k, step):
        part = kept[:, k0 : k0 + step]
        counts.append(part.sum(axis=1))
        columns.append(np.nonzero(part)[1].astype(np.uint16))
        values.append(panels[:, k0 : k0 + step][part].reshape(-1))
    starts = np.zeros(blocks * kept.shape[0] + 1, np.int64)
    np.cumsum(np.concatenate(counts), out=starts[1:])
    packed = aligned_zeros((int(starts[-1]) * width + SLACK,), table.dtype)
    packed[:-SLACK] = np.concatenate(values)
    return (packed, np.concatenate(columns), starts, n, k, step, width)


def _pack_codes(matrix: Matrix, width: int) -> Arguments:
    require_exact(matrix.values, "block-sparse panel")
    return _pack(matrix, width)


def _rows(arguments: Arguments, ids: NDArray[np.int64]) -> NDArray[np.float32]:
    """Rows ``(R, k)`` of the weights in panels."""
    values, columns, starts, n, k, step, width = arguments
    panels = -(-n // width)
    lines = values[:-SLACK].reshape(-1, width)
    found = np.zeros((ids.size, k), np.float32)
    for block in range(-(-k // step)):
        for r, (panel, lane) in enumerate(zip(*divmod(ids, width), strict=True)):
            part = slice(*starts[block * panels + panel :][:2])
            found[r, block * step + columns[part]] = lines[part, lane]
    return found


def _layout(width: int, *, codes: bool) -> Layout:
    pack = functools.partial(_pack_codes if codes else _pack, width=width)
    return Layout(f"blocks_{width}x1_{'i8' if codes else 'f32'}", pack, _rows)


LAYOUTS = {(width, codes): _layout(width, codes=codes) for width in (16, 8) for codes in (0, 1)}


@compiled
def _tile_of(width, rows, x, x_step, values, columns, count, start, start_step, out, out_step):
    """Run the tile for ``rows`` activation rows and ``width`` outputs."""
    if width == 16:
        if rows == 6:
            wide_6(x, x_step, values, columns, count, start, start_step, out, out_step)
        elif rows == 4:
            wide_4(x, x_step, values, columns, count, start, start_step, out, out_step)
        elif rows == 2:
            wide_2(x, x_step, values, columns, count, start, start_step, out, out_step)
        else:
            wide_1(x, x_step, values, columns, count, start, start_step, out, out_step)
    elif rows == 6:
        slim_6(x, x_step, values, columns, count, start, start_step, out, out_step)
    elif rows == 4:
        slim_4(x, x_step, values, columns, count, start, start_step, out, out_step)
    elif rows == 2:
        slim_2(x, x_step, values, columns, count, start, start_step, out, out_step)
    else:
        slim_1(x, x_step, values, columns, count, start, start_step, out, out_step)


@compiled
def _panel(width, rows, x, x_step, values, columns, count, outputs, start, out, out_step, edge):
    """Add one panel's columns to ``outputs <= width`` sums of each row.

    They begin with those at ``start``, the same for each row, or if that is 0 with those in out.
    """
    if outputs == width:
        at, step = (start, 0) if start else (out, out_step)
        _tile_of(width, rows, x, x_step, values, columns, count, at, step, out, out_step)
        return
    for r in range(rows):  # through a whole tile's outputs
        line = row_at(edge + r * 64, width, np.float32)
        line[:] = float32(0.0)
        line[:outputs] = row_at(start or out + r * out_step, outputs, np.float32)
    _tile_of(width, rows, x, x_step, values, columns, count, edge, 64, edge, 64)
    for r in range(rows):
        line = row_at(out + r * out_step, outputs, np.float32)
        line[:] = row_at(edge + r * 64, outputs, np.float32)


@compiled
def _group_end(start, first, last, width):
    """Panel after the last of a group that begins with ``first``."""
    end = first
    while end < last and (start[end + 1] - start[first]) * width <= GROUP_VALUES:
        end += 1
    return end


@compiled
def _rows_of_group(
    x, x_step, x_codes, rows, steps, copies, values, columns, start, first, end, n, width,
    is_start, bias, out, out_step, edge, zeros,
):  # fmt: skip
    """Run the panels of a group, whose ``values`` are floats, over a block of ``rows``."""
    t = 0
    at_step = COPY_STEP if x_codes else x_step
    while t < rows:
        left = rows - t
        height = HEIGHT if left >= HEIGHT else 4 if left >= 4 else 2 if left >= 2 else 1
        at, y = x + t * x_step, out + t * out_step
        if x_codes:
            for r in range(height):
                widen(at + r * x_step, steps, copies + r * COPY_STEP)
            at = copies
        for p in range(first, end):
            done = start[p] - start[first]
            _panel(
                width, height, at, at_step, values + done * width * 4, columns + start[p] * 2,
                start[p + 1] - start[p], min(width, n - p * width),
                (bias + p * width * 4 if bias else zeros) if is_start else 0,
                y + p * width * 4, out_step, edge,
            )  # fmt: skip
        t += height


@compiled
def _span(
    x, x_step, x_codes, t0, t1, values, w_codes, columns, starts, p0, p1, n, k, step, width,
    plan, workspace, finishes,
):  # fmt: skip
    """Compute rows ``t0`` to ``t1`` of panels ``p0`` to ``p1``; finish rows if they are whole.

    ``workspace`` holds one block when the span finishes its rows, else all of them.
    """
    panels = (n + width - 1) // width
    edge, zeros = stack_bytes(EDGE_BYTES), stack_bytes(64)
    row_at(zeros, 16, np.float32)[:] = float32(0.0)
    copied = HEIGHT * COPY_STEP
    held = 4 * (GROUP_VALUES + SLACK) if w_codes else 0
    scratch = np.empty(64 + copied + held, np.uint8)
    copies = (scratch.ctypes.data + 63) // 64 * 64
    widened = copies + copied
    out_step = target_step(plan, workspace)
    n0, n1 = p0 * width, min(p1 * width, n)
    for t in range(t0, t1, ROW_BLOCK):
        rows = min(ROW_BLOCK, t1 - t)
        mine = workspace if finishes or not workspace else workspace + t * out_step
        out = target_at(plan, mine, t)
        for block in range((k + step - 1) // step):
            k0 = block * step
            start = row_at(starts + block * panels * 8, panels + 1, np.int64)
            first = p0
            while first < p1:
                end = _group_end(start, first, p1, width)
                source = values + start[first] * width * (1 if w_codes else 4)
                if w_codes:
                    widen_padded(source, (start[end] - start[first]) * width, widened)
                    source = widened
                _rows_of_group(
                    x + t * x_step + k0 * (1 if x_codes else 4), x_step, x_codes, rows,
                    min(step, k - k0), copies, source, columns, start, first, end, n, width,
                    block == 0, 0 if w_codes else bias_at(plan, 0), out, out_step, edge,
                    zeros,
                )  # fmt: skip
                first = end
        if is_raw(plan):
            raw_rows(out + n0 * 4, out_step, rows, n1 - n0)
        elif w_codes:
            scale_rows(
                out + n0 * 4, out_step, rows, n1 - n0, x_scale_at(plan, t) if x_codes else 0,
                x_scale_step(plan), w_scale_at(plan, n0), bias_at(plan, n0),
            )  # fmt: skip
        if finishes:
            finish_block(plan, mine, t, rows)
    scratch[0] = 0  # keeps the array alive until here


def linear_blocks(
    x, values, columns, starts, n, k, step, width,
    w_scale, x_scale, bias, residual, out, codes, codes_scale, steps, threads,
):  # fmt: skip
    """Panels of kept columns; activations and weights are floats or codes."""
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
    by_rows, wide = splits_rows(height, threads), (n + width - 1) // width
    held = (ROW_BLOCK * threads if by_rows else height) if needs_rows(out, steps) else 0
    memory = np.empty((held, n), np.float32)
    at_values, at_columns, at_starts = values.ctypes.data, columns.ctypes.data, starts.ctypes.data
    for c in prange(threads):
        t0, t1 = share(height, ROW_BLOCK, threads, c) if by_rows else (0, height)
        p0, p1 = (0, wide) if by_rows else share(wide, 1, threads, c)
        mine = memory.ctypes.data if held else 0
        if mine and by_rows:
            mine += c * ROW_BLOCK * n * 4
        _span(
            at_x, x_step, x_codes, t0, t1, at_values, w_codes, at_columns, at_starts, p0, p1, n, k,
            step, width, plan, mine, by_rows,
        )  # fmt: skip
    if not by_rows:
        finish_block(plan, memory.ctypes.data if held else 0, 0, height)
    if held:
        memory[0, 0] = float32(0.0)  # keeps the rows alive until here
    return 0


def _entry(x, values):
    return entry(
        in2(x), in1(values), in1(uint16), in1(int64), int64, int64, int64, int64, *FINISH
    )(linear_blocks)  # fmt: skip


_floats, _codes, _wide = _entry(float32, float32), _entry(int8, int8), _entry(float32, int8)

for _width in (16, 8):
    for _name, _values, _activation, _run in (
        ("f32_blocks", "f32", "f32", _floats),
        ("i8_blocks", "i8", "i8", _codes),
        ("i8_blocks_f32", "i8", "f32", _wide),
    ):
        kernel(
            f"{_name}_{_width}x1",
            op="linear",
            values=f"{_values}_{_width}x1",
            activation=_activation,
            layout=LAYOUTS[_width, _values == "i8"],
            requires=SIMD,
        )(_run)
