"""The machine: SimPy processes for the DMA engines, the array and the vector unit.

Time is integer femtoseconds; work starts on the next edge of its unit's own clock. Ops run in
order. Within an op the array works on one tile while the vector unit runs the fused ops of the tile
before and the DMA engines fetch and empty others; operands of later ops are fetched ahead while
their buffers have room, once their producers have written them.

The time line is divided so that each array cycle belongs to one op and one category: to the array
while it works, else to the vector unit while it works, else to what is being waited for.
"""

from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

import simpy

from hwmodels.architecture import Architecture, Buffer, MemoryTechnology
from hwmodels.mapping import unit_bytes
from hwmodels.memory import Descriptor, MemoryServer, Process, after, call
from hwmodels.plan import Group, Load, Plan, Port, Step, Store, Written
from hwmodels.stats import Cycles
from hwmodels.timeline import Cause, Record, divide


class CountingEnvironment(simpy.Environment):
    """An environment that knows how many events it was given."""

    def count_events(self) -> int:
        """Return the number of events scheduled so far; each call uses up one number."""
        return next(self._eid)


@dataclass
class Credits:
    """Room in a buffer, handed out in order of asking."""

    env: simpy.Environment
    free_bytes: int
    waiting: deque[tuple[int, simpy.Event]] = field(default_factory=deque)

    def take(self, size_bytes: int) -> simpy.Event | None:
        """Take room; returns None when it was free, else the event that it has become so."""
        if not self.waiting and size_bytes <= self.free_bytes:
            self.free_bytes -= size_bytes
            return None
        event = self.env.event()
        self.waiting.append((size_bytes, event))
        return event

    def give(self, size_bytes: int) -> None:
        """Give room back."""
        self.free_bytes += size_bytes
        while self.waiting and self.waiting[0][0] <= self.free_bytes:
            size, event = self.waiting.popleft()
            self.free_bytes -= size
            event.succeed()


@dataclass
class Flag:
    """Something that happens once; who waits later does not wait."""

    env: simpy.Environment
    event: simpy.Event | None = None
    ready_fs: int = -1
    done_fs: int = -1

    def wait(self) -> Iterator[simpy.Event]:
        """Yield the event to wait for, nothing when it has happened."""
        if self.done_fs < 0:
            if self.event is None:
                self.event = self.env.event()
            yield self.event

    def set(self) -> None:
        """Let it have happened now."""
        self.done_fs = int(self.env.now)
        if self.event is not None:
            self.event.succeed()


