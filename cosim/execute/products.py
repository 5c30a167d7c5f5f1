"""Emitters of products with weights: linear layers and convolutions without groups."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.lib.stride_tricks import as_strided

from cosim.execute.builder import Builder
from cosim.execute.fusion import Tail
from cosim.execute.layout import Array, row_order
from cosim.execute.pointwise import finish, norm_of
from cosim.ir import Op
from kernels import conv, norms, panels

ACTIVATIONS = {
    **dict.fromkeys(("f32", "f16", "bf16"), "f32"),
    "i8": "i8",
    "i1": "b1",
    "u1": "u1",
}
"""What kernels call the dtype of an operand."""
CHUNK_BYTES = 1 << 20
"""Rows that are normalised behind a product are taken so many bytes at a time, to stay in cache."""
WINDOW_BYTES = 1 << 20
"""Windows of two dimensions that are gathered together."""
ROW_BLOCK = 96  # rows that a linear kernel computes together


@dataclass(frozen=True)
class Product:
    """The operands of a product by role; `scale` is that of codes, `rows` counts their rows."""

    op: Op
    weight: str
    bias: Array | None
    scale: Array | None
    activation: str
    tail: Tail

    def step(self) -> str:
        """Return the activation behind the bias as kernels name it."""
        activation = self.tail.activation
        return "none" if activation is None or self.tail.norm is not None else activation.kind


def product_of(builder: Builder, op: Op) -> Product:
    """Return what a product reads and what follows it."""
    is_quantized = op.kind.startswith("quantized_")
    scale = builder.fixed(op.inputs[1]).reshape(-1) if is_quantized else None
    weight, *rest = op.inputs[2 if is_quantized else 1 :]
    return Product(
        op,
        weight,
        builder.get(rest[0]) if rest else None,
        scale,
        ACTIVATIONS[builder.graph.types[op.inputs[0]].dtype],
        builder.tails.get(op.outputs[0], Tail(op.outputs[0])),
    )


def panel_of(
    builder: Builder, product: Product, rows: int, taps: int, *, part: tuple[int, int] = (0, 1)
) -> panels.LinearPanel:
    """Return the panel for so many rows and record the choice of its kernel."""
    panel = builder.weights.panel(
        product.weight, rows=rows, activation=product.activation, taps=taps, part=part
    )
    if part[0] == 0:
        reason = panel.reason if part[1] == 1 else f"{panel.reason}, in {part[1]} groups"
        builder.choose(product.op, panel.kernel, reason, is_fallback=panel.is_fallback)
        where = f"done to the rows of {product.op.scope} while in cache"
        finish(builder, product.tail, panel.kernel, where)
    return panel


def emit_linear(builder: Builder, op: Op) -> None:
    """Multiply rows, in whatever order they lie, and finish them while they are in cache."""
    product = product_of(builder, op)
    tail, name = product.tail, op.inputs[0]
    order = row_order(builder.fixed(name))
    x = builder.rows(name, order)
    if product.scale is not None and len(product.scale) > 1:
        product = _with_scale(builder, product, order)
    memory = None
    if tail.keeps_floats:
        out = builder.new(tail.result, order)
        builder.put(tail.result, out)
        memory = out.transpose(order).reshape(len(x), -1)
    run_rows(builder, product, x, memory, order)


def _with_scale(builder: Builder, product: Product, order: Sequence[int]) -> Product:
    """Take the scales of rows in the order of the rows."""
    name, lead = product.op.inputs[1], tuple(order[:-1])
    scale = builder.fixed(name)
    flat = scale.transpose(lead).reshape(-1)
    if not np.may_share_memory(flat, scale):
        flat = builder.copied(name, lead).reshape(-1)
    return Product(product.op, product.weight, product.bias, flat, product.activation, product.tail)


def run_rows(
    builder: Builder,
    product: Product,
    x: Array,
    memory: Array | None,
    order: Sequence[int],
    *,
    taps: int = 1,
) -> None:
    """Call the product of rows `x` with all that follows; results go to `memory` or to codes.

    `order` is that of the axes of a residual or of codes in memory, rows outermost.
    """
    tail = product.tail
    panel = panel_of(builder, product, len(x), taps)
    codes = codes_scale = residual = None
    if tail.quantize is not None:
        name, scale_name = tail.quantize.outputs
        codes, codes_scale = builder.new(name, order), builder.new(scale_name, order[:-1])
        builder.put(name, codes)
        builder.put(scale_name, codes_scale)
        codes = codes.transpose(order).reshape(len(x), -1)
        codes_scale = codes_scale.transpose(order[:-1]).reshape(-1)
    if tail.residual is not None:
        residual = builder.rows(added(tail.residual, builder), order)
    size = len(x)
    if tail.norm is not None and memory is not None:
        size = max(ROW_BLOCK, CHUNK_BYTES // (4 * memory.shape[1]) // ROW_BLOCK * ROW_BLOCK)
    calls = []
    for first in range(0, len(x), size):
        part = slice(first, first + size)
        out = None if memory is None else memory[part]
        calls.append(
            panels.bind(
                panel,
                x[part],
                out,
                x_scale=product.scale,
                bias=product.bias,
                activation=product.step(),
                residual=residual,
                codes=codes,
                codes_scale=codes_scale,
                quantize="none" if codes is None else "row",
            )
        )
        if tail.norm is not None and out is not None:
            calls.append(_norm(builder, tail, out))
    call_all(builder, calls)


def added(op: Op, builder: Builder) -> str:
    """Return what a sum adds to the value that the call makes: the operand that is there."""
    return next(name for name in op.inputs if name in builder.slots)


def _norm(builder: Builder, tail: Tail, rows: Array) -> Callable[[], None]:
    """Return the call that normalises finished rows in place, with the activation behind it."""
    op = tail.norm
    activation = "none" if tail.activation is None else tail.activation.kind
    if op is None:
        raise ValueError(f"{tail.result}: no norm behind it")
    if op.kind == "batch_norm":
        moments = norm_of(builder, op)
        return lambda: norms.batch_norm(rows, *moments, rows, activation=activation)
    gamma, beta = (builder.get(name) for name in op.inputs[1:])
    epsilon = float(str(op.attribute("eps")))
    return lambda: norms.layer_norm(rows, gamma, beta, epsilon, rows, activation=activation)


def call_all(builder: Builder, calls: Sequence[Callable[[], None]]) -> None:
    """Append one call that makes all of them in turn."""
    if len(calls) == 1:
        (once,) = calls
        builder.calls.append(lambda _values, _past: once())
        return

    def call(_values: list[Array], _past: int) -> None:
        for one in calls:
            one()

    builder.calls.append(call)


def time_major(builder: Builder, tail: Tail) -> Array:
    """Put the result of a convolution [1, channels, frames], held by frames; return its rows."""
    shape = builder.shape(tail.result)
    frames, channels = shape[1:] if tail.is_turned else shape[:0:-1]
    rows = builder.buffer((frames, channels), until=builder.last_use.get(tail.result, -1))
    builder.put(tail.result, (rows if tail.is_turned else rows.T)[np.newaxis])
    return rows


def emit_conv1d(builder: Builder, op: Op) -> None:
    """Multiply windows of frames: rows that overlap in memory, padded only where they must be."""
    product = product_of(builder, op)
    taps = builder.shape(product.weight)[2]
    x = _windows(builder, op, taps)
    memory = time_major(builder, product.tail) if product.tail.keeps_floats else None
    run_rows(builder, product, x, memory, (0, 1, 2), taps=taps)


def _windows(builder: Builder, op: Op, taps: int) -> Array:
    """Return the rows [frames, taps * channels] of the convolution's operand."""
    padding, stride = op.integer("padding"), op.integer("stride")
    frames = builder.rows(op.inputs[0], (0, 2, 1))
    length, channels = frames.shape
    lies_together = frames.strides[0] == channels * frames.itemsize
    if taps == 1 and padding == 0:
        return frames[::stride]
    if padding or not lies_together:
        dtype = builder.graph.types[op.inputs[0]].dtype
        source, frames = frames, builder.buffer((length + 2 * padding, channels), dtype)
        padded = frames
        builder.calls.append(lambda _values, _past: conv.pad_time(source, padded, padding=padding))
    return conv.windows(np.ascontiguousarray(frames), size=taps, stride=stride)


