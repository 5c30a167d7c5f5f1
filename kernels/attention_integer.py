"""Softmax attention on int8 codes with AVX2: blocks of queries, or one query streamed.

Many queries: scores are an integer linear layer whose weights are the keys; probabilities become
codes of 8 bits, and the context is summed over panels of values. Few queries (a step of decoding):
keys and values are read where they are, once, in memory order, all heads side by side.
"""

import numpy as np
from numba import float32, float64, int8, int32, uint32

from kernels.attention_codes import context_rows, encode_row, list_block
from kernels.attention_common import CODE_128, LONGEST, MISFIT, TOO_LONG, fits, scales_fit
from kernels.attention_tiles import BLOCK_ROWS, STREAM_BLOCK, STREAM_ROWS, sums_of_eight
from kernels.epilogue import SCALED, emit
from kernels.jit import compiled, entry, in1, in2, in3, out2
from kernels.lowbit import _matmul
from kernels.mathematics import LOG2E, absmax_bits
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

SLACK_BYTES = 1024
"""Bytes after the value panels that are read and multiplied by zero."""
ROW_BYTES = BLOCK_ROWS * 4
SUMS_BYTES = BLOCK_ROWS * 64
KEY_BYTES = 2 * STREAM_BLOCK * 4
SIGNS = 0x80808080
ONES = 0x01010101
INFINITY_BITS = 0x7F800000


