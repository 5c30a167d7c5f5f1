"""Workload and chip in, cycles, bytes and joules out: one call, or the calls of an utterance."""

import sys
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from hwmodels.architecture import Architecture, MemoryTechnology
from hwmodels.bandwidth import Watch
from hwmodels.chip import Chip, chip
from hwmodels.collector import paused_collector, tidy
from hwmodels.cores import together
from hwmodels.division import Divided, divide, with_parts
from hwmodels.energy import EnergyTable, Ledger
from hwmodels.flat.patterns import FlatPatterns
from hwmodels.gemm_steps import judging_notes
from hwmodels.grouped import plan_product
from hwmodels.layout import Layout, place
from hwmodels.machine import Outcome, Serve, run
from hwmodels.numbered import Numbered
from hwmodels.pattern import Patterns, setting
from hwmodels.plan import Exchange, Plan
from hwmodels.planned import PlannedGroups, Recall
from hwmodels.planner import Planner
from hwmodels.residency import Kept
from hwmodels.results import Layers, collect, memory_shares
from hwmodels.sparse_steps import dense_warnings, density_notes, gating_notes
from hwmodels.stats import RunStats
from hwmodels.stream_steps import plan_transfer, plan_vector
from hwmodels.support import require_supported
from hwmodels.windows import materialised
from hwmodels.workload import Gemm, VectorOp, Workload

if TYPE_CHECKING:
    from hwmodels.exact_memory import Dram  # brings numba, which only the controller needs
    from hwmodels.measured_memory import MeasuredMemory  # brings numba


Residency = tuple[Kept, ...]  # of each core
LEAST_STEPS = 5000
"""Steps in a row from which compiled code is loaded: SimPy takes about as long for them."""
COMPILED = "hwmodels.flat.machine"


@dataclass(frozen=True)
class Shared:
    """What the calls of one sequence share: patterns, groups and rows of the ledger made so far.

    `watch` notes what moves when, `reuse` knows calls before, `layers` equal parts of calls, `flat`
    the patterns as compiled code reads them.
    """

    patterns: Patterns
    ledger: Ledger
    planned: PlannedGroups
    watch: Watch | None = None
    reuse: "Reuse | None" = None
    layers: Layers = field(default_factory=Layers)
    flat: FlatPatterns = field(default_factory=FlatPatterns)


@dataclass
class Reuse:
    """Results of calls that were simulated before, for equal work, addresses, chip and residency.

    `hits` and `misses` count. One object may serve any number of chips and utterances. `workloads`
    are those by whose numbers `results` know them.
    """

    results: dict[tuple[object, ...], tuple[RunStats, Residency]] = field(default_factory=dict)
    hits: int = 0
    misses: int = 0
    workloads: Numbered[Workload] = field(default_factory=Numbered)


def simulate(
    workload: Workload,
    architecture: Architecture,
    *,
    technology: MemoryTechnology,
    energy: EnergyTable,
    dram: "Dram | None" = None,
    measured: "MeasuredMemory | None" = None,
    residency: Kept = (),
    reuse: Reuse | None = None,
) -> RunStats:
    """Return cycles, bytes and joules of one call.

    `dram` is the memory of a chip that asks for more than the roofline, `measured` that of a
    roofline at shares measured, `residency` are the
    constants on chip at entry, for chips of one core. Raises ValueError or KeyError, each listing
    every op, field or action concerned, before anything is simulated.
    """
    return simulate_calls(
        [workload],
        architecture,
        technology=technology,
        energy=energy,
        dram=dram,
        measured=measured,
        residency=residency,
        reuse=reuse,
    )[0]


