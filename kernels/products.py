"""Rows of activation codes times panels of weight codes: exact sums, block by block.

A block of rows is prepared once (``activations``) and meets every panel in turn. Along k a panel is
taken in pieces that stay in the first-level cache while all rows of the block pass.
"""

from typing import NamedTuple

import numpy as np
from numba import int64

from kernels.activations import (
    FORBIDDEN,
    copy_row,
    group_sums,
    longest_run,
    row_bytes,
    split_rows,
    sums_octets,
    widest_sums,
)
from kernels.epilogue import RAW, ROW_SCALES, SCALED, clear_words, emit
from kernels.jit import compiled
from kernels.lowbit_tiles import finish_group, tile_8, tile_low, unpack
from kernels.quads import QUAD, WIDTH, quad_bytes, quads_of
from kernels.simd import row_at, stack_bytes

LARGEST_BLOCK = 144
"""Most rows of a block; blocks of a span differ little, and all but the last are whole tiles."""
USUAL_BLOCK = 96
PIECE_QUADS = 256
"""Quads of a panel that are multiplied together: 16 KiB of bytes, half of a first-level cache."""
FEW_ROWS = 4
"""Up to this many rows packed codes are unpacked in registers, each time they are read."""
TILE_ROWS = 6
SUMS_BYTES = LARGEST_BLOCK * WIDTH * 4

_tile_8_1, _tile_8_2, _tile_8_4, _tile_8_6 = (tile_8(rows) for rows in (1, 2, 4, 6))
_paired_4, _paired_6 = (tile_8(rows, is_paired=True) for rows in (4, 6))
_tile_low_1, _tile_low_2, _tile_low_4, _tile_low_6 = (tile_low(rows, 8) for rows in (1, 2, 4, 6))
_direct_4_1, _direct_4_2 = (tile_low(rows, 4) for rows in (1, 2))
_direct_2_1, _direct_2_2 = (tile_low(rows, 2) for rows in (1, 2))
_unpack_4, _unpack_2 = unpack(4), unpack(2)
_finish_plain, _finish_zeros = finish_group(has_zeros=False), finish_group(has_zeros=True)


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
    sums: int  # int32 [groups][count]
    runs: int  # int32 [count]: quads to sum in 16 bits, the same for all rows of a tile
    extras: int
    extra_step: int
    ends: int  # int32 [tiles][groups]: extras up to the end of a group
    unpacked: int


class Target(NamedTuple):
    """Where a block of outputs goes and what scales it: addresses, and bytes from row to row.

    ``bias`` is 0 for none; ``x_scale_step`` is 0 for one scale.
    """

    w_scale: int
    x_scale: int
    x_scale_step: int
    bias: int
    out: int
    step: int


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
    size = rows * step + 4 * rows * (groups + 1) + 64 * 8
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
    sums = unpacked + (0 if is_bytes else 64 * (PIECE_QUADS + 4))
    runs = sums + 4 * count * groups
    ends = runs + 4 * count
    extras = ends + (4 * count * groups if is_bytes else 0)
    extra_step = groups * quads * 16 if is_bytes else 0
    flags, flag_step = extras + count * extra_step, step // 4
    rows = Rows(count, codes, step, sums, runs, extras, extra_step, ends, unpacked)
    total = stack_bytes(64)
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
            if groups == 1:
                row_at(sums + 4 * r, 1, np.int32)[0] = found
            else:
                group_sums(mine, padded, groups, sums + 4 * r, 4 * count)
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


@compiled
def _start(rows, w, t, height, g, sums):
    """Let the sums of a group start at minus the offset times the sum of its activations."""
    first = row_at(rows.sums + 4 * (g * rows.count + t), height, np.int32)
    for r in range(height):
        row = row_at(sums + r * 64, WIDTH, np.int32)
        start = -w.offset * first[r]
        for i in range(WIDTH):
            row[i] = start


@compiled
def _finish(rows, w, t, height, p, g, sums, floats):
    """Scale the sums of a group and add them to the floats."""
    groups = groups_of(w)
    at = 64 * (p * groups + g)
    x_sums = rows.sums + 4 * (g * rows.count + t)
    if w.zeros:
        _finish_zeros(height, sums, x_sums, w.scales + at, w.zeros + at, floats)
    else:
        _finish_plain(height, sums, x_sums, w.scales + at, 0, floats)


@compiled
def _bytes_tile(height, run, x, x_step, panel, quads, extras, extra_step, count, whole, sums):
    if run == 2 and height == 6:
        _paired_6(x, x_step, panel, quads, extras, extra_step, count, whole, sums)
    elif run == 2:
        _paired_4(x, x_step, panel, quads, extras, extra_step, count, whole, sums)
    elif height == 6:
        _tile_8_6(x, x_step, panel, quads, extras, extra_step, count, whole, sums)
    elif height == 4:
        _tile_8_4(x, x_step, panel, quads, extras, extra_step, count, whole, sums)
    elif height == 2:
        _tile_8_2(x, x_step, panel, quads, extras, extra_step, count, whole, sums)
    else:
        _tile_8_1(x, x_step, panel, quads, extras, extra_step, count, whole, sums)


@compiled
def _low_tile(height, x, x_step, panel, quads, run, sums):
    if height == 6:
        _tile_low_6(x, x_step, panel, quads, run, sums)
    elif height == 4:
        _tile_low_4(x, x_step, panel, quads, run, sums)
    elif height == 2:
        _tile_low_2(x, x_step, panel, quads, run, sums)
    else:
        _tile_low_1(x, x_step, panel, quads, run, sums)


