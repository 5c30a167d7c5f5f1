"""Checks of the arrays of a linear layer and an embedding, before native code sees them.

What the compiled entries check themselves (shapes, inner strides, codes, NaN) is not repeated.
What they cannot see is asked here: numba takes arrays of foreign byte order or of odd addresses
for plain ones, and no kernel can tell that a result lies in the memory of an operand.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from kernels.arguments import CODES, FLOATS, require, told

Array = NDArray[Any]
BYTES = np.dtype(np.uint8)
IDS = np.dtype(np.int64)
ACTIVATION_TYPES = {"f32": FLOATS, "i8": CODES, "i7": CODES, "b1": BYTES, "u1": BYTES}
READ = (("x_scale", FLOATS, 1), ("bias", FLOATS, 1), ("residual", FLOATS, 2))
WRITTEN = (("out", FLOATS, 2), ("codes", CODES, 2), ("codes_scale", FLOATS, 1))
_WRITTEN = frozenset(name for name, *_ in WRITTEN)
MOST_THREADS = 1024


def check_linear(
    where: str, activation: str, x: Array, arrays: Sequence[Array], *, threads: int
) -> None:
    """Raise TypeError or ValueError, beginning with ``where``, for what does not fit.

    ``arrays`` are those of ``READ`` and ``WRITTEN`` in order; empty ones are absent. Results may
    overlap neither operands nor one another, nor may their rows.

    >>> x, out = np.ones((2, 3), np.float32), np.ones((2, 2), np.float32)
    >>> none, no_rows = np.zeros(0, np.float32), np.zeros((0, 0), np.float32)
    >>> arrays = (none, none, no_rows, out, np.zeros((0, 0), np.int8), none)
    >>> check_linear("linear", "f32", x, arrays, threads=1)
    >>> check_linear("linear", "f32", x.astype(np.float64), arrays, threads=1)
    Traceback (most recent call last):
    TypeError: linear: x: found float64 (2, 3), expected an array of float32
    """
    if not isinstance(threads, int) or not 1 <= threads <= MOST_THREADS:
        raise ValueError(
            f"{where}: threads: found {threads!r}, expected a number from 1 to {MOST_THREADS}"
        )
    named = [("x", ACTIVATION_TYPES[activation], 2, x)]
    named += [(*kind, array) for kind, array in zip((*READ, *WRITTEN), arrays, strict=True)]
    for name, dtype, dimensions, array in named:
        if not _is_plain(array, dtype, dimensions):
            require(f"{where}: {name}", dtype, dimensions, array)
    present = [(name, array) for name, _, _, array in named if array.size]
    outputs = [pair for pair in present if pair[0] in _WRITTEN]
    for name, array in outputs:
        _check_result(where, name, array, [other for other in present if other[0] != name])


def _is_plain(array: Array, dtype: np.dtype[Any], dimensions: int) -> bool:
    """Tell at once what nearly always holds; ``require`` asks the same and says what does not."""
    known = type(array) is np.ndarray and array.dtype == dtype and array.ndim == dimensions
    return known and array.flags.aligned


def _check_result(where: str, name: str, array: Array, others: list[tuple[str, Array]]) -> None:
    """Raise ValueError for a result that is read only, or in the memory of something else."""
    if not array.flags.writeable:
        raise ValueError(f"{where}: {name}: found a read-only array, expected a writable one")
    if array.ndim == 2 and len(array) > 1:
        row_bytes = array.shape[1] * array.itemsize
        if abs(array.strides[0]) < row_bytes:
            raise ValueError(
                f"{where}: {name}: found rows {array.strides[0]} bytes apart, "
                f"expected at least {row_bytes}, as rows may not overlap"
            )
    for other, operand in others:
        if overlap(array, operand):
            raise ValueError(
                f"{where}: {name}: found {told(array)} in the memory of {other}, "
                "expected memory of its own"
            )


def overlap(a: Array, b: Array) -> bool:
    """Tell whether two arrays share an element; column ranges of one matrix need not."""
    return np.may_share_memory(a, b) and np.shares_memory(a, b)


def check_embedding(ids: Array, out: Array, *, n: int, k: int) -> None:
    """Raise TypeError or ValueError unless ids ``(R)`` are rows of ``(n, k)``, out ``(R, k)``."""
    require("embedding: ids", IDS, 1, ids)
    require("embedding: out", FLOATS, 2, out)
    if out.shape != (ids.size, k):
        raise ValueError(f"embedding: out: found {out.shape}, expected {(ids.size, k)}")
    if ids.size and (int(ids.min()) < 0 or int(ids.max()) >= n):
        raise ValueError(f"embedding: found ids [{ids.min()}, {ids.max()}], expected [0, {n - 1}]")
    _check_result("embedding", "out", out, [("ids", ids)])