@paused_collector()
def simulate_calls(
    calls: Sequence[Workload],
    architecture: Architecture,
    *,
    technology: MemoryTechnology,
    energy: EnergyTable,
    dram: "Dram | None" = None,
    measured: "MeasuredMemory | None" = None,
    residency: Kept = (),
    reuse: Reuse | None = None,
    watch: Watch | None = None,
) -> list[RunStats]:
    """Return one result per call, e.g. an encoder and its decoding steps, one after the other.

    Constants that are on chip after a call are there for the next; nothing else is, because a token
    is chosen between calls. An exact memory begins each call with its rows closed, one interval
    before its next refresh. Calls equal to one in `reuse` return that very object, and with it an
    exact memory knows busy periods of a call again; add results with `stats.combine`. `watch` is
    told what moves when, in calls that are not reused. Raises as `simulate`.
    """
    found = chip(architecture, technology=technology, energy=energy, dram=dram, measured=measured)
    if architecture.mapping.im2col == "materialised":
        calls = [materialised(call) for call in calls]
    patterns = Patterns(setting(architecture, technology, found.prices))
    shared = Shared(patterns, Ledger(found.prices), PlannedGroups(), watch, reuse)
    count = architecture.cores.count
    if residency and count > 1:
        raise ValueError(
            f"residency: found {len(residency)} constants, expected none: {architecture.name} has "
            f"{count} cores, which keep parts of them"
        )
    results = []
    stays: Residency = (residency, *[()] * (count - 1))
    for workload, layout in zip(calls, place(calls, architecture, technology), strict=True):
        result, stays = _call(workload, found, layout=layout, kept=stays, shared=shared)
        results.append(result)
        tidy()
    return results


def _call(
    workload: Workload, on: Chip, *, layout: Layout, kept: Residency, shared: Shared
) -> tuple[RunStats, Residency]:
    reuse = shared.reuse
    if reuse is None:
        return _simulate(workload, on, layout=layout, kept=kept, shared=shared)
    bases = tuple((name, place.base) for name, place in layout.placements.items())
    key = (reuse.workloads.of(workload), on.key, bases, kept)
    found = reuse.results.get(key)
    if found is None:
        reuse.misses += 1
        found = _simulate(workload, on, layout=layout, kept=kept, shared=shared)
        reuse.results[key] = found
    else:
        reuse.hits += 1
    return found


def _simulate(
    workload: Workload, on: Chip, *, layout: Layout, kept: Residency, shared: Shared
) -> tuple[RunStats, Residency]:
    architecture = on.architecture
    cores = architecture.cores
    divided = divide(workload, count=cores.count, split=cores.split)
    plans = plan_cores(
        workload,
        divided,
        architecture,
        patterns=shared.patterns,
        layout=layout,
        kept=kept,
        planned=shared.planned,
    )
    channels = shared.patterns.setting.channels
    serve = on.serve(channels, is_reusing=shared.reuse is not None)
    if shared.watch is not None:
        serve = shared.watch.serve(serve, *on.buses(channels))
    outcome = _run(plans, architecture, serve, shared)
    shares = memory_shares(plans, outcome)
    found = [
        collect(
            workload.name,
            plan,
            timeline,
            architecture,
            technology=on.technology,
            ledger=shared.ledger,
            shares=own,
            known=shared.layers,
        )
        for plan, timeline, own in zip(plans, outcome.timelines, shares, strict=True)
    ]
    result = found[0]
    if cores.count > 1:
        result = together(
            workload.name,
            found,
            [core.numbers for core in divided.cores],
            architecture,
            ledger=shared.ledger,
            is_rest_charged=outcome.totals is None,
        )
    if shared.watch is not None:
        shared.watch.close(result.cycles.total * architecture.array.period_fs)
    result = replace(
        result,
        simpy_events=outcome.events,
        memory=outcome.memory,
        controller=outcome.totals,
        notes=(*result.notes, *on.notes),
    )
    return result, tuple(plan.kept for plan in plans)


def _run(
    plans: Sequence[Plan], architecture: Architecture, serve: Serve | None, shared: Shared
) -> Outcome:
    """Return what happens; one core on the plain roofline is left to compiled code if that pays."""
    channels = shared.patterns.setting.channels
    is_covered = serve is None and len(plans) == 1 and architecture.memory.arbitration == "fifo"
    if is_covered and _pays(plans[0], shared.flat):
        from hwmodels.flat.machine import run_compiled  # noqa: PLC0415 (brings numba)

        found = run_compiled(plans[0], architecture, channels, shared.flat)
        if found is not None:
            return found
    return run(plans, architecture, channels, serve)


