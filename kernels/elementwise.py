"""Sums, products and differences of arrays that are broadcast together, and their kin.

Arrays have three axes and any strides, 0 where one element stands for many; results have a unit
inner stride and may be an operand. Products and sums are rounded one by one, so that a fused call
gives the bits of two calls. TypeError and ValueError say what does not fit, before anything is
written.
"""

from collections.abc import Callable
from typing import Any

import numpy as np
from numba import float32, int64
from numpy.typing import NDArray

from kernels.arguments import FLOATS, require, told
from kernels.jit import compiled, entry, in3, out2
from kernels.row_tiles import splat, sweep
from kernels.simd import F32 as F32_LANE
from kernels.simd import Value, Writer, row_at, stack_bytes, tile

__all__ = ["add", "add_scaled", "affine", "multiply", "row_sums", "subtract"]

F32 = NDArray[np.float32]
Function = Callable[[Writer, Value, Value, Value], Value]
ADD, SUBTRACT, MULTIPLY, ADD_SCALED, AFFINE = range(5)
PIECE = 256
"""Elements of a row of other strides that are laid out together."""
PIECE_BYTES = 4 * PIECE


def _combine(function: Function) -> Any:
    """Make the tile (first, second, factor, target, count), where ``factor`` is one float32."""

    def generate(w: Writer, first, second, factor, target, count) -> None:
        b = w.b
        number = w.load(F32_LANE, factor)

        def step(kind, offset):
            a, c = w.load(kind, b.add(first, offset)), w.load(kind, b.add(second, offset))
            w.store(function(w, a, c, splat(w, number, kind)), b.add(target, offset))
            return []

        sweep(w, count, [], step)

    return tile(5)(generate)


_add_row = _combine(lambda w, a, c, _: w.b.fadd(a, c))
_subtract_row = _combine(lambda w, a, c, _: w.b.fsub(a, c))
_multiply_row = _combine(lambda w, a, c, _: w.b.fmul(a, c))
_add_scaled_row = _combine(lambda w, a, c, factor: w.b.fadd(a, w.b.fmul(c, factor)))
_affine_row = _combine(lambda w, a, c, factor: w.b.fadd(w.b.fmul(a, factor), c))


@compiled
def _row(kind, a, b, factor, target, count):
    if kind == ADD:
        _add_row(a, b, factor, target, count)
    elif kind == SUBTRACT:
        _subtract_row(a, b, factor, target, count)
    elif kind == MULTIPLY:
        _multiply_row(a, b, factor, target, count)
    elif kind == ADD_SCALED:
        _add_scaled_row(a, b, factor, target, count)
    else:
        _affine_row(a, b, factor, target, count)


@compiled
def _spread(source, step, count, target):
    """Lay out numbers ``step`` bytes apart next to each other."""
    row = row_at(target, count, np.float32)
    if step == 0:
        row[:] = row_at(source, 1, np.float32)[0]
        return
    for i in range(count):
        row[i] = row_at(source + i * step, 1, np.float32)[0]


@compiled
def _any_row(kind, a, a_step, b, b_step, factor, target, count):
    """Combine a row of any inner strides; what does not lie together is laid out in pieces."""
    if a_step == 4 and b_step == 4:
        _row(kind, a, b, factor, target, count)
        return
    left, right = stack_bytes(PIECE_BYTES), stack_bytes(PIECE_BYTES)
    for i in range(0, count, PIECE):
        part = min(PIECE, count - i)
        first, second = left, right
        if a_step == 4:
            first = a + 4 * i
        elif i == 0 or a_step != 0:
            _spread(a + i * a_step, a_step, part, left)
        if b_step == 4:
            second = b + 4 * i
        elif i == 0 or b_step != 0:
            _spread(b + i * b_step, b_step, part, right)
        _row(kind, first, second, factor, target + 4 * i, part)


@compiled
def _same(a, b, out):
    for axis in range(2):
        if a.shape[1 + axis] != out.shape[axis] or b.shape[1 + axis] != out.shape[axis]:
            return False
    return out.shape[1] <= 1 or out.strides[1] == 4


