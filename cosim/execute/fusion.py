"""Which ops a call can finish while its rows are in cache: norm, activation, residual, codes.

The program keeps its ops, and the hardware model sees them all; only the calls are fewer. The
kernels give the same bits either way.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from cosim.ir import Graph, Op

ACTIVATIONS = ("gelu", "relu", "silu", "tanh")


@dataclass(frozen=True)
class Tail:
    """Ops behind an op that its call carries out; None for those it does not.

    `ops` are all of them in order, with the transposes between them, and `result` the float value
    that is left, of the first op if there are none. `is_turned` says that a convolution's
    `result` has frames before channels. `keeps_floats` says that somebody reads it beside
    `quantize`. `scale` is the factor behind a product of activations, maybe behind their shift.
    """

    result: str
    ops: tuple[Op, ...] = ()
    norm: Op | None = None
    activation: Op | None = None
    residual: Op | None = None
    scale: Op | None = None
    quantize: Op | None = None
    keeps_floats: bool = True
    is_turned: bool = False


def tails(graph: Graph) -> Mapping[str, Tail]:
    """Return the tail of each op that has one, by the name of the op's result."""
    reader = _Reader(graph)
    found = {}
    for at, op in enumerate(graph.ops):
        if op.kind in _RULES:
            tail = _RULES[op.kind](_Chain(op.outputs[0], at, reader), op)
            if tail.ops:
                found[op.outputs[0]] = tail
    return found


def is_depthwise(graph: Graph, op: Op) -> bool:
    """Return whether every channel of a float convolution has one filter of its own."""
    channels = graph.types[op.inputs[0]].shape[1]
    own = op.kind.startswith("conv") and graph.types[op.outputs[0]].shape[1] == channels
    return own and channels != 1 and op.get("groups", 1) == channels


class _Reader:
    """Who reads what in a graph."""

    def __init__(self, graph: Graph) -> None:
        self.graph = graph
        self.consumers = graph.consumers()
        self.returned = {value for _, value in graph.outputs}
        self.made = {name: at for at, op in enumerate(graph.ops) for name in op.outputs}
        self.states = {name for name, _ in graph.states}

    def only(self, value: str) -> Op | None:
        """Return the one op that reads `value`, or None if there are more readers or a caller."""
        readers = self.consumers.get(value, [])
        return readers[0] if len(readers) == 1 and value not in self.returned else None

    def other(self, op: Op, value: str, at: int) -> str | None:
        """Return what `op` adds to `value` if it is like it, there before `at`, and stays there."""
        if op.kind != "add" or op.inputs.count(value) != 1:
            return None
        other = next(name for name in op.inputs if name != value)
        same = self.graph.types.get(other) == self.graph.types[value]
        stays = same and self.made.get(other, -1) < at and not self._moves(other)
        return other if stays else None

    def _moves(self, value: str) -> bool:
        """Return whether the place of `value` in memory may change from call to call."""
        if value not in self.made:
            return value in self.states
        op = self.graph.ops[self.made[value]]
        if op.kind in ("reshape", "transpose", "expand"):
            return self._moves(op.inputs[0])
        if op.kind == "slice":
            return not isinstance(op.attribute("start"), int) or self._moves(op.inputs[0])
        return op.kind in ("cache_append", "positions")


