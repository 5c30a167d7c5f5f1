"""From a weight to its stored form: the one that is asked for, or the smallest by exact bits."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

import cosim.guard  # noqa: F401 (the check is the import)
from cosim.compress.network import BlockForm, NofMForm, Weight
from kernels import encodings as store
from kernels.encodings import Encoding
from kernels.encodings.forms import index_field_bits, places_dtype

SPARSE = ("csr", "csc", "coo", "bitmap", "n_of_m", "block_sparse")
_POINTER_BITS = 32


@dataclass(frozen=True)
class _Counts:
    """What sizes depend on, of a weight seen as a matrix."""

    weight: Weight

    @cached_property
    def shape(self) -> tuple[int, int]:
        """Rows and columns."""
        return store.matrix_shape(self.weight.table.shape)

    @cached_property
    def table(self) -> NDArray[Any]:
        """Floats or codes (rows, columns)."""
        return self.weight.table.reshape(self.shape)

    @cached_property
    def nonzero(self) -> int:
        """Values that a sparse form keeps."""
        return int(np.count_nonzero(self.table))

    @property
    def bits(self) -> int:
        """Bits of a stored value."""
        weight = self.weight
        if weight.scale is not None:
            return weight.bits
        return 32 if weight.number == "f32" else 16

    @property
    def scale_bits(self) -> int:
        """Bits of scales and zero points."""
        given = (self.weight.scale, self.weight.zero_point)
        return sum(8 * part.nbytes for part in given if part is not None)

    def packed(self, runs: int, values: int) -> int:
        """Return the bits of `runs` runs of so many values, each filled up to whole bytes."""
        return runs * _bytes(values * self.bits)

    def place(self, axis: int) -> int:
        """Return the bits of a row number (axis 0) or column number (1)."""
        return _bits_of_place(self.shape[axis])

    @cached_property
    def most_of_run(self) -> int:
        """The most nonzeros that a run of the N:M form has."""
        form = self.weight.form
        if not isinstance(form, NofMForm):
            raise TypeError("no N:M form")
        flags = _padded(self.table != 0, 1, form.m)
        return int(flags.reshape(len(flags), -1, form.m).sum(axis=2).max(initial=0))

    @cached_property
    def kept_blocks(self) -> int:
        """Blocks of the block form that hold a nonzero."""
        form = self.weight.form
        if not isinstance(form, BlockForm):
            raise TypeError("no block form")
        flags = _padded(self.table != 0, form.rows, form.columns)
        high, wide = len(flags) // form.rows, flags.shape[1] // form.columns
        blocks = flags.reshape(high, form.rows, wide, form.columns)
        return int(np.count_nonzero(blocks.any(axis=(1, 3))))


def encode(weight: Weight) -> Encoding:
    """Return a weight in the stored form it asks for; "auto" is the smallest by exact bits.

    Where sizes tie, the form with the simpler index is taken. ValueError says why a weight cannot
    be stored in the form it asks for.

    Example:
        >>> encode(Weight(np.eye(64, dtype=np.float32)))  # doctest: +ELLIPSIS
        Coo(shape=(64, 64), ...

    """
    if weight.encoding == "auto":
        sizes = size_of_each(weight)
        return _build(weight, min(sizes, key=lambda name: sizes[name]))
    name = weight.encoding
    if name == "dense" and weight.scale is None and weight.number != "f32":
        name = "half"
    reason = why_not(weight, name)
    if reason:
        raise ValueError(reason)
    return _build(weight, name)


def size_of_each(weight: Weight) -> dict[str, int]:
    """Return the exact bits of every form that can hold a weight, simplest index first.

    Example:
        >>> size_of_each(Weight(np.eye(16, dtype=np.float32)))["bitmap"] == 16 * 32 + 16 * 16
        True

    """
    counts = _Counts(weight)
    return {
        name: size(counts) for name, size in _SIZES.items() if not _why_not(counts, name, weight)
    }


def why_not(weight: Weight, name: str) -> str:
    """Return why a form cannot hold a weight, "" where it can."""
    if name not in _SIZES:
        return f"found the form {name!r}, expected one of {', '.join(_SIZES)}"
    return _why_not(_Counts(weight), name, weight)


def _why_not(counts: _Counts, name: str, weight: Weight) -> str:
    own = _plain(weight)
    if name == own:
        return ""
    if name not in SPARSE:
        return f"{name}: found {_described(weight)}, expected {own} or a sparse form"
    if own == "binary":
        return f"{name}: found one-bit weights, which have no zeros to leave out, expected binary"
    if weight.table.ndim == 0 or weight.zero_point is not None:
        found = "a single number" if weight.table.ndim == 0 else _described(weight)
        return f"{name}: found {found}, which sparse forms have no room for, expected {own}"
    return _misfit(counts, name, weight)


def _misfit(counts: _Counts, name: str, weight: Weight) -> str:
    """Return why zeros are not in the pattern of a form."""
    form = weight.form
    if name == "block_sparse" and not isinstance(form, BlockForm):
        return "block_sparse: found no blocks, expected the size of a block"
    if name == "n_of_m" and not isinstance(form, NofMForm):
        return "n_of_m: found no N:M form, expected n and m"
    if name == "n_of_m" and isinstance(form, NofMForm) and counts.most_of_run > form.n:
        return (
            f"n_of_m: found {counts.most_of_run} nonzeros in a run of {form.m} weights, "
            f"expected at most {form.n}"
        )
    return ""


def _plain(weight: Weight) -> str:
    """Return the form without index that holds a weight as it is."""
    if weight.scale is None:
        return "dense" if weight.number == "f32" else "half"
    return "binary" if weight.bits == 1 else "bitpacked"


def _described(weight: Weight) -> str:
    if weight.scale is None:
        return f"{weight.number} values"
    points = "" if weight.zero_point is None else " with zero points"
    return "one-bit weights" if weight.bits == 1 else f"codes of {weight.bits} bits{points}"


def _bytes(bits: int) -> int:
    """Return bits filled up to whole bytes."""
    return -(-bits // 8) * 8


def _bits_of_place(count: int) -> int:
    return 8 * np.dtype(places_dtype(count)).itemsize


def _padded(flags: NDArray[np.bool_], rows: int, columns: int) -> NDArray[np.bool_]:
    """Return flags filled up to whole multiples of rows and columns."""
    more = (-len(flags) % rows, -flags.shape[1] % columns)
    return np.pad(flags, ((0, more[0]), (0, more[1]))) if any(more) else flags


def _dense(counts: _Counts) -> int:
    return counts.table.size * counts.bits


def _packed(counts: _Counts) -> int:
    return counts.packed(*counts.shape) + counts.scale_bits


def _bitmap(counts: _Counts) -> int:
    rows, columns = counts.shape
    return rows * _bytes(columns) + counts.packed(1, counts.nonzero) + counts.scale_bits


def _csr(counts: _Counts) -> int:
    return _compressed(counts, 0)


def _csc(counts: _Counts) -> int:
    return _compressed(counts, 1)


def _compressed(counts: _Counts, major: int) -> int:
    pointers = (counts.shape[major] + 1) * _POINTER_BITS
    places = counts.nonzero * counts.place(1 - major)
    return pointers + places + counts.packed(1, counts.nonzero) + counts.scale_bits


def _coo(counts: _Counts) -> int:
    places = counts.nonzero * (counts.place(0) + counts.place(1))
    return places + counts.packed(1, counts.nonzero) + counts.scale_bits


def _n_of_m(counts: _Counts) -> int:
    form, (rows, columns) = counts.weight.form, counts.shape
    if not isinstance(form, NofMForm):
        raise TypeError("no N:M form")
    slots = -(-columns // form.m) * form.n
    places = rows * _bytes(slots * index_field_bits(form.m))
    return places + counts.packed(rows, slots) + counts.scale_bits


def _block_sparse(counts: _Counts) -> int:
    form, (rows, columns) = counts.weight.form, counts.shape
    if not isinstance(form, BlockForm):
        raise TypeError("no block form")
    kept = counts.kept_blocks
    pointers = (-(-rows // form.rows) + 1) * _POINTER_BITS
    places = kept * _bits_of_place(-(-columns // form.columns))
    return pointers + places + counts.packed(kept, form.rows * form.columns) + counts.scale_bits


_SIZES: Mapping[str, Callable[[_Counts], int]] = {
    "dense": _dense,
    "half": _dense,
    "bitpacked": _packed,
    "binary": _packed,
    "n_of_m": _n_of_m,
    "block_sparse": _block_sparse,
    "bitmap": _bitmap,
    "csr": _csr,
    "csc": _csc,
    "coo": _coo,
}


def _build(weight: Weight, name: str) -> Encoding:
    table, scale, bits = weight.table, weight.scale, weight.bits
    if scale is None:
        return _of_floats(weight, name)
    group = weight.group or None
    if name == "binary":
        return store.encode_binary(table, scale)
    if name == "bitpacked":
        zero = weight.zero_point
        return store.encode_bitpacked(
            table.astype(np.int8, copy=False), scale, bits=bits, group=group, zero_point=zero
        )
    return _sparse(weight, name, table, bits, group)


def _of_floats(weight: Weight, name: str) -> Encoding:
    values = weight.values
    if name == "dense":
        return store.encode_dense(values)
    number = weight.number
    if number == "f32":
        return _sparse(weight, name, values, 32, None)
    halves = store.narrowed(values + np.float32(0), number)  # a negative zero is a zero
    if not np.array_equal(store.widened(halves), values, equal_nan=True):
        raise ValueError(f"half: found values that {number} does not hold, expected rounded ones")
    if name == "half":
        return store.encode_half(values, number)
    return _sparse(weight, name, halves, 16, None)


def _sparse(
    weight: Weight, name: str, table: NDArray[Any], bits: int, group: int | None
) -> Encoding:
    scale, form = weight.scale, weight.form
    if name == "n_of_m" and isinstance(form, NofMForm):
        return store.encode_n_of_m(table, scale, n_kept=form.n, m=form.m, bits=bits, group=group)
    if name == "block_sparse" and isinstance(form, BlockForm):
        block = (form.rows, form.columns)
        return store.encode_block_sparse(table, scale, block=block, bits=bits, group=group)
    return _BY_PLACES[name](table, scale, bits=bits, group=group)


_BY_PLACES: Mapping[str, Callable[..., Encoding]] = {
    "csr": store.encode_csr,
    "csc": store.encode_csc,
    "coo": store.encode_coo,
    "bitmap": store.encode_bitmap,
}
