"""Busy periods of a memory: what equal ones have in common, and what they did.

What a busy period does follows from its descriptors, from when they come after one another, from
the refreshes that meet them and from the rows that are open. All channels, bank groups and banks
are alike, so of an address only the rows count. Some of this is rounded: the time between two
descriptors; when a period begins that meets a refresh; and of the rows, how many a descriptor spans
and what its first one meets. So results with periods from memory differ slightly.
"""

from dataclasses import dataclass, field

import numpy as np

from hwmodels.dram.address import locate
from hwmodels.dram.commands import REFAB, REFPB
from hwmodels.dram.fields import hashes, map_parts
from hwmodels.dram.jit import Integers
from hwmodels.dram.policy import refresh_interval
from hwmodels.dram.spec import DramSpec
from hwmodels.dram.stats import COUNTERS
from hwmodels.exact_memory import FAR_TICK, Dram, Open
from hwmodels.memory import Descriptor

GAP_TICKS = 16
"""Times between two descriptors count as equal when they share a multiple of so many ticks."""
PHASES = 16
"""Parts of tREFI; a period that meets a refresh is equal to those that begin in the same one."""
LEAST_BYTES = 4096
"""A period that begins with fewer is left to the controller: it matters where each burst lies."""
MOST_STEPS = 48
"""Descriptors of a period that is kept; a longer one is left to the controller."""
OPEN = COUNTERS.index("open_rank_ticks")
REFRESHES = [REFAB, REFPB]

Key = tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Move:
    """What a descriptor did, in ticks from its arrival: its first burst and its last, and its end.

    `latencies` counts the `bursts` read by ticks; empty for a write.
    """

    accepted: int
    taken: int
    done: int
    bursts: int
    latencies: Integers


@dataclass(eq=False, slots=True)
class Node:
    """A busy period up to the arrival of a descriptor.

    `moves` are known, else None, for what is done within `valid` ticks of that arrival. `end` is
    when the controller is at rest, in ticks from it, if nothing follows. `counts` are then as
    `dram.stats.COUNTERS`, but 0 for refreshes and open rows, and `open_ranks` have a row open. They
    are None, and `end` is -1, where something always followed.
    """

    branches: "dict[Key, Node]" = field(default_factory=dict)
    valid: int = -1
    moves: tuple[Move | None, ...] = ()
    end: int = -1
    counts: Integers | None = None
    open_ranks: int = 0


