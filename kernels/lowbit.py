"""Integer linear layers on AVX2, exact for all codes: 8-bit and 4-bit weights, int8 activations.

Eight-bit products are kept from saturating as ``activations`` describes. Four-bit products are
added up in 16 bits: 2 * 14 * 127 * 8 = 28448 fits for any 8 quads, and 32 quads fit when the
positive (negative) activations of one parity sum to at most 2340 in them, as 14 * 2340 = 32760.
Rows are checked, so the longer run is taken only where it is proven.
"""

import numpy as np
from numba import float32, int8, int64, uint8

from kernels.activations import FORBIDDEN, copy_row, padded_bytes, split_row, widest_sums
from kernels.epilogue import RAW, SCALED, emit
from kernels.jit import compiled, entry, in1, in2, out2
from kernels.lowbit_tiles import SHORT_RUN, tile_4, tile_4_direct, tile_8, unpack_4
from kernels.quads import PANELS_4, PANELS_8, SLACK_BYTES, WIDTH, offset_of, quads_of
from kernels.registry import SIMD, kernel
from kernels.simd import row_at, stack_bytes

ROW_BLOCK = 96
SUMS_BYTES = ROW_BLOCK * WIDTH * 4
ROW_BYTES = ROW_BLOCK * 4
FEW_ROWS = 4
LONG_RUN = 32
LONG_RUN_LIMIT = 2184
KEY_OFFSET = 127

_tile_8_1, _tile_8_2, _tile_8_4, _tile_8_6 = (tile_8(rows) for rows in (1, 2, 4, 6))
_tile_4_1, _tile_4_2, _tile_4_4, _tile_4_6 = (tile_4(rows) for rows in (1, 2, 4, 6))
_direct_1, _direct_2 = (tile_4_direct(rows) for rows in (1, 2))


@compiled
def tile_height(left):
    """Rows of the next tile when ``left`` rows remain."""
    return 6 if left >= 6 else 4 if left >= 4 else 2 if left >= 2 else 1


@compiled
def _panel_8(x, x_step, rows, panel, quads, starts, extras, extra_step, counts, sums):
    t = 0
    while t < rows:
        a, s, y = x + t * x_step, starts + 4 * t, sums + 64 * t
        e, c = extras + t * extra_step, counts + 4 * t
        height = tile_height(rows - t)
        if height == 6:
            _tile_8_6(a, x_step, panel, quads, s, e, extra_step, c, y)
        elif height == 4:
            _tile_8_4(a, x_step, panel, quads, s, e, extra_step, c, y)
        elif height == 2:
            _tile_8_2(a, x_step, panel, quads, s, e, extra_step, c, y)
        else:
            _tile_8_1(a, x_step, panel, quads, s, e, extra_step, c, y)
        t += height


@compiled
def _run_of(counts, rows):
    """Quads that may be summed in 16 bits: many if no row of the tile forbids it."""
    unsafe = row_at(counts, rows, np.int32)
    for r in range(rows):
        if unsafe[r]:
            return SHORT_RUN
    return LONG_RUN


@compiled
def _panel_4(x, x_step, rows, panel, quads, unpacked, starts, counts, sums):
    t = 0
    if rows <= FEW_ROWS:
        runs = (quads + SHORT_RUN - 1) // SHORT_RUN * SHORT_RUN
        while t < rows:
            a, s, y = x + t * x_step, starts + 4 * t, sums + 64 * t
            if rows - t >= 2:
                _direct_2(a, x_step, panel, runs, s, y)
                t += 2
            else:
                _direct_1(a, x_step, panel, runs, s, y)
                t += 1
        return
    fours = (quads + 3) // 4 * 4
    unpack_4(panel, unpacked, fours)
    while t < rows:
        a, s, y = x + t * x_step, starts + 4 * t, sums + 64 * t
        height = tile_height(rows - t)
        run = _run_of(counts + 4 * t, height)
        if height == 6:
            _tile_4_6(a, x_step, unpacked, fours, run, s, y)
        elif height == 4:
            _tile_4_4(a, x_step, unpacked, fours, run, s, y)
        elif height == 2:
            _tile_4_2(a, x_step, unpacked, fours, run, s, y)
        else:
            _tile_4_1(a, x_step, unpacked, fours, run, s, y)
        t += height


@compiled
def _prepare_rows(
    x, x_step, rows, k, codes, starts, extras, extra_step, counts, flags, is_4, offset
):
    """Copy rows, note their sums times the offset, split (8 bit) or bound (4 bit) them.

    Returns 2 after a forbidden code -128, else 0.
    """
    total = stack_bytes(64)
    first = row_at(starts, rows, np.int32)
    listed = row_at(counts, rows, np.int32)
    size = padded_bytes(k)
    for r in range(rows):
        mine = codes + r * size
        found = copy_row(x + r * x_step, k, mine, flags, total)
        if found == FORBIDDEN:
            return 2
        first[r] = -offset * found
        if is_4:
            listed[r] = widest_sums(mine, k, total) > LONG_RUN_LIMIT
        else:
            listed[r] = split_row(mine, k, flags, extras + r * extra_step)
    if not is_4:
        t = 0
        while t < rows:
            height = tile_height(rows - t)
            _level(extras + t * extra_step, extra_step, counts + 4 * t, height)
            t += height
    return 0


