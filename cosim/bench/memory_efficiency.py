"""Shares of the peak that the controller reaches, by kind of descriptor: what a roofline needs.

`cosim bench --filter memory/efficiency --efficiency PATH` writes them as the table that a chip's
`memory.efficiency` names. Every shipped memory is under the policy of a chip that names none, and
under those that the figures of `configs/memory/reference` are for.
"""

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
from hwmodels.dram.controller import simulate, trace
from hwmodels.dram.policy import check
from hwmodels.dram.problems import SpecError
from hwmodels.dram.spec import DramSpec
from hwmodels.measured_memory import Kind

COUNT = 40_000
"""Bursts of each kind and way; the first tenth is left out."""
WAYS = ("read", "write", "mixed")
ROWS, PITCHES = 64, (1536, 2048, 3072, 4096)
"""Rows of a descriptor, and bytes from one to the next: each pitch in turn."""
CHUNK, CHUNKS = 4096, 64
"""Bytes of a stream before the other way has its turn, and how often until both begin elsewhere."""

Places = NDArray[np.int64]


def efficiency_cases() -> list[str]:
    """Return the ids of memories and policies, `memory/efficiency/MEMORY/POLICY`."""
    compared = {(one.memory, one.policy) for one in references()}
    names = sorted(path.stem for path in (configs_root() / "memory" / "timing").glob("*.yaml"))
    pairs = {(name, MemoryStack.policy) for name in names} | compared
    return [f"memory/efficiency/{name}/{rules}" for name, rules in sorted(pairs)]


def efficiency_rows(case: str, *, count: int = COUNT) -> Iterator[Row]:
    """Yield a row per kind of descriptor and way; none where the policy cannot rule the memory."""
    name, rules = case.split("/")[-2:]
    chosen = subject(name, rules)
    try:
        check(chosen.spec, chosen.policy)
    except SpecError:
        return
    organisation = chosen.spec.organisation
    for kind in get_args(Kind):
        for way in WAYS:
            places, writes = bursts(chosen.spec, kind, way, count)
            yield {
                "case": case,
                "kind": "efficiency",
                "memory": name,
                "policy": rules,
                "address_map": chosen.spec.address_map,
                "channels": organisation.channels,
                "pattern": kind,
                "way": way,
                "bursts": count,
                **shares(chosen, places, writes),
            }


def shares(chosen: Subject, places: Places, writes: NDArray[np.bool_]) -> dict[str, float]:
    """Return the share of the peak of all data buses, and of that of the busiest one.

    Of bursts at the byte addresses `places`: (bursts,), without the first tenth.
    """
    spec = chosen.spec
    stats = simulate(spec, chosen.policy, trace(places, writes))
    first = places.size // 10
    organisation = spec.organisation
    channel, bank = locate(spec, places[first:-1])[:, :2].T
    banks = organisation.banks_per_channel // organisation.pseudo_channels
    on_bus = np.bincount(channel * organisation.pseudo_channels + bank // banks)
    ticks = int(stats.accepted[-1] - stats.accepted[first])
    busy = int(on_bus.max()) * spec.cycles("tBL") * spec.ticks_per_clock
    return {
        "share_of_peak": stats.bandwidth_bytes_per_s(first) / spec.peak_bytes_per_s,
        "share_of_buses": min(1.0, busy / ticks),  # a filling queue may accept a little more
    }


def bursts(spec: DramSpec, kind: Kind, way: str, count: int) -> tuple[Places, NDArray[np.bool_]]:
    """Return byte addresses of bursts and which of them are writes: (count,) each.

    Descriptors of one kind after another, reads, writes or both in turns. Streams of one way go on
    where they were; rows begin every pitch of `PITCHES` in turn; all else is where SplitMix64 says.
    """
    burst = spec.organisation.burst_bytes
    if kind == "stream" and way != "mixed":
        places = burst * np.arange(count, dtype=np.int64)
        return places, np.full(count, way == "write")
    if kind == "stream":
        per = CHUNK // burst
        number = np.arange(-(-count // per))
        start = _random(spec, 2 * (number // (2 * CHUNKS)) + number % 2)
        starts = start + CHUNK * (number // 2 % CHUNKS)
        inside = burst * np.arange(per)
    elif kind == "random":
        per, number = 1, np.arange(count)
        starts, inside = _random(spec, number), np.zeros(1, dtype=np.int64)
    else:
        row = -(-int(kind.removeprefix("rows_")) // burst)
        per = ROWS * row
        number = np.arange(-(-count // per))
        pitch = np.array(PITCHES)[number // 2 % len(PITCHES)]
        lines = np.arange(per)
        starts = _random(spec, number)
        places = starts[:, None] + pitch[:, None] * (lines // row) + burst * (lines % row)
        return _ways(places, number, way, count)
    return _ways(starts[:, None] + inside, number, way, count)


def _ways(places: Places, number: Places, way: str, count: int) -> tuple[Places, NDArray[np.bool_]]:
    """Return the first bursts of descriptors, (descriptors, bursts), and which are writes."""
    is_write = number % 2 == 1 if way == "mixed" else np.full(number.size, way == "write")
    writes = np.broadcast_to(is_write[:, None], places.shape)
    return places.ravel()[:count], writes.ravel()[:count]


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
        "# Written by `cosim bench --filter memory/efficiency --efficiency PATH`.",
        f'version: "cosim-speech {version}"',
        f'date: "{str(total["created"])[:10]}"',
        f"bursts: {known[0]['bursts']}",
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
        ]
        for kind in get_args(Kind):
            parts = {r["way"]: r["share_of_buses"] for r in found if r["pattern"] == kind}
            stated = ", ".join(f"{way}: {parts[way]:.4f}" for way in WAYS)
            lines.append(f"    {kind}: {{{stated}}}")
    return "\n".join(lines) + "\n"
