"""Emitters of functions of single elements, of sums and products of values, and of norms."""

from collections.abc import Callable, Mapping, Sequence
from functools import partial

import numpy as np
from numpy.lib.stride_tricks import as_strided

from cosim.execute.builder import Builder
from cosim.execute.fusion import Tail
from cosim.execute.layout import Array, aligned, memory_order, memory_rows, row_order, rows_in
from cosim.ir import Op
from kernels import elementwise, norms, pointwise

_FUNCTIONS: Mapping[str, Callable[[Array, Array], None]] = {
    "gelu": pointwise.gelu,
    "relu": pointwise.relu,
    "silu": pointwise.silu,
    "tanh": pointwise.tanh,
    "sigmoid": pointwise.sigmoid,
}
_SUMS: Mapping[str, Callable[[Array, Array, Array], None]] = {
    "add": elementwise.add,
    "sub": elementwise.subtract,
    "mul": elementwise.multiply,
}
_ON_OPEN: Mapping[str, np.ufunc] = {"add": np.add, "sub": np.subtract, "mul": np.multiply}


def emit_function(builder: Builder, op: Op) -> None:
    """Apply a function to every element, in whatever order they lie."""
    name = op.inputs[0]
    source = builder.fixed(name)
    order = memory_order(source)
    if source.shape[order[-1]] > 1 and source.strides[order[-1]] != source.itemsize:
        source = builder.packed(name)
        order = memory_order(source)
    out = builder.new(op.outputs[0], order)
    builder.put(op.outputs[0], out)
    builder.choose(op, op.kind, "vectorised")
    _each(builder, _FUNCTIONS[op.kind], out, [source], axes=2)


def emit_glu(builder: Builder, op: Op) -> None:
    """Multiply one half by the sigmoid of the other, along any axis."""
    name, axis = op.inputs[0], op.integer("axis")
    outside = [i for i in memory_order(builder.fixed(name)) if i != axis]
    order = (*outside, axis)
    x = builder.rows(name, order)
    out = builder.new(op.outputs[0], order)
    builder.put(op.outputs[0], out)
    builder.choose(op, "glu", "vectorised")
    y = out.transpose(order).reshape(len(x), -1)
    builder.calls.append(lambda _values, _past: pointwise.glu(x, y))


def emit_sum_of_two(builder: Builder, op: Op) -> None:
    """Add, subtract or multiply two values that are broadcast together."""
    builder.choose(op, op.kind, "vectorised")
    if builder.open & set(op.inputs):
        _emit_open(builder, op)
        return
    shape = builder.shape(op.outputs[0])
    operands = [np.broadcast_to(builder.get(name), shape) for name in op.inputs]
    out = builder.new(op.outputs[0], _order_of(operands))
    builder.put(op.outputs[0], out)
    _each(builder, _SUMS[op.kind], out, operands)


def _emit_open(builder: Builder, op: Op) -> None:
    """Combine values of one token, of which some move from call to call."""
    out = builder.new(op.outputs[0])
    builder.put(op.outputs[0], out)
    run = _ON_OPEN[op.kind]
    found = [(builder.slots.get(name), builder.get(name)) for name in op.inputs]

    def call(values: list[Array], _past: int) -> None:
        a, b = (value if slot is None else values[slot] for slot, value in found)
        run(a, b, out=out)

    builder.calls.append(call)


def emit_affine(builder: Builder, op: Op) -> None:
    """Scale and shift by plain numbers; a factor of what is added to a residual is done with it."""
    scale, shift = (float(str(op.attribute(name))) for name in ("scale", "shift"))
    name = op.inputs[0]
    tail = builder.tails.get(op.outputs[0], Tail(op.outputs[0]))
    operands = [builder.fixed(name)]
    if tail.residual is not None:
        first = next(other for other in tail.residual.inputs if other != op.outputs[0])
        operands.insert(0, builder.fixed(first))
        finish(builder, tail, "add_scaled", "one pass")
        run = partial(_add_scaled, scale)
    else:
        builder.choose(op, "affine", "vectorised")
        run = partial(_scale_shift, scale, shift)
    out = builder.new(tail.result, _order_of(operands))
    builder.put(tail.result, out)
    _each(builder, run, out, operands)


