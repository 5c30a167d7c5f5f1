"""Making encodings from float values or codes. ValueError says what was found and expected."""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from kernels.bits import CODE_LIMITS, pack_bitmask, pack_codes, pack_fields
from kernels.encodings.check import checked
from kernels.encodings.forms import (
    F32,
    FLOAT_BITS,
    I8,
    U8,
    U32,
    Binary,
    Bitmap,
    BitPacked,
    BlockSparse,
    Coo,
    Csc,
    Csr,
    Dense,
    Half,
    NofM,
    index_field_bits,
    matrix_shape,
    places_dtype,
)
from kernels.encodings.halves import HALF_TYPES, HalfNumber, Halves, narrowed

Values = NDArray[np.floating] | NDArray[np.integer]
Floats = NDArray[np.floating]


def encode_dense(values: Floats) -> Dense:
    """Store the values as float32.

    >>> encode_dense(np.ones((2, 3))).values.dtype
    dtype('float32')
    """
    if not np.issubdtype(np.asarray(values).dtype, np.floating):
        raise ValueError(f"encode_dense: found {np.asarray(values).dtype} values, expected float")
    return checked(Dense(np.ascontiguousarray(values, np.float32)))


def encode_half(values: Floats, number: HalfNumber) -> Half:
    """Store the values as floats of 16 bits, "f16" or "bf16", to nearest and half to even.

    >>> encode_half(np.array([1.0, 3.0]), "f16").values.tolist()
    [1.0, 3.0]
    """
    if not np.issubdtype(np.asarray(values).dtype, np.floating):
        raise ValueError(f"encode_half: found {np.asarray(values).dtype} values, expected float")
    try:
        made = Half(narrowed(values, number), number)
    except ValueError as error:
        raise ValueError(f"encode_half: {error}") from None
    return checked(made)


def encode_bitpacked(
    codes: NDArray[np.integer],
    scale: Floats,
    *,
    bits: int,
    group: int | None = None,
    zero_point: Values | None = None,
) -> BitPacked:
    """Pack signed codes of shape ``(n, ...)``; ``group`` None is one scale per row or per tensor.

    ``zero_point`` ``(n or 1, groups)`` holds integers in [-128, 127] or finite floats.

    >>> from kernels.encodings import decode
    >>> decode(encode_bitpacked(np.array([[7, -7, 1]]), np.array([[0.5]]), bits=4)).tolist()
    [[3.5, -3.5, 0.5]]
    >>> zero = np.array([[-8]])
    >>> e = encode_bitpacked(np.array([[7, -8]]), np.array([[0.5]]), bits=4, zero_point=zero)
    >>> decode(e).tolist()
    [[7.5, 0.0]]
    """
    where = "encode_bitpacked"
    zero = None if zero_point is None else _zero_point(where, zero_point)
    codes = _codes(where, codes, bits, has_zero_point=zero is not None)
    n, k = matrix_shape(codes.shape)
    payload = pack_codes(codes.reshape(n, k).astype(np.int8, copy=False), bits)
    group = k if group is None else group
    made = BitPacked(payload, codes.shape, bits, _scale(where, scale), group, zero)
    return checked(made, where)


def encode_binary(signs: Values | NDArray[np.bool_], scale: Floats) -> Binary:
    """Pack signs -1 and 1 (or booleans, True is 1) of shape ``(n, ...)``; one scale per row or one.

    >>> encode_binary(np.array([[1, -1, 1]]), np.array([[0.5]])).payload.tolist()
    [[5]]
    """
    signs = np.asarray(signs)
    is_plus = signs == 1
    if signs.dtype != np.bool_ and not (is_plus | (signs == -1)).all():
        other = signs[~(is_plus | (signs == -1))].flat[0]
        raise ValueError(f"encode_binary: signs: found {other}, expected only -1 and 1")
    payload = pack_bitmask(is_plus.reshape(matrix_shape(signs.shape)))
    return checked(Binary(payload, signs.shape, _scale("encode_binary", scale)), "encode_binary")


@dataclass(frozen=True)
class _Sparse:
    """What all encodings of nonzeros take: a table ``(n, k)``, bits, scale and group."""

    shape: tuple[int, ...]
    table: F32 | Halves | I8
    bits: int
    scale: F32 | None
    group: int

    def payload(self, kept: NDArray[Any]) -> F32 | Halves | U8:
        """Payload of rows ``(runs, values)``, each packed in a run of its own."""
        if self.bits in FLOAT_BITS:
            return np.ascontiguousarray(kept)
        return pack_codes(kept, self.bits)


