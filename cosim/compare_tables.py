"""The same run under several energy tables, side by side."""

import json
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

from cosim.compare import ledger
from cosim.config import configs_root, parse
from cosim.energy_tables import load_table
from cosim.errors import CosimError, collect
from hwmodels.architecture import Architecture, MemoryTechnology
from hwmodels.energy import EnergyRow, EnergyTable, extrapolations, prices
from hwmodels.energy_split import by_cause, inherited_share, ratio
from hwmodels.reprice import reprice

ALL = "all"
"""The word for every shipped table."""


def named_tables(names: Sequence[str]) -> list[EnergyTable]:
    """Return the tables in files, or every shipped one, finest node first, for the word `all`.

    Raises CosimError with every mistake of every file.
    """
    folder = configs_root() / "energy"
    paths = [
        path
        for name in names
        for path in (sorted(folder.glob("*.yaml")) if name == ALL else [Path(name)])
    ]
    problems: list[str] = []
    found = [collect(problems, partial(load_table, path)) for path in paths]
    if problems:
        raise CosimError(problems)
    tables = [table for table in found if table is not None]
    return sorted(tables, key=lambda table: table.node_m) if ALL in names else tables


def compare_tables(run: Path, names: Sequence[str]) -> list[dict[str, object]]:
    """Return one row for the run as it was, and one per energy table.

    Counts are those of the run; only prices on the chip change. Raises CosimError for a folder
    without a run, a run of an older version, and tables that lack an action of its chip.
    """
    path, problems = run / "run.json", list[str]()
    tables = collect(problems, lambda: named_tables(names))
    if not path.is_file():
        problems.insert(0, f"{run}: no run.json, expected a run folder")
    if tables is None or problems:
        raise CosimError(problems)
    document = json.loads(path.read_text(encoding="utf-8"))
    chip = document["hardware"].get("chip")
    if chip is None:
        raise CosimError(f"{run}: found a run without its chip, expected one of this version")
    architecture = parse(chip["hardware"], Architecture, source=f"{run}: hardware.chip")
    technology = parse(chip["memory"], MemoryTechnology, source=f"{run}: hardware.chip.memory")
    rows = ledger(document["totals"]["energy_rows"])
    return side_by_side(rows, architecture, technology, tables=tables, run=run.name)


def side_by_side(
    rows: Sequence[EnergyRow],
    architecture: Architecture,
    technology: MemoryTechnology,
    *,
    tables: Sequence[EnergyTable],
    run: str,
) -> list[dict[str, object]]:
    """Return a row for a ledger as it is, and one for its counts under each table."""
    problems: list[str] = []
    found = [_row(run, None, rows, rows, ())]
    for table in tables:
        try:
            priced = reprice(rows, architecture, technology, table=table)
        except ValueError as error:
            problems += str(error).splitlines()
            continue
        warnings = extrapolations(prices(architecture, technology, table))
        found.append(_row(table.name, table.node_m, priced, rows, warnings))
    if problems:
        raise CosimError(problems)
    return found


def _row(
    name: str,
    node_m: float | None,
    rows: Sequence[EnergyRow],
    first: Sequence[EnergyRow],
    warnings: tuple[str, ...],
) -> dict[str, object]:
    whole = sum(row.energy_j for row in rows)
    against = ratio(rows, first)
    assumed = sum(row.energy_j for row in rows if row.source.startswith("assumed"))
    found: dict[str, Any] = {
        "table": name,
        "node_m": node_m,
        "energy_j": whole,
        "energy_low_j": sum(row.energy_low_j for row in rows),
        "energy_high_j": sum(row.energy_high_j for row in rows),
        "energy_ratio": None if against is None else against.value,
        "energy_by_cause_j": by_cause(rows),
        "energy_inherited_fraction": inherited_share(rows),
        "energy_assumed_fraction": assumed / whole if whole else 0.0,
        "warnings": list(warnings),
    }
    return found
