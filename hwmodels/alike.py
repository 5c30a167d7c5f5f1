"""Groups that begin where alike groups began before, with alike groups ahead: their time again.

A plan repeats itself, layer after layer and decoding step after decoding step. Where the machine
stands as it stood before (see `boundary`), and the groups that it looks at are alike, it goes on as
it did; so what a group took is noted with where it began, and the machine runs only what is new.
Cycles, bytes, events and the statistics of the memory are those of a machine that runs everything.
"""

from collections.abc import Hashable
from dataclasses import dataclass, field, fields
from functools import partial
from typing import NamedTuple

from hwmodels.architecture import Architecture
from hwmodels.boundary import PORTS, Boundary, Places, Reach, boundary, places, resume, server_of
from hwmodels.machine import Ground, Machine, Outcome, Timeline, run
from hwmodels.memory import Channels, RequesterStats
from hwmodels.plan import Group, Load, Pattern, Plan, Port, Source
from hwmodels.stats import Cycles, add
from hwmodels.timeline import divide

FAR = 64
"""Groups so far apart do not wait for each other any more; where they might, nothing is noted."""

BEGIN, END = 0, -1
"""Where a plan begins: nothing done yet; and what is ahead of its last group."""


class Passage(NamedTuple):
    """What a group took, and where the machine stood after it (None: not to be noted).

    `cycles` are those of its workers, `served` what the memory did by requester, in the order of
    the fields of `RequesterStats`. `events` are those that were scheduled.
    """

    after: int | None
    took_fs: int
    events: int
    cycles: tuple[Cycles, ...]
    served: dict[str, tuple[int, ...]]


class Kinds(NamedTuple):
    """What the groups of a plan do, as numbers that are equal for equal work.

    `groups` say all that a group does, `loads` what it loads through each port and `waits` what the
    first of these waits for, both with END behind the last.
    """

    groups: tuple[int, ...]
    loads: tuple[tuple[int, ...], ...]
    waits: tuple[tuple[int, ...], ...]


Reaches = tuple[Reach, ...]
Key = tuple[int, int, tuple[tuple[int, ...], ...]]  # boundary, kind of a group, what is after it


@dataclass
class Passages:
    """What groups took, for plans of one chip that share their patterns.

    `hits` and `misses` count groups that were alike and those that the machine ran. `ending` are
    the events that follow the last group of a run.
    """

    hits: int = 0
    misses: int = 0
    ending: int = 0
    boundaries: list[Boundary | None] = field(default_factory=lambda: [None])
    _numbers: dict[Boundary, int] = field(default_factory=dict)
    _kinds: dict[Hashable, int] = field(default_factory=dict)
    _loads: dict[tuple[int, Port], tuple[int, tuple[int, ...]]] = field(default_factory=dict)
    _found: dict[Key, Passage] = field(default_factory=dict)
    _reaches: dict[tuple[int, int], list[Reaches]] = field(default_factory=dict)

    def number(self, at: Boundary) -> int:
        """Return the number of a boundary, by which `boundaries` has it."""
        number = self._numbers.get(at)
        if number is None:
            number = self._numbers[at] = len(self.boundaries)
            self.boundaries.append(at)
        return number

    def kinds(self, plan: Plan, where: Places, channels: Channels) -> Kinds:
        """Return which groups of a plan do the same, and which load the same."""
        known, turn = self._kinds, channels.shape.turn_bytes
        groups: list[int] = []
        loads: list[list[int]] = [[] for _ in PORTS]
        waits: list[list[int]] = [[] for _ in PORTS]
        for number, group in enumerate(plan.groups):
            sources = tuple([_source(source, number, where, turn) for source in group.sources])
            kind = _kind(group, sources, turn)
            groups.append(known.setdefault(kind, len(known)))
            for port, found, waited in zip(PORTS, loads, waits, strict=True):
                kind, used = self._loads_of(group.pattern, port)
                loaded = port, kind, *(sources[source] for source in used)
                found.append(known.setdefault(loaded, len(known)))
                first = sources[used[0]][1:] if used else ()
                waited.append(known.setdefault(first, len(known)))
        ends = [tuple([(*found, END) for found in lists]) for lists in (loads, waits)]
        return Kinds(tuple(groups), *ends)

    def _loads_of(self, pattern: Pattern, port: Port) -> tuple[int, tuple[int, ...]]:
        """Return a number for all that a pattern loads through a port, and its tensors in order."""
        known = self._loads.get((id(pattern), port))
        if known is None:
            loads = pattern.loads[port]
            kind = tuple([_load(load) for load in loads])
            number = self._kinds.setdefault(kind, len(self._kinds))
            used = tuple(dict.fromkeys(load.source for load in loads))
            known = self._loads[id(pattern), port] = number, used
        return known

    def find(self, begin: int, ahead: Kinds, number: int) -> Passage | None:
        """Return what a group took that began at boundary `begin`, where that is known.

        `ahead` are the kinds of a plan's groups, of which it is that with `number`.
        """
        for reaches in self._reaches.get((begin, ahead.groups[number]), ()):
            found = self._found.get(_key(begin, ahead, number, reaches))
            if found is not None:
                return found
        return None

    def note(
        self,
        begin: int,
        ahead: Kinds,
        number: int,
        *,
        reaches: Reaches,
        passage: Passage,
    ) -> None:
        """Keep what a group took; it depends on the loads of so many groups after it, by port."""
        at = self.boundaries[begin]
        if max(reach.waits for reach in reaches) + (0 if at is None else at.oldest()) >= FAR:
            return
        known = self._reaches.setdefault((begin, ahead.groups[number]), [])
        if reaches not in known:
            known.append(reaches)
        self._found[_key(begin, ahead, number, reaches)] = passage


