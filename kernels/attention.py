# ruff: noqa: FURB136 (max would drop NaN)
"""Softmax attention over heads, float and on integer codes."""

import numpy as np
from numba import float32, float64, int8
from numpy.typing import NDArray

from kernels.attention_common import (
    CARRY_KEYS,
    CODE_128,
    LONGEST,
    MISFIT,
    TOO_LONG,
    fits,
    misfit,
    probability,
    scales_fit,
)
from kernels.jit import entry, host_features, in1, in2, in3, out2
from kernels.mathematics import LOG2E, exp
from kernels.registry import SIMD

F32 = NDArray[np.float32]
I8 = NDArray[np.int8]


@entry(in3(float32), in3(float32), in3(float32), float64, out2(float32))
def _attention_f32(q, k, v, scale, out):
    if not fits(q, k, v, out):
        return MISFIT
    heads, rows, depth = q.shape
    length = k.shape[1]
    scores = np.empty(length, np.float32)
    total = np.empty(depth, np.float32)
    for h in range(heads):
        for t in range(rows):
            largest = float32(-np.inf)
            for s in range(length):
                y = float32(0.0)
                for d in range(depth):
                    y += q[h, t, d] * k[h, s, d]
                scores[s] = y * float32(scale)
                largest = scores[s] if scores[s] > largest else largest
            norm = float32(0.0)
            total[:] = 0
            for s in range(length):
                e = exp(scores[s] - largest)
                norm += e
                for d in range(depth):
                    total[d] += e * v[h, s, d]
            for d in range(depth):
                out[t, h * depth + d] = total[d] / norm
    return 0


def attention_f32(q: F32, k: F32, v: F32, scale: float, out: F32) -> None:
    """Write softmax(scale q k^T) v of each head into ``out (T, H * D)``.

    q is ``(H, T, D)``, k and v ``(H, S, D)``, any strides with a unit inner one.
    ValueError says which shapes or strides do not fit.
    """
    if _run_f32(q, k, v, scale, out):
        raise ValueError(misfit("attention_f32", q, k, v, out))


@entry(
    in3(int8),
    in2(float32),
    in3(int8),
    in2(float32),
    in3(int8),
    in1(float32),
    float64,
    out2(float32),
)
def _attention_i8(q, q_scale, k, k_scale, v, v_scale, scale, out):
    if not fits(q, k, v, out) or not scales_fit(q, q_scale, k, k_scale, v_scale):
        return MISFIT
    heads, rows, depth = q.shape
    length = k.shape[1]
    if length > LONGEST:
        return TOO_LONG
    q_scales = np.broadcast_to(q_scale, (heads, rows))
    k_scales = np.broadcast_to(k_scale, (heads, length))
    v_scales = np.broadcast_to(v_scale, (heads,))
    unit = float32(scale) * LOG2E
    scores = np.empty(length, np.float32)
    carried = np.empty(CARRY_KEYS, np.float32)
    total = np.empty(depth, np.int64)
    for h in range(heads):
        for t in range(rows):
            largest = float32(-np.inf)
            for s in range(length):
                y = np.int64(0)
                for d in range(depth):
                    y += np.int64(q[h, t, d]) * np.int64(k[h, s, d])
                product = float32(float32(y) * q_scales[h, t])
                scores[s] = product * float32(k_scales[h, s] * unit)
                largest = scores[s] if scores[s] > largest else largest
            norm = float64(0.0)  # NaN after a NaN
            total[:] = 0
            carried[:] = 0
            for s in range(length):
                share = float32(probability(scores[s] - largest) + carried[s % CARRY_KEYS])
                share = float32(255.0) if share > float32(255.0) else share
                rounded = np.rint(share)
                carried[s % CARRY_KEYS] = share - rounded
                norm += rounded
                code = np.int64(rounded)
                for d in range(depth):
                    total[d] += code * np.int64(v[h, s, d])
            for d in range(depth):
                out[t, h * depth + d] = float32(total[d]) * (v_scales[h] / float32(norm))
    return 0


def attention_i8(
    q: I8, q_scale: F32, k: I8, k_scale: F32, v: I8, v_scale: F32, scale: float, out: F32
) -> None:
    """Write attention on codes into ``out (T, H * D)``, as ``reference.attention_i8`` defines it.

    Arrays as in ``attention_f32``; scales are (H, T), (H, S) and (H), or of size 1. A scale that
    is NaN gives NaN. ValueError says which shapes or strides do not fit, or that a code is -128.
    """
    q_scales = q_scale if q_scale.ndim == 2 else q_scale.reshape(-1, 1)
    k_scales = k_scale if k_scale.ndim == 2 else k_scale.reshape(-1, 1)
    status = _run_i8(q, q_scales, k, k_scales, v, v_scale, scale, out)
    if status == CODE_128:
        raise ValueError("attention_i8: found code -128 in q or k, expected codes in [-127, 127]")
    if status == TOO_LONG:
        raise ValueError(
            f"attention_i8: found {k.shape[1]} keys, expected at most {LONGEST}, as the sum of "
            "probability codes times values is kept in 32 bits"
        )
    if status:
        raise ValueError(misfit("attention_i8", q, k, v, out, q_scale, k_scale, v_scale))


_run_f32, _run_i8 = _attention_f32, _attention_i8
if host_features().issuperset(SIMD):  # elsewhere the tiles do not even compile
    from kernels import attention_integer, attention_tiles

    _run_f32, _run_i8 = attention_tiles.attention_f32, attention_integer.attention_i8
