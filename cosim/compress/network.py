"""What compression works on: layers by name and kind, and weights as they will be stored."""

import difflib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from fnmatch import fnmatchcase
from itertools import pairwise
from typing import TYPE_CHECKING, Annotated, Any, Literal

import numpy as np
from annotated_types import Ge, MinLen
from numpy.typing import NDArray

if TYPE_CHECKING:
    from torch import nn

F32 = NDArray[np.float32]
I8 = NDArray[np.int8]
Kind = Literal["linear", "conv", "embedding", "attention"]
KINDS: tuple[Kind, ...] = ("linear", "conv", "embedding", "attention")
Side = Literal["encoder", "decoder"]
Role = Literal["attention", "ffn", "other"]
Number = Literal["f32", "f16", "bf16"]
Names = Annotated[str, MinLen(1)] | Annotated[tuple[Annotated[str, MinLen(1)], ...], MinLen(1)]
_SIDES: Mapping[str, Side] = {
    "encoder": "encoder",
    "encoders": "encoder",
    "stack": "encoder",  # of HuBERT's variants
    "decoder": "decoder",
    "decoders": "decoder",
}
_BLOCK_LISTS = ("layers", "blocks", "encoders", "decoders")
_ROLES: Mapping[Role, tuple[str, ...]] = {
    "attention": ("attn", "attention"),
    "ffn": ("fc1", "fc2", "feed_forward", "ffn", "intermediate_dense", "output_dense"),
}


@dataclass(frozen=True)
class Layer:
    """A module that methods can select; `weight` names its parameter ("" for attention).

    Two layers with a tied weight name the same parameter. `takes_codes` says whether a kernel
    multiplies integer activations: none does for depthwise convolutions, for 2-D ones in groups
    and for attention with a bias or a pattern. `dimensions` are those that a convolution slides
    along, 0 for other kinds.
    """

    name: str
    kind: Kind
    weight: str = ""
    takes_codes: bool = True
    dimensions: int = 0

    @property
    def side(self) -> Side | None:
        """Encoder or decoder, by the name; None for a layer in neither."""
        found = [_SIDES[part] for part in self.name.split(".") if part in _SIDES]
        return found[0] if found else None

    @property
    def block(self) -> int | None:
        """Number of the block it stands in, from 0; None for a layer outside the blocks."""
        parts = self.name.split(".")
        for before, part in pairwise(parts):
            if before in _BLOCK_LISTS and part.isdecimal():
                return int(part)
        return None

    @property
    def role(self) -> Role:
        """What it is for in its block, by the name of the modules around it."""
        for role, words in _ROLES.items():
            if any(word in part for part in self.name.split(".") for word in words):
                return role
        return "other"


@dataclass(frozen=True)
class Selection:
    """A selector in full: every key given narrows it.

    `names` are globs (`!` before one leaves out what it fits), `blocks` the first and the last
    block, counted from 0.
    """

    names: Names = "*"
    kinds: Annotated[tuple[Kind, ...], MinLen(1)] = KINDS
    side: Side | None = None
    role: Role | None = None
    blocks: tuple[Annotated[int, Ge(0)], Annotated[int, Ge(0)]] | None = None

    def takes(self, layer: Layer) -> bool:
        """Return whether everything but the names fits."""
        block = layer.block
        return (
            layer.kind in self.kinds
            and self.side in (None, layer.side)
            and self.role in (None, layer.role)
            and (
                self.blocks is None
                or (block is not None and self.blocks[0] <= block <= self.blocks[1])
            )
        )


Selector = Names | Selection


@dataclass(frozen=True)
class NofMForm:
    """Of every `m` consecutive weights of a row, at most `n` are not zero."""

    n: int
    m: int


@dataclass(frozen=True)
class BlockForm:
    """Zeros come in blocks of `rows` output channels by `columns` weights of a row."""

    rows: int
    columns: int


@dataclass(frozen=True, eq=False)
class Weight:
    """A parameter as it will be stored: float32 values, or codes of `bits` bits with their scale.

    `table` has the parameter's shape. `scale` is (n or 1, groups) over output channels and runs of
    `group` weights along the flattened row (0: the whole row); with `zero_point` of the same shape
    a value is (code - zero point) * scale. Floats are stored as `number`, which their values fit.
    `form` is the pattern that a method gave its zeros, `encoding` the stored form that a recipe
    asks for ("auto": the smallest).
    """

    table: F32 | I8
    bits: int = 32
    scale: F32 | None = None
    group: int = 0
    zero_point: I8 | F32 | None = None
    number: Number = "f32"
    form: NofMForm | BlockForm | None = None
    encoding: str = "auto"

    @property
    def has_format(self) -> bool:
        """Whether a method has decided how values are stored."""
        return self.scale is not None or self.number != "f32"

    @property
    def values(self) -> F32:
        """What the network computes with, in the parameter's shape: (code - zero point) * scale."""
        if self.scale is None:
            return self.table.astype(np.float32, copy=False)
        rows = self.table.reshape(len(self.table), -1).astype(np.float32)
        if self.zero_point is not None:
            rows -= self._along(self.zero_point.astype(np.float32), rows.shape[1])
        scaled = np.multiply(rows, self._along(self.scale, rows.shape[1]), dtype=np.float32)
        return scaled.reshape(self.table.shape)

    def _along(self, per_group: F32, columns: int) -> F32:
        """Return a factor per group as one that fits (n, columns)."""
        if per_group.shape[1] == 1:
            return per_group
        return np.repeat(per_group, self.group, axis=1)[:, :columns]

    def zeroed(self, where: NDArray[np.bool_]) -> "Weight":
        """Return the weight with zeros at `where` (of its shape); a scale stays as it is."""
        table = self.table.copy()
        if self.zero_point is None:
            table[where] = 0
            return replace(self, table=table)
        rows = table.reshape(len(table), -1)
        zero = np.broadcast_to(
            self._along(self.zero_point.astype(np.float32), rows.shape[1]), rows.shape
        )
        np.copyto(rows, zero.astype(rows.dtype), where=where.reshape(rows.shape))
        return replace(self, table=rows.reshape(table.shape))


