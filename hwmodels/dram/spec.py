"""What a memory is: organisation and timing as its YAML states them, with a source for each value.

A specification that contradicts itself cannot be built: `SpecError` lists every mistake at once.
"""

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Annotated, Literal

from annotated_types import Ge, Gt, Le, MinLen

from hwmodels.dram.fields import map_problems
from hwmodels.dram.problems import SpecError, nearest

PICO = 10**12  # picoseconds in a second

Bus = Literal["single", "dual", "dual_edge", "split_activate"]
Status = Literal["published", "extrapolated", "hypothetical"]

TIMINGS: Mapping[str, str] = {
    "tBL": "a burst on the data bus",
    "tCL": "RD to its first data",
    "tCWL": "WR to its first data",
    "tRCDRD": "ACT to RD of the bank",
    "tRCDWR": "ACT to WR of the bank",
    "tRP": "PRE to ACT of the bank",
    "tRAS": "ACT to PRE of the bank",
    "tRC": "ACT to ACT of the bank",
    "tWR": "end of write data to PRE of the bank",
    "tRTP": "RD to PRE of the bank",
    "tCCD_S": "RD to RD, WR to WR",
    "tCCD_L": "the same within a bank group",
    "tRRD_S": "ACT to ACT",
    "tRRD_L": "the same within a bank group",
    "tFAW": "the window that holds at most four ACT",
    "tWTR_S": "end of write data to RD",
    "tWTR_L": "the same within a bank group",
    "tRTW": "RD to WR",
    "tRFC": "REF of all banks of a rank to its next command",
    "tREFI": "mean time between refreshes of a rank",
}
"""Timings that every specification states, and what they separate."""

OPTIONAL_TIMINGS: Mapping[str, str] = {
    "tBL_L": "a burst within a bank group, where it takes longer",
    "tRPab": "PRE of all banks to ACT, where it takes longer than tRP",
    "tRDA": "RD with auto-precharge to the precharge inside, where it is not tRTP",
    "tCCD_R": "RD to RD of another stack id",
    "tPPD": "PRE to PRE",
    "tRTRS": "gap on a data bus that changes its rank",
    "tRFCpb": "REF of one bank to its next command",
    "tRREFD": "REF of one bank to ACT of another",
    "tREFD": "REF of one bank to REF of another",
    "tRRDpb_L": "ACT to REF of one bank within a bank group, where it is not tRRD_S",
    "tAAD": "the latest second half of a split ACT",
    "tWCKPST": "write clock running on after a burst",
}
"""Timings that only some memories have."""

MAX_BANKS = 128
MAX_RANKS = 16
"""Banks, and ranks or pseudo-channels, of a channel that the controller's tables have room for."""
MAX_LINKS = 8
"""Links, and quadrants, of a memory cube."""

_ORDERED = (
    ("tBL", "tCCD_S"),
    ("tCCD_S", "tCCD_L"),
    ("tRRD_S", "tRRD_L"),
    ("tRRD_S", "tFAW"),
    ("tRRD_S", "tRRDpb_L"),
    ("tWTR_S", "tWTR_L"),
    ("tRCDRD", "tRAS"),
    ("tRP", "tRPab"),
    ("tRTP", "tRDA"),
    ("tRFCpb", "tRFC"),
    ("tRFC", "tREFI"),
    ("tAAD", "tRCDRD"),
    ("tAAD", "tRCDWR"),
)


@dataclass(frozen=True)
class Timing:
    """A delay in clock cycles, or in nanoseconds that are rounded up to whole cycles.

    `source` is a key of the specification's `sources`; `note` says why this value was taken.
    """

    source: Annotated[str, MinLen(1)]
    cycles: Annotated[int, Ge(0)] | None = None
    ns: Annotated[float, Ge(0)] | None = None
    note: str = ""


