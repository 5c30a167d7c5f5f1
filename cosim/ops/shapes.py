"""Shape rules: the result types of an op from its operand types.

Each rule takes the operand types and the op and raises ValueError, TypeError or KeyError with the
op's name where they do not fit.
"""

from collections.abc import Sequence

from cosim import expr
from cosim.expr import Dim
from cosim.ir import Attribute, Op, TensorType

Types = Sequence[TensorType]


def same(types: Types, _op: Op) -> tuple[TensorType, ...]:
    """Return the type of the first operand."""
    return (types[0],)


def layer_norm(types: Types, op: Op) -> tuple[TensorType, ...]:
    """Return the type of x; weight and bias have its last axis."""
    _rank(types[0], 1, op)
    for kind in types[1:]:
        _expect(kind, types[0].shape[-1:], op)
    return (types[0],)


def broadcast(types: Types, op: Op) -> tuple[TensorType, ...]:
    """Return the type of a pointwise op of two operands, axes aligned at the last."""
    long, short = sorted((types[0].shape, types[1].shape), key=len, reverse=True)
    padded = (1,) * (len(long) - len(short)) + short
    shape: list[Dim] = []
    for a, b in zip(long, padded, strict=True):
        if a not in (b, 1) and b != 1:
            raise ValueError(f"{op.kind} {op.outputs[0]}: {types[0]} and {types[1]} do not fit")
        shape.append(b if a == 1 else a)
    return (TensorType(tuple(shape), types[0].dtype),)


def reshape(types: Types, op: Op) -> tuple[TensorType, ...]:
    """Return the operand with the attribute `shape`, of as many elements."""
    shape = op.attribute("shape")
    if not isinstance(shape, tuple):
        raise TypeError(f"reshape {op.outputs[0]}: shape is not a list")
    if expr.product(shape) != types[0].elements:
        raise ValueError(f"reshape {op.outputs[0]}: {types[0]} has not the elements of {shape}")
    return (TensorType(shape, types[0].dtype),)


def transpose(types: Types, op: Op) -> tuple[TensorType, ...]:
    """Return the operand with its axes in the attribute `order`."""
    order = op.attribute("order")
    if not isinstance(order, tuple) or sorted(map(str, order)) != sorted(
        str(i) for i in range(len(types[0].shape))
    ):
        raise ValueError(f"transpose {op.outputs[0]}: {order} does not permute {types[0]}")
    return (TensorType(tuple(types[0].shape[int(str(axis))] for axis in order), types[0].dtype),)


def take(types: Types, op: Op) -> tuple[TensorType, ...]:
    """Return rows [start, stop) of the attribute `axis`."""
    axis = _axis(types[0], op)
    shape = list(types[0].shape)
    size = shape[axis]
    start, stop = _dim(op.attribute("start")), _dim(op.attribute("stop"))
    numbers = [value for value in (0, start, stop, size) if isinstance(value, int)]
    if numbers != sorted(numbers):
        raise ValueError(f"slice {op.outputs[0]}: [{start}:{stop}] is not inside axis of {size}")
    shape[axis] = expr.simplify(expr.as_expr(stop) - start)
    return (TensorType(tuple(shape), types[0].dtype),)


def embedding(types: Types, op: Op) -> tuple[TensorType, ...]:
    """Return a row of the table (second operand) for each id (first operand)."""
    _rank(types[1], 2, op, exactly=True)
    return (TensorType((*types[0].shape, types[1].shape[-1]), "f32"),)


def linear(types: Types, op: Op) -> tuple[TensorType, ...]:
    """Return x W^T + b for x [..., k], W [n, k], b [n]."""
    at = weight_position(op)
    weight = types[at]
    _rank(types[0], 1, op)
    _rank(weight, 2, op, exactly=True)
    _contracts(types[0].shape[-1], weight.shape[1], op)
    _product_sides(types, op, weight.shape[:1])
    return (TensorType((*types[0].shape[:-1], weight.shape[0]), "f32"),)


