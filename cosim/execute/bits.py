"""Emitters of operands of one bit and of attention on them."""

from collections.abc import Callable
from functools import partial

import numpy as np

from cosim.execute.attention import heads_of, result_of, scales_of
from cosim.execute.builder import Builder
from cosim.execute.layout import Array, row_order
from cosim.execute.products import call_all
from cosim.ir import Op, is_constant
from kernels.attention_binary import attention_b1
from kernels.binarize import binarize, binarize_steps


def emit_dynamic_binarize(builder: Builder, op: Op) -> None:
    """Write the bits of each row and what they are worth: mean magnitude, or level of steps."""
    name, (bits_name, scale_name) = op.inputs[0], op.outputs
    is_signed = op.attribute("set") == "signed"
    order = row_order(builder.fixed(name))
    x = builder.rows(name, order)
    bits, scale = builder.new(bits_name, order), builder.new(scale_name, order[:-1])
    builder.put(bits_name, bits)
    builder.put(scale_name, scale)
    packed, flat = _packed_rows(bits, order), scale.transpose(order[:-1]).reshape(-1)
    if is_signed:
        builder.choose(op, "binarize", "sign and mean magnitude of each row")
        builder.calls.append(lambda _values, _past: binarize(x, packed, flat))
    else:
        builder.choose(op, "binarize_steps", "1 above half of the level of each row")
        builder.calls.append(lambda _values, _past: binarize_steps(x, packed, flat))


def emit_binarize(builder: Builder, op: Op) -> None:
    """Write bits about fixed thresholds: 0 or minus the move of a channel, or half a level."""
    name, result = op.inputs[0], op.outputs[0]
    level = float(builder.get(op.inputs[1])[0])
    order = row_order(builder.fixed(name))
    bits = builder.new(result, order)
    builder.put(result, bits)
    builder.choose(op, "binarize", "about fixed thresholds")
    if len(op.inputs) == 2:
        x, packed = builder.rows(name, order), _packed_rows(bits, order)
        is_signed = op.attribute("set") == "signed"
        call_all(builder, [partial(binarize, x, packed, level=level, is_signed=is_signed)])
        return
    threshold = -builder.get(op.inputs[2])
    if threshold.ndim == 1:
        x, packed = builder.rows(name, order), _packed_rows(bits, order)
        call_all(builder, [partial(binarize, x, packed, threshold=threshold, level=level)])
        return
    source = builder.packed(name)
    own = np.broadcast_to(threshold, (*source.shape[:-2], 1, source.shape[-1]))
    call_all(
        builder,
        [
            partial(
                binarize, source[head], bits[head],
                threshold=np.ascontiguousarray(own[head][0]), level=level,
            )
            for head in np.ndindex(*source.shape[:-2])
        ],
    )  # fmt: skip


def _packed_rows(bits: Array, order: tuple[int, ...]) -> Array:
    return bits.transpose(order).reshape(-1, bits.shape[-1])


def emit_attention(builder: Builder, op: Op) -> None:
    """Mix the signs of values by the bits of probabilities."""
    scale = float(str(op.attribute("scale")))
    depth = builder.shape(op.inputs[0])[-1]
    level = float(builder.get(op.inputs[6])[0]) if len(op.inputs) > 6 else 0.0
    memory = result_of(builder, op)
    q, k, v = (heads_of(builder, name) for name in op.inputs[0:6:2])
    qs, ks, vs = (_by_row(builder, name) for name in op.inputs[1:6:2])
    builder.choose(op, "attention_b1", "counts of ones for scores and context")
    builder.calls.append(
        lambda values, _past: attention_b1(
            q(values), qs(values), k(values), ks(values), v(values), vs(values), scale, memory,
            depth=depth, level=level,
        )
    )  # fmt: skip


def _by_row(builder: Builder, name: str) -> Callable[[list[Array]], Array]:
    """Return how scales are handed to the kernel at each call: with two axes."""
    if is_constant(name):
        value = builder.get(name).reshape(1, 1)
        return lambda _values: value
    return scales_of(builder, name)
