"""Linear layers of one-bit weights and one-bit activations on AVX2, exact sums.

Weights are +1 and -1; activations are packed bits meaning +1 and -1 (b1) or 1 and 0 (u1). With d
counted over the steps where the signs of activation and weight differ (b1), or where the
activation is 1 and the weight -1 (u1), the sum of products is K - 2 d, or the number of ones - 2 d.
"""

import numpy as np
from numba import float32, int64, prange, uint8
from numpy.typing import NDArray

from kernels.binary_codes import BITS, linear_signs
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
    GROUP,
    LONGEST_RUN,
    PANEL,
    SHIFT_FACTOR,
    SUM_BYTES,
    WIDE,
    count_pairs,
    count_pairs_packed,
    pair_offsets,
    prefetch_rows,
    unpack,
)
from kernels.finish import (
    FINISH,
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
from kernels.memory import aligned_zeros
from kernels.registry import SIMD, Layout, kernel
from kernels.simd import row_at, stack_bytes

FEW_ROWS = 4
"""Up to this many rows, weights are unpacked in registers, not beforehand."""
ZERO_TABLE = 256 * 16
TABLE_BYTES = 32 + ZERO_TABLE + 16
"""Shift factor, tables of all pairs of four bits, and a table of zeros for steps past k."""
START_BYTES = 4 * ROW_BLOCK


def _tables(differ: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Shift factor, then table 16 a + c: byte w counts bits of ``differ`` for a, 16 times for c."""
    counts = np.bitwise_count(differ)
    made = aligned_zeros((TABLE_BYTES,), np.uint8)
    made[:32] = np.full(16, SHIFT_FACTOR, np.uint16).view(np.uint8)
    made[32 : 32 + ZERO_TABLE] = (counts[:, None] + 16 * counts[None, :]).reshape(-1)
    return made


_FOUR_BITS = np.arange(16, dtype=np.uint8)
_SIGNED = _tables(_FOUR_BITS[:, None] ^ _FOUR_BITS[None, :])
_UNSIGNED = _tables(_FOUR_BITS[:, None] & ~_FOUR_BITS[None, :])

SIGNED_BITS = Layout("panels_b1", lambda matrix: (*pack_bits(matrix), _SIGNED, 0), unpack_rows)
UNSIGNED_BITS = Layout("panels_u1", lambda matrix: (*pack_bits(matrix), _UNSIGNED, 1), unpack_rows)


@compiled
def _ones(row, size):
    """Count the ones in ``size`` bytes, a multiple of 8."""
    words = row_at(row, size // 8, np.uint64)
    total = np.uint64(0)
    for i in range(words.size):
        v = words[i]
        v -= (v >> np.uint64(1)) & np.uint64(0x5555555555555555)
        quads = (v >> np.uint64(2)) & np.uint64(0x3333333333333333)
        v = (v & np.uint64(0x3333333333333333)) + quads
        v = (v + (v >> np.uint64(4))) & np.uint64(0x0F0F0F0F0F0F0F0F)
        total += (v * np.uint64(0x0101010101010101)) >> np.uint64(56)
    return int64(total)


@compiled
def _offset_step(k):
    """Bytes of the table offsets of a pair of rows with ``k`` steps: 4 for 8 steps."""
    size = (k + 7) // 8
    return 4 * max(round_up(size, 16), round_up(size, GROUP))


@compiled
def _prepare(x, x_step, rows, k, copies, offsets, starts, is_unsigned):
    """Write table offsets of pairs of rows, and the sum of each row where no sign differs.

    ``copies`` is memory for two rows in blocks of 16 bytes; ``starts`` receives float32. Bits past
    k are cleared first; steps past the last byte choose the table of zeros.
    """
    size = (k + 7) // 8
    held, step = round_up(size, 16), _offset_step(k)
    last_bits = np.uint8(255 if k % 8 == 0 else (1 << (k % 8)) - 1)
    for r in range(0, rows, 2):
        fill_bytes(copies, 2 * held, 0)
        for half in range(min(2, rows - r)):
            mine = copies + half * held
            copy_bytes(x + (r + half) * x_step, mine, size)
            last = row_at(mine + size - 1, 1, np.uint8)
            last[0] = last[0] & last_bits
            ones = _ones(mine, held) if is_unsigned else k
            row_at(starts + 4 * (r + half), 1, np.float32)[0] = float32(ones)
        target = offsets + r // 2 * step
        pair_offsets(copies, copies + held, target, held // 16)
        padding = row_at(target + 4 * size, 2 * (round_up(size, GROUP) - size), np.uint16)
        for i in range(padding.size):
            padding[i] = ZERO_TABLE


@compiled
def _run_of(steps, longest):
    """Choose the steps between flushes: as even as can be."""
    runs = (steps + longest - 1) // longest
    return (steps + runs - 1) // runs


@compiled
def _narrow(offsets, rows, panel, k, tables, zeros, sums, starts, width, x_scale, x_step, w_scale,
            bias, edge, target, step, raw):  # fmt: skip
    """Write up to 64 outputs of some rows from one packed panel."""
    doubles = (k + 8 * GROUP - 1) // (8 * GROUP)
    run, offset_step = _run_of(doubles, LONGEST_RUN // 2), _offset_step(k)
    for r in range(0, rows, 2):
        count = min(2, rows - r)
        y, at_starts = target + r * step, starts + 4 * r
        at = offsets + r // 2 * offset_step
        count_pairs_packed(at, panel, doubles, run, tables, zeros, sums)
        if raw:
            emit_raw(sums, count, width, at_starts, y, step, True)
        else:
            emit_pair(sums, count, width, at_starts, x_scale + r * x_step, x_step, w_scale, bias,
                      edge, y, step, True)  # fmt: skip


@compiled
def _wide(offsets, rows, panel, k, indices, tables, zeros, sums, starts, width, x_scale, x_step,
          w_scale, bias, edge, target, step, raw):  # fmt: skip
    """Write up to 128 outputs of some rows from two packed panels, unpacked a block at a time.

    ``sums`` has room for all rows where k takes several blocks.
    """
    size = (k + 7) // 8
    groups, block = round_up(size, GROUP) // GROUP * 2, BLOCK_BYTES // GROUP * 2
    offset_step = _offset_step(k)
    for g in range(0, groups, block):
        first = g // 2 * GROUP
        part = min(BLOCK_BYTES, size - first)
        unpack(panel + first * PANEL, indices, part)
        unpack(panel + (size + first) * PANEL, indices + PANEL, part)
        count, is_last = min(block, groups - g), g + block >= groups
        run = _run_of(count, LONGEST_RUN)
        for r in range(0, rows, 2):
            height = min(2, rows - r)
            y, at_starts = target + r * step, starts + 4 * r
            mine = sums + r * SUM_BYTES if groups > block else sums
            if is_last:
                prefetch_rows(y, step, height - 1, width // 16)
            at = offsets + r // 2 * offset_step + g * GROUP * 2
            count_pairs(at, indices, count, run, tables, mine if g else zeros, mine)
            if is_last and raw:
                emit_raw(mine, height, width, at_starts, y, step, True)
            elif is_last:
                emit_pair(mine, height, width, at_starts, x_scale + r * x_step, x_step, w_scale,
                          bias, edge, y, step, True)  # fmt: skip


@compiled
def span(x, x_step, t0, t1, panels, first, last, n, k, tables, is_unsigned, plan, workspace,
          finishes):  # fmt: skip
    """Compute rows ``t0`` to ``t1`` of some panels; finish blocks of rows if they are whole.

    ``workspace`` holds one block when the span finishes its rows, else all of them.
    """
    size, most = (k + 7) // 8, round_up(min(t1 - t0, ROW_BLOCK), 2)
    listed, copied = most // 2 * _offset_step(k), 2 * round_up(size, 16)
    summed = (most if size > BLOCK_BYTES else 2) * SUM_BYTES
    scratch = np.empty(64 + INDEX_BYTES + 2 * SUM_BYTES + summed + copied + listed, np.uint8)
    indices = (int64(scratch.ctypes.data) + 63) // 64 * 64
    zeros = indices + INDEX_BYTES
    sums = zeros + 2 * SUM_BYTES
    copies = sums + summed
    offsets = copies + copied
    fill_bytes(zeros, 2 * SUM_BYTES, 0)
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
        _prepare(x + t * x_step, x_step, count, k, copies, offsets, starts, is_unsigned)
        p = first
        while p < last:
            n0, panel = p * PANEL, panels + p * PANEL * size
            is_wide = count > FEW_ROWS and p + 1 < last
            width = min(WIDE if is_wide else PANEL, n - n0)
            w_scale, bias = (held, held) if raw else factors_of(plan, n0, width, held)
            y = target + 4 * n0
            if is_wide:
                _wide(offsets, count, panel, k, indices, tables, zeros, sums, starts, width,
                      x_scale, x_next, w_scale, bias, edge, y, step, raw)  # fmt: skip
            else:
                _narrow(offsets, count, panel, k, tables, zeros, sums, starts, width,
                        x_scale, x_next, w_scale, bias, edge, y, step, raw)  # fmt: skip
            p += 2 if is_wide else 1
        if finishes:
            finish_block(plan, mine, t, count)
    scratch[0] = 0  # keeps the array alive until here


@entry(in2(uint8), in1(uint8), int64, int64, in1(uint8), int64, *FINISH)
def linear_bits(
    x, panels, n, k, tables, is_unsigned, w_scale, x_scale, bias, residual, out, codes, codes_scale,
    steps, threads,
):  # fmt: skip
    """Packed bits times one-bit weights in exact sums, then scales and bias."""
    status = misfit(
        x, (k + 7) // 8, n, w_scale, x_scale, bias, residual, out, codes, codes_scale, steps,
        threads,
    )  # fmt: skip
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
    at_x, x_step = int64(x.ctypes.data), int64(x.strides[0])
    at_panels, at_tables = int64(panels.ctypes.data), int64(tables.ctypes.data)
    for c in prange(threads):
        t0, t1 = share(rows, ROW_BLOCK, threads, c) if by_rows else (0, rows)
        first, last = (0, wide) if by_rows else share(wide, 2, threads, c)
        mine = at_memory + c * ROW_BLOCK * n * 4 if by_rows and held else at_memory
        span(at_x, x_step, t0, t1, at_panels, first, last, n, k, at_tables, is_unsigned, plan,
              mine, by_rows)  # fmt: skip
    if not by_rows:
        finish_block(plan, at_memory, 0, rows)
    if memory.size:
        memory[0, 0] = float32(0.0)  # keeps the array alive until here
    return 0


for _name, _activation, _layout, _run in (
    ("w1a1", "b1", SIGNED_BITS, linear_bits),
    ("w1u1", "u1", UNSIGNED_BITS, linear_bits),
    ("w1a8", "i8", BITS, linear_signs),
):
    kernel(_name, op="linear", values="b1", activation=_activation, layout=_layout, requires=SIMD)(
        _run
    )
