"""Patterns as records of integers, as compiled code reads them: each is turned into them once."""

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from functools import partial
from itertools import chain, count

import numpy as np
from numpy.typing import NDArray

from hwmodels.memory import Descriptor
from hwmodels.plan import Load, Pattern, Step

Integers = NDArray[np.int64]


def record(*names: str) -> np.dtype[np.void]:
    """Return the type of a record of integers."""
    return np.dtype([(name, np.int64) for name in names])


PATTERN = record(
    *("step", "step_stop", "load", "load_stop"),
    *("compute", "fill", "drain", "weight_load"),
    # what bounds the time it takes: sums, and the bytes of its largest load or store
    *("stores", "works", "array_cycles", "vector_cycles", "rows", "bytes", "most_bytes"),
)
"""Its steps and loads are [`step`, `step_stop`) and [`load`, `load_stop`) of `FlatPatterns`."""
STEP = record(
    *("load", "load_stop", "store", "store_stop", "work", "work_stop"),
    "array_cycles",  # -1: nothing for the array to do
    *("opens_bytes", "closes_bytes"),
    *("input_bytes", "weight_bytes"),  # of the streaming parts, free behind the step
    "is_releasing",
)
LOAD = record("port", "credit_bytes", "shift_cycles", "step")
"""A load beside its descriptor, see `hwmodels.plan.Load`; ports are numbered from `input`."""
MOVE = record("number", "base", "bytes", "stride", "rows", "requester")
"""A descriptor of source or target `number` of its group, see `FlatPatterns.requesters`."""
WORK = record("number", "cycles")
"""Vector work: op within the group, and vector cycles."""


def matrix(rows: Sequence[Sequence[int]], kind: np.dtype[np.void]) -> Integers:
    """Return rows of integers, a column for each field of a record."""
    columns = kind.itemsize // 8
    flat = np.fromiter(chain.from_iterable(rows), np.int64, count=columns * len(rows))
    return flat.reshape(-1, columns)


def records(rows: Integers, kind: np.dtype[np.void]) -> np.ndarray:
    """Return rows of integers as records, which are the same memory."""
    return rows.view(kind).ravel()


class Growing:
    """Rows of integers that come in pieces; `size` of them, of `kind`."""

    def __init__(self, kind: np.dtype[np.void]) -> None:
        self.kind = kind
        self.size = 0
        self._rows: Integers = np.zeros((64, kind.itemsize // 8), dtype=np.int64)

    def add(self, rows: Integers) -> None:
        """Put rows behind the others."""
        size = self.size + len(rows)
        if size > len(self._rows):
            more = np.zeros((2 * size - len(self._rows), self._rows.shape[1]), dtype=np.int64)
            self._rows = np.concatenate((self._rows, more))
        self._rows[self.size : size] = rows
        self.size = size

    def records(self) -> np.ndarray:
        """Return all rows as records."""
        return records(self._rows[: self.size], self.kind)


@dataclass
class FlatPatterns:
    """The patterns seen so far. `moves` are those of `loads`, `stores` those of steps.

    `requesters` number the names of those who ask the memory, with whether they write;
    `asked_steps` are those of all plans so far, whoever ran them.
    """

    patterns: Growing = field(default_factory=partial(Growing, PATTERN))
    steps: Growing = field(default_factory=partial(Growing, STEP))
    loads: Growing = field(default_factory=partial(Growing, LOAD))
    moves: Growing = field(default_factory=partial(Growing, MOVE))
    stores: Growing = field(default_factory=partial(Growing, MOVE))
    work: Growing = field(default_factory=partial(Growing, WORK))
    requesters: defaultdict[tuple[str, bool], int] = field(
        default_factory=lambda: defaultdict(count().__next__)
    )
    asked_steps: int = 0
    _numbers: dict[int, int] = field(default_factory=dict)
    _kept: list[Pattern] = field(default_factory=list)  # so that no other one gets their ids

    def number(self, pattern: Pattern) -> int:
        """Return which of `patterns` this is."""
        number = self._numbers.get(id(pattern))
        if number is None:
            number = self._numbers[id(pattern)] = self.patterns.size
            self._kept.append(pattern)
            self._add(pattern)
        return number

    def descriptors(self, numbered: Iterable[tuple[int, Descriptor]]) -> Integers:
        """Return rows of `MOVE` for descriptors of sources or targets."""
        codes = self.requesters
        return matrix(
            [
                (number, d.base, d.bytes, d.stride, d.rows, codes[d.requester, d.is_write])
                for number, d in numbered
            ],
            MOVE,
        )

    def _add(self, pattern: Pattern) -> None:
        of_loads = [load for step in pattern.steps for load in step.loads]
        of_stores = [store for step in pattern.steps for store in step.stores]
        moves = self.descriptors([(load.source, load.descriptor) for load in of_loads])
        stores = self.descriptors([(store.target, store.descriptor) for store in of_stores])
        work = matrix([one for step in pattern.steps for one in step.vector], WORK)
        steps = _steps(pattern.steps, (self.loads.size, self.stores.size, self.work.size))
        split = pattern.work
        both = np.concatenate((moves, stores))
        sizes = both[:, 2] * both[:, 4]
        row = (
            *(self.steps.size, self.steps.size + len(steps)),
            *(self.loads.size, self.loads.size + len(moves)),
            *(split.compute, split.fill, split.drain, split.weight_load),
            *(len(stores), len(work)),
            split.total + sum(load.shift_cycles for load in of_loads),
            *(int(work[:, 1].sum()), int(both[:, 4].sum())),
            *(int(sizes.sum()), int(sizes.max(initial=0))),
        )
        self.patterns.add(matrix([row], PATTERN))
        self.steps.add(steps)
        self.loads.add(_loads(of_loads))
        self.moves.add(moves)
        self.stores.add(stores)
        self.work.add(work)


def _loads(of_loads: Sequence[Load]) -> Integers:
    return matrix(
        [(x.port == "weight", x.credit_bytes, x.shift_cycles, x.step) for x in of_loads], LOAD
    )


def _steps(of_steps: Sequence[Step], before: tuple[int, int, int]) -> Integers:
    """Return rows of `STEP`; so many loads, stores and pieces of work are `before` theirs."""
    rows = []
    load, store, work = before
    for step in of_steps:
        first = load, store, work
        load += len(step.loads)
        store += len(step.stores)
        work += len(step.vector)
        free = [0, 0]
        for released in step.releases:
            free[released.port == "weight"] += released.credit_bytes
        rows.append(
            (
                *(first[0], load, first[1], store, first[2], work),
                -1 if step.array is None else step.array.total,
                *(step.opens_bytes, step.closes_bytes, *free),
                bool(step.releases),
            )
        )
    return matrix(rows, STEP)
