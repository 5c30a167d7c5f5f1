"""Groups that were planned before: what calls in a row have in common is planned once.

A decoding step differs from the one before in what attends to the past, and in little else. Where
an equal op stands on a chip that holds the same, at the same place in its call, its tensors lie at
the same addresses and wait for the same writes, the group that was planned then is taken again.
"""

from collections.abc import Hashable, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from hwmodels.plan import Group, Tally, Written
from hwmodels.planner import Planner
from hwmodels.residency import Pool, State, Use

Held = tuple[State, State]  # what the chip holds: constants, and other tensors


class Planned(NamedTuple):
    """A group, the counts of its items, the writes it announced, and what the chip holds after it.

    `after` is a number of `PlannedGroups`. A write of None: memory does not hold the tensor now.
    `uses` say what the group did to each pool beside that.
    """

    group: Group
    tallies: tuple[Tally, ...]
    written: tuple[tuple[str, Written | None], ...]
    uses: tuple[Use, ...]
    after: int


@dataclass
class PlannedGroups:
    """The groups of earlier calls of one sequence on one chip. `hits` and `misses` count.

    Calls share what waits for a write, so that each has to run with writes of its own to wait for.
    `ids` are the tensors that items read or write, by the numbers of the items.
    """

    hits: int = 0
    misses: int = 0
    held: list[Held] = field(default_factory=list)
    ids: dict[tuple[int, ...], tuple[str, ...]] = field(default_factory=dict)
    _numbers: dict[Held, int] = field(default_factory=dict)
    _found: dict[Hashable, Planned] = field(default_factory=dict)

    def number(self, held: Held) -> int:
        """Return a number for what a chip holds, by which `self.held` has it."""
        number = self._numbers.get(held)
        if number is None:
            number = self._numbers[held] = len(self.held)
            self.held.append(held)
        return number

    def find(self, key: Hashable, pools: Sequence[Pool]) -> Planned | None:
        """Return the group planned for a key before, where `pools` have the room that it claimed.

        Hits and misses are counted.
        """
        found = self._found.get(key)
        if found is not None and all(map(Pool.allows, pools, found.uses)):
            self.hits += 1
            return found
        self.misses += 1
        return None

    def keep(self, key: Hashable, planned: Planned) -> None:
        """Keep a group for the calls that follow."""
        self._found[key] = planned


class Recall:
    """Walks the groups of one planner, and takes those that were planned before.

    Groups that take the first pass of a later op with them, or leave it to an earlier group, share
    counts with that group and are always planned. So are those that make room in the buffers by
    writes to memory.
    """

    def __init__(self, planner: Planner, known: PlannedGroups) -> None:
        self.planner = planner
        self.known = known
        self._fusion = planner.architecture.mapping.fusion
        self._bases = {name: place.base for name, place in planner.layout.placements.items()}
        self._apart = {index for ahead in planner.ahead().values() for index in ahead}
        self._at = known.number(self._held())
        self._is_behind = False  # the planner does not know what the chip holds
        self._key: Hashable | None = None
        self._ids: tuple[str, ...] = ()  # of the tensors of the group at hand
        self._before: tuple[Written | None, ...] = ()  # their writes before it
        self._claims: list[int] = []

    def take(self, number: int) -> bool:
        """Let the planner have its group with that number, if it was planned before."""
        planner, members = self.planner, self.planner.members()[number]
        self._key = self._key_of(number, members)
        found = None if self._key is None else self.known.find(self._key, planner.pools)
        if found is None:
            self.catch_up()
            self._claims = [len(pool.claims) for pool in planner.pools]
            return False
        planner.groups.append(found.group)
        planner.tallies.update(zip(members, found.tallies, strict=True))
        for name, written in found.written:
            if written is None:
                planner.written.pop(name, None)
            else:
                planner.written[name] = written
        for pool, use in zip(planner.pools, found.uses, strict=True):
            pool.repeat(use)
        self._at, self._is_behind = found.after, True
        return True

    def note(self) -> None:
        """Keep the group that was just planned."""
        planner, begun = self.planner, self.known.held[self._at]
        self._at = self.known.number(self._held())
        group, pools = planner.groups[-1], planner.pools
        if self._key is None or group.spills:
            return
        after = map(planner.written.get, self._ids)
        changes = zip(self._ids, self._before, after, strict=True)
        written = tuple((name, new) for name, old, new in changes if new is not old)
        tallies = tuple(planner.tallies[index] for index in group.items)
        uses = tuple(
            pool.since(state.ops, claims)
            for pool, state, claims in zip(pools, begun, self._claims, strict=True)
        )
        self.known.keep(self._key, Planned(group, tallies, written, uses, self._at))

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
        """Return all that the plan of a group depends on, None where it is to be planned anew.

        That is what it does and what the chip holds, and of each tensor where it is, which group
        reads it last, and the write to wait for. Room to claim is looked at apart.
        """
        planner = self.planner
        if number in planner.ahead() or members[0] in self._apart:
            return None
        numbers = planner.numbers[members[0] : members[-1] + 1]
        self._ids = self._ids_of(numbers, members)
        self._before = tuple(map(planner.written.get, self._ids))
        bases = tuple(map(self._bases.get, self._ids))
        readers = tuple(map(planner.last_readers.get, self._ids))
        return self._fusion, number, self._at, numbers, bases, readers, self._before

    def _ids_of(self, numbers: tuple[int, ...], members: tuple[int, ...]) -> tuple[str, ...]:
        """Return the ids of the tensors of a group, each once."""
        ids = self.known.ids.get(numbers)
        if ids is None:
            items = [self.planner.items[index] for index in members]
            found = dict.fromkeys(ref.id for item in items for ref in item.refs)
            ids = self.known.ids[numbers] = tuple(found)
        return ids
