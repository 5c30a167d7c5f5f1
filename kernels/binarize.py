"""Float rows to packed bits: signs about a threshold, or steps of one level.

Bit 0 of a byte is the first element, as ``kernels.bits`` packs flags; bits past the last are 0.
Signed bits are 1 for x >= threshold and stand for +scale and -scale (Rastegari et al. 2016,
XNOR-Net). Unsigned bits stand for scale and 0: 1 where clip((x - threshold) / scale, 0, 1) rounds
to 1, half to even, that is where x - threshold > scale / 2 (elastic binarisation of Liu et al.
2022, BiT).
"""

import numpy as np
from llvmlite import ir
from numba import float32, float64, int64, uint8
from numpy.typing import NDArray

from kernels.arguments import FLOATS, require, told
from kernels.jit import compiled, entry, in1, in2, out1, out2
from kernels.simd import F32 as F32_LANE
from kernels.simd import F32X8, I8, I64, Value, Writer, row_at, stack_bytes, tile

F32 = NDArray[np.float32]
F64X8 = ir.VectorType(ir.DoubleType(), 8)
BYTES = np.dtype(np.uint8)
MISFIT, NAN_INPUT, BAD_LEVEL = 1, 2, 3
SMALLEST_LEVEL = np.float32(2.0**-126)
"""Smallest normal number: half of a smaller one may not be exact."""
_NONE = np.zeros(0, np.float32)


def _store_bits(w: Writer, flags: Value, packed: Value, index: Value) -> None:
    """Store eight flags as one byte, the first in bit 0."""
    w.store(w.b.bitcast(flags, I8), w.b.add(packed, index))


@tile(4)
def _at_least(w: Writer, values, thresholds, packed, blocks) -> None:
    """Tile: a byte per 8 float32, bits of value >= threshold."""
    b = w.b

    def body(i):
        at = b.mul(i, I64(32))
        value, bound = (w.load(F32X8, b.add(row, at)) for row in (values, thresholds))
        _store_bits(w, b.fcmp_ordered(">=", value, bound), packed, i)
        return []

    w.loop(blocks, [], body)


def _row_tile(is_signed: bool):
    """Make the tile: bits of a row, and |value - threshold| added to eight float64 at ``sums``.

    ``half`` is the address of the float32 that value - threshold exceeds where an unsigned bit is
    1. A difference that is NaN makes a sum NaN.
    """

    def generate(w: Writer, values, thresholds, packed, blocks, sums, half) -> None:
        b = w.b
        middle = w.splat(w.load(F32_LANE, half), F32X8)

        def body(i, total):
            at = b.mul(i, I64(32))
            value, bound = (w.load(F32X8, b.add(row, at)) for row in (values, thresholds))
            above = b.fsub(value, bound)
            flags = (
                b.fcmp_ordered(">=", value, bound)
                if is_signed
                else b.fcmp_ordered(">", above, middle)
            )
            _store_bits(w, flags, packed, i)
            return [b.fadd(total, b.fpext(w.call("llvm.fabs.v8f32", F32X8, [above]), F64X8))]

        (total,) = w.loop(blocks, [w.load(F64X8, sums)], body)
        w.store(total, sums)

    return tile(6)(generate)


_signed_row, _unsigned_row = _row_tile(is_signed=True), _row_tile(is_signed=False)


@compiled
def _last_bits(values, thresholds, left, held):
    """Copy ``left`` < 8 float32 of each to the 64 bytes at ``held``, zeros after."""
    row = row_at(held, 16, np.float32)
    row[:] = float32(0.0)
    row[:left] = row_at(values, left, np.float32)
    row[8 : 8 + left] = row_at(thresholds, left, np.float32)


@compiled
def _clear_bits(byte, left):
    """Keep the lowest ``left`` bits of the byte at an address."""
    row = row_at(byte, 1, np.uint8)
    row[0] = row[0] & np.uint8((1 << left) - 1)


@compiled
def sign_row(values, thresholds, count, packed):
    """Write bits of value >= threshold of ``count`` float32; all are addresses but ``count``."""
    whole, left = count // 8, count % 8
    _at_least(values, thresholds, packed, whole)
    if left:
        held = stack_bytes(64)
        _last_bits(values + whole * 32, thresholds + whole * 32, left, held)
        _at_least(held, held + 32, packed + whole, 1)
        _clear_bits(packed + whole, left)


@compiled
def _row(values, thresholds, count, packed, half, is_signed):
    """Write the bits of one row and return the sum of |value - threshold|."""
    whole, left = count // 8, count % 8
    sums, held = stack_bytes(64), stack_bytes(64)
    totals = row_at(sums, 8, np.float64)
    totals[:] = 0.0
    if is_signed:
        _signed_row(values, thresholds, packed, whole, sums, half)
    else:
        _unsigned_row(values, thresholds, packed, whole, sums, half)
    if left:
        _last_bits(values + whole * 32, thresholds + whole * 32, left, held)
        if is_signed:
            _signed_row(held, held + 32, packed + whole, 1, sums, half)
        else:
            _unsigned_row(held, held + 32, packed + whole, 1, sums, half)
        _clear_bits(packed + whole, left)
    return totals.sum()


