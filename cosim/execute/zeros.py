"""Shares of activations that are not zero, counted while a program runs on real inputs."""

from collections import defaultdict
from dataclasses import dataclass, field

import numpy as np

from cosim.execute.attention import heads_of, scales_of
from cosim.execute.builder import Array, Builder
from cosim.ir import PACKED, Op, is_constant
from kernels import reference

PRODUCTS = ("linear", "conv1d", "conv2d", "matmul")
QUERY_STRIDE = 16
"""Probabilities are counted for every 16th query: making them once more takes time."""


@dataclass
class ZeroCounts:
    """How many elements of the first operand of each product were seen, and were not zero.

    Keys are those of `hwmodels.workload.Gemm.a`'s reader: `graph/value` of the op's result, with
    `.scores` and `.context` behind it for the two products of attention.
    """

    seen: defaultdict[str, int] = field(default_factory=lambda: defaultdict(int))
    nonzero: defaultdict[str, int] = field(default_factory=lambda: defaultdict(int))

    def add(self, key: str, operand: Array) -> None:
        """Count the elements of one operand."""
        self.seen[key] += operand.size
        self.nonzero[key] += int(np.count_nonzero(operand))

    def densities(self) -> dict[str, float]:
        """Return the share of elements that were not zero, by product."""
        return {key: self.nonzero[key] / seen for key, seen in self.seen.items() if seen}


def watch(builder: Builder, op: Op, counts: ZeroCounts) -> None:
    """Count the operands of a product each time, before it reads them; other ops are left alone.

    Signs have no zeros, probabilities in float none either, and those over block patterns are not
    made again: none of them is counted.
    """
    key = f"{builder.graph.name}/{op.outputs[0][1:]}"
    name = op.inputs[0] if op.inputs else ""
    if op.kind.removeprefix("quantized_") in PRODUCTS and not is_constant(name):
        if builder.graph.types[name].dtype not in PACKED:
            slot = builder.slots[name]
            builder.calls.append(lambda values, _past: counts.add(key, values[slot]))
    elif op.kind in ("attention", "quantized_attention"):
        q = heads_of(builder, name)
        builder.calls.append(lambda values, _past: counts.add(f"{key}.scores", q(values)))
        if op.kind == "quantized_attention" and not op.get("pattern", ""):
            _watch_probabilities(builder, op, counts, f"{key}.context")


def _watch_probabilities(builder: Builder, op: Op, counts: ZeroCounts, key: str) -> None:
    scale = float(str(op.attribute("scale")))
    q, k = (heads_of(builder, name) for name in op.inputs[:4:2])
    q_scale, k_scale = (scales_of(builder, name) for name in op.inputs[1:4:2])

    def call(values: list[Array], _past: int) -> None:
        queries, keys = q(values), k(values)
        heads = len(queries)
        q_rows = np.broadcast_to(q_scale(values), (heads, queries.shape[1]))
        k_rows = np.broadcast_to(k_scale(values), (heads, keys.shape[1]))
        part = slice(None, None, QUERY_STRIDE)
        counts.add(
            key,
            reference.probability_codes(queries[:, part], q_rows[:, part], keys, k_rows, scale),
        )

    builder.calls.append(call)
