"""The memory server on the cycle-accurate controller: descriptors in, single bursts to it.

SimPy knows descriptors, the controller bursts. The controller's time runs ahead of SimPy's as far
as the next event, `peek()`: nothing can be submitted before that, so nothing it has decided could
have come out otherwise (conservative look-ahead; Chandy and Misra 1979).
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from math import inf

import numpy as np
import simpy

from hwmodels.architecture import FEMTO, Architecture, Figure, MemoryStack, MemoryTechnology
from hwmodels.dram.commands import COMMANDS, LIMITS
from hwmodels.dram.controller import Controller
from hwmodels.dram.energy import DramEnergy, dram_counts, dram_prices
from hwmodels.dram.jit import Integers
from hwmodels.dram.policy import Policy, check, policy
from hwmodels.dram.problems import SpecError
from hwmodels.dram.spec import DramSpec
from hwmodels.dram.stats import COUNTERS, limits_of
from hwmodels.energy import Prices
from hwmodels.mapped_channels import one_run
from hwmodels.memory import Completion, Descriptor, Process, RequesterStats
from hwmodels.memory_totals import MemoryTotals, Sampling

FAR_TICK = 1 << 56
"""A tick beyond all work."""
PEAK_TOLERANCE = 0.01
"""By how much the peaks of a technology and of its timing table may differ."""


@dataclass(frozen=True)
class Dram:
    """A memory as the controller needs it; `refresh_rate` is how often tREFI comes in tREFI."""

    spec: DramSpec
    policy: Policy
    energy: DramEnergy
    refresh_rate: int = 1

    @property
    def key(self) -> str:
        """What results on this memory depend on."""
        return repr((self.spec, self.policy, self.energy, self.refresh_rate))

    def prices(self) -> Prices:
        """Return joules of every action of the memory."""
        return dram_prices(self.spec, self.energy)

    def rest_w(self) -> Figure:
        """Return watts without work: all rows closed, and refreshes as often as they are due."""
        parts = list(self.rest_by_action_w().values())
        return Figure(
            sum(part.value for part in parts),
            "; ".join(part.source for part in parts),
            sum(part.bounds[0] for part in parts),
            sum(part.bounds[1] for part in parts),
        )

    def rest_by_action_w(self) -> dict[str, Figure]:
        """Return the watts of `rest_w` by action: `background`, and `refresh` if there is any."""
        spec, prices = self.spec, self.prices()
        organisation = spec.organisation
        ranks = organisation.channels * organisation.pseudo_channels * organisation.ranks
        due_s = spec.cycles("tREFI") * spec.ticks_per_clock * spec.tick_s / self.refresh_rate
        number, kind = ranks, "refresh_rank"
        if self.policy.refresh == "per_bank":
            number, kind = organisation.channels * organisation.banks_per_channel, "refresh_bank"
        parts = {"background": (prices["memory", "closed_tick"], ranks / spec.tick_s)}
        if ("memory", kind) in prices:
            parts["refresh"] = prices["memory", kind], number / due_s
        return {
            name: Figure(
                rate * price.value_j, price.source, rate * price.low_j, rate * price.high_j
            )
            for name, (price, rate) in parts.items()
        }

    def serve(self, env: simpy.Environment) -> "ExactServer":
        """Return a server that begins with all rows closed."""
        return ExactServer(env, self)

    def problems(self, architecture: Architecture, technology: MemoryTechnology) -> list[str]:
        """Return a line for everything in which a chip and its technology are not this memory."""
        return unlike(self.spec, architecture, technology)


def unlike(spec: DramSpec, architecture: Architecture, technology: MemoryTechnology) -> list[str]:
    """Return a line for everything in which a chip and its technology are not the memory `spec`."""
    memory, found = architecture.memory, []
    if technology.burst_bytes != spec.organisation.burst_bytes:
        found.append(
            f"{technology.name}: burst_bytes: found {technology.burst_bytes}, expected "
            f"{spec.organisation.burst_bytes}, the burst of {spec.name}"
        )
    capacity = memory.channels * technology.capacity_bytes
    if capacity > spec.organisation.capacity_bytes:
        found.append(
            f"{technology.name}: capacity_bytes: found {capacity} in {memory.channels} "
            f"channels, {spec.name} has {spec.organisation.capacity_bytes}"
        )
    peak = technology.peak_bytes_per_s
    stated = 0.0 if peak is None else memory.channels * peak.value
    if abs(stated / spec.peak_bytes_per_s - 1) > PEAK_TOLERANCE:
        found.append(
            f"{technology.name}: peak_bytes_per_s: found {stated:g} in {memory.channels} "
            f"channels, {spec.name} has {spec.peak_bytes_per_s:g}"
        )
    return found


def dram(memory: MemoryStack, spec: DramSpec, energy: DramEnergy) -> Dram:
    """Return the memory that a chip names: its channels of `spec`, its policy and address map.

    Raises SpecError with all mistakes of the policy and of the map.
    """
    problems: list[str] = []
    chosen = own = None
    try:
        chosen = policy(memory.policy)
    except SpecError as error:
        problems += error.problems
    try:
        own = replace(
            spec,
            organisation=replace(spec.organisation, channels=memory.channels),
            address_map=spec.address_map if memory.address_map is None else memory.address_map,
        )
        dram_prices(own, energy)
    except SpecError as error:
        problems += error.problems
    if chosen is not None and own is not None and not problems:
        check(own, chosen)
        return Dram(own, chosen, energy)
    raise SpecError(problems)


def totals_of(
    memory: Dram,
    counts: Integers,
    *,
    ticks: int,
    read_ticks: Mapping[int, int],
    sampling: Sampling | None = None,
) -> MemoryTotals:
    """Return what a memory counted in `ticks`; `counts` as in `hwmodels.dram.stats.COUNTERS`."""
    spec, organisation = memory.spec, memory.spec.organisation
    named = dict(zip(COUNTERS, counts.tolist(), strict=True))
    commands = {name: named[name] for name in COMMANDS}
    buses = organisation.channels * organisation.pseudo_channels
    by_number, lost = counts[: len(COMMANDS)], counts[len(COMMANDS) :][: len(LIMITS)]
    limits = limits_of(spec, by_number, lost, ticks)
    priced = memory.prices()
    actions = dram_counts(
        spec,
        commands,
        rank_ticks=ticks * buses * organisation.ranks,
        open_rank_ticks=named["open_rank_ticks"],
    )
    return MemoryTotals(
        memory=spec.name,
        policy=memory.policy.name,
        address_map=spec.address_map,
        tick_s=spec.tick_s,
        ticks=ticks,
        commands=commands,
        actions={action: number for action, number in actions.items() if action in priced},
        limit_ticks={name: round(share * ticks * buses) for name, share in limits.items()},
        read_ticks=read_ticks,
        row_hits=named["row_hits"],
        row_misses=named["row_misses"],
        row_conflicts=named["row_conflicts"],
        forwarded=named["forwarded"],
        merged=named["merged"],
        sampling=sampling,
    )


@dataclass(eq=False, slots=True)
class Open:
    """A descriptor on its way: the numbers of its bursts, and when its port is done with it."""

    descriptor: Descriptor
    numbers: range
    earliest_fs: int
    done: Completion


@dataclass(frozen=True)
class Served:
    """When the memory accepted a descriptor's first burst and its last, and was done with it.

    All in femtoseconds. `read_ticks` are those of each burst read, from acceptance to delivery;
    None for a write.
    """

    accepted_fs: int
    taken_fs: int
    done_fs: int
    read_ticks: Integers | None


class ExactServer:
    """Serves descriptors in order of submission, burst by burst, on a controller.

    `watch` is told of every descriptor that is done.
    """

    def __init__(
        self,
        env: simpy.Environment,
        memory: Dram,
        watch: Callable[[Completion, Served], None] | None = None,
    ) -> None:
        self.env = env
        self.memory = memory
        self.statistics: dict[str, RequesterStats] = {}
        self._watch = watch
        self._controller = Controller(memory.spec, memory.policy, refresh_rate=memory.refresh_rate)
        self._tick_fs = round(memory.spec.tick_s * FEMTO)
        self._skipped = 0  # ticks that the controller was not told of
        self._open: list[Open] = []
        self._is_serving = False
        self._read_ticks: Integers = np.zeros(0, dtype=np.int64)

    def submit(
        self,
        descriptor: Descriptor,
        *,
        origin: int = 0,
        earliest_fs: int = 0,
        not_before_fs: int = 0,
    ) -> Completion:
        """Return when the last byte of `descriptor` will have moved, see `memory.Server`.

        The memory does not see it before `not_before_fs`, which may not fall.
        """
        now = int(self.env.now)
        done = Completion(self.env, now)
        tick = self._tick(max(now, not_before_fs)) + self._skipped
        numbers = self._enter(descriptor, descriptor.base + origin, tick)
        if not numbers:
            done.settle(max(now, earliest_fs))
            return done
        self._open.append(Open(descriptor, numbers, earliest_fs, done))
        if not self._is_serving:
            self._is_serving = True
            self.env.process(self._serve())
        return done

    def _enter(self, descriptor: Descriptor, base: int, tick: int) -> range:
        """Give the controller a descriptor that begins at `base` and comes at a tick."""
        rows, row_bytes = one_run(descriptor)
        return self._controller.submit_runs(
            base,
            row_bytes,
            stride=descriptor.stride,
            rows=rows,
            is_write=descriptor.is_write,
            arrival_tick=tick - self._skipped,
        )

    def drain(self) -> int:
        """Let all that was submitted be done, now or later; return when the last will be.

        Only for somebody who submits nothing more before that.
        """
        while self._open:
            self._run_ahead(None)
        return self.reached_fs

    @property
    def reached_fs(self) -> int:
        """The time that the memory has come to."""
        return max(0, self.ticks) * self._tick_fs

    @property
    def ticks(self) -> int:
        """The ticks that are over."""
        return self._controller.clock

    def counters(self) -> Integers:
        """Return the counts so far, as in `hwmodels.dram.stats.COUNTERS`."""
        return self._controller.counters()

    def finish(self) -> MemoryTotals:
        """Return what the memory did until now, and until all that was submitted is written."""
        self.rest()
        latencies = np.flatnonzero(self._read_ticks)
        return totals_of(
            self.memory,
            self.counters(),
            ticks=self.ticks,
            read_ticks={int(ticks): int(self._read_ticks[ticks]) for ticks in latencies},
        )

    def rest(self) -> None:
        """Let the memory come to this moment and be done with all writes."""
        self._controller.finish()
        self._controller.rest(self._tick(int(self.env.now)))

    def _tick(self, time_fs: int) -> int:
        """Return the controller's first tick that does not begin before a time."""
        return -(-time_fs // self._tick_fs) - self._skipped

    def _serve(self) -> Process:
        """Let the controller run ahead to the next event, again and again, while it has work."""
        while self._open:
            horizon = self.env.peek()
            if horizon <= self.env.now:
                yield self.env.timeout(0)  # who comes at the same moment may submit something
            elif not self._run_ahead(None if horizon == inf else int(horizon)):
                yield self.env.timeout(horizon - self.env.now)
        self._is_serving = False

    def _run_ahead(self, horizon_fs: int | None) -> bool:
        """Let the controller run up to a time if there is one; whether it came back with news.

        News may bring events before that time. Raises RuntimeError when there is nothing left to
        happen and no news either: a fault of this model.
        """
        until = FAR_TICK if horizon_fs is None else self._tick(horizon_fs)
        while True:
            reached = self._controller.advance_to(until)
            if self._settle():
                return True
            if reached >= until:
                if until == FAR_TICK:
                    raise RuntimeError(f"{len(self._open)} descriptors are never done")
                return False

    def _settle(self) -> bool:
        """Let descriptors be done whose last burst has its time; whether there were any."""
        last = self._open[-1].numbers.stop
        left = self._close_known()
        if len(left) == len(self._open):
            return False
        self._open = left
        self._controller.release(left[0].numbers.start if left else last)
        return True

    def _close_known(self) -> list[Open]:
        """Let descriptors be done the time of whose last burst is known; return the others."""
        ticks = self._controller.completions([entry.numbers.stop - 1 for entry in self._open])
        left = []
        for entry, tick in zip(self._open, ticks, strict=True):
            if tick < 0:
                left.append(entry)
            else:
                self._close(entry, tick)
        return left

    def _close(self, entry: Open, tick: int) -> None:
        """Let a descriptor be done whose last burst is complete at a tick of the controller."""
        done_fs = (tick + self._skipped) * self._tick_fs
        first, last = (
            (at + self._skipped) * self._tick_fs
            for at in self._controller.accepted_span(entry.numbers)
        )
        is_write = entry.descriptor.is_write
        self._count(entry, len(entry.numbers), first, done_fs)
        if not is_write:
            self._note(entry.numbers)
        if self._watch is not None:
            numbers, controller = entry.numbers, self._controller
            ticks = (
                None if is_write else controller.completed(numbers) - controller.accepted(numbers)
            )
            self._watch(entry.done, Served(first, last, done_fs, ticks))
        entry.done.settle(max(done_fs, entry.earliest_fs, int(self.env.now)))

    def _count(self, entry: Open, bursts: int, accepted_fs: int, done_fs: int) -> None:
        """Count a descriptor for its requester."""
        submitted = entry.done.submitted_fs
        stats = self.statistics.setdefault(entry.descriptor.requester, RequesterStats())
        stats.descriptors += 1
        stats.queued_fs += max(0, accepted_fs - submitted)
        stats.total_fs += done_fs - submitted
        moved = bursts * self.memory.spec.organisation.burst_bytes
        if entry.descriptor.is_write:
            stats.write_bytes += moved
        else:
            stats.read_bytes += moved

    def _note(self, numbers: range) -> None:
        """Count reads by how long they took."""
        longest = self._controller.count_latencies(numbers, self._read_ticks)
        if longest >= self._read_ticks.size:
            self._read_ticks = np.pad(self._read_ticks, (0, longest + 1))
            self._controller.count_latencies(numbers, self._read_ticks)