def _add_scaled(factor: float, a: Array, b: Array, out: Array) -> None:
    elementwise.add_scaled(a, b, factor, out)


def _scale_shift(scale: float, shift: float, x: Array, out: Array) -> None:
    elementwise.affine(x, scale, shift, out)


def emit_total(builder: Builder, op: Op) -> None:
    """Sum over the last axis."""
    source = builder.fixed(op.inputs[0])
    order = row_order(source)
    out = builder.new(op.outputs[0], order[:-1])
    builder.put(op.outputs[0], out)
    builder.choose(op, "row_sums", "one after the other")
    sums = out.transpose(order[:-1])
    width = source.shape[-1]
    if width == 1:
        builder.calls.append(lambda _values, _past: np.copyto(out, source[..., 0]))
        return
    long = as_strided(sums, (*sums.shape, width), (*sums.strides, 0))
    pairs = [(x, y[..., 0]) for x, y in aligned((source.transpose(order), long), 3)]

    def call(_values: list[Array], _past: int) -> None:
        for x, y in pairs:
            elementwise.row_sums(x, y)

    builder.calls.append(call)


def _order_of(operands: Sequence[Array]) -> tuple[int, ...]:
    """Return the memory order of an operand that lies together, of the first if none does."""
    whole = [x for x in operands if 0 not in x.strides or x.size <= 1]
    found = next((x for x in whole if rows_in(x, memory_order(x)) is not None), operands[0])
    return memory_order(found)


def _each(
    builder: Builder,
    run: Callable[..., None],
    out: Array,
    operands: Sequence[Array],
    *,
    axes: int = 3,
) -> None:
    """Call `run(*operands, out)` on merged views of so many axes, in the memory order of `out`."""
    order = memory_order(out)
    arrays = [array.transpose(order) for array in (*operands, out)]
    calls = [partial(run, *views) for views in aligned(arrays, axes)]

    def call(_values: list[Array], _past: int) -> None:
        for one in calls:
            one()

    builder.calls.append(call)


def emit_layer_norm(builder: Builder, op: Op) -> None:
    """Normalise over the last axis, with the activation behind it."""
    name = op.inputs[0]
    order = row_order(builder.fixed(name))
    x = builder.rows(name, order)
    gamma, beta = (builder.get(other) for other in op.inputs[1:])
    y, activation = _normed(builder, op, order)
    run = partial(norms.layer_norm, x, gamma, beta, _eps(op), y, activation=activation)
    builder.calls.append(lambda _values, _past: run())


def emit_batch_norm(builder: Builder, op: Op) -> None:
    """Normalise channels by fixed moments, with the activation behind it."""
    x, order, is_last = _channels(builder, op)
    moments = norm_of(builder, op)
    y, activation = _normed(builder, op, order)
    run = partial(norms.batch_norm, x, *moments, y, channels_last=is_last, activation=activation)
    builder.calls.append(lambda _values, _past: run())


def emit_group_norm(builder: Builder, op: Op) -> None:
    """Normalise groups of channels over time, with the activation behind it."""
    x, order, is_last = _channels(builder, op)
    gamma, beta = (builder.get(name) for name in op.inputs[1:])
    y, activation = _normed(builder, op, order)
    run = partial(
        norms.group_norm, x, gamma, beta, _eps(op), y, groups=op.integer("groups"),
        channels_last=is_last, activation=activation,
    )  # fmt: skip
    builder.calls.append(lambda _values, _past: run())


def norm_of(builder: Builder, op: Op) -> tuple[Array, Array, Array]:
    """Return mean, factor and shift of a batch norm."""
    weight, bias, mean, variance = (builder.get(name) for name in op.inputs[1:])
    return mean, norms.fold_batch_norm(variance, weight, _eps(op)), bias


