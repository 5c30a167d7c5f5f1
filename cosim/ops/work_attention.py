"""Work rule of attention: both products with the softmax between them, dense or in kept blocks.

Blocks of queries that see equally many keys are products of one size. Their kept blocks of keys
and values are first laid out one after the other (as Zaheer et al. 2020, BigBird, appendix D, do),
which is charged as a transfer: each block that is kept is read once, each use of it is written.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from math import prod

from cosim.ir import Op
from cosim.ops.work import WorkContext
from cosim.ops.work_products import epilogue
from cosim.patterns import from_text
from hwmodels.workload import Gemm, Number, TensorRef, Transfer, VectorOp, WorkItem

_PROBABILITIES: Mapping[str, Number] = {
    "attention": "f32",
    "quantized_attention": "u8",
    "binary_attention": "u1",
}
_ROUNDINGS = {  # by the number of operands: a seventh is the level of the probabilities
    ("quantized_attention", 6): "quantize_carrying",
    ("binary_attention", 6): "dynamic_binarize_steps",
    ("binary_attention", 7): "binarize",
}


@dataclass(frozen=True)
class _Part:
    """`count` products of `rows` queries with `keys` keys; `suffix` tells parts of an op apart."""

    suffix: str
    count: int
    rows: int
    keys: int
    q: TensorRef
    k: TensorRef
    v: TensorRef
    result: TensorRef


def attention(context: WorkContext, op: Op) -> list[WorkItem]:
    """Charge both products with the softmax between them, per head, for the keys that are kept."""
    label = context.label(op)
    if pattern := str(op.get("pattern", "")):
        return list(_in_blocks(context, op, label, pattern))
    query, key, value = _operands(op)
    *heads, rows, _ = context.shape(query)
    part = _Part(
        "",
        prod(heads),
        rows,
        context.shape(key)[-2],
        context.operand(query),
        context.operand(key),
        context.operand(value),
        context.ref(op.outputs[0]),
    )
    return list(_products(context, op, label, part))


def _operands(op: Op) -> tuple[str, str, str]:
    first, second, third = (0, 1, 2) if op.kind == "attention" else (0, 2, 4)
    return op.inputs[first], op.inputs[second], op.inputs[third]


def _in_blocks(context: WorkContext, op: Op, label: str, text: str) -> Iterator[WorkItem]:
    """Yield the work of a pattern: gather, products and softmax of each part, and their joining."""
    query, key, value = _operands(op)
    *heads, queries, depth = context.shape(query)
    memory, width = context.shape(value)[-2:]
    pattern, head_count = from_text(text), prod(heads)
    stored = pattern.stored(queries, memory)
    sizes = pattern.sizes(memory)
    groups: dict[tuple[int, int], list[int]] = {}
    for block, row_count in enumerate(pattern.sizes(queries)):
        if seen := int(sizes[stored[block]].sum()):
            groups.setdefault((int(row_count), seen), []).append(block)
    is_whole = len(groups) == 1 and len(stored) == sum(map(len, groups.values()))
    q, k, v, result = (context.ref(name) for name in (query, key, value, op.outputs[0]))
    results: list[TensorRef] = []
    for number, ((row_count, seen), blocks) in enumerate(groups.items()):
        suffix = "" if is_whole else f".{number}"
        count = head_count * len(blocks)

        def part_of(name: str, what: str, *shape: int, at: str = suffix) -> TensorRef:
            return context.temporary(op, f"{what}{at}", shape, context.number(name))

        k_part = part_of(key, "keys", count, seen, depth)
        v_part = part_of(value, "values", count, seen, width)
        distinct = int(sizes[stored[blocks].any(axis=0)].sum())
        moved = (k.size_bytes + v.size_bytes) * distinct // memory
        q_part = q
        reads, writes = context.refs((key, value)), [k_part, v_part]
        if not is_whole:
            q_part = part_of(query, "queries", count, row_count, depth)
            reads, writes = context.refs((query, key, value)), [q_part, *writes]
            moved += q_part.size_bytes
        yield Transfer(
            f"{label}.gather{suffix}",
            "attention",
            reads,
            tuple(writes),
            min(moved, sum(ref.size_bytes for ref in reads)),
            sum(ref.size_bytes for ref in writes),
        )
        made = result
        if not is_whole:
            made = context.temporary(op, f"context{suffix}", (count, row_count, width), "f32")
        results.append(made)
        part = _Part(suffix, count, row_count, seen, q_part, k_part, v_part, made)
        yield from _products(context, op, label, part)
    if not is_whole:
        read = sum(ref.size_bytes for ref in results)
        yield Transfer(
            f"{label}.join", "attention", tuple(results), (result,), read, result.size_bytes
        )


def _products(context: WorkContext, op: Op, label: str, part: _Part) -> Iterator[WorkItem]:
    is_quantized = op.kind != "attention"
    query, key, value = _operands(op)
    accumulator: Number = "i32" if is_quantized else "f32"
    name, shape = f"{label}{part.suffix}", (part.count, part.rows, part.keys)
    coded: Number = _PROBABILITIES[op.kind]
    scores = context.temporary(op, f"scores{part.suffix}", shape, "f32")
    weights = context.temporary(op, f"probabilities{part.suffix}", shape, coded)
    scored = Gemm(
        f"{name}.scores",
        "attention",
        part.rows,
        part.keys,
        context.shape(query)[-1],
        part.q,
        part.k,
        scores,
        context.number(query),
        context.number(key),
        accumulator,
        count=part.count,
    )
    mixed = Gemm(
        f"{name}.context",
        "attention",
        part.rows,
        context.shape(value)[-1],
        part.keys,
        weights,
        part.v,
        part.result,
        coded,
        context.number(value),
        accumulator,
        count=part.count,
    )
    softmax = VectorOp(
        f"{name}.softmax",
        "attention",
        "softmax",
        prod(shape),
        part.keys,
        (scores,),
        (weights,),
    )
    yield scored
    if is_quantized:
        yield epilogue(context, scored, "dequantize", (op.inputs[1], op.inputs[3]))
    elif len(op.inputs) > 3:
        yield epilogue(context, scored, "add", (op.inputs[3],))
    yield softmax
    if is_quantized:
        yield VectorOp(
            f"{name}.quantize",
            "attention",
            _ROUNDINGS[op.kind, len(op.inputs)],
            softmax.elements,
            part.keys,
            (weights,),
            (weights,),
            is_fused=True,
        )
    yield mixed
    if is_quantized:
        yield epilogue(context, mixed, "dequantize", (op.inputs[5],))