def _pays(plan: Plan, patterns: FlatPatterns) -> bool:
    """Whether compiled code is loaded, or there was so much to do that loading it pays."""
    patterns.asked_steps += sum(len(group.pattern.steps) for group in plan.groups)
    return patterns.asked_steps >= LEAST_STEPS or COMPILED in sys.modules


def plan_workload(
    workload: Workload,
    architecture: Architecture,
    *,
    patterns: Patterns,
    layout: Layout,
    kept: Kept = (),
) -> Plan:
    """Return the plan of a workload on one core that starts with the constants `kept` on chip.

    `patterns` are those of this chip; what is missing is added. Where chunks that hold all that
    fused ops need have no room, nothing but what the program marks is fused, with a warning.

    Raises as `require_supported`, and ValueError naming each op that a buffer is too small for.
    """
    whole = divide(workload, count=1, split="columns")
    (plan,) = plan_cores(
        workload, whole, architecture, patterns=patterns, layout=layout, kept=(kept,)
    )
    return plan


def plan_cores(
    workload: Workload,
    divided: Divided,
    architecture: Architecture,
    *,
    patterns: Patterns,
    layout: Layout,
    kept: Residency,
    planned: PlannedGroups | None = None,
) -> list[Plan]:
    """Return the plan of each core for its part of a workload, planned side by side in its order.

    So what a core reads has been planned to be written. A single core takes groups `planned` in
    earlier calls again, of the same chip and patterns. Raises as `plan_workload`.
    """
    warnings = require_supported(workload, architecture)
    exchange = Exchange(waits=divided.waits)
    places = with_parts(layout, divided, patterns.setting.channels.shape.burst_bytes)
    planners = [
        Planner(
            core.workload,
            architecture,
            patterns=patterns,
            layout=places,
            kept=own,
            exchange=exchange,
            is_apart=core.is_apart,
        )
        for core, own in zip(divided.cores, kept, strict=True)
    ]
    heads = sorted(
        (core.numbers[members[0]], number, members[0])
        for number, (core, planner) in enumerate(zip(divided.cores, planners, strict=True))
        for members in planner.members()
    )
    problems: dict[str, None] = {}
    recall = Recall(planners[0], planned) if planned is not None and len(planners) == 1 else None
    for _, number, index in heads:
        planner, head = planners[number], planners[number].items[index]
        if recall is not None and not problems and recall.take(len(planner.groups)):
            continue
        try:
            if isinstance(head, Gemm):
                plan_product(planner, head)
            elif isinstance(head, VectorOp):
                plan_vector(planner, head)
            else:
                plan_transfer(planner, head)
        except ValueError as error:
            problems |= {f"{head.name}: {line}": None for line in str(error).splitlines()}
        planner.finish_group()
        if recall is not None and not problems:
            recall.note()
    if recall is not None:
        recall.catch_up()
    if problems and architecture.mapping.fusion != "marked":
        apart = replace(architecture, mapping=replace(architecture.mapping, fusion="marked"))
        plans = plan_cores(
            workload,
            divided,
            apart,
            patterns=patterns,
            layout=layout,
            kept=kept,
            planned=planned,
        )
        told = tuple(f"mapping.fusion: marked in {workload.name}: {line}" for line in problems)
        return [replace(plan, warnings=(*plan.warnings, *told)) for plan in plans]
    if problems:
        raise ValueError("\n".join(f"{architecture.name}: {problem}" for problem in problems))
    notes = density_notes(workload.items, architecture.array)
    notes += gating_notes(workload.items, architecture.array)
    notes += judging_notes(workload.items, architecture)
    warnings += dense_warnings(workload.items, architecture.array)
    return [
        Plan(p.items, p.groups, p.counts(), p.kept_constants(), warnings, notes) for p in planners
    ]
