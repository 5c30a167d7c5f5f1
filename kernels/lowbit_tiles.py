"""Register tiles of the integer linear layers: 16 outputs of a few rows, summed over quads.

Weight codes are stored with an offset, as the unsigned operand of vpmaddubsw. The tiles add
``sum((code + offset) x)`` to int32 sums; ``-offset * sum(x)`` is where a caller lets these start.
"""

from collections.abc import Iterator

from llvmlite import ir
from numba.core import cgutils

from kernels.quads import QUAD, WIDTH
from kernels.simd import (
    F32,
    F32X8,
    I8X32,
    I16X16,
    I32,
    I32X8,
    I64,
    Value,
    Writer,
    constant,
    tile,
)

AHEAD = 1024
"""Bytes of a panel that few rows ask for ahead: memory then feeds one core a tenth faster."""
UNROLL = 4
"""Quads per step of the tiles that sum in 16 bits; a panel of such codes is a multiple of them."""


def row_addresses(w: Writer, x, step, rows: int) -> list[Value]:
    """Addresses of rows ``step`` bytes apart."""
    return [w.b.add(x, w.b.mul(step, I64(r))) for r in range(rows)]


def prefetch(w: Writer, address: Value) -> None:
    """Ask for the cache line at ``address``, which may lie past the end of all arrays."""
    pointer = w.b.inttoptr(address, ir.IntType(8).as_pointer())
    kind = ir.FunctionType(ir.VoidType(), [pointer.type, I32, I32, I32])
    function = cgutils.get_or_insert_function(w.b.module, kind, "llvm.prefetch.p0")
    w.b.call(function, [pointer, I32(0), I32(3), I32(1)])


def kept(w: Writer, value: Value) -> Value:
    """Return the value, as something that the compiler cannot see through.

    Else it turns ``(sum + a) + b`` into ``sum + (a + b)``, and runs out of registers.
    """
    same = ir.FunctionType(value.type, [value.type])
    return w.b.asm(same, "", "=x,0", [value], side_effect=False)


def fence(w: Writer) -> None:
    """Keep loads from being moved up or down past this place: early ones take registers."""
    w.b.asm(ir.FunctionType(ir.VoidType(), []), "", "~{memory}", [], side_effect=True)


def _products(w: Writer, weights: Value, codes: Value) -> Value:
    """16-bit sums of pairs of products: 32 weights at one address, 4 codes at another."""
    return w.madd_bytes(w.load(I8X32, weights), w.splat(w.load(I32, codes), I8X32))


def _add_words(w: Writer, acc: list[Value], i: int, pairs: Value) -> None:
    """Widen pairs of 16-bit sums and add them to sum ``i``."""
    acc[i] = kept(w, w.b.add(acc[i], w.madd_words(pairs, constant(I16X16, 1))))


def _two_quads(w: Writer, row: list[Value], panel, i, carried: tuple[Value, ...]) -> list[Value]:
    """Add the products of quads 2 i and 2 i + 1, summed before they are widened.

    The outer loop runs over the halves of the outputs, as registers hold two weights, not four.
    """
    b, acc = w.b, list(carried)
    at_w, step = b.add(panel, b.mul(i, I64(128))), b.mul(i, I64(2 * QUAD))
    for j in range(2):
        fence(w)
        for r, one in enumerate(row):
            at_x = b.add(one, step)
            first = _products(w, w.at(at_w, 32 * j), at_x)
            second = _products(w, w.at(at_w, 64 + 32 * j), w.at(at_x, QUAD))
            _add_words(w, acc, 2 * r + j, b.add(first, second))
    return acc


def _one_quad(w: Writer, row: list[Value], panel, i, carried: tuple[Value, ...]) -> list[Value]:
    """Add the products of quad i; few rows ask for their panel ahead."""
    b, acc = w.b, list(carried)
    at_w, step = b.add(panel, b.mul(i, I64(64))), b.mul(i, I64(QUAD))
    if len(row) <= 2:
        prefetch(w, w.at(at_w, AHEAD))
    for r, one in enumerate(row):
        for j in range(2):
            _add_words(w, acc, 2 * r + j, _products(w, w.at(at_w, 32 * j), b.add(one, step)))
    return acc


