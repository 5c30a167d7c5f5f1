"""How a GEMM is folded onto the array: pure generators of tiles that know loops but no clock.

A dataflow is one generator under `@dataflow(...)` that says which dimension of the product lies
along the rows of the array, which along its columns, and which passes through in time; the number
of tiles and their length in time follow from that.
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import lru_cache
from types import MappingProxyType
from typing import Literal

Axis = Literal["m", "n", "k"]
Grains = Mapping[Axis, int]  # how much of each dimension one fold takes


@dataclass(frozen=True)
class Tile:
    """One fold: the part of result[m, n] and of the sum over k it covers, each (start, stop)."""

    m: tuple[int, int]
    n: tuple[int, int]
    k: tuple[int, int]

    @property
    def macs(self) -> int:
        """Multiply-accumulates of this fold."""
        return _length(self.m) * _length(self.n) * _length(self.k)


Folding = Callable[[int, int, int, int, int], Iterator[Tile]]


@dataclass(frozen=True)
class Dataflow:
    """The tiles of a product on rows x columns cells, and which dimension lies where.

    `tiles` takes m, n, k, rows and columns. Dimension `rows` lies along the rows of the array,
    `columns` along its columns; `time` passes through, one element per cycle.
    """

    tiles: Folding
    rows: Axis
    columns: Axis
    time: Axis


DATAFLOWS: dict[str, Dataflow] = {}


def dataflow(name: str, *, rows: Axis, columns: Axis, time: Axis) -> Callable[[Folding], Folding]:
    """Register a generator `(m, n, k, rows, columns) -> tiles` under `name`."""

    def register(folding: Folding) -> Folding:
        if name in DATAFLOWS:
            raise KeyError(f'dataflow "{name}" is registered twice')
        DATAFLOWS[name] = Dataflow(folding, rows, columns, time)
        return folding

    return register


@dataflow("weight_stationary", rows="k", columns="n", time="m")
def weight_stationary(m: int, n: int, k: int, rows: int, columns: int) -> Iterator[Tile]:
    """Yield folds that keep each weight in one cell while all activation rows pass.

    All folds of one column block come in a row, so its partial sums are finished before the next
    block begins.

    Example:
        >>> [(tile.n, tile.k) for tile in weight_stationary(5, 3, 3, 2, 2)]
        [((0, 2), (0, 2)), ((0, 2), (2, 3)), ((2, 3), (0, 2)), ((2, 3), (2, 3))]

    """
    for n_part in _parts(n, columns):
        for k_part in _parts(k, rows):
            yield Tile((0, m), n_part, k_part)


@dataflow("input_stationary", rows="k", columns="m", time="n")
def input_stationary(m: int, n: int, k: int, rows: int, columns: int) -> Iterator[Tile]:
    """Yield folds that keep each activation in one cell while all weight columns pass.

    Example:
        >>> [(tile.m, tile.k) for tile in input_stationary(3, 5, 2, 2, 2)]
        [((0, 2), (0, 2)), ((2, 3), (0, 2))]

    """
    for m_part in _parts(m, columns):
        for k_part in _parts(k, rows):
            yield Tile(m_part, (0, n), k_part)


@dataflow("output_stationary", rows="m", columns="n", time="k")
def output_stationary(m: int, n: int, k: int, rows: int, columns: int) -> Iterator[Tile]:
    """Yield folds that keep each result in one cell while its whole sum passes.

    Example:
        >>> [(tile.m, tile.n) for tile in output_stationary(3, 2, 5, 2, 2)]
        [((0, 2), (0, 2)), ((2, 3), (0, 2))]

    """
    for m_part in _parts(m, rows):
        for n_part in _parts(n, columns):
            yield Tile(m_part, n_part, (0, k))


def fold_count(name: str, *, m: int, n: int, k: int, rows: int, columns: int) -> int:
    """Return how many folds the dataflow `name` makes of a product.

    Example:
        >>> fold_count("output_stationary", m=499, n=768, k=768, rows=16, columns=16)
        1536

    """
    flow, sizes = DATAFLOWS[name], {"m": m, "n": n, "k": k}
    return -(-sizes[flow.rows] // rows) * -(-sizes[flow.columns] // columns)


def fold_length(name: str, *, m: int, n: int, k: int) -> int:
    """Return how many elements pass through the array in each fold of the dataflow `name`.

    Example:
        >>> fold_length("input_stationary", m=499, n=768, k=64)
        768

    """
    return {"m": m, "n": n, "k": k}[DATAFLOWS[name].time]


@lru_cache(maxsize=256)
def grains(name: str, *, rows: int, columns: int) -> Grains:
    """Return how much of each dimension one fold takes, 1 for the one that passes through in time.

    Example:
        >>> dict(grains("input_stationary", rows=16, columns=32))
        {'k': 16, 'm': 32, 'n': 1}

    """
    flow = DATAFLOWS[name]
    return MappingProxyType({flow.rows: rows, flow.columns: columns, flow.time: 1})


def _parts(size: int, width: int) -> Iterator[tuple[int, int]]:
    for start in range(0, size, width):
        yield start, min(start + width, size)


def _length(part: tuple[int, int]) -> int:
    return part[1] - part[0]
