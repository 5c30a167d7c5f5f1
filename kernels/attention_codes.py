"""From scores to probability codes, and exact sums of codes times value codes, on AVX2.

Probability codes are the unsigned operand of vpmaddubsw, which adds two products in 16 bits and
saturates beyond them. A pair of codes up to 127 is safe against all value codes, as 2 * 127 * 128
= 32512, so codes are cut at 127. What is above, at most 128 and again safe, is listed by quads of
keys and multiplied once more. A row has few codes above 127, as 255 stands for its largest
probability; a row of nothing else only takes twice the time. Quads of keys whose codes are 0 in
all rows of a tile are left out: attention that looks at few keys has mostly such.
"""

from collections.abc import Sequence

import numpy as np
from llvmlite import ir
from numba import float32, uint32

from kernels.attention_common import CARRY_KEYS, write_exp2
from kernels.jit import compiled
from kernels.lowbit import tile_height
from kernels.lowbit_tiles import row_addresses
from kernels.simd import F32 as F32_LANE
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

I64X4 = ir.VectorType(I64, 4)


@tile(3)
def _largest_of_row(w: Writer, scores, steps, largest) -> None:
    """Store the largest of ``16 steps`` scores."""

    def body(i, *found: Value):
        at = w.b.add(scores, w.b.mul(i, I64(64)))
        return [w.larger(w.load(F32X8, at, 32 * j), best) for j, best in enumerate(found)]

    first, second = w.loop(steps, [constant(F32X8, float("-inf"))] * 2, body)
    w.store(w.reduce(w.larger(first, second), w.larger), largest)


