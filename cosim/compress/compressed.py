"""From a module and a recipe to a CompressedModel: encoded weights, policies and exact sizes."""

import copy
import os
import zlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from math import prod
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

import cosim.guard  # noqa: F401 (the check is the import)
from cosim.compress.network import OperandPolicy, State, Weight, scan
from cosim.compress.recipe import Recipe, apply
from cosim.compress.stored import encode
from cosim.errors import CosimError
from kernels import encodings as store
from kernels.encodings import Encoding

if TYPE_CHECKING:
    from torch import nn

__all__ = [
    "CompressedModel",
    "TensorSize",
    "compress",
    "encode",
    "zipped_arrays",
    "zipped_bytes",
    "zipped_tensors",
]

ZLIB_LEVEL = 6  # zlib's own default, and that of zip and gzip
Report = Callable[[str], None]


@dataclass(frozen=True)
class TensorSize:
    """One row of the size ledger, in bits.

    `size_bits` is the sum of payload, scales, zero points, indices and padding, where padding is
    what fills up the payload's runs and blocks. `why` says what decided the form; `zipped_bytes`
    are those of the stored arrays after zlib, None where they were not measured.
    """

    name: str
    shape: tuple[int, ...]
    encoding: str
    payload_bits: int
    scale_bits: int
    zero_point_bits: int
    index_bits: int
    padding_bits: int
    size_bits: int
    nonzero: int
    elements: int
    why: str
    zipped_bytes: int | None = None

    @property
    def bits_per_weight(self) -> float:
        """Stored bits per element, everything included; 0 for an empty tensor."""
        return self.size_bits / self.elements if self.elements else 0.0

    def row(self) -> dict[str, object]:
        """Return the row of `ledger.jsonl`."""
        return {**asdict(self), "bits_per_weight": self.bits_per_weight}


