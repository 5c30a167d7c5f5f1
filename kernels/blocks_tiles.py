"""Register tiles of block-sparse linear layers: outputs that share a list of columns.

The tiles are those of dense layers, a vector of outputs for each broadcast activation, but step
along a list: the product costs what a dense one of as many columns would.
"""

import functools

from kernels.simd import F32 as F32_LANE
from kernels.simd import F32X8, I16, I64, Value, Writer, constant, tile

UNROLL = 4
SUMS = 6
"""Sums that nearly hide the latency of the FMA, 4 cycles and two a cycle; 12 would spill."""


def _tile(rows: int, vectors: int):
    """Make the tile: out[r][0:8v] = start[r] + sum over kept columns c of x[r][c] w[c][0:8v].

    ``columns`` are uint16; ``start`` is an address whose rows are ``start_step`` bytes apart. Tiles
    of few rows keep several sets of sums.
    """
    size = rows * vectors
    sets = min(UNROLL, max(1, -(-SUMS // size)))
    line = 32 * vectors

    def generate(
        w: Writer, x, x_step, values, columns, count, start, start_step, out, out_step
    ) -> None:
        b = w.b
        row = [b.add(x, b.mul(x_step, I64(r))) for r in range(rows)]
        whole = b.sdiv(count, I64(UNROLL))

        def step(acc: list[Value], at_column: Value, at_value: Value, u: int) -> None:
            offset = b.shl(b.zext(w.load(I16, at_column, 2 * u), I64), I64(2))
            weights = [w.load(F32X8, at_value, u * line + 32 * j) for j in range(vectors)]
            for r in range(rows):
                one = w.splat(w.load(F32_LANE, b.add(row[r], offset)), F32X8)
                for j in range(vectors):
                    acc[vectors * r + j] = w.fma(one, weights[j], acc[vectors * r + j])

        def body(i, *carried: Value):
            acc = [list(carried[s * size : (s + 1) * size]) for s in range(sets)]
            at_column = b.add(columns, b.mul(i, I64(2 * UNROLL)))
            at_value = b.add(values, b.mul(i, I64(UNROLL * line)))
            for u in range(UNROLL):
                step(acc[u % sets], at_column, at_value, u)
            return [value for one in acc for value in one]

        def rest(i, *carried: Value):
            acc = list(carried)
            i = b.add(i, b.mul(whole, I64(UNROLL)))
            at_column, at_value = b.mul(i, I64(2)), b.mul(i, I64(line))
            step(acc, b.add(columns, at_column), b.add(values, at_value), 0)
            return acc

        first = [
            w.load(F32X8, b.add(start, b.mul(start_step, I64(r))), 32 * j)
            for r in range(rows)
            for j in range(vectors)
        ]
        first += [constant(F32X8, 0.0)] * (size * (sets - 1))
        acc = w.loop(whole, first, body)
        acc = w.loop(b.srem(count, I64(UNROLL)), acc, rest)
        for i in range(size):
            total = functools.reduce(b.fadd, acc[i::size])
            r, j = divmod(i, vectors)
            w.store(total, b.add(out, b.mul(out_step, I64(r))), 32 * j)

    return tile(9)(generate)


wide_1, wide_2, wide_4, wide_6 = (_tile(rows, 2) for rows in (1, 2, 4, 6))
slim_1, slim_2, slim_4, slim_6 = (_tile(rows, 1) for rows in (1, 2, 4, 6))
