"""Whole utterances side by side: each core serves one at a time, all share the memory.

Here the cores of a chip divide nothing (`cores.split: utterances`). Who is free takes the next
utterance in order and runs its calls one after the other, with constants kept from call to call but
not from utterance to utterance. Every core fetches its own weights, even where another has just
fetched the same ones, so that the time of an utterance depends on what runs beside it.
"""

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from hwmodels.architecture import Architecture, MemoryTechnology
from hwmodels.bandwidth import Watch
from hwmodels.chip import Chip, chip
from hwmodels.collector import paused_collector
from hwmodels.cores import together
from hwmodels.division import divide
from hwmodels.energy import EnergyTable, Ledger
from hwmodels.layout import Layout, place
from hwmodels.machine import Ground, Machine, Outcome
from hwmodels.memory import Process
from hwmodels.pattern import Patterns, setting
from hwmodels.plan import Plan
from hwmodels.residency import Kept
from hwmodels.results import collect, memory_shares
from hwmodels.simulate import plan_cores
from hwmodels.stats import RunStats, combine
from hwmodels.windows import materialised
from hwmodels.workload import Workload

if TYPE_CHECKING:
    from hwmodels.exact_memory import Dram  # brings numba, which only the controller needs
    from hwmodels.measured_memory import MeasuredMemory  # brings numba


@dataclass(frozen=True)
class Turn:
    """One utterance: its core, counted from 0, array cycles of begin and end, and what it took."""

    core: int
    start: int
    end: int
    stats: RunStats


@dataclass(frozen=True)
class Batch:
    """Utterances in order, and the whole: time until the last is done, sums of everything else."""

    turns: tuple[Turn, ...]
    whole: RunStats

    @property
    def throughput_hz(self) -> float:
        """Utterances per second."""
        return len(self.turns) / self.whole.seconds


@dataclass(frozen=True)
class _Call:
    """One call as it ran: of which utterance, on which core, what was planned and when."""

    utterance: int
    core: int
    name: str
    plan: Plan
    machine: Machine


def simulate_batch(
    utterances: Sequence[Sequence[Workload]],
    architecture: Architecture,
    *,
    technology: MemoryTechnology,
    energy: EnergyTable,
    dram: "Dram | None" = None,
    measured: "MeasuredMemory | None" = None,
    watch: Watch | None = None,
) -> Batch:
    """Return what becomes of utterances, each a sequence of calls, that are all there at time 0.

    `watch` is told what moves when.
    Raises ValueError for no utterance, for an utterance without calls, for cores that divide calls,
    for a memory that cannot hold what all cores work on, and as `hwmodels.simulate.simulate`.
    """
    problems = []
    if architecture.cores.split != "utterances":
        problems.append(
            f'{architecture.name}: cores.split: found "{architecture.cores.split}", expected '
            '"utterances" for a batch'
        )
    if not utterances or not all(utterances):
        problems.append(f"utterances: found {len(utterances)}, expected some, each with calls")
    if problems:
        raise ValueError("\n".join(problems))
    found = chip(architecture, technology=technology, energy=energy, dram=dram, measured=measured)
    if architecture.mapping.im2col == "materialised":
        utterances = [[materialised(call) for call in calls] for calls in utterances]
    batch = _Batch(utterances, found, watch).run()
    if watch is not None:
        watch.close(batch.whole.cycles.total * architecture.array.period_fs)
    return batch


