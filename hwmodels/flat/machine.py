"""A plan on the plain roofline, run by compiled code: what `hwmodels.machine.run` returns."""

from collections.abc import Sequence
from functools import cached_property
from typing import overload

import numpy as np

from hwmodels.architecture import FEMTO, Architecture
from hwmodels.dram.jit import Integers
from hwmodels.flat.division import divide_all
from hwmodels.flat.loop import execute
from hwmodels.flat.patterns import FlatPatterns
from hwmodels.flat.plan import FlatPlan, Sizes, flatten
from hwmodels.flat.state import (
    ARRIVAL,
    CARRY,
    CHANNEL,
    CHIP,
    EARLY,
    EVENT,
    FLAG,
    LOG,
    REQUESTER,
    RUN,
    SPAN,
    STORE,
    TILE,
    State,
)
from hwmodels.machine import Outcome, Timeline
from hwmodels.mapping import room
from hwmodels.memory import Channels, RequesterStats, bytes_in_latency
from hwmodels.plan import Group, Plan
from hwmodels.stats import Cycles
from hwmodels.timeline import Cause, Record, divide

LONGEST_FS = 1 << 60
"""Times in compiled code stay below."""
CAUSES: tuple[Cause, ...] = ("input", "weight", "output", "dependency")


def run_compiled(
    plan: Plan, architecture: Architecture, channels: Channels, patterns: FlatPatterns
) -> Outcome | None:
    """Return what happens on one core, None where that might take longer than 64 bits hold.

    `patterns` are those of the chip so far. Raises RuntimeError as `hwmodels.machine.run`.
    """
    flat, sizes = flatten(plan, patterns)
    chip = _chip(architecture, channels)
    if _longest_fs(sizes, len(plan.groups), chip) >= LONGEST_FS:
        return None
    run, state = _begin(flat, sizes, chip, architecture, len(patterns.requesters))
    execute(chip, run, flat, state)
    period_fs = architecture.array.period_fs
    workers = int(flat.groups["worker_stop"].max(initial=0))
    rows: Integers = np.zeros((workers, len(Cycles.__dataclass_fields__)), dtype=np.int64)
    wrong = divide_all(flat.groups, state.logs, state.waits, state.spans, period_fs, rows)
    records = Records(plan.groups, state)
    if wrong >= 0:
        divide(plan.groups[wrong], records[wrong], period_fs)  # which says what is wrong
    timeline = Timeline(_by_item(plan.groups, rows), records)
    memory = _statistics(patterns.requesters, state.requesters)
    return Outcome((timeline,), int(run["turn"]), memory)


def _chip(architecture: Architecture, channels: Channels) -> np.void:
    """Return the record of `CHIP`."""
    chip: np.void = np.zeros(1, CHIP)[0]
    memory, technology, buffers = channels.memory, channels.technology, architecture.buffers
    chip["period_fs"] = architecture.array.period_fs
    chip["vector_period_fs"] = architecture.vector_unit.period_fs
    ports = [buffer.port_bytes for buffer in (buffers.input, buffers.weight, buffers.output)]
    chip["port_bytes"] = [0 if port is None else port for port in ports]
    chip["prefetch"] = architecture.memory.prefetch or 0
    chip["ahead_bytes"] = bytes_in_latency(memory, technology)
    chip["channels"] = channels.buses
    chip["burst_bytes"] = channels.shape.burst_bytes
    chip["interleave_bytes"] = channels.shape.interleave_bytes
    chip["turn_bytes"] = channels.shape.turn_bytes
    if technology.peak_bytes_per_s is not None:
        chip["bytes_per_s"] = technology.peak_bytes_per_s.value * technology.efficiency.value
    chip["latency_fs"] = round(technology.latency_s.value * FEMTO)
    return chip


def _longest_fs(sizes: Sizes, groups: int, chip: np.void) -> float:
    """Return a time that nothing exceeds: of all there is to do, one thing after the other.

    And no product on the way to it: that of a descriptor's bytes and a clock period.
    """
    moves = sizes.loads + sizes.stores
    bursts_bytes = sizes.moved_bytes + 2 * float(chip["burst_bytes"]) * sizes.rows
    periods_fs = float(chip["period_fs"] + chip["vector_period_fs"])
    edges = 3 * moves + 4 * sizes.steps + 4 * groups + sizes.works
    ports = [float(port) for port in chip["port_bytes"] if port]
    time_fs = (
        periods_fs * (sizes.array_cycles + sizes.vector_cycles + edges)
        + moves * (float(chip["latency_fs"]) + float(chip["channels"]) + 1)
        + sum(sizes.moved_bytes * periods_fs / port for port in ports)
    )
    if chip["bytes_per_s"]:
        time_fs += bursts_bytes * FEMTO / float(chip["bytes_per_s"])
    return max(time_fs, sizes.most_bytes * periods_fs if ports else 0.0)


