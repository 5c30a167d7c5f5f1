"""One emitter per op: from an op and the arrays that are there to a call on them."""

from collections.abc import Callable, Mapping

import numpy as np
from numpy.lib.stride_tricks import as_strided

from cosim.execute.builder import Array, Builder, memory_order, memory_rows
from cosim.execute.fusion import Tail
from cosim.ir import Op, is_constant
from kernels import attention, norms, panels, pointwise
from kernels.binarize import binarize

_ACTIVATIONS = {"f32": "f32", "i8": "i8", "i1": "b1"}  # dtype -> what kernels call it


def _emit_reshape(builder: Builder, op: Op) -> None:
    source = builder.get(op.inputs[0])
    shape = builder.shape(op.outputs[0])
    value = source.reshape(shape)
    builder.put(op.outputs[0], value, op.inputs[0])
    if not np.shares_memory(value, source):
        builder.calls.append(lambda _values, _past: np.copyto(value, source.reshape(shape)))


def _emit_transpose(builder: Builder, op: Op) -> None:
    order = op.attribute("order")
    axes = tuple(int(str(axis)) for axis in order) if isinstance(order, tuple) else ()
    builder.put(op.outputs[0], builder.get(op.inputs[0]).transpose(axes), op.inputs[0])


def _emit_slice(builder: Builder, op: Op) -> None:
    source = builder.get(op.inputs[0])
    axis = op.integer("axis")
    start, stop = op.attribute("start"), op.attribute("stop")
    lead = (slice(None),) * axis
    name = None if is_constant(op.inputs[0]) else op.inputs[0]
    if isinstance(start, int):
        length = builder.shape(op.outputs[0])[axis]
        builder.put(op.outputs[0], source[(*lead, slice(start, start + length))], name)
        return
    if str(start) != builder.symbol or builder.shape(op.outputs[0])[axis] != 1:
        raise ValueError(
            f"slice {op.outputs[0]}: [{start}:{stop}] is not one row at the open length"
        )
    slot = builder.put(op.outputs[0], source[(*lead, slice(0, 1))], name)

    def call(values: list[Array], past: int) -> None:
        values[slot] = source[(*lead, slice(past, past + 1))]

    builder.open.add(op.outputs[0])
    builder.calls.append(call)


def _emit_embedding(builder: Builder, op: Op) -> None:
    ids = builder.get(op.inputs[0]).reshape(-1)
    out = builder.new(op.outputs[0])
    builder.put(op.outputs[0], out)
    rows = out.reshape(-1, out.shape[-1])
    name = op.inputs[1]
    table: list[panels.LinearPanel] = []

    def call(_values: list[Array], _past: int) -> None:
        if not table:  # the product that shares the constant is planned later
            table.append(builder.weights.table(name))
        panels.embedding(table[0], ids, rows)

    builder.calls.append(call)
    builder.choose(op, "embedding", "rows of the encoded table")


def _emit_product(builder: Builder, op: Op) -> None:
    """Linear and conv1d, float or on integer codes, with what the kernel can do to its rows."""
    is_quantized = op.kind.startswith("quantized_")
    scale = builder.get(op.inputs[1]).reshape(-1) if is_quantized else None
    weight = op.inputs[2 if is_quantized else 1]
    rest = op.inputs[3 if is_quantized else 2 :]
    bias = builder.get(rest[0]) if rest else None
    tail = builder.tails.get(op.outputs[0], Tail())
    floats = (tail.residual or tail.activation or op).outputs[0]
    memory: Array | None = None
    if op.kind.endswith("conv1d"):
        x, taps = _windows(builder, op, builder.shape(weight)[2])
        _, filters, frames = builder.shape(op.outputs[0])
        memory = builder.new(floats, (frames, filters))
        builder.put(floats, memory.T[np.newaxis])
    else:
        x, taps = builder.rows(op.inputs[0]), 1
        if tail.keeps_floats:
            out = builder.new(floats)
            builder.put(floats, out)
            memory = out.reshape(-1, out.shape[-1])
    codes = codes_scale = None
    if tail.quantize is not None:
        codes, codes_scale = (builder.new(name) for name in tail.quantize.outputs)
        builder.put(tail.quantize.outputs[0], codes)
        builder.put(tail.quantize.outputs[1], codes_scale)
        codes, codes_scale = codes.reshape(-1, codes.shape[-1]), codes_scale.reshape(-1)
    residual = None
    if tail.residual is not None:
        other = next(name for name in tail.residual.inputs if name in builder.slots)
        residual = builder.rows(other)
    panel = builder.weights.panel(
        weight,
        rows=len(x),
        activation=_ACTIVATIONS[builder.graph.types[op.inputs[0]].dtype],
        taps=taps,
    )
    builder.choose(op, panel.kernel, panel.reason, is_fallback=panel.is_fallback)
    for step in tail.ops:
        builder.choose(step, panel.kernel, f"done to the rows of {op.scope} while in cache")
        builder.done.add(step.outputs[0])
    run = panels.bind(
        panel,
        x,
        memory,
        x_scale=scale,
        bias=bias,
        activation="none" if tail.activation is None else tail.activation.kind,
        residual=residual,
        codes=codes,
        codes_scale=codes_scale,
        quantize="none" if tail.quantize is None else "row",
    )
    builder.calls.append(lambda _values, _past: run())


