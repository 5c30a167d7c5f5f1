"""The memory controller beside published simulators: bandwidth, latency, row hits and energy.

`cosim bench --filter memory` shows every figure that `configs/memory/reference` holds, the same
figure here, and what changes when one thing about a memory does (`cosim.bench.memory_changes`).
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cache
from pathlib import Path
from typing import Annotated

from annotated_types import Ge, Gt, MinLen

import cosim.guard  # noqa: F401 (the check is the import)
from cosim.bench.measure import Row
from cosim.bench.memory_traces import make_trace
from cosim.config import configs_root, load
from hwmodels.dram.controller import simulate, trace
from hwmodels.dram.energy import DramEnergy, dram_prices, dram_rows
from hwmodels.dram.policy import Policy, policy
from hwmodels.dram.spec import PICO, DramSpec
from hwmodels.dram.stats import DramStats

COUNT = 100_000
"""Requests of a trace; figures leave out the first tenth."""
NANO = 1e9
PARTS: Mapping[str, tuple[str, ...]] = {
    "activate": ("activate",),
    "read": ("read_burst",),
    "write": ("write_burst",),
    "refresh": ("refresh_rank", "refresh_bank"),
    "rest": ("open_tick", "closed_tick"),
}
"""What the core of a memory spends energy on, and the actions of the ledger that it sums."""


@dataclass(frozen=True)
class Point:
    """What a simulator says of a trace; `load` is the offered share of the peak, None saturated.

    Latencies of reads in nanoseconds: from acceptance where saturated, else from arrival.
    """

    trace: Annotated[str, MinLen(1)]
    load: Annotated[float, Gt(0)] | None = None
    share_of_peak: Annotated[float, Gt(0)] | None = None
    mean_ns: Annotated[float, Gt(0)] | None = None
    p99_ns: Annotated[float, Gt(0)] | None = None
    row_hit_rate: Annotated[float, Ge(0)] | None = None


@dataclass(frozen=True)
class Split:
    """Energy of the core in pJ per bit moved, by the names of `PARTS`; `rest` is background."""

    trace: Annotated[str, MinLen(1)]
    total: Annotated[float, Gt(0)]
    load: Annotated[float, Gt(0)] | None = None
    activate: Annotated[float, Ge(0)] | None = None
    read: Annotated[float, Ge(0)] | None = None
    write: Annotated[float, Ge(0)] | None = None
    refresh: Annotated[float, Ge(0)] | None = None
    rest: Annotated[float, Ge(0)] | None = None


@dataclass(frozen=True)
class IdleRead:
    """Clock cycles of a single read, with its row closed and already open."""

    closed: Annotated[int, Ge(1)]
    open: Annotated[int, Ge(1)] | None = None


@dataclass(frozen=True)
class Reference:
    """What one simulator says of one memory under the policy that follows its rules.

    `commands_pj` are joules times 1e12 by the names of `hwmodels.dram.energy.ACTIONS`, a tick being
    one clock of a rank. `leaves_out` are timings of the memory that the simulator does not obey; it
    is compared without them.
    """

    memory: Annotated[str, MinLen(1)]
    policy: Annotated[str, MinLen(1)]
    source: Annotated[str, MinLen(1)]
    points: tuple[Point, ...] = ()
    energy_pj_per_bit: tuple[Split, ...] = ()
    idle_read_cycles: IdleRead | None = None
    commands_pj: dict[str, float] = field(default_factory=dict)
    leaves_out: tuple[str, ...] = ()


@dataclass(frozen=True)
class Subject:
    """A shipped memory, its energy and a policy."""

    spec: DramSpec
    energy: DramEnergy
    policy: Policy


def references() -> list[Reference]:
    """Return everything in configs/memory/reference, by file name."""
    return [load(path, Reference) for path in sorted(_folder("reference").glob("*.yaml"))]


@cache
def subject(memory: str, rules: str) -> Subject:
    """Return a shipped memory under a shipped policy, by their names; CosimError if not there."""
    return Subject(
        load(_folder("timing") / f"{memory}.yaml", DramSpec),
        load(_folder("energy") / f"{memory}.yaml", DramEnergy),
        policy(rules),
    )


def cases(reference: Reference) -> list[str]:
    """Return the ids of a reference: one per trace and load, `idle`, `commands`."""
    base = f"memory/{reference.memory}/{reference.policy}"
    ids = [f"{base}/{trace_id(one.trace, one.load)}" for one in _traced(reference)]
    if reference.idle_read_cycles is not None:
        ids.append(f"{base}/idle")
    if reference.commands_pj:
        ids.append(f"{base}/commands")
    return list(dict.fromkeys(ids))


def trace_id(name: str, load: float | None) -> str:
    """Return the name of a trace with its load, if it has one."""
    return name if load is None else f"{name}-{load:g}"


def reference_rows(reference: Reference, case: str, *, count: int = COUNT) -> Iterator[Row]:
    """Yield a row per figure of one case of `cases`."""
    chosen = _obeyed(reference)
    name = case.rpartition("/")[2]
    head = {
        "case": case,
        "kind": "reference",
        "memory": reference.memory,
        "policy": reference.policy,
        "trace": name,
        "source": reference.source,
        "leaves_out": list(reference.leaves_out),
    }
    if name == "idle":
        figures = _idle_figures(reference, chosen)
    elif name == "commands":
        figures = _command_figures(reference, chosen)
    else:
        figures = _trace_figures(reference, chosen, name, count)
    for quantity, unit, theirs, ours in figures:
        yield {
            **head,
            "quantity": quantity,
            "unit": unit,
            "reference": theirs,
            "ours": ours,
            "difference": ours / theirs - 1 if theirs else None,
        }


def _obeyed(reference: Reference) -> Subject:
    """Return the memory of a reference without the timings that the simulator does not obey."""
    chosen = subject(reference.memory, reference.policy)
    timings = dict(chosen.spec.timings)
    for name in reference.leaves_out:
        del timings[name]
    return replace(chosen, spec=replace(chosen.spec, timings=timings))


Figure = tuple[str, str, float, float]  # quantity, unit, the reference's value, ours


def _trace_figures(
    reference: Reference, chosen: Subject, name: str, count: int
) -> Iterator[Figure]:
    named = [one for one in _traced(reference) if trace_id(one.trace, one.load) == name]
    first = named[0]
    requests = make_trace(chosen.spec, first.trace, count, load=first.load)
    stats = simulate(chosen.spec, chosen.policy, requests)
    split = core_pj_per_bit(stats, chosen.energy)
    found = measured(stats, load=first.load)
    found["row_hit_rate"] = row_hits(stats, chosen.policy)
    for one in named:
        if isinstance(one, Point):
            for quantity, unit in _UNITS.items():
                theirs = getattr(one, quantity)
                if theirs is not None:
                    yield quantity, unit, theirs, found[quantity]
        else:
            for quantity, ours in {**split, "total": sum(split.values())}.items():
                theirs = getattr(one, quantity)
                if theirs is not None:
                    yield f"{quantity}_pj_per_bit", "pJ/bit", theirs, ours


_UNITS: Mapping[str, str] = {
    "share_of_peak": "",
    "mean_ns": "ns",
    "p99_ns": "ns",
    "row_hit_rate": "",
}


def measured(stats: DramStats, *, load: float | None = None) -> dict[str, float]:
    """Return bandwidth as a share of the peak and latencies of reads, without the first tenth."""
    first = stats.accepted.size // 10
    latency = stats.latency("acceptance" if load is None else "arrival", first)
    return {
        "share_of_peak": stats.bandwidth_bytes_per_s(first) / stats.spec.peak_bytes_per_s,
        "mean_ns": latency.mean_s * NANO,
        "p99_ns": latency.p99_s * NANO,
    }


def row_hits(stats: DramStats, rules: Policy) -> float:
    """Return the row hits as the simulator of a policy counts them.

    Ramulator classes a request by its first command; of DRAMsim3's it is 1 - ACT / (RD + WR).
    """
    if rules.scheduler == "shared_queues":
        return stats.row_hit_rate
    moved = sum(stats.commands[name] for name in ("RD", "WR", "RDA", "WRA"))
    return 1 - stats.commands["ACT"] / max(1, moved)


def core_pj_per_bit(stats: DramStats, energy: DramEnergy) -> dict[str, float]:
    """Return what the core took by the names of `PARTS`, in pJ per bit moved: no vias, no pins."""
    joules = {row.action: row.energy_j for row in dram_rows(stats, energy)}
    bits = 8 * stats.spec.organisation.burst_bytes * stats.accepted.size
    return {
        name: sum(joules.get(action, 0.0) for action in actions) * PICO / bits
        for name, actions in PARTS.items()
    }


def _idle_figures(reference: Reference, chosen: Subject) -> Iterator[Figure]:
    """Yield the cycles of a read of a closed row, then of the same row long after."""
    known = reference.idle_read_cycles
    if known is None:
        return
    quiet = replace(chosen.policy, refresh="none")
    stats = simulate(chosen.spec, quiet, trace([0, 0], arrival_cycles=[0, 1000]))
    took = (stats.completed - stats.accepted) / chosen.spec.ticks_per_clock
    for quantity, theirs, ours in (
        ("read_of_closed_row", known.closed, took[0]),
        ("read_of_open_row", known.open, took[1]),
    ):
        if theirs is not None:
            yield quantity, "cycles", theirs, float(ours)


def _command_figures(reference: Reference, chosen: Subject) -> Iterator[Figure]:
    prices = dram_prices(chosen.spec, replace(chosen.energy, core={}))
    for action, theirs in reference.commands_pj.items():
        yield action, "pJ", theirs, prices["memory", action].value_j * PICO


def _traced(reference: Reference) -> Sequence[Point | Split]:
    return [*reference.points, *reference.energy_pj_per_bit]


def _folder(name: str) -> Path:
    return configs_root() / "memory" / name
