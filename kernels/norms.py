"""Layer, group and batch normalisation.

Means and squared deviations are float32 sums over short blocks, taken around the mean of the block
and combined in float64 (Chan, Golub and LeVeque 1983, equation 2.1), so that neither a large mean
nor a long row costs precision. NaN in a group makes its results NaN. TypeError and ValueError say
what does not fit, before anything is written.
"""

import numpy as np
from numba import float32, float64
from numpy.typing import NDArray

from kernels.arguments import FLOATS, require, told
from kernels.jit import compiled, entry, in1, in2, out2
from kernels.mathematics import FUSE
from kernels.row_tiles import WIDE, splat, sum_fold, sweep
from kernels.simd import F32 as F32_LANE
from kernels.simd import Writer, row_at, stack_bytes, tile

F32 = NDArray[np.float32]
BLOCK = 4096
"""float32 of a row that are summed together: they stay in the first cache for the second sum."""
ROWS = 64
"""Rows of a time-major matrix that are summed together."""


@tile(3)
def _sum_row(w: Writer, source, total, count) -> None:
    """Tile: write the sum of ``count`` float32 to ``total``."""

    def step(kind, offset, so_far):
        return [w.b.fadd(so_far, w.load(kind, w.b.add(source, offset)))]

    (found,) = sweep(w, count, [sum_fold(w)], step, widths=WIDE)
    w.store(found, total)


@tile(4)
def _squares_row(w: Writer, source, mean, total, count) -> None:
    """Tile: write the sum of (x - mean)^2 to ``total``."""
    b = w.b
    centre = w.load(F32_LANE, mean)

    def step(kind, offset, so_far):
        part = b.fsub(w.load(kind, b.add(source, offset)), splat(w, centre, kind))
        return [b.fadd(b.fmul(part, part, flags=FUSE), so_far, flags=FUSE)]

    (found,) = sweep(w, count, [sum_fold(w)], step, widths=WIDE)
    w.store(found, total)


@tile(6)
def _normal_row(w: Writer, source, moments, gamma, beta, target, count) -> None:
    """Tile: (x - mean) * factor * gamma + beta; ``moments`` holds mean and factor."""
    b = w.b
    mean, factor = w.load(F32_LANE, moments), w.load(F32_LANE, moments, 4)

    def step(kind, offset):
        value = b.fsub(w.load(kind, b.add(source, offset)), splat(w, mean, kind))
        value = b.fmul(value, splat(w, factor, kind))
        value = b.fmul(value, w.load(kind, b.add(gamma, offset)), flags=FUSE)
        value = b.fadd(value, w.load(kind, b.add(beta, offset)), flags=FUSE)
        w.store(value, b.add(target, offset))
        return []

    sweep(w, count, [], step)


@tile(4)
def _affine_row(w: Writer, source, numbers, target, count) -> None:
    """Tile: (x - a) * b + c for a whole row; ``numbers`` holds a, b and c."""
    b = w.b
    centre, factor, shift = (w.load(F32_LANE, numbers, 4 * i) for i in range(3))

    def step(kind, offset):
        value = b.fsub(w.load(kind, b.add(source, offset)), splat(w, centre, kind))
        value = b.fmul(value, splat(w, factor, kind), flags=FUSE)
        value = b.fadd(value, splat(w, shift, kind), flags=FUSE)
        w.store(value, b.add(target, offset))
        return []

    sweep(w, count, [], step)


@tile(6)
def _affine_columns(w: Writer, source, centre, factor, shift, target, count) -> None:
    """Tile: (x - centre) * factor + shift, each of the three a row as long as the source."""
    b = w.b

    def step(kind, offset):
        value = b.fsub(w.load(kind, b.add(source, offset)), w.load(kind, b.add(centre, offset)))
        value = b.fmul(value, w.load(kind, b.add(factor, offset)), flags=FUSE)
        value = b.fadd(value, w.load(kind, b.add(shift, offset)), flags=FUSE)
        w.store(value, b.add(target, offset))
        return []

    sweep(w, count, [], step)


@compiled
def _fits(a, rows, width):
    """Tell whether a matrix has that shape and a unit inner stride."""
    flat = width <= 1 or rows == 0 or a.strides[1] == a.itemsize
    return a.shape[0] == rows and a.shape[1] == width and flat


@compiled
def _plain(row, width):
    return row.size == width and (width <= 1 or row.strides[0] == row.itemsize)


def _refuse(name: str, *arrays: NDArray[np.generic]) -> None:
    found = ", ".join(f"{told(a)} strides {a.strides}" for a in arrays)
    raise ValueError(f"{name}: found {found}; expected fitting shapes and unit inner strides")


@compiled
def _merge(state, count, mean, squares):
    """Add ``count`` values of that mean and sum of squared deviations to (count, mean, squares)."""
    total = state[0] + count
    delta = mean - state[1]
    state[1] += delta * (count / total)
    state[2] += squares + delta * delta * (state[0] * count / total)
    state[0] = total


@compiled
def _add_row(state, source, width, scratch):
    """Add the values of a row to ``state``, in blocks; ``scratch`` is the address of 4 float32."""
    numbers = row_at(scratch, 4, np.float32)
    for at in range(0, width, BLOCK):
        count = min(BLOCK, width - at)
        _sum_row(source + 4 * at, scratch, count)
        mean = float64(numbers[0]) / count
        numbers[1] = float32(mean)
        _squares_row(source + 4 * at, scratch + 4, scratch + 8, count)
        # the deviations are from the rounded mean; what that adds to the squares is taken off
        off = mean - float64(numbers[1])
        _merge(state, float64(count), mean, float64(numbers[2]) - count * off * off)


@entry(in2(float32), in1(float32), in1(float32), float64, out2(float32))
def _layer_norm(x, gamma, beta, eps, out):
    rows, width = x.shape
    if not (_fits(x, rows, width) and _fits(out, rows, width)) or width == 0:
        return 1
    if not (_plain(gamma, width) and _plain(beta, width)):
        return 1
    scratch, memory = stack_bytes(64), stack_bytes(24)
    state, numbers = row_at(memory, 3, np.float64), row_at(scratch, 4, np.float32)
    for t in range(rows):
        source, target = x.ctypes.data + t * x.strides[0], out.ctypes.data + t * out.strides[0]
        state[:] = 0.0
        _add_row(state, source, width, scratch)
        numbers[0] = float32(state[1])
        numbers[1] = float32(1.0 / np.sqrt(state[2] / width + eps))
        _normal_row(source, scratch, gamma.ctypes.data, beta.ctypes.data, target, width)
    return 0


def layer_norm(x: F32, gamma: F32, beta: F32, eps: float, out: F32) -> None:
    """Write (x - mean) / sqrt(variance + eps) * gamma + beta of each row of ``x (R, K)``.

    ``gamma`` and ``beta`` are (K); ``out`` may be x. The error is at most
    1e-6 (|x - mean| / sqrt(variance + eps) |gamma| + |beta|) + 1e-6 |mean gamma| / sqrt(variance).

    >>> out = np.empty((1, 2), np.float32)
    >>> ones, zeros = np.ones(2, np.float32), np.zeros(2, np.float32)
    >>> layer_norm(np.array([[3.0, 5.0]], np.float32), ones, zeros, 0.0, out)
    >>> out.tolist()
    [[-1.0, 1.0]]
    """
    require("layer_norm", FLOATS, 2, x, out)
    require("layer_norm", FLOATS, 1, gamma, beta)
    if _layer_norm(x, gamma, beta, eps, out):
        _refuse("layer_norm", x, gamma, beta, out)
