"""Where weights are not zero, counted in the blocks an array works in: pure functions on bit masks.

A mask is `uint8[n, ceil(k / 8)]` as in `hwmodels.workload.Nonzero`: bit j of byte i of a row, least
significant first, stands for k = 8 i + j; bits past k are zero. Blocks begin at `n_starts` along
the result columns and at `k_starts` along the sum, both from 0 up; each ends where the next begins.
"""

import numpy as np
from numpy.typing import NDArray

Mask = NDArray[np.uint8]
Flags = NDArray[np.bool_]
Counts = NDArray[np.int64]
Places = NDArray[np.intp]


def kept_blocks(mask: Mask, k: int, *, n_starts: Places, k_starts: Places) -> Flags:
    """Return which blocks hold a weight that is not zero, `(n blocks, k blocks)`.

    Example:
        >>> diagonal = np.packbits(np.eye(4, 5, dtype=bool), axis=1, bitorder="little")
        >>> blocks = {"n_starts": starts(4, 2), "k_starts": starts(5, 2)}
        >>> kept_blocks(diagonal, 5, **blocks).astype(int).tolist()
        [[1, 0, 0], [0, 1, 0]]

    """
    bits = _bits(np.bitwise_or.reduceat(mask, n_starts, axis=0), k)
    return np.bitwise_or.reduceat(bits, k_starts, axis=1).astype(np.bool_)


def kept_rows(mask: Mask, k: int, *, n_starts: Places, k_starts: Places) -> Counts:
    """Return how many of the k's of each block have a weight that is not zero, as `kept_blocks`.

    They are the rows of the array's weights that remain when empty ones are left out.

    Example:
        >>> diagonal = np.packbits(np.eye(4, 5, dtype=bool), axis=1, bitorder="little")
        >>> kept_rows(diagonal, 5, n_starts=starts(4, 3), k_starts=starts(5, 2)).tolist()
        [[2, 1, 0], [0, 1, 0]]

    """
    bits = _bits(np.bitwise_or.reduceat(mask, n_starts, axis=0), k)
    return np.add.reduceat(bits, k_starts, axis=1, dtype=np.int64)


def kept_columns(mask: Mask, k: int, *, k_starts: Places) -> Flags:
    """Return which result columns have a weight that is not zero, by k block, `(n, k blocks)`.

    Example:
        >>> diagonal = np.packbits(np.eye(3, 5, dtype=bool), axis=1, bitorder="little")
        >>> kept_columns(diagonal, 5, k_starts=starts(5, 2)).astype(int).tolist()
        [[1, 0, 0], [1, 0, 0], [0, 1, 0]]

    """
    if not (k_starts % 8).any():
        return np.bitwise_or.reduceat(mask, k_starts // 8, axis=1).astype(np.bool_)
    return np.bitwise_or.reduceat(_bits(mask, k), k_starts, axis=1).astype(np.bool_)


def nonzeros(mask: Mask, k: int, *, n_starts: Places, k_starts: Places) -> Counts:
    """Return how many weights of each block are not zero, `(n blocks, k blocks)`.

    Example:
        >>> diagonal = np.packbits(np.eye(4, 5, dtype=bool), axis=1, bitorder="little")
        >>> nonzeros(diagonal, 5, n_starts=starts(4, 2), k_starts=starts(5, 3)).tolist()
        [[2, 0], [1, 1]]

    """
    if (k_starts % 8).any():
        rows = np.add.reduceat(_bits(mask, k), k_starts, axis=1, dtype=np.int64)
    else:
        rows = np.add.reduceat(np.bitwise_count(mask), k_starts // 8, axis=1, dtype=np.int64)
    return np.add.reduceat(rows, n_starts, axis=0)


def most_of_run(mask: Mask, k: int, *, run: int) -> int:
    """Return the most weights that are not zero among `run` in a row along k, runs from k = 0 on.

    Example:
        >>> pattern = np.packbits([[1, 0, 0, 1, 1, 1, 1, 0, 0, 1]], axis=1, bitorder="little")
        >>> most_of_run(pattern, 10, run=4)
        3

    """
    bits = np.zeros((len(mask), -(-k // run) * run), np.uint8)
    bits[:, :k] = _bits(mask, k)
    total = np.zeros((len(mask), bits.shape[1] // run), np.int64)
    for place in range(run):
        total += bits[:, place::run]
    return int(total.max())


def uniform_mask(n: int, k: int, *, density: float, generator: np.random.Generator) -> Mask:
    """Return a mask whose weights are not zero with probability `density`, each by itself.

    Example:
        >>> mask = uniform_mask(64, 100, density=0.25, generator=np.random.default_rng(0))
        >>> mask.shape, 0.2 < np.bitwise_count(mask).sum() / 6400 < 0.3
        ((64, 13), np.True_)

    """
    return np.packbits(generator.random((n, k)) < density, axis=1, bitorder="little")


def full_mask(n: int, k: int) -> Mask:
    """Return the mask of weights that are all not zero."""
    return np.packbits(np.ones((n, k), np.bool_), axis=1, bitorder="little")


def starts(size: int, step: int) -> Places:
    """Return where pieces of `step` begin in `size`.

    Example:
        >>> starts(7, 3).tolist()
        [0, 3, 6]

    """
    return np.arange(0, size, step, dtype=np.intp)


def widths(size: int, begins: Places) -> Counts:
    """Return the sizes of the pieces of `size` that begin at `begins`.

    Example:
        >>> widths(7, starts(7, 3)).tolist()
        [3, 3, 1]

    """
    return np.diff(begins, append=size).astype(np.int64)


def _bits(mask: Mask, k: int) -> Mask:
    return np.unpackbits(mask, axis=1, count=k, bitorder="little")
