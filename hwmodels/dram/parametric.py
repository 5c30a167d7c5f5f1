"""Memories that no product fixes: dies bonded face to face with the logic that uses them.

The vias between the dies bound the bandwidth, the arrays behind them may bound it further. What
comes out is a technology for the roofline model and, for DRAM, a specification and an energy table
for the controller. All of it is as good as its figures, so ranges go through every step.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from math import prod
from typing import Annotated, Literal

from annotated_types import Ge, Gt, MinLen

from hwmodels.architecture import Figure, MemoryTechnology
from hwmodels.dram.energy import CoreFigure, DramEnergy
from hwmodels.dram.problems import SpecError
from hwmodels.dram.spec import PICO, DramSpec, Organisation, Status, Timing


@dataclass(frozen=True)
class DramArray:
    """What is DRAM about a bonded DRAM: banks of a channel, their rows, timings and energy.

    `timings` are those of `hwmodels.dram.spec.TIMINGS` but tBL, which the vias decide, and tRC and
    tRTW, which follow. Joules are of one ACT and of one REF of all banks of a channel.
    """

    banks: Annotated[int, Ge(1)]
    row_bytes: Annotated[int, Ge(1)]
    timings: dict[str, Timing]
    timing_sources: dict[str, str]
    activate_j: Figure
    refresh_j: Figure


@dataclass(frozen=True)
class BondedMemory:
    """`dies` of SRAM or DRAM on a logic die, all of `area_m2`.

    `vias_per_m2` of the bond, of which `signal_share` carry data, each `bits_per_via_per_s`. A
    channel moves `access_bits` at a time from its array, at most every `access_s`. `latency_s` is
    that of the array, `crossing_s` of one way through the bond. Energy per bit is that of the
    array, and of the way through the bond. `rest_w_per_byte` is leakage, or for DRAM all power at
    rest but refresh.
    """

    name: Annotated[str, MinLen(1)]
    kind: Literal["sram", "dram"]
    status: Status
    dies: Annotated[int, Ge(1)]
    channels: Annotated[int, Ge(1)]
    access_bits: Annotated[int, Ge(8)]
    area_m2: Figure
    vias_per_m2: Figure
    signal_share: Figure
    bits_per_via_per_s: Figure
    capacity_bits_per_m2: Figure
    access_s: Figure
    latency_s: Figure
    crossing_s: Figure
    read_j_per_bit: Figure
    write_j_per_bit: Figure
    via_j_per_bit: Figure
    rest_w_per_byte: Figure
    efficiency: Figure
    array: DramArray | None = None
    interleave_bytes: Annotated[int, Gt(0)] = 256
    note: str = ""

    def __post_init__(self) -> None:
        """Refuse what contradicts itself."""
        if problems := [f"{self.name}: {problem}" for problem in _problems(self)]:
            raise SpecError(problems)


def grid_density(pitch_m: float) -> float:
    """Return vias per square metre on a square grid.

    Example:
        >>> round(grid_density(9e-6) / 1e6)  # per mm2
        12346

    """
    return pitch_m**-2


def bond_bandwidth(memory: BondedMemory) -> Figure:
    """Return bytes per second that all data vias of the bond can carry."""
    return _product(
        "area x vias per area x share of signals x rate of a via",
        memory.area_m2,
        memory.vias_per_m2,
        memory.signal_share,
        memory.bits_per_via_per_s,
        times=1 / 8,
    )


def array_bandwidth(memory: BondedMemory) -> Figure:
    """Return bytes per second that the arrays of all channels can move."""
    low, high = memory.access_s.bounds
    moved = memory.channels * memory.access_bits / 8
    source = f"channels x access / access time: {memory.access_s.source}"
    return Figure(moved / memory.access_s.value, source, moved / high, moved / low)


def peak_bandwidth(memory: BondedMemory) -> Figure:
    """Return the smaller of both bandwidths; its source begins with the one that binds."""
    bond, array = bond_bandwidth(memory), array_bandwidth(memory)
    name, least = ("bond", bond) if bond.value < array.value else ("array", array)
    low, high = (min(pair) for pair in zip(bond.bounds, array.bounds, strict=True))
    return Figure(least.value, f"{name}: {least.source}", low, high)


def technology(memory: BondedMemory) -> MemoryTechnology:
    """Return the memory as the roofline model needs it, figures per channel."""
    size = _product("capacity", memory.capacity_bits_per_m2, memory.area_m2, times=memory.dies / 8)
    per_channel = int(size.value / memory.channels)
    capacity = per_channel // memory.interleave_bytes * memory.interleave_bytes
    one = _constant(1 / memory.channels)
    return MemoryTechnology(
        name=memory.name,
        channels=memory.channels,
        capacity_bytes=capacity,
        burst_bytes=memory.access_bits // 8,
        interleave_bytes=memory.interleave_bytes,
        organisation_source=f"{memory.status}: {memory.capacity_bits_per_m2.source}",
        clock_hz=_inverse(memory.access_s),
        peak_bytes_per_s=_product(peak_bandwidth(memory).source, peak_bandwidth(memory), one),
        efficiency=memory.efficiency,
        latency_s=_sum(memory.latency_s, memory.crossing_s, memory.crossing_s),
        read_j_per_bit=_sum(memory.read_j_per_bit, memory.via_j_per_bit),
        write_j_per_bit=_sum(memory.write_j_per_bit, memory.via_j_per_bit),
        background_w=_product(
            memory.rest_w_per_byte.source, memory.rest_w_per_byte, _constant(capacity)
        ),
    )


def dram_spec(memory: BondedMemory) -> DramSpec:
    """Return what the controller simulates: a data bus a channel, row and column commands apart.

    The bus has as many data vias as the channel gets, rounded down to a power of two, and no more
    than one access has bits; its clock is the rate of a via, one bit each. Rows are as many as fit
    in the capacity, a power of two. Raises SpecError for SRAM, which has no such rules, and for
    timings that contradict each other.
    """
    array = _array(memory)
    vias = memory.area_m2.value * memory.vias_per_m2.value * memory.signal_share.value
    bus_bits = min(memory.access_bits, _power_of_two(vias / memory.channels))
    capacity = memory.capacity_bits_per_m2.value * memory.area_m2.value * memory.dies / 8
    burst = memory.access_bits // bus_bits
    clock_ps = PICO / memory.bits_per_via_per_s.value
    later = Timing("rule", ns=clock_ps * 1e6)  # replaced below, once there are clock cycles
    spec = DramSpec(
        name=memory.name,
        sources={
            **array.timing_sources,
            "bond": memory.bits_per_via_per_s.source,
            "rule": "tRC = tRAS + tRP, tRTW = tCL + tBL + 2 - tCWL, as in HBM2",
        },
        organisation=Organisation(
            source="bond",
            channels=memory.channels,
            bank_groups=1,
            banks=array.banks,
            rows=_power_of_two(capacity / memory.channels / array.banks / array.row_bytes),
            columns=array.row_bytes * 8 // memory.access_bits,
            bus_bits=bus_bits,
            burst_length=burst,
        ),
        clock_ps=clock_ps,
        clock_source="bond",
        command_bus="dual",
        timings={
            **array.timings,
            "tBL": Timing("bond", cycles=burst),
            "tRC": later,
            "tRTW": later,
        },
        address_map="row bank column channel",
        status=memory.status,
    )
    t = spec.cycles
    follow = {
        "tRC": Timing("rule", cycles=t("tRAS") + t("tRP")),
        "tRTW": Timing("rule", cycles=max(t("tBL"), t("tCL") + t("tBL") + 2 - t("tCWL"))),
    }
    return replace(spec, timings={**spec.timings, **follow})


def dram_energy(memory: BondedMemory) -> DramEnergy:
    """Return the energy table that belongs to `dram_spec`; nothing crosses any pins."""
    array = _array(memory)
    spec = dram_spec(memory)
    size = spec.organisation.capacity_bytes / memory.channels
    rest = _product(memory.rest_w_per_byte.source, memory.rest_w_per_byte, _constant(size))
    figures = {
        "activate_j": array.activate_j,
        "read_j_per_bit": memory.read_j_per_bit,
        "write_j_per_bit": memory.write_j_per_bit,
        "refresh_j": array.refresh_j,
        "open_w": rest,
        "closed_w": rest,
    }
    return DramEnergy(
        name=memory.name,
        io_j_per_bit=Figure(0.0, "no pins: the bond is all there is"),
        via_j_per_bit=memory.via_j_per_bit,
        core={
            name: CoreFigure(figure.source, figure.value, *figure.bounds)
            for name, figure in figures.items()
        },
        status=memory.status,
    )


def _array(memory: BondedMemory) -> DramArray:
    if memory.array is None:
        raise SpecError([f"{memory.name}: found sram, which has no DRAM timing, expected dram"])
    return memory.array


def _power_of_two(value: float) -> int:
    """Return the largest power of two up to a value, at least one; forgives rounding errors."""
    return 1 << max(0, int(value * (1 + 1e-9)).bit_length() - 1)


def _constant(value: float) -> Figure:
    return Figure(value, "exact")


def _inverse(figure: Figure) -> Figure:
    low, high = figure.bounds
    return Figure(1 / figure.value, figure.source, 1 / high, 1 / low)


def _product(source: str, *figures: Figure, times: float = 1.0) -> Figure:
    low, high = (times * prod(figure.bounds[end] for figure in figures) for end in (0, 1))
    return Figure(times * prod(figure.value for figure in figures), source, low, high)


def _sum(*figures: Figure) -> Figure:
    source = " + ".join(dict.fromkeys(figure.source for figure in figures))
    low, high = (sum(figure.bounds[end] for figure in figures) for end in (0, 1))
    return Figure(sum(figure.value for figure in figures), source, low, high)


_POSITIVE = ("area_m2", "vias_per_m2", "signal_share", "bits_per_via_per_s", "access_s")
_SHARES = ("signal_share", "efficiency")


def _problems(memory: BondedMemory) -> Iterator[str]:
    if (memory.kind == "dram") != (memory.array is not None):
        have = "no array" if memory.array is None else "an array"
        yield f"array: found {have} of {memory.kind}, expected one of dram and none of sram"
    if memory.access_bits & (memory.access_bits - 1):
        yield f"access_bits: found {memory.access_bits}, expected a power of two"
    sizes = {"interleave_bytes": memory.interleave_bytes}
    if memory.array is not None:
        sizes["array.row_bytes"] = memory.array.row_bytes
    for name, size in sizes.items():
        if size * 8 % memory.access_bits:
            least = memory.access_bits // 8
            yield f"{name}: found {size}, expected a multiple of an access, {least} bytes"
    yield from _range_problems(memory)


def _range_problems(memory: BondedMemory) -> Iterator[str]:
    figures = {name: value for name, value in vars(memory).items() if isinstance(value, Figure)}
    for name, figure in figures.items():
        low, high = figure.bounds
        if not low <= figure.value <= high:
            yield (
                f"{name}: found low {low:g}, value {figure.value:g}, high {high:g}, "
                "expected low <= value <= high"
            )
        if low == 0 and name in _POSITIVE:
            yield f"{name}: found low 0, expected more"
        if high > 1 and name in _SHARES:
            yield f"{name}: found {high:g}, expected at most 1"
