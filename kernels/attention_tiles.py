"""Float softmax attention on AVX2: blocks of queries against panels, or one query streamed.

Many queries: the keys and values of a head are laid out once as panels, and a block of
``BLOCK_ROWS`` queries computes all its scores, their softmax and its context while they stay in
the second-level cache. Few queries (a step of decoding): keys and values are read where they
are, once, in memory order, all heads side by side.
"""

from collections.abc import Callable

import numpy as np
from numba import float32, float64

from kernels.attention_common import fits, write_exp2
from kernels.dense import matmul
from kernels.jit import compiled, entry, in3, out2
from kernels.mathematics import LOG2E
from kernels.simd import F32 as F32_LANE
from kernels.simd import F32X8, I64, Value, Writer, constant, row_at, stack_bytes, tile

WIDTH = 16
BLOCK_ROWS = 24
"""Queries per block: their scores against 1500 keys take 144 KiB."""
NORM_BYTES = BLOCK_ROWS * 4
STREAM_ROWS = 8
"""Up to this many queries, laying out panels costs more than reading the keys once per query."""
STREAM_BLOCK = 16
"""Values read for one head before the next head; twice as many keys."""


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


@tile(3)
def _scale_row(w: Writer, scores: Value, steps: Value, state: Value) -> None:
    """Multiply ``16 steps`` scores by state[0]; state[1] becomes the largest product."""
    b = w.b
    factor = w.splat(w.load(F32_LANE, state), F32X8)

    def body(i: Value, *largest: Value) -> list[Value]:
        at = b.add(scores, b.mul(i, I64(64)))
        found = []
        for j, best in enumerate(largest):
            scaled = b.fmul(w.load(F32X8, at, 32 * j), factor)
            w.store(scaled, at, 32 * j)
            found.append(w.larger(scaled, best))
        return found

    first, second = w.loop(steps, [lanes(-np.inf)] * 2, body)
    w.store(w.reduce(w.larger(first, second), w.larger), state, 4)


@tile(3)
def _exponentiate_row(w: Writer, scores: Value, steps: Value, state: Value) -> None:
    """Turn ``16 steps`` scores into 2^(score - state[1]); state[2] becomes their sum."""
    b = w.b
    largest = w.splat(w.load(F32_LANE, state, 4), F32X8)

    def body(i: Value, *sums: Value) -> list[Value]:
        at = b.add(scores, b.mul(i, I64(64)))
        found = [write_exp2(w, b.fsub(w.load(F32X8, at, 32 * j), largest)) for j in range(2)]
        for j, value in enumerate(found):
            w.store(value, at, 32 * j)
        return [b.fadd(a, c) for a, c in zip(sums, found, strict=True)]

    first, second = w.loop(steps, [lanes(0.0)] * 2, body)
    w.store(w.reduce(b.fadd(first, second), b.fadd), state, 8)


@compiled
def _softmax_row(scores, length, scale):
    """Turn scores into exp(scale score - largest), and return their sum.

    The row holds a multiple of 16 scores; those past ``length`` repeat the last one.
    """
    at = stack_bytes(64)
    state = row_at(at, 3, np.float32)
    state[0] = scale * LOG2E
    steps = (length + 15) // 16
    _scale_row(scores, steps, at)
    row_at(scores + length * 4, steps * 16 - length, np.float32)[:] = float32(-np.inf)
    _exponentiate_row(scores, steps, at)
    return state[2]


@compiled
def divide_row(row, count, norm):
    """Divide ``count`` float32 at an address."""
    values = row_at(row, count, np.float32)
    for i in range(count):
        values[i] = values[i] / norm