def _extra_quads(w: Writer, lists: list[Value], whole, i, carried: tuple[Value, ...]):
    """Add the products of extra i of each row."""
    b, acc = w.b, list(carried)
    for r, one in enumerate(lists):
        at = b.add(one, b.mul(i, I64(8)))
        at_w = b.add(whole, b.mul(b.sext(w.load(I32, at), I64), I64(WIDTH)))
        for j in range(2):
            _add_words(w, acc, 2 * r + j, _products(w, w.at(at_w, 32 * j), w.at(at, 4)))
    return acc


def tile_8(rows: int, *, is_paired: bool = False):
    """Make the tile sums[r][0:16] += sum over quads of u x[r], for u of 8 bits, and over extras.

    Every pair of products must fit 16 bits; they are widened at once, or, if ``is_paired``, after
    the sum with those of the next quad, which must then fit as well (``quads`` is even). Extras,
    ``count`` per row, are pairs of int32: the number of the first of four steps from ``whole``, and
    their codes.
    """

    def generate(
        w: Writer, x, x_step, panel, quads, extras, extra_step, count, whole, sums
    ) -> None:
        row = row_addresses(w, x, x_step, rows)
        lists = row_addresses(w, extras, extra_step, rows)
        step = _two_quads if is_paired else _one_quad
        steps = w.b.sdiv(quads, I64(2)) if is_paired else quads
        acc = [w.load(I32X8, sums, 32 * i) for i in range(2 * rows)]
        acc = w.loop(steps, acc, lambda i, *so_far: step(w, row, panel, i, so_far))
        acc = w.loop(count, acc, lambda i, *so_far: _extra_quads(w, lists, whole, i, so_far))
        for i, value in enumerate(acc):
            w.store(value, sums, 32 * i)

    return tile(9)(generate)


def _unpacked(w: Writer, at: Value, field: int) -> Iterator[tuple[Value, Value]]:
    """Yield two vectors for each of ``UNROLL`` quads, from fields of 8, 4 or 2 bits at ``at``."""
    for u in range(UNROLL):
        fence(w)
        if field == 8:
            yield w.load(I8X32, at, 64 * u), w.load(I8X32, at, 64 * u + 32)
        elif field == 4:
            yield w.halves(w.load(I8X32, at, 32 * u))
        elif u % 2 == 0:
            packed = w.b.bitcast(w.load(I8X32, at, 16 * u), I16X16)
            parts = []
            for shift in (0, 2, 4, 6):
                words = w.b.lshr(packed, constant(I16X16, shift))
                parts.append(w.b.and_(w.b.bitcast(words, I8X32), constant(I8X32, 3)))
            yield parts[0], parts[1]
        else:
            yield parts[2], parts[3]


