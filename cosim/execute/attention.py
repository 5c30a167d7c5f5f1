"""Emitters of attention and of products of activations with activations."""

from collections.abc import Callable
from functools import partial

import numpy as np

from cosim.execute.builder import Builder
from cosim.execute.fusion import Tail
from cosim.execute.layout import Array
from cosim.execute.pointwise import finish
from cosim.execute.views import shifted
from cosim.ir import Op, is_constant
from kernels import attention, attention_blocks
from kernels import matmul as products


def emit_attention(builder: Builder, op: Op) -> None:
    """Mix values by the softmax of scores, plus a bias, over all keys or those of a pattern."""
    if op.kind == "quantized_attention":
        _emit_codes(builder, op)
        return
    scale = float(str(op.attribute("scale")))
    memory = result_of(builder, op)
    q, k, v = (heads_of(builder, name) for name in op.inputs[:3])
    text = str(op.get("pattern", ""))
    if text:
        pattern = builder.weights.pattern(text, *_lengths(builder, op, op.inputs[1]))
        builder.choose(op, "attention_blocks_f32", f"softmax over the kept blocks: {text}")
        blocks = attention_blocks.attention_blocks_f32
        builder.calls.append(
            lambda values, _past: blocks(q(values), k(values), v(values), scale, pattern, memory)
        )
        return
    bias = _bias(builder, op.inputs[3]) if len(op.inputs) > 3 else None
    why = "softmax inside the block" + ("" if bias is None else ", which starts from the bias")
    builder.choose(op, "attention_f32", why)
    run = attention.attention_f32
    builder.calls.append(
        lambda values, _past: run(q(values), k(values), v(values), scale, memory, bias=bias)
    )


def result_of(builder: Builder, op: Op) -> Array:
    """Put the result [.., heads, rows, depth], held as rows of all heads, and return those."""
    *lead, rows, depth = builder.shape(op.outputs[0])
    heads = int(np.prod(lead))
    if lead and heads != lead[-1]:
        raise ValueError(f"{op.kind} {op.outputs[0]}: batch of {lead[0]}, expected 1")
    until = builder.last_use.get(op.outputs[0], -1)
    memory = builder.buffer((rows, heads * depth), until=until)
    by_head = memory.reshape(rows, heads, depth).transpose(1, 0, 2)
    builder.put(op.outputs[0], by_head.reshape(builder.shape(op.outputs[0])))
    return memory


def _lengths(builder: Builder, op: Op, key: str) -> tuple[int, int]:
    builder.fixed(key)
    return builder.shape(op.outputs[0])[-2], builder.shape(key)[-2]


def heads_of(builder: Builder, name: str) -> Callable[[list[Array]], Array]:
    """Return how a value [.., heads, rows, depth] is handed to a kernel at each call."""
    if name in builder.open:
        slot = builder.slots[name]
        return lambda values: _of_three(values[slot])
    value = _of_three(builder.packed(name))
    return lambda _values: value


def _of_three(value: Array) -> Array:
    """View a value of one batch or head as three axes."""
    return value[np.newaxis] if value.ndim == 2 else value[(0,) * (value.ndim - 3)]


def _bias(builder: Builder, name: str) -> Array:
    return _of_three(builder.packed(name))


def _emit_codes(builder: Builder, op: Op) -> None:
    scale, text = float(str(op.attribute("scale"))), str(op.get("pattern", ""))
    memory = result_of(builder, op)
    q, k, v = (heads_of(builder, name) for name in op.inputs[::2])
    qs, ks, vs = (scales_of(builder, name) for name in op.inputs[1::2])

    def operands(values: list[Array]) -> tuple[Array, Array, Array, Array, Array, Array]:
        return q(values), qs(values), k(values), ks(values), v(values), vs(values)

    if text:
        pattern = builder.weights.pattern(text, *_lengths(builder, op, op.inputs[2]))
        builder.choose(op, "attention_blocks_i8", f"exact sums over the kept blocks: {text}")
        blocks = attention_blocks.attention_blocks_i8
        builder.calls.append(
            lambda values, _past: blocks(*operands(values), scale, pattern, memory)
        )
        return
    builder.choose(op, "attention_i8", "exact integer scores and context")
    run = attention.attention_i8
    builder.calls.append(lambda values, _past: run(*operands(values), scale, memory))


def scales_of(builder: Builder, name: str) -> Callable[[list[Array]], Array]:
    """Return how a scale [.., heads, rows] or [1] is handed to a kernel at each call."""
    if is_constant(name):
        calibrated = builder.get(name)
        return lambda _values: calibrated
    slot = builder.slots[name]
    if len(builder.shape(name)) == 1:
        return lambda values: values[slot]
    return lambda values: values[slot][(0,) * (values[slot].ndim - 2)]


def emit_matmul(builder: Builder, op: Op) -> None:
    """Multiply activations head by head; a factor behind the product is applied in its rows."""
    first, second = op.inputs
    tail = builder.tails.get(op.outputs[0], Tail(op.outputs[0]))
    a = builder.packed(first)
    b = builder.fixed(second)
    if b.strides[-2] != b.itemsize:
        b = builder.packed(second)
    shape = builder.shape(op.outputs[0])
    until = builder.last_use.get(tail.result, -1)
    out = builder.buffer(shape, until=until)
    ops = [step.kind for step in tail.ops]
    builder.put(tail.result, shifted(out) if "rel_shift" in ops else out)
    scale = 1.0 if tail.scale is None else float(str(tail.scale.attribute("scale")))
    builder.choose(op, "matmul_f32", "panels of the second operand")
    finish(builder, tail, "matmul_f32", "done to the rows of the product while in cache")
    b = np.broadcast_to(b, (*a.shape[:-2], *b.shape[-2:]))
    lead = a.shape[:-3]
    calls = [
        partial(
            products.matmul, _of_three(a[index]), _of_three(b[index]), _of_three(out[index]),
            scale=scale,
        )
        for index in np.ndindex(*lead)
    ]  # fmt: skip

    def call(_values: list[Array], _past: int) -> None:
        for one in calls:
            one()

    builder.calls.append(call)
