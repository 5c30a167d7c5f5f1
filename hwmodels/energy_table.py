"""What an energy table says: figures with range and origin, and how to read between its points.

Between two points a figure follows the power law through them, so that it is monotone where the
points are; beyond the last point the power law of the two nearest goes on, and the source says so.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from itertools import pairwise
from math import log, sqrt
from typing import Annotated, Literal

from annotated_types import Ge, Gt, MinLen

from hwmodels.architecture import Figure
from hwmodels.cells import SIGNIFICANDS, is_float, operand_numbers
from hwmodels.workload import NUMBER_BITS

Unit = Literal["J", "J/byte", "W", "W/byte", "m2", "anchor"]
Way = Literal["read", "write"]

EXTRAPOLATED = "extrapolated"
SINGLE_BIT_PAIRS = ("i1xi1", "u1xi1")
"""What needs a price of its own: an exclusive nor is no multiplier."""
DEFAULT_WIDTH_BITS = 128
NARROWEST_BITS = 2
"""A sign takes a multiplier of two bits."""
MULTIPLIER_SHARES = {"f32": 3.7 / 4.6, "f16": 1.1 / 1.5, "bf16": 0.4 / 1.3}
"""The multiply in a multiply-accumulate: Horowitz, ISSCC 2014, for f32 and f16; bf16 assumed."""


@dataclass(frozen=True)
class EnergyFigure(Figure):
    """A figure of an energy table.

    `unit` is that of its place in the table unless it is `anchor`, a multiple of the table's
    anchor. `node_m` and `voltage_v` are the table's unless given. Figures of one `factor`, the
    table's name unless given, are wrong together. `inherited` names the table that stated it.
    """

    unit: Unit | None = None
    node_m: Annotated[float, Gt(0)] | None = None
    voltage_v: Annotated[float, Gt(0)] | None = None
    factor: str | None = None
    inherited: str | None = None


@dataclass(frozen=True)
class WidthPoint:
    """Energy of one integer multiplication or addition of `bits` bits."""

    bits: Annotated[int, Ge(1)]
    energy_j: EnergyFigure


@dataclass(frozen=True)
class SramPoint:
    """Energy per byte of a buffer of `size_bytes` whose port is `width_bits` wide, and its area."""

    size_bytes: Annotated[int, Ge(1)]
    read_j_per_byte: EnergyFigure
    write_j_per_byte: EnergyFigure
    width_bits: Annotated[int, Ge(8)] = DEFAULT_WIDTH_BITS
    area_m2: EnergyFigure | None = None


@dataclass(frozen=True)
class AreaFigures:
    """Square metres of what chips are made of.

    `multiply_bit2_m2` is that of a multiplier per bit of one operand and bit of the other.
    """

    multiply_bit2_m2: EnergyFigure
    add_bit_m2: EnergyFigure
    register_bit_m2: EnergyFigure
    lane_m2: EnergyFigure
    core_m2: EnergyFigure


@dataclass(frozen=True)
class EnergyTable:
    """Energy of everything on the chip at one node.

    `actions` are joules per action: `mac_AxW` (one multiply-accumulate of the array for operands A
    and W), `dequantize` (one weight at the array's edge), `rescale` (one sum in an accumulator),
    `vector_mac` and `vector_op` (one lane operation). Arrays that leave out zeros need
    `index_decode` (one index), `gather` and `scatter` (one word read or written where an index
    says, beside its buffer) and `select` (one activation out of a run), an array that gates zeros
    `gated_mac` (one multiply-accumulate that does not switch), an array inside a processor core
    `core_cycle` (one cycle of that core). Integer multiply-accumulates that are not stated follow
    from `multiply` and `add`, see `mac_figure`, those of a float and an integer from two floats,
    see `mixed_figure`.

    `sram` are points of buffer energy over size and width, see `interpolate_sram`. Leakage is in
    watts per byte of buffer, per cell of the array and per lane. `not_monotone` names the sections
    in which a figure may fall where node, bits, size or width grow, and says why.
    """

    name: Annotated[str, MinLen(1)]
    node_m: Annotated[float, Gt(0)]
    actions: dict[str, EnergyFigure]
    sram: Annotated[tuple[SramPoint, ...], MinLen(2)]
    sram_leakage_w_per_byte: EnergyFigure
    cell_leakage_w: EnergyFigure
    lane_leakage_w: EnergyFigure
    multiply: tuple[WidthPoint, ...] = ()
    add: tuple[WidthPoint, ...] = ()
    voltage_v: Annotated[float, Gt(0)] | None = None
    not_monotone: dict[str, str] = field(default_factory=dict)
    area: AreaFigures | None = None


def find_action(table: EnergyTable, name: str, *, accumulator_bits: int = 32) -> Figure | None:
    """Return joules of an action, stated or following from widths; None where neither is there."""
    stated = table.actions.get(name)
    if stated is not None:
        return stated
    if name.startswith("mac_"):
        operands = name.removeprefix("mac_")
        mixed = mixed_figure(table, operands)
        return mixed or mac_figure(table, operands, accumulator_bits=accumulator_bits)
    return None


def mixed_figure(table: EnergyTable, operands: str) -> EnergyFigure | None:
    """Return joules of a float times an integer weight that the table does not state.

    Assumed: of the multiply-accumulate of two such floats the multiplier shrinks with the bits of
    the weight over those of the significand; what adds stays. The high end is that of two floats,
    for a cell that converts the weight first. None for other operands, and for a table that does
    not state the product of two such floats.
    """
    a, w = operand_numbers(operands)
    floats = table.actions.get(f"mac_{a}x{a}")
    if floats is None or not is_float(a) or is_float(w):
        return None
    width = min(max(NUMBER_BITS[w], NARROWEST_BITS), SIGNIFICANDS[a])
    times = 1 - MULTIPLIER_SHARES[a] * (1 - width / SIGNIFICANDS[a])
    what = f"assumed: {times:.3g} of mac_{a}x{a} for a multiplier of {SIGNIFICANDS[a]} x {width}"
    return replace(_scaled(floats, times, f"{what} bits"), high=floats.bounds[1])


def mac_figure(table: EnergyTable, operands: str, *, accumulator_bits: int = 32) -> Figure | None:
    """Return joules of one integer multiply-accumulate that the table does not state.

    A multiplier of a x w bits has as many partial products as a square one of sqrt(a w) bits and
    takes its energy; a sign counts as two bits; the sum takes one addition as wide as the
    accumulator. The high end is a product of 8 bits whatever the operands, for a cell that does not
    gate what it does not need, and one more addition where activations are unsigned. None for
    floating point, for pairs of single bits and for a table without `multiply` and `add`.
    """
    a, w = operand_numbers(operands)
    known = table.multiply and table.add
    if not known or is_float(a) or is_float(w) or operands in SINGLE_BIT_PAIRS:
        return None
    widths = [max(NUMBER_BITS[number], NARROWEST_BITS) for number in (a, w)]
    multiplied = at_width(table.multiply, sqrt(widths[0] * widths[1]))
    widest = at_width(table.multiply, max(8.0, sqrt(widths[0] * widths[1])))
    added = at_width(table.add, accumulator_bits)
    high = widest.bounds[1] + added.bounds[1]
    if a.startswith("u"):
        high += added.bounds[1]
    return EnergyFigure(
        multiplied.value + added.value,
        f"multiply of {widths[0]} x {widths[1]} bits: {multiplied.source}; add: {added.source}",
        multiplied.bounds[0] + added.bounds[0],
        high,
        factor=multiplied.factor,
        inherited=multiplied.inherited,
    )


def at_width(points: Sequence[WidthPoint], bits: float) -> EnergyFigure:
    """Return joules of an operation of so many bits, a power law between the nearest points."""
    ordered = sorted(points, key=lambda point: point.bits)
    sizes = [float(point.bits) for point in ordered]
    return at_point(sizes, [point.energy_j for point in ordered], bits, f"{bits:g} bits")


def interpolate_sram(
    table: EnergyTable, size_bytes: int, *, way: Way, width_bits: int | None = None
) -> EnergyFigure:
    """Return joules per byte read or written (`way`) in a buffer with a port of `width_bits`.

    Between two sizes energy = e0 (size / s0) ^ b with b through both, and likewise the energy of
    one access between two widths. A port wider than the widest point is several of these side by
    side; one that is narrower than the narrowest pays for the whole of that. A table of one width
    has it for all.
    """
    widths = sorted({point.width_bits for point in table.sram})
    asked = width_bits or DEFAULT_WIDTH_BITS
    by_size = [_at_size(table, size_bytes, way=way, width_bits=width) for width in widths]
    if len(widths) == 1 or asked >= widths[-1]:
        return by_size[-1]
    accesses = [_scaled(f, width / 8) for f, width in zip(by_size, widths, strict=True)]
    if asked < widths[0]:
        access = _scaled(accesses[0], 1.0, f"{EXTRAPOLATED} to {asked} bits wide")
    else:
        places = [float(width) for width in widths]
        access = at_point(places, accesses, asked, f"{asked} bits wide")
    return _scaled(access, 8 / asked)


def _at_size(table: EnergyTable, size_bytes: int, *, way: Way, width_bits: int) -> EnergyFigure:
    points = sorted(
        (point for point in table.sram if point.width_bits == width_bits),
        key=lambda point: point.size_bytes,
    )
    figures = [p.read_j_per_byte if way == "read" else p.write_j_per_byte for p in points]
    sizes = [float(point.size_bytes) for point in points]
    return at_point(sizes, figures, size_bytes, f"{size_bytes} bytes")


def sram_area(
    table: EnergyTable, size_bytes: int, *, width_bits: int | None = None
) -> EnergyFigure | None:
    """Return square metres of a buffer, of the points of the nearest width; None where none has.

    Between two sizes the area follows the power law through both.
    """
    asked = width_bits or DEFAULT_WIDTH_BITS
    known = [point for point in table.sram if point.area_m2 is not None]
    if not known:
        return None
    width = min((point.width_bits for point in known), key=lambda one: (abs(one - asked), one))
    points = {
        float(point.size_bytes): point.area_m2
        for point in sorted(known, key=lambda point: point.size_bytes)
        if point.width_bits == width and point.area_m2 is not None
    }
    sizes, figures = list(points), list(points.values())
    return at_point(sizes, figures, size_bytes, f"{size_bytes} bytes")


def at_point(
    places: Sequence[float], figures: Sequence[EnergyFigure], at: float, what: str
) -> EnergyFigure:
    """Return the figure `at` a place on the power law through its two neighbours in `places`.

    `places` rise, and there are as many as figures, at least one. `what` names the place in the
    source of a figure that no point states.

    Example: four times the energy for sixteen times the size.
        >>> points = [EnergyFigure(1.0, "one"), EnergyFigure(4.0, "four")]
        >>> at_point([1.0, 16.0], points, 4.0, "size 4")
        EnergyFigure(value=2.0, source='interpolated to size 4: one', low=2.0, high=2.0, \
unit=None, node_m=None, voltage_v=None, factor=None, inherited=None)

    """
    if at in places:
        return figures[places.index(at)]
    if len(places) == 1:
        return _scaled(figures[0], 1.0, f"{EXTRAPOLATED} to {what}")
    upper = next((i for i in range(1, len(places)) if at <= places[i]), len(places) - 1)
    share = log(at / places[upper - 1]) / log(places[upper] / places[upper - 1])
    first, second = figures[upper - 1], figures[upper]
    word = "interpolated" if 0 <= share <= 1 else EXTRAPOLATED
    value = _power(first.value, second.value, share)
    low, high = (_power(a, b, share) for a, b in zip(first.bounds, second.bounds, strict=True))
    return EnergyFigure(
        value,
        f"{word} to {what}: {first.source}",
        min(low, value),
        max(high, value),
        factor=first.factor,
        inherited=first.inherited,
    )


def _power(start: float, end: float, share: float) -> float:
    """Return a point on the power law; on the straight line where one end is zero."""
    if start > 0 and end > 0:
        return float(start ** (1 - share) * end**share)
    return max(0.0, start * (1 - share) + end * share)


def _scaled(figure: EnergyFigure, times: float, what: str = "") -> EnergyFigure:
    low, high = figure.bounds
    return EnergyFigure(
        times * figure.value,
        f"{what}: {figure.source}" if what else figure.source,
        times * low,
        times * high,
        factor=figure.factor,
        inherited=figure.inherited,
    )


def named_figures(table: EnergyTable) -> Iterator[tuple[str, EnergyFigure, Unit]]:
    """Yield every figure of a table: where it stands, itself and the unit of that place."""
    for name, figure in table.actions.items():
        yield name, figure, "J"
    for name, points in (("multiply", table.multiply), ("add", table.add)):
        for one in points:
            yield f"{name}.{one.bits}", one.energy_j, "J"
    widths = {point.width_bits for point in table.sram}
    for point in table.sram:
        place = f"sram.{point.size_bytes}"
        if len(widths) > 1:
            place += f".{point.width_bits}"
        yield f"{place}.read", point.read_j_per_byte, "J/byte"
        yield f"{place}.write", point.write_j_per_byte, "J/byte"
        if point.area_m2 is not None:
            yield f"{place}.area", point.area_m2, "m2"
    yield "sram_leakage_w_per_byte", table.sram_leakage_w_per_byte, "W/byte"
    yield "cell_leakage_w", table.cell_leakage_w, "W"
    yield "lane_leakage_w", table.lane_leakage_w, "W"
    if table.area is not None:
        for name, figure in vars(table.area).items():
            yield f"area.{name}", figure, "m2"


def table_problems(table: EnergyTable) -> list[str]:
    """Return a line for every figure and every section of a table that cannot be."""
    problems = []
    for name, figure, unit in named_figures(table):
        low, high = figure.bounds
        if not low <= figure.value <= high:
            problems.append(
                f"{name}: found low {low:g}, value {figure.value:g}, high {high:g}, "
                "expected low <= value <= high"
            )
        if getattr(figure, "unit", None) not in (None, unit):
            problems.append(f'{name}: unit: found "{figure.unit}", expected "{unit}"')
    places = [(point.width_bits, point.size_bytes) for point in table.sram]
    if len(set(places)) < len(places) or len({size for _, size in places}) < 2:
        problems.append("sram: found equal sizes, expected at least two different")
    for name, points in (("multiply", table.multiply), ("add", table.add)):
        bits = [point.bits for point in points]
        if len(set(bits)) < len(bits):
            problems.append(f"{name}: found {bits} bits, expected each width once")
    return problems + [
        f"{where}: falls where it should grow; expected its section in not_monotone with the reason"
        for where in falls(table)
        if where.partition(".")[0] not in table.not_monotone
    ]


def falls(table: EnergyTable) -> Iterator[str]:
    """Yield where dynamic energy falls though bits, size or width grow: `section.place`."""
    for name, points in (("multiply", table.multiply), ("add", table.add)):
        ordered = sorted(points, key=lambda point: point.bits)
        for first, second in pairwise(ordered):
            if second.energy_j.value < first.energy_j.value:
                yield f"{name}.{second.bits}"
    cells = {(p.width_bits, p.size_bytes): p for p in table.sram}
    widths = sorted({width for width, _ in cells})
    for way in ("read", "write"):
        for (width, size), point in cells.items():
            mine = _per_access(point, way)
            larger = min((s for w, s in cells if w == width and s > size), default=None)
            wider = min((w for w in widths if w > width and (w, size) in cells), default=None)
            if larger is not None and _per_access(cells[width, larger], way) < mine:
                yield f"sram.{larger}.{width}.{way}"
            if wider is not None and _per_access(cells[wider, size], way) < mine:
                yield f"sram.{size}.{wider}.{way}"


def _per_access(point: SramPoint, way: str) -> float:
    figure = point.read_j_per_byte if way == "read" else point.write_j_per_byte
    return figure.value * point.width_bits / 8
