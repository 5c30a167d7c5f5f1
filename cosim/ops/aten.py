"""Importers: what one ATen call, or one call of a mark, becomes: operands and attributes of an op.

Those of products and attention stand in `aten_products`.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import NamedTuple

from cosim import expr
from cosim.expr import Dim
from cosim.ir import Attribute, TensorType


class Imported(NamedTuple):
    """What a call becomes; `kind` is that of another row where arguments decide (`x * 2`)."""

    inputs: tuple[str, ...]
    attributes: Mapping[str, Attribute]
    kind: str = ""


class Cut(NamedTuple):
    """A call that cuts a tensor along `axis` from `start` on; parts lose the axis or keep it."""

    source: str
    axis: int
    start: Dim
    keeps_axis: bool


class UnsupportedCallError(ValueError):
    """An ATen call whose arguments no op of the table can express."""


@dataclass(frozen=True)
class AtenCall:
    """One ATen call: operands by name, sizes as `Dim`, and the types of operands and result.

    Tensors are strings that start with `%` or `@`. An argument that is absent or None takes the
    default that the importer names.
    """

    target: str
    arguments: tuple[object, ...]
    types: Mapping[str, TensorType]
    result: TensorType

    def argument(self, position: int, default: object = None) -> object:
        """Return the argument at `position`, `default` where it is absent or None."""
        given = self.arguments[position] if position < len(self.arguments) else None
        return default if given is None else given

    def name(self, position: int) -> str:
        """Return the operand at `position`; UnsupportedCallError when it is no tensor."""
        return self.tensor(self.argument(position))

    def names(self, *positions: int) -> tuple[str, ...]:
        """Return operands, leaving out those that are absent or None."""
        return tuple(self.name(i) for i in positions if self.argument(i) is not None)

    def tensor(self, value: object) -> str:
        """Return `value`, which must name a tensor."""
        if not isinstance(value, str) or not value.startswith(("%", "@")):
            raise UnsupportedCallError(f"{self.target}: operand {value} is not a tensor")
        return value

    def items(self, position: int) -> list[object]:
        """Return the argument at `position`, which must be a list."""
        value = self.argument(position)
        if not isinstance(value, list | tuple):
            raise UnsupportedCallError(f"{self.target}: argument {position}: expected a list")
        return list(value)

    def integer(self, position: int, default: int) -> int:
        """Return a fixed integer, or the one item of a list; UnsupportedCallError for others."""
        value = self.argument(position, default)
        if isinstance(value, list | tuple):
            if len(value) != 1:
                raise UnsupportedCallError(
                    f"{self.target}: argument {position}: expected one integer, found {value}"
                )
            value = value[0]
        if not isinstance(value, int):
            raise UnsupportedCallError(
                f"{self.target}: argument {position}: {value} is not a fixed integer"
            )
        return value

    def number(self, position: int, default: float | None = None) -> float:
        """Return a plain number; UnsupportedCallError for tensors and lengths."""
        value = self.argument(position, default)
        if not isinstance(value, int | float):
            raise UnsupportedCallError(f"{self.target}: {value} is not a fixed number")
        return float(value)

    def same_integer(self, position: int, default: int) -> int:
        """Return a fixed integer that is equal on all axes."""
        value = self.argument(position, default)
        if isinstance(value, list | tuple) and len(set(map(str, value))) == 1:
            value = value[0]
        if not isinstance(value, int):
            raise UnsupportedCallError(
                f"{self.target}: argument {position}: expected one integer for all axes, "
                f"found {value}"
            )
        return value

    def axis(self, position: int, default: int) -> int:
        """Return an axis of the first operand, counted from its start."""
        return self.integer(position, default) % len(self.types[self.name(0)].shape)

    def dim(self, position: int) -> Dim:
        """Return a length: a number or an expression."""
        value = self.argument(position)
        if not isinstance(value, int | expr.Expr):
            raise UnsupportedCallError(f"{self.target}: {value} is not an integer expression")
        return value


def read_operands(*positions: int) -> Callable[[AtenCall], Imported]:
    """Return an importer that takes the tensors at `positions` and no attribute."""
    return lambda call: Imported(call.names(*positions), {})


def _is_number(value: object) -> bool:
    return isinstance(value, int | float)


def _affine(call: AtenCall, scale: float, shift: float) -> Imported:
    return Imported((call.name(0),), {"scale": scale, "shift": shift}, "affine")


def read_sum(sign: int) -> Callable[[AtenCall], Imported]:
    """Return the importer of a sum (`sign` 1) or difference (-1) of a tensor and another one.

    With a plain number it is an affine op.
    """

    def read(call: AtenCall) -> Imported:
        if _is_number(call.argument(1)):
            return _affine(call, 1.0, sign * call.number(2, 1) * call.number(1))
        if call.argument(2, 1) != 1:
            raise UnsupportedCallError(f"{call.target}: alpha {call.argument(2)} is not supported")
        return Imported((call.name(0), call.name(1)), {})

    return read


def read_reversed_difference(call: AtenCall) -> Imported:
    """Import a number minus a tensor."""
    return _affine(call, -call.number(2, 1), call.number(1))


def read_mul(call: AtenCall) -> Imported:
    """Import the product of a tensor with another one or a plain number."""
    if _is_number(call.argument(1)):
        return _affine(call, call.number(1), 0.0)
    return Imported((call.name(0), call.name(1)), {})


def read_div(call: AtenCall) -> Imported:
    """Import a tensor over a plain number."""
    divisor = call.number(1)
    if divisor == 0:
        raise UnsupportedCallError(f"{call.target}: division by zero")
    return _affine(call, 1 / divisor, 0.0)


def read_negative(call: AtenCall) -> Imported:
    """Import minus a tensor."""
    return _affine(call, -1.0, 0.0)


def read_reshape(call: AtenCall) -> Imported:
    """Import any call that keeps the order of elements: its result type says the shape."""
    return Imported((call.name(0),), {"shape": call.result.shape})


def read_swap(call: AtenCall) -> Imported:
    """Import the exchange of two axes."""
    rank = len(call.result.shape)
    order = list(range(rank))
    first, second = call.integer(1, 0) % rank, call.integer(2, 1) % rank
    order[first], order[second] = order[second], order[first]
    return Imported((call.name(0),), {"order": tuple(order)})


def read_permute(call: AtenCall) -> Imported:
    """Import a new order of all axes."""
    axes = call.items(1)
    return Imported((call.name(0),), {"order": tuple(int(str(axis)) % len(axes) for axis in axes)})


def read_slice(call: AtenCall) -> Imported:
    """Import a run along one axis; a negative start counts from the end."""
    shape = call.types[call.name(0)].shape
    axis, step = call.axis(1, 0), call.integer(4, 1)
    start = call.dim(2) if call.argument(2) is not None else 0
    if isinstance(start, int) and start < 0:
        start = expr.simplify(expr.as_expr(shape[axis]) + start)
    if step == 1:
        stop = expr.simplify(expr.as_expr(start) + call.result.shape[axis])
        return Imported((call.name(0),), {"axis": axis, "start": start, "stop": stop})
    last = expr.as_expr(call.result.shape[axis]) - 1
    values = {"axis": axis, "start": start, "stop": expr.simplify(last * step + start + 1)}
    return Imported((call.name(0),), {**values, "step": step})


def read_first(call: AtenCall) -> Imported:
    """Import the mark `first`."""
    axis = call.axis(1, 0)
    return Imported((call.name(0),), {"axis": axis, "start": 0, "stop": call.result.shape[axis]})


def read_parts(call: AtenCall) -> Cut:
    """Import chunks and splits: runs one after the other along an axis."""
    return Cut(call.name(0), call.axis(2, 0), 0, keeps_axis=True)


def read_rows(call: AtenCall) -> Cut:
    """Import all rows of an axis, each without it."""
    return Cut(call.name(0), call.axis(1, 0), 0, keeps_axis=False)


def read_row(call: AtenCall) -> Cut:
    """Import one row of an axis; a negative one counts from the end."""
    axis, start = call.axis(1, 0), call.dim(2)
    if isinstance(start, int) and start < 0:
        size = call.types[call.name(0)].shape[axis]
        start = expr.simplify(expr.as_expr(size) + start)
    return Cut(call.name(0), axis, start, keeps_axis=False)


CUTS: Mapping[str, Callable[[AtenCall], Cut]] = {
    "chunk.default": read_parts,
    "split.Tensor": read_parts,
    "split_with_sizes.default": read_parts,
    "unbind.int": read_rows,
    "select.int": read_row,
}
"""Calls that become slices, one for each result."""


def read_embedding(call: AtenCall) -> Imported:
    """Import a gather of table rows; ids come first in the op."""
    return Imported((call.name(1), call.name(0)), {})


def read_gelu(call: AtenCall) -> Imported:
    """Import the exact GELU."""
    if "tanh" in call.arguments:
        raise UnsupportedCallError(f"{call.target}: the tanh approximation is not supported")
    return Imported((call.name(0),), {})


def read_layer_norm(call: AtenCall) -> Imported:
    """Import a normalisation over the last axis with weight and bias."""
    eps = call.argument(4, 1e-5)
    if len(call.items(1)) != 1:
        raise UnsupportedCallError(
            f"{call.target}: expected the last axis alone, found {call.items(1)}"
        )
    if len(call.names(0, 2, 3)) != 3 or not isinstance(eps, float):
        raise UnsupportedCallError(f"{call.target}: expected weight, bias and a fixed eps")
    return Imported(call.names(0, 2, 3), {"eps": eps})


def read_concat(call: AtenCall) -> Imported:
    """Import tensors one after the other along one axis."""
    axis = call.integer(1, 0) % len(call.result.shape)
    return Imported(tuple(call.tensor(part) for part in call.items(0)), {"axis": axis})


def read_axis(position: int) -> Callable[[AtenCall], Imported]:
    """Return an importer of one operand and an axis, the last one where it is not given."""
    return lambda call: Imported((call.name(0),), {"axis": call.axis(position, -1)})


def read_batch_norm(call: AtenCall) -> Imported:
    """Import a normalisation with stored statistics."""
    if call.argument(5):
        raise UnsupportedCallError(f"{call.target}: statistics of the batch: use inference mode")
    if len(call.names(0, 1, 2, 3, 4)) != 5:
        raise UnsupportedCallError(f"{call.target}: expected weight, bias, mean and variance")
    return Imported(call.names(0, 1, 2, 3, 4), {"eps": call.number(7, 1e-5)})


def read_group_norm(call: AtenCall) -> Imported:
    """Import a normalisation over groups of channels and all that follows them."""
    if len(call.names(0, 2, 3)) != 3:
        raise UnsupportedCallError(f"{call.target}: expected weight and bias")
    values = {"eps": call.number(4, 1e-5), "groups": call.integer(1, 1)}
    return Imported(call.names(0, 2, 3), values)


def read_pad(call: AtenCall) -> Imported:
    """Import zeros at the ends of one axis."""
    mode, value = "constant", call.argument(2, 0)
    if call.target.startswith("pad"):
        mode, value = str(call.argument(2, "constant")), call.argument(3, 0)
    if mode != "constant" or value != 0:
        raise UnsupportedCallError(f"{call.target}: {mode} {value}: only zeros are supported")
    widths = call.items(1)
    pairs = [(widths[i], widths[i + 1]) for i in range(0, len(widths), 2)]
    padded = [i for i, pair in enumerate(pairs) if pair != (0, 0)]
    if len(padded) > 1:
        raise UnsupportedCallError(f"{call.target}: {widths}: expected one axis that is padded")
    at = padded[0] if padded else 0
    before, after = pairs[at]
    if not isinstance(before, int) or not isinstance(after, int) or min(before, after) < 0:
        raise UnsupportedCallError(f"{call.target}: {widths}: expected fixed numbers of zeros")
    axis = len(call.result.shape) - 1 - at
    return Imported((call.name(0),), {"axis": axis, "before": before, "after": after})


def read_repeat(call: AtenCall) -> Imported:
    """Import every element of one axis several times in a row."""
    if call.argument(2) is None:
        raise UnsupportedCallError(f"{call.target}: expected an axis")
    return Imported((call.name(0),), {"axis": call.axis(2, 0), "times": call.integer(1, 1)})


def read_total(call: AtenCall) -> Imported:
    """Import the sum over the last axis, which goes."""
    rank = len(call.types[call.name(0)].shape)
    axes = [int(str(axis)) % rank for axis in call.items(1)]
    if axes != [rank - 1] or call.argument(2, default=False):
        raise UnsupportedCallError(
            f"{call.target}: axes {axes}, keepdim {call.argument(2)}: expected the last axis "
            "alone, which goes"
        )
    return Imported((call.name(0),), {})


def read_relative_positions(call: AtenCall) -> Imported:
    """Import the mark `relative_positions`."""
    return Imported((), {"kind": "relative", "shape": call.result.shape})


def read_positions(call: AtenCall) -> Imported:
    """Import the mark `positions`."""
    values = {"kind": "absolute", "start": call.dim(1), "shape": call.result.shape}
    return Imported((), values)


def read_buckets(call: AtenCall) -> Imported:
    """Import the mark `relative_buckets`."""
    values = {"buckets": call.integer(1, 0), "furthest": call.integer(2, 0)}
    return Imported((), {**values, "shape": call.result.shape})
