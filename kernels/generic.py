"""Linear layers in plain numba loops: right on any CPU, and the only ones without AVX2 and FMA.

Weights lie transposed, ``(k, n)``, float32 or int8 codes of any width, so that the inner loop runs
over outputs and the compiler vectorises it for whatever CPU there is. Sums of codes are exact;
float products are rounded, added up over STEP_BLOCK steps, and these sums added up.
"""

import functools
import warnings

import numpy as np
from numba import float32, int8, int32, int64, prange, uint8
from numpy.typing import NDArray

from kernels.finish import (
    FINE,
    FINISH,
    FORBIDDEN_CODE,
    MISFIT,
    NAN_SCALE,
    PLAN_BYTES,
    bias_at,
    fill,
    finish_block,
    is_raw,
    misfit,
    needs_rows,
    target_at,
    x_scale_at,
)
from kernels.jit import compiled, entry, host_features, in2
from kernels.registry import SIMD, Arguments, Layout, Matrix, kernel
from kernels.simd import row_at, stack_bytes

STEP_BLOCK = 256
LONGEST_K = 2**31 // (128 * 127)
"""Beyond this many steps a sum of products of codes may not fit int32."""
_NO_TABLE = np.zeros((0, 0), np.float32)


@functools.cache
def _warn_of_speed() -> None:
    message = (
        "kernels: AVX2 and FMA are absent or switched off; linear layers run as plain loops, "
        "several times slower"
    )
    warnings.warn(message, RuntimeWarning, stacklevel=4)


def _columns(values: NDArray[np.float32] | NDArray[np.int8]) -> NDArray[np.float32 | np.int8]:
    """Transpose weights; warn, once, where no other kernel can run."""
    if not host_features().issuperset(SIMD):
        _warn_of_speed()
    return np.ascontiguousarray(values.T)


def _pack_floats(matrix: Matrix) -> Arguments:
    return (_columns(matrix.values),)


def _float_rows(arguments: Arguments, ids: NDArray[np.int64]) -> NDArray[np.float32]:
    return arguments[0][:, ids].T


