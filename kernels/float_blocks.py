"""Blocks of rows times panels of weights, float32 activations: what all float products share.

The weights are floats, or codes that are widened. Work is cut along k: a block of a panel (16 KiB
of floats) stays in L1 while all rows pass it, and the next one is fetched meanwhile. With few rows
reading the weights is the work, so floats are read from several panels side by side and codes are
widened in registers.

A result is the rounding of weights (codes: of the difference and of the product with the scale,
half a unit each), of at most LONGEST_BLOCK + ceil(k / STEP_BLOCK) sums, and of the bias. With few
rows the scale is multiplied to the sum of a group instead, which is within the same bound.
"""

import numpy as np
from numba import float32, int64

from kernels.finish import ROW_BLOCK, bias_at, finish_block, target_at, target_step
from kernels.float_tiles import (
    LONGEST_BLOCK,
    STREAMS,
    WIDTH,
    block_steps,
    copy_block,
    copy_step,
    panel_rows,
    panels_row,
)
from kernels.jit import compiled
from kernels.quads import offset_of, quad_bytes, quads_of
from kernels.row_ops import add_row, copy_row
from kernels.simd import row_at, stack_bytes
from kernels.widen_tiles import code_row, spread_row, widen_steps

LARGEST_BLOCK = ROW_BLOCK + 24
"""Rows of the last block at most: reading all weights again for a few rows would cost more."""
FEW_ROWS = 3
"""Up to this many rows, floats are read from several panels at once and codes widened per row."""
FEW_PANELS = 16
"""With fewer panels than this, copying activations costs more than it saves."""
PANEL_GROUP = 8
"""Panels that pass a block of rows together, when the copies of all its columns fit L2."""
SHORT_K = 1024

FLOATS = 32
"""Bits of weights that are no codes."""
WEIGHTS_BYTES = 64
_PANELS, _SCALES, _ZEROS, _N, _K, _GROUP, _BITS, _PANEL_BYTES = range(8)

EDGE_BYTES = LARGEST_BLOCK * WIDTH * 4
ZEROS_BYTES = STREAMS * WIDTH * 4
LEAD_STEPS = 8
"""A block that starts within a run of bytes is widened from the start of the run."""
WIDENED_BYTES = (LONGEST_BLOCK + 3 * LEAD_STEPS) * 64


