"""Integer linear layers on AVX2: codes of 8, 4, 3 or 2 bits times codes of activations.

Sums are exact for all codes. With one scale per output they are scaled once; with scales, and
perhaps zero points, by groups of k, for g in order and every step rounded to float32::

    part = float32(sum of group g) - zero[g] * float32(sum of x in group g)
    y = y + part * scale[g]

and the row's own scale and the bias come last.
"""

import numpy as np
from numba import float32, int8, int64, prange, uint8

from kernels.activations import within
from kernels.finish import (
    FINE,
    FINISH,
    FORBIDDEN_CODE,
    MISFIT,
    PLAN_BYTES,
    ROW_BLOCK,
    bias_at,
    fill,
    finish_block,
    is_raw,
    misfit,
    needs_rows,
    share,
    splits_rows,
    target_at,
    target_step,
    w_scale_at,
    x_scale_at,
    x_scale_step,
)
from kernels.jit import Entry, compiled, entry, in1, in2
from kernels.prepared import LARGEST_BLOCK, Weights, block_rows, prepare, scratch_bytes
from kernels.products import Target, multiply_8, multiply_low
from kernels.quads import (
    GROUPS_2,
    GROUPS_3,
    GROUPS_4,
    GROUPS_8,
    PANELS_2,
    PANELS_3,
    PANELS_4,
    PANELS_8,
    WIDTH,
    offset_of,
)
from kernels.registry import SIMD, kernel
from kernels.simd import stack_bytes

LIMITS = {"i8": 127, "i7": 63}
"""Largest magnitude of an activation code."""


@compiled
def _target(plan, mine, t):
    return Target(
        int64(w_scale_at(plan, 0)),
        int64(x_scale_at(plan, t)),
        int64(x_scale_step(plan)),
        int64(bias_at(plan, 0)),
        int64(target_at(plan, mine, t)),
        int64(target_step(plan, mine)),
    )


@compiled
def _at(array):
    """Address of an array, 0 where it is empty."""
    return int64(array.ctypes.data) if array.size else int64(0)


@compiled
def _worst(statuses):
    worst = FINE
    for c in range(statuses.size):
        worst = max(worst, statuses[c])
    return worst


@compiled
def _lacks_scales(raw, rows, n, scales, w_scale, x_scale):
    """Tell whether scales are absent where they are needed, or doubled by those of groups."""
    if raw:
        return scales.size > 0
    return (x_scale.size == 0 and rows > 0) or w_scale.size != (0 if scales.size else n)


def _spans(is_bytes: int):
    """Make the function that computes rows ``t0`` to ``t1`` of some panels, block by block.

    It finishes its blocks if they are whole; ``workspace`` holds one block then, else all rows.
    """

    @compiled
    def span(w, x, x_step, t0, t1, first, last, limit, plan, workspace, finishes):
        block = block_rows(max(1, t1 - t0))
        scratch = np.empty(scratch_bytes(w, block), np.uint8)
        at_scratch = int64(scratch.ctypes.data)
        status = FINE
        for t in range(t0, t1, block):
            count = min(block, t1 - t)
            mine = workspace if finishes or not workspace else workspace + 4 * t * w.n
            rows, is_fine = prepare(w, x + t * x_step, x_step, count, limit, at_scratch)
            if not is_fine:
                status = FORBIDDEN_CODE
                break
            target = _target(plan, mine, t)
            if is_bytes == 1:
                multiply_8(w, rows, first, last, target, is_raw(plan))
            else:
                multiply_low(w, rows, first, last, target, is_raw(plan))
            if finishes:
                finish_block(plan, mine, t, count)
        scratch[0] = 0  # keeps the array alive until here
        return status

    return span


_span_8, _span_low = _spans(1), _spans(0)


def _linear(is_bytes: int, limit: int) -> Entry:
    """Make the entry for codes that are bytes (or fewer bits) and activations up to ``limit``."""

    @entry(in2(int8), in1(uint8), in1(float32), in1(float32), int64, int64, int64, int64, *FINISH)
    def linear(
        x, panels, scales, zeros, n, k, group, bits,
        w_scale, x_scale, bias, residual, out, codes, codes_scale, steps, threads,
    ):  # fmt: skip
        """Codes times codes in exact sums, then scales, bias and what ``steps`` asks for."""
        status = misfit(
            x, k, n, w_scale, x_scale, bias, residual, out, codes, codes_scale, steps, threads
        )
        if status:
            return status
        plan = stack_bytes(PLAN_BYTES)
        fill(plan, n, w_scale, x_scale, bias, residual, out, codes, codes_scale, steps)
        rows, wide = x.shape[0], (n + WIDTH - 1) // WIDTH
        at_x, x_step = int64(x.ctypes.data), int64(x.strides[0])
        if _lacks_scales(is_raw(plan), rows, n, scales, w_scale, x_scale):
            return MISFIT
        if rows > LARGEST_BLOCK and not within(at_x, x_step, rows, k, limit):
            return FORBIDDEN_CODE  # before any block is written
        at_panels, offset = int64(panels.ctypes.data), int64(offset_of(bits))
        weights = Weights(at_panels, _at(scales), _at(zeros), n, k, group, bits, offset)
        by_rows = splits_rows(rows, threads)
        block = min(rows, LARGEST_BLOCK)
        held = (block * threads if by_rows else rows) if needs_rows(out, steps) else 0
        memory = np.empty((held, n), np.float32)
        found = np.zeros(threads, np.int64)
        for c in prange(threads):
            t0, t1 = share(rows, ROW_BLOCK, threads, c) if by_rows else (0, rows)
            first, last = (0, wide) if by_rows else share(wide, 1, threads, c)
            mine = _at(memory)
            if mine and by_rows:
                mine += c * block * n * 4
            if is_bytes == 1:
                found[c] = _span_8(
                    weights, at_x, x_step, t0, t1, first, last, limit, plan, mine, by_rows
                )
            else:
                found[c] = _span_low(
                    weights, at_x, x_step, t0, t1, first, last, limit, plan, mine, by_rows
                )
        worst = _worst(found)
        if worst == FINE and not by_rows:
            finish_block(plan, _at(memory), 0, rows)
        if held:
            memory[0, 0] = float32(0.0)  # keeps the rows alive until here
        return worst

    return linear


for _activation, _limit in LIMITS.items():
    _run_8, _run_low = _linear(1, _limit), _linear(0, _limit)
    for _bits, _row, _grouped in (
        (8, PANELS_8, GROUPS_8),
        (4, PANELS_4, GROUPS_4),
        (3, PANELS_3, GROUPS_3),
        (2, PANELS_2, GROUPS_2),
    ):
        for _suffix, _layout in (("", _row), ("_group", _grouped)):
            kernel(
                f"w{_bits}a{_activation[1]}{_suffix}",
                op="linear",
                values=f"i{_bits}{_suffix}",
                activation=_activation,
                layout=_layout,
                requires=SIMD,
            )(_run_8 if _bits == 8 else _run_low)
