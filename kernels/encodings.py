"""Encodings: how a constant is stored, and therefore what a chip moves.

A constant of any shape is seen as a matrix of ``n = shape[0]`` rows and
``k = prod(shape[1:])`` columns. Codes are symmetric and signed: ``value = code * scale``.
Sizes are exact, in bits, with the padding of the last byte of each run included.
"""

import hashlib
import json
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from kernels.bits import CODE_LIMITS, pack_bitmask, pack_codes, unpack_bitmask, unpack_codes

F32 = NDArray[np.float32]
U8 = NDArray[np.uint8]
I8 = NDArray[np.int8]
Attributes = dict[str, int | str | list[int]]


@dataclass(frozen=True, eq=False)
class Dense:
    """float32 values of any shape."""

    values: F32

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of the constant."""
        return self.values.shape


@dataclass(frozen=True, eq=False)
class BitPacked:
    """Codes of ``bits`` bits: payload uint8 ``(n, ceil(k * bits / 8))``.

    The scale is ``(n or 1, ceil(k / group))``: ``group`` consecutive codes of a row share one, so
    ``group == k`` is one scale per row, and a scale of shape ``(1, 1)`` one for the whole constant.
    """

    payload: U8
    shape: tuple[int, ...]
    bits: int
    scale: F32
    group: int


@dataclass(frozen=True, eq=False)
class Csr:
    """Nonzeros row by row: row_pointers uint32 ``(n + 1)``, columns uint16 or uint32 ``(nnz)``.

    ``bits`` 32 holds float32 values in payload (and no scale); else payload is uint8, the packed
    codes of all rows in one run, and scale is as in ``BitPacked``.
    """

    shape: tuple[int, ...]
    row_pointers: NDArray[np.uint32]
    columns: NDArray[np.uint16] | NDArray[np.uint32]
    payload: F32 | U8
    bits: int
    scale: F32 | None
    group: int


@dataclass(frozen=True, eq=False)
class Bitmap:
    """Nonzeros under a mask uint8 ``(n, ceil(k / 8))``, bit 0 first. Payload as in ``Csr``."""

    shape: tuple[int, ...]
    mask: U8
    payload: F32 | U8
    bits: int
    scale: F32 | None
    group: int


Encoding = Dense | BitPacked | Csr | Bitmap
ENCODINGS: dict[str, type[Encoding]] = {
    "dense": Dense,
    "bitpacked": BitPacked,
    "csr": Csr,
    "bitmap": Bitmap,
}


def matrix_shape(shape: tuple[int, ...]) -> tuple[int, int]:
    """``(n, k)`` of a constant; a scalar is ``(1, 1)``."""
    return (shape[0], math.prod(shape[1:])) if shape else (1, 1)


# --- making encodings -----------------------------------------------------------------------


def encode_dense(values: NDArray[np.floating]) -> Dense:
    """Store the values as float32.

    >>> size_bits(encode_dense(np.ones((2, 3), np.float32)))
    192
    """
    if not np.issubdtype(np.asarray(values).dtype, np.floating):
        raise ValueError(f"encode_dense: found {values.dtype} values, expected float")
    return Dense(np.ascontiguousarray(values, np.float32))


def encode_bitpacked(
    codes: NDArray[np.integer], scale: NDArray[np.floating], *, bits: int, group: int | None = None
) -> BitPacked:
    """Pack signed codes of shape ``(n, ...)``; ``group`` None is one scale per row or per tensor.

    >>> e = encode_bitpacked(np.array([[7, -7, 1]]), np.array([[0.5]]), bits=4)
    >>> decode(e).tolist(), size_bits(e)
    ([[3.5, -3.5, 0.5]], 48)
    """
    codes = _checked_codes("encode_bitpacked", codes, bits)
    n, k = matrix_shape(codes.shape)
    group = k if group is None else group
    checked = _checked_scale("encode_bitpacked", scale, n, k, group)
    payload = pack_codes(codes.reshape(n, k).astype(np.int8), bits)
    return BitPacked(payload, codes.shape, bits, checked, group)


def encode_csr(
    values: NDArray[np.floating] | NDArray[np.integer],
    scale: NDArray[np.floating] | None = None,
    *,
    bits: int = 32,
    group: int | None = None,
) -> Csr:
    """Store the nonzeros of float values (``bits`` 32) or of signed codes with their scale."""
    shape, table, checked, group = _sparse_input("encode_csr", values, scale, bits, group)
    n, k = table.shape
    nonzero = table != 0
    pointers = np.zeros(n + 1, np.uint32)
    np.cumsum(nonzero.sum(axis=1), out=pointers[1:])
    columns = np.nonzero(nonzero)[1].astype(np.uint16 if k <= 1 << 16 else np.uint32)
    return Csr(
        shape, pointers, columns, _sparse_payload(table, nonzero, bits), bits, checked, group
    )


def encode_bitmap(
    values: NDArray[np.floating] | NDArray[np.integer],
    scale: NDArray[np.floating] | None = None,
    *,
    bits: int = 32,
    group: int | None = None,
) -> Bitmap:
    """Store the nonzeros of float values (``bits`` 32) or of signed codes, and where they are."""
    shape, table, checked, group = _sparse_input("encode_bitmap", values, scale, bits, group)
    nonzero = table != 0
    payload = _sparse_payload(table, nonzero, bits)
    return Bitmap(shape, pack_bitmask(nonzero), payload, bits, checked, group)


def _checked_codes(where: str, codes: NDArray[np.integer], bits: int) -> NDArray[np.integer]:
    codes = np.asarray(codes)
    if bits not in CODE_LIMITS:
        raise ValueError(f"{where}: bits: found {bits}, expected one of {sorted(CODE_LIMITS)}")
    if not np.issubdtype(codes.dtype, np.integer):
        raise ValueError(f"{where}: codes: found {codes.dtype}, expected integers")
    limit = CODE_LIMITS[bits]
    if codes.size and (int(codes.min()) < -limit or int(codes.max()) > limit):
        raise ValueError(
            f"{where}: codes: found [{codes.min()}, {codes.max()}], "
            f"expected [-{limit}, {limit}] for {bits} bits"
        )
    return codes


def _checked_scale(where: str, scale: NDArray[np.floating], n: int, k: int, group: int) -> F32:
    if group < 1:
        raise ValueError(f"{where}: group: found {group}, expected at least 1")
    groups = -(-k // group)
    array = np.ascontiguousarray(scale, np.float32)
    if array.ndim != 2 or array.shape[0] not in (n, 1) or array.shape[1] != groups:
        raise ValueError(
            f"{where}: scale: found shape {array.shape}, expected ({n}, {groups}) or (1, {groups})"
        )
    return array


def _sparse_input(
    where: str,
    values: NDArray[np.floating] | NDArray[np.integer],
    scale: NDArray[np.floating] | None,
    bits: int,
    group: int | None,
) -> tuple[tuple[int, ...], NDArray[np.float32] | NDArray[np.int8], F32 | None, int]:
    values = np.asarray(values)
    n, k = matrix_shape(values.shape)
    if bits == 32:
        if not np.issubdtype(values.dtype, np.floating) or scale is not None or group is not None:
            raise ValueError(
                f"{where}: expected float values without scale or group; found "
                f"{values.dtype}, scale {'absent' if scale is None else 'given'}, group {group}"
            )
        return values.shape, values.reshape(n, k).astype(np.float32), None, k
    codes = _checked_codes(where, values, bits)
    if scale is None:
        raise ValueError(f"{where}: scale: found none, expected one for codes of {bits} bits")
    group = k if group is None else group
    table = codes.reshape(n, k).astype(np.int8)
    return values.shape, table, _checked_scale(where, scale, n, k, group), group


def _sparse_payload(
    table: NDArray[np.float32] | NDArray[np.int8], nonzero: NDArray[np.bool_], bits: int
) -> F32 | U8:
    kept = table[nonzero]
    return kept if bits == 32 else pack_codes(kept.reshape(1, -1), bits)[0]


# --- one row per encoding -------------------------------------------------------------------


def _expand(scale: F32, shape: tuple[int, ...], group: int) -> F32:
    """Scale ``(n or 1, groups)`` as an array that broadcasts against ``(n, k)``."""
    k = matrix_shape(shape)[1]
    return scale if scale.shape[1] == 1 else np.repeat(scale, group, axis=1)[:, :k]


def _csr_nonzero(e: Csr) -> NDArray[np.bool_]:
    n, k = matrix_shape(e.shape)
    nonzero = np.zeros((n, k), np.bool_)
    rows = np.repeat(np.arange(n), np.diff(e.row_pointers.astype(np.int64)))
    nonzero[rows, e.columns] = True
    return nonzero


def _bitmap_nonzero(e: Bitmap) -> NDArray[np.bool_]:
    return unpack_bitmask(e.mask, matrix_shape(e.shape)[1])


def _scatter(e: Csr | Bitmap, nonzero: NDArray[np.bool_]) -> F32 | I8:
    count = int(np.count_nonzero(nonzero))
    table = np.zeros(nonzero.shape, np.float32 if e.bits == 32 else np.int8)
    kept = e.payload if e.bits == 32 else unpack_codes(e.payload[None], count, e.bits)[0]
    table[nonzero] = kept
    return table


@dataclass(frozen=True)
class _Row:
    """What the functions below need to know of one encoding."""

    name: str
    table: Callable[[Encoding], F32 | I8]  # (n, k), float values or int8 codes
    tensors: tuple[str, ...]
    index_tensors: tuple[str, ...]
    attributes: tuple[str, ...]


_ROWS: dict[type[Encoding], _Row] = {
    Dense: _Row("dense", lambda e: e.values.reshape(matrix_shape(e.shape)), ("values",), (), ()),
    BitPacked: _Row(
        "bitpacked",
        lambda e: unpack_codes(e.payload, matrix_shape(e.shape)[1], e.bits),
        ("payload", "scale"),
        (),
        ("shape", "bits", "group"),
    ),
    Csr: _Row(
        "csr",
        lambda e: _scatter(e, _csr_nonzero(e)),
        ("row_pointers", "columns", "payload", "scale"),
        ("row_pointers", "columns"),
        ("shape", "bits", "group"),
    ),
    Bitmap: _Row(
        "bitmap",
        lambda e: _scatter(e, _bitmap_nonzero(e)),
        ("mask", "payload", "scale"),
        ("mask",),
        ("shape", "bits", "group"),
    ),
}


def kind(e: Encoding) -> str:
    """Name of the encoding in ``ENCODINGS``."""
    return _ROWS[type(e)].name


def decode(e: Encoding) -> F32:
    """float32 values in the constant's own shape (read only where they are the stored ones)."""
    table = _ROWS[type(e)].table(e)
    if table.dtype == np.float32:
        return table.reshape(e.shape)
    values = table.astype(np.float32) * _expand(e.scale, e.shape, e.group)
    return values.reshape(e.shape)


