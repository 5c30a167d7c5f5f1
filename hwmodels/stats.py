"""What a simulation found: cycles, bytes and joules per op and per run, and rows for files.

Every total is a sum of parts; nothing here has a formula of its own.
"""

import dataclasses
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Literal, TypeVar

from hwmodels.energy import EnergyRow, sum_rows
from hwmodels.memory_totals import MemoryTotals, add_totals

Unit = Literal["array", "vector", "dma"]
Value = str | int | float | None
Counts = TypeVar("Counts", "Cycles", "Traffic")
Part = TypeVar("Part", "LayerStats", "RunStats")


@dataclass(frozen=True)
class Cycles:
    """Array clock cycles; each cycle of a run belongs to one op and one category.

    `compute`, `fill`, `drain` and `weight_load` are cycles in which the array works, `vector` those
    in which only the vector unit does. In the others neither does: `stall_input` and `stall_weight`
    wait for an operand on its way from memory, `stall_dependency` for an operand whose producer is
    not written back yet, `stall_output` for room in the output buffer or for the last write.
    """

    compute: int = 0
    fill: int = 0
    drain: int = 0
    weight_load: int = 0
    vector: int = 0
    stall_input: int = 0
    stall_weight: int = 0
    stall_output: int = 0
    stall_dependency: int = 0

    @property
    def total(self) -> int:
        """Cycles of all categories."""
        return sum(vars(self).values())

    @property
    def array(self) -> int:
        """Cycles in which the array works."""
        return self.compute + self.fill + self.drain + self.weight_load

    @property
    def stalls(self) -> int:
        """Cycles in which nothing works."""
        return self.stall_input + self.stall_weight + self.stall_output + self.stall_dependency


@dataclass(frozen=True)
class Traffic:
    """Bytes at each level.

    `dram_*` are whole bursts. Partial sums are counted in `partial_sums_*` and, with everything
    else that crosses the array side or the memory side of the output buffer, in `output_buffer_*`.
    """

    dram_read: int = 0
    dram_write: int = 0
    input_buffer_read: int = 0
    input_buffer_write: int = 0
    weight_buffer_read: int = 0
    weight_buffer_write: int = 0
    output_buffer_read: int = 0
    output_buffer_write: int = 0
    partial_sums_read: int = 0
    partial_sums_written: int = 0

    @property
    def dram(self) -> int:
        """Bytes to and from memory."""
        return self.dram_read + self.dram_write


def add(parts: Iterable[tuple[Counts, int]], kind: type[Counts]) -> Counts:
    """Return the field-wise sum of `parts`, each (counts, how many times)."""
    sums = [0] * len(dataclasses.fields(kind))
    for counts, times in parts:
        for number, value in enumerate(vars(counts).values()):
            sums[number] += times * value
    return kind(*sums)


@dataclass(frozen=True)
class LayerStats:
    """One op of a workload on the chip.

    `unit` says where it ran; `dataflow`, `schedule`, `drain` and `sparsity` how, empty off the
    array, and `cycles_note` if nothing but a closed form confirms the array's cycles.
    `convention_cycles` are what the chip's `convention` counts without stalls, None without one.
    `bound_cycles` is a closed form that needs no simulation: the larger of its cycles without any
    wait and its bytes at peak bandwidth; an op whose operands were fetched during earlier ops may
    take fewer cycles than its bytes alone would. `mapping` describes tiles and loop order of a
    GEMM. `products` are those that a cell of the array makes of it per cycle at best. `energy`
    holds the dynamic and static rows of its cycles.
    """

    name: str
    kind: str
    unit: Unit
    dataflow: str
    schedule: str
    drain: str
    sparsity: str
    mapping: str
    cycles: Cycles
    bound_cycles: int
    macs: int
    array_macs: int
    traffic: Traffic
    energy: tuple[EnergyRow, ...]
    cells: int
    cycles_note: str = ""
    convention_cycles: int | None = None
    products: float = 1.0
    calls: int = 1

    @property
    def busy_cells(self) -> float:
        """Cells times cycles that the array's products of this op take at best."""
        return self.array_macs / self.products

    @property
    def utilization(self) -> float:
        """Share of the array's multiply-accumulates that this op used in its cycles."""
        slots = self.cycles.total * self.cells
        return self.busy_cells / slots if slots else 0.0

    @property
    def energy_j(self) -> float:
        """Joules of all rows."""
        return sum(row.energy_j for row in self.energy)


