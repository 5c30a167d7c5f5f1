"""Float linear layers with unstructured zeros on AVX2: the work is that of the nonzeros.

Activations are turned into tiles ``[k][lanes]`` of up to 64 rows side by side. A nonzero weight is
broadcast and multiplied with one line of the tile, so no pattern of zeros is needed. Columns come
in blocks whose part of a tile stays in a 32 KiB L1.
"""

import sys

import numpy as np
from numba import float32, int32, int64, uint16
from numpy.typing import NDArray

from kernels.jit import compiled, entry, host_features, in1, in2, out2
from kernels.registry import SIMD, Arguments, Layout, kernel
from kernels.simd import F32 as F32_LANE
from kernels.simd import F32X8, I16, I64, Value, Writer, constant, row_at, stack_bytes, tile

LANES = 64
STEP_BLOCK = 96
"""Columns per block: 96 lines of 64 floats are 24 KiB."""
ROW_BLOCK = 512
"""Outputs per block: their sums for 64 rows, 128 KiB, stay in a 512 KiB L2."""
UNROLL = 4

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


def pack_blocks(table: NDArray[np.float32]) -> Arguments:
    """Nonzeros by block of 512 rows, block of 96 columns, and row; with indices, n and k.

    Within a pair of blocks the rows come by falling number of nonzeros: loops of equal length in
    sequence are what a CPU predicts. A line is one row of a pair: ``rows`` is its place in the row
    block and ``starts`` where its ``values`` and ``columns`` (counted from the block's first) are.
    Rows without nonzeros have a line in the first column block only, which starts the sums.
    ``pairs`` says where the lines of each pair start, and ``places (n, column blocks)`` which line
    holds a row, -1 for none.
    """
    n, k = table.shape
    blocks = -(-k // STEP_BLOCK)
    values, columns, rows, counts, pairs = [], [], [], [], [0]
    places = np.full((n, blocks), -1, np.int64)
    for n0 in range(0, n, ROW_BLOCK):
        for index in range(blocks):
            k0 = index * STEP_BLOCK
            block = table[n0 : n0 + ROW_BLOCK, k0 : k0 + STEP_BLOCK]
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
    return (
        np.concatenate(values),
        np.concatenate(columns),
        np.concatenate(rows),
        starts,
        np.array(pairs, np.int64),
        places.reshape(-1),
        n,
        k,
    )


def rows_of_blocks(arguments: Arguments, ids: NDArray[np.int64]) -> NDArray[np.float32]:
    """Rows ``(R, k)`` of the weights in blocks."""
    values, columns, _, starts, _, places, n, k = arguments
    found = np.zeros((ids.size, k), np.float32)
    lines = places.reshape(n, -1)[ids]
    for r, index in zip(*np.nonzero(lines >= 0), strict=True):
        part = slice(starts[lines[r, index]], starts[lines[r, index] + 1])
        found[r, index * STEP_BLOCK + columns[part]] = values[part]
    return found


BLOCKS_F32 = Layout("csr_blocks_f32", pack_blocks, rows_of_blocks)


# --- tiles ----------------------------------------------------------------------------------


def _tile(width: int):
    """Make the tile: target = start + the sum of value * x tile line over ``count`` nonzeros.

    Tile lines are ``width`` vectors; narrow ones keep several sets of sums to hide the latency.
    """
    sets = {8: 1, 4: 2, 2: 4, 1: 4}[width]
    line = width * 32

    def add(w: Writer, acc, x, column, value) -> None:
        at = w.b.add(x, w.b.mul(column, I64(line)))
        for j in range(width):
            acc[j] = w.fma(value, w.load(F32X8, at, 32 * j), acc[j])

    def generate(w: Writer, x, values, columns, count, start, target) -> None:
        b = w.b
        whole = b.sdiv(count, I64(UNROLL))

        def body(i, *carried: Value):
            acc = [list(carried[s * width : (s + 1) * width]) for s in range(sets)]
            at_value = b.add(values, b.mul(i, I64(4 * UNROLL)))
            four = w.load(I64, b.add(columns, b.mul(i, I64(2 * UNROLL))))
            for u in range(UNROLL):
                column = b.and_(b.lshr(four, I64(16 * u)), I64(0xFFFF))
                value = w.splat(w.load(F32_LANE, at_value, 4 * u), F32X8)
                add(w, acc[u % sets], x, column, value)
            return [value for one in acc for value in one]

        def rest(i, *carried: Value):
            acc = list(carried)
            i = b.add(i, b.mul(whole, I64(UNROLL)))
            column = b.zext(w.load(I16, b.add(columns, b.mul(i, I64(2)))), I64)
            value = w.splat(w.load(F32_LANE, b.add(values, b.mul(i, I64(4)))), F32X8)
            add(w, acc, x, column, value)
            return acc

        acc = w.loop(whole, [constant(F32X8, 0.0)] * (sets * width), body)
        acc = w.loop(b.srem(count, I64(UNROLL)), acc, rest)
        for j in range(width):
            total = w.load(F32X8, start, 32 * j)
            for one in acc[j::width]:
                total = b.fadd(total, one)
            w.store(total, target, 32 * j)

    return tile(6)(generate)


_tile_1, _tile_2, _tile_4, _tile_8 = (_tile(width) for width in (1, 2, 4, 8))


@tile(6)
def _tile_one(w: Writer, x, values, columns, count, start, target) -> None:
    """Make the sum of one row: as the tiles, on numbers, with x as it lies in memory."""
    b = w.b
    whole = b.sdiv(count, I64(UNROLL))

    def add(total, column, value):
        line = w.load(F32_LANE, b.add(x, b.mul(column, I64(4))))
        return w.call("llvm.fma.f32", F32_LANE, [value, line, total])

    def body(i, *carried: Value):
        at_value = b.add(values, b.mul(i, I64(4 * UNROLL)))
        four = w.load(I64, b.add(columns, b.mul(i, I64(2 * UNROLL))))
        return [
            add(
                total,
                b.and_(b.lshr(four, I64(16 * u)), I64(0xFFFF)),
                w.load(F32_LANE, at_value, 4 * u),
            )
            for u, total in enumerate(carried)
        ]

    def rest(i, first, *others: Value):
        i = b.add(i, b.mul(whole, I64(UNROLL)))
        column = b.zext(w.load(I16, b.add(columns, b.mul(i, I64(2)))), I64)
        return [add(first, column, w.load(F32_LANE, b.add(values, b.mul(i, I64(4))))), *others]

    acc = w.loop(whole, [F32_LANE(0.0)] * UNROLL, body)
    acc = w.loop(b.srem(count, I64(UNROLL)), acc, rest)
    total = b.fadd(b.fadd(acc[0], acc[1]), b.fadd(acc[2], acc[3]))
    w.store(b.fadd(w.load(F32_LANE, start), total), target)


@tile(5)
def _transpose(w: Writer, source, source_step, target, target_step, added) -> None:
    """Write 8 x 8 floats transposed, each target row plus the 8 floats at ``added``."""
    b = w.b

    def level(rows, distance, orders):
        """Shuffle rows that lie ``distance`` apart, by two orders, into neighbours."""
        mixed = list(rows)
        for i in (i for i in range(8) if not i & distance):
            for j, order in enumerate(orders):
                mixed[i + j * distance] = w.shuffle(rows[i], rows[i + distance], order)
        return mixed

    rows = [w.load(F32X8, b.add(source, b.mul(source_step, I64(i)))) for i in range(8)]
    rows = level(rows, 1, ([0, 8, 1, 9, 4, 12, 5, 13], [2, 10, 3, 11, 6, 14, 7, 15]))
    rows = level(rows, 2, ([0, 1, 8, 9, 4, 5, 12, 13], [2, 3, 10, 11, 6, 7, 14, 15]))
    rows = level(rows, 4, ([0, 1, 2, 3, 8, 9, 10, 11], [4, 5, 6, 7, 12, 13, 14, 15]))
    extra = w.load(F32X8, added)
    for i, row in zip((0, 2, 1, 3, 4, 6, 5, 7), rows, strict=True):  # where the unpacking put them
        w.store(b.fadd(row, extra), b.add(target, b.mul(target_step, I64(i))))


@compiled
def _fill_tile(x, x_step, count, k, target, lanes):
    """Write ``count`` rows of x side by side as a tile ``[k][lanes]``, zeros beyond them."""
    zeros = stack_bytes(32)
    row_at(zeros, 8, np.float32)[:] = float32(0.0)
    t = 0
    while t < lanes:
        k0 = 0
        if t + 8 <= count:
            while k0 + 8 <= k:
                source = x + t * x_step + k0 * 4
                _transpose(source, x_step, target + (k0 * lanes + t) * 4, lanes * 4, zeros)
                k0 += 8
        for i in range(k0, k):
            line = row_at(target + (i * lanes + t) * 4, 8, np.float32)
            for j in range(8):
                value = float32(0.0)
                if t + j < count:
                    value = row_at(x + (t + j) * x_step + i * 4, 1, np.float32)[0]
                line[j] = value
        t += 8


@compiled
def _write_out(sums, lanes, count, n, bias, out, out_step):
    """Write sums ``[n][lanes]`` plus ``bias (n)`` into ``count`` rows of out."""
    zeros = stack_bytes(32)
    row_at(zeros, 8, np.float32)[:] = float32(0.0)
    t = 0
    while t < count:
        j = 0
        if t + 8 <= count:
            while j + 8 <= n:
                added = bias + j * 4 if bias else zeros
                target = out + t * out_step + j * 4
                _transpose(sums + (j * lanes + t) * 4, lanes * 4, target, out_step, added)
                j += 8
        for r in range(t, min(t + 8, count)):
            y = row_at(out + r * out_step, n, np.float32)
            for i in range(j, n):
                added = row_at(bias + i * 4, 1, np.float32)[0] if bias else float32(0.0)
                y[i] = row_at(sums + (i * lanes + r) * 4, 1, np.float32)[0] + added
        t += 8


@compiled
def _lanes_for(rows):
    """Lanes of the next tile, at most 64; one row needs no tile.

    The fewest that hold ``rows``, but 32 for up to 48 rows: 64 lanes cost more than 32 and 16.
    """
    if rows == 1:
        return 1
    if 32 < rows <= 48:
        return 32
    lanes = 8
    while lanes < rows and lanes < LANES:
        lanes *= 2
    return lanes


@compiled
def _multiply_pair(x, lanes, values, columns, rows, starts, first, last, is_start, sums):
    """Add the lines of one pair of blocks to the sums ``[n][lanes]``, or start them."""
    zeros = stack_bytes(256)
    row_at(zeros, 64, np.float32)[:] = float32(0.0)
    place = row_at(rows + first * 4, last - first, np.int32)
    until = row_at(starts + (first + 1) * 8, last - first, np.int64)
    begin = row_at(starts + first * 8, 1, np.int64)[0]
    for line in range(last - first):
        target = sums + int64(place[line]) * lanes * 4
        start = zeros if is_start else target
        count = until[line] - begin
        value, column = values + 4 * begin, columns + 2 * begin
        begin += count
        if lanes == 64:
            _tile_8(x, value, column, count, start, target)
        elif lanes == 32:
            _tile_4(x, value, column, count, start, target)
        elif lanes == 16:
            _tile_2(x, value, column, count, start, target)
        elif lanes == 1:
            _tile_one(x, value, column, count, start, target)
        else:
            _tile_1(x, value, column, count, start, target)


@kernel(
    "f32_csr_blocks",
    op="linear",
    values="f32_csr",
    activation="f32",
    layout=BLOCKS_F32,
    requires=SIMD,
)
@entry(
    in2(float32),
    in1(float32),
    in1(uint16),
    in1(int32),
    in1(int64),
    in1(int64),
    in1(int64),
    int64,
    int64,
    in1(float32),
    in1(float32),
    in1(float32),
    out2(float32),
)
def linear_csr(x, values, columns, rows, starts, pairs, places, n, k, w_scale, x_scale, bias, out):
    """Nonzero float weights in blocks and float activations; both scales are unused."""
    if x.shape[1] != k or out.shape[0] != x.shape[0] or out.shape[1] != n:
        return 1
    if bias.size not in {0, n} or (bias.size > 1 and bias.strides[0] != 4):
        return 1
    if (k > 1 and x.strides[1] != 4) or (n > 1 and out.strides[1] != 4):
        return 1
    at_bias = bias.ctypes.data if bias.size else 0
    widest = _lanes_for(x.shape[0])
    work = np.empty(widest * (k + min(n, ROW_BLOCK)) + 16, np.float32)
    tiles = (work.ctypes.data + 63) // 64 * 64
    t = 0
    while t < x.shape[0]:
        lanes = _lanes_for(x.shape[0] - t)
        count = min(lanes, x.shape[0] - t)
        source, target = x.ctypes.data + t * x.strides[0], out.ctypes.data + t * out.strides[0]
        if lanes > 1:
            _fill_tile(source, x.strides[0], count, k, tiles, lanes)
            source = tiles
        pair = 0
        for n0 in range(0, n, ROW_BLOCK):
            sums = target + n0 * 4 if lanes == 1 else tiles + widest * k * 4
            for k0 in range(0, k, STEP_BLOCK):
                _multiply_pair(
                    source + k0 * lanes * 4,
                    lanes,
                    values.ctypes.data,
                    columns.ctypes.data,
                    rows.ctypes.data,
                    starts.ctypes.data,
                    pairs[pair],
                    pairs[pair + 1],
                    k0 == 0,
                    sums,
                )
                pair += 1
            height, added = min(ROW_BLOCK, n - n0), at_bias + n0 * 4 if at_bias else 0
            if lanes > 1:
                _write_out(sums, lanes, count, height, added, target + n0 * 4, out.strides[0])
            elif added:
                row_at(sums, height, np.float32)[:] += row_at(added, height, np.float32)
        t += count
    return 0
