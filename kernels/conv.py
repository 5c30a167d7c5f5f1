"""Workspaces that make a convolution a linear layer over rows of windows.

In a zero-padded time-major workspace ``(padding + T + padding, C)`` the inputs of output frame t
are the ``size * C`` consecutive numbers from row ``stride * t`` on. A linear layer over these
overlapping rows, with weights ordered (size, C), is the convolution; no column matrix is ever
made. A grouped convolution has one such workspace per group. Windows of two dimensions do not lie
together in memory; they are gathered for a block of outputs at a time.
"""

from collections.abc import Iterator

import numpy as np
from llvmlite import ir
from numba import int64, uint8
from numba.core import cgutils
from numpy.lib.stride_tricks import as_strided
from numpy.typing import NDArray

from kernels.arguments import CODES, FLOATS, require, told
from kernels.jit import entry, in3, out2
from kernels.simd import I8, Value, Writer, tile

Codes = NDArray[np.float32] | NDArray[np.int8]
BYTE_POINTER = ir.IntType(8).as_pointer()


def pad_time(x: Codes, workspace: Codes, *, padding: int) -> None:
    """Copy ``x (T, C)``, any strides, between ``padding`` rows of zeros of the workspace.

    A channel-major ``(C, T)`` array is passed as its transpose.

    >>> work = np.empty((4, 1), np.float32)
    >>> pad_time(np.array([[1.0], [2.0]], np.float32), work, padding=1)
    >>> work[:, 0].tolist()
    [0.0, 1.0, 2.0, 0.0]
    """
    _require("pad_time", 2, x, workspace)
    frames, channels = x.shape
    expected = (frames + 2 * padding, channels)
    if workspace.shape != expected or padding < 0:
        raise ValueError(
            f"pad_time: workspace: found {told(workspace)} for a padding of {padding}, expected "
            f"{x.dtype} {expected} and a padding of at least 0"
        )
    workspace[:padding] = 0
    workspace[padding : padding + frames] = x
    workspace[padding + frames :] = 0


def pad_groups(x: Codes, workspace: Codes, *, padding: int) -> None:
    """Copy ``x (T, C)`` into a workspace ``(groups, padding + T + padding, C / groups)``.

    ``windows(workspace[g])`` are then the rows of group g, whose linear layer writes the columns
    of that group's outputs.

    >>> work = np.empty((2, 3, 1), np.float32)
    >>> pad_groups(np.array([[1.0, 2.0]], np.float32), work, padding=1)
    >>> work[:, :, 0].tolist()
    [[0.0, 1.0, 0.0], [0.0, 2.0, 0.0]]
    """
    _require("pad_groups", 2, x)
    _require("pad_groups", 3, workspace)
    frames, channels = x.shape
    groups, rows, depth = workspace.shape
    fits = groups * depth == channels and rows == frames + 2 * padding and padding >= 0
    if not fits or workspace.dtype != x.dtype:
        raise ValueError(
            f"pad_groups: found x {told(x)}, padding {padding}, workspace {told(workspace)}; "
            f"expected {x.dtype} (groups, {frames + 2 * padding}, {channels} / groups)"
        )
    workspace[:, :padding] = 0
    inside = workspace[:, padding : padding + frames]
    for g in range(groups):
        inside[g] = x[:, g * depth : (g + 1) * depth]
    workspace[:, padding + frames :] = 0


def windows(workspace: Codes, *, size: int, stride: int) -> Codes:
    """View a contiguous workspace as overlapping rows ``(frames, size * C)``, one per output.

    >>> windows(np.arange(5, dtype=np.float32).reshape(5, 1), size=3, stride=2).tolist()
    [[0.0, 1.0, 2.0], [2.0, 3.0, 4.0]]
    """
    _require("windows", 2, workspace)
    rows, channels = workspace.shape
    if size < 1 or stride < 1 or rows < size or not workspace.flags.c_contiguous:
        raise ValueError(
            f"windows: found size {size}, stride {stride} over a workspace {workspace.shape} with "
            f"strides {workspace.strides}; expected size in [1, {rows}], stride at least 1, "
            "contiguous rows"
        )
    frames = (rows - size) // stride + 1
    step = workspace.strides[0]
    return as_strided(workspace, (frames, size * channels), (stride * step, workspace.itemsize))


def _pointer(w: Writer, address: Value) -> Value:
    return w.b.inttoptr(address, BYTE_POINTER)


