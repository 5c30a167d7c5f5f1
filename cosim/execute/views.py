"""Emitters of ops that move or repeat data: views where the memory allows them, else one copy."""

from collections.abc import Callable

import numpy as np
from numpy.lib.stride_tricks import as_strided

from cosim.execute.builder import Builder
from cosim.execute.layout import Array, memory_order
from cosim.expr import Expr
from cosim.ir import Attribute, Op


def emit_reshape(builder: Builder, op: Op) -> None:
    """View the operand in another shape; where no view has it, its elements are copied in order."""
    name = op.inputs[0]
    shape = builder.shape(op.outputs[0])
    if name in builder.open and _is_settled(builder, op.outputs[0]):
        _view(builder, op, lambda value: value.reshape(shape))
        return
    source = builder.fixed(name)
    value = source.reshape(shape)
    if not np.shares_memory(value, source):
        value = builder.new(op.outputs[0])
        target = value.reshape(source.shape)
        builder.calls.append(lambda _values, _past: np.copyto(target, source))
    builder.put(op.outputs[0], value)


def emit_transpose(builder: Builder, op: Op) -> None:
    """View the operand with its axes in another order."""
    order = op.attribute("order")
    axes = tuple(int(str(axis)) for axis in order) if isinstance(order, tuple) else ()
    _view(builder, op, lambda value: value.transpose(axes))


def emit_expand(builder: Builder, op: Op) -> None:
    """View the operand with axes of one repeated."""
    shape = builder.shape(op.outputs[0])
    builder.fixed(op.inputs[0])
    _view(builder, op, lambda value: np.broadcast_to(value, shape))


def emit_slice(builder: Builder, op: Op) -> None:
    """View a part of the operand; one that starts at the open length moves from call to call."""
    source = builder.get(op.inputs[0])
    axis, step = op.integer("axis"), int(str(op.get("step", 1)))
    start, stop = op.attribute("start"), op.attribute("stop")
    lead = (slice(None),) * axis
    if _is_fixed(builder, start):
        builder.fixed(op.inputs[0])
        first = _number(builder, start)
        length = builder.shape(op.outputs[0])[axis]
        part = (*lead, slice(first, first + (length - 1) * step + 1, step))
        _view(builder, op, lambda value: value[part])
        return
    if str(start) != builder.symbol or builder.shape(op.outputs[0])[axis] != 1:
        raise ValueError(
            f"slice {op.outputs[0]}: [{start}:{stop}] is not one row at the open length"
        )
    slot = builder.put(op.outputs[0], source[(*lead, slice(0, 1))])

    def call(values: list[Array], past: int) -> None:
        values[slot] = source[(*lead, slice(past, past + 1))]

    builder.open.add(op.outputs[0])
    builder.calls.append(call)


def emit_rel_shift(builder: Builder, op: Op) -> None:
    """View scores by relative position as scores by key."""
    builder.put(op.outputs[0], shifted(_compact(builder, op.inputs[0])))


def shifted(scores: Array) -> Array:
    """View [..., T, T + S - 1] as [..., T, S] with out[i, j] = scores[i, T - 1 - i + j]."""
    rows, columns = scores.shape[-2:]
    *lead, step, one = scores.strides
    return as_strided(
        scores[..., rows - 1 :],
        (*scores.shape[:-1], columns - rows + 1),
        (*lead, step - one, one),
        writeable=False,
    )


def _compact(builder: Builder, name: str) -> Array:
    """Return a value with a unit inner stride; of one that is repeated, one copy is enough."""
    value = builder.fixed(name)
    if value.strides[-1] == value.itemsize:
        return value
    own = value[tuple(slice(0, 1) if step == 0 else slice(None) for step in value.strides)]
    copy = builder.buffer(own.shape, until=builder.last_use.get(name, -1))
    builder.calls.append(lambda _values, _past: np.copyto(copy, own))
    return np.broadcast_to(copy, value.shape)


def emit_concat(builder: Builder, op: Op) -> None:
    """Copy the operands one after the other, in the memory order of the first."""
    axis = op.integer("axis")
    parts = [builder.fixed(name) for name in op.inputs]
    out = builder.new(op.outputs[0], memory_order(parts[0]))
    builder.put(op.outputs[0], out)
    ends = np.cumsum([part.shape[axis] for part in parts]).tolist()
    lead = (slice(None),) * axis
    pairs = [
        (out[(*lead, slice(end - part.shape[axis], end))], part)
        for part, end in zip(parts, ends, strict=True)
    ]

    def call(_values: list[Array], _past: int) -> None:
        for target, part in pairs:
            np.copyto(target, part)

    builder.calls.append(call)


def emit_pad(builder: Builder, op: Op) -> None:
    """Copy the operand between zeros."""
    axis, before = op.integer("axis"), op.integer("before")
    source = builder.fixed(op.inputs[0])
    out = builder.new(op.outputs[0], memory_order(source))
    builder.put(op.outputs[0], out)
    lead, end = (slice(None),) * axis, before + source.shape[axis]
    edges = (out[(*lead, slice(0, before))], out[(*lead, slice(end, None))])
    inside = out[(*lead, slice(before, end))]

    def call(_values: list[Array], _past: int) -> None:
        for edge in edges:
            edge[...] = 0
        np.copyto(inside, source)

    builder.calls.append(call)


def emit_repeat(builder: Builder, op: Op) -> None:
    """Copy each element along an axis several times in a row."""
    axis, times = op.integer("axis"), op.integer("times")
    source = builder.fixed(op.inputs[0])
    out = builder.new(op.outputs[0], memory_order(source))
    builder.put(op.outputs[0], out)
    lead = (slice(None),) * axis
    targets = [out[(*lead, slice(i, None, times))] for i in range(times)]

    def call(_values: list[Array], _past: int) -> None:
        for target in targets:
            np.copyto(target, source)

    builder.calls.append(call)


def emit_append(builder: Builder, op: Op) -> None:
    """Write new rows behind those of a cache and view all of them."""
    state, new = op.inputs
    axis = op.integer("axis")
    cache, row = builder.get(state), builder.fixed(new)
    lead = (slice(None),) * axis
    count = row.shape[axis]
    slot = builder.put(op.outputs[0], cache)
    builder.open.add(op.outputs[0])

    def call(values: list[Array], past: int) -> None:
        cache[(*lead, slice(past, past + count))] = row
        values[slot] = cache[(*lead, slice(0, past + count))]

    builder.calls.append(call)


def _view(builder: Builder, op: Op, view: Callable[[Array], Array]) -> None:
    """Put a view of the operand; of one that moves, it is taken anew at every call."""
    name = op.inputs[0]
    slot = builder.put(op.outputs[0], view(builder.get(name)))
    if name not in builder.open:
        return
    source = builder.slots[name]

    def call(values: list[Array], _past: int) -> None:
        values[slot] = view(values[source])

    builder.open.add(op.outputs[0])
    builder.calls.append(call)


def _is_fixed(builder: Builder, dim: Attribute) -> bool:
    return not isinstance(dim, Expr) or builder.symbol not in dim.symbols


def _number(builder: Builder, dim: Attribute) -> int:
    return builder.size(dim) if isinstance(dim, Expr) else int(str(dim))


def _is_settled(builder: Builder, name: str) -> bool:
    """Return whether the shape of a value does not depend on the open length."""
    return all(_is_fixed(builder, dim) for dim in builder.graph.types[name].shape)