class _Batch:
    """Cores that take utterances from one queue, on one memory."""

    def __init__(
        self, utterances: Sequence[Sequence[Workload]], on: Chip, watch: Watch | None
    ) -> None:
        self.utterances = utterances
        self.on = on
        self.patterns = Patterns(setting(on.architecture, on.technology, on.prices))
        channels = self.patterns.setting.channels
        serve = on.serve(channels)
        if watch is not None:
            serve = watch.serve(serve, *on.buses(channels))
        self.ground = Ground(channels, serve)
        self.queue = deque(range(len(utterances)))
        self.calls: list[_Call] = []
        layouts = iter(
            place([call for calls in utterances for call in calls], on.architecture, on.technology)
        )
        self.layouts = [[next(layouts) for _ in calls] for calls in utterances]
        self.rooms = _rooms(self.layouts, on.architecture, on.technology)

    @paused_collector()
    def run(self) -> Batch:
        """Return the statistics of all utterances and of the whole."""
        clock, count = self.ground.clock, self.on.architecture.cores.count
        for end in [clock.process(self._core(core)) for core in range(count)]:
            clock.run(until=end)
        events, totals = clock.count_events(), self.ground.server.finish()
        statistics = self.ground.server.statistics.items()
        memory = {name: dict(vars(stats)) for name, stats in statistics}
        timelines = tuple(call.machine.timeline() for call in self.calls)
        outcome = Outcome(timelines, events, memory, totals)
        plans = [call.plan for call in self.calls]
        ledger = Ledger(self.on.prices)
        found = [
            collect(
                call.name,
                call.plan,
                timeline,
                self.on.architecture,
                technology=self.on.technology,
                ledger=ledger,
                shares=shares,
            )
            for call, timeline, shares in zip(
                self.calls, timelines, memory_shares(plans, outcome), strict=True
            )
        ]
        whole = self._whole(found, ledger, is_rest_charged=totals is None)
        whole = replace(
            whole,
            simpy_events=events,
            memory=memory,
            controller=totals,
            notes=(*whole.notes, *self.on.notes),
        )
        return Batch(self._turns(found), whole)

    def _core(self, core: int) -> Process:
        """Serve utterance after utterance on one core."""
        architecture = self.on.architecture
        while self.queue:
            number = self.queue.popleft()
            kept: Kept = ()
            for workload, layout in zip(self.utterances[number], self.layouts[number], strict=True):
                (plan,) = plan_cores(
                    workload,
                    divide(workload, count=1, split="utterances"),
                    architecture,
                    patterns=self.patterns,
                    layout=_moved(layout, self.rooms[core]),
                    kept=(kept,),
                )
                kept = plan.kept
                machine = Machine(plan, architecture, self.ground)
                self.calls.append(_Call(number, core, workload.name, plan, machine))
                yield machine.start()

    def _turns(self, found: Sequence[RunStats]) -> tuple[Turn, ...]:
        """Return what each utterance took, in order."""
        period_fs = self.on.architecture.array.period_fs
        turns = []
        for number in range(len(self.utterances)):
            own = [i for i, call in enumerate(self.calls) if call.utterance == number]
            records = [record for i in own for record in self.calls[i].machine.records]
            start, end = (
                -(-time // period_fs) for time in (records[0].start_fs, records[-1].end_fs)
            )
            stats = combine([found[i] for i in own], name=f"utterance {number}")
            turns.append(Turn(self.calls[own[0]].core, start, end, stats))
        return tuple(turns)

    def _whole(
        self, found: Sequence[RunStats], ledger: Ledger, *, is_rest_charged: bool
    ) -> RunStats:
        """Return all calls as one run, ops of equal name and unit as one."""
        cores = []
        for core in range(self.on.architecture.cores.count):
            own = [run for run, call in zip(found, self.calls, strict=True) if call.core == core]
            nothing = replace(found[0], layers=(), bound_cycles=0)
            cores.append(combine(own, name=f"core {core}") if own else nothing)
        keys: dict[tuple[str, str, str], int] = {}
        numbers = [
            [
                keys.setdefault((layer.name, layer.kind, layer.unit), len(keys))
                for layer in core.layers
            ]
            for core in cores
        ]
        return together(
            f"{len(self.utterances)} utterances",
            cores,
            numbers,
            self.on.architecture,
            ledger=ledger,
            is_rest_charged=is_rest_charged,
        )


def _rooms(
    layouts: Sequence[Sequence[Layout]], architecture: Architecture, technology: MemoryTechnology
) -> list[int]:
    """Return by how many bytes what is no constant lies further on for each core.

    Raises ValueError when the memory is too small for all cores.
    """
    places = [one for own in layouts for layout in own for one in layout.placements.values()]
    turn = architecture.memory.channels * technology.interleave_bytes
    ends = [one.base + one.size_bytes for one in places]
    first = min((one.base for one in places if one.layout != "tile_major"), default=max(ends))
    room = -(-(max(ends) - first) // turn) * turn
    need = first + architecture.cores.count * room
    have = architecture.memory.channels * technology.capacity_bytes
    if need > have:
        raise ValueError(
            f"{architecture.name}: memory: {architecture.memory.channels} channels of "
            f"{technology.name} hold {have} bytes, {architecture.cores.count} utterances at once "
            f"need {need}: {need - have} bytes are missing"
        )
    return [core * room for core in range(architecture.cores.count)]


def _moved(layout: Layout, offset: int) -> Layout:
    """Return a layout whose tensors, but for constants, lie `offset` bytes further on."""
    return Layout(
        {
            name: one if one.layout == "tile_major" else one._replace(base=one.base + offset)
            for name, one in layout.placements.items()
        }
    )
