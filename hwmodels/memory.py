"""The memory server: descriptors in, completion events out, in integer femtoseconds of SimPy time.

Behind `MemoryServer.submit` stands the roofline model: each channel moves its share of a descriptor
at peak bandwidth times efficiency, and the last byte arrives one latency later. Latencies overlap
with further transfers; bandwidth is shared by all requesters. `hwmodels.exact_memory` has the same
server with the cycle-accurate controller behind it, `hwmodels.measured_memory` one with shares of
the peak that were measured there.
"""

import heapq
from collections.abc import Generator
from dataclasses import dataclass
from itertools import count
from math import gcd, inf
from typing import Protocol

import numpy as np
import simpy

from hwmodels.architecture import FEMTO, MemoryStack, MemoryTechnology
from hwmodels.memory_totals import MemoryTotals

Process = Generator[simpy.Event, object, None]


@dataclass(eq=False, slots=True)
class Descriptor:
    """`rows` runs of `bytes` bytes, `stride` bytes apart, for one requester; `base` is the first.

    A smaller `priority` is served first where the stack arbitrates by priority.
    """

    base: int
    bytes: int
    stride: int = 0
    rows: int = 1
    is_write: bool = False
    requester: str = ""
    priority: int = 0

    @property
    def size_bytes(self) -> int:
        """Bytes of all rows."""
        return self.bytes * self.rows


@dataclass
class RequesterStats:
    """What one requester did: bytes on the bus, time queued and time from submission to end."""

    descriptors: int = 0
    read_bytes: int = 0
    write_bytes: int = 0
    queued_fs: int = 0
    total_fs: int = 0


@dataclass(frozen=True)
class BusShape:
    """How addresses rotate over channels."""

    channels: int
    burst_bytes: int
    interleave_bytes: int

    @property
    def turn_bytes(self) -> int:
        """Bytes after which the same channel and offset come round again."""
        return self.channels * self.interleave_bytes


