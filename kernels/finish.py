"""What every linear kernel takes besides its operands, and what happens to its finished rows.

A kernel computes float rows (scale, zero point and bias included). Here stand the types of the
common arguments, their checks, the split of the work over threads, and the call that applies
activation, residual, gate and requantisation to a block of rows while it is in cache.
"""

import numpy as np
from numba import float32, int8, int64

from kernels.finish_rows import GLU, QUANTIZE_ROW, QUANTIZE_STATIC, RAW, finish_rows
from kernels.jit import compiled, in1, in2, out1, out2
from kernels.simd import row_at

ROW_BLOCK = 96
"""Rows that a kernel computes and finishes together; threads split rows at multiples of it."""

FINISH = (
    in1(float32),
    in1(float32),
    in1(float32),
    in2(float32),
    out2(float32),
    out2(int8),
    out1(float32),
    int64,
    int64,
)
"""w_scale, x_scale, bias, residual, out, codes, codes_scale, steps, threads: the last arguments.

Absent arrays are empty: w_scale ``(N)``, x_scale ``(T)`` or ``(1)``, bias ``(N)``, residual and out
``(T, N)``, codes ``(T, N)``, codes_scale ``(T)`` or ``(1)``. N is halved behind a gate (GLU).
``steps`` holds the bits of ``kernels.finish_rows``; with RAW the sums, int32, go to the memory of
``out`` and nothing else is done.
"""

FINE, MISFIT, FORBIDDEN_CODE, NAN_SCALE = 0, 1, 2, 3

PLAN_BYTES = 128
_W_SCALE, _X_SCALE, _X_STEP, _BIAS, _RESIDUAL, _RESIDUAL_STEP = range(6)
_OUT, _OUT_STEP, _CODES, _CODES_STEP, _CODES_SCALE, _CODES_SCALE_STEP, _STEPS, _N = range(6, 14)


@compiled
def _plain1(array):
    return array.size <= 1 or array.strides[0] == 4


@compiled
def _plain2(array, rows, width):
    """Tell whether the matrix is empty, or has that shape and a unit inner stride."""
    if array.size == 0 and (rows == 0 or width == 0 or array.shape[1] == 0):
        return True
    fits = array.shape[0] == rows and array.shape[1] == width
    return fits and (width <= 1 or array.strides[1] == array.itemsize)


@compiled
def _operands_fit(x, k, n, w_scale, x_scale, bias):
    """Tell whether activations, scales and bias have their shapes; scales may be empty here."""
    rows = x.shape[0]
    if x.shape[1] != k or (rows > 0 and k > 1 and x.strides[1] != x.itemsize):
        return False
    if w_scale.size not in {0, n} or bias.size not in {0, n} or x_scale.size not in {0, 1, rows}:
        return False
    return _plain1(w_scale) and _plain1(bias)


@compiled
def _results_fit(rows, n, residual, out, codes, codes_scale, steps):
    """Tell whether the arrays behind the sums have their shapes, and all that is asked for."""
    gated, raw = (steps & GLU) != 0, (steps & RAW) != 0
    by_row, static = (steps & QUANTIZE_ROW) != 0, (steps & QUANTIZE_STATIC) != 0
    width = n // 2 if gated else n
    if (gated and n % 2) or (by_row and static) or (raw and steps != RAW):
        return False
    if not (_plain2(out, rows, width) and _plain2(codes, rows, width)):
        return False
    if not (_plain2(residual, rows, width) and _plain1(codes_scale)):
        return False
    quantized = by_row or static
    if rows * width > 0 and (quantized != (codes.size > 0) or (out.size == 0 and not quantized)):
        return False
    return codes_scale.size == (rows if by_row else 1 if static else 0)


@compiled
def _has_nan(values):
    for i in range(values.size):  # noqa: SIM110 (a generator is no numba code)
        if np.isnan(values[i]):
            return True
    return False


@compiled
def misfit(x, k, n, w_scale, x_scale, bias, residual, out, codes, codes_scale, steps, threads):
    """Status of the arguments of a linear kernel whose rows of x have ``k`` elements.

    ``w_scale`` and ``x_scale`` may be empty here: a kernel that needs them checks that itself.
    """
    if threads < 1 or not _operands_fit(x, k, n, w_scale, x_scale, bias):
        return MISFIT
    if not _results_fit(x.shape[0], n, residual, out, codes, codes_scale, steps):
        return MISFIT
    if steps & QUANTIZE_STATIC and not codes_scale[0] > 0:
        return NAN_SCALE
    return NAN_SCALE if _has_nan(x_scale) else FINE


