"""The verifier: a program is legal when every value is defined once, used after, and typed right."""

from cosim.ir import Graph, Op, Program, TensorType, is_constant
from cosim.ops import OPS, infer


def problems(program: Program) -> list[str]:
    """Return every violation, as `graph.value: what is wrong`; an empty list means legal."""
    found: list[str] = []
    for graph in program.graphs:
        found += [f"{graph.name}.{text}" for text in _graph_problems(graph, program)]
    used = {name for graph in program.graphs for op in graph.ops for name in op.inputs}
    found += [f"{name}: constant is not used" for name in program.constants if name not in used]
    return found


def verify(program: Program) -> Program:
    """Return `program`, or raise ValueError listing every violation."""
    found = problems(program)
    if found:
        raise ValueError(f"program {program.name} is not legal:\n" + "\n".join(found))
    return program


def _graph_problems(graph: Graph, program: Program) -> list[str]:
    found: list[str] = []
    defined = set(graph.inputs) | {name for name, _ in graph.states}
    states = dict(graph.states)
    appended: list[str] = []
    for name in defined:
        found += _type_problems(name, graph)
    for op in graph.ops:
        found += _op_problems(op, graph, program, defined)
        if op.kind == "cache_append":
            appended.append(op.inputs[0])
            if op.inputs[0] not in states:
                found.append(f"{op.outputs[0]}: cache_append writes {op.inputs[0]}, not a state")
        for name in op.outputs:
            if name in defined:
                found.append(f"{name}: defined twice")
            defined.add(name)
            found += _type_problems(name, graph)
    found += [
        f"{name}: a state is appended to exactly once, found {appended.count(name)}"
        for name in states
        if appended.count(name) != 1
    ]
    found += [
        f"{value}: returned as {public} but not defined"
        for public, value in graph.outputs
        if value not in defined
    ]
    return found


def _type_problems(name: str, graph: Graph) -> list[str]:
    if name not in graph.types:
        return [f"{name}: has no type"]
    unknown = {
        symbol
        for dim in graph.types[name].shape
        if not isinstance(dim, int)
        for symbol in dim.symbols
    } - set(graph.symbols)
    return [f"{name}: {symbol} is not a symbol of the graph" for symbol in sorted(unknown)]


def _op_problems(op: Op, graph: Graph, program: Program, defined: set[str]) -> list[str]:
    where = op.outputs[0]
    if op.kind not in OPS:
        return [f"{where}: unknown op {op.kind!r}"]
    row = OPS[op.kind]
    if not row.least <= len(op.inputs) <= row.most:
        return [f"{where}: {op.kind} takes {row.least} to {row.most} operands, has {op.inputs}"]
    types: list[TensorType] = []
    for name in op.inputs:
        if is_constant(name):
            if name not in program.constants:
                return [f"{where}: constant {name} does not exist"]
            types.append(program.constants[name].type)
        elif name not in defined:
            return [f"{where}: {name} is used before it is defined"]
        else:
            types.append(graph.types[name])
    found = [f"{where}: {text}" for text in _dtype_problems(op, types)]
    try:
        results = infer(op, types)
    except (KeyError, TypeError, ValueError) as error:
        return [*found, f"{where}: {error}"]
    if len(results) != len(op.outputs):
        return [*found, f"{where}: {op.kind} has {len(results)} results, names {op.outputs}"]
    found += [
        f"{name}: declared {graph.types.get(name)}, {op.kind} gives {result}"
        for name, result in zip(op.outputs, results, strict=True)
        if graph.types.get(name) != result
    ]
    if policy := op.get("policy", ""):
        found.append(f"{where}: policy {policy!r} was never carried out")
    return found


def _dtype_problems(op: Op, types: list[TensorType]) -> list[str]:
    """Say where an operand is held in another dtype than the op computes with."""
    expected = {
        "quantized_linear": ("i8", "f32", "f32", "f32"),
        "quantized_conv1d": ("i8", "f32", "f32", "f32"),
        "quantized_attention": ("i8", "f32", "i8", "f32", "i8", "f32"),
        "embedding": ("i64", "f32"),
        "cache_append": tuple(t.dtype for t in types[:1]) * 2,
        "reshape": (types[0].dtype,),
        "transpose": (types[0].dtype,),
        "slice": (types[0].dtype,),
        "concat": (types[0].dtype,) * len(types),
    }.get(op.kind, ("f32",) * len(types))
    return [
        f"{op.kind} operand {name} is {kind.dtype}, expected {wanted}"
        for name, kind, wanted in zip(op.inputs, types, expected, strict=False)
        if kind.dtype != wanted
    ]
