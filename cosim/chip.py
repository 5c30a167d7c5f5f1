"""A chip as a run needs it: architecture, memory technology and energy table, checked together."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from cosim.config import configs_root, load, override, parse, read, resolve
from cosim.energy_tables import parse_table
from cosim.errors import CosimError, collect
from cosim.validate import mend
from hwmodels.architecture import Architecture, MemoryStack, MemoryTechnology
from hwmodels.chip_rules import fold_problems
from hwmodels.energy import EnergyTable
from hwmodels.simulate import chip as require_fit

if TYPE_CHECKING:
    from hwmodels.exact_memory import Dram  # brings numba, which only an exact memory needs
    from hwmodels.thermal import ThermalStack

DEFAULT_ENERGY = "energy/aladdin_cacti_28nm.yaml"

T = TypeVar("T")


@dataclass(frozen=True)
class Chip:
    """A chip with its memory and energy figures; `document` is all of it as plain data.

    `dram` is what the memory controller needs, where the chip asks for `fidelity: exact`;
    `thermal` is what heat crosses, where the chip names it.
    """

    architecture: Architecture
    technology: MemoryTechnology
    energy: EnergyTable
    document: dict[str, Any]
    dram: "Dram | None" = None
    thermal: "ThermalStack | None" = None

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
        data = override(data, assignment)
    return parse_chip(
        data,
        table,
        source=str(place),
        table_source=str(table_place),
        relative_to=place,
        table_relative_to=table_place,
    )


def parse_chip(
    hardware: dict[str, Any],
    energy: dict[str, Any],
    *,
    source: str,
    table_source: str,
    relative_to: Path,
    table_relative_to: Path | None = None,
) -> Chip:
    """Return the chip that plain data describes; `relative_to` anchors the memory file's path.

    `table_relative_to` anchors the paths in the energy table where it is another file.

    Raises as `load_chip`. Rules between fields are checked on what is left when mistakes in single
    fields are put right, so that all are told at once.
    """
    problems: list[str] = []
    architecture = collect(problems, lambda: parse(hardware, Architecture, source=source))
    table = collect(
        problems,
        lambda: parse_table(
            energy, source=table_source, relative_to=table_relative_to or relative_to
        ),
    )
    memory_path, memory = None, None
    named = hardware.get("memory")
    if isinstance(named, dict) and isinstance(named.get("technology"), str):
        memory_path = collect(problems, lambda: resolve(str(named["technology"]), relative_to))
    if memory_path is not None:
        memory = collect(problems, lambda: read(memory_path))
    technology = None
    if memory is not None:
        technology = collect(
            problems, lambda: parse(memory, MemoryTechnology, source=str(memory_path))
        )
    sound = architecture or mend(hardware, Architecture)
    behind = _Behind() if sound is None else _behind(sound.memory, source, relative_to, problems)
    if sound is not None:
        broken = fold_problems(sound)
        if table is not None and technology is not None:
            try:
                require_fit(sound, technology=technology, energy=table, dram=behind.dram)
            except ValueError as error:
                broken = [*str(error).splitlines(), *broken]
        problems += [f"{source}: {line}" for line in broken]
    if architecture is None or table is None or technology is None or problems:
        raise CosimError(problems)
    document = {"hardware": hardware, "memory": memory, "energy": energy, **behind.documents}
    if {"extends", "between", "of"} & set(energy):
        document["energy_in_full"] = asdict(table)
    return Chip(architecture, technology, table, document, behind.dram, behind.thermal)


@dataclass(frozen=True)
class _Behind:
    """What the files that a chip's memory names hold; `documents` are those files as plain data."""

    dram: "Dram | None" = None
    thermal: "ThermalStack | None" = None
    documents: dict[str, Any] = field(default_factory=dict)


def _behind(memory: MemoryStack, source: str, relative_to: Path, problems: list[str]) -> _Behind:
    """Return what stands behind a chip's memory; what is wrong with it is added to `problems`."""
    hot = exact = None
    if memory.thermal is not None:
        path = memory.thermal
        hot = collect(problems, lambda: _thermal(path, relative_to))
    if memory.fidelity != "roofline" and memory.timing:
        exact = collect(problems, lambda: _dram(memory, source, relative_to))
    dram, tables = exact or (None, {})
    stack, thermal = hot or (None, {})
    return _Behind(dram, stack, tables | thermal)


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
    return Chip(architecture, technology, table, document, behind.dram, behind.thermal)


def _thermal(path: str, relative_to: Path) -> "tuple[ThermalStack, dict[str, Any]]":
    """Return the thermal stack of a file, and the file as plain data; raises as `load_chip`."""
    from hwmodels.thermal import ThermalStack  # noqa: PLC0415 (brings numba)

    place = resolve(path, relative_to)
    data = read(place)
    return parse(data, ThermalStack, source=str(place)), {"thermal": data}


def _dram(memory: MemoryStack, source: str, relative_to: Path) -> "tuple[Dram, dict[str, Any]]":
    """Return the memory behind the controller, and its timing and energy files as plain data.

    Raises CosimError listing every mistake of both files, of the policy and of the address map.
    """
    from hwmodels.dram.energy import DramEnergy  # noqa: PLC0415 (brings numba)
    from hwmodels.dram.spec import DramSpec  # noqa: PLC0415
    from hwmodels.exact_memory import dram  # noqa: PLC0415

    place = resolve(str(memory.timing), relative_to)
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
