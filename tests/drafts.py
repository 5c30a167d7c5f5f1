"""Small graphs written op by op, run by the executor and by the interpreter of plain numpy."""

import json
from collections.abc import Mapping

import ir_interpreter
import numpy as np

from cosim import expr
from cosim.execute import Plan, Weights, plan
from cosim.ir import Constant, Graph, Op, Program, TensorType, attributes
from cosim.ops import infer
from kernels.encodings import (
    Encoding,
    decode,
    digest,
    encode_dense,
    index_bits,
    kind,
    size_bits,
)
from kernels.encodings import attributes as storage


def dims(shape) -> tuple[expr.Dim, ...]:
    return tuple(expr.simplify(expr.parse(str(size))) for size in shape)


class Draft:
    """A graph that grows by ops whose types follow from the table."""

    def __init__(self, seed: int = 0) -> None:
        self.generator = np.random.default_rng(seed)
        self.types: dict[str, TensorType] = {}
        self.inputs: list[str] = []
        self.states: list[tuple[str, int]] = []
        self.ops: list[Op] = []
        self.encodings: dict[str, Encoding] = {}
        self.codes: dict[str, ir_interpreter.Codes] = {}

    def input(self, *shape, dtype: str = "f32", order=None) -> str:
        """Add an input; with `order`, a view of one whose axes lie in memory in that order."""
        name = f"%in{len(self.inputs)}"
        axes = tuple(range(len(shape))) if order is None else order
        self.types[name] = TensorType(dims([shape[axis] for axis in axes]), dtype)
        self.inputs.append(name)
        if order is None:
            return name
        return self.add("transpose", name, order=tuple(int(i) for i in np.argsort(order)))

    def state(self, *shape, capacity: int) -> str:
        name = f"%state{len(self.states)}"
        self.types[name] = TensorType(dims(shape), "f32")
        self.states.append((name, capacity))
        return name

    def constant(self, *shape, positive: bool = False) -> str:
        values = self.generator.standard_normal(shape).astype(np.float32)
        return self.encoded(encode_dense(np.abs(values) + 0.5 if positive else values))

    def encoded(self, encoding: Encoding, codes=None) -> str:
        name = f"@c{len(self.encodings)}"
        self.encodings[name] = encoding
        self.types[name] = TensorType(encoding.shape, "f32")
        if codes is not None:
            self.codes[name] = codes
        return name

    def add(self, op: str, *inputs: str, results: int = 1, **values) -> str:
        """Append an op and return its (first) result."""
        names = tuple(f"%v{len(self.ops)}_{i}" for i in range(results))
        made = Op(op, inputs, names, attributes(**values), f"op{len(self.ops)}.{op}")
        for name, kind_ in zip(names, infer(made, [self.types[n] for n in inputs]), strict=True):
            self.types[name] = kind_
        self.ops.append(made)
        return names[0]

    def graph(self, *outputs: str) -> Graph:
        values = {name: kind_ for name, kind_ in self.types.items() if name.startswith("%")}
        symbols = sorted(
            {
                symbol
                for name in (*self.inputs, *(name for name, _ in self.states))
                for dim in values[name].shape
                if not isinstance(dim, int)
                for symbol in dim.symbols
            }
        )
        returned = tuple((f"y{i}", name) for i, name in enumerate(outputs))
        return Graph(
            "encoder",
            tuple(symbols),
            tuple(self.inputs),
            tuple(self.states),
            returned,
            tuple(self.ops),
            values,
        )

    def weights(self, *outputs: str) -> Weights:
        constants = {
            name: Constant(
                self.types[name],
                kind(e),
                json.dumps(storage(e)),
                size_bits(e),
                index_bits(e),
                digest(e),
            )
            for name, e in self.encodings.items()
        }
        return Weights(Program("draft", (self.graph(*outputs),), constants), self.encodings)

    def meanings(self) -> Mapping[str, object]:
        return {name: self.codes.get(name, decode(e)) for name, e in self.encodings.items()}

    def operands(self, graph: Graph, lengths: Mapping[str, int]) -> dict[str, np.ndarray]:
        """Draw the inputs of a graph."""
        found = {}
        for name in graph.inputs:
            kind_ = graph.types[name]
            shape = kind_.bind(lengths)
            if kind_.dtype == "i64":
                found[name[1:]] = self.generator.integers(0, 5, shape)
            else:
                found[name[1:]] = self.generator.standard_normal(shape).astype(np.float32)
        return found


def heard(made: Plan, inputs: Mapping[str, np.ndarray], past: int = 0) -> list[np.ndarray]:
    """Run a plan and return copies of its outputs."""
    for name, value in inputs.items():
        np.copyto(made.input(name), value)
    made.run(past)
    return [made.output(public).copy() for public, _ in made.graph.outputs]


def agree(
    draft: Draft, *outputs: str, lengths=({},), tolerance: float = 2e-6, kernels: bool = False
):
    """Check that the executor gives what the ops mean, at every length, from one program."""
    weights = draft.weights(*outputs)
    graph = weights.program.graph("encoder")
    for bindings in lengths:
        made = plan(weights, "encoder", bindings=bindings)
        for _ in range(2):  # buffers that were written once may not matter
            inputs = draft.operands(graph, bindings)
            found = heard(made, inputs)
            wanted, _ = ir_interpreter.run(graph, draft.meanings(), inputs)
            for value, expected in zip(found, wanted.values(), strict=True):
                assert value.shape == expected.shape
                scale = max(1.0, float(np.abs(expected).max()))
                assert np.abs(value - expected).max() <= tolerance * scale, draft.ops[-1]
    return made.kernels if kernels else None