@compiled
def _level(extras, extra_step, counts, rows):
    """Lengthen the lists of one tile's rows to the longest, with quads of zeros."""
    listed = row_at(counts, rows, np.int32)
    longest = listed.max()
    for r in range(rows):
        empty = row_at(extras + r * extra_step + listed[r] * 8, (longest - listed[r]) * 2, np.int32)
        empty[:] = 0
        listed[r] = longest


@compiled
def _matmul(
    x, x_step, rows, panels, n, k, w_scale, x_scale, x_step_scale, bias, out, out_step, mode, is_4
):
    """Run ``matmul`` on 8-bit panels of codes + KEY_OFFSET."""
    return matmul(
        x,
        x_step,
        rows,
        panels,
        n,
        k,
        w_scale,
        x_scale,
        x_step_scale,
        bias,
        out,
        out_step,
        mode,
        4 if is_4 else 8,
        KEY_OFFSET,
    )


@compiled
def matmul(
    x,
    x_step,
    rows,
    panels,
    n,
    k,
    w_scale,
    x_scale,
    x_step_scale,
    bias,
    out,
    out_step,
    mode,
    bits,
    offset,
):
    """Run all panels over all rows; addresses, counts and bytes. ``bias`` 0 is none."""
    block = min(rows, ROW_BLOCK)
    is_4 = bits == 4
    size, quads = padded_bytes(k), quads_of(bits, k)
    extra_step = 0 if is_4 else quads * 8
    codes_bytes, unpacked_bytes = block * size, quads * 64 + SLACK_BYTES if is_4 else 0
    scratch = np.empty(64 + codes_bytes + unpacked_bytes + block * extra_step + size, np.uint8)
    codes = (scratch.ctypes.data + 63) // 64 * 64
    unpacked = codes + codes_bytes
    extras = unpacked + unpacked_bytes
    flags = extras + block * extra_step
    starts, counts = stack_bytes(ROW_BYTES), stack_bytes(ROW_BYTES)
    sums = stack_bytes(SUMS_BYTES)
    panel_bytes = quads * (32 if is_4 else 64)
    for t in range(0, rows, ROW_BLOCK):
        count = min(ROW_BLOCK, rows - t)
        status = _prepare_rows(
            x + t * x_step,
            x_step,
            count,
            k,
            codes,
            starts,
            extras,
            extra_step,
            counts,
            flags,
            is_4,
            offset,
        )
        if status:
            return status
        for p in range((n + WIDTH - 1) // WIDTH):
            panel = panels + p * panel_bytes
            if is_4:
                _panel_4(codes, size, count, panel, quads, unpacked, starts, counts, sums)
            else:
                _panel_8(codes, size, count, panel, quads, starts, extras, extra_step, counts, sums)
            emit(
                sums,
                count,
                min(WIDTH, n - p * WIDTH),
                x_scale + t * x_step_scale,
                x_step_scale,
                w_scale + p * 64,
                bias + p * 64 if bias else 0,
                out + t * out_step + p * 64,
                out_step,
                mode,
            )
    scratch[0] = 0  # keeps the array alive until here
    return 0


@compiled
def misfits(x, n, k, w_scale, x_scale, bias, out):
    """Tell whether shapes or strides are not those of a linear layer."""
    if x.shape[1] != k or out.shape[0] != x.shape[0] or out.shape[1] != n:
        return True
    if bias.size not in {0, n} or w_scale.size not in {0, n}:
        return True
    if w_scale.size and x_scale.size not in {1, x.shape[0]}:
        return True
    if (bias.size > 1 and bias.strides[0] != 4) or (w_scale.size > 1 and w_scale.strides[0] != 4):
        return True
    plain = (k <= 1 or x.strides[1] == x.itemsize) and (n <= 1 or out.strides[1] == 4)
    return x.shape[0] > 0 and not plain


@entry(
    in2(int8),
    in1(uint8),
    in1(float32),
    in1(float32),
    int64,
    int64,
    int64,
    int64,
    in1(float32),
    in1(float32),
    in1(float32),
    out2(float32),
)
def linear_codes(x, panels, _s, _z, n, k, _g, bits, w_scale, x_scale, bias, out):
    """Codes times codes in exact sums, then scales and bias.

    Without weight scales the sums themselves, int32, are written into the memory of ``out``.
    """
    if misfits(x, n, k, w_scale, x_scale, bias, out):
        return 1
    return matmul(
        x.ctypes.data,
        x.strides[0],
        x.shape[0],
        panels.ctypes.data,
        n,
        k,
        w_scale.ctypes.data,
        x_scale.ctypes.data,
        x_scale.strides[0] if x_scale.size > 1 else 0,
        bias.ctypes.data if bias.size else 0,
        out.ctypes.data,
        out.strides[0],
        SCALED if w_scale.size else RAW,
        bits,
        offset_of(bits),
    )


_NONE = np.zeros(0, np.float32)


def accumulate(x, panels, s, z, n, k, g, bits, out):
    """Exact int32 sums of products of codes into ``out (T, N)``."""
    return linear_codes(x, panels, s, z, n, k, g, bits, _NONE, _NONE, _NONE, out.view(np.float32))


for _name, _values, _layout in (("w8a8", "i8", PANELS_8), ("w4a8", "i4", PANELS_4)):
    kernel(
        _name,
        op="linear",
        values=_values,
        activation="i8",
        layout=_layout,
        requires=SIMD,
        accumulate=accumulate,
    )(linear_codes)
