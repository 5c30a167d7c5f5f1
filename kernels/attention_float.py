"""Float softmax attention of many queries on AVX2.

The keys and values of a head are laid out once as panels. A group of queries computes its scores
against the panels it sees, their softmax and its context while they stay in the second-level
cache. The scores of a group lie side by side without gaps, so that a pattern with few panels
costs in proportion to them. A bias and keys that are not seen enter where the sums start.
"""

import numpy as np
from numba import float32, int64, prange

from kernels.attention_common import (
    BAD_PATTERN,
    FLOAT,
    MISFIT,
    PATTERN,
    address,
    bias_fits,
    bias_places,
    fits,
    key_places,
    keys_fit,
    share,
)
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
from kernels.attention_stream import STREAM_ROWS, run_streamed
from kernels.attention_tiles import (
    divide_rows,
    norm_of,
    pack_keys,
    pack_values,
    padded_rows,
    panel_products,
    softmax_row,
    write_starts,
)
from kernels.jit import compiled, entry, in1, in3, out2
from kernels.mathematics import LOG2E
from kernels.simd import row_at, stack_bytes

TILE_BYTES = DENSE_ROWS * 64
VALUE_BLOCK = 256
"""Values of a panel that all tiles of a group use before the next: 16 KiB."""


@compiled
def _pack_queries(queries, step, rows, depth, unit, target):
    """Copy queries times ``unit``; the last one repeats up to ``padded_rows``."""
    for r in range(padded_rows(rows)):
        source = row_at(queries + min(r, rows - 1) * step, depth, np.float32)
        row = row_at(target + r * depth * 4, depth, np.float32)
        for d in range(depth):
            row[d] = source[d] * unit


@compiled
def _score(
    queries, rows, depth, keys, length, listed, count, bias, bias_step, step, starts, scores, room
):
    """Write the scores of a group against listed panels into rows ``room`` bytes apart.

    ``step`` is that of the words of a pattern; everything but the counts is an address or bytes.
    """
    zeros = stack_bytes(64)
    row_at(zeros, 16, np.float32)[:] = float32(0.0)
    tiled = padded_rows(rows)
    for i in range(count):
        entry = row_at(listed + i * ENTRY_BYTES, 2, np.int64)
        panel, words = entry[0], entry[1]
        start, start_step = zeros, 0
        if bias or words:
            width = min(16, length - panel * 16)
            at_bias = bias + panel * 64 if bias else 0
            write_starts(starts, rows, width, at_bias, bias_step, words, step)
            start, start_step = starts, 64
        at, to = keys + panel * depth * 64, scores + i * 64
        panel_products(queries, depth * 4, tiled, at, depth, start, start_step, to, room)


@compiled
def _sum_values(scores, room, rows, listed, count, limit, panel, context):
    """Write ``padded_rows`` sums of weights times a panel of values.

    Values of keys from ``limit`` on are not read.
    """
    tiled, apart = padded_rows(rows), int64(64)  # no literal: each would be compiled on its own
    row_at(context, tiled * 16, np.float32)[:] = float32(0.0)
    i = 0
    while i < count:
        panels = run_length(listed, i, count)
        first = row_at(listed + i * ENTRY_BYTES, 1, np.int64)[0] * 16
        steps = min(first + panels * 16, limit) - first
        for s in range(0, steps, VALUE_BLOCK):
            at, weights = panel + (first + s) * 64, scores + i * 64 + s * 4
            part = min(VALUE_BLOCK, steps - s)
            panel_products(weights, room, tiled, at, part, context, apart, context, apart)
        i += panels


