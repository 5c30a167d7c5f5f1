"""What compression works on: layers by name and kind, and weights as they will be stored."""

import difflib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING, Literal

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from torch import nn

F32 = NDArray[np.float32]
I8 = NDArray[np.int8]
Kind = Literal["linear", "conv", "embedding", "attention"]
KINDS: tuple[Kind, ...] = ("linear", "conv", "embedding", "attention")


@dataclass(frozen=True)
class Layer:
    """A module that methods can select; `weight` names its parameter ("" for attention).

    Two layers with a tied weight name the same parameter. `takes_codes` says whether a kernel
    multiplies integer activations: none does for depthwise convolutions, for 2-D ones in groups
    and for attention with a bias or a pattern.
    """

    name: str
    kind: Kind
    weight: str = ""
    takes_codes: bool = True


@dataclass(frozen=True, eq=False)
class Weight:
    """A parameter as it will be stored: float32 values, or codes of `bits` bits with their scale.

    `table` has the parameter's shape; `scale` is (n, 1) per output channel or (1, 1) per tensor.
    """

    table: F32 | I8
    bits: int = 32
    scale: F32 | None = None

    @property
    def values(self) -> F32:
        """What the network computes with, in the parameter's shape: code times scale."""
        if self.scale is None:
            return self.table.astype(np.float32, copy=False)
        rows = self.table.reshape(len(self.table), -1).astype(np.float32)
        return np.multiply(rows, self.scale, dtype=np.float32).reshape(self.table.shape)

    def zeroed(self, where: NDArray[np.bool_]) -> "Weight":
        """Return the weight with zeros at `where` (of its shape); a scale stays as it is."""
        table = self.table.copy()
        table[where] = 0
        return replace(self, table=table)


@dataclass(frozen=True)
class OperandPolicy:
    """What one operand of one op becomes before it is multiplied.

    `target` is the module that holds the op. Operands: `input` of a linear layer or convolution;
    `q`, `k`, `v` and the probabilities `p` of an attention. `dynamic` scales by the largest
    magnitude of a row or of the tensor; `unit` is the known range [0, 1], with zero point 0.
    """

    target: str
    operand: Literal["input", "q", "k", "v", "p"]
    bits: int
    signed: bool
    per: Literal["row", "tensor"]
    scale: Literal["dynamic", "unit"]


@dataclass(frozen=True, eq=False)
class State:
    """A network between two methods: what each has made of its weights and operands so far."""

    layers: tuple[Layer, ...]
    weights: Mapping[str, Weight]
    policies: tuple[OperandPolicy, ...] = ()
    notes: tuple[str, ...] = field(default=())

    def with_weights(self, changed: Mapping[str, Weight]) -> "State":
        """Return the state with some weights replaced."""
        return replace(self, weights={**self.weights, **changed})


def scan(module: "nn.Module") -> State:
    """Return the layers and all parameters and buffers of a module, uncompressed.

    A parameter used under several names appears under the first of them. Buffers of integers, such
    as the batches that a normalisation has seen, are no part of a network in use.
    """
    from torch import nn  # noqa: PLC0415, slow to import

    from cosim.models.attention import Heads  # noqa: PLC0415, imports torch

    kinds: Mapping[type[nn.Module], Kind] = {
        nn.Linear: "linear",
        nn.Conv1d: "conv",
        nn.Conv2d: "conv",
        nn.Embedding: "embedding",
        Heads: "attention",
    }
    stored = {**dict(module.named_parameters()), **dict(module.named_buffers())}
    named = {name: tensor for name, tensor in stored.items() if tensor.is_floating_point()}
    first = {id(tensor): name for name, tensor in named.items()}
    layers = []
    for name, child in module.named_modules():
        kind = next((kind for type_, kind in kinds.items() if isinstance(child, type_)), None)
        if kind is not None:
            weight = getattr(child, "weight", None)
            parameter = first[id(weight)] if weight is not None else ""
            takes_codes = getattr(child, "takes_codes", True)
            if isinstance(child, nn.Conv1d | nn.Conv2d) and child.groups > 1:
                takes_codes = isinstance(child, nn.Conv1d) and child.groups < child.in_channels
            layers.append(Layer(name, kind, parameter, takes_codes=takes_codes))
    weights = {name: Weight(tensor.detach().numpy()) for name, tensor in named.items()}
    return State(tuple(layers), weights)


def select(
    layers: Iterable[Layer], patterns: str | Sequence[str], kinds: Iterable[Kind]
) -> tuple[tuple[Layer, ...], list[str]]:
    """Return the layers of `kinds` whose name fits a glob, and what is wrong with the globs.

    `*` stands for any text, dots included. Every glob must select something.
    """
    wanted = frozenset(kinds)
    globs = (patterns,) if isinstance(patterns, str) else tuple(patterns)
    candidates = [layer for layer in layers if layer.kind in wanted]
    problems = []
    for glob in globs:
        if not any(fnmatchcase(layer.name, glob) for layer in candidates):
            names = [layer.name for layer in candidates]
            near = difflib.get_close_matches(glob, names, n=3, cutoff=0.3) or names[:3]
            problems.append(
                f'found "{glob}", which selects no {" or ".join(sorted(wanted))} layer; '
                f"nearest: {', '.join(near) if near else 'the model has none'}"
            )
    if not globs:
        problems.append("found no selector, expected at least one")
    chosen = [l for l in candidates if any(fnmatchcase(l.name, glob) for glob in globs)]
    return tuple(chosen), problems
