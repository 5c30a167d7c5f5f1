"""A chip as a run needs it: architecture, memory technology and energy table, checked together."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from cosim.config import configs_root, parse, read, resolve
from cosim.errors import CosimError, collect
from cosim.validate import mend
from hwmodels.architecture import Architecture, MemoryTechnology
from hwmodels.chip_rules import fold_problems
from hwmodels.energy import EnergyTable
from hwmodels.simulate import chip as require_fit

DEFAULT_ENERGY = "energy/aladdin_cacti_28nm.yaml"

T = TypeVar("T")


@dataclass(frozen=True)
class Chip:
    """A chip with its memory and energy figures; `document` is all of it as plain data."""

    architecture: Architecture
    technology: MemoryTechnology
    energy: EnergyTable
    document: dict[str, Any]

    @property
    def name(self) -> str:
        """Name of the chip."""
        return self.architecture.name

    @property
    def clock_hz(self) -> float:
        """Clock of the array, in which cycles are counted."""
        return self.architecture.array.clock_hz


def load_chip(hardware: Path, energy: Path | None = None) -> Chip:
    """Return the chip in a YAML file with an energy table (the shipped 28 nm one by default).

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
    return parse_chip(
        data, table, source=str(place), table_source=str(table_place), relative_to=place
    )


def parse_chip(
    hardware: dict[str, Any],
    energy: dict[str, Any],
    *,
    source: str,
    table_source: str,
    relative_to: Path,
) -> Chip:
    """Return the chip that plain data describes; `relative_to` anchors the memory file's path.

    Raises as `load_chip`. Rules between fields are checked on what is left when mistakes in single
    fields are put right, so that all are told at once.
    """
    problems: list[str] = []
    architecture = collect(problems, lambda: parse(hardware, Architecture, source=source))
    table = collect(problems, lambda: parse(energy, EnergyTable, source=table_source))
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
    if sound is not None:
        broken = fold_problems(sound)
        if table is not None and technology is not None:
            try:
                require_fit(sound, technology=technology, energy=table)
            except ValueError as error:
                broken = [*str(error).splitlines(), *broken]
        problems += [f"{source}: {line}" for line in broken]
    if architecture is None or table is None or technology is None or problems:
        raise CosimError(problems)
    document = {"hardware": hardware, "memory": memory, "energy": energy}
    return Chip(architecture, technology, table, document)
