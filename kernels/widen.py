"""Weight-only linear layers: 8-bit and 4-bit codes widened in registers, float activations.

Meant for few rows, where reading the weights is the work: the panels are those of the integer
layers, a quarter or an eighth of the float ones. A code becomes float exactly, products and sums
are float32, and the scale of the output comes last.
"""

import numpy as np
from numba import float32, int64, uint8

from kernels.epilogue import FLOATS, emit
from kernels.jit import compiled, entry, in1, in2, out2
from kernels.lowbit import misfits
from kernels.lowbit_tiles import row_addresses
from kernels.quads import OFFSET_4, OFFSET_8, PANELS_4, PANELS_8, QUAD, WIDTH, quads_of
from kernels.registry import SIMD, kernel
from kernels.simd import F32 as F32_LANE
from kernels.simd import (
    F32X8,
    I8X32,
    I32X8,
    I64,
    Value,
    Writer,
    constant,
    row_at,
    stack_bytes,
    tile,
)

ROW_BLOCK = 16
SUMS_BYTES = ROW_BLOCK * WIDTH * 4


def _tile(rows: int, *, is_4: bool):
    """Make the tile sums[r][0:16] = sum over quads of w x[r], in float32.

    Sums of even and of odd steps run apart, to hide the latency of the FMA.
    """
    offset = constant(F32X8, float(OFFSET_4 if is_4 else OFFSET_8))
    low_byte = constant(I32X8, 255)

    def generate(w: Writer, x, x_step, panel, quads, sums) -> None:
        b = w.b
        row = row_addresses(w, x, x_step, rows)

        def widened(packed: Value, i: int) -> Value:
            """Step i of the quad in each 32-bit lane, as float."""
            shifted = b.lshr(packed, constant(I32X8, 8 * i)) if i else packed
            return b.fsub(w.to_f32(b.and_(shifted, low_byte)), offset)

        def body(q, *carried: Value):
            acc = list(carried)
            if is_4:
                loaded = w.halves(w.load(I8X32, b.add(panel, b.mul(q, I64(32)))))
            else:
                at_w = b.add(panel, b.mul(q, I64(64)))
                loaded = (w.load(I8X32, at_w), w.load(I8X32, at_w, 32))
            packed = [b.bitcast(value, I32X8) for value in loaded]
            at_x = b.mul(q, I64(QUAD * 4))
            for i in range(QUAD):
                weights = [widened(value, i) for value in packed]
                for r in range(rows):
                    value = w.splat(w.load(F32_LANE, b.add(row[r], at_x), 4 * i), F32X8)
                    for j in range(2):
                        lane = (i % 2 * rows + r) * 2 + j
                        acc[lane] = w.fma(value, weights[j], acc[lane])
            return acc

        acc = w.loop(quads, [constant(F32X8, 0.0)] * (4 * rows), body)
        for i in range(2 * rows):
            w.store(b.fadd(acc[i], acc[i + 2 * rows]), sums, 32 * i)

    return tile(5)(generate)


_tile_8_1, _tile_8_2 = (_tile(rows, is_4=False) for rows in (1, 2))
_tile_4_1, _tile_4_2 = (_tile(rows, is_4=True) for rows in (1, 2))


@compiled
def _panel(x, x_step, rows, panel, quads, sums, is_4):
    for t in range(0, rows - 1, 2):
        if is_4:
            _tile_4_2(x + t * x_step, x_step, panel, quads, sums + 64 * t)
        else:
            _tile_8_2(x + t * x_step, x_step, panel, quads, sums + 64 * t)
    if rows % 2:
        t = rows - 1
        if is_4:
            _tile_4_1(x + t * x_step, x_step, panel, quads, sums + 64 * t)
        else:
            _tile_8_1(x + t * x_step, x_step, panel, quads, sums + 64 * t)


@entry(
    in2(float32),
    in1(uint8),
    in1(float32),
    in1(float32),
    int64,
    int64,
    int64,
    int64,
    in1(float32),
    in1(float32),
    in1(float32),
    out2(float32),
)
def linear_wide(x, panels, _s, _z, n, k, _g, bits, w_scale, x_scale, bias, out):
    """Float activations times weight codes, then the scale of the output and the bias."""
    if w_scale.size != n or misfits(x, n, k, w_scale, w_scale[:1], bias, out):
        return 1
    is_4 = bits == 4
    quads = quads_of(bits, k)
    step = quads * QUAD * 4
    copies = np.zeros((min(x.shape[0], ROW_BLOCK), quads * QUAD), np.float32)
    at_copies, at_panels = copies.ctypes.data, panels.ctypes.data
    sums = stack_bytes(SUMS_BYTES)
    panel_bytes = quads * (32 if is_4 else 64)
    at_scale, at_bias = w_scale.ctypes.data, bias.ctypes.data
    for t in range(0, x.shape[0], ROW_BLOCK):
        rows = min(ROW_BLOCK, x.shape[0] - t)
        for r in range(rows):
            source = row_at(x.ctypes.data + (t + r) * x.strides[0], k, np.float32)
            row_at(at_copies + r * step, k, np.float32)[:] = source
        for p in range((n + WIDTH - 1) // WIDTH):
            _panel(at_copies, step, rows, at_panels + p * panel_bytes, quads, sums, is_4)
            emit(
                sums,
                rows,
                min(WIDTH, n - p * WIDTH),
                0,
                0,
                at_scale + p * 64,
                at_bias + p * 64 if bias.size else 0,
                out.ctypes.data + t * out.strides[0] + p * 64,
                out.strides[0],
                FLOATS,
            )
    copies[0, 0] = float32(0.0)  # keeps the array alive until here
    return 0


for _name, _values, _layout in (("w8_f32", "i8", PANELS_8), ("w4_f32", "i4", PANELS_4)):
    kernel(_name, op="linear", values=_values, activation="f32", layout=_layout, requires=SIMD)(
        linear_wide
    )
