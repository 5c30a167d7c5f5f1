"""Whether the arrays of an encoding fit together: what is made and what is read passes here."""

from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from kernels.bits import CODE_LIMITS, unpack_bitmask, unpack_fields
from kernels.encodings.forms import (
    ENCODINGS,
    FLOAT_BITS,
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
from kernels.encodings.halves import HALF_NUMBERS, HALF_TYPES

PLACES = (np.uint16, np.uint32)
Found = list[str]
One = TypeVar("One", bound=Encoding)


def checked(e: One, where: str = "") -> One:
    """Return the encoding; ValueError lists every array that does not fit the others."""
    name = where or f"{next(key for key, kind in ENCODINGS.items() if kind is type(e))} encoding"
    found: Found = []
    _shape(found, e)
    if not found:
        _CHECKS[type(e)](found, e)
    if found:
        raise ValueError("; ".join(f"{name}: {line}" for line in found))
    return e


def _shape(found: Found, e: Encoding) -> None:
    if any(size < 0 for size in e.shape):
        found.append(f"shape: found {e.shape}, expected sizes of at least 0")


def _array(
    found: Found, name: str, array: NDArray[Any], shape: tuple[int, ...], *dtypes: type
) -> bool:
    """Tell whether an array has the shape and one of the types; report it otherwise."""
    fits = isinstance(array, np.ndarray) and array.shape == shape and array.dtype in dtypes
    if not fits:
        words = " or ".join(np.dtype(kind).name for kind in dtypes)
        told = f"{array.dtype} {array.shape}" if isinstance(array, np.ndarray) else repr(array)
        found.append(f"{name}: found {told}, expected {words} {shape}")
    return fits


def _per_group(
    found: Found, name: str, array: NDArray[Any], n: int, groups: int, *dtypes: type
) -> None:
    rows = n if isinstance(array, np.ndarray) and array.shape[:1] == (n,) else 1
    if not _array(found, name, array, (rows, groups), *dtypes):
        found[-1] += f" or ({n}, {groups})" if n != 1 else ""
    elif not np.isfinite(array).all():
        found.append(f"{name}: found NaN or infinity, expected finite numbers")
    elif name == "scale" and (array < 0).any():
        found.append(f"scale: found {array.min()}, expected numbers of at least 0")


def _scale(found: Found, e: Any) -> bool:
    """Tell whether ``bits`` are known, after checking scale and group against them."""
    n, k = matrix_shape(e.shape)
    if e.bits in FLOAT_BITS and not isinstance(e, BitPacked):
        if e.scale is not None or e.group != k:
            given = "none" if e.scale is None else "one"
            found.append(
                f"found scale {given} and group {e.group} for float values, expected none and {k}"
            )
        return True
    if e.bits not in CODE_LIMITS:
        found.append(f"bits: found {e.bits}, expected one of {sorted(CODE_LIMITS)}")
        return False
    if e.group < 1:
        found.append(f"group: found {e.group}, expected at least 1")
    else:
        _per_group(found, "scale", e.scale, n, -(-k // e.group), np.float32)
    return True


def _payload(found: Found, e: Any, runs: tuple[int, ...], values: tuple[int, ...]) -> None:
    """Check a payload of ``values`` in each of ``runs``: floats, or bytes of packed codes."""
    if e.bits in FLOAT_BITS:
        kinds = (np.float32,) if e.bits == 32 else tuple(HALF_TYPES.values())
        _array(found, "payload", e.payload, runs + values, *kinds)
    else:
        packed = -(-int(np.prod(values, dtype=np.int64)) * e.bits // 8)
        _array(found, "payload", e.payload, (*runs, packed), np.uint8)


def _ascending(
    found: Found, names: Sequence[str], majors: NDArray[Any], minors: NDArray[Any], limit: int
) -> None:
    """Check that places (major, minor) stand in strict order with every minor below ``limit``."""
    if minors.size and int(minors.max()) >= limit:
        found.append(f"{names[-1]}: found {minors.max()}, expected numbers below {limit}")
    elif (np.diff(majors.astype(np.int64) * limit + minors) <= 0).any():
        found.append(f"{', '.join(names)}: found a place twice or out of order, expected ascending")


def _pointed(found: Found, e: Any, names: tuple[str, str], count: int, limit: int) -> int:
    """Check pointers of ``count`` runs and the places they point at; return how many places."""
    pointers, places = (getattr(e, name) for name in names)
    size = places.size if isinstance(places, np.ndarray) else 0
    fits = _array(found, names[0], pointers, (count + 1,), np.uint32)
    fits &= _array(found, names[1], places, (size,), *PLACES)
    if fits:
        steps = np.diff(pointers.astype(np.int64))
        if pointers[0] != 0 or pointers[-1] != size or (steps < 0).any():
            found.append(f"{names[0]}: expected numbers that ascend from 0 to {size}")
        else:
            _ascending(found, names, np.repeat(np.arange(count), steps), places, limit)
    return size


def _dense(found: Found, e: Dense) -> None:
    if e.values.dtype != np.float32:
        found.append(f"values: found {e.values.dtype}, expected float32")


def _half(found: Found, e: Half) -> None:
    if e.number not in HALF_NUMBERS:
        found.append(f"number: found {e.number!r}, expected one of {', '.join(HALF_NUMBERS)}")
    else:
        _array(found, "values", e.values, e.shape, HALF_TYPES[e.number])


def _bitpacked(found: Found, e: BitPacked) -> None:
    n, k = matrix_shape(e.shape)
    if _scale(found, e):
        _payload(found, e, (n,), (k,))
    if e.zero_point is not None and e.group > 0:
        groups = -(-k // e.group)
        _per_group(found, "zero_point", e.zero_point, n, groups, np.int8, np.float32)


def _binary(found: Found, e: Binary) -> None:
    n, k = matrix_shape(e.shape)
    _per_group(found, "scale", e.scale, n, 1, np.float32)
    fits = _array(found, "payload", e.payload, (n, -(-k // 8)), np.uint8)
    if fits and k % 8 and (e.payload[:, -1] >> (k % 8)).any():
        found.append(f"payload: found bits beyond column {k - 1}, expected zeros there")


def _csr(found: Found, e: Csr) -> None:
    n, k = matrix_shape(e.shape)
    size = _pointed(found, e, ("row_pointers", "columns"), n, k)
    if _scale(found, e):
        _payload(found, e, (), (size,))


def _csc(found: Found, e: Csc) -> None:
    n, k = matrix_shape(e.shape)
    size = _pointed(found, e, ("column_pointers", "rows"), k, n)
    if _scale(found, e):
        _payload(found, e, (), (size,))


def _coo(found: Found, e: Coo) -> None:
    n, k = matrix_shape(e.shape)
    size = e.columns.size
    fits = _array(found, "rows", e.rows, (size,), *PLACES)
    fits &= _array(found, "columns", e.columns, (size,), *PLACES)
    if fits and size and int(e.rows.max()) >= n:
        found.append(f"rows: found {e.rows.max()}, expected numbers below {n}")
    elif fits:
        _ascending(found, ("rows", "columns"), e.rows, e.columns, k)
    if _scale(found, e):
        _payload(found, e, (), (size,))


def _bitmap(found: Found, e: Bitmap) -> None:
    n, k = matrix_shape(e.shape)
    fits = _array(found, "mask", e.mask, (n, -(-k // 8)), np.uint8)
    if _scale(found, e) and fits:
        _payload(found, e, (), (int(np.count_nonzero(unpack_bitmask(e.mask, k))),))


def _block_sparse(found: Found, e: BlockSparse) -> None:
    n, k = matrix_shape(e.shape)
    if len(e.block) != 2 or min(e.block) < 1:
        found.append(f"block: found {e.block}, expected two sizes of at least 1")
        return
    a, b = e.block
    kept = _pointed(found, e, ("row_pointers", "columns"), -(-n // a), -(-k // b))
    if _scale(found, e):
        _payload(found, e, (kept,), (a, b))


def _n_of_m(found: Found, e: NofM) -> None:
    n, k = matrix_shape(e.shape)
    if not 2 <= e.m <= 256 or not 1 <= e.n_kept <= e.m:
        found.append(
            f"found n_kept {e.n_kept} of m {e.m}, expected m in [2, 256] and n_kept in [1, m]"
        )
        return
    slots = -(-k // e.m) * e.n_kept
    field_bits = index_field_bits(e.m)
    if _array(found, "indices", e.indices, (n, -(-slots * field_bits // 8)), np.uint8):
        places = unpack_fields(e.indices, slots, field_bits).reshape(n, -1, e.n_kept)
        steps = np.diff(places.astype(np.int16), axis=2)
        if places.size and (int(places.max()) >= e.m or (steps <= 0).any()):
            found.append(f"indices: expected ascending places below {e.m} in each run")
    if _scale(found, e):
        _payload(found, e, (n,), (slots,))


_CHECKS: dict[type[Encoding], Callable[[Found, Any], None]] = {
    Dense: _dense,
    Half: _half,
    BitPacked: _bitpacked,
    Binary: _binary,
    Csr: _csr,
    Csc: _csc,
    Coo: _coo,
    Bitmap: _bitmap,
    BlockSparse: _block_sparse,
    NofM: _n_of_m,
}
