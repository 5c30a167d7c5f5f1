"""Units taken out of the network: heads, feed-forward units, channels of convolutions, the width.

The removal half of Peng et al. 2023 ("Structured pruning of self-supervised pre-trained models"),
section 3: what reads a unit loses its columns, what computes it its rows. The result computes what
the whole network does with the unit at zero. Only where a normalisation runs over units is that not
so: its statistics are then over those that stay, which is said in a note.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Annotated, ClassVar, Literal

import numpy as np
from annotated_types import Ge, Gt, Lt, MinLen

from cosim.compress.cuts import Indices, Removable, of_channels, of_units, remove, scores
from cosim.compress.network import KINDS, Kind, Layer, Selector, State
from cosim.compress.prune_units import selected_heads, selected_units
from cosim.compress.ranking import share_of
from cosim.compress.recipe import compressor
from cosim.compress.surgery import network, refit
from cosim.compress.zero_blocks import Norm
from cosim.errors import CosimError, suggestion

if TYPE_CHECKING:
    from torch import nn

Unit = Literal["heads", "units", "channels", "hidden"]
_KINDS: dict[Unit, tuple[Kind, ...]] = {
    "heads": ("attention",),
    "units": ("linear",),
    "channels": ("conv",),
    "hidden": KINDS,
}


_WORDS: dict[Unit, str] = {
    "heads": "heads",
    "units": "feed-forward units",
    "channels": "channels",
    "hidden": "hidden units",
}


@dataclass(frozen=True)
class StructuredConfig:
    """Remove units of the selected layers: a share by norm, or all but those that are listed.

    `remove`: `heads` of attentions; `units` between the two layers of feed-forwards; `channels`
    that a selected convolution makes; `hidden`, the width that a wav2vec2-type stack has between
    its blocks. `rate` takes floor(rate * units) with the smallest `norm` from every layer. `kept`
    maps the name of an attention, of the first layer of a feed-forward, of a convolution or of a
    stack to the numbers of units that stay, from 0; what is not named stays whole.
    """

    method: Literal["structured"]
    remove: Unit
    layers: Selector = "*"
    rate: Annotated[float, Gt(0), Lt(1)] | None = None
    norm: Norm = "l1"
    kept: dict[str, Annotated[tuple[Annotated[int, Ge(0)], ...], MinLen(1)]] | None = field(
        default=None, hash=False
    )
    changes_structure: ClassVar[bool] = True

    def __post_init__(self) -> None:
        if (self.rate is None) == (self.kept is None):
            found = "neither" if self.rate is None else "both"
            raise CosimError(f"found {found} of rate and kept, expected one")

    @property
    def kinds(self) -> tuple[Kind, ...]:
        """Attentions, linear layers or convolutions; for the width, whatever is in its stack."""
        return _KINDS[self.remove]


@compressor(StructuredConfig)
def structured(state: State, config: StructuredConfig, selected: tuple[Layer, ...]) -> State:
    """Return the state without some units; biases, norms and what else is theirs goes with them.

    Raises CosimError listing units that are not there, and layers that have none.
    """
    module = network(state)
    heads: dict[str, tuple[str, ...]] = {}
    if config.remove in ("heads", "units"):
        of_heads = config.remove == "heads"
        found = selected_heads(state, selected) if of_heads else selected_units(state, selected)
        heads = {units.modules[0]: units.modules for units in found if of_heads}
        removables = [of_units(units) for units in found]
    elif config.remove == "channels":
        removables = _channels(module, {layer.name for layer in selected})
    else:
        removables = _hidden(module, selected)
    gone = _gone(state, config, removables)
    state = remove(state, module, gone)
    refit(module)
    for units, numbers in gone:
        for name in heads.get(units.name, ()):
            _without_heads(module, name, numbers)
    rows = (
        {
            "method": config.method,
            "removed": config.remove,
            "layer": units.name,
            "units": units.count,
            "kept": np.setdiff1d(np.arange(units.count), numbers).tolist(),
        }
        for units, numbers in gone
    )
    return state.with_notes(*_notes(config.remove, gone)).reporting(rows)


def _channels(module: "nn.Module", selected: set[str]) -> list[Removable]:
    """Return the channels that selected convolutions make, where a module says who reads them."""
    from cosim.models.channels import Channels, HasChannels  # noqa: PLC0415, beside torch

    known: dict[str, Channels] = {}
    for path, owner in module.named_modules():  # the outer ones first
        if isinstance(owner, HasChannels):
            for channels in owner.channels():
                placed = channels.under(path)
                known.setdefault(placed.name, placed)
    found = [of_channels(known[name], module) for name in known if name in selected]
    if not found:
        names = ", ".join(known) or "none"
        raise CosimError(
            "layers: none of the selected convolutions has channels that can be removed; "
            f"those that have: {names}"
        )
    return found


def _hidden(module: "nn.Module", selected: Sequence[Layer]) -> list[Removable]:
    """Return the width of each stack with a selected layer, as the outermost module says it."""
    from cosim.models.channels import HasHidden  # noqa: PLC0415, beside torch

    outer: list[str] = []
    found = []
    for path, owner in module.named_modules():
        if not isinstance(owner, HasHidden) or any(_is_in(path, each) for each in outer):
            continue
        outer.append(path)
        hidden = owner.hidden().under(path)
        if any(_is_in(layer.name, hidden.name) for layer in selected):
            found.append(of_channels(hidden, module))
    if not found:
        raise CosimError(
            "layers: found none in a stack whose width can be cut; networks of wav2vec2 and HuBERT "
            "have one"
        )
    return found


def _is_in(name: str, path: str) -> bool:
    return not path or name == path or name.startswith(f"{path}.")


def _gone(
    state: State, config: StructuredConfig, removables: Sequence[Removable]
) -> list[tuple[Removable, Indices]]:
    """Return what goes, the numbers of units in order, without layers that stay whole."""
    gone = []
    names = [units.name for units in removables]
    problems = [
        f"kept.{name}: no such {config.remove}{suggestion(name, names)}"
        for name in config.kept or ()
        if name not in names
    ]
    for units in removables:
        if config.kept is not None:
            numbers = _not_kept(units, config.kept.get(units.name), problems)
        else:
            numbers = _weakest(state, units, config)
        if len(numbers):
            gone.append((units, numbers))
    if not gone and not problems:
        problems.append(f"no {_WORDS[config.remove]} go: found a rate too low or all of them kept")
    if problems:
        raise CosimError(problems)
    return gone


def _weakest(state: State, units: Removable, config: StructuredConfig) -> Indices:
    """Return the units of smallest norm, equally many of each group; of equals, the first ones."""
    size = units.count // units.groups
    found = scores(state.weights, units, config.norm).reshape(units.groups, size)
    first = np.arange(units.groups)[:, None] * size
    order = first + np.argsort(found, axis=1, kind="stable")
    return np.sort(order[:, : share_of(config.rate or 0.0, size)].ravel())


def _not_kept(units: Removable, kept: tuple[int, ...] | None, problems: list[str]) -> Indices:
    """Return the numbers that are not listed; note what is wrong with the list."""
    if kept is None:
        return np.zeros(0, np.intp)
    at = f"kept.{units.name}"
    beyond = [number for number in kept if number >= units.count]
    if beyond or len(set(kept)) < len(kept):
        what = f"{beyond[0]}" if beyond else "a number twice"
        problems.append(f"{at}: found {what}, expected different numbers below {units.count}")
        return np.zeros(0, np.intp)
    size = units.count // units.groups
    per_group = np.bincount(np.array(kept) // size, minlength=units.groups)
    if len(set(per_group.tolist())) > 1:
        problems.append(
            f"{at}: found {per_group.tolist()} units in the {units.groups} groups of {size} of "
            "the convolution that has them, expected equally many in each"
        )
        return np.zeros(0, np.intp)
    return np.setdiff1d(np.arange(units.count), np.array(kept))


def _without_heads(module: "nn.Module", name: str, numbers: Indices) -> None:
    """Tell an attention how many heads it has left, and which."""
    from cosim.models.attention import Heads  # noqa: PLC0415, imports torch

    block = module.get_submodule(name)
    if isinstance(block, Heads):
        block.keep_heads([head for head in range(block.heads) if head not in numbers])


def _notes(unit: Unit, gone: Sequence[tuple[Removable, Indices]]) -> list[str]:
    total = sum(units.count for units, _ in gone)
    removed = sum(len(numbers) for _, numbers in gone)
    words = _WORDS[unit]
    notes = [f"structured: {removed} of {total} {words} removed in {len(gone)} places"]
    inexact = [units.name for units, _ in gone if not units.is_exact]
    if inexact:
        notes.append(
            f"structured: in {', '.join(inexact)} norms take their statistics over the {words} "
            "that stay: the network is not the one with the others at zero, and wants training"
        )
    return notes
