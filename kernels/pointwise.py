# ruff: noqa: FURB136 (max and min would drop NaN and order)
"""Normalisation, activations, sums and quantisation of rows.

Every function takes float32 matrices whose inner stride is one element and writes into ``out``,
which may be the input. NaN in gives NaN out; a quantised row that holds NaN or an infinity gets
the scale NaN. ValueError says which shapes do not fit.
"""

import numpy as np
from numba import float32, float64, int8, int32
from numpy.typing import NDArray

from kernels.jit import compiled, entry, in1, in2, out1, out2
from kernels.mathematics import absmax_bits, exp
from kernels.row_ops import (
    add_row,
    codes_row,
    gelu_row,
    quantize_row,
    relu_row,
    scale_of,
    silu_row,
)
from kernels.simd import row_at

F32 = NDArray[np.float32]
I8 = NDArray[np.int8]


def _checked(status: int, name: str, *arrays: NDArray[np.generic]) -> None:
    if status:
        found = ", ".join(f"{a.dtype} {a.shape} strides {a.strides}" for a in arrays)
        raise ValueError(f"{name}: found {found}; expected fitting shapes and unit inner strides")


@compiled
def _is_plain(x: F32, out: NDArray[np.generic]) -> bool:
    """Tell whether both have the same shape and unit inner strides."""
    flat = (
        x.shape[1] <= 1
        or x.shape[0] == 0
        or (x.strides[1] == x.itemsize and out.strides[1] == out.itemsize)
    )
    return flat and x.shape[0] == out.shape[0] and x.shape[1] == out.shape[1]


@entry(in2(float32), in1(float32), in1(float32), float64, out2(float32), sums=True)
def _layer_norm(x: F32, gamma: F32, beta: F32, eps: float, out: F32) -> int:
    width = x.shape[1]
    if not _is_plain(x, out) or gamma.size != width or beta.size != width:
        return 1
    for t in range(x.shape[0]):
        row = row_at(x.ctypes.data + t * x.strides[0], width, np.float32)
        y = row_at(out.ctypes.data + t * out.strides[0], width, np.float32)
        total = float32(0.0)
        for i in range(width):
            total += row[i]
        mean = total / float32(width)
        squares = float32(0.0)
        for i in range(width):
            centred = row[i] - mean
            squares += centred * centred
        scale = float32(1.0 / np.sqrt(float64(squares) / width + eps))
        for i in range(width):
            y[i] = (row[i] - mean) * scale * gamma[i] + beta[i]
    return 0


def layer_norm(x: F32, gamma: F32, beta: F32, eps: float, out: F32) -> None:
    """Write (x - mean) / sqrt(variance + eps) * gamma + beta of each row of ``x (R, K)``."""
    _checked(_layer_norm(x, gamma, beta, eps, out), "layer_norm", x, gamma, beta, out)


@entry(in2(float32), out2(float32))
def _gelu(x, out):
    if not _is_plain(x, out):
        return 1
    for t in range(x.shape[0]):
        source = x.ctypes.data + t * x.strides[0]
        gelu_row(source, out.ctypes.data + t * out.strides[0], x.shape[1])
    return 0


def gelu(x: F32, out: F32) -> None:
    """Write x / 2 (1 + erf(x / sqrt 2)); the error is at most 1e-6 max(1, |x|)."""
    _checked(_gelu(x, out), "gelu", x, out)


@entry(in2(float32), out2(float32), sums=True)
def _softmax(x: F32, out: F32) -> int:
    if not _is_plain(x, out):
        return 1
    width = x.shape[1]
    for t in range(x.shape[0]):
        row = row_at(x.ctypes.data + t * x.strides[0], width, np.float32)
        y = row_at(out.ctypes.data + t * out.strides[0], width, np.float32)
        largest = float32(-np.inf)
        for i in range(width):
            largest = row[i] if row[i] > largest else largest
        total = float32(0.0)
        for i in range(width):
            e = exp(row[i] - largest)
            y[i] = e
            total += e
        inverse = float32(1.0) / total
        for i in range(width):
            y[i] *= inverse
    return 0


