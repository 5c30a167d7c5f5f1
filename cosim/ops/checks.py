"""What shape rules read of an op and ask of its operands, see `cosim.ops.shapes`.

Each raises ValueError, TypeError or KeyError with the op's name for what does not fit.
"""

from collections.abc import Sequence

from cosim import expr
from cosim.expr import Dim
from cosim.ir import Attribute, Op, TensorType

Types = Sequence[TensorType]


def weight_position(op: Op) -> int:
    """Return which operand of a product is its weight: codes come with their scale before it."""
    return 2 if op.kind.startswith("quantized_") else 1


def dimension(value: Attribute) -> Dim:
    """Return an attribute that is a length: an integer or an expression of symbols."""
    if isinstance(value, int | expr.Expr):
        return value
    raise TypeError(f"{value!r} is not an integer expression")


def shape_of(op: Op) -> tuple[Dim, ...]:
    """Return the attribute `shape`."""
    shape = op.attribute("shape")
    if not isinstance(shape, tuple):
        raise TypeError(f"{op.kind} {op.outputs[0]}: shape is not a list")
    return shape


def resized(kind: TensorType, axis: int, size: Dim) -> TensorType:
    """Return a type with one axis of another length."""
    shape = (*kind.shape[:axis], expr.simplify(size), *kind.shape[axis + 1 :])
    return TensorType(shape, kind.dtype)


def at_least(least: int, name: str, op: Op, *, default: int | None = None) -> int:
    """Return an integer attribute, `default` where the op has none of that name."""
    value = op.integer(name) if default is None else op.get(name, default)
    if not isinstance(value, int) or value < least:
        raise ValueError(
            f"{op.kind} {op.outputs[0]}: {name} is {value}, expected an integer >= {least}"
        )
    return value


def axis_of(kind: TensorType, op: Op) -> int:
    """Return the attribute `axis`, one that the operand has."""
    axis = op.integer("axis")
    if not 0 <= axis < len(kind.shape):
        raise ValueError(f"{op.kind} {op.outputs[0]}: {kind} has no axis {axis}")
    return axis


def expect_rank(kind: TensorType, rank: int, op: Op, *, exactly: bool = False) -> None:
    """Refuse an operand of fewer axes, or of others than so many."""
    found = len(kind.shape)
    if found < rank or (exactly and found != rank):
        least = "" if exactly else "at least "
        raise ValueError(f"{op.kind} {op.outputs[0]}: {kind}: expected {least}{rank} axes")


def expect_shape(kind: TensorType, shape: tuple[Dim, ...], op: Op) -> None:
    """Refuse an operand of another shape."""
    if kind.shape != shape:
        wanted = ", ".join(map(str, shape))
        raise ValueError(f"{op.kind} {op.outputs[0]}: {kind}: expected shape <{wanted}>")


def expect_contraction(left: Dim, right: Dim, op: Op) -> None:
    """Refuse two axes of different length where one product sums over both."""
    if left != right:
        raise ValueError(f"{op.kind} {op.outputs[0]}: contracts {left} with {right}")


def expect_scales(codes: TensorType, scales: TensorType, op: Op) -> None:
    """Refuse scales that are neither one for each row of codes nor one for all."""
    if scales.shape not in (codes.shape[:-1], (1,)):
        raise ValueError(f"{op.kind} {op.outputs[0]}: scales {scales} do not belong to {codes}")


def expect_sides(types: Types, op: Op, filters: tuple[Dim, ...]) -> None:
    """Check the scales of integer activations, and the bias."""
    at = weight_position(op)
    if at == 2 and op.kind.endswith(("conv1d", "conv2d")):
        expect_shape(types[1], (1,), op)
    elif at == 2:
        expect_scales(types[0], types[1], op)
    for bias in types[at + 1 :]:
        expect_shape(bias, filters, op)
