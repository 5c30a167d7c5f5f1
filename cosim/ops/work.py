"""Work rules: what one op costs, as GEMMs, vector ops and transfers on named tensors.

Those of products stand in `work_products`, that of attention in `work_attention`.
"""

from collections.abc import Iterable
from math import prod
from typing import Protocol

from cosim.ir import Op, is_constant
from hwmodels.workload import Nonzero, Number, TensorRef, Transfer, VectorOp, WorkItem


class WorkContext(Protocol):
    """What a work rule may ask about the op's surroundings at bound lengths."""

    def label(self, op: Op) -> str:
        """Return the name of the work."""

    def shape(self, name: str) -> tuple[int, ...]:
        """Return the bound shape of a value or constant."""

    def ref(self, name: str) -> TensorRef:
        """Return the tensor behind a value or constant; views share it, or a part of it."""

    def operand(self, name: str) -> TensorRef:
        """Return the tensor behind a value, and how matrices of its last two axes lie in it."""

    def refs(self, names: Iterable[str]) -> tuple[TensorRef, ...]:
        """Return the tensors behind values, each once; of parts of one, as much as all see."""

    def number(self, name: str) -> Number:
        """Return how elements are stored."""

    def nonzero(self, name: str) -> Nonzero | None:
        """Return the true zero pattern of a constant, None when dense."""

    def scale_group(self, name: str) -> int:
        """Return the run along k under one scale, 0 for the whole of k."""

    def temporary(self, op: Op, suffix: str, shape: tuple[int, ...], number: Number) -> TensorRef:
        """Return a tensor that lives inside one op, e.g. attention scores."""

    def table(self, name: str, shape: tuple[int, ...], number: Number) -> TensorRef:
        """Return a tensor that memory holds beside the constants, e.g. sinusoids."""

    def row_bytes(self, name: str) -> int:
        """Return the stored bytes of one row of a constant or state."""


def nothing(_context: WorkContext, _op: Op) -> list[WorkItem]:
    """Return no work: views move no data."""
    return []


def _vector(
    context: WorkContext, op: Op, kind: str, function: str, source: str, *, row_length: int = 0
) -> VectorOp:
    """Return a function over all elements of `source`, in rows of its last axis by default."""
    shape = context.shape(source)
    return VectorOp(
        context.label(op),
        kind,
        function,
        prod(shape),
        row_length or shape[-1],
        context.refs(op.inputs),
        tuple(context.ref(name) for name in op.outputs),
    )


def pointwise(context: WorkContext, op: Op) -> list[WorkItem]:
    """Charge a function over every element of the result."""
    return [_vector(context, op, op.kind, op.kind, op.outputs[0])]


def affine(context: WorkContext, op: Op) -> list[WorkItem]:
    """Charge a multiplication by a number, and the addition of one unless it is 0."""
    function = "affine" if op.attribute("shift") else "scale"
    return [_vector(context, op, "affine", function, op.outputs[0])]


def group_norm(context: WorkContext, op: Op) -> list[WorkItem]:
    """Charge a normalisation whose rows are groups of channels with all that follows them."""
    batch = context.shape(op.inputs[0])[0]
    row = prod(context.shape(op.inputs[0])) // (batch * op.integer("groups"))
    return [_vector(context, op, op.kind, op.kind, op.outputs[0], row_length=row)]


def total(context: WorkContext, op: Op) -> list[WorkItem]:
    """Charge a sum over every element of the operand."""
    return [_vector(context, op, op.kind, op.kind, op.inputs[0])]


def quantize(context: WorkContext, op: Op) -> list[WorkItem]:
    """Charge scale and rounding over every element of the operand, and absmax if it is dynamic."""
    function = op.kind if op.kind == "quantize" else f"dynamic_quantize_{op.attribute('per')}"
    return [_vector(context, op, "quantize", function, op.inputs[0])]


def binarize(context: WorkContext, op: Op) -> list[WorkItem]:
    """Charge a bit for every element of the operand, and the level of each row if it is dynamic."""
    function = op.kind
    if function == "dynamic_binarize" and op.attribute("set") == "unsigned":
        function = "dynamic_binarize_steps"
    return [_vector(context, op, "quantize", function, op.inputs[0])]


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
    result, ref = context.ref(op.outputs[0]), context.ref(source)
    moved = context.shape(op.outputs[0])[0] * context.row_bytes(source)
    if op.integer("axis") != 0:
        moved = -(-ref.size_bytes * result.elements // ref.elements)
    return [Transfer(context.label(op), "embedding", (ref,), (result,), moved, result.size_bytes)]


def copy(context: WorkContext, op: Op) -> list[WorkItem]:
    """Charge a copy of the operand into a result of another size: zeros around it, or repeats."""
    source, result = context.ref(op.inputs[0]), context.ref(op.outputs[0])
    moved = source.size_bytes
    return [Transfer(context.label(op), "copy", (source,), (result,), moved, result.size_bytes)]


def table(context: WorkContext, op: Op) -> list[WorkItem]:
    """Charge the reading of rows that memory holds: sinusoids, or ids of buckets."""
    result, shape = context.ref(op.outputs[0]), context.shape(op.outputs[0])
    kind = op.get("kind", f"buckets{op.get('buckets', 0)}/{op.get('furthest', 0)}")
    name = f"{op.kind}/{kind}/{'x'.join(map(str, shape))}"
    source = context.table(name, shape, context.number(op.outputs[0]))
    moved = source.size_bytes
    return [Transfer(context.label(op), op.kind, (source,), (result,), moved, moved)]


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
    reads = context.refs(op.inputs)
    result = context.ref(op.outputs[0])
    moved = sum(ref.size_bytes for ref in reads)
    return [Transfer(context.label(op), "copy", reads, (result,), moved, result.size_bytes)]