def _sparse(
    where: str, values: Values, scale: Floats | None, *, bits: int, group: int | None
) -> _Sparse:
    values = np.asarray(values)
    n, k = matrix_shape(values.shape)
    if bits in FLOAT_BITS:
        is_float = np.issubdtype(values.dtype, np.floating)
        is_known = is_float if bits == 32 else values.dtype in HALF_TYPES.values()
        if not is_known or scale is not None or group is not None:
            raise ValueError(
                f"{where}: expected {'float' if bits == 32 else 'float16 or (bfloat16) uint16'} "
                f"values without scale or group; found {values.dtype}, "
                f"scale {'absent' if scale is None else 'given'}, group {group}"
            )
        floats = values.reshape(n, k)
        if bits == 32:
            floats = floats.astype(np.float32, copy=False)
        return _Sparse(values.shape, floats, bits, None, k)
    codes = _codes(where, values, bits, has_zero_point=False)
    if scale is None:
        raise ValueError(f"{where}: scale: found none, expected one for codes of {bits} bits")
    table = codes.reshape(n, k).astype(np.int8, copy=False)
    return _Sparse(values.shape, table, bits, _scale(where, scale), k if group is None else group)


def encode_csr(
    values: Values, scale: Floats | None = None, *, bits: int = 32, group: int | None = None
) -> Csr:
    """Store the nonzeros of values or of signed codes with their scale.

    ``bits`` 32 are float values, 16 those that ``narrowed`` makes.
    """
    given = _sparse("encode_csr", values, scale, bits=bits, group=group)
    k = given.table.shape[1]
    rows, columns = np.nonzero(given.table)
    payload = given.payload(given.table[rows, columns][None])[0]
    pointers = _pointers(rows, len(given.table))
    places = columns.astype(places_dtype(k))
    made = Csr(given.shape, pointers, places, payload, bits, given.scale, given.group)
    return checked(made, "encode_csr")


def encode_csc(
    values: Values, scale: Floats | None = None, *, bits: int = 32, group: int | None = None
) -> Csc:
    """Store the nonzeros as ``encode_csr`` does, but column by column."""
    given = _sparse("encode_csc", values, scale, bits=bits, group=group)
    n, k = given.table.shape
    columns, rows = np.nonzero(given.table.T)
    payload = given.payload(given.table[rows, columns][None])[0]
    pointers, places = _pointers(columns, k), rows.astype(places_dtype(n))
    made = Csc(given.shape, pointers, places, payload, bits, given.scale, given.group)
    return checked(made, "encode_csc")


def encode_coo(
    values: Values, scale: Floats | None = None, *, bits: int = 32, group: int | None = None
) -> Coo:
    """Store the nonzeros as ``encode_csr`` does, each with its row and its column."""
    given = _sparse("encode_coo", values, scale, bits=bits, group=group)
    n, k = given.table.shape
    rows, columns = np.nonzero(given.table)
    payload = given.payload(given.table[rows, columns][None])[0]
    places = rows.astype(places_dtype(n)), columns.astype(places_dtype(k))
    return checked(Coo(given.shape, *places, payload, bits, given.scale, given.group), "encode_coo")


def encode_bitmap(
    values: Values, scale: Floats | None = None, *, bits: int = 32, group: int | None = None
) -> Bitmap:
    """Store the nonzeros of float values (``bits`` 32) or of signed codes, and where they are."""
    given = _sparse("encode_bitmap", values, scale, bits=bits, group=group)
    nonzero = given.table != 0
    payload = given.payload(given.table[nonzero][None])[0]
    mask = pack_bitmask(nonzero)
    made = Bitmap(given.shape, mask, payload, bits, given.scale, given.group)
    return checked(made, "encode_bitmap")


