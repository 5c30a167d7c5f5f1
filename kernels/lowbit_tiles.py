"""Register tiles of the integer linear layers.

As the stored weight is the unsigned operand, sum(x * (w + offset)) - offset * sum(x) is the result;
the second part is where the sums start.
"""

from kernels.quads import QUAD, WIDTH
from kernels.simd import I8X32, I16X16, I32, I32X8, I64, Value, Writer, constant, tile

SHORT_RUN = 8
"""Quads whose 4-bit products always fit 16 bits."""


def row_addresses(w: Writer, x, step, rows: int) -> list[Value]:
    """Addresses of rows ``step`` bytes apart."""
    return [w.b.add(x, w.b.mul(step, I64(r))) for r in range(rows)]


def _starts(w: Writer, starts, rows: int) -> list[Value]:
    """Two vectors per row of its first sum, int32 at ``starts``."""
    return [w.splat(w.load(I32, starts, 4 * (i // 2)), I32X8) for i in range(2 * rows)]


def _broadcast(w: Writer, row: Value, at: Value) -> Value:
    """Quad of activation codes in all lanes."""
    return w.splat(w.load(I32, w.b.add(row, at)), I8X32)


def tile_8(rows: int):
    """Make the tile sums[r][0:16] = starts[r] + sum over quads of (w + 127) x[r], extras too."""
    ones = constant(I16X16, 1)

    def generate(
        w: Writer, x, x_step, panel, quads, starts, extras, extra_step, counts, sums
    ) -> None:
        b = w.b
        row = row_addresses(w, x, x_step, rows)

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

        def again(i, *carried: Value):
            acc = list(carried)
            for r, one in enumerate(row_addresses(w, extras, extra_step, rows)):
                at = b.add(one, b.mul(i, I64(8)))
                offset = b.sext(w.load(I32, at), I64)
                at_w = b.add(panel, b.mul(offset, I64(WIDTH)))
                weights = [w.load(I8X32, at_w, 32 * j) for j in range(2)]
                step(acc, _broadcast(w, at, I64(4)), weights, r)
            return acc

        acc = w.loop(b.sext(w.load(I32, counts), I64), acc, again)
        for i, value in enumerate(acc):
            w.store(value, sums, 32 * i)

    return tile(9)(generate)


def tile_4(rows: int):
    """Make the tile sums[r][0:16] = starts[r] + sum over quads of w x[r], ``run`` in 16 bits."""
    ones = constant(I16X16, 1)
    unroll = 4

    def generate(w: Writer, x, x_step, panel, quads, run, starts, sums) -> None:
        b = w.b
        row = row_addresses(w, x, x_step, rows)
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


def tile_4_direct(rows: int):
    """Make the same tile on packed codes, unpacked in registers: for few rows."""
    ones = constant(I16X16, 1)

    def generate(w: Writer, x, x_step, panel, quads, starts, sums) -> None:
        b = w.b
        row = row_addresses(w, x, x_step, rows)

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
def unpack_4(w: Writer, source, target, quads) -> None:
    """Write the nibbles of packed quads as bytes, outputs 0 to 15 in order."""

    def body(i):
        at = w.b.add(target, w.b.mul(i, I64(64)))
        low, high = w.halves(w.load(I8X32, w.b.add(source, w.b.mul(i, I64(32)))))
        w.store(low, at)
        w.store(high, at, 32)
        return []

    w.loop(quads, [], body)
