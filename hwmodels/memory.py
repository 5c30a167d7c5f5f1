"""The memory server: descriptors in, completion events out, in integer femtoseconds of SimPy time.

Behind `MemoryServer.submit` stands the roofline model: each channel moves its share of a descriptor
at peak bandwidth times efficiency, and the last byte arrives one latency later. Latencies overlap
with further transfers; bandwidth is shared by all requesters.
"""

import heapq
from collections.abc import Callable, Generator
from dataclasses import dataclass
from functools import lru_cache
from itertools import count
from typing import Any

import numpy as np
import simpy

from hwmodels.architecture import FEMTO, MemoryStack, MemoryTechnology

Process = Generator[simpy.Event, object, None]


@dataclass(frozen=True)
class Descriptor:
    """`rows` runs of `bytes` bytes, `stride` bytes apart, for one requester.

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
    rows, row_bytes = descriptor.rows, descriptor.bytes
    if rows > 1 and descriptor.stride == row_bytes:
        rows, row_bytes = 1, rows * row_bytes
    stride = descriptor.stride if rows > 1 else 0
    return _channel_bytes(shape, descriptor.base % shape.turn_bytes, row_bytes, stride, rows)


@lru_cache(maxsize=65536)
def _channel_bytes(
    shape: BusShape, base: int, row_bytes: int, stride: int, rows: int
) -> tuple[int, ...]:
    burst, turn = shape.burst_bytes, shape.turn_bytes
    starts = base + stride * np.arange(rows, dtype=np.int64)
    stops = -(-(starts + row_bytes) // burst) * burst
    starts = starts // burst * burst
    first = shape.interleave_bytes * np.arange(shape.channels, dtype=np.int64)

    def below(addresses: np.ndarray[Any, np.dtype[np.int64]]) -> Any:
        """Bytes of each channel in [0, address), one row per address."""
        full = (addresses // turn)[:, None] * shape.interleave_bytes
        rest = (addresses % turn)[:, None] - first
        return full + np.clip(rest, 0, shape.interleave_bytes)

    return tuple((below(stops) - below(starts)).sum(axis=0).tolist())


def bus_bytes(shape: BusShape, descriptor: Descriptor) -> int:
    """Return the bytes that the memory moves for a descriptor, in whole bursts."""
    return sum(channel_bytes(shape, descriptor))


def bus_shape(memory: MemoryStack, technology: MemoryTechnology) -> BusShape:
    """Return how the addresses of this stack rotate over its channels."""
    return BusShape(memory.channels, technology.burst_bytes, technology.interleave_bytes)


def peak_bandwidth(memory: MemoryStack, technology: MemoryTechnology) -> float | None:
    """Return the peak bytes per second of all channels in use; None when unlimited."""
    peak = technology.peak_bytes_per_s
    return None if peak is None else peak.value * memory.channels


def service_fs(technology: MemoryTechnology, size_bytes: int) -> int:
    """Return the femtoseconds one channel is busy with `size_bytes`."""
    if technology.peak_bytes_per_s is None:
        return 0
    rate = technology.peak_bytes_per_s.value * technology.efficiency.value
    return -int(-size_bytes * FEMTO // rate)


Waiting = tuple[int, int, Descriptor, int, simpy.Event]  # rank, order, what, since when, done


def after(env: simpy.Environment, delay_fs: int, action: Callable[[], object]) -> None:
    """Do `action` in `delay_fs` femtoseconds."""
    timeout = env.timeout(delay_fs)

    def act(_: simpy.Event) -> None:
        action()

    if timeout.callbacks is not None:
        timeout.callbacks.append(act)


class MemoryServer:
    """One SimPy process that admits descriptors to the channels.

    The next descriptor (first come first served, or by priority) is admitted as soon as one of the
    channels it uses is free; on every channel it then follows what was admitted before.
    """

    def __init__(
        self, env: simpy.Environment, memory: MemoryStack, technology: MemoryTechnology
    ) -> None:
        self.env = env
        self.technology = technology
        self.shape = bus_shape(memory, technology)
        self.statistics: dict[str, RequesterStats] = {}
        self._is_by_priority = memory.arbitration == "priority"
        self._latency_fs = round(technology.latency_s.value * FEMTO)
        self._free_fs = [0] * memory.channels
        self._order = count()
        self._pending: list[Waiting] = []
        self._wake = env.event()
        env.process(self._serve())

    def submit(self, descriptor: Descriptor) -> simpy.Event:
        """Return the event that happens when the last byte of `descriptor` has moved."""
        done = self.env.event()
        rank = descriptor.priority if self._is_by_priority else 0
        entry = (rank, next(self._order), descriptor, int(self.env.now), done)
        heapq.heappush(self._pending, entry)
        if not self._wake.triggered:
            self._wake.succeed()
        return done

    def _serve(self) -> Process:
        while True:
            if not self._pending:
                self._wake = self.env.event()
                yield self._wake
            used = self._shares(self._pending[0][2])
            free = min((self._free_fs[channel] for channel, _ in used), default=0)
            if free > self.env.now:
                yield self.env.timeout(free - self.env.now)
                continue  # somebody with a better priority may have come meanwhile
            _, _, descriptor, submitted, done = heapq.heappop(self._pending)
            self._admit(descriptor, used, submitted, done)

    def _shares(self, descriptor: Descriptor) -> list[tuple[int, int]]:
        shares = channel_bytes(self.shape, descriptor)
        return [(channel, size) for channel, size in enumerate(shares) if size]

    def _admit(
        self, descriptor: Descriptor, used: list[tuple[int, int]], submitted: int, done: simpy.Event
    ) -> None:
        now = int(self.env.now)
        last = now
        for channel, size in used:
            start = max(now, self._free_fs[channel])
            self._free_fs[channel] = start + service_fs(self.technology, size)
            last = max(last, self._free_fs[channel])
        end = last + self._latency_fs
        self._record(descriptor, sum(size for _, size in used), now - submitted, end - submitted)
        after(self.env, end - now, done.succeed)

    def _record(self, descriptor: Descriptor, size: int, queued_fs: int, total_fs: int) -> None:
        stats = self.statistics.setdefault(descriptor.requester, RequesterStats())
        stats.descriptors += 1
        stats.queued_fs += queued_fs
        stats.total_fs += total_fs
        if descriptor.is_write:
            stats.write_bytes += size
        else:
            stats.read_bytes += size