def _windows(builder: Builder, op: Op, taps: int) -> tuple[Array, int]:
    """Return the overlapping rows [frames, taps * channels] of a zero-padded time-major copy."""
    source = builder.get(op.inputs[0])[0].T  # [time, channels]
    length, channels = source.shape
    padding, stride = op.integer("padding"), op.integer("stride")
    padded = np.zeros((length + 2 * padding, channels), source.dtype)
    inside = padded[padding : padding + length]
    builder.calls.append(lambda _values, _past: np.copyto(inside, source))
    frames = builder.shape(op.outputs[0])[2]
    step = padded.strides[0]
    view = as_strided(padded, (frames, taps * channels), (stride * step, padded.itemsize))
    return view, taps


def _emit_pointwise(builder: Builder, op: Op) -> None:
    source = builder.get(op.inputs[0])
    out = builder.new_like(op.outputs[0], source)
    builder.put(op.outputs[0], out)
    x, y = memory_rows(source), memory_rows(out)
    builder.choose(op, op.kind, "vectorised")
    if op.kind == "gelu":
        builder.calls.append(lambda _values, _past: pointwise.gelu(x, y))
        return
    gamma, beta = builder.get(op.inputs[1]), builder.get(op.inputs[2])
    epsilon = float(str(op.attribute("eps")))
    builder.calls.append(lambda _values, _past: norms.layer_norm(x, gamma, beta, epsilon, y))


def _emit_add(builder: Builder, op: Op) -> None:
    first, second = op.inputs
    a = builder.get(first)
    out = builder.new_like(op.outputs[0], a)
    builder.put(op.outputs[0], out)
    builder.choose(op, "add", "vectorised")
    if second in builder.open:
        slot = builder.slots[second]
        builder.calls.append(lambda values, _past: np.add(a, values[slot], out=out))
        return
    b = builder.get(second)
    if b.size == a.size and memory_order(b.reshape(a.shape)) == memory_order(a):
        x, y, z = memory_rows(a), memory_rows(b.reshape(a.shape)), memory_rows(out)
        builder.calls.append(lambda _values, _past: pointwise.add(x, y, z))
    else:
        builder.calls.append(lambda _values, _past: np.add(a, b, out=out))


def _emit_attention(builder: Builder, op: Op) -> None:
    is_quantized = op.kind == "quantized_attention"
    scale = float(str(op.attribute("scale")))
    _, heads, rows, depth = builder.shape(op.outputs[0])
    memory = builder.new(op.outputs[0], (rows, heads * depth))
    builder.put(op.outputs[0], memory.reshape(1, rows, heads, depth).transpose(0, 2, 1, 3))
    slots = [builder.slots[name] for name in op.inputs]
    if not is_quantized:
        q, k, v = slots
        builder.choose(op, "attention_f32", "softmax inside the block")
        run = attention.attention_f32
        builder.calls.append(
            lambda values, _past: run(values[q][0], values[k][0], values[v][0], scale, memory)
        )
        return
    q, qs, k, ks, v, vs = slots
    builder.choose(op, "attention_i8", "exact integer scores and context")
    scales = [_scale_view(builder, name) for name in (op.inputs[1], op.inputs[3], op.inputs[5])]
    run_i8 = attention.attention_i8

    def call(values: list[Array], _past: int) -> None:
        run_i8(
            values[q][0],
            scales[0](values[qs]),
            values[k][0],
            scales[1](values[ks]),
            values[v][0],
            scales[2](values[vs]),
            scale,
            memory,
        )

    builder.calls.append(call)


