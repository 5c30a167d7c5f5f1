"""What is known while a graph is planned: buffers, live arrays, calls, and who reads what when."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

import cosim.guard  # noqa: F401 (stops at a foreign kernels package)
from cosim.execute.fusion import Tail, tails
from cosim.ir import Graph, Op, Program, is_constant
from kernels import panels
from kernels.encodings import Encoding, decode
from kernels.sparse_speeds import DEFAULT_BREAK_EVEN, Speed

Array = NDArray[Any]  # the verifier settles dtypes, per value
Call = Callable[[list[Array], int], object]

_DTYPES = {
    "f32": np.float32,
    "i8": np.int8,
    "u8": np.uint8,
    "i32": np.int32,
    "i64": np.int64,
    "i1": np.uint8,  # packed, eight signs a byte
}


@dataclass(frozen=True)
class KernelChoice:
    """Which kernel executes one op and why.

    `is_fallback` says that it does not use the zeros or codes of the weights as such.
    """

    graph: str
    scope: str
    op: str
    kernel: str
    reason: str
    is_fallback: bool = False


@dataclass
class Weights:
    """Constants of a program as their kernels read them; shared by all plans and threads.

    `speeds` say when a sparse kernel pays. Encoded payloads are read when a constant is first
    prepared and not kept.
    """

    program: Program
    encodings: Mapping[str, Encoding]
    speeds: Sequence[Speed] = DEFAULT_BREAK_EVEN
    prepared: dict[tuple[str, str, int], panels.LinearPanel] = field(default_factory=dict)
    decoded: dict[str, Array] = field(default_factory=dict)

    def panel(self, name: str, *, rows: int, activation: str, taps: int = 1) -> panels.LinearPanel:
        """Return constant `name` laid out for products with `rows` activation rows."""
        key = (name, activation, rows)
        if key not in self.prepared:
            made = [panel for (other, _, _), panel in self.prepared.items() if other == name]
            self.prepared[key] = panels.prepare_linear(
                self.encodings[name],
                rows=rows,
                activation=activation,
                kernel_size=taps,
                share=made,
                table=self.speeds,
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
class Builder:
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
    tails: Mapping[str, Tail] = field(default_factory=dict)
    done: set[str] = field(default_factory=set)  # results that an earlier call writes too

    def __post_init__(self) -> None:
        self.tails = tails(self.graph)
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

    def held(self, name: str) -> tuple[int, ...]:
        """Return the shape in memory: as bound, but rows of signs are packed in bytes."""
        shape = self.shape(name)
        is_packed = not is_constant(name) and self.graph.types[name].dtype == "i1"
        return (*shape[:-1], -(-shape[-1] // 8)) if is_packed else shape

    def new(self, name: str, memory: tuple[int, ...] | None = None) -> Array:
        """Return a buffer for a value, shaped `memory` if its memory order is another one."""
        dtype = np.dtype(_DTYPES[self.graph.types[name].dtype])
        shape = self.held(name) if memory is None else memory
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

    def choose(self, op: Op, kernel: str, reason: str, *, is_fallback: bool = False) -> None:
        """Record which kernel an op runs on."""
        name = self.graph.name
        self.kernels.append(KernelChoice(name, op.scope, op.kind, kernel, reason, is_fallback))

    def rows(self, name: str) -> Array:
        """Return a fixed value as [rows, last axis]; a call copies it where no view can."""
        value = self.get(name)
        shape = (-1, value.shape[-1])
        flat = value.reshape(shape)
        if not np.shares_memory(flat, value):
            self.calls.append(lambda _values, _past: np.copyto(flat, value.reshape(shape)))
        return flat


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
