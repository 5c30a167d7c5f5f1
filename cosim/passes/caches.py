"""Turn `concat(past, new)` that is handed from call to call into a cache written in place."""

from collections.abc import Iterable
from dataclasses import replace
from typing import Protocol

from cosim.errors import CosimError
from cosim.ir import Graph, Op
from cosim.passes.clean import remove_dead


class Carried(Protocol):
    """An input that a call hands back longer: `output` is `input` and new rows on `axis`."""

    @property
    def input(self) -> str:
        """Public name of the input."""

    @property
    def output(self) -> str:
        """Public name under which the longer tensor is returned."""

    @property
    def axis(self) -> int:
        """The axis that grows."""

    @property
    def capacity(self) -> int:
        """Rows the cache has room for."""


def append_caches(graph: Graph, states: Iterable[Carried]) -> Graph:
    """Return the graph with each carried pair as a state.

    `cache_append` writes the new rows and yields past + new rows. CosimError lists every pair that
    is not the concatenation of an input and something new.
    """
    carried = {f"%{state.input}": state for state in states}
    returned = {state.output for state in carried.values()}
    outputs = dict(graph.outputs)
    producers = graph.producers()
    wrong: list[str] = []
    changed: dict[str, Op] = {}
    for source, state in carried.items():
        op = producers.get(outputs.get(state.output, ""))
        joins = op is not None and op.kind == "concat" and op.attribute("axis") == state.axis
        if op is None or not joins or op.inputs[:1] != (source,) or len(op.inputs) != 2:
            wrong.append(f"graph {graph.name}: {state.output} is not concat({source}, new)")
            continue
        changed[op.outputs[0]] = Op("cache_append", op.inputs, op.outputs, op.attributes, op.scope)
    if wrong:
        raise CosimError(wrong)
    return remove_dead(
        replace(
            graph,
            inputs=tuple(name for name in graph.inputs if name not in carried),
            states=(*graph.states, *((name, state.capacity) for name, state in carried.items())),
            outputs=tuple(
                (public, value) for public, value in graph.outputs if public not in returned
            ),
            ops=tuple(changed.get(op.outputs[0], op) for op in graph.ops),
        )
    )
