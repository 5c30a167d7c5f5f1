"""The table of operations: one row per op, with its types, its ATen sources and its work.

A row holds the shape rule that the verifier applies, the ATen targets with their importer, and the
rule that says what the op costs as work items. MAC and byte counts are those of the work items:
there is no second formula.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from cosim import expr
from cosim.expr import Dim
from cosim.ir import Attribute, Op, TensorType, attributes, is_constant
from hwmodels.workload import Gemm, Nonzero, Number, TensorRef, Transfer, VectorOp, WorkItem

Types = Sequence[TensorType]
Imported = tuple[tuple[str, ...], Mapping[str, Attribute]]


@dataclass(frozen=True)
class AtenCall:
    """One ATen call: operands by name, sizes as `Dim`, and the types of operands and result."""

    target: str
    arguments: tuple[object, ...]
    types: Mapping[str, TensorType]
    result: TensorType

    def name(self, position: int) -> str:
        """Return the operand at `position`."""
        return str(self.arguments[position])

    def names(self, *positions: int) -> tuple[str, ...]:
        """Return operands, leaving out those that are absent or None."""
        given = (self.arguments[i] for i in positions if i < len(self.arguments))
        return tuple(str(name) for name in given if name is not None)

    def integer(self, position: int, default: int) -> int:
        """Return a fixed integer (or a list of one); ValueError when it is not fixed."""
        value = self.arguments[position] if position < len(self.arguments) else default
        if isinstance(value, list | tuple):
            if len(value) != 1:
                raise ValueError(f"{self.target}: argument {position}: expected one integer")
            value = value[0]
        if not isinstance(value, int):
            raise ValueError(f"{self.target}: argument {position}: {value} is not a fixed integer")
        return value


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


@dataclass(frozen=True)
class OpRow:
    """One operation of the IR.

    `least` and `most` bound the number of operands; `is_view` marks ops that move no data.
    """

    kind: str
    least: int
    most: int
    infer: Callable[[Types, Op], tuple[TensorType, ...]]
    work: Callable[[WorkContext, Op], list[WorkItem]]
    aten: tuple[str, ...] = ()
    read: Callable[[AtenCall], Imported] | None = None
    is_view: bool = False


# ---------------------------------------------------------------- shape rules


def _same(types: Types, _op: Op) -> tuple[TensorType, ...]:
    return (types[0],)


def _broadcast(types: Types, op: Op) -> tuple[TensorType, ...]:
    long, short = sorted((types[0].shape, types[1].shape), key=len, reverse=True)
    padded = (1,) * (len(long) - len(short)) + short
    shape: list[Dim] = []
    for a, b in zip(long, padded, strict=True):
        if a not in (b, 1) and b != 1:
            raise ValueError(f"{op.kind} {op.outputs[0]}: {types[0]} and {types[1]} do not fit")
        shape.append(b if a == 1 else a)
    return (TensorType(tuple(shape), types[0].dtype),)


def _reshape(types: Types, op: Op) -> tuple[TensorType, ...]:
    shape = op.attribute("shape")
    if not isinstance(shape, tuple):
        raise TypeError(f"reshape {op.outputs[0]}: shape is not a list")
    if expr.product(shape) != types[0].elements:
        raise ValueError(f"reshape {op.outputs[0]}: {types[0]} has not the elements of {shape}")
    return (TensorType(shape, types[0].dtype),)


def _transpose(types: Types, op: Op) -> tuple[TensorType, ...]:
    order = op.attribute("order")
    if not isinstance(order, tuple) or sorted(map(str, order)) != [
        str(i) for i in range(len(types[0].shape))
    ]:
        raise ValueError(f"transpose {op.outputs[0]}: {order} does not permute {types[0]}")
    return (TensorType(tuple(types[0].shape[int(str(axis))] for axis in order), types[0].dtype),)


def _dim(value: Attribute) -> Dim:
    if isinstance(value, int | expr.Expr):
        return value
    raise TypeError(f"{value!r} is not an integer expression")


def _slice(types: Types, op: Op) -> tuple[TensorType, ...]:
    shape = list(types[0].shape)
    start, stop = _dim(op.attribute("start")), _dim(op.attribute("stop"))
    shape[op.integer("axis")] = expr.simplify(expr.as_expr(stop) - start)
    return (TensorType(tuple(shape), types[0].dtype),)


def _embedding(types: Types, _op: Op) -> tuple[TensorType, ...]:
    return (TensorType((*types[0].shape, types[1].shape[-1]), "f32"),)


def _contracts(left: Dim, right: Dim, op: Op) -> None:
    if left != right:
        raise ValueError(f"{op.kind} {op.outputs[0]}: contracts {left} with {right}")


def _linear(types: Types, op: Op) -> tuple[TensorType, ...]:
    weight = types[_weight_position(op)]
    _contracts(types[0].shape[-1], weight.shape[1], op)
    return (TensorType((*types[0].shape[:-1], weight.shape[0]), "f32"),)


def _conv1d(types: Types, op: Op) -> tuple[TensorType, ...]:
    batch, channels, length = types[0].shape
    weight = types[_weight_position(op)]
    filters, weight_channels, taps = weight.shape
    _contracts(channels, weight_channels, op)
    padded = expr.as_expr(length) + 2 * op.integer("padding") - taps
    frames = expr.simplify(padded // op.integer("stride") + 1)
    return (TensorType((batch, filters, frames), "f32"),)


def _attention(types: Types, op: Op) -> tuple[TensorType, ...]:
    query, key, value = (types[i] for i in ((0, 1, 2) if op.kind == "attention" else (0, 2, 4)))
    _contracts(query.shape[-1], key.shape[-1], op)
    _contracts(key.shape[-2], value.shape[-2], op)
    return (TensorType((*query.shape[:-1], value.shape[-1]), "f32"),)


def _concat(types: Types, op: Op) -> tuple[TensorType, ...]:
    axis = op.integer("axis")
    shape = list(types[0].shape)
    shape[axis] = expr.simplify(sum((expr.as_expr(t.shape[axis]) for t in types), expr.as_expr(0)))
    return (TensorType(tuple(shape), types[0].dtype),)


def _dynamic_quantize(types: Types, op: Op) -> tuple[TensorType, ...]:
    per = op.attribute("per")
    if per not in ("row", "tensor"):
        raise ValueError(f"dynamic_quantize {op.outputs[0]}: per is {per!r}, not row or tensor")
    scales = types[0].shape[:-1] if per == "row" else (1,)
    return (TensorType(types[0].shape, "i8"), TensorType(scales, "f32"))


def _weight_position(op: Op) -> int:
    return 2 if op.kind.startswith("quantized_") else 1


# ---------------------------------------------------------------- work rules


def _no_work(_context: WorkContext, _op: Op) -> list[WorkItem]:
    return []


def _vector(context: WorkContext, op: Op, kind: str, function: str, source: str) -> VectorOp:
    shape = context.shape(source)
    elements = 1
    for dim in shape:
        elements *= dim
    reads: list[TensorRef] = []
    for name in op.inputs:
        ref = context.ref(name)
        if ref not in reads:
            reads.append(ref)
    return VectorOp(
        context.label(op),
        kind,
        function,
        elements,
        shape[-1],
        tuple(reads),
        tuple(context.ref(name) for name in op.outputs),
    )


def _pointwise(context: WorkContext, op: Op) -> list[WorkItem]:
    return [_vector(context, op, op.kind, op.kind, op.outputs[0])]


def _quantize_work(context: WorkContext, op: Op) -> list[WorkItem]:
    function = f"dynamic_quantize_{op.attribute('per')}"
    return [_vector(context, op, "quantize", function, op.inputs[0])]


def _epilogue(
    context: WorkContext, op: Op, gemm: Gemm, function: str, extra: Sequence[str]
) -> VectorOp:
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


def _gemm_work(context: WorkContext, op: Op, kind: str, m: int, n: int, k: int) -> list[WorkItem]:
    is_quantized = op.kind.startswith("quantized_")
    at = _weight_position(op)
    weight = op.inputs[at]
    gemm = Gemm(
        context.label(op),
        kind,
        m,
        n,
        k,
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
        items.append(_epilogue(context, op, gemm, "dequantize", (op.inputs[1],)))
    if len(op.inputs) > at + 1:
        items.append(_epilogue(context, op, gemm, "bias", (op.inputs[at + 1],)))
    return items


def _linear_work(context: WorkContext, op: Op) -> list[WorkItem]:
    *rows, k = context.shape(op.inputs[0])
    m = 1
    for dim in rows:
        m *= dim
    return _gemm_work(context, op, "linear", m, context.shape(op.outputs[0])[-1], k)


def _conv1d_work(context: WorkContext, op: Op) -> list[WorkItem]:
    batch, filters, frames = context.shape(op.outputs[0])
    _, channels, taps = context.shape(op.inputs[_weight_position(op)])
    return _gemm_work(context, op, "conv", batch * frames, filters, channels * taps)


def _attention_work(context: WorkContext, op: Op) -> list[WorkItem]:
    is_quantized = op.kind == "quantized_attention"
    query, key, value = (op.inputs[i] for i in ((0, 2, 4) if is_quantized else (0, 1, 2)))
    *heads, rows, depth = context.shape(query)
    count = 1
    for dim in heads:
        count *= dim
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
    quantize = VectorOp(
        f"{label}.quantize",
        "attention",
        "quantize",
        softmax.elements,
        memory,
        (weights,),
        (weights,),
        is_fused=True,
    )
    return [
        scored,
        _epilogue(context, op, scored, "dequantize", (op.inputs[1], op.inputs[3])),
        softmax,
        quantize,
        mixed,
        _epilogue(context, op, mixed, "dequantize", (op.inputs[5],)),
    ]


def _embedding_work(context: WorkContext, op: Op) -> list[WorkItem]:
    ids, table = op.inputs
    rows = 1
    for dim in context.shape(ids):
        rows *= dim
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


def _slice_work(context: WorkContext, op: Op) -> list[WorkItem]:
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


def _append_work(context: WorkContext, op: Op) -> list[WorkItem]:
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


def _concat_work(context: WorkContext, op: Op) -> list[WorkItem]:
    reads = tuple(context.ref(name) for name in op.inputs)
    result = context.ref(op.outputs[0])
    moved = sum(ref.size_bytes for ref in reads)
    return [Transfer(context.label(op), "copy", reads, (result,), moved, result.size_bytes)]


# ---------------------------------------------------------------- ATen importers


def _read_first(*positions: int) -> Callable[[AtenCall], Imported]:
    return lambda call: (call.names(*positions), {})


def _read_reshape(call: AtenCall) -> Imported:
    return (call.name(0),), {"shape": call.result.shape}


def _read_swap(call: AtenCall) -> Imported:
    rank = len(call.result.shape)
    order = list(range(rank))
    first, second = call.integer(1, 0) % rank, call.integer(2, 1) % rank
    order[first], order[second] = order[second], order[first]
    return (call.name(0),), {"order": tuple(order)}


def _read_permute(call: AtenCall) -> Imported:
    axes = call.arguments[1]
    if not isinstance(axes, list | tuple):
        raise ValueError(f"{call.target}: expected a list of axes")
    return (call.name(0),), {"order": tuple(int(axis) % len(axes) for axis in axes)}


def _read_slice(call: AtenCall) -> Imported:
    source = call.types[call.name(0)]
    axis = call.integer(1, 0) % len(source.shape)
    given = (*call.arguments[2:], None, None, None)
    if given[2] not in (None, 1):
        raise ValueError(f"{call.target}: step {given[2]} is not supported")
    start = given[0] if isinstance(given[0], int | expr.Expr) else 0
    stop = expr.simplify(expr.as_expr(start) + call.result.shape[axis])
    return (call.name(0),), {"axis": axis, "start": start, "stop": stop}


def _read_embedding(call: AtenCall) -> Imported:
    return (call.name(1), call.name(0)), {}


def _read_conv1d(call: AtenCall) -> Imported:
    if call.integer(5, 1) != 1 or call.integer(6, 1) != 1:
        raise ValueError(f"{call.target}: dilation and groups other than 1 are not supported")
    return call.names(0, 1, 2), {"stride": call.integer(3, 1), "padding": call.integer(4, 0)}


def _read_gelu(call: AtenCall) -> Imported:
    if "tanh" in call.arguments:
        raise ValueError(f"{call.target}: the tanh approximation is not supported")
    return (call.name(0),), {}


def _read_layer_norm(call: AtenCall) -> Imported:
    eps = call.arguments[4] if len(call.arguments) > 4 else 1e-5
    if len(call.names(0, 2, 3)) != 3 or not isinstance(eps, float):
        raise ValueError(f"{call.target}: expected weight, bias and a fixed eps")
    return call.names(0, 2, 3), {"eps": eps}


def _read_attention(call: AtenCall) -> Imported:
    mask, dropout, causal, scale = (*call.arguments[3:], *(None, 0.0, False, None))[:4]
    if mask is not None or dropout or causal:
        raise ValueError(f"{call.target}: masks and dropout are not supported")
    depth = call.types[call.name(0)].shape[-1]
    if not isinstance(depth, int):
        raise ValueError(f"{call.target}: head size {depth} is not fixed")
    return call.names(0, 1, 2), {"scale": scale if isinstance(scale, float) else depth**-0.5}


def _read_concat(call: AtenCall) -> Imported:
    parts = call.arguments[0]
    if not isinstance(parts, list | tuple):
        raise ValueError(f"{call.target}: expected a list of tensors")
    axis = call.integer(1, 0) % len(call.result.shape)
    return tuple(str(part) for part in parts), {"axis": axis}


def _rows(*rows: OpRow) -> dict[str, OpRow]:
    return {row.kind: row for row in rows}


OPS: Mapping[str, OpRow] = _rows(
    OpRow(
        "reshape",
        1,
        1,
        _reshape,
        _no_work,
        (
            "view.default",
            "reshape.default",
            "unsqueeze.default",
            "squeeze.dim",
            "flatten.using_ints",
        ),
        _read_reshape,
        is_view=True,
    ),
    OpRow("transpose", 1, 1, _transpose, _no_work, ("transpose.int",), _read_swap, is_view=True),
    OpRow("slice", 1, 1, _slice, _slice_work, ("slice.Tensor",), _read_slice, is_view=True),
    OpRow("embedding", 2, 2, _embedding, _embedding_work, ("embedding.default",), _read_embedding),
    OpRow("linear", 2, 3, _linear, _linear_work, ("linear.default",), _read_first(0, 1, 2)),
    OpRow("conv1d", 2, 3, _conv1d, _conv1d_work, ("conv1d.default",), _read_conv1d),
    OpRow("gelu", 1, 1, _same, _pointwise, ("gelu.default",), _read_gelu),
    OpRow("layer_norm", 3, 3, _same, _pointwise, ("layer_norm.default",), _read_layer_norm),
    OpRow("add", 2, 2, _broadcast, _pointwise, ("add.Tensor",), _read_first(0, 1)),
    OpRow(
        "attention",
        3,
        3,
        _attention,
        _attention_work,
        ("scaled_dot_product_attention.default",),
        _read_attention,
    ),
    OpRow("concat", 2, 8, _concat, _concat_work, ("cat.default",), _read_concat),
    OpRow("cache_append", 2, 2, _concat, _append_work),
    OpRow("dynamic_quantize", 1, 1, _dynamic_quantize, _quantize_work),
    OpRow("quantized_linear", 3, 4, _linear, _linear_work),
    OpRow("quantized_conv1d", 3, 4, _conv1d, _conv1d_work),
    OpRow("quantized_attention", 6, 6, _attention, _attention_work),
)
ATEN: Mapping[str, tuple[OpRow, Callable[[AtenCall], Imported]]] = {
    **{target: (row, row.read) for row in OPS.values() if row.read for target in row.aten},
    "permute.default": (OPS["transpose"], _read_permute),
}


def row(op: Op) -> OpRow:
    """Return the table row of an op; KeyError lists the known kinds."""
    if op.kind not in OPS:
        raise KeyError(f"{op.outputs[0]}: unknown op {op.kind!r}; known: {', '.join(OPS)}")
    return OPS[op.kind]


def infer(op: Op, types: Types) -> tuple[TensorType, ...]:
    """Return the result types of an op from its operand types."""
    return row(op).infer(types, op)


__all__ = ["ATEN", "OPS", "AtenCall", "OpRow", "WorkContext", "attributes", "infer", "row"]