def _channels(builder: Builder, op: Op) -> tuple[Array, tuple[int, ...], bool]:
    """Return x [1, channels, ...] as rows with channels last or first, their order, and which."""
    value = builder.fixed(op.inputs[0])
    if value.shape[0] != 1:
        raise ValueError(f"{op.kind} {op.outputs[0]}: batch of {value.shape[0]}, expected 1")
    last = (0, *range(2, value.ndim), 1)
    rows = rows_in(value, (0, 1, 2)) if value.ndim == 3 else None
    if rows is not None and rows_in(value, last) is None:
        return rows, (0, 1, 2), False
    return builder.rows(op.inputs[0], last), last, True


def _normed(builder: Builder, op: Op, order: Sequence[int]) -> tuple[Array, str]:
    """Return rows for the results of a norm and its activation, and the latter's name."""
    tail = builder.tails.get(op.outputs[0], Tail(op.outputs[0]))
    out = builder.new(tail.result, order)
    builder.put(tail.result, out)
    builder.choose(op, op.kind, "vectorised")
    finish(builder, tail, op.kind, f"done to the rows of {op.scope} while in cache")
    ordered = out.transpose(order)
    y = ordered.reshape(-1, ordered.shape[-1])
    return y, "none" if tail.activation is None else tail.activation.kind


def finish(builder: Builder, tail: Tail, kernel: str, reason: str) -> None:
    """Record the ops of a tail as done by a kernel."""
    for op in tail.ops:
        if op.kind not in ("transpose", "rel_shift"):
            builder.choose(op, kernel, reason)
        builder.done.add(op.outputs[0])


def _eps(op: Op) -> float:
    return float(str(op.attribute("eps")))


def emit_quantize(builder: Builder, op: Op) -> None:
    """Write codes and their scales, one each row or one for all."""
    source_name = op.inputs[0]
    codes_name, scale_name = op.outputs
    per_row = op.attribute("per") == "row"
    builder.choose(op, f"dynamic_quantize_{op.attribute('per')}", "absmax")
    run = pointwise.dynamic_quantize_row if per_row else pointwise.dynamic_quantize_tensor
    if source_name in builder.open:
        _emit_open_quantize(builder, op, run)
        return
    source = builder.get(source_name)
    order = row_order(source) if per_row else memory_order(source)
    x = builder.rows(source_name, order)
    codes = builder.new(codes_name, order)
    builder.put(codes_name, codes)
    scale = builder.new(scale_name, order[:-1] if per_row else None)
    builder.put(scale_name, scale)
    q = codes.transpose(order).reshape(x.shape)
    flat = scale.transpose(order[:-1]).reshape(-1) if per_row else scale
    builder.calls.append(lambda _values, _past: run(x, q, flat))


def _emit_open_quantize(
    builder: Builder, op: Op, run: Callable[[Array, Array, Array], None]
) -> None:
    """Quantise a cache of open length per tensor."""
    codes_name, scale_name = op.outputs
    if op.attribute("per") != "tensor":
        raise ValueError(f"{op.outputs[0]}: a cache is quantised per row before it is appended to")
    source_slot = builder.slots[op.inputs[0]]
    codes = builder.new(codes_name, memory_order(builder.get(op.inputs[0])))
    scale = builder.new(scale_name)
    slot = builder.put(codes_name, codes)
    builder.put(scale_name, scale)
    builder.open.add(codes_name)
    shape = builder.graph.types[codes_name].shape
    axis = next(i for i, dim in enumerate(shape) if not isinstance(dim, int))
    lead = (slice(None),) * axis

    def call(values: list[Array], _past: int) -> None:
        source = values[source_slot]
        result = codes[(*lead, slice(0, source.shape[axis]))]
        run(memory_rows(source), memory_rows(result), scale)
        values[slot] = result

    builder.calls.append(call)
