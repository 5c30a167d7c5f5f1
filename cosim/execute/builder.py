"""What is known while a graph is planned: buffers, live arrays, calls, and who reads what when."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from math import prod

import numpy as np

from cosim.execute.fusion import Tail, tails
from cosim.execute.layout import Array, memory_order, rows_in
from cosim.execute.weights import Weights
from cosim.expr import Dim
from cosim.ir import PACKED, Graph, Op, TensorType, is_constant

Call = Callable[[list[Array], int], object]

VIEWS = ("reshape", "transpose", "slice", "expand", "rel_shift")
"""Ops whose result may lie in the memory of their operand."""
_DTYPES = {
    "f32": np.float32,
    "f16": np.float32,  # rounded
    "bf16": np.float32,
    "i8": np.int8,
    "u8": np.uint8,
    "i32": np.int32,
    "i64": np.int64,
    "i1": np.uint8,  # packed, eight a byte
    "u1": np.uint8,
}


_LARGER = 4
"""A buffer is used again for values down to this part of its size."""


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
    ending: dict[int, list[Array]] = field(default_factory=dict)  # by the op that reads them last
    position: int = 0  # of the op that is being planned
    last_use: dict[str, int] = field(default_factory=dict)
    tails: Mapping[str, Tail] = field(default_factory=dict)
    done: set[str] = field(default_factory=set)  # results that an earlier call writes too
    copies: dict[tuple[str, tuple[int, ...]], Array] = field(default_factory=dict)
    sizes: dict[int, int] = field(default_factory=dict)  # of the expressions met, by identity

    def __post_init__(self) -> None:
        self.tails = tails(self.graph)
        rooms = {capacity for _, capacity in self.graph.states}
        self.capacity = min(rooms) if rooms else 0
        grown = [name for name in self.graph.symbols if name not in self.bindings]
        self.symbol = grown[0] if grown else ""
        self.last_use = _last_uses(self.graph)
        for name in self.graph.inputs:
            kind = self.graph.types[name]
            given = self.given.get(name[1:])
            shape = in_memory(kind, kind.bind(self.bindings))
            if given is not None and given.shape != shape:
                raise ValueError(f"{self.graph.name}: {name} has {given.shape}, expected {shape}")
            self.put(name, np.zeros(shape, _DTYPES[kind.dtype]) if given is None else given)
        for name, capacity in self.graph.states:
            self.put(name, self._state(name, capacity))

    def _state(self, name: str, capacity: int) -> Array:
        """Return a cache whose growing axis is outermost in memory, so its rows are contiguous."""
        kind = self.graph.types[name]
        empty, one = (
            in_memory(kind, kind.bind({**self.bindings, self.symbol: rows})) for rows in (0, 1)
        )
        axis = next(i for i, (a, b) in enumerate(zip(empty, one, strict=True)) if a != b)
        rest = tuple(size for i, size in enumerate(one) if i != axis)
        return np.moveaxis(np.zeros((capacity, *rest), _DTYPES[kind.dtype]), 0, axis)

    def put(self, name: str, value: Array) -> int:
        """Give a value its array and return its slot."""
        self.slots[name] = len(self.values)
        self.values.append(value)
        return self.slots[name]

    def get(self, name: str) -> Array:
        """Return a value or a plain constant."""
        return self.weights.array(name) if is_constant(name) else self.values[self.slots[name]]

    def fixed(self, name: str) -> Array:
        """Return a value that stays where it is; ValueError for one of open length."""
        if name in self.open:
            raise ValueError(f"{self.graph.name}: {name}: the open length {self.symbol} ends here")
        return self.get(name)

    def size(self, dim: Dim) -> int:
        """Return a length; the open one counts as its largest."""
        if isinstance(dim, int):
            return dim
        if id(dim) not in self.sizes:
            bindings = {**self.bindings, self.symbol: self.capacity - 1}
            self.sizes[id(dim)] = dim.evaluate(bindings)
        return self.sizes[id(dim)]

    def shape(self, name: str) -> tuple[int, ...]:
        """Return the bound shape; an open length counts as its largest."""
        if is_constant(name):
            return tuple(map(self.size, self.weights.program.constants[name].type.shape))
        return tuple(map(self.size, self.graph.types[name].shape))

    def held(self, name: str) -> tuple[int, ...]:
        """Return the shape in memory: as bound, but rows of bits are packed in bytes."""
        return in_memory(self.graph.types[name], self.shape(name))

    def buffer(self, shape: Sequence[int], dtype: str = "f32", *, until: int = -1) -> Array:
        """Return memory that is free again behind op `until`, or behind the one being planned."""
        kind = np.dtype(_DTYPES[dtype])
        size = prod(shape) * kind.itemsize
        fits = [held for held, pool in self.free.items() if size <= held <= _LARGER * size and pool]
        raw = self.free[min(fits)].pop() if fits else np.empty(size, np.uint8)
        self.ending.setdefault(max(until, self.position), []).append(raw)
        return raw[:size].view(kind).reshape(shape)

    def new(self, name: str, order: Sequence[int] | None = None) -> Array:
        """Return a buffer for a value, its axes in memory in `order` (else as they are)."""
        shape = self.held(name)
        axes = tuple(range(len(shape))) if order is None else tuple(order)
        memory = self.buffer(
            [shape[axis] for axis in axes],
            self.graph.types[name].dtype,
            until=self.last_use.get(name, -1),
        )
        return memory.transpose(np.argsort(axes))

    def rows(self, name: str, order: Sequence[int] | None = None) -> Array:
        """Return a fixed value, its axes in `order`, as [rows, last axis]; copied where it must be.

        A copy is made once for all readers.
        """
        value = self.fixed(name)
        axes = tuple(range(value.ndim)) if order is None else tuple(order)
        found = rows_in(value, axes)
        return self.copied(name, axes) if found is None else found

    def packed(self, name: str, last: int = -1) -> Array:
        """Return a fixed value with a unit stride along axis `last`, copied where it must be."""
        value = self.fixed(name)
        axis = last % value.ndim
        if value.shape[axis] == 1 or value.strides[axis] == value.itemsize:
            return value
        axes = (*(i for i in range(value.ndim) if i != axis), axis)
        copy = self.copied(name, axes).reshape([value.shape[i] for i in axes])
        return copy.transpose(np.argsort(axes))

    def copied(self, name: str, axes: tuple[int, ...]) -> Array:
        """Return rows of a value with its axes in that order, which a call fills."""
        if (name, axes) not in self.copies:
            source = self.get(name).transpose(axes)
            dtype = "f32" if is_constant(name) else self.graph.types[name].dtype
            copy = self.buffer(source.shape, dtype, until=self.last_use.get(name, -1))
            self.calls.append(lambda _values, _past: np.copyto(copy, source))
            self.copies[name, axes] = copy.reshape(-1, copy.shape[-1])
        return self.copies[name, axes]

    def release(self) -> None:
        """Give back the buffers that nobody reads behind the op that was planned."""
        for raw in self.ending.pop(self.position, ()):
            self.free.setdefault(raw.nbytes, []).append(raw)
        self.position += 1

    def choose(self, op: Op, kernel: str, reason: str, *, is_fallback: bool = False) -> None:
        """Record which kernel an op runs on."""
        name = self.graph.name
        self.kernels.append(KernelChoice(name, op.scope, op.kind, kernel, reason, is_fallback))


def in_memory(kind: TensorType, shape: tuple[int, ...]) -> tuple[int, ...]:
    """Return the shape of a value in memory: rows of bits are packed in bytes."""
    return (*shape[:-1], -(-shape[-1] // 8)) if kind.dtype in PACKED else shape


def _last_uses(graph: Graph) -> dict[str, int]:
    """Return the op that reads each value last, itself or through views; outputs outlast all."""
    found = {value: len(graph.ops) for _, value in graph.outputs}
    for position in range(len(graph.ops) - 1, -1, -1):
        op = graph.ops[position]
        for name in op.inputs:
            found[name] = max(found.get(name, -1), position)
        if op.kind in VIEWS:
            source = op.inputs[0]
            found[source] = max(found[source], found.get(op.outputs[0], -1))
    return found


__all__ = ["VIEWS", "Array", "Builder", "Call", "KernelChoice", "Weights", "memory_order"]