def _codes_of_row(*, is_words: bool):
    """Make the step from ``32 steps`` scores to codes rint(255 2^(score - largest) + carried).

    What rounding leaves is carried to the key 32 places on, in the same lane of the next step.

    Eight int32 at ``sums`` become parts of their sum. Codes are stored as int16 at ``kept``, or as
    bytes cut at 127 at ``kept`` and the rest at ``excess``, with a bit in ``above`` for each code
    above 127 and in ``used`` for each that is not 0.
    """

    def generate(w: Writer, scores, steps, largest, kept, excess, above, used, sums) -> None:
        b = w.b
        top = w.splat(w.load(F32_LANE, largest), F32X8)

        def code(score: Value, carried: Value) -> tuple[Value, Value]:
            share = b.fadd(write_exp2(w, b.fsub(score, top), 255.0), carried)
            most = constant(F32X8, 255.0)
            share = b.select(b.fcmp_ordered(">", share, most), most, share)
            rounded = w.call("llvm.x86.avx.cvt.ps2dq.256", I32X8, [share])
            return rounded, b.fsub(share, w.to_f32(rounded))

        def body(i, total: Value, *carries: Value):
            at = b.add(scores, b.mul(i, I64(128)))
            pairs = [code(w.load(F32X8, at, 32 * j), carries[j]) for j in range(4)]
            found, left = [pair[0] for pair in pairs], [pair[1] for pair in pairs]
            words = [w.call("llvm.x86.avx2.packusdw", I16X16, found[j : j + 2]) for j in (0, 2)]
            mixed = w.call("llvm.x86.avx2.packuswb", I8X32, words)
            differences = w.call("llvm.x86.avx2.psad.bw", I64X4, [mixed, constant(I8X32, 0)])
            total = b.add(total, b.bitcast(differences, I32X8))
            if is_words:
                order = [*range(4), *range(8, 12), *range(4, 8), *range(12, 16)]
                for j, pair in enumerate(words):
                    w.store(w.shuffle(pair, pair, order), b.add(kept, b.mul(i, I64(64))), 32 * j)
                return [total, *left]
            quads = b.bitcast(mixed, I32X8)
            codes = b.bitcast(w.shuffle(quads, quads, [0, 4, 1, 5, 2, 6, 3, 7]), I8X32)
            is_above = b.icmp_signed("<", codes, constant(I8X32, 0))
            cut = b.select(is_above, constant(I8X32, 127), codes)
            w.store(cut, b.add(kept, b.mul(i, I64(32))))
            w.store(b.sub(codes, cut), b.add(excess, b.mul(i, I64(32))))
            is_used = b.sext(b.icmp_signed("!=", codes, constant(I8X32, 0)), I8X32)
            for lanes, masks in ((codes, above), (is_used, used)):
                mask = w.call("llvm.x86.avx2.pmovmskb", I32, [lanes])
                w.store(mask, b.add(masks, b.mul(i, I64(4))))
            return [total, *left]

        start = [constant(I32X8, 0), *[constant(F32X8, 0.0)] * (CARRY_KEYS // 8)]
        w.store(w.loop(steps, start, body)[0], sums)

    return tile(8)(generate)


_bytes_of_row, _words_of_row = _codes_of_row(is_words=False), _codes_of_row(is_words=True)


@compiled
def encode_row(scores, length, kept, excess, above, used):
    """Turn scores, in units of ln 2, into codes and return their sum; ``above`` 0 asks for int16.

    The row has room for a multiple of 32 scores; those up to a multiple of 16 repeat the last one.
    """
    at = stack_bytes(64)
    sums = row_at(at, 8, np.int32)
    _largest_of_row(scores, (length + 15) // 16, at)
    steps = (length + 31) // 32
    row_at(scores + length * 4, steps * 32 - length, np.float32)[:] = float32(-np.inf)
    if above:
        _bytes_of_row(scores, steps, at, kept, excess, above, used, at)
    else:
        _words_of_row(scores, steps, at, kept, 0, 0, 0, at)
    return sums[0] + sums[2] + sums[4] + sums[6]


@compiled
def list_quads(masks, rows, steps, offsets):
    """List where the quads with a bit in one of ``rows`` masks start, and return their number."""
    found = row_at(offsets, steps * 8, np.int32)
    count = 0
    for block in range(steps):
        bits = uint32(0)
        for r in range(rows):
            bits |= row_at(masks + (r * steps + block) * 4, 1, np.uint32)[0]
        if bits == 0:
            continue
        for quad in range(8):
            found[count] = block * 32 + quad * 4
            count += ((bits >> uint32(quad * 4)) & uint32(15)) != 0
    return count


def _quad_at(w: Writer, list_: Value, i: Value) -> Value:
    """Offset of quad i of a list."""
    return w.b.sext(w.load(I32, w.b.add(list_, w.b.mul(i, I64(4)))), I64)


def _values_at(w: Writer, panel: Value, offset: Value) -> list[Value]:
    """Value codes of the quad at an offset."""
    at = w.b.add(panel, w.b.mul(offset, I64(16)))
    return [w.load(I8X32, at, 32 * j) for j in range(2)]


def _add_quad(w: Writer, sums: Sequence[Value], codes: Value, values: list[Value]) -> list[Value]:
    """Add a quad of codes at an address, times values, to the sums of one row."""
    quad = w.splat(w.load(I32, codes), I8X32)
    ones = constant(I16X16, 1)
    return [
        w.b.add(total, w.madd_words(w.madd_bytes(quad, value), ones))
        for total, value in zip(sums, values, strict=True)
    ]


def _context(rows: int):
    """Make the tile sums[r][0:16] = sum over quads of kept[r] v + sum over others of excess[r] v.

    Quads are given by offset: ``count`` for all rows at ``offsets``, and ``rest_count`` for each
    row at ``rests``.
    """

    def generate(
        w: Writer, kept, excess, step, panel, offsets, count, rests, rest_step, rest_count, sums
    ) -> None:
        b = w.b
        row, more = row_addresses(w, kept, step, rows), row_addresses(w, excess, step, rows)
        lists = row_addresses(w, rests, rest_step, rows)

        def body(i, *carried: Value):
            offset = _quad_at(w, offsets, i)
            values = _values_at(w, panel, offset)
            acc: list[Value] = []
            for r in range(rows):
                acc += _add_quad(w, carried[2 * r : 2 * r + 2], b.add(row[r], offset), values)
            return acc

        def again(i, *carried: Value):
            acc: list[Value] = []
            for r in range(rows):
                offset = _quad_at(w, lists[r], i)
                values = _values_at(w, panel, offset)
                acc += _add_quad(w, carried[2 * r : 2 * r + 2], b.add(more[r], offset), values)
            return acc

        acc = w.loop(count, [constant(I32X8, 0)] * (2 * rows), body)
        for i, value in enumerate(w.loop(rest_count, acc, again)):
            w.store(value, sums, 32 * i)

    return tile(10)(generate)


_context_1, _context_2, _context_4, _context_6 = (_context(rows) for rows in (1, 2, 4, 6))


@compiled
def context_rows(
    kept, excess, step, rows, panel, offsets, counts, rests, rest_counts, list_step, sums
):
    """Run the tiles of one panel of values over rows of codes.

    The lists of a tile and of its rows start ``list_step`` bytes apart, a tile's at its first row.
    """
    common, longest = row_at(counts, rows, np.int32), row_at(rest_counts, rows, np.int32)
    t = 0
    while t < rows:
        a, e, y = kept + t * step, excess + t * step, sums + t * 64
        o, c, more, n = offsets + t * list_step, common[t], rests + t * list_step, longest[t]
        height = tile_height(rows - t)
        if height == 6:
            _context_6(a, e, step, panel, o, c, more, list_step, n, y)
        elif height == 4:
            _context_4(a, e, step, panel, o, c, more, list_step, n, y)
        elif height == 2:
            _context_2(a, e, step, panel, o, c, more, list_step, n, y)
        else:
            _context_1(a, e, step, panel, o, c, more, list_step, n, y)
        t += height


@compiled
def list_block(used, above, rows, room, offsets, counts, rests, rest_counts):
    """List the quads of every tile, and of its rows those with codes above 127.

    The lists of a tile's rows get the length of the longest by a quad at ``room``, which is zero.
    """
    common, longest = row_at(counts, rows, np.int32), row_at(rest_counts, rows, np.int32)
    steps = room // 32
    t = 0
    while t < rows:
        height = tile_height(rows - t)
        common[t] = list_quads(used + t * steps * 4, height, steps, offsets + t * room)
        for r in range(t, t + height):
            longest[r] = list_quads(above + r * steps * 4, 1, steps, rests + r * room)
        most = longest[t : t + height].max()
        for r in range(t, t + height):
            row_at(rests + r * room + longest[r] * 4, most - longest[r], np.int32)[:] = room
            longest[r] = most
        t += height
