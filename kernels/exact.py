"""Integer sums in float32, exact: codes as floats, and scales once a sum is complete.

Products of codes and their sums are whole numbers; float32 holds every whole number up to 2^24.
With activations in [-127, 127] no partial sum of an output, in any order, leaves that range if the
magnitudes of its weight codes sum to at most 2^24 / 127 = 132104: then fused multiply-adds in
float32 give the integer sum. At most 1040 nonzeros of 8 bits, or 18872 of 4 bits, always fit.
"""

import numpy as np
from numba import float32, int8, int32
from numpy.typing import NDArray

from kernels.jit import compiled
from kernels.simd import F32X8, I8X8, I64, Writer, row_at, stack_bytes, tile

LARGEST_MAGNITUDES = 2**24 // 127
"""Sum of the magnitudes of the codes of one output up to which float32 sums are exact."""


def magnitudes(codes: NDArray[np.int8]) -> int:
    """Return the largest sum of magnitudes over the rows of codes ``(n, k)``.

    >>> magnitudes(np.array([[3, -4], [0, 5]], np.int8))
    7
    """
    return int(np.abs(codes.astype(np.int64)).sum(axis=1).max(initial=0))


def require_exact(codes: NDArray[np.int8], where: str) -> None:
    """Raise ValueError if float32 sums of products with these codes could be inexact."""
    found = magnitudes(codes)
    if found > LARGEST_MAGNITUDES:
        raise ValueError(
            f"{where}: found an output whose codes have magnitudes that sum to {found}, "
            f"expected at most {LARGEST_MAGNITUDES} for exact sums in float32"
        )


@compiled
def has_forbidden(x, x_step, rows, k):
    """Tell whether int8 ``x`` (address, bytes between rows) holds the code -128."""
    least = int8(0)
    for t in range(rows):
        row = row_at(x + t * x_step, k, np.int8)
        for i in range(k):
            least = min(least, row[i])
    return least == -128


@tile(3)
def _widen_eights(w: Writer, source, target, eights) -> None:
    """Write 8 codes as floats, ``eights`` times."""
    b = w.b

    def body(i):
        codes = w.load(I8X8, b.add(source, b.mul(i, I64(8))))
        w.store(b.sitofp(codes, F32X8), b.add(target, b.mul(i, I64(32))))
        return []

    w.loop(eights, [], body)


@compiled
def widen_padded(source, count, target):
    """Write codes as floats; reads and writes up to 7 more than ``count``."""
    _widen_eights(source, target, (count + 7) // 8)


@compiled
def widen(source, count, target):
    """Write ``count`` codes as floats."""
    _widen_eights(source, target, count // 8)
    whole = count // 8 * 8
    row, codes = row_at(target, count, np.float32), row_at(source, count, np.int8)
    for i in range(whole, count):
        row[i] = float32(codes[i])


@compiled
def scale_rows(rows, row_step, count, n, x_scale, x_scale_step, w_scale, bias):
    """Make ``float32(sum) * x_scale * w_scale + bias`` of sums ``(count, n)`` in place.

    All but the counts are addresses and bytes; 0 means an absent scale (1) or bias (0).
    """
    one = stack_bytes(64)
    row_at(one, 16, np.float32)[:] = float32(1.0)
    for r in range(count):
        row = row_at(rows + r * row_step, n, np.float32)
        by = row_at(x_scale + r * x_scale_step if x_scale else one, 1, np.float32)[0]
        if w_scale:
            scale = row_at(w_scale, n, np.float32)
            for j in range(n):
                row[j] = row[j] * by * scale[j]
        if bias:
            added = row_at(bias, n, np.float32)
            for j in range(n):
                row[j] += added[j]


@compiled
def raw_rows(rows, row_step, count, n):
    """Turn whole numbers ``(count, n)`` held as float32 into int32, in place."""
    for r in range(count):
        at = rows + r * row_step
        row, sums = row_at(at, n, np.float32), row_at(at, n, np.int32)
        for j in range(n):
            sums[j] = int32(row[j])