@dataclass(frozen=True)
class OperandPolicy:
    """What one operand of one op becomes before it is multiplied.

    `target` is the module that holds the op. Operands: `input` of a linear layer or convolution;
    `q`, `k`, `v` and the probabilities `p` of an attention. `dynamic` scales by the largest
    magnitude of a row or of the tensor, `static` by a calibrated one, which is a tensor of its own
    among the weights; `unit` is the known range [0, 1], with zero point 0; `f16` and `bf16` are no
    scale but floats of 16 bits.
    """

    target: str
    operand: Literal["input", "q", "k", "v", "p"]
    bits: int
    signed: bool
    per: Literal["row", "tensor"]
    scale: Literal["dynamic", "static", "unit", "f16", "bf16"]


@dataclass(frozen=True, eq=False)
class State:
    """A network between two methods: what each has made of its weights and operands so far.

    `module` is the network itself, which methods that change its structure edit; its values are
    those before the recipe. `batches` are inputs of the network for methods that calibrate.
    `report` has a row for each layer about which a method decided something of its own.
    """

    layers: tuple[Layer, ...]
    weights: Mapping[str, Weight]
    policies: tuple[OperandPolicy, ...] = ()
    notes: tuple[str, ...] = field(default=())
    module: "nn.Module | None" = None
    batches: Sequence[Any] = ()
    report: tuple[Mapping[str, object], ...] = ()

    def with_weights(self, changed: Mapping[str, Weight]) -> "State":
        """Return the state with some weights replaced."""
        return replace(self, weights={**self.weights, **changed})

    def with_notes(self, *notes: str) -> "State":
        """Return the state with notes added, each once."""
        return replace(self, notes=tuple(dict.fromkeys((*self.notes, *notes))))

    def reporting(self, rows: Iterable[Mapping[str, object]]) -> "State":
        """Return the state with rows added to its report."""
        return replace(self, report=(*self.report, *rows))

    def restructured(self, changed: Mapping[str, Weight]) -> "State":
        """Return the state after `module` was edited: layers and weights as they are now.

        Weights under a name that is still there, with the shape they had, stay what methods made
        of them, as do calibrated tensors of operands of layers that are still there; `changed` are
        those that an edit gives values to.
        """
        if self.module is None:
            raise ValueError("restructured: the state holds no module")
        now = scan(self.module)
        kept = {
            name: self.weights[name]
            for name, weight in now.weights.items()
            if name in self.weights and self.weights[name].table.shape == weight.table.shape
        }
        names = {layer.name for layer in now.layers}
        policies = tuple(policy for policy in self.policies if policy.target in names)
        fixed = {f"{policy.target}.{policy.operand}" for policy in policies}
        calibrated = {
            name: weight
            for name, weight in self.weights.items()
            if name.endswith(("_scale", "_move")) and name.rpartition("_")[0] in fixed
        }
        return replace(
            self,
            layers=now.layers,
            weights={**now.weights, **calibrated, **kept, **changed},
            policies=policies,
        )


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
            dimensions = weight.ndim - 2 if kind == "conv" and weight is not None else 0
            layers.append(Layer(name, kind, parameter, takes_codes, dimensions))
    weights = {name: Weight(tensor.detach().numpy()) for name, tensor in named.items()}
    return State(tuple(layers), weights, module=module)


def select(
    layers: Iterable[Layer], selector: Selector, kinds: Iterable[Kind]
) -> tuple[tuple[Layer, ...], list[str]]:
    """Return the layers of `kinds` that a selector takes, and what is wrong with it.

    `*` stands for any text, dots included. Every glob must select something.
    """
    full = selector if isinstance(selector, Selection) else Selection(selector)
    globs = (full.names,) if isinstance(full.names, str) else full.names
    wanted = [kind for kind in kinds if kind in full.kinds]
    candidates = [layer for layer in layers if layer.kind in wanted and full.takes(layer)]
    names = [layer.name for layer in candidates]
    problems = []
    for glob in globs:
        if not any(fnmatchcase(name, glob.removeprefix("!")) for name in names):
            near = difflib.get_close_matches(glob, names, n=3, cutoff=0.3) or names[:3]
            problems.append(
                f'found "{glob}", which selects no {_described(full, wanted)}; '
                f"nearest: {', '.join(near) if near else 'the model has none'}"
            )
    if not globs:
        problems.append("found no selector, expected at least one")
    taken = [glob for glob in globs if not glob.startswith("!")] or ["*"]
    left_out = [glob[1:] for glob in globs if glob.startswith("!")]
    chosen = tuple(
        layer
        for layer in candidates
        if any(fnmatchcase(layer.name, glob) for glob in taken)
        and not any(fnmatchcase(layer.name, glob) for glob in left_out)
    )
    if not chosen and not problems:
        problems.append(f"selects no {_described(full, wanted)}: all are left out again")
    return chosen, problems


def _described(selection: Selection, kinds: Sequence[Kind]) -> str:
    """Return what a selection asks for beside names, in words."""
    words = [" or ".join(sorted(kinds)), "layer"]
    if selection.role is not None:
        words.insert(0, selection.role)
    if selection.side is not None:
        words.append(f"of the {selection.side}")
    if selection.blocks is not None:
        words.append(f"in blocks {selection.blocks[0]} to {selection.blocks[1]}")
    return " ".join(words)
