"""The forms in which a constant is stored: arrays and attributes, nothing computed.

A constant of any shape is seen as a matrix of ``n = shape[0]`` rows and ``k = prod(shape[1:])``
columns. ``bits`` 32 means float32 values without scale, 16 floats of 16 bits (``halves``), as
float16 or as uint16 with the bits of bfloat16. Fewer bits mean signed codes in two's
complement with ``scale`` float32 ``(n or 1, ceil(k / group))``: ``group`` consecutive columns of a
row share one, so ``group == k`` is one scale per row and a scale of shape ``(1, 1)`` one for all.
Codes are symmetric, ``[-(2**(bits - 1) - 1), 2**(bits - 1) - 1]`` and value = code * scale, unless
there is a zero point. Payloads of codes are bytes, lowest bits first.
"""

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from kernels.encodings.halves import HalfNumber, Halves

F32 = NDArray[np.float32]
U8 = NDArray[np.uint8]
I8 = NDArray[np.int8]
U32 = NDArray[np.uint32]
FLOAT_BITS = (16, 32)
"""Bits of values that have no scale; those of codes are fewer."""
Places = NDArray[np.uint16] | NDArray[np.uint32]
"""Row or column numbers: uint16 where all numbers of the axis fit it, else uint32."""


@dataclass(frozen=True, eq=False)
class Dense:
    """float32 values of any shape."""

    values: F32

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of the constant."""
        return self.values.shape


@dataclass(frozen=True, eq=False)
class Half:
    """Floats of 16 bits, of any shape: ``number`` says which of the two formats."""

    values: Halves
    number: HalfNumber

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of the constant."""
        return self.values.shape

    @property
    def bits(self) -> int:
        """Bits of a value."""
        return 16


@dataclass(frozen=True, eq=False)
class BitPacked:
    """Codes of ``bits`` bits: payload uint8 ``(n, ceil(k * bits / 8))``.

    With ``zero_point``, int8 or float32 ``(n or 1, ceil(k / group))``, codes use the whole range
    ``[-2**(bits - 1), 2**(bits - 1) - 1]`` and value = (float32(code) - float32(zero_point)) *
    scale, both operations rounded to float32.
    """

    payload: U8
    shape: tuple[int, ...]
    bits: int
    scale: F32
    group: int
    zero_point: I8 | F32 | None = None


@dataclass(frozen=True, eq=False)
class Binary:
    """Signs: payload uint8 ``(n, ceil(k / 8))``, bit 0 first, 1 = +1 and 0 = -1.

    ``scale`` is float32 ``(n or 1, 1)``: value = sign * scale (Rastegari et al. 2016, XNOR-Net,
    equation 2). Bits beyond k are 0.
    """

    payload: U8
    shape: tuple[int, ...]
    scale: F32


@dataclass(frozen=True, eq=False)
class Csr:
    """Nonzeros row by row: row_pointers uint32 ``(n + 1)``, columns uint16 or uint32 ``(nnz)``.

    ``payload`` is floats ``(nnz)``, or uint8 with the codes of all rows packed in one run.
    """

    shape: tuple[int, ...]
    row_pointers: U32
    columns: Places
    payload: F32 | Halves | U8
    bits: int
    scale: F32 | None
    group: int


@dataclass(frozen=True, eq=False)
class Csc:
    """Nonzeros column by column: column_pointers uint32 ``(k + 1)``, rows ``(nnz)``.

    ``payload`` as in ``Csr``, in the order of the columns. Scales belong to rows, as everywhere.
    """

    shape: tuple[int, ...]
    column_pointers: U32
    rows: Places
    payload: F32 | Halves | U8
    bits: int
    scale: F32 | None
    group: int


@dataclass(frozen=True, eq=False)
class Coo:
    """Nonzeros row by row with both numbers of each: rows and columns ``(nnz)``.

    ``payload`` as in ``Csr``.
    """

    shape: tuple[int, ...]
    rows: Places
    columns: Places
    payload: F32 | Halves | U8
    bits: int
    scale: F32 | None
    group: int


@dataclass(frozen=True, eq=False)
class Bitmap:
    """Nonzeros under a mask uint8 ``(n, ceil(k / 8))``, bit 0 first. Payload as in ``Csr``."""

    shape: tuple[int, ...]
    mask: U8
    payload: F32 | Halves | U8
    bits: int
    scale: F32 | None
    group: int


@dataclass(frozen=True, eq=False)
class BlockSparse:
    """Blocks of ``block = (a, b)`` rows and columns that hold a nonzero, dense inside.

    ``row_pointers`` is uint32 ``(ceil(n / a) + 1)`` and ``columns`` ``(kept)`` counts in blocks.
    ``payload`` is floats ``(kept, a, b)``, or uint8 ``(kept, ceil(a * b * bits / 8))`` with the
    codes of each block in a run of their own, row by row. Blocks over the edge are filled up with
    zeros, which are stored and counted.
    """

    shape: tuple[int, ...]
    block: tuple[int, int]
    row_pointers: U32
    columns: Places
    payload: F32 | Halves | U8
    bits: int
    scale: F32 | None
    group: int


@dataclass(frozen=True, eq=False)
class NofM:
    """Of every ``m`` consecutive columns of a row, ``n_kept`` values and where they stand.

    With ``s = ceil(k / m) * n_kept`` slots a row, ``indices`` is uint8
    ``(n, ceil(s * ceil(log2 m) / 8))``: place of each slot inside its m columns, ascending.
    ``payload`` is floats ``(n, s)`` or uint8 ``(n, ceil(s * bits / 8))``. Where fewer columns
    than ``n_kept`` are nonzero, the first zeros fill up; those beyond k count as zeros.
    """

    shape: tuple[int, ...]
    n_kept: int
    m: int
    indices: U8
    payload: F32 | Halves | U8
    bits: int
    scale: F32 | None
    group: int


Encoding = Dense | Half | BitPacked | Binary | Csr | Csc | Coo | Bitmap | BlockSparse | NofM
ENCODINGS: dict[str, type[Encoding]] = {
    "dense": Dense,
    "half": Half,
    "bitpacked": BitPacked,
    "binary": Binary,
    "csr": Csr,
    "csc": Csc,
    "coo": Coo,
    "bitmap": Bitmap,
    "block_sparse": BlockSparse,
    "n_of_m": NofM,
}


def matrix_shape(shape: tuple[int, ...]) -> tuple[int, int]:
    """``(n, k)`` of a constant; a scalar is ``(1, 1)``."""
    return (shape[0], math.prod(shape[1:])) if shape else (1, 1)


def places_dtype(count: int) -> type[np.uint16] | type[np.uint32]:
    """Integer type of numbers below ``count``."""
    return np.uint16 if count <= 1 << 16 else np.uint32


def index_field_bits(m: int) -> int:
    """Bits of a place among ``m`` columns, ceil(log2 m)."""
    return (m - 1).bit_length()