def channel_bytes(shape: BusShape, descriptor: Descriptor) -> tuple[int, ...]:
    """Return the bytes that each channel moves, in whole bursts for every row."""
    burst = shape.burst_bytes
    rows, row_bytes = descriptor.rows, descriptor.bytes
    if descriptor.stride == row_bytes:
        rows, row_bytes = 1, rows * row_bytes
    if rows == 1:
        start = descriptor.base // burst * burst
        stop = -(-(descriptor.base + row_bytes) // burst) * burst
        return _run_bytes(shape, start, stop)
    starts = descriptor.base + descriptor.stride * np.arange(rows, dtype=np.int64)
    stops = -(-(starts + row_bytes) // burst) * burst
    moved = np.zeros(shape.channels, dtype=np.int64)
    for sign, addresses in ((1, stops), (-1, starts // burst * burst)):
        turns, rest = np.divmod(addresses, shape.turn_bytes)
        first = shape.interleave_bytes * np.arange(shape.channels)
        inside = np.clip(rest[:, None] - first, 0, shape.interleave_bytes)  # of the last turn
        moved += sign * (turns[:, None] * shape.interleave_bytes + inside).sum(axis=0)
    return tuple(moved.tolist())


def _run_bytes(shape: BusShape, start: int, stop: int) -> tuple[int, ...]:
    """Return the bytes of [start, stop) on each channel: whole turns, then what is left."""
    turns, left = divmod(stop - start, shape.turn_bytes)
    moved = [turns * shape.interleave_bytes] * shape.channels
    channel, offset = divmod(start % shape.turn_bytes, shape.interleave_bytes)
    while left:
        size = min(left, shape.interleave_bytes - offset)
        moved[channel] += size
        left -= size
        channel, offset = (channel + 1) % shape.channels, 0
    return tuple(moved)


def peak_bandwidth(memory: MemoryStack, technology: MemoryTechnology) -> float | None:
    """Return the peak bytes per second of all channels in use; None when unlimited."""
    peak = technology.peak_bytes_per_s
    return None if peak is None else peak.value * memory.channels


def bytes_in_latency(memory: MemoryStack, technology: MemoryTechnology) -> float:
    """Return the bytes that all channels move in one latency: so many on their way leave no gap."""
    peak = peak_bandwidth(memory, technology)
    if peak is None:
        return inf
    return peak * technology.efficiency.value * technology.latency_s.value


def service_fs(technology: MemoryTechnology, size_bytes: int) -> int:
    """Return the femtoseconds one channel is busy with `size_bytes`."""
    if technology.peak_bytes_per_s is None:
        return 0
    rate = technology.peak_bytes_per_s.value * technology.efficiency.value
    return -int(-size_bytes * FEMTO // rate)


@dataclass(frozen=True)
class Share:
    """What a descriptor asks of the channels: bytes moved, and how long each channel is busy.

    `busy` are pairs of channel and femtoseconds; `longest_fs` is the largest of them.
    """

    moved_bytes: int
    busy: tuple[tuple[int, int], ...]
    longest_fs: int


class Channels:
    """The channels of a stack without a clock: which of them a descriptor keeps busy, how long.

    Knows the descriptors it was asked about, so one object should serve all calls on a chip.
    """

    def __init__(self, memory: MemoryStack, technology: MemoryTechnology) -> None:
        self.memory = memory
        self.technology = technology
        self.buses = memory.channels
        self.shape = BusShape(memory.channels, technology.burst_bytes, technology.interleave_bytes)
        self._turn_bytes = self.shape.turn_bytes
        self._of_descriptors: dict[tuple[Descriptor, int], Share] = {}
        self._of_patterns: dict[tuple[int, int, int, int], Share] = {}

    def share(self, descriptor: Descriptor, *, origin: int = 0) -> Share:
        """Return what a descriptor asks of the channels when its base counts from `origin`."""
        key = descriptor, origin % self._turn_bytes
        found = self._of_descriptors.get(key)
        if found is None:
            base = (descriptor.base + origin) % self._turn_bytes
            pattern = base, descriptor.bytes, descriptor.stride, descriptor.rows
            found = self._of_patterns.get(pattern)
            if found is None:
                found = self._of_patterns[pattern] = self._find(Descriptor(*pattern))
            self._of_descriptors[key] = found
        return found

    def moved_bytes(self, descriptor: Descriptor) -> int:
        """Return the bytes of `share`: whole bursts for every row."""
        burst, base = self.shape.burst_bytes, descriptor.base % self._turn_bytes
        rows, row_bytes, stride = descriptor.rows, descriptor.bytes, descriptor.stride
        if stride == row_bytes:
            rows, row_bytes = 1, rows * row_bytes
        again = burst // gcd(burst, stride)  # so many rows on, one begins alike in a burst
        moved = 0
        for row in range(min(rows, again)):
            start = base + row * stride
            bursts = -(-(start + row_bytes) // burst) - start // burst
            moved += -(-(rows - row) // again) * bursts
        return moved * burst

    def _find(self, descriptor: Descriptor) -> Share:
        sizes = channel_bytes(self.shape, descriptor)
        times = {size: service_fs(self.technology, size) for size in set(sizes)}
        busy = tuple((channel, times[size]) for channel, size in enumerate(sizes) if size)
        return Share(sum(sizes), busy, max(times.values()))


FOREVER_FS = 1 << 80


class Completion:
    """When the last byte of a descriptor has moved, and the event to wait for it.

    `submitted_fs` is when the descriptor was submitted; `done_fs` is when it is done, FOREVER_FS
    until the memory has found that out.
    """

    __slots__ = ("_event", "done_fs", "env", "submitted_fs")

    def __init__(self, env: simpy.Environment, submitted_fs: int) -> None:
        self.env = env
        self.submitted_fs = submitted_fs
        self.done_fs = FOREVER_FS
        self._event: simpy.Event | None = None

    def settle(self, done_fs: int) -> None:
        """Let it be done at `done_fs`, now or later."""
        self.done_fs = done_fs
        if self._event is not None:
            timeout = self.env.timeout(done_fs - int(self.env.now))
            timeout.callbacks.append(self._event.trigger)

    def wait(self) -> simpy.Event:
        """Return an event that happens when it is done; to be asked for before that."""
        if self.done_fs < FOREVER_FS:
            return self.env.timeout(self.done_fs - int(self.env.now))
        if self._event is None:
            self._event = self.env.event()
        return self._event


class Server(Protocol):
    """What stands between the DMA engines and a memory; `statistics` are by requester."""

    statistics: dict[str, RequesterStats]

    def submit(
        self, descriptor: Descriptor, *, origin: int = 0, earliest_fs: int = 0
    ) -> Completion:
        """Return when the last byte of `descriptor` will have moved, not before `earliest_fs`.

        The descriptor's base counts from the address `origin`. `earliest_fs` is when the other end
        of the transfer, a port for instance, is done with it.
        """

    def finish(self) -> MemoryTotals | None:
        """Return what the memory counted once a run is over, None where it keeps no counts."""


Waiting = tuple[int, int, Descriptor, Share, int, Completion]  # rank, order, what, not before, done


class MemoryServer:
    """The channels of a stack and what they have promised.

    `fifo`: every channel serves descriptors in order of submission. `priority`: a descriptor goes
    to its channels once one of them is free, the smallest priority first, and is not interrupted;
    a SimPy process admits those that have to wait.
    """

    def __init__(self, env: simpy.Environment, channels: Channels) -> None:
        self.env = env
        self.channels = channels
        self.statistics: dict[str, RequesterStats] = {}
        self._is_by_priority = channels.memory.arbitration == "priority"
        self._latency_fs = round(channels.technology.latency_s.value * FEMTO)
        self._free_fs = [0] * channels.buses
        self._idle_fs = 0  # when the last channel is free
        self._order = count()
        self._pending: list[Waiting] = []

    def submit(
        self, descriptor: Descriptor, *, origin: int = 0, earliest_fs: int = 0
    ) -> Completion:
        """Return when the last byte of `descriptor` will have moved, see `Server`."""
        now = int(self.env.now)
        share = self.channels.share(descriptor, origin=origin)
        done = Completion(self.env, now)
        if not self._is_by_priority or (not self._pending and self._wait_fs(share) <= 0):
            end = self._admit(descriptor, share, now)
            done.settle(max(end, earliest_fs))
            return done
        entry = (descriptor.priority, next(self._order), descriptor, share, earliest_fs, done)
        heapq.heappush(self._pending, entry)
        if len(self._pending) == 1:
            self.env.process(self._serve())
        return done

    def finish(self) -> None:
        """Return nothing: this model knows no commands."""

    def _serve(self) -> Process:
        """Admit what waits, best first, until nothing does."""
        while self._pending:
            wait_fs = self._wait_fs(self._pending[0][3])
            if wait_fs > 0:
                yield self.env.timeout(wait_fs)
                continue  # somebody with a better priority may have come meanwhile
            _, _, descriptor, share, earliest_fs, done = heapq.heappop(self._pending)
            end = self._admit(descriptor, share, done.submitted_fs)
            done.settle(max(end, earliest_fs))

    def _wait_fs(self, share: Share) -> int:
        """Return how long until the first channel of a share is free."""
        free = self._free_fs
        return min([free[channel] for channel, _ in share.busy], default=0) - int(self.env.now)

    def _admit(self, descriptor: Descriptor, share: Share, submitted: int) -> int:
        """Put a descriptor on its channels; returns when its last byte arrives."""
        now = int(self.env.now)
        free = self._free_fs
        if self._idle_fs <= now:
            for channel, busy in share.busy:
                free[channel] = now + busy
            last = now + share.longest_fs
        else:
            last = now
            for channel, busy in share.busy:
                free[channel] = end = max(free[channel], now) + busy
                last = max(last, end)
        self._idle_fs = max(self._idle_fs, last)
        end = last + self._latency_fs
        stats = self.statistics.get(descriptor.requester)
        if stats is None:
            stats = self.statistics[descriptor.requester] = RequesterStats()
        stats.descriptors += 1
        stats.queued_fs += now - submitted
        stats.total_fs += end - submitted
        if descriptor.is_write:
            stats.write_bytes += share.moved_bytes
        else:
            stats.read_bytes += share.moved_bytes
        return end
