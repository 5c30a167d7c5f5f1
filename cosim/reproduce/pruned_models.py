"""The two models of 002, pruned: zeros counted in their weights for every cell of the appendix.

A layer is pruned once for each rate that a table asks of it, by the method of recipes; a cell adds
up the zeros of its layers.
"""

from collections.abc import Iterable
from fractions import Fraction

import numpy as np

from cosim.compress.network import Layer, State, scan
from cosim.compress.prune_magnitude import smallest
from cosim.compress.variable_scale import VariableScaleConfig, pruning_rates
from cosim.reproduce.shapes import drawn

ALPHA = 0.01


class PrunedModel:
    """A model with drawn weights, and the zeros that pruning its layers has made so far."""

    def __init__(self, model: str) -> None:
        self.state: State = scan(drawn(model).module)
        self.layers: tuple[Layer, ...] = tuple(
            layer for layer in self.state.layers if layer.kind == "linear"
        )
        self._zeros: dict[tuple[str, Fraction], int] = {}

    def sparsity(self, u0: int, v0: int, attention_rate: int) -> Fraction:
        """Return the share of zeros in attention and feed-forward weights, in percent, exactly.

        Rates are in percent and fall by 1 % a block.
        """
        config = config_of(u0, v0, attention_rate)
        rates = {name: rate for name, (_, rate) in pruning_rates(self.layers, config).items()}
        zeros = sum(self._zeros_of(name, rate) for name, rate in rates.items())
        weights = sum(self.state.weights[name].table.size for name in rates)
        return Fraction(100 * zeros, weights)

    def _zeros_of(self, name: str, rate: Fraction) -> int:
        known = self._zeros.get((name, rate))
        if known is None:
            weight = self.state.weights[name]
            pruned = weight.zeroed(smallest(weight.values, rate=float(rate)))
            known = int(pruned.table.size - np.count_nonzero(pruned.table))
            self._zeros[name, rate] = known
        return known


def config_of(u0: int, v0: int, attention_rate: int) -> VariableScaleConfig:
    """Return the recipe's entry for rates in percent."""
    return VariableScaleConfig(
        "variable_scale",
        u0=u0 / 100,
        v0=v0 / 100,
        attention_rate=attention_rate / 100,
        alpha=ALPHA,
        beta=ALPHA,
    )


def largest_distance(pairs: Iterable[tuple[Fraction, Fraction]]) -> Fraction:
    """Return the largest distance between two figures of a pair."""
    return max(abs(one - other) for one, other in pairs)
