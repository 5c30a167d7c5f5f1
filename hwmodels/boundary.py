"""Where a machine stands between two groups of its plan, relative to the time and to the groups.

Two machines that stand alike and have alike groups ahead go on alike. All times here are counted
from the boundary, all groups from the one that begins there; what is over by then is left out. The
memory is the roofline's, first come first served, for one core.
"""

from bisect import bisect_right
from collections import Counter
from collections.abc import Callable, Collection
from dataclasses import dataclass
from functools import partial
from itertools import accumulate
from typing import NamedTuple

import simpy

from hwmodels.machine import Machine, Tile
from hwmodels.memory import Completion, MemoryServer
from hwmodels.plan import Group, Plan, Port, Written

PORTS: tuple[Port, ...] = ("input", "weight")

EXHAUSTED = -1
"""The group of the next load of a stream that has none left."""


class Line(NamedTuple):
    """A stream: its next load by group and number in it, its room, its port, its loads to come.

    `arrivals_fs` are when loads arrive that no step has asked for yet, as far as it matters: 0 for
    what is there, less for what has to be shifted in from there. `is_held`: the next load is the
    first of its group and waits for another group or for a write.
    """

    group: int
    load: int
    free_bytes: int
    port_fs: int
    arrivals_fs: tuple[int, ...]
    is_held: bool


class Reach(NamedTuple):
    """How far ahead a stream has looked: numbers of groups from the boundary on.

    It knows the loads of the first `loads`, and what those of the first `waits` wait for. One more
    than there are where it saw that no more come.
    """

    loads: int
    waits: int


class Due(NamedTuple):
    """Something that will happen `wait_fs` after the boundary: a stream goes on, or a store ends.

    The store is of result `target` of `group` (spills count down from -1), and of the tile with
    that number in `Boundary.tiles`, -1 for none.
    """

    wait_fs: int
    port: Port | None
    group: int = 0
    target: int = 0
    tile: int = -1


class Boundary(NamedTuple):
    """All that decides how a machine goes on. Phases are those of the two clocks.

    `channels_fs` are when the channels of the memory are free, `tiles` the stores left and bytes of
    finished tiles that are being written. The streams `waiting` wait for a group or for room.
    """

    phase_fs: int
    vector_phase_fs: int
    lines: tuple[Line, ...]
    writer_fs: int
    output_bytes: int
    fused_fs: int
    channels_fs: tuple[int, ...]
    due: tuple[Due, ...]
    tiles: tuple[tuple[int, int], ...]
    waiting: tuple[Port, ...]

    def reaches(self, groups_left: int) -> tuple[Reach, ...]:
        """Return how far ahead each stream had looked; there are so many groups left."""
        return tuple(
            [
                Reach(groups_left + 1, groups_left + 1)
                if line.group == EXHAUSTED
                else Reach(line.group + (not line.is_held), line.group + 1)
                for line in self.lines
            ]
        )

    def oldest(self) -> int:
        """Return how many groups ago the oldest store that is still due was begun."""
        return max((-due.group for due in self.due), default=0)


@dataclass(frozen=True)
class Places:
    """Where loads and writes of a plan are found: loads begun before each group, by port."""

    loads: dict[Port, tuple[int, ...]]
    writes: dict[Written, tuple[int, int]]


def places(plan: Plan) -> Places:
    """Return which group does each load and each write of a plan."""
    loads: dict[Port, tuple[int, ...]] = {
        port: tuple(
            accumulate((len(group.pattern.loads[port]) for group in plan.groups), initial=0)
        )
        for port in PORTS
    }
    writes = {
        written: (number, index)
        for number, group in enumerate(plan.groups)
        for index, written in _writes(group)
    }
    return Places(loads, writes)


def _writes(group: Group) -> list[tuple[int, Written]]:
    """Return what a group writes: results by number, spills counted down from -1."""
    found = [(index, target.written) for index, target in enumerate(group.targets)]
    found += [(-1 - index, target.written) for index, (target, _) in enumerate(group.spills)]
    return found


def boundary(machine: Machine, number: int, where: Places) -> Boundary | None:
    """Return where a machine stands as group `number` is to begin, just when the last has ended.

    None where something goes on that has no place in a boundary.
    """
    now = machine.clock.now
    tiles: dict[int, int] = {}
    sizes: list[tuple[int, int]] = []
    due: list[Due] = []
    for time_fs, callback in _callbacks(machine):
        port = next((p for p, s in machine.streams.items() if callback == s.go_on), None)
        if port is not None:
            due.append(Due(time_fs - now, port))
            continue
        if not isinstance(callback, partial) or callback.func != machine.end_store:
            return None
        written, tile = callback.args
        group, target = where.writes[written]
        if tile is not None and id(tile) not in tiles:
            tiles[id(tile)] = len(tiles)
            sizes.append((tile.stores, tile.size_bytes))
        named = -1 if tile is None else tiles[id(tile)]
        due.append(Due(time_fs - now, None, group - number, target, named))
    return Boundary(
        now % machine.period_fs,
        now % machine.vector_period_fs,
        tuple([_line(machine, port, number, where) for port in PORTS]),
        max(0, machine.writer.free_fs - now),
        machine.output.free_bytes,
        max(0, machine.fused_fs - now),
        server_of(machine).busy_fs(),
        tuple(due),
        tuple(sizes),
        _waiting(machine, {one.port for one in due}),
    )


