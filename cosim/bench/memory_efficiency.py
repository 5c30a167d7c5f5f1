"""Shares of the peak that the controller reaches, by kind of descriptor: what a roofline needs.

`cosim bench --filter memory/efficiency --efficiency PATH` writes them as the table that a chip's
`memory.efficiency` names. Every shipped memory is under the policy of a chip that names none, and
under those that the figures of `configs/memory/reference` are for.
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import get_args

import numpy as np
from numpy.typing import NDArray

import cosim.guard  # noqa: F401 (the check is the import)
from cosim.bench.measure import Row
from cosim.bench.memory import Subject, references, subject
from cosim.bench.memory_traces import WINDOW, mix
from cosim.config import configs_root
from cosim.errors import CosimError
from hwmodels.architecture import MemoryStack
from hwmodels.dram.address import locate
from hwmodels.dram.controller import Controller, trace
from hwmodels.dram.policy import check
from hwmodels.dram.problems import SpecError
from hwmodels.dram.spec import PICO, DramSpec
from hwmodels.mapped_channels import busy_cycles
from hwmodels.measured_memory import Kind

COMMAND = "cosim bench --filter memory/efficiency --efficiency PATH"
PERIODS, BURSTS = 8, 100_000
"""What each kind and way is watched for at least, after one time between refreshes: so many more of
those times, and the time of so many bursts at the peak."""
WAYS = ("read", "write", "mixed")
ROWS, PITCHES = 256, (1536, 2048, 3072, 4096)
"""Rows of a descriptor, and bytes from one to the next: each pitch in turn."""
ROOM = 1024
"""Bursts for each data bus beyond what it can move in the time watched, for queues."""
CHUNK, CHUNKS = 16384, 16
"""Bytes of a stream before the other way has its turn, and how often until both begin elsewhere."""

Places = NDArray[np.int64]


def efficiency_cases() -> list[str]:
    """Return the ids of memories and policies, `memory/efficiency/MEMORY/POLICY`."""
    compared = {(one.memory, one.policy) for one in references()}
    names = sorted(path.stem for path in (configs_root() / "memory" / "timing").glob("*.yaml"))
    pairs = {(name, MemoryStack.policy) for name in names} | compared
    return [f"memory/efficiency/{name}/{rules}" for name, rules in sorted(pairs)]


def efficiency_rows(case: str, *, least: int = BURSTS) -> Iterator[Row]:
    """Yield a row per kind of descriptor and way; none where the policy cannot rule the memory.

    Each is watched for the time of `least` bursts at the peak, and of `PERIODS`.
    """
    name, rules = case.split("/")[-2:]
    chosen = subject(name, rules)
    try:
        check(chosen.spec, chosen.policy)
    except SpecError:
        return
    spec = chosen.spec
    in_period = spec.cycles("tREFI") * _buses(spec) / spec.cycles("tBL")
    periods = max(PERIODS, math.ceil(least / in_period))
    for kind in get_args(Kind):
        for way in WAYS:
            yield {
                "case": case,
                "kind": "efficiency",
                "memory": name,
                "policy": rules,
                "address_map": spec.address_map,
                "channels": spec.organisation.channels,
                "pattern": kind,
                "way": way,
                "refresh_periods": periods,
                **shares(chosen, kind, way, periods),
            }


def shares(chosen: Subject, kind: Kind, way: str, periods: int) -> dict[str, float]:
    """Return the share of the peak, and that of the time in which the buses in use are busy.

    Those are the busiest of each descriptor of rows, and of all else that is one after another;
    they are busy for tBL with each burst, for tCCD_L with each of a bank group, `descriptor_s` for
    a descriptor. Of bursts accepted while a rank is refreshed `periods` times; more than buses move
    are offered.
    """
    spec, buses = chosen.spec, _buses(chosen.spec)
    burst, period = spec.cycles("tBL"), spec.cycles("tREFI")
    places, writes, per = bursts(spec, kind, way, buses * ((periods + 1) * period // burst + ROOM))
    controller = Controller(spec, chosen.policy)
    numbers = controller.submit(trace(places, writes))
    controller.advance((periods + 1) * period * spec.ticks_per_clock)
    accepted = controller.accepted(numbers) / (period * spec.ticks_per_clock)
    moved = np.flatnonzero((accepted > 1) & (accepted <= periods + 1))
    channel, bank = locate(spec, places[moved])[:, :2].T
    groups = spec.organisation.banks_per_channel // spec.organisation.banks
    cells = spec.organisation.channels * groups
    descriptor = moved // per if kind.startswith("rows") else np.zeros_like(moved)
    at = (
        (descriptor - descriptor.min()) * cells + channel * groups + bank // spec.organisation.banks
    )
    counted = np.bincount(at, minlength=cells * (1 + descriptor.max() - descriptor.min()))
    busy = busy_cycles(spec, counted.reshape(-1, buses, cells // buses)).max(axis=1).sum()
    return {
        "share_of_peak": burst * moved.size / (buses * periods * period),
        "share_of_buses": min(1.0, busy / (periods * period)),  # queues may fill a little
        "descriptor_s": busy * spec.clock_ps / PICO / moved.size * per,
    }


def _buses(spec: DramSpec) -> int:
    """Return the number of data buses."""
    return spec.organisation.channels * spec.organisation.pseudo_channels


def bursts(
    spec: DramSpec, kind: Kind, way: str, count: int
) -> tuple[Places, NDArray[np.bool_], int]:
    """Return byte addresses of bursts and which are writes, (count,) each; bursts of a descriptor.

    Descriptors of one kind after another, reads, writes or both in turns. Streams of one way go on
    where they were; rows begin every pitch of `PITCHES` in turn; all else is where SplitMix64 says.
    """
    burst = spec.organisation.burst_bytes
    row = {"stream": CHUNK, "random": 1}.get(kind) or int(kind.removeprefix("rows_"))
    row = -(-row // burst)
    per = ROWS * row if kind.startswith("rows") else row
    number, inside = np.arange(-(-count // per)), np.arange(per)
    starts: Places
    pitch: Places = np.full(number.shape, burst)
    if kind.startswith("rows"):
        starts, pitch = _random(spec, number), np.array(PITCHES)[number // 2 % len(PITCHES)]
    elif kind == "random":
        starts = _random(spec, number)
    elif way == "mixed":
        begun = _random(spec, 2 * (number // (2 * CHUNKS)) + number % 2)
        starts = begun + CHUNK * (number // 2 % CHUNKS)
    else:
        starts = CHUNK * number
    places: Places = starts[:, None] + pitch[:, None] * (inside // row) + burst * (inside % row)
    is_write = number % 2 == 1 if way == "mixed" else np.full(number.size, way == "write")
    writes = np.broadcast_to(is_write[:, None], places.shape)
    return places.ravel()[:count], writes.ravel()[:count], per


def _random(spec: DramSpec, number: Places) -> Places:
    """Return where descriptors begin: a burst for each number."""
    burst = spec.organisation.burst_bytes
    size = min(WINDOW, spec.organisation.capacity_bytes) // burst
    return burst * (mix(number + 1) % np.uint64(size)).astype(np.int64)


def efficiency_table(rows: Sequence[Row], total: Mapping[str, object]) -> str:
    """Return the YAML that `memory.efficiency` of a chip names; CosimError without such rows."""
    known = [row for row in rows if row["kind"] == "efficiency"]
    if not known:
        raise CosimError("--efficiency: no case measures shares, expected memory/efficiency")
    versions = total["versions"]
    version = versions["cosim-speech"] if isinstance(versions, dict) else ""
    lines = [
        "# Shares of the peak of the data buses in use, by kind of descriptor, policy and map.",
        f"command: {COMMAND}",
        f'version: "cosim-speech {version}"',
        f'date: "{str(total["created"])[:10]}"',
        "memories:",
    ]
    for case in dict.fromkeys(str(row["case"]) for row in known):
        found = [row for row in known if row["case"] == case]
        first = found[0]
        lines += [
            f"  - memory: {first['memory']}",
            f"    policy: {first['policy']}",
            f"    address_map: {first['address_map']}",
            f"    channels: {first['channels']}",
            f"    refresh_periods: {first['refresh_periods']}",
        ]
        for kind in get_args(Kind):
            of_kind = {row["way"]: row for row in found if row["pattern"] == kind}
            stated = ", ".join(f"{way}: {of_kind[way]['share_of_buses']:.4f}" for way in WAYS)
            stated += f", descriptor_s: {of_kind['mixed']['descriptor_s']:.4e}"
            lines.append(f"    {kind}: {{{stated}}}")
    return "\n".join(lines) + "\n"
