"""Work rules: what one op costs, as GEMMs, vector ops and transfers on named tensors."""

from collections.abc import Sequence
from math import prod
from typing import Protocol

from cosim.ir import Op, is_constant
from cosim.ops.shapes import weight_position
from hwmodels.workload import Gemm, Nonzero, Number, TensorRef, Transfer, VectorOp, WorkItem


class WorkContext(Protocol):
    """What a work rule may ask about the op's surroundings at bound lengths."""

    def label(self, op: Op) -> str:
        """Return the name of the work."""

    def shape(self, name: str) -> tuple[int, ...]:
        """Return the bound shape of a value or constant."""

    def ref(self, name: str) -> TensorRef:
        """Return the tensor behind a value or constant; views share it."""

    def number(self, name: str) -> Number:
        """Return how elements are stored."""

    def nonzero(self, name: str) -> Nonzero | None:
        """Return the true zero pattern of a constant, None when dense."""

    def scale_group(self, name: str) -> int:
        """Return the run along k under one scale, 0 for the whole of k."""

    def temporary(self, op: Op, suffix: str, shape: tuple[int, ...], number: Number) -> TensorRef:
        """Return a tensor that lives inside one op, e.g. attention scores."""

    def row_bytes(self, name: str) -> int:
        """Return the stored bytes of one row of a constant or state."""


def nothing(_context: WorkContext, _op: Op) -> list[WorkItem]:
    """Return no work: views move no data."""
    return []


def _vector(context: WorkContext, op: Op, kind: str, function: str, source: str) -> VectorOp:
    shape = context.shape(source)
    reads: list[TensorRef] = []
    for name in op.inputs:
        ref = context.ref(name)
        if ref not in reads:
            reads.append(ref)
    return VectorOp(
        context.label(op),
        kind,
        function,
        prod(shape),
        shape[-1],
        tuple(reads),
        tuple(context.ref(name) for name in op.outputs),
    )


def pointwise(context: WorkContext, op: Op) -> list[WorkItem]:
    """Charge a function over every element of the result."""
    return [_vector(context, op, op.kind, op.kind, op.outputs[0])]


def quantize(context: WorkContext, op: Op) -> list[WorkItem]:
    """Charge absmax, scale and rounding over every element of the operand."""
    function = f"dynamic_quantize_{op.attribute('per')}"
    return [_vector(context, op, "quantize", function, op.inputs[0])]


def binarize(context: WorkContext, op: Op) -> list[WorkItem]:
    """Charge sign and mean magnitude over every element of the operand."""
    return [_vector(context, op, "quantize", "dynamic_binarize", op.inputs[0])]


def _epilogue(context: WorkContext, gemm: Gemm, function: str, extra: Sequence[str]) -> VectorOp:
    return VectorOp(
        f"{gemm.name}.{function}",
        gemm.kind,
        function,
        gemm.count * gemm.m * gemm.n,
        gemm.n,
        (gemm.result, *(context.ref(name) for name in extra)),
        (gemm.result,),
        is_fused=True,
    )


def _product(
    context: WorkContext, op: Op, kind: str, *, mnk: tuple[int, int, int]
) -> list[WorkItem]:
    is_quantized = op.kind.startswith("quantized_")
    at = weight_position(op)
    weight = op.inputs[at]
    gemm = Gemm(
        context.label(op),
        kind,
        *mnk,
        context.ref(op.inputs[0]),
        context.ref(weight),
        context.ref(op.outputs[0]),
        context.number(op.inputs[0]),
        context.number(weight),
        "i32" if is_quantized else "f32",
        nonzero=context.nonzero(weight),
        scale_group=context.scale_group(weight),
    )
    items: list[WorkItem] = [gemm]
    if is_quantized:
        items.append(_epilogue(context, gemm, "dequantize", (op.inputs[1],)))
    if len(op.inputs) > at + 1:
        items.append(_epilogue(context, gemm, "bias", (op.inputs[at + 1],)))
    return items


def linear(context: WorkContext, op: Op) -> list[WorkItem]:
    """Charge one product with its epilogues."""
    *rows, k = context.shape(op.inputs[0])
    return _product(context, op, "linear", mnk=(prod(rows), context.shape(op.outputs[0])[-1], k))


