"""Layer, group and batch normalisation.

Means and squared deviations are taken over short blocks by the corrected two-pass algorithm and
combined in float64 (Chan, Golub and LeVeque 1983, equations 1.7 and 2.1), so that neither a large
mean nor a long row costs precision: with xhat = (x - mean) / sqrt(variance + eps) the error is at
most 2e-6 (|xhat gamma| + |mean gamma| / sqrt(variance + eps) + |beta|). NaN in a group makes its
results NaN. TypeError and ValueError say what does not fit, before anything is written.
"""

import numpy as np
from numba import float32, float64, int64, prange
from numpy.typing import NDArray

from kernels.arguments import FLOATS, on_threads, require, told
from kernels.finish import share
from kernels.finish_rows import ACTIVATIONS, activate
from kernels.jit import compiled, entry, in1, in2, out2
from kernels.norm_tiles import (
    affine_columns,
    affine_row,
    column_deviations_1,
    column_deviations_4,
    column_sums_1,
    column_sums_4,
    normal_row,
    row_deviations,
    row_sum,
)
from kernels.simd import row_at, stack_bytes

F32 = NDArray[np.float32]
BLOCK = 1024
"""float32 of a row that are summed together, in 32 parts of 32."""
ROWS = 64
"""Rows of a time-major matrix that are summed together: they stay in the second cache."""


@compiled
def _fits(a, rows, width):
    """Tell whether a matrix has that shape, which is not empty, and a unit inner stride."""
    flat = width == 1 or a.strides[1] == a.itemsize
    return rows * width > 0 and a.shape[0] == rows and a.shape[1] == width and flat


@compiled
def _plain(row, width):
    return row.size == width and (width == 1 or row.strides[0] == row.itemsize)


@compiled
def _merge(state, count, mean, squares):
    """Add ``count`` values of that mean and sum of squared deviations to (count, mean, squares)."""
    if state[0] == 0.0:
        state[0], state[1], state[2] = count, mean, squares
        return
    total = state[0] + count
    delta = mean - state[1]
    state[1] += delta * (count / total)
    state[2] += squares + delta * delta * (state[0] * count / total)
    state[0] = total


@compiled
def _merge_row(state, source, width, scratch):
    """Add the values of a row to ``state``, in blocks; ``scratch`` is the address of 4 float32."""
    numbers = row_at(scratch, 4, np.float32)
    for at in range(0, width, BLOCK):
        count = min(BLOCK, width - at)
        row_sum(source + 4 * at, scratch, count)
        numbers[0] /= float32(count)
        row_deviations(source + 4 * at, scratch, scratch + 4, count)
        off = float64(numbers[1]) / count
        squares = float64(numbers[2]) - count * off * off
        _merge(state, float64(count), float64(numbers[0]) + off, squares)


@compiled
def _normal_rows(x, step, gamma, beta, eps, steps, out, out_step, first, last, width):
    """Normalise rows ``first`` to ``last``; all but the counts, eps and steps are addresses."""
    scratch, memory = stack_bytes(64), stack_bytes(24)
    state, numbers = row_at(memory, 3, np.float64), row_at(scratch, 2, np.float32)
    for t in range(first, last):
        source, target = x + t * step, out + t * out_step
        state[0] = state[1] = state[2] = 0.0
        _merge_row(state, source, width, scratch)
        numbers[0] = float32(state[1])
        numbers[1] = float32(1.0 / np.sqrt(state[2] / width + eps))
        normal_row(source, scratch, gamma, beta, target, width)
        activate(target, target, width, steps)


@entry(in2(float32), in1(float32), in1(float32), float64, int64, out2(float32), int64)
def _layer_norm(x, gamma, beta, eps, steps, out, threads):
    rows, width = out.shape
    if rows == 0 and x.shape[0] == 0 and x.shape[1] == width:
        return 0
    if not (_fits(x, rows, width) and _fits(out, rows, width)):
        return 1
    if not (_plain(gamma, width) and _plain(beta, width)):
        return 1
    source, target = int64(x.ctypes.data), int64(out.ctypes.data)
    times, plus = int64(gamma.ctypes.data), int64(beta.ctypes.data)
    step, out_step = x.strides[0], out.strides[0]
    for c in prange(threads):
        first, last = share(rows, 1, threads, c)
        _normal_rows(source, step, times, plus, eps, steps, target, out_step, first, last, width)
    return 0


