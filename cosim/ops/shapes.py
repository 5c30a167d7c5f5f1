"""Shape rules: the result types of an op from its operand types.

Each rule takes the operand types and the op and raises ValueError, TypeError or KeyError with the
op's name where they do not fit.
"""

from cosim import expr
from cosim.expr import Dim
from cosim.ir import Op, TensorType
from cosim.ops.checks import (
    Types,
    at_least,
    axis_of,
    dimension,
    expect_contraction,
    expect_rank,
    expect_scales,
    expect_shape,
    expect_sides,
    resized,
    shape_of,
    weight_position,
)
from cosim.patterns import from_text


def same(types: Types, _op: Op) -> tuple[TensorType, ...]:
    """Return the type of the first operand."""
    return (types[0],)


def layer_norm(types: Types, op: Op) -> tuple[TensorType, ...]:
    """Return the type of x; weight and bias have its last axis."""
    expect_rank(types[0], 1, op)
    for kind in types[1:]:
        expect_shape(kind, types[0].shape[-1:], op)
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
    shape = shape_of(op)
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
    """Return rows [start, stop) of the attribute `axis`, every `step`-th of them."""
    axis = axis_of(types[0], op)
    shape = list(types[0].shape)
    size = shape[axis]
    start, stop = dimension(op.attribute("start")), dimension(op.attribute("stop"))
    numbers = [value for value in (0, start, stop, size) if isinstance(value, int)]
    if numbers != sorted(numbers):
        raise ValueError(f"slice {op.outputs[0]}: [{start}:{stop}] is not inside axis of {size}")
    step = at_least(1, "step", op, default=1)
    shape[axis] = expr.simplify((expr.as_expr(stop) - start + (step - 1)) // step)
    return (TensorType(tuple(shape), types[0].dtype),)


def embedding(types: Types, op: Op) -> tuple[TensorType, ...]:
    """Return a row of the table (second operand) for each id (first operand)."""
    expect_rank(types[1], 2, op, exactly=True)
    return (TensorType((*types[0].shape, types[1].shape[-1]), "f32"),)


def linear(types: Types, op: Op) -> tuple[TensorType, ...]:
    """Return x W^T + b for x [..., k], W [n, k], b [n]."""
    at = weight_position(op)
    weight = types[at]
    expect_rank(types[0], 1, op)
    expect_rank(weight, 2, op, exactly=True)
    expect_contraction(types[0].shape[-1], weight.shape[1], op)
    expect_sides(types, op, weight.shape[:1])
    return (TensorType((*types[0].shape[:-1], weight.shape[0]), "f32"),)


def convolution(types: Types, op: Op) -> tuple[TensorType, ...]:
    """Return the convolution of x [batch, k, size, ...] with W [n, k / groups, taps, ...], b [n].

    One or two axes, as the op's name says; stride and padding are those of every axis.
    """
    weight = types[weight_position(op)]
    for kind in (types[0], weight):
        expect_rank(kind, 4 if op.kind.endswith("2d") else 3, op, exactly=True)
    batch, channels, *sizes = types[0].shape
    filters, depth, *taps = weight.shape
    groups = at_least(1, "groups", op, default=1)
    expect_contraction(channels, expr.simplify(expr.as_expr(depth) * groups), op)
    if not isinstance(filters, int) or filters % groups:
        raise ValueError(f"{op.kind} {op.outputs[0]}: {filters} filters in {groups} groups")
    expect_sides(types, op, (filters,))
    padding, stride = op.integer("padding"), op.integer("stride")
    results = [
        expr.simplify((expr.as_expr(size) + 2 * padding - tap) // stride + 1)
        for size, tap in zip(sizes, taps, strict=True)
    ]
    return (TensorType((batch, filters, *results), "f32"),)


def matmul(types: Types, op: Op) -> tuple[TensorType, ...]:
    """Return a b for a [..., m, k] and b [..., k, n] of the same leading axes, or b [k, n]."""
    a, b = types
    for kind in types:
        expect_rank(kind, 2, op)
    if b.shape[:-2] not in (a.shape[:-2], ()):
        raise ValueError(f"{op.kind} {op.outputs[0]}: leading axes of {a} and {b} differ")
    expect_contraction(a.shape[-1], b.shape[-2], op)
    return (TensorType((*a.shape[:-1], b.shape[-1]), "f32"),)


def attention(types: Types, op: Op) -> tuple[TensorType, ...]:
    """Return softmax(scale q k^T + bias) v for q [..., t, d], k [..., s, d], v [..., s, e].

    `bias` [..., t, s] may lack leading axes, or have them as 1. The attribute `pattern` is the text
    of an AttentionPattern, and excludes a bias. Codes and bits are each followed by their scale,
    and bits maybe by the level [1] of the probabilities.
    """
    is_quantized = op.kind != "attention"
    query, key, value = (types[i] for i in ((0, 2, 4) if is_quantized else (0, 1, 2)))
    for kind in (query, key, value):
        expect_rank(kind, 2, op)
    if not query.shape[:-2] == key.shape[:-2] == value.shape[:-2]:
        heads = ", ".join(str(kind) for kind in (query, key, value))
        raise ValueError(f"{op.kind} {op.outputs[0]}: batch and heads differ: {heads}")
    expect_contraction(query.shape[-1], key.shape[-1], op)
    expect_contraction(key.shape[-2], value.shape[-2], op)
    if is_quantized:
        for codes, scales in ((query, types[1]), (key, types[3]), (value, types[5])):
            expect_scales(codes, scales, op)
        for level in types[6:]:
            expect_shape(level, (1,), op)
    biases = () if is_quantized else types[3:]
    for bias in biases:
        _bias_of_scores(bias, (*query.shape[:-1], key.shape[-2]), op)
    if pattern := str(op.get("pattern", "")):
        from_text(pattern)
        if biases:
            raise ValueError(f"{op.kind} {op.outputs[0]}: a pattern and a bias exclude each other")
    return (TensorType((*query.shape[:-1], value.shape[-1]), "f32"),)


def _bias_of_scores(bias: TensorType, scores: tuple[Dim, ...], op: Op) -> None:
    expect_rank(bias, 2, op)
    leading = scores[: len(scores) - 2][max(0, len(scores) - len(bias.shape)) :]
    fits = len(bias.shape) <= len(scores) and all(
        size in (wanted, 1) for size, wanted in zip(bias.shape[:-2], leading, strict=True)
    )
    if not fits or bias.shape[-2:] != scores[-2:]:
        wanted = ", ".join(map(str, scores))
        raise ValueError(f"{op.kind} {op.outputs[0]}: bias {bias} does not fit <{wanted}>")


def concat(types: Types, op: Op) -> tuple[TensorType, ...]:
    """Return the operands one after the other along the attribute `axis`."""
    axis = axis_of(types[0], op)
    shape = list(types[0].shape)
    for kind in types[1:]:
        expect_rank(kind, len(shape), op, exactly=True)
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
    expect_rank(types[0], 1, op)
    scales = types[0].shape[:-1] if per == "row" else (1,)
    return (TensorType(types[0].shape, "i8"), TensorType(scales, "f32"))


def quantize(types: Types, op: Op) -> tuple[TensorType, ...]:
    """Return codes of the first operand's shape; the second is their scale [1]."""
    expect_shape(types[1], (1,), op)
    return (TensorType(types[0].shape, "i8"),)


def cast(types: Types, op: Op) -> tuple[TensorType, ...]:
    """Return the operand rounded to the attribute `number`."""
    number = op.attribute("number")
    if number not in ("f16", "bf16"):
        raise ValueError(f"{op.kind} {op.outputs[0]}: number is {number!r}, not f16 or bf16")
    return (TensorType(types[0].shape, "f16" if number == "f16" else "bf16"),)


def dynamic_binarize(types: Types, op: Op) -> tuple[TensorType, ...]:
    """Return bits of the operand's shape and what they are worth in each row (last axis).

    The attribute `set` is `signed`: signs, and the mean magnitude; or `unsigned`: 1 above half a
    level, else 0, and that level, the mean of the row weighted by itself.
    """
    expect_rank(types[0], 1, op)
    return (_bits(types[0], op), TensorType(types[0].shape[:-1], "f32"))


def binarize(types: Types, op: Op) -> tuple[TensorType, ...]:
    """Return bits of the first operand's shape: signs of x + move, or 1 above half a level.

    Operands are x, the level [1], and for the `set` signed maybe a move, which is repeated to x.
    """
    expect_rank(types[0], 1, op)
    expect_shape(types[1], (1,), op)
    bits = _bits(types[0], op)
    if bits.dtype != "i1" and len(types) == 3:
        raise ValueError(f"{op.kind} {op.outputs[0]}: steps of a level take no move")
    if len(types) == 3 and not _repeats(types[2], types[0]):
        raise ValueError(f"{op.kind} {op.outputs[0]}: move {types[2]} does not fit {types[0]}")
    return (bits,)


def _repeats(move: TensorType, kind: TensorType) -> bool:
    """Return whether a move has one value a channel, or one a channel of each head."""
    rank = max(2, len(kind.shape))
    *lead, row, last = (1,) * (rank - len(move.shape)) + move.shape
    wide = zip(lead, kind.shape, strict=False)
    return (row, last) == (1, kind.shape[-1]) and all(a in (b, 1) for a, b in wide)


def _bits(kind: TensorType, op: Op) -> TensorType:
    chosen = op.attribute("set")
    if chosen not in ("signed", "unsigned"):
        raise ValueError(f"{op.kind} {op.outputs[0]}: set is {chosen!r}, not signed or unsigned")
    return TensorType(kind.shape, "i1" if chosen == "signed" else "u1")


def glu(types: Types, op: Op) -> tuple[TensorType, ...]:
    """Return the first half of the attribute `axis` times the sigmoid of the second."""
    axis = axis_of(types[0], op)
    shape = list(types[0].shape)
    half = expr.simplify(expr.as_expr(shape[axis]) // 2)
    if expr.simplify(expr.as_expr(half) * 2) != shape[axis]:
        raise ValueError(f"{op.kind} {op.outputs[0]}: {types[0]} has no two halves on axis {axis}")
    shape[axis] = half
    return (TensorType(tuple(shape), types[0].dtype),)


def channel_norm(types: Types, op: Op) -> tuple[TensorType, ...]:
    """Return the type of x [batch, channels, ...]; every other operand has one value a channel."""
    expect_rank(types[0], 2, op)
    channels = types[0].shape[1]
    for kind in types[1:]:
        expect_shape(kind, (channels,), op)
    groups = at_least(1, "groups", op, default=1)
    if not isinstance(channels, int) or channels % groups:
        raise ValueError(f"{op.kind} {op.outputs[0]}: {channels} channels in {groups} groups")
    return (types[0],)


def pad(types: Types, op: Op) -> tuple[TensorType, ...]:
    """Return the operand with `before` and `after` zeros at the ends of the attribute `axis`."""
    axis = axis_of(types[0], op)
    more = at_least(0, "before", op) + at_least(0, "after", op)
    return (resized(types[0], axis, expr.as_expr(types[0].shape[axis]) + more),)


def repeat(types: Types, op: Op) -> tuple[TensorType, ...]:
    """Return the operand with each element of the attribute `axis` `times` times in a row."""
    axis = axis_of(types[0], op)
    times = at_least(1, "times", op)
    return (resized(types[0], axis, expr.as_expr(types[0].shape[axis]) * times),)


def total(types: Types, op: Op) -> tuple[TensorType, ...]:
    """Return the sum over the last axis, which goes."""
    expect_rank(types[0], 1, op)
    return (TensorType(types[0].shape[:-1], types[0].dtype),)


def expand(types: Types, op: Op) -> tuple[TensorType, ...]:
    """Return the operand as the attribute `shape`: axes of one are repeated, new ones first."""
    shape = shape_of(op)
    own = (1,) * (len(shape) - len(types[0].shape)) + types[0].shape
    fits = len(own) == len(shape) and all(a in (b, 1) for a, b in zip(own, shape, strict=True))
    if not fits:
        raise ValueError(f"{op.kind} {op.outputs[0]}: {types[0]} is no part of {shape}")
    return (TensorType(shape, types[0].dtype),)


def rel_shift(types: Types, op: Op) -> tuple[TensorType, ...]:
    """Return scores by key [..., t, s] of scores by relative position [..., t, t + s - 1]."""
    expect_rank(types[0], 2, op)
    rows, columns = types[0].shape[-2:]
    keys = expr.simplify(expr.as_expr(columns) - rows + 1)
    if isinstance(keys, int) and keys < 1:
        raise ValueError(f"{op.kind} {op.outputs[0]}: {types[0]}: fewer positions than rows")
    return (TensorType((*types[0].shape[:-1], keys), types[0].dtype),)


def positions(_types: Types, op: Op) -> tuple[TensorType, ...]:
    """Return the attribute `shape` [1, rows, width]; `kind` is relative or absolute."""
    shape, kind = shape_of(op), op.attribute("kind")
    if kind not in ("relative", "absolute"):
        raise ValueError(f"{op.kind} {op.outputs[0]}: kind is {kind!r}, not relative or absolute")
    if len(shape) != 3 or shape[0] != 1 or not isinstance(shape[2], int) or shape[2] % 2:
        raise ValueError(
            f"{op.kind} {op.outputs[0]}: shape {shape}: expected [1, rows, an even width]"
        )
    if kind == "absolute":
        dimension(op.attribute("start"))
    return (TensorType(shape, "f32"),)


def relative_buckets(_types: Types, op: Op) -> tuple[TensorType, ...]:
    """Return the attribute `shape` [2 t - 1] of ids below `buckets`."""
    shape, exact = shape_of(op), at_least(4, "buckets", op) // 4
    if len(shape) != 1 or op.integer("furthest") <= exact:
        raise ValueError(
            f"{op.kind} {op.outputs[0]}: shape {shape}, furthest {op.integer('furthest')}: "
            f"expected one axis and more than {exact}"
        )
    return (TensorType(shape, "i64"),)
