"""What all attention kernels share: which arrays belong together, and powers of two."""

from collections.abc import Callable
from typing import Any

import numpy as np
from llvmlite import ir
from numba import float32, float64, int8, int32, int64, types, uint16
from numba.extending import intrinsic

from kernels.jit import compiled, in1, in2, in3
from kernels.mathematics import FUSE, LOG2E, absmax_bits
from kernels.simd import I32, Value, Writer, constant, float_of, row_at

MISFIT, BAD_SCALE, TOO_LONG, BAD_PATTERN = 1, 3, 4, 5
"""What a kernel returns that does not run: arrays that do not fit, scales that are no numbers or so
large that scores overflow, more than 32 bits can sum, a pattern that is broken or for others."""
FLOAT = (in3(float32), in3(float32), in3(float32), float64)
"""Types of q, k, v and the factor of the scores."""
CODES = (in3(int8), in2(float32), in3(int8), in2(float32), in3(int8), in1(float32), float64)
"""Types of q, k and v, each followed by its scales, and of the factor of the scores."""
PATTERN = (int64, in1(int64), in1(int32), in1(int32), in3(uint16))
"""Types of the size of a pattern's blocks, its pointers, columns, which and masks."""
CARRY_KEYS = 32
"""The rounding error of a probability goes to the key this many places on."""
DEEPEST = 2**31 // (128 * 128) - 1
"""Beyond this many numbers per head a score may not fit int32."""
LARGEST_SCORE = 1e38
INFINITY_BITS = 0x7F800000
LONGEST = 2**31 // (255 * 128)
"""Beyond this many keys the context of codes may not fit int32, nor their sum 24 bits."""
EXP2_LOWEST = -127.0
EXP2_MAGIC = 1.5 * 2.0**23 + 127
"""Added to a float32 in [-127, 0], it leaves the nearest integer plus 127 in the low nine bits."""
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
    """Write ``times`` 2^x of float32 lanes of at most 0, within 3e-7, and 0 below -126.5.

    The biased exponent of 2^-127 is 0, so the power is 0. NaN stays NaN.
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
def address(array):
    """Where the first element lies, as int64: ``ctypes.data`` is unsigned and mixes into floats."""
    return int64(array.ctypes.data)


@compiled
def fits(q, k, v, out, threads):
    """Tell whether the shapes belong together and every inner stride is one element."""
    heads, rows, depth = q.shape
    length = k.shape[1]
    if threads < 1 or heads * rows * depth * length == 0 or k.shape != v.shape:
        return False
    if k.shape[0] != heads or k.shape[2] != depth:
        return False
    if out.shape[0] != rows or out.shape[1] != heads * depth:
        return False
    flat = q.strides[2] == q.itemsize and k.strides[2] == k.itemsize
    flat = flat and v.strides[2] == v.itemsize
    return (depth == 1 or flat) and (out.shape[1] == 1 or out.strides[1] == out.itemsize)


@compiled
def share(count, threads, index):
    """First and last + 1 of ``count`` things for thread ``index``."""
    return count * index // threads, count * (index + 1) // threads


@compiled
def keys_fit(q, keys):
    """Tell whether numbers of keys are absent, one for all queries, or one for each."""
    return keys.size in (0, 1, q.shape[1])


@compiled
def bias_fits(q, k, bias):
    """Tell whether a bias is absent (empty), or (H, T, S) or (1, T, S) with a unit inner stride."""
    if bias.size == 0:
        return bias.shape[0] == 0
    if bias.shape[0] not in (1, q.shape[0]) or bias.shape[1] != q.shape[1]:
        return False
    return bias.shape[2] == k.shape[1] and (bias.shape[2] == 1 or bias.strides[2] == bias.itemsize)


@compiled
def bias_places(bias):
    """Address of a bias, 0 if there is none, and bytes between heads and between queries."""
    at = address(bias) if bias.size else int64(0)
    return at, bias.strides[0] if bias.shape[0] > 1 else int64(0), bias.strides[1]


@compiled
def key_places(keys):
    """Address of the numbers of keys that queries see, 0 if there are none, and bytes between."""
    at = address(keys) if keys.size else int64(0)
    return at, keys.strides[0] if keys.size > 1 else int64(0)


@compiled
def bound(seen, t, length):
    """How many of ``length`` keys query t sees, by the ``key_places`` in ``seen``."""
    at, step = seen
    return min(max(row_at(at + t * step, 1, np.int64)[0], 0), length) if at else length


@compiled
def scales_fit(q, q_scale, k, k_scale, v_scale):
    """Tell whether scales are (H, T), (H, S) and (H), or of length 1 where all are the same."""
    heads, rows, length = q.shape[0], q.shape[1], k.shape[1]
    if q_scale.shape[0] not in (1, heads) or q_scale.shape[1] not in (1, rows):
        return False
    if k_scale.shape[0] not in (1, heads) or k_scale.shape[1] not in (1, length):
        return False
    return v_scale.size in (1, heads)


@compiled
def _largest(at, rows, row_step, columns, column_step):
    """Largest magnitude of float32 at an address; NaN and infinity count as infinite."""
    bits = int32(0)
    for i in range(rows):
        if column_step == 4:
            bits = max(bits, absmax_bits(at + i * row_step, columns))
        else:
            for j in range(columns):
                found = row_at(at + i * row_step + j * column_step, 1, np.int32)[0]
                bits = max(bits, int32(found & int32(0x7FFFFFFF)))
    return float64(float_of(bits)) if bits < INFINITY_BITS else float64(np.inf)


@compiled
def scales_are_sound(q_scale, k_scale, v_scale, unit, depth):
    """Tell whether no scale is NaN or infinite and no score can leave float32."""
    q, k, one = q_scale, k_scale, v_scale.size
    most = abs(float64(unit)) * (128.0 * 128.0 * depth)
    most *= _largest(address(q), q.shape[0], q.strides[0], q.shape[1], q.strides[1])
    most *= _largest(address(k), k.shape[0], k.strides[0], k.shape[1], k.strides[1])
    values = _largest(address(v_scale), int64(1), int64(0), one, v_scale.strides[0])
    return most < LARGEST_SCORE and values < np.inf


@compiled
def status_of_codes(q, q_scale, k, k_scale, v, v_scale, scale, out, threads):
    """Return what is wrong with arrays of codes and their scales, 0 if nothing is."""
    if not fits(q, k, v, out, threads) or not scales_fit(q, q_scale, k, k_scale, v_scale):
        return MISFIT
    if k.shape[1] > LONGEST or k.shape[2] > DEEPEST:
        return TOO_LONG
    unit = float32(float32(scale) * LOG2E)
    return 0 if scales_are_sound(q_scale, k_scale, v_scale, unit, q.shape[2]) else BAD_SCALE


@compiled
def scale_places(q_scale, k_scale, v_scale):
    """Address of each scale, and bytes between heads and between rows: 0 where all are the same."""
    zero = int64(0)
    q_head = q_scale.strides[0] if q_scale.shape[0] > 1 else zero
    k_head = k_scale.strides[0] if k_scale.shape[0] > 1 else zero
    q_row = q_scale.strides[1] if q_scale.shape[1] > 1 else zero
    k_row = k_scale.strides[1] if k_scale.shape[1] > 1 else zero
    v_head = v_scale.strides[0] if v_scale.size > 1 else zero
    return (
        (address(q_scale), q_head, q_row),
        (address(k_scale), k_head, k_row),
        (address(v_scale), v_head),
    )
