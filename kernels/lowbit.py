"""Integer linear layers on AVX2, exact for all codes: 8-bit and 4-bit weights, int8 activations.

Panels hold 16 outputs, four steps of k (a quad) at a time: ``[ceil(n / 16)][ceil(k / 4)][16][4]``
bytes of code + 127, or ``[..][..][32]`` bytes of two codes + 7 (outputs 0 to 7 low, 8 to 15 high).
As the stored weight is the unsigned operand, sum(x * (w + offset)) - offset * sum(x) is the result.

Four-bit products are added up in 16 bits: 2 * 14 * 127 * 8 = 28448 fits for any 8 quads, and 32
quads fit when the positive (negative) activations of one parity sum to at most 2340 in them, as
14 * 2340 = 32760. Rows are checked, so the longer run is taken only where it is proven.
"""

import numpy as np
from numba import float32, int8, int32, int64, uint8
from numpy.typing import NDArray

from kernels.activations import FORBIDDEN, copy_row, padded_bytes, split_row, widest_sums
from kernels.jit import compiled, entry, in1, in2, out2
from kernels.memory import aligned_zeros
from kernels.registry import SIMD, Arguments, Layout, kernel
from kernels.simd import (
    F32 as F32_LANE,
)
from kernels.simd import (
    F32X8,
    I8X32,
    I16X16,
    I32,
    I32X8,
    I64,
    Value,
    Writer,
    constant,
    row_at,
    stack_bytes,
    tile,
)

WIDTH, QUAD = 16, 4
OFFSET_8, OFFSET_4 = 127, 7
ROW_BLOCK = 96
SUMS_BYTES = ROW_BLOCK * WIDTH * 4
ROW_BYTES = ROW_BLOCK * 4
FEW_ROWS = 4
SHORT_RUN, LONG_RUN = 8, 32
LONG_RUN_LIMIT = 2340
SLACK_BYTES = LONG_RUN * WIDTH * QUAD
LONGEST_K = 2**31 // (127 * 127)
"""Beyond this many steps a sum of products may not fit int32."""


