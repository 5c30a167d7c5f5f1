"""Groups that were planned before: what calls in a row have in common is planned once.

A decoding step differs from the one before in what attends to the past, and in little else. Where
an equal op stands on a chip that holds the same, at the same place in its call, its tensors lie at
the same addresses and wait for the same writes, the group that was planned then is taken again.
"""

from collections.abc import Hashable
from dataclasses import dataclass, field
from typing import NamedTuple

from hwmodels.plan import Group, Tally, Written
from hwmodels.planner import Planner
from hwmodels.residency import State
from hwmodels.workload import TensorRef, WorkItem

Held = tuple[State, State]  # what the chip holds: constants, and other tensors


class Planned(NamedTuple):
    """A group, the counts of its items, the writes it announced, and what the chip holds after it.

    `after` is a number of `PlannedGroups`. A write of None: memory does not hold the tensor now.
    `most` are the bytes that each pool noted for the ops up to this group.
    """

    group: Group
    tallies: tuple[Tally, ...]
    written: tuple[tuple[str, Written | None], ...]
    most: tuple[tuple[int, ...], ...]
    after: int


@dataclass
class PlannedGroups:
    """The groups of earlier calls of one sequence on one chip. `hits` and `misses` count.

    Calls share what waits for a write, so that each has to run with writes of its own to wait for.
    """

    hits: int = 0
    misses: int = 0
    held: list[Held] = field(default_factory=list)
    _numbers: dict[Held, int] = field(default_factory=dict)
    _found: dict[Hashable, Planned] = field(default_factory=dict)
    _items: dict[WorkItem, int] = field(default_factory=dict)

    def number(self, held: Held) -> int:
        """Return a number for what a chip holds, by which `self.held` has it."""
        number = self._numbers.get(held)
        if number is None:
            number = self._numbers[held] = len(self.held)
            self.held.append(held)
        return number

    def item(self, item: WorkItem) -> int:
        """Return a number that equal items share, and no others."""
        return self._items.setdefault(item, len(self._items))

    def find(self, key: Hashable) -> Planned | None:
        """Return the group planned for a key before, counting hits and misses."""
        found = self._found.get(key)
        if found is None:
            self.misses += 1
        else:
            self.hits += 1
        return found

    def keep(self, key: Hashable, planned: Planned) -> None:
        """Keep a group for the calls that follow."""
        self._found[key] = planned


class Recall:
    """Walks the groups of one planner, and takes those that were planned before.

    Groups that take the first pass of a later op with them, or leave it to an earlier group, share
    counts with that group and are always planned. So are those that make room in the buffers by
    writes to memory, or claim room that was free during earlier groups.
    """

    def __init__(self, planner: Planner, known: PlannedGroups) -> None:
        self.planner = planner
        self.known = known
        self._fusion = planner.architecture.mapping.fusion
        self._items = [known.item(item) for item in planner.items]
        self._refs = [(*item.reads, *item.writes) for item in planner.items]
        self._apart = {index for ahead in planner.ahead().values() for index in ahead}
        self._at = known.number(self._held())
        self._is_behind = False  # the planner does not know what the chip holds
        self._key: Hashable | None = None
        self._before: dict[str, Written] = {}
        self._claims: list[int] = []

    def take(self, number: int) -> bool:
        """Let the planner have its group with that number, if it was planned before."""
        planner, members = self.planner, self.planner.members()[number]
        self._key = self._key_of(number, members)
        found = None if self._key is None else self.known.find(self._key)
        if found is None:
            self.catch_up()
            self._before = dict(planner.written)
            self._claims = [pool.claims for pool in planner.pools]
            return False
        planner.groups.append(found.group)
        for index, tally in zip(members, found.tallies, strict=True):
            planner.tallies[index] = tally
        for name, written in found.written:
            if written is None:
                planner.written.pop(name, None)
            else:
                planner.written[name] = written
        for pool, most in zip(planner.pools, found.most, strict=True):
            pool.most += most
        self._at, self._is_behind = found.after, True
        return True

    def note(self) -> None:
        """Keep the group that was just planned."""
        planner, begun = self.planner, self.known.held[self._at]
        self._at = self.known.number(self._held())
        group, pools = planner.groups[-1], planner.pools
        is_alone = not group.spills and self._claims == [pool.claims for pool in pools]
        if self._key is None or not is_alone:
            return
        before, after = self._before, planner.written
        written = [(name, one) for name, one in after.items() if before.get(name) is not one]
        gone = [(name, None) for name in before if name not in after]
        tallies = tuple(planner.tallies[index] for index in group.items)
        most = tuple(tuple(pool.most[ops:]) for pool, (ops, _) in zip(pools, begun, strict=True))
        planned = Planned(group, tallies, (*written, *gone), most, self._at)
        self.known.keep(self._key, planned)

    def catch_up(self) -> None:
        """Let the planner know what the chip holds behind the groups it was given."""
        if self._is_behind:
            for pool, state in zip(self.planner.pools, self.known.held[self._at], strict=True):
                pool.hold(state)
            self._is_behind = False

    def _held(self) -> Held:
        constants, tensors = self.planner.pools
        return constants.state(), tensors.state()

    def _key_of(self, number: int, members: tuple[int, ...]) -> Hashable | None:
        """Return all that the plan of a group depends on, None where it is to be planned anew."""
        planner = self.planner
        if number in planner.ahead() or members[0] in self._apart:
            return None
        refs = [ref for index in members for ref in self._refs[index]]
        return (
            self._fusion,
            number,
            self._at,
            tuple([self._items[index] for index in members]),
            tuple([self._facts(ref, number) for ref in refs]),
        )

    def _facts(self, ref: TensorRef, number: int) -> Hashable:
        """Return where a tensor is, whether a later group reads it, and the writes to wait for."""
        planner = self.planner
        return (
            planner.address(ref),
            planner.is_read_after(ref, number),
            planner.written.get(ref.id),
        )
