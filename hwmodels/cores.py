"""Several cores as one run: the time of the slowest, the sums of everything else.

Each core has a ledger of its own, in which every cycle of the run is accounted for: a core that is
done before the others waits for them as its last row, and goes on to leak. The run's cycles are
those of the core that is done last (the first of them), op by op; bytes, products and joules are
those of all cores.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace

from hwmodels.architecture import Architecture
from hwmodels.energy import STATIC, Action, EnergyRow, Ledger, sum_rows
from hwmodels.results import bound_cycles
from hwmodels.stats import Cycles, LayerStats, RunStats, Traffic, add

IDLE = "idle"
"""Name and kind of the row of a core that waits for the others to be done."""


def together(
    name: str,
    cores: Sequence[RunStats],
    numbers: Sequence[Sequence[int]],
    architecture: Architecture,
    *,
    ledger: Ledger,
    is_rest_charged: bool,
) -> RunStats:
    """Return the runs of all cores of a chip, begun at once, as one.

    `numbers` say which item of the whole each layer of a core is a part of. A core that waits pays
    its part of the memory's rest where `is_rest_charged`, not where the layers have paid for all of
    it. What the memory counted is left to the caller.
    """
    total = max(run.cycles.total for run in cores)
    slowest = next(number for number, run in enumerate(cores) if run.cycles.total == total)
    static = [action for action in STATIC if is_rest_charged or action[0] != "memory"]
    whole = [_wait(run, total, ledger, static) for run in cores]
    layers: dict[int, dict[int, LayerStats]] = {}
    last = max((number for own in numbers for number in own), default=-1) + 1  # of the idle rows
    for core, (run, own) in enumerate(zip(whole, numbers, strict=True)):
        for layer, number in zip(run.layers, (*own, last), strict=False):
            layers.setdefault(number, {})[core] = layer
    peak = cores[0].peak_bytes_per_s
    traffics = [layer.traffic for run in whole for layer in run.layers]
    return RunStats(
        name=name,
        layers=tuple(
            _sum(layers[number], slowest, architecture, peak) for number in sorted(layers)
        ),
        clock_hz=cores[0].clock_hz,
        cells=sum(run.cells for run in cores),
        peak_bytes_per_s=peak,
        bound_cycles=max(
            *(run.bound_cycles for run in cores), bound_cycles(0, traffics, architecture, peak)
        ),
        simpy_events=0,
        memory={},
        convention=cores[0].convention,
        warnings=cores[0].warnings,
        notes=cores[0].notes,
        cores=tuple(whole),
    )


def core_rows(run: RunStats) -> list[dict[str, object]]:
    """Return what each core of a run did, as flat rows; none for a run on one core."""
    return [
        {
            "core": number,
            "busy_cycles": core.cycles.array + core.cycles.vector,
            "idle_cycles": sum(x.cycles.total for x in core.layers if x.kind == IDLE),
            **{f"{name}_cycles": value for name, value in vars(core.cycles).items()},
            "macs": core.macs,
            "dram_bytes": core.traffic.dram,
            "energy_j": core.energy_j,
        }
        for number, core in enumerate(run.cores)
    ]


def speed_up(alone: RunStats, run: RunStats) -> float:
    """Return how many times as fast a run is as the same work on one core of the same kind."""
    return alone.cycles.total / run.cycles.total


def efficiency(alone: RunStats, run: RunStats) -> float:
    """Return the speed-up per core: 1 where n cores take an n-th of the time."""
    return speed_up(alone, run) / max(1, len(run.cores))


def _wait(run: RunStats, total: int, ledger: Ledger, static: Sequence[Action]) -> RunStats:
    """Return the run of a core with a last row in which it waits until cycle `total`."""
    idle = total - run.cycles.total
    if not idle:
        return run
    row = LayerStats(
        name=IDLE,
        kind=IDLE,
        unit="dma",
        dataflow="",
        schedule="",
        drain="",
        sparsity="",
        mapping="",
        cycles=Cycles(stall_dependency=idle),
        bound_cycles=0,
        macs=0,
        array_macs=0,
        traffic=Traffic(),
        energy=ledger.rows(dict.fromkeys(static, idle)),
        cells=run.cells,
    )
    return replace(run, layers=(*run.layers, row))


def _sum(
    parts: Mapping[int, LayerStats], slowest: int, architecture: Architecture, peak: float | None
) -> LayerStats:
    """Return one op as the sum of its parts by core, with the cycles of the slowest core."""
    found = list(parts.values())
    mappings = dict.fromkeys(part.mapping for part in found)
    notes = dict.fromkeys(part.cycles_note for part in found if part.cycles_note)
    conventions = [p.convention_cycles for p in found if p.convention_cycles is not None]
    traffic = add([(part.traffic, 1) for part in found], Traffic)
    energy: list[tuple[EnergyRow, int]] = [(row, 1) for part in found for row in part.energy]
    return replace(
        found[0],
        mapping=found[0].mapping if len(mappings) == 1 else f"{len(mappings)} mappings",
        cycles=parts[slowest].cycles if slowest in parts else Cycles(),
        bound_cycles=max(
            *(part.bound_cycles for part in found), bound_cycles(0, [traffic], architecture, peak)
        ),
        macs=sum(part.macs for part in found),
        array_macs=sum(part.array_macs for part in found),
        traffic=traffic,
        energy=sum_rows(energy),
        cells=architecture.cores.count * found[0].cells,
        cycles_note="; ".join(notes),
        convention_cycles=max(conventions, default=None),
    )
