"""Ledgers seen from other sides: joules by component, by cause, by factor, and ratios of two."""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Literal, TypeVar

from hwmodels.energy import REST_REFRESH, STATIC, Action, EnergyRow

Key = TypeVar("Key", str, "Cause")
Cause = Literal["compute", "on_chip_movement", "off_chip_movement", "static"]
CAUSES: tuple[Cause, ...] = ("compute", "on_chip_movement", "off_chip_movement", "static")

MOVING = frozenset({"register_bit", "gather", "scatter", "select", "read_byte", "write_byte"})
"""Actions on the chip that put a word elsewhere and change nothing in it."""

RESTING = frozenset({"refresh_rank", "refresh_bank", "open_tick", "closed_tick"})
"""What a memory takes whether it is used or not, as its controller counts it."""


def cause(action: Action) -> Cause:
    """Return what an action is there for.

    Example:
        >>> cause(("weight_buffer", "read_byte")), cause(("memory", "read_bit"))
        ('on_chip_movement', 'off_chip_movement')

    """
    component, name = action
    if action in (*STATIC, REST_REFRESH) or name in RESTING:
        return "static"
    if component == "memory":
        return "off_chip_movement"
    return "on_chip_movement" if name in MOVING else "compute"


def by_cause(rows: Iterable[EnergyRow]) -> dict[Cause, float]:
    """Return joules by cause, every cause named."""
    return dict.fromkeys(CAUSES, 0.0) | _sums(rows, lambda row: cause((row.component, row.action)))


def by_component(rows: Iterable[EnergyRow]) -> dict[str, float]:
    """Return joules by component."""
    return _sums(rows, lambda row: row.component)


def inherited_share(rows: Iterable[EnergyRow]) -> float:
    """Return the share of the joules whose price the table took from another; 0 for no joules."""
    kept = list(rows)
    whole = sum(row.energy_j for row in kept)
    taken = sum(row.energy_j for row in kept if row.inherited is not None)
    return taken / whole if whole else 0.0


@dataclass(frozen=True)
class Range:
    """Joules with their low and high ends."""

    value: float = 0.0
    low: float = 0.0
    high: float = 0.0


def by_factor(rows: Iterable[EnergyRow]) -> dict[str, Range]:
    """Return joules and range by factor: what would be wrong together."""
    found: dict[str, Range] = {}
    for row in rows:
        one = found.get(row.factor, Range())
        found[row.factor] = Range(
            one.value + row.energy_j, one.low + row.energy_low_j, one.high + row.energy_high_j
        )
    return found


@dataclass(frozen=True)
class Ratio:
    """A ratio of two ledgers and two ranges of it.

    In `low` to `high` a factor that both ledgers have stands at one place of its range in both;
    from `loose_low` to `loose_high` every row goes where it likes.
    """

    value: float
    low: float
    high: float
    loose_low: float
    loose_high: float


def ratio(mine: Iterable[EnergyRow], other: Iterable[EnergyRow]) -> Ratio | None:
    """Return joules of `mine` over those of `other` with its ranges; None where that is zero."""
    return ratio_of(by_factor(mine), by_factor(other))


def ratio_of(above: Mapping[str, Range], below: Mapping[str, Range]) -> Ratio | None:
    """Return the ratio of two ledgers of which the joules by factor are known, as `ratio` does.

    Each factor is at its low, value or high, alike in both ledgers, and factors move freely of each
    other. The extreme ratio r is the one at which A - r B is extreme at zero, found by Dinkelbach's
    iteration (Management Science 13, 1967), in which each factor chooses for itself.
    """
    factors = {
        name: (above.get(name, Range()), below.get(name, Range())) for name in {**above, **below}
    }
    ends = [_total(below, end) for end in ("value", "low", "high")]
    if min(ends) <= 0:
        return None
    return Ratio(
        _total(above, "value") / ends[0],
        _extreme(factors, min),
        _extreme(factors, max),
        _total(above, "low") / ends[2],
        _total(above, "high") / ends[1],
    )


Choose = Callable[..., tuple[float, float]]


def _extreme(factors: Mapping[str, tuple[Range, Range]], choose: Choose) -> float:
    """Return the smallest or largest ratio, as `choose` is min or max."""
    places = [[(a.value, b.value), (a.low, b.low), (a.high, b.high)] for a, b in factors.values()]
    found = sum(place[0][0] for place in places) / sum(place[0][1] for place in places)
    while True:
        at = found
        taken = [choose(place, key=lambda one: one[0] - at * one[1]) for place in places]
        found = sum(a for a, _ in taken) / sum(b for _, b in taken)
        if abs(found - at) <= 1e-15 * abs(at):
            return found


def _total(parts: Mapping[str, Range], end: str) -> float:
    return sum(float(getattr(one, end)) for one in parts.values())


def _sums(rows: Iterable[EnergyRow], key: Callable[[EnergyRow], Key]) -> dict[Key, float]:
    found: dict[Key, float] = {}
    for row in rows:
        found[key(row)] = found.get(key(row), 0.0) + row.energy_j
    return found
