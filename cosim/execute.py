"""Execute a program with the kernels: numpy arrays in, numpy arrays out, no torch.

A graph is planned once for fixed lengths: buffers are allocated, constants are prepared for their
kernels, and every op becomes one call on arrays that are already there. A length that a cache
grows by stays open until the call. Python runs once per op, never per element.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.lib.stride_tricks import as_strided
from numpy.typing import NDArray

import cosim.guard  # noqa: F401 (stops at a foreign kernels package)
from cosim.ir import Graph, Op, Program, is_constant
from kernels import attention, panels, pointwise
from kernels.encodings import Encoding, decode

Array = NDArray[Any]  # the verifier settles dtypes, per value
Call = Callable[[list[Array], int], object]

_DTYPES = {"f32": np.float32, "i8": np.int8, "u8": np.uint8, "i32": np.int32, "i64": np.int64}


@dataclass(frozen=True)
class KernelChoice:
    """Which kernel executes one op and why."""

    graph: str
    scope: str
    op: str
    kernel: str
    reason: str


@dataclass
class Weights:
    """Constants of a program as their kernels read them; shared by all plans and threads.

    Encoded payloads are read when a constant is first prepared and not kept.
    """

    program: Program
    encodings: Mapping[str, Encoding]
    prepared: dict[tuple[str, str, bool], panels.LinearPanel] = field(default_factory=dict)
    decoded: dict[str, Array] = field(default_factory=dict)

    def panel(self, name: str, *, rows: int, activation: str, taps: int = 1) -> panels.LinearPanel:
        """Return constant `name` laid out for products with `rows` activation rows."""
        key = (name, activation, rows <= 16)
        if key not in self.prepared:
            made = [panel for (other, _, _), panel in self.prepared.items() if other == name]
            self.prepared[key] = panels.prepare_linear(
                self.encodings[name],
                rows=rows,
                activation=activation,
                kernel_size=taps,
                share=made,
            )
        return self.prepared[key]

    def table(self, name: str) -> panels.LinearPanel:
        """Return a panel of `name` for gathering rows: one that a product uses, if there is."""
        for (constant, _, _), panel in self.prepared.items():
            if constant == name:
                return panel
        return self.panel(name, rows=1, activation="f32")

    def array(self, name: str) -> Array:
        """Return a constant as plain float32, for vectors and position tables."""
        if name not in self.decoded:
            self.decoded[name] = np.ascontiguousarray(decode(self.encodings[name]))
        return self.decoded[name]


@dataclass
class Plan:
    """One graph ready to run: `values` are live arrays, `calls` the work in order.

    `run` binds the open length (0 where there is none). `array` reads a value by public name.
    """

    graph: Graph
    slots: dict[str, int]
    values: list[Array]
    calls: list[Call]
    kernels: tuple[KernelChoice, ...]

    def run(self, past: int = 0) -> None:
        """Execute the graph once with `past` rows in every cache."""
        values = self.values
        for call in self.calls:
            call(values, past)

    def input(self, public: str) -> Array:
        """Return the buffer of an input, to be filled before `run`."""
        return self.values[self.slots[f"%{public}"]]

    def output(self, public: str) -> Array:
        """Return a result; it is overwritten by the next `run`."""
        return self.values[self.slots[dict(self.graph.outputs)[public]]]


def plan(
    weights: Weights,
    graph_name: str,
    *,
    bindings: Mapping[str, int],
    inputs: Mapping[str, Array] | None = None,
) -> Plan:
    """Return a graph planned for `bindings`; the symbol a cache grows by is left out of them.

    `inputs` gives arrays that stand for inputs without a copy (another plan's outputs).
    """
    graph = weights.program.graph(graph_name)
    builder = _Builder(weights, graph, dict(bindings), dict(inputs or {}))
    for position, op in enumerate(graph.ops):
        _EMITTERS[op.kind](builder, op)
        builder.release_after(position, op)
    return Plan(graph, builder.slots, builder.values, builder.calls, tuple(builder.kernels))


@dataclass
class _Builder:
    """What is known while a plan is made."""

    weights: Weights
    graph: Graph
    bindings: dict[str, int]
    given: dict[str, Array]
    slots: dict[str, int] = field(default_factory=dict)
    values: list[Array] = field(default_factory=list)
    calls: list[Call] = field(default_factory=list)
    kernels: list[KernelChoice] = field(default_factory=list)
    open: set[str] = field(default_factory=set)  # values whose shape depends on the open length
    free: dict[int, list[Array]] = field(default_factory=dict)
    owned: dict[str, Array] = field(default_factory=dict)
    roots: dict[str, str] = field(default_factory=dict)
    last_use: dict[str, int] = field(default_factory=dict)

    def __post_init__(self) -> None:
        rooms = {capacity for _, capacity in self.graph.states}
        self.capacity = min(rooms) if rooms else 0
        grown = [name for name in self.graph.symbols if name not in self.bindings]
        self.symbol = grown[0] if grown else ""
        for position, op in enumerate(self.graph.ops):
            for name in op.inputs:
                self.last_use[name] = position
        for name in self.graph.inputs:
            kind = self.graph.types[name]
            given = self.given.get(name[1:])
            shape = kind.bind(self.bindings)
            if given is not None and given.shape != shape:
                raise ValueError(f"{self.graph.name}: {name} has {given.shape}, expected {shape}")
            self.put(name, np.zeros(shape, _DTYPES[kind.dtype]) if given is None else given)
        for name, capacity in self.graph.states:
            self.put(name, self._state(name, capacity))

    def _state(self, name: str, capacity: int) -> Array:
        """Return a cache whose growing axis is outermost in memory, so its rows are contiguous."""
        kind = self.graph.types[name]
        empty = kind.bind({**self.bindings, self.symbol: 0})
        one = kind.bind({**self.bindings, self.symbol: 1})
        axis = next(i for i, (a, b) in enumerate(zip(empty, one, strict=True)) if a != b)
        rest = tuple(size for i, size in enumerate(one) if i != axis)
        return np.moveaxis(np.zeros((capacity, *rest), _DTYPES[kind.dtype]), 0, axis)

    def put(self, name: str, value: Array, source: str | None = None) -> int:
        """Give a value its array; `source` names the value whose memory it shares."""
        self.slots[name] = len(self.values)
        self.values.append(value)
        root = self.roots.get(source, source) if source is not None else name
        self.roots[name] = root
        self.last_use[root] = max(self.last_use.get(root, -1), self.last_use.get(name, -1))
        if source in self.open:
            self.open.add(name)
        return self.slots[name]

    def get(self, name: str) -> Array:
        """Return a value or a plain constant."""
        return self.weights.array(name) if is_constant(name) else self.values[self.slots[name]]

    def shape(self, name: str) -> tuple[int, ...]:
        """Return the bound shape; an open length counts as its largest."""
        bindings = self.bindings
        if self.symbol:
            bindings = {**bindings, self.symbol: self.capacity - 1}
        kind = (
            self.weights.program.constants[name].type
            if is_constant(name)
            else (self.graph.types[name])
        )
        return kind.bind(bindings)

    def new(self, name: str, memory: tuple[int, ...] | None = None) -> Array:
        """Return a buffer for a value, shaped `memory` if its memory order is another one."""
        dtype = np.dtype(_DTYPES[self.graph.types[name].dtype])
        shape = self.shape(name) if memory is None else memory
        size = int(np.prod(shape)) * dtype.itemsize
        pool = self.free.get(size)
        raw = pool.pop() if pool else np.empty(size, np.uint8)
        self.owned[name] = raw
        return raw.view(dtype).reshape(shape)

    def new_like(self, name: str, model: Array) -> Array:
        """Return a buffer for a value in the memory order of `model`, of the same shape."""
        order = memory_order(model)
        memory = self.new(name, tuple(model.shape[axis] for axis in order))
        return memory.transpose(np.argsort(order))

    def release_after(self, position: int, op: Op) -> None:
        """Give back the buffers that nobody reads after `position`."""
        kept = {self.roots[value] for _, value in self.graph.outputs if value in self.roots}
        for name in (*op.inputs, *op.outputs):
            root = self.roots.get(name, "")
            if root in self.owned and root not in kept and self.last_use[root] <= position:
                ahead = max(self._view_uses(root), default=-1)
                if ahead <= position:
                    raw = self.owned.pop(root)
                    self.free.setdefault(raw.nbytes, []).append(raw)

    def _view_uses(self, root: str) -> list[int]:
        """Return last uses of all values, planned or not yet, that share the memory of `root`."""
        shared = {root}
        uses = [self.last_use.get(root, -1)]
        for op in self.graph.ops:
            if op.kind in ("reshape", "transpose", "slice") and op.inputs[0] in shared:
                shared.add(op.outputs[0])
                uses.append(self.last_use.get(op.outputs[0], -1))
        kept = {value for _, value in self.graph.outputs}
        return [*uses, len(self.graph.ops)] if shared & kept else uses

    def choose(self, op: Op, kernel: str, reason: str) -> None:
        """Record which kernel an op runs on."""
        self.kernels.append(KernelChoice(self.graph.name, op.scope, op.kind, kernel, reason))

    def rows(self, name: str) -> Array:
        """Return a fixed value as [rows, last axis]; a call copies it where no view can."""
        value = self.get(name)
        shape = (-1, value.shape[-1])
        flat = value.reshape(shape)
        if not np.shares_memory(flat, value):
            self.calls.append(lambda _values, _past: np.copyto(flat, value.reshape(shape)))
        return flat


def lengths_of(graph: Graph, inputs: Mapping[str, Array]) -> dict[str, int]:
    """Return the length symbols that the shapes of `inputs` (by public name) settle."""
    found: dict[str, int] = {}
    for name, value in inputs.items():
        for dim, size in zip(graph.types[f"%{name}"].shape, value.shape, strict=True):
            if str(dim) in graph.symbols:
                found[str(dim)] = size
    return found


def memory_order(value: Array) -> tuple[int, ...]:
    """Return the axes from the outermost in memory to the innermost; those of length 1 first."""

    def place(axis: int) -> tuple[int, int]:
        return (-value.strides[axis] if value.shape[axis] > 1 else -(1 << 62), axis)

    return tuple(sorted(range(value.ndim), key=place))


def memory_rows(value: Array) -> Array:
    """Return a 2-D view in memory order; ValueError when the memory has gaps."""
    ordered = value.transpose(memory_order(value))
    rows = ordered.reshape(-1, ordered.shape[-1])
    if rows.size and not np.shares_memory(rows, value):
        raise ValueError(f"memory with gaps: shape {value.shape}, strides {value.strides}")
    return rows


# ---------------------------------------------------------------- one emitter per op


def _emit_reshape(builder: _Builder, op: Op) -> None:
    source = builder.get(op.inputs[0])
    shape = builder.shape(op.outputs[0])
    value = source.reshape(shape)
    builder.put(op.outputs[0], value, op.inputs[0])
    if not np.shares_memory(value, source):
        builder.calls.append(lambda _values, _past: np.copyto(value, source.reshape(shape)))


def _emit_transpose(builder: _Builder, op: Op) -> None:
    order = op.attribute("order")
    axes = tuple(int(str(axis)) for axis in order) if isinstance(order, tuple) else ()
    builder.put(op.outputs[0], builder.get(op.inputs[0]).transpose(axes), op.inputs[0])


def _emit_slice(builder: _Builder, op: Op) -> None:
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


def _emit_embedding(builder: _Builder, op: Op) -> None:
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


def _emit_product(builder: _Builder, op: Op) -> None:
    """Linear and conv1d, float or on integer codes."""
    is_quantized = op.kind.startswith("quantized_")
    scale = builder.get(op.inputs[1]).reshape(-1) if is_quantized else None
    weight = op.inputs[2 if is_quantized else 1]
    rest = op.inputs[3 if is_quantized else 2 :]
    bias = builder.get(rest[0]) if rest else None
    if op.kind.endswith("conv1d"):
        x, taps = _windows(builder, op, builder.shape(weight)[2])
        _, filters, frames = builder.shape(op.outputs[0])
        memory = builder.new(op.outputs[0], (frames, filters))
        builder.put(op.outputs[0], memory.T[np.newaxis])
    else:
        x, taps = builder.rows(op.inputs[0]), 1
        out = builder.new(op.outputs[0])
        builder.put(op.outputs[0], out)
        memory = out.reshape(-1, out.shape[-1])
    panel = builder.weights.panel(
        weight, rows=len(x), activation="i8" if is_quantized else "f32", taps=taps
    )
    builder.choose(op, panel.kernel, panel.reason)
    run = panels.linear
    builder.calls.append(lambda _values, _past: run(panel, x, memory, x_scale=scale, bias=bias))


def _windows(builder: _Builder, op: Op, taps: int) -> tuple[Array, int]:
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


def _emit_pointwise(builder: _Builder, op: Op) -> None:
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
    builder.calls.append(lambda _values, _past: pointwise.layer_norm(x, gamma, beta, epsilon, y))


def _emit_add(builder: _Builder, op: Op) -> None:
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


def _emit_attention(builder: _Builder, op: Op) -> None:
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


def _scale_view(builder: _Builder, name: str) -> Callable[[Array], Array]:
    """Return how a scale [1, heads, rows] or [1] is handed to the kernel."""
    return (lambda scale: scale[0]) if len(builder.shape(name)) > 1 else (lambda scale: scale)


def _emit_concat(builder: _Builder, op: Op) -> None:
    parts = [builder.get(name) for name in op.inputs]
    out = builder.new(op.outputs[0])
    builder.put(op.outputs[0], out)
    axis = op.integer("axis")
    builder.calls.append(lambda _values, _past: np.concatenate(parts, axis=axis, out=out))


def _emit_append(builder: _Builder, op: Op) -> None:
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


def _emit_quantize(builder: _Builder, op: Op) -> None:
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


def _emit_open_quantize(
    builder: _Builder, op: Op, run: Callable[[Array, Array, Array], None]
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


_EMITTERS: Mapping[str, Callable[[_Builder, Op], None]] = {
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
}
EXECUTABLE = frozenset(_EMITTERS)


class ProgramEngine:
    """An encoder and decoder program as an engine for greedy decoding.

    One engine serves one thread; engines of one program share `weights`.
    """

    def __init__(self, weights: Weights, *, frames: int) -> None:
        self.encoder = plan(weights, "encoder", bindings={"frames": frames})
        handed = {name: self.encoder.output(name) for name, _ in self.encoder.graph.outputs}
        self.decoder = plan(
            weights,
            "step",
            bindings=lengths_of(weights.program.graph("step"), handed),
            inputs=handed,
        )
        self._token = self.decoder.input("token")
        self._logits = self.decoder.output("logits").reshape(-1)

    def encode(self, features: NDArray[np.float32]) -> None:
        """Run the encoder on features [mels, frames]; keys and values stay inside."""
        np.copyto(self.encoder.input("features")[0], features)
        self.encoder.run()

    def step(self, token: int, past: int) -> NDArray[np.float32]:
        """Return logits [vocabulary] after `token` at position `past`; overwritten by the next."""
        self._token[0, 0] = token
        self.decoder.run(past)
        return self._logits

    @property
    def kernels(self) -> tuple[KernelChoice, ...]:
        """Which kernel executes each op, and why."""
        return (*self.encoder.kernels, *self.decoder.kernels)