def _quads(table: NDArray[np.int8], offset: int) -> NDArray[np.uint8]:
    """Codes plus offset as ``[panels][quads][16][4]``, code 0 in the padding."""
    n, k = table.shape
    if k > LONGEST_K:
        raise ValueError(f"integer panel: found k {k}, expected at most {LONGEST_K} for int32 sums")
    padded = np.full((-(-n // WIDTH) * WIDTH, -(-k // QUAD) * QUAD), offset, np.uint8)
    padded[:n, :k] = table.view(np.uint8) + np.uint8(offset)
    return padded.reshape(-1, WIDTH, padded.shape[1] // QUAD, QUAD).transpose(0, 2, 1, 3)


def _with_slack(quads: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Copy to one run of bytes with room to read past it: activations are padded with zeros."""
    panels = aligned_zeros((quads.size + SLACK_BYTES,), np.uint8)
    panels[: quads.size].reshape(quads.shape)[...] = quads
    return panels


def _pack_8(table: NDArray[np.int8]) -> Arguments:
    quads = _quads(table, OFFSET_8)
    return (_with_slack(quads), *table.shape)


def _rows_8(arguments: Arguments, ids: NDArray[np.int64]) -> NDArray[np.float32]:
    panels, _, k = arguments
    quads = panels[:-SLACK_BYTES].reshape(-1, -(-k // QUAD), WIDTH, QUAD)
    found = quads[ids // WIDTH, :, ids % WIDTH].reshape(len(ids), -1)[:, :k]
    return np.subtract(found, np.float32(OFFSET_8), dtype=np.float32)


def _pack_4(table: NDArray[np.int8]) -> Arguments:
    if table.size and np.abs(table).max() > OFFSET_4:
        raise ValueError(f"4-bit panel: found a code beyond {OFFSET_4}")
    quads = _quads(table, OFFSET_4)
    packed = quads[:, :, :8] | (quads[:, :, 8:] << np.uint8(4))
    return (_with_slack(packed), *table.shape)


def _rows_4(arguments: Arguments, ids: NDArray[np.int64]) -> NDArray[np.float32]:
    panels, _, k = arguments
    quads = panels[:-SLACK_BYTES].reshape(-1, -(-k // QUAD), WIDTH // 2, QUAD)
    lane = ids % WIDTH
    found = quads[ids // WIDTH, :, lane % 8].reshape(len(ids), -1)[:, :k]
    codes = (found >> (lane // 8 * 4).astype(np.uint8)[:, None]) & np.uint8(15)
    return np.subtract(codes, np.float32(OFFSET_4), dtype=np.float32)


PANELS_8 = Layout("panels_8", _pack_8, _rows_8)
PANELS_4 = Layout("panels_4", _pack_4, _rows_4)


def _row_addresses(w: Writer, x, step, rows: int) -> list[Value]:
    return [w.b.add(x, w.b.mul(step, I64(r))) for r in range(rows)]


def _starts(w: Writer, starts, rows: int) -> list[Value]:
    """Two vectors per row of its first sum, int32 at ``starts``."""
    return [w.splat(w.load(I32, starts, 4 * (i // 2)), I32X8) for i in range(2 * rows)]


def _broadcast(w: Writer, row: Value, at: Value) -> Value:
    """Quad of activation codes in all lanes."""
    return w.splat(w.load(I32, w.b.add(row, at)), I8X32)


def _tile_8(rows: int):
    """Make the tile sums[r][0:16] = starts[r] + sum over quads of (w + 127) x[r], extras too."""
    ones = constant(I16X16, 1)

    def generate(
        w: Writer, x, x_step, panel, quads, starts, extras, extra_step, counts, sums
    ) -> None:
        b = w.b
        row = _row_addresses(w, x, x_step, rows)

        def step(acc: list[Value], codes: Value, weights: list[Value], r: int) -> None:
            for j in range(2):
                pairs = w.madd_bytes(weights[j], codes)
                acc[2 * r + j] = b.add(acc[2 * r + j], w.madd_words(pairs, ones))

        def body(i, *carried: Value):
            acc = list(carried)
            at_w = b.add(panel, b.mul(i, I64(64)))
            weights = [w.load(I8X32, at_w, 32 * j) for j in range(2)]
            for r in range(rows):
                step(acc, _broadcast(w, row[r], b.mul(i, I64(QUAD))), weights, r)
            return acc

        acc = w.loop(quads, _starts(w, starts, rows), body)
        for r in range(rows):
            listed = b.add(extras, b.mul(extra_step, I64(r)))
            count = b.sext(w.load(I32, counts, 4 * r), I64)

            def again(i, *carried: Value, r=r, listed=listed):
                mine = [*[None] * (2 * r), *carried]
                at = b.add(listed, b.mul(i, I64(8)))
                offset = b.sext(w.load(I32, at), I64)
                at_w = b.add(panel, b.mul(offset, I64(WIDTH)))
                weights = [w.load(I8X32, at_w, 32 * j) for j in range(2)]
                step(mine, _broadcast(w, at, I64(4)), weights, r)
                return mine[2 * r :]

            acc[2 * r : 2 * r + 2] = w.loop(count, acc[2 * r : 2 * r + 2], again)
        for i, value in enumerate(acc):
            w.store(value, sums, 32 * i)

    return tile(9)(generate)


def _tile_4(rows: int):
    """Make the tile sums[r][0:16] = starts[r] + sum over quads of w x[r], ``run`` in 16 bits."""
    ones = constant(I16X16, 1)
    unroll = 4

    def generate(w: Writer, x, x_step, panel, quads, run, starts, sums) -> None:
        b = w.b
        row = _row_addresses(w, x, x_step, rows)
        for i, value in enumerate(_starts(w, starts, rows)):
            w.store(value, sums, 32 * i)

        def outer(o):
            start = b.mul(o, run)

            def body(i, *carried: Value):
                acc = list(carried)
                first = b.add(start, b.mul(i, I64(unroll)))
                for u in range(unroll):
                    at_w = b.add(panel, b.mul(first, I64(64)))
                    weights = [w.load(I8X32, at_w, u * 64 + 32 * j) for j in range(2)]
                    for r in range(rows):
                        at = b.add(row[r], b.mul(first, I64(QUAD)))
                        codes = w.splat(w.load(I32, at, u * QUAD), I8X32)
                        for j in range(2):
                            acc[2 * r + j] = b.add(acc[2 * r + j], w.madd_bytes(weights[j], codes))
                return acc

            left = b.sub(quads, start)
            count = b.select(b.icmp_signed("<", left, run), left, run)
            acc = w.loop(b.sdiv(count, I64(unroll)), [constant(I16X16, 0)] * (2 * rows), body)
            for i, value in enumerate(acc):
                w.store(b.add(w.load(I32X8, sums, 32 * i), w.madd_words(value, ones)), sums, 32 * i)
            return []

        w.loop(b.sdiv(b.add(quads, b.sub(run, I64(1))), run), [], outer)

    return tile(7)(generate)


def _tile_4_direct(rows: int):
    """Make the same tile on packed codes, unpacked in registers: for few rows."""
    ones = constant(I16X16, 1)

    def generate(w: Writer, x, x_step, panel, quads, starts, sums) -> None:
        b = w.b
        row = _row_addresses(w, x, x_step, rows)

        def outer(o, *carried: Value):
            acc: list[Value] = [constant(I16X16, 0)] * (2 * rows)
            at_w = b.add(panel, b.mul(o, I64(SHORT_RUN * 32)))
            for u in range(SHORT_RUN):
                weights = w.halves(w.load(I8X32, at_w, u * 32))
                for r in range(rows):
                    at = b.add(row[r], b.mul(o, I64(SHORT_RUN * QUAD)))
                    codes = w.splat(w.load(I32, at, u * QUAD), I8X32)
                    for j in range(2):
                        acc[2 * r + j] = b.add(acc[2 * r + j], w.madd_bytes(weights[j], codes))
            return [
                b.add(total, w.madd_words(part, ones))
                for total, part in zip(carried, acc, strict=True)
            ]

        acc = w.loop(b.sdiv(quads, I64(SHORT_RUN)), _starts(w, starts, rows), outer)
        for i, value in enumerate(acc):
            w.store(value, sums, 32 * i)

    return tile(6)(generate)


@tile(3)
def _unpack_4(w: Writer, source, target, quads) -> None:
    """Write the nibbles of packed quads as bytes, outputs 0 to 15 in order."""

    def body(i):
        at = w.b.add(target, w.b.mul(i, I64(64)))
        low, high = w.halves(w.load(I8X32, w.b.add(source, w.b.mul(i, I64(32)))))
        w.store(low, at)
        w.store(high, at, 32)
        return []

    w.loop(quads, [], body)


@tile(8)
def _finish(w: Writer, sums, rows, x_scale, x_scale_step, w_scale, bias, out, out_step) -> None:
    """Write float32(sums[r]) * x_scale[r] * w_scale + bias for 16 outputs, each step rounded."""
    b = w.b

    def body(r):
        scale = w.splat(w.load(F32_LANE, b.add(x_scale, b.mul(r, x_scale_step))), F32X8)
        at, to = b.add(sums, b.mul(r, I64(64))), b.add(out, b.mul(r, out_step))
        for j in range(2):
            y = b.fmul(w.to_f32(w.load(I32X8, at, 32 * j)), scale)
            y = b.fmul(y, w.load(F32X8, w_scale, 32 * j))
            w.store(b.fadd(y, w.load(F32X8, bias, 32 * j)), to, 32 * j)
        return []

    w.loop(rows, [], body)


_tile_8_1, _tile_8_2, _tile_8_4, _tile_8_6 = (_tile_8(rows) for rows in (1, 2, 4, 6))
_tile_4_1, _tile_4_2, _tile_4_4, _tile_4_6 = (_tile_4(rows) for rows in (1, 2, 4, 6))
_direct_1, _direct_2 = (_tile_4_direct(rows) for rows in (1, 2))


@compiled
def _panel_8(x, x_step, rows, panel, quads, starts, extras, extra_step, counts, sums):
    t = 0
    while t < rows:
        a, s, e, c, y = (
            x + t * x_step,
            starts + 4 * t,
            extras + t * extra_step,
            counts + 4 * t,
            sums + 64 * t,
        )
        left = rows - t
        if left >= 6:
            _tile_8_6(a, x_step, panel, quads, s, e, extra_step, c, y)
            t += 6
        elif left >= 4:
            _tile_8_4(a, x_step, panel, quads, s, e, extra_step, c, y)
            t += 4
        elif left >= 2:
            _tile_8_2(a, x_step, panel, quads, s, e, extra_step, c, y)
            t += 2
        else:
            _tile_8_1(a, x_step, panel, quads, s, e, extra_step, c, y)
            t += 1


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
    _unpack_4(panel, unpacked, fours)
    while t < rows:
        a, s, y = x + t * x_step, starts + 4 * t, sums + 64 * t
        left = rows - t
        if left >= 6:
            _tile_4_6(a, x_step, unpacked, fours, _run_of(counts + 4 * t, 6), s, y)
            t += 6
        elif left >= 4:
            _tile_4_4(a, x_step, unpacked, fours, _run_of(counts + 4 * t, 4), s, y)
            t += 4
        elif left >= 2:
            _tile_4_2(a, x_step, unpacked, fours, _run_of(counts + 4 * t, 2), s, y)
            t += 2
        else:
            _tile_4_1(a, x_step, unpacked, fours, _run_of(counts + 4 * t, 1), s, y)
            t += 1


@compiled
def _emit(sums, rows, width, x_scale, x_scale_step, w_scale, bias, out, out_step, is_raw):
    """Write one panel's sums of ``width <= 16`` outputs, scaled or as they are."""
    if is_raw:
        for r in range(rows):
            row_at(out + r * out_step, width, np.int32)[:] = row_at(sums + r * 64, width, np.int32)
        return
    if width == WIDTH and bias:
        _finish(sums, rows, x_scale, x_scale_step, w_scale, bias, out, out_step)
        return
    scales, biases = stack_bytes(64), stack_bytes(64)
    row_at(scales, WIDTH, np.float32)[:] = float32(0.0)
    row_at(biases, WIDTH, np.float32)[:] = float32(0.0)
    row_at(scales, width, np.float32)[:] = row_at(w_scale, width, np.float32)
    if bias:
        row_at(biases, width, np.float32)[:] = row_at(bias, width, np.float32)
    if width == WIDTH:
        _finish(sums, rows, x_scale, x_scale_step, scales, biases, out, out_step)
        return
    _finish(sums, rows, x_scale, x_scale_step, scales, biases, sums, 64)
    for r in range(rows):
        row_at(out + r * out_step, width, np.float32)[:] = row_at(sums + r * 64, width, np.float32)


@compiled
def _prepare_rows(x, x_step, rows, k, codes, starts, extras, extra_step, counts, flags, is_4):
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
        first[r] = -(OFFSET_4 if is_4 else OFFSET_8) * found
        if is_4:
            listed[r] = widest_sums(mine, k, total) > LONG_RUN_LIMIT
        else:
            listed[r] = split_row(mine, k, flags, extras + r * extra_step)
    return 0


@compiled
def _matmul(
    x, x_step, rows, panels, n, k, w_scale, x_scale, x_step_scale, bias, out, out_step, is_raw, is_4
):
    """Run all panels over all rows; addresses, counts and bytes. ``bias`` 0 is none."""
    block = min(rows, ROW_BLOCK)
    size, quads = padded_bytes(k), (k + QUAD - 1) // QUAD
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
            x + t * x_step, x_step, count, k, codes, starts, extras, extra_step, counts, flags, is_4
        )
        if status:
            return status
        for p in range((n + WIDTH - 1) // WIDTH):
            panel = panels + p * panel_bytes
            if is_4:
                _panel_4(codes, size, count, panel, quads, unpacked, starts, counts, sums)
            else:
                _panel_8(codes, size, count, panel, quads, starts, extras, extra_step, counts, sums)
            _emit(
                sums,
                count,
                min(WIDTH, n - p * WIDTH),
                x_scale + t * x_step_scale,
                x_step_scale,
                w_scale + p * 64,
                bias + p * 64 if bias else 0,
                out + t * out_step + p * 64,
                out_step,
                is_raw,
            )
    scratch[0] = 0  # keeps the array alive until here
    return 0


@compiled
def _misfits(x, n, k, w_scale, x_scale, bias, out):
    """Tell whether shapes or strides are not those of a linear layer of codes."""
    if x.shape[1] != k or out.shape[0] != x.shape[0] or out.shape[1] != n:
        return True
    if bias.size not in {0, n} or w_scale.size != n or x_scale.size not in {1, x.shape[0]}:
        return True
    if (bias.size > 1 and bias.strides[0] != 4) or (n > 1 and w_scale.strides[0] != 4):
        return True
    return (k > 1 and x.strides[1] != 1) or (n > 1 and out.strides[1] != 4)


@compiled
def _linear(x, panels, n, k, w_scale, x_scale, bias, out, is_4):
    if _misfits(x, n, k, w_scale, x_scale, bias, out):
        return 1
    return _matmul(
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
        False,
        is_4,
    )


@compiled
def _accumulate(x, panels, n, k, out, is_4):
    if x.shape[1] != k or out.shape[0] != x.shape[0] or out.shape[1] != n:
        return 1
    if (k > 1 and x.strides[1] != 1) or (n > 1 and out.strides[1] != 4):
        return 1
    return _matmul(
        x.ctypes.data,
        x.strides[0],
        x.shape[0],
        panels.ctypes.data,
        n,
        k,
        0,
        0,
        0,
        0,
        out.ctypes.data,
        out.strides[0],
        True,
        is_4,
    )


_RAW = (in2(int8), in1(uint8), int64, int64, out2(int32))
_SCALED = (
    in2(int8),
    in1(uint8),
    int64,
    int64,
    in1(float32),
    in1(float32),
    in1(float32),
    out2(float32),
)


@entry(*_RAW)
def accumulate_8(x, panels, n, k, out):
    """Exact sums of products of 8-bit weight codes and activation codes."""
    return _accumulate(x, panels, n, k, out, False)


@entry(*_RAW)
def accumulate_4(x, panels, n, k, out):
    """Exact sums of products of 4-bit weight codes and activation codes."""
    return _accumulate(x, panels, n, k, out, True)


@kernel("w8a8", op="linear", values="i8", activation="i8", layout=PANELS_8, requires=SIMD,
        accumulate=accumulate_8)  # fmt: skip
@entry(*_SCALED)
def linear_8(x, panels, n, k, w_scale, x_scale, bias, out):
    """8-bit weight codes and activation codes, exact sums, then scales and bias."""
    return _linear(x, panels, n, k, w_scale, x_scale, bias, out, False)


@kernel("w4a8", op="linear", values="i4", activation="i8", layout=PANELS_4, requires=SIMD,
        accumulate=accumulate_4)  # fmt: skip
@entry(*_SCALED)
def linear_4(x, panels, n, k, w_scale, x_scale, bias, out):
    """4-bit weight codes and activation codes, exact sums, then scales and bias."""
    return _linear(x, panels, n, k, w_scale, x_scale, bias, out, True)
