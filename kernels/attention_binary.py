"""Softmax attention on single bits: scores and contexts are counts of ones in 64-bit words.

Queries, keys and values are signs; probabilities become 0 or 1 (Liu et al. 2022, BiT). With d
counted where the signs of a query and a key differ, their product is depth - 2 d; with n ones among
the bits p of a query's probabilities, the sum of signs v of one column is 2 ones(p & v) - n.
"""

from collections.abc import Callable
from typing import Any

import numpy as np
from llvmlite import ir
from numba import float32, float64, int64, prange, types, uint8, uint64
from numba.extending import intrinsic
from numpy.typing import NDArray

from kernels.arguments import FLOATS, require, told
from kernels.attention_common import address, share, write_exp2
from kernels.jit import compiled, entry, in2, in3, out2
from kernels.mathematics import LOG2E
from kernels.simd import F32 as F32_LANE
from kernels.simd import F32X8, I8, I64, Writer, row_at, tile

F32 = NDArray[np.float32]
U8 = NDArray[np.uint8]
BYTES = np.dtype(np.uint8)
F64X8 = ir.VectorType(ir.DoubleType(), 8)
MISFIT = 1
LOWEST = np.finfo(np.float32).min
FEW_ROWS = 8
"""Below this many queries, signs of values are added row by row; else they are turned first."""
DIGITS = 32
"""Of the counts of ones in a column: fewer than 2^32 keys."""


@intrinsic
def _ones(_context: Any, word: Any) -> tuple[Any, Callable[..., Any]]:
    """Count the ones of a 64-bit word."""
    if word != types.uint64:
        raise TypeError(f"found {word}, expected uint64")
    return types.int64(word), lambda _c, builder, _s, values: builder.ctpop(values[0])


@tile(3)
def _largest(w: Writer, scores, blocks, found) -> None:
    """Tile: write the largest of ``8 blocks`` float32 to ``found``."""

    def body(i, most):
        return [w.larger(w.load(F32X8, w.b.add(scores, w.b.mul(i, I64(32)))), most)]

    (most,) = w.loop(blocks, [w.load(F32X8, scores)], body)
    w.store(w.reduce(most, w.larger), found)


@tile(4)
def _shares(w: Writer, scores, blocks, largest, sums) -> None:
    """Tile: turn scores s into 2^(s - largest); their sum and that of their squares to ``sums``."""
    b = w.b
    most = w.splat(w.load(F32_LANE, largest), F32X8)

    def body(i, total, squares):
        at = b.add(scores, b.mul(i, I64(32)))
        e = write_exp2(w, b.fsub(w.load(F32X8, at), most))
        w.store(e, at)
        wide = b.fpext(e, F64X8)
        return [b.fadd(total, wide), b.fadd(squares, b.fmul(wide, wide))]

    start = ir.Constant(F64X8, [0.0] * 8)
    for j, total in enumerate(w.loop(blocks, [start, start], body)):
        w.store(w.reduce(total, b.fadd), sums, 8 * j)


@tile(4)
def _above(w: Writer, values, blocks, bound, packed) -> None:
    """Tile: a byte per 8 float32, bits of value > bound."""
    b = w.b
    least = w.splat(w.load(F32_LANE, bound), F32X8)

    def body(i):
        value = w.load(F32X8, b.add(values, b.mul(i, I64(32))))
        flags = b.fcmp_ordered(">", value, least)
        w.store(b.bitcast(flags, I8), b.add(packed, i))
        return []

    w.loop(blocks, [], body)


@compiled
def _copy_words(source, depth, target, words):
    """Copy the first ``depth`` bits of a row to 64-bit words, zeros behind them."""
    size = (depth + 7) // 8
    row = row_at(target, words * 8, np.uint8)
    row[:] = uint8(0)
    row[:size] = row_at(source, size, np.uint8)
    if depth % 8:
        row[size - 1] = row[size - 1] & uint8((1 << (depth % 8)) - 1)


@compiled
def _score(query, keys, words, factors, count, depth, q_scale, scores):
    """Write (depth - 2 d) q_scale factor of ``count`` keys; arrays of words, floats and scores."""
    if words == 1:
        word = query[0]
        for s in range(count):
            sum_ = depth - 2 * _ones(word ^ keys[s])
            scores[s] = float32(float32(sum_) * q_scale) * factors[s]
        return
    for s in range(count):
        differ = int64(0)
        for i in range(words):
            differ += _ones(query[i] ^ keys[s * words + i])
        scores[s] = float32(float32(depth - 2 * differ) * q_scale) * factors[s]


