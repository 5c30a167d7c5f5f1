"""Unstructured pruning of the weights with the smallest magnitude, tensor by tensor."""

from dataclasses import dataclass
from fractions import Fraction
from math import floor
from typing import Annotated, ClassVar, Literal

import numpy as np
from annotated_types import Ge, Lt
from numpy.typing import NDArray

from cosim.compress.network import F32, Kind, Layer, Selector, State
from cosim.compress.recipe import compressor


@dataclass(frozen=True)
class PruneMagnitudeConfig:
    """Zero the share `rate` of every selected weight tensor; `local` ranks within the tensor."""

    method: Literal["prune_magnitude"]
    rate: Annotated[float, Ge(0), Lt(1)]
    layers: Selector = "*"
    scope: Literal["local"] = "local"
    makes_zeros: ClassVar[bool] = True

    @property
    def kinds(self) -> tuple[Kind, ...]:
        """Every kind that has weights."""
        return ("linear", "conv", "embedding")


@compressor(PruneMagnitudeConfig)
def prune_magnitude(
    state: State, config: PruneMagnitudeConfig, selected: tuple[Layer, ...]
) -> State:
    """Return the state with the smallest weights of each selected tensor set to zero."""
    names = dict.fromkeys(layer.weight for layer in selected)
    weights = {name: state.weights[name] for name in names}
    return state.with_weights(
        {
            name: weight.zeroed(smallest(weight.values, rate=config.rate))
            for name, weight in weights.items()
        }
    )


def smallest(values: F32, *, rate: float) -> NDArray[np.bool_]:
    """Return where the floor(rate * elements) smallest magnitudes are; of equals, the first ones.

    The rate counts as the decimal that was written: 0.29 of 100 elements are 29.

    Example:
        >>> smallest(np.array([3.0, -1.0, 1.0, 2.0], np.float32), rate=0.25).tolist()
        [False, True, False, False]

    """
    magnitude = np.abs(values).ravel()
    count = floor(Fraction(str(rate)) * magnitude.size)
    if count == 0:
        return np.zeros(values.shape, np.bool_)
    threshold = np.partition(magnitude, count - 1)[count - 1]
    chosen: NDArray[np.bool_] = magnitude < threshold
    ties = np.flatnonzero(magnitude == threshold)
    chosen[ties[: count - int(np.count_nonzero(chosen))]] = True
    shaped: NDArray[np.bool_] = chosen.reshape(values.shape)
    return shaped
