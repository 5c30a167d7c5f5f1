"""Patterns as arrays of integers, as compiled code reads them: each is turned into arrays once."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from operator import attrgetter
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from hwmodels.memory import Descriptor
from hwmodels.plan import Pattern, Step

Integers = NDArray[np.int64]


def record(*names: str) -> np.dtype[np.void]:
    """Return the type of a record of integers."""
    return np.dtype([(name, np.int64) for name in names])


PATTERN = record(
    *("step", "step_stop", "load", "load_stop", "stores"),
    *("compute", "fill", "drain", "weight_load"),
    # what bounds the time it takes: sums, and the bytes of its largest load or store
    *("array_cycles", "vector_cycles", "works", "rows", "bytes", "most_bytes"),
)
"""Its steps and loads are [`step`, `step_stop`) and [`load`, `load_stop`) of `FlatPatterns`."""
STEP = record(
    *("load", "load_stop", "store", "store_stop", "work", "work_stop"),
    "array_cycles",  # -1: nothing for the array to do
    *("opens_bytes", "closes_bytes"),
    *("input_bytes", "weight_bytes"),  # of the streaming parts, free behind the step
    "is_releasing",
)
MOVE = record(
    *("base", "bytes", "stride", "rows", "requester"),  # see `FlatPatterns.requesters`
    "number",  # of the source or target within its group
    *("port", "credit_bytes", "shift_cycles", "step", "is_first"),  # of loads, as in `Load`
)
"""A load or a store; `is_first` of its source through its port."""
WORK = record("number", "cycles")
"""Vector work: op within the group, and vector cycles."""

_CREDITS = attrgetter("source", "credit_bytes", "shift_cycles", "step")


class Arrays(NamedTuple):
    """Records of `PATTERN`, `STEP`, `MOVE` (loads, stores) and `WORK`."""

    patterns: np.ndarray
    steps: np.ndarray
    loads: np.ndarray
    stores: np.ndarray
    work: np.ndarray


_EMPTY = Arrays(*[np.zeros(0, kind) for kind in (PATTERN, STEP, MOVE, MOVE, WORK)])


@dataclass
class FlatPatterns:
    """The patterns seen so far; `requesters` number the names of those who read and write."""

    requesters: dict[tuple[str, bool], int] = field(default_factory=dict)
    _numbers: dict[int, int] = field(default_factory=dict)
    _kept: list[Pattern] = field(default_factory=list)  # so that no other one gets their ids
    _known: Arrays = _EMPTY
    _new: list[Arrays] = field(default_factory=list)

    def number(self, pattern: Pattern) -> int:
        """Return which one of the arrays' patterns this is."""
        number = self._numbers.get(id(pattern))
        if number is None:
            number = self._numbers[id(pattern)] = len(self._kept)
            self._kept.append(pattern)
            self._new.append(self._flatten(pattern))
        return number

    def arrays(self) -> Arrays:
        """Return the arrays of all patterns seen so far."""
        if self._new:
            parts = zip(self._known, *self._new, strict=True)
            self._known = Arrays(*[np.concatenate(part) for part in parts])
            self._new = []
        return self._known

    def moves(self, descriptors: Iterable[Descriptor]) -> np.ndarray:
        """Return loads or stores of which only the descriptors are known."""
        codes = self.requesters
        return table(
            [
                (d.base, d.bytes, d.stride, d.rows, _code(codes, d), 0, 0, 0, 0, 0, 0)
                for d in descriptors
            ],
            MOVE,
        )

    def _flatten(self, pattern: Pattern) -> Arrays:
        """Return the arrays of one pattern, whose places follow those of all before."""
        of_steps = pattern.steps
        of_loads = [load for step in of_steps for load in step.loads]
        of_stores = [store for step in of_steps for store in step.stores]
        loads = self.moves([load.descriptor for load in of_loads])
        credits_ = np.array([_CREDITS(load) for load in of_loads], dtype=np.int64).reshape(-1, 4)
        for column, name in enumerate(("number", "credit_bytes", "shift_cycles", "step")):
            loads[name] = credits_[:, column]
        loads["port"] = [load.port == "weight" for load in of_loads]
        firsts = np.unique(2 * loads["number"] + loads["port"], return_index=True)[1]
        loads["is_first"][firsts] = 1
        stores = self.moves([store.descriptor for store in of_stores])
        stores["number"] = [store.target for store in of_stores]
        work = table([one for step in of_steps for one in step.vector], WORK)
        sizes = [len(part) for part in self._known]
        for part in self._new:
            sizes = [size + len(one) for size, one in zip(sizes, part, strict=True)]
        steps = _steps(of_steps, sizes[2:])
        split = pattern.work
        moves = np.concatenate((loads, stores))
        moved = moves["bytes"] * moves["rows"]
        row = (
            *(sizes[1], sizes[1] + len(steps), sizes[2], sizes[2] + len(loads)),
            len(stores),
            *(split.compute, split.fill, split.drain, split.weight_load),
            split.total + int(loads["shift_cycles"].sum()),
            *(int(work["cycles"].sum()), len(work)),
            *(int(moves["rows"].sum()), int(moved.sum()), int(moved.max(initial=0))),
        )
        return Arrays(table([row], PATTERN), steps, loads, stores, work)


def table(rows: Sequence[tuple[int, ...]], kind: np.dtype[np.void]) -> np.ndarray:
    """Return records of integers from their rows."""
    fields = kind.itemsize // 8
    return np.array(rows, dtype=np.int64).reshape(-1, fields).view(kind).ravel()


def _code(codes: dict[tuple[str, bool], int], descriptor: Descriptor) -> int:
    return codes.setdefault((descriptor.requester, descriptor.is_write), len(codes))


def _steps(of_steps: Sequence[Step], before: Sequence[int]) -> np.ndarray:
    """Return steps whose loads, stores and work follow so many of those `before`."""
    steps = np.zeros(len(of_steps), STEP)
    counts = np.array(
        [(len(step.loads), len(step.stores), len(step.vector)) for step in of_steps],
        dtype=np.int64,
    ).reshape(-1, 3)
    stops = counts.cumsum(axis=0) + before
    for column, name in enumerate(("load", "store", "work")):
        steps[f"{name}_stop"] = stops[:, column]
        steps[name] = stops[:, column] - counts[:, column]
    steps["array_cycles"] = [-1 if step.array is None else step.array.total for step in of_steps]
    steps["opens_bytes"] = [step.opens_bytes for step in of_steps]
    steps["closes_bytes"] = [step.closes_bytes for step in of_steps]
    for number, step in enumerate(of_steps):
        if step.releases:
            steps["is_releasing"][number] = 1
            for load in step.releases:
                steps[f"{load.port}_bytes"][number] += load.credit_bytes
    return steps
