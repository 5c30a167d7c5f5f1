"""Write operand policies into op attributes, then carry them out as explicit ops.

After these passes every activation that a product reads as integers is made by a
`dynamic_quantize`, or a `quantize` by a calibrated scale, that is executed and simulated like any
other op.
"""

import json
import math
import re
from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import Protocol

from cosim.errors import CosimError
from cosim.expr import Dim
from cosim.ir import Graph, Op, Program, TensorType, attributes
from cosim.ops import infer
from cosim.passes.clean import merge_equal, substitute


class Policy(Protocol):
    """What one operand of one op becomes; `target` is the module the op stands in."""

    @property
    def target(self) -> str:
        """Module name, e.g. `encoder.layers.0.fc1`."""

    @property
    def operand(self) -> str:
        """`input` of a linear or convolution, or q, k, v, p of an attention."""

    @property
    def bits(self) -> int:
        """Width of the integer codes."""

    @property
    def signed(self) -> bool:
        """Whether codes are symmetric around zero."""

    @property
    def per(self) -> str:
        """`row` or `tensor`."""

    @property
    def scale(self) -> str:
        """`dynamic` (absmax), `static` (calibrated) or `unit` (the range is known to be [0, 1])."""


OPERANDS: Mapping[str, Mapping[str, int]] = {
    "linear": {"input": 0},
    "conv1d": {"input": 0},
    "conv2d": {"input": 0},
    "attention": {"q": 0, "k": 1, "v": 2, "p": 3},
}


_QUANTIZERS = ("quantize", "dynamic_quantize", "dynamic_binarize", "binarize")
_SUFFIXES = ("codes", "scales")
"""What the results of quantisers are called; one with fixed scales has codes alone."""


def write_policies(program: Program, policies: Iterable[Policy]) -> Program:
    """Return the program with each policy as attribute `policy` of the ops it names.

    CosimError lists every policy that matches no op.
    """
    wanted: dict[tuple[str, str], Policy] = {(p.target, p.operand): p for p in policies}
    matched: set[tuple[str, str]] = set()
    graphs = []
    for graph in program.graphs:
        ops = []
        for op in graph.ops:
            parts = []
            for operand in OPERANDS.get(op.kind, {}):
                policy = wanted.get((op.scope, operand))
                if policy is None:
                    continue
                matched.add((op.scope, operand))
                sign = "i" if policy.signed else "u"
                parts.append(f"{operand}:{sign}{policy.bits}/{policy.per}/{policy.scale}")
            ops.append(op.with_attributes(policy=" ".join(parts)) if parts else op)
        graphs.append(replace(graph, ops=tuple(ops)))
    unmatched = [key for key in wanted if key not in matched]
    if unmatched:
        raise CosimError(
            f"operand policy {target}.{operand}: no op of the program stands there"
            for target, operand in unmatched
        )
    return replace(program, graphs=tuple(graphs))


def carry_out_policies(program: Program) -> Program:
    """Return the program with policies turned into quantise ops and integer products.

    CosimError lists every policy that no kernel and no encoding can carry out.
    """
    wrong: list[str] = []
    graphs = tuple(_carry_out(graph, program, wrong) for graph in program.graphs)
    if wrong:
        raise CosimError(wrong)
    return replace(program, graphs=tuple(merge_equal(graph) for graph in graphs))


