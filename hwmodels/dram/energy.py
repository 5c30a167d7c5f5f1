"""Energy of a memory: commands, time at rest, vias and pins, as rows of the ledger.

What a command takes comes from supply currents (IDD), as in Micron's TN-40-07 and DRAMsim3: the
current while it is repeated, less what the memory draws at rest, times voltage and time. Where
joules of a command are published or measured, they go before the currents.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Annotated

from annotated_types import Ge, Gt, MinLen

from hwmodels.architecture import Figure
from hwmodels.dram.problems import SpecError, nearest
from hwmodels.dram.spec import PICO, DramSpec, Status
from hwmodels.dram.stats import DramStats
from hwmodels.energy import Action, EnergyRow, Ledger, Price, Prices

CORE: Mapping[str, str] = {
    "activate_j": "ACT with the PRE after it",
    "read_j_per_bit": "RD, in the core",
    "write_j_per_bit": "WR, in the core",
    "refresh_j": "REF of all banks of a rank",
    "refresh_bank_j": "REF of one bank",
    "open_w": "a rank at rest with a row open",
    "closed_w": "a rank at rest with all rows closed",
}
"""What the core of a memory takes; a pseudo-channel counts as a rank."""

ACTIONS = (
    "activate",
    "read_burst",
    "write_burst",
    "refresh_rank",
    "refresh_bank",
    "open_tick",
    "closed_tick",
    "via_bit",
    "io_bit",
)
"""Actions of the component `memory`; a tick is that of one rank."""


@dataclass(frozen=True)
class Rail:
    """Currents in amperes that one device draws from a supply, by their names in JEDEC data sheets.

    `idd0_a`: a bank opened and closed every tRC; `idd2n_a`, `idd3n_a`: at rest, all rows closed or
    one open; `idd4r_a`, `idd4w_a`: reading or writing without a gap; `idd5_a`: refreshing.
    """

    source: Annotated[str, MinLen(1)]
    voltage_v: Annotated[float, Gt(0)]
    idd0_a: Annotated[float, Ge(0)]
    idd2n_a: Annotated[float, Ge(0)]
    idd3n_a: Annotated[float, Ge(0)]
    idd4r_a: Annotated[float, Ge(0)]
    idd4w_a: Annotated[float, Ge(0)]
    idd5_a: Annotated[float, Ge(0)]


@dataclass(frozen=True)
class CoreFigure:
    """A figure of `CORE` with its range; without `value` it is what the currents give."""

    source: Annotated[str, MinLen(1)]
    value: Annotated[float, Ge(0)] | None = None
    low: Annotated[float, Ge(0)] | None = None
    high: Annotated[float, Ge(0)] | None = None


@dataclass(frozen=True)
class DramEnergy:
    """Energy of the memory whose timing table has the same name.

    `devices_per_rank` draw the currents of `rails` together; 0.5 where a device is two
    pseudo-channels. `core` are figures by their names in `CORE`. `via_j_per_bit` is what a bit
    takes between the dies of a stack, `io_j_per_bit` what it takes at the pins or bumps.

    Raises SpecError with every contradiction.
    """

    name: Annotated[str, MinLen(1)]
    io_j_per_bit: Figure
    via_j_per_bit: Figure | None = None
    devices_per_rank: Annotated[float, Gt(0)] = 1.0
    rails: dict[str, Rail] = field(default_factory=dict)
    core: dict[str, CoreFigure] = field(default_factory=dict)
    status: Status = "published"
    note: str = ""

    def __post_init__(self) -> None:
        """Refuse what contradicts itself."""
        if problems := [f"{self.name}: {problem}" for problem in _problems(self)]:
            raise SpecError(problems)


def core_figures(spec: DramSpec, energy: DramEnergy) -> dict[str, Figure]:
    """Return every figure of `CORE` in joules, joules per bit or watts, with range and source.

    REF of one bank, where nothing states it, is its share of REF of all: the same rows. Raises
    SpecError when the currents give less than nothing or leave a range.
    """
    found: dict[str, Figure] = {}
    derived = _from_currents(spec, energy)
    currents = "; ".join(rail.source for rail in energy.rails.values())
    problems: list[str] = []
    for name in CORE:
        stated = energy.core.get(name)
        if stated is not None and stated.value is not None:
            found[name] = Figure(stated.value, stated.source, stated.low, stated.high)
        elif name == "refresh_bank_j":
            found[name] = _share(found["refresh_j"], _banks_per_rank(spec))
        elif stated is None:
            found[name] = Figure(derived[name], currents)
        else:
            source = f"{currents}; range: {stated.source}"
            found[name] = Figure(derived[name], source, stated.low, stated.high)
        low, high = found[name].bounds
        if not 0 <= low <= found[name].value <= high:
            problems.append(
                f"{energy.name}: core.{name}: found low {low:g}, value {found[name].value:g}, "
                f"high {high:g}, expected 0 <= low <= value <= high"
            )
    if problems:
        raise SpecError(problems)
    return found


def dram_prices(spec: DramSpec, energy: DramEnergy) -> Prices:
    """Return joules of every action of the component `memory`.

    Raises SpecError when the energy is that of another memory, and as `core_figures` does.
    """
    if energy.name != spec.name:
        raise SpecError([f'energy: found that of "{energy.name}", expected "{spec.name}"'])
    core = core_figures(spec, energy)
    burst_bits = 8 * spec.organisation.burst_bytes
    priced = {
        "activate": (core["activate_j"], 1.0),
        "read_burst": (core["read_j_per_bit"], burst_bits),
        "write_burst": (core["write_j_per_bit"], burst_bits),
        "refresh_rank": (core["refresh_j"], 1.0),
        "refresh_bank": (core["refresh_bank_j"], 1.0),
        "open_tick": (core["open_w"], spec.tick_s),
        "closed_tick": (core["closed_w"], spec.tick_s),
        "via_bit": (energy.via_j_per_bit, 1.0),
        "io_bit": (energy.io_j_per_bit, 1.0),
    }
    return {
        ("memory", action): _price(figure, times, energy.name)
        for action, (figure, times) in priced.items()
        if figure is not None
    }


def constant_pj_per_bit(spec: DramSpec, figure: Figure) -> DramEnergy:
    """Return the table that many studies use: `figure`, joules for each bit moved, and no more.

    Nothing for rows, refresh or rest, so it can be right at one load and one pattern only.
    """
    nothing = CoreFigure("constant_pj_per_bit: bits are all that is charged", 0.0)
    moving = CoreFigure(figure.source, figure.value, *figure.bounds)
    moved = ("read_j_per_bit", "write_j_per_bit")
    return DramEnergy(
        name=spec.name,
        io_j_per_bit=Figure(0.0, nothing.source),
        core={name: moving if name in moved else nothing for name in CORE},
        status="hypothetical",
        note="constant_pj_per_bit",
    )


def dram_counts(
    spec: DramSpec, commands: Mapping[str, int], *, rank_ticks: int, open_rank_ticks: int
) -> dict[Action, int]:
    """Return how often each action of `ACTIONS` happened, from counts of commands by name.

    `rank_ticks` are ticks of all ranks together, `open_rank_ticks` those with a row open. PRE is
    part of ACT, and the halves of a split ACT are one. Raises ValueError for counts that cannot be.
    """
    if not 0 <= open_rank_ticks <= rank_ticks:
        raise ValueError(f"open_rank_ticks: found {open_rank_ticks}, expected 0 to {rank_ticks}")

    def number(*names: str) -> int:
        return sum(commands.get(name, 0) for name in names)

    reads, writes = number("RD", "RDA"), number("WR", "WRA")
    bits = (reads + writes) * 8 * spec.organisation.burst_bytes
    counts = (
        number("ACT"),
        reads,
        writes,
        number("REFab"),
        number("REFpb"),
        open_rank_ticks,
        rank_ticks - open_rank_ticks,
        bits,
        bits,
    )
    return {("memory", name): count for name, count in zip(ACTIONS, counts, strict=True)}


def dram_rows(stats: DramStats, energy: DramEnergy) -> tuple[EnergyRow, ...]:
    """Return the ledger of a run: one row per action that happened and has a price.

    Example: the sum of `row.energy_j` over `stats.seconds` is the power of the memory.
    """
    priced = dram_prices(stats.spec, energy)
    counts = dram_counts(
        stats.spec,
        stats.commands,
        rank_ticks=stats.rank_ticks,
        open_rank_ticks=stats.open_rank_ticks,
    )
    return Ledger(priced).rows({action: n for action, n in counts.items() if action in priced})


def _from_currents(spec: DramSpec, energy: DramEnergy) -> dict[str, float]:
    """Return the figures that currents give (DRAMsim3, configuration.cc, times the clock)."""
    t = spec.cycles
    clock_s = spec.clock_ps / PICO
    bits = 8 * spec.organisation.burst_bytes
    found = dict.fromkeys(CORE, 0.0)
    for rail in energy.rails.values():
        power = energy.devices_per_rank * rail.voltage_v
        rest = rail.idd3n_a * t("tRAS") + rail.idd2n_a * t("tRP")
        burst = power * t("tBL") * clock_s / bits
        found["activate_j"] += power * (rail.idd0_a * t("tRC") - rest) * clock_s
        found["read_j_per_bit"] += (rail.idd4r_a - rail.idd3n_a) * burst
        found["write_j_per_bit"] += (rail.idd4w_a - rail.idd3n_a) * burst
        found["refresh_j"] += power * (rail.idd5_a - rail.idd3n_a) * t("tRFC") * clock_s
        found["open_w"] += power * rail.idd3n_a
        found["closed_w"] += power * rail.idd2n_a
    return found


def _banks_per_rank(spec: DramSpec) -> int:
    organisation = spec.organisation
    return organisation.stack_ids * organisation.bank_groups * organisation.banks


def _share(figure: Figure, parts: int) -> Figure:
    low, high = figure.bounds
    source = f"assumed: 1/{parts} of REF of all banks; {figure.source}"
    return Figure(figure.value / parts, source, low / parts, high / parts)


def _price(figure: Figure, times: float, factor: str) -> Price:
    low, high = figure.bounds
    return Price(times * figure.value, times * low, times * high, figure.source, factor)


_ORDERED = (
    ("idd2n_a", "idd3n_a"),
    ("idd2n_a", "idd0_a"),
    ("idd3n_a", "idd4r_a"),
    ("idd3n_a", "idd4w_a"),
    ("idd3n_a", "idd5_a"),
)


def _problems(energy: DramEnergy) -> Iterator[str]:
    for name in energy.core:
        if name not in CORE:
            yield f"core.{name}: unknown figure{nearest(name, CORE)}"
    for name, meaning in CORE.items():
        figure = energy.core.get(name)
        is_open = figure is None or figure.value is None
        if is_open and not energy.rails and name != "refresh_bank_j":
            yield f"core.{name}: missing, without rails expected the value of {meaning}"
    for name, rail in energy.rails.items():
        for lower, upper in _ORDERED:
            least, found = getattr(rail, lower), getattr(rail, upper)
            if least > found:
                yield (
                    f"rails.{name}.{upper}: found {found:g}, expected at least {lower}, {least:g}"
                )
    for name, stated in (
        ("io_j_per_bit", energy.io_j_per_bit),
        ("via_j_per_bit", energy.via_j_per_bit),
    ):
        low, high = (0.0, 0.0) if stated is None else stated.bounds
        if stated is not None and not low <= stated.value <= high:
            yield (
                f"{name}: found low {low:g}, value {stated.value:g}, high {high:g}, "
                "expected low <= value <= high"
            )
