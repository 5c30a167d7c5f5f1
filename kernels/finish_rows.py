"""What happens to a block of finished float rows while it is in cache.

A linear kernel leaves float32 sums with scale and bias applied; here they get their activation,
residual and codes for the next layer, row by row, without another pass over memory.
"""

from collections.abc import Mapping
from types import MappingProxyType

from kernels.jit import compiled
from kernels.row_ops import (
    add_row,
    copy_row,
    gate_row,
    gelu_row,
    quantize_row,
    relu_row,
    silu_row,
    static_codes_row,
    tanh_row,
)

RELU = 1
GELU = 2
SILU = 4
TANH = 8
GLU = 16
"""Activations, at most one: GLU is the first half of a row times the sigmoid of its second."""
QUANTIZE_ROW = 32
QUANTIZE_STATIC = 64
"""Codes, at most one kind: each row by its own largest magnitude, or all by a given scale."""
RAW = 128
"""Integer sums as they are; nothing of this file applies."""
ACTIVATIONS: Mapping[str, int] = MappingProxyType(
    {"none": 0, "relu": RELU, "gelu": GELU, "silu": SILU, "tanh": TANH}
)
"""By name, those that keep the width of a row."""


@compiled
def activate(row, target, width, steps):
    """Write the activated row of ``width`` results to ``target``; return where they are.

    That is ``row`` itself where ``steps`` holds no activation.
    """
    if steps & RELU:
        relu_row(row, target, width)
    elif steps & GELU:
        gelu_row(row, target, width)
    elif steps & SILU:
        silu_row(row, target, width)
    elif steps & TANH:
        tanh_row(row, target, width)
    elif steps & GLU:
        gate_row(row, row + 4 * width, target, width)
    else:
        return row
    return target


@compiled
def finish_rows(
    rows, row_step, count, n, steps, residual, residual_step, out, out_step,
    codes, codes_step, codes_scale, codes_scale_step,
):  # fmt: skip
    """Apply activation, residual and quantisation to ``count`` rows of ``n`` float32.

    All arguments but ``count``, ``n`` and ``steps`` are addresses and bytes from row to row; the
    addresses of what is absent are 0. In this order: the activation (GLU halves n), plus the
    residual, into ``out`` or, where that is 0, into ``rows``; then codes of the result, whose
    scale is written at ``codes_scale`` (QUANTIZE_ROW) or read there (QUANTIZE_STATIC). ``out`` may
    be ``rows`` or ``residual``; the memory of ``rows`` is overwritten.

    The bits are those of ``kernels.pointwise`` applied one after the other.
    """
    width = n // 2 if steps & GLU else n
    for r in range(count):
        row = rows + r * row_step
        result = out + r * out_step if out else row
        # the residual may lie where the result goes, so it is read before that is written
        active = activate(row, row if residual else result, width, steps)
        if residual:
            add_row(active, residual + r * residual_step, result, width)
        elif active != result:
            copy_row(active, result, width)
        if steps & QUANTIZE_ROW:
            to = codes_scale + r * codes_scale_step
            quantize_row(result, width, codes + r * codes_step, to)
        elif steps & QUANTIZE_STATIC:
            scale = codes_scale + r * codes_scale_step
            static_codes_row(result, scale, codes + r * codes_step, width)