def conv1d(types: Types, op: Op) -> tuple[TensorType, ...]:
    """Return the convolution of x [batch, k, length] with W [n, k, taps], b [n]."""
    weight = types[weight_position(op)]
    for kind in (types[0], weight):
        _rank(kind, 3, op, exactly=True)
    batch, channels, length = types[0].shape
    filters, weight_channels, taps = weight.shape
    _contracts(channels, weight_channels, op)
    _product_sides(types, op, (filters,))
    padded = expr.as_expr(length) + 2 * op.integer("padding") - taps
    frames = expr.simplify(padded // op.integer("stride") + 1)
    return (TensorType((batch, filters, frames), "f32"),)


def attention(types: Types, op: Op) -> tuple[TensorType, ...]:
    """Return softmax(scale q k^T) v for q [..., t, d], k [..., s, d], v [..., s, e]."""
    is_quantized = op.kind.startswith("quantized_")
    query, key, value = (types[i] for i in ((0, 2, 4) if is_quantized else (0, 1, 2)))
    for kind in (query, key, value):
        _rank(kind, 2, op)
    if not query.shape[:-2] == key.shape[:-2] == value.shape[:-2]:
        heads = ", ".join(str(kind) for kind in (query, key, value))
        raise ValueError(f"{op.kind} {op.outputs[0]}: batch and heads differ: {heads}")
    _contracts(query.shape[-1], key.shape[-1], op)
    _contracts(key.shape[-2], value.shape[-2], op)
    if is_quantized:
        for codes, scales in ((query, types[1]), (key, types[3]), (value, types[5])):
            _scales(codes, scales, op)
    return (TensorType((*query.shape[:-1], value.shape[-1]), "f32"),)


def concat(types: Types, op: Op) -> tuple[TensorType, ...]:
    """Return the operands one after the other along the attribute `axis`."""
    axis = _axis(types[0], op)
    shape = list(types[0].shape)
    for kind in types[1:]:
        _rank(kind, len(shape), op, exactly=True)
        if [dim for i, dim in enumerate(kind.shape) if i != axis] != shape[:axis] + shape[
            axis + 1 :
        ]:
            raise ValueError(
                f"{op.kind} {op.outputs[0]}: {types[0]} and {kind} differ beside axis {axis}"
            )
    shape[axis] = expr.simplify(sum((expr.as_expr(t.shape[axis]) for t in types), expr.as_expr(0)))
    return (TensorType(tuple(shape), types[0].dtype),)


def dynamic_quantize(types: Types, op: Op) -> tuple[TensorType, ...]:
    """Return codes of the operand's shape and scales: one each row (last axis), or one."""
    per = op.attribute("per")
    if per not in ("row", "tensor"):
        raise ValueError(f"dynamic_quantize {op.outputs[0]}: per is {per!r}, not row or tensor")
    _rank(types[0], 1, op)
    scales = types[0].shape[:-1] if per == "row" else (1,)
    return (TensorType(types[0].shape, "i8"), TensorType(scales, "f32"))


def dynamic_binarize(types: Types, op: Op) -> tuple[TensorType, ...]:
    """Return signs of the operand's shape and the mean magnitude of each row (last axis)."""
    _rank(types[0], 1, op)
    return (TensorType(types[0].shape, "i1"), TensorType(types[0].shape[:-1], "f32"))


def weight_position(op: Op) -> int:
    """Return which operand of a product is its weight: codes come with their scale before it."""
    return 2 if op.kind.startswith("quantized_") else 1


def _dim(value: Attribute) -> Dim:
    if isinstance(value, int | expr.Expr):
        return value
    raise TypeError(f"{value!r} is not an integer expression")


def _axis(kind: TensorType, op: Op) -> int:
    axis = op.integer("axis")
    if not 0 <= axis < len(kind.shape):
        raise ValueError(f"{op.kind} {op.outputs[0]}: {kind} has no axis {axis}")
    return axis


def _rank(kind: TensorType, rank: int, op: Op, *, exactly: bool = False) -> None:
    found = len(kind.shape)
    if found < rank or (exactly and found != rank):
        least = "" if exactly else "at least "
        raise ValueError(f"{op.kind} {op.outputs[0]}: {kind}: expected {least}{rank} axes")


def _expect(kind: TensorType, shape: tuple[Dim, ...], op: Op) -> None:
    if kind.shape != shape:
        wanted = ", ".join(map(str, shape))
        raise ValueError(f"{op.kind} {op.outputs[0]}: {kind}: expected shape <{wanted}>")


def _contracts(left: Dim, right: Dim, op: Op) -> None:
    if left != right:
        raise ValueError(f"{op.kind} {op.outputs[0]}: contracts {left} with {right}")


def _scales(codes: TensorType, scales: TensorType, op: Op) -> None:
    if scales.shape not in (codes.shape[:-1], (1,)):
        raise ValueError(f"{op.kind} {op.outputs[0]}: scales {scales} do not belong to {codes}")


def _product_sides(types: Types, op: Op, filters: tuple[Dim, ...]) -> None:
    """Check the scales of integer activations, and the bias."""
    at = weight_position(op)
    if at == 2 and op.kind.endswith("conv1d"):
        _expect(types[1], (1,), op)
    elif at == 2:
        _scales(types[0], types[1], op)
    for bias in types[at + 1 :]:
        _expect(bias, filters, op)
