"""Energy as a ledger: action counts times energy per action, each with its source and range.

Totals are sums of rows. Memory energy comes from the memory's own file, everything on the chip from
an energy table; a table that does not cover the chip is refused before anything runs.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from operator import attrgetter

from hwmodels.architecture import Architecture, Figure, MemoryTechnology
from hwmodels.energy_table import (
    EXTRAPOLATED,
    EnergyFigure,
    EnergyTable,
    SramPoint,
    Way,
    find_action,
    interpolate_sram,
    table_problems,
)
from hwmodels.precision import array_actions, leaking_cells
from hwmodels.skipping import sparse_actions
from hwmodels.upkeep import UPKEEP, cell_bits

__all__ = [
    "REST_REFRESH",
    "STATIC",
    "Action",
    "EnergyRow",
    "EnergyTable",
    "Ledger",
    "Price",
    "Prices",
    "SramPoint",
    "extrapolations",
    "interpolate_sram",
    "needed_actions",
    "prices",
    "sum_rows",
]

Action = tuple[str, str]  # component and what it does


@dataclass(frozen=True)
class EnergyRow:
    """One line of a ledger.

    `factor` names what rows share when a range moves, `inherited` the table from which the chip's
    own took the price.
    """

    component: str
    action: str
    count: int
    energy_per_action_j: float
    low_per_action_j: float
    high_per_action_j: float
    source: str
    factor: str
    inherited: str | None = None

    @property
    def energy_j(self) -> float:
        """Joules of this row."""
        return self.count * self.energy_per_action_j

    @property
    def energy_low_j(self) -> float:
        """Low end of the range."""
        return self.count * self.low_per_action_j

    @property
    def energy_high_j(self) -> float:
        """High end of the range."""
        return self.count * self.high_per_action_j


@dataclass(frozen=True)
class Price:
    """Joules per action with range, source and factor."""

    value_j: float
    low_j: float
    high_j: float
    source: str
    factor: str
    inherited: str | None = None


Prices = dict[Action, Price]
WAYS: tuple[Way, ...] = ("read", "write")


def prices(architecture: Architecture, technology: MemoryTechnology, table: EnergyTable) -> Prices:
    """Return the price of every action this chip can do.

    Static actions (`leakage`, `background`) are counted per array cycle of each core, which pays
    for itself and an equal part of the memory, the clock of the array per cycle in which it works.
    Raises ValueError listing every action that the table lacks and every figure whose range does
    not hold its value.
    """
    _require_actions(architecture, table)
    clock_hz = architecture.array.clock_hz
    found: Prices = {}
    done = dict.fromkeys((*needed_actions(architecture), ("vector_unit", "vector_mac")))
    cells = leaking_cells(architecture.array)
    for component, action in done:
        figure = _action(table, action, architecture)
        times = cells * cell_bits(architecture.array) if action == "clock_bit" else 1.0
        if figure is not None:
            priced = _price(figure, table.name, times=times)
            found[component, LEDGER_NAMES.get(action, action)] = priced
    for name, buffer in vars(architecture.buffers).items():
        width = None if buffer.port_bytes is None else 8 * buffer.port_bytes
        for way in WAYS:
            figure = interpolate_sram(table, buffer.size_bytes, way=way, width_bits=width)
            found[f"{name}_buffer", f"{way}_byte"] = _price(figure, table.name)
    size_bytes = sum(buffer.size_bytes for buffer in vars(architecture.buffers).values())
    for component, figure, number in (
        ("buffers", table.sram_leakage_w_per_byte, size_bytes),
        ("array", table.cell_leakage_w, cells),
        ("vector_unit", table.lane_leakage_w, architecture.vector_unit.lanes),
    ):
        found[component, "leakage"] = _price(figure, table.name, times=number / clock_hz)
    found["memory", "read_bit"] = _price(technology.read_j_per_bit, technology.name)
    found["memory", "write_bit"] = _price(technology.write_j_per_bit, technology.name)
    channels = architecture.memory.channels
    found["memory", "background"] = _price(
        technology.background_w,
        technology.name,
        times=channels / architecture.cores.count / clock_hz,
    )
    return found


LEDGER_NAMES = {"core_cycle": "cycle"} | {name: action for (_, action), name in UPKEEP}
"""What the ledger calls actions of a table, where it has another name: the component is beside."""

STATIC: tuple[Action, ...] = (
    ("array", "leakage"),
    ("vector_unit", "leakage"),
    ("buffers", "leakage"),
    ("memory", "background"),
)
REST_REFRESH: Action = ("memory", "refresh")
"""What refresh takes of a memory at rest, where that is told apart from its background."""


class Ledger:
    """Makes rows from counts at the prices of one chip; equal rows are one object."""

    def __init__(self, priced: Prices) -> None:
        self.prices = priced
        self._rows: dict[tuple[Action, int], EnergyRow] = {}

    def rows(self, counts: Mapping[Action, int]) -> tuple[EnergyRow, ...]:
        """Return one row per action that happened.

        Raises KeyError naming an action without a price.
        """
        found = []
        for entry in counts.items():
            if entry[1]:
                row = self._rows.get(entry)
                if row is None:
                    row = self._rows[entry] = self._row(*entry)
                found.append(row)
        return tuple(found)

    def _row(self, done: Action, number: int) -> EnergyRow:
        price = self.prices[done]
        return EnergyRow(
            *done,
            number,
            price.value_j,
            price.low_j,
            price.high_j,
            price.source,
            price.factor,
            price.inherited,
        )


_PRICED = attrgetter(
    "component",
    "action",
    "energy_per_action_j",
    "low_per_action_j",
    "high_per_action_j",
    "source",
    "factor",
    "inherited",
)


def sum_rows(rows: Iterable[tuple[EnergyRow, int]]) -> tuple[EnergyRow, ...]:
    """Return one row per action and price: counts added, each row taken its number of times."""
    counts: dict[tuple[str, str, float, float, float, str, str, str | None], int] = {}
    for row, times in rows:
        key = _PRICED(row)
        counts[key] = counts.get(key, 0) + times * row.count
    return tuple(EnergyRow(key[0], key[1], count, *key[2:]) for key, count in counts.items())


def _price(figure: Figure, factor: str, *, times: float = 1.0) -> Price:
    low, high = figure.bounds
    inherited = None
    if isinstance(figure, EnergyFigure):
        factor, inherited = figure.factor or factor, figure.inherited
    return Price(times * figure.value, times * low, times * high, figure.source, factor, inherited)


def needed_actions(architecture: Architecture) -> tuple[Action, ...]:
    """Return what a chip can do besides moving bytes and leaking: component and table action."""
    array = architecture.array
    found = [("array", name) for name in (*array_actions(array), *sparse_actions(array))]
    found.append(("vector_unit", "vector_op"))
    if architecture.vector_unit.fallback:
        found.append(("vector_unit", "vector_mac"))
    if array.gating != "none":
        found.append(("array", "gated_mac"))
    if array.coupling is not None:
        found.append(("core", "core_cycle"))
    found += [(component, name) for (component, _), name in UPKEEP]
    return tuple(found)


def extrapolations(priced: Prices) -> tuple[str, ...]:
    """Return a warning for every price that lies beyond the points of its table."""
    return tuple(
        f"{component} {action}: {price.source}"
        for (component, action), price in priced.items()
        if EXTRAPOLATED in price.source
    )


def _action(table: EnergyTable, name: str, architecture: Architecture) -> Figure | None:
    return find_action(table, name, accumulator_bits=architecture.array.accumulator_bits)


def _require_actions(architecture: Architecture, table: EnergyTable) -> None:
    have = ", ".join(table.actions)
    problems = [
        f'{table.name}: no action "{action}", which {architecture.name} needs; it has {have}'
        for _, action in needed_actions(architecture)
        if _action(table, action, architecture) is None
    ]
    problems += [f"{table.name}: {problem}" for problem in table_problems(table)]
    if problems:
        raise ValueError("\n".join(problems))
