"""Fuzzy classes of weights (Oujabour et al. 2025, equations 2 to 6), made well defined.

As printed, the knots of the classes "low" and "high" are not in ascending order, so equation 2 is 0
everywhere for "high". They are sorted here. A plateau holds both of its ends; where two knots meet
there is a step. Weights without any membership are "medium". Where memberships are equal, the class
that keeps more of a weight wins: high, then medium, then low.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

F64 = NDArray[np.float64]


@dataclass(frozen=True)
class Knots:
    """Where the membership functions of one layer bend, in units of weight magnitude."""

    low: tuple[float, float, float, float]
    medium: tuple[float, float, float]
    high: tuple[float, float, float, float]


@dataclass(frozen=True)
class Shares:
    """Shares of a layer's weights per class, in [0, 1]; `medium` holds the unclassified ones."""

    low: float
    medium: float
    high: float
    unclassified: float

    @property
    def largest(self) -> str:
        """The class with the most weights: L, M or H."""
        return max((self.high, "H"), (self.medium, "M"), (self.low, "L"))[1]


def knots_of(magnitudes: F64, alpha_stds: float, beta_stds: float) -> Knots:
    """Return the knots of a layer (equations 4 to 6), `alpha` and `beta` in units of the deviation.

    Minimum, maximum, median and deviation are those of the magnitudes.
    """
    low, high = float(magnitudes.min()), float(magnitudes.max())
    middle, deviation = float(np.median(magnitudes)), float(magnitudes.std())
    alpha, beta = alpha_stds * deviation, beta_stds * deviation
    a, b, c, d = sorted((low, low, low + deviation, middle - alpha))
    e, f, g, h = sorted((high, high, high - deviation, middle + alpha))
    return Knots((a, b, c, d), (middle - beta, middle, middle + beta), (e, f, g, h))


def trapezoid(x: F64, knots: tuple[float, float, float, float]) -> F64:
    """Return memberships (equation 2): 0 up to a, 1 from b to c, 0 from d.

    Example:
        >>> trapezoid(np.array([0.0, 1.0, 2.0, 2.5, 3.0]), (0.0, 0.0, 2.0, 3.0)).tolist()
        [1.0, 1.0, 1.0, 0.5, 0.0]

    """
    a, b, c, d = knots
    rise = (x - a) / (b - a) if b > a else (x >= b).astype(np.float64)
    fall = (d - x) / (d - c) if d > c else (x <= c).astype(np.float64)
    return np.clip(np.minimum(rise, fall), 0.0, 1.0)


def shares_of(weights: F64, alpha_stds: float, beta_stds: float) -> Shares:
    """Return the share of each class among the weights of one layer."""
    magnitudes = np.abs(weights.reshape(-1))
    knots = knots_of(magnitudes, alpha_stds, beta_stds)
    left, top, right = knots.medium
    memberships = np.stack(
        (
            trapezoid(magnitudes, knots.high),
            trapezoid(magnitudes, (left, top, top, right)),
            trapezoid(magnitudes, knots.low),
        )
    )
    chosen = memberships.argmax(axis=0)  # the first of equal ones
    nothing = memberships.max(axis=0) == 0.0
    chosen[nothing] = 1
    high, medium, low = (float((chosen == index).mean()) for index in range(3))
    return Shares(low, medium, high, float(nothing.mean()))


def generalized_normal(exponent: float, count: int, rng: np.random.Generator) -> F64:
    """Return numbers with density proportional to exp(-|x|^exponent): 2 normal, 1 Laplace.

    |x|^p is gamma distributed with shape 1/p. Classes do not depend on the scale.
    """
    sizes = rng.gamma(1.0 / exponent, size=count) ** (1.0 / exponent)
    return np.asarray(sizes * (rng.integers(0, 2, size=count) * 2.0 - 1.0))
