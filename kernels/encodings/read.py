"""Reading encodings: values, codes, where nonzeros are, and exact sizes in bits."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from kernels.bits import pack_bitmask, unpack_bitmask, unpack_codes, unpack_fields
from kernels.encodings.forms import (
    F32,
    FLOAT_BITS,
    I8,
    U8,
    Binary,
    Bitmap,
    BitPacked,
    BlockSparse,
    Coo,
    Csc,
    Csr,
    Dense,
    Encoding,
    Half,
    NofM,
    index_field_bits,
    matrix_shape,
)
from kernels.encodings.halves import Halves, widened

Table = F32 | I8


@dataclass(frozen=True)
class Row:
    """What must be known of one encoding: its table and which fields are stored how."""

    name: str
    table: Callable[[Any], Table]  # (n, k), float values or int8 codes
    payload: str
    values: Callable[[Any], int]  # how many values of the constant the payload holds
    indices: tuple[str, ...] = ()
    scales: tuple[str, ...] = ("scale",)
    attributes: tuple[str, ...] = ("shape", "bits", "group")

    @property
    def tensors(self) -> tuple[str, ...]:
        """Names of all stored arrays; those of ``scales`` may be absent."""
        return (*self.indices, self.payload, *self.scales)


def _bitpacked(e: BitPacked) -> I8:
    return unpack_codes(e.payload, matrix_shape(e.shape)[1], e.bits)


def _binary(e: Binary) -> I8:
    is_plus = unpack_bitmask(e.payload, matrix_shape(e.shape)[1])
    return np.where(is_plus, np.int8(1), np.int8(-1))


def _kept(e: Any, payload: F32 | Halves | U8, count: int) -> Table:
    """Values ``(runs, count)`` of a payload whose runs are rows."""
    if e.bits == 16:
        return widened(payload)
    return payload if e.bits == 32 else unpack_codes(payload, count, e.bits)


def _type(e: Any) -> type[np.float32] | type[np.int8]:
    return np.float32 if e.bits in FLOAT_BITS else np.int8


def _placed(e: Csr | Csc | Coo, rows: NDArray[Any], columns: NDArray[Any]) -> Table:
    table = np.zeros(matrix_shape(e.shape), _type(e))
    table[rows, columns] = _kept(e, e.payload[None], rows.size)[0]
    return table


def _runs(pointers: NDArray[np.uint32]) -> NDArray[np.intp]:
    """Major number of each place under row or column pointers."""
    return np.repeat(np.arange(pointers.size - 1), np.diff(pointers.astype(np.int64)))


def _bitmap(e: Bitmap) -> Table:
    nonzero = unpack_bitmask(e.mask, matrix_shape(e.shape)[1])
    table = np.zeros(nonzero.shape, _type(e))
    table[nonzero] = _kept(e, e.payload[None], int(np.count_nonzero(nonzero)))[0]
    return table


def _block_sparse(e: BlockSparse) -> Table:
    n, k = matrix_shape(e.shape)
    a, b = e.block
    high, wide = -(-n // a), -(-k // b)
    blocks = np.zeros((high, wide, a, b), _type(e))
    kept = _kept(e, e.payload, a * b).reshape(-1, a, b)
    blocks[_runs(e.row_pointers), e.columns] = kept
    return blocks.transpose(0, 2, 1, 3).reshape(high * a, wide * b)[:n, :k]


def slot_places(e: NofM) -> NDArray[np.uint8]:
    """Place of each slot inside its ``m`` columns, ``(n, ceil(k / m), n_kept)``."""
    n, k = matrix_shape(e.shape)
    runs = -(-k // e.m)
    fields = unpack_fields(e.indices, runs * e.n_kept, index_field_bits(e.m))
    return fields.reshape(n, runs, e.n_kept)


def _n_of_m(e: NofM) -> Table:
    n, k = matrix_shape(e.shape)
    places = slot_places(e)
    runs = places.shape[1]
    padded = np.zeros((n, runs, e.m), _type(e))
    kept = _kept(e, e.payload, runs * e.n_kept).reshape(places.shape)
    np.put_along_axis(padded, places.astype(np.intp), kept, axis=2)
    return padded.reshape(n, runs * e.m)[:, :k]


def _all(e: Encoding) -> int:
    n, k = matrix_shape(e.shape)
    return n * k


def _in_blocks(e: BlockSparse) -> int:
    """Values of the kept blocks that lie inside the constant."""
    n, k = matrix_shape(e.shape)
    a, b = e.block
    heights = np.minimum(a, n - _runs(e.row_pointers) * a)
    widths = np.minimum(b, k - e.columns.astype(np.int64) * b)
    return int((heights * widths).sum())


def _in_slots(e: NofM) -> int:
    """Slots whose column lies inside the constant."""
    places = slot_places(e)
    last = matrix_shape(e.shape)[1] - (places.shape[1] - 1) * e.m  # columns of the last run
    return places.size - int(np.count_nonzero(places[:, -1:] >= last))


ROWS: dict[type[Encoding], Row] = {
    Dense: Row(
        "dense",
        lambda e: e.values.reshape(matrix_shape(e.shape)),
        "values",
        _all,
        scales=(),
        attributes=(),
    ),
    Half: Row(
        "half",
        lambda e: widened(e.values).reshape(matrix_shape(e.shape)),
        "values",
        _all,
        scales=(),
        attributes=("number",),
    ),
    BitPacked: Row("bitpacked", _bitpacked, "payload", _all, scales=("scale", "zero_point")),
    Binary: Row("binary", _binary, "payload", _all, attributes=("shape",)),
    Csr: Row(
        "csr",
        lambda e: _placed(e, _runs(e.row_pointers), e.columns),
        "payload",
        lambda e: e.columns.size,
        ("row_pointers", "columns"),
    ),
    Csc: Row(
        "csc",
        lambda e: _placed(e, e.rows, _runs(e.column_pointers)),
        "payload",
        lambda e: e.rows.size,
        ("column_pointers", "rows"),
    ),
    Coo: Row(
        "coo",
        lambda e: _placed(e, e.rows, e.columns),
        "payload",
        lambda e: e.columns.size,
        ("rows", "columns"),
    ),
    Bitmap: Row(
        "bitmap",
        _bitmap,
        "payload",
        lambda e: int(np.count_nonzero(unpack_bitmask(e.mask, matrix_shape(e.shape)[1]))),
        ("mask",),
    ),
    BlockSparse: Row(
        "block_sparse",
        _block_sparse,
        "payload",
        _in_blocks,
        ("row_pointers", "columns"),
        attributes=("shape", "block", "bits", "group"),
    ),
    NofM: Row(
        "n_of_m",
        _n_of_m,
        "payload",
        _in_slots,
        ("indices",),
        attributes=("shape", "n_kept", "m", "bits", "group"),
    ),
}


def kind(e: Encoding) -> str:
    """Name of the encoding in ``ENCODINGS``."""
    return ROWS[type(e)].name


def decode(e: Encoding) -> F32:
    """float32 values in the constant's own shape (read only where they are the stored ones).

    value = (code - zero_point) * scale, each operation rounded to float32.
    """
    table = ROWS[type(e)].table(e)
    if table.dtype == np.float32:
        return table.reshape(e.shape)
    values = _shifted(e, table.astype(np.float32)) * _expand(e, scales(e))
    return values.reshape(e.shape)


def _shifted(e: Encoding, table: F32) -> F32:
    """Codes minus their zero points, rounded to float32."""
    zero = zero_points(e)
    return table if zero is None else table - _expand(e, zero.astype(np.float32))


def _expand(e: Encoding, per_group: F32) -> F32:
    """Array ``(n or 1, groups)`` as one that broadcasts against ``(n, k)``."""
    k = matrix_shape(e.shape)[1]
    return per_group if per_group.shape[1] == 1 else np.repeat(per_group, group(e), axis=1)[:, :k]


def codes(e: Encoding) -> I8:
    """Signed codes ``(n, k)``, zero points not taken off; ValueError for float values."""
    if scales(e) is None:
        raise ValueError(f"codes: found a {kind(e)} encoding of floats, expected integer codes")
    return ROWS[type(e)].table(e)


def value_bits(e: Encoding) -> int:
    """Bits of one stored value: 32 for float32, 16 for halves, else those of a code."""
    return 1 if isinstance(e, Binary) else getattr(e, "bits", 32)


def scales(e: Encoding) -> F32 | None:
    """Scale ``(n or 1, groups)``, or None for float values."""
    return getattr(e, "scale", None)


def zero_points(e: Encoding) -> I8 | F32 | None:
    """Zero points ``(n or 1, groups)``, int8 or float32, or None for symmetric codes."""
    return getattr(e, "zero_point", None)


def group(e: Encoding) -> int:
    """How many consecutive columns share a scale; k where a row has one or none."""
    return getattr(e, "group", matrix_shape(e.shape)[1])


def payload_bits(e: Encoding) -> int:
    """Bits of the stored values, padding included, without scales and indices."""
    return getattr(e, ROWS[type(e)].payload).nbytes * 8


def padding_bits(e: Encoding) -> int:
    """Bits of the payload that hold no value of the constant: ends of runs, edges of blocks."""
    return payload_bits(e) - ROWS[type(e)].values(e) * value_bits(e)


def scale_bits(e: Encoding) -> int:
    """Bits of the scales."""
    scale = scales(e)
    return 0 if scale is None else scale.nbytes * 8


def zero_point_bits(e: Encoding) -> int:
    """Bits of the zero points."""
    zero = zero_points(e)
    return 0 if zero is None else zero.nbytes * 8


def index_bits(e: Encoding) -> int:
    """Bits that say where the values belong: masks, places, pointers."""
    return sum(getattr(e, name).nbytes * 8 for name in ROWS[type(e)].indices)


def size_bits(e: Encoding) -> int:
    """Everything stored: values, scales, zero points, indices and padding.

    >>> from kernels.encodings import encode_dense
    >>> size_bits(encode_dense(np.ones((2, 3), np.float32)))
    192
    """
    return payload_bits(e) + scale_bits(e) + zero_point_bits(e) + index_bits(e)


def _nonzero(e: Encoding) -> NDArray[np.bool_]:
    table = ROWS[type(e)].table(e)
    return (table if zero_points(e) is None else _shifted(e, table.astype(np.float32))) != 0


def nonzero_mask(e: Encoding) -> U8 | None:
    """Packed mask ``(n, ceil(k / 8))`` of nonzero values, bit 0 first; None if nothing is zero.

    A code is zero where it equals its zero point, or 0 without one; scales are not looked at.
    """
    nonzero = _nonzero(e)
    return None if nonzero.all() else pack_bitmask(nonzero)


def density(e: Encoding) -> float:
    """Share of values that are not zero; 1.0 for an empty constant."""
    nonzero = _nonzero(e)
    return float(np.count_nonzero(nonzero)) / nonzero.size if nonzero.size else 1.0
