"""Softmax attention of many queries on int8 codes with AVX2.

As ``attention_float``: groups of queries against the panels they see. Scores are exact sums times
scales; probabilities become codes of 8 bits, and the context is summed over panels of values.
"""

import numpy as np
from numba import float32, int32, int64, prange

from kernels.attention_codes import context_rows, encode_row, list_block, panel_scores, scale_rows
from kernels.attention_common import (
    BAD_PATTERN,
    CODES,
    MISFIT,
    PATTERN,
    address,
    key_places,
    keys_fit,
    scale_places,
    share,
    status_of_codes,
)
from kernels.attention_integer_stream import run_streamed
from kernels.attention_lists import (
    DENSE_ROWS,
    ENTRY_BYTES,
    SPARSE_ROWS,
    group_rows,
    is_pattern,
    list_group,
    run_length,
    word_step,
)
from kernels.attention_stream import STREAM_ROWS
from kernels.attention_tiles import hide, pack_key_codes, padded_rows
from kernels.jit import compiled, entry, in1, out2
from kernels.mathematics import LOG2E
from kernels.simd import I8X16, I16X16, I64, Writer, row_at, stack_bytes, tile

ROW_BYTES = DENSE_ROWS * 8
SUMS_BYTES = DENSE_ROWS * 64


