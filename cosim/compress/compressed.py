"""From a module and a recipe to a CompressedModel: encoded weights, policies and exact sizes."""

import copy
import os
import zlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

import cosim.guard  # noqa: F401 (the check is the import)
from cosim.compress.network import OperandPolicy, Weight, scan
from cosim.compress.recipe import Recipe, apply
from kernels import encodings as store
from kernels.encodings import Encoding

if TYPE_CHECKING:
    from torch import nn

ZLIB_LEVEL = 6  # zlib's own default, and that of zip and gzip


@dataclass(frozen=True)
class TensorSize:
    """One row of the size ledger, in bits; `size_bits` is the sum of the three parts."""

    name: str
    shape: tuple[int, ...]
    encoding: str
    payload_bits: int
    scale_bits: int
    index_bits: int
    size_bits: int
    nonzero: int
    elements: int


@dataclass(frozen=True, eq=False)
class CompressedModel:
    """A network whose parameters are exactly what its encodings decode to.

    `encodings` and `ledger` hold every parameter and buffer once, a tied one under its first name.
    `module` computes with the decoded values; quantised activations are in `policies` only.
    `is_restructured` says that its graphs are not those of the module before compression; `report`
    has the rows in which methods tell what they decided layer by layer.
    """

    module: "nn.Module"
    encodings: Mapping[str, Encoding]
    policies: tuple[OperandPolicy, ...]
    ledger: tuple[TensorSize, ...]
    recipe: Recipe
    notes: tuple[str, ...]
    is_restructured: bool = False
    report: tuple[Mapping[str, object], ...] = ()

    @property
    def size_bytes(self) -> int:
        """Bytes stored: payload, scales, indices and padding of every tensor."""
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
    report: Callable[[str], None] = lambda _text: None,
) -> CompressedModel:
    """Return the module compressed by a recipe; the module given is not changed.

    A recipe without methods keeps the module itself.

    `source` names the recipe in errors, `batches` are what methods calibrate with, `report` is told
    what is being done. Raises CosimError listing every selector that selects nothing.

    Example:
        compress(loaded.module, load_recipe(Path("configs/recipes/w8a8.yaml"))).size_bytes

    """
    restructures = any(getattr(item, "changes_structure", False) for item in recipe.methods)
    if restructures:
        module = copy.deepcopy(module)
    state = replace(scan(module), batches=batches)
    state = apply(recipe, state, source=source or f"recipe {recipe.name}", report=report)
    encodings = {name: encode(weight) for name, weight in state.weights.items()}
    return CompressedModel(
        module=_with_values(module, encodings) if recipe.methods else module,
        encodings=encodings,
        policies=state.policies,
        ledger=tuple(_size(name, encoding) for name, encoding in encodings.items()),
        recipe=recipe,
        notes=state.notes,
        is_restructured=restructures,
        report=state.report,
    )


def encode(weight: Weight) -> Encoding:
    """Return the smallest encoding of a weight by exact bits; without index where sizes tie."""
    table, scale, bits = weight.table, weight.scale, weight.bits
    candidates: list[Encoding]
    if scale is None:
        candidates = [store.encode_dense(weight.values)]
    elif bits == 1:
        return store.encode_binary(table.astype(np.int8), scale)
    else:
        candidates = [store.encode_bitpacked(table.astype(np.int8), scale, bits=bits)]
    zeros = table.size - int(np.count_nonzero(table))
    # A mask costs a bit an element, and saves the bits of zeros and the padding of each row.
    if table.ndim > 0 and zeros * bits + 8 * len(table) > table.size:
        candidates.append(store.encode_bitmap(table, scale, bits=bits))
        # A column number costs 16 bits or more a nonzero: no less than the mask beyond 1 in 16.
        if (table.size - zeros) * 16 < table.size + 8 * len(table):
            candidates.append(store.encode_csr(table, scale, bits=bits))
    return min(candidates, key=store.size_bits)


def zipped_bytes(encodings: Mapping[str, Encoding]) -> int:
    """Return the bytes of all stored arrays after zlib at level 6, each array on its own.

    The sum over tensors is the same as for any grouping of them. A second of a core makes some
    30 MB: keep the number.
    """
    return zipped_arrays(
        array for encoding in encodings.values() for array in store.tensors(encoding).values()
    )


def zipped_arrays(arrays: Iterable[NDArray[Any]]) -> int:
    """Return the bytes of arrays after zlib at level 6, each on its own."""
    with ThreadPoolExecutor(os.cpu_count()) as pool:  # zlib works outside the interpreter's lock
        return sum(pool.map(_zipped, arrays))


def _zipped(array: NDArray[Any]) -> int:
    return len(zlib.compress(np.ascontiguousarray(array).data, ZLIB_LEVEL))


def _size(name: str, encoding: Encoding) -> TensorSize:
    shape = tuple(encoding.shape)
    elements = int(np.prod(shape, dtype=np.int64))
    return TensorSize(
        name=name,
        shape=shape,
        encoding=next(name for name, kind in store.ENCODINGS.items() if kind is type(encoding)),
        payload_bits=store.payload_bits(encoding),
        scale_bits=store.scale_bits(encoding),
        index_bits=store.index_bits(encoding),
        size_bits=store.size_bits(encoding),
        nonzero=round(store.density(encoding) * elements),
        elements=elements,
    )


def _with_values(module: "nn.Module", encodings: Mapping[str, Encoding]) -> "nn.Module":
    """Return a copy of the module with every parameter and buffer decoded from its encoding."""
    import torch  # noqa: PLC0415, slow to import

    changed = copy.deepcopy(module)
    with torch.no_grad():
        for name, place in (*changed.named_parameters(), *changed.named_buffers()):
            if name not in encodings:  # a buffer of integers
                continue
            place.copy_(torch.from_numpy(np.array(store.decode(encodings[name]))))
    return changed
