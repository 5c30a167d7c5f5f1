"""The memory server that lets the controller do a sample of the work and learns from it.

The controller serves every phase of the traffic (`hwmodels.sampled_phase`) for some refresh
intervals. Then the roofline's channels go on with the service measured (`hwmodels.service_fit`),
whenever the phase comes again, until the controller looks at it anew. This is systematic
sampling of a simulation, as in SMARTS (Wunderlich et al. 2003); the spread of the samples tells its
error.
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from math import hypot

import numpy as np
import simpy

from hwmodels.architecture import FEMTO
from hwmodels.dram.jit import Integers
from hwmodels.dram.stats import COUNTERS
from hwmodels.exact_memory import Dram, ExactServer, Served, totals_of
from hwmodels.mapped_channels import MappedChannels
from hwmodels.memory import Channels, Completion, Descriptor, RequesterStats, Share
from hwmodels.memory_totals import MemoryTotals, Sampling
from hwmodels.sampled_phase import OPEN, Block, Kind, Look, Phase, counted, find_held, kind_of
from hwmodels.service_fit import Fit

WINDOW_INTERVALS = 8
"""Refresh intervals for which the controller serves a phase before it is known."""
AGAIN = 16
"""After so many windows a known phase is looked at again, then after twice as many, and so on."""


class SampledServer:
    """Serves descriptors in order of submission: by the controller until their phase is known."""

    def __init__(self, env: simpy.Environment, memory: Dram, channels: Channels) -> None:
        self.env = env
        self.memory = memory
        self.channels = MappedChannels(channels, memory.spec)
        self._exact = ExactServer(env, memory, self._watch)
        self.statistics: dict[str, RequesterStats] = self._exact.statistics
        spec = memory.spec
        self._burst_bytes = spec.organisation.burst_bytes
        interval = spec.cycles("tREFI") * spec.ticks_per_clock // memory.refresh_rate
        self._interval_fs = round(interval * spec.tick_s * FEMTO)
        policy = memory.policy
        self._holding_fs = round(  # on one bus, for writes that make the controller turn to them
            policy.write_high
            * policy.write_queue
            * self.channels.burst_fs
            / spec.organisation.pseudo_channels
        )
        self._phases: dict[tuple[Kind, ...], Phase] = {}
        self._last: dict[str, Kind] = {}  # what each requester asked for last
        self._phase = self._phases[()] = Phase(WINDOW_INTERVALS * self._interval_fs)
        self._kinds: dict[Descriptor, Kind] = {}
        self._looks: dict[Completion, tuple[Phase, Look]] = {}
        self._before: tuple[Phase, Look | None] = self._phase, None
        self._in_a_row: list[Look] = []  # what the controller served since it came back
        self._reading: list[Reading] = []  # what may still be held
        self._is_exact = True
        self._since_fs = 0  # of the present block
        self._counts: Integers = np.zeros(len(COUNTERS), dtype=np.int64)  # until then
        self._open_fs = 0  # the next refresh after all that was served
        self._free_fs = [0] * self.channels.buses
        self._idle_fs = 0  # when the last bus is free
        self._alone: tuple[int, float, Share] | None = None  # what came when all were, and when

    def submit(
        self, descriptor: Descriptor, *, origin: int = 0, earliest_fs: int = 0
    ) -> Completion:
        """Return when the last byte of `descriptor` will have moved, see `memory.Server`."""
        now = int(self.env.now)
        share = self.channels.share(descriptor, origin=origin)
        if not share.moved_bytes:
            done = Completion(self.env, now)
            done.settle(max(now, earliest_fs))
            return done
        phase = self._enter(descriptor, now)
        number = phase.known.get(descriptor.requester)
        if phase.fit is None or number is None:
            if phase.fit is not None:  # somebody comes who showed too little
                phase.forget(phase.exact_fs + WINDOW_INTERVALS * self._interval_fs)
            if not self._is_exact:
                self._return_to_controller(now)
            return self._look(descriptor, share, phase, origin, earliest_fs)
        if self._is_exact:
            self._leave_controller(now)
        return self._serve(descriptor, share, phase, number, phase.fit, earliest_fs)

    def finish(self) -> MemoryTotals:
        """Return what the memory did until now: counted, or scaled from what was counted."""
        self._account(int(self.env.now))
        self._exact.rest()
        counts, read_ticks = self._exact.counters(), Counter[int]()
        exact_bursts = fast_bursts = 0
        time_error_s = activate_error = 0.0
        phases = [phase for phase in self._phases.values() if phase.blocks]
        usual = counts.copy()
        for phase in phases:
            scaled = phase.scaled(usual)
            counts += scaled
            read_ticks.update(phase.read_ticks)
            exact_bursts += sum(block.bursts for block in phase.blocks)
            if phase.fast_reads + phase.fast_writes:
                read_ticks.update(phase.scaled_ticks())
                fast_bursts += phase.fast_reads + phase.fast_writes
                time_error_s = hypot(time_error_s, phase.time_error_s)
                activate_error = hypot(activate_error, phase.activate_error(scaled))
        counts[OPEN] = self._open_ticks(phases)
        sampling = Sampling(
            len(phases),
            exact_bursts,
            fast_bursts,
            time_error_s,
            self._energy_error_j(activate_error, time_error_s),
        )
        return totals_of(
            self.memory,
            counts,
            ticks=self._exact.ticks,
            read_ticks=read_ticks,
            sampling=sampling,
        )

    def _open_ticks(self, phases: Sequence[Phase]) -> int:
        """Return the ticks with a row open of all ranks, scaled by the time it could be open."""
        counts = sum(int(counted(phase.blocks)[OPEN]) for phase in phases)
        exact_fs = sum(phase.exact_open_fs for phase in phases)
        fast_fs = sum(phase.fast_open_fs for phase in phases)
        scaled = counts * (exact_fs + fast_fs) // max(1, exact_fs)
        return min(scaled, self._exact.ticks * self.channels.ranks)

    def _energy_error_j(self, activates: float, time_s: float) -> float:
        """Return the error that follows for the energy: of rows opened, and of time at rest."""
        prices, spec = self.memory.prices(), self.memory.spec
        rest_w = prices["memory", "closed_tick"].value_j * self.channels.ranks / spec.tick_s
        return hypot(activates * prices["memory", "activate"].value_j, time_s * rest_w)

    def _enter(self, descriptor: Descriptor, now: int) -> Phase:
        """Return the phase that a descriptor belongs to, and close what came before."""
        kind = self._kinds.get(descriptor)
        if kind is None:
            kind = self._kinds[descriptor] = kind_of(descriptor, self._burst_bytes)
        phase = self._phase
        if self._last.get(kind[0]) != kind:
            self._last[kind[0]] = kind
            key = tuple(sorted(self._last.values()))
            if key not in self._phases:
                self._phases[key] = Phase(WINDOW_INTERVALS * self._interval_fs)
            phase = self._phases[key]
        if phase is not self._phase or now >= self._since_fs + self._interval_fs:
            self._account(now)
            self._phase = phase
            self._judge(phase, now)
        return phase

    def _account(self, now: int) -> None:
        """Close the present block, of the present phase."""
        time_fs = max(0, now - self._since_fs)
        if self._is_exact:
            counts = self._exact.counters()
            self._phase.note(Block(time_fs, counts - self._counts))
            self._counts = counts
        else:
            self._phase.fast_fs += time_fs
        self._since_fs += time_fs

    def _judge(self, phase: Phase, now: int) -> None:
        """Find out whether a phase is known by now, or should be looked at again."""
        window_fs = WINDOW_INTERVALS * self._interval_fs
        if phase.fit is not None:
            if phase.fast_fs >= AGAIN * window_fs << phase.wanted_fs // window_fs - 1:
                phase.forget(phase.wanted_fs + window_fs)
        elif phase.exact_fs >= phase.wanted_fs:
            if self._is_exact:
                self._leave_controller(now)
            phase.learn(buses=self.channels.buses, block_fs=self._interval_fs)

    def _leave_controller(self, now: int) -> None:
        """Let the controller be done with what it has; the channels are free after that."""
        done_fs = self._exact.drain()
        self._account(max(now, done_fs))
        find_held(self._in_a_row, self._holding_fs)
        self._in_a_row.clear()
        self._is_exact = False
        last = self._before[1]
        taken_fs = now if last is None or last.served is None else last.served.taken_fs
        self._idle_fs = max(now, taken_fs)
        self._alone = None
        self._free_fs = [self._idle_fs] * len(self._free_fs)

    def _return_to_controller(self, now: int) -> None:
        """Let the controller go on after what was promised without it."""
        self._account(now)
        self._is_exact = True
        self._before = self._phase, None
        self._counts = self._exact.counters()

    def _look(
        self, descriptor: Descriptor, share: Share, phase: Phase, origin: int, earliest_fs: int
    ) -> Completion:
        """Let the controller serve a descriptor, after what was promised without it."""
        done = self._exact.submit(
            descriptor, origin=origin, earliest_fs=earliest_fs, not_before_fs=self._idle_fs
        )
        arrival_fs = max(int(self.env.now), self._idle_fs)
        last_phase, last = self._before
        follows = last is not None and last_phase is phase
        before = None if follows else last
        look = Look(descriptor.requester, descriptor.is_write, arrival_fs, share, follows, before)
        self._before = phase, look
        self._in_a_row.append(look)
        phase.looks.append(look)
        self._looks[done] = phase, look
        return done

    def _watch(self, done: Completion, served: Served) -> None:
        """Note what the controller did with a descriptor."""
        phase, look = self._looks.pop(done)
        phase.watch(look, served)
        phase.exact_open_fs += self._stay_open(look.arrival_fs, served.taken_fs)

    def _serve(
        self,
        descriptor: Descriptor,
        share: Share,
        phase: Phase,
        number: int,
        service: Fit,
        earliest_fs: int,
    ) -> Completion:
        """Put a descriptor on its channels with the service of its phase."""
        now = int(self.env.now)
        begin = max(now, self._idle_fs)
        last = self._take_turns(now, service.factor[number], share)
        phase.fast_busy_fs += max(0, self._idle_fs - begin)
        phase.fast_open_fs += self._stay_open(now, last)
        phase.fast_delay_error_fs += service.delay_error_fs[number]
        taken_fs = max(now, last + round(service.delay_fs[number]))
        stats = self.statistics.setdefault(descriptor.requester, RequesterStats())
        stats.descriptors += 1
        stats.queued_fs += max(0, min(taken_fs, begin + round(service.accept_fs[number])) - now)
        bursts = share.moved_bytes // self._burst_bytes
        done = Completion(self.env, now)
        if descriptor.is_write:
            stats.write_bytes += share.moved_bytes
            stats.total_fs += taken_fs - now
            phase.fast_writes += bursts
            done.settle(max(taken_fs, earliest_fs))
            if phase.held_fs is not None and share.longest_fs >= self._holding_fs:
                self._hold(begin, taken_fs + phase.held_fs)
            return done
        stats.read_bytes += share.moved_bytes
        phase.fast_reads += bursts
        reading = Reading(done, taken_fs + phase.late_fs[number], earliest_fs, stats)
        if phase.held_fs is None:
            reading.settle()
        else:
            self._reading.append(reading)
            self._wait_for(reading)
        return done

    def _stay_open(self, first_fs: int, last_fs: int) -> int:
        """Return the time that accesses from first to last add to that with rows open.

        Rows stay open until a refresh closes them.
        """
        closed_fs = -(-last_fs // self._interval_fs) * self._interval_fs
        added_fs = max(0, closed_fs - max(first_fs, self._open_fs))
        self._open_fs = max(self._open_fs, closed_fs)
        return added_fs

    def _take_turns(self, now: int, factor: float, share: Share) -> int:
        """Put a descriptor on its buses behind what is there; returns when the last is done."""
        if self._idle_fs <= now:
            self._alone = now, factor, share
            self._idle_fs = now + round(factor * share.longest_fs)
            return self._idle_fs
        free = self._free_fs
        if self._alone is not None:
            start, own, first = self._alone
            self._alone = None
            free[:] = [start] * len(free)
            for bus, busy in first.busy:
                free[bus] = start + round(own * busy)
        last = now
        for bus, busy in share.busy:
            free[bus] = end = max(free[bus], now) + round(factor * busy)
            last = max(last, end)
        self._idle_fs = max(self._idle_fs, last)
        return last

    def _hold(self, from_fs: int, until_fs: int) -> None:
        """Let what would be done after a time be done no sooner than another time."""
        for reading in self._reading:
            if reading.done_fs > from_fs:
                reading.done_fs = max(reading.done_fs, until_fs)

    def _wait_for(self, reading: "Reading") -> None:
        """Let a read be done when its time has come, if it is not held until then."""
        event = self.env.timeout(reading.done_fs - int(self.env.now))
        event.callbacks.append(partial(self._end, reading))

    def _end(self, reading: "Reading", _: simpy.Event) -> None:
        if reading.done_fs > self.env.now:
            self._wait_for(reading)
        else:
            self._reading.remove(reading)
            reading.settle()


@dataclass(eq=False, slots=True)
class Reading:
    """A read without the controller: when it will be done if nothing holds it."""

    done: Completion
    done_fs: int
    earliest_fs: int
    stats: RequesterStats

    def settle(self) -> None:
        """Let it be done then."""
        self.stats.total_fs += self.done_fs - self.done.submitted_fs
        self.done.settle(max(self.done_fs, self.earliest_fs))
