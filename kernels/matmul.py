"""Products of activations with activations, head by head.

The second operand is laid out as panels like weights are, at every call; then the tiles of the
float linear layers run. A factor is applied to finished rows while they are in cache.
"""

from typing import Any

import numpy as np
from numba import float32, int64
from numpy.typing import NDArray

from kernels.arguments import FLOATS, require, told
from kernels.finish import ROW_BLOCK
from kernels.jit import compiled, entry, host_features, in3
from kernels.registry import SIMD
from kernels.row_tiles import splat, sweep
from kernels.simd import F32 as F32_LANE
from kernels.simd import Writer, row_at, stack_bytes, tile

F32 = NDArray[np.float32]
_OUT = in3(float32).copy(readonly=False)


@tile(3)
def _scale_row(w: Writer, row, factor, count) -> None:
    """Tile: multiply ``count`` numbers by the one at ``factor``."""
    b = w.b
    number = w.load(F32_LANE, factor)

    def step(kind, offset):
        at = b.add(row, offset)
        w.store(b.fmul(w.load(kind, at), splat(w, number, kind)), at)
        return []

    sweep(w, count, [], step)


@compiled
def _fits(a, b, out):
    heads, rows, depth = a.shape
    width = b.shape[2]
    if b.shape[0] != heads or b.shape[1] != depth or heads * rows * depth * width == 0:
        return False
    if out.shape[0] != heads or out.shape[1] != rows or out.shape[2] != width:
        return False
    flat = (depth == 1 or a.strides[2] == 4) and (width == 1 or out.strides[2] == 4)
    by_row, by_column = width == 1 or b.strides[2] == 4, depth == 1 or b.strides[1] == 4
    return flat and (by_row or by_column)


@compiled
def _scale_rows(at, step, rows, width, scale):
    if scale == float32(1.0):
        return
    factor = stack_bytes(64)
    row_at(factor, 1, np.float32)[0] = scale
    for r in range(rows):
        _scale_row(at + r * step, factor, width)


@entry(in3(float32), in3(float32), float32, _OUT)
def _plain(a, b, scale, out):
    """Multiply in plain loops, for any CPU."""
    if not _fits(a, b, out):
        return 1
    for h in range(a.shape[0]):
        for t in range(a.shape[1]):
            row = out[h, t]
            row[:] = float32(0.0)
            for d in range(a.shape[2]):
                number = a[h, t, d]
                for s in range(b.shape[2]):
                    row[s] += number * b[h, d, s]
            for s in range(b.shape[2]):
                row[s] *= scale
    return 0


_run: Any = _plain
if host_features().issuperset(SIMD):
    from kernels.attention_tiles import pack_keys, pack_values
    from kernels.dense import matmul as panel_matmul

    @entry(in3(float32), in3(float32), float32, _OUT)
    def _tiled(a, b, scale, out):
        """Multiply with panels of the second operand."""
        if not _fits(a, b, out):
            return 1
        heads, rows, depth = a.shape
        width = b.shape[2]
        memory = np.empty((width + 15) // 16 * depth * 64 + 64, np.uint8)
        panels = (int64(memory.ctypes.data) + 63) // 64 * 64
        for h in range(heads):
            second = int64(b.ctypes.data) + h * b.strides[0]
            if b.strides[1] == 4 and b.strides[2] != 4:
                pack_keys(second, b.strides[2], width, depth, panels)
            else:
                pack_values(second, b.strides[1], depth, width, panels)
            for t in range(0, rows, ROW_BLOCK):
                count = min(ROW_BLOCK, rows - t)
                first = int64(a.ctypes.data) + h * a.strides[0] + t * a.strides[1]
                to = int64(out.ctypes.data) + h * out.strides[0] + t * out.strides[1]
                panel_matmul(
                    first, a.strides[1], count, panels, width, depth, int64(0), to, out.strides[1]
                )
                _scale_rows(to, out.strides[1], count, width, scale)
        memory[0] = 0  # keeps the array alive until here
        return 0

    _run = _tiled


def matmul(a: F32, b: F32, out: F32, *, scale: float = 1.0) -> None:
    """Write a @ b times ``scale``, both rounded, of ``a (H, T, K)`` and ``b (H, K, N)``.

    ``out (H, T, N)`` shares no memory with them; a and out have unit inner strides, b one along
    either of its last axes. The error is at most (K + 4) 2**-24 times the sum of |a| |b| |scale|.

    >>> out = np.empty((1, 1, 1), np.float32)
    >>> matmul(np.full((1, 1, 3), 2.0, np.float32), np.ones((1, 3, 1), np.float32), out, scale=0.5)
    >>> out.tolist()
    [[[3.0]]]
    """
    require("matmul", FLOATS, 3, a, b, out)
    shared = np.may_share_memory(a, out) or np.may_share_memory(b, out)
    if shared or not out.flags.writeable or _run(a, b, scale, out):
        raise ValueError(
            f"matmul: found a {told(a)} strides {a.strides}, b {told(b)} strides {b.strides}, out "
            f"{told(out)} strides {out.strides}; expected (H, T, K), (H, K, N) and (H, T, N), none "
            "empty, in other memory, with unit inner strides (b: along either axis)"
        )
