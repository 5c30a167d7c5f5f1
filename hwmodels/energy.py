"""Energy as a ledger: action counts times energy per action, each with its source and range.

Totals are sums of rows. Memory energy comes from the memory's own file, everything on the chip from
an energy table; a table that does not cover the chip is refused before anything runs.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from math import log
from operator import attrgetter
from typing import Annotated

from annotated_types import Ge, Gt, MinLen

from hwmodels.architecture import Architecture, Figure, MemoryTechnology
from hwmodels.precision import array_actions, leaking_cells
from hwmodels.skipping import sparse_actions

Action = tuple[str, str]  # component and what it does


@dataclass(frozen=True)
class SramPoint:
    """Energy per byte of a buffer of `size_bytes`."""

    size_bytes: Annotated[int, Ge(1)]
    read_j_per_byte: Figure
    write_j_per_byte: Figure


@dataclass(frozen=True)
class EnergyTable:
    """Energy of everything on the chip at one node.

    `actions` are joules per action: `mac_AxW` (one multiply-accumulate of the array for operands A
    and W), `dequantize` (one weight at the array's edge), `rescale` (one sum in an accumulator),
    `vector_mac` and `vector_op` (one lane operation). Arrays that leave out zeros need
    `index_decode` (one index), `gather` and `scatter` (one word read or written where an index
    says, beside its buffer) and `select` (one activation out of a run), an array that gates zeros
    `gated_mac` (one multiply-accumulate that does not switch), an array inside a processor core
    `core_cycle` (one cycle of that core). `sram` are points of buffer energy; sizes between
    them follow the power law through the two neighbours, sizes outside the power law of the two
    nearest. Leakage is in watts per byte of buffer and per cell of the array.
    """

    name: Annotated[str, MinLen(1)]
    node_m: Annotated[float, Gt(0)]
    actions: dict[str, Figure]
    sram: Annotated[tuple[SramPoint, ...], MinLen(2)]
    sram_leakage_w_per_byte: Figure
    cell_leakage_w: Figure
    lane_leakage_w: Figure


@dataclass(frozen=True)
class EnergyRow:
    """One line of a ledger. `factor` names what rows of one table share when a range moves."""

    component: str
    action: str
    count: int
    energy_per_action_j: float
    low_per_action_j: float
    high_per_action_j: float
    source: str
    factor: str

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


Prices = dict[Action, Price]


def prices(architecture: Architecture, technology: MemoryTechnology, table: EnergyTable) -> Prices:
    """Return the price of every action this chip can do.

    Static actions (`leakage`, `background`) are counted per array cycle. Raises ValueError listing
    every action that the table lacks and every figure whose range does not hold its value.
    """
    _require_actions(architecture, table)
    clock_hz = architecture.array.clock_hz
    found: Prices = {}
    for action in (*array_actions(architecture.array), *sparse_actions(architecture.array)):
        found["array", action] = _price(table.actions[action], table.name)
    if architecture.array.gating != "none":
        found["array", "gated_mac"] = _price(table.actions["gated_mac"], table.name)
    if architecture.array.coupling is not None:
        found["core", "cycle"] = _price(table.actions["core_cycle"], table.name)
    for action in ("vector_op", "vector_mac"):
        if action in table.actions:
            found["vector_unit", action] = _price(table.actions[action], table.name)
    for name, buffer in vars(architecture.buffers).items():
        for way in ("read", "write"):
            figure = interpolate_sram(table, buffer.size_bytes, way=way)
            found[f"{name}_buffer", f"{way}_byte"] = _price(figure, table.name)
    size_bytes = sum(buffer.size_bytes for buffer in vars(architecture.buffers).values())
    cells = leaking_cells(architecture.array)
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
        technology.background_w, technology.name, times=channels / clock_hz
    )
    return found


STATIC: tuple[Action, ...] = (
    ("array", "leakage"),
    ("vector_unit", "leakage"),
    ("buffers", "leakage"),
    ("memory", "background"),
)


def interpolate_sram(table: EnergyTable, size_bytes: int, *, way: str) -> Figure:
    """Return joules per byte read or written (`way`) in a buffer of `size_bytes`.

    Between two points energy = e0 (size / s0) ^ b with b through both; low and high likewise.
    """
    points = sorted(table.sram, key=lambda point: point.size_bytes)
    upper = next(
        (i for i in range(1, len(points)) if size_bytes <= points[i].size_bytes), len(points) - 1
    )
    small, large = points[upper - 1], points[upper]
    share = log(size_bytes / small.size_bytes) / log(large.size_bytes / small.size_bytes)
    first, second = (
        (p.read_j_per_byte if way == "read" else p.write_j_per_byte) for p in (small, large)
    )
    is_point = share in (0.0, 1.0)
    word = "interpolated" if 0 <= share <= 1 else "extrapolated"

    def power(start: float, end: float) -> float:
        return start if share == 0 else end if share == 1 else start ** (1 - share) * end**share

    low, high = (power(a, b) for a, b in zip(first.bounds, second.bounds, strict=True))
    source = first.source if share == 0 else second.source
    if not is_point:
        source = f"{word} to {size_bytes} bytes: {first.source}"
    return Figure(power(first.value, second.value), source, low, high)


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
        )


_PRICED = attrgetter(
    "component",
    "action",
    "energy_per_action_j",
    "low_per_action_j",
    "high_per_action_j",
    "source",
    "factor",
)


def sum_rows(rows: Iterable[tuple[EnergyRow, int]]) -> tuple[EnergyRow, ...]:
    """Return one row per action and price: counts added, each row taken its number of times."""
    counts: dict[tuple[str, str, float, float, float, str, str], int] = {}
    for row, times in rows:
        key = _PRICED(row)
        counts[key] = counts.get(key, 0) + times * row.count
    return tuple(
        EnergyRow(key[0], key[1], count, key[2], key[3], key[4], key[5], key[6])
        for key, count in counts.items()
    )


def _price(figure: Figure, factor: str, *, times: float = 1.0) -> Price:
    low, high = figure.bounds
    return Price(times * figure.value, times * low, times * high, figure.source, factor)


def _require_actions(architecture: Architecture, table: EnergyTable) -> None:
    array = architecture.array
    needed = [*array_actions(array), *sparse_actions(array), "vector_op"]
    if architecture.vector_unit.fallback:
        needed.append("vector_mac")
    if array.gating != "none":
        needed.append("gated_mac")
    if array.coupling is not None:
        needed.append("core_cycle")
    have = ", ".join(table.actions)
    problems = [
        f'{table.name}: no action "{action}", which {architecture.name} needs; it has {have}'
        for action in needed
        if action not in table.actions
    ]
    sizes = {point.size_bytes for point in table.sram}
    if len(sizes) < max(2, len(table.sram)):
        problems.append(f"{table.name}: sram: found equal sizes, expected at least two different")
    figures = dict(table.actions)
    figures |= {f"sram.{p.size_bytes}.read": p.read_j_per_byte for p in table.sram}
    figures |= {f"sram.{p.size_bytes}.write": p.write_j_per_byte for p in table.sram}
    figures |= {k: v for k, v in vars(table).items() if isinstance(v, Figure)}
    for name, figure in figures.items():
        low, high = figure.bounds
        if not low <= figure.value <= high:
            problems.append(
                f"{table.name}: {name}: found low {low:g}, value {figure.value:g}, high {high:g}, "
                "expected low <= value <= high"
            )
    if problems:
        raise ValueError("\n".join(problems))
