"""Activations, softmax, sums and quantisation of rows.

Every function takes float32 matrices of unit inner stride and writes into ``out``, which may be
the input. NaN in gives NaN out; a row quantised by its own largest value that holds NaN or an
infinity gets the scale NaN. Rows are shared over ``threads``, on which no result depends.
TypeError and ValueError say what does not fit, before anything is written.
"""

import numpy as np
from numba import float32, int8, int32, int64, prange
from numpy.typing import NDArray

from kernels.arguments import CODES, FLOATS, on_threads, require, told
from kernels.finish import share
from kernels.finish_rows import GELU, GLU, RELU, SILU, TANH, activate
from kernels.jit import compiled, entry, in1, in2, out1, out2
from kernels.mathematics import absmax_bits
from kernels.norms import layer_norm
from kernels.row_ops import (
    add_row,
    codes_row,
    quantize_row,
    scale_of,
    sigmoid_row,
    softmax_row,
    static_codes_row,
)

__all__ = [
    "add", "dynamic_quantize_row", "dynamic_quantize_tensor", "gelu", "glu", "layer_norm", "relu",
    "sigmoid", "silu", "softmax", "static_quantize", "tanh",
]  # fmt: skip

F32 = NDArray[np.float32]
I8 = NDArray[np.int8]
_SIGMOID, _SOFTMAX = -1, -2
"""Further kinds of rows beside the activations of ``kernels.finish_rows``."""


@compiled
def _fits(a, rows, width):
    """Tell whether a matrix has that shape and a unit inner stride."""
    flat = width <= 1 or rows == 0 or a.strides[1] == a.itemsize
    return a.shape[0] == rows and a.shape[1] == width and flat


def _refuse(name: str, *arrays: NDArray[np.generic]) -> None:
    found = ", ".join(f"{told(a)} strides {a.strides}" for a in arrays)
    raise ValueError(f"{name}: found {found}; expected fitting shapes and unit inner strides")


@compiled
def _some_rows(source, step, target, target_step, first, last, width, kind):
    """Apply an activation, sigmoid or softmax to rows ``first`` to ``last``."""
    for t in range(first, last):
        row, result = source + t * step, target + t * target_step
        if kind == _SOFTMAX:
            softmax_row(row, result, width)
        elif kind == _SIGMOID:
            sigmoid_row(row, result, width)
        else:
            activate(row, result, width, kind)


@entry(in2(float32), out2(float32), int64, int64)
def _each_row(x, out, kind, threads):
    rows, width = out.shape
    if not (_fits(x, rows, 2 * width if kind == GLU else width) and _fits(out, rows, width)):
        return 1
    source, target = int64(x.ctypes.data), int64(out.ctypes.data)
    step, target_step = x.strides[0], out.strides[0]
    for c in prange(threads):
        first, last = share(rows, 1, threads, c)
        _some_rows(source, step, target, target_step, first, last, width, kind)
    return 0


def _run(name: str, kind: int, x: F32, out: F32, threads: int) -> None:
    require(name, FLOATS, 2, x, out)
    if on_threads(_each_row, threads)(x, out, kind, threads):
        _refuse(name, x, out)


def relu(x: F32, out: F32, *, threads: int = 1) -> None:
    """Write the larger of x and 0 of ``x (R, K)``.

    >>> out = np.empty((1, 2), np.float32)
    >>> relu(np.array([[-1.0, 2.0]], np.float32), out)
    >>> out.tolist()
    [[0.0, 2.0]]
    """
    _run("relu", RELU, x, out, threads)


def gelu(x: F32, out: F32, *, threads: int = 1) -> None:
    """Write x / 2 (1 + erf(x / sqrt 2)) of ``x (R, K)``; error at most 2.5e-7 max(1, |x|)."""
    _run("gelu", GELU, x, out, threads)


def silu(x: F32, out: F32, *, threads: int = 1) -> None:
    """Write x / (1 + exp(-x)) of ``x (R, K)``, also called swish.

    The error is at most 2.5e-7 |y| + 1e-36; below -88 it is 0, and NaN at minus infinity.
    """
    _run("silu", SILU, x, out, threads)


def tanh(x: F32, out: F32, *, threads: int = 1) -> None:
    """Write the hyperbolic tangent of ``x (R, K)``; error at most 2e-7 |y| + 1e-36."""
    _run("tanh", TANH, x, out, threads)


def sigmoid(x: F32, out: F32, *, threads: int = 1) -> None:
    """Write 1 / (1 + exp(-x)) of ``x (R, K)``; error at most 2.5e-7 |y| + 1e-36."""
    _run("sigmoid", _SIGMOID, x, out, threads)


def softmax(x: F32, out: F32, *, threads: int = 1) -> None:
    """Write exp(x - max) over its sum for each row of ``x (R, K)``.

    The error is at most (12 + |x - max| + K / 8) 2**-24 |y| + 1e-37. Scores of minus infinity get
    0; a row of nothing else gets NaN.
    """
    _run("softmax", _SOFTMAX, x, out, threads)


def glu(x: F32, out: F32, *, threads: int = 1) -> None:
    """Write the first half of each row times the sigmoid of its second: ``x (R, 2 K)``.

    ``out (R, K)`` may be the first half of x. The error is at most
    2.5e-7 |y| + 1e-36 max(1, |a|) with a of the first half.
    """
    _run("glu", GLU, x, out, threads)