@dataclass(frozen=True, eq=False)
class CompressedModel:
    """A network whose parameters are exactly what its encodings decode to.

    `encodings` and `ledger` hold every parameter and buffer once, a tied one under its first name.
    `structure` is the module that was compressed, with the values before; quantised activations are
    in `policies` only. `is_restructured` says that its graphs are not those of the module before
    compression; `report` has the rows in which methods tell what they decided layer by layer.
    """

    structure: "nn.Module"
    encodings: Mapping[str, Encoding]
    policies: tuple[OperandPolicy, ...]
    ledger: tuple[TensorSize, ...]
    recipe: Recipe
    notes: tuple[str, ...]
    is_restructured: bool = False
    report: tuple[Mapping[str, object], ...] = ()

    @cached_property
    def module(self) -> "nn.Module":
        """The network that computes with the decoded values, made when it is first asked for."""
        if not self.recipe.methods:
            return self.structure
        return _with_values(self.structure, self.encodings)

    @property
    def size_bytes(self) -> int:
        """Bytes stored: payload, scales, zero points, indices and padding of every tensor."""
        return sum(-(-row.size_bits // 8) for row in self.ledger)

    @property
    def sparsity(self) -> float:
        """Share of all parameters that are zero."""
        return 1 - sum(row.nonzero for row in self.ledger) / self.elements

    @property
    def mean_bits(self) -> float:
        """Stored bits per parameter, scales and indices included."""
        return sum(row.size_bits for row in self.ledger) / self.elements

    @property
    def elements(self) -> int:
        """Number of parameters, a tied one counted once."""
        return sum(row.elements for row in self.ledger)


def compress(
    module: "nn.Module",
    recipe: Recipe,
    *,
    source: str = "",
    batches: Sequence[Any] = (),
    report: Report = lambda _text: None,
) -> CompressedModel:
    """Return the module compressed by a recipe; the module given is not changed.

    A recipe without methods keeps the module itself. What no method changed is stored in fp32, with
    the memory of the module.

    `source` names the recipe in errors, `batches` are what methods calibrate with, `report` is told
    what is being done. Raises CosimError listing every selector that selects nothing and every
    weight that cannot be stored in the form that the recipe asks for.

    Example:
        compress(loaded.module, load_recipe(Path("configs/recipes/w8a8.yaml"))).size_bytes

    """
    source = source or f"recipe {recipe.name}"
    restructures = any(getattr(item, "changes_structure", False) for item in recipe.methods)
    if restructures:
        module = copy.deepcopy(module)
    before = replace(scan(module), batches=batches)
    state = apply(recipe, before, source=source, report=report)
    if state.module is not None:
        module = state.module
    encodings, ledger = _stored(state, before.weights, source, report)
    return CompressedModel(
        structure=module,
        encodings=encodings,
        policies=state.policies,
        ledger=ledger,
        recipe=recipe,
        notes=state.notes,
        is_restructured=restructures,
        report=state.report,
    )


def _stored(
    state: State, before: Mapping[str, Weight], source: str, report: Report
) -> tuple[dict[str, Encoding], tuple[TensorSize, ...]]:
    """Return every weight as it is stored and its row; those not changed are not copied."""
    selectable = {layer.weight for layer in state.layers}

    def one(name: str) -> tuple[Encoding, TensorSize] | str:
        weight = state.weights[name]
        is_changed = weight is not before.get(name)
        try:
            encoding = encode(weight if is_changed else replace(weight, encoding="dense"))
        except ValueError as error:
            return f"{source}: {name}: {error}"
        why = _why(weight, is_layer=name in selectable, is_changed=is_changed)
        return encoding, _size(name, encoding, why)

    report(f"encoding: {len(state.weights)} tensors")
    with ThreadPoolExecutor(os.cpu_count()) as pool:  # numpy works outside the interpreter's lock
        made = dict(zip(state.weights, pool.map(one, state.weights), strict=True))
    problems = [found for found in made.values() if isinstance(found, str)]
    if problems:
        raise CosimError(problems)
    done = {name: found for name, found in made.items() if not isinstance(found, str)}
    encodings = {name: encoding for name, (encoding, _) in done.items()}
    return encodings, tuple(row for _, row in done.values())


def _why(weight: Weight, *, is_layer: bool, is_changed: bool) -> str:
    """Return what decided how a weight is stored, and what kept it in fp32."""
    if weight.scale is not None:
        points = "" if weight.zero_point is None else " with zero points"
        what = f"codes of {weight.bits} bits{points}" if weight.bits > 1 else "signs"
    elif weight.number != "f32":
        what = f"{weight.number}: rounded to 16 bits"
    elif is_changed:
        what = "fp32: changed, but no method decided another format"
    else:
        reason = "no method changed it" if is_layer else "norm, bias or table, no layer's weight"
        return f"fp32: {reason}"
    form = "smallest form" if weight.encoding == "auto" else "form that the recipe asks for"
    return f"{what}; {form}"


def zipped_tensors(
    encodings: Mapping[str, Encoding], *, report: Report = lambda _text: None
) -> dict[str, int]:
    """Return the bytes of each encoding's stored arrays after zlib at level 6, one by one.

    The sum over tensors is the same as for any grouping of them. A second of a core makes some
    30 MB: keep the numbers. `report` is told now and then how much is done.
    """
    sizes: dict[str, int] = {}
    bits = {name: store.size_bits(encoding) for name, encoding in encodings.items()}
    step = max(1, sum(bits.values()) // 5)
    done = 0

    def one(name: str) -> int:
        return sum(map(_zipped, store.tensors(encodings[name]).values()))

    with ThreadPoolExecutor(os.cpu_count()) as pool:  # zlib works outside the interpreter's lock
        for name, size in zip(encodings, pool.map(one, encodings), strict=True):
            sizes[name] = size
            before, done = done, done + bits[name]
            if done // step > before // step:
                report(f"zipping: {done / 8e6:.0f} of {sum(bits.values()) / 8e6:.0f} MB")
    return sizes


def zipped_bytes(encodings: Mapping[str, Encoding]) -> int:
    """Return the bytes of all stored arrays after zlib at level 6, each array on its own."""
    return sum(zipped_tensors(encodings).values())


def zipped_arrays(arrays: Iterable[NDArray[Any]]) -> int:
    """Return the bytes of arrays after zlib at level 6, each on its own."""
    with ThreadPoolExecutor(os.cpu_count()) as pool:  # zlib works outside the interpreter's lock
        return sum(pool.map(_zipped, arrays))


def _zipped(array: NDArray[Any]) -> int:
    return len(zlib.compress(np.ascontiguousarray(array).data, ZLIB_LEVEL))


def _size(name: str, encoding: Encoding, why: str) -> TensorSize:
    shape = tuple(encoding.shape)
    elements = prod(shape)
    padding = store.padding_bits(encoding)
    return TensorSize(
        name=name,
        shape=shape,
        encoding=store.kind(encoding),
        payload_bits=store.payload_bits(encoding) - padding,
        scale_bits=store.scale_bits(encoding),
        zero_point_bits=store.zero_point_bits(encoding),
        index_bits=store.index_bits(encoding),
        padding_bits=padding,
        size_bits=store.size_bits(encoding),
        nonzero=round(store.density(encoding) * elements),
        elements=elements,
        why=why,
    )


def _with_values(module: "nn.Module", encodings: Mapping[str, Encoding]) -> "nn.Module":
    """Return a copy of the module with every parameter and buffer decoded from its encoding.

    Values that are replaced are not copied first.
    """
    import torch  # noqa: PLC0415, slow to import
    from torch import nn  # noqa: PLC0415

    known: dict[int, Any] = {}
    for name, place in (*module.named_parameters(), *module.named_buffers()):
        if name in encodings:  # not a buffer of integers
            values = torch.from_numpy(np.array(store.decode(encodings[name])))
            is_parameter = isinstance(place, nn.Parameter)
            known[id(place)] = nn.Parameter(values, place.requires_grad) if is_parameter else values
    return copy.deepcopy(module, known)
