"""Tiles of float attention on AVX2: panels of keys, products with them, powers of two of rows."""

from collections.abc import Callable

import numpy as np
from llvmlite import ir

from kernels.attention_common import write_exp2
from kernels.jit import compiled
from kernels.mathematics import LOG2E
from kernels.simd import F32 as F32_LANE
from kernels.simd import (
    F32X8,
    I8X16,
    I16,
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

UNROLL = 4
LOWEST_SCORE = float(np.finfo(np.float32).min)
"""Where the search for the largest score starts: a row of nothing but -inf then has no weight."""

Combine = Callable[[Value, Value], Value]


def lanes(value: float) -> Value:
    """Eight float32 lanes of ``value``."""
    return constant(F32X8, float(np.float32(value)))


def sums_of_eight(w: Writer, rows: list[Value], add: Combine) -> Value:
    """Vector whose lane i is the sum of the eight lanes of ``rows[i]``."""
    even = [0, 2, 8, 10, 4, 6, 12, 14]
    while len(rows) > 2:
        rows = [
            add(w.shuffle(a, b, even), w.shuffle(a, b, [lane + 1 for lane in even]))
            for a, b in zip(rows[::2], rows[1::2], strict=True)
        ]
    low = [0, 1, 2, 3, 8, 9, 10, 11]
    return add(
        w.shuffle(rows[0], rows[1], low), w.shuffle(rows[0], rows[1], [lane + 4 for lane in low])
    )


# --- panels ---------------------------------------------------------------------------------


def _transposed(w: Writer, rows: list[Value]) -> list[Value]:
    """Columns of eight rows of eight lanes."""
    for apart, low in (
        (1, [0, 8, 1, 9, 4, 12, 5, 13]),
        (2, [0, 1, 8, 9, 4, 5, 12, 13]),
        (4, [0, 1, 2, 3, 8, 9, 10, 11]),
    ):
        high = [lane + (4 if apart == 4 else 2) for lane in low]
        found = list(rows)
        for i in range(8):
            if i & apart == 0:
                found[i] = w.shuffle(rows[i], rows[i + apart], low)
                found[i + apart] = w.shuffle(rows[i], rows[i + apart], high)
        rows = found
    # the first two stages leave columns 0 to 3 of each half in the order 0, 2, 1, 3
    return [rows[i] for i in (0, 2, 1, 3, 4, 6, 5, 7)]


def _transpose_eight(*, is_codes: bool) -> Callable[..., None]:
    """Make the step that writes eight keys of ``8 groups`` lanes as columns of a panel of 16.

    A lane is a float32, or a pair of int8 that becomes a pair of int16.
    """

    def generate(w: Writer, keys: Value, step: Value, groups: Value, panel: Value) -> None:
        b = w.b
        row = [b.add(keys, b.mul(step, I64(r))) for r in range(8)]

        def lanes_at(address: Value, i: Value) -> Value:
            if not is_codes:
                return w.load(F32X8, b.add(address, b.mul(i, I64(32))))
            codes = w.load(I8X16, b.add(address, b.mul(i, I64(16))))
            return b.bitcast(b.sext(codes, I16X16), F32X8)

        def body(i: Value) -> list[Value]:
            to = b.add(panel, b.mul(i, I64(512)))
            columns = _transposed(w, [lanes_at(address, i) for address in row])
            for j, column in enumerate(columns):
                w.store(column, to, 64 * j)
            return []

        w.loop(groups, [], body)

    return tile(4)(generate)


_transpose_floats, _transpose_codes = (_transpose_eight(is_codes=c) for c in (False, True))


@compiled
def pack_keys(keys, step, length, depth, panels):
    """Lay keys out as ``[ceil(length / 16)][depth][16]``; past the end the last one repeats."""
    groups = depth // 8
    whole = length // 8 * 8
    for s in range(0, whole, 8):
        to = panels + (s // 16) * depth * 64 + s % 16 * 4
        _transpose_floats(keys + s * step, step, groups, to)
    for s in range((length + 15) // 16 * 16):
        first = groups * 8 if s < whole else 0
        row = row_at(keys + min(s, length - 1) * step, depth, np.float32)
        panel = row_at(panels + (s // 16) * depth * 64 + s % 16 * 4, depth * 16, np.float32)
        for d in range(first, depth):
            panel[d * 16] = row[d]


@compiled
def pack_key_codes(keys, step, length, depth, panels):
    """Lay int8 keys out as int16 ``[ceil(length / 16)][ceil(depth / 2)][16][2]``, likewise."""
    pairs = (depth + 1) // 2
    groups = depth // 16
    whole = length // 8 * 8
    for s in range(0, whole, 8):
        to = panels + (s // 16) * pairs * 64 + s % 16 * 4
        _transpose_codes(keys + s * step, step, groups, to)
    for s in range((length + 15) // 16 * 16):
        first = groups * 16 if s < whole else 0
        row = row_at(keys + min(s, length - 1) * step, depth, np.int8)
        panel = row_at(panels + (s // 16) * pairs * 64 + s % 16 * 4, pairs * 32, np.int16)
        for d in range(first, 2 * pairs):
            panel[d // 2 * 32 + d % 2] = row[d] if d < depth else 0


@compiled
def pack_values(values, step, length, depth, panels):
    """Lay values out as ``[ceil(depth / 16)][length][16]``, zeros past the end."""
    for p in range((depth + 15) // 16):
        count = min(16, depth - p * 16)
        for s in range(length):
            row = row_at(values + s * step + p * 64, count, np.float32)
            panel = row_at(panels + (p * length + s) * 64, 16, np.float32)
            if count == 16:
                for d in range(16):
                    panel[d] = row[d]
            else:
                for d in range(16):
                    panel[d] = row[d] if d < count else np.float32(0.0)


# --- products -------------------------------------------------------------------------------


def _products(rows: int) -> Callable[..., None]:
    """Make the tile out[r][0:16] = start[r] + sum over ``steps`` of x[r][k] panel[k][0:16].

    ``start`` has rows ``start_step`` bytes apart, 0 for the same start of all rows.
    """

    def generate(w: Writer, x, x_step, panel, steps, start, start_step, out, out_step) -> None:
        b = w.b
        row = [b.add(x, b.mul(x_step, I64(r))) for r in range(rows)]

        def add(acc: list[Value], at_x: Value, at_panel: Value, offset: int) -> None:
            found = [w.load(F32X8, at_panel, offset * 64 + 32 * j) for j in range(2)]
            for r, address in enumerate(row):
                value = w.splat(w.load(F32_LANE, b.add(address, at_x), offset * 4), F32X8)
                for j in range(2):
                    acc[2 * r + j] = w.fma(value, found[j], acc[2 * r + j])

        def body(i: Value, *carried: Value) -> list[Value]:
            acc = list(carried)
            at_x, at = b.mul(i, I64(4 * UNROLL)), b.add(panel, b.mul(i, I64(64 * UNROLL)))
            for u in range(UNROLL):
                add(acc, at_x, at, u)
            return acc

        def rest(i: Value, *carried: Value) -> list[Value]:
            acc = list(carried)
            k = b.add(i, b.mul(whole, I64(UNROLL)))
            add(acc, b.mul(k, I64(4)), b.add(panel, b.mul(k, I64(64))), 0)
            return acc

        whole = b.sdiv(steps, I64(UNROLL))
        acc = [
            w.load(F32X8, b.add(start, b.mul(start_step, I64(r))), 32 * j)
            for r in range(rows)
            for j in range(2)
        ]
        acc = w.loop(whole, acc, body)
        acc = w.loop(b.srem(steps, I64(UNROLL)), acc, rest)
        for i, total in enumerate(acc):
            w.store(total, b.add(out, b.mul(out_step, I64(i // 2))), 32 * (i % 2))

    return tile(8)(generate)


_products_4, _products_6 = _products(4), _products(6)


@compiled
def padded_rows(rows):
    """Smallest number of at least ``rows`` that tiles of 6 and 4 rows make up."""
    return max(4, (rows + 1) // 2 * 2)


@compiled
def panel_products(x, x_step, rows, panel, steps, start, start_step, out, out_step):
    """Run the tiles of one panel over ``padded_rows`` rows: six at a time, four at the end."""
    fours = (6 - rows % 6) // 2 % 3
    sixes = (rows - 4 * fours) // 6
    for i in range(sixes):
        t = 6 * i
        s, y = start + t * start_step, out + t * out_step
        _products_6(x + t * x_step, x_step, panel, steps, s, start_step, y, out_step)
    for i in range(fours):
        t = 6 * sixes + 4 * i
        s, y = start + t * start_step, out + t * out_step
        _products_4(x + t * x_step, x_step, panel, steps, s, start_step, y, out_step)


# --- keys that are not seen, and a bias -----------------------------------------------------


@tile(5)
def hide(w: Writer, scores: Value, step: Value, rows: Value, words: Value, word_step: Value):
    """Set those of 16 scores of ``rows`` rows whose bit in the row's uint16 is 0 to -inf."""
    b = w.b
    bits = [ir.Constant(I32X8, [1 << (8 * j + lane) for lane in range(8)]) for j in range(2)]

    def body(r: Value) -> list[Value]:
        word = b.zext(w.load(I16, b.add(words, b.mul(r, word_step))), I32)
        at = b.add(scores, b.mul(r, step))
        for j in range(2):
            is_seen = b.icmp_signed("!=", b.and_(w.splat(word, I32X8), bits[j]), constant(I32X8, 0))
            w.store(b.select(is_seen, w.load(F32X8, at, 32 * j), lanes(-np.inf)), at, 32 * j)
        return []

    w.loop(rows, [], body)


@tile(4)
def _start_at_bias(w: Writer, starts: Value, rows: Value, bias: Value, step: Value) -> None:
    """Write ``rows`` rows of 16 numbers, in units of ln 2."""
    b = w.b

    def body(r: Value) -> list[Value]:
        at, to = b.add(bias, b.mul(r, step)), b.add(starts, b.mul(r, I64(64)))
        for j in range(2):
            w.store(b.fmul(w.load(F32X8, at, 32 * j), lanes(float(LOG2E))), to, 32 * j)
        return []

    w.loop(rows, [], body)


@compiled
def write_starts(starts, rows, width, bias, bias_step, words, step):
    """Write where ``rows`` by 16 scores start, in units of ln 2: a bias, or -inf if not seen.

    ``bias`` (0 is none) and ``words`` (0 is none) are addresses; the bias has ``width`` columns.
    """
    if bias and width == 16:
        _start_at_bias(starts, rows, bias, bias_step)
    else:
        row_at(starts, rows * 16, np.float32)[:] = np.float32(0.0)
        for r in range(rows if bias else 0):
            row = row_at(starts + r * 64, width, np.float32)
            found = row_at(bias + r * bias_step, width, np.float32)
            for i in range(width):
                row[i] = found[i] * LOG2E
    if words:
        hide(starts, 64, rows, words, step)


# --- softmax --------------------------------------------------------------------------------


@tile(3)
def largest_of_row(w: Writer, scores: Value, steps: Value, largest: Value) -> None:
    """Store the largest of ``16 steps`` scores, at least ``LOWEST_SCORE``."""

    def body(i: Value, *found: Value) -> list[Value]:
        at = w.b.add(scores, w.b.mul(i, I64(64)))
        return [w.larger(w.load(F32X8, at, 32 * j), best) for j, best in enumerate(found)]

    first, second = w.loop(steps, [lanes(LOWEST_SCORE)] * 2, body)
    w.store(w.reduce(w.larger(first, second), w.larger), largest)


@tile(3)
def _exponentiate_row(w: Writer, scores: Value, steps: Value, state: Value) -> None:
    """Turn ``16 steps`` scores into 2^(score - state[0]); state[1] becomes their sum."""
    b = w.b
    largest = w.splat(w.load(F32_LANE, state), F32X8)

    def body(i: Value, *sums: Value) -> list[Value]:
        at = b.add(scores, b.mul(i, I64(64)))
        found = [write_exp2(w, b.fsub(w.load(F32X8, at, 32 * j), largest)) for j in range(2)]
        for j, value in enumerate(found):
            w.store(value, at, 32 * j)
        return [b.fadd(a, c) for a, c in zip(sums, found, strict=True)]

    first, second = w.loop(steps, [lanes(0.0)] * 2, body)
    w.store(w.reduce(b.fadd(first, second), b.fadd), state, 4)


@compiled
def softmax_row(scores, end, steps):
    """Turn ``end`` scores, in units of ln 2, into exp(score - largest), and return their sum.

    The row has room for ``16 steps`` scores; those past the end become 0. The sum of no score, or
    of scores that are all -inf, is 0.
    """
    at = stack_bytes(64)
    state = row_at(at, 2, np.float32)
    row_at(scores + end * 4, steps * 16 - end, np.float32)[:] = np.float32(-np.inf)
    largest_of_row(scores, steps, at)
    _exponentiate_row(scores, steps, at)
    return state[1]


@tile(5)
def _divide_rows(w: Writer, sums: Value, rows: Value, norms: Value, out: Value, step: Value):
    """Write rows of 16 sums over their norms."""
    b = w.b

    def body(r: Value) -> list[Value]:
        at, to = b.add(sums, b.mul(r, I64(64))), b.add(out, b.mul(r, step))
        norm = w.splat(w.load(F32_LANE, b.add(norms, b.mul(r, I64(4)))), F32X8)
        for j in range(2):
            w.store(b.fdiv(w.load(F32X8, at, 32 * j), norm), to, 32 * j)
        return []

    w.loop(rows, [], body)


@compiled
def norm_of(total):
    """Return what a row is divided by: 1 where it has no weights, so that it becomes 0."""
    return total if total != np.float32(0.0) else np.float32(1.0)


@compiled
def divide_row(row, count, norm, target):
    """Write ``count`` float32 at an address over ``norm``."""
    values, found = row_at(row, count, np.float32), row_at(target, count, np.float32)
    for i in range(count):
        found[i] = values[i] / norm


@compiled
def divide_rows(sums, rows, width, norms, out, step):
    """Write ``width`` of 16 sums per row over the norm of the row; float32 at addresses."""
    if width == 16:
        _divide_rows(sums, rows, norms, out, step)
        return
    norm = row_at(norms, rows, np.float32)
    for r in range(rows):
        divide_row(sums + r * 64, width, norm[r], out + r * step)
