"""The machine: a SimPy process for the array and the vector unit, events for all that goes beside.

Time is integer femtoseconds; work starts on the next edge of its unit's own clock. Ops run in
order. Within an op the array works on one tile while the vector unit runs the fused ops of the tile
before and the DMA engines fetch and empty others; operands of later ops are fetched ahead while
their buffers have room, once their producers have written them. When a transfer will be done is
mostly known when it begins, so time goes on from the end of a step to the end of the next.

The time line is divided so that each array cycle belongs to one op and one category: to the array
while it works, else to the vector unit while it works, else to what is being waited for.

This is the model of record. `hwmodels.flat` has compiled code for one core on the plain roofline,
which follows this file, `dma` and `memory` line by line and has to change with them: tests compare
every wait and event.
"""

from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial

import simpy

from hwmodels.architecture import Architecture, Buffer
from hwmodels.dma import Clock, Credits, Engine, Flag, Loader, Order, Stream
from hwmodels.mapping import room
from hwmodels.memory import (
    FOREVER_FS,
    Channels,
    Descriptor,
    MemoryServer,
    Process,
    Server,
    bytes_in_latency,
)
from hwmodels.memory_totals import MemoryTotals
from hwmodels.plan import Group, Plan, Port, Source, Step, Target, Written
from hwmodels.stats import Cycles, add
from hwmodels.timeline import Cause, Record, divide


@dataclass(slots=True)
class Tile:
    """A finished tile in the output buffer: how many of its stores are still to finish."""

    stores: int
    size_bytes: int


@dataclass(frozen=True)
class Timeline:
    """Cycles per item of a plan, and what happened while each of its groups ran."""

    cycles: tuple[Cycles, ...]
    records: Sequence[Record]


@dataclass(frozen=True)
class Outcome:
    """The time lines of all cores of one run, its events and its memory statistics.

    `totals` are those of the memory controller, None without one.
    """

    timelines: tuple[Timeline, ...]
    events: int
    memory: dict[str, dict[str, int]]
    totals: MemoryTotals | None = None


Serve = Callable[[Clock], Server]


class Ground:
    """What the machines of a chip share: a clock, a memory, and what they write to it.

    The memory is the one that `serve` returns, or the roofline's.
    """

    def __init__(self, channels: Channels, serve: Serve | None = None) -> None:
        self.clock = clock = Clock()
        self.server = MemoryServer(clock, channels) if serve is None else serve(clock)
        self.ahead_bytes = bytes_in_latency(channels.memory, channels.technology)
        self.writes: dict[Written, Flag] = {}
        self.open_stores: dict[Written, int] = {}

    def written(self, written: Written) -> Flag:
        """Return the flag that all stores of a tensor are done."""
        if written not in self.writes:
            self.writes[written] = Flag(self.clock)
            self.open_stores[written] = written.stores
        return self.writes[written]

    def stored(self, written: Written) -> None:
        """Count a store of a tensor as done."""
        flag = self.written(written)
        self.open_stores[written] -= 1
        if not self.open_stores[written]:
            flag.set()


