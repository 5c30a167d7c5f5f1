# ruff: noqa: FURB136 (max and min would drop NaN)
"""exp and erf as polynomials that vectorise, rounding and absolute maxima by bits.

Comparisons are written so that NaN falls through to the arithmetic and is never replaced.
"""

import math
from collections.abc import Callable
from typing import Any

import numpy as np
from llvmlite import ir
from numba import float32, int32, types
from numba.extending import intrinsic

from kernels.jit import compiled
from kernels.simd import I32, Value, Writer, bits_of, constant, row_at

LOG2E = np.float32(math.log2(math.e))
LN2_HIGH = np.float32(0.693359375)
LN2_LOW = np.float32(-2.12194440e-4)
ROUND_MAGIC = np.float32(1.5 * 2.0**23)
"""Added and taken away, it rounds a float32 of magnitude below 2**22 half to even."""
EXPONENT_ONE = 127 << 23
EXP_COEFFICIENTS = (
    1.9875691500e-4,
    1.3981999507e-3,
    8.3334519073e-3,
    4.1665795894e-2,
    1.6666665459e-1,
    5.0000001201e-1,
)
FUSE = ("contract",)
"""Lets a product and a sum become one fused operation where the CPU has it."""
EXP_LOWEST = np.float32(-87.3)
EXP_HIGHEST = np.float32(88.0)

ERF_END = np.float32(3.92)
"""erf is 1 to float32 precision beyond."""
ERF_SCALE = np.float32(2.0 / 3.92**2)
ERF_COEFFICIENTS = tuple(
    np.float32(c)
    for c in (
        3.607368086e-01,
        -1.801085622e-01,
        1.340848369e-01,
        -1.091818543e-01,
        9.059221235e-02,
        -7.398989038e-02,
        5.842582719e-02,
        -4.358573431e-02,
        2.960921198e-02,
        -1.961749014e-02,
        1.434350204e-02,
        -8.170483260e-03,
        1.820330415e-03,
        -1.045277976e-03,
        2.127858182e-03,
        -9.392719221e-04,
    )
)
"""erf(z) / z in powers of 2 (z / 3.92)^2 - 1: Chebyshev fit on [0, 3.92], lowest power first."""


@compiled
def round_bits(x):
    """Nearest integer of a float32 of magnitude below 2**22, ties to even, in the low byte."""
    return bits_of(float32(x + ROUND_MAGIC)) & 0xFF


def write_exp(w: Writer, x: Value) -> Value:
    """Write the exponential of float32 lanes: within 3e-7 relative, 0 below -87.3, then exp(88).

    Range reduction by ln 2 in two parts and a polynomial of degree 5 on [-ln 2 / 2, ln 2 / 2]
    with the coefficients of Moshier, Cephes expf (1989).
    """
    b, kind = w.b, x.type
    whole = ir.VectorType(I32, kind.count) if isinstance(kind, ir.VectorType) else I32

    def number(value: float) -> Value:
        return constant(kind, float(np.float32(value)))

    def fused(a: Value, factor: Value, addend: Value) -> Value:
        return b.fadd(b.fmul(a, factor, flags=FUSE), addend, flags=FUSE)

    is_low = b.fcmp_ordered("<", x, number(EXP_LOWEST))
    low = b.select(is_low, number(EXP_LOWEST), x)
    clamped = b.select(b.fcmp_ordered(">", low, number(EXP_HIGHEST)), number(EXP_HIGHEST), low)
    shifted = fused(clamped, number(LOG2E), number(ROUND_MAGIC))
    n = b.fsub(shifted, number(ROUND_MAGIC))
    r = fused(n, number(-LN2_HIGH), clamped)
    r = fused(n, number(-LN2_LOW), r)
    p = number(EXP_COEFFICIENTS[0])
    for coefficient in EXP_COEFFICIENTS[1:]:
        p = fused(p, r, number(coefficient))
    y = b.fadd(fused(p, b.fmul(r, r), r), number(1.0))
    power = b.shl(b.bitcast(shifted, whole), constant(whole, 23))
    power = b.add(power, constant(whole, EXPONENT_ONE))
    return b.select(is_low, number(0.0), b.fmul(y, b.bitcast(power, kind)))


@intrinsic
def _exp(_context: Any, x: Any) -> tuple[Any, Callable[..., Any]]:
    if x != types.float32:
        raise TypeError(f"found {x}, expected float32")
    return types.float32(x), lambda _c, builder, _s, values: write_exp(Writer(builder), values[0])


@compiled
def exp(x):
    """Exponential of one float32, as ``write_exp`` has it.

    It stands in a function of its own because numba marks all float operations of a function that
    may reorder sums, and the rounding above must not be reordered.
    """
    return _exp(x)


@compiled(contract=True)
def _four_terms(u, u2, first):
    """Sum of four coefficients times powers of u, in two independent halves (Estrin's scheme)."""
    low = float32(ERF_COEFFICIENTS[first] + u * ERF_COEFFICIENTS[first + 1])
    high = float32(ERF_COEFFICIENTS[first + 2] + u * ERF_COEFFICIENTS[first + 3])
    return float32(low + u2 * high)


@compiled(contract=True)
def erf(z):
    """Error function within 3e-7; exactly 1 and -1 from 3.92 on."""
    size = abs(float32(z))
    u = float32(float32(size * size) * ERF_SCALE - float32(1.0))
    u2 = float32(u * u)
    u4 = float32(u2 * u2)
    low = float32(_four_terms(u, u2, 0) + u4 * _four_terms(u, u2, 4))
    high = float32(_four_terms(u, u2, 8) + u4 * _four_terms(u, u2, 12))
    p = float32(low + float32(u4 * u4) * high)
    inside = float32(z * p)
    end = float32(1.0) if z > float32(0.0) else float32(-1.0)
    return end if size > ERF_END else inside


@compiled
def absmax_bits(address, count):
    """Bits of the largest magnitude of ``count`` float32; NaN counts as larger than infinity."""
    bits = row_at(address, count, np.int32)
    largest = int32(0)
    for i in range(count):
        size = int32(bits[i] & int32(0x7FFFFFFF))
        largest = size if size > largest else largest
    return largest
