# ruff: noqa: FURB136 (max and min would drop NaN)
"""exp, erf and tanh as polynomials on vectors, activations, rounding and absolute maxima by bits.

Comparisons are written so that NaN falls through to the arithmetic and is never replaced.
"""

import math
from collections.abc import Callable, Sequence
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
EXP_MAGIC = np.float32(1.5 * 2.0**23 + 127)
"""Added to a float32 in [-126, 127], it leaves the rounded value plus 127 in the low nine bits."""
EXP_COEFFICIENTS = (
    1.381451994e-3,
    8.368743648e-3,
    4.166839095e-2,
    1.666652041e-1,
    4.999999343e-1,
    1.0,
    1.0,
)
"""exp(r) on [-ln 2 / 2, ln 2 / 2] within 4e-9 relative, highest power first; minimax fit."""
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
TANH_SMALL = 0.625
TANH_COEFFICIENTS = (
    -5.70498872745e-3,
    2.06390887954e-2,
    -5.37397155531e-2,
    1.33314422036e-1,
    -3.33332819422e-1,
)


@compiled
def round_bits(x):
    """Nearest integer of a float32 of magnitude below 2**22, ties to even, in the low byte."""
    return bits_of(float32(x + ROUND_MAGIC)) & 0xFF


def _fused(w: Writer, a: Value, factor: Value, addend: Value) -> Value:
    """Write a * factor + addend, rounded once where the CPU can."""
    return w.b.fadd(w.b.fmul(a, factor, flags=FUSE), addend, flags=FUSE)


def _polynomial(w: Writer, x: Value, coefficients: Sequence[float]) -> Value:
    """Write the polynomial of lanes ``x``, highest power first."""
    total = _number(x, coefficients[0])
    for coefficient in coefficients[1:]:
        total = _fused(w, total, x, _number(x, coefficient))
    return total


def _number(like: Value, value: float) -> Value:
    """Constant float32 ``value`` in as many lanes as ``like`` has."""
    return constant(like.type, float(np.float32(value)))


def _integers(kind: ir.Type) -> ir.Type:
    """Type of int32 lanes, as many as ``kind`` has."""
    return ir.VectorType(I32, kind.count) if isinstance(kind, ir.VectorType) else I32


def _size(w: Writer, x: Value) -> Value:
    """Write the magnitude of float32 lanes."""
    whole = _integers(x.type)
    bits = w.b.and_(w.b.bitcast(x, whole), constant(whole, 0x7FFFFFFF))
    return w.b.bitcast(bits, x.type)


def _with_sign(w: Writer, size: Value, x: Value) -> Value:
    """Write lanes of magnitude ``size`` with the signs of ``x``."""
    whole = _integers(x.type)
    sign = w.b.and_(w.b.bitcast(x, whole), constant(whole, -(2**31)))
    return w.b.bitcast(w.b.or_(w.b.bitcast(size, whole), sign), x.type)


def write_exp(w: Writer, x: Value) -> Value:
    """Write the exponential of float32 lanes: within 1.5e-7 relative.

    Below -87.3 it is 0, above 88 it is exp(88). Range reduction by ln 2 in two parts (Moshier,
    Cephes expf, 1989) and a polynomial.
    """
    b, kind = w.b, x.type
    whole = _integers(kind)
    lowest, highest, magic = (_number(x, c) for c in (EXP_LOWEST, EXP_HIGHEST, EXP_MAGIC))
    is_low = b.fcmp_ordered("<", x, lowest)
    low = b.select(is_low, lowest, x)
    clamped = b.select(b.fcmp_ordered(">", low, highest), highest, low)
    shifted = _fused(w, clamped, _number(x, LOG2E), magic)
    n = b.fsub(shifted, magic)
    r = _fused(w, n, _number(x, -LN2_HIGH), clamped)
    r = _fused(w, n, _number(x, -LN2_LOW), r)
    power = b.bitcast(b.shl(b.bitcast(shifted, whole), constant(whole, 23)), kind)
    y = b.fmul(_polynomial(w, r, EXP_COEFFICIENTS), power)
    return b.select(is_low, _number(x, 0.0), y)


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


