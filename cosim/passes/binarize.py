"""Carry out policies of one bit: signs and single levels made by ops, products of bits.

An operand is `dynamic` (scaled by its own rows while running) or `static`: then its level, and for
signs maybe a move of each channel, are constants `@TARGET.OPERAND_scale` and `..._move`.
"""

from collections.abc import Mapping
from dataclasses import replace

from cosim.errors import CosimError
from cosim.ir import Graph, Op, Program, attributes
from cosim.ops import infer
from cosim.passes.clean import merge_equal
from cosim.passes.quantize import OPERANDS, first_equal, scale_name

_NOT_NEGATIVE = ("relu", "sigmoid")
_VIEWS = ("reshape", "transpose", "slice", "expand", "repeat", "pad")
_FORMS: Mapping[str, Mapping[str, tuple[str, ...]]] = {
    "linear": {"input": ("i1/row/dynamic", "i1/tensor/static", "u1/tensor/static")},
    "attention": {
        **dict.fromkeys("qkv", ("i1/row/dynamic", "i1/tensor/static")),
        "p": ("u1/row/dynamic", "u1/tensor/static"),
    },
}


def binarize_operands(program: Program) -> Program:
    """Return the program with policies of one bit turned into binarising ops and products of bits.

    Signs are made of an operand, unless a function whose results are never negative makes it: then
    0 and one level (Liu et al. 2022, BiT). CosimError lists every policy that cannot be carried
    out; policies of other widths are left.
    """
    wrong: list[str] = []
    graphs = tuple(_binarized(graph, program, wrong) for graph in program.graphs)
    if wrong:
        raise CosimError(wrong)
    return replace(program, graphs=tuple(merge_equal(graph) for graph in graphs))


def move_name(target: str, operand: str) -> str:
    """Return the name of the tensor that is added to a static operand before its sign is taken."""
    return f"{target}.{operand}_move"


def _binarized(graph: Graph, program: Program, wrong: list[str]) -> Graph:
    types = dict(graph.types)
    ops: list[Op] = []
    for op in graph.ops:
        policy = _policy(op)
        if not any(text[1:].startswith("1/") for text in policy.values()):
            ops.append(op)
            continue
        refused = _refusals(op, policy, program)
        wrong += refused
        if refused:
            continue
        made: list[str] = []
        for operand in OPERANDS[op.kind]:
            if operand == "p":
                continue
            maker, scale = _maker(program, graph, op, operand, policy[operand])
            operands = [
                program.constants[name].type if name[0] == "@" else types[name]
                for name in maker.inputs
            ]
            types.update(zip(maker.outputs, infer(maker, operands), strict=True))
            ops.append(maker)
            made += [maker.outputs[0], scale]
        rest = list(op.inputs[len(made) // 2 :])
        if policy.get("p", "").endswith("static"):
            rest.append(first_equal(program, f"@{scale_name(op.scope, 'p')}"))
        kind = "binary_attention" if op.kind == "attention" else f"quantized_{op.kind}"
        kept = tuple((key, value) for key, value in op.attributes if key != "policy")
        ops.append(Op(kind, (*made, *rest), op.outputs, kept, op.scope))
    return replace(graph, ops=tuple(ops), types=types)


def _policy(op: Op) -> Mapping[str, str]:
    """Return how each operand is to be held, e.g. `{"q": "i1/row/dynamic"}`."""
    text = str(op.get("policy", ""))
    return dict(part.split(":") for part in text.split(" ")) if text else {}


def _maker(program: Program, graph: Graph, op: Op, operand: str, form: str) -> tuple[Op, str]:
    """Return the op that makes bits of an operand, and the name of what they are worth."""
    source = op.inputs[OPERANDS[op.kind][operand]]
    bits, scale = f"{op.outputs[0]}.{operand}", f"{op.outputs[0]}.{operand}_scale"
    if form.endswith("static"):
        level = first_equal(program, f"@{scale_name(op.scope, operand)}")
        move = f"@{move_name(op.scope, operand)}"
        moves = [first_equal(program, move)] if move in program.constants else []
        values = attributes(set="signed" if form.startswith("i") else "unsigned")
        return Op("binarize", (source, level, *moves), (bits,), values, op.scope), level
    is_unsigned = op.kind == "linear" and _is_not_negative(graph, source)
    values = attributes(set="unsigned" if is_unsigned else "signed")
    return Op("dynamic_binarize", (source,), (bits, scale), values, op.scope), scale


def _is_not_negative(graph: Graph, name: str) -> bool:
    """Return whether a function makes a value, maybe behind views, that is never negative."""
    producers = graph.producers()
    op = producers.get(name)
    while op is not None and op.kind in _VIEWS:
        op = producers.get(op.inputs[0])
    return op is not None and op.kind in _NOT_NEGATIVE


def _refusals(op: Op, policy: Mapping[str, str], program: Program) -> list[str]:
    """Say why the policy of one op cannot be carried out."""
    where = f"{op.scope} ({op.kind})"
    if op.kind not in _FORMS:
        return [f"{where}: there is no kernel for inputs of one bit"]
    forms = _FORMS[op.kind]
    found = [
        f"{where}: operand {operand} as {text}: expected {' or '.join(forms[operand])}"
        for operand, text in policy.items()
        if text not in forms[operand]
    ]
    found += [
        f"{where}: operand {operand}: no calibration input reached it, so its level is not known"
        for operand, text in policy.items()
        if text.endswith("/static") and f"@{scale_name(op.scope, operand)}" not in program.constants
    ]
    if op.kind == "linear" and program.constants[op.inputs[1]].encoding != "binary":
        found.append(
            f"{where}: activations of one bit need weights of one bit; {op.inputs[1]} has more"
        )
    if op.kind == "attention":
        missing = [name for name in forms if name not in policy]
        if missing:
            found.append(f"{where}: operands {', '.join(missing)} stay float while others do not")
        if len(op.inputs) > 3 or op.get("pattern", ""):
            found.append(f"{where}: scores with a bias or a pattern: no kernel makes them of bits")
    return found
