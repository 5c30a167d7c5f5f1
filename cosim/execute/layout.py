"""Views of arrays by their order in memory: rows, and axes merged for kernels. Nothing is copied.

The order of a value in memory need not be that of its axes: a convolution's result is held
time-major under a channel-major view, heads are views of rows. Kernels want matrices whose rows
have a unit inner stride.
"""

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from numpy.lib.stride_tricks import as_strided
from numpy.typing import NDArray

Array = NDArray[Any]  # the verifier settles dtypes, per value


def memory_order(value: Array) -> tuple[int, ...]:
    """Return the axes from the outermost in memory to the innermost; those of length 1 first."""

    def place(axis: int) -> tuple[int, int]:
        return (-value.strides[axis] if value.shape[axis] > 1 else -(1 << 62), axis)

    return tuple(sorted(range(value.ndim), key=place))


def row_order(value: Array) -> tuple[int, ...]:
    """Return the memory order of all axes but the last, which stays the innermost."""
    lead = value[..., 0]
    return (*memory_order(lead), value.ndim - 1)


def rows_in(value: Array, order: Sequence[int]) -> Array | None:
    """View a value, its axes in `order`, as [rows, last axis]; None where only a copy has them.

    Rows may be apart or the same; within a row elements lie next to each other.

    Example:
        >>> x = np.zeros((1, 3, 5), np.float32).transpose(0, 2, 1)
        >>> rows_in(x, (0, 2, 1)).shape, rows_in(x, (0, 1, 2))
        ((3, 5), None)

    """
    ordered = value.transpose(order)
    width = ordered.shape[-1]
    if width > 1 and ordered.strides[-1] != value.itemsize:
        return None
    lead = _merged(ordered[..., 0])
    if len(lead) > 1:
        return None
    count, step = lead[0] if lead else (1, width * value.itemsize)
    return as_strided(ordered, (count, width), (step, value.itemsize))


def memory_rows(value: Array) -> Array:
    """Return a 2-D view in memory order; ValueError when the memory has gaps within a row."""
    rows = rows_in(value, memory_order(value))
    if rows is None:
        raise ValueError(f"memory with gaps: shape {value.shape}, strides {value.strides}")
    return rows


def aligned(arrays: Sequence[Array], axes: int) -> Iterator[tuple[Array, ...]]:
    """Yield arrays of one shape as views of `axes` axes, merged as far as all of them allow.

    More axes than that are walked through; fewer are filled up with ones at the front.

    Example:
        >>> a, b = np.zeros((1, 4, 5, 6)), np.broadcast_to(np.zeros(6), (1, 4, 5, 6))
        >>> [(x.shape, y.strides) for x, y in aligned((a, b), 3)]
        [((1, 20, 6), (0, 0, 8))]

    """
    merged = _merged(*arrays)
    merged = [(1, *(0 for _ in arrays))] * (axes - len(merged)) + merged
    shape = tuple(int(axis[0]) for axis in merged)
    views = [
        as_strided(array, shape, tuple(axis[1 + i] for axis in merged))
        for i, array in enumerate(arrays)
    ]
    for index in np.ndindex(*shape[: len(shape) - axes]):
        yield tuple(view[index] for view in views)


def _merged(*arrays: Array) -> list[tuple[int, ...]]:
    """Return (size, stride of each array) of the fewest axes that show all of them."""
    found: list[tuple[int, ...]] = []
    for axis, size in enumerate(arrays[0].shape):
        if size == 1:
            continue
        steps = tuple(array.strides[axis] for array in arrays)
        if found and all(
            before == size * step for before, step in zip(found[-1][1:], steps, strict=True)
        ):
            found[-1] = (found[-1][0] * size, *steps)
        else:
            found.append((size, *steps))
    return found