@dataclass
class Engine:
    """A DMA engine: its port moves `port_bytes` per array cycle while memory does its part."""

    env: simpy.Environment
    server: MemoryServer
    buffer: Buffer
    period_fs: int
    free_fs: int = 0

    def move(self, descriptor: Descriptor, then: Callable[[], object]) -> None:
        """Start a descriptor and do `then` when memory and port are done with it."""
        width = self.buffer.port_bytes
        busy = 0 if width is None else -(-descriptor.size_bytes * self.period_fs // width)
        self.free_fs = max(int(self.env.now), self.free_fs) + busy
        free_fs = self.free_fs

        def arrived() -> None:
            rest = free_fs - int(self.env.now)
            if rest > 0:
                after(self.env, rest, then)
            else:
                then()

        call(self.server.submit(descriptor), arrived)


@dataclass(frozen=True)
class Timeline:
    """Cycles per item, events and memory statistics of one run of a plan."""

    cycles: tuple[Cycles, ...]
    events: int
    memory: dict[str, dict[str, int]]
    records: tuple[Record, ...]


class Machine:
    """Runs one plan on one chip."""

    def __init__(
        self, plan: Plan, architecture: Architecture, *, technology: MemoryTechnology
    ) -> None:
        self.plan = plan
        self.env = CountingEnvironment()
        self.period_fs = architecture.array.period_fs
        self.vector_period_fs = architecture.vector_unit.period_fs
        self.server = MemoryServer(self.env, architecture.memory, technology)
        buffers = architecture.buffers
        self.engines = {
            name: Engine(self.env, self.server, buffer, self.period_fs)
            for name, buffer in vars(buffers).items()
        }
        self.credits: dict[Port, Credits] = {
            "input": Credits(self.env, 2 * unit_bytes(buffers.input.size_bytes)),
            "weight": Credits(self.env, 2 * unit_bytes(buffers.weight.size_bytes)),
        }
        self.output = Credits(self.env, buffers.output.size_bytes)
        self.loads: dict[Port, list[Load]] = {"input": [], "weight": []}
        for load in _loads(plan):
            self.loads[load.port].append(load)
        self.arrivals = {load: Flag(self.env) for load in _loads(plan)}
        self.finished = [Flag(self.env) for _ in plan.groups]
        self.writes: dict[Written, Flag] = {}
        self.open_stores: dict[Written, int] = {}
        self.records = [Record() for _ in plan.groups]
        self.tiles: deque[tuple[Step, Record]] = deque()
        self.tiles_wake: simpy.Event | None = None
        self.tiles_done = Flag(self.env)
        self.stores_left = sum(1 for _ in _stores(plan))
        self.stores_done = Flag(self.env)

    def run(self) -> Timeline:
        """Return the time line of the plan.

        Raises RuntimeError when the cycles of an op do not sum to its time: a fault of this model.
        """
        for port in self.loads:
            self.env.process(self._fetch(port))
        self.env.process(self._epilogues())
        end = self.env.process(self._compute())
        self.env.run(until=end)
        cycles: dict[int, Cycles] = {}
        for group, record in zip(self.plan.groups, self.records, strict=True):
            cycles |= divide(group, record, self.period_fs)
        memory = {name: dict(vars(stats)) for name, stats in self.server.statistics.items()}
        return Timeline(
            tuple(cycles[i] for i in sorted(cycles)),
            self.env.count_events(),
            memory,
            tuple(self.records),
        )

    def _fetch(self, port: Port) -> Process:
        """Run the read engine of one buffer: loads in order, as room and producers allow."""
        for load in self.loads[port]:
            if load.after_group >= 0:
                yield from self.finished[load.after_group].wait()
            for written in load.after:
                yield from self._written(written).wait()
            if load.credit_bytes:
                event = self.credits[port].take(load.credit_bytes)
                if event is not None:
                    yield event
            arrival = self.arrivals[load]
            arrival.ready_fs = int(self.env.now)
            self.engines[port].move(load.descriptor, arrival.set)

    def _compute(self) -> Process:
        """Run the groups in order, then wait for the last store."""
        for group, record, finished in zip(
            self.plan.groups, self.records, self.finished, strict=True
        ):
            record.start_fs = int(self.env.now)
            if group.unit == "array":
                yield from self._align(group)
            yield from self._group(group, record)
            record.end_fs = int(self.env.now)
            finished.set()
        if self.records and self.stores_left:
            record = self.records[-1]
            yield from self._wait(record, self.stores_done, "output", self.plan.groups[-1])
            record.end_fs = int(self.env.now)

    def _group(self, group: Group, record: Record) -> Process:
        """Run the steps of one group on the array or the vector unit."""
        for store in group.spills:
            self._store(store, lambda: None)
        for store in group.spills:
            yield from self._wait(record, self._written(store.written), "output", group)
        for step in group.steps:
            yield from self._prepare(step, record, group)
            if step.array is not None:
                yield self.env.timeout(step.array.total * self.period_fs)
            elif step.vector:
                yield from self._vector(step, record)
            for load in step.releases:
                self.credits[load.port].give(load.credit_bytes)
            if step.array is not None and step.vector:
                self._hand_over(step, record)
            elif step.closes_bytes:
                self._empty(step)
        if self.tiles:
            yield from self._wait(record, self.tiles_done, "output", group)

    def _prepare(self, step: Step, record: Record, group: Group) -> Process:
        """Wait for the operands of a step and for room in the output buffer."""
        for load in step.loads:
            arrival = self.arrivals[load]
            if arrival.done_fs < 0:
                yield from self._wait(record, arrival, load.port, group)
            if step.hidden_load and load.port == "weight":
                late = arrival.done_fs + step.hidden_load * self.period_fs - int(self.env.now)
                if late > 0:
                    yield from self._sleep(record, late, "weight", group)
        if step.opens_bytes:
            event = self.output.take(step.opens_bytes)
            if event is not None:
                start = int(self.env.now)
                yield event
                yield from self._align(group)
                record.waits.append((start, int(self.env.now), "output"))

    def _wait(self, record: Record, flag: Flag, cause: Cause, group: Group) -> Process:
        """Wait for a flag; time before its transfer could start counts as dependency."""
        if flag.done_fs >= 0:
            return
        start = int(self.env.now)
        yield from flag.wait()
        yield from self._align(group)
        end = int(self.env.now)
        if flag.ready_fs > start:
            record.waits.append((start, flag.ready_fs, "dependency"))
            start = flag.ready_fs
        record.waits.append((start, end, cause))

    def _sleep(self, record: Record, delay_fs: int, cause: Cause, group: Group) -> Process:
        start = int(self.env.now)
        yield self.env.timeout(delay_fs)
        yield from self._align(group)
        record.waits.append((start, int(self.env.now), cause))

    def _align(self, group: Group) -> Process:
        """Go on at the next edge of the clock of the group's unit."""
        period = self.vector_period_fs if group.unit == "vector" else self.period_fs
        rest = -int(self.env.now) % period
        if rest:
            yield self.env.timeout(rest)

    def _vector(self, step: Step, record: Record) -> Process:
        """Run the vector work of a step, op after op, from the next edge of the vector clock."""
        start = int(self.env.now)
        end = start + -start % self.vector_period_fs
        for item, cycles in step.vector:
            end += cycles * self.vector_period_fs
            record.vector.append((start, end, item))
            start = end
        yield self.env.timeout(end - int(self.env.now))

    def _hand_over(self, step: Step, record: Record) -> None:
        self.tiles.append((step, record))
        if self.tiles_wake is not None:
            self.tiles_wake.succeed()
            self.tiles_wake = None

    def _epilogues(self) -> Process:
        """Run the fused ops of one finished tile after the other."""
        while True:
            if not self.tiles:
                self.tiles_wake = self.env.event()
                yield self.tiles_wake
            step, record = self.tiles[0]
            yield from self._vector(step, record)
            self.tiles.popleft()
            self._empty(step)
            if not self.tiles:
                done, self.tiles_done = self.tiles_done, Flag(self.env)
                done.set()

    def _empty(self, step: Step) -> None:
        """Write a finished tile to memory and free its room when that is done."""
        left = len(step.stores)
        if not left:
            self.output.give(step.closes_bytes)

        def stored() -> None:
            nonlocal left
            left -= 1
            if not left:
                self.output.give(step.closes_bytes)

        for store in step.stores:
            self._store(store, stored)

    def _store(self, store: Store, then: Callable[[], object]) -> None:
        def done() -> None:
            flag = self._written(store.written)
            self.open_stores[store.written] -= 1
            if not self.open_stores[store.written]:
                flag.set()
            then()
            self.stores_left -= 1
            if not self.stores_left:
                self.stores_done.set()

        self.engines["output"].move(store.descriptor, done)

    def _written(self, written: Written) -> Flag:
        if written not in self.writes:
            self.writes[written] = Flag(self.env)
            self.open_stores[written] = written.stores
        return self.writes[written]


def _loads(plan: Plan) -> Iterator[Load]:
    for group in plan.groups:
        for step in group.steps:
            yield from step.loads


def _stores(plan: Plan) -> Iterator[Store]:
    for group in plan.groups:
        yield from group.spills
        for step in group.steps:
            yield from step.stores