@tile(4)
def _interleave(w: Writer, values, step, quads, panel) -> None:
    """Write 16 codes of four keys at a time as ``[16][4]``, ``4 quads`` keys ``step`` apart."""
    b = w.b
    pairs = [lane // 2 + 16 * (lane % 2) for lane in range(32)]

    def body(i):
        at, to = b.add(values, b.mul(b.mul(i, I64(4)), step)), b.add(panel, b.mul(i, I64(64)))
        row = [w.load(I8X16, b.add(at, b.mul(step, I64(r)))) for r in range(4)]
        low, high = (b.bitcast(w.shuffle(row[r], row[r + 1], pairs), I16X16) for r in (0, 2))
        for j in range(2):
            w.store(w.shuffle(low, high, [lane + 8 * j for lane in pairs[:16]]), to, 32 * j)
        return []

    w.loop(quads, [], body)


@compiled
def _pack_values(values, step, length, depth, panels):
    """Lay values out as ``[ceil(depth / 16)][ceil(length / 16) 4][16][4]``, zeros past the ends."""
    quads = (length + 15) // 16 * 4
    for p in range((depth + 15) // 16):
        count = min(16, depth - p * 16)
        done = length // 4 if count == 16 else 0
        _interleave(values + p * 16, step, done, panels + p * quads * 64)
        for i in range(done, quads):
            panel = row_at(panels + (p * quads + i) * 64, 64, np.int8)
            panel[:] = 0
            for s in range(i * 4, min(i * 4 + 4, length)):
                row = row_at(values + s * step + p * 16, count, np.int8)
                for d in range(count):
                    panel[d * 4 + s % 4] = row[d]


@compiled
def _pack_queries(queries, step, scales, scale_step, rows, depth, target, factors):
    """Copy queries to int16 pairs and their scales; the last one repeats up to ``padded_rows``."""
    size = (depth + 1) // 2 * 2
    factor = row_at(factors, padded_rows(rows), np.float32)
    for r in range(padded_rows(rows)):
        source = row_at(queries + min(r, rows - 1) * step, depth, np.int8)
        row = row_at(target + r * size * 2, size, np.int16)
        row[size - 1] = 0
        for d in range(depth):
            row[d] = source[d]
        factor[r] = row_at(scales + min(r, rows - 1) * scale_step, 1, np.float32)[0]


@compiled
def _score(queries, factors, rows, depth, keys, key_scales, listed, count, step, scores, room):
    """Write the scores of a group against listed panels into rows ``room`` bytes apart."""
    pairs, tiled = (depth + 1) // 2, padded_rows(rows)
    for i in range(count):
        entry_ = row_at(listed + i * ENTRY_BYTES, 2, np.int64)
        panel, words = entry_[0], entry_[1]
        at, scale, to = keys + panel * pairs * 64, key_scales + panel * 64, scores + i * 64
        panel_scores(queries, pairs * 4, tiled, at, pairs, factors, scale, to, room)
        if words:
            hide(to, room, rows, words, step)


@compiled
def _encode(scores, room, rows, ends, steps, codes, sums):
    """Turn scores into codes and their bits at ``codes``, and write the sum of each row's codes.

    Rows that only pad the tiles have no codes.
    """
    end, total = row_at(ends, rows, np.int64), row_at(sums, rows, np.int32)
    width = steps * 32 + 32  # behind each row of codes there are quads of zeros
    kept, excess = codes, codes + DENSE_ROWS * width
    above = excess + DENSE_ROWS * width
    used = above + DENSE_ROWS * steps * 4
    for r in range(padded_rows(rows)):
        mask = r * steps * 4
        if r < rows:
            row_at(excess + r * width + steps * 32, 32, np.int8)[:] = 0
            total[r] = encode_row(
                scores + r * room,
                end[r],
                steps,
                kept + r * width,
                excess + r * width,
                above + mask,
                used + mask,
            )
        else:
            row_at(above + mask, steps, np.int32)[:] = 0
            row_at(used + mask, steps, np.int32)[:] = 0


@compiled
def _gather_values(values, listed, count, panel):
    """Copy one panel's quads of listed keys side by side."""
    to = panel
    i = 0
    while i < count:
        panels = run_length(listed, i, count)
        first = row_at(listed + i * ENTRY_BYTES, 1, np.int64)[0]
        source = row_at(values + first * 256, panels * 64, np.int32)
        target = row_at(to, panels * 64, np.int32)
        for j in range(panels * 64):
            target[j] = source[j]
        to += panels * 256
        i += panels


@compiled
def _attend(rows, depth, values, keys, listed, count, ends, v_scale, scores, room, work, out, step):
    """From the scores of one group to its output.

    ``keys`` is the number of packed keys, all of them listed when ``listed`` is 0. ``work`` has
    ``_work_bytes``; everything but the counts and the scale is an address or bytes.
    """
    steps = (count * 16 + 31) // 32
    width = steps * 32 + 32
    tiled = padded_rows(rows)
    kept, excess = work, work + DENSE_ROWS * width
    above = excess + DENSE_ROWS * width
    used = above + DENSE_ROWS * steps * 4
    offsets = used + DENSE_ROWS * steps * 4
    rests = offsets + DENSE_ROWS * steps * 32
    gathered = rests + DENSE_ROWS * steps * 32
    counts, rest_counts = stack_bytes(ROW_BYTES), stack_bytes(ROW_BYTES)
    totals, factors = stack_bytes(ROW_BYTES), stack_bytes(ROW_BYTES)
    sums = stack_bytes(SUMS_BYTES)
    _encode(scores, room, rows, ends, steps, work, totals)
    list_block(used, above, tiled, steps * 32, offsets, counts, rests, rest_counts)
    total, factor = row_at(totals, rows, np.int32), row_at(factors, rows, np.float32)
    for r in range(rows):
        factor[r] = v_scale / float32(max(total[r], int32(1)))
    for p in range((depth + 15) // 16):
        panel = values + p * keys * 16
        if listed:
            _gather_values(panel, listed, count, gathered)
            panel = gathered
        context_rows(
            kept,
            excess,
            width,
            tiled,
            panel,
            offsets,
            counts,
            rests,
            rest_counts,
            steps * 32,
            sums,
        )
        columns = min(16, depth - p * 16)
        scale_rows(sums, rows, columns, factors, out + p * 64, step)


@compiled
def _work_bytes(width):
    """Bytes of ``_attend``: codes, bits and lists per row, and a panel of values."""
    steps = (width + 31) // 32
    return DENSE_ROWS * (2 * (steps * 32 + 32) + 2 * steps * 4 + 2 * steps * 32) + width * 16 + 1024


@compiled
def _run_groups(q, qs, k, ks, v, vs, unit, pattern, seen, out, first, last):
    """Compute groups ``first`` to ``last`` of all heads' groups.

    ``qs``, ``ks`` and ``vs`` are ``scale_places``; ``pattern`` and ``seen`` are those of
    ``list_group``.
    """
    rows, depth = q.shape[1], q.shape[2]
    length = k.shape[1]
    width = (length + 15) // 16 * 16
    group = group_rows(pattern[0])
    groups = (rows + group - 1) // group
    room = (length + 31) // 32 * 128 + 64  # rows start at other places of a page
    pairs = (depth + 1) // 2
    key_bytes, value_bytes = pairs * width * 4, (depth + 15) // 16 * width * 16 + 1024
    query_bytes, list_bytes = DENSE_ROWS * (pairs * 4 + 4), width // 16 * ENTRY_BYTES
    total = key_bytes + value_bytes + width * 4 + DENSE_ROWS * room + query_bytes + list_bytes
    memory = np.empty(64 + total + _work_bytes(width), np.uint8)
    keys = (address(memory) + 63) // 64 * 64
    values = keys + key_bytes
    key_scales = values + value_bytes
    scores = key_scales + width * 4
    queries = scores + DENSE_ROWS * room
    factors = queries + DENSE_ROWS * pairs * 4
    listed = factors + DENSE_ROWS * 4
    work = listed + list_bytes
    ends = stack_bytes(ROW_BYTES)
    head = -1
    v_scale = float32(0.0)
    for item in range(first, last):
        h, t = item // groups, item % groups * group
        count = min(group, rows - t)
        if h != head:
            head = h
            at_keys, at_values = address(k) + h * k.strides[0], address(v) + h * v.strides[0]
            pack_key_codes(at_keys, k.strides[1], length, depth, keys)
            _pack_values(at_values, v.strides[1], length, depth, values)
            factor = row_at(key_scales, width, np.float32)
            for s in range(width):
                at = ks[0] + h * ks[1] + min(s, length - 1) * ks[2]
                factor[s] = row_at(at, 1, np.float32)[0] * unit
            v_scale = row_at(vs[0] + h * vs[1], 1, np.float32)[0]
        panels, _ = list_group(listed, ends, t, count, length, pattern, seen)
        source = address(q) + h * q.strides[0] + t * q.strides[1]
        at_scale = qs[0] + h * qs[1] + t * qs[2]
        _pack_queries(source, q.strides[1], at_scale, qs[2], count, depth, queries, factors)
        step = word_step(pattern[0])
        _score(queries, factors, count, depth, keys, key_scales, listed, panels, step, scores, room)
        target = address(out) + t * out.strides[0] + h * depth * 4
        chosen = listed if pattern[0] else int64(0)
        _attend(
            count,
            depth,
            values,
            width,
            chosen,
            panels,
            ends,
            v_scale,
            scores,
            room,
            work,
            target,
            out.strides[0],
        )
    memory[0] = 0  # keeps the array alive until here


@entry(*CODES, in1(int64), out2(float32), int64)
def attention_i8(q, q_scale, k, k_scale, v, v_scale, scale, keys, out, threads):
    """Write attention on codes into out, or return what is wrong."""
    unit = float32(float32(scale) * LOG2E)
    status = status_of_codes(q, q_scale, k, k_scale, v, v_scale, scale, out, threads)
    if status or not keys_fit(q, keys):
        return status or MISFIT
    qs, ks, vs = scale_places(q_scale, k_scale, v_scale)
    seen, none = key_places(keys), int64(0)
    pattern = (none, none, none, none, none)
    heads, rows, depth = q.shape
    if rows <= STREAM_ROWS and depth % 16 == 0:
        for c in prange(threads):
            first, last = share(heads, threads, c)
            run_streamed(q, qs, k, ks, v, vs, unit, seen, out, first, last)
        return 0
    groups = heads * ((rows + DENSE_ROWS - 1) // DENSE_ROWS)
    for c in prange(threads):
        first, last = share(groups, threads, c)
        _run_groups(q, qs, k, ks, v, vs, unit, pattern, seen, out, first, last)
    return 0


@entry(*CODES, *PATTERN, out2(float32), int64)
def attention_blocks_i8(
    q,
    q_scale,
    k,
    k_scale,
    v,
    v_scale,
    scale,
    block,
    pointers,
    columns,
    which,
    masks,
    out,
    threads,
):
    """Write the same over the keys that a pattern keeps."""
    unit = float32(float32(scale) * LOG2E)
    status = status_of_codes(q, q_scale, k, k_scale, v, v_scale, scale, out, threads)
    if status:
        return status
    if not is_pattern(q.shape[1], k.shape[1], block, pointers, columns, which, masks):
        return BAD_PATTERN
    qs, ks, vs = scale_places(q_scale, k_scale, v_scale)
    seen = (int64(0), int64(0))
    pattern = (block, address(pointers), address(columns), address(which), address(masks))
    groups = q.shape[0] * ((q.shape[1] + SPARSE_ROWS - 1) // SPARSE_ROWS)
    for c in prange(threads):
        first, last = share(groups, threads, c)
        _run_groups(q, qs, k, ks, v, vs, unit, pattern, seen, out, first, last)
    return 0
