"""From codes to scores, to probability codes, and to exact sums of value codes, on AVX2.

Scores are sums of products of int16 (vpmaddwd), exact for every int8: bytes would saturate.

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
from numba import float32, int64, uint32

from kernels.attention_common import CARRY_KEYS, write_exp2
from kernels.attention_tiles import UNROLL, largest_of_row
from kernels.jit import compiled
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

FIRST_BITS = 0x11111111
"""The first bit of each of the eight quads of 32 keys."""
I64X4 = ir.VectorType(I64, 4)


def _row_addresses(w: Writer, x: Value, step: Value, rows: int) -> list[Value]:
    """Addresses of rows ``step`` bytes apart."""
    return [w.b.add(x, w.b.mul(step, I64(r))) for r in range(rows)]


# --- scores ---------------------------------------------------------------------------------


def _code_scores(rows: int):
    """Make the tile out[r][0:16] = float32(sum of x[r] panel) x_scale[r] k_scale[0:16].

    ``x`` and the panel hold pairs of int16; scales are float32, every product is rounded to it.
    """

    def generate(w: Writer, x, x_step, panel, pairs, x_scale, k_scale, out, out_step) -> None:
        b = w.b
        row = _row_addresses(w, x, x_step, rows)

        def add(acc: list[Value], at_x: Value, at_panel: Value, offset: int) -> None:
            found = [w.load(I16X16, at_panel, offset * 64 + 32 * j) for j in range(2)]
            for r, at in enumerate(row):
                pair = w.splat(w.load(I32, b.add(at, at_x), offset * 4), I16X16)
                for j in range(2):
                    acc[2 * r + j] = b.add(acc[2 * r + j], w.madd_words(pair, found[j]))

        def body(i, *carried: Value):
            acc = list(carried)
            at_x, at = b.mul(i, I64(4 * UNROLL)), b.add(panel, b.mul(i, I64(64 * UNROLL)))
            for u in range(UNROLL):
                add(acc, at_x, at, u)
            return acc

        def rest(i, *carried: Value):
            acc = list(carried)
            pair = b.add(i, b.mul(whole, I64(UNROLL)))
            add(acc, b.mul(pair, I64(4)), b.add(panel, b.mul(pair, I64(64))), 0)
            return acc

        whole = b.sdiv(pairs, I64(UNROLL))
        acc = w.loop(whole, [constant(I32X8, 0)] * (2 * rows), body)
        acc = w.loop(b.srem(pairs, I64(UNROLL)), acc, rest)
        factors = [w.load(F32X8, k_scale, 32 * j) for j in range(2)]
        for i, total in enumerate(acc):
            mine = w.splat(w.load(F32_LANE, x_scale, 4 * (i // 2)), F32X8)
            score = b.fmul(b.fmul(w.to_f32(total), mine), factors[i % 2])
            w.store(score, b.add(out, b.mul(out_step, I64(i // 2))), 32 * (i % 2))

    return tile(8)(generate)


_code_scores_4, _code_scores_6 = _code_scores(4), _code_scores(6)


@compiled
def panel_scores(x, x_step, rows, panel, pairs, x_scale, k_scale, out, out_step):
    """Run the tiles of one panel over ``padded_rows`` rows: six at a time, four at the end."""
    fours = (6 - rows % 6) // 2 % 3
    sixes = (rows - 4 * fours) // 6
    for i in range(sixes):
        t = 6 * i
        a, y = x + t * x_step, out + t * out_step
        _code_scores_6(a, x_step, panel, pairs, x_scale + t * 4, k_scale, y, out_step)
    for i in range(fours):
        t = 6 * sixes + 4 * i
        a, y = x + t * x_step, out + t * out_step
        _code_scores_4(a, x_step, panel, pairs, x_scale + t * 4, k_scale, y, out_step)


# --- probabilities --------------------------------------------------------------------------


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
def encode_row(scores, end, steps, kept, excess, above, used):
    """Turn ``end`` scores, in units of ln 2, into codes and return their sum.

    The row has room for ``32 steps`` scores; those past the end get code 0. ``above`` 0 asks for
    int16 codes. Without a score above -inf all codes are 0.
    """
    at = stack_bytes(64)
    sums = row_at(at, 8, np.int32)
    row_at(scores + end * 4, steps * 32 - end, np.float32)[:] = float32(-np.inf)
    largest_of_row(scores, 2 * steps, at)
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
        folded = bits | bits >> uint32(1)
        folded = (folded | folded >> uint32(2)) & uint32(FIRST_BITS)
        if folded == uint32(FIRST_BITS):
            for quad in range(8):
                found[count + quad] = block * 32 + quad * 4
            count += 8
            continue
        for quad in range(8):
            found[count] = block * 32 + quad * 4
            count += int64((folded >> uint32(quad * 4)) & uint32(1))
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
        row, more = _row_addresses(w, kept, step, rows), _row_addresses(w, excess, step, rows)
        lists = _row_addresses(w, rests, rest_step, rows)

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


_context_4, _context_6 = _context(4), _context(6)


@compiled
def _height(t, rows):
    """Rows of the tile that starts at row t of ``padded_rows``: six, and four at the end."""
    return 4 if t >= rows - 4 * ((6 - rows % 6) // 2 % 3) else 6


@compiled
def context_rows(
    kept, excess, step, rows, panel, offsets, counts, rests, rest_counts, list_step, sums
):
    """Run the tiles of one panel of values over ``padded_rows`` rows of codes.

    The lists of a tile and of its rows start ``list_step`` bytes apart, a tile's at its first row.
    """
    common, longest = row_at(counts, rows, np.int32), row_at(rest_counts, rows, np.int32)
    t = 0
    while t < rows:
        a, e, y = kept + t * step, excess + t * step, sums + t * 64
        o, c, more, n = offsets + t * list_step, common[t], rests + t * list_step, longest[t]
        if _height(t, rows) == 6:
            _context_6(a, e, step, panel, o, c, more, list_step, n, y)
            t += 6
        else:
            _context_4(a, e, step, panel, o, c, more, list_step, n, y)
            t += 4


@compiled
def list_block(used, above, rows, room, offsets, counts, rests, rest_counts):
    """List the quads of every tile, and of its rows those with codes above 127.

    The lists of a tile's rows get the length of the longest by a quad at ``room``, which is zero.
    """
    common, longest = row_at(counts, rows, np.int32), row_at(rest_counts, rows, np.int32)
    steps = room // 32
    t = 0
    while t < rows:
        height = _height(t, rows)
        common[t] = list_quads(used + t * steps * 4, height, steps, offsets + t * room)
        most = np.int32(0)
        for r in range(t, t + height):
            longest[r] = list_quads(above + r * steps * 4, 1, steps, rests + r * room)
            most = max(most, longest[r])
        for r in range(t, t + height):
            row_at(rests + r * room + longest[r] * 4, most - longest[r], np.int32)[:] = room
            longest[r] = most
        t += height


@tile(5)
def _scale_rows(w: Writer, sums, rows, factors, out, step) -> None:
    """Write rows of 16 int32 times their factors."""
    b = w.b

    def body(r):
        at, to = b.add(sums, b.mul(r, I64(64))), b.add(out, b.mul(r, step))
        factor = w.splat(w.load(F32_LANE, b.add(factors, b.mul(r, I64(4)))), F32X8)
        for j in range(2):
            w.store(b.fmul(w.to_f32(w.load(I32X8, at, 32 * j)), factor), to, 32 * j)
        return []

    w.loop(rows, [], body)


@compiled
def scale_rows(sums, rows, width, factors, out, step):
    """Write ``width`` of 16 int32 sums per row times the float32 factor of the row."""
    if width == 16:
        _scale_rows(sums, rows, factors, out, step)
        return
    factor = row_at(factors, rows, np.float32)
    for r in range(rows):
        found = row_at(sums + r * 64, width, np.int32)
        target = row_at(out + r * step, width, np.float32)
        for d in range(width):
            target[d] = float32(found[d]) * factor[r]
