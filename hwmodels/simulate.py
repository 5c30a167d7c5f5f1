"""Workload and chip in, cycles, bytes and joules out: one call, or the calls of an utterance."""

import gc
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from hwmodels.architecture import Architecture, MemoryTechnology, check
from hwmodels.energy import EnergyTable, Ledger, Prices, prices
from hwmodels.grouped import plan_product
from hwmodels.layout import Layout, place
from hwmodels.machine import Machine
from hwmodels.pattern import Patterns, setting
from hwmodels.plan import Plan
from hwmodels.planner import Planner, require_supported
from hwmodels.residency import Kept
from hwmodels.results import collect
from hwmodels.sparse_chip import sparsity_problems
from hwmodels.sparse_steps import dense_warnings, density_notes, gating_notes
from hwmodels.stats import RunStats
from hwmodels.stream_steps import plan_transfer, plan_vector
from hwmodels.workload import Gemm, VectorOp, Workload

if TYPE_CHECKING:
    from hwmodels.exact_memory import Dram  # brings numba, which only the controller needs


@dataclass(frozen=True)
class Chip:
    """Everything a simulation needs to know besides the workload."""

    architecture: Architecture
    technology: MemoryTechnology
    prices: Prices
    dram: "Dram | None" = None

    @property
    def key(self) -> tuple[object, ...]:
        """What results on this chip depend on."""
        dram = "" if self.dram is None else self.dram.key
        return (self.architecture, self.technology, tuple(self.prices.items()), dram)


@dataclass(frozen=True)
class Shared:
    """What the calls of one sequence share: patterns built and rows of the ledger made so far."""

    patterns: Patterns
    ledger: Ledger


@dataclass
class Reuse:
    """Results of calls that were simulated before, for equal work, addresses, chip and residency.

    `hits` and `misses` count. One object may serve any number of chips and utterances. Workloads
    are kept alive, so that one that comes again as the same object is recognised at once.
    """

    results: dict[tuple[object, ...], tuple[RunStats, Kept]] = field(default_factory=dict)
    hits: int = 0
    misses: int = 0
    _numbers: dict[Workload, int] = field(default_factory=dict)
    _known: dict[int, tuple[Workload, int]] = field(default_factory=dict)

    def number(self, workload: Workload) -> int:
        """Return a number that equal workloads share, and no others."""
        known = self._known.get(id(workload))
        if known is None:
            number = self._numbers.setdefault(workload, len(self._numbers))
            known = self._known[id(workload)] = workload, number
        return known[1]


def chip(
    architecture: Architecture,
    *,
    technology: MemoryTechnology,
    energy: EnergyTable,
    dram: "Dram | None" = None,
) -> Chip:
    """Return a chip whose parts fit each other; `dram` is needed and used with `fidelity: exact`.

    Raises ValueError listing every rule between the fields that is broken, and every action that
    the energy table lacks.
    """
    is_exact = architecture.memory.fidelity == "exact"
    array = architecture.array
    problems = [f"{architecture.name}: {line}" for line in sparsity_problems(array)]
    if is_exact and dram is None:
        problems.append(
            f'{architecture.name}: memory.fidelity: found "exact" without memory.timing, expected '
            "the path of a timing table"
        )
    elif is_exact and dram is not None:
        lines = dram.problems(architecture, technology)
        problems += [f"{architecture.name}: {line}" for line in lines]
    try:
        check(architecture, technology)
    except ValueError as error:
        problems.append(str(error))
    try:
        priced = prices(architecture, technology, energy)
    except ValueError as error:
        problems.append(str(error))
    if problems:
        raise ValueError("\n".join(problems))
    if dram is None or not is_exact:
        return Chip(architecture, technology, priced)
    return Chip(architecture, technology, priced | dram.prices(), dram)


def simulate(
    workload: Workload,
    architecture: Architecture,
    *,
    technology: MemoryTechnology,
    energy: EnergyTable,
    dram: "Dram | None" = None,
    residency: Kept = (),
    reuse: Reuse | None = None,
) -> RunStats:
    """Return cycles, bytes and joules of one call.

    `dram` is the memory of a chip that asks for `fidelity: exact`. `residency` are the constants on
    chip at entry. Raises ValueError or KeyError, each listing
    every op, field or action concerned, before anything is simulated.
    """
    return simulate_calls(
        [workload],
        architecture,
        technology=technology,
        energy=energy,
        dram=dram,
        residency=residency,
        reuse=reuse,
    )[0]