def _begin(
    flat: FlatPlan, sizes: Sizes, chip: np.void, architecture: Architecture, requesters: int
) -> tuple[np.void, State]:
    """Return the state before the first event, with room for all that happens."""
    groups, limits = len(flat.groups), room(architecture)
    flags = np.zeros(groups + len(sizes.open_stores), FLAG)
    flags["open_stores"][groups:] = sizes.open_stores
    moves = sizes.loads + sizes.stores
    state = State(
        flags=flags,
        events=np.zeros(moves + sizes.steps + len(flags) + 8, EVENT),
        arrivals=np.zeros(2 * sizes.loads, ARRIVAL),
        early=np.zeros(sizes.loads, EARLY),
        tiles=np.zeros(sizes.steps, TILE),
        stores=np.zeros(sizes.stores, STORE),
        channels=np.zeros(int(chip["channels"]), CHANNEL),
        requesters=np.zeros(requesters, REQUESTER),
        logs=np.zeros(groups, LOG),
        waits=np.zeros(3 * moves + sizes.steps + 2 * groups + 1, SPAN),
        spans=np.zeros(sizes.works, SPAN),
    )
    run: np.void = np.zeros(1, RUN)[0]
    run["groups"] = groups
    run["output_bytes"] = architecture.buffers.output.size_bytes
    run["free_bytes"] = 2 * limits.input_bytes, 2 * limits.weight_bytes
    run["stores_left"] = sizes.stores
    run["load"] = flat.groups["load"][0] - 1 if groups else 0
    run["flag"] = -1
    run["early_awaited"] = -1
    return run, state


class Records(Sequence[Record]):
    """What happened while each group ran, put together when somebody asks."""

    def __init__(self, groups: Sequence[Group], state: State) -> None:
        self.groups = groups
        self.state = state

    @cached_property
    def _all(self) -> tuple[Record, ...]:
        waits, spans = self.state.waits, self.state.spans
        found = []
        for group, log in zip(self.groups, self.state.logs, strict=True):
            own = waits[log["wait"] : log["wait_stop"]].tolist()
            work = spans[log["span"] : log["span_stop"]].tolist()
            found.append(
                Record(
                    int(log["start_fs"]),
                    int(log["end_fs"]),
                    [(start, end, CAUSES[cause]) for start, end, cause in own],
                    [(start, end, group.workers[number]) for start, end, number in work],
                )
            )
        return tuple(found)

    def __len__(self) -> int:
        return len(self.groups)

    @overload
    def __getitem__(self, index: int) -> Record: ...

    @overload
    def __getitem__(self, index: slice) -> Sequence[Record]: ...

    def __getitem__(self, index: int | slice) -> Record | Sequence[Record]:
        return self._all[index]

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Sequence) and self._all == tuple(other)

    def __hash__(self) -> int:
        return hash(self._all)


def _by_item(groups: Sequence[Group], rows: Integers) -> tuple[Cycles, ...]:
    """Return the cycles of each item in order, from those that each group's workers took."""
    workers = np.array([item for group in groups for item in group.workers], dtype=np.int64)
    items, own = np.unique(workers, return_inverse=True)
    sums = np.zeros((len(items), rows.shape[1]), dtype=np.int64)
    np.add.at(sums, own, rows)
    found = [tuple(row) for row in sums.tolist()]
    known = {row: Cycles(*row) for row in set(found)}  # few, as most items hide behind others
    return tuple([known[row] for row in found])


def _statistics(
    requesters: dict[tuple[str, bool], int], counted: np.ndarray
) -> dict[str, dict[str, int]]:
    """Return memory statistics by requester, in the order in which they came first."""
    found: dict[str, RequesterStats] = {}
    for (name, is_write), number in sorted(
        requesters.items(), key=lambda one: int(counted[one[1]]["first"])
    ):
        own = {field: int(counted[number][field]) for field in REQUESTER.names or ()}
        if not own["descriptors"]:
            continue
        stats = found.setdefault(name, RequesterStats())
        stats.descriptors += own["descriptors"]
        stats.total_fs += own["total_fs"] + CARRY * own["carries"]
        if is_write:
            stats.write_bytes += own["bytes"]
        else:
            stats.read_bytes += own["bytes"]
    return {name: dict(vars(stats)) for name, stats in found.items()}
