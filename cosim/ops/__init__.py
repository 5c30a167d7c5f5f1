"""The table of operations: one row per op, with its types, its ATen sources and its work.

A row holds the shape rule that the verifier applies, the ATen targets with their importer, and the
rule that says what the op costs as work items. MAC and byte counts are those of the work items:
there is no second formula.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from cosim.ir import Dtype, Op, TensorType
from cosim.ops import aten, shapes, work
from cosim.ops.aten import AtenCall, Imported, UnsupportedCallError
from cosim.ops.shapes import Types
from cosim.ops.work import WorkContext
from hwmodels.workload import WorkItem


@dataclass(frozen=True)
class OpRow:
    """One operation of the IR.

    `least` and `most` bound the number of operands. `dtypes` are those of the operands in order,
    the last one repeated; None is the dtype of the first operand, several are a choice. `aten`
    pairs the ATen targets that the op stands for with the importer of their arguments. `is_view`
    marks ops that move no data.
    """

    kind: str
    least: int
    most: int
    infer: Callable[[Types, Op], tuple[TensorType, ...]]
    work: Callable[[WorkContext, Op], list[WorkItem]]
    aten: Mapping[str, Callable[[AtenCall], Imported]]
    dtypes: tuple[Dtype | tuple[Dtype, ...] | None, ...] = ("f32",)
    is_view: bool = False

    def operand_dtypes(self, types: Types) -> tuple[Dtype, ...]:
        """Return the dtype that each of the operands must have; its own where it has a choice."""
        repeated = (*self.dtypes, *self.dtypes[-1:] * len(types))[: len(types)]
        return tuple(
            _wanted(dtype, found, types[0]) for dtype, found in zip(repeated, types, strict=True)
        )


def _wanted(dtype: Dtype | tuple[Dtype, ...] | None, found: TensorType, first: TensorType) -> Dtype:
    if dtype is None:
        return first.dtype
    if isinstance(dtype, tuple):
        return found.dtype if found.dtype in dtype else dtype[0]
    return dtype


_SAME_DTYPE = (None,)
_RESHAPES = (
    "view.default",
    "reshape.default",
    "unsqueeze.default",
    "squeeze.dim",
    "flatten.using_ints",
)

OPS: Mapping[str, OpRow] = {
    row.kind: row
    for row in (
        OpRow(
            "reshape",
            1,
            1,
            shapes.reshape,
            work.nothing,
            dict.fromkeys(_RESHAPES, aten.read_reshape),
            _SAME_DTYPE,
            is_view=True,
        ),
        OpRow(
            "transpose",
            1,
            1,
            shapes.transpose,
            work.nothing,
            {"transpose.int": aten.read_swap, "permute.default": aten.read_permute},
            _SAME_DTYPE,
            is_view=True,
        ),
        OpRow(
            "slice",
            1,
            1,
            shapes.take,
            work.take,
            {"slice.Tensor": aten.read_slice},
            _SAME_DTYPE,
            is_view=True,
        ),
        OpRow(
            "embedding",
            2,
            2,
            shapes.embedding,
            work.embedding,
            {"embedding.default": aten.read_embedding},
            ("i64", "f32"),
        ),
        OpRow(
            "linear",
            2,
            3,
            shapes.linear,
            work.linear,
            {"linear.default": aten.read_operands(0, 1, 2)},
        ),
        OpRow("conv1d", 2, 3, shapes.conv1d, work.conv1d, {"conv1d.default": aten.read_conv1d}),
        OpRow("gelu", 1, 1, shapes.same, work.pointwise, {"gelu.default": aten.read_gelu}),
        OpRow(
            "layer_norm",
            3,
            3,
            shapes.layer_norm,
            work.pointwise,
            {"layer_norm.default": aten.read_layer_norm},
        ),
        OpRow("add", 2, 2, shapes.broadcast, work.pointwise, {"add.Tensor": aten.read_add}),
        OpRow(
            "attention",
            3,
            3,
            shapes.attention,
            work.attention,
            {"scaled_dot_product_attention.default": aten.read_attention},
        ),
        OpRow(
            "concat",
            2,
            8,
            shapes.concat,
            work.concat,
            {"cat.default": aten.read_concat},
            _SAME_DTYPE,
        ),
        OpRow("cache_append", 2, 2, shapes.concat, work.append, {}, _SAME_DTYPE),
        OpRow("dynamic_quantize", 1, 1, shapes.dynamic_quantize, work.quantize, {}),
        OpRow("dynamic_binarize", 1, 1, shapes.dynamic_binarize, work.binarize, {}),
        OpRow("quantized_linear", 3, 4, shapes.linear, work.linear, {}, (("i8", "i1"), "f32")),
        OpRow("quantized_conv1d", 3, 4, shapes.conv1d, work.conv1d, {}, ("i8", "f32")),
        OpRow(
            "quantized_attention",
            6,
            6,
            shapes.attention,
            work.attention,
            {},
            ("i8", "f32", "i8", "f32", "i8", "f32"),
        ),
    )
}
ATEN: Mapping[str, tuple[OpRow, Callable[[AtenCall], Imported]]] = {
    target: (row, read) for row in OPS.values() for target, read in row.aten.items()
}


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
    "OPS",
    "AtenCall",
    "OpRow",
    "UnsupportedCallError",
    "WorkContext",
    "infer",
    "row",
]
