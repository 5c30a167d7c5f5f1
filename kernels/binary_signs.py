"""One-bit layers whose outputs are bits again: packed flags of output >= threshold."""

import numpy as np
from numba import float32, int64, prange, uint8

from kernels.binarize import sign_row
from kernels.binary import SIGNED_BITS, UNSIGNED_BITS, span
from kernels.binary_tiles import PANEL
from kernels.finish import FINE, MISFIT, NAN_SCALE, PLAN_BYTES, fill, share
from kernels.jit import compiled, entry, in1, in2, out2
from kernels.registry import SIMD, kernel
from kernels.simd import stack_bytes

HEIGHT = 48
"""Rows computed together, so that their float outputs stay in L2 until they are bits."""


@compiled
def _has_nan(values):
    for i in range(values.size):  # noqa: SIM110 (a generator is no numba code)
        if np.isnan(values[i]):
            return True
    return False


@compiled
def _dense(array):
    return array.size <= 1 or array.strides[0] == array.itemsize


@compiled
def _unfit(x, n, k, w_scale, x_scale, bias, threshold, packed, threads):
    """Status of the arguments."""
    rows = x.shape[0]
    if threads < 1 or x.shape[1] != (k + 7) // 8 or packed.shape[1] != (n + 7) // 8:
        return MISFIT
    if packed.shape[0] != rows or w_scale.size != n or bias.size not in {0, n}:
        return MISFIT
    if threshold.size != n or (rows > 0 and x_scale.size not in {1, rows}):
        return MISFIT
    if not (_dense(w_scale) and _dense(bias) and _dense(threshold)):
        return MISFIT
    if rows > 0 and ((k > 8 and x.strides[1] != 1) or (n > 8 and packed.strides[1] != 1)):
        return MISFIT
    return NAN_SCALE if _has_nan(x_scale) or _has_nan(threshold) else FINE


@compiled
def _rows(x, x_step, t0, t1, panels, n, k, tables, is_unsigned, plan, floats, threshold, packed,
          packed_step):  # fmt: skip
    """Write the bits of rows ``t0`` to ``t1``; ``floats`` is memory for a block of outputs."""
    wide = (n + PANEL - 1) // PANEL
    for t in range(t0, t1, HEIGHT):
        end = min(t + HEIGHT, t1)
        span(x, x_step, t, end, panels, 0, wide, n, k, tables, is_unsigned, plan, floats, True)
        for r in range(t, end):
            sign_row(floats + (r - t) * n * 4, threshold, n, packed + r * packed_step)


@entry(
    in2(uint8), in1(uint8), int64, int64, in1(uint8), int64, in1(float32), in1(float32),
    in1(float32), in1(float32), out2(uint8), int64,
)  # fmt: skip
def linear_to_bits(
    x, panels, n, k, tables, is_unsigned, w_scale, x_scale, bias, threshold, packed, threads
):
    """Write bits of ``linear_bits >= threshold (N)`` into ``packed (T, ceil(N / 8))``.

    Arguments and statuses are those of ``linear_bits``; NaN in ``threshold`` has NAN_SCALE. Float
    outputs live only in a block of rows.
    """
    status = _unfit(x, n, k, w_scale, x_scale, bias, threshold, packed, threads)
    if status:
        return status
    rows = x.shape[0]
    none, nothing = np.empty((0, 0), np.float32), np.empty(0, np.float32)
    no_codes = np.empty((0, 0), np.int8)
    plan = stack_bytes(PLAN_BYTES)
    fill(plan, n, w_scale, x_scale, bias, none, none, no_codes, nothing, 0)
    height = min(rows, HEIGHT)
    memory = np.empty((height * threads, n), np.float32)
    floats = int64(memory.ctypes.data)
    at_x, x_step, at_panels = int64(x.ctypes.data), int64(x.strides[0]), int64(panels.ctypes.data)
    at_tables, at_threshold = int64(tables.ctypes.data), int64(threshold.ctypes.data)
    at_packed, packed_step = int64(packed.ctypes.data), int64(packed.strides[0])
    for c in prange(threads):
        t0, t1 = share(rows, HEIGHT, threads, c)
        mine = floats + c * height * n * 4
        _rows(at_x, x_step, t0, t1, at_panels, n, k, at_tables, is_unsigned, plan, mine,
              at_threshold, at_packed, packed_step)  # fmt: skip
    if memory.size:
        memory[0, 0] = float32(0.0)  # keeps the array alive until here
    return FINE


for _name, _activation, _layout in (
    ("w1a1_bits", "b1", SIGNED_BITS),
    ("w1u1_bits", "u1", UNSIGNED_BITS),
):
    kernel(
        _name, op="linear_bits", values="b1", activation=_activation, layout=_layout, requires=SIMD
    )(linear_to_bits)
