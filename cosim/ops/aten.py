"""Importers: what one ATen call becomes, as operands and attributes of an op."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from cosim import expr
from cosim.ir import Attribute, TensorType

Imported = tuple[tuple[str, ...], Mapping[str, Attribute]]


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


def read_operands(*positions: int) -> Callable[[AtenCall], Imported]:
    """Return an importer that takes the tensors at `positions` and no attribute."""
    return lambda call: (call.names(*positions), {})


def read_add(call: AtenCall) -> Imported:
    """Import the sum of two tensors."""
    if call.argument(2, 1) != 1:
        raise UnsupportedCallError(f"{call.target}: alpha {call.argument(2)} is not supported")
    return (call.name(0), call.name(1)), {}


def read_reshape(call: AtenCall) -> Imported:
    """Import any call that keeps the order of elements: its result type says the shape."""
    return (call.name(0),), {"shape": call.result.shape}


def read_swap(call: AtenCall) -> Imported:
    """Import the exchange of two axes."""
    rank = len(call.result.shape)
    order = list(range(rank))
    first, second = call.integer(1, 0) % rank, call.integer(2, 1) % rank
    order[first], order[second] = order[second], order[first]
    return (call.name(0),), {"order": tuple(order)}


def read_permute(call: AtenCall) -> Imported:
    """Import a new order of all axes."""
    axes = call.items(1)
    return (call.name(0),), {"order": tuple(int(str(axis)) % len(axes) for axis in axes)}


def read_slice(call: AtenCall) -> Imported:
    """Import a run along one axis; a negative start counts from the end."""
    shape = call.types[call.name(0)].shape
    axis = call.integer(1, 0) % len(shape)
    if call.argument(4, 1) != 1:
        raise UnsupportedCallError(f"{call.target}: step {call.argument(4)} is not supported")
    start = call.argument(2, 0)
    if not isinstance(start, int | expr.Expr):
        raise UnsupportedCallError(f"{call.target}: start {start} is not an integer expression")
    if isinstance(start, int) and start < 0:
        start = expr.simplify(expr.as_expr(shape[axis]) + start)
    stop = expr.simplify(expr.as_expr(start) + call.result.shape[axis])
    return (call.name(0),), {"axis": axis, "start": start, "stop": stop}


def read_embedding(call: AtenCall) -> Imported:
    """Import a gather of table rows; ids come first in the op."""
    return (call.name(1), call.name(0)), {}


def read_conv1d(call: AtenCall) -> Imported:
    """Import a convolution over one axis with the same padding at both ends."""
    if call.integer(5, 1) != 1 or call.integer(6, 1) != 1:
        raise UnsupportedCallError(
            f"{call.target}: dilation and groups other than 1 are not supported"
        )
    return call.names(0, 1, 2), {"stride": call.integer(3, 1), "padding": call.integer(4, 0)}


def read_gelu(call: AtenCall) -> Imported:
    """Import the exact GELU."""
    if "tanh" in call.arguments:
        raise UnsupportedCallError(f"{call.target}: the tanh approximation is not supported")
    return (call.name(0),), {}


def read_layer_norm(call: AtenCall) -> Imported:
    """Import a normalisation over the last axis with weight and bias."""
    eps = call.argument(4, 1e-5)
    if len(call.items(1)) != 1:
        raise UnsupportedCallError(
            f"{call.target}: expected the last axis alone, found {call.items(1)}"
        )
    if len(call.names(0, 2, 3)) != 3 or not isinstance(eps, float):
        raise UnsupportedCallError(f"{call.target}: expected weight, bias and a fixed eps")
    return call.names(0, 2, 3), {"eps": eps}


def read_attention(call: AtenCall) -> Imported:
    """Import attention in which every query sees every key."""
    found = {
        "a mask": call.argument(3) is not None,
        "dropout": bool(call.argument(4)),
        "is_causal": bool(call.argument(5)),
        "enable_gqa": bool(call.argument(7)),
    }
    refused = [name for name, is_used in found.items() if is_used]
    if refused:
        raise UnsupportedCallError(f"{call.target}: {', '.join(refused)}: not supported")
    depth = call.types[call.name(0)].shape[-1]
    if not isinstance(depth, int):
        raise UnsupportedCallError(f"{call.target}: head size {depth} is not fixed")
    scale = call.argument(6, depth**-0.5)
    if not isinstance(scale, int | float):
        raise UnsupportedCallError(f"{call.target}: scale {scale} is not a fixed number")
    return call.names(0, 1, 2), {"scale": float(scale)}


def read_concat(call: AtenCall) -> Imported:
    """Import tensors one after the other along one axis."""
    axis = call.integer(1, 0) % len(call.result.shape)
    return tuple(call.tensor(part) for part in call.items(0)), {"axis": axis}