@entry(int64, in3(float32), in3(float32), float32, out2(float32), int64)
def _each(kind, a, b, factor, out, out_step):
    """Combine blocks of rows; block p of the result lies p times ``out_step`` bytes behind out."""
    if a.shape[0] != b.shape[0] or not _same(a, b, out):
        return 1
    number = stack_bytes(64)
    row_at(number, 1, np.float32)[0] = factor
    rows, width = out.shape
    for p in range(a.shape[0]):
        left = int64(a.ctypes.data) + p * a.strides[0]
        right = int64(b.ctypes.data) + p * b.strides[0]
        target = int64(out.ctypes.data) + p * out_step
        for r in range(rows):
            x, y = left + r * a.strides[1], right + r * b.strides[1]
            to = target + r * out.strides[0]
            _any_row(kind, x, a.strides[2], y, b.strides[2], number, to, width)
    return 0


def _run(name: str, kind: int, a: F32, b: F32, out: F32, factor: float = 1.0) -> None:
    require(name, FLOATS, 3, a, b, out)
    misfit = a.shape[0] != out.shape[0] or not out.flags.writeable
    if misfit or (out.size and _each(kind, a, b, factor, out[0], out.strides[0])):
        raise ValueError(
            f"{name}: found {told(a)}, {told(b)} and {told(out)} strides {out.strides}; expected "
            "three arrays of one shape (broadcast beforehand) and a result of unit inner stride"
        )


def add(a: F32, b: F32, out: F32) -> None:
    """Write a + b, all ``(P, R, K)``.

    >>> out = np.empty((1, 1, 2), np.float32)
    >>> one = np.broadcast_to(np.float32(1), (1, 1, 2))
    >>> add(np.array([[[1.0, 2.0]]], np.float32), one, out)
    >>> out.tolist()
    [[[2.0, 3.0]]]
    """
    _run("add", ADD, a, b, out)


def subtract(a: F32, b: F32, out: F32) -> None:
    """Write a - b, all ``(P, R, K)``."""
    _run("subtract", SUBTRACT, a, b, out)


def multiply(a: F32, b: F32, out: F32) -> None:
    """Write a * b, all ``(P, R, K)``."""
    _run("multiply", MULTIPLY, a, b, out)


def add_scaled(a: F32, b: F32, factor: float, out: F32) -> None:
    """Write a + factor * b, all ``(P, R, K)``; the product is rounded before the sum.

    >>> out = np.empty((1, 1, 1), np.float32)
    >>> add_scaled(np.ones((1, 1, 1), np.float32), np.ones((1, 1, 1), np.float32), 0.5, out)
    >>> out.tolist()
    [[[1.5]]]
    """
    _run("add_scaled", ADD_SCALED, a, b, out, factor)


def affine(x: F32, scale: float, shift: float, out: F32) -> None:
    """Write x * scale + shift of ``x (P, R, K)``, both rounded; no sum where ``shift`` is 0.

    >>> out = np.empty((1, 1, 1), np.float32)
    >>> affine(np.ones((1, 1, 1), np.float32), 2.0, 3.0, out)
    >>> out.tolist()
    [[[5.0]]]
    """
    kind, number = (AFFINE, shift) if shift else (MULTIPLY, scale)
    _run("affine", kind, x, np.broadcast_to(np.float32(number), x.shape), out, scale)


@entry(in3(float32), out2(float32))
def _sum_each(x, out):
    if x.shape[0] != out.shape[0] or x.shape[1] != out.shape[1]:
        return 1
    for p in range(x.shape[0]):
        for r in range(x.shape[1]):
            at = int64(x.ctypes.data) + p * x.strides[0] + r * x.strides[1]
            total = float32(0.0)
            for i in range(x.shape[2]):
                total += row_at(at + i * x.strides[2], 1, np.float32)[0]
            out[p, r] = total
    return 0


def row_sums(x: F32, out: F32) -> None:
    """Write the sums ``(P, R)`` over the last axis of ``x (P, R, K)``, added up in its order.

    >>> out = np.empty((1, 1), np.float32)
    >>> row_sums(np.array([[[1.0, 2.0, 4.0]]], np.float32), out)
    >>> out.tolist()
    [[7.0]]
    """
    require("row_sums", FLOATS, 3, x)
    require("row_sums", FLOATS, 2, out)
    if not out.flags.writeable or _sum_each(x, out):
        raise ValueError(
            f"row_sums: found {told(x)} and {told(out)}; expected (P, R, K) and (P, R)"
        )
