"""Panels of one-bit weights, and what becomes of the sums over them."""

import numpy as np
from numba import int64
from numpy.typing import NDArray

from kernels.binary_tiles import GROUP, PANEL, WIDE, emit_counts, emit_sums
from kernels.finish import bias_at, w_scale_at
from kernels.jit import compiled
from kernels.memory import aligned_zeros
from kernels.registry import Arguments, Matrix
from kernels.simd import row_at

LONGEST_K = 2**16 - 1
"""Counters of differing bits are 16 bits wide."""
BLOCK_BYTES = 96
"""Bytes of bits along k that are unpacked together: 192 rows of 128 indices, 24 KiB."""
INDEX_BYTES = 2 * BLOCK_BYTES * WIDE
SLACK_BYTES = (GROUP - 1) * PANEL
"""Bytes after the last panel that a tile may read, against tables of zeros."""
FACTOR_BYTES = 8 * WIDE
"""Room for the scales and the biases of 128 outputs."""
EDGE_BYTES = 2 * 64
"""Room for 16 outputs of two rows."""
_LANES = np.arange(32).reshape(16, 2).T.reshape(-1)
"""Byte of a 32-byte vector where each of its 32 outputs lies: even bytes, then odd ones."""


def pack_bits(matrix: Matrix) -> Arguments:
    """Bits ``[ceil(n / 64)][ceil(k / 8)][64]``, outputs of 32 in the order of ``_LANES``, n and k.

    A bit is 1 for the code +1 and 0 for -1; other codes raise ValueError.
    """
    codes, (n, k) = matrix.values, matrix.shape
    if not np.isin(codes, (-1, 1)).all():
        raise ValueError("one-bit panel: found a code that is neither -1 nor +1")
    if k > LONGEST_K:
        raise ValueError(f"one-bit panel: found k {k}, expected at most {LONGEST_K}")
    bits = np.packbits(codes > 0, axis=1, bitorder="little")
    padded = np.zeros((-(-n // PANEL) * PANEL, bits.shape[1]), np.uint8)
    padded[:n] = bits
    panels = aligned_zeros((padded.size + SLACK_BYTES,), np.uint8)
    target = panels[: padded.size].reshape(-1, bits.shape[1], PANEL // 32, 32)
    target[..., _LANES] = padded.reshape(-1, PANEL // 32, 32, bits.shape[1]).transpose(0, 3, 1, 2)
    return (panels, n, k)


def unpack_rows(arguments: Arguments, ids: NDArray[np.int64]) -> NDArray[np.float32]:
    """Rows ``(R, k)`` of +1 and -1 of the weights in panels."""
    panels, _, k = arguments[:3]
    bits = panels[:-SLACK_BYTES].reshape(-1, -(-k // 8), PANEL // 32, 32)
    lanes = ids % PANEL
    found = bits[ids // PANEL, :, lanes // 32, _LANES[lanes % 32]]
    signs = np.unpackbits(found, axis=1, count=k, bitorder="little")
    return np.where(signs == 1, np.float32(1.0), np.float32(-1.0))


@compiled
def round_up(count, unit):
    """Smallest multiple of ``unit`` that is no less than ``count``."""
    return (count + unit - 1) // unit * unit


@compiled
def copy_bytes(source, target, count):
    """Copy ``count`` bytes from one address to another."""
    a, b = row_at(source, count, np.uint8), row_at(target, count, np.uint8)
    for i in range(count):
        b[i] = a[i]


@compiled
def fill_bytes(target, count, value):
    """Set ``count`` bytes at an address."""
    row = row_at(target, count, np.uint8)
    for i in range(count):
        row[i] = value


@compiled
def factors_of(plan, n0, width, held):
    """Addresses of scales and biases of ``width`` outputs, in whole chunks of 16.

    ``held`` is FACTOR_BYTES whose second half is zeros as long as there is no bias.
    """
    scales, bias = int64(w_scale_at(plan, n0)), int64(bias_at(plan, n0))
    zeros = held + 4 * WIDE
    if width % 16 == 0:
        return scales, bias or zeros
    copy_bytes(scales, held, 4 * width)
    if bias:
        copy_bytes(bias, zeros, 4 * width)
    return held, zeros


@compiled
def emit_raw(sums, rows, width, starts, target, step, is_counts):
    """Write the int32 sums of some rows as they are; arguments as ``emit_pair``."""
    for r in range(rows):
        y = row_at(target + r * step, width, np.int32)
        if is_counts:
            counts = row_at(sums + r * 2 * WIDE, width, np.uint16)
            start = np.int32(row_at(starts + 4 * r, 1, np.float32)[0])
            for i in range(width):
                y[i] = start - np.int32(2) * np.int32(counts[i])
        else:
            parts = row_at(sums + r * 4 * WIDE, width, np.int32)
            start = row_at(starts + 4 * r, 1, np.int32)[0]
            for i in range(width):
                y[i] = start + parts[i]


@compiled
def emit_pair(
    sums, rows, width, starts, x_scale, x_step, w_scale, bias, edge, target, step, is_counts
):
    """Write ``width <= 128`` float outputs of one or two rows from their sums.

    ``w_scale`` and ``bias`` are those of ``factors_of``, ``edge`` is EDGE_BYTES of memory.
    """
    chunks, left, second = width // 16, width % 16, rows - 1
    if is_counts:
        emit_counts(sums, starts, x_scale, x_step, w_scale, bias, target, step, chunks, second)
    else:
        emit_sums(sums, starts, x_scale, x_step, w_scale, bias, target, step, chunks, second)
    if left:
        place = 64 * chunks
        at_scale, at_bias = w_scale + place, bias + place
        if is_counts:
            at = sums + place // 2
            emit_counts(at, starts, x_scale, x_step, at_scale, at_bias, edge, 64, 1, second)
        else:
            at = sums + place
            emit_sums(at, starts, x_scale, x_step, at_scale, at_bias, edge, 64, 1, second)
        for r in range(rows):
            copy_bytes(edge + 64 * r, target + r * step + place, 4 * left)
