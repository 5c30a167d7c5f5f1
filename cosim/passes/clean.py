"""Remove what does nothing: ops without readers, views that change nothing, equal ops."""

from collections.abc import Mapping
from dataclasses import replace

from cosim.ir import Graph, Op, Program, TensorType, is_constant
from cosim.ops import PRODUCTS

_KEPT = frozenset(
    {"cache_append", *(row.kind for row in PRODUCTS)}
    | {f"quantized_{row.kind}" for row in PRODUCTS}
)


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
        source = op.inputs[0] if _may_change_nothing(op) else ""
        if source and _type(program, graph, source) == graph.types[op.outputs[0]]:
            names[op.outputs[0]] = source
        else:
            kept.append(op)
    outputs = tuple((public, names.get(value, value)) for public, value in graph.outputs)
    return remove_dead(replace(graph, ops=tuple(kept), outputs=outputs))


def _may_change_nothing(op: Op) -> bool:
    """Return whether the op hands its operand on where the types are equal."""
    if op.kind == "transpose":
        order = list(map(str, _order(op)))
        return order == sorted(order)
    if op.kind == "affine":
        return op.attribute("scale") == 1.0 and op.attribute("shift") == 0.0
    return op.kind in ("reshape", "slice", "expand", "pad", "repeat")


def _type(program: Program, graph: Graph, name: str) -> TensorType:
    return program.constants[name].type if is_constant(name) else graph.types[name]


def _order(op: Op) -> tuple[object, ...]:
    order = op.attribute("order")
    return order if isinstance(order, tuple) else ()


def merge_equal(graph: Graph) -> Graph:
    """Return the graph with ops of equal kind, operands and attributes done once.

    Products stay as often as the model asks for them: a layer that is used several times is work
    each time, also where it is given the same operands.
    """
    names: dict[str, str] = {}
    first: dict[tuple[object, ...], Op] = {}
    kept: list[Op] = []
    for original in graph.ops:
        op = substitute(original, names)
        key = (op.kind, op.inputs, op.attributes)
        if op.kind not in _KEPT and key in first:
            names.update(zip(op.outputs, first[key].outputs, strict=True))
        else:
            first[key] = op
            kept.append(op)
    outputs = tuple((public, names.get(value, value)) for public, value in graph.outputs)
    return remove_dead(replace(graph, ops=tuple(kept), outputs=outputs))
