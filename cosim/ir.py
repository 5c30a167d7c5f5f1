"""Program: typed SSA graphs that share constants and states, with an exact text form.

A `Program` is what both branches take. Its text holds every op, type, attribute and constant
(with the digest of the encoded weights), so the hash of the text is the hash of the program.
"""

import hashlib
import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Literal, get_args

from cosim import expr
from cosim.expr import Dim

Dtype = Literal["f32", "f16", "bf16", "i8", "u8", "i32", "i64", "i1", "u1"]
"""i1 is a sign, +1 or -1, and u1 is 1 or 0; rows are packed in bytes, the first in bit 0. f16 and
bf16 are held by the executor as float32 of the same value; a chip moves their 16 bits."""
PACKED: tuple[Dtype, ...] = ("i1", "u1")
DTYPE_BITS: Mapping[Dtype, int] = {
    "f32": 32,
    "f16": 16,
    "bf16": 16,
    "i8": 8,
    "u8": 8,
    "i32": 32,
    "i64": 64,
    "i1": 1,
    "u1": 1,
}
Attribute = int | float | str | bool | Dim | tuple[Dim, ...]
ValueKind = Literal["input", "state", "op"]


@dataclass(frozen=True)
class TensorType:
    """Shape in elements (numbers or expressions) and the dtype the executor holds.

    Example:
        >>> print(TensorType((1, 80, expr.parse("frames")), "f32"))
        f32<1, 80, frames>

    """

    shape: tuple[Dim, ...]
    dtype: Dtype

    def __str__(self) -> str:
        return f"{self.dtype}<{', '.join(str(dim) for dim in self.shape)}>"

    @property
    def elements(self) -> Dim:
        """Number of elements."""
        return expr.product(self.shape)

    def bind(self, bindings: Mapping[str, int]) -> tuple[int, ...]:
        """Return the shape under `bindings`."""
        return tuple(expr.evaluate(dim, bindings) for dim in self.shape)


@dataclass(frozen=True)
class Constant:
    """An encoded weight: what it decodes to, how it is stored, and the digest of its bytes.

    `storage` holds the attributes of the encoding as canonical JSON; `size_bits` is all that is
    stored, `index_bits` the part of it that says where nonzeros stand.
    """

    type: TensorType
    encoding: str
    storage: str
    size_bits: int
    index_bits: int
    digest: str


@dataclass(frozen=True)
class Op:
    """One operation: `inputs` are values (`%name`) or constants (`@name`).

    `scope` is the module the op came from, e.g. `encoder.layers.0.fc1`.
    """

    kind: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    attributes: tuple[tuple[str, Attribute], ...] = ()
    scope: str = ""

    def attribute(self, name: str) -> Attribute:
        """Return one attribute; KeyError names the op."""
        for key, value in self.attributes:
            if key == name:
                return value
        raise KeyError(f"{self.kind} {self.outputs[0]}: no attribute {name!r}")

    def integer(self, name: str) -> int:
        """Return an attribute that must be an integer."""
        value = self.attribute(name)
        if not isinstance(value, int):
            raise TypeError(f"{self.kind} {self.outputs[0]}: {name} is not an integer")
        return value

    def get(self, name: str, default: Attribute) -> Attribute:
        """Return one attribute or `default`."""
        return next((value for key, value in self.attributes if key == name), default)

    def with_attributes(self, **changes: Attribute) -> "Op":
        """Return the op with some attributes set."""
        merged = {**dict(self.attributes), **changes}
        return Op(self.kind, self.inputs, self.outputs, attributes(**merged), self.scope)


def attributes(**values: Attribute) -> tuple[tuple[str, Attribute], ...]:
    """Return attributes in the order they are stored and printed."""
    return tuple(sorted(values.items()))


@dataclass(frozen=True)
class Graph:
    """SSA ops over named values.

    `inputs` and `states` are defined outside; a state keeps its contents between calls and has
    room for `capacity` rows along the axis that `cache_append` grows. `outputs` pairs public names
    with values.
    """

    name: str
    symbols: tuple[str, ...]
    inputs: tuple[str, ...]
    states: tuple[tuple[str, int], ...]
    outputs: tuple[tuple[str, str], ...]
    ops: tuple[Op, ...]
    types: Mapping[str, TensorType] = field(hash=False)

    def producers(self) -> dict[str, Op]:
        """Return the op that makes each value."""
        return {name: op for op in self.ops for name in op.outputs}

    def consumers(self) -> dict[str, list[Op]]:
        """Return the ops that read each value or constant."""
        table: dict[str, list[Op]] = {}
        for op in self.ops:
            for name in op.inputs:
                table.setdefault(name, []).append(op)
        return table

    def bind(self, **lengths: int) -> dict[str, int]:
        """Return bindings of all symbols; ValueError names what is missing or unknown.

        Example:
            graph.bind(past=7, memory=1500)

        """
        missing = [name for name in self.symbols if name not in lengths]
        unknown = [name for name in lengths if name not in self.symbols]
        if missing or unknown:
            raise ValueError(f"graph {self.name}: lengths missing {missing}, unknown {unknown}")
        return dict(lengths)