@compiled
def fill_weights(weights, panels, scales, zeros, n, k, group, bits):
    """Note the weights in ``WEIGHTS_BYTES`` at ``weights``: addresses (0 for none) and sizes.

    Scales and zero points are float32 ``[panels][groups][16]``; ``bits`` is FLOATS without codes.
    """
    row = row_at(weights, WEIGHTS_BYTES // 8, np.int64)
    row[_PANELS], row[_SCALES], row[_ZEROS] = panels, scales, zeros
    row[_N], row[_K], row[_GROUP], row[_BITS] = n, k, group, bits
    if bits == FLOATS:
        row[_PANEL_BYTES] = k * WIDTH * 4
    else:
        row[_PANEL_BYTES] = (k + group - 1) // group * quads_of(bits, group) * quad_bytes(bits)


@compiled
def block_rows(left):
    """Rows of the next block when ``left`` rows remain: ROW_BLOCK, or all if few more."""
    return left if left <= LARGEST_BLOCK else ROW_BLOCK


@compiled
def scratch_bytes(weights, rows, panels):
    """Bytes for the copied activations of one block of up to ``rows`` rows, 0 for none."""
    at = row_at(weights, WEIGHTS_BYTES // 8, np.int64)
    k, group, bits = at[_K], at[_GROUP], at[_BITS]
    if rows <= FEW_ROWS:
        spread = (k + group - 1) // group * quads_of(bits, group) * WIDTH
        return 0 if bits == FLOATS else rows * spread
    if panels < FEW_PANELS:
        return 0
    widest = copy_step(LONGEST_BLOCK) if k > SHORT_K else 0
    left = k if k <= SHORT_K else 0
    while left > 0:
        widest += copy_step(block_steps(left))
        left -= block_steps(left)
    return min(rows, LARGEST_BLOCK) * widest


@compiled
def _few_float_rows(x, x_step, rows, weights, first, last, bias, zeros, out, out_step):
    """Write the outputs of panels ``first`` to ``last``, all of 16, STREAMS panels at a time."""
    at = row_at(weights, WEIGHTS_BYTES // 8, np.int64)
    panels, k = at[_PANELS], at[_K]
    for p in range(first, last, STREAMS):
        k0 = 0
        while k0 < k:
            steps = block_steps(k - k0)
            panel = panels + (p * k + k0) * 64
            for r in range(rows):
                a, y = x + r * x_step + k0 * 4, out + r * out_step + p * 64
                start = y if k0 else (bias + p * 64 if bias else zeros)
                panels_row(a, panel, k * 64, steps, start, y)
            k0 += steps


@compiled
def _few_code_rows(x, x_step, rows, weights, first, last, bias, zeros, out, out_step, spread):
    """Write the outputs of panels ``first`` to ``last`` of codes; ``spread`` takes the rows."""
    at = row_at(weights, WEIGHTS_BYTES // 8, np.int64)
    n, k, group, bits = at[_N], at[_K], at[_GROUP], at[_BITS]
    sums, run = stack_bytes(64), quads_of(bits, group)
    groups = (k + group - 1) // group
    quads, offset = groups * run, offset_of(bits)
    for r in range(rows):
        spread_row(x + r * x_step, k, group, run * 4, bits, spread + r * quads * WIDTH)
    for p in range(first, last):
        panel, width = at[_PANELS] + p * at[_PANEL_BYTES], min(WIDTH, n - p * WIDTH)
        scales = at[_SCALES] + p * groups * 64
        zero, zero_step = (at[_ZEROS] + p * groups * 64, 64) if at[_ZEROS] else (zeros, 0)
        for r in range(rows):
            a, y = spread + r * quads * WIDTH, out + r * out_step + p * 64
            code_row(a, panel, bits, quads, run, scales, zero, zero_step, offset, sums)
            if bias:
                add_row(sums, bias + p * 64, y, width)
            else:
                copy_row(sums, y, width)


@compiled
def _widen_block(weights, p, k0, steps, zeros, target):
    """Write weights ``[steps][16]`` of panel ``p`` from step ``k0`` on to ``target``.

    Up to LEAD_STEPS before ``target`` and behind the last step are overwritten.
    """
    at = row_at(weights, WEIGHTS_BYTES // 8, np.int64)
    k, group, bits = at[_K], at[_GROUP], at[_BITS]
    groups, run, size = (k + group - 1) // group, quads_of(bits, group), quad_bytes(bits)
    t = k0
    while t < k0 + steps:
        g = t // group
        inside = t - g * group
        end = min(group, k0 + steps - g * group)
        lead = inside % (8 if bits == 2 else 4)
        quad = (inside - lead) // 4
        side = (p * groups + g) * 64
        widen_steps(
            at[_PANELS] + p * at[_PANEL_BYTES] + (g * run + quad) * size,
            bits,
            (end + 3) // 4 - quad,
            offset_of(bits),
            at[_SCALES] + side,
            at[_ZEROS] + side if at[_ZEROS] else zeros,
            target + (t - k0 - lead) * 64,
        )
        t = g * group + end


@compiled
def _fill_starts(zeros, edge_start, left, bias):
    """Write what outputs without a bias start from, and those of a last panel of ``left``."""
    row = row_at(zeros, STREAMS * WIDTH, np.float32)
    for i in range(row.size):
        row[i] = float32(0.0)
    copy_row(zeros, edge_start, WIDTH)
    if bias:
        copy_row(bias, edge_start, left)


@compiled
def _panels(a, a_step, rows, weights, first, last, k0, steps, bias, zeros, edge_start, edge,
            out, out_step):  # fmt: skip
    """Add steps ``k0`` to ``k0 + steps`` to the outputs of panels ``first`` to ``last``.

    Those of a last panel of less than 16 outputs are at ``edge``.
    """
    at = row_at(weights, WEIGHTS_BYTES // 8, np.int64)
    panels, n, k, bits, size = at[_PANELS], at[_N], at[_K], at[_BITS], at[_PANEL_BYTES]
    widened = stack_bytes(WIDENED_BYTES) + LEAD_STEPS * 64
    for p in range(first, last):
        y, y_step, start = out + p * 64, out_step, bias + p * 64 if bias else zeros
        if (p + 1) * WIDTH > n:
            y, y_step, start = edge, 64, edge_start
        start, start_step = (y, y_step) if k0 else (start, 0)
        # the same steps of the next panel, or the next steps of the first one
        ahead = panels + (p + 1) * size + k0 * size // k
        if p + 1 == last:
            ahead = panels + first * size + (k0 + steps) * size // k
        panel = widened
        if bits == FLOATS:
            panel = panels + p * size + k0 * 64
        else:
            _widen_block(weights, p, k0, steps, zeros, widened)
        fetched = steps * size // k
        panel_rows(a, a_step, rows, panel, steps, start, start_step, y, y_step, ahead, fetched)


@compiled
def block(x, x_step, rows, weights, first, last, bias, out, out_step, scratch):
    """Write outputs of panels ``first`` to ``last`` of ``x w^T + bias`` for up to LARGEST_BLOCK.

    All but the counts are addresses and bytes; ``bias`` and ``scratch`` 0 are none. Activations
    are copied: with a short k those of all columns stay, with a long one each block of columns
    meets all panels at once.
    """
    at = row_at(weights, WEIGHTS_BYTES // 8, np.int64)
    n, k = at[_N], at[_K]
    zeros, edge_start, edge = stack_bytes(ZEROS_BYTES), stack_bytes(64), stack_bytes(EDGE_BYTES)
    left = n % WIDTH if last * WIDTH > n else 0
    _fill_starts(zeros, edge_start, left, bias + (n - left) * 4 if bias else 0)
    if at[_BITS] != FLOATS and rows <= FEW_ROWS:
        _few_code_rows(x, x_step, rows, weights, first, last, bias, zeros, out, out_step, scratch)
        first = last
    elif rows <= FEW_ROWS:
        wide = first + max(0, min(last, n // WIDTH) - first) // STREAMS * STREAMS
        _few_float_rows(x, x_step, rows, weights, first, wide, bias, zeros, out, out_step)
        first = wide
    group = PANEL_GROUP if k <= SHORT_K else max(1, last - first)
    for g in range(first, last, group):
        copy, k0 = scratch, int64(0)
        while k0 < k:
            steps = block_steps(k - k0)
            a, a_step = x + k0 * 4, x_step
            if scratch:
                if g == first:
                    copy_block(a, x_step, rows, steps, copy)
                a, a_step = copy, copy_step(steps)
                copy += rows * a_step if k <= SHORT_K else 0
            _panels(a, a_step, rows, weights, g, min(g + group, last), k0, steps,
                    bias, zeros, edge_start, edge, out, out_step)  # fmt: skip
            k0 += steps
    for r in range(rows if first < last else 0):
        copy_row(edge + r * 64, out + r * out_step + (n - left) * 4, left)


@compiled
def span(x, x_step, t0, t1, weights, first, last, plan, workspace, finishes):
    """Compute rows ``t0`` to ``t1`` of some panels block by block; finish blocks if they are whole.

    ``workspace`` holds one block when the span finishes its rows, else all of them.
    """
    scratch = np.empty(scratch_bytes(weights, t1 - t0, last - first), np.uint8)
    at_scratch = int64(scratch.ctypes.data) if scratch.size else int64(0)
    step = target_step(plan, workspace)
    t = t0
    while t < t1:
        count = block_rows(t1 - t)
        mine = workspace if finishes or not workspace else workspace + t * step
        a, y, bias = x + t * x_step, target_at(plan, mine, t), bias_at(plan, 0)
        block(a, x_step, count, weights, first, last, bias, y, step, at_scratch)
        if finishes:
            finish_block(plan, mine, t, count)
        t += count
    if scratch.size:
        scratch[0] = 0  # keeps the array alive until here