def emit_conv2d(builder: Builder, op: Op) -> None:
    """Multiply windows of an image, gathered for a block of outputs at a time; channels last."""
    product = product_of(builder, op)
    *_, down, across = builder.shape(product.weight)
    if down != across:
        raise ValueError(f"{op.kind} {op.outputs[0]}: filters {down} x {across}, expected squares")
    image = image_of(builder, op.inputs[0])
    filters, height, width = builder.shape(op.outputs[0])[1:]
    rows, columns = height * width, down * across * image.shape[2]
    out = builder.new(product.tail.result, (0, 2, 3, 1))
    builder.put(product.tail.result, out)
    memory = out.transpose(0, 2, 3, 1).reshape(rows, filters)
    held = WINDOW_BYTES // (image.itemsize * columns)
    block = min(rows, max(ROW_BLOCK, held // ROW_BLOCK * ROW_BLOCK))
    workspace = builder.buffer((block, columns), builder.graph.types[op.inputs[0]].dtype)
    panel = panel_of(builder, product, block, down * across)
    calls = [
        panels.bind(
            panel,
            workspace[: min(block, rows - first)],
            memory[first : first + block],
            x_scale=product.scale,
            bias=product.bias,
            activation=product.step(),
        )
        for first in range(0, rows, block)
    ]
    stride, padding = op.integer("stride"), op.integer("padding")

    def call(_values: list[Array], _past: int) -> None:
        blocks = conv.window_blocks(image, workspace, size=down, stride=stride, padding=padding)
        for _, run in zip(blocks, calls, strict=True):
            run()

    builder.calls.append(call)


def image_of(builder: Builder, name: str) -> Array:
    """Return a value [1, channels, height, width] as [height, width, channels], pixels together."""
    value = builder.fixed(name)
    if value.shape[0] != 1:
        raise ValueError(f"{name}: batch of {value.shape[0]}, expected 1")
    image: Array = value[0].transpose(1, 2, 0)
    _, width, channels = image.shape
    pixel = channels * image.itemsize
    flat = channels == 1 or image.strides[2] == image.itemsize
    if flat and (width == 1 or image.strides[1] == pixel):  # axes of one have any stride
        return as_strided(image, image.shape, (image.strides[0], pixel, image.itemsize))
    return builder.copied(name, (0, 2, 3, 1)).reshape(image.shape)