def _scale_view(builder: Builder, name: str) -> Callable[[Array], Array]:
    """Return how a scale [1, heads, rows] or [1] is handed to the kernel."""
    return (lambda scale: scale[0]) if len(builder.shape(name)) > 1 else (lambda scale: scale)


def _emit_concat(builder: Builder, op: Op) -> None:
    parts = [builder.get(name) for name in op.inputs]
    out = builder.new(op.outputs[0])
    builder.put(op.outputs[0], out)
    axis = op.integer("axis")
    builder.calls.append(lambda _values, _past: np.concatenate(parts, axis=axis, out=out))


def _emit_append(builder: Builder, op: Op) -> None:
    state, new = op.inputs
    cache, row = builder.get(state), builder.get(new)
    lead = (slice(None),) * op.integer("axis")
    count = row.shape[op.integer("axis")]
    slot = builder.put(op.outputs[0], cache, state)
    builder.open.add(op.outputs[0])

    def call(values: list[Array], past: int) -> None:
        cache[(*lead, slice(past, past + count))] = row
        values[slot] = cache[(*lead, slice(0, past + count))]

    builder.calls.append(call)


def _emit_quantize(builder: Builder, op: Op) -> None:
    source_name = op.inputs[0]
    codes_name, scale_name = op.outputs
    per_row = op.attribute("per") == "row"
    builder.choose(op, f"dynamic_quantize_{op.attribute('per')}", "absmax")
    run = pointwise.dynamic_quantize_row if per_row else pointwise.dynamic_quantize_tensor
    if source_name in builder.open:
        _emit_open_quantize(builder, op, run)
        return
    source = builder.get(source_name)
    codes = builder.new_like(codes_name, source)
    builder.put(codes_name, codes)
    x, q = memory_rows(source), memory_rows(codes)
    if not per_row:
        scale = builder.new(scale_name)
        builder.put(scale_name, scale)
        builder.calls.append(lambda _values, _past: run(x, q, scale))
        return
    order = memory_order(source)
    if order[-1] != source.ndim - 1:
        raise ValueError(f"{op.outputs[0]}: rows of {source_name} are not contiguous in memory")
    memory = builder.new(scale_name, tuple(source.shape[axis] for axis in order[:-1]))
    builder.put(scale_name, memory.transpose(np.argsort(order[:-1])))
    flat = memory.reshape(-1)
    builder.calls.append(lambda _values, _past: run(x, q, flat))


def _emit_binarize(builder: Builder, op: Op) -> None:
    bits_name, scale_name = op.outputs
    builder.choose(op, "binarize", "sign and mean magnitude of each row")
    x = builder.rows(op.inputs[0])
    bits, scale = builder.new(bits_name), builder.new(scale_name)
    builder.put(bits_name, bits)
    builder.put(scale_name, scale)
    packed, flat = bits.reshape(-1, bits.shape[-1]), scale.reshape(-1)
    builder.calls.append(lambda _values, _past: binarize(x, packed, flat))


def _emit_open_quantize(
    builder: Builder, op: Op, run: Callable[[Array, Array, Array], None]
) -> None:
    """Quantise a cache of open length per tensor."""
    codes_name, scale_name = op.outputs
    if op.attribute("per") != "tensor":
        raise ValueError(f"{op.outputs[0]}: a cache is quantised per row before it is appended to")
    source_slot = builder.slots[op.inputs[0]]
    codes = builder.new_like(codes_name, builder.get(op.inputs[0]))
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


EMITTERS: Mapping[str, Callable[[Builder, Op], None]] = {
    "reshape": _emit_reshape,
    "transpose": _emit_transpose,
    "slice": _emit_slice,
    "embedding": _emit_embedding,
    "linear": _emit_product,
    "quantized_linear": _emit_product,
    "conv1d": _emit_product,
    "quantized_conv1d": _emit_product,
    "gelu": _emit_pointwise,
    "layer_norm": _emit_pointwise,
    "add": _emit_add,
    "attention": _emit_attention,
    "quantized_attention": _emit_attention,
    "concat": _emit_concat,
    "cache_append": _emit_append,
    "dynamic_quantize": _emit_quantize,
    "dynamic_binarize": _emit_binarize,
}