@dataclass(frozen=True)
class RunStats:
    """A workload, or several calls, on the chip; totals are sums over `layers`.

    `bound_cycles` is a true lower bound: no wait at all, or all bytes at peak bandwidth. `traffic`
    by requester is in `memory`, what the memory controller counted in `controller`, None without
    one. `peak_bytes_per_s` is None for an unlimited memory. `convention` is
    the chip's, if it names one. `cores` are the parts of a run on several cores, see
    `hwmodels.cores`; `cells` are those of all cores. `simpy_events` are those of the SimPy machine;
    compiled code in its place has as many.
    """

    name: str
    layers: tuple[LayerStats, ...]
    clock_hz: float
    cells: int
    peak_bytes_per_s: float | None
    bound_cycles: int
    simpy_events: int
    memory: Mapping[str, Mapping[str, int]]
    controller: MemoryTotals | None = None
    convention: str = ""
    warnings: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    calls: int = 1
    cores: tuple["RunStats", ...] = ()

    @cached_property
    def cycles(self) -> Cycles:
        """Cycles by category."""
        return add(((layer.cycles, 1) for layer in self.layers), Cycles)

    @cached_property
    def traffic(self) -> Traffic:
        """Bytes by level."""
        return add(((layer.traffic, 1) for layer in self.layers), Traffic)

    @cached_property
    def energy(self) -> tuple[EnergyRow, ...]:
        """Ledger of the run: the rows of all ops, equal actions added."""
        return sum_rows((row, 1) for layer in self.layers for row in layer.energy)

    @property
    def convention_cycles(self) -> int | None:
        """What the chip's `convention` counts for the array, without stalls; None without one."""
        return _sum_known((layer.convention_cycles, 1) for layer in self.layers)

    @property
    def cycle_notes(self) -> tuple[str, ...]:
        """One line per note on the array's cycles, with the number of ops that carry it."""
        notes = Counter(layer.cycles_note for layer in self.layers if layer.unit == "array")
        total = notes.total()
        return tuple(
            f"{number} of {total} ops on the array: {note}"
            for note, number in notes.items()
            if note
        )

    @property
    def macs(self) -> int:
        """Dense multiply-accumulates of all GEMMs."""
        return sum(layer.macs for layer in self.layers)

    @property
    def seconds(self) -> float:
        """Time of the run."""
        return self.cycles.total / self.clock_hz

    @property
    def energy_j(self) -> float:
        """Joules: the sum of the ledger's rows."""
        return sum(row.energy_j for row in self.energy)

    @property
    def energy_low_j(self) -> float:
        """Sum of the rows' low ends."""
        return sum(row.energy_low_j for row in self.energy)

    @property
    def energy_high_j(self) -> float:
        """Sum of the rows' high ends."""
        return sum(row.energy_high_j for row in self.energy)

    @property
    def bandwidth_bytes_per_s(self) -> float:
        """Mean traffic to and from memory."""
        return self.traffic.dram / self.seconds if self.cycles.total else 0.0

    @property
    def peak_bandwidth_fraction(self) -> float | None:
        """Mean traffic as a share of the peak; None for an unlimited memory."""
        if self.peak_bytes_per_s is None:
            return None
        return self.bandwidth_bytes_per_s / self.peak_bytes_per_s

    @property
    def utilization(self) -> float:
        """Share of the array's multiply-accumulates used over the whole run."""
        slots = self.cycles.total * self.cells
        return sum(layer.busy_cells for layer in self.layers) / slots if slots else 0.0


