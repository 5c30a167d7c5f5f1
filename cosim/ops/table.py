"""The table: every operation with its types, its sources and its work.

Rows that share rules stand together: views, copies, functions of elements, norms, products.
"""

from collections.abc import Callable, Mapping

from cosim.ir import Dtype
from cosim.ops import aten, aten_products, shapes, work, work_attention, work_products
from cosim.ops.aten import AtenCall, Imported
from cosim.ops.rows import OpRow

_SAME = (None,)
_FLOATS: tuple[Dtype, ...] = ("f32", "f16", "bf16")
_ONE = aten.read_operands(0)
_RESHAPES = (
    "view.default",
    "reshape.default",
    "unsqueeze.default",
    "squeeze.dim",
    "flatten.using_ints",
    "unflatten.int",
)


def _pointwise(kind: str) -> OpRow:
    """Return the row of a function of single elements, which ATen calls as we do."""
    return OpRow(kind, 1, 1, shapes.same, work.pointwise, {f"{kind}.default": _ONE})


def _pair(kind: str, read: Callable[[AtenCall], Imported], *targets: str) -> OpRow:
    """Return the row of a function of two operands, one of which may be repeated."""
    return OpRow(kind, 2, 2, shapes.broadcast, work.pointwise, dict.fromkeys(targets, read))