@compiled
def _add_rows(a, a_step, b, b_step, out, out_step, first, last, width):
    for t in range(first, last):
        add_row(a + t * a_step, b + t * b_step, out + t * out_step, width)


@entry(in2(float32), in2(float32), out2(float32), int64)
def _add(a, b, out, threads):
    rows, width = a.shape
    fits = _fits(a, rows, width) and _fits(out, rows, width) and _fits(b, b.shape[0], width)
    if not fits or b.shape[0] not in {1, rows}:
        return 1
    left, right, target = int64(a.ctypes.data), int64(b.ctypes.data), int64(out.ctypes.data)
    a_step, out_step = a.strides[0], out.strides[0]
    b_step = 0 if b.shape[0] == 1 else b.strides[0]
    for c in prange(threads):
        first, last = share(rows, 1, threads, c)
        _add_rows(left, a_step, right, b_step, target, out_step, first, last, width)
    return 0


def add(a: F32, b: F32, out: F32, *, threads: int = 1) -> None:
    """Write ``a (R, K) + b``, where b is ``(R, K)`` or one row ``(1, K)`` for all."""
    require("add", FLOATS, 2, a, b, out)
    if on_threads(_add, threads)(a, b, out, threads):
        _refuse("add", a, b, out)


@compiled
def _quantize_rows(x, x_step, q, q_step, scale, scale_step, first, last, width):
    for t in range(first, last):
        quantize_row(x + t * x_step, width, q + t * q_step, scale + t * scale_step)


@entry(in2(float32), out2(int8), out1(float32), int64)
def _quantize_row(x, q, scale, threads):
    rows, width = x.shape
    if not (_fits(x, rows, width) and _fits(q, rows, width)) or scale.size != rows:
        return 1
    source, codes, scales = int64(x.ctypes.data), int64(q.ctypes.data), int64(scale.ctypes.data)
    step, q_step, scale_step = x.strides[0], q.strides[0], scale.strides[0]
    for c in prange(threads):
        first, last = share(rows, 1, threads, c)
        _quantize_rows(source, step, codes, q_step, scales, scale_step, first, last, width)
    return 0


def dynamic_quantize_row(x: F32, q: I8, scale: F32, *, threads: int = 1) -> None:
    """Write codes rint(x * (127 / absmax)) and scale absmax / 127 of each row of ``x (R, K)``.

    Each step is rounded to float32. A row whose absmax is below 2**-100 gets codes 0 and scale 1,
    one that holds NaN or an infinity codes 0 and scale NaN.
    """
    require("dynamic_quantize_row", FLOATS, 2, x)
    require("dynamic_quantize_row", CODES, 2, q)
    require("dynamic_quantize_row", FLOATS, 1, scale)
    if on_threads(_quantize_row, threads)(x, q, scale, threads):
        _refuse("dynamic_quantize_row", x, q, scale)


@entry(in2(float32), out2(int8), out1(float32))
def _quantize_tensor(x, q, scale):
    rows, width = x.shape
    if not (_fits(x, rows, width) and _fits(q, rows, width)) or scale.size != 1:
        return 1
    largest = int32(0)
    for t in range(rows):
        largest = max(largest, absmax_bits(x.ctypes.data + t * x.strides[0], width))
    scale[0] = scale_of(largest)
    for t in range(rows):
        source = x.ctypes.data + t * x.strides[0]
        codes_row(source, width, largest, q.ctypes.data + t * q.strides[0])
    return 0


def dynamic_quantize_tensor(x: F32, q: I8, scale: F32) -> None:
    """Write codes and scale (1) as ``dynamic_quantize_row`` does, with one absmax for all."""
    require("dynamic_quantize_tensor", FLOATS, 2, x)
    require("dynamic_quantize_tensor", CODES, 2, q)
    require("dynamic_quantize_tensor", FLOATS, 1, scale)
    if _quantize_tensor(x, q, scale):
        _refuse("dynamic_quantize_tensor", x, q, scale)


@entry(in2(float32), in1(float32), out2(int8))
def _static_quantize(x, scale, q):
    rows, width = x.shape
    if not (_fits(x, rows, width) and _fits(q, rows, width)) or scale.size != 1:
        return 1
    if not float32(0.0) < scale[0] < float32(np.inf):
        return 2
    for t in range(rows):
        source, target = x.ctypes.data + t * x.strides[0], q.ctypes.data + t * q.strides[0]
        static_codes_row(source, scale.ctypes.data, target, width)
    return 0


def static_quantize(x: F32, scale: F32, q: I8) -> None:
    """Write codes clip(rint(x / scale), -127, 127) of ``x (R, K)`` by one given ``scale (1)``.

    The quotient is rounded to float32. NaN becomes the code -128, which no integer kernel takes.
    ValueError for a scale that is not a positive number.
    """
    require("static_quantize", FLOATS, 2, x)
    require("static_quantize", FLOATS, 1, scale)
    require("static_quantize", CODES, 2, q)
    bad = _static_quantize(x, scale, q)
    if bad == 2:
        raise ValueError(f"static_quantize: scale: found {scale[0]}, expected a positive number")
    if bad:
        _refuse("static_quantize", x, scale, q)
