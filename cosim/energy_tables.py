"""Energy tables from YAML, with the tables they extend or lie between."""

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from cosim.config import parse, read, resolve
from cosim.errors import CosimError, collect
from hwmodels.energy_files import Between, Extension, at_node, extend
from hwmodels.energy_table import EnergyTable, table_problems
from hwmodels.voltage import AtVoltage, at_voltage


def load_table(path: Path) -> EnergyTable:
    """Return the table in a YAML file, with what it takes from other files.

    Raises CosimError listing every mistake of every file.
    """
    file = resolve(str(path))
    return parse_table(read(file), source=str(file), relative_to=file)


def parse_table(
    data: dict[str, Any], *, source: str, relative_to: Path, above: tuple[Path, ...] = ()
) -> EnergyTable:
    """Return the table that plain data describes; `relative_to` anchors the paths in it.

    `above` are the files that led here, so that a table which leads back to itself is an error.
    Raises as `load_table`.
    """
    if "extends" in data:
        own = parse(data, Extension, source=source)
        return _made(source, lambda: extend(own, _named(own.extends, source, relative_to, above)))
    if "between" in data:
        middle = parse(data, Between, source=source)
        problems: list[str] = []
        tables = [
            collect(problems, partial(_named, name, source, relative_to, above))
            for name in middle.between
        ]
        if problems:
            raise CosimError(problems)
        ends = [table for table in tables if table is not None]
        return _made(source, lambda: at_node(middle.name, middle.node_m, ends))
    if "of" in data:
        other = parse(data, AtVoltage, source=source)
        return _made(
            source,
            lambda: at_voltage(
                other.name, other.voltage_v, _named(other.of, source, relative_to, above)
            ),
        )
    return parse(data, EnergyTable, source=source)


def _named(name: str, source: str, relative_to: Path, above: tuple[Path, ...]) -> EnergyTable:
    file = resolve(name, relative_to).resolve()
    if file in above:
        raise CosimError(f'{source}: found "{name}", which leads back to itself')
    return parse_table(read(file), source=str(file), relative_to=file, above=(*above, file))


def _made(source: str, make: Callable[[], EnergyTable]) -> EnergyTable:
    try:
        table = make()
    except CosimError:
        raise
    except ValueError as error:
        raise CosimError(f"{source}: {line}" for line in str(error).splitlines()) from None
    problems = table_problems(table)
    if problems:
        raise CosimError(f"{source}: {problem}" for problem in problems)
    return table