def combine(runs: Sequence[RunStats], *, name: str) -> RunStats:
    """Return several runs of one chip as one; ops of equal name, kind and unit are added.

    Raises ValueError when `runs` is empty or the runs are of different chips.
    """
    if len({(run.clock_hz, run.cells, run.peak_bytes_per_s) for run in runs}) != 1:
        raise ValueError(f"{name}: combine needs runs, all of one chip; found {len(runs)} runs")
    distinct = _distinct((run, 1) for run in runs)  # reused results are the same object
    groups: dict[tuple[str, str, str], list[tuple[LayerStats, int]]] = {}
    layers = ((layer, times) for run, times in distinct for layer in run.layers)
    for layer, times in _distinct(layers):
        groups.setdefault((layer.name, layer.kind, layer.unit), []).append((layer, times))
    memory: dict[str, dict[str, int]] = {}
    for run in runs:
        for requester, counts in run.memory.items():
            sums = memory.setdefault(requester, {})
            for what, value in counts.items():
                sums[what] = sums.get(what, 0) + value
    return dataclasses.replace(
        runs[0],
        name=name,
        layers=tuple(_add_layers(parts) for parts in groups.values()),
        bound_cycles=sum(run.bound_cycles for run in runs),
        simpy_events=sum(run.simpy_events for run in runs),
        memory=memory,
        controller=add_totals((run.controller, times) for run, times in distinct),
        warnings=tuple(dict.fromkeys(text for run in runs for text in run.warnings)),
        notes=tuple(dict.fromkeys(text for run in runs for text in run.notes)),
        calls=sum(run.calls for run in runs),
        cores=tuple(
            combine(parts, name=parts[0].name)
            for parts in zip(*(run.cores for run in runs), strict=True)
        ),
    )


def _distinct(parts: Iterable[tuple[Part, int]]) -> list[tuple[Part, int]]:
    """Return each object once, with the sum of its times."""
    times: dict[int, int] = {}
    objects: dict[int, Part] = {}
    for one, number in parts:
        times[id(one)] = times.get(id(one), 0) + number
        objects[id(one)] = one
    return list(zip(objects.values(), times.values(), strict=True))


def _add_layers(parts: list[tuple[LayerStats, int]]) -> LayerStats:
    first, times = parts[0]
    if len(parts) == times == 1:
        return first
    notes = dict.fromkeys(layer.cycles_note for layer, _ in parts if layer.cycles_note)
    mappings = dict.fromkeys(layer.mapping for layer, _ in parts)
    return dataclasses.replace(
        first,
        mapping=first.mapping if len(mappings) == 1 else f"{len(mappings)} mappings",
        cycles=add([(layer.cycles, n) for layer, n in parts], Cycles),
        bound_cycles=sum(n * layer.bound_cycles for layer, n in parts),
        macs=sum(n * layer.macs for layer, n in parts),
        array_macs=sum(n * layer.array_macs for layer, n in parts),
        traffic=add([(layer.traffic, n) for layer, n in parts], Traffic),
        energy=sum_rows((row, n) for layer, n in parts for row in layer.energy),
        cycles_note="; ".join(notes),
        convention_cycles=_sum_known((layer.convention_cycles, n) for layer, n in parts),
        calls=sum(n * layer.calls for layer, n in parts),
    )


def _sum_known(parts: Iterable[tuple[int | None, int]]) -> int | None:
    """Return the sum of counts times how often, None when there are none."""
    known = [times * count for count, times in parts if count is not None]
    return sum(known) if known else None


def row(stats: LayerStats) -> dict[str, Value | list[dict[str, Value]]]:
    """Return one op as a flat row for JSON lines: `*_cycles`, `*_bytes`, joules and the ledger."""
    return {
        "name": stats.name,
        "kind": stats.kind,
        "unit": stats.unit,
        "dataflow": stats.dataflow,
        "schedule": stats.schedule,
        "drain": stats.drain,
        "sparsity": stats.sparsity,
        "mapping": stats.mapping,
        "calls": stats.calls,
        "cycles": stats.cycles.total,
        **{f"{name}_cycles": value for name, value in vars(stats.cycles).items()},
        "cycles_note": stats.cycles_note,
        "convention_cycles": stats.convention_cycles,
        "bound_cycles": stats.bound_cycles,
        "macs": stats.macs,
        **{f"{name}_bytes": value for name, value in vars(stats.traffic).items()},
        "utilization": stats.utilization,
        "energy_j": stats.energy_j,
        "energy": [energy_row(row) for row in stats.energy],
    }


def energy_row(row: EnergyRow) -> dict[str, Value]:
    """Return one ledger row as a flat mapping."""
    return {**vars(row), "energy_j": row.energy_j}
