"""A graph planned for fixed lengths, and the reasons for its kernels.

A graph is planned once for fixed lengths: buffers are allocated, constants are prepared for their
kernels, and every op becomes one call on arrays that are already there. A length that a cache
grows by stays open until the call. Python runs once per op, never per element.
"""

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from cosim.execute.builder import Array, Builder, Call, KernelChoice, Weights
from cosim.execute.emitters import EMITTERS
from cosim.execute.zeros import ZeroCounts, watch
from cosim.ir import Graph

EXECUTABLE = frozenset(EMITTERS)
_DENSITY = re.compile(r"density (\d\.\d+)")


@dataclass
class Plan:
    """One graph ready to run: `values` are live arrays, `calls` the work in order.

    `run` binds the open length (0 where there is none). `array` reads a value by public name.
    """

    graph: Graph
    slots: dict[str, int]
    values: list[Array]
    calls: list[Call]
    kernels: tuple[KernelChoice, ...]
    symbol: str = ""  # of the open length

    def run(self, past: int = 0) -> None:
        """Execute the graph once with `past` rows in every cache."""
        values = self.values
        for call in self.calls:
            call(values, past)

    def input(self, public: str) -> Array:
        """Return the buffer of an input, to be filled before `run`."""
        return self.values[self.slots[f"%{public}"]]

    def output(self, public: str) -> Array:
        """Return a result; it is overwritten by the next `run`."""
        return self.values[self.slots[dict(self.graph.outputs)[public]]]

    def rows(self, state: str, past: int) -> Array:
        """Return a view of the first `past` rows of a cache, by value name."""
        cache = self.values[self.slots[state]]
        axis = next(
            i
            for i, dim in enumerate(self.graph.types[state].shape)
            if not isinstance(dim, int) and str(dim) == self.symbol
        )
        return cache[(*(slice(None),) * axis, slice(0, past))]


def plan(
    weights: Weights,
    graph_name: str,
    *,
    bindings: Mapping[str, int],
    inputs: Mapping[str, Array] | None = None,
    counts: ZeroCounts | None = None,
) -> Plan:
    """Return a graph planned for `bindings`; the symbol a cache grows by is left out of them.

    `inputs` gives arrays that stand for inputs without a copy (another plan's outputs). `counts`
    takes how many activations are zero.
    """
    graph = weights.program.graph(graph_name)
    builder = Builder(weights, graph, dict(bindings), dict(inputs or {}))
    for op in graph.ops:
        if op.outputs[0] not in builder.done:
            if counts is not None:
                watch(builder, op, counts)
            EMITTERS[op.kind](builder, op)
        builder.release()
    return Plan(
        graph, builder.slots, builder.values, builder.calls, tuple(builder.kernels), builder.symbol
    )


def lengths_of(graph: Graph, inputs: Mapping[str, Array]) -> dict[str, int]:
    """Return the length symbols that the shapes of `inputs` (by public name) settle."""
    found: dict[str, int] = {}
    for name, value in inputs.items():
        for dim, size in zip(graph.types[f"%{name}"].shape, value.shape, strict=True):
            if str(dim) in graph.symbols:
                found[str(dim)] = size
    return found


def fallbacks(kernels: Iterable[KernelChoice]) -> list[str]:
    """Return a warning for each reason why products do not use the zeros or codes they have.

    Reasons that differ in the density of the weights alone are one.
    """
    found: dict[tuple[str, str], list[KernelChoice]] = {}
    for choice in kernels:
        if choice.is_fallback:
            kind = _DENSITY.sub("density", choice.reason)
            found.setdefault((choice.kernel, kind), []).append(choice)
    return [
        f"{len(choices)} {'product' if len(choices) == 1 else 'products'} on {kernel} "
        f"({choices[0].graph}/{choices[0].scope or choices[0].op}, ...): {_reason(choices)}"
        for (kernel, _), choices in found.items()
    ]


def _reason(choices: Sequence[KernelChoice]) -> str:
    """Return the common reason, with the lowest and highest density of it."""
    found = sorted(match[1] for choice in choices for match in _DENSITY.finditer(choice.reason))
    if not found or found[0] == found[-1]:
        return choices[0].reason
    return _DENSITY.sub(f"density {found[0]} to {found[-1]}", choices[0].reason)
