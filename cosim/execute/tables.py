"""Emitters of tables: rows of an embedding, sinusoids of positions, buckets of distances."""

import math

import numpy as np
from numpy.typing import NDArray

from cosim.execute.builder import Builder
from cosim.execute.layout import Array
from cosim.expr import Expr
from cosim.ir import Op
from kernels import panels


def emit_embedding(builder: Builder, op: Op) -> None:
    """Gather rows of a constant by ids."""
    ids = builder.fixed(op.inputs[0]).reshape(-1)
    out = builder.new(op.outputs[0])
    builder.put(op.outputs[0], out)
    rows = out.reshape(-1, out.shape[-1])
    name = op.inputs[1]
    table: list[panels.LinearPanel] = []

    def call(_values: list[Array], _past: int) -> None:
        if not table:  # the product that shares the constant is planned later
            table.append(builder.weights.table(name))
        panels.embedding(table[0], ids, rows)

    builder.calls.append(call)
    builder.choose(op, "embedding", "rows of the encoded table")


def emit_positions(builder: Builder, op: Op) -> None:
    """Put sinusoids that are made once; those from the open length on move from call to call."""
    _, count, width = builder.shape(op.outputs[0])
    builder.choose(op, "table", "made when the length is planned")
    if op.attribute("kind") == "relative":
        furthest = (count - 1) // 2
        rows = builder.weights.positions(furthest, count, width, step=-1)
        builder.put(op.outputs[0], rows[np.newaxis])
        return
    start = op.attribute("start")
    if not isinstance(start, Expr) or builder.symbol not in start.symbols:
        first = builder.size(start) if isinstance(start, Expr) else int(str(start))
        rows = builder.weights.positions(first, count, width)
        builder.put(op.outputs[0], rows[np.newaxis])
        return
    if str(start) != builder.symbol:
        raise ValueError(f"positions {op.outputs[0]}: start is {start}, not {builder.symbol}")
    table = builder.weights.positions(0, builder.capacity + count, width)[np.newaxis]
    slot = builder.put(op.outputs[0], table[:, :count])

    def call(values: list[Array], past: int) -> None:
        values[slot] = table[:, past : past + count]

    builder.open.add(op.outputs[0])
    builder.calls.append(call)


def emit_relative_buckets(builder: Builder, op: Op) -> None:
    """Put the bucket of each distance from a query to a key, made once."""
    (count,) = builder.shape(op.outputs[0])
    buckets, furthest = op.integer("buckets"), op.integer("furthest")
    builder.choose(op, "table", "made when the length is planned")
    builder.put(op.outputs[0], relative_buckets((count + 1) // 2, buckets, furthest))


def relative_buckets(length: int, buckets: int, furthest: int) -> NDArray[np.int64]:
    """Return ids [2 length - 1] of the distances 1 - length to length - 1 (key minus query).

    Raffel et al. 2020, section 2.1, both directions: half of the buckets are for keys behind the
    query; of each half, one half holds a distance each, the other grows with the logarithm up to
    `furthest`.

    Example:
        >>> relative_buckets(3, 8, 6).tolist()
        [2, 1, 0, 5, 6]

    """
    half = buckets // 2
    exact = half // 2
    distance = np.arange(1 - length, length)
    apart = np.abs(distance)
    grown = np.log(np.maximum(apart, 1) / exact) / math.log(furthest / exact)
    far = np.minimum(exact + (grown * (half - exact)).astype(np.int64), half - 1)
    found: NDArray[np.int64] = np.where(apart < exact, apart, far) + (distance > 0) * half
    return found
