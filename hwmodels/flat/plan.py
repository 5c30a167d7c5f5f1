"""A plan as arrays of integers, as compiled code reads it.

What its groups share are patterns, so that it costs as many steps of Python as it has groups.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np

from hwmodels.flat.patterns import MOVE, FlatPatterns, Integers, matrix, record, records
from hwmodels.plan import Group, Plan, Source, Target, UnitName, Written

GROUP = record(
    *("step", "step_stop", "load", "load_stop"),
    *("compute", "fill", "drain", "weight_load"),
    "first_step",  # counted over all groups
    "unit",  # of `UNITS`
    *("source", "target"),  # the first of its own
    *("spill", "spill_stop", "worker", "worker_stop"),
)
SOURCE = record("address", "producer", "producer_stop")
"""Loads of it begin when the flags [`producer`, `producer_stop`) of `FlatPlan` are set."""
TARGET = record("address", "flag")
PRODUCER = record("flag")
UNITS: tuple[UnitName, ...] = ("array", "vector", "dma")
_REFERRING = record("unit", "source", "target", "spills", "workers")
_SHARED = "step", "step_stop", "load", "load_stop", "compute", "fill", "drain", "weight_load"


class FlatPlan(NamedTuple):
    """What compiled code reads of a plan: records, and numbers of flags.

    Flags are those of groups that are done, then those of tensors that are written. `spills` are
    stores before the steps of their groups; their targets are behind those of all groups.
    `moves` are the descriptors of `loads`.
    """

    groups: np.ndarray
    steps: np.ndarray
    loads: np.ndarray
    moves: np.ndarray
    stores: np.ndarray
    work: np.ndarray
    sources: np.ndarray
    targets: np.ndarray
    producers: np.ndarray
    spills: np.ndarray


class Sizes(NamedTuple):
    """How much a plan does: `open_stores` are those of each tensor written, the others sums.

    `array_cycles` are those of all steps and shifts; `most_bytes` are those of the largest load or
    store.
    """

    open_stores: Integers
    steps: int
    loads: int
    stores: int
    works: int
    array_cycles: float
    vector_cycles: float
    rows: float
    moved_bytes: float
    most_bytes: int


@dataclass
class _References:
    """The tensors that groups read and write, and their flags."""

    groups: int
    sources: list[tuple[int, int, int]] = field(default_factory=list)
    targets: list[tuple[int, int]] = field(default_factory=list)
    producers: list[tuple[int]] = field(default_factory=list)
    open_stores: list[int] = field(default_factory=list)
    _flags: dict[int, int] = field(default_factory=dict)

    def add(self, group: Group) -> tuple[int, int, int, int, int]:
        """Add the tensors of a group; returns its last fields but what they begin with."""
        row = (
            UNITS.index(group.unit),
            len(self.sources),
            len(self.targets),
            len(group.spills),
            len(group.items) + len(group.ahead),
        )
        for source in group.sources:
            self._read(source)
        for target in group.targets:
            self.write(target)
        return row

    def _read(self, source: Source) -> None:
        first = len(self.producers)
        if source.after_group >= 0:
            self.producers.append((source.after_group,))
        for written in source.after:
            self.producers.append((self._flag(written),))
        self.sources.append((source.address, first, len(self.producers)))

    def write(self, target: Target) -> int:
        """Add a target; returns its number."""
        self.targets.append((target.address, self._flag(target.written)))
        return len(self.targets) - 1

    def _flag(self, written: Written) -> int:
        flag = self._flags.get(id(written))
        if flag is None:
            flag = self._flags[id(written)] = self.groups + len(self.open_stores)
            self.open_stores.append(written.stores)
        return flag


def flatten(plan: Plan, patterns: FlatPatterns) -> tuple[FlatPlan, Sizes]:
    """Return a plan as records; `patterns` takes those that it does not know."""
    own = [patterns.number(group.pattern) for group in plan.groups]
    refs = _References(len(plan.groups))
    rows = matrix([refs.add(group) for group in plan.groups], _REFERRING)
    spilled = [spill for group in plan.groups for spill in group.spills]
    moves = patterns.descriptors([(refs.write(target), one) for target, one in spilled])
    spills = records(moves, MOVE)
    found = patterns.patterns.records()[own]
    groups = np.zeros(len(plan.groups), GROUP)
    for name in _SHARED:
        groups[name] = found[name]
    steps = found["step_stop"] - found["step"]
    groups["first_step"] = np.cumsum(steps) - steps
    groups["unit"], groups["source"], groups["target"] = rows[:, :3].T
    for name, number in (("spill", rows[:, 3]), ("worker", rows[:, 4])):
        groups[f"{name}_stop"] = np.cumsum(number)
        groups[name] = groups[f"{name}_stop"] - number
    flat = FlatPlan(
        groups=groups,
        steps=patterns.steps.records(),
        loads=patterns.loads.records(),
        moves=patterns.moves.records(),
        stores=patterns.stores.records(),
        work=patterns.work.records(),
        sources=records(matrix(refs.sources, SOURCE), SOURCE),
        targets=records(matrix(refs.targets, TARGET), TARGET),
        producers=records(matrix(refs.producers, PRODUCER), PRODUCER),
        spills=spills,
    )
    return flat, _sizes(found, spills, refs.open_stores)


def _sizes(patterns: np.ndarray, spills: np.ndarray, open_stores: Sequence[int]) -> Sizes:
    """Return how much groups of such `patterns` and their spills do."""
    spilled = spills["bytes"] * spills["rows"]
    return Sizes(
        open_stores=np.array(open_stores, dtype=np.int64),
        steps=int((patterns["step_stop"] - patterns["step"]).sum()),
        loads=int((patterns["load_stop"] - patterns["load"]).sum()),
        stores=int(patterns["stores"].sum()) + len(spills),
        works=int(patterns["works"].sum()),
        array_cycles=float(patterns["array_cycles"].sum(dtype=float)),
        vector_cycles=float(patterns["vector_cycles"].sum(dtype=float)),
        rows=float(patterns["rows"].sum(dtype=float) + spills["rows"].sum(dtype=float)),
        moved_bytes=float(patterns["bytes"].sum(dtype=float) + spilled.sum(dtype=float)),
        most_bytes=max(int(patterns["most_bytes"].max(initial=0)), int(spilled.max(initial=0))),
    )
