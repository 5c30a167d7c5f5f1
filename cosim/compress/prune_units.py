"""Heads and hidden units by norm: which are selected, how they rank, and what their zeros are."""

from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np

from cosim.compress.network import F32, BlockForm, Layer, State, Weight
from cosim.compress.ranking import Mask
from cosim.compress.surgery import network
from cosim.compress.units import Part, Units, attention_units, ffn_units
from cosim.compress.zero_blocks import Norm, per_element, powers
from cosim.errors import CosimError


def selected_heads(state: State, selected: Sequence[Layer]) -> tuple[Units, ...]:
    """Return the heads of the selected attentions.

    Raises CosimError for each that shares weights with an attention that is not selected.
    """
    prefixes = tuple(f"{layer.name}." for layer in selected)
    held = {layer.weight for layer in state.layers if layer.name.startswith(prefixes)}
    return _held(attention_units(network(state)), held, "attention with heads")


def selected_units(state: State, selected: Sequence[Layer]) -> tuple[Units, ...]:
    """Return the hidden units of the feed-forwards among the selected linear layers.

    Raises CosimError for each of which only some weights are selected, and if there is none.
    """
    held = {layer.weight for layer in selected}
    return _held(ffn_units(network(state)), held, "feed-forward of two linear layers")


def _held(found: Sequence[Units], held: set[str], what: str) -> tuple[Units, ...]:
    taken, problems = [], []
    for units in found:
        needed = dict.fromkeys(part.parameter for part in units.weights)
        missing = [name for name in needed if name not in held]
        if not missing:
            taken.append(units)
        elif len(missing) < len(needed):
            problems.append(
                f"layers: of {' and '.join(units.modules)}, found {len(needed) - len(missing)} of "
                f"{len(needed)} weights selected, expected all or none; missing: "
                f"{', '.join(missing)}"
            )
    if not taken and not problems:
        problems.append(f"layers: found no {what} among those selected, expected at least one")
    if problems:
        raise CosimError(problems)
    return tuple(taken)


def unit_scores(weights: Mapping[str, Weight], units: Units, norm: Norm) -> F32:
    """Return the norm per element of each unit over its parts of all linear weights.

    Rows that compute it and columns that read it count alike; biases do not count.
    """
    sums = np.zeros(units.count, np.float64)
    elements = 0
    for part in units.weights:
        values = _by_unit(weights[part.parameter].values, part, units.count)
        sums += powers(values, norm).sum(axis=1, dtype=np.float64)
        elements += values.shape[1]
    return per_element(sums, elements, norm)


def unit_deviation(weights: Mapping[str, Weight], units: Units) -> float:
    """Return the standard deviation of all linear weights that have the units."""
    values = [weights[part.parameter].values.ravel() for part in units.weights]
    return float(np.std(np.concatenate(values), dtype=np.float64))


def without_units(weights: Mapping[str, Weight], units: Units, chosen: Mask) -> dict[str, Weight]:
    """Return the parameters of units, biases included, with zeros for those that are chosen.

    The network computes what it would if they were removed.
    """
    if not chosen.any():
        return {}
    changed: dict[str, Weight] = {}
    for part in units.parts:
        weight = changed.get(part.parameter, weights[part.parameter])
        where = np.zeros(weight.table.shape, np.bool_)
        np.moveaxis(where, part.axis, 0)[np.repeat(chosen, part.size)] = True
        changed[part.parameter] = weight.zeroed(where)
    for part in units.weights:
        weight = changed[part.parameter]
        n, k = weight.table.shape
        form = BlockForm(part.size, k) if part.axis == 0 else BlockForm(n, part.size)
        changed[part.parameter] = replace(weight, form=form)
    return changed


def _by_unit(values: F32, part: Part, count: int) -> F32:
    """Return a row of values for each unit."""
    return np.moveaxis(values, part.axis, 0).reshape(count, -1)