@tile(3)
def _copy(w: Writer, source, target, size) -> None:
    """Tile: copy ``size`` bytes."""
    cgutils.raw_memcpy(w.b, _pointer(w, target), _pointer(w, source), size, 1)


@tile(2)
def _clear(w: Writer, target, size) -> None:
    """Tile: set ``size`` bytes to zero."""
    cgutils.memset(w.b, _pointer(w, target), size, I8(0))


@entry(in3(uint8), int64, int64, int64, int64, int64, out2(uint8))
def _gather(x, size, stride, padding, across, first, workspace):
    """Copy the windows of outputs from ``first`` on, ``across`` of them a row of the image."""
    height, width, depth = x.shape
    for r in range(workspace.shape[0]):
        top = (first + r) // across * stride - padding
        left = (first + r) % across * stride - padding
        before = min(max(-left, 0), size)
        inside = max(min(left + size, width) - max(left, 0), 0)
        after = size - before - inside
        to = workspace.ctypes.data + r * workspace.strides[0]
        for i in range(top, top + size):
            if i < 0 or i >= height:
                _clear(to, size * depth)
            else:
                source = x.ctypes.data + i * x.strides[0] + max(left, 0) * x.strides[1]
                _clear(to, before * depth)
                _copy(source, to + before * depth, inside * depth)
                _clear(to + (before + inside) * depth, after * depth)
            to += size * depth
    return 0


def output_size(length: int, *, size: int, stride: int, padding: int) -> int:
    """Count the outputs of a convolution along an axis; ValueError if there are none.

    >>> output_size(1000, size=3, stride=2, padding=0)
    499
    """
    if size < 1 or stride < 1 or padding < 0 or length < 1 or length + 2 * padding < size:
        raise ValueError(
            f"output_size: found length {length}, size {size}, stride {stride}, padding {padding}; "
            "expected positive numbers, a padding of at least 0, a window inside the padded length"
        )
    return (length + 2 * padding - size) // stride + 1


def window_blocks(
    x: Codes, workspace: Codes, *, size: int, stride: int, padding: int
) -> Iterator[tuple[int, Codes]]:
    """Yield the windows of a convolution of ``x (H, W, C)`` by size x size, a block at a time.

    ``workspace (rows, size * size * C)`` holds one block. What is yielded is the number of the
    block's first output, counted row by row over the (H', W') outputs, and the filled rows of the
    workspace, whose elements are ordered (size, size, C): the next block overwrites them. The
    channels of a pixel and the pixels of a row lie together in memory.

    >>> image = np.arange(6, dtype=np.float32).reshape(2, 3, 1)
    >>> for first, rows in window_blocks(
    ...     image, np.empty((1, 4), np.float32), size=2, stride=1, padding=0
    ... ):
    ...     print(first, rows.tolist())
    0 [[0.0, 1.0, 3.0, 4.0]]
    1 [[1.0, 2.0, 4.0, 5.0]]
    """
    _require("window_blocks", 3, x)
    _require("window_blocks", 2, workspace)
    height, width, channels = x.shape
    down = output_size(height, size=size, stride=stride, padding=padding)
    across = output_size(width, size=size, stride=stride, padding=padding)
    lies_together = x.strides[2] == x.itemsize and x.strides[1] == channels * x.itemsize
    fits = workspace.shape[1] == size * size * channels and len(workspace) > 0
    is_plain = workspace.strides[1] == workspace.itemsize
    if not (lies_together and fits and is_plain) or workspace.dtype != x.dtype:
        raise ValueError(
            f"window_blocks: found x {told(x)} strides {x.strides}, workspace {told(workspace)} "
            f"strides {workspace.strides}; expected x (H, W, C) with pixels next to each other, "
            f"workspace {x.dtype} (rows, {size * size * channels}) with a unit inner stride"
        )
    return _blocks(x, workspace, size, stride, padding, down * across, across)


def _blocks(
    x: Codes, workspace: Codes, size: int, stride: int, padding: int, outputs: int, across: int
) -> Iterator[tuple[int, Codes]]:
    source, target = x.view(np.uint8), workspace.view(np.uint8)
    for first in range(0, outputs, len(workspace)):
        count = min(len(workspace), outputs - first)
        _gather(source, size, stride, padding, across, first, target[:count])
        yield first, workspace[:count]


def _require(name: str, dimensions: int, *arrays: Codes) -> None:
    dtype = CODES if getattr(arrays[0], "dtype", None) == CODES else FLOATS
    require(name, dtype, dimensions, *arrays)