def _carry_out(graph: Graph, program: Program, wrong: list[str]) -> Graph:
    types = dict(graph.types)
    ops: list[Op] = []
    for op in graph.ops:
        policy = str(op.get("policy", ""))
        if not policy:
            ops.append(op)
            continue
        granularity = {part.partition(":")[0]: part.partition(":")[2] for part in policy.split(" ")}
        wrong += _refusals(op, granularity, program)
        made: list[str] = []
        for operand, position in OPERANDS[op.kind].items():
            if operand not in granularity or operand == "p":
                continue
            quantize, scale = _quantizer(program, op, operand, position, granularity[operand])
            operands = [types[op.inputs[position]], *_types(program, quantize.inputs[1:])]
            types.update(zip(quantize.outputs, infer(quantize, operands), strict=True))
            ops.append(quantize)
            made += [quantize.outputs[0], scale]
        rest = op.inputs[len(made) // 2 :]
        kept = tuple((key, value) for key, value in op.attributes if key != "policy")
        ops.append(Op(f"quantized_{op.kind}", (*made, *rest), op.outputs, kept, op.scope))
    return replace(graph, ops=tuple(ops), types=types)


def scale_name(target: str, operand: str) -> str:
    """Return the name of the tensor [1] that holds the calibrated scale of a static operand."""
    return f"{target}.{operand}_scale"


def _quantizer(program: Program, op: Op, operand: str, position: int, form: str) -> tuple[Op, str]:
    """Return the op that makes codes of an operand, and the name of their scale."""
    source, codes = op.inputs[position], f"{op.outputs[0]}.{operand}"
    _, per, how = form.split("/")
    if how == "static":
        scale = first_equal(program, f"@{scale_name(op.scope, operand)}")
        return Op("quantize", (source, scale), (codes,), (), op.scope), scale
    scale = f"{codes}_scale"
    return Op("dynamic_quantize", (source,), (codes, scale), attributes(per=per), op.scope), scale


def first_equal(program: Program, name: str) -> str:
    """Return the first constant that holds the same, so that a value is quantised by it once."""
    held = program.constants.get(name)
    if held is None:
        return name
    return next(key for key, other in program.constants.items() if other.digest == held.digest)


def _types(program: Program, names: Iterable[str]) -> list[TensorType]:
    """Return the types of constants; one number for those that are missing, as is told."""
    one = TensorType((1,), "f32")
    return [program.constants[name].type if name in program.constants else one for name in names]


def _refusals(op: Op, granularity: Mapping[str, str], program: Program) -> list[str]:
    """Say why the policy of one op cannot be carried out."""
    where = f"{op.scope} ({op.kind})"
    found = [
        f"{where}: operand {operand} as {text}: expected i8/row/dynamic, i8/tensor/dynamic, "
        "i8/tensor/static (probabilities: u8/row/unit)"
        for operand, text in granularity.items()
        if text
        not in (
            ("u8/row/unit", "u8/tensor/unit")
            if operand == "p"
            else ("i8/row/dynamic", "i8/tensor/dynamic", "i8/tensor/static")
        )
    ]
    found += [
        f"{where}: operand {operand}: no calibration input reached it, so its scale is not known"
        for operand, text in granularity.items()
        if text.endswith("/static") and f"@{scale_name(op.scope, operand)}" not in program.constants
    ]
    if op.kind == "attention":
        missing = [name for name in OPERANDS["attention"] if name not in granularity]
        if missing:
            found.append(f"{where}: operands {', '.join(missing)} stay float while others do not")
        if len(op.inputs) > 3:
            found.append(f"{where}: scores with a bias: there is no integer kernel for them")
        if granularity.get("v", "").split("/")[1:2] == ["row"]:
            found.append(f"{where}: v per row: its rows are summed over, expected per tensor")
        return found
    weight = program.constants[op.inputs[1]]
    if weight.encoding in ("dense", "half") or re.search('"bits": (16|32)', weight.storage):
        found.append(f"{where}: integer activations need integer weights; {op.inputs[1]} is float")
    if op.kind != "linear":
        found += _refused_windows(op, granularity["input"], depth=weight.type.shape[1])
        group, whole = json.loads(weight.storage).get("group"), math.prod(weight.type.bind({})[1:])
        if group is not None and group < whole:
            found.append(f"{where}: scales of groups of {group}: windows tear the groups apart")
    return found


def _refused_windows(op: Op, policy: str, *, depth: Dim) -> list[str]:
    """Say why no kernel multiplies codes of the windows of a convolution."""
    where, found = f"{op.scope} ({op.kind})", []
    groups = op.get("groups", 1)
    if groups != 1 and depth == 1:
        found.append(f"{where}: one filter a channel: there is no integer kernel for it")
    elif groups != 1 and op.kind == "conv2d":
        found.append(f"{where}: {groups} groups: there is no integer kernel for them")
    if policy.split("/")[1] == "row":
        found.append(f"{where}: a window spans several rows, expected activations per tensor")
    return found


def quantize_caches(graph: Graph) -> Graph:
    """Return the graph with row-wise quantised caches holding codes and scales.

    Quantising rows commutes with appending rows, so codes are equal bit for bit, and each row is
    quantised once instead of at every step. A cache that is also read or returned as floats, or
    that grows along the quantised rows themselves, stays as it is.
    """
    returned = {value for _, value in graph.outputs}
    consumers = graph.consumers()
    types = dict(graph.types)
    states: list[tuple[str, int]] = []
    replaced: dict[str, tuple[Op, ...]] = {}
    for state, capacity in graph.states:
        append = next(op for op in consumers[state] if op.kind == "cache_append")
        readers = consumers.get(append.outputs[0], [])
        only = readers[0] if len(readers) == 1 else None
        if (
            only is None
            or not _is_by_row(only)
            or append.outputs[0] in returned
            or append.integer("axis") == len(types[state].shape) - 1
        ):
            states.append((state, capacity))
            continue
        new = append.inputs[1]
        made = tuple(f"{new}.{suffix}" for suffix in _SUFFIXES[: len(only.outputs)])
        quantize = replace(only, inputs=(new, *only.inputs[1:]), outputs=made)
        appends = []
        for suffix, row, result in zip(_SUFFIXES, made, only.outputs, strict=False):
            name, axes = f"{state}.{suffix}", len(types[result].shape)
            types[row] = TensorType(types[new].shape[:axes], types[result].dtype)
            types[name] = TensorType(types[state].shape[:axes], types[result].dtype)
            states.append((name, capacity))
            appends.append(replace(append, inputs=(name, row), outputs=(result,)))
        replaced[append.outputs[0]] = (quantize, *appends)
        replaced[only.outputs[0]] = ()
        del types[state], types[append.outputs[0]]
    ops = [new for op in graph.ops for new in replaced.get(op.outputs[0], (op,))]
    return replace(graph, states=tuple(states), ops=tuple(ops), types=types)


def _is_by_row(op: Op) -> bool:
    """Return whether an op quantises each row alone, whatever the others are."""
    per_tensor = op.kind == "dynamic_quantize" and op.attribute("per") != "row"
    return op.kind in _QUANTIZERS and not per_tensor


def quantize_at_source(program: Program) -> Program:
    """Return the program with graph inputs that are only quantised quantised where they are made.

    A value that one graph returns and another reads only as codes is handed over as codes: it is
    quantised once and not at every call.
    """
    for reader in program.graphs:
        for name in reader.inputs:
            readers = reader.consumers().get(name, [])
            maker = next(
                (g for g in program.graphs if name[1:] in dict(g.outputs) and g is not reader), None
            )
            if maker is None or len(readers) != 1 or readers[0].kind not in _QUANTIZERS:
                continue
            if _is_read_elsewhere(program, name, reader):
                continue
            quantize = readers[0]
            public = tuple(f"{name[1:]}.{suffix}" for suffix in _SUFFIXES[: len(quantize.outputs)])
            swapped = {
                reader.name: _receive_codes(reader, name, quantize, public),
                maker.name: _send_codes(program, maker, name[1:], quantize, public),
            }
            graphs = tuple(swapped.get(graph.name, graph) for graph in program.graphs)
            return quantize_at_source(replace(program, graphs=graphs))
    return program


def _is_read_elsewhere(program: Program, name: str, reader: Graph) -> bool:
    """Return whether the floats of input `name` are needed beside the op that quantises them."""
    return any(value == name for _, value in reader.outputs) or any(
        name in graph.inputs for graph in program.graphs if graph is not reader
    )


def _receive_codes(graph: Graph, name: str, quantize: Op, public: tuple[str, ...]) -> Graph:
    values = tuple(f"%{item}" for item in public)
    renamed = dict(zip(quantize.outputs, values, strict=True))
    types = {renamed.get(key, key): kind for key, kind in graph.types.items() if key != name}
    at = graph.inputs.index(name)
    return replace(
        graph,
        inputs=(*graph.inputs[:at], *values, *graph.inputs[at + 1 :]),
        ops=tuple(substitute(op, renamed) for op in graph.ops if op != quantize),
        outputs=tuple((item, renamed.get(value, value)) for item, value in graph.outputs),
        types=types,
    )


def _send_codes(
    program: Program, graph: Graph, old: str, quantize: Op, public: tuple[str, ...]
) -> Graph:
    source = dict(graph.outputs)[old]
    values = tuple(f"{source}.{suffix}" for suffix in _SUFFIXES[: len(public)])
    made = replace(quantize, inputs=(source, *quantize.inputs[1:]), outputs=values)
    types = dict(graph.types)
    operands = [types[source], *(program.constants[name].type for name in made.inputs[1:])]
    types.update(zip(values, infer(made, operands), strict=True))
    outputs: list[tuple[str, str]] = []
    for name, value in graph.outputs:
        pairs = zip(public, values, strict=True) if name == old else [(name, value)]
        outputs += list(pairs)
    return replace(graph, ops=(*graph.ops, made), outputs=tuple(outputs), types=types)