@compiled
def _turn(values, step, count, depth, columns, words):
    """Write the bits of ``count`` rows of signs by column: bit s of a column is that of row s."""
    columns[:] = uint64(0)
    for s in range(count):
        row = row_at(values + s * step, (depth + 7) // 8, np.uint8)
        for d in range(depth):
            bit = uint64((row[d // 8] >> uint8(d % 8)) & uint8(1))
            columns[d * words + s // 64] |= bit << uint64(s % 64)


@compiled
def _count(bits, columns, words, depth, sums):
    """Write the sum of the signs of each column where ``bits`` are 1."""
    ones = int64(0)
    for i in range(words):
        ones += _ones(bits[i])
    for d in range(depth):
        both = int64(0)
        for i in range(words):
            both += _ones(bits[i] & columns[d * words + i])
        sums[d] = 2 * both - ones


@compiled
def _add_words(bits, values, step, count, depth, words, planes, sums):
    """Write the same from rows of signs, read where a bit is 1: each column counts in binary.

    ``planes`` holds digit i of the counts of all columns in its words i ``words`` and on; a row is
    added to the lowest digits and what is carried to the next ones.
    """
    planes[:] = uint64(0)
    row, ones = np.empty(words, np.uint64), int64(0)
    for s in range(count):
        if not (bits[s // 64] >> uint64(s % 64)) & uint64(1):
            continue
        ones += 1
        _copy_words(values + s * step, depth, address(row), words)
        for i in range(words):
            carried, digit = row[i], int64(i)
            while carried:
                held = planes[digit]
                planes[digit] = held ^ carried
                carried &= held
                digit += words
    for d in range(depth):
        both = int64(0)
        for digit in range(DIGITS):
            word = planes[digit * words + d // 64]
            both += int64((word >> uint64(d % 64)) & uint64(1)) << digit
        sums[d] = 2 * both - ones


@compiled
def _mean(scale, h, length):
    """Mean of the scales of the rows of one head, as a float32."""
    row = scale[h if scale.shape[0] > 1 else 0]
    if row.size == 1:
        return row[0]
    total = float64(0.0)
    for s in range(length):
        total += row[s]
    return float32(total / length)


@compiled
def _attend(q, q_scale, k, k_scale, v, v_scale, depth, unit, level, out, first, last):
    """Compute heads ``first`` to ``last``; ``level`` 0 is that of each row itself."""
    rows, length = q.shape[1], k.shape[1]
    words, room = (depth + 63) // 64, (length + 63) // 64
    keys, columns = np.empty(length * words, np.uint64), np.empty(depth * room, np.uint64)
    query, bits = np.empty(words, np.uint64), np.empty(room, np.uint64)
    factors, scores = np.empty(length, np.float32), np.empty(room * 64, np.float32)
    totals, sums = np.empty(2, np.float64), np.empty(depth, np.int64)
    bounds, planes = np.empty(2, np.float32), np.empty(DIGITS * words, np.uint64)
    at_scores, blocks, at_bound = address(scores), room * 8, address(bounds)
    for h in range(first, last):
        for s in range(length):
            source = address(k) + h * k.strides[0] + s * k.strides[1]
            _copy_words(source, depth, address(keys) + s * words * 8, words)
            own = k_scale[h if k_scale.shape[0] > 1 else 0, s if k_scale.shape[1] > 1 else 0]
            factors[s] = own * unit
        at_values = address(v) + h * v.strides[0]
        if rows >= FEW_ROWS:
            _turn(at_values, v.strides[1], length, depth, columns, room)
        worth = _mean(v_scale, h, length)
        for t in range(rows):
            _copy_words(address(q) + h * q.strides[0] + t * q.strides[1], depth, address(query),
                        words)  # fmt: skip
            own = q_scale[h if q_scale.shape[0] > 1 else 0, t if q_scale.shape[1] > 1 else 0]
            _score(query, keys, words, factors, length, depth, own, scores)
            scores[length:] = float32(LOWEST)
            _largest(at_scores, blocks, at_bound)
            _shares(at_scores, blocks, at_bound, address(totals))
            step = level if level > 0.0 else totals[1] / (totals[0] * totals[0])
            bounds[0] = float32(step * totals[0] / 2.0)
            _above(at_scores, blocks, at_bound, address(bits))
            if rows >= FEW_ROWS:
                _count(bits, columns, room, depth, sums)
            else:
                _add_words(bits, at_values, v.strides[1], length, depth, words, planes, sums)
            factor = float32(step) * worth
            for d in range(depth):
                out[t, h * depth + d] = float32(sums[d]) * factor


@compiled
def _bits_fit(q, k, v, depth):
    """Tell whether packed bits belong together and every inner stride is one byte."""
    heads, rows, size = q.shape
    if depth < 1 or heads * rows * k.shape[1] == 0 or size != (depth + 7) // 8:
        return False
    if k.shape != v.shape or k.shape[0] != heads or k.shape[2] != size:
        return False
    return size == 1 or (q.strides[2] == 1 and k.strides[2] == 1 and v.strides[2] == 1)


@compiled
def _scales_fit(scale, bits):
    """Tell whether scales are (H, T), or of length 1 where all are the same."""
    return scale.shape[0] in (1, bits.shape[0]) and scale.shape[1] in (1, bits.shape[1])


@entry(
    in3(uint8), in2(float32), in3(uint8), in2(float32), in3(uint8), in2(float32), int64, float64,
    float64, out2(float32), int64,
)  # fmt: skip
def _attention_b1(q, q_scale, k, k_scale, v, v_scale, depth, scale, level, out, threads):
    heads = q.shape[0]
    if threads < 1 or not level >= 0.0 or not _bits_fit(q, k, v, depth):
        return MISFIT
    if out.shape[0] != q.shape[1] or out.shape[1] != heads * depth:
        return MISFIT
    if not _scales_fit(q_scale, q) or not _scales_fit(k_scale, k) or not _scales_fit(v_scale, k):
        return MISFIT
    unit = float32(float32(scale) * LOG2E)
    for c in prange(threads):
        first, last = share(heads, threads, c)
        _attend(q, q_scale, k, k_scale, v, v_scale, depth, unit, level, out, first, last)
    return 0


def attention_b1(
    q: U8,
    q_scale: F32,
    k: U8,
    k_scale: F32,
    v: U8,
    v_scale: F32,
    scale: float,
    out: F32,
    *,
    depth: int,
    level: float = 0.0,
    threads: int = 1,
) -> None:
    """Write attention on signs into ``out (T, H * depth)``, as ``reference.attention_b1`` has it.

    q is packed bits ``(H, T, ceil(depth / 8))``, k and v ``(H, S, ceil(depth / 8))``, of any
    strides with a unit inner one. Scales are (H, T), (H, S) and (H, S), or of length 1 on an axis
    where all are the same. ``level`` is what a probability of 1 is worth; 0 takes that of each
    row. Results do not depend on the number of ``threads``. NaN among scales shows in all rows of
    its head that it takes part in. TypeError and ValueError say what does not fit.

    >>> bits, one = np.full((1, 3, 1), 255, np.uint8), np.ones((1, 1), np.float32)
    >>> out = np.empty((1, 8), np.float32)
    >>> attention_b1(bits[:, :1], one, bits, one, bits, one, 1.0, out, depth=8)
    >>> out[0, :2].tolist()  # three keys alike: three times 1/3
    [1.0, 1.0]
    """
    require("attention_b1", BYTES, 3, q, k, v)
    require("attention_b1", FLOATS, 2, q_scale, k_scale, v_scale, out)
    run = _attention_b1 if threads == 1 else _attention_b1.ready_parallel()
    if run(q, q_scale, k, k_scale, v, v_scale, depth, scale, level, out, threads):
        arrays: dict[str, NDArray[Any]] = {"q": q, "k": k, "v": v, "out": out}
        found = ", ".join(f"{name} {told(a)} strides {a.strides}" for name, a in arrays.items())
        raise ValueError(
            f"attention_b1: found {found}, scales {told(q_scale)}, {told(k_scale)} and "
            f"{told(v_scale)}, depth {depth}, level {level}; expected q (H, T, ceil(depth / 8)), k "
            "and v (H, S, ceil(depth / 8)), none empty, unit inner strides, out (T, H * depth), "
            "scales (H, T), (H, S) and (H, S) or of length 1, a level that is not negative"
        )