def _four_quads(
    w: Writer, row: list[Value], panel, four, field: int, carried: tuple[Value, ...]
) -> list[Value]:
    """Add the products of ``UNROLL`` quads, number ``four`` of such, in 16 bits."""
    b, acc = w.b, list(carried)
    at_w = b.add(panel, b.mul(four, I64(8 * field * UNROLL)))
    step = b.mul(four, I64(QUAD * UNROLL))
    for line in range(field // 2 if field < 8 else 0):
        prefetch(w, w.at(at_w, AHEAD + 64 * line))
    for u, weights in enumerate(_unpacked(w, at_w, field)):
        for r, one in enumerate(row):
            codes = w.splat(w.load(I32, b.add(one, step), u * QUAD), I8X32)
            for j in range(2):
                products = w.madd_bytes(weights[j], codes)
                acc[2 * r + j] = kept(w, b.add(acc[2 * r + j], products))
    return acc


def tile_low(rows: int, field: int):
    """Make the tile sums[r][0:16] += sum over quads of u x[r], ``run`` quads at a time in 16 bits.

    ``field`` is the number of bits from one u to the next: 8 after ``unpack``, else as stored.
    ``quads`` and ``run`` are multiples of UNROLL; the caller proves that a run cannot overflow.
    """
    ones = constant(I16X16, 1)

    def generate(w: Writer, x, x_step, panel, quads, run, sums) -> None:
        b = w.b
        row = row_addresses(w, x, x_step, rows)

        def outer(o):
            start = b.mul(o, run)

            def body(i, *carried: Value):
                four = b.add(b.sdiv(start, I64(UNROLL)), i)
                return _four_quads(w, row, panel, four, field, carried)

            left = b.sub(quads, start)
            count = b.select(b.icmp_signed("<", left, run), left, run)
            acc = w.loop(b.sdiv(count, I64(UNROLL)), [constant(I16X16, 0)] * (2 * rows), body)
            for i, value in enumerate(acc):
                w.store(b.add(w.load(I32X8, sums, 32 * i), w.madd_words(value, ones)), sums, 32 * i)
            return []

        w.loop(b.sdiv(b.add(quads, b.sub(run, I64(1))), run), [], outer)

    return tile(6)(generate)


def tile_groups(rows: int, field: int):
    """Make the tile y[r][0:16] += what ``groups`` groups of ``quads`` quads each contribute.

    A group adds (float32(start[r] + sum of u x[r]) - zero * x_sum[r]) * scale, every operation
    rounded to float32, in this order. Its products must fit 16 bits all together. ``starts`` holds
    int32 and ``x_sums`` float32 per row, ``step`` bytes from group to group; scales and zeros lie
    64 and ``zero_step`` bytes apart.
    """
    ones = constant(I16X16, 1)

    def generate(
        w: Writer, x, x_step, panel, groups, quads, starts, x_sums, step, scale, zero, zero_step, y
    ) -> None:
        b = w.b
        row = row_addresses(w, x, x_step, rows)
        fours = b.sdiv(quads, I64(UNROLL))

        def group(g):
            first = b.mul(g, fours)

            def body(i, *carried: Value):
                return _four_quads(w, row, panel, b.add(first, i), field, carried)

            acc = w.loop(fours, [constant(I16X16, 0)] * (2 * rows), body)
            at_row, at_zero = b.mul(g, step), b.add(zero, b.mul(g, zero_step))
            at_scale = b.add(scale, b.mul(g, I64(64)))
            for r in range(rows):
                start = w.splat(w.load(I32, b.add(starts, at_row), 4 * r), I32X8)
                total = w.splat(w.load(F32, b.add(x_sums, at_row), 4 * r), F32X8)
                for j in range(2):
                    i = 2 * r + j
                    part = w.to_f32(b.add(w.madd_words(acc[i], ones), start))
                    part = b.fsub(part, b.fmul(w.load(F32X8, at_zero, 32 * j), total))
                    part = b.fmul(part, w.load(F32X8, at_scale, 32 * j))
                    w.store(b.fadd(w.load(F32X8, y, 32 * i), part), y, 32 * i)
            return []

        w.loop(groups, [], group)

    return tile(12)(generate)


def unpack(field: int):
    """Make the step that writes ``quads`` packed quads as bytes, outputs 0 to 15 in order."""

    def generate(w: Writer, source, target, quads) -> None:
        b = w.b

        def body(i):
            at = b.add(source, b.mul(i, I64(8 * field * UNROLL)))
            to = b.add(target, b.mul(i, I64(64 * UNROLL)))
            for u, weights in enumerate(_unpacked(w, at, field)):
                for j in range(2):
                    w.store(weights[j], to, 64 * u + 32 * j)
            return []

        w.loop(b.sdiv(quads, I64(UNROLL)), [], body)

    return tile(3)(generate)


def finish_group(*, has_zeros: bool):
    """Make the step y[r] += (float32(sums[r]) - zero * x_sums[r]) * scale for 16 outputs.

    Every operation is rounded to float32, in this order. ``x_sums`` are float32, rows of ``sums``
    and ``y`` 64 bytes; without zeros the bracket is float32(sums[r]).
    """

    def generate(w: Writer, rows, sums, x_sums, scale, zero, y) -> None:
        b = w.b
        scales = [w.load(F32X8, scale, 32 * j) for j in range(2)]
        zeros = [w.load(F32X8, zero, 32 * j) for j in range(2)] if has_zeros else []

        def body(r):
            at, to = b.add(sums, b.mul(r, I64(64))), b.add(y, b.mul(r, I64(64)))
            if has_zeros:
                total = w.splat(w.load(F32, b.add(x_sums, b.mul(r, I64(4)))), F32X8)
            for j in range(2):
                part = w.to_f32(w.load(I32X8, at, 32 * j))
                if has_zeros:
                    part = b.fsub(part, b.fmul(zeros[j], total))
                part = b.fmul(part, scales[j])
                w.store(b.fadd(w.load(F32X8, to, 32 * j), part), to, 32 * j)
            return []

        w.loop(rows, [], body)

    return tile(6)(generate)