def conv1d(context: WorkContext, op: Op) -> list[WorkItem]:
    """Charge one product over frames, whose k is channels times taps."""
    batch, filters, frames = context.shape(op.outputs[0])
    _, channels, taps = context.shape(op.inputs[weight_position(op)])
    return _product(context, op, "conv", mnk=(batch * frames, filters, channels * taps))


def attention(context: WorkContext, op: Op) -> list[WorkItem]:
    """Charge both products with the softmax between them, per head."""
    is_quantized = op.kind == "quantized_attention"
    query, key, value = (op.inputs[i] for i in ((0, 2, 4) if is_quantized else (0, 1, 2)))
    *heads, rows, depth = context.shape(query)
    count = prod(heads)
    memory = context.shape(key)[-2]
    label = context.label(op)
    accumulator: Number = "i32" if is_quantized else "f32"
    shape = (count, rows, memory)
    scores = context.temporary(op, "scores", shape, "f32")
    weights = context.temporary(op, "probabilities", shape, "u8" if is_quantized else "f32")
    scored = Gemm(
        f"{label}.scores",
        "attention",
        rows,
        memory,
        depth,
        context.ref(query),
        context.ref(key),
        scores,
        context.number(query),
        context.number(key),
        accumulator,
        count=count,
    )
    mixed = Gemm(
        f"{label}.context",
        "attention",
        rows,
        context.shape(value)[-1],
        memory,
        weights,
        context.ref(value),
        context.ref(op.outputs[0]),
        "u8" if is_quantized else "f32",
        context.number(value),
        accumulator,
        count=count,
    )
    softmax = VectorOp(
        f"{label}.softmax",
        "attention",
        "softmax",
        count * rows * memory,
        memory,
        (scores,),
        (weights,),
    )
    if not is_quantized:
        return [scored, softmax, mixed]
    coded = VectorOp(
        f"{label}.quantize",
        "attention",
        "quantize_carrying",
        softmax.elements,
        memory,
        (weights,),
        (weights,),
        is_fused=True,
    )
    return [
        scored,
        _epilogue(context, scored, "dequantize", (op.inputs[1], op.inputs[3])),
        softmax,
        coded,
        mixed,
        _epilogue(context, mixed, "dequantize", (op.inputs[5],)),
    ]


def embedding(context: WorkContext, op: Op) -> list[WorkItem]:
    """Charge the stored rows that are gathered, and their dequantisation."""
    ids, table = op.inputs
    rows = prod(context.shape(ids))
    result = context.ref(op.outputs[0])
    moved = rows * context.row_bytes(table) + context.ref(ids).size_bytes
    reads = (context.ref(ids), context.ref(table))
    name = context.label(op)
    items: list[WorkItem] = [
        Transfer(name, "embedding", reads, (result,), moved, result.size_bytes)
    ]
    if context.number(table) != "f32":
        width = context.shape(op.outputs[0])[-1]
        items.append(
            VectorOp(
                f"{name}.dequantize",
                "embedding",
                "dequantize",
                rows * width,
                width,
                (result,),
                (result,),
                is_fused=True,
            )
        )
    return items


def take(context: WorkContext, op: Op) -> list[WorkItem]:
    """Charge a partial read of a constant; a slice of a value is a view."""
    source = op.inputs[0]
    if not is_constant(source) or context.shape(source) == context.shape(op.outputs[0]):
        return []
    result = context.ref(op.outputs[0])
    moved = context.shape(op.outputs[0])[0] * context.row_bytes(source)
    name = context.label(op)
    return [
        Transfer(name, "embedding", (context.ref(source),), (result,), moved, result.size_bytes)
    ]


def append(context: WorkContext, op: Op) -> list[WorkItem]:
    """Charge the new row alone: what is in the cache stays where it is."""
    state, new = op.inputs
    source = context.ref(new)
    return [
        Transfer(
            context.label(op),
            "cache",
            (source,),
            (context.ref(state),),
            source.size_bytes,
            source.size_bytes,
        )
    ]


def concat(context: WorkContext, op: Op) -> list[WorkItem]:
    """Charge a copy of all operands."""
    reads = tuple(context.ref(name) for name in op.inputs)
    result = context.ref(op.outputs[0])
    moved = sum(ref.size_bytes for ref in reads)
    return [Transfer(context.label(op), "copy", reads, (result,), moved, result.size_bytes)]
