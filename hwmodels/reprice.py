"""The same counts at other prices: what a run would take by another energy table."""

from collections.abc import Iterable

from hwmodels.architecture import Architecture, MemoryTechnology
from hwmodels.energy import Action, EnergyRow, EnergyTable, Ledger, prices


def reprice(
    rows: Iterable[EnergyRow],
    architecture: Architecture,
    technology: MemoryTechnology,
    *,
    table: EnergyTable,
) -> tuple[EnergyRow, ...]:
    """Return a ledger's counts at the prices of `table`; memory keeps those of its own file.

    Counts do not depend on prices unless the chip chooses its tilings by energy
    (`mapping.objective`): then these are the tilings of the run. Raises ValueError listing every
    action that the table lacks.
    """
    priced = prices(architecture, technology, table)
    kept: list[EnergyRow] = []
    counts: dict[Action, int] = {}
    for row in rows:
        if row.component == "memory":
            kept.append(row)
        else:
            action = row.component, row.action
            counts[action] = counts.get(action, 0) + row.count
    return (*Ledger(priced).rows(counts), *kept)
