"""Rows of activation codes times panels of weight codes: exact sums, block by block.

A block of rows is prepared once (``prepared``) and meets every panel in turn. Along k a panel is
taken in pieces that stay in the first-level cache while all rows of the block pass.
"""

from typing import NamedTuple

import numpy as np
from numba import int64

from kernels.epilogue import RAW, ROW_SCALES, SCALED, clear_words, emit
from kernels.jit import compiled
from kernels.lowbit_tiles import finish_group, tile_8, tile_groups, tile_low, unpack
from kernels.prepared import LARGEST_BLOCK, PIECE_QUADS, groups_of, is_grouped, tile_height
from kernels.quads import QUAD, WIDTH, quad_bytes, quads_of
from kernels.simd import row_at, stack_bytes

FEW_ROWS = 4
"""Up to this many rows packed codes are unpacked in registers, each time they are read."""
SUMS_BYTES = LARGEST_BLOCK * WIDTH * 4

_tile_8_1, _tile_8_2, _tile_8_4, _tile_8_6 = (tile_8(rows) for rows in (1, 2, 4, 6))
_paired_4, _paired_6 = (tile_8(rows, is_paired=True) for rows in (4, 6))
_tile_low_1, _tile_low_2, _tile_low_4, _tile_low_6 = (tile_low(rows, 8) for rows in (1, 2, 4, 6))
_direct_4_1, _direct_4_2 = (tile_low(rows, 4) for rows in (1, 2))
_direct_2_1, _direct_2_2 = (tile_low(rows, 2) for rows in (1, 2))
_groups_4, _groups_6 = (tile_groups(rows, 8) for rows in (4, 6))
_direct_groups_4, _direct_groups_2 = (tile_groups(1, field) for field in (4, 2))
_unpack_4, _unpack_2 = unpack(4), unpack(2)
_finish_plain, _finish_zeros = finish_group(has_zeros=False), finish_group(has_zeros=True)


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
def _start(rows, w, t, height, g, sums):
    """Let the sums of a group start at minus the offset times the sum of its activations."""
    first = row_at(rows.starts + 4 * (g * rows.count + t), height, np.int32)
    for r in range(height):
        row = row_at(sums + r * 64, WIDTH, np.int32)
        for i in range(WIDTH):
            row[i] = first[r]


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
def _groups_tile(rows, w, t, height, p, first, count, source, is_direct, floats):
    """Add ``count`` groups that each fit one run to the floats of rows 6, 4 or, packed, 1."""
    groups, quads = groups_of(w), quads_of(w.bits, w.group)
    x = rows.codes + t * rows.step + first * quads * QUAD
    at, step = 4 * (first * rows.count + t), 4 * rows.count
    starts, x_sums = rows.starts + at, rows.sums + at
    place = 64 * (p * groups + first)
    scale = w.scales + place
    zero, zero_step = (w.zeros + place, 64) if w.zeros else (rows.zeros, 0)
    if is_direct and w.bits == 2:
        _direct_groups_2(
            x, rows.step, source, count, quads, starts, x_sums, step, scale, zero, zero_step, floats
        )
    elif is_direct:
        _direct_groups_4(
            x, rows.step, source, count, quads, starts, x_sums, step, scale, zero, zero_step, floats
        )
    elif height == 6:
        _groups_6(
            x, rows.step, source, count, quads, starts, x_sums, step, scale, zero, zero_step, floats
        )
    else:
        _groups_4(
            x, rows.step, source, count, quads, starts, x_sums, step, scale, zero, zero_step, floats
        )


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
def _low_pieces(rows, w, t, height, p, q0, q1, source, is_direct, sums, floats):
    """Sum quads ``q0`` to ``q1``, at ``source``, group by group over the rows of one tile."""
    group = quads_of(w.bits, w.group)
    run = int64(row_at(rows.runs, rows.count, np.int32)[t])
    width = quad_bytes(w.bits) if is_direct else 64
    q = q0
    while q < q1:
        g = q // group
        stop = min(q1, (g + 1) * group)
        if q == g * group:
            _start(rows, w, t, height, g, sums)
        x = rows.codes + t * rows.step + q * QUAD
        here = source + (q - q0) * width
        if is_direct:
            _direct_tile(height, w.bits, x, rows.step, here, stop - q, run, sums)
        else:
            _low_tile(height, x, rows.step, here, stop - q, run, sums)
        if is_grouped(w) and stop == (g + 1) * group:
            _finish(rows, w, t, height, p, g, sums, floats)
        q = stop


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
            source = panel + q0 * packed if is_direct else rows.unpacked
            has_tile = height == 1 if is_direct else height >= 4
            if has_tile and is_grouped(w) and group <= min(run, piece):
                first, count = q0 // group, (q1 - q0) // group
                to = floats + 64 * t
                _groups_tile(rows, w, t, height, p, first, count, source, is_direct, to)
            else:
                _low_pieces(rows, w, t, height, p, q0, q1, source, is_direct, at, floats + 64 * t)
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