class Machine:
    """Runs one plan on one core of a chip that stands on `ground`."""

    def __init__(self, plan: Plan, architecture: Architecture, ground: Ground) -> None:
        self.plan = plan
        self.ground = ground
        self.clock = clock = ground.clock
        self.period_fs = architecture.array.period_fs
        self.vector_period_fs = architecture.vector_unit.period_fs
        self.prefetch = architecture.memory.prefetch
        buffers, limits = architecture.buffers, room(architecture)
        self.writer = Engine(clock, ground.server, buffers.output, self.period_fs)
        self.output = Credits(clock, buffers.output.size_bytes)
        self.finished = [Flag(clock) for _ in plan.groups]
        self.records = [Record() for _ in plan.groups]
        self.last_tile: simpy.Event | None = None
        self.fused_fs = 0  # when the vector unit is done with the last tile
        self.stores_left = sum(
            len(group.spills) + sum(group.pattern.stores) for group in plan.groups
        )
        self.stores_done = Flag(clock)
        self.streams: dict[Port, Stream] = {
            "input": self._stream("input", buffers.input, limits.input_bytes),
            "weight": self._stream("weight", buffers.weight, limits.weight_bytes),
        }
        self.loader = Loader(clock, tuple(self.streams.values()), ground.ahead_bytes)

    def _stream(self, port: Port, buffer: Buffer, unit_bytes: int) -> Stream:
        engine = Engine(self.clock, self.ground.server, buffer, self.period_fs)
        orders = self._orders(port)
        return Stream(self.clock, engine, 2 * unit_bytes, orders, prefetch=self.prefetch)

    def start(self) -> simpy.Event:
        """Begin now; returns the event that all is done and written."""
        self.loader.begin()
        return self.clock.process(self._compute())

    def timeline(self) -> Timeline:
        """Return the time line of the plan, once all is done.

        Raises RuntimeError when the cycles of an op do not sum to its time: a fault of this model.
        """
        cycles: dict[int, Cycles] = {}
        for group, record in zip(self.plan.groups, self.records, strict=True):
            for item, found in divide(group, record, self.period_fs).items():
                known = cycles.get(item)
                cycles[item] = found if known is None else add([(known, 1), (found, 1)], Cycles)
        return Timeline(tuple(cycles[i] for i in sorted(cycles)), tuple(self.records))

    def _orders(self, port: Port) -> Iterator[Order]:
        """Yield the loads through a port, with what each tensor's first load has to wait for."""
        first_step = 0
        for group in self.plan.groups:
            known: set[int] = set()
            for load in group.pattern.loads[port]:
                source = group.sources[load.source]
                producers: Iterable[Flag] = ()
                if load.source not in known:
                    known.add(load.source)
                    producers = self._producers(source)
                yield first_step + load.step, load, source.address, producers
            first_step += len(group.pattern.steps)

    def _producers(self, source: Source) -> Iterator[Flag]:
        """Yield what must have happened before a tensor can be loaded."""
        if source.after_group >= 0:
            yield self.finished[source.after_group]
        for written in source.after:
            yield self.ground.written(written)

    def _compute(self) -> Process:
        """Run the groups in order, then wait for the last store."""
        for group, record, finished in zip(
            self.plan.groups, self.records, self.finished, strict=True
        ):
            record.start_fs = self.clock.now
            if group.unit == "array":
                yield from self._until(_edge(record.start_fs, self.period_fs))
            yield from self._group(group, record)
            record.end_fs = self.clock.now
            finished.set()
        if self.records and self.stores_left:
            record = self.records[-1]
            yield from self._wait(record, self.stores_done.wait(), "output", self.plan.groups[-1])
            record.end_fs = self.clock.now

    def _group(self, group: Group, record: Record) -> Process:
        """Run the steps of one group on the array or the vector unit."""
        if group.spills:
            yield from self._spill(group, record)
        period_fs = self._period(group)
        for step in group.pattern.steps:
            end_fs = yield from self._begin(step, record, period_fs)
            if step.array is not None:
                end_fs += step.array.total * self.period_fs
            elif step.vector:
                end_fs = self._work(step, group, record, end_fs)
            if end_fs > self.clock.now:
                yield simpy.Timeout(self.clock, end_fs - self.clock.now)
            self._end(step, group, record)
        if self.last_tile is not None and not self.last_tile.processed:
            yield from self._wait(record, self.last_tile, "output", group)

    def _spill(self, group: Group, record: Record) -> Process:
        """Write to memory what has to go before the group begins."""
        for target, descriptor in group.spills:
            self._store(target, descriptor, None)
        for target, _ in group.spills:
            flag = self.ground.written(target.written)
            if not flag.is_set:
                yield from self._wait(record, flag.wait(), "output", group)

    def _begin(
        self, step: Step, record: Record, period_fs: int
    ) -> Generator[simpy.Event, object, int]:
        """Return when a step can begin: its operands are there, and room in the output buffer.

        That may be later than now, as time goes on only until it is known.
        """
        begin = self.clock.now
        for load in step.loads:
            stream = self.streams[load.port]
            is_late = not stream.arrivals
            if is_late:
                yield stream.next_start()
            arrival = stream.arrivals.popleft()
            if arrival.done_fs == FOREVER_FS:
                yield arrival.wait()
            done = arrival.done_fs
            if is_late or done > begin:
                begin = _depend(record, begin, arrival.submitted_fs)
                begin = _stall(record, begin, max(begin, done), load.port, period_fs)
            if load.shift_cycles:
                shifted = done + load.shift_cycles * self.period_fs
                if shifted > begin:
                    begin = _stall(record, begin, shifted, load.port, period_fs)
        if step.opens_bytes:
            event = self.output.take(step.opens_bytes)
            if event is not None:
                yield event
                begin = _stall(record, begin, max(begin, self.clock.now), "output", period_fs)
        return begin

    def _until(self, time_fs: int) -> Process:
        """Let time go on until `time_fs`."""
        if time_fs > self.clock.now:
            yield self.clock.timeout(time_fs - self.clock.now)

    def _wait(self, record: Record, event: simpy.Event, cause: Cause, group: Group) -> Process:
        """Wait for an event and the next edge of the clock of the group's unit."""
        start = self.clock.now
        yield event
        yield from self._until(_stall(record, start, self.clock.now, cause, self._period(group)))

    def _period(self, group: Group) -> int:
        """Return the clock period of a group's unit."""
        return self.vector_period_fs if group.unit == "vector" else self.period_fs

    def _work(self, step: Step, group: Group, record: Record, start_fs: int) -> int:
        """Put the vector work of a step down, op after op, and return when it ends.

        It begins on the first edge of the vector clock from `start_fs`.
        """
        start = start_fs
        end = start + -start % self.vector_period_fs
        for number, cycles in step.vector:
            end += cycles * self.vector_period_fs
            record.vector.append((start, end, group.workers[number]))
            start = end
        return end

    def _end(self, step: Step, group: Group, record: Record) -> None:
        """Give back the operands of a step and pass on its results."""
        for load in step.releases:
            self.streams[load.port].free_bytes += load.credit_bytes
        if step.array is not None and step.vector:
            self._follow(step, group, record)
        elif step.closes_bytes:
            self._empty(step, group)
        if step.releases:
            self.loader.go_on()

    def _follow(self, step: Step, group: Group, record: Record) -> None:
        """Let the vector unit run the fused ops of a finished tile behind those of the last one."""
        now = self.clock.now
        self.fused_fs = self._work(step, group, record, max(now, self.fused_fs))
        self.last_tile = self.clock.timeout(self.fused_fs - now)
        self.last_tile.callbacks.append(partial(self._empty, step, group))

    def _empty(self, step: Step, group: Group, _: simpy.Event | None = None) -> None:
        """Write a finished tile to memory and free its room when that is done."""
        if not step.stores:
            self.output.give(step.closes_bytes)
        tile = Tile(len(step.stores), step.closes_bytes)
        for store in step.stores:
            self._store(group.targets[store.target], store.descriptor, tile)

    def _store(self, target: Target, descriptor: Descriptor, tile: Tile | None) -> None:
        done = self.writer.move(descriptor, origin=target.address)
        done.wait().callbacks.append(partial(self._stored, target.written, tile))

    def _stored(self, written: Written, tile: Tile | None, _: simpy.Event) -> None:
        self.ground.stored(written)
        if tile is not None:
            tile.stores -= 1
            if not tile.stores:
                self.output.give(tile.size_bytes)
        self.stores_left -= 1
        if not self.stores_left:
            self.stores_done.set()


