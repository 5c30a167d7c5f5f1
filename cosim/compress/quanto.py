"""What optimum-quanto 0.2.7 stores of a model whose weights it quantises: exact bytes and codes.

It quantises the weight of every `nn.Linear` and `nn.Conv2d`, and nothing else: Conv1d, embeddings,
norms, biases and tables stay in fp32 (nn/qlinear.py, nn/qconv2d.py). Each quantised module stores
two fp32 scales of its input and output besides (nn/qmodule.py).
"""

import io
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from math import prod
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import NDArray

from cosim.compress.network import F32, Weight

if TYPE_CHECKING:
    from torch import nn

Bits = Literal[2, 4, 8]
QUANTIZED_KINDS = ("linear", "conv2d")
GROUP = 128
SMALLEST_GROUP = 32
_ALIGNMENT = 64  # of each tensor's data in a file of torch.save


@dataclass(frozen=True)
class Stored:
    """A tensor as it is stored: its shape and the bytes of one element."""

    shape: tuple[int, ...]
    element_bytes: int

    @property
    def size_bytes(self) -> int:
        """Bytes of its data."""
        return prod(self.shape) * self.element_bytes


def group_length(shape: tuple[int, ...]) -> int | None:
    """Return the run of weights under one scale at 2 and 4 bits; None: a whole row.

    128 along the flattened row, or the first of 96, 64 and 32 that divides it.

    Example:
        >>> group_length((512, 512)), group_length((80, 160)), group_length((9, 100))
        (128, 32, None)

    """
    row = prod(shape[1:])
    if row <= GROUP:
        return None
    group = GROUP
    while row % group and group > SMALLEST_GROUP:
        group -= SMALLEST_GROUP
    return None if row % group else group


