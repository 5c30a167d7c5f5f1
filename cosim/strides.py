"""How values lie in memory when they are read through views: factors of their order, with strides.

A view moves nothing; who reads it finds its elements in the order of the tensor behind it. A layout
is a tuple of factors (size, stride) whose digits, in the order of the view, count its elements.
"""

from collections.abc import Sequence
from math import prod

from hwmodels.workload import Runs

Factor = tuple[int, int]
Layout = tuple[Factor, ...]


def contiguous(shape: Sequence[int]) -> Layout:
    """Return the layout of a tensor whose elements lie in their order."""
    return ((prod(shape), 1),)


def by_axis(layout: Layout, shape: Sequence[int]) -> list[Layout] | None:
    """Return the factors of each axis, None where an axis ends within a factor.

    Example: heads of 2 x 3 seen through a transpose.
        >>> by_axis(((24, 1),), (4, 2, 3))
        [((4, 6),), ((2, 3),), ((3, 1),)]

    """
    left = list(layout)
    axes: list[Layout] = []
    for axis_size in reversed(shape):
        size = axis_size
        found: list[Factor] = []
        while size > 1:
            if not left:
                return None
            number, stride = left.pop()
            if size % number == 0:
                found.insert(0, (number, stride))
                size //= number
            elif number % size == 0:
                found.insert(0, (size, stride))
                left.append((number // size, stride * size))
                size = 1
            else:
                return None
        axes.insert(0, tuple(found))
    return axes


def transposed(layout: Layout, shape: Sequence[int], order: Sequence[int]) -> Layout | None:
    """Return the layout of a view of `shape` with its axes in another order."""
    axes = by_axis(layout, shape)
    return None if axes is None else tuple(factor for axis in order for factor in axes[axis])


def runs(layout: Layout, shape: Sequence[int]) -> Runs | None:
    """Return how each matrix of the last two axes lies in memory; None where it is one run.

    Within a matrix order does not matter, only which elements lie together. None also where leading
    axes are not evenly apart, or runs of a matrix are not.

    Example: 4 frames of 2 heads of 3; a head has 4 runs of 3 elements, 6 apart.
        >>> runs(((2, 3), (4, 6), (3, 1)), (2, 4, 3))
        Runs(elements=3, pitch=6, apart=3)

    """
    axes = by_axis(layout, shape)
    if axes is None:
        return None
    leading = merged([factor for axis in axes[:-2] for factor in axis])
    matrix = merged(sorted((factor for axis in axes[-2:] for factor in axis), key=lambda f: -f[1]))
    if len(leading) != 1 or len(matrix) != 2 or matrix[1][1] != 1:
        return None
    return Runs(matrix[1][0], matrix[0][1], leading[0][1])


def merged(factors: Sequence[Factor]) -> Layout:
    """Return factors with those put together that count on where the one before ends."""
    found: list[Factor] = []
    for size, stride in factors:
        if size == 1:
            continue
        if found and found[-1][1] == size * stride:
            found[-1] = (found[-1][0] * size, stride)
        else:
            found.append((size, stride))
    return tuple(found)
