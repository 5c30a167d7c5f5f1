"""Plan and time line into statistics: cycles, bounds, bytes and ledger of every op."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, fields
from operator import attrgetter
from typing import NamedTuple

from hwmodels.architecture import FEMTO, Architecture, MemoryTechnology, ProcessingArray
from hwmodels.conventions import cycles_by
from hwmodels.energy import STATIC, Action, Ledger, extrapolations
from hwmodels.machine import Outcome, Timeline
from hwmodels.memory import peak_bandwidth
from hwmodels.memory_totals import Use, shared_actions
from hwmodels.plan import Group, Plan, Tally, UnitName
from hwmodels.products import array_operands
from hwmodels.rtl_checked import UNCHECKED, Combination, cycles_note
from hwmodels.skipping import sparse_actions
from hwmodels.stats import Cycles, LayerStats, RunStats, Traffic
from hwmodels.upkeep import upkeep_actions
from hwmodels.workload import Gemm, VectorOp, WorkItem

_COUNTS = attrgetter(*(one.name for one in fields(Tally)))


class Done(NamedTuple):
    """An op as it ran: its counts and cycles, where, and the work of its group without any wait.

    That is the head's; ops behind it have none.
    """

    tally: Tally
    cycles: Cycles
    unit: UnitName
    is_head: bool
    work_fs: int


@dataclass
class Layers:
    """Statistics of ops of earlier plans on one chip.

    `known` has them by tally and cycles: a tally that plans share tells by its `id` which op it is
    of. `equal` has them by all that they depend on but the name of the op, then by name.
    """

    known: dict[tuple[int, ...], tuple[Tally, LayerStats]] = field(default_factory=dict)
    equal: dict[tuple[object, ...], dict[str, LayerStats]] = field(default_factory=dict)

    def again(self, tally: Tally, cycles: Cycles) -> LayerStats | None:
        """Return the statistics of a tally that took as many cycles before, None if none did."""
        known = self.known.get((id(tally), *vars(cycles).values()))
        return None if known is None else known[1]

    def of(
        self, item: WorkItem, done: Done, make: Callable[[WorkItem, Done], LayerStats]
    ) -> LayerStats:
        """Return the statistics of an op, by `make` where no equal op ran so before."""
        cycles = tuple(vars(done.cycles).values())
        key = *_COUNTS(done.tally), *cycles, *done[2:], *_facts(item)
        equal = self.equal.setdefault(key, {})
        layer = equal.get(item.name)
        if layer is None:
            one = next(iter(equal.values()), None)
            same = None if one is None else vars(one) | {"name": item.name}
            layer = equal[item.name] = make(item, done) if same is None else LayerStats(**same)
        self.known[id(done.tally), *cycles] = done.tally, layer
        return layer


def _facts(item: WorkItem) -> tuple[object, ...]:
    """Return all of an op that its statistics depend on beside its counts, but for its name."""
    if isinstance(item, Gemm):
        sizes = item.count, item.m, item.n, item.k
        return item.kind, *sizes, item.a_number, item.w_number, item.a_density
    return item.kind, item.function if isinstance(item, VectorOp) else None


def collect(
    name: str,
    plan: Plan,
    timeline: Timeline,
    architecture: Architecture,
    *,
    technology: MemoryTechnology,
    ledger: Ledger,
    shares: Sequence[dict[Action, int]] = (),
    known: Layers | None = None,
) -> RunStats:
    """Return the statistics of one core, one `LayerStats` per item of its plan.

    `shares` are what each item is charged of the memory's commands and rest; without them it pays
    for bits. What the memory itself counted is left out, as all cores share it. `known` are layers
    of earlier plans on the same chip, and takes those of this one.
    """
    array = architecture.array
    peak = peak_bandwidth(architecture.memory, technology)
    known = Layers() if known is None else known
    layers: list[LayerStats] = []
    busy_fs = 0

    def make(item: WorkItem, done: Done, share: dict[Action, int] | None = None) -> LayerStats:
        return _layer(item, done, architecture, peak=peak, ledger=ledger, share=share)

    for group in plan.groups:
        work_fs = _work_fs(group, architecture)
        busy_fs += work_fs
        head = group.items[0]
        for index in group.items:
            tally, cycles = plan.tallies[index], timeline.cycles[index]
            layer = None if shares else known.again(tally, cycles)
            if layer is None:
                is_head, item = index == head, plan.items[index]
                unit, own_fs = (group.unit, work_fs) if is_head else ("vector", 0)
                done = Done(tally, cycles, unit, is_head, own_fs)
                layer = make(item, done, shares[index]) if shares else known.of(item, done, make)
            layers.append(layer)
    return RunStats(
        name=name,
        layers=tuple(layers),
        clock_hz=array.clock_hz,
        cells=array.rows * array.columns,
        peak_bytes_per_s=peak,
        bound_cycles=bound_cycles(busy_fs, [layer.traffic for layer in layers], architecture, peak),
        simpy_events=0,
        memory={},
        convention=array.convention or "",
        warnings=(*plan.warnings, *extrapolations(ledger.prices)),
        notes=plan.notes,
    )


def _layer(
    item: WorkItem,
    done: Done,
    architecture: Architecture,
    *,
    peak: float | None,
    ledger: Ledger,
    share: dict[Action, int] | None,
) -> LayerStats:
    """Return the statistics of an op; `share` is what it is charged of the memory."""
    array = architecture.array
    tally, cycles, unit, is_head, work_fs = done
    traffic = _traffic(tally)
    is_on_array = unit == "array"
    actions = _actions(tally, cycles, sparse_actions(array)) | _core(array, cycles)
    actions |= upkeep_actions(item, tally, architecture, array_cycles=cycles.array, is_head=is_head)
    if array.gating == "activations" and isinstance(item, Gemm) and tally.array_macs:
        actions |= _gated(item, tally)
    if share is not None:
        actions = {name: n for name, n in actions.items() if name[0] != "memory"}
        actions |= share
    return LayerStats(
        name=item.name,
        kind=item.kind,
        unit=unit,
        dataflow=array.dataflow if is_on_array else "",
        schedule=array.schedule if is_on_array else "",
        drain=array.drain if is_on_array else "",
        sparsity=array.sparsity if is_on_array else "",
        mapping=tally.mapping,
        cycles=cycles,
        bound_cycles=bound_cycles(work_fs, [traffic], architecture, peak),
        macs=item.macs if isinstance(item, Gemm) else 0,
        array_macs=tally.array_macs,
        traffic=traffic,
        energy=ledger.rows(actions),
        cells=array.rows * array.columns,
        cycles_note=_cycles_note(array, item, tally) if is_on_array else "",
        convention_cycles=_convention_cycles(array, item) if is_on_array else None,
        products=tally.array_speed / (array.rows * array.columns) or 1.0,
    )


def memory_shares(plans: Sequence[Plan], outcome: Outcome) -> list[list[dict[Action, int]]]:
    """Return what each op of each core is charged of the memory's commands and rest.

    Empty without a memory controller, as bits are charged then. A core that is done early pays
    nothing for the memory's rest until the others are.
    """
    if outcome.totals is None:
        return [[] for _ in plans]
    uses = [
        [
            Use(tally.dram_read, tally.dram_write, cycles.total)
            for tally, cycles in zip(plan.tallies, timeline.cycles, strict=True)
        ]
        for plan, timeline in zip(plans, outcome.timelines, strict=True)
    ]
    found = iter(shared_actions(outcome.totals.actions, [use for own in uses for use in own]))
    return [[next(found) for _ in own] for own in uses]


def _cycles_note(array: ProcessingArray, item: WorkItem, tally: Tally) -> str:
    """Return what to say about the array's cycles of a GEMM, empty when RTL confirms them."""
    if not isinstance(item, Gemm):
        return ""
    if tally.is_stretched:
        return UNCHECKED
    return cycles_note(
        Combination(
            array.dataflow, array.schedule, array.drain, array_operands(item), array.sparsity
        )
    )