@entry(in2(float32), in1(float32), in1(float32), out2(uint8), out1(float32), int64)
def _binarize(x, threshold, level, packed, scale, is_signed):
    rows, k = x.shape
    fits = packed.shape[0] == rows and packed.shape[1] == (k + 7) // 8 and k > 0
    if not fits or threshold.size not in {0, 1, k} or scale.size not in {0, rows}:
        return MISFIT
    if rows and ((k > 1 and x.strides[1] != 4) or (k > 8 and packed.strides[1] != 1)):
        return MISFIT
    if level.size > 1 or (level.size == 0 and not is_signed):
        return MISFIT
    if level.size and not (level[0] >= SMALLEST_LEVEL and level[0] < np.inf):
        return BAD_LEVEL
    bounds = np.empty(k, np.float32)
    for i in range(k):
        bounds[i] = threshold[i if threshold.size > 1 else 0] if threshold.size else float32(0.0)
        if np.isnan(bounds[i]):
            return BAD_LEVEL
    half = np.empty(1, np.float32)
    half[0] = level[0] / float32(2.0) if level.size else float32(0.0)
    status = 0
    for r in range(rows):
        total = _row(
            x.ctypes.data + r * x.strides[0],
            bounds.ctypes.data,
            k,
            packed.ctypes.data + r * packed.strides[0],
            half.ctypes.data,
            is_signed,
        )
        value = level[0] if level.size else float32(total / k)
        if np.isnan(total):
            value = float32(np.nan)
            status = status if scale.size else NAN_INPUT
        if scale.size:
            scale[r] = value
    bounds[0] = half[0]  # keeps the arrays alive until here
    return status


@compiled(sums=True)
def _moments(row):
    """Sum the positive part of float32, and its squares."""
    total, squares = float64(0.0), float64(0.0)
    for i in range(row.size):
        value = float64(0.0) if row[i] <= float32(0.0) else float64(row[i])
        total += value
        squares += value * value
    return total, squares


@entry(in2(float32), out2(uint8), out1(float32))
def _binarize_steps(x, packed, level):
    rows, k = x.shape
    if packed.shape[0] != rows or packed.shape[1] != (k + 7) // 8 or level.size != rows or k < 1:
        return MISFIT
    if rows and ((k > 1 and x.strides[1] != 4) or (k > 8 and packed.strides[1] != 1)):
        return MISFIT
    zeros, half = np.zeros(k, np.float32), np.empty(1, np.float32)
    for r in range(rows):
        values = x.ctypes.data + r * x.strides[0]
        total, squares = _moments(row_at(values, k, np.float32))
        level[r] = squares / total if total != 0.0 else float32(0.0)
        half[0] = level[r] / float32(2.0)
        target = packed.ctypes.data + r * packed.strides[0]
        _row(values, zeros.ctypes.data, k, target, half.ctypes.data, False)
    zeros[0] = half[0]  # keeps the arrays alive until here
    return 0


def binarize_steps(x: F32, packed: NDArray[np.uint8], level: F32) -> None:
    """Write bits and level of each row as ``reference.binarize_steps`` defines them.

    x is ``(R, K)``, ``packed (R, ceil(K / 8))``, ``level (R)``. A row that holds NaN has the level
    NaN and no ones. TypeError and ValueError say what does not fit.

    >>> bits, level = np.empty((1, 1), np.uint8), np.empty(1, np.float32)
    >>> binarize_steps(np.array([[3.0, 0.0, 1.0]], np.float32), bits, level)
    >>> bits.tolist(), level.tolist()
    ([[1]], [2.5])
    """
    require("binarize_steps", FLOATS, 2, x)
    require("binarize_steps", FLOATS, 1, level)
    require("binarize_steps", BYTES, 2, packed)
    if _binarize_steps(x, packed, level):
        raise ValueError(
            f"binarize_steps: found x {told(x)} strides {x.strides}, packed {told(packed)} strides "
            f"{packed.strides}, level {told(level)}; expected packed (R, ceil(K / 8)), level (R), "
            "unit inner strides, K at least 1"
        )


def binarize(
    x: F32,
    packed: NDArray[np.uint8],
    scale: F32 | None = None,
    *,
    threshold: F32 | None = None,
    level: float | None = None,
    is_signed: bool = True,
) -> None:
    """Write the bits of ``x (R, K)`` into ``packed (R, ceil(K / 8))`` and what one bit is worth.

    ``threshold`` is float32 (K) or (1), or 0 when None. ``scale (R)`` receives ``level`` where that
    is given, else the mean of |x - threshold| of the row (summed in float64); unsigned bits need a
    level. A row that holds NaN, or whose difference is NaN, has the scale NaN. TypeError and
    ValueError say what does not fit; so does NaN in x when there is no scale to show it.

    >>> bits, scale = np.empty((1, 1), np.uint8), np.empty(1, np.float32)
    >>> binarize(np.array([[0.5, -1.5, 0.0]], np.float32), bits, scale)
    >>> bits.tolist(), scale.round(3).tolist()
    ([[5]], [0.6669999957084656])
    """
    bound = _NONE if threshold is None else threshold
    held = _NONE if level is None else np.array([level], np.float32)
    target = _NONE if scale is None else scale
    require("binarize", FLOATS, 2, x)
    require("binarize", FLOATS, 1, bound, target)
    require("binarize", BYTES, 2, packed)
    status = _binarize(x, bound, held, packed, target, int(is_signed))
    if status == NAN_INPUT:
        raise ValueError("binarize: found NaN in x and no scale that could show it")
    if status == BAD_LEVEL:
        raise ValueError(
            f"binarize: found level {level} and threshold {told(bound)} with NaN "
            f"{bool(np.isnan(bound).any())}; expected a positive, normal level and no NaN"
        )
    if status:
        kind = "signed" if is_signed else "unsigned"
        raise ValueError(
            f"binarize: found x {told(x)} strides {x.strides}, packed {told(packed)} strides "
            f"{packed.strides}, scale {told(target)}, threshold {told(bound)}, level {level} for "
            f"{kind} bits; expected packed (R, ceil(K / 8)), scale (R) or none, threshold (K), (1) "
            "or none, unit inner strides, K at least 1, and a level for unsigned bits"
        )
