"""Which panels of 16 keys a group of queries sees: all up to a bound, or those of a pattern.

A list holds two int64 per panel: its number, and the address of the words that say which of its
keys the first query of the group sees (bit i of a uint16 stands for key i), 0 if all queries of
the group see all of them. Words of successive queries are ``word_step`` bytes apart.
"""

import numpy as np

from kernels.attention_common import bound
from kernels.jit import compiled
from kernels.simd import row_at

DENSE_ROWS, SPARSE_ROWS = 24, 16
"""Queries that are computed together: their scores against 1500 keys take 144 KiB."""
ENTRY_BYTES = 16
ALL = 0xFFFF


@compiled
def group_rows(block):
    """Return how many queries are computed together: fewer with a pattern, to see fewer keys."""
    return SPARSE_ROWS if block else DENSE_ROWS


@compiled
def word_step(block):
    """Bytes from the words of one query to those of the next, in a pattern of such blocks."""
    return block // 16 * 2


@compiled
def _list_kept(listed, t, rows, length, pattern):
    """List the panels with a key that one of ``rows`` queries from ``t`` on sees; return how many.

    ``pattern`` is the size of its blocks and the addresses of its arrays, as
    ``attention_blocks.BlockPattern`` has them: pointers, columns, which and masks.
    """
    block, pointers, columns, which, masks = pattern
    step, panels = word_step(block), block // 16
    bounds = row_at(pointers + t // block * 8, 2, np.int64)
    found = 0
    for i in range(bounds[0], bounds[1]):
        column = np.int64(row_at(columns + i * 4, 1, np.int32)[0])
        mask = np.int64(row_at(which + i * 4, 1, np.int32)[0])
        words = masks + (mask * block + t % block) * step
        for p in range(min(panels, (length - column * block + 15) // 16)):
            union, common = np.uint16(ALL), np.uint16(ALL)
            if mask >= 0:
                union = np.uint16(0)
                for r in range(rows):
                    word = row_at(words + r * step + p * 2, 1, np.uint16)[0]
                    union |= word
                    common &= word
            if union != 0:
                entry = row_at(listed + found * ENTRY_BYTES, 2, np.int64)
                entry[0] = column * panels + p
                entry[1] = 0 if common == ALL else words + p * 2
                found += 1
    return found


@compiled
def list_group(listed, ends, t, rows, length, pattern, seen):
    """List the panels of ``rows`` queries from ``t`` on; return their number and the keys to read.

    Writes at ``ends`` how many of the listed scores each query has (int64): those after are no
    keys, or keys behind its bound. ``seen`` is the address of one bound per query, and bytes
    between them; address 0 is none. Without a pattern (blocks of 0) all panels are listed.
    """
    end = row_at(ends, rows, np.int64)
    if pattern[0]:
        count = _list_kept(listed, t, rows, length, pattern)
        over = 0
        if count:
            last = row_at(listed + (count - 1) * ENTRY_BYTES, 1, np.int64)[0]
            over = max(0, last * 16 + 16 - length)
        end[:] = count * 16 - over
        return count, length
    limit = 0
    for r in range(rows):
        end[r] = bound(seen, t + r, length)
        limit = max(limit, end[r])
    count = (limit + 15) // 16
    for i in range(count):
        entry = row_at(listed + i * ENTRY_BYTES, 2, np.int64)
        entry[0] = i
        entry[1] = 0
    return count, limit


@compiled
def run_length(listed, first, count):
    """How many panels from entry ``first`` of ``count`` on follow each other."""
    number = row_at(listed + first * ENTRY_BYTES, 1, np.int64)[0]
    last = first + 1
    while last < count:
        if row_at(listed + last * ENTRY_BYTES, 1, np.int64)[0] != number + last - first:
            break
        last += 1
    return last - first


@compiled
def _is_laid_out(block, pointers, columns, which, masks):
    """Tell whether the arrays of a pattern are contiguous and their shapes belong together."""
    step, parts = word_step(block), masks.shape[0]
    is_plain = columns.size == which.size and pointers.strides[0] == 8
    if columns.size > 1:
        is_plain &= columns.strides[0] == 4 and which.strides[0] == 4
    if parts:
        is_plain &= masks.shape[1] == block and masks.shape[2] == block // 16
        is_plain &= masks.strides[1] == step and masks.strides[2] == 2
    if parts > 1:
        is_plain &= masks.strides[0] == block * step
    return is_plain


@compiled
def _is_ascending(first, last, columns, which, key_blocks, parts):
    """Tell whether a row of blocks names blocks of keys in order, and parts, that there are."""
    previous = np.int64(-1)
    for j in range(first, last):
        if not previous < columns[j] < key_blocks or not -1 <= which[j] < parts:
            return False
        previous = np.int64(columns[j])
    return True


@compiled
def is_pattern(rows, length, block, pointers, columns, which, masks):
    """Tell whether the arrays of a pattern are sound and belong to that many queries and keys."""
    if block < 16 or block % 16 != 0 or not _is_laid_out(block, pointers, columns, which, masks):
        return False
    query_blocks, key_blocks = (rows + block - 1) // block, (length + block - 1) // block
    if pointers.size != query_blocks + 1 or pointers[0] != 0:
        return False
    for i in range(query_blocks):
        first, last = pointers[i], pointers[i + 1]
        if not first <= last <= columns.size:
            return False
        if not _is_ascending(first, last, columns, which, key_blocks, masks.shape[0]):
            return False
    return pointers[query_blocks] == columns.size
