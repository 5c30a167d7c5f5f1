"""Fuzzy classes of a layer's weights (Oujabour et al. 2025, equations 2 to 6), made well defined.

A weight belongs to the classes low, medium and high by its magnitude x = |w|, to a degree in
[0, 1]: a trapezoid with knots (a, b, c, d) for low and high (equation 2), a triangle for medium
(equation 3). With alpha and beta in units of std |w|:

    low     min, min, min + std, median - alpha            (equation 5)
    medium  median - beta, median, median + beta           (equation 4)
    high    max, max, max - std, median + alpha            (equation 6)

As printed, the knots of low and high are not in ascending order, so that equation 2 is 0 everywhere
for high; they are sorted here. A plateau holds both of its ends, and where two knots meet there is
a step.

A weight is of the class of its largest membership; of equal ones, of that which keeps more of it:
high, then medium, then low. A weight that belongs to no class is medium, or high where there are
two classes only. The layer is of the class with most weights, with the same order among equals.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

F64 = NDArray[np.float64]
Class = Literal["H", "M", "L"]
Trapezoid = tuple[float, float, float, float]


@dataclass(frozen=True)
class Knots:
    """Where the membership functions of a layer bend, in its unit; `medium` None: two classes."""

    low: Trapezoid
    medium: Trapezoid | None
    high: Trapezoid

    @property
    def by_class(self) -> Mapping[Class, Trapezoid]:
        """The functions by class, that which keeps most of a weight first."""
        found: dict[Class, Trapezoid] = {"H": self.high}
        if self.medium is not None:
            found["M"] = self.medium
        return {**found, "L": self.low}


@dataclass(frozen=True, eq=False)
class Decision:
    """What the weights of a layer are, and what that makes the layer.

    `is_low` (of the weights' shape) marks those of class L. By class: `shares` of the weights,
    which sum to 1, and sums of `memberships`. `unclassified` is the share that belongs to none.
    """

    is_low: NDArray[np.bool_]
    shares: Mapping[Class, float]
    memberships: Mapping[Class, float]
    unclassified: float
    decided: Class


def decide(values: NDArray[Any], *, alpha: float, beta: float | None) -> Decision:
    """Return the classes of a layer's weights and its own; `beta` None: of low and high only.

    `alpha` and `beta` are in units of the magnitudes' standard deviation.

    Example:
        >>> found = decide(np.array([0.0, -1.0, 2.0, -3.0, 4.0]), alpha=0.5, beta=1.0)
        >>> dict(found.shares), found.decided
        ({'H': 0.4, 'M': 0.2, 'L': 0.4}, 'H')

    """
    magnitudes = np.abs(values, dtype=np.float64)
    functions = knots_of(magnitudes, alpha=alpha, beta=beta).by_class
    best = np.zeros(magnitudes.shape)
    chosen = np.zeros(magnitudes.shape, np.int8)
    sums: dict[Class, float] = {}
    for index, (letter, knots) in enumerate(functions.items()):
        membership = trapezoid(magnitudes, knots)
        sums[letter] = float(membership.sum())
        is_more = membership > best
        chosen[is_more] = index
        np.copyto(best, membership, where=is_more)
    is_nothing = best == 0
    names = list(functions)
    chosen[is_nothing] = len(names) - 2  # the class before L
    counts = np.bincount(chosen.reshape(-1), minlength=len(names))
    return Decision(
        is_low=chosen == len(names) - 1,
        shares={name: int(count) / chosen.size for name, count in zip(names, counts, strict=True)},
        memberships=sums,
        unclassified=float(is_nothing.mean()),
        decided=names[int(counts.argmax())],  # the first of equal ones
    )


def knots_of(magnitudes: F64, *, alpha: float, beta: float | None) -> Knots:
    """Return the knots of a layer with these magnitudes, each function's in ascending order."""
    low, high = float(magnitudes.min()), float(magnitudes.max())
    middle, deviation = float(np.median(magnitudes)), float(magnitudes.std())
    reach = alpha * deviation
    a, b, c, d = sorted((low, low, low + deviation, middle - reach))
    e, f, g, h = sorted((high, high, high - deviation, middle + reach))
    medium = None
    if beta is not None:
        medium = (middle - beta * deviation, middle, middle, middle + beta * deviation)
    return Knots((a, b, c, d), medium, (e, f, g, h))


def trapezoid(x: F64, knots: Trapezoid) -> F64:
    """Return memberships: 0 up to a, rising to 1 at b, 1 up to c, falling to 0 at d (equation 2).

    Example:
        >>> trapezoid(np.array([0.0, 1.0, 2.0, 2.5, 3.0]), (0.0, 0.0, 2.0, 3.0)).tolist()
        [1.0, 1.0, 1.0, 0.5, 0.0]

    """
    a, b, c, d = knots
    rise = (x - a) / (b - a) if b > a else (x >= b).astype(np.float64)
    fall = (d - x) / (d - c) if d > c else (x <= c).astype(np.float64)
    return np.clip(np.minimum(rise, fall, out=rise), 0.0, 1.0, out=rise)
