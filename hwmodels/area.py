"""Area of a chip as a ledger: arrays, buffers, lanes, vias, each with number, price and source.

Cells, buffers and lanes as the energy table prices them, vias as the memory file says. What has no
row is not counted: pads and drivers of memory pins, clock generators, wires between the blocks.
"""

from collections.abc import Iterator
from dataclasses import dataclass

from hwmodels.architecture import Architecture, Figure, MemoryTechnology
from hwmodels.cells import SIGNIFICANDS, is_float, operand_numbers
from hwmodels.energy_table import AreaFigures, EnergyTable, sram_area
from hwmodels.precision import leaking_cells
from hwmodels.upkeep import cell_bits
from hwmodels.workload import NUMBER_BITS

FLOAT_ADDERS = 4
"""Assumed: adders as wide as the sum in a floating-point adder, to align, add and normalise."""


@dataclass(frozen=True)
class AreaRow:
    """One line of the ledger: so many parts of a component, square metres each."""

    component: str
    part: str
    count: float
    area_per_part_m2: float
    low_per_part_m2: float
    high_per_part_m2: float
    source: str

    @property
    def area_m2(self) -> float:
        """Square metres of this row."""
        return self.count * self.area_per_part_m2

    @property
    def area_low_m2(self) -> float:
        """Low end of the range."""
        return self.count * self.low_per_part_m2

    @property
    def area_high_m2(self) -> float:
        """High end of the range."""
        return self.count * self.high_per_part_m2


def chip_area(
    architecture: Architecture, technology: MemoryTechnology, table: EnergyTable
) -> tuple[AreaRow, ...]:
    """Return the ledger of the logic die's area; empty where the table prices none."""
    if table.area is None:
        return ()
    return tuple(_rows(architecture, technology, table, table.area))


def via_share(rows: tuple[AreaRow, ...]) -> float:
    """Return the vias' share of the area; 0 without vias."""
    whole = sum(row.area_m2 for row in rows)
    return sum(row.area_m2 for row in rows if row.component == "vias") / whole if whole else 0.0


def _rows(
    architecture: Architecture, technology: MemoryTechnology, table: EnergyTable, area: AreaFigures
) -> Iterator[AreaRow]:
    array, cores = architecture.array, architecture.cores.count
    cells = cores * leaking_cells(array)
    sums = array.accumulator_bits
    yield _row("array", "multiplier_bit2", cells * _products(architecture), area.multiply_bit2_m2)
    adders = 1 + FLOAT_ADDERS * _has_floats(architecture)
    yield _row("array", "adder_bit", cells * sums * adders, area.add_bit_m2)
    yield _row("array", "register_bit", cells * cell_bits(array), area.register_bit_m2)
    yield _row("vector_unit", "lane", cores * architecture.vector_unit.lanes, area.lane_m2)
    if array.coupling is not None:
        yield _row("core", "core", cores, area.core_m2)
    for name, buffer in vars(architecture.buffers).items():
        width = None if buffer.port_bytes is None else 8 * buffer.port_bytes
        figure = sram_area(table, buffer.size_bytes, width_bits=width)
        if figure is not None:
            yield _row(f"{name}_buffer", "buffer", cores, figure)
    if technology.vias is not None:
        pitch = technology.vias.pitch_m
        low, high = pitch.bounds
        square = Figure(pitch.value**2, f"pitch squared: {pitch.source}", low**2, high**2)
        number = architecture.memory.channels * technology.vias.per_channel
        yield _row("vias", "via", number, square)


def _products(architecture: Architecture) -> int:
    """Return the bits of activation times bits of weight that the cells' multiplier is made for."""
    pairs = [operand_numbers(operands) for operands in architecture.array.supports]
    return max(
        SIGNIFICANDS[a] ** 2 if is_float(a) else NUMBER_BITS[a] * NUMBER_BITS[w] for a, w in pairs
    )


def _has_floats(architecture: Architecture) -> bool:
    return any(is_float(operand_numbers(one)[0]) for one in architecture.array.supports)


def _row(component: str, part: str, count: float, figure: Figure) -> AreaRow:
    return AreaRow(component, part, count, figure.value, *figure.bounds, figure.source)
