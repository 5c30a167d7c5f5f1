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
_PART = 1 << 16
"""Weights that are classified at once: what a cache holds."""


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
    magnitudes = np.abs(values, dtype=np.float64).reshape(-1)
    functions = knots_of(magnitudes, alpha=alpha, beta=beta).by_class
    parts = np.array_split(magnitudes, 1 + magnitudes.size // _PART)
    classified = [_classified(part, functions) for part in parts]
    memberships, chosen, nothing = zip(*classified, strict=True)
    names = list(functions)
    found = np.concatenate(chosen)
    counts = np.bincount(found, minlength=len(names)).tolist()
    return Decision(
        is_low=(found == len(names) - 1).reshape(values.shape),
        shares={name: count / found.size for name, count in zip(names, counts, strict=True)},
        memberships=dict(zip(names, np.sum(memberships, axis=0).tolist(), strict=True)),
        unclassified=sum(nothing) / found.size,
        decided=names[counts.index(max(counts))],  # the first of equal ones
    )


def _classified(
    magnitudes: F64, functions: Mapping[Class, Trapezoid]
) -> tuple[F64, NDArray[np.int8], int]:
    """Return the sums of memberships, the class of each weight and how many belong to none.

    A class is its place in `functions`.
    """
    best = np.zeros(magnitudes.shape)
    chosen = np.full(magnitudes.shape, len(functions) - 2, np.int8)  # the class before low
    sums = np.zeros(len(functions))
    for index, knots in enumerate(functions.values()):
        membership = trapezoid(magnitudes, knots)
        sums[index] = membership.sum()
        chosen = np.where(membership > best, np.int8(index), chosen)
        np.maximum(best, membership, out=best)
    return sums, chosen, int(np.count_nonzero(best == 0))


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