@compiled
def _pack_keys(keys, step, length, depth, panels):
    """Lay keys out as the weights of ``lowbit``: quads of code + 127, the last key repeated.

    Tells whether all codes are above -128.
    """
    quads = (depth + 3) // 4
    bad = uint32(0)
    for s in range((length + 15) // 16 * 16):
        row = keys + min(s, length - 1) * step
        panel = row_at(panels + (s // 16) * quads * 64 + s % 16 * 4, quads * 16, np.uint32)
        whole = row_at(row, depth // 4, np.uint32)
        for i in range(depth // 4):
            shifted = uint32(whole[i] ^ uint32(SIGNS))
            moved = uint32(shifted - uint32(ONES))
            bad |= uint32(moved & ~shifted & uint32(SIGNS))
            panel[i * 16] = moved
        if depth % 4:
            rest = row_at(row, depth, np.int8)
            last = uint32(0)
            for d in range(depth // 4 * 4, depth):
                last |= uint32(uint32(int32(rest[d]) + 127) << uint32(d % 4 * 8))
                bad |= uint32(rest[d] == -128)
            panel[depth // 4 * 16] = last
    return bad == 0


@compiled
def _pack_values(values, step, length, depth, panels):
    """Lay values out as ``[ceil(depth / 16)][ceil(length / 4)][16][4]``, zeros past both ends."""
    quads = (length + 3) // 4
    for p in range((depth + 15) // 16):
        count = min(16, depth - p * 16)
        for i in range(quads):
            panel = row_at(panels + (p * quads + i) * 64, 64, np.int8)
            if count < 16 or i * 4 + 4 > length:
                panel[:] = 0
            for s in range(i * 4, min(i * 4 + 4, length)):
                row = row_at(values + s * step + p * 16, count, np.int8)
                for d in range(count):
                    panel[d * 4 + s % 4] = row[d]


@compiled
def _zero_or_nan(values, count):
    """0, or NaN if one of ``count`` float32 at an address is not finite."""
    return float32(np.nan if absmax_bits(values, count) >= INFINITY_BITS else 0.0)


@compiled
def _write_context(block, rows, length, depth, values, scratch, factors, out, out_step):
    """From a block of scores to its output; ``factors`` has the value scale of each row.

    ``scratch`` has ``_scratch_bytes``; all are addresses but the counts.
    """
    room, quads = (length + 31) // 32 * 32, (length + 3) // 4
    step = room + 32  # behind each row of codes there are quads of zeros
    kept, excess = scratch, scratch + BLOCK_ROWS * step
    above, used = excess + BLOCK_ROWS * step, excess + BLOCK_ROWS * (step + room // 8)
    offsets, rests = used + BLOCK_ROWS * (room // 8), used + BLOCK_ROWS * (room // 8 + room)
    counts, rest_counts = stack_bytes(ROW_BYTES), stack_bytes(ROW_BYTES)
    sums, one = stack_bytes(SUMS_BYTES), stack_bytes(64)
    row_at(one, 16, np.float32)[:] = float32(1.0)
    factor = row_at(factors, rows, np.float32)
    for r in range(rows):
        row_at(excess + r * step + room, 32, np.int8)[:] = 0
        mask = r * (room // 8)
        total = encode_row(
            block + r * room * 4,
            length,
            kept + r * step,
            excess + r * step,
            above + mask,
            used + mask,
        )
        factor[r] = factor[r] / float32(max(total, 1))  # codes of NaN are 0, the factor is NaN
    list_block(used, above, rows, room, offsets, counts, rests, rest_counts)
    for p in range((depth + 15) // 16):
        panel = values + p * quads * 64
        context_rows(
            kept, excess, step, rows, panel, offsets, counts, rests, rest_counts, room, sums
        )
        width = min(16, depth - p * 16)
        emit(sums, rows, width, factors, 4, one, 0, out + p * 64, out_step, SCALED)


@compiled
def _scratch_bytes(length):
    """Bytes that ``_write_context`` needs: two codes, two bits and two lists per row and key."""
    room = (length + 31) // 32 * 32
    return BLOCK_ROWS * (2 * (room + 32) + 2 * (room // 8) + 2 * room)


@compiled
def _run_blocks(q, q_scale, k, k_scale, v, v_scale, unit, out):
    """Attention of many queries; CODE_128 after such a key or query, else 0."""
    heads, rows, depth = q.shape
    length = k.shape[1]
    wide, step = (length + 15) // 16 * 16, (length + 31) // 32 * 128
    key_bytes = (depth + 3) // 4 * 4 * wide
    value_bytes = (depth + 15) // 16 * ((length + 3) // 4) * 64 + SLACK_BYTES
    block_bytes = BLOCK_ROWS * step
    total = key_bytes + value_bytes + wide * 4 + block_bytes + _scratch_bytes(length)
    memory = np.empty(64 + total, np.uint8)
    keys = (memory.ctypes.data + 63) // 64 * 64
    values = keys + key_bytes
    scales = values + value_bytes
    block = scales + wide * 4
    factors = stack_bytes(ROW_BYTES)
    for h in range(heads):
        keys_at, values_at = k.ctypes.data + h * k.strides[0], v.ctypes.data + h * v.strides[0]
        if not _pack_keys(keys_at, k.strides[1], length, depth, keys):
            return CODE_128
        _pack_values(values_at, v.strides[1], length, depth, values)
        key_scales = row_at(scales, wide, np.float32)
        for s in range(wide):
            key_scales[s] = k_scale[h, min(s, length - 1)] * unit
        flaw = _zero_or_nan(scales, wide)
        for t in range(0, rows, BLOCK_ROWS):
            count = min(BLOCK_ROWS, rows - t)
            status = _matmul(
                q.ctypes.data + h * q.strides[0] + t * q.strides[1],
                q.strides[1],
                count,
                keys,
                wide,
                depth,
                scales,
                q_scale.ctypes.data + h * q_scale.strides[0] + t * q_scale.strides[1],
                q_scale.strides[1],
                0,
                block,
                step,
                SCALED,
                0,
            )
            if status:
                return CODE_128
            for r in range(count):
                shown = flaw + q_scale[h, t + r] * float32(0.0)
                row_at(factors, count, np.float32)[r] = v_scale[h] + shown
            target = out.ctypes.data + t * out.strides[0] + h * depth * 4
            codes = block + block_bytes
            _write_context(
                block, count, length, depth, values, codes, factors, target, out.strides[0]
            )
    memory[0] = 0  # keeps the array alive until here
    return 0


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
def _stream_keys(queries, q_scale, k, k_scale, unit, t, scores, room):
    """Write the scores of query t of every head, int16 codes at ``queries``, into rows of room."""
    heads, length, depth = k.shape
    products = stack_bytes(KEY_BYTES)
    for s in range(0, length, 2 * STREAM_BLOCK):
        count = min(2 * STREAM_BLOCK, length - s)
        for h in range(heads):
            keys = k.ctypes.data + s * k.strides[1] + h * k.strides[0]
            _score_keys(queries + h * depth * 2, depth, keys, k.strides[1], count, products)
            factors = k_scale.ctypes.data + s * k_scale.strides[1] + h * k_scale.strides[0]
            put = scores + (h * room + s) * 4
            _scale_scores(products, count, q_scale[h, t], factors, k_scale.strides[1], unit, put)


@compiled
def _stream_values(codes, room, v, context):
    """Write sums of codes, int16 in rows of room, times values of every head, int32."""
    heads, length, depth = v.shape
    row_at(context, heads * depth, np.int32)[:] = 0
    for s in range(0, length, STREAM_BLOCK):
        count = min(STREAM_BLOCK, length - s)
        for h in range(heads):
            values = v.ctypes.data + s * v.strides[1] + h * v.strides[0]
            weights, sums = codes + (h * room + s) * 2, context + h * depth * 4
            _weigh_pairs(weights, count // 2, values, v.strides[1], depth, sums)
            if count % 2:
                last = values + (count - 1) * v.strides[1]
                _weigh_pairs(weights + (count - 1) * 2, 1, last, 0, depth, sums)


@compiled
def _run_streamed(q, q_scale, k, k_scale, v, v_scale, unit, out):
    """Attention of few queries; the depth is a multiple of 16."""
    heads, rows, depth = q.shape
    length = k.shape[1]
    room = (length + 31) // 32 * 32
    scratch = np.empty(64 + heads * (room * 6 + depth * 6), np.uint8)
    scores = (scratch.ctypes.data + 63) // 64 * 64
    codes = scores + heads * room * 4
    queries = codes + heads * room * 2
    context = queries + heads * depth * 2
    for t in range(rows):
        for h in range(heads):
            source = row_at(q.ctypes.data + h * q.strides[0] + t * q.strides[1], depth, np.int8)
            row_at(queries + h * depth * 2, depth, np.int16)[:] = source
        _stream_keys(queries, q_scale, k, k_scale, unit, t, scores, room)
        norms = row_at(queries, heads, np.float32)
        for h in range(heads):
            row = row_at(scores + h * room * 4, room, np.float32)
            row[length:] = row[length - 1]
            flaw = _zero_or_nan(scores + h * room * 4, length)
            norms[h] = (
                encode_row(scores + h * room * 4, length, codes + h * room * 2, 0, 0, 0) + flaw
            )
        _stream_values(codes, room, v, context)
        for h in range(heads):
            sums = row_at(context + h * depth * 4, depth, np.int32)
            to = out.ctypes.data + t * out.strides[0] + h * depth * 4
            target = row_at(to, depth, np.float32)
            factor = v_scale[h] / norms[h]
            for d in range(depth):
                target[d] = float32(sums[d]) * factor
    scratch[0] = 0  # keeps the array alive until here


@entry(
    in3(int8),
    in2(float32),
    in3(int8),
    in2(float32),
    in3(int8),
    in1(float32),
    float64,
    out2(float32),
)
def attention_i8(q, q_scale, k, k_scale, v, v_scale, scale, out):
    """Write attention on codes into out; 0, or what is wrong."""
    if not fits(q, k, v, out) or not scales_fit(q, q_scale, k, k_scale, v_scale):
        return MISFIT
    heads, rows, depth = q.shape
    length = k.shape[1]
    if length > LONGEST:
        return TOO_LONG
    q_scales = np.broadcast_to(q_scale, (heads, rows))
    k_scales = np.broadcast_to(k_scale, (heads, length))
    v_scales = np.broadcast_to(v_scale, (heads,))
    unit = float32(scale) * LOG2E
    if rows <= STREAM_ROWS and depth % 16 == 0:
        _run_streamed(q, q_scales, k, k_scales, v, v_scales, unit, out)
        return 0
    return _run_blocks(q, q_scales, k, k_scales, v, v_scales, unit, out)