@compiled
def _attend(
    queries,
    rows,
    depth,
    keys,
    values,
    length,
    listed,
    count,
    ends,
    limit,
    bias,
    bias_step,
    step,
    work,
    room,
    out,
    out_step,
):
    """Write the output of one group; ``ends`` has the number of listed scores that each row has."""
    starts, context, norms = work, stack_bytes(TILE_BYTES), stack_bytes(TILE_BYTES)
    scores = work + TILE_BYTES
    _score(
        queries, rows, depth, keys, length, listed, count, bias, bias_step, step, starts, scores,
        room,
    )  # fmt: skip
    end, norm = row_at(ends, rows, np.int64), row_at(norms, rows, np.float32)
    for r in range(rows):
        norm[r] = norm_of(softmax_row(scores + r * room, end[r], count))
    for p in range((depth + 15) // 16):
        panel = values + p * length * 64
        _sum_values(scores, room, rows, listed, count, limit, panel, context)
        width = min(16, depth - p * 16)
        divide_rows(context, rows, width, norms, out + p * 64, out_step)


@compiled
def _run_groups(q, k, v, unit, bias, pattern, seen, out, first, last):
    """Compute groups ``first`` to ``last`` of all heads' groups.

    ``bias`` is an address (0 is none) and the bytes between heads and between queries; ``pattern``
    and ``seen`` are those of ``list_group``.
    """
    rows, depth = q.shape[1], q.shape[2]
    length = k.shape[1]
    width = (length + 15) // 16 * 16
    group = group_rows(pattern[0])
    groups = (rows + group - 1) // group
    room = width * 4 + 64  # a row does not start at the same place of a page as the next
    key_bytes, value_bytes = width * depth * 4, (depth + 15) // 16 * length * 64
    query_bytes, list_bytes = DENSE_ROWS * depth * 4, width // 16 * ENTRY_BYTES
    total = key_bytes + value_bytes + query_bytes + list_bytes + TILE_BYTES + DENSE_ROWS * room
    memory = np.empty(64 + total, np.uint8)
    keys = (address(memory) + 63) // 64 * 64
    values = keys + key_bytes
    work = values + value_bytes
    queries = work + TILE_BYTES + DENSE_ROWS * room
    listed = queries + query_bytes
    ends = stack_bytes(TILE_BYTES)
    head = -1
    for item in range(first, last):
        h, t = item // groups, item % groups * group
        count = min(group, rows - t)
        if h != head:
            head = h
            pack_keys(address(k) + h * k.strides[0], k.strides[1], length, depth, keys)
            pack_values(address(v) + h * v.strides[0], v.strides[1], length, depth, values)
        panels, limit = list_group(listed, ends, t, count, length, pattern, seen)
        source = address(q) + h * q.strides[0] + t * q.strides[1]
        _pack_queries(source, q.strides[1], count, depth, unit, queries)
        at_bias = bias[0] + h * bias[1] + t * bias[2] if bias[0] else 0
        target = address(out) + t * out.strides[0] + h * depth * 4
        _attend(
            queries,
            count,
            depth,
            keys,
            values,
            length,
            listed,
            panels,
            ends,
            limit,
            at_bias,
            bias[2],
            word_step(pattern[0]),
            work,
            room,
            target,
            out.strides[0],
        )
    memory[0] = 0  # keeps the array alive until here


@entry(*FLOAT, in3(float32), in1(int64), out2(float32), int64)
def attention_f32(q, k, v, scale, bias, keys, out, threads):
    """Write softmax(scale q k^T + bias) v of each head into out, or return what is wrong."""
    if not fits(q, k, v, out, threads) or not keys_fit(q, keys) or not bias_fits(q, k, bias):
        return MISFIT
    heads, rows, depth = q.shape
    unit = float32(float32(scale) * LOG2E)
    places, seen = bias_places(bias), key_places(keys)
    none = int64(0)
    pattern = (none, none, none, none, none)
    if rows <= STREAM_ROWS and depth % 8 == 0:
        for c in prange(threads):
            first, last = share(heads, threads, c)
            run_streamed(q, k, v, unit, places, seen, out, first, last)
        return 0
    groups = heads * ((rows + DENSE_ROWS - 1) // DENSE_ROWS)
    for c in prange(threads):
        first, last = share(groups, threads, c)
        _run_groups(q, k, v, unit, places, pattern, seen, out, first, last)
    return 0


@entry(*FLOAT, in3(float32), *PATTERN, out2(float32), int64)
def attention_blocks_f32(
    q, k, v, scale, bias, block, pointers, columns, which, masks, out, threads
):
    """Write the same over the keys that a pattern keeps."""
    if not fits(q, k, v, out, threads) or not bias_fits(q, k, bias):
        return MISFIT
    if not is_pattern(q.shape[1], k.shape[1], block, pointers, columns, which, masks):
        return BAD_PATTERN
    unit = float32(float32(scale) * LOG2E)
    places, seen = bias_places(bias), (int64(0), int64(0))
    pattern = (block, address(pointers), address(columns), address(which), address(masks))
    groups = q.shape[0] * ((q.shape[1] + SPARSE_ROWS - 1) // SPARSE_ROWS)
    for c in prange(threads):
        first, last = share(groups, threads, c)
        _run_groups(q, k, v, unit, places, pattern, seen, out, first, last)
    return 0
