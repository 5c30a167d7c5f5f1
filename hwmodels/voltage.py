"""Points of voltage and clock: what a table's joules become at another voltage, and how fast it is.

Dynamic energy goes with the square of the voltage, as charging a capacity does. Leakage is taken to
go with its cube (assumed: the current grows with the square, as drains lower barriers). The clock
follows the alpha-power law of Sakurai and Newton (IEEE J. Solid-State Circuits 25, 1990).
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Annotated

from annotated_types import Gt, MinLen

from hwmodels.architecture import Architecture
from hwmodels.energy_files import change_figures
from hwmodels.energy_table import EnergyFigure, EnergyTable

ALPHA = 1.3
"""Velocity saturation of short channels, Sakurai and Newton 1990."""
THRESHOLD_V = 0.35
"""Assumed: the threshold voltage of logic from 45 to 7 nm."""
LEAST_SHARE, MOST_SHARE = 0.6, 1.3
"""Assumed: shares of the table's voltage between which the rules hold."""


@dataclass(frozen=True)
class AtVoltage:
    """A table for another voltage of the table `of`, the path of its file."""

    name: Annotated[str, MinLen(1)]
    of: Annotated[str, MinLen(1)]
    voltage_v: Annotated[float, Gt(0)]


def at_voltage(name: str, voltage_v: float, table: EnergyTable) -> EnergyTable:
    """Return a table for chips at `voltage_v`; areas stay.

    Raises ValueError where the table says no voltage of its own, or where that is too far away.
    """
    nominal = table.voltage_v
    if nominal is None:
        raise ValueError(f"{name}: of: found {table.name}, which says no voltage_v")
    low, high = LEAST_SHARE * nominal, MOST_SHARE * nominal
    if not low <= voltage_v <= high or voltage_v <= THRESHOLD_V:
        raise ValueError(
            f"{name}: voltage_v: found {voltage_v:g}, expected {low:g} to {high:g}, near the "
            f"{nominal:g} V of {table.name}"
        )
    share = voltage_v / nominal

    def power_of(exponent: int) -> Callable[[EnergyFigure], EnergyFigure]:
        def change(figure: EnergyFigure) -> EnergyFigure:
            times = share**exponent
            bounds = [times * bound for bound in figure.bounds]
            return replace(
                figure,
                value=times * figure.value,
                low=bounds[0],
                high=bounds[1],
                voltage_v=voltage_v,
                factor=figure.factor or table.name,
                source=f"at {voltage_v:g} V, {times:.3g} of: {figure.source}",
            )

        return change

    made = change_figures(table, dynamic=power_of(2), leakage=power_of(3))
    return replace(made, name=name, voltage_v=voltage_v)


def clock_share(voltage_v: float, nominal_v: float) -> float:
    """Return the fastest clock at a voltage over that at the nominal one.

    Raises ValueError for voltages at or below the threshold.

    Example:
        >>> round(clock_share(0.6, 0.8), 2)
        0.62

    """
    if min(voltage_v, nominal_v) <= THRESHOLD_V:
        raise ValueError(
            f"voltage_v: found {voltage_v:g} and {nominal_v:g}, expected above {THRESHOLD_V:g} V"
        )

    def speed(volts: float) -> float:
        return float((volts - THRESHOLD_V) ** ALPHA / volts)

    return speed(voltage_v) / speed(nominal_v)


def slowed(architecture: Architecture, share: float) -> Architecture:
    """Return a chip whose array and vector unit run at a share of their clocks."""
    array, unit = architecture.array, architecture.vector_unit
    return replace(
        architecture,
        array=replace(array, clock_hz=share * array.clock_hz),
        vector_unit=replace(unit, clock_hz=share * unit.clock_hz),
    )