def _key(begin: int, ahead: Kinds, number: int, reaches: Reaches) -> Key:
    first, parts = number + 1, []
    for loads, waits, reach in zip(ahead.loads, ahead.waits, reaches, strict=True):
        parts.append(loads[first : first + reach.loads])
        parts.append(waits[first + reach.loads : first + reach.waits])
    return begin, ahead.groups[number], tuple(parts)


def _load(load: Load) -> Hashable:
    what = load.descriptor
    size = what.base, what.bytes, what.stride, what.rows, what.requester
    return size, load.source, load.credit_bytes, load.shift_cycles


def _source(source: Source, number: int, where: Places, turn: int) -> tuple[Hashable, ...]:
    """Return what the loads of a tensor depend on; what they wait for is named by its distance.

    Addresses count by the channel they begin on.
    """
    return (
        source.address % turn,
        min(number - source.after_group, FAR) if source.after_group >= 0 else FAR,
        tuple(
            [
                (number - writer, target)
                for writer, target in (where.writes[written] for written in source.after)
                if number - writer < FAR
            ]
        ),
    )


def _kind(group: Group, sources: Hashable, turn: int) -> Hashable:
    """Return all of a group that a machine's time depends on.

    Equal patterns of one chip are one object.
    """
    targets = tuple([target.address % turn for target in group.targets])
    spills = tuple(
        (target.address % turn, spilt.base, spilt.bytes, spilt.stride, spilt.rows, spilt.requester)
        for target, spilt in group.spills
    )
    shape = id(group.pattern), group.unit, len(group.items), len(group.ahead)
    return shape, sources, targets, spills