@dataclass
class _Chain:
    """Ops that read one another's only result, from an op on."""

    value: str
    at: int
    reader: _Reader
    ops: list[Op] = field(default_factory=list)
    is_turned: bool = False

    def next(self, *kinds: str, turn: bool | None = None, axis: int | None = None) -> Op | None:
        """Take the next op if it is one of `kinds`, behind transposes where `turn` is not None.

        `turn` is the orientation that the op needs, `axis` the one that it must work on.
        """
        value, turned, passed = self.value, self.is_turned, []
        op = self.reader.only(value)
        while turn is not None and op is not None and _is_turn(op):
            value, turned = op.outputs[0], not turned
            passed.append(op)
            op = self.reader.only(value)
        fits = op is not None and op.kind in kinds and turn in (None, turned)
        if not fits or op is None or (axis is not None and op.get("axis", -1) != axis):
            return None
        if op.inputs[0] != value and op.kind != "add":
            return None
        if op.kind == "add" and self.reader.other(op, value, self.at) is None:
            return None
        self.ops += [*passed, op]
        self.value, self.is_turned = op.outputs[0], turned
        return op

    def codes(self) -> Op | None:
        """Return the quantisation of rows that reads the value, whoever else does."""
        return next(
            (
                op
                for op in self.reader.consumers.get(self.value, [])
                if op.kind == "dynamic_quantize" and op.get("per", "") == "row"
            ),
            None,
        )

    def end(self, *, quantizes: bool = False, **parts: Op | None) -> Tail:
        """Return the tail; what was not taken is left to its own call."""
        codes = self.codes() if quantizes else None
        readers = self.reader.consumers.get(self.value, [])
        keeps = codes is None or self.value in self.reader.returned or len(readers) != 1
        ops = [*self.ops, codes] if codes is not None else self.ops
        return Tail(
            self.value,
            tuple(ops),
            quantize=codes,
            keeps_floats=keeps,
            is_turned=self.is_turned,
            **parts,
        )


def _linear(chain: _Chain, _op: Op) -> Tail:
    width = len(chain.reader.graph.types[chain.value].shape) - 1
    activation = chain.next(*ACTIVATIONS) or chain.next("glu", axis=width)
    return chain.end(activation=activation, residual=chain.next("add"), quantizes=True)


def _conv1d(chain: _Chain, op: Op) -> Tail:
    """Take what is done to frames: a transpose behind the convolution makes rows of them."""
    if is_depthwise(chain.reader.graph, op):
        norm = chain.next("batch_norm", turn=False)
        return chain.end(norm=norm, activation=_activation(chain))
    if op.get("groups", 1) != 1:
        activation = _activation(chain)
        return chain.end(activation=activation, residual=chain.next("add", turn=True))
    norm = chain.next("layer_norm", turn=True) or chain.next("batch_norm", turn=False)
    if norm is not None:
        return chain.end(norm=norm, activation=_activation(chain))
    activation = _activation(chain)
    activation = activation or chain.next("glu", turn=False, axis=1)
    activation = activation or chain.next("glu", turn=True, axis=2)
    residual = chain.next("add", turn=True)
    return chain.end(activation=activation, residual=residual, quantizes=chain.is_turned)


def _activation(chain: _Chain) -> Op | None:
    return chain.next(*ACTIVATIONS, turn=False) or chain.next(*ACTIVATIONS, turn=True)


def _activated(chain: _Chain, _op: Op) -> Tail:
    return chain.end(activation=chain.next(*ACTIVATIONS))


def _affine(chain: _Chain, op: Op) -> Tail:
    is_factor = float(str(op.attribute("shift"))) == 0
    return chain.end(residual=chain.next("add") if is_factor else None)


def _matmul(chain: _Chain, _op: Op) -> Tail:
    """Take the factor of scores, which may follow their shift: it is the same for all."""
    before = (chain.value, list(chain.ops))
    chain.next("rel_shift")
    scale = chain.next("affine")
    if scale is None or float(str(scale.attribute("shift"))) != 0:
        chain.value, chain.ops = before
        scale = None
    return chain.end(scale=scale)


_RULES: Mapping[str, Callable[[_Chain, Op], Tail]] = {
    "linear": _linear,
    "quantized_linear": _linear,
    "conv1d": _conv1d,
    "quantized_conv1d": _conv1d,
    "conv2d": _activated,
    "quantized_conv2d": _activated,
    "layer_norm": _activated,
    "batch_norm": _activated,
    "group_norm": _activated,
    "affine": _affine,
    "matmul": _matmul,
}


def _is_turn(op: Op) -> bool:
    return op.kind == "transpose" and op.attribute("order") == (0, 2, 1)