@dataclass(frozen=True)
class Program:
    """Named graphs and the constants they share.

    A value that one graph returns under the name of another graph's input feeds that input.
    """

    name: str
    graphs: tuple[Graph, ...]
    constants: Mapping[str, Constant] = field(hash=False)

    def graph(self, name: str) -> Graph:
        """Return a graph; KeyError lists what exists."""
        for graph in self.graphs:
            if graph.name == name:
                return graph
        raise KeyError(f"program {self.name}: no graph {name!r}, has {self.graph_names}")

    @property
    def graph_names(self) -> tuple[str, ...]:
        """Names of the graphs."""
        return tuple(graph.name for graph in self.graphs)

    @property
    def hash(self) -> str:
        """SHA-256 over ops, types, attributes, encodings and weights (by their digests)."""
        return hashlib.sha256(to_text(self).encode()).hexdigest()


def is_constant(name: str) -> bool:
    """Whether an op input names a constant."""
    return name.startswith("@")


def value_names(graph: Graph) -> Iterator[str]:
    """Yield every value in order of definition."""
    yield from graph.inputs
    yield from (name for name, _ in graph.states)
    for op in graph.ops:
        yield from op.outputs


# ---------------------------------------------------------------- text form


def _show_attribute(value: Attribute) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, str):
        return json.dumps(value)
    if isinstance(value, float):
        return f"float({value.hex()})"
    if isinstance(value, tuple):
        return "[" + ", ".join(str(dim) for dim in value) + "]"
    return str(value)


def _show_op(op: Op, types: Mapping[str, TensorType]) -> str:
    results = ", ".join(op.outputs)
    shown = ", ".join(f"{key}={_show_attribute(value)}" for key, value in op.attributes)
    kinds = ", ".join(str(types[name]) for name in op.outputs)
    text = f"  {results} = {op.kind}({', '.join(op.inputs)})"
    if shown:
        text += f" {{{shown}}}"
    text += f" : {kinds}"
    return text + (f" in {json.dumps(op.scope)}" if op.scope else "")


def to_text(program: Program) -> str:
    """Return the text of a program; `from_text` gives the equal program back."""
    lines = [f"program {json.dumps(program.name)}"]
    for name, constant in sorted(program.constants.items()):
        lines.append(
            f"constant {name} : {constant.type} {constant.encoding} {constant.storage} "
            f"bits {constant.size_bits} index {constant.index_bits} sha256 {constant.digest}"
        )
    for graph in program.graphs:
        lines.append(f"graph {graph.name}({', '.join(graph.symbols)}) {{")
        lines += [f"  input {name} : {graph.types[name]}" for name in graph.inputs]
        lines += [
            f"  state {name} : {graph.types[name]} capacity {capacity}"
            for name, capacity in graph.states
        ]
        lines += [_show_op(op, graph.types) for op in graph.ops]
        lines += [f"  return {public} = {value}" for public, value in graph.outputs]
        lines.append("}")
    return "\n".join(lines) + "\n"


_TYPE = r"(?:f32|f16|bf16|i8|u8|i32|i64|i1|u1)<[^>]*>"
_CONSTANT = re.compile(
    rf"constant (@\S+) : ({_TYPE}) (\w+) (\{{.*\}}) bits (\d+) index (\d+) sha256 "
    r"([0-9a-f]+)$"
)
_GRAPH = re.compile(r"graph (\w+)\(([\w, ]*)\) \{$")
_INPUT = re.compile(rf"  input (%\S+) : ({_TYPE})$")
_STATE = re.compile(rf"  state (%\S+) : ({_TYPE}) capacity (\d+)$")
_OP = re.compile(
    rf"  (%\S+(?:, %\S+)*) = (\w+)\(([^)]*)\)(?: \{{(.*)\}})? : ({_TYPE}(?:, {_TYPE})*)"
    r'(?: in ("(?:[^"\\]|\\.)*"))?$'
)
_RETURN = re.compile(r"  return (\S+) = (%\S+)$")
_ATTRIBUTE = re.compile(r'(\w+)=("(?:[^"\\]|\\.)*"|\[[^\]]*\]|float\([^)]*\)|[^,]+)(?:, |$)')