def server_of(machine: Machine) -> MemoryServer:
    """Return the memory of a machine; TypeError unless it is the roofline's."""
    server = machine.ground.server
    if not isinstance(server, MemoryServer):
        raise TypeError(f"a boundary needs the memory of the roofline, found {type(server)}")
    return server


def _waiting(machine: Machine, due: Collection[Port | None]) -> tuple[Port, ...]:
    """Return the streams that wait for what is not known to come, the first to be told first."""
    waiting = {port: stream for port, stream in machine.streams.items() if port not in due}

    def place(port: Port) -> int:
        stream = waiting[port]
        told = stream.waits_for.callbacks if stream.waits_for else None
        return told.index(stream.go_on) if told else 0

    return tuple(sorted(waiting, key=place))


def _callbacks(machine: Machine) -> list[tuple[int, Callable[[simpy.Event], None]]]:
    """Return when somebody will be told of what, in order."""
    return [
        (time_fs, callback)
        for time_fs, event in machine.clock.coming()
        for callback in event.callbacks or ()
    ]


def _line(machine: Machine, port: Port, number: int, where: Places) -> Line:
    """Return where a stream stands. Room that it was given and did not take yet is free."""
    stream, begun = machine.streams[port], where.loads[port]
    now, groups = machine.clock.now, machine.plan.groups
    arrivals = []
    for ordinal, arrival in enumerate(stream.arrivals, stream.started - len(stream.arrivals)):
        group = bisect_right(begun, ordinal) - 1
        load = groups[group].pattern.loads[port][ordinal - begun[group]]
        arrivals.append(max(arrival.done_fs - now, -load.shift_cycles * machine.period_fs))
    group, load_number, is_held = EXHAUSTED, 0, False
    if stream.started < begun[-1]:
        own = bisect_right(begun, stream.started) - 1
        group, load_number = own - number, stream.started - begun[own]
        is_held = not load_number and stream.is_held
    return Line(
        group,
        load_number,
        stream.room.free_bytes + stream.granted_bytes,
        max(0, stream.engine.free_fs - now),
        tuple(arrivals),
        is_held,
    )


def resume(machine: Machine, at: Boundary, number: int, where: Places) -> None:
    """Let a machine that has not begun stand where another stood as group `number` was to begin.

    Raises RuntimeError when something goes on that waited there: a fault of this model.
    """
    clock, groups = machine.clock, machine.plan.groups
    server_of(machine).hold(at.channels_fs)
    machine.writer.free_fs = clock.now + at.writer_fs
    machine.output.free_bytes = at.output_bytes
    machine.fused_fs = clock.now + at.fused_fs
    _skip(machine, number, at)
    for port, line in zip(PORTS, at.lines, strict=True):
        stream = machine.streams[port]
        group = len(groups) if line.group == EXHAUSTED else number + line.group
        stream.engine.free_fs = clock.now + line.port_fs
        stream.room.free_bytes = line.free_bytes
        stream.resume(
            machine.orders(port, group, line.load),
            where.loads[port][group] + line.load,
            arrivals=[_arrival(machine, wait_fs) for wait_fs in line.arrivals_fs],
        )
    tiles = [Tile(stores, size_bytes) for stores, size_bytes in at.tiles]
    for due in at.due:
        event = clock.timeout(due.wait_fs)
        if due.port is not None:
            event.callbacks.append(machine.streams[due.port].go_on)
            continue
        written = dict(_writes(groups[number + due.group]))[due.target]
        tile = None if due.tile < 0 else tiles[due.tile]
        event.callbacks.append(partial(machine.end_store, written, tile))
    for port in at.waiting:
        stream = machine.streams[port]
        started = stream.started
        stream.go_on()
        if stream.started != started:
            raise RuntimeError(f"group {number}: the {port} stream waits for nothing")


def _skip(machine: Machine, number: int, at: Boundary) -> None:
    """Let all groups before `number` be done, but for the stores that are still due."""
    groups = machine.plan.groups
    machine.first = number
    left = Counter((number + due.group, due.target) for due in at.due if due.port is None)
    for own, group in enumerate(groups[:number]):
        machine.finished[own].is_set = True
        for target, written in _writes(group):
            machine.ground.resume(written, left=left[own, target])
    machine.stores_left = left.total() + sum(
        len(group.spills) + sum(group.pattern.stores) for group in groups[number:]
    )


def _arrival(machine: Machine, wait_fs: int) -> Completion:
    """Return a load that was started and arrives `wait_fs` from now, or did before."""
    arrival = Completion(machine.clock, machine.clock.now)
    arrival.done_fs = machine.clock.now + wait_fs
    return arrival