def _codes_layout(name: str, limit: int, *, has_groups: bool) -> Layout:
    """Codes ``(k, n)``; scales and zero points ``(groups, n)`` or none; group; largest code of x.

    With ``limit`` 0 activations are bits of 1 and 0, with 1 bits of +1 and -1.
    """

    def pack(matrix: Matrix) -> Arguments:
        n, k = matrix.shape
        if k > LONGEST_K:
            raise ValueError(f"{name}: found k {k}, expected at most {LONGEST_K} for int32 sums")
        group = matrix.group or k
        scales = zeros = _NO_TABLE
        if has_groups:
            if matrix.scale is None:
                raise ValueError(f"{name}: found no scale, expected one per group")
            groups = -(-k // group)
            scales = _side(matrix.scale, n, groups)
            if matrix.zero_point is not None:
                zeros = _side(matrix.zero_point, n, groups)
        return (_columns(matrix.values), scales, zeros, group if has_groups else k, limit)

    def rows(arguments: Arguments, ids: NDArray[np.int64]) -> NDArray[np.float32]:
        w, scales, zeros, group, _ = arguments
        values = w[:, ids].T.astype(np.float32)
        if zeros.size:
            values -= np.repeat(zeros[:, ids].T, group, axis=1)[:, : len(w)]
        if scales.size:
            values *= np.repeat(scales[:, ids].T, group, axis=1)[:, : len(w)]
        return values

    return Layout(name, pack, rows)


def _side(table: NDArray[np.generic], n: int, groups: int) -> NDArray[np.float32]:
    return np.ascontiguousarray(np.broadcast_to(table, (n, groups)).T, np.float32)


COLUMNS_F32 = Layout("columns_f32", _pack_floats, _float_rows)
COLUMNS_I8 = _codes_layout("columns_i8", 127, has_groups=False)
COLUMNS_I7 = _codes_layout("columns_i7", 63, has_groups=False)
GROUPS_I8 = _codes_layout("columns_i8_group", 127, has_groups=True)
GROUPS_I7 = _codes_layout("columns_i7_group", 63, has_groups=True)
COLUMNS_B1 = _codes_layout("columns_b1", 1, has_groups=False)
COLUMNS_U1 = _codes_layout("columns_u1", 0, has_groups=False)


@compiled
def _start(row, bias):
    for j in range(row.size):
        row[j] = float32(0.0)
    if bias:
        added = row_at(bias, row.size, np.float32)
        for j in range(row.size):
            row[j] = added[j]


@compiled
def _float_row(x, w, bias, part, y):
    """Write one row of a product with float weights; ``part`` is memory for a row."""
    _start(y, bias)
    for k0 in range(0, len(w), STEP_BLOCK):
        part[:] = float32(0.0)
        for k in range(k0, min(k0 + STEP_BLOCK, len(w))):
            value = x[k]
            for j in range(y.size):
                part[j] += value * w[k, j]
        for j in range(y.size):
            y[j] += part[j]


@compiled
def _widened_row(x, w, scales, zeros, group, w_scale, bias, part, y):
    """Write one row of a product with the weights (code - zero) * scale."""
    _start(y, bias)
    for k0 in range(0, len(w), STEP_BLOCK):
        part[:] = float32(0.0)
        for k in range(k0, min(k0 + STEP_BLOCK, len(w))):
            g, value = k // group, x[k]
            for j in range(y.size):
                code = float32(w[k, j])
                if zeros.size:
                    code -= zeros[g, j]
                part[j] += value * (code * (scales[g, j] if scales.size else w_scale[j]))
        for j in range(y.size):
            y[j] += part[j]


@compiled
def _add_products(x, w, first, last, sums):
    """Add exact products of codes from step ``first`` to ``last``; return the sum of x."""
    total = int32(0)
    for k in range(first, last):
        value = int32(x[k])
        total += value
        for j in range(sums.size):
            sums[j] = int32(sums[j] + value * int32(w[k, j]))
    return total


@compiled
def _codes_row(x, w, scales, zeros, group, w_scale, x_scale, bias, sums, y):
    """Write one row of a product of codes: sums, times both scales, plus the bias."""
    sums[:] = 0
    if not scales.size:
        _add_products(x, w, 0, len(w), sums)
        for j in range(y.size):
            y[j] = float32(float32(sums[j]) * x_scale) * w_scale[j]
    else:
        _start(y, 0)
        for g in range(len(scales)):
            total = float32(_add_products(x, w, g * group, min((g + 1) * group, len(w)), sums))
            for j in range(y.size):
                part = float32(sums[j])
                if zeros.size:
                    part = float32(part - float32(zeros[g, j] * total))
                y[j] += float32(part * scales[g, j])
            sums[:] = 0
        for j in range(y.size):
            y[j] *= x_scale
    if bias:
        added = row_at(bias, y.size, np.float32)
        for j in range(y.size):
            y[j] += added[j]


@compiled
def _spread_row(x, k, is_bits, is_signed, codes):
    """Write the activation codes that a row of them, or of packed bits, means."""
    for i in range(k):
        if is_bits:
            bit = (x[i >> 3] >> (i & 7)) & 1
            codes[i] = 2 * bit - 1 if is_signed else bit
        else:
            codes[i] = x[i]


@compiled
def _is_forbidden(x, limit):
    for t in range(x.shape[0]):
        for k in range(x.shape[1]):
            if x[t, k] > limit or x[t, k] < -limit:
                return True
    return False


@compiled
def _scales_status(raw, rows, n, scales, w_scale, x_scale):
    """Tell whether the scales of codes are the ones needed, and numbers."""
    if raw:
        return MISFIT if scales.size else FINE
    if (x_scale.size == 0 and rows > 0) or w_scale.size != (0 if scales.size else n):
        return MISFIT
    return NAN_SCALE if _has_nan(w_scale) else FINE


@compiled
def _has_nan(values):
    found = 0
    for i in range(values.size):
        found += np.isnan(values[i])
    return found > 0


@kernel("generic_f32", op="linear", values="f32", activation="f32", layout=COLUMNS_F32)
@entry(in2(float32), in2(float32), *FINISH)
def linear_f32(
    x, w,
    w_scale, x_scale, bias, residual, out, codes, codes_scale, steps, threads,
):  # fmt: skip
    """Float weights ``(K, N)`` and activations; both scales are unused."""
    n = w.shape[1]
    status = misfit(
        x, len(w), n, w_scale, x_scale, bias, residual, out, codes, codes_scale, steps, threads
    )
    if status:
        return status
    plan = stack_bytes(PLAN_BYTES)
    fill(plan, n, w_scale, x_scale, bias, residual, out, codes, codes_scale, steps)
    memory = np.empty((threads, n), np.float32)
    held = needs_rows(out, steps)
    for c in prange(threads):
        part = np.empty(n, np.float32)
        mine = int64(memory[c].ctypes.data) if held else int64(0)
        for t in range(x.shape[0] * c // threads, x.shape[0] * (c + 1) // threads):
            y = row_at(int64(target_at(plan, mine, t)), n, np.float32)
            _float_row(x[t], w, bias_at(plan, 0), part, y)
            finish_block(plan, mine, t, 1)
    return 0


@entry(in2(float32), in2(int8), in2(float32), in2(float32), int64, int64, *FINISH)
def linear_widened(
    x, w, scales, zeros, group, limit,
    w_scale, x_scale, bias, residual, out, codes, codes_scale, steps, threads,
):  # fmt: skip
    """Weight codes ``(K, N)`` with a scale per output or by group, float activations."""
    n = w.shape[1]
    status = misfit(
        x, len(w), n, w_scale, x_scale, bias, residual, out, codes, codes_scale, steps, threads
    )
    if status:
        return status
    if w_scale.size != (0 if scales.size else n):
        return MISFIT
    if _has_nan(w_scale):
        return NAN_SCALE
    plan = stack_bytes(PLAN_BYTES)
    fill(plan, n, w_scale, x_scale, bias, residual, out, codes, codes_scale, steps)
    memory = np.empty((threads, n), np.float32)
    held = needs_rows(out, steps)
    for c in prange(threads):
        part = np.empty(n, np.float32)
        mine = int64(memory[c].ctypes.data) if held else int64(0)
        for t in range(x.shape[0] * c // threads, x.shape[0] * (c + 1) // threads):
            y = row_at(int64(target_at(plan, mine, t)), n, np.float32)
            _widened_row(x[t], w, scales, zeros, group, w_scale, bias_at(plan, 0), part, y)
            finish_block(plan, mine, t, 1)
    return 0


def _exact(is_bits: int, x_type: type) -> object:
    """Make the entry for codes times codes (``is_bits`` 0) or bits."""

    @entry(in2(x_type), in2(int8), in2(float32), in2(float32), int64, int64, *FINISH)
    def linear(
        x, w, scales, zeros, group, limit,
        w_scale, x_scale, bias, residual, out, codes, codes_scale, steps, threads,
    ):  # fmt: skip
        """Exact sums of weight codes ``(K, N)`` and activation codes, scales, and the bias."""
        k, n = w.shape
        columns = (k + 7) // 8 if is_bits else k
        status = misfit(
            x, columns, n, w_scale, x_scale, bias, residual, out, codes, codes_scale, steps, threads
        )
        if status:
            return status
        plan = stack_bytes(PLAN_BYTES)
        fill(plan, n, w_scale, x_scale, bias, residual, out, codes, codes_scale, steps)
        raw = is_raw(plan)
        status = _scales_status(raw, x.shape[0], n, scales, w_scale, x_scale)
        if status:
            return status
        if not is_bits and _is_forbidden(x, limit):
            return FORBIDDEN_CODE
        memory = np.empty((threads, n), np.float32)
        held = needs_rows(out, steps)
        for c in prange(threads):
            sums, spread = np.empty(n, np.int32), np.empty(k, np.int8)
            mine = int64(memory[c].ctypes.data) if held else int64(0)
            for t in range(x.shape[0] * c // threads, x.shape[0] * (c + 1) // threads):
                _spread_row(x[t], k, is_bits, limit, spread)
                target = int64(target_at(plan, mine, t))
                if raw:
                    row = row_at(target, n, np.int32)
                    row[:] = 0
                    _add_products(spread, w, 0, k, row)
                    continue
                y = row_at(target, n, np.float32)
                factor = row_at(x_scale_at(plan, t), 1, np.float32)[0]
                _codes_row(
                    spread, w, scales, zeros, group, w_scale, factor, bias_at(plan, 0), sums, y
                )
                finish_block(plan, mine, t, 1)
        return 0

    return linear


linear_codes = _exact(0, int8)
linear_bits = _exact(1, uint8)

for _name, _values, _activation, _layout, _run in (
    ("generic_w8_f32", "i8", "f32", COLUMNS_I8, linear_widened),
    ("generic_w8_f32_group", "i8_group", "f32", GROUPS_I8, linear_widened),
    ("generic_i8", "i8", "i8", COLUMNS_I8, linear_codes),
    ("generic_i8_group", "i8_group", "i8", GROUPS_I8, linear_codes),
    ("generic_i7", "i8", "i7", COLUMNS_I7, linear_codes),
    ("generic_i7_group", "i8_group", "i7", GROUPS_I7, linear_codes),
    ("generic_b1", "b1", "b1", COLUMNS_B1, linear_bits),
    ("generic_u1", "b1", "u1", COLUMNS_U1, linear_bits),
):
    kernel(_name, op="linear", values=_values, activation=_activation, layout=_layout)(_run)