def _read_dim(text: str) -> Dim:
    return expr.simplify(expr.parse(text))


def _read_type(text: str) -> TensorType:
    dtype, _, inside = text[:-1].partition("<")
    if dtype not in get_args(Dtype):
        raise ValueError(f"{text}: unknown dtype")
    dims = tuple(_read_dim(part) for part in inside.split(", ")) if inside else ()
    return TensorType(dims, dtype)  # type: ignore[arg-type]  # narrowed by the check above


def _read_attribute(text: str) -> Attribute:
    if text in ("true", "false"):
        return text == "true"
    if text.startswith('"'):
        return str(json.loads(text))
    if text.startswith("float("):
        return float.fromhex(text[6:-1])
    if text.startswith("["):
        inside = text[1:-1]
        return tuple(_read_dim(part) for part in inside.split(", ")) if inside else ()
    return _read_dim(text)


def _read_attributes(text: str) -> tuple[tuple[str, Attribute], ...]:
    pairs = _ATTRIBUTE.findall(text)
    if ", ".join(f"{key}={value}" for key, value in pairs) != text:
        raise ValueError(f"{{{text}}}: expected {{name=value, name=value}}")
    return tuple((key, _read_attribute(value)) for key, value in pairs)


@dataclass
class _GraphLines:
    """What has been read of the graph that is open."""

    name: str
    symbols: tuple[str, ...]
    inputs: list[str] = field(default_factory=list)
    states: list[tuple[str, int]] = field(default_factory=list)
    outputs: list[tuple[str, str]] = field(default_factory=list)
    ops: list[Op] = field(default_factory=list)
    types: dict[str, TensorType] = field(default_factory=dict)

    def read(self, line: str) -> bool:
        """Take one line of a body; return whether it was understood."""
        if found := _INPUT.match(line):
            self.inputs.append(found[1])
            self.types[found[1]] = _read_type(found[2])
        elif found := _STATE.match(line):
            self.states.append((found[1], int(found[3])))
            self.types[found[1]] = _read_type(found[2])
        elif found := _RETURN.match(line):
            self.outputs.append((found[1], found[2]))
        elif found := _OP.match(line):
            outputs = tuple(found[1].split(", "))
            kinds = re.findall(_TYPE, found[5])
            self.types.update(zip(outputs, map(_read_type, kinds), strict=True))
            self.ops.append(
                Op(
                    found[2],
                    tuple(found[3].split(", ")) if found[3] else (),
                    outputs,
                    _read_attributes(found[4] or ""),
                    str(json.loads(found[6])) if found[6] else "",
                )
            )
        else:
            return False
        return True

    def finish(self) -> Graph:
        return Graph(
            self.name,
            self.symbols,
            tuple(self.inputs),
            tuple(self.states),
            tuple(self.outputs),
            tuple(self.ops),
            self.types,
        )


@dataclass
class _ProgramLines:
    """What has been read of a program; `body` is the graph that is open."""

    name: str | None = None
    graphs: list[Graph] = field(default_factory=list)
    constants: dict[str, Constant] = field(default_factory=dict)
    body: _GraphLines | None = None

    def read(self, line: str) -> bool:
        """Take one line; return whether it was understood."""
        if self.body is not None and line == "}":
            self.graphs.append(self.body.finish())
            self.body = None
        elif self.body is not None:
            return self.body.read(line)
        elif line.startswith("program "):
            self.name = str(json.loads(line[8:]))
        elif found := _CONSTANT.match(line):
            self.constants[found[1]] = Constant(
                _read_type(found[2]),
                found[3],
                found[4],
                int(found[5]),
                int(found[6]),
                found[7],
            )
        elif found := _GRAPH.match(line):
            symbols = tuple(part for part in found[2].split(", ") if part)
            self.body = _GraphLines(found[1], symbols)
        else:
            return False
        return True


def from_text(text: str) -> Program:
    """Return the program written by `to_text`; ValueError names the line that is not understood."""
    reader = _ProgramLines()
    for number, line in enumerate(text.splitlines(), 1):
        try:
            is_understood = reader.read(line)
        except ValueError as error:
            raise ValueError(f"program text line {number}: {error}") from error
        if not is_understood:
            raise ValueError(f"program text line {number}: not understood: {line.strip()!r}")
    if reader.body is not None:
        raise ValueError(f"program text: graph {reader.body.name} is not closed")
    if reader.name is None:
        raise ValueError('program text: expected a line `program "NAME"`')
    return Program(reader.name, tuple(reader.graphs), reader.constants)