@dataclass(frozen=True)
class Organisation:
    """What there is. Everything counts per next higher level; all but `channels` powers of two.

    `pseudo_channels` share a command bus but not their data bus, `ranks` share both, `stack_ids`
    share the timing of their pseudo-channel. `columns` are bursts in a row. `bus_bits` and
    `burst_length` are of one pseudo-channel, or of the channel where it has none.
    """

    source: Annotated[str, MinLen(1)]
    channels: Annotated[int, Ge(1)]
    bank_groups: Annotated[int, Ge(1)]
    banks: Annotated[int, Ge(1)]
    rows: Annotated[int, Ge(1)]
    columns: Annotated[int, Ge(1)]
    bus_bits: Annotated[int, Ge(1)]
    burst_length: Annotated[int, Ge(1)]
    pseudo_channels: Annotated[int, Ge(1)] = 1
    ranks: Annotated[int, Ge(1)] = 1
    stack_ids: Annotated[int, Ge(1)] = 1
    note: str = ""

    @property
    def burst_bytes(self) -> int:
        """Bytes that one RD or WR moves."""
        return self.bus_bits * self.burst_length // 8

    @property
    def sizes(self) -> dict[str, int]:
        """How many values each field of an address takes."""
        return {
            "channel": self.channels,
            "pseudo_channel": self.pseudo_channels,
            "rank": self.ranks,
            "stack_id": self.stack_ids,
            "bank_group": self.bank_groups,
            "bank": self.banks,
            "row": self.rows,
            "column": self.columns,
        }

    @property
    def banks_per_channel(self) -> int:
        """Banks that share a command bus."""
        return self.pseudo_channels * self.ranks * self.stack_ids * self.bank_groups * self.banks

    @property
    def capacity_bytes(self) -> int:
        """Bytes of all channels."""
        return math.prod(self.sizes.values()) * self.burst_bytes


@dataclass(frozen=True)
class Links:
    """Serial links of a memory cube, which every request and answer crosses in packets.

    A packet is a flit, and `flit_bytes` of data a flit more. Links and quadrants have a queue of
    `queue` packets for each way and move a flit in `flit_ps`. A channel belongs to the quadrant
    that is left when its number is divided by `quadrants`.
    """

    source: Annotated[str, MinLen(1)]
    count: Annotated[int, Ge(1), Le(MAX_LINKS)]
    quadrants: Annotated[int, Ge(1), Le(MAX_LINKS)]
    queue: Annotated[int, Ge(1)]
    flit_ps: Annotated[int, Ge(1)]
    flit_bytes: Annotated[int, Ge(1)]
    note: str = ""


@dataclass(frozen=True)
class DramSpec:
    """A memory: organisation, clock, command bus, timings and address map.

    `command_bus`: `single` takes one command a clock; `dual` one column and one row command;
    `dual_edge` the same at rising edges, and PRE also at falling ones, so that it counts two ticks
    a clock; `split_activate` is single, with ACT in two halves and a write clock that must be
    started. `activate_ticks` and `column_ticks` are how long ACT and column commands hold their
    bus, one tick where ACT is split. `address_map` is explained in `hwmodels.dram.fields`.

    Raises SpecError with every contradiction.
    """

    name: Annotated[str, MinLen(1)]
    sources: dict[str, str]
    organisation: Organisation
    clock_ps: Annotated[float, Gt(0)]
    clock_source: Annotated[str, MinLen(1)]
    command_bus: Bus
    timings: dict[str, Timing]
    address_map: Annotated[str, MinLen(1)]
    activate_ticks: Annotated[int, Ge(1)] = 1
    column_ticks: Annotated[int, Ge(1)] = 1
    status: Status = "published"
    links: Links | None = None
    note: str = ""

    def __post_init__(self) -> None:
        """Refuse what contradicts itself."""
        if problems := [f"{self.name}: {problem}" for problem in _problems(self)]:
            raise SpecError(problems)

    @property
    def ticks_per_clock(self) -> int:
        """Steps of the command bus per clock."""
        return 2 if self.command_bus == "dual_edge" else 1

    @property
    def tick_s(self) -> float:
        """Seconds of one step of the command bus."""
        return self.clock_ps / PICO / self.ticks_per_clock

    def cycles(self, name: str, default: int | None = None) -> int:
        """Return a timing in clock cycles; KeyError if it is not stated and has no default."""
        timing = self.timings.get(name)
        if timing is None and default is not None:
            return default
        return _cycles(self.timings[name], self.clock_ps)

    @property
    def peak_bytes_per_s(self) -> float:
        """Bytes per second of all channels when no clock of any data bus is idle."""
        organisation = self.organisation
        buses = organisation.channels * organisation.pseudo_channels
        return buses * organisation.burst_bytes * PICO / (self.cycles("tBL") * self.clock_ps)


def _cycles(timing: Timing, clock_ps: float) -> int:
    """Return whole cycles; nanoseconds are rounded up, but not for a rounding error of theirs."""
    if timing.cycles is not None:
        return timing.cycles
    clocks = (timing.ns or 0.0) * 1000 / clock_ps
    return math.ceil(clocks - 1e-9 * max(1.0, clocks))


def _problems(spec: DramSpec) -> Iterator[str]:
    yield from _organisation_problems(spec.organisation)
    yield from _source_problems(spec)
    yield from _timing_problems(spec)
    yield from _bus_problems(spec)
    yield from map_problems(spec.organisation.sizes, spec.address_map)
    if spec.links is not None:
        yield from _link_problems(spec, spec.links)