VIEWS = (
    OpRow(
        "reshape",
        1,
        1,
        shapes.reshape,
        work.nothing,
        dict.fromkeys(_RESHAPES, aten.read_reshape),
        _SAME,
        is_view=True,
    ),
    OpRow(
        "transpose",
        1,
        1,
        shapes.transpose,
        work.nothing,
        {"transpose.int": aten.read_swap, "permute.default": aten.read_permute},
        _SAME,
        is_view=True,
    ),
    OpRow(
        "slice",
        1,
        1,
        shapes.take,
        work.take,
        {"slice.Tensor": aten.read_slice, "cosim.first.default": aten.read_first},
        _SAME,
        is_view=True,
    ),
    OpRow(
        "expand",
        1,
        1,
        shapes.expand,
        work.nothing,
        {"expand.default": aten.read_reshape},
        _SAME,
        is_view=True,
    ),
    OpRow(
        "rel_shift",
        1,
        1,
        shapes.rel_shift,
        work.nothing,
        {"cosim.rel_shift.default": _ONE},
        is_view=True,
    ),
)
COPIES = (
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
        "positions",
        0,
        0,
        shapes.positions,
        work.table,
        {
            "cosim.positions.default": aten.read_positions,
            "cosim.relative_positions.default": aten.read_relative_positions,
        },
    ),
    OpRow(
        "relative_buckets",
        0,
        0,
        shapes.relative_buckets,
        work.table,
        {"cosim.relative_buckets.default": aten.read_buckets},
    ),
    OpRow("concat", 2, 8, shapes.concat, work.concat, {"cat.default": aten.read_concat}, _SAME),
    OpRow("cache_append", 2, 2, shapes.concat, work.append, {}, _SAME),
    OpRow(
        "pad",
        1,
        1,
        shapes.pad,
        work.copy,
        {"pad.default": aten.read_pad, "constant_pad_nd.default": aten.read_pad},
        _SAME,
    ),
    OpRow(
        "repeat",
        1,
        1,
        shapes.repeat,
        work.copy,
        {"repeat_interleave.self_int": aten.read_repeat},
        _SAME,
    ),
)
FUNCTIONS = (
    OpRow("gelu", 1, 1, shapes.same, work.pointwise, {"gelu.default": aten.read_gelu}),
    *map(_pointwise, ("relu", "silu", "tanh", "sigmoid")),
    OpRow("glu", 1, 1, shapes.glu, work.pointwise, {"glu.default": aten.read_axis(1)}),
    OpRow(
        "affine",
        1,
        1,
        shapes.same,
        work.affine,
        {
            "div.Tensor": aten.read_div,
            "div.Scalar": aten.read_div,
            "rsub.Scalar": aten.read_reversed_difference,
            "neg.default": aten.read_negative,
        },
    ),
    _pair("add", aten.read_sum(1), "add.Tensor", "add.Scalar"),
    _pair("sub", aten.read_sum(-1), "sub.Tensor", "sub.Scalar"),
    _pair("mul", aten.read_mul, "mul.Tensor", "mul.Scalar"),
    OpRow("sum", 1, 1, shapes.total, work.total, {"sum.dim_IntList": aten.read_total}),
)
NORMS = (
    OpRow(
        "layer_norm",
        3,
        3,
        shapes.layer_norm,
        work.pointwise,
        {"layer_norm.default": aten.read_layer_norm},
    ),
    OpRow(
        "batch_norm",
        5,
        5,
        shapes.channel_norm,
        work.pointwise,
        {"batch_norm.default": aten.read_batch_norm},
    ),
    OpRow(
        "group_norm",
        3,
        3,
        shapes.channel_norm,
        work.group_norm,
        {"group_norm.default": aten.read_group_norm},
    ),
)
PRODUCTS = (
    OpRow(
        "linear",
        2,
        3,
        shapes.linear,
        work_products.linear,
        {"linear.default": aten.read_operands(0, 1, 2)},
        (_FLOATS, "f32"),
    ),
    OpRow(
        "conv1d",
        2,
        3,
        shapes.convolution,
        work_products.convolution,
        {"conv1d.default": aten_products.read_convolution},
        (_FLOATS, "f32"),
    ),
    OpRow(
        "conv2d",
        2,
        3,
        shapes.convolution,
        work_products.convolution,
        {"conv2d.default": aten_products.read_convolution},
        (_FLOATS, "f32"),
    ),
    OpRow(
        "matmul",
        2,
        2,
        shapes.matmul,
        work_products.matmul,
        dict.fromkeys(("matmul.default", "bmm.default"), aten.read_operands(0, 1)),
    ),
    OpRow(
        "attention",
        3,
        4,
        shapes.attention,
        work_attention.attention,
        {
            "scaled_dot_product_attention.default": aten_products.read_attention,
            "cosim.block_attention.default": aten_products.read_block_attention,
        },
    ),
)
CODES = (
    OpRow("quantize", 2, 2, shapes.quantize, work.quantize, {}),
    OpRow("cast", 1, 1, shapes.cast, work.pointwise, {}),
    OpRow("dynamic_quantize", 1, 1, shapes.dynamic_quantize, work.quantize, {}),
    OpRow("dynamic_binarize", 1, 1, shapes.dynamic_binarize, work.binarize, {}),
    OpRow("binarize", 2, 3, shapes.binarize, work.binarize, {}),
    OpRow(
        "quantized_linear",
        3,
        4,
        shapes.linear,
        work_products.linear,
        {},
        (("i8", "i1", "u1"), "f32"),
    ),
    *(
        OpRow(kind, 3, 4, shapes.convolution, work_products.convolution, {}, ("i8", "f32"))
        for kind in ("quantized_conv1d", "quantized_conv2d")
    ),
    OpRow(
        "quantized_attention",
        6,
        6,
        shapes.attention,
        work_attention.attention,
        {},
        ("i8", "f32", "i8", "f32", "i8", "f32"),
    ),
    OpRow(
        "binary_attention",
        6,
        7,
        shapes.attention,
        work_attention.attention,
        {},
        ("i1", "f32", "i1", "f32", "i1", "f32"),
    ),
)
OPS: Mapping[str, OpRow] = {
    row.kind: row for row in (*VIEWS, *COPIES, *FUNCTIONS, *NORMS, *PRODUCTS, *CODES)
}
ATEN: Mapping[str, tuple[OpRow, Callable[[AtenCall], Imported]]] = {
    target: (row, read) for row in OPS.values() for target, read in row.aten.items()
}
