"""Emitters of operands by a fixed rule: codes of a calibrated scale, floats of 16 bits."""

from collections.abc import Sequence

from cosim.execute.builder import Builder
from cosim.execute.layout import Array, memory_order
from cosim.ir import Op
from kernels.pointwise import static_quantize
from kernels.rounding import round_to


def emit_quantize(builder: Builder, op: Op) -> None:
    """Write codes by one scale that is known beforehand; what is beyond its range saturates."""
    scale = builder.get(op.inputs[1])
    x, codes = _rows(builder, op)
    builder.choose(op, "static_quantize", "by a calibrated scale")
    builder.calls.append(lambda _values, _past: static_quantize(x, scale, codes))


def emit_cast(builder: Builder, op: Op) -> None:
    """Write every element rounded to the format, held as float32."""
    number = str(op.attribute("number"))
    x, out = _rows(builder, op)
    builder.choose(op, "round_to", f"to {number}, held as float32")
    builder.calls.append(lambda _values, _past: round_to(x, number, out))


def _rows(builder: Builder, op: Op) -> tuple[Array, Array]:
    """Return the operand and the result as rows, in the operand's order in memory."""
    name, result = op.inputs[0], op.outputs[0]
    order: Sequence[int] = memory_order(builder.fixed(name))
    x = builder.rows(name, order)
    out = builder.new(result, order)
    builder.put(result, out)
    return x, out.transpose(order).reshape(x.shape)
