# ruff: noqa: FURB136 (max would drop NaN)
"""Softmax attention in plain loops: right on any CPU, and the only one without AVX2 and FMA."""

import numpy as np
from numba import float32, int64, prange

from kernels.attention_common import (
    BAD_PATTERN,
    CARRY_KEYS,
    CODES,
    FLOAT,
    MISFIT,
    PATTERN,
    address,
    bias_fits,
    fits,
    key_places,
    keys_fit,
    probability,
    share,
    status_of_codes,
)
from kernels.attention_lists import (
    DENSE_ROWS,
    ENTRY_BYTES,
    group_rows,
    is_pattern,
    list_group,
    word_step,
)
from kernels.jit import compiled, entry, in1, in3, out2
from kernels.mathematics import LOG2E, exp
from kernels.simd import row_at, stack_bytes

ENDS_BYTES = DENSE_ROWS * 8
LOWEST = np.finfo(np.float32).min


@compiled
def _list_keys(listed, count, end, r, step, keys, slots):
    """List the keys that row r of a group sees, and where each stands among the listed ones."""
    found = 0
    for i in range(count):
        entry_ = row_at(listed + i * ENTRY_BYTES, 2, np.int64)
        for j in range(16):
            if i * 16 + j >= end:
                break
            if entry_[1]:
                word = int64(row_at(entry_[1] + r * step, 1, np.uint16)[0])
                if not (word >> j) & 1:
                    continue
            keys[found] = entry_[0] * 16 + j
            slots[found] = i * 16 + j
            found += 1
    return found


