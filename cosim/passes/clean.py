"""Remove what does nothing: ops without readers, views that change nothing, equal ops."""

from collections.abc import Mapping
from dataclasses import replace

from cosim.ir import Graph, Op, Program, is_constant


def substitute(op: Op, names: Mapping[str, str]) -> Op:
    """Return the op with operands renamed."""
    return replace(op, inputs=tuple(names.get(name, name) for name in op.inputs))


def remove_dead(graph: Graph) -> Graph:
    """Return the graph without ops whose results nobody reads."""
    live = {value for _, value in graph.outputs}
    kept: list[Op] = []
    for op in reversed(graph.ops):
        if op.kind == "cache_append" or any(name in live for name in op.outputs):
            kept.append(op)
            live.update(op.inputs)
    kept.reverse()
    defined = {name for op in kept for name in op.outputs}
    defined |= set(graph.inputs) | {name for name, _ in graph.states}
    types = {name: kind for name, kind in graph.types.items() if name in defined}
    return replace(graph, ops=tuple(kept), types=types)


def remove_identities(program: Program) -> Program:
    """Return the program without views whose result has the type of their operand."""
    return replace(program, graphs=tuple(_identities(graph, program) for graph in program.graphs))


def _identities(graph: Graph, program: Program) -> Graph:
    names: dict[str, str] = {}
    kept: list[Op] = []
    for original in graph.ops:
        op = substitute(original, names)
        source = op.inputs[0]
        kind = program.constants[source].type if is_constant(source) else graph.types[source]
        unchanged = op.kind in ("reshape", "slice") or (
            op.kind == "transpose" and list(map(str, _order(op))) == sorted(map(str, _order(op)))
        )
        if unchanged and kind == graph.types[op.outputs[0]]:
            names[op.outputs[0]] = source
        else:
            kept.append(op)
    outputs = tuple((public, names.get(value, value)) for public, value in graph.outputs)
    return remove_dead(replace(graph, ops=tuple(kept), outputs=outputs))


def _order(op: Op) -> tuple[object, ...]:
    order = op.attribute("order")
    return order if isinstance(order, tuple) else ()


def merge_equal(graph: Graph) -> Graph:
    """Return the graph with ops of equal kind, operands and attributes done once."""
    names: dict[str, str] = {}
    first: dict[tuple[object, ...], Op] = {}
    kept: list[Op] = []
    for original in graph.ops:
        op = substitute(original, names)
        key = (op.kind, op.inputs, op.attributes)
        if op.kind != "cache_append" and key in first:
            names.update(zip(op.outputs, first[key].outputs, strict=True))
        else:
            first[key] = op
            kept.append(op)
    outputs = tuple((public, names.get(value, value)) for public, value in graph.outputs)
    return remove_dead(replace(graph, ops=tuple(kept), outputs=outputs))
