"""Register tiles of the one-bit linear layers: products by table lookup.

Four weight bits of an output are an index into a table of sixteen bytes that one shuffle looks up
for 32 outputs at once; the table is chosen by the activations. No product is ever formed.

``count_pairs`` counts for two activation rows at a time. A table byte holds a count of up to 4 of
the one row in its low digit and of the other in its high digit (base 16). Three lookups are added
before the digits part: 3 * 4 = 12 < 16. The low digits go to byte counters, which hold 21 such
sums: 21 * 12 = 252 <= 255. The high digits are not masked: a pair of bytes as one word, moved right
by 4, is b0 + 16 a1 + 256 b1, and as the counter a1 of its odd byte is known, the words' sum, modulo
2**16, gives b0 + 256 b1 with both counters in [0, 252]. So six lookups cost nine operations.

``sum_codes`` adds up int8 codes. Four codes with the sign of their weight bits, plus 508, lie in
[0, 1016]; two tables hold that number as digits in base 32, so eight lookups of each add up to at
most 8 * 31 = 248 <= 255 before the digits join: 1 * 248 + 32 * 248 = 8184 in 16 bits. There 64 sums
of four codes are at most 64 * 1016 = 65024 <= 65535, and then go to 32 bits.
"""

from collections.abc import Callable

from llvmlite import ir
from numba.core import cgutils

from kernels.simd import F32 as F32_LANE
from kernels.simd import (
    F32X8,
    I8X16,
    I8X32,
    I16,
    I16X16,
    I32,
    I32X8,
    I64,
    Value,
    Writer,
    constant,
    tile,
)

PANEL = 64
"""Outputs whose bits lie together."""
WIDE = 2 * PANEL
"""Outputs of the wide tiles and of a row of indices or sums: two panels."""
GROUP = 3
"""Lookups whose digits are added before they part."""
LONGEST_RUN = 21
"""Groups that byte counters hold."""
EIGHT = 8
"""Lookups of ``sum_codes`` before its digits join."""
EIGHTS_PER_WORD = 8
"""Joined sums that 16 bits hold."""
CODES_OFFSET = 4 * 127
"""What ``code_tables`` adds to a sum of four codes, so that it is never negative."""
AHEAD_BYTES = 4096
"""How far ahead packed weights are asked for; the CPU itself stops at the end of a page."""
SUM_BYTES = 2 * WIDE
"""Bytes of the uint16 counters of one row."""
SHIFT_FACTOR = 1 << 12
"""High half of the 32-bit product with a word: the word moved right by 4.

A multiplication, as the CPU shifts on the ports that the lookups need; read from memory, as the
compiler would otherwise make it the shift again.
"""

_LOW_BYTE = constant(I16X16, 255)
_NIBBLE = constant(I8X32, 15)
_ZERO_BYTES = constant(I8X32, 0)
_ZERO_WORDS = constant(I16X16, 0)


def _lookup(w: Writer, table: Value, index: Value) -> Value:
    """vpshufb: bytes of both halves of ``table`` at the indices (0 to 15) of each half."""
    return w.call("llvm.x86.avx2.pshuf.b", I8X32, [table, index])


def _table(w: Writer, address: Value, offset: int = 0) -> Value:
    """Sixteen bytes in both halves of a vector."""
    empty = ir.Constant(I8X16, ir.Undefined)
    return w.shuffle(w.load(I8X16, address, offset), empty, list(range(16)) * 2)


def _at(w: Writer, address: Value, index: Value, size: int) -> Value:
    return w.b.add(address, w.b.mul(index, I64(size)))


def _prefetch(w: Writer, address: Value, *, is_written: bool) -> None:
    """Ask for one cache line; any address will do."""
    pointer = ir.IntType(8).as_pointer()
    kind = ir.FunctionType(ir.VoidType(), [pointer, I32, I32, I32])
    function = cgutils.get_or_insert_function(w.b.module, kind, "llvm.prefetch.p0")
    at = w.b.inttoptr(address, pointer)
    w.b.call(function, [at, I32(int(is_written)), I32(3), I32(1)])


def _smaller(w: Writer, a: Value, c: Value) -> Value:
    return w.b.select(w.b.icmp_signed("<", a, c), a, c)


def _add(w: Writer, value: Value, start: Value, target: Value, offset: int) -> None:
    """Write lanes at ``start`` plus ``value`` to ``target``."""
    w.store(w.b.add(value, w.load(value.type, start, offset)), target, offset)


