"""Register tiles of sparse linear layers on activations side by side: broadcast weights."""

from kernels.simd import F32 as F32_LANE
from kernels.simd import F32X8, I16, I64, Value, Writer, constant, tile

UNROLL = 4
EDGE = 4
"""Outputs and steps of a square block."""


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


tile_1, tile_2, tile_4, tile_8 = (_tile(width) for width in (1, 2, 4, 8))


@tile(6)
def tile_one(w: Writer, x, values, columns, count, start, target) -> None:
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


def _square(width: int):
    """Make the tile of 4 x 4 blocks: targets = starts + sum over blocks, for 4 outputs.

    A block is 4 steps of 4 outputs' weights; ``columns`` counts in blocks. Sums of outputs lie
    one tile line of ``width`` vectors apart. Every line of the tile serves 4 outputs.
    """
    line = width * 32
    sets = 2 // width

    def generate(w: Writer, x, values, columns, count, start, target) -> None:
        b = w.b
        size = EDGE * width

        def body(i, *carried: Value):
            acc = [list(carried[s * size : (s + 1) * size]) for s in range(sets)]
            column = b.zext(w.load(I16, b.add(columns, b.mul(i, I64(2)))), I64)
            at = b.add(x, b.mul(column, I64(EDGE * line)))
            at_value = b.add(values, b.mul(i, I64(4 * EDGE * EDGE)))
            for k in range(EDGE):
                lines = [w.load(F32X8, at, k * line + 32 * j) for j in range(width)]
                sums = acc[k % sets]
                for output in range(EDGE):
                    one = w.load(F32_LANE, at_value, 4 * (EDGE * k + output))
                    value = w.splat(one, F32X8)
                    for j in range(width):
                        i_sum = output * width + j
                        sums[i_sum] = w.fma(value, lines[j], sums[i_sum])
            return [value for one in acc for value in one]

        acc = w.loop(count, [constant(F32X8, 0.0)] * (size * sets), body)
        for i in range(size):
            total = w.load(F32X8, start, 32 * i)
            for one in acc[i::size]:
                total = b.fadd(total, one)
            w.store(total, target, 32 * i)

    return tile(6)(generate)


square_1, square_2 = _square(1), _square(2)