@dataclass
class _Walk:
    """A plan on its way: the next group, where the machine stands, and the sums so far."""

    plan: Plan
    architecture: Architecture
    channels: Channels
    passages: Passages
    kinds: Kinds
    where: Places
    number: int = 0
    at: int | None = BEGIN
    now_fs: int = 0
    events: int = 0
    cycles: dict[int, Cycles] = field(default_factory=dict)
    served: dict[str, list[int]] = field(default_factory=dict)
    _counted: int = -1  # the number of the last event, as `Clock.count_events` gives them out

    def known(self) -> Passage | None:
        """Return what the next group takes, where that is known."""
        if self.at is None or self.number == len(self.plan.groups):
            return None
        return self.passages.find(self.at, self.kinds, self.number)

    def take(self, passage: Passage) -> None:
        """Go past the next group."""
        workers = self.plan.groups[self.number].workers
        for item, cycles in zip(workers, passage.cycles, strict=True):
            known = self.cycles.get(item)
            self.cycles[item] = cycles if known is None else add([(known, 1), (cycles, 1)], Cycles)
        for name, counts in passage.served.items():
            sums = self.served.setdefault(name, [0] * len(counts))
            for index, count in enumerate(counts):
                sums[index] += count
        self.number += 1
        self.at = passage.after
        self.now_fs += passage.took_fs
        self.events += passage.events

    def run(self) -> None:
        """Run the machine until it stands as one stood before, or all is done."""
        ground = Ground(self.channels, begin_fs=self.now_fs)
        machine = Machine(self.plan, self.architecture, ground)
        at = None if self.at is None else self.passages.boundaries[self.at]
        if at is not None:
            resume(machine, at, self.number, self.where)
        machine.is_enough = partial(self._note, machine, {})
        end = machine.start()
        self._counted = ground.clock.count_events() if self.number else -1
        ground.clock.run(until=end)
        if self.number == len(self.plan.groups):
            self.passages.ending = ground.clock.count_events() - self._counted - 1

    def _note(self, machine: Machine, before: dict[str, tuple[int, ...]], number: int) -> bool:
        """Note what the group before `number` took; returns whether the next is known.

        `before` is what the memory had served before that group, and is brought up to date.
        """
        groups, passages, own = self.plan.groups, self.passages, self.number
        after = boundary(machine, number, self.where) if number < len(groups) else None
        group, served = groups[own], {}
        for name, stats in server_of(machine).statistics.items():
            counts = tuple(vars(stats).values())
            known = before.get(name, (0,) * len(counts))
            if counts != known:
                served[name] = tuple(new - old for new, old in zip(counts, known, strict=True))
                before[name] = counts
        counted = machine.clock.count_events()
        cycles = divide(group, machine.records[own], machine.period_fs)
        passage = Passage(
            None if after is None else passages.number(after),
            machine.clock.now - self.now_fs,
            counted - self._counted - 1,
            tuple(cycles[item] for item in group.workers),
            served,
        )
        self._counted = counted
        passages.misses += 1
        if self.at is not None and (after is not None or number == len(groups)):
            left = len(groups) - number
            reaches = (Reach(1, 1),) * len(PORTS) if after is None else after.reaches(left)
            passages.note(self.at, self.kinds, own, reaches=reaches, passage=passage)
        self.take(passage)
        return self.known() is not None


def can_repeat(architecture: Architecture) -> bool:
    """Whether machines of a chip begin again where others stood; not for what looks further back.

    That is a memory controller or shares of its peak measured, arbitration by priority and a limit
    of the loads on their way.
    """
    memory = architecture.memory
    is_simple = memory.fidelity == "roofline" and memory.arbitration == "fifo"
    is_simple = is_simple and memory.efficiency is None
    return is_simple and memory.prefetch is None and architecture.cores.count == 1


def run_alike(
    plan: Plan, architecture: Architecture, channels: Channels, passages: Passages
) -> Outcome:
    """Return what happens on one core, as `machine.run` does; what `passages` know does not run.

    The time line has no records; `events` are those of a machine that runs everything. For chips
    that `can_repeat`.
    """
    if not plan.groups:
        return run([plan], architecture, channels)
    where = places(plan)
    walk = _Walk(
        plan, architecture, channels, passages, passages.kinds(plan, where, channels), where
    )
    while walk.number < len(plan.groups):
        passage = walk.known()
        if passage is None:
            walk.run()
        else:
            passages.hits += 1
            walk.take(passage)
    names = [field.name for field in fields(RequesterStats)]
    memory = {name: dict(zip(names, sums, strict=True)) for name, sums in walk.served.items()}
    cycles = tuple(walk.cycles[item] for item in sorted(walk.cycles))
    return Outcome((Timeline(cycles, ()),), walk.events + passages.ending, memory)