def layer_norm(
    x: F32,
    gamma: F32,
    beta: F32,
    eps: float,
    out: F32,
    *,
    activation: str = "none",
    threads: int = 1,
) -> None:
    """Write (x - mean) / sqrt(variance + eps) * gamma + beta of each row of ``x (R, K)``.

    ``gamma`` and ``beta`` are (K); ``out`` may be x. ``activation`` (a key of
    ``kernels.finish_rows.ACTIVATIONS``) is applied to each finished row. Rows are shared over
    ``threads``, on which no result depends.

    >>> out = np.empty((1, 2), np.float32)
    >>> ones, zeros = np.ones(2, np.float32), np.zeros(2, np.float32)
    >>> layer_norm(np.array([[3.0, 5.0]], np.float32), ones, zeros, 0.0, out)
    >>> out.tolist()
    [[-1.0, 1.0]]
    """
    steps = _required("layer_norm", activation, (x, out), (gamma, beta))
    if on_threads(_layer_norm, threads)(x, gamma, beta, eps, steps, out, threads):
        _refuse("layer_norm", x, gamma, beta, out)


@compiled
def _merge_columns(x, first, rows, means, squares, scratch):
    """Add ``rows`` rows from row ``first`` to the means and squared deviations of the columns.

    ``scratch`` is float32 (3, C).
    """
    width, step = x.shape[1], x.strides[0]
    at = x.ctypes.data + first * step
    centre, near, far = scratch[0], scratch[1], scratch[2]
    scratch[:] = float32(0.0)
    whole = rows // 4 * 4
    for t in range(0, whole, 4):
        column_sums_4(at + t * step, step, centre.ctypes.data, width)
    for t in range(whole, rows):
        column_sums_1(at + t * step, step, centre.ctypes.data, width)
    for c in range(width):
        centre[c] /= float32(rows)
    for t in range(0, whole, 4):
        column_deviations_4(
            at + t * step, step, centre.ctypes.data, near.ctypes.data, far.ctypes.data, width
        )
    for t in range(whole, rows):
        column_deviations_1(
            at + t * step, step, centre.ctypes.data, near.ctypes.data, far.ctypes.data, width
        )
    share, both = rows / (first + rows), first * (rows / (first + rows))
    for c in range(width):
        off = float64(near[c]) / rows
        delta = float64(centre[c]) + off - means[c]
        means[c] += delta * share
        squares[c] += float64(far[c]) - rows * off * off + delta * delta * both


@entry(in2(float32), in1(float32), in1(float32), float64, int64, int64, out2(float32))
def _group_norm_rows(x, gamma, beta, eps, groups, steps, out):
    rows, width = x.shape
    if not (_fits(x, rows, width) and _fits(out, rows, width)) or groups < 1 or width % groups:
        return 1
    if not (_plain(gamma, width) and _plain(beta, width)):
        return 1
    means, squares = np.zeros(width, np.float64), np.zeros(width, np.float64)
    scratch = np.empty((3, width), np.float32)
    for first in range(0, rows, ROWS):
        _merge_columns(x, first, min(ROWS, rows - first), means, squares, scratch)
    state, each = np.empty(3, np.float64), width // groups
    for g in range(groups):
        state[:] = 0.0
        for c in range(g * each, (g + 1) * each):
            _merge(state, float64(rows), means[c], squares[c])
        factor = 1.0 / np.sqrt(state[2] / state[0] + eps)
        for c in range(g * each, (g + 1) * each):
            scratch[0, c], scratch[1, c] = float32(state[1]), float32(factor * gamma[c])
    for t in range(rows):
        source, target = x.ctypes.data + t * x.strides[0], out.ctypes.data + t * out.strides[0]
        # asked for here, as numba frees an array after its last mention, address or not
        centre, factors = scratch[0].ctypes.data, scratch[1].ctypes.data
        affine_columns(source, centre, factors, beta.ctypes.data, target, width)
        activate(target, target, width, steps)
    return 0


@entry(in2(float32), in1(float32), in1(float32), float64, int64, int64, out2(float32))
def _group_norm_channels(x, gamma, beta, eps, groups, steps, out):
    channels, width = x.shape
    if not (_fits(x, channels, width) and _fits(out, channels, width)):
        return 1
    if groups < 1 or channels % groups or gamma.size != channels or beta.size != channels:
        return 1
    scratch, memory = stack_bytes(64), stack_bytes(24)
    state, numbers = row_at(memory, 3, np.float64), row_at(scratch, 3, np.float32)
    each = channels // groups
    for g in range(groups):
        state[:] = 0.0
        for c in range(g * each, (g + 1) * each):
            _merge_row(state, x.ctypes.data + c * x.strides[0], width, scratch)
        factor = 1.0 / np.sqrt(state[2] / state[0] + eps)
        for c in range(g * each, (g + 1) * each):
            numbers[0], numbers[1] = float32(state[1]), float32(factor * gamma[c])
            numbers[2] = beta[c]
            target = out.ctypes.data + c * out.strides[0]
            affine_row(x.ctypes.data + c * x.strides[0], scratch, target, width)
            activate(target, target, width, steps)
    return 0


