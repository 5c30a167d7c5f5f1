"""Panels of integer weight codes: 16 outputs side by side, four steps of k (a quad) together.

A code is stored unsigned, as code + 2^(bits - 1), in a field of 8, 4 or 2 bits; 3-bit codes take
fields of 4. Step s of output o in quad q of a panel is found

- 8 bits: in byte ``64 q + 4 o + s``;
- 4 and 3 bits: in byte ``32 q + 4 (o % 8) + s``, outputs 0 to 7 low, 8 to 15 high;
- 2 bits: in byte ``32 (q // 2) + 4 (o % 8) + s``, field ``2 (q % 2) + o // 8`` from the lowest.

A panel is a row of groups, each padded with code 0 to ``quads_of(bits, group)`` quads; with one
scale per output the whole row is one group. Layouts that end in ``_group`` also hold scales and
zero points, float32 ``[ceil(n / 16)][groups][16]`` each, 0 past n; elsewhere, and without zero
points, these are empty. All layouts are panels, scales, zeros, n, k, group, bits.
"""

import numpy as np
from numba.extending import register_jitable
from numpy.typing import NDArray

from kernels.memory import aligned_zeros
from kernels.registry import Arguments, Layout, Matrix

WIDTH, QUAD = 16, 4
SLACK_BYTES = 32 * WIDTH * QUAD
"""Bytes after the last panel that a kernel may read past it, against activations that are 0."""
LONGEST_K = 2**31 // (128 * 127)
"""Beyond this many steps a sum of products may not fit int32."""

U8 = NDArray[np.uint8]
I8 = NDArray[np.int8]
F32 = NDArray[np.float32]


@register_jitable
def offset_of(bits):
    """Return what is added to a code of ``bits`` bits to store it."""
    return 1 << (bits - 1)


@register_jitable
def quads_of(bits, length):
    """Quads that a group of ``length`` codes takes: a multiple of 2 for bytes, else of 4."""
    unit = 2 * QUAD if bits == 8 else 4 * QUAD
    return (length + unit - 1) // unit * unit // QUAD


@register_jitable
def quad_bytes(bits):
    """Bytes of the 64 codes of one quad (with 2 bits, of half a pair of quads)."""
    return 64 if bits == 8 else 16 if bits == 2 else 32


