"""Linear layers in plain numba loops: right on any CPU, and the only ones without AVX2 and FMA."""

import numpy as np
from numba import float32, int8, int32, int64
from numpy.typing import NDArray

from kernels.jit import entry, in1, in2, out2
from kernels.registry import Arguments, Layout, kernel


def _pack_columns(table: NDArray[np.float32] | NDArray[np.int8]) -> Arguments:
    """Transposed weights ``(k, n)``: the inner loop runs over outputs and needs no reordering."""
    return (np.ascontiguousarray(table.T),)


def _rows(arguments: Arguments, ids: NDArray[np.int64]) -> NDArray[np.float32]:
    return arguments[0][:, ids].T.astype(np.float32)


COLUMNS_F32 = Layout("columns_f32", _pack_columns, _rows)
COLUMNS_I8 = Layout("columns_i8", _pack_columns, _rows)


@kernel("generic_f32", op="linear", values="f32", activation="f32", layout=COLUMNS_F32)
@entry(in2(float32), in2(float32), in1(float32), in1(float32), in1(float32), out2(float32))
def linear_f32(x, w, w_scale, x_scale, bias, out):
    """Float weights ``(K, N)`` and activations; both scales are unused."""
    steps, n = w.shape
    if x.shape[1] != steps or out.shape[0] != x.shape[0] or out.shape[1] != n:
        return 1
    if bias.size not in {0, n}:
        return 1
    for t in range(x.shape[0]):
        for j in range(n):
            out[t, j] = bias[j] if bias.size else float32(0.0)
        for k in range(steps):
            value = x[t, k]
            for j in range(n):
                out[t, j] += value * w[k, j]
    return 0


@kernel("generic_w8_f32", op="linear", values="i8", activation="f32", layout=COLUMNS_I8)
@entry(in2(float32), in2(int8), in1(float32), in1(float32), in1(float32), out2(float32))
def linear_w8(x, w, w_scale, x_scale, bias, out):
    """Weight codes ``(K, N)`` with one scale per output, float activations."""
    steps, n = w.shape
    if x.shape[1] != steps or out.shape[0] != x.shape[0] or out.shape[1] != n:
        return 1
    if bias.size not in {0, n} or w_scale.size != n:
        return 1
    for t in range(x.shape[0]):
        for j in range(n):
            out[t, j] = float32(0.0)
        for k in range(steps):
            value = x[t, k]
            for j in range(n):
                out[t, j] += value * float32(w[k, j])
        for j in range(n):
            out[t, j] = out[t, j] * w_scale[j] + (bias[j] if bias.size else float32(0.0))
    return 0


@entry(in2(int8), in2(int8), out2(int32))
def accumulate_i8(x, w, out):
    """Exact sums of products of codes, int32."""
    steps, n = w.shape
    if x.shape[1] != steps or out.shape[0] != x.shape[0] or out.shape[1] != n:
        return 1
    for t in range(x.shape[0]):
        for j in range(n):
            out[t, j] = 0
        for k in range(steps):
            value = int32(x[t, k])
            for j in range(n):
                out[t, j] += int32(value * int32(w[k, j]))
    return 0


@kernel(
    "generic_i8",
    op="linear",
    values="i8",
    activation="i8",
    layout=COLUMNS_I8,
    accumulate=accumulate_i8,
)
@entry(in2(int8), in2(int8), in1(float32), in1(float32), in1(float32), out2(float32))
def linear_i8(x, w, w_scale, x_scale, bias, out):
    """Weight and activation codes, exact int32 sums, then both scales and the bias."""
    steps, n = w.shape
    if x.shape[1] != steps or out.shape[0] != x.shape[0] or out.shape[1] != n:
        return 1
    if bias.size not in {0, n} or w_scale.size != n:
        return 1
    if x_scale.size not in {1, x.shape[0]}:
        return 1
    sums = np.empty(n, np.int32)
    for t in range(x.shape[0]):
        sums[:] = 0
        for k in range(steps):
            value = int32(x[t, k])
            for j in range(n):
                sums[j] += int32(value * int32(w[k, j]))
        scale = x_scale[t if x_scale.size > 1 else int64(0)]
        for j in range(n):
            y = float32(float32(sums[j]) * scale) * w_scale[j]
            out[t, j] = y + bias[j] if bias.size else y
    return 0