class Memo:
    """Busy periods of one memory by phase of the refresh; how many were `known`, or `asked`."""

    def __init__(self, memory: Dram) -> None:
        spec = memory.spec
        ticks = spec.ticks_per_clock
        self.rotation = spec.cycles("tREFI") * ticks // memory.refresh_rate
        self.interval = refresh_interval(spec, memory.policy, memory.refresh_rate) or FAR_TICK
        self._quiet = (spec.cycles("tRFC") + 4 * spec.cycles("tRP")) * ticks
        self._roots: dict[int, Node] = {}
        self.known = 0
        self.asked = 0

    def is_apart(self, start: int, end: int) -> bool:
        """Whether no refresh meets a period between two ticks, nor one before it."""
        return start % self.interval >= self._quiet and end < self.next_refresh(start)

    def next_refresh(self, tick: int) -> int:
        """Return the first refresh after a tick."""
        return (tick // self.interval + 1) * self.interval

    def root(self, start: int, *, is_apart: bool) -> Node:
        """Return the beginning of all periods like one that begins at a tick."""
        phase = -1 if is_apart else start % self.rotation * PHASES // self.rotation
        return self._roots.setdefault(phase, Node())

    def walk(self, steps: "list[Step]", *, is_apart: bool) -> Node | None:
        """Return the node of a period, None where it is not known."""
        node = self.root(steps[0].tick, is_apart=is_apart)
        for step in steps:
            following = node.branches.get(step.key)
            if following is None:
                return None
            node = following
        return node if node.valid >= 0 else None

    def note(
        self, steps: "list[Step]", moves: list[Move], *, end: int, counts: Integers, open_ranks: int
    ) -> None:
        """Keep what a period did that was over at tick `end`."""
        node = self.root(steps[0].tick, is_apart=self.is_apart(steps[0].tick, end))
        for number, step in enumerate(steps):
            node = node.branches.setdefault(step.key, Node())
            is_last = number == len(steps) - 1
            valid = FAR_TICK if is_last else steps[number + 1].tick - step.tick
            if valid <= node.valid:
                continue
            node.valid = valid
            node.moves = tuple(
                move if one.tick + move.done < step.tick + valid else None
                for one, move in zip(steps[: number + 1], moves, strict=False)
            )
            if is_last:
                node.end, node.counts, node.open_ranks = end - step.tick, counts, open_ranks


@dataclass(frozen=True)
class RowMap:
    """Which bytes open rows together: `1 << shift` that differ in columns and below only.

    Stretches of that size open the row `stretch >> bits` in the banks of slot
    `stretch % (1 << bits)`. `turn_bytes` is after how many bytes work is equal but for its rows.
    `is_known` is false for a map that does not say so: then a turn is the whole memory.
    """

    shift: int
    bits: int
    turn_bytes: int
    is_known: bool


def row_map(spec: DramSpec) -> RowMap:
    """Return how the address map of a memory lays rows out.

    Example: stretches of 64 KiB where columns lie below two bits of banks and the rows.
    """
    organisation = spec.organisation
    parts = [part for part in map_parts(organisation.sizes, spec.address_map) if part.width]
    whole = RowMap(0, 0, organisation.capacity_bytes, is_known=False)
    tops = [part.low + part.width for part in parts if part.field == "column"]
    rows = [part for part in parts if part.field == "row"]
    has_divisor = organisation.channels & (organisation.channels - 1)
    if hashes(spec.address_map) or has_divisor or not tops or len(rows) != 1:
        return whole
    burst_bits = organisation.burst_bytes.bit_length() - 1
    top, row = max(tops), rows[0].low
    if row < top or any(part.low > row for part in parts):
        return whole
    return RowMap(burst_bits + top, row - top, 1 << burst_bits + top, is_known=True)


@dataclass(eq=False, slots=True)
class Step:
    """A descriptor of a period, and its tick of arrival."""

    key: Key
    entry: Open
    base: int
    tick: int
    is_over: bool = False


class Rows:
    """The rows that are open, as far as the map tells; a refresh closes all of them."""

    def __init__(self, memory: Dram) -> None:
        spec = memory.spec
        self.map = row_map(spec)
        self._burst_bytes = spec.organisation.burst_bytes
        self.open: dict[int, int] = {}
        self._heads: Integers = np.zeros(0, dtype=np.int64)  # first burst of each row of a stretch
        if self.map.is_known:
            inside = np.arange(0, 1 << self.map.shift, spec.organisation.burst_bytes)
            self._heads = inside[locate(spec, inside)[:, 3] == 0]

    def meet(self, descriptor: Descriptor, base: int) -> Key:
        """Open the rows of a descriptor that begins at `base`; return what that has to do with it.

        Where in a burst it begins, how many stretches it spans, and whether the row of its first
        burst was closed (0), open (1) or another one (2); where the map says nothing of rows, its
        place.
        """
        bits = self.map.bits
        if not self.map.is_known:
            return (base % self.map.turn_bytes,)
        size = descriptor.stride * (descriptor.rows - 1) + descriptor.bytes
        first, last = base >> self.map.shift, base + size - 1 >> self.map.shift
        found = self.open.get(first % (1 << bits))
        for stretch in range(max(first, last + 1 - (1 << bits)), last + 1):
            self.open[stretch % (1 << bits)] = stretch >> bits
        inside = base % self._burst_bytes
        return inside, last - first, 0 if found is None else 1 if found == first >> bits else 2

    def addresses(self, rows: dict[int, int]) -> Integers:
        """Return the address of the first burst of each of `rows`, by slot."""
        starts = [(row << self.map.bits | slot) << self.map.shift for slot, row in rows.items()]
        return (np.array(starts, dtype=np.int64)[:, None] + self._heads).ravel()


def key_of(descriptor: Descriptor, rows: Key, *, gap: int) -> Key:
    """Return what equal descriptors have in common `gap` ticks after the one before.

    `rows` are as of `Rows.meet`.
    """
    stride = descriptor.stride if descriptor.rows > 1 else 0
    shape = descriptor.bytes, stride, descriptor.rows, int(descriptor.is_write)
    return *shape, gap // GAP_TICKS, *rows