def _edge(time_fs: int, period_fs: int) -> int:
    """Return the first edge from `time_fs` of a clock."""
    return time_fs + -time_fs % period_fs


def _stall(record: Record, begin: int, end: int, cause: Cause, period_fs: int) -> int:
    """Put a wait down, from `begin` to the first edge from `end`, and return when it is over."""
    end = _edge(end, period_fs)
    record.waits.append((begin, end, cause))
    return end


def _depend(record: Record, begin: int, submitted_fs: int) -> int:
    """Put the part of a wait down in which the transfer could not start yet; return its end."""
    if submitted_fs <= begin:
        return begin
    record.waits.append((begin, submitted_fs, "dependency"))
    return submitted_fs


def run(
    plans: Sequence[Plan],
    architecture: Architecture,
    channels: Channels,
    serve: Serve | None = None,
) -> Outcome:
    """Return what happens when each core begins its plan at once, all on one memory.

    Raises RuntimeError when the cycles of an op do not sum to its time: a fault of this model.
    """
    ground = Ground(channels, serve)
    machines = [Machine(plan, architecture, ground) for plan in plans]
    for end in [machine.start() for machine in machines]:
        ground.clock.run(until=end)
    events, totals = ground.clock.count_events(), ground.server.finish()
    memory = {name: dict(vars(stats)) for name, stats in ground.server.statistics.items()}
    return Outcome(tuple(machine.timeline() for machine in machines), events, memory, totals)
