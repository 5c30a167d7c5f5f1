"""Ports and DMA engines of the buffers: what waits for room or for a producer, and what moves when.

The parts of `machine` that move data; like it they run on the SimPy clock.
"""

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from operator import attrgetter

import simpy

from hwmodels.architecture import Buffer
from hwmodels.memory import FOREVER_FS, Completion, Descriptor, Server
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


Order = tuple[int, Load, int, Iterable[Flag]]  # for which step, what, from where on, after what


class Stream:
    """The read engine of one operand buffer, and its `orders` in turn.

    `step` is the step that needs the next load, FOREVER_FS behind the last one.
    `free_bytes` are free of the streaming part of the buffer. `arrivals` are the loads that were
    started and not yet asked for. No more than `prefetch` loads are on their way, None: no limit
    but room.
    """

    def __init__(
        self,
        clock: Clock,
        engine: Engine,
        free_bytes: int,
        orders: Iterator[Order],
        *,
        prefetch: int | None = None,
    ) -> None:
        self.clock = clock
        self.engine = engine
        self.free_bytes = free_bytes
        self.arrivals: deque[Completion] = deque()
        # The last `prefetch` loads; the next takes the place of the oldest.
        self._on_their_way: deque[Completion] = deque(maxlen=prefetch or 0)
        self._orders = orders
        self._take_next()
        self._event: simpy.Event | None = None
        self._wanted: simpy.Event | None = None

    def _take_next(self) -> None:
        self._next = next(self._orders, None)
        self.step = FOREVER_FS if self._next is None else self._next[0]

    @property
    def size_bytes(self) -> int:
        """Bytes of the next load, 0 behind the last one."""
        return 0 if self._next is None else self._next[1].descriptor.size_bytes

    def next_start(self) -> simpy.Event:
        """Return the event that the next load starts."""
        self._wanted = self.clock.event()
        return self._wanted

    def is_ready(self, wake: Callable[[simpy.Event], None]) -> bool:
        """Whether the next load can start; if not, `wake` is called when it may be.

        It is not called when only room is missing: whoever gives that knows.
        """
        if self._next is None:
            return False
        _, load, _, producers = self._next
        if load.credit_bytes > self.free_bytes or self._is_waiting():
            return False
        self._event = self._hindrance(producers)
        if self._event is None:
            return True
        self._event.callbacks.append(wake)
        return False

    def start(self) -> Completion:
        """Start the next load, which is ready; returns when it will be done."""
        if self._next is None:
            raise RuntimeError("no load is left to start")
        _, load, address, _ = self._next
        self._take_next()
        self.free_bytes -= load.credit_bytes
        done = self.engine.move(load.descriptor, origin=address)
        self.arrivals.append(done)
        self._on_their_way.append(done)
        if self._wanted is not None:
            self._wanted.succeed()
            self._wanted = None
        return done

    def _is_waiting(self) -> bool:
        """Whether somebody is still to be woken; a timeout is `triggered` from its beginning on."""
        event = self._event
        if event is None:
            return False
        return not (event.processed if isinstance(event, simpy.Timeout) else event.triggered)

    def _hindrance(self, producers: Iterable[Flag]) -> simpy.Event | None:
        """Return what the next load has to wait for besides room, None for nothing."""
        for flag in producers:
            if not flag.is_set:
                return flag.wait()
        loads = self._on_their_way
        if 0 < len(loads) == loads.maxlen and loads[0].done_fs > self.clock.now:
            return loads[0].wait()
        return None


_STEP = attrgetter("step")


class Loader:
    """Starts the loads of several streams in the order of the steps that need them.

    While a stream has no room for its next load, or that waits for its producer, the others go on
    with loads of later steps, but start none while more than `ahead_bytes` are on their way behind
    the oldest of those: what is needed sooner does not queue up behind many of them.
    """

    def __init__(self, clock: Clock, streams: Sequence[Stream], ahead_bytes: float) -> None:
        self.clock = clock
        self.streams = streams
        self.ahead_bytes = ahead_bytes
        self._early: deque[tuple[Completion, int]] = deque()  # loads of later steps, with bytes
        self._early_bytes = 0  # of all these
        self._awaited: Completion | None = None

    def begin(self) -> None:
        """Start the first load of each stream, and others once all cores have done so."""
        for stream in self.streams:
            if stream.is_ready(self.go_on):
                stream.start()
        self.clock.timeout(0).callbacks.append(self.go_on)

    def go_on(self, _: simpy.Event | None = None) -> None:
        """Start loads until something has to be waited for."""
        while self._start_next():
            pass

    def _start_next(self) -> bool:
        """Start the first load that can start; returns whether there was one."""
        blocked = FOREVER_FS  # the first step that has to wait for a load
        for stream in sorted(self.streams, key=_STEP):
            if stream.step == FOREVER_FS:
                break
            is_early = stream.step > blocked
            if stream.is_ready(self.go_on):
                if is_early and not self._may_be_early():
                    break
                size = stream.size_bytes if is_early else 0
                done = stream.start()
                if is_early:
                    self._early.append((done, size))
                    self._early_bytes += size
                return True
            blocked = min(blocked, stream.step)
        return False

    def _may_be_early(self) -> bool:
        """Whether a load of a later step may start; if not, `go_on` is called when one is done."""
        early = self._early
        while early and early[0][0].done_fs <= self.clock.now:
            self._early_bytes -= early.popleft()[1]
        if not early or self._early_bytes - early[0][1] <= self.ahead_bytes:
            return True
        if early[0][0] is not self._awaited:
            self._awaited = early[0][0]
            self._awaited.wait().callbacks.append(self.go_on)
        return False
