"""A chip as a run needs it: architecture, memory technology and energy table, checked together."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from cosim.config import configs_root, load, override, parse, read, resolve
from cosim.energy_tables import parse_table
from cosim.errors import CosimError, collect
from cosim.mend import mend
from hwmodels.architecture import Architecture, MemoryStack, MemoryTechnology
from hwmodels.chip import chip as require_fit
from hwmodels.chip_rules import fold_problems
from hwmodels.energy import EnergyTable

if TYPE_CHECKING:
    from hwmodels.exact_memory import Dram  # brings numba, which only an exact memory needs
    from hwmodels.measured_memory import MeasuredMemory
    from hwmodels.thermal import ThermalStack

DEFAULT_ENERGY = "energy/aladdin_cacti_28nm.yaml"

T = TypeVar("T")


@dataclass(frozen=True)
class Chip:
    """A chip with its memory and energy figures; `document` is all of it as plain data.

    `dram` is what the memory controller needs, where the chip asks for `fidelity: exact`;
    `thermal` is what heat crosses, where the chip names it, and `measured` the memory of a roofline
    at shares of its peak that were measured.
    """

    architecture: Architecture
    technology: MemoryTechnology
    energy: EnergyTable
    document: dict[str, Any]
    dram: "Dram | None" = None
    thermal: "ThermalStack | None" = None
    measured: "MeasuredMemory | None" = None

    @property
    def name(self) -> str:
        """Name of the chip."""
        return self.architecture.name

    @property
    def clock_hz(self) -> float:
        """Clock of the array, in which cycles are counted."""
        return self.architecture.array.clock_hz

    def refreshed(self, rate: int) -> "Chip":
        """Return this chip with its DRAM refreshed `rate` times as often as its timings say."""
        if self.dram is None:
            return self
        return replace(self, dram=replace(self.dram, refresh_rate=rate))


def load_chip(
    hardware: Path, energy: Path | None = None, *, assignments: Sequence[str] = ()
) -> Chip:
    """Return the chip in a YAML file with an energy table (the shipped 28 nm one by default).

    `assignments` of the form `memory.channels=4` go before what the chip file says.

    Raises CosimError listing every mistake of the chip, its memory file and the table, and every
    action of the chip that the table lacks.
    """
    problems: list[str] = []
    files = []
    for path in (hardware, energy or configs_root() / DEFAULT_ENERGY):
        try:
            file = resolve(str(path))
            files.append((file, read(file)))
        except CosimError as error:
            problems += error.problems
    if problems:
        raise CosimError(problems)
    (place, data), (table_place, table) = files
    for assignment in assignments:
        data = collect(problems, partial(override, data, assignment)) or data
    chip = collect(
        problems,
        lambda: parse_chip(
            data,
            table,
            source=str(place),
            table_source=str(table_place),
            relative_to=place,
            table_relative_to=table_place,
        ),
    )
    if chip is None or problems:
        raise CosimError(problems)
    return chip


def parse_chip(
    hardware: dict[str, Any],
    energy: dict[str, Any] | None,
    *,
    source: str,
    table_source: str,
    relative_to: Path,
    table_relative_to: Path | None = None,
) -> Chip:
    """Return the chip that plain data describes; `relative_to` anchors the memory file's path.

    `table_relative_to` anchors the paths in the energy table where it is another file. Without an
    `energy` table, whose mistakes are told already, those of the rest are.

    Raises as `load_chip`. Rules between fields are checked on what is left when mistakes in single
    fields are put right, so that all are told at once.
    """
    problems: list[str] = []
    architecture = collect(problems, lambda: parse(hardware, Architecture, source=source))
    table = None
    if energy is not None:
        anchor = table_relative_to or relative_to
        table = collect(
            problems, lambda: parse_table(energy, source=table_source, relative_to=anchor)
        )
    technology, memory = collect(problems, lambda: _technology(hardware, relative_to)) or (None, {})
    mended = None if architecture else mend(hardware, Architecture)
    sound, guessed = mended or (architecture, ())
    behind = _Behind()
    if sound is not None:
        if any(path.startswith("memory") for path in guessed):
            sound = _without_controller(sound)
        behind = _behind(sound.memory, source, relative_to, problems)
        if behind.is_broken:
            sound = _without_controller(sound)
        broken = _sure(fold_problems(sound), guessed)
        if table is not None and technology is not None:
            try:
                require_fit(
                    sound,
                    technology=technology,
                    energy=table,
                    dram=behind.dram,
                    measured=behind.measured,
                )
            except ValueError as error:
                broken = [*_sure(str(error).splitlines(), guessed), *broken]
        problems += [f"{source}: {line}" for line in broken]
    if architecture is None or energy is None or table is None or technology is None or problems:
        raise CosimError(problems)
    document = {"hardware": hardware, "memory": memory, "energy": energy, **behind.documents}
    if {"extends", "between", "of"} & set(energy):
        document["energy_in_full"] = asdict(table)
    return Chip(
        architecture, technology, table, document, behind.dram, behind.thermal, behind.measured
    )


def _technology(
    hardware: dict[str, Any], relative_to: Path
) -> tuple[MemoryTechnology, dict[str, Any]] | None:
    """Return the technology that a chip's memory names, and its file as plain data."""
    named = hardware.get("memory")
    if not isinstance(named, dict) or not isinstance(named.get("technology"), str):
        return None
    place = resolve(named["technology"], relative_to, key="memory.technology")
    data = read(place)
    return parse(data, MemoryTechnology, source=str(place)), data


def _without_controller(chip: Architecture) -> Architecture:
    return replace(chip, memory=replace(chip.memory, fidelity="roofline", efficiency=None))


