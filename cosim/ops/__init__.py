"""The table of operations: one row per op, with its types, its ATen sources and its work.

A row holds the shape rule that the verifier applies, the ATen targets with their importer, and the
rule that says what the op costs as work items. MAC and byte counts are those of the work items:
there is no second formula.
"""

from cosim.ir import Op, TensorType
from cosim.ops.aten import CUTS, AtenCall, UnsupportedCallError
from cosim.ops.checks import Types
from cosim.ops.rows import OpRow
from cosim.ops.table import ATEN, OPS, PRODUCTS
from cosim.ops.work import WorkContext


def row(op: Op) -> OpRow:
    """Return the table row of an op; KeyError lists the known kinds."""
    if op.kind not in OPS:
        raise KeyError(f"{op.outputs[0]}: unknown op {op.kind!r}; known: {', '.join(OPS)}")
    return OPS[op.kind]


def infer(op: Op, types: Types) -> tuple[TensorType, ...]:
    """Return the result types of an op from its operand types."""
    return row(op).infer(types, op)


__all__ = [
    "ATEN",
    "CUTS",
    "OPS",
    "PRODUCTS",
    "AtenCall",
    "OpRow",
    "UnsupportedCallError",
    "WorkContext",
    "infer",
    "row",
]
