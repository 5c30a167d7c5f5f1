"""Ports and DMA engines of the buffers: what waits for room or for a producer, and what moves when.

The parts of `machine` that move data; like it they run on the SimPy clock.
"""

from collections import deque
from collections.abc import Iterable, Iterator

import simpy

from hwmodels.architecture import Buffer
from hwmodels.memory import Completion, Descriptor, Server
from hwmodels.plan import Load


class Clock(simpy.Environment):
    """An environment in whole femtoseconds that knows how many events it was given."""

    @property
    def now(self) -> int:
        """The time, in femtoseconds."""
        return self._now  # type: ignore[return-value]

    def count_events(self) -> int:
        """Return the number of events scheduled so far; each call uses up one number."""
        return next(self._eid)


class Flag:
    """Something that happens once; only who comes before needs an event to wait for."""

    def __init__(self, clock: Clock) -> None:
        self.clock = clock
        self.is_set = False
        self.event: simpy.Event | None = None

    def wait(self) -> simpy.Event:
        """Return the event to wait for, while the flag is not set."""
        if self.event is None:
            self.event = self.clock.event()
        return self.event

    def set(self) -> None:
        """Let it have happened now."""
        self.is_set = True
        if self.event is not None:
            self.event.succeed()


class Engine:
    """A DMA engine: its port moves `port_bytes` per array cycle while memory does its part."""

    def __init__(self, clock: Clock, server: Server, buffer: Buffer, period_fs: int) -> None:
        self.clock = clock
        self.server = server
        self.port_bytes = buffer.port_bytes
        self.period_fs = period_fs
        self.free_fs = 0

    def move(self, descriptor: Descriptor, *, origin: int = 0) -> Completion:
        """Start a descriptor; returns when memory and port will be done with it."""
        free = max(self.clock.now, self.free_fs)
        if self.port_bytes is not None:
            free += -(-descriptor.size_bytes * self.period_fs // self.port_bytes)
        self.free_fs = free
        return self.server.submit(descriptor, origin=origin, earliest_fs=free)


class Credits:
    """Room in a buffer for one user, who asks for the next piece when he has the last one."""

    def __init__(self, clock: Clock, free_bytes: int) -> None:
        self.clock = clock
        self.free_bytes = free_bytes
        self._asked_bytes = 0
        self._event: simpy.Event | None = None

    def take(self, size_bytes: int) -> simpy.Event | None:
        """Take room; returns None when it was free, else the event that it has become so."""
        if size_bytes <= self.free_bytes:
            self.free_bytes -= size_bytes
            return None
        self._asked_bytes = size_bytes
        self._event = self.clock.event()
        return self._event

    def give(self, size_bytes: int) -> None:
        """Give room back."""
        self.free_bytes += size_bytes
        if self._event is not None and self._asked_bytes <= self.free_bytes:
            self.free_bytes -= self._asked_bytes
            self._event.succeed()
            self._event = None


Order = tuple[Load, int, Iterable[Flag]]  # what to load, from which address on, after what


class Stream:
    """The read engine of one operand buffer: `orders` one by one, as room and producers allow.

    `room` is the streaming part of the buffer. `arrivals` are the loads that were started
    and not yet asked for. No more than `prefetch` loads are on their way, None: no limit but room.
    """

    def __init__(
        self,
        clock: Clock,
        engine: Engine,
        free_bytes: int,
        orders: Iterable[Order],
        *,
        prefetch: int | None = None,
    ) -> None:
        self.clock = clock
        self.engine = engine
        self.room = Credits(clock, free_bytes)
        self.arrivals: deque[Completion] = deque()
        # The last `prefetch` loads; the next takes the place of the oldest.
        self._on_their_way: deque[Completion] = deque(maxlen=prefetch or 0)
        self._waits = self._run(orders)
        self._wanted: simpy.Event | None = None

    def go_on(self, _: simpy.Event | None = None) -> None:
        """Start loads until something has to be waited for."""
        event = next(self._waits, None)
        if event is not None:
            event.callbacks.append(self.go_on)

    def next_start(self) -> simpy.Event:
        """Return the event that the next load starts."""
        self._wanted = self.clock.event()
        return self._wanted

    def _is_full(self) -> bool:
        """Whether as many loads as are allowed are on their way."""
        loads = self._on_their_way
        return 0 < len(loads) == loads.maxlen and loads[0].done_fs > self.clock.now

    def _run(self, orders: Iterable[Order]) -> Iterator[simpy.Event]:
        """Start the loads; yields what has to be waited for.

        The first step needs the first load of every stream, so that the second of each comes after
        these.
        """
        is_first = True
        for load, address, producers in orders:
            for flag in producers:
                if not flag.is_set:
                    yield flag.wait()
            if load.credit_bytes:
                event = self.room.take(load.credit_bytes)
                if event is not None:
                    yield event
            if self._is_full():
                yield self._on_their_way[0].wait()
            done = self.engine.move(load.descriptor, origin=address)
            self.arrivals.append(done)
            self._on_their_way.append(done)
            if self._wanted is not None:
                self._wanted.succeed()
                self._wanted = None
            if is_first:
                is_first = False
                yield self.clock.timeout(0)