def _count_groups(
    w: Writer, tables: list[Value], indices: list[list[Value]], low: list[Value], high: list[Value]
) -> None:
    """Add one group of lookups of each vector of outputs to its counters, ``low`` and ``high``.

    ``tables`` are GROUP tables and last the shift factor; ``indices[i][j]`` belong to table i.
    """
    b = w.b
    for j in range(len(low)):
        found = [_lookup(w, tables[i], indices[i][j]) for i in range(GROUP)]
        digits = b.add(b.add(found[0], found[1]), found[2])
        low[j] = b.add(low[j], b.and_(digits, _NIBBLE))
        words = b.bitcast(digits, I16X16)
        moved = w.call("llvm.x86.avx2.pmulhu.w", I16X16, [words, tables[GROUP]])
        high[j] = b.add(high[j], moved)


def _flush_pairs(w: Writer, low: list[Value], high: list[Value], start: Value, sums: Value) -> None:
    """Write uint16 at ``start`` plus the counters of both rows to ``sums``, outputs in order."""
    b = w.b
    for j, (bytes_, words) in enumerate(zip(low, high, strict=True)):
        first = b.bitcast(bytes_, I16X16)
        odd = b.lshr(first, constant(I16X16, 8))
        second = b.sub(words, b.shl(odd, constant(I16X16, 4)))
        for row, (even_lanes, odd_lanes) in enumerate(
            ((b.and_(first, _LOW_BYTE), odd),
             (b.and_(second, _LOW_BYTE), b.lshr(second, constant(I16X16, 8))))
        ):  # fmt: skip
            _add(w, even_lanes, start, sums, row * SUM_BYTES + 64 * j)
            _add(w, odd_lanes, start, sums, row * SUM_BYTES + 64 * j + 32)


def _tables_at(w: Writer, offsets: Value, table: Value, first: int) -> list[Value]:
    """Tables of one group, by the byte offsets (uint16) of its lookups."""
    at = (w.load(I16, offsets, 2 * (first + i)) for i in range(GROUP))
    return [_table(w, w.b.add(table, w.b.zext(one, I64))) for one in at]


def _count_runs(
    w: Writer, steps: Value, run: Value, vectors: int, begin: Value, sums: Value,
    count_step: Callable[[Value, list[Value], list[Value]], None],
) -> None:  # fmt: skip
    """Run ``count_step(step, low, high)`` over all steps, flushing the counters after each run."""
    b = w.b

    def outer(o):
        first = b.mul(o, run)

        def body(i, *carried: Value):
            low, high = list(carried[:vectors]), list(carried[vectors:])
            count_step(b.add(first, i), low, high)
            return low + high

        empty = [_ZERO_BYTES] * vectors + [_ZERO_WORDS] * vectors
        counters = w.loop(_smaller(w, b.sub(steps, first), run), empty, body)
        start = b.select(b.icmp_signed("==", o, I64(0)), begin, sums)
        _flush_pairs(w, counters[:vectors], counters[vectors:], start, sums)
        return []

    w.loop(b.sdiv(b.add(steps, b.sub(run, I64(1))), run), [], outer)


@tile(7)
def count_pairs(w: Writer, offsets, indices, groups, run, tables, begin, sums) -> None:
    """Tile: counts of two rows for 128 outputs, added to those at ``begin``, to ``sums``.

    Both are uint16 ``[2][128]``. ``offsets`` (uint16, GROUP per group) choose tables after the 32
    bytes of the shift factor at ``tables``; ``indices`` are bytes ``[groups][GROUP][128]``;
    counters are flushed after ``run`` groups.
    """
    factor, table = w.load(I16X16, tables), w.b.add(tables, I64(32))
    vectors = WIDE // 32

    def step(group: Value, low: list[Value], high: list[Value]) -> None:
        at = _at(w, indices, group, GROUP * WIDE)
        found = [
            [w.load(I8X32, at, i * WIDE + 32 * j) for j in range(vectors)] for i in range(GROUP)
        ]
        chosen = _tables_at(w, _at(w, offsets, group, 2 * GROUP), table, 0)
        _count_groups(w, [*chosen, factor], found, low, high)

    _count_runs(w, groups, run, vectors, begin, sums, step)


@tile(7)
def count_pairs_packed(w: Writer, offsets, panel, doubles, run, tables, begin, sums) -> None:
    """Tile: the same for the 64 outputs of one packed panel, two groups (three bytes) at a time.

    ``run`` counts doubles, so at most LONGEST_RUN // 2.
    """
    factor, table = w.load(I16X16, tables), w.b.add(tables, I64(32))
    vectors = PANEL // 32

    def step(double: Value, low: list[Value], high: list[Value]) -> None:
        at = _at(w, panel, double, GROUP * PANEL)
        for i in range(GROUP):
            _prefetch(w, w.at(at, AHEAD_BYTES + i * PANEL), is_written=False)
        found: list[list[Value]] = []
        for i in range(GROUP):
            halves = [w.halves(w.load(I8X32, at, i * PANEL + 32 * j)) for j in range(vectors)]
            found += [[half[0] for half in halves], [half[1] for half in halves]]
        at_offsets = _at(w, offsets, double, 4 * GROUP)
        for first in (0, GROUP):
            chosen = _tables_at(w, at_offsets, table, first)
            _count_groups(w, [*chosen, factor], found[first : first + GROUP], low, high)

    _count_runs(w, doubles, run, vectors, begin, sums, step)


