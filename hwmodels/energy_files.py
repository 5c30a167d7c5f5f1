"""Energy tables made from others: one that extends another, one between two nodes.

A figure taken from another table keeps its source, node, voltage and factor and is marked
`inherited`.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Annotated

from annotated_types import Gt, MinLen

from hwmodels.architecture import Figure
from hwmodels.energy_table import (
    AreaFigures,
    EnergyFigure,
    EnergyTable,
    SramPoint,
    WidthPoint,
    at_point,
)

LEAKAGES = ("sram_leakage_w_per_byte", "cell_leakage_w", "lane_leakage_w")


@dataclass(frozen=True)
class Extension:
    """A table that says only what differs from the table `extends` names, the path of its file.

    Sections that are lists replace the whole list; of `actions` each goes before the other's of its
    name. With an `anchor`, joules of what the table calls one, figures of unit `anchor` are
    multiples of it.
    """

    name: Annotated[str, MinLen(1)]
    extends: Annotated[str, MinLen(1)]
    node_m: Annotated[float, Gt(0)]
    actions: dict[str, EnergyFigure] = field(default_factory=dict)
    sram: tuple[SramPoint, ...] = ()
    sram_leakage_w_per_byte: EnergyFigure | None = None
    cell_leakage_w: EnergyFigure | None = None
    lane_leakage_w: EnergyFigure | None = None
    multiply: tuple[WidthPoint, ...] = ()
    add: tuple[WidthPoint, ...] = ()
    voltage_v: Annotated[float, Gt(0)] | None = None
    not_monotone: dict[str, str] = field(default_factory=dict)
    anchor: Figure | None = None
    area: AreaFigures | None = None


@dataclass(frozen=True)
class Between:
    """A table for a node between, or beyond, those of the two tables named, paths of files."""

    name: Annotated[str, MinLen(1)]
    node_m: Annotated[float, Gt(0)]
    between: tuple[str, str]


def extend(own: Extension, base: EnergyTable) -> EnergyTable:
    """Return the table that `own` makes of `base`.

    Raises ValueError naming every figure in multiples of an anchor when there is none.
    """
    problems: list[str] = []

    def stated(figure: EnergyFigure, place: str) -> EnergyFigure:
        if figure.unit != "anchor":
            return figure
        if own.anchor is None:
            problems.append(f'{own.name}: {place}: unit: found "anchor", but the table has none')
            return figure
        return _anchored(figure, own.anchor)

    def inherited(figure: EnergyFigure, _: str) -> EnergyFigure:
        return _inherited(figure, base)

    actions = _actions(base.actions, inherited) | _actions(own.actions, stated)
    leakages = {
        name: stated(mine, name) if mine is not None else inherited(getattr(base, name), name)
        for name, mine in ((name, getattr(own, name)) for name in LEAKAGES)
    }
    found = EnergyTable(
        own.name,
        own.node_m,
        actions,
        _buffers(own.sram, stated) or _buffers(base.sram, inherited),
        **leakages,
        multiply=_widths(own.multiply, stated) or _widths(base.multiply, inherited),
        add=_widths(own.add, stated) or _widths(base.add, inherited),
        voltage_v=own.voltage_v,
        not_monotone=base.not_monotone | own.not_monotone,
        area=own.area or _areas(base.area, base.area, lambda one, _: inherited(one, "area")),
    )
    if problems:
        raise ValueError("\n".join(problems))
    return found


def at_node(name: str, node_m: float, tables: Sequence[EnergyTable]) -> EnergyTable:
    """Return a table for `node_m`, every figure on the power law in node through two tables.

    Outside their nodes the power law goes on, and sources say `extrapolated`, which a run warns of.
    Raises ValueError when the tables are not two of different nodes with equal rows.
    """
    small, large = sorted(tables, key=lambda table: table.node_m)
    problems = _mismatches(small, large)
    if problems:
        raise ValueError("\n".join(f"{name}: between: {problem}" for problem in problems))
    nodes = [small.node_m, large.node_m]
    what = f"{1e9 * node_m:g} nm"

    def mean(first: EnergyFigure, second: EnergyFigure) -> EnergyFigure:
        return at_point(nodes, [_settled(first, small), _settled(second, large)], node_m, what)

    volts = small.voltage_v, large.voltage_v
    is_inside = nodes[0] <= node_m <= nodes[1]
    share = (node_m - nodes[0]) / (nodes[1] - nodes[0])
    voltage = None
    if is_inside and volts[0] is not None and volts[1] is not None:
        voltage = volts[0] + share * (volts[1] - volts[0])
    return EnergyTable(
        name,
        node_m,
        {key: mean(figure, large.actions[key]) for key, figure in small.actions.items()},
        tuple(
            replace(
                a,
                read_j_per_byte=mean(a.read_j_per_byte, b.read_j_per_byte),
                write_j_per_byte=mean(a.write_j_per_byte, b.write_j_per_byte),
                area_m2=None if not (a.area_m2 and b.area_m2) else mean(a.area_m2, b.area_m2),
            )
            for a, b in zip(_sorted(small.sram), _sorted(large.sram), strict=True)
        ),
        **{key: mean(getattr(small, key), getattr(large, key)) for key in LEAKAGES},
        multiply=_between(small.multiply, large.multiply, mean),
        add=_between(small.add, large.add, mean),
        voltage_v=voltage,
        not_monotone=small.not_monotone | large.not_monotone,
        area=_areas(small.area, large.area, mean),
    )


def change_figures(
    table: EnergyTable,
    *,
    dynamic: Callable[[EnergyFigure], EnergyFigure],
    leakage: Callable[[EnergyFigure], EnergyFigure],
) -> EnergyTable:
    """Return a table with every figure of dynamic energy and of leakage changed; areas stay."""
    return replace(
        table,
        actions={name: dynamic(figure) for name, figure in table.actions.items()},
        sram=tuple(
            replace(
                point,
                read_j_per_byte=dynamic(point.read_j_per_byte),
                write_j_per_byte=dynamic(point.write_j_per_byte),
            )
            for point in table.sram
        ),
        multiply=tuple(replace(p, energy_j=dynamic(p.energy_j)) for p in table.multiply),
        add=tuple(replace(p, energy_j=dynamic(p.energy_j)) for p in table.add),
        sram_leakage_w_per_byte=leakage(table.sram_leakage_w_per_byte),
        cell_leakage_w=leakage(table.cell_leakage_w),
        lane_leakage_w=leakage(table.lane_leakage_w),
    )


Change = Callable[[EnergyFigure, str], EnergyFigure]
Mean = Callable[[EnergyFigure, EnergyFigure], EnergyFigure]


def _actions(figures: Mapping[str, EnergyFigure], change: Change) -> dict[str, EnergyFigure]:
    return {name: change(figure, name) for name, figure in figures.items()}


def _widths(points: Sequence[WidthPoint], change: Change) -> tuple[WidthPoint, ...]:
    return tuple(replace(p, energy_j=change(p.energy_j, f"{p.bits} bits")) for p in points)


def _buffers(points: Sequence[SramPoint], change: Change) -> tuple[SramPoint, ...]:
    return tuple(
        replace(
            point,
            read_j_per_byte=change(point.read_j_per_byte, f"sram.{point.size_bytes}.read"),
            write_j_per_byte=change(point.write_j_per_byte, f"sram.{point.size_bytes}.write"),
            area_m2=point.area_m2 and change(point.area_m2, f"sram.{point.size_bytes}.area"),
        )
        for point in points
    )


def _between(
    small: Sequence[WidthPoint],
    large: Sequence[WidthPoint],
    mean: Mean,
) -> tuple[WidthPoint, ...]:
    second = {point.bits: point.energy_j for point in large}
    return tuple(replace(p, energy_j=mean(p.energy_j, second[p.bits])) for p in small)


def _areas(first: AreaFigures | None, second: AreaFigures | None, mean: Mean) -> AreaFigures | None:
    if first is None or second is None:
        return None
    return AreaFigures(
        **{name: mean(figure, getattr(second, name)) for name, figure in vars(first).items()}
    )


def _anchored(figure: EnergyFigure, anchor: Figure) -> EnergyFigure:
    """Return a multiple of the anchor in joules; low and high take the ends of both."""
    times, ends = figure.bounds, anchor.bounds
    return replace(
        figure,
        value=figure.value * anchor.value,
        low=times[0] * ends[0],
        high=times[1] * ends[1],
        unit=None,
        source=f"{figure.value:g} times the anchor: {figure.source}; anchor: {anchor.source}",
    )


def _inherited(figure: EnergyFigure, base: EnergyTable) -> EnergyFigure:
    settled = _settled(figure, base)
    return replace(settled, inherited=settled.inherited or base.name)


def _settled(figure: EnergyFigure, table: EnergyTable) -> EnergyFigure:
    """Return a figure that says itself what it leaves to its table."""
    return replace(
        figure,
        node_m=figure.node_m or table.node_m,
        voltage_v=figure.voltage_v or table.voltage_v,
        factor=figure.factor or table.name,
    )


def _sorted(points: Sequence[SramPoint]) -> list[SramPoint]:
    return sorted(points, key=lambda point: (point.width_bits, point.size_bytes))


def _mismatches(small: EnergyTable, large: EnergyTable) -> list[str]:
    """Return what two tables do not both have."""
    if small.node_m == large.node_m:
        return [f"found {small.name} and {large.name} of one node, expected two nodes"]
    rows = [
        {f"actions.{name}" for name in table.actions}
        | {f"multiply.{point.bits}" for point in table.multiply}
        | {f"add.{point.bits}" for point in table.add}
        | {f"sram.{point.size_bytes}.{point.width_bits}" for point in table.sram}
        for table in (small, large)
    ]
    return [
        f"{where}: found in {has.name} alone, expected in {lacks.name}, too"
        for has, lacks, more in (
            (small, large, rows[0] - rows[1]),
            (large, small, rows[1] - rows[0]),
        )
        for where in sorted(more)
    ]