@compiled
def _direct_tile(height, bits, x, x_step, panel, quads, run, sums):
    if bits == 2:
        if height == 2:
            _direct_2_2(x, x_step, panel, quads, run, sums)
        else:
            _direct_2_1(x, x_step, panel, quads, run, sums)
    elif height == 2:
        _direct_4_2(x, x_step, panel, quads, run, sums)
    else:
        _direct_4_1(x, x_step, panel, quads, run, sums)


@compiled
def _piece(whole, group):
    """Quads of a piece: whole groups, or a part of one that is longer."""
    if whole <= PIECE_QUADS:
        return whole
    return PIECE_QUADS // group * group if group <= PIECE_QUADS else PIECE_QUADS


@compiled
def panel_8(w, rows, p, sums, floats):
    """Sum panel ``p`` of 8-bit codes over all rows; int32 rows of 16 at ``sums``.

    With group scales the result is float32 rows of 16 at ``floats``.
    """
    groups, group = groups_of(w), quads_of(w.bits, w.group)
    quads = groups * group
    panel = w.panels + p * quads * 64
    piece = _piece(quads, group)
    runs = row_at(rows.runs, rows.count, np.int32)
    for q0 in range(0, quads, piece):
        q1 = min(quads, q0 + piece)
        t = 0
        tile = 0
        while t < rows.count:
            height = tile_height(rows.count - t)
            at = sums + 64 * t
            ends = row_at(rows.ends + 4 * tile * groups, groups, np.int32)
            q = q0
            while q < q1:
                g = q // group
                stop = min(q1, (g + 1) * group)
                if q == g * group:
                    _start(rows, w, t, height, g, at)
                before, count = int64(0), int64(0)
                if stop == (g + 1) * group:
                    before = int64(ends[g - 1]) if g else int64(0)
                    count = int64(ends[g]) - before
                _bytes_tile(
                    height,
                    runs[t],
                    rows.codes + t * rows.step + q * QUAD,
                    rows.step,
                    panel + q * 64,
                    stop - q,
                    rows.extras + t * rows.extra_step + before * 8,
                    rows.extra_step,
                    count,
                    panel,
                    at,
                )
                if is_grouped(w) and stop == (g + 1) * group:
                    _finish(rows, w, t, height, p, g, at, floats + 64 * t)
                q = stop
            t += height
            tile += 1


@compiled
def panel_low(w, rows, p, sums, floats):
    """Sum panel ``p`` of codes of 4, 3 or 2 bits over all rows, as ``panel_8``."""
    groups, group = groups_of(w), quads_of(w.bits, w.group)
    quads = groups * group
    packed = quad_bytes(w.bits)
    panel = w.panels + p * quads * packed
    is_direct = rows.count <= FEW_ROWS
    piece = quads if is_direct else _piece(quads, group)
    runs = row_at(rows.runs, rows.count, np.int32)
    for q0 in range(0, quads, piece):
        q1 = min(quads, q0 + piece)
        if not is_direct:
            if w.bits == 2:
                _unpack_2(panel + q0 * packed, rows.unpacked, q1 - q0)
            else:
                _unpack_4(panel + q0 * packed, rows.unpacked, q1 - q0)
        t = 0
        while t < rows.count:
            height = tile_height(rows.count - t)
            if is_direct:
                height = min(height, 2)
            at, run = sums + 64 * t, int64(runs[t])
            q = q0
            while q < q1:
                g = q // group
                stop = min(q1, (g + 1) * group)
                if q == g * group:
                    _start(rows, w, t, height, g, at)
                x = rows.codes + t * rows.step + q * QUAD
                if is_direct:
                    source = panel + q * packed
                    _direct_tile(height, w.bits, x, rows.step, source, stop - q, run, at)
                else:
                    source = rows.unpacked + (q - q0) * 64
                    _low_tile(height, x, rows.step, source, stop - q, run, at)
                if is_grouped(w) and stop == (g + 1) * group:
                    _finish(rows, w, t, height, p, g, at, floats + 64 * t)
                q = stop
            t += height


@compiled
def _write(w, rows, p, sums, floats, target, raw):
    """Turn the sums of a panel into outputs."""
    emit(
        floats if is_grouped(w) else sums,
        rows.count,
        min(WIDTH, w.n - p * WIDTH),
        target.x_scale,
        target.x_scale_step,
        target.w_scale + p * 64,
        target.bias + p * 64 if target.bias else int64(0),
        target.out + p * 64,
        target.step,
        RAW if raw else ROW_SCALES if is_grouped(w) else SCALED,
    )


@compiled
def multiply_8(w, rows, first, last, target, raw):
    """Write outputs of panels ``first`` to ``last`` of 8-bit codes for a prepared block.

    ``raw`` leaves int32 sums.
    """
    sums, floats = stack_bytes(SUMS_BYTES), stack_bytes(SUMS_BYTES)
    for p in range(first, last):
        if is_grouped(w):
            clear_words(floats, rows.count * WIDTH)
        panel_8(w, rows, p, sums, floats)
        _write(w, rows, p, sums, floats, target, raw)


@compiled
def multiply_low(w, rows, first, last, target, raw):
    """Write outputs of panels of 4, 3 or 2-bit codes for a prepared block, as ``multiply_8``."""
    sums, floats = stack_bytes(SUMS_BYTES), stack_bytes(SUMS_BYTES)
    for p in range(first, last):
        if is_grouped(w):
            clear_words(floats, rows.count * WIDTH)
        panel_low(w, rows, p, sums, floats)
        _write(w, rows, p, sums, floats, target, raw)