def softmax(x: F32, out: F32) -> None:
    """Write exp(x - max) over its sum for each row of ``x (R, K)``; error at most 1e-6."""
    _checked(_softmax(x, out), "softmax", x, out)


@entry(in2(float32), in2(float32), out2(float32))
def _add(a: F32, b: F32, out: F32) -> int:
    width = a.shape[1]
    if not _is_plain(a, out) or b.shape[1] != width or b.shape[0] not in {1, a.shape[0]}:
        return 1
    if width > 1 and b.strides[1] != b.itemsize:
        return 1
    step = 0 if b.shape[0] == 1 else b.strides[0]
    for t in range(a.shape[0]):
        first, second = a.ctypes.data + t * a.strides[0], b.ctypes.data + t * step
        add_row(first, second, out.ctypes.data + t * out.strides[0], width)
    return 0


def add(a: F32, b: F32, out: F32) -> None:
    """Write ``a (R, K) + b``, where b is ``(R, K)`` or one row ``(1, K)`` for all."""
    _checked(_add(a, b, out), "add", a, b, out)


@entry(in2(float32), out2(float32))
def _relu(x, out):
    if not _is_plain(x, out):
        return 1
    for t in range(x.shape[0]):
        source = x.ctypes.data + t * x.strides[0]
        relu_row(source, out.ctypes.data + t * out.strides[0], x.shape[1])
    return 0


def relu(x: F32, out: F32) -> None:
    """Write the larger of x and 0."""
    _checked(_relu(x, out), "relu", x, out)


@entry(in2(float32), out2(float32))
def _silu(x, out):
    if not _is_plain(x, out):
        return 1
    for t in range(x.shape[0]):
        source = x.ctypes.data + t * x.strides[0]
        silu_row(source, out.ctypes.data + t * out.strides[0], x.shape[1])
    return 0


def silu(x: F32, out: F32) -> None:
    """Write x / (1 + exp(-x)); the error is at most 1e-6 max(1, |x|)."""
    _checked(_silu(x, out), "silu", x, out)


@entry(in2(float32), out2(int8), out1(float32))
def _quantize_row(x: F32, q: I8, scale: F32) -> int:
    width = x.shape[1]
    if not _is_plain(x, q) or scale.size != x.shape[0]:
        return 1
    for t in range(x.shape[0]):
        to = scale.ctypes.data + t * scale.strides[0]
        source = x.ctypes.data + t * x.strides[0]
        quantize_row(source, width, q.ctypes.data + t * q.strides[0], to)
    return 0


def dynamic_quantize_row(x: F32, q: I8, scale: F32) -> None:
    """Write codes rint(x * (127 / absmax)) and scale absmax / 127 of each row of ``x (R, K)``.

    Each step is rounded to float32. A row whose absmax is below 2**-100 gets codes 0 and scale 1,
    one that holds NaN or an infinity codes 0 and scale NaN.
    """
    _checked(_quantize_row(x, q, scale), "dynamic_quantize_row", x, q, scale)


@entry(in2(float32), out2(int8), out1(float32))
def _quantize_tensor(x: F32, q: I8, scale: F32) -> int:
    width = x.shape[1]
    if not _is_plain(x, q) or scale.size != 1:
        return 1
    largest = int32(0)
    for t in range(x.shape[0]):
        largest = max(largest, absmax_bits(x.ctypes.data + t * x.strides[0], width))
    scale[0] = scale_of(largest)
    for t in range(x.shape[0]):
        source = x.ctypes.data + t * x.strides[0]
        codes_row(source, width, largest, q.ctypes.data + t * q.strides[0])
    return 0


def dynamic_quantize_tensor(x: F32, q: I8, scale: F32) -> None:
    """Write codes and scale (1) as ``dynamic_quantize_row`` does, with one absmax for all."""
    _checked(_quantize_tensor(x, q, scale), "dynamic_quantize_tensor", x, q, scale)