def simulate_calls(
    calls: Sequence[Workload],
    architecture: Architecture,
    *,
    technology: MemoryTechnology,
    energy: EnergyTable,
    dram: "Dram | None" = None,
    residency: Kept = (),
    reuse: Reuse | None = None,
) -> list[RunStats]:
    """Return one result per call, e.g. an encoder and its decoding steps, one after the other.

    Constants that are on chip after a call are there for the next; nothing else is, because a token
    is chosen between calls. An exact memory begins each call with its rows closed, one interval
    before its next refresh. Calls equal to one in `reuse` return that very object; add results with
    `stats.combine`. Raises as `simulate`.
    """
    found = chip(architecture, technology=technology, energy=energy, dram=dram)
    patterns = Patterns(setting(architecture, technology, found.prices))
    shared = Shared(patterns, Ledger(found.prices))
    results = []
    for workload, layout in zip(calls, place(calls, architecture, technology), strict=True):
        result, residency = _call(
            workload, found, layout=layout, kept=residency, shared=shared, reuse=reuse
        )
        results.append(result)
    return results


def _call(
    workload: Workload,
    on: Chip,
    *,
    layout: Layout,
    kept: Kept,
    shared: Shared,
    reuse: Reuse | None,
) -> tuple[RunStats, Kept]:
    if reuse is None:
        return _simulate(workload, on, layout=layout, kept=kept, shared=shared)
    bases = tuple((name, place.base) for name, place in layout.placements.items())
    key = (reuse.number(workload), on.key, bases, kept)
    found = reuse.results.get(key)
    if found is None:
        reuse.misses += 1
        found = _simulate(workload, on, layout=layout, kept=kept, shared=shared)
        reuse.results[key] = found
    else:
        reuse.hits += 1
    return found


@contextmanager
def _paused_collector() -> Iterator[None]:
    """Pause the search for cycles: a call makes many objects and hardly any garbage."""
    is_on = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if is_on:
            gc.enable()


@_paused_collector()
def _simulate(
    workload: Workload, on: Chip, *, layout: Layout, kept: Kept, shared: Shared
) -> tuple[RunStats, Kept]:
    plan = plan_workload(
        workload, on.architecture, patterns=shared.patterns, layout=layout, kept=kept
    )
    serve = None if on.dram is None else on.dram.serve
    timeline = Machine(plan, on.architecture, shared.patterns.setting.channels, serve).run()
    result = collect(
        workload.name,
        plan,
        timeline,
        on.architecture,
        technology=on.technology,
        ledger=shared.ledger,
    )
    return result, plan.kept


def plan_workload(
    workload: Workload,
    architecture: Architecture,
    *,
    patterns: Patterns,
    layout: Layout,
    kept: Kept = (),
) -> Plan:
    """Return the plan of a workload on a chip that starts with the constants `kept` on chip.

    `patterns` are those of this chip; what is missing is added. Where chunks that hold all that
    fused ops need have no room, nothing but what the program marks is fused, with a warning.

    Raises as `require_supported`, and ValueError naming each op that a buffer is too small for.
    """
    warnings = require_supported(workload, architecture)
    planner = Planner(workload, architecture, patterns=patterns, layout=layout, kept=kept)
    problems: list[str] = []
    for members in planner.members():
        head = workload.items[members[0]]
        try:
            if isinstance(head, Gemm):
                plan_product(planner, head)
            elif isinstance(head, VectorOp):
                plan_vector(planner, head)
            else:
                plan_transfer(planner, head)
        except ValueError as error:
            problems += [f"{head.name}: {line}" for line in str(error).splitlines()]
        planner.finish_group()
    if problems and architecture.mapping.fusion != "marked":
        apart = replace(architecture, mapping=replace(architecture.mapping, fusion="marked"))
        plan = plan_workload(workload, apart, patterns=patterns, layout=layout, kept=kept)
        told = tuple(f"mapping.fusion: marked in {workload.name}: {line}" for line in problems)
        return replace(plan, warnings=(*plan.warnings, *told))
    if problems:
        raise ValueError("\n".join(f"{architecture.name}: {problem}" for problem in problems))
    notes = density_notes(workload.items, architecture.array)
    notes += gating_notes(workload.items, architecture.array)
    warnings += dense_warnings(workload.items, architecture.array)
    return Plan(
        workload.items, planner.groups, planner.tallies, planner.kept_constants(), warnings, notes
    )