def encode_block_sparse(
    values: Values,
    scale: Floats | None = None,
    *,
    block: tuple[int, int],
    bits: int = 32,
    group: int | None = None,
) -> BlockSparse:
    """Store the blocks of ``block = (rows, columns)`` that hold a nonzero.

    >>> e = encode_block_sparse(np.eye(4, dtype=np.float32), block=(2, 2))
    >>> e.row_pointers.tolist(), e.columns.tolist(), e.payload.shape
    ([0, 1, 2], [0, 1], (2, 2, 2))
    """
    where = "encode_block_sparse"
    given = _sparse(where, values, scale, bits=bits, group=group)
    a, b = block
    if a < 1 or b < 1:
        raise ValueError(f"{where}: block: found {block}, expected two sizes of at least 1")
    n, k = given.table.shape
    high, wide = -(-n // a), -(-k // b)
    padded = np.zeros((high * a, wide * b), given.table.dtype)
    padded[:n, :k] = given.table
    blocks = padded.reshape(high, a, wide, b).transpose(0, 2, 1, 3)
    rows, columns = np.nonzero((blocks != 0).any(axis=(2, 3)))
    kept = blocks[rows, columns]
    payload = given.payload(kept if bits in FLOAT_BITS else kept.reshape(len(kept), a * b))
    pointers, places = _pointers(rows, high), columns.astype(places_dtype(wide))
    made = BlockSparse(
        given.shape, (a, b), pointers, places, payload, bits, given.scale, given.group
    )
    return checked(made, where)


def encode_n_of_m(
    values: Values,
    scale: Floats | None = None,
    *,
    n_kept: int,
    m: int,
    bits: int = 32,
    group: int | None = None,
) -> NofM:
    """Store ``n_kept`` of every ``m`` consecutive columns of a row; more nonzeros are an error.

    >>> e = encode_n_of_m(np.array([[0.0, 3.0, 0.0, 4.0, 5.0]]), n_kept=2, m=4)
    >>> e.payload.tolist(), e.indices.tolist()  # places 1, 3 and 0, 1 of 2 bits each
    ([[3.0, 4.0, 5.0, 0.0]], [[77]])
    """
    where = "encode_n_of_m"
    given = _sparse(where, values, scale, bits=bits, group=group)
    if not 2 <= m <= 256 or not 1 <= n_kept <= m:
        raise ValueError(
            f"{where}: found n_kept {n_kept} of m {m}, expected m in [2, 256] and n_kept in [1, m]"
        )
    n, k = given.table.shape
    runs = -(-k // m)
    padded = np.zeros((n, runs, m), given.table.dtype)
    padded.reshape(n, runs * m)[:, :k] = given.table
    counts = np.count_nonzero(padded, axis=2)
    if counts.size and counts.max() > n_kept:
        row, run = np.argwhere(counts > n_kept)[0]
        raise ValueError(
            f"{where}: row {row}: found {counts[row, run]} nonzeros in columns {run * m} to "
            f"{min(k, run * m + m) - 1}, expected at most {n_kept}"
        )
    # nonzero places first, then zeros, both ascending; the chosen ones ascending again
    order = np.argsort(padded == 0, axis=2, kind="stable")[:, :, :n_kept]
    places = np.sort(order, axis=2)
    slots = np.take_along_axis(padded, places, axis=2).reshape(n, runs * n_kept)
    fields = places.astype(np.uint8).reshape(n, runs * n_kept)
    indices = pack_fields(fields, index_field_bits(m))
    payload = given.payload(slots)
    made = NofM(given.shape, n_kept, m, indices, payload, bits, given.scale, given.group)
    return checked(made, where)


def _pointers(majors: NDArray[np.intp], count: int) -> U32:
    pointers = np.zeros(count + 1, np.uint32)
    np.cumsum(np.bincount(majors, minlength=count), out=pointers[1:])
    return pointers


def _codes(
    where: str, codes: NDArray[np.integer], bits: int, *, has_zero_point: bool
) -> NDArray[np.integer]:
    codes = np.asarray(codes)
    if bits not in CODE_LIMITS:
        raise ValueError(f"{where}: bits: found {bits}, expected one of {sorted(CODE_LIMITS)}")
    if not np.issubdtype(codes.dtype, np.integer):
        raise ValueError(f"{where}: codes: found {codes.dtype}, expected integers")
    highest = CODE_LIMITS[bits]
    lowest = -highest - has_zero_point
    if codes.size and (int(codes.min()) < lowest or int(codes.max()) > highest):
        raise ValueError(
            f"{where}: codes: found [{codes.min()}, {codes.max()}], "
            f"expected [{lowest}, {highest}] for {bits} bits"
        )
    return codes


def _scale(where: str, scale: Floats) -> F32:
    scale = np.asarray(scale)
    if not np.issubdtype(scale.dtype, np.floating):
        raise ValueError(f"{where}: scale: found {scale.dtype}, expected floats")
    with np.errstate(over="ignore"):  # what becomes infinite is refused with its name
        return np.ascontiguousarray(scale, np.float32)


def _zero_point(where: str, zero_point: Values) -> I8 | F32:
    zero_point = np.asarray(zero_point)
    if np.issubdtype(zero_point.dtype, np.floating):
        with np.errstate(over="ignore"):
            return np.ascontiguousarray(zero_point, np.float32)
    if not np.issubdtype(zero_point.dtype, np.integer):
        raise ValueError(
            f"{where}: zero_point: found {zero_point.dtype}, expected integers, floats"
        )
    if zero_point.size and (int(zero_point.min()) < -128 or int(zero_point.max()) > 127):
        raise ValueError(
            f"{where}: zero_point: found [{zero_point.min()}, {zero_point.max()}], "
            "expected integers in [-128, 127] or floats"
        )
    return np.ascontiguousarray(zero_point, np.int8)