@compiled
def _pack_keys(keys, step, length, depth, panels):
    """Lay keys out as ``[ceil(length / 16)][depth][16]``; past the end the last one repeats."""
    for s in range((length + 15) // 16 * 16):
        row = row_at(keys + min(s, length - 1) * step, depth, np.float32)
        panel = row_at(panels + (s // 16) * depth * 64 + s % 16 * 4, depth * 16, np.float32)
        for d in range(depth):
            panel[d * 16] = row[d]


@compiled
def _pack_values(values, step, length, depth, panels):
    """Lay values out as ``[ceil(depth / 16)][length][16]``, zeros past the end."""
    for p in range((depth + 15) // 16):
        count = min(16, depth - p * 16)
        for s in range(length):
            row = row_at(values + s * step + p * 64, count, np.float32)
            panel = row_at(panels + (p * length + s) * 64, 16, np.float32)
            panel[:count] = row
            panel[count:] = float32(0.0)


@compiled
def _run_blocks(q, k, v, scale, out):
    """Attention of many queries."""
    heads, rows, depth = q.shape
    length = k.shape[1]
    width = (length + 15) // 16 * 16
    step, columns = width * 4, (depth + 15) // 16 * 16
    scratch = np.empty(16 + width * depth + columns * length + BLOCK_ROWS * width, np.float32)
    keys = (scratch.ctypes.data + 63) // 64 * 64
    values = keys + width * depth * 4
    block = values + columns * length * 4
    norms = stack_bytes(NORM_BYTES)
    for h in range(heads):
        _pack_keys(k.ctypes.data + h * k.strides[0], k.strides[1], length, depth, keys)
        _pack_values(v.ctypes.data + h * v.strides[0], v.strides[1], length, depth, values)
        for t in range(0, rows, BLOCK_ROWS):
            count = min(BLOCK_ROWS, rows - t)
            queries = q.ctypes.data + h * q.strides[0] + t * q.strides[1]
            target = out.ctypes.data + t * out.strides[0] + h * depth * 4
            matmul(queries, q.strides[1], count, keys, width, depth, 0, block, step)
            for r in range(count):
                row_at(norms, count, np.float32)[r] = _softmax_row(block + r * step, length, scale)
            matmul(block, step, count, values, depth, length, 0, target, out.strides[0])
            for r in range(count):
                norm = row_at(norms, count, np.float32)[r]
                divide_row(target + r * out.strides[0], depth, norm)
    scratch[0] = 0  # keeps the array alive until here


def _dots(rows: int) -> Callable[..., None]:
    """Make the tile: out[r] = sum over ``8 steps`` of q k[r], for ``rows`` of keys (1 or 8)."""

    def generate(w: Writer, q, steps, keys, step, out) -> None:
        b = w.b
        row = [b.add(keys, b.mul(step, I64(r))) for r in range(rows)]

        def body(i: Value, *sums: Value) -> list[Value]:
            at = b.mul(i, I64(32))
            query = w.load(F32X8, b.add(q, at))
            loads = [w.load(F32X8, b.add(address, at)) for address in row]
            return [w.fma(query, key, total) for key, total in zip(loads, sums, strict=True)]

        sums = w.loop(steps, [lanes(0.0)] * rows, body)
        if rows == 1:
            w.store(w.reduce(sums[0], b.fadd), out)
        else:
            w.store(sums_of_eight(w, sums, b.fadd), out)

    return tile(5)(generate)


def _weighted(vectors: int) -> Callable[..., None]:
    """Make the tile: out += sum over ``count`` rows of p[s] v[s], ``8 vectors`` columns."""

    def generate(w: Writer, p, count, values, step, out) -> None:
        b = w.b

        def body(i: Value, *sums: Value) -> list[Value]:
            weight = w.splat(w.load(F32_LANE, b.add(p, b.mul(i, I64(4)))), F32X8)
            row = b.add(values, b.mul(i, step))
            return [w.fma(weight, w.load(F32X8, row, 32 * j), s) for j, s in enumerate(sums)]

        first = [w.load(F32X8, out, 32 * j) for j in range(vectors)]
        for j, total in enumerate(w.loop(count, first, body)):
            w.store(total, out, 32 * j)

    return tile(5)(generate)


_dots_1, _dots_8 = _dots(1), _dots(8)
_weighted_1, _weighted_8 = _weighted(1), _weighted(8)


@compiled
def _score_keys(q, depth, keys, step, count, scores):
    """Write the products of one query with ``count`` keys; eight at a time, the last overlap."""
    if count < 8:
        for s in range(count):
            _dots_1(q, depth // 8, keys + s * step, step, scores + s * 4)
        return
    for s in range(0, count, 8):
        first = min(s, count - 8)
        _dots_8(q, depth // 8, keys + first * step, step, scores + first * 4)


@compiled
def _weigh_values(p, values, step, count, depth, out):
    """Add ``count`` weighted rows of values to ``out``."""
    for d in range(0, depth // 64 * 64, 64):
        _weighted_8(p, count, values + d * 4, step, out + d * 4)
    for d in range(depth // 64 * 64, depth, 8):
        _weighted_1(p, count, values + d * 4, step, out + d * 4)


@compiled
def _run_streamed(q, k, v, scale, out):
    """Attention of few queries; the depth is a multiple of 8."""
    heads, rows, depth = q.shape
    length = k.shape[1]
    width = (length + 15) // 16 * 16
    scratch = np.empty(16 + heads * (width + 1), np.float32)
    at = (scratch.ctypes.data + 63) // 64 * 64
    norms = row_at(at + heads * width * 4, heads, np.float32)
    for t in range(rows):
        query = q.ctypes.data + t * q.strides[1]
        target = out.ctypes.data + t * out.strides[0]
        for s in range(0, length, 2 * STREAM_BLOCK):
            count = min(2 * STREAM_BLOCK, length - s)
            keys = k.ctypes.data + s * k.strides[1]
            for h in range(heads):
                put = at + (h * width + s) * 4
                _score_keys(
                    query + h * q.strides[0],
                    depth,
                    keys + h * k.strides[0],
                    k.strides[1],
                    count,
                    put,
                )
        for h in range(heads):
            row = row_at(at + h * width * 4, width, np.float32)
            row[length:] = row[length - 1]
            norms[h] = _softmax_row(at + h * width * 4, length, scale)
        row_at(target, heads * depth, np.float32)[:] = float32(0.0)
        for s in range(0, length, STREAM_BLOCK):
            count = min(STREAM_BLOCK, length - s)
            values = v.ctypes.data + s * v.strides[1]
            for h in range(heads):
                put = target + h * depth * 4
                weights = at + (h * width + s) * 4
                _weigh_values(weights, values + h * v.strides[0], v.strides[1], count, depth, put)
        for h in range(heads):
            divide_row(target + h * depth * 4, depth, norms[h])
    scratch[0] = 0  # keeps the array alive until here


@entry(in3(float32), in3(float32), in3(float32), float64, out2(float32))
def attention_f32(q, k, v, scale, out):
    """Write softmax(scale q k^T) v of each head into out; 1 when the arrays do not fit."""
    if not fits(q, k, v, out):
        return 1
    if q.shape[1] <= STREAM_ROWS and q.shape[2] % 8 == 0:
        _run_streamed(q, k, v, float32(scale), out)
    else:
        _run_blocks(q, k, v, float32(scale), out)
    return 0
