"""Heads of attentions and hidden units of feed-forward layers: where each stands in parameters.

A unit can be zeroed, or removed, without a change to any other: its rows in what computes it, its
columns in what reads it (Michel, Levy and Neubig 2019 for heads).
"""

from collections.abc import Iterable
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING, TypeVar, cast

from cosim.compress.network import Layer
from cosim.compress.surgery import names_of

if TYPE_CHECKING:
    from torch import nn

    from cosim.models.attention import Heads

T = TypeVar("T")
Product = tuple["nn.Linear", ...]

_COMPUTE = ("q_proj", "k_proj", "v_proj", "linear_q", "linear_k", "linear_v", "linear_pos")
_READ = ("out_proj", "linear_out")
# Parameters of an attention that are no layer's: the axis of their heads.
_OF_HEADS = {"pos_bias_u": 0, "pos_bias_v": 0, "gru_rel_pos_const": 1}


@dataclass(frozen=True)
class Part:
    """Where units stand in one parameter: unit u at [u * size, (u + 1) * size) of `axis`."""

    parameter: str
    axis: int
    size: int = 1

    def at(self, unit: int) -> tuple[slice, ...]:
        """Return the index of one unit's part.

        Example:
            >>> Part("out_proj.weight", 1, 64).at(2)
            (slice(None, None, None), slice(128, 192, None))

        """
        return (*(slice(None),) * self.axis, slice(unit * self.size, (unit + 1) * self.size))


@dataclass(frozen=True)
class Units:
    """Units of equal shape that are removed one by one: those of one module, or of several tied.

    `modules` are the attentions, or the layers of the feed-forwards, two for each. `weights` are
    those of linear layers: axis 0 where they compute a unit, 1 where they read it. `others` are
    biases and what else belongs to a unit. Tied parameters have their first name.
    """

    modules: tuple[str, ...]
    count: int
    weights: tuple[Part, ...]
    others: tuple[Part, ...] = ()

    @property
    def parts(self) -> tuple[Part, ...]:
        """All of them."""
        return (*self.weights, *self.others)


def attention_units(module: "nn.Module") -> tuple[Units, ...]:
    """Return the heads of every attention in a module, of those with shared parameters together.

    The table of WavLM's biases by distance has a column per head, but all layers use it: it is no
    part of a unit. Raises ValueError for an attention whose projections have unknown names.
    """
    from cosim.models.attention import Heads  # noqa: PLC0415, imports torch

    names = names_of(module)
    blocks = ((name, each) for name, each in module.named_modules() if isinstance(each, Heads))
    return _united(_heads(name, block, names) for name, block in blocks)


def ffn_units(module: "nn.Module") -> tuple[Units, ...]:
    """Return the hidden units of every feed-forward in a module, of shared ones together.

    A feed-forward is two layers of role ffn side by side, the second as wide as the first one's
    output and back to its input. Either may be a product of two linear layers of low rank.
    """
    names = names_of(module)
    found = []
    for parent, owner in module.named_modules():
        if _product(owner):
            continue
        children = [
            (f"{parent}.{key}" if parent else key, _product(child))
            for key, child in owner.named_children()
        ]
        layers = [
            (name, product)
            for name, product in children
            if product and Layer(name, "linear").role == "ffn"
        ]
        for (name, first), (next_name, second) in pairwise(layers):
            above, below = first[-1], second[0]
            if above.out_features != below.in_features:
                continue
            if first[0].in_features == second[-1].out_features:
                weights = (Part(names[id(above.weight)], 0), Part(names[id(below.weight)], 1))
                others = _bias(above, names)
                found.append(Units((name, next_name), above.out_features, weights, others))
    return _united(found)


def _heads(name: str, block: "Heads", names: dict[int, str]) -> Units:
    """Return the heads of one attention."""
    weights: list[Part] = []
    others: list[Part] = []
    size = block.head_dim
    roles = set()
    for key, child in block.named_children():
        product = _product(child)
        if key in _COMPUTE and product:
            weights.append(Part(names[id(product[-1].weight)], 0, size))
            others += _bias(product[-1], names, size)
        elif key in _READ and product:
            weights.append(Part(names[id(product[0].weight)], 1, size))
        else:
            continue
        roles.add(key.removesuffix("_proj").removeprefix("linear_"))
    if not roles >= {"q", "k", "v", "out"}:
        raise ValueError(
            f"{name}: found the projections {', '.join(sorted(roles)) or 'none'}, expected linear "
            "layers for q, k, v and out under a known name"
        )
    tensors = dict(block.named_parameters(recurse=False))
    others += [
        Part(names[id(tensors[key])], axis) for key, axis in _OF_HEADS.items() if key in tensors
    ]
    return Units((name,), block.heads, tuple(weights), tuple(others))


def _bias(layer: "nn.Linear", names: dict[int, str], size: int = 1) -> tuple[Part, ...]:
    bias = cast("nn.Parameter | None", layer.bias)
    return () if bias is None else (Part(names[id(bias)], 0, size),)


def _product(module: "nn.Module") -> Product:
    """Return the linear layers that a module is the product of; none for another module."""
    from torch import nn  # noqa: PLC0415, slow to import

    from cosim.models.factors import LowRank  # noqa: PLC0415, imports torch

    if isinstance(module, nn.Linear):
        return (module,)
    if isinstance(module, LowRank):
        return (module.down, module.up)
    if not isinstance(module, nn.Sequential):
        return ()
    layers = tuple(child for child in module if isinstance(child, nn.Linear))
    return layers if len(layers) == len(module) else ()


def _united(found: Iterable[Units]) -> tuple[Units, ...]:
    """Return units with those that share a parameter as one, in the order of their first."""
    united: list[Units] = []
    for units in found:
        merged = units
        names = {part.parameter for part in units.parts}
        tied = [each for each in united if names & {part.parameter for part in each.parts}]
        for each in reversed(tied):
            merged = Units(
                _once(each.modules, merged.modules),
                each.count,
                _once(each.weights, merged.weights),
                _once(each.others, merged.others),
            )
        place = united.index(tied[0]) if tied else len(united)
        united = [each for each in united if each not in tied]
        united.insert(place, merged)
    return tuple(united)


def _once(first: tuple[T, ...], second: tuple[T, ...]) -> tuple[T, ...]:
    return tuple(dict.fromkeys((*first, *second)))
