"""Turn `concat(past, new)` that is handed from call to call into a cache written in place."""

from collections.abc import Mapping
from dataclasses import replace

from cosim.errors import CosimError
from cosim.ir import Graph, Op
from cosim.passes.clean import remove_dead


def append_caches(graph: Graph, *, carried: Mapping[str, str], capacity: int) -> Graph:
    """Return the graph with each carried pair (input, output) as a state.

    `carried` maps the name of an input to the public name under which its longer successor is
    returned. `cache_append` writes the new rows and yields past + new rows. CosimError lists every
    pair that is not the concatenation of an input and something new.
    """
    outputs = dict(graph.outputs)
    producers = graph.producers()
    wrong: list[str] = []
    changed: dict[str, Op] = {}
    for source, public in carried.items():
        op = producers.get(outputs.get(public, ""))
        if op is None or op.kind != "concat" or op.inputs[:1] != (source,) or len(op.inputs) != 2:
            wrong.append(f"graph {graph.name}: {public} is not concat({source}, new)")
            continue
        changed[op.outputs[0]] = Op(
            "cache_append", op.inputs, op.outputs, op.attributes, op.scope
        )
    if wrong:
        raise CosimError(wrong)
    return remove_dead(
        replace(
            graph,
            inputs=tuple(name for name in graph.inputs if name not in carried),
            states=(*graph.states, *((name, capacity) for name in carried)),
            outputs=tuple(
                (public, value) for public, value in graph.outputs if public not in carried.values()
            ),
            ops=tuple(changed.get(op.outputs[0], op) for op in graph.ops),
        )
    )
