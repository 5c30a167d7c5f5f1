"""Depthwise convolution over time: each channel with its own weights.

Time-major rows ``(T, C)`` are taken 16 channels wide: the window of a block of outputs is copied
into a contiguous strip with zeros for the padding, as rows of 2 KiB apart would share a few sets of
the first cache, and a register tile of 6 outputs runs over the taps.
"""

from typing import Any

import numpy as np
from numba import float32, int64, prange
from numpy.typing import NDArray

from kernels.arguments import FLOATS, on_threads, require, told
from kernels.finish import share
from kernels.finish_rows import ACTIVATIONS, activate
from kernels.jit import compiled, entry, in1, in2, in3, out2
from kernels.mathematics import FUSE
from kernels.memory import aligned_zeros
from kernels.norm_tiles import affine_columns
from kernels.row_ops import copy_row
from kernels.row_tiles import vector
from kernels.simd import I64, Value, Writer, row_at, stack_bytes, tile

F32 = NDArray[np.float32]
CHANNELS = 16
LINE = 4 * CHANNELS
OUTPUTS = 6
STRIP_BYTES = 16384
"""Half of the smallest first cache of current CPUs; a strip is longer only for one tile."""
_NONE = np.zeros(0, np.float32)


def pack_depthwise(weights: F32) -> F32:
    """Panels ``(ceil(C / 16), size, 16)`` of ``weights (C, size)``, zeros past C.

    >>> pack_depthwise(np.array([[1.0, 2.0]], np.float32))[0, :, 0].tolist()
    [1.0, 2.0]
    """
    require("pack_depthwise", FLOATS, 2, weights)
    channels, size = weights.shape
    panels = aligned_zeros((-(-channels // CHANNELS), size, CHANNELS), np.float32)
    for c in range(channels):
        panels[c // CHANNELS, :, c % CHANNELS] = weights[c]
    return panels


@tile(4)
def _copy_lines(w: Writer, source, step, target, rows) -> None:
    """Tile: copy ``rows`` rows of 16 channels, ``step`` bytes apart, next to each other."""
    b = w.b

    def body(i):
        line = w.load(vector(CHANNELS), b.add(source, b.mul(i, step)))
        w.store(line, b.add(target, b.mul(i, I64(LINE))))
        return []

    w.loop(rows, [], body)


def _tile(outputs: int) -> Any:
    """Make the tile: out[r] = bias + sum over taps of strip[r * stride + tap] weights[tap]."""

    def generate(w: Writer, strip, stride, panel, taps, bias, out, out_step) -> None:
        b, kind = w.b, vector(CHANNELS)
        starts = [b.add(strip, b.mul(stride, I64(r * LINE))) for r in range(outputs)]

        def body(j, *acc: Value):
            at = b.mul(j, I64(LINE))
            weights = w.load(kind, b.add(panel, at))
            return [
                b.fadd(b.fmul(w.load(kind, b.add(start, at)), weights, flags=FUSE), one, flags=FUSE)
                for start, one in zip(starts, acc, strict=True)
            ]

        acc = w.loop(taps, [w.load(kind, bias)] * outputs, body)
        for r, value in enumerate(acc):
            w.store(value, b.add(out, b.mul(out_step, I64(r))))

    return tile(7)(generate)


_tile_6, _tile_1 = _tile(OUTPUTS), _tile(1)


@compiled
def _fill(x, first, channel, width, strip, rows):
    """Copy rows from ``first`` (which may lie outside x) of ``width`` channels to the strip."""
    before = min(max(-first, 0), rows)
    inside = max(min(first + rows, x.shape[0]) - max(first, 0), 0)
    source = x.ctypes.data + max(first, 0) * x.strides[0] + 4 * channel
    if width < CHANNELS or inside < rows:
        zeros = row_at(strip, rows * CHANNELS, np.float32)
        for i in range(zeros.size):
            zeros[i] = float32(0.0)
    target = strip + before * LINE
    if width == CHANNELS:
        _copy_lines(source, x.strides[0], target, inside)
    else:
        for t in range(inside):
            copy_row(source + t * x.strides[0], target + t * LINE, width)


@compiled
def _block(strip, stride, panel, taps, bias, out, out_step, rows):
    """Run the tiles over the outputs of one strip."""
    whole = rows // OUTPUTS * OUTPUTS
    for t in range(0, whole, OUTPUTS):
        at = strip + t * stride * LINE
        _tile_6(at, stride, panel, taps, bias, out + t * out_step, out_step)
    for t in range(whole, rows):
        _tile_1(strip + t * stride * LINE, stride, panel, taps, bias, out + t * out_step, out_step)


@compiled
def _fits(x, panels, bias, stride, padding, out):
    size, channels = panels.shape[1], x.shape[1]
    if size < 1 or stride < 1 or padding < 0 or channels < 1 or x.shape[0] + 2 * padding < size:
        return False
    if panels.shape[0] != (channels + CHANNELS - 1) // CHANNELS or panels.shape[2] != CHANNELS:
        return False
    if panels.strides[2] != 4 or panels.strides[1] != LINE or panels.strides[0] != size * LINE:
        return False
    if bias.size not in {0, channels} or (bias.size > 1 and bias.strides[0] != 4):
        return False
    frames = (x.shape[0] + 2 * padding - size) // stride + 1
    if out.shape[0] != frames or out.shape[1] != channels:
        return False
    return channels == 1 or (x.strides[1] == 4 and out.strides[1] == 4)


@compiled
def _norm_fits(mean, factor, shift, channels):
    """Tell whether a norm is absent (empty arrays) or has one contiguous number per channel."""
    if not mean.size == factor.size == shift.size or mean.size not in {0, channels}:
        return False
    return mean.size <= 1 or mean.strides[0] == factor.strides[0] == shift.strides[0] == 4


@compiled
def _finish(row, channels, mean, factor, shift, steps):
    """Normalise and activate a row of outputs, as ``norms.batch_norm`` does."""
    if mean.size:
        # asked for here, as numba frees an array after its last mention, address or not
        centre, times, plus = mean.ctypes.data, factor.ctypes.data, shift.ctypes.data
        affine_columns(row, centre, times, plus, row, channels)
    activate(row, row, channels, steps)


@compiled
def _span(
    x, panels, bias, stride, padding, mean, factor, shift, steps, out, block, t0, t1
):  # fmt: skip
    """Compute outputs ``t0`` to ``t1`` of all channels, a strip of ``block`` at a time."""
    size, channels = panels.shape[1], out.shape[1]
    memory = np.empty(((block - 1) * stride + size + block + 1, CHANNELS), np.float32)
    start = stack_bytes(64)
    first_sums = row_at(start, CHANNELS, np.float32)
    for t in range(t0, t1, block):
        rows = min(block, t1 - t)
        target = out.ctypes.data + t * out.strides[0]
        for c in range(0, channels, CHANNELS):
            width = min(CHANNELS, channels - c)
            # asked for here, as numba frees an array after its last mention, address or not
            strip = (memory.ctypes.data + LINE - 1) // LINE * LINE
            edge = strip + ((block - 1) * stride + size) * LINE
            _fill(x, t * stride - padding, c, width, strip, (rows - 1) * stride + size)
            for i in range(CHANNELS):
                first_sums[i] = bias[c + i] if i < width and bias.size else float32(0.0)
            panel = panels.ctypes.data + c // CHANNELS * size * LINE
            if width == CHANNELS:
                _block(strip, stride, panel, size, start, target + 4 * c, out.strides[0], rows)
                continue
            _block(strip, stride, panel, size, start, edge, LINE, rows)
            for r in range(rows):
                copy_row(edge + r * LINE, target + 4 * c + r * out.strides[0], width)
        for r in range(rows):
            _finish(target + r * out.strides[0], channels, mean, factor, shift, steps)


@entry(
    in2(float32), in3(float32), in1(float32), int64, int64,
    in1(float32), in1(float32), in1(float32), int64, out2(float32), int64,
)  # fmt: skip
def _depthwise(x, panels, bias, stride, padding, mean, factor, shift, steps, out, threads):
    if not _fits(x, panels, bias, stride, padding, out):
        return 1
    if not _norm_fits(mean, factor, shift, out.shape[1]):
        return 1
    size, frames = panels.shape[1], out.shape[0]
    block = max(OUTPUTS, (STRIP_BYTES // LINE - size) // stride // OUTPUTS * OUTPUTS)
    for c in prange(threads):
        t0, t1 = share(frames, OUTPUTS, threads, c)
        _span(x, panels, bias, stride, padding, mean, factor, shift, steps, out, block, t0, t1)
    return 0


def depthwise_conv1d(
    x: F32,
    panels: F32,
    out: F32,
    *,
    bias: F32 | None = None,
    stride: int = 1,
    padding: int = 0,
    norm: tuple[F32, F32, F32] | None = None,
    activation: str = "none",
    threads: int = 1,
) -> None:
    """Write the convolution over time of ``x (T, C)``, each channel with its own weights.

    ``panels`` come from ``pack_depthwise``; ``bias`` is (C); ``out`` is ((T + 2 padding - size) //
    stride + 1, C) and shares no memory with x. ``norm``, the mean, factor and shift (C) of
    ``norms.batch_norm``, and ``activation`` (a key of ``kernels.finish_rows.ACTIVATIONS``) are
    applied to the result, block by block, with the bits of separate calls. The error before them
    is at most (size + 1) 2**-24 times the sum of |x| |w| and |bias|. Outputs are shared over
    ``threads``, on which no result depends.

    >>> panels = pack_depthwise(np.array([[1.0, 10.0, 100.0]], np.float32))
    >>> out = np.empty((2, 1), np.float32)
    >>> depthwise_conv1d(np.array([[1.0], [2.0]], np.float32), panels, out, padding=1)
    >>> out[:, 0].tolist()
    [210.0, 21.0]
    """
    bias = _NONE if bias is None else bias
    require("depthwise_conv1d", FLOATS, 2, x, out)
    require("depthwise_conv1d", FLOATS, 3, panels)
    mean, factor, shift = norm or (_NONE, _NONE, _NONE)
    require("depthwise_conv1d", FLOATS, 1, bias, mean, factor, shift)
    fits = activation in ACTIVATIONS and not np.may_share_memory(x, out)
    run, steps = on_threads(_depthwise, threads), ACTIVATIONS.get(activation, 0)
    numbers = (stride, padding, mean, factor, shift, steps)
    if not fits or run(x, panels, bias, *numbers, out, threads):
        raise ValueError(
            f"depthwise_conv1d: found x {told(x)} strides {x.strides}, panels {told(panels)}, bias "
            f"{told(bias)}, out {told(out)} strides {out.strides}, stride {stride}, padding "
            f"{padding}, norm {told(mean)}, {told(factor)}, {told(shift)}, activation "
            f"{activation!r}; expected x (T, C), panels of pack_depthwise for C channels, bias and "
            "norm (C), out ((T + 2 padding - size) // stride + 1, C) in other memory, "
            f"unit inner strides, one of {', '.join(ACTIVATIONS)}"
        )
