"""Float linear layers with unstructured zeros on AVX2, few activation rows: fewer bytes to read.

With one to four rows a product waits for its weights, so they are read as they are stored, a bit
per weight and the nonzeros, and widened to vectors in registers: a byte of the mask picks from a
table where each of 8 lanes finds its value in the next 8 nonzeros.
"""

import functools

import numpy as np
from llvmlite import ir
from numba import float32, int8, int64, prange, uint8
from numpy.typing import NDArray

from kernels.bits import pack_bitmask
from kernels.finish import (
    FINISH,
    MISFIT,
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
from kernels.finish_rows import RAW
from kernels.jit import compiled, entry, in1, in2
from kernels.memory import aligned_zeros
from kernels.registry import SIMD, Arguments, Layout, Matrix, kernel
from kernels.simd import (
    F32,
    F32X8,
    I8X32,
    I32,
    I64,
    Value,
    Writer,
    constant,
    row_at,
    stack_bytes,
    tile,
)

F32X4 = ir.VectorType(F32, 4)

GROUP = 32
"""Columns per step: four bytes of the mask."""
TAIL_BYTES = 4 * GROUP * 4


@functools.cache
def _lane_table() -> NDArray[np.int8]:
    """For each mask byte and each of 32 bytes, which byte of its half to take, -1 for none.

    The halves of a vector hold the next nonzeros of the first and of the last four columns.
    """
    bits = (np.arange(256)[:, None] >> np.arange(8) & 1).reshape(256, 2, 4, 1)
    rank = np.cumsum(bits, axis=2) - 1
    table = aligned_zeros((256, 2, 4, 4), np.int8)
    table[...] = np.where(bits, 4 * rank + np.arange(4), -1)
    return table.reshape(-1)


def pack_masks(matrix: Matrix) -> Arguments:
    """Nonzeros row by row, where each row starts, masks ``[n][ceil(k / 32) * 4]``, lanes, n, k."""
    table, (n, k) = matrix.values, matrix.shape
    nonzero = table != 0
    values = np.zeros(int(np.count_nonzero(nonzero)) + 8, np.float32)  # read 8 at a time
    values[:-8] = table[nonzero]
    starts = np.zeros(n, np.int64)
    np.cumsum(nonzero.sum(axis=1)[:-1], out=starts[1:])
    masks = np.zeros((n, -(-k // GROUP) * 4), np.uint8)
    masks[:, : -(-k // 8)] = pack_bitmask(nonzero)
    return (values, starts, masks.reshape(-1), _lane_table(), n, k)


def rows_of_masks(arguments: Arguments, ids: NDArray[np.int64]) -> NDArray[np.float32]:
    """Rows ``(R, k)`` of the weights under masks."""
    values, starts, masks, _, n, k = arguments
    chosen = masks.reshape(n, -1)[ids]
    nonzero = np.unpackbits(chosen, axis=1, count=k, bitorder="little").astype(np.bool_)
    rank = np.cumsum(nonzero, axis=1) - 1 + starts[ids, None]
    return np.where(nonzero, values[np.maximum(rank, 0)], np.float32(0.0))


MASKS_F32 = Layout("masks_f32", pack_masks, rows_of_masks)


def _tile(rows: int):
    """Make the tile: out[r] = bias + sum over k of x[r][k] w[k] for one output.

    ``groups`` of 32 columns are read from x and one more, if ``tails`` is 1, from ``tail``, whose
    rows are 128 bytes apart.
    """
    sets = max(1, 4 // rows)

    def generate(
        w: Writer, x, x_step, groups, tail, tails, values, masks, lanes, bias, out, out_step
    ) -> None:
        b = w.b

        def group(acc, at, row, mask):
            """Add 32 columns to ``acc``; returns where the nonzeros go on."""
            for u in range(4):
                byte = b.zext(b.and_(b.lshr(mask, I32(8 * u)), I32(0xFF)), I64)
                lane = w.load(I8X32, b.add(lanes, b.mul(byte, I64(32))))
                low = w.load(F32X4, after(at, mask, 8 * u))
                high = w.load(F32X4, after(at, mask, 8 * u + 4))
                both = b.bitcast(w.shuffle(low, high, range(8)), I8X32)
                weight = w.call("llvm.x86.avx2.pshuf.b", I8X32, [both, lane])
                weight = b.bitcast(weight, F32X8)
                for r in range(rows):
                    i = r * sets + u % sets
                    acc[i] = w.fma(weight, w.load(F32X8, row[r], 32 * u), acc[i])
            return after(at, mask, 32), acc

        def after(at, mask, columns):
            """Where the nonzeros behind the first ``columns`` of the mask are."""
            before = b.and_(mask, I32((1 << columns) - 1))
            count = b.zext(w.call("llvm.ctpop.i32", I32, [before]), I64)
            return b.add(at, b.mul(count, I64(4)))

        def body(i, at, *carried: Value):
            row = [b.add(x, b.add(b.mul(x_step, I64(r)), b.mul(i, I64(128)))) for r in range(rows)]
            at, acc = group(list(carried), at, row, w.load(I32, b.add(masks, b.mul(i, I64(4)))))
            return [at, *acc]

        def rest(_i, at, *carried: Value):
            row = [w.at(tail, 128 * r) for r in range(rows)]
            mask = w.load(I32, b.add(masks, b.mul(groups, I64(4))))
            at, acc = group(list(carried), at, row, mask)
            return [at, *acc]

        state = w.loop(groups, [values] + [constant(F32X8, 0.0)] * (rows * sets), body)
        acc = w.loop(tails, state, rest)[1:]
        added = w.load(F32, bias)
        for r in range(rows):
            total = functools.reduce(b.fadd, acc[r * sets : (r + 1) * sets])
            total = b.fadd(w.reduce(total, b.fadd), added)
            w.store(total, b.add(out, b.mul(out_step, I64(r))))

    return tile(11)(generate)


_tile_1, _tile_2, _tile_4 = (_tile(rows) for rows in (1, 2, 4))


@compiled
def _span(x, x_step, t0, t1, values, starts, masks, lanes, n0, n1, k, plan, workspace, finishes):
    """Compute rows ``t0`` to ``t1`` of outputs ``n0`` to ``n1``; finish rows if they are whole."""
    tail, zero = stack_bytes(TAIL_BYTES), stack_bytes(4)
    row_at(zero, 1, np.float32)[0] = float32(0.0)
    row_at(tail, 4 * GROUP, np.float32)[:] = float32(0.0)
    groups, left = k // GROUP, k % GROUP
    tails = 1 if left else 0
    steps, out_step = (groups + tails) * 4, target_step(plan, workspace)
    start = row_at(starts, n1, np.int64)
    t = t0
    while t < t1:
        rows = min(4, t1 - t)
        rows = 2 if rows == 3 else rows
        mine = workspace if finishes or not workspace else workspace + t * out_step
        at_x, at_out = x + t * x_step, target_at(plan, mine, t)
        for r in range(rows if left else 0):
            row = row_at(tail + r * GROUP * 4, left, np.float32)
            row[:] = row_at(at_x + r * x_step + groups * GROUP * 4, left, np.float32)
        for j in range(n0, n1):
            v, m, y = values + start[j] * 4, masks + j * steps, at_out + j * 4
            b = bias_at(plan, j) or zero
            if rows == 4:
                _tile_4(at_x, x_step, groups, tail, tails, v, m, lanes, b, y, out_step)
            elif rows == 2:
                _tile_2(at_x, x_step, groups, tail, tails, v, m, lanes, b, y, out_step)
            else:
                _tile_1(at_x, x_step, groups, tail, tails, v, m, lanes, b, y, out_step)
        if finishes:
            finish_block(plan, mine, t, rows)
        t += rows


@kernel(
    "f32_masks",
    op="linear",
    values="f32_mask",
    activation="f32",
    layout=MASKS_F32,
    requires=SIMD,
)
@entry(
    in2(float32), in1(float32), in1(int64), in1(uint8), in1(int8), int64, int64, *FINISH
)  # fmt: skip
def linear_mask(
    x, values, starts, masks, lanes, n, k,
    w_scale, x_scale, bias, residual, out, codes, codes_scale, steps, threads,
):  # fmt: skip
    """Nonzero float weights under masks and float activations; both scales are unused."""
    status = misfit(
        x, k, n, w_scale, x_scale, bias, residual, out, codes, codes_scale, steps, threads
    )
    if status:
        return status
    if steps & RAW:
        return MISFIT
    plan = stack_bytes(PLAN_BYTES)
    fill(plan, n, w_scale, x_scale, bias, residual, out, codes, codes_scale, steps)
    height, at_x, x_step = x.shape[0], x.ctypes.data, x.strides[0]
    by_rows = splits_rows(height, threads)
    held = (ROW_BLOCK * threads if by_rows else height) if needs_rows(out, steps) else 0
    memory = np.empty((held, n), np.float32)
    at_values, at_starts = values.ctypes.data, starts.ctypes.data
    at_masks, at_lanes = masks.ctypes.data, lanes.ctypes.data
    for c in prange(threads):
        t0, t1 = share(height, ROW_BLOCK, threads, c) if by_rows else (0, height)
        n0, n1 = (0, n) if by_rows else share(n, 1, threads, c)
        mine = memory.ctypes.data if held else 0
        if mine and by_rows:
            mine += c * ROW_BLOCK * n * 4
        _span(
            at_x, x_step, t0, t1, at_values, at_starts, at_masks, at_lanes, n0, n1, k, plan, mine,
            by_rows,
        )  # fmt: skip
    if not by_rows:
        finish_block(plan, memory.ctypes.data if held else 0, 0, height)
    if held:
        memory[0, 0] = float32(0.0)  # keeps the rows alive until here
    return 0