@tile(3)
def unpack(w: Writer, panel, indices, count) -> None:
    """Tile: ``count`` bytes of each of 64 outputs as indices, two rows of 128 per byte."""

    def body(i):
        source, target = _at(w, panel, i, PANEL), _at(w, indices, i, 2 * WIDE)
        _prefetch(w, w.at(source, AHEAD_BYTES), is_written=False)
        for j in range(PANEL // 32):
            for half, nibbles in enumerate(w.halves(w.load(I8X32, source, 32 * j))):
                w.store(nibbles, target, half * WIDE + 32 * j)
        return []

    w.loop(count, [], body)


@tile(4)
def pair_offsets(w: Writer, first, second, offsets, blocks) -> None:
    """Tile: table offsets (uint16) of two packed rows, 16 bytes or 32 lookups per block.

    Four bits a of the first and c of the second row choose table 16 a + c, of 16 bytes.
    """
    b = w.b
    words = ir.VectorType(I16, 16)
    low, four = constant(I8X16, 15), constant(I8X16, 4)

    def body(i):
        one, other = (w.load(I8X16, _at(w, row, i, 16)) for row in (first, second))
        even = b.or_(b.shl(one, four), b.and_(other, low))
        odd = b.or_(b.and_(one, constant(I8X16, 240)), b.lshr(other, four))
        target = _at(w, offsets, i, 64)
        for half in range(2):
            order = [lane for k in range(8) for lane in (8 * half + k, 16 + 8 * half + k)]
            chosen = b.zext(w.shuffle(even, odd, order), words)
            w.store(b.shl(chosen, constant(words, 4)), target, 32 * half)
        return []

    w.loop(blocks, [], body)


@tile(4)
def code_tables(w: Writer, codes, tables, blocks, forbidden) -> None:
    """Tile: tables of eight codes (two lookups) per block, 64 bytes: low digits, high digits.

    ``forbidden`` is 32 bytes, of which one is not zero after a code -128.
    """
    b = w.b
    signs = [(-1, -1), (1, -1), (-1, 1), (1, 1)]
    pattern = ir.Constant(I8X32, [sign for pair in signs * 4 for sign in pair])
    lift = ir.Constant(I16X16, [254 * pair.count(-1) for pair in signs * 4])
    base, mask = constant(I8X32, 127), constant(I16X16, 31)

    def body(i, bad: Value):
        eight = w.splat(w.load(I64, _at(w, codes, i, 8)), I8X32)
        lowest = b.sext(b.icmp_signed("==", eight, constant(I8X32, -128)), I8X32)
        # bytes of one half: codes 0 1 four times, then 2 3 four times; 4 to 7 in the other half
        order = [4 * half + 2 * pair + k for half in (0, 1) for pair in (0, 1) for k in (0, 1) * 4]
        spread = w.shuffle(b.add(eight, base), _ZERO_BYTES, order)
        pairs = b.add(w.madd_bytes(spread, pattern), lift)
        near = w.shuffle(pairs, pairs, [8 * h + e % 4 for h in (0, 1) for e in range(8)])
        digits: list[list[Value]] = [[], []]
        for upper in (0, 2):
            order = [8 * h + 4 + upper + e // 4 for h in (0, 1) for e in range(8)]
            sums = b.add(near, w.shuffle(pairs, pairs, order))
            digits[0].append(b.and_(sums, mask))
            digits[1].append(b.lshr(sums, constant(I16X16, 5)))
        for digit, (lower_half, upper_half) in enumerate(digits):
            packed = w.call("llvm.x86.avx2.packuswb", I8X32, [lower_half, upper_half])
            w.store(packed, _at(w, tables, i, 64), 32 * digit)
        return [b.or_(bad, lowest)]

    (bad,) = w.loop(blocks, [_ZERO_BYTES], body)
    w.store(bad, forbidden)


@tile(6)
def sum_codes(w: Writer, tables, indices, eights, begin, words, sums) -> None:
    """Tile: sums of one row for 128 outputs, added to those at ``begin``, to int32 ``sums[128]``.

    ``tables`` are those of ``code_tables``, EIGHT lookups at a time; ``indices`` are bytes
    ``[eights][EIGHT][128]``; ``words`` is memory for 128 uint16.
    """
    b, vectors = w.b, WIDE // 32
    parts = [[ir.Constant(I8X32, pair * 16) for pair in ([d, 0], [0, d])] for d in (1, 32)]

    def outer(o):
        first = b.mul(o, I64(EIGHTS_PER_WORD))
        for place in range(2 * vectors):
            w.store(_ZERO_WORDS, words, 32 * place)

        def body(i):
            at = _at(w, indices, b.add(first, i), EIGHT * WIDE)
            at_tables = _at(w, tables, b.add(first, i), EIGHT * 32)
            digits = [[_ZERO_BYTES] * vectors, [_ZERO_BYTES] * vectors]
            for n in range(EIGHT):
                place = n // 2 * 64 + n % 2 * 16
                index = [w.load(I8X32, at, n * WIDE + 32 * j) for j in range(vectors)]
                for digit, counters in enumerate(digits):
                    table = _table(w, at_tables, place + 32 * digit)
                    for j in range(vectors):
                        counters[j] = b.add(counters[j], _lookup(w, table, index[j]))
            for place in range(2 * vectors):
                joined = b.add(
                    w.madd_bytes(digits[0][place // 2], parts[0][place % 2]),
                    w.madd_bytes(digits[1][place // 2], parts[1][place % 2]),
                )
                _add(w, joined, words, words, 32 * place)
            return []

        w.loop(_smaller(w, b.sub(eights, first), I64(EIGHTS_PER_WORD)), [], body)
        start = b.select(b.icmp_signed("==", o, I64(0)), begin, sums)
        for place in range(2 * vectors):
            for half in range(2):
                found = w.load(ir.VectorType(I16, 8), words, 32 * place + 16 * half)
                _add(w, b.zext(found, I32X8), start, sums, 64 * place + 32 * half)
        return []

    w.loop(b.sdiv(b.add(eights, I64(EIGHTS_PER_WORD - 1)), I64(EIGHTS_PER_WORD)), [], outer)


@tile(4)
def prefetch_rows(w: Writer, target, step, second, lines) -> None:
    """Tile: ask for the cache lines of two rows that will be written, of one if not ``second``."""
    rows = [target, w.b.add(target, w.b.mul(step, second))]

    def line(i):
        for row in rows:
            _prefetch(w, _at(w, row, i, 64), is_written=True)
        return []

    w.loop(lines, [], line)


def _emit(is_counts: bool):
    """Make the tile: out[r] = float32(sums) * x_scale[r] * w_scale + bias for two rows.

    Sums are ``starts[r] - 2 counts`` of uint16 counters (starts float32), or ``starts[r]`` plus
    int32 (starts int32), 128 to a row; ``chunks`` of 16 are written. ``second`` is 0 where there is
    no second row, which then is the first again. Every operation is rounded to float32, in this
    order; the first is exact below 2**24.
    """
    size = 2 if is_counts else 4
    minus_two, words = constant(F32X8, -2.0), ir.VectorType(I16, 8)

    def generate(
        w: Writer, sums, starts, x_scale, x_step, w_scale, bias, out, out_step, chunks, second
    ) -> None:
        b = w.b

        def row(r: int) -> tuple[Value, ...]:
            def at(address: Value, step: Value) -> Value:
                return b.add(address, b.mul(step, second)) if r else address

            one = w.splat(w.load(F32_LANE, at(x_scale, x_step)), F32X8)
            start = w.load(F32_LANE if is_counts else I32, at(starts, I64(4)))
            start = w.splat(start, F32X8 if is_counts else I32X8)
            return one, start, at(sums, I64(size * WIDE)), at(out, out_step)

        rows = [row(r) for r in range(2)]

        def chunk(c):
            for j in range(2):
                scale, shift = (
                    w.load(F32X8, _at(w, address, c, 64), 32 * j) for address in (w_scale, bias)
                )
                for one, start, source, target in rows:
                    at = _at(w, source, c, 16 * size)
                    if is_counts:
                        counts = w.to_f32(b.zext(w.load(words, at, 16 * j), I32X8))
                        value = w.fma(counts, minus_two, start)
                    else:
                        value = w.to_f32(b.add(w.load(I32X8, at, 32 * j), start))
                    y = b.fmul(b.fmul(value, one), scale)
                    w.store(b.fadd(y, shift), _at(w, target, c, 64), 32 * j)
            return []

        w.loop(chunks, [], chunk)

    return tile(10)(generate)


emit_counts, emit_sums = _emit(is_counts=True), _emit(is_counts=False)
"""Tiles of counters and of sums."""
