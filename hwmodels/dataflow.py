"""How a GEMM is folded onto the array: pure generators of tiles that know loops but no clock.

A dataflow is one generator under `@dataflow("name")`, with the closed form of how many tiles it
yields; a chip names it.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass


@dataclass(frozen=True)
class Tile:
    """One fold: which columns `n` and which rows of the sum `k` the array holds at once."""

    n_start: int
    n_stop: int
    k_start: int
    k_stop: int

    @property
    def weights(self) -> int:
        """Weights that sit in the array during this fold."""
        return (self.n_stop - self.n_start) * (self.k_stop - self.k_start)


Folding = Callable[[int, int, int, int], Iterator[Tile]]
Count = Callable[[int, int, int, int], int]


@dataclass(frozen=True)
class Dataflow:
    """The tiles of w[n, k] on rows x columns cells, and their number."""

    tiles: Folding
    count: Count


DATAFLOWS: dict[str, Dataflow] = {}


def dataflow(name: str, *, count: Count) -> Callable[[Folding], Folding]:
    """Register a generator `(n, k, rows, columns) -> tiles` under `name`, and their `count`."""

    def register(folding: Folding) -> Folding:
        if name in DATAFLOWS:
            raise KeyError(f'dataflow "{name}" is registered twice')
        DATAFLOWS[name] = Dataflow(folding, count)
        return folding

    return register


def blocks(n: int, k: int, rows: int, columns: int) -> int:
    """Return the number of blocks of rows x columns that cover w[n, k], k along the rows."""
    return -(-k // rows) * -(-n // columns)


@dataflow("weight_stationary", count=blocks)
def weight_stationary(n: int, k: int, rows: int, columns: int) -> Iterator[Tile]:
    """Yield the folds of w[n, k]: each weight sits in one cell while all activations pass.

    Array rows hold k and array columns hold n; all folds of one column block come in a row, so its
    partial sums are finished before the next block begins.

    Example:
        >>> [(t.n_start, t.n_stop, t.k_start, t.k_stop) for t in weight_stationary(3, 3, 2, 2)]
        [(0, 2, 0, 2), (0, 2, 2, 3), (2, 3, 0, 2), (2, 3, 2, 3)]

    """
    for n_start in range(0, n, columns):
        for k_start in range(0, k, rows):
            yield Tile(n_start, min(n_start + columns, n), k_start, min(k_start + rows, k))


def fold_count(name: str, *, n: int, k: int, rows: int, columns: int) -> int:
    """Return how many folds the dataflow `name` makes of w[n, k]."""
    return DATAFLOWS[name].count(n, k, rows, columns)