@compiled
def fill(plan, n, w_scale, x_scale, bias, residual, out, codes, codes_scale, steps):
    """Note addresses and strides of the common arguments in ``PLAN_BYTES`` at ``plan``."""
    row = row_at(plan, PLAN_BYTES // 8, np.int64)
    row[_W_SCALE] = w_scale.ctypes.data if w_scale.size else 0
    row[_X_SCALE] = x_scale.ctypes.data if x_scale.size else 0
    row[_X_STEP] = x_scale.strides[0] if x_scale.size > 1 else 0
    row[_BIAS] = bias.ctypes.data if bias.size else 0
    row[_RESIDUAL] = residual.ctypes.data if residual.size else 0
    row[_RESIDUAL_STEP] = residual.strides[0]
    row[_OUT] = out.ctypes.data if out.size else 0
    row[_OUT_STEP] = out.strides[0]
    row[_CODES] = codes.ctypes.data if codes.size else 0
    row[_CODES_STEP] = codes.strides[0]
    row[_CODES_SCALE] = codes_scale.ctypes.data if codes_scale.size else 0
    row[_CODES_SCALE_STEP] = 4 if (steps & QUANTIZE_ROW) != 0 else 0
    row[_STEPS] = steps
    row[_N] = n


@compiled
def w_scale_at(plan, n0):
    """Address of the scale of output ``n0``, 0 where there is none."""
    at = row_at(plan, PLAN_BYTES // 8, np.int64)[_W_SCALE]
    return at + 4 * n0 if at else 0


@compiled
def bias_at(plan, n0):
    """Address of the bias of output ``n0``, 0 where there is none."""
    at = row_at(plan, PLAN_BYTES // 8, np.int64)[_BIAS]
    return at + 4 * n0 if at else 0


@compiled
def x_scale_at(plan, t):
    """Address of the scale of activation row ``t``, 0 where there is none."""
    row = row_at(plan, PLAN_BYTES // 8, np.int64)
    return row[_X_SCALE] + t * row[_X_STEP]


@compiled
def x_scale_step(plan):
    """Bytes from the scale of one activation row to the next, 0 for one scale."""
    return row_at(plan, PLAN_BYTES // 8, np.int64)[_X_STEP]


@compiled
def is_raw(plan):
    """Tell whether plain integer sums are asked for."""
    return (row_at(plan, PLAN_BYTES // 8, np.int64)[_STEPS] & RAW) != 0


@compiled
def needs_rows(out, steps):
    """Tell whether float rows need memory of their own: ``out`` is absent or narrower (GLU)."""
    return out.size == 0 or (steps & GLU) != 0


@compiled
def target_at(plan, workspace, t):
    """Address for row ``t`` of the results: in the workspace unless that is 0, else in out."""
    row = row_at(plan, PLAN_BYTES // 8, np.int64)
    return workspace or row[_OUT] + t * row[_OUT_STEP]


@compiled
def target_step(plan, workspace):
    """Bytes from one row of the results to the next."""
    row = row_at(plan, PLAN_BYTES // 8, np.int64)
    return 4 * row[_N] if workspace else row[_OUT_STEP]


@compiled
def finish_block(plan, workspace, t, count):
    """Apply what ``steps`` asks for to rows ``t`` to ``t + count``, computed at ``target_at``."""
    row = row_at(plan, PLAN_BYTES // 8, np.int64)
    steps = row[_STEPS]
    if steps & RAW or (steps == 0 and row[_RESIDUAL] == 0):
        return
    finish_rows(
        target_at(plan, workspace, t),
        target_step(plan, workspace),
        count,
        row[_N],
        steps,
        row[_RESIDUAL] + t * row[_RESIDUAL_STEP] if row[_RESIDUAL] else 0,
        row[_RESIDUAL_STEP],
        row[_OUT] + t * row[_OUT_STEP] if row[_OUT] else 0,
        row[_OUT_STEP],
        row[_CODES] + t * row[_CODES_STEP] if row[_CODES] else 0,
        row[_CODES_STEP],
        row[_CODES_SCALE] + t * row[_CODES_SCALE_STEP] if row[_CODES_SCALE] else 0,
        row[_CODES_SCALE_STEP],
    )


@compiled
def splits_rows(rows, threads):
    """Tell whether threads share the rows; with few rows they share the outputs."""
    return threads == 1 or rows >= threads * ROW_BLOCK


@compiled
def share(count, unit, threads, index):
    """First and last + 1 of ``count`` things for thread ``index``, in multiples of ``unit``."""
    units = (count + unit - 1) // unit
    first = units * index // threads * unit
    last = units * (index + 1) // threads * unit
    return min(first, count), min(last, count)