@compiled
def _attend_f32(q, k, v, scale, bias, pattern, seen, out, first, last):
    """Attend with heads ``first`` to ``last``; pattern and bounds as ``list_group`` has them."""
    rows, depth = q.shape[1], q.shape[2]
    length = k.shape[1]
    scores, total = np.empty(length, np.float32), np.empty(depth, np.float32)
    listed = np.empty((length + 15) // 16 * 2, np.int64)
    keys, slots = np.empty(length, np.int64), np.empty(length, np.int64)
    ends = stack_bytes(ENDS_BYTES)
    group = group_rows(pattern[0])
    for item in range(0, rows, group):
        size = min(group, rows - item)
        count, _ = list_group(address(listed), ends, item, size, length, pattern, seen)
        for r in range(size):
            t, end = item + r, row_at(ends, size, np.int64)[r]
            found = _list_keys(address(listed), count, end, r, word_step(pattern[0]), keys, slots)
            for h in range(first, last):
                largest = float32(LOWEST)
                for i in range(found):
                    y = float32(0.0)
                    for d in range(depth):
                        y += q[h, t, d] * k[h, keys[i], d]
                    y = y * float32(scale)
                    if bias.size:
                        y += bias[h if bias.shape[0] > 1 else 0, t, keys[i]]
                    scores[i] = y
                    largest = y if y > largest else largest
                norm = float32(0.0)
                total[:] = 0
                for i in range(found):
                    e = exp(scores[i] - largest)
                    norm += e
                    for d in range(depth):
                        total[d] += e * v[h, keys[i], d]
                norm = norm if norm != float32(0.0) else float32(1.0)
                for d in range(depth):
                    out[t, h * depth + d] = total[d] / norm


@entry(*FLOAT, in3(float32), in1(int64), out2(float32), int64)
def attention_f32(q, k, v, scale, bias, keys, out, threads):
    """Write softmax(scale q k^T + bias) v of each head into out, or return what is wrong."""
    if not fits(q, k, v, out, threads) or not keys_fit(q, keys) or not bias_fits(q, k, bias):
        return MISFIT
    none = int64(0)
    pattern, seen = (none, none, none, none, none), key_places(keys)
    for c in prange(threads):
        first, last = share(q.shape[0], threads, c)
        _attend_f32(q, k, v, scale, bias, pattern, seen, out, first, last)
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
    pattern = (block, address(pointers), address(columns), address(which), address(masks))
    seen = (int64(0), int64(0))
    for c in prange(threads):
        first, last = share(q.shape[0], threads, c)
        _attend_f32(q, k, v, scale, bias, pattern, seen, out, first, last)
    return 0


@compiled
def _attend_i8(q, q_scale, k, k_scale, v, v_scale, scale, pattern, seen, out, first, last):
    """Do the same on codes."""
    heads, rows, depth = q.shape
    length = k.shape[1]
    q_scales = np.broadcast_to(q_scale, (heads, rows))
    k_scales = np.broadcast_to(k_scale, (heads, length))
    v_scales = np.broadcast_to(v_scale, (heads,))
    unit = float32(float32(scale) * LOG2E)
    scores, total = np.empty(length, np.float32), np.empty(depth, np.int64)
    carried = np.empty(CARRY_KEYS, np.float32)
    listed = np.empty((length + 15) // 16 * 2, np.int64)
    keys, slots = np.empty(length, np.int64), np.empty(length, np.int64)
    ends = stack_bytes(ENDS_BYTES)
    group = group_rows(pattern[0])
    for item in range(0, rows, group):
        size = min(group, rows - item)
        count, _ = list_group(address(listed), ends, item, size, length, pattern, seen)
        for r in range(size):
            t, end = item + r, row_at(ends, size, np.int64)[r]
            found = _list_keys(address(listed), count, end, r, word_step(pattern[0]), keys, slots)
            for h in range(first, last):
                largest = float32(LOWEST)
                for i in range(found):
                    y = int64(0)
                    for d in range(depth):
                        y += int64(q[h, t, d]) * int64(k[h, keys[i], d])
                    product = float32(float32(y) * q_scales[h, t])
                    scores[i] = product * float32(k_scales[h, keys[i]] * unit)
                    largest = scores[i] if scores[i] > largest else largest
                norm = int64(0)
                total[:] = 0
                carried[:] = 0
                for i in range(found):
                    slot = slots[i] % CARRY_KEYS
                    part = float32(probability(scores[i] - largest) + carried[slot])
                    part = float32(255.0) if part > float32(255.0) else part
                    rounded = np.rint(part)
                    carried[slot] = part - rounded
                    code = int64(rounded)
                    norm += code
                    for d in range(depth):
                        total[d] += code * int64(v[h, keys[i], d])
                factor = v_scales[h] / float32(max(norm, 1))
                for d in range(depth):
                    out[t, h * depth + d] = float32(total[d]) * factor


@entry(*CODES, in1(int64), out2(float32), int64)
def attention_i8(q, q_scale, k, k_scale, v, v_scale, scale, keys, out, threads):
    """Write attention on codes into out, or return what is wrong."""
    status = status_of_codes(q, q_scale, k, k_scale, v, v_scale, scale, out, threads)
    if status or not keys_fit(q, keys):
        return status or MISFIT
    none = int64(0)
    pattern, seen = (none, none, none, none, none), key_places(keys)
    for c in prange(threads):
        first, last = share(q.shape[0], threads, c)
        _attend_i8(q, q_scale, k, k_scale, v, v_scale, scale, pattern, seen, out, first, last)
    return 0


@entry(*CODES, *PATTERN, out2(float32), int64)
def attention_blocks_i8(
    q, q_scale, k, k_scale, v, v_scale, scale, block, pointers, columns, which, masks, out, threads
):
    """Write the same over the keys that a pattern keeps."""
    status = status_of_codes(q, q_scale, k, k_scale, v, v_scale, scale, out, threads)
    if status:
        return status
    if not is_pattern(q.shape[1], k.shape[1], block, pointers, columns, which, masks):
        return BAD_PATTERN
    pattern = (block, address(pointers), address(columns), address(which), address(masks))
    seen = (int64(0), int64(0))
    for c in prange(threads):
        first, last = share(q.shape[0], threads, c)
        _attend_i8(q, q_scale, k, k_scale, v, v_scale, scale, pattern, seen, out, first, last)
    return 0
