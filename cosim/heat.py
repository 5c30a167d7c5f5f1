"""How hot work makes a chip's stack, and the refresh that the heat asks for."""

from collections.abc import Callable
from typing import TypeVar

from cosim.chip import Chip
from cosim.errors import CosimError
from hwmodels.stats import RunStats
from hwmodels.thermal import StackPower, Thermal, ThermalError, make_ladder, power_of, settle

T = TypeVar("T")


def settled(
    chip: Chip, run: Callable[[Chip], T], whole: Callable[[T], RunStats]
) -> tuple[T, Thermal | None]:
    """Return what `run` returns for a chip refreshed as its own heat asks for, and how hot it gets.

    The power is that of `whole` of a result over its time: of work without a pause. A chip without
    a thermal stack runs once. Raises CosimError for a design that gets too hot at any rate.
    """
    if chip.thermal is None:
        return run(chip), None
    results: dict[int, T] = {}

    def power(rate: int) -> StackPower:
        refreshed = chip.refreshed(rate)
        if refreshed is not chip or not results:
            results[rate] = run(refreshed)
        else:  # the roofline knows no refresh
            results[rate] = next(iter(results.values()))
        stats = whole(results[rate])
        return power_of(stats.energy, stats.seconds)

    try:
        found = settle(power, make_ladder(chip.thermal))
    except ThermalError as error:
        raise CosimError([f"{chip.name}: {line}" for line in str(error).splitlines()]) from None
    return results[found.refresh_multiplier], found


def heat_warnings(chip: Chip, found: Thermal | None) -> tuple[str, ...]:
    """Return a warning where the memory model leaves out the refresh that the heat asks for."""
    if found is None or found.refresh_multiplier == 1 or chip.dram is not None:
        return ()
    rate = f"refresh x{found.refresh_multiplier}"
    hot = f"{chip.name}: DRAM at {found.dram_c:.1f} C asks for {rate}, "
    return (f"{hot}which fidelity roofline leaves out of time and energy",)


def temperatures(found: Thermal) -> dict[str, object]:
    """Return how hot the stack gets under lasting work, and the refresh that this asks for."""
    return {
        "dram_c": found.dram_c,
        "temperatures_c": found.temperatures_c,
        "ambient_c": found.ambient_c,
        "refresh_multiplier": found.refresh_multiplier,
        "is_alternating": found.is_alternating,
        "time_constant_s": found.time_constant_s,
        "tried": [{"refresh_multiplier": rate, "dram_c": hottest} for rate, hottest in found.tried],
    }