def stored_weight(shape: tuple[int, ...], bits: Bits) -> dict[str, Stored]:
    """Return what is stored of one quantised weight, by suffix of its name.

    8 bits: codes and a scale per output row (one for all where there is one row). 4 and 2 bits:
    codes packed along the groups, padded to whole bytes, a scale and a shift per group (a single
    group has them per weight, as AffineOptimizer takes one row for no axis).

    Example:
        >>> sum(part.size_bytes for part in stored_weight((512, 512), 8).values())
        264192
        >>> sum(part.size_bytes for part in stored_weight((512, 512), 4).values())
        147456

    """
    rows, ones = shape[0], (1,) * (len(shape) - 1)
    if bits == 8:
        scale = (rows, *ones) if rows > 1 else ()
        return {"_data": Stored(shape, 1), "_scale": Stored(scale, 4)}
    group = group_length(shape)
    table = shape if group is None else (prod(shape) // group, group)
    packed = (-(-table[0] * bits // 8), *table[1:])
    scale = (table[0], *(1,) * (len(table) - 1)) if table[0] > 1 else table
    return {
        "_data._data": Stored(packed, 1),
        "_scale": Stored(scale, 4),
        "_shift": Stored(scale, 4),
    }


def kinds_of(module: "nn.Module") -> dict[str, str]:
    """Return the kind of the module that holds each parameter: linear, conv2d or other."""
    from torch import nn  # noqa: PLC0415, slow to import

    found = {}
    for path, owner in module.named_modules():
        kind = (
            "linear"
            if isinstance(owner, nn.Linear)
            else "conv2d"
            if isinstance(owner, nn.Conv2d)
            else "other"
        )
        for key, _ in owner.named_parameters(recurse=False):
            found[f"{path}.{key}" if path else key] = kind
    return found


def stored_model(
    shapes: Mapping[str, tuple[int, ...]], kinds: Mapping[str, str], bits: Bits | None
) -> dict[str, Stored]:
    """Return every tensor of the quantised checkpoint by name; `bits` None: all in fp32.

    `shapes` are those of parameters and floating buffers; `kinds` says which module type holds a
    parameter (see `kinds_of`).
    """
    found: dict[str, Stored] = {}
    for name, shape in shapes.items():
        module, _, key = name.rpartition(".")
        if bits is not None and key == "weight" and kinds.get(name) in QUANTIZED_KINDS:
            for suffix, part in stored_weight(shape, bits).items():
                found[f"{name}.{suffix}"] = part
            found[f"{module}.input_scale"] = found[f"{module}.output_scale"] = Stored((), 4)
        else:
            found[name] = Stored(shape, 4)
    return found


def stored(module: "nn.Module", bits: Bits | None) -> dict[str, Stored]:
    """Return every tensor of a module's quantised checkpoint, a shared parameter once.

    The module may live on torch's meta device.
    """
    named = (*module.named_parameters(), *module.named_buffers())
    floating = {name: value for name, value in named if value.dtype.is_floating_point}
    shapes = {name: tuple(value.shape) for name, value in floating.items()}
    return stored_model(shapes, kinds_of(module), bits)


def size_bytes(tensors: Mapping[str, Stored]) -> int:
    """Return the bytes of all stored tensors, without a file around them."""
    return sum(part.size_bytes for part in tensors.values())


def file_bytes(tensors: Mapping[str, Stored]) -> int:
    """Return the size of the file that torch.save makes of the tensors, without making it.

    The container is written around tensors of the same alignment and almost no data. Strides are
    not the true ones, so each tensor may be off by some bytes.
    """
    import torch  # noqa: PLC0415, slow to import

    small: dict[str, Any] = {}
    left_out = 0
    for name, part in tensors.items():
        held = part.size_bytes
        if held > 2 * _ALIGNMENT:
            held = part.size_bytes % _ALIGNMENT + _ALIGNMENT
        left_out += part.size_bytes - held
        dtype = torch.float32 if part.element_bytes == 4 else torch.uint8
        storage = torch.zeros(held // part.element_bytes, dtype=dtype)
        small[name] = storage.as_strided(part.shape, (0,) * len(part.shape))
    file = io.BytesIO()
    torch.save(small, file)
    return len(file.getbuffer()) + left_out


def codes(weight: F32, bits: Bits) -> Iterator[NDArray[Any]]:
    """Yield the arrays stored for one weight: packed codes, scales, and shifts below 8 bits.

    8 bits: round(w / s), s = max |w| / 127 per row (AbsmaxOptimizer). 4 and 2 bits: round((w -
    min) / s), s = (max - min) / (2^bits - 1) per group (MaxOptimizer), codes of the groups'
    parts above one another in one byte (tensor/packed.py).
    """
    if bits == 8:
        yield from _symmetric(weight)
        return
    unpacked, scale, low = _affine(weight, bits)
    part = -(-len(unpacked) * bits // 8)
    packed = np.zeros((part, unpacked.shape[1]), np.uint8)
    for index in range(8 // bits):
        piece = unpacked[index * part : (index + 1) * part]
        packed[: len(piece)] |= piece << np.uint8(bits * index)
    yield packed
    yield scale
    yield -low


def quantized(weight: F32, bits: Bits) -> Weight:
    """Return the codes and scales of `codes` as a Weight, whose codes have a sign.

    Its value (code - zero point) * scale is that of quanto, scale * code - shift, up to float32
    rounding: zero point = shift / scale - 2^(bits-1), a float. Where a run is constant quanto's
    scale is 0 and the shift alone counts; here the scale is its magnitude, or 1.
    """
    if bits == 8:
        table, scale = _symmetric(weight)
        return Weight(table.reshape(weight.shape), bits, np.where(scale > 0, scale, np.float32(1)))
    unpacked, scale, low = _affine(weight, bits)
    nonzero = np.where(low == 0, np.float32(1), np.abs(low))
    scale = np.where(scale > 0, scale, nonzero)
    below = 2 ** (bits - 1)
    row, group = prod(weight.shape[1:]), group_length(weight.shape)
    if len(unpacked) == 1:  # a scale for every weight
        group = 1
    return Weight(
        (unpacked.astype(np.int16) - below).astype(np.int8).reshape(weight.shape),
        bits,
        scale.reshape(len(weight), -1),
        group if group is not None and group < row else 0,
        (-low / scale - np.float32(below)).reshape(len(weight), -1),
    )


def _symmetric(weight: F32) -> tuple[NDArray[np.int8], F32]:
    """Return codes (n, k) and scales (n, 1)."""
    rows = weight.reshape(len(weight), -1)
    scale = np.abs(rows).max(axis=1, keepdims=True) / np.float32(127)
    with np.errstate(invalid="ignore"):
        scaled = np.nan_to_num(np.rint(rows / scale))
    return np.clip(scaled, -128, 127).astype(np.int8), scale


def _affine(weight: F32, bits: Bits) -> tuple[NDArray[np.uint8], F32, F32]:
    """Return codes from 0 up (runs, length), scales and least values (runs, 1).

    A single run has a scale and a least value for each of its weights.
    """
    group = group_length(weight.shape)
    table = weight.reshape(len(weight) if group is None else -1, -1 if group is None else group)
    axis = 1 if len(table) > 1 else 0
    low, high = table.min(axis=axis, keepdims=True), table.max(axis=axis, keepdims=True)
    scale = (high - low) / np.float32(2**bits - 1)
    with np.errstate(invalid="ignore"):
        scaled = np.nan_to_num(np.rint((table - low) / scale))
    return np.clip(scaled, 0, 2**bits - 1).astype(np.uint8), scale, low
