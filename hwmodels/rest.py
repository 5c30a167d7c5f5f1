"""What a chip without work takes when it rests, what waking costs, and when resting pays.

A resting chip keeps a share of its static power and pays for each time that it wakes. It rests once
it has been idle for as long as would have paid for one wake: no rule that knows nothing of the
future takes more than twice what the best rule takes, and none does better (Karlin et al. 1994).
"""

import dataclasses
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Annotated

from annotated_types import Ge, MinLen

from hwmodels.architecture import FEMTO, Figure
from hwmodels.arrivals import StreamStats, idle_rows
from hwmodels.energy import EnergyRow


@dataclass(frozen=True)
class RestState:
    """A state of rest: shares of static power that go on, and what waking takes.

    `logic_share` is of the leakage of everything but the memory, `memory_share` of what memory
    takes in the background. Waking takes `wake_s` at full static power, and joules per area.
    """

    name: Annotated[str, MinLen(1)]
    logic_share: Figure
    memory_share: Figure
    wake_s: Figure
    wake_j_per_m2: Figure

    def share(self, component: str) -> Figure:
        """Return the share of a component's static power that goes on."""
        return self.memory_share if component == "memory" else self.logic_share


@dataclass(frozen=True)
class Resting:
    """A state of rest on one chip: when it begins, how long waking takes, and what."""

    state: RestState
    after_s: Annotated[float, Ge(0)]
    wake: EnergyRow

    @property
    def after_fs(self) -> int:
        """Idle time before the rest, in femtoseconds."""
        return round(self.after_s * FEMTO)

    @property
    def wake_fs(self) -> int:
        """Time to wake, in femtoseconds."""
        return round(self.state.wake_s.value * FEMTO)


def resting(
    state: RestState,
    rows: Iterable[EnergyRow],
    *,
    area_m2: float,
    clock_hz: float,
    cores: int = 1,
) -> Resting:
    """Return how a chip rests in a state: `rows` hold the static prices per cycle of a core.

    Raises ValueError for a range that misses its value, shares above 1, and a state in which the
    chip takes no less than awake.

    Example: 1 W awake, half of it at rest; waking takes 2 J, so resting pays after 4 s.
        >>> from hwmodels.energy import STATIC
        >>> figure = lambda value: Figure(value, "assumed")
        >>> rows = [EnergyRow(*one, 1, 0.25, 0.25, 0.25, "assumed", "f") for one in STATIC]
        >>> half = RestState("half", figure(0.5), figure(0.5), figure(0.0), figure(2.0))
        >>> resting(half, rows, area_m2=1.0, clock_hz=1.0).after_s
        4.0

    """
    static = idle_rows(rows, cores)
    problems = _problems(state)
    awake_w = clock_hz * sum(row.energy_j for row in static)
    rest_w = clock_hz * sum(state.share(row.component).value * row.energy_j for row in static)
    if not problems and rest_w >= awake_w:
        problems.append(f"takes {rest_w:g} W, expected less than {awake_w:g} W awake")
    if problems:
        raise ValueError("\n".join(f"{state.name}: {problem}" for problem in problems))
    price = state.wake_j_per_m2
    low, high = price.bounds
    source = f"{state.name}, {1e6 * area_m2:.3g} mm2: {price.source}"
    wake = EnergyRow(
        *("chip", "wake", 0, price.value * area_m2, low * area_m2, high * area_m2, source),
        state.name,
    )
    cost_j = wake.energy_per_action_j + awake_w * state.wake_s.value
    return Resting(state, cost_j / (awake_w - rest_w), wake)


def rest_rows(
    rows: Sequence[EnergyRow],
    stats: StreamStats,
    how: Resting | None,
    *,
    period_fs: int,
    cores: int = 1,
) -> tuple[EnergyRow, ...]:
    """Return the ledger of the time without work: awake, at rest, and waking.

    Static rows are counted per cycle of each of a chip's `cores`, which rest together.
    """
    awake = idle_rows(rows, cores * ((stats.idle_fs - stats.rested_fs) // period_fs))
    if how is None:
        return awake
    rested = cores * (stats.rested_fs // period_fs)
    return (
        *awake,
        *(_at_rest(row, how.state) for row in idle_rows(rows, rested)),
        dataclasses.replace(how.wake, count=stats.wakes),
    )


def _at_rest(row: EnergyRow, state: RestState) -> EnergyRow:
    share = state.share(row.component)
    low, high = share.bounds
    return dataclasses.replace(
        row,
        energy_per_action_j=share.value * row.energy_per_action_j,
        low_per_action_j=low * row.low_per_action_j,
        high_per_action_j=high * row.high_per_action_j,
        source=f"{state.name}, {share.value:g} of: {row.source}",
    )


def _problems(state: RestState) -> list[str]:
    found = []
    for name, figure in vars(state).items():
        if not isinstance(figure, Figure):
            continue
        low, high = figure.bounds
        if not low <= figure.value <= high:
            found.append(
                f"{name}: found low {low:g}, value {figure.value:g}, high {high:g}, "
                "expected low <= value <= high"
            )
        if name.endswith("_share") and high > 1:
            found.append(f"{name}: found {high:g}, expected at most 1")
    return found