def _convention_cycles(array: ProcessingArray, item: WorkItem) -> int | None:
    """Return what the chip's convention counts for a GEMM, one operand per cell and cycle."""
    if array.convention is None or not isinstance(item, Gemm):
        return None
    return item.count * cycles_by(
        array.convention,
        array.dataflow,
        m=item.m,
        n=item.n,
        k=item.k,
        rows=array.rows,
        columns=array.columns,
    )


def _traffic(tally: Tally) -> Traffic:
    return Traffic(
        tally.dram_read,
        tally.dram_write,
        tally.input_buffer_read,
        tally.input_buffer_write,
        tally.weight_buffer_read,
        tally.weight_buffer_write,
        tally.output_buffer_read,
        tally.output_buffer_write,
        tally.partial_sums_read,
        tally.partial_sums_written,
    )


def _work_fs(group: Group, architecture: Architecture) -> int:
    """Return the femtoseconds of the group's head without any wait; fused ops run beside it."""
    pattern = group.pattern
    return (
        pattern.work.total * architecture.array.period_fs
        + pattern.head_cycles * architecture.vector_unit.period_fs
    )


def bound_cycles(
    work_fs: int, traffics: Iterable[Traffic], architecture: Architecture, peak: float | None
) -> int:
    """Return the larger of the work without any wait and the bytes at peak bandwidth."""
    work = -(-work_fs // architecture.array.period_fs)
    if peak is None:
        return work
    moved = sum(traffic.dram for traffic in traffics)
    return max(work, int(moved * FEMTO / peak) // architecture.array.period_fs)


def _gated(gemm: Gemm, tally: Tally) -> dict[Action, int]:
    """Return the multiply-accumulates of a GEMM with and without an activation of zero.

    All of them count as without where nobody measured the activations.
    """
    density = 1.0 if gemm.a_density is None else gemm.a_density
    switched = round(tally.array_macs * density)
    return {
        ("array", tally.array_action): switched,
        ("array", "gated_mac"): tally.array_macs - switched,
    }


def _core(array: ProcessingArray, cycles: Cycles) -> dict[Action, int]:
    """Return the cycles in which a core feeds the array that is one of its units."""
    return {("core", "cycle"): cycles.array} if array.coupling is not None else {}


def _actions(tally: Tally, cycles: Cycles, sparse: tuple[str, ...]) -> dict[Action, int]:
    """Return how often each priced action happened; static ones once per array cycle.

    `sparse` are the actions of the array's policy for zeros.
    """
    actions: dict[Action, int] = {
        ("vector_unit", "vector_mac"): tally.vector_macs,
        ("vector_unit", "vector_op"): tally.vector_operations,
        ("memory", "read_bit"): 8 * tally.dram_read,
        ("memory", "write_bit"): 8 * tally.dram_write,
    }
    if tally.array_macs:
        actions["array", tally.array_action] = tally.array_macs
        actions["array", "dequantize"] = tally.dequantized
        actions["array", "rescale"] = tally.array_rescales
    used = tally.indices_decoded, tally.words_moved
    actions |= {("array", name): count for name, count in zip(sparse, used, strict=False)}
    actions |= {
        ("input_buffer", "read_byte"): tally.input_buffer_read,
        ("input_buffer", "write_byte"): tally.input_buffer_write,
        ("weight_buffer", "read_byte"): tally.weight_buffer_read,
        ("weight_buffer", "write_byte"): tally.weight_buffer_write,
        ("output_buffer", "read_byte"): tally.output_buffer_read,
        ("output_buffer", "write_byte"): tally.output_buffer_write,
    }
    actions |= dict.fromkeys(STATIC, cycles.total)
    return actions