def codes(e: Encoding) -> I8:
    """Signed codes ``(n, k)``; a float encoding has none and raises ValueError."""
    if value_bits(e) == 32:
        raise ValueError(f"codes: found a {kind(e)} encoding of float32, expected integer codes")
    return _ROWS[type(e)].table(e)


def value_bits(e: Encoding) -> int:
    """Bits of one stored value: 32 for float32, else those of a code."""
    return getattr(e, "bits", 32)


def scales(e: Encoding) -> F32 | None:
    """Scale ``(n or 1, groups)``, or None for float values."""
    return getattr(e, "scale", None)


def payload_bits(e: Encoding) -> int:
    """Bits of the stored values, padding included, without scales and indices."""
    payload = e.values if isinstance(e, Dense) else e.payload
    return payload.nbytes * 8


def scale_bits(e: Encoding) -> int:
    """Bits of the scales."""
    scale = scales(e)
    return 0 if scale is None else scale.nbytes * 8


def index_bits(e: Encoding) -> int:
    """Bits that say where the values belong: masks, columns, row pointers."""
    return sum(getattr(e, name).nbytes * 8 for name in _ROWS[type(e)].index_tensors)


def size_bits(e: Encoding) -> int:
    """Everything stored: values, scales, indices and padding."""
    return payload_bits(e) + scale_bits(e) + index_bits(e)


