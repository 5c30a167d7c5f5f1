"""Which ops a product can finish while its rows are in cache: activation, residual, codes.

The program keeps its ops, and the hardware model sees them all; only the calls are fewer. The
kernels give the same bits either way.
"""

from collections.abc import Mapping
from dataclasses import dataclass

from cosim.ir import Graph, Op

PRODUCTS = ("linear", "quantized_linear", "conv1d", "quantized_conv1d")
ACTIVATIONS = ("gelu", "relu", "silu", "tanh")


@dataclass(frozen=True)
class Tail:
    """Ops behind a product that its kernel call carries out; None for those it does not.

    `keeps_floats` says that somebody reads the float result beside `quantize`.
    """

    activation: Op | None = None
    residual: Op | None = None
    quantize: Op | None = None
    keeps_floats: bool = True

    @property
    def ops(self) -> tuple[Op, ...]:
        """The ops of the tail in order."""
        return tuple(op for op in (self.activation, self.residual, self.quantize) if op is not None)


def tails(graph: Graph) -> Mapping[str, Tail]:
    """Return the tail of each product that has one, by the name of the product's result."""
    consumers = graph.consumers()
    returned = {value for _, value in graph.outputs}
    made = {name: at for at, op in enumerate(graph.ops) for name in op.outputs}
    found = {}
    for at, op in enumerate(graph.ops):
        if op.kind in PRODUCTS:
            tail = _tail(op, at, graph, consumers, returned, made)
            if tail.ops:
                found[op.outputs[0]] = tail
    return found


def _tail(
    product: Op,
    at: int,
    graph: Graph,
    consumers: Mapping[str, list[Op]],
    returned: set[str],
    made: Mapping[str, int],
) -> Tail:
    value = product.outputs[0]
    activation = residual = None
    following = _only(value, consumers, returned)
    if following is not None and following.kind in ACTIVATIONS:
        activation, value = following, following.outputs[0]
    if product.kind.endswith("conv1d"):  # its result is held time-major, the rest row by row
        return Tail(activation)
    following = _only(value, consumers, returned)
    if following is not None and following.kind == "add" and following.inputs.count(value) == 1:
        other = next(name for name in following.inputs if name != value)
        same = graph.types.get(other) == graph.types[value]
        if same and made.get(other, -1) < at and not _moves(other, graph, made):
            residual, value = following, following.outputs[0]
    quantize = next(
        (
            op
            for op in consumers.get(value, [])
            if op.kind == "dynamic_quantize" and op.get("per", "") == "row"
        ),
        None,
    )
    keeps = value in returned or len(consumers.get(value, [])) != 1
    return Tail(activation, residual, quantize, keeps or quantize is None)


def _moves(value: str, graph: Graph, made: Mapping[str, int]) -> bool:
    """Return whether the place of `value` in memory may change from call to call."""
    if value not in made:
        return any(value == name for name, _ in graph.states)
    op = graph.ops[made[value]]
    if op.kind in ("reshape", "transpose"):
        return _moves(op.inputs[0], graph, made)
    return op.kind in ("slice", "cache_append")


def _only(value: str, consumers: Mapping[str, list[Op]], returned: set[str]) -> Op | None:
    """Return the one op that reads `value`, or None if there are more readers or a caller."""
    readers = consumers.get(value, [])
    return readers[0] if len(readers) == 1 and value not in returned else None
