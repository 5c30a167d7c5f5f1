"""Float softmax attention of few queries (a step of decoding) on AVX2.

Keys and values are read where they are, once, in memory order, all heads side by side.
"""

from collections.abc import Callable

import numpy as np
from numba import float32

from kernels.attention_common import address, bound
from kernels.attention_tiles import divide_row, lanes, norm_of, softmax_row, sums_of_eight
from kernels.jit import compiled
from kernels.mathematics import LOG2E
from kernels.simd import F32 as F32_LANE
from kernels.simd import F32X8, I64, Value, Writer, row_at, tile

STREAM_ROWS = 8
"""Up to this many queries, laying out panels costs more than reading the keys once per query."""
STREAM_BLOCK = 16
"""Values read for one head before the next head; twice as many keys."""


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
def _score_heads(query, q_head, depth, k, end, first, last, scores, room):
    """Write the products of one query of heads ``first`` to ``last`` with ``end`` keys."""
    for s in range(0, end, 2 * STREAM_BLOCK):
        count = min(2 * STREAM_BLOCK, end - s)
        for h in range(first, last):
            keys = address(k) + s * k.strides[1] + h * k.strides[0]
            put = scores + ((h - first) * room + s) * 4
            _score_keys(query + h * q_head, depth, keys, k.strides[1], count, put)


@compiled
def _scale_row(scores, count, unit, bias):
    """Multiply scores by ``unit`` and add a bias, in units of ln 2; ``bias`` 0 is none."""
    row = row_at(scores, count, np.float32)
    if bias:
        more = row_at(bias, count, np.float32)
        for s in range(count):
            row[s] = row[s] * unit + more[s] * LOG2E
    else:
        for s in range(count):
            row[s] = row[s] * unit


@compiled
def run_streamed(q, k, v, unit, bias, seen, out, first, last):
    """Attention of few queries of heads ``first`` to ``last``; the depth is a multiple of 8.

    ``bias`` is an address (0 is none) and the bytes between heads and between queries; ``seen`` an
    address (0 is none) of how many keys each query sees, and the bytes between them.
    """
    rows, depth = q.shape[1], q.shape[2]
    length = k.shape[1]
    room = (length + 15) // 16 * 16
    heads = last - first
    scratch = np.empty(16 + heads * (room + 1), np.float32)
    at = (address(scratch) + 63) // 64 * 64
    norms = row_at(at + heads * room * 4, heads, np.float32)
    for t in range(rows):
        end = bound(seen, t, length)
        steps = (end + 15) // 16
        _score_heads(
            address(q) + t * q.strides[1], q.strides[0], depth, k, end, first, last, at, room
        )
        for h in range(first, last):
            row = at + (h - first) * room * 4
            at_bias = bias[0] + h * bias[1] + t * bias[2] if bias[0] else 0
            _scale_row(row, end, unit, at_bias)
            norms[h - first] = norm_of(softmax_row(row, end, steps))
        target = address(out) + t * out.strides[0]
        row_at(target + first * depth * 4, heads * depth, np.float32)[:] = float32(0.0)
        for s in range(0, end, STREAM_BLOCK):
            count = min(STREAM_BLOCK, end - s)
            for h in range(first, last):
                values = address(v) + s * v.strides[1] + h * v.strides[0]
                weights = at + ((h - first) * room + s) * 4
                put = target + h * depth * 4
                _weigh_values(weights, values, v.strides[1], count, depth, put)
        for h in range(first, last):
            put = target + h * depth * 4
            divide_row(put, depth, norms[h - first], put)
    scratch[0] = 0  # keeps the array alive until here
