"""Totals of a simulation as `run.json` and `--json` hold them."""

from cosim.chip import Chip
from cosim.heat import temperatures
from hwmodels.architecture import FEMTO
from hwmodels.cores import core_rows
from hwmodels.memory_totals import MemoryTotals, Sampling
from hwmodels.stats import LayerStats, RunStats
from hwmodels.thermal import Thermal


def totals_of(
    stats: RunStats, thermal: Thermal | None = None, chip: Chip | None = None
) -> dict[str, object]:
    """Return cycles, energy and bandwidth of a run, and its sums by kind of layer.

    `thermal` is None where the chip names no stack: its temperature is not modelled.
    """
    memory = {} if stats.controller is None else _memory(stats, stats.controller)
    if memory and chip is not None and chip.dram is not None:
        memory["rest_w"] = vars(chip.dram.rest_w())
        parts = chip.dram.rest_by_action_w()
        memory["rest_by_action_w"] = {action: vars(part) for action, part in parts.items()}
    return {
        "cycles": stats.cycles.total,
        "cycles_by_category": dict(vars(stats.cycles)),
        "bound_cycles": stats.bound_cycles,
        "convention": stats.convention,
        "convention_cycles": stats.convention_cycles,
        "seconds": stats.seconds,
        "energy_j": stats.energy_j,
        "energy_low_j": stats.energy_low_j,
        "energy_high_j": stats.energy_high_j,
        "energy_assumed_fraction": _assumed_fraction(stats),
        "energy_rows": [{**vars(item), "energy_j": item.energy_j} for item in stats.energy],
        "dram_bytes": stats.traffic.dram,
        "bytes_by_level": dict(vars(stats.traffic)),
        "bandwidth_bytes_per_s": stats.bandwidth_bytes_per_s,
        "peak_bandwidth_fraction": stats.peak_bandwidth_fraction,
        "array_utilization": stats.utilization,
        "macs": stats.macs,
        "simpy_events": stats.simpy_events,
        "by_kind": _by_kind(stats),
        **({"memory": memory} if memory else {}),
        "thermal": None if thermal is None else temperatures(thermal),
        **({"cores": core_rows(stats)} if stats.cores else {}),
    }


def _memory(stats: RunStats, found: MemoryTotals) -> dict[str, object]:
    """Return what limited the memory, how rows and reads fared, and who waited how long."""
    return {
        "name": found.memory,
        "policy": found.policy,
        "address_map": found.address_map,
        "binding_limit": found.binding_limit,
        "limits": found.limits,
        "row_hits": found.row_hits,
        "row_misses": found.row_misses,
        "row_conflicts": found.row_conflicts,
        "commands": dict(found.commands),
        "read_latency_s": {
            "mean": found.mean_read_latency_s,
            "p50": found.read_latency_s(0.5),
            "p99": found.read_latency_s(0.99),
        },
        "requesters": {
            name: {
                "descriptors": one["descriptors"],
                "read_bytes": one["read_bytes"],
                "write_bytes": one["write_bytes"],
                "queued_s": one["queued_fs"] / FEMTO,
                "transfer_s": one["total_fs"] / FEMTO,
                "stall_cycles": getattr(stats.cycles, f"stall_{name}"),
            }
            for name, one in stats.memory.items()
        },
        **({} if found.sampling is None else {"sampling": _sampling(stats, found.sampling)}),
    }


def _sampling(stats: RunStats, found: Sampling) -> dict[str, object]:
    """Return what part of the traffic the controller served itself, and errors for the rest.

    Standard errors, of the time as of all memory time without the controller were waited for.
    """
    return {
        "phases": found.phases,
        "exact_share": found.exact_share,
        "cycles_error": found.time_error_s * stats.clock_hz,
        "energy_error_j": found.energy_error_j,
    }


def _assumed_fraction(stats: RunStats) -> float:
    """Return the share of the energy whose price nobody published (source `assumed ...`)."""
    assumed = sum(item.energy_j for item in stats.energy if item.source.startswith("assumed"))
    return assumed / stats.energy_j if stats.energy_j else 0.0


def _by_kind(stats: RunStats) -> list[dict[str, object]]:
    groups: dict[str, list[LayerStats]] = {}
    for layer in stats.layers:
        graph = layer.name.partition("/")[0]
        groups.setdefault(f"{graph} {layer.kind}", []).append(layer)
    rows = []
    for kind, layers in groups.items():
        cycles = sum(layer.cycles.total for layer in layers)
        busy_cells = sum(layer.busy_cells for layer in layers)
        rows.append(
            {
                "kind": kind,
                "cycles": cycles,
                "macs": sum(layer.macs for layer in layers),
                "array_utilization": busy_cells / (cycles * stats.cells) if cycles else 0.0,
                "energy_j": sum(layer.energy_j for layer in layers),
                "dram_bytes": sum(layer.traffic.dram for layer in layers),
            }
        )
    return sorted(rows, key=lambda item: -int(str(item["cycles"])))