def group_norm(
    x: F32,
    gamma: F32,
    beta: F32,
    eps: float,
    out: F32,
    *,
    groups: int,
    channels_last: bool = True,
    activation: str = "none",
) -> None:
    """Write (x - mean) / sqrt(variance + eps) * gamma + beta by groups of neighbouring channels.

    ``x`` is (T, C), or (C, T) where ``channels_last`` is false; ``gamma`` and ``beta`` are (C).
    Mean and variance are over all times and the C / groups channels of a group: with as many
    groups as channels it is the norm of wav2vec 2.0's first layer. ``out`` may be x;
    ``activation`` as in ``layer_norm``.
    """
    steps = _required("group_norm", activation, (x, out), (gamma, beta))
    run = _group_norm_rows if channels_last else _group_norm_channels
    if run(x, gamma, beta, eps, groups, steps, out):
        axis = 1 if channels_last else 0
        raise ValueError(
            f"group_norm: found {groups} groups, {told(x)} strides {x.strides}, {told(gamma)}, "
            f"{told(beta)}, {told(out)} strides {out.strides}; expected a divisor of the channels "
            f"(axis {axis}), fitting shapes of at least one element and unit inner strides"
        )


def fold_batch_norm(variance: F32, gamma: F32, eps: float) -> F32:
    """Return gamma / sqrt(variance + eps), the factor of ``batch_norm``, rounded once.

    >>> fold_batch_norm(np.full(1, 3.0, np.float32), np.full(1, 4.0, np.float32), 1.0).tolist()
    [2.0]
    """
    root = np.sqrt(variance.astype(np.float64) + eps)
    return (gamma.astype(np.float64) / root).astype(np.float32)


@entry(in2(float32), in1(float32), in1(float32), in1(float32), int64, out2(float32))
def _batch_norm_rows(x, mean, factor, shift, steps, out):
    rows, width = x.shape
    if not (_fits(x, rows, width) and _fits(out, rows, width)):
        return 1
    if not (_plain(mean, width) and _plain(factor, width) and _plain(shift, width)):
        return 1
    a, b, c = mean.ctypes.data, factor.ctypes.data, shift.ctypes.data
    for t in range(rows):
        source, target = x.ctypes.data + t * x.strides[0], out.ctypes.data + t * out.strides[0]
        affine_columns(source, a, b, c, target, width)
        activate(target, target, width, steps)
    return 0


@entry(in2(float32), in1(float32), in1(float32), in1(float32), int64, out2(float32))
def _batch_norm_channels(x, mean, factor, shift, steps, out):
    rows, width = x.shape
    if not (_fits(x, rows, width) and _fits(out, rows, width)):
        return 1
    if not mean.size == factor.size == shift.size == rows:
        return 1
    scratch = stack_bytes(64)
    numbers = row_at(scratch, 3, np.float32)
    for t in range(rows):
        numbers[0], numbers[1], numbers[2] = mean[t], factor[t], shift[t]
        target = out.ctypes.data + t * out.strides[0]
        affine_row(x.ctypes.data + t * x.strides[0], scratch, target, width)
        activate(target, target, width, steps)
    return 0


def batch_norm(
    x: F32,
    mean: F32,
    factor: F32,
    shift: F32,
    out: F32,
    *,
    channels_last: bool = True,
    activation: str = "none",
) -> None:
    """Write (x - mean) * factor + shift of each channel, batch normalisation with fixed moments.

    ``x`` is (T, C), or (C, T) where ``channels_last`` is false; ``mean``, ``factor`` (from
    ``fold_batch_norm``) and ``shift`` are (C). ``out`` may be x; ``activation`` as in
    ``layer_norm``. The error is at most 2e-7 (|(x - mean) factor| + |y|).
    """
    steps = _required("batch_norm", activation, (x, out), (mean, factor, shift))
    run = _batch_norm_rows if channels_last else _batch_norm_channels
    if run(x, mean, factor, shift, steps, out):
        _refuse("batch_norm", x, mean, factor, shift, out)


def _required(
    name: str, activation: str, matrices: tuple[F32, ...], vectors: tuple[F32, ...]
) -> int:
    """Check types and return the steps of the activation."""
    require(name, FLOATS, 2, *matrices)
    require(name, FLOATS, 1, *vectors)
    if activation not in ACTIVATIONS:
        raise ValueError(
            f"{name}: activation: found {activation!r}, expected one of {', '.join(ACTIVATIONS)}"
        )
    return ACTIVATIONS[activation]


def _refuse(name: str, *arrays: NDArray[np.generic]) -> None:
    found = ", ".join(f"{told(a)} strides {a.strides}" for a in arrays)
    raise ValueError(
        f"{name}: found {found}; expected fitting shapes of at least one element and unit inner "
        "strides"
    )
