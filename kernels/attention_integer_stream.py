"""Softmax attention of few queries (a step of decoding) on int8 codes with AVX2.

Keys and values are read where they are, once, in memory order, all heads side by side.
"""

import numpy as np
from numba import float32, int64

from kernels.attention_codes import encode_row
from kernels.attention_common import address, bound
from kernels.attention_stream import STREAM_BLOCK
from kernels.attention_tiles import sums_of_eight
from kernels.jit import compiled
from kernels.simd import (
    I8X16,
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

KEY_BYTES = 2 * STREAM_BLOCK * 4


def _dots(rows: int):
    """Make the tile out[r] = sum over ``16 steps`` of q k[r], int32, for 1 or 8 keys.

    ``q`` is int16, ``k`` int8.
    """

    def generate(w: Writer, q, steps, keys, step, out) -> None:
        b = w.b
        row = [b.add(keys, b.mul(step, I64(r))) for r in range(rows)]

        def body(i, *sums: Value):
            query = w.load(I16X16, b.add(q, b.mul(i, I64(32))))
            codes = [w.load(I8X16, b.add(address, b.mul(i, I64(16)))) for address in row]
            return [
                b.add(total, w.madd_words(query, b.sext(key, I16X16)))
                for key, total in zip(codes, sums, strict=True)
            ]

        sums = w.loop(steps, [constant(I32X8, 0)] * rows, body)
        w.store(w.reduce(sums[0], b.add) if rows == 1 else sums_of_eight(w, sums, b.add), out)

    return tile(5)(generate)


def _weighted(vectors: int):
    """Make the tile out += sum over ``count`` pairs of rows of p v, int32, ``16 vectors`` columns.

    ``p`` is int16, ``v`` int8.
    """
    low = [lane // 2 + 16 * (lane % 2) for lane in range(16)]

    def generate(w: Writer, p, count, values, step, out) -> None:
        b = w.b

        def body(i, *sums: Value):
            weights = w.splat(w.load(I32, b.add(p, b.mul(i, I64(4)))), I16X16)
            first = b.add(values, b.mul(b.mul(i, I64(2)), step))
            second = b.add(first, step)
            found = []
            for j, total in enumerate(sums):
                pair = [w.load(I8X16, at, 16 * (j // 2)) for at in (first, second)]
                mixed = w.shuffle(*pair, [lane + 8 * (j % 2) for lane in low])
                found.append(b.add(total, w.madd_words(weights, b.sext(mixed, I16X16))))
            return found

        start = [w.load(I32X8, out, 32 * j) for j in range(2 * vectors)]
        for j, total in enumerate(w.loop(count, start, body)):
            w.store(total, out, 32 * j)

    return tile(5)(generate)


_dots_1, _dots_8 = _dots(1), _dots(8)
_weighted_1, _weighted_4 = _weighted(1), _weighted(4)


@compiled
def _score_keys(q, depth, keys, step, count, scores):
    """Write the products of one query with ``count`` keys; eight at a time, the last overlap."""
    if count < 8:
        for s in range(count):
            _dots_1(q, depth // 16, keys + s * step, step, scores + s * 4)
        return
    for s in range(0, count, 8):
        first = min(s, count - 8)
        _dots_8(q, depth // 16, keys + first * step, step, scores + first * 4)


@compiled
def _scale_scores(products, count, q_scale, k_scale, k_step, unit, scores):
    """Write float32(product) q_scale (k_scale unit) of ``count`` keys."""
    found, target = row_at(products, count, np.int32), row_at(scores, count, np.float32)
    if k_step == 4:
        factors = row_at(k_scale, count, np.float32)
        for s in range(count):
            target[s] = float32(float32(found[s]) * q_scale) * float32(factors[s] * unit)
        return
    for s in range(count):
        factor = row_at(k_scale + s * k_step, 1, np.float32)[0]
        target[s] = float32(float32(found[s]) * q_scale) * float32(factor * unit)


@compiled
def _weigh_pairs(p, pairs, values, step, depth, out):
    """Add pairs of weighted rows of values to ``out``."""
    for d in range(0, depth // 64 * 64, 64):
        _weighted_4(p, pairs, values + d, step, out + d * 4)
    for d in range(depth // 64 * 64, depth, 16):
        _weighted_1(p, pairs, values + d, step, out + d * 4)


@compiled
def _stream_keys(queries, q, qs, k, ks, unit, t, end, first, last, scores, room):
    """Write the scores of query t of some heads, int16 codes at ``queries``, in rows of room."""
    depth = k.shape[2]
    products = stack_bytes(KEY_BYTES)
    for s in range(0, end, 2 * STREAM_BLOCK):
        count = min(2 * STREAM_BLOCK, end - s)
        for h in range(first, last):
            keys = address(k) + s * k.strides[1] + h * k.strides[0]
            mine = h - first
            _score_keys(queries + mine * depth * 2, depth, keys, k.strides[1], count, products)
            q_scale = row_at(qs[0] + h * qs[1] + t * qs[2], 1, np.float32)[0]
            factors = ks[0] + h * ks[1] + s * ks[2]
            put = scores + (mine * room + s) * 4
            _scale_scores(products, count, q_scale, factors, ks[2], unit, put)


@compiled
def _stream_values(codes, room, v, end, first, last, context):
    """Write sums of codes, int16 in rows of room, times values of some heads, int32."""
    depth = v.shape[2]
    one, none = int64(1), int64(0)
    row_at(context, (last - first) * depth, np.int32)[:] = 0
    for s in range(0, end, STREAM_BLOCK):
        count = min(STREAM_BLOCK, end - s)
        for h in range(first, last):
            mine = h - first
            values = address(v) + s * v.strides[1] + h * v.strides[0]
            weights, sums = codes + (mine * room + s) * 2, context + mine * depth * 4
            _weigh_pairs(weights, count // 2, values, v.strides[1], depth, sums)
            if count % 2:
                behind = values + (count - 1) * v.strides[1]
                _weigh_pairs(weights + (count - 1) * 2, one, behind, none, depth, sums)


@compiled
def run_streamed(q, qs, k, ks, v, vs, unit, seen, out, first, last):
    """Attention of few queries of heads ``first`` to ``last``; the depth is a multiple of 16.

    Scales are ``scale_places``; ``seen`` is an address (0 is none) of how many keys each query
    sees, and the bytes between them.
    """
    rows, depth = q.shape[1], q.shape[2]
    length = k.shape[1]
    room = (length + 31) // 32 * 32
    heads, none = last - first, int64(0)
    scratch = np.empty(64 + heads * (room * 6 + depth * 6), np.uint8)
    scores = (address(scratch) + 63) // 64 * 64
    codes = scores + heads * room * 4
    queries = codes + heads * room * 2
    context = queries + heads * depth * 2
    for t in range(rows):
        end = bound(seen, t, length)
        for h in range(first, last):
            source = row_at(address(q) + h * q.strides[0] + t * q.strides[1], depth, np.int8)
            target = row_at(queries + (h - first) * depth * 2, depth, np.int16)
            for d in range(depth):
                target[d] = source[d]
        _stream_keys(queries, q, qs, k, ks, unit, t, end, first, last, scores, room)
        norms = row_at(queries, heads, np.int32)
        for h in range(heads):
            steps = (end + 31) // 32
            at, to = scores + h * room * 4, codes + h * room * 2
            norms[h] = max(encode_row(at, end, steps, to, none, none, none), 1)
        _stream_values(codes, room, v, end, first, last, context)
        for h in range(heads):
            sums = row_at(context + h * depth * 4, depth, np.int32)
            to = address(out) + t * out.strides[0] + (first + h) * depth * 4
            found = row_at(to, depth, np.float32)
            v_scale = row_at(vs[0] + (first + h) * vs[1], 1, np.float32)[0]
            factor = v_scale / float32(norms[h])
            for d in range(depth):
                found[d] = float32(sums[d]) * factor
    scratch[0] = 0  # keeps the array alive until here
