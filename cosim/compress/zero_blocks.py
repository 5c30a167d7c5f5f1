"""Weights seen in blocks, and in runs of which few stay: scores of blocks, places of zeros.

A weight of any shape is a matrix of its output channels by what is left, flattened: of a
convolution, a column is one tap of one input channel.
"""

from typing import Literal

import numpy as np
from numpy.typing import NDArray

from cosim.compress.network import F32
from cosim.compress.ranking import Mask

Norm = Literal["l1", "l2"]
Block = tuple[int, int]
F64 = NDArray[np.float64]


def matrix(values: F32) -> F32:
    """Return (output channels, weights of one) of a weight."""
    return values.reshape(len(values), -1)


def powers(values: F32, norm: Norm) -> F32:
    """Return what a norm adds up: magnitudes, or squares."""
    return np.abs(values) if norm == "l1" else np.square(values)


def per_element(sums: F64, elements: F64 | int, norm: Norm) -> F32:
    """Return the norm per element, of the sums of `powers`: mean magnitude, or root mean square.

    So blocks over the edge, which have fewer elements, rank with whole ones.
    """
    mean = sums / elements
    return (mean if norm == "l1" else np.sqrt(mean)).astype(np.float32)


def block_scores(values: F32, block: Block, norm: Norm) -> F32:
    """Return the norm per element of each block, row of blocks by row.

    Blocks begin at row 0 and column 0; those at the other edges may have less than `block`.

    Example:
        >>> block_scores(np.array([[1, -3, 5], [2, 2, 7]], np.float32), (2, 2), "l1").tolist()
        [2.0, 6.0]

    """
    if block == (1, 1):
        return np.abs(values).ravel()
    table = powers(matrix(values), norm)
    (n, k), (rows, columns) = table.shape, block
    sums = table.astype(np.float64)
    if columns > 1:
        sums = np.add.reduceat(sums, np.arange(0, k, columns), axis=1)
    if rows > 1:
        sums = np.add.reduceat(sums, np.arange(0, n, rows), axis=0)
    heights = np.minimum(rows, n - np.arange(0, n, rows)).astype(np.float64)
    widths = np.minimum(columns, k - np.arange(0, k, columns)).astype(np.float64)
    return per_element(sums, np.outer(heights, widths), norm).ravel()


def spread(chosen: Mask, shape: tuple[int, ...], block: Block) -> Mask:
    """Return where the weights of chosen blocks are, in the weight's shape."""
    n = shape[0]
    k = int(np.prod(shape[1:], dtype=np.int64))
    rows, columns = block
    grid = chosen.reshape(-(-n // rows), -(-k // columns))
    tall = np.repeat(grid, rows, axis=0)[:n] if rows > 1 else grid
    return (np.repeat(tall, columns, axis=1)[:, :k] if columns > 1 else tall).reshape(shape)


def beyond_n_of_m(values: F32, n: int, m: int) -> Mask:
    """Return all but the n largest magnitudes of every m consecutive weights of a row.

    Of equals the first ones are left out. What is left of a row at its end, fewer than m, keeps its
    n largest as well.

    Example:
        >>> beyond_n_of_m(np.array([[1, -3, 2, 2, 9]], np.float32), 2, 4).tolist()
        [[True, False, True, False, False]]

    """
    table = matrix(values)
    rows, k = table.shape
    runs = -(-k // m)
    # Filled up by what ranks below all weights, so that the runs at the end lose fewer of theirs.
    magnitude = np.full((rows, runs * m), -1.0, np.float32)
    np.abs(table, out=magnitude[:, :k])
    places = magnitude.reshape(rows, runs, m).argsort(axis=2, kind="stable")[:, :, : m - n]
    chosen = np.zeros((rows, runs, m), np.bool_)
    np.put_along_axis(chosen, places, values=True, axis=2)
    kept: Mask = chosen.reshape(rows, runs * m)[:, :k].reshape(values.shape)
    return kept
