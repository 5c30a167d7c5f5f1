"""Temperature of a stack in one dimension, and the refresh that it asks for.

Dies lie in a row from the board to the sink; heat passes through the slabs between them, a ladder
of resistances (Fourier's law). Hotter DRAM forgets sooner and must be refreshed more often, which
changes the power that heats it: `settle` finds where both agree.
"""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from itertools import accumulate
from math import exp
from typing import Annotated, Literal

import numpy as np
from annotated_types import Ge, Gt, MinLen

from hwmodels.architecture import Figure
from hwmodels.dram.problems import SpecError
from hwmodels.energy import EnergyRow

REFRESH_STEPS = ((85.0, 1), (95.0, 2), (105.0, 4))
"""Degrees Celsius up to which each refresh rate will do; nothing does above the last.

Twice as often above 85 and four times above 95: Stratix 10 HBM2, Intel support note 000076386.
"""


class ThermalError(ValueError):
    """A design that gets too hot to keep its data."""


@dataclass(frozen=True)
class Slab:
    """A layer that heat crosses: its height, conductivity and heat capacity."""

    source: Annotated[str, MinLen(1)]
    height_m: Annotated[float, Gt(0)]
    conductivity_w_per_m_k: Annotated[float, Gt(0)]
    capacity_j_per_m3_k: Annotated[float, Gt(0)]


@dataclass(frozen=True)
class ThermalStack:
    """What lies between board and sink: `dram_dies`, and a logic die `below` or `above` them.

    `die` are the slabs of every die, `sink` what the uppermost passes its heat to. `board_k_per_w`
    is the way from the lowest die through the board; without it all heat leaves by the sink.

    Raises SpecError with every figure that cannot be.
    """

    name: Annotated[str, MinLen(1)]
    dram_dies: Annotated[int, Ge(1)]
    logic: Literal["below", "above"]
    area_m2: Figure
    die: Annotated[dict[str, Slab], MinLen(1)]
    sink: Slab
    ambient_c: Figure
    board_k_per_w: Figure | None = None
    note: str = ""

    def __post_init__(self) -> None:
        """Refuse what cannot be."""
        if problems := [f"{self.name}: {problem}" for problem in _problems(self)]:
            raise SpecError(problems)


@dataclass(frozen=True)
class Ladder:
    """Nodes from the board to the sink, in this order.

    `up_k_per_w` is the resistance from each node to the next and from the last one to the ambient;
    `board_k_per_w` that from the first one to the ambient, None where nothing flows.
    """

    name: str
    nodes: tuple[str, ...]
    up_k_per_w: tuple[float, ...]
    capacity_j_per_k: tuple[float, ...]
    ambient_c: float
    board_k_per_w: float | None = None


@dataclass(frozen=True)
class StackPower:
    """Watts of the logic die and of all DRAM dies together, which share them equally."""

    logic_w: float
    dram_w: float


@dataclass(frozen=True)
class Thermal:
    """Where a stack settles.

    `temperatures_c` by node. `tried` are the refresh rates tried and the hottest DRAM die at each.
    `is_alternating`: at this rate the DRAM is cool enough for a lower one, and at the lower one too
    hot for it; a memory would swing between them, and the higher is taken.
    """

    temperatures_c: dict[str, float]
    ambient_c: float
    refresh_multiplier: int
    is_alternating: bool
    time_constant_s: float
    tried: tuple[tuple[int, float], ...]

    @property
    def dram_c(self) -> float:
        """The hottest DRAM die."""
        return _hottest_dram(self.temperatures_c)

    def after(self, seconds: float, node: str, *, start_c: float | None = None) -> float:
        """Return the temperature of a node some time after `start_c`, the ambient unless given.

        One exponential with the slowest time constant: rough for times much shorter than that.
        """
        end = self.temperatures_c[node]
        start = self.ambient_c if start_c is None else start_c
        return end + (start - end) * exp(-seconds / self.time_constant_s)


def power_of(rows: Iterable[EnergyRow], seconds: float) -> StackPower:
    """Return the power of a ledger over the time it covers.

    What the component `memory` takes heats the DRAM dies, but for its pins, `io_bit`; those and
    everything else heat the logic die. Raises ValueError when no time has passed.
    """
    if seconds <= 0:
        raise ValueError(f"seconds: found {seconds:g}, expected more than 0")
    logic_j = dram_j = 0.0
    for row in rows:
        if row.component == "memory" and row.action != "io_bit":
            dram_j += row.energy_j
        else:
            logic_j += row.energy_j
    return StackPower(logic_j / seconds, dram_j / seconds)


def make_ladder(stack: ThermalStack) -> Ladder:
    """Return the ladder of a stack: each die and the sink a node, slabs in series between them."""
    area = stack.area_m2.value
    dram = tuple(f"dram_{i}" for i in range(stack.dram_dies))
    dies = ("logic", *dram) if stack.logic == "below" else (*dram, "logic")
    slabs = stack.die.values()
    die_k_per_w = sum(slab.height_m / (slab.conductivity_w_per_m_k * area) for slab in slabs)
    die_j_per_k = sum(slab.height_m * slab.capacity_j_per_m3_k * area for slab in slabs)
    sink = stack.sink
    board = stack.board_k_per_w
    return Ladder(
        name=stack.name,
        nodes=(*dies, "sink"),
        up_k_per_w=(
            *[die_k_per_w] * len(dies),
            sink.height_m / (sink.conductivity_w_per_m_k * area),
        ),
        capacity_j_per_k=(
            *[die_j_per_k] * len(dies),
            sink.height_m * sink.capacity_j_per_m3_k * area,
        ),
        ambient_c=stack.ambient_c.value,
        board_k_per_w=None if board is None else board.value,
    )


