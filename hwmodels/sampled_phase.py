"""A phase of the traffic to a memory: what the controller showed of it, and what that says of more.

A phase is a kind of traffic: what each requester asked for last, by its size. What the controller
counted is scaled with the bursts moved.
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from math import hypot

import numpy as np

from hwmodels.architecture import FEMTO
from hwmodels.dram.commands import ACT, PREAB, RD, RDA, REFAB, REFPB, WR, WRA
from hwmodels.dram.jit import Integers
from hwmodels.dram.stats import COUNTERS
from hwmodels.exact_memory import Served
from hwmodels.memory import Descriptor, Share
from hwmodels.memory_totals import apportion
from hwmodels.service_fit import Fit, Sample, fit, ratio_error

OPEN = COUNTERS.index("open_rank_ticks")
FORWARDED, MERGED = COUNTERS.index("forwarded"), COUNTERS.index("merged")
READS, WRITES = (RD, RDA, FORWARDED), (WR, WRA, MERGED)
SERVED = READS + WRITES
LEAST = 4
"""Descriptors that a requester must have shown in a phase for its service to be known."""

Kind = tuple[str, int, int]  # requester; bursts of a row by powers of four, stride of two


def kind_of(descriptor: Descriptor, burst_bytes: int) -> Kind:
    """Return the kind of a descriptor: who asks, the size of a row, and the stride if it has one.

    Example:
        >>> kind_of(Descriptor(0, 4000, requester="weight"), 32)
        ('weight', 3, 0)

    """
    size, stride = descriptor.bytes, descriptor.stride
    if stride == size or descriptor.rows == 1:
        size, stride = descriptor.size_bytes, 0
    return descriptor.requester, (-(-size // burst_bytes)).bit_length() // 2, stride.bit_length()


@dataclass(eq=False)
class Look:
    """A descriptor that the controller serves.

    `follows` says that the one before it is of the same phase. Else that is `before`, None where
    the controller was at rest. `held_by` is the last write that came while it was being read: the
    controller prefers a queue of many writes to the reads that it has taken before.
    """

    requester: str
    is_write: bool
    arrival_fs: int
    share: Share
    follows: bool
    before: "Look | None"
    served: Served | None = None
    held_by: "Look | None" = None

    @property
    def before_fs(self) -> int:
        """When the channels were free for it, -1 where the one before it tells."""
        if self.follows:
            return -1
        if self.before is None or self.before.served is None:
            return self.arrival_fs
        return self.before.served.taken_fs


@dataclass(frozen=True)
class Block:
    """What the controller did for a phase in a stretch of time."""

    time_fs: int
    counts: Integers

    @property
    def bursts(self) -> int:
        """Bursts served."""
        return int(self.counts[list(SERVED)].sum())


@dataclass(eq=False)
class Phase:
    """What the controller showed of a kind of traffic, and what was done without it.

    `wanted_fs` is for how long the controller shall have served it before it is known; `fit` is the
    service then, by the requesters' numbers in `known`. Reads are done `late_fs` after the last
    burst is taken, and `held_fs` after that of a write that holds them, None where none did. `fast`
    figures are without the controller; `open` times are from the first access after a refresh to
    the next refresh.
    """

    wanted_fs: int
    known: dict[str, int] = field(default_factory=dict)
    fit: Fit | None = None
    late_fs: tuple[int, ...] = ()
    held_fs: int | None = None
    rate_error: float = 0.0
    looks: list[Look] = field(default_factory=list)
    blocks: list[Block] = field(default_factory=list)
    read_ticks: Counter[int] = field(default_factory=Counter)
    exact_fs: int = 0
    fast_fs: int = 0
    fast_busy_fs: int = 0
    exact_open_fs: int = 0
    fast_open_fs: int = 0
    fast_delay_error_fs: float = 0.0
    fast_reads: int = 0
    fast_writes: int = 0

    def note(self, block: Block) -> None:
        """Add what the controller did in a stretch of time."""
        self.blocks.append(block)
        self.exact_fs += block.time_fs

    def watch(self, look: Look, served: Served) -> None:
        """Add what the controller did with a descriptor."""
        look.served = served
        if served.read_ticks is not None:
            times, numbers = np.unique(served.read_ticks, return_counts=True)
            self.read_ticks.update(dict(zip(times.tolist(), numbers.tolist(), strict=True)))

    def learn(self, *, buses: int, block_fs: int) -> None:
        """Find the service of the requesters that showed enough, if there are any.

        `block_fs` is the time of a block for errors.
        """
        numbers = Counter(look.requester for look in self.looks)
        known = sorted(name for name, number in numbers.items() if number >= LEAST)
        if not known:
            return
        self.known = {name: number for number, name in enumerate(known)}
        samples = [
            Sample(
                self.known[look.requester],
                look.arrival_fs,
                look.share.busy,
                look.before_fs,
                look.served.accepted_fs,
                look.served.taken_fs,
            )
            for look in self.looks
            if look.served is not None and look.requester in self.known
        ]
        self.fit = fit(samples, len(known), channels=buses, block_fs=block_fs)
        self.rate_error = self.fit.rate_error
        late: dict[str, list[int]] = {name: [] for name in known}
        held: list[int] = []
        for look in self.looks:
            if look.served is None or look.is_write or look.requester not in late:
                continue
            if look.held_by is None or look.held_by.served is None:
                late[look.requester].append(look.served.done_fs - look.served.taken_fs)
            else:
                held.append(look.served.done_fs - look.held_by.served.taken_fs)
        everyone = [late_fs for own in late.values() for late_fs in own] or [0]
        self.late_fs = tuple(round(np.mean(own or everyone)) for own in late.values())
        self.held_fs = round(np.mean(held)) if held else None

    def forget(self, wanted_fs: int) -> None:
        """Let the controller serve it again, until it has done so for `wanted_fs`."""
        self.fit, self.known, self.wanted_fs = None, {}, wanted_fs

    def scaled(self, usual: Integers) -> Integers:
        """Return the counts of what was done without the controller, but for rows left open.

        `usual` are the counts of all phases, for one whose descriptors were served in others.
        """
        found = np.zeros(len(COUNTERS), dtype=np.int64)
        fast = self.fast_reads + self.fast_writes
        if not fast:
            return found
        counts = counted(self.blocks)
        if not counts[list(SERVED)].sum():
            counts = usual
        found += np.rint(counts * (fast / counts[list(SERVED)].sum())).astype(np.int64)
        found[[REFAB, REFPB, PREAB, OPEN]] = 0
        for number, places in ((self.fast_reads, READS), (self.fast_writes, WRITES)):
            shown = counts[list(places)].tolist()
            found[list(places)] = apportion(number, shown, otherwise=usual[list(places)].tolist())
        return found

    def scaled_ticks(self) -> dict[int, int]:
        """Return how many reads without the controller took how many ticks."""
        times = list(self.read_ticks)
        parts = apportion(self.fast_reads, list(self.read_ticks.values()), otherwise=())
        return dict(zip(times, parts, strict=True)) if times else {}

    @property
    def time_error_s(self) -> float:
        """Standard error of the time that the channels took without the controller."""
        return hypot(self.rate_error * self.fast_busy_fs, self.fast_delay_error_fs) / FEMTO

    def activate_error(self, scaled: Integers) -> float:
        """Return the standard error of the rows opened in `scaled`."""
        opened = np.array([block.counts[ACT] for block in self.blocks], dtype=np.float64)
        bursts = np.array([block.bursts for block in self.blocks], dtype=np.float64)
        return ratio_error(opened, bursts) * float(scaled[ACT])


def find_held(looks: Sequence[Look], least_fs: int) -> None:
    """Find the reads that writes held, among descriptors that the controller served in a row.

    A write holds those read when it comes if it keeps a channel busy for `least_fs`.
    """
    reading: list[Look] = []
    for look in looks:
        served = look.served
        if served is None:
            continue
        if not look.is_write:
            reading.append(look)
        elif look.share.longest_fs >= least_fs:
            reading = [
                one for one in reading if one.served and one.served.done_fs > served.accepted_fs
            ]
            for one in reading:
                one.held_by = look


def counted(blocks: Sequence[Block]) -> Integers:
    """Return the sum of the counts of blocks."""
    found: Integers = np.sum([block.counts for block in blocks], axis=0, dtype=np.int64)
    return found