def _bus_problems(spec: DramSpec) -> Iterator[str]:
    for name in ("activate_ticks", "column_ticks"):
        found = getattr(spec, name)
        if found < 1:
            yield f"{name}: found {found}, expected at least 1"
        elif found > 1 and spec.command_bus == "split_activate":
            yield f"{name}: found {found}, expected 1 beside split_activate"


def _link_problems(spec: DramSpec, links: Links) -> Iterator[str]:
    for name, most in (("count", MAX_LINKS), ("quadrants", MAX_LINKS)):
        found = getattr(links, name)
        if not 1 <= found <= most:
            yield f"links.{name}: found {found}, expected 1 to {most}"
    for name in ("queue", "flit_bytes"):
        found = getattr(links, name)
        if found < 1:
            yield f"links.{name}: found {found}, expected at least 1"
    if not 1 <= links.flit_ps <= spec.clock_ps:
        yield f"links.flit_ps: found {links.flit_ps}, expected 1 to clock_ps, {spec.clock_ps:g}"
    if spec.clock_ps != round(spec.clock_ps):
        yield f"clock_ps: found {spec.clock_ps:g}, expected a whole number beside links"


def _organisation_problems(organisation: Organisation) -> Iterator[str]:
    for name, size in organisation.sizes.items():
        if size < 1:
            yield f"organisation: found {size} for the sizes of {name}, expected at least 1"
        elif size & (size - 1) and name != "channel":
            yield f"organisation: found {size} for the sizes of {name}, expected a power of two"
    burst = organisation.burst_bytes
    if organisation.bus_bits * organisation.burst_length % 8 or burst < 1 or burst & (burst - 1):
        yield (
            f"organisation: bus_bits {organisation.bus_bits} x burst_length "
            f"{organisation.burst_length}: found {burst} bytes, expected a power of two"
        )
    if organisation.pseudo_channels > 1 and organisation.ranks > 1:
        yield "organisation: found both pseudo_channels and ranks, expected one of them to be 1"
    if organisation.banks_per_channel > MAX_BANKS:
        yield (
            f"organisation: found {organisation.banks_per_channel} banks per channel, "
            f"expected at most {MAX_BANKS}"
        )


def _source_problems(spec: DramSpec) -> Iterator[str]:
    used = {
        "organisation.source": spec.organisation.source,
        "clock_source": spec.clock_source,
        **({} if spec.links is None else {"links.source": spec.links.source}),
        **{f"timings.{name}.source": timing.source for name, timing in spec.timings.items()},
    }
    for place, source in used.items():
        if source not in spec.sources:
            yield f'{place}: unknown source "{source}"{nearest(source, spec.sources)}'


def _timing_problems(spec: DramSpec) -> Iterator[str]:
    known = [*TIMINGS, *OPTIONAL_TIMINGS]
    for name in spec.timings:
        if name not in known:
            yield f"timings.{name}: unknown timing{nearest(name, known)}"
    for name, meaning in TIMINGS.items():
        if name not in spec.timings:
            yield f"timings.{name}: missing, expected {meaning}"
    if spec.command_bus == "split_activate":
        for name in ("tAAD", "tWCKPST"):
            if name not in spec.timings:
                yield f"timings.{name}: missing, split_activate needs {OPTIONAL_TIMINGS[name]}"
    found: dict[str, int] = {}
    for name, timing in spec.timings.items():
        if (timing.cycles is None) == (timing.ns is None):
            yield f"timings.{name}: expected either cycles or ns"
        else:
            found[name] = _cycles(timing, spec.clock_ps)
    yield from _order_problems(found, spec.organisation)


def _order_problems(found: Mapping[str, int], organisation: Organisation) -> Iterator[str]:
    for shorter, longer in _ORDERED:
        if shorter in found and longer in found and found[shorter] > found[longer]:
            yield (
                f"timings.{longer}: found {found[longer]} cycles, expected at least {shorter}, "
                f"{found[shorter]}"
            )
    for name in ("tBL", "tCL", "tCWL", "tRP", "tRAS", "tRCDRD", "tREFI", "tRFC"):
        if found.get(name) == 0:
            yield f"timings.{name}: found 0 cycles, expected more"
    if {"tRAS", "tRP", "tRC"} <= found.keys() and found["tRC"] < found["tRAS"] + found["tRP"]:
        yield (
            f"timings.tRC: found {found['tRC']} cycles, expected at least tRAS + tRP, "
            f"{found['tRAS'] + found['tRP']}"
        )
    if found.get("tBL") and organisation.burst_length % found["tBL"]:
        yield (
            f"timings.tBL: found {found['tBL']} cycles, expected a divisor of burst_length, "
            f"{organisation.burst_length}"
        )