def _spread(codes: I8, bits: int, group: int) -> U8:
    """Fields ``[panels][quads][16][4]`` of padded groups, one field a byte."""
    n, k = codes.shape
    if k > LONGEST_K:
        raise ValueError(f"integer panel: found k {k}, expected at most {LONGEST_K} for int32 sums")
    offset = offset_of(bits)
    if codes.size and (int(codes.min()) < -offset or int(codes.max()) >= offset):
        raise ValueError(
            f"integer panel: found codes in [{codes.min()}, {codes.max()}], "
            f"expected [-{offset}, {offset - 1}] for {bits} bits"
        )
    groups, size = -(-k // group), quads_of(bits, group) * QUAD
    padded = np.full((-(-n // WIDTH) * WIDTH, groups, size), offset, np.uint8)
    fields = codes.view(np.uint8) + np.uint8(offset)
    whole = k // group
    padded[:n, :whole, :group] = fields[:, : whole * group].reshape(n, whole, group)
    padded[:n, whole:, : k - whole * group] = fields[:, None, whole * group :]
    return padded.reshape(-1, WIDTH, groups * size // QUAD, QUAD).transpose(0, 2, 1, 3)


def _pack(codes: I8, bits: int, group: int) -> U8:
    """Panels in one run of bytes, with room to read past the last: see the module."""
    quads = _spread(codes, bits, group)
    if bits == 8:
        packed = quads
    else:
        packed = quads[:, :, :8] | (quads[:, :, 8:] << np.uint8(2 if bits == 2 else 4))
        if bits == 2:
            packed = packed[:, 0::2] | (packed[:, 1::2] << np.uint8(4))
    panels = aligned_zeros((packed.size + SLACK_BYTES,), np.uint8)
    panels[: packed.size].reshape(packed.shape)[...] = packed
    return panels


def _unpack(panels: U8, ids: NDArray[np.int64], k: int, bits: int, group: int) -> I8:
    """Codes ``(R, k)`` of rows ``ids``."""
    groups, quads = -(-k // group), quads_of(bits, group)
    stored = panels[:-SLACK_BYTES].reshape(-1, groups * quads * quad_bytes(bits))
    lane = ids % WIDTH
    per_quad = WIDTH if bits == 8 else WIDTH // 2
    found = stored[ids // WIDTH].reshape(len(ids), -1, per_quad, QUAD)
    found = found[np.arange(len(ids)), :, lane % per_quad]
    half = (lane // 8).astype(np.uint8)[:, None, None]
    if bits == 2:
        both = [(found >> (half * np.uint8(2) + np.uint8(4 * q))) & np.uint8(3) for q in range(2)]
        found = np.stack(both, axis=2)
    elif bits < 8:
        found = (found >> (half * np.uint8(4))) & np.uint8(15)
    codes = (found - np.uint8(offset_of(bits))).view(np.int8)
    return codes.reshape(len(ids), groups, quads * QUAD)[:, :, :group].reshape(len(ids), -1)[:, :k]


def _row_layout(bits: int) -> Layout:
    """Codes with one scale per output, which the kernel takes beside them."""

    def pack(matrix: Matrix) -> Arguments:
        n, k = matrix.shape
        none = np.zeros(0, np.float32)
        return (_pack(matrix.values, bits, k), none, none, n, k, k, bits)

    def rows(arguments: Arguments, ids: NDArray[np.int64]) -> F32:
        panels, _, _, _, k, _, _ = arguments
        return _unpack(panels, ids, k, bits, k).astype(np.float32)

    return Layout(f"panels_{bits}", pack, rows)


def _side_by_side(table: NDArray[np.generic], n: int) -> F32:
    """Lay a number per output (or for all) and group out as ``[panels][groups][16]``."""
    groups = table.shape[1]
    padded = np.zeros((-(-n // WIDTH) * WIDTH, groups), np.float32)
    padded[:n] = table
    side = aligned_zeros((padded.size,), np.float32)
    side.reshape(-1, groups, WIDTH)[...] = padded.reshape(-1, WIDTH, groups).transpose(0, 2, 1)
    return side


def _of_rows(side: F32, ids: NDArray[np.int64], groups: int) -> F32:
    return side.reshape(-1, groups, WIDTH)[ids // WIDTH, :, ids % WIDTH]


def _group_layout(bits: int) -> Layout:
    """Codes with scales and perhaps zero points by group."""

    def pack(matrix: Matrix) -> Arguments:
        n, k = matrix.shape
        group = matrix.group or k
        if matrix.scale is None:
            raise ValueError("grouped panel: found no scale, expected one per group")
        panels = _pack(matrix.values, bits, group)
        scales = _side_by_side(matrix.scale, n)
        zeros = np.zeros(0, np.float32)
        if matrix.zero_point is not None:
            zeros = _side_by_side(matrix.zero_point, n)
        return (panels, scales, zeros, n, k, group, bits)

    def rows(arguments: Arguments, ids: NDArray[np.int64]) -> F32:
        panels, scales, zeros, _, k, group, _ = arguments
        groups = -(-k // group)
        values = _unpack(panels, ids, k, bits, group).astype(np.float32)
        if zeros.size:
            values -= np.repeat(_of_rows(zeros, ids, groups), group, axis=1)[:, :k]
        values *= np.repeat(_of_rows(scales, ids, groups), group, axis=1)[:, :k]
        return values

    return Layout(f"panels_{bits}_group", pack, rows)


PANELS_8, PANELS_4, PANELS_3, PANELS_2 = (_row_layout(bits) for bits in (8, 4, 3, 2))
GROUPS_8, GROUPS_4, GROUPS_3, GROUPS_2 = (_group_layout(bits) for bits in (8, 4, 3, 2))
