"""Groups that begin where alike groups began before, with alike groups ahead: their time again.

A plan repeats itself, layer after layer and decoding step after decoding step. Where the machine
stands as it stood before (see `boundary`), and the groups that it looks at are alike, it goes on as
it did; so what a group took is noted with where it began, and the machine runs only what is new.
Cycles, bytes and the statistics of the memory are those of a machine that runs everything.
"""

from collections.abc import Hashable, Sequence
from dataclasses import dataclass, field, fields
from functools import partial
from typing import NamedTuple

from hwmodels.architecture import Architecture
from hwmodels.boundary import Boundary, Places, boundary, places, resume, server_of
from hwmodels.machine import Ground, Machine, Outcome, Timeline
from hwmodels.memory import Channels, RequesterStats
from hwmodels.plan import Group, Plan, Written
from hwmodels.stats import Cycles, add
from hwmodels.timeline import divide

FAR = 64
"""Groups so far apart do not wait for each other any more; where they might, nothing is noted."""

BEGIN, END = 0, -1
"""Where a plan begins: nothing done yet; and what is ahead of its last group."""


class Passage(NamedTuple):
    """What a group took, and where the machine stood after it (None: not to be noted).

    `cycles` are those of its workers, `served` what the memory did by requester, in the order of
    the fields of `RequesterStats`.
    """

    after: int | None
    took_fs: int
    cycles: tuple[Cycles, ...]
    served: dict[str, tuple[int, ...]]


@dataclass
class Passages:
    """What groups took, for plans of one chip that share their patterns.

    `hits` and `misses` count groups that were alike and those that the machine ran.
    """

    hits: int = 0
    misses: int = 0
    boundaries: list[Boundary | None] = field(default_factory=lambda: [None])
    _numbers: dict[Boundary, int] = field(default_factory=dict)
    _kinds: dict[Hashable, int] = field(default_factory=dict)
    _found: dict[tuple[int, tuple[int, ...]], Passage] = field(default_factory=dict)
    _reaches: dict[tuple[int, int], list[int]] = field(default_factory=dict)

    def number(self, at: Boundary) -> int:
        """Return the number of a boundary, by which `boundaries` has it."""
        number = self._numbers.get(at)
        if number is None:
            number = self._numbers[at] = len(self.boundaries)
            self.boundaries.append(at)
        return number

    def kinds(self, plan: Plan, where: Places, channels: Channels) -> tuple[int, ...]:
        """Return a number per group, equal for those that do the same, and END behind the last."""
        turn = channels.shape.turn_bytes
        return (
            *(
                self._kinds.setdefault(_kind(group, number, where.writes, turn), len(self._kinds))
                for number, group in enumerate(plan.groups)
            ),
            END,
        )

    def find(self, begin: int, ahead: Sequence[int], number: int) -> Passage | None:
        """Return what a group took that began at boundary `begin`, where that is known.

        `ahead` are the kinds of a plan's groups, of which it is that with `number`.
        """
        for reach in self._reaches.get((begin, ahead[number]), ()):
            found = self._found.get((begin, tuple(ahead[number : number + reach + 1])))
            if found is not None:
                return found
        return None

    def note(
        self, begin: int, ahead: Sequence[int], number: int, *, reach: int, passage: Passage
    ) -> None:
        """Keep what a group took; it depends on the kinds of so many groups after it."""
        at = self.boundaries[begin]
        if reach + (0 if at is None else at.oldest()) >= FAR:
            return
        reaches = self._reaches.setdefault((begin, ahead[number]), [])
        if reach not in reaches:
            reaches.append(reach)
        self._found[begin, tuple(ahead[number : number + reach + 1])] = passage


def _kind(group: Group, number: int, writes: dict[Written, tuple[int, int]], turn: int) -> Hashable:
    """Return all of a group that a machine's time depends on; others are named by their distance.

    Equal patterns of one chip are one object. Addresses count by the channel they begin on.
    """
    sources = tuple(
        (
            source.address % turn,
            min(number - source.after_group, FAR) if source.after_group >= 0 else FAR,
            tuple(
                (number - writer, target)
                for writer, target in (writes[written] for written in source.after)
                if number - writer < FAR
            ),
        )
        for source in group.sources
    )
    targets = tuple(target.address % turn for target in group.targets)
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
    kinds: tuple[int, ...]
    where: Places
    number: int = 0
    at: int | None = BEGIN
    now_fs: int = 0
    events: int = 0
    cycles: dict[int, Cycles] = field(default_factory=dict)
    served: dict[str, list[int]] = field(default_factory=dict)

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

    def run(self) -> None:
        """Run the machine until it stands as one stood before, or all is done."""
        ground = Ground(self.channels, begin_fs=self.now_fs)
        machine = Machine(self.plan, self.architecture, ground)
        at = None if self.at is None else self.passages.boundaries[self.at]
        if at is not None:
            resume(machine, at, self.number, self.where)
        machine.is_enough = partial(self._note, machine, {})
        ground.clock.run(until=machine.start())
        self.events += ground.clock.count_events()

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
            served[name] = tuple(new - old for new, old in zip(counts, known, strict=True))
            before[name] = counts
        cycles = divide(group, machine.records[own], machine.period_fs)
        passage = Passage(
            None if after is None else passages.number(after),
            machine.clock.now - self.now_fs,
            tuple(cycles[item] for item in group.workers),
            served,
        )
        passages.misses += 1
        if self.at is not None and (after is not None or number == len(groups)):
            reach = 1 if after is None else 1 + after.reach(len(groups) - number)
            passages.note(self.at, self.kinds, own, reach=reach, passage=passage)
        self.take(passage)
        return self.known() is not None


def can_repeat(architecture: Architecture) -> bool:
    """Whether machines of a chip begin again where others stood; not for what looks further back.

    That is a memory controller, arbitration by priority and a limit of the loads on their way.
    """
    memory = architecture.memory
    is_simple = memory.fidelity == "roofline" and memory.arbitration == "fifo"
    return is_simple and memory.prefetch is None and architecture.cores.count == 1


def run_alike(
    plan: Plan, architecture: Architecture, channels: Channels, passages: Passages
) -> Outcome:
    """Return what happens on one core, as `machine.run` does; groups known to `passages` do not run.

    The time line has no records, and `events` are those that took place. For chips that
    `can_repeat`.
    """
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
    return Outcome((Timeline(cycles, ()),), walk.events, memory)
