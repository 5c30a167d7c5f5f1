"""Units as they are cut out of a module: where each stands in tensors, and the edit itself."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from cosim.compress.network import F32, NofMForm, State, Weight
from cosim.compress.surgery import like, names_of, put
from cosim.compress.units import Part, Units
from cosim.compress.zero_blocks import Norm, per_element, powers
from cosim.errors import CosimError

if TYPE_CHECKING:
    from torch import Tensor, nn

    from cosim.models.channels import Channels

Indices = NDArray[np.intp]
Table = NDArray[Any]


@dataclass(frozen=True, eq=False)
class Cut:
    """Where units stand in one tensor: unit u at the indices `at[u]` (units, size) of `axis`.

    `is_ranked` says that its values count for the norm of a unit. With `groups` the tensor is the
    weight of a grouped convolution whose inputs and outputs are both the units, in that order.
    """

    tensor: str
    axis: int
    at: Indices
    is_ranked: bool
    groups: int = 1


@dataclass(frozen=True, eq=False)
class Removable:
    """Units under the name by which they are asked for; equally many go from each of `groups`.

    `is_exact` says that removing a unit changes nothing but its own contribution: no
    normalisation runs over the units.
    """

    name: str
    count: int
    cuts: tuple[Cut, ...]
    groups: int = 1
    is_exact: bool = True


def of_units(units: Units) -> Removable:
    """Return heads or hidden units of feed-forwards, named after their first module."""

    def cut(part: Part, *, is_ranked: bool) -> Cut:
        at = np.arange(units.count * part.size).reshape(units.count, part.size)
        return Cut(part.parameter, part.axis, at, is_ranked)

    ranked = [cut(part, is_ranked=True) for part in units.weights]
    others = [cut(part, is_ranked=False) for part in units.others]
    return Removable(units.modules[0], units.count, (*ranked, *others))


def of_channels(channels: "Channels", module: "nn.Module") -> Removable:
    """Return what a module says of its channels, by the names that its tensors have."""
    names = names_of(module)
    cuts: list[Cut] = []
    for place in channels.places:
        tensor = _tensor(module, place.tensor, place.axis)
        if tensor is not None:
            at = np.arange(tensor.shape[place.axis]).reshape(place.copies, -1, place.size)
            by_unit = np.moveaxis(at, 1, 0).reshape(at.shape[1], -1)
            cuts.append(Cut(names[id(tensor)], place.axis, by_unit, tensor.ndim > 1))
    count = len(cuts[0].at)
    if channels.grouped:
        name = names[id(module.get_parameter(channels.grouped))]
        rows = np.arange(count).reshape(count, 1)
        cuts.append(Cut(name, 0, rows, is_ranked=True, groups=channels.groups))
    return Removable(
        channels.name, count, tuple(cuts), groups=channels.groups, is_exact=channels.is_exact
    )


def _tensor(module: "nn.Module", path: str, axis: int) -> "Tensor | None":
    """Return the tensor at a path, None where there is none.

    Of a product of two layers it is the weight that has the axis.
    """
    from cosim.models.factors import LowRank  # noqa: PLC0415, imports torch

    owner_path, _, key = path.rpartition(".")
    owner = module.get_submodule(owner_path)
    if isinstance(owner, LowRank) and key == "weight":
        owner = owner.down if axis == 1 else owner.up
    tensor: Tensor | None = getattr(owner, key, None)
    return tensor


def scores(weights: Mapping[str, Weight], units: Removable, norm: Norm) -> F32:
    """Return the norm per element of each unit over the weights that compute it and that read it.

    Biases and normalisations do not count.
    """
    sums = np.zeros(units.count)
    elements = 0
    for cut in units.cuts:
        if not cut.is_ranked:
            continue
        values = powers(weights[cut.tensor].values, norm)
        per_index = _sums(values, cut.axis)
        sums += per_index[cut.at].sum(axis=1)
        elements += values.size // len(per_index) * cut.at.shape[1]
        if cut.groups > 1:  # what reads a unit stands in the other axis, within its group
            sums += np.concatenate([_sums(part, 1) for part in np.split(values, cut.groups)])
            elements += values.size // len(values)
    return per_element(sums, elements, norm)


def _sums(values: F32, axis: int) -> NDArray[np.float64]:
    """Return the sum over all other axes."""
    rows = np.moveaxis(values, axis, 0).reshape(values.shape[axis], -1)
    total: NDArray[np.float64] = rows.sum(axis=1, dtype=np.float64)
    return total


def remove(state: State, module: "nn.Module", gone: Iterable[tuple[Removable, Indices]]) -> State:
    """Return the state after the units `gone` were cut out of the module, in place.

    Raises CosimError for each weight whose stored form has been decided.
    """
    cuts: dict[str, list[tuple[Cut, Indices]]] = {}
    for removable, units in gone:
        for cut in removable.cuts:
            cuts.setdefault(cut.tensor, []).append((cut, units))
    decided = [name for name in cuts if state.weights[name].has_format]
    if decided:
        raise CosimError(
            f"{name}: an earlier entry has decided how it is stored; remove units before that"
            for name in decided
        )
    places = _places(module)
    held: dict[int, Weight] = {}
    fresh: list[Tensor] = []
    names = names_of(module)
    for name, found in cuts.items():
        weight = _without(state.weights[name], found)
        fresh.append(like(places[name][1], weight.values))
        held[id(fresh[-1])] = weight
        for path in places[name][0]:
            put(module, path, fresh[-1])
    after = names_of(module)
    changed = {after[tensor]: weight for tensor, weight in held.items()}
    changed |= {after[t]: state.weights[name] for t, name in names.items() if t in after}
    return state.restructured(changed)


def _without(weight: Weight, cuts: Iterable[tuple[Cut, Indices]]) -> Weight:
    """Return a weight without some units on each of its axes; a pattern along a row may not stay.

    Rows that go leave N:M as it is.
    """
    table: Table = weight.table
    gone: dict[int, list[Indices]] = {}
    for cut, units in cuts:
        if cut.groups > 1:
            table = _without_grouped(table, cut.groups, units)
        else:
            gone.setdefault(cut.axis, []).append(cut.at[units].ravel())
    for axis, indices in gone.items():
        table = np.delete(table, np.concatenate(indices), axis=axis)
    keeps_rows = isinstance(weight.form, NofMForm) and set(gone) == {0}
    return replace(weight, table=table, form=weight.form if keeps_rows else None)


def _without_grouped(table: Table, groups: int, units: Indices) -> Table:
    """Return the weight [units, units / groups, ...] of a grouped convolution without some units.

    Equally many go from each group.
    """
    size = len(table) // groups
    kept = np.delete(np.arange(len(table)), units).reshape(groups, -1)
    parts = [table[rows][:, rows - group * size] for group, rows in enumerate(kept)]
    return np.concatenate(parts)


def _places(module: "nn.Module") -> dict[str, tuple[list[str], "Tensor"]]:
    """Return each tensor by its one name, with every path it stands at."""
    names = names_of(module)
    found: dict[str, tuple[list[str], Tensor]] = {}
    for path, tensor in (
        *module.named_parameters(remove_duplicate=False),
        *module.named_buffers(remove_duplicate=False),
    ):
        if id(tensor) in names:
            found.setdefault(names[id(tensor)], ([], tensor))[0].append(path)
    return found
