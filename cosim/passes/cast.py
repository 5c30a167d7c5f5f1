"""Carry out policies that round operands of products to half precision or bfloat16."""

from dataclasses import replace

from cosim.errors import CosimError
from cosim.ir import Graph, Op, Program, attributes
from cosim.ops import infer
from cosim.passes.clean import merge_equal
from cosim.passes.quantize import OPERANDS

NUMBERS = ("f16", "bf16")
_PRODUCTS = ("linear", "conv1d", "conv2d")


def round_operands(program: Program) -> Program:
    """Return the program with policies of 16-bit floats turned into `cast` ops before products.

    Products of rounded operands add up in float32, and their results are float32. CosimError lists
    every policy that cannot be carried out; policies of other forms are left.
    """
    wrong: list[str] = []
    graphs = tuple(_rounded(graph, wrong) for graph in program.graphs)
    if wrong:
        raise CosimError(wrong)
    return replace(program, graphs=tuple(merge_equal(graph) for graph in graphs))


def _rounded(graph: Graph, wrong: list[str]) -> Graph:
    types = dict(graph.types)
    ops: list[Op] = []
    for op in graph.ops:
        number = _number(op)
        if not number:
            ops.append(op)
            continue
        if op.kind not in _PRODUCTS:
            wrong.append(f"{op.scope} ({op.kind}): there is no kernel for operands of {number}")
            continue
        position = OPERANDS[op.kind]["input"]
        source, result = op.inputs[position], f"{op.outputs[0]}.input"
        cast = Op("cast", (source,), (result,), attributes(number=number), op.scope)
        types.update(zip(cast.outputs, infer(cast, [types[source]]), strict=True))
        kept = tuple((key, value) for key, value in op.attributes if key != "policy")
        inputs = (*op.inputs[:position], result, *op.inputs[position + 1 :])
        ops += [cast, replace(op, inputs=inputs, attributes=kept)]
    return replace(graph, ops=tuple(ops), types=types)


def _number(op: Op) -> str:
    """Return the format that a policy rounds to, "" where it is another policy or none."""
    forms = {part.rpartition("/")[2] for part in str(op.get("policy", "")).split(" ")}
    return next((number for number in NUMBERS if number in forms), "")
