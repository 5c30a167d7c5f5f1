"""The verifier: a program is legal when values are defined once, used after, and typed right."""

from collections.abc import Iterator

from cosim.expr import Expr
from cosim.ir import Attribute, Graph, Op, Program, TensorType, is_constant, value_names
from cosim.ops import OPS, infer


def problems(program: Program) -> list[str]:
    """Return every violation, as `graph.value: what is wrong`; an empty list means legal."""
    found: list[str] = []
    for graph in program.graphs:
        found += [f"{graph.name}.{text}" for text in _graph_problems(graph, program)]
        if program.graph_names.count(graph.name) > 1:
            found.append(f"{graph.name}: several graphs have this name")
    found += _handover_problems(program)
    used = {name for graph in program.graphs for op in graph.ops for name in op.inputs}
    found += [f"{name}: constant is not used" for name in program.constants if name not in used]
    return list(dict.fromkeys(found))


def verify(program: Program) -> Program:
    """Return `program`, or raise ValueError listing every violation."""
    found = problems(program)
    if found:
        raise ValueError(f"program {program.name} is not legal:\n" + "\n".join(found))
    return program


def _graph_problems(graph: Graph, program: Program) -> list[str]:
    found: list[str] = []
    outside = [*graph.inputs, *(name for name, _ in graph.states)]
    found += [f"{name}: defined twice" for name in outside if outside.count(name) > 1]
    defined = set(outside)
    for name in outside:
        found += _type_problems(name, graph)
    for op in graph.ops:
        found += _op_problems(op, graph, program, defined)
        for name in op.outputs:
            if name in defined:
                found.append(f"{name}: defined twice")
            defined.add(name)
            found += _type_problems(name, graph)
    found += _state_problems(graph)
    found += [
        f"{value}: returned as {public} but not defined"
        for public, value in graph.outputs
        if value not in defined
    ]
    names = set(value_names(graph))
    found += [f"{name}: has a type but is not defined" for name in graph.types if name not in names]
    return found


def _state_problems(graph: Graph) -> list[str]:
    """Say where a cache is not written exactly once, or read as it was before."""
    states = dict(graph.states)
    appended = [op.inputs[0] for op in graph.ops if op.kind == "cache_append" and op.inputs]
    found = [
        f"{name}: a state is appended to exactly once, found {appended.count(name)}"
        for name in states
        if appended.count(name) != 1
    ]
    for op in graph.ops:
        readable = op.inputs
        if op.kind == "cache_append" and op.inputs:
            readable = op.inputs[1:]
            if op.inputs[0] not in states:
                found.append(f"{op.outputs[0]}: cache_append writes {op.inputs[0]}, not a state")
        found += [
            f"{op.outputs[0]}: reads state {name}, expected the result of its cache_append"
            for name in readable
            if name in states
        ]
    found += [
        f"{value}: a state is kept, not returned (as {public})"
        for public, value in graph.outputs
        if value in states
    ]
    return found


def _handover_problems(program: Program) -> Iterator[str]:
    """Say where a graph returns under the name of an input what that input cannot hold."""
    for maker in program.graphs:
        for public, value in maker.outputs:
            for reader in program.graphs:
                name = f"%{public}"
                if reader is maker or name not in reader.inputs:
                    continue
                made, taken = maker.types.get(value), reader.types.get(name)
                if made is not None and taken is not None and not _fits(made, taken):
                    yield f"{reader.name}.{name}: is {taken}, {maker.name} returns {made}"


def _fits(made: TensorType, taken: TensorType) -> bool:
    """Return whether only lengths differ: what is fixed on both sides is equal."""
    return (
        made.dtype == taken.dtype
        and len(made.shape) == len(taken.shape)
        and all(
            a == b or not (isinstance(a, int) and isinstance(b, int))
            for a, b in zip(made.shape, taken.shape, strict=True)
        )
    )


def _symbols(value: Attribute) -> frozenset[str]:
    if isinstance(value, tuple):
        return frozenset().union(*map(_symbols, value))
    return value.symbols if isinstance(value, Expr) else frozenset()


def _type_problems(name: str, graph: Graph) -> list[str]:
    if name not in graph.types:
        return [f"{name}: has no type"]
    unknown = _symbols(graph.types[name].shape) - set(graph.symbols)
    return [f"{name}: {symbol} is not a symbol of the graph" for symbol in sorted(unknown)]


def _op_problems(op: Op, graph: Graph, program: Program, defined: set[str]) -> list[str]:
    where = op.outputs[0]
    found = [
        f"{where}: {key}: {symbol} is not a symbol of the graph"
        for key, value in op.attributes
        for symbol in sorted(_symbols(value) - set(graph.symbols))
    ]
    if policy := op.get("policy", ""):
        found.append(f"{where}: policy {policy!r} was never carried out")
    missing = [
        f"{where}: constant {name} does not exist"
        if is_constant(name)
        else f"{where}: {name} is used before it is defined"
        for name in op.inputs
        if name not in (program.constants if is_constant(name) else defined)
    ]
    if op.kind not in OPS:
        return [*found, *missing, f"{where}: unknown op {op.kind!r}"]
    row = OPS[op.kind]
    if not row.least <= len(op.inputs) <= row.most:
        count = f"{row.least} to {row.most}" if row.least != row.most else f"{row.least}"
        missing.append(f"{where}: {op.kind} takes {count} operands, has {op.inputs}")
    untyped = [name for name in op.inputs if not is_constant(name) and name not in graph.types]
    if missing or untyped:
        return [*found, *missing]
    types = [
        program.constants[name].type if is_constant(name) else graph.types[name]
        for name in op.inputs
    ]
    found += [
        f"{where}: {op.kind} operand {name} is {kind.dtype}, expected {wanted}"
        for name, kind, wanted in zip(op.inputs, types, row.operand_dtypes(types), strict=True)
        if kind.dtype != wanted
    ]
    return [*found, *_result_problems(op, graph, types)]


def _result_problems(op: Op, graph: Graph, types: list[TensorType]) -> list[str]:
    """Say where declared result types are not those of the shape rule."""
    where = op.outputs[0]
    try:
        results = infer(op, types)
    except KeyError as error:
        return [f"{where}: {error.args[0]}"]
    except (TypeError, ValueError) as error:
        return [f"{where}: {error}"]
    if len(results) != len(op.outputs):
        return [f"{where}: {op.kind} has {len(results)} results, names {op.outputs}"]
    return [
        f"{name}: declared {graph.types[name]}, {op.kind} gives {result}"
        for name, result in zip(op.outputs, results, strict=True)
        if name in graph.types and graph.types[name] != result
    ]
