"""Magnitude pruning at rates that fall with depth (Ben Letaifa and Rouas 2023, section 4).

The rate of the feed-forward layers in block n, counted from 0, is U_n = U_0 - n alpha in the
encoder and V_n = V_0 - n beta in the decoder (equations 5 and 6). All attention layers have one
rate. Within a layer the weights of smallest magnitude are pruned.
"""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import Annotated, ClassVar, Literal

import numpy as np
from annotated_types import Ge, Lt

from cosim.compress.network import Kind, Layer, Selector, State, Weight
from cosim.compress.prune_magnitude import smallest
from cosim.compress.recipe import compressor
from cosim.errors import CosimError

Rate = Annotated[float, Ge(0), Lt(1)]


@dataclass(frozen=True)
class VariableScaleConfig:
    """Shares of weights to prune: `u0` and `v0` in the first blocks of encoder and decoder.

    `alpha` and `beta` are what a block has less than the one before it. Feed-forward layers that
    stand in no decoder follow `u0`. Of the selected layers, only attention and feed-forward ones
    are pruned.
    """

    method: Literal["variable_scale"]
    u0: Rate
    v0: Rate
    attention_rate: Rate
    alpha: Rate = 0.01
    beta: Rate = 0.01
    layers: Selector = "*"
    makes_zeros: ClassVar[bool] = True

    @property
    def kinds(self) -> tuple[Kind, ...]:
        """Linear layers."""
        return ("linear",)


@compressor(VariableScaleConfig)
def variable_scale(state: State, config: VariableScaleConfig, selected: tuple[Layer, ...]) -> State:
    """Return the state with the smallest weights of attention and feed-forward layers at zero.

    A weight that several layers share has the rate of the first of them. The paper's sparsity
    counts the pruned layers' weights only; the note tells it beside that of the whole network.
    Raises CosimError for every block whose rate would be negative, and where nothing is to prune.
    """
    rates = pruning_rates(selected, config)
    weights = dict(state.weights)
    rows: list[Mapping[str, object]] = []
    for name, (layer, rate) in rates.items():
        weight = weights[name].zeroed(smallest(weights[name].values, rate=float(rate)))
        weights[name] = weight
        rows.append(
            {
                "method": config.method,
                "layer": layer.name,
                "rate": float(rate),
                "zeros": _zeros(weight.values),
                "weights": weight.table.size,
            }
        )
    changed = {name: weights[name] for name in rates}
    note = (
        f"variable_scale: sparsity {_sparsity(changed.values()):.2%} of the attention and "
        f"feed-forward weights, as the paper counts; {_sparsity(weights.values()):.2%} of all "
        "stored numbers"
    )
    return state.with_weights(changed).with_notes(note).reporting(rows)


def pruning_rates(
    layers: Sequence[Layer], config: VariableScaleConfig
) -> dict[str, tuple[Layer, Fraction]]:
    """Return the first layer and the rate of each weight to prune, by the weight's name.

    Rates are exact for the decimals written. Raises CosimError as `variable_scale` does.

    Example:
        >>> config = VariableScaleConfig("variable_scale", u0=0.3, v0=0.2, attention_rate=0.1)
        >>> layer = Layer("encoder.layers.11.fc1", "linear", "encoder.layers.11.fc1.weight")
        >>> [str(rate) for _, rate in pruning_rates([layer], config).values()]
        ['19/100']

    """
    rates: dict[str, tuple[Layer, Fraction]] = {}
    problems: dict[str, None] = {}
    for layer in layers:
        if layer.role == "other":
            continue
        if layer.role == "attention":
            rates.setdefault(layer.weight, (layer, _exact(config.attention_rate)))
            continue
        first, fall = ("v0", "beta") if layer.side == "decoder" else ("u0", "alpha")
        start, step = getattr(config, first), getattr(config, fall)
        if layer.block is None:
            problems[f"{layer.name}: found no number of a block in the name, expected one"] = None
            continue
        rate = _exact(start) - layer.block * _exact(step)
        if rate < 0:
            side = layer.side or "stack"
            problems[
                f"{first}, {fall}: {side} block {layer.block}: found {start:g} - {layer.block} x "
                f"{step:g} = {float(rate):g}, expected a rate >= 0"
            ] = None
        rates.setdefault(layer.weight, (layer, rate))
    if not rates and not problems:
        found = ", ".join(layer.name for layer in layers[:3])
        problems[f"layers: found {found}, expected attention or feed-forward layers"] = None
    if problems:
        raise CosimError(problems)
    return rates


def _exact(rate: float) -> Fraction:
    """Return the decimal that was written."""
    return Fraction(str(rate))


def _sparsity(weights: Collection[Weight]) -> float:
    zeros = sum(_zeros(weight.values) for weight in weights)
    return zeros / sum(weight.table.size for weight in weights)


def _zeros(values: np.ndarray) -> int:
    return int(values.size - np.count_nonzero(values))
