"""Blocks of activation rows made ready for products with integer panels."""

from typing import NamedTuple

import numpy as np

from kernels.activations import (
    FORBIDDEN,
    copy_row,
    longest_run,
    note_sums,
    row_bytes,
    split_rows,
    sums_octets,
    widest_sums,
)
from kernels.epilogue import clear_words
from kernels.jit import compiled
from kernels.quads import QUAD, WIDTH, quads_of
from kernels.simd import row_at, stack_bytes

LARGEST_BLOCK = 144
"""Most rows of a block; blocks of a span differ little, and all but the last are whole tiles."""
USUAL_BLOCK = 96
PIECE_QUADS = 256
"""Quads of a panel that are multiplied together: 16 KiB of bytes, half of a first-level cache."""
TILE_ROWS = 6


class Weights(NamedTuple):
    """Panels as ``quads`` lays them out, by address; scales, zeros 0 where there are none."""

    panels: int
    scales: int
    zeros: int
    n: int
    k: int
    group: int
    bits: int
    offset: int


class Rows(NamedTuple):
    """A block of prepared rows: addresses, and bytes from row to row."""

    count: int
    codes: int
    step: int
    starts: int  # int32 [groups][count]: minus the offset times the sum of the codes
    sums: int  # float32 [groups][count]: that sum
    runs: int  # int32 [count]: quads to sum in 16 bits, the same for all rows of a tile
    zeros: int  # float32 [16]: zero points where there are none
    extras: int
    extra_step: int
    ends: int  # int32 [tiles][groups]: extras up to the end of a group
    unpacked: int


@compiled
def tile_height(left):
    """Rows of the next tile when ``left`` rows remain."""
    return 6 if left >= 6 else 4 if left >= 4 else 2 if left >= 2 else 1


@compiled
def block_rows(rows):
    """Rows of each block but the last when a span of ``rows`` is cut into even blocks."""
    blocks = max(1, (rows + USUAL_BLOCK // 2) // USUAL_BLOCK)
    if rows > blocks * LARGEST_BLOCK:
        blocks += 1
    even = (rows + blocks - 1) // blocks
    return min(LARGEST_BLOCK, (even + TILE_ROWS - 1) // TILE_ROWS * TILE_ROWS)


@compiled
def groups_of(w):
    """Return the number of groups of one row of the weights."""
    return (w.k + w.group - 1) // w.group


@compiled
def is_grouped(w):
    """Tell whether sums become floats group by group."""
    return w.scales != 0


@compiled
def scratch_bytes(w, rows):
    """Bytes of memory that ``prepare`` and ``multiply`` need for blocks of ``rows``."""
    groups, quads = groups_of(w), quads_of(w.bits, w.group)
    step = row_bytes(groups * quads * QUAD)
    size = rows * step + 4 * rows * (2 * groups + 1) + 64 * 9
    if w.bits == 8:
        return size + rows * groups * (quads * 16 + 4) + TILE_ROWS * (step // 4)
    return size + 64 * (PIECE_QUADS + 4)


@compiled
def prepare(w, x, x_step, count, limit, scratch):
    """Copy ``count`` rows of codes to ``scratch`` with all that the products need of them.

    Returns (rows, whether all codes lie within ``limit``).
    """
    groups, quads = groups_of(w), quads_of(w.bits, w.group)
    padded, is_bytes = quads * QUAD, w.bits == 8
    step = row_bytes(groups * padded)
    codes = (scratch + 63) // 64 * 64
    unpacked = codes + count * step
    starts = unpacked + (0 if is_bytes else 64 * (PIECE_QUADS + 4))
    sums = starts + 4 * count * groups
    runs = sums + 4 * count * groups
    zeros = runs + 4 * count
    ends = zeros + 64
    extras = ends + (4 * count * groups if is_bytes else 0)
    extra_step = groups * quads * 16 if is_bytes else 0
    flags, flag_step = extras + count * extra_step, step // 4
    rows = Rows(count, codes, step, starts, sums, runs, zeros, extras, extra_step, ends, unpacked)
    total = stack_bytes(64)
    clear_words(zeros, WIDTH)
    run = row_at(runs, count, np.int32)
    t = 0
    tile = 0
    while t < count:
        height = tile_height(count - t)
        widest = 0
        for r in range(t, t + height):
            mine = codes + r * step
            mask = flags + (r - t) * flag_step if is_bytes else 0
            found = copy_row(x + r * x_step, w.k, w.group, padded, mine, limit, mask, total)
            if found == FORBIDDEN:
                return rows, False
            at = 4 * r
            note_sums(mine, padded, groups, found, w.offset, starts + at, sums + at, 4 * count)
            if not is_bytes:
                widest = max(widest, widest_sums(mine, groups * padded, total))
        if is_bytes:
            blocks = (groups * padded + 31) // 32
            by_octet = height >= 4 and sums_octets(flags, flag_step, height, blocks)
            for r in range(t, t + height):
                run[r] = 2 if by_octet else 1
            split_rows(
                codes + t * step, step, height, flags, flag_step, quads, groups, by_octet,
                extras + t * extra_step, extra_step, ends + 4 * tile * groups,
            )  # fmt: skip
        else:
            longest = longest_run(w.bits, widest, quads, groups)
            for r in range(t, t + height):
                run[r] = longest
        t += height
        tile += 1
    return rows, True