def write_erf(w: Writer, z: Value) -> Value:
    """Write the error function of float32 lanes: within 3e-7, exactly 1 and -1 from 3.92 on.

    The polynomial is summed in independent parts (Estrin's scheme).
    """
    b = w.b
    u = _fused(w, b.fmul(z, z), _number(z, ERF_SCALE), _number(z, -1.0))
    terms = [_number(z, coefficient) for coefficient in ERF_COEFFICIENTS]
    power = u
    while len(terms) > 1:
        pairs = zip(terms[1::2], terms[::2], strict=True)
        terms = [_fused(w, high, power, low) for high, low in pairs]
        power = b.fmul(power, power)
    is_beyond = b.fcmp_ordered(">", _size(w, z), _number(z, ERF_END))
    return b.select(is_beyond, _with_sign(w, _number(z, 1.0), z), b.fmul(z, terms[0]))


def write_tanh(w: Writer, x: Value) -> Value:
    """Write the hyperbolic tangent of float32 lanes, within 2e-7 relative.

    x + x^3 P(x^2) below 0.625 with the coefficients of Moshier, Cephes tanhf (1989); beyond,
    1 - 2 / (exp(2 |x|) + 1).
    """
    b = w.b
    size = _size(w, x)
    square = b.fmul(x, x)
    small = _fused(w, b.fmul(square, x), _polynomial(w, square, TANH_COEFFICIENTS), x)
    grown = b.fadd(write_exp(w, b.fadd(size, size)), _number(x, 1.0))
    large = b.fsub(_number(x, 1.0), b.fdiv(_number(x, 2.0), grown))
    is_small = b.fcmp_ordered("<", size, _number(x, TANH_SMALL))
    return b.select(is_small, small, _with_sign(w, large, x))


def _logistic_divisor(w: Writer, x: Value) -> Value:
    """Write 1 + exp(-x): infinity below -88, where exp(-x) nears the largest float32."""
    b = w.b
    grown = b.fadd(write_exp(w, b.fneg(x)), _number(x, 1.0))
    is_far = b.fcmp_ordered("<", x, _number(x, -EXP_HIGHEST))
    return b.select(is_far, constant(x.type, float("inf")), grown)


def write_sigmoid(w: Writer, x: Value) -> Value:
    """Write 1 / (1 + exp(-x)) of float32 lanes: within 2.5e-7 relative, 0 below -88."""
    return w.b.fdiv(_number(x, 1.0), _logistic_divisor(w, x))


def write_gate(w: Writer, a: Value, x: Value) -> Value:
    """Write a / (1 + exp(-x)), ``a`` times the sigmoid of ``x``: within 2.5e-7 relative."""
    return w.b.fdiv(a, _logistic_divisor(w, x))


def write_silu(w: Writer, x: Value) -> Value:
    """Write x / (1 + exp(-x)) of float32 lanes: within 2.5e-7 relative, 0 below -88."""
    return write_gate(w, x, x)


def write_gelu(w: Writer, x: Value) -> Value:
    """Write x / 2 (1 + erf(x / sqrt 2)) of float32 lanes: within 2.5e-7 max(1, |x|)."""
    half = w.b.fmul(x, _number(x, 0.5))
    return _fused(w, half, write_erf(w, w.b.fmul(x, _number(x, math.sqrt(0.5)))), half)


def write_relu(w: Writer, x: Value) -> Value:
    """Write the larger of x and 0; NaN stays."""
    zero = constant(x.type, 0.0)
    return w.b.select(w.b.fcmp_ordered("<", x, zero), zero, x)


@compiled
def absmax_bits(address, count):
    """Bits of the largest magnitude of ``count`` float32; NaN counts as larger than infinity."""
    bits = row_at(address, count, np.int32)
    largest = int32(0)
    for i in range(count):
        size = int32(bits[i] & int32(0x7FFFFFFF))
        largest = size if size > largest else largest
    return largest
