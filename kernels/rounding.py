"""float32 rounded to what a format of 16 bits holds, and kept as float32.

Rounding is to nearest and half to even, subnormal numbers included, as IEEE 754 has it; beyond the
largest number of the format it gives infinity, and NaN stays NaN.
"""

import numpy as np
from llvmlite import ir
from numba import float32, int64
from numpy.typing import NDArray

from kernels.arguments import FLOATS, require, told
from kernels.jit import entry, in2, out2
from kernels.row_tiles import map_tile
from kernels.simd import I32, Value, Writer, constant

F32 = NDArray[np.float32]
NUMBERS = {"f16": 0, "bf16": 1}
_SIGN, _MAGNITUDE, _INFINITY = 0x80000000, 0x7FFFFFFF, 0x7F800000
_LARGEST_F16 = 0x477FE000  # 65504
_SMALLEST_F16 = 0x38800000  # 2**-14, below which steps are 2**-24
_QUIET = 0x00400000


def _integers(value: Value) -> ir.Type:
    kind = value.type
    return ir.VectorType(I32, kind.count) if isinstance(kind, ir.VectorType) else I32


def _nearest(w: Writer, bits: Value, dropped: int) -> Value:
    """Bits of the nearest number without the ``dropped`` lowest bits of a magnitude."""
    b, kind = w.b, bits.type
    last = b.and_(b.lshr(bits, constant(kind, dropped)), constant(kind, 1))
    half = b.add(bits, b.add(last, constant(kind, (1 << (dropped - 1)) - 1)))
    return b.and_(half, constant(kind, 0xFFFFFFFF - ((1 << dropped) - 1)))


def _finished(w: Writer, value: Value, magnitude: Value, rounded: Value) -> Value:
    """Give rounded magnitudes their signs; NaN stays, as a quiet one."""
    b, kind = w.b, magnitude.type
    is_nan = b.icmp_unsigned(">", magnitude, constant(kind, _INFINITY))
    found = b.select(is_nan, b.or_(magnitude, constant(kind, _QUIET)), rounded)
    sign = b.and_(b.bitcast(value, kind), constant(kind, _SIGN))
    return b.bitcast(b.or_(found, sign), value.type)


def _write_f16(w: Writer, value: Value) -> Value:
    b, kind = w.b, _integers(value)
    magnitude = b.and_(b.bitcast(value, kind), constant(kind, _MAGNITUDE))
    rounded = _nearest(w, magnitude, 13)
    is_beyond = b.icmp_unsigned(">", rounded, constant(kind, _LARGEST_F16))
    rounded = b.select(is_beyond, constant(kind, _INFINITY), rounded)
    half = constant(value.type, 0.5)  # the last bit of a number between 0.5 and 1 is 2**-24
    small = b.fsub(b.fadd(b.bitcast(magnitude, value.type), half), half)
    is_small = b.icmp_unsigned("<", magnitude, constant(kind, _SMALLEST_F16))
    return _finished(w, value, magnitude, b.select(is_small, b.bitcast(small, kind), rounded))


def _write_bf16(w: Writer, value: Value) -> Value:
    b, kind = w.b, _integers(value)
    magnitude = b.and_(b.bitcast(value, kind), constant(kind, _MAGNITUDE))
    return _finished(w, value, magnitude, _nearest(w, magnitude, 16))


_f16_row, _bf16_row = map_tile(_write_f16), map_tile(_write_bf16)


@entry(in2(float32), out2(float32), int64)
def _round_rows(x, out, number):
    rows, width = x.shape
    if out.shape != x.shape:
        return 1
    flat = width <= 1 or rows == 0 or (x.strides[1] == 4 and out.strides[1] == 4)
    if not flat:
        return 1
    source, target = int64(x.ctypes.data), int64(out.ctypes.data)
    for r in range(rows):
        if number == 0:
            _f16_row(source + r * x.strides[0], target + r * out.strides[0], width)
        else:
            _bf16_row(source + r * x.strides[0], target + r * out.strides[0], width)
    return 0


def round_to(x: F32, number: str, out: F32) -> None:
    """Write ``x (R, K)`` rounded to the numbers of ``f16`` or ``bf16``; ``out`` may be ``x``.

    >>> out = np.empty((1, 2), np.float32)
    >>> round_to(np.array([[1.0001, 70000.0]], np.float32), "f16", out)
    >>> out.tolist()
    [[1.0, inf]]
    """
    if number not in NUMBERS:
        raise ValueError(f"round_to: number: found {number!r}, expected one of f16, bf16")
    require("round_to", FLOATS, 2, x, out)
    if not out.flags.writeable or _round_rows(x, out, NUMBERS[number]):
        raise ValueError(
            f"round_to: found {told(x)} strides {x.strides} and {told(out)} strides "
            f"{out.strides}; expected equal shapes and unit inner strides"
        )