def temperatures(ladder: Ladder, power_w: tuple[float, ...]) -> tuple[float, ...]:
    """Return the steady temperature of every node in degrees Celsius, for watts in every node.

    What flows through a resistance is all heat from below it, less what leaves by the board. With
    S = sum over nodes of R times the heat from below, the first node rises by
    S / (1 + sum(R) / R_board), and each next one by R times the flow less.

    Example:
        >>> ladder = Ladder("one die", ("logic", "sink"), (0.5, 2.0), (1.0, 1.0), 25.0)
        >>> temperatures(ladder, (10.0, 0.0))
        (50.0, 45.0)

    """
    below = list(accumulate(power_w))
    rise = sum(r * heat for r, heat in zip(ladder.up_k_per_w, below, strict=True))
    leaving = 0.0
    if ladder.board_k_per_w is not None:
        rise /= 1 + sum(ladder.up_k_per_w) / ladder.board_k_per_w
        leaving = rise / ladder.board_k_per_w
    found = []
    for r, heat in zip(ladder.up_k_per_w, below, strict=True):
        found.append(ladder.ambient_c + rise)
        rise -= r * (heat - leaving)
    return tuple(found)


def time_constant_s(ladder: Ladder) -> float:
    """Return the time constant in seconds of the slowest mode of a ladder.

    The reciprocal of the least eigenvalue of C^-1/2 G C^-1/2, with conductances G, capacities C.
    """
    up = 1 / np.array(ladder.up_k_per_w)
    conductance = np.diag(up)
    conductance[1:, 1:] += np.diag(up[:-1])
    conductance -= np.diag(up[:-1], 1) + np.diag(up[:-1], -1)
    if ladder.board_k_per_w is not None:
        conductance[0, 0] += 1 / ladder.board_k_per_w
    root = np.sqrt(np.array(ladder.capacity_j_per_k))
    return float(1 / np.linalg.eigvalsh(conductance / np.outer(root, root))[0])


def settle(power_of_refresh_multiplier: Callable[[int], StackPower], ladder: Ladder) -> Thermal:
    """Return where a stack settles when its power depends on how often it is refreshed.

    The lowest rate of `REFRESH_STEPS` whose own power keeps the DRAM cool enough for it. There are
    three rates, so this ends: with a result, or with a ThermalError that lists all temperatures
    when not even the highest rate will do or the logic die is hotter than any rate allows.
    """
    tried: list[tuple[int, float]] = []
    for limit_c, multiplier in REFRESH_STEPS:
        power = power_of_refresh_multiplier(multiplier)
        found = dict(zip(ladder.nodes, temperatures(ladder, _by_node(ladder, power)), strict=True))
        hottest = _hottest_dram(found)
        tried.append((multiplier, hottest))
        if hottest <= limit_c:
            _refuse_hot(ladder, found)
            cooler = [limit for limit, _ in REFRESH_STEPS if limit < limit_c]
            return Thermal(
                temperatures_c=found,
                ambient_c=ladder.ambient_c,
                refresh_multiplier=multiplier,
                is_alternating=bool(cooler) and hottest <= cooler[-1],
                time_constant_s=time_constant_s(ladder),
                tried=tuple(tried),
            )
    problems = [
        f"{rate} x refresh: {hottest:.1f} C in the hottest DRAM die" for rate, hottest in tried
    ]
    problems.append(f"expected at most {REFRESH_STEPS[-1][0]:g} C")
    raise ThermalError("\n".join(f"{ladder.name}: {problem}" for problem in problems))


def _by_node(ladder: Ladder, power: StackPower) -> tuple[float, ...]:
    dram = sum(node.startswith("dram") for node in ladder.nodes)
    watts = {"logic": power.logic_w, "sink": 0.0}
    return tuple(watts.get(node, power.dram_w / dram) for node in ladder.nodes)


def _hottest_dram(found: dict[str, float]) -> float:
    return max(value for node, value in found.items() if node.startswith("dram"))


def _refuse_hot(ladder: Ladder, found: dict[str, float]) -> None:
    limit_c = REFRESH_STEPS[-1][0]
    problems = [
        f"{ladder.name}: {node}: {value:.1f} C, expected at most {limit_c:g} C"
        for node, value in found.items()
        if value > limit_c
    ]
    if problems:
        raise ThermalError("\n".join(problems))


def _problems(stack: ThermalStack) -> Iterator[str]:
    for name, figure in vars(stack).items():
        if isinstance(figure, Figure):
            low, high = figure.bounds
            if not low <= figure.value <= high:
                yield (
                    f"{name}: found low {low:g}, value {figure.value:g}, high {high:g}, "
                    "expected low <= value <= high"
                )
            if name != "ambient_c" and low <= 0:
                yield f"{name}: found low {low:g}, expected more than 0"