def _sure(lines: Sequence[str], guessed: Sequence[str]) -> list[str]:
    """Return the broken rules that do not hang on a guess, see `mend`."""
    unsure = list(guessed)
    if any(path.startswith("array") for path in guessed):
        unsure += ["buffers.", "array.coupling"]  # a fold is as large as the array
    if any(path.startswith("memory") for path in guessed):
        unsure.append("memory.")
    return [line for line in lines if not any(path in line for path in unsure)]


@dataclass(frozen=True)
class _Behind:
    """What the files that a chip's memory names hold; `documents` are those files as plain data.

    Where it `is_broken`, the memory names timings or shares of the peak that have mistakes.
    """

    dram: "Dram | None" = None
    thermal: "ThermalStack | None" = None
    measured: "MeasuredMemory | None" = None
    documents: dict[str, Any] = field(default_factory=dict)
    is_broken: bool = False


def _behind(memory: MemoryStack, source: str, relative_to: Path, problems: list[str]) -> _Behind:
    """Return what stands behind a chip's memory; what is wrong with it is added to `problems`."""
    hot = exact = shares = None
    if memory.thermal is not None:
        path = memory.thermal
        hot = collect(problems, lambda: _thermal(path, relative_to))
    is_wanted = memory.fidelity != "roofline" and bool(memory.timing)
    if is_wanted:
        exact = collect(problems, lambda: _dram(memory, source, relative_to))
    is_measured = memory.fidelity == "roofline" and bool(memory.timing and memory.efficiency)
    if is_measured:
        shares = collect(problems, lambda: _measured(memory, source, relative_to))
    dram, tables = exact or (None, {})
    stack, thermal = hot or (None, {})
    measured, table = shares or (None, {})
    is_broken = (is_wanted and exact is None) or (is_measured and shares is None)
    return _Behind(dram, stack, measured, tables | table | thermal, is_broken)


def assembled(
    architecture: Architecture, table: EnergyTable, technology: MemoryTechnology | None = None
) -> Chip:
    """Return the chip of an architecture, with what the files that its memory names hold.

    Memory is the one that the architecture names unless `technology` is given. Raises CosimError
    listing every mistake of those files.
    """
    problems: list[str] = []
    memory = architecture.memory
    if technology is None:
        technology = collect(problems, lambda: load(resolve(memory.technology), MemoryTechnology))
    behind = _behind(memory, architecture.name, Path(), problems)
    if technology is None or problems:
        raise CosimError(problems)
    document = {
        "hardware": asdict(architecture),
        "memory": asdict(technology),
        "energy": asdict(table),
        **behind.documents,
    }
    return Chip(
        architecture, technology, table, document, behind.dram, behind.thermal, behind.measured
    )


def _thermal(path: str, relative_to: Path) -> "tuple[ThermalStack, dict[str, Any]]":
    """Return the thermal stack of a file, and the file as plain data; raises as `load_chip`."""
    from hwmodels.thermal import ThermalStack  # noqa: PLC0415 (brings numba)

    place = resolve(path, relative_to, key="memory.thermal")
    data = read(place)
    return parse(data, ThermalStack, source=str(place)), {"thermal": data}


def _dram(memory: MemoryStack, source: str, relative_to: Path) -> "tuple[Dram, dict[str, Any]]":
    """Return the memory behind the controller, and its timing and energy files as plain data.

    Raises CosimError listing every mistake of both files, of the policy and of the address map.
    """
    from hwmodels.dram.energy import DramEnergy  # noqa: PLC0415 (brings numba)
    from hwmodels.dram.spec import DramSpec  # noqa: PLC0415
    from hwmodels.exact_memory import dram  # noqa: PLC0415

    place = resolve(str(memory.timing), relative_to, key="memory.timing")
    priced = resolve(str(place.parent.parent / "energy" / place.name))
    timing, energy = read(place), read(priced)
    problems: list[str] = []
    spec = collect(problems, lambda: parse(timing, DramSpec, source=str(place)))
    figures = collect(problems, lambda: parse(energy, DramEnergy, source=str(priced)))
    if spec is None or figures is None:
        raise CosimError(problems)
    try:
        found = dram(memory, spec, figures)
    except ValueError as error:
        raise CosimError([f"{source}: memory: {e}" for e in str(error).splitlines()]) from None
    return found, {"timing": timing, "memory_energy": energy}


def _measured(
    memory: MemoryStack, source: str, relative_to: Path
) -> "tuple[MeasuredMemory, dict[str, Any]]":
    """Return the memory at shares of its peak that were measured, and its files as plain data.

    Raises CosimError listing every mistake of both files, of the address map, or what is not there.
    """
    from hwmodels.dram.spec import DramSpec  # noqa: PLC0415 (brings numba)
    from hwmodels.measured_memory import EfficiencyTable, measured  # noqa: PLC0415

    place = resolve(str(memory.timing), relative_to, key="memory.timing")
    shares = resolve(str(memory.efficiency), relative_to, key="memory.efficiency")
    timing, stated = read(place), read(shares)
    problems: list[str] = []
    spec = collect(problems, lambda: parse(timing, DramSpec, source=str(place)))
    table = collect(problems, lambda: parse(stated, EfficiencyTable, source=str(shares)))
    if spec is None or table is None:
        raise CosimError(problems)
    try:
        found = measured(memory, spec, table)
    except ValueError as error:
        raise CosimError([f"{source}: memory.{e}" for e in str(error).splitlines()]) from None
    row = {"version": table.version, "date": table.date, **asdict(found.efficiency)}
    return found, {"timing": timing, "memory_efficiency": row}
