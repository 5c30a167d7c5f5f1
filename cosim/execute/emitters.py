"""One emitter per op: from an op and the arrays that are there to a call on them."""

from collections.abc import Callable, Mapping

from cosim.execute import attention, bits, grouped, pointwise, products, rounding, tables, views
from cosim.execute.builder import Builder
from cosim.ir import Op

EMITTERS: Mapping[str, Callable[[Builder, Op], None]] = {
    "reshape": views.emit_reshape,
    "transpose": views.emit_transpose,
    "slice": views.emit_slice,
    "expand": views.emit_expand,
    "rel_shift": views.emit_rel_shift,
    "concat": views.emit_concat,
    "pad": views.emit_pad,
    "repeat": views.emit_repeat,
    "cache_append": views.emit_append,
    "embedding": tables.emit_embedding,
    "positions": tables.emit_positions,
    "relative_buckets": tables.emit_relative_buckets,
    "linear": products.emit_linear,
    "quantized_linear": products.emit_linear,
    "conv1d": grouped.emit_convolution,
    "quantized_conv1d": grouped.emit_convolution,
    "conv2d": grouped.emit_convolution,
    "quantized_conv2d": grouped.emit_convolution,
    "matmul": attention.emit_matmul,
    "attention": attention.emit_attention,
    "quantized_attention": attention.emit_attention,
    "gelu": pointwise.emit_function,
    "relu": pointwise.emit_function,
    "silu": pointwise.emit_function,
    "tanh": pointwise.emit_function,
    "sigmoid": pointwise.emit_function,
    "glu": pointwise.emit_glu,
    "add": pointwise.emit_sum_of_two,
    "sub": pointwise.emit_sum_of_two,
    "mul": pointwise.emit_sum_of_two,
    "affine": pointwise.emit_affine,
    "sum": pointwise.emit_total,
    "layer_norm": pointwise.emit_layer_norm,
    "batch_norm": pointwise.emit_batch_norm,
    "group_norm": pointwise.emit_group_norm,
    "quantize": rounding.emit_quantize,
    "cast": rounding.emit_cast,
    "dynamic_quantize": pointwise.emit_quantize,
    "dynamic_binarize": bits.emit_dynamic_binarize,
    "binarize": bits.emit_binarize,
    "binary_attention": bits.emit_attention,
}
