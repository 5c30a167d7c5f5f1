"""Work rules of products: linear layers, convolutions, products of activations."""

from collections.abc import Sequence
from math import prod

from cosim.ir import Op
from cosim.ops.checks import weight_position
from cosim.ops.work import WorkContext
from hwmodels.workload import Gemm, VectorOp, WorkItem


def epilogue(context: WorkContext, gemm: Gemm, function: str, extra: Sequence[str]) -> VectorOp:
    """Return a function that follows a product on its results, reading `extra` besides."""
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
    context: WorkContext,
    op: Op,
    kind: str,
    *,
    mnk: tuple[int, int, int],
    count: int = 1,
    window_elements: int = 0,
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
        count=count,
        nonzero=context.nonzero(weight),
        scale_group=context.scale_group(weight),
        window_elements=window_elements,
    )
    items: list[WorkItem] = [gemm]
    if is_quantized:
        items.append(epilogue(context, gemm, "dequantize", (op.inputs[1],)))
    if len(op.inputs) > at + 1:
        items.append(epilogue(context, gemm, "bias", (op.inputs[at + 1],)))
    return items


def linear(context: WorkContext, op: Op) -> list[WorkItem]:
    """Charge one product with its epilogues."""
    *rows, k = context.shape(op.inputs[0])
    return _product(context, op, "linear", mnk=(prod(rows), context.shape(op.outputs[0])[-1], k))


def convolution(context: WorkContext, op: Op) -> list[WorkItem]:
    """Charge one product per group over all positions, whose k is channels times taps."""
    batch, filters, *positions = context.shape(op.outputs[0])
    _, depth, *taps = context.shape(op.inputs[weight_position(op)])
    groups = int(str(op.get("groups", 1)))
    mnk = (batch * prod(positions), filters // groups, depth * prod(taps))
    seen = [
        _seen(size, number, tap, stride=op.integer("stride"), padding=op.integer("padding"))
        for size, number, tap in zip(context.shape(op.inputs[0])[2:], positions, taps, strict=True)
    ]
    windows = batch * groups * depth * prod(seen)
    return _product(context, op, "conv", mnk=mnk, count=groups, window_elements=windows)


def _seen(size: int, windows: int, taps: int, *, stride: int, padding: int) -> int:
    """Return the elements of an axis that all windows over it hold, without padding."""
    starts = (stride * number - padding for number in range(windows))
    return sum(max(0, min(size, start + taps) - max(0, start)) for start in starts)


def matmul(context: WorkContext, op: Op) -> list[WorkItem]:
    """Charge a product of activations for each batch and head."""
    a, b = op.inputs
    *leading, m, k = context.shape(a)
    *shared, _, n = context.shape(b)
    count = prod(leading)
    if not shared:  # one right side: all rows are rows of one product
        m, count = count * m, 1
    gemm = Gemm(
        context.label(op),
        "matmul",
        m,
        n,
        k,
        context.ref(a) if count == 1 else context.operand(a),
        context.ref(b) if count == 1 else context.operand(b),
        context.ref(op.outputs[0]),
        context.number(a),
        context.number(b),
        "f32",
        count=count,
    )
    return [gemm]