def nonzero_mask(e: Encoding) -> U8 | None:
    """Packed mask ``(n, ceil(k / 8))`` of nonzero values, bit 0 first; None if nothing is zero."""
    nonzero = _ROWS[type(e)].table(e) != 0
    return None if nonzero.all() else pack_bitmask(nonzero)


def density(e: Encoding) -> float:
    """Share of values that are not zero; 1.0 for an empty constant."""
    table = _ROWS[type(e)].table(e)
    return float(np.count_nonzero(table)) / table.size if table.size else 1.0


# --- storage --------------------------------------------------------------------------------


def tensors(e: Encoding) -> dict[str, NDArray[np.generic]]:
    """Return the stored arrays by name; an absent scale is left out."""
    named = {name: getattr(e, name) for name in _ROWS[type(e)].tensors}
    return {name: array for name, array in named.items() if array is not None}


def attributes(e: Encoding) -> Attributes:
    """Return what is needed beside the arrays to build the encoding again."""
    named = {name: getattr(e, name) for name in _ROWS[type(e)].attributes}
    return {key: list(found) if key == "shape" else found for key, found in named.items()}


def rebuild(
    kind: str, attributes: Mapping[str, object], tensors: Mapping[str, NDArray[np.generic]]
) -> Encoding:
    """Make the encoding that came apart as ``attributes`` and ``tensors``; KeyError if one lacks.

    >>> e = encode_csr(np.eye(3, dtype=np.float32))
    >>> digest(rebuild("csr", attributes(e), tensors(e))) == digest(e)
    True
    """
    if kind not in ENCODINGS:
        raise KeyError(f"encoding: found {kind!r}, expected one of {sorted(ENCODINGS)}")
    cls = ENCODINGS[kind]
    row = _ROWS[cls]
    required = [name for name in row.tensors if name != "scale" or kind == "bitpacked"]
    missing = [f"tensor {name}" for name in required if name not in tensors]
    missing += [f"attribute {name}" for name in row.attributes if name not in attributes]
    extra = [f"tensor {name}" for name in tensors if name not in row.tensors]
    extra += [f"attribute {name}" for name in attributes if name not in row.attributes]
    if missing or extra:
        raise KeyError(
            f"{kind} encoding: missing {missing or 'nothing'}, left over {extra or 'nothing'}"
        )
    fields: dict[str, object] = {name: tensors.get(name) for name in row.tensors}
    fields |= {name: attributes[name] for name in row.attributes}
    if "shape" in fields:
        fields["shape"] = tuple(int(size) for size in attributes["shape"])
    return cls(**fields)


def digest(e: Encoding) -> str:
    """sha256 in hex over kind, attributes and the bytes of every stored array."""
    state = hashlib.sha256()
    state.update(json.dumps([kind(e), attributes(e)], sort_keys=True).encode())
    for name, array in sorted(tensors(e).items()):
        state.update(f"{name}:{array.dtype.str}:{array.shape}".encode())
        state.update(np.ascontiguousarray(array).data)
    return state.hexdigest()
