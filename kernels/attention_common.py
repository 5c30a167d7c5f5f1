"""What all attention kernels share: which arrays belong together, and powers of two."""

from collections.abc import Callable
from typing import Any

import numpy as np
from llvmlite import ir
from numba import types
from numba.extending import intrinsic
from numpy.typing import NDArray

from kernels.jit import compiled
from kernels.mathematics import FUSE
from kernels.simd import I32, Value, Writer, constant

MISFIT, CODE_128, TOO_LONG = 1, 2, 3
"""What a kernel returns that does not run: arrays that do not fit, a code -128, too many keys."""
CARRY_KEYS = 32
"""The rounding error of a probability goes to the key this many places on."""
LONGEST = 2**31 // (255 * 128)
"""Beyond this many keys the context of codes may not fit int32, nor their sum 24 bits."""
EXP2_LOWEST = -125.5
EXP2_MAGIC = 1.5 * 2.0**23 + 127
"""Added to a float32 in [-126, 0], it leaves the nearest integer plus 127 in the low nine bits."""
EXP2_POLYNOMIAL = (
    1.326472848e-03,
    9.671512991e-03,
    5.550733581e-02,
    2.402224243e-01,
    6.931470037e-01,
    1.0,
)
"""2^r on [-1/2, 1/2] within 1.1e-7 relative, highest power first; minimax fit with 2^0 exact."""


def write_exp2(w: Writer, x: Value, times: float = 1.0) -> Value:
    """Write ``times`` 2^x of float32 lanes of at most 0, within 3e-7; x counts as at least -125.5.

    NaN stays NaN.
    """
    b, kind = w.b, x.type
    whole = ir.VectorType(I32, kind.count) if isinstance(kind, ir.VectorType) else I32

    def number(value: float) -> Value:
        return constant(kind, float(np.float32(value)))

    clamped = w.larger(number(EXP2_LOWEST), x)
    shifted = b.fadd(clamped, number(EXP2_MAGIC))
    r = b.fsub(clamped, b.fsub(shifted, number(EXP2_MAGIC)))
    p = number(EXP2_POLYNOMIAL[0] * times)
    for coefficient in EXP2_POLYNOMIAL[1:]:
        product = b.fmul(p, r, flags=FUSE)
        p = b.fadd(product, number(coefficient * times), flags=FUSE)
    power = b.shl(b.bitcast(shifted, whole), constant(whole, 23))
    return b.fmul(p, b.bitcast(power, kind))


@intrinsic
def _shares(_context: Any, x: Any) -> tuple[Any, Callable[..., Any]]:
    if x != types.float32:
        raise TypeError(f"found {x}, expected float32")
    return types.float32(x), lambda _c, builder, _s, values: write_exp2(
        Writer(builder), values[0], 255.0
    )


@compiled
def probability(x):
    """255 2^x of one float32 of at most 0, as ``write_exp2`` has it: what a code is rounded from.

    It stands in a function of its own for the reason that ``mathematics.exp`` does.
    """
    return _shares(x)


@compiled
def fits(q, k, v, out):
    """Tell whether the shapes belong together and every inner stride is one element."""
    heads, rows, depth = q.shape
    length = k.shape[1]
    if heads * rows * depth * length == 0 or k.shape != v.shape:
        return False
    if k.shape[0] != heads or k.shape[2] != depth:
        return False
    if out.shape[0] != rows or out.shape[1] != heads * depth:
        return False
    flat = q.strides[2] == q.itemsize and k.strides[2] == k.itemsize
    flat = flat and v.strides[2] == v.itemsize
    return (depth == 1 or flat) and (out.shape[1] == 1 or out.strides[1] == out.itemsize)


@compiled
def scales_fit(q, q_scale, k, k_scale, v_scale):
    """Tell whether scales are (H, T), (H, S) and (H), or of length 1 where all are the same."""
    heads, rows, length = q.shape[0], q.shape[1], k.shape[1]
    if q_scale.shape[0] not in {1, heads} or q_scale.shape[1] not in {1, rows}:
        return False
    if k_scale.shape[0] not in {1, heads} or k_scale.shape[1] not in {1, length}:
        return False
    return v_scale.size in {1, heads}


def misfit(name: str, *arrays: NDArray[np.generic]) -> str:
    """Message about q, k, v, out and perhaps scales that do not belong together."""
    q, k, v, out, *scales = (f"{a.dtype} {a.shape} strides {a.strides}" for a in arrays)
    found = f"{name}: found q {q}, k {k}, v {v}, out {out}"
    expected = "q (H, T, D), k and v (H, S, D) and out (T, H * D), none empty, unit inner strides"
    if scales:
        found += f", scales {', '.join(scales)}"
        expected += ", scales (H, T), (H, S) and (H) or of size 1"
    return f"{found}; expected {expected}"
