"""Operands of every op of the table, drawn, with the shapes that torch gives for them."""

from collections.abc import Callable

import torch
import torch.nn.functional as F  # noqa: N812
from hypothesis import strategies as st

from cosim.models import marks

SIZES = st.integers(1, 7)
Case = tuple[list[tuple[int, ...]], dict[str, object], list[tuple[int, ...]]]


def shape_of(function: Callable[..., torch.Tensor], *shapes: tuple[int, ...]) -> tuple[int, ...]:
    """Return the shape that torch gives, without computing."""
    return tuple(function(*(torch.empty(shape, device="meta") for shape in shapes)).shape)


# Each case draws operand shapes, attributes, and the result shapes that torch gives.


def reshape(draw) -> Case:
    a, b, c, d = (draw(SIZES) for _ in range(4))
    source = (a * b, c * d)
    shape = draw(st.permutations([a, b, c, d]))
    return [source], {"shape": tuple(shape)}, [shape_of(lambda x: x.reshape(shape), source)]


def transpose(draw) -> Case:
    source = tuple(draw(st.lists(SIZES, min_size=1, max_size=4)))
    order = tuple(draw(st.permutations(range(len(source)))))
    return [source], {"order": order}, [shape_of(lambda x: x.permute(order), source)]


def take(draw) -> Case:
    source = tuple(draw(st.lists(SIZES, min_size=1, max_size=4)))
    axis = draw(st.integers(0, len(source) - 1))
    start, stop = sorted(draw(st.tuples(*[st.integers(0, source[axis])] * 2)))
    step = draw(st.integers(1, 3))
    result = shape_of(lambda x: torch.ops.aten.slice(x, axis, start, stop, step), source)
    return [source], {"axis": axis, "start": start, "stop": stop, "step": step}, [result]


def embedding(draw) -> Case:
    ids = tuple(draw(st.lists(SIZES, min_size=1, max_size=3)))
    table = (draw(SIZES), draw(SIZES))
    return [ids, table], {}, [shape_of(lambda i, w: F.embedding(i.long(), w), ids, table)]


def linear(draw) -> Case:
    rows = draw(st.lists(SIZES, max_size=3))
    k, n = draw(SIZES), draw(SIZES)
    shapes = [(*rows, k), (n, k), (n,)][: draw(st.integers(2, 3))]
    return shapes, {}, [shape_of(F.linear, *shapes)]


def convolution(draw, axes: int, groups: int) -> Case:
    stride, padding = draw(st.integers(1, 3)), draw(st.integers(0, 3))
    taps = [draw(SIZES) for _ in range(axes)]
    sizes = [draw(st.integers(max(tap - 2 * padding, 1), 20)) for tap in taps]
    depth, filters = draw(SIZES), draw(SIZES) * groups
    x = (draw(SIZES), depth * groups, *sizes)
    shapes = [x, (filters, depth, *taps), (filters,)][: draw(st.integers(2, 3))]
    function = F.conv1d if axes == 1 else F.conv2d
    result = shape_of(
        lambda *t: function(*t, stride=stride, padding=padding, groups=groups), *shapes
    )
    values = {"stride": stride, "padding": padding, "groups": groups}
    return shapes, values if groups > 1 else {**values, "groups": 1}, [result]


def conv1d(draw) -> Case:
    return convolution(draw, 1, draw(st.integers(1, 3)))


def conv2d(draw) -> Case:
    return convolution(draw, 2, draw(st.integers(1, 3)))


def element(draw) -> Case:
    source = tuple(draw(st.lists(SIZES, max_size=4)))
    return [source], {}, [shape_of(F.gelu, source)]


def affine(draw) -> Case:
    return [draw(st.just((2, 3)))], {"scale": 2.0, "shift": 1.0}, [(2, 3)]


def glu(draw) -> Case:
    source = draw(st.lists(SIZES, min_size=1, max_size=4))
    axis = draw(st.integers(0, len(source) - 1))
    source[axis] *= 2
    return [tuple(source)], {"axis": axis}, [shape_of(lambda x: F.glu(x, axis), tuple(source))]


def channels(draw) -> tuple[tuple[int, ...], int]:
    groups = draw(st.integers(1, 3))
    source = [draw(SIZES), groups * draw(SIZES), *draw(st.lists(SIZES, min_size=1, max_size=2))]
    return tuple(source), groups


def batch_norm(draw) -> Case:
    source, _ = channels(draw)
    each = source[1:2]
    shapes = [source, *[each] * 4]
    result = shape_of(lambda x, w, b, m, v: F.batch_norm(x, m, v, w, b), *shapes)
    return shapes, {"eps": 1e-5}, [result]


def group_norm(draw) -> Case:
    source, groups = channels(draw)
    return [source, *[source[1:2]] * 2], {"eps": 1e-5, "groups": groups}, [source]


def total(draw) -> Case:
    source = tuple(draw(st.lists(SIZES, min_size=1, max_size=4)))
    return [source], {}, [shape_of(lambda x: x.sum(-1), source)]


def matmul(draw) -> Case:
    leading = draw(st.lists(SIZES, max_size=2))
    m, k, n = (draw(SIZES) for _ in range(3))
    right = (k, n) if draw(st.booleans()) else (*leading, k, n)
    shapes = [(*leading, m, k), right]
    return shapes, {}, [shape_of(torch.matmul, *shapes)]


def pad(draw) -> Case:
    source = tuple(draw(st.lists(SIZES, min_size=1, max_size=4)))
    axis = draw(st.integers(0, len(source) - 1))
    before, after = draw(st.integers(0, 3)), draw(st.integers(0, 3))
    widths = [0, 0] * (len(source) - 1 - axis) + [before, after]
    result = shape_of(lambda x: F.pad(x, widths), source)
    return [source], {"axis": axis, "before": before, "after": after}, [result]


def repeat(draw) -> Case:
    source = tuple(draw(st.lists(SIZES, min_size=1, max_size=4)))
    axis, times = draw(st.integers(0, len(source) - 1)), draw(st.integers(1, 3))
    result = shape_of(lambda x: x.repeat_interleave(times, axis), source)
    return [source], {"axis": axis, "times": times}, [result]


def expand(draw) -> Case:
    shape = draw(st.lists(SIZES, min_size=1, max_size=4))
    source = [1 if draw(st.booleans()) else size for size in shape]
    source = tuple(source[draw(st.integers(0, len(shape))) :])
    result = shape_of(lambda x: x.expand(shape), source)
    return [source], {"shape": tuple(shape)}, [result]


def rel_shift(draw) -> Case:
    leading = draw(st.lists(SIZES, max_size=2))
    t, s = draw(SIZES), draw(SIZES)
    source = (*leading, t, t + s - 1)
    return [source], {}, [shape_of(marks.rel_shift, source)]


def positions(draw) -> Case:
    length, width = draw(SIZES), 2 * draw(SIZES)
    if draw(st.booleans()):
        shape = shape_of(lambda x: marks.relative_positions(x, width), (1, length, 3))
        return [], {"kind": "relative", "shape": shape}, [shape]
    shape = shape_of(lambda x: marks.positions(x, 2, length, width), (1,))
    return [], {"kind": "absolute", "start": 2, "shape": shape}, [shape]


def relative_buckets(draw) -> Case:
    length = draw(SIZES)
    shape = shape_of(lambda x: marks.relative_buckets(x, 32, 128), (1, length, 3))
    return [], {"buckets": 32, "furthest": 128, "shape": shape}, [shape]


def layer_norm(draw) -> Case:
    source = tuple(draw(st.lists(SIZES, min_size=1, max_size=4)))
    last = source[-1:]
    result = shape_of(lambda x, w, b: F.layer_norm(x, last, w, b), source, last, last)
    return [source, last, last], {"eps": 1e-5}, [result]


def add(draw) -> Case:
    full = draw(st.lists(SIZES, min_size=1, max_size=4))
    left = tuple(1 if draw(st.booleans()) else size for size in full)
    right = tuple(1 if draw(st.booleans()) else size for size in full)
    right = right[draw(st.integers(0, len(full))) :]
    shapes = [left, right] if draw(st.booleans()) else [right, left]
    return shapes, {}, [shape_of(torch.add, *shapes)]


def attention(draw) -> Case:
    heads = tuple(draw(st.lists(SIZES, min_size=1, max_size=2)))
    t, s, d, e = (draw(SIZES) for _ in range(4))
    shapes = [(*heads, t, d), (*heads, s, d), (*heads, s, e)]
    result = shape_of(F.scaled_dot_product_attention, *shapes)
    if draw(st.booleans()):
        leading = tuple(1 if draw(st.booleans()) else size for size in heads)
        shapes.append((*leading[draw(st.integers(0, len(leading))) :], t, s))
    return shapes, {"scale": 0.5}, [result]


def joined(draw, count: st.SearchStrategy[int]) -> Case:
    base = draw(st.lists(SIZES, min_size=1, max_size=4))
    axis = draw(st.integers(0, len(base) - 1))
    shapes = [(*base[:axis], draw(SIZES), *base[axis + 1 :]) for _ in range(draw(count))]
    return shapes, {"axis": axis}, [shape_of(lambda *t: torch.cat(t, axis), *shapes)]


def concat(draw) -> Case:
    return joined(draw, st.integers(2, 8))


def cache_append(draw) -> Case:
    return joined(draw, st.just(2))


def static_quantize(draw) -> Case:
    source = tuple(draw(st.lists(SIZES, min_size=1, max_size=4)))
    return [source, (1,)], {}, [source]


def cast(draw) -> Case:
    source = tuple(draw(st.lists(SIZES, min_size=1, max_size=4)))
    return [source], {"number": draw(st.sampled_from(["f16", "bf16"]))}, [source]


def dynamic_quantize(draw) -> Case:
    source = tuple(draw(st.lists(SIZES, min_size=1, max_size=4)))
    per = draw(st.sampled_from(["row", "tensor"]))
    scales = shape_of(lambda x: x.amax(-1), source) if per == "row" else (1,)
    return [source], {"per": per}, [source, scales]


def dynamic_binarize(draw) -> Case:
    source = tuple(draw(st.lists(SIZES, min_size=1, max_size=4)))
    chosen = {"set": draw(st.sampled_from(["signed", "unsigned"]))}
    return [source], chosen, [source, shape_of(lambda x: x.amax(-1), source)]


def binarize(draw) -> Case:
    source = tuple(draw(st.lists(SIZES, min_size=1, max_size=4)))
    if draw(st.booleans()):
        chosen = draw(st.sampled_from(["signed", "unsigned"]))
        return [source, (1,)], {"set": chosen}, [source]
    moves = [source[-1:]]
    if len(source) > 2:
        moves.append((source[-3], 1, source[-1]))
    return [source, (1,), draw(st.sampled_from(moves))], {"set": "signed"}, [source]


def quantized_linear(draw) -> Case:
    (x, *rest), values, results = linear(draw)
    return [x, draw(st.sampled_from([x[:-1], (1,)])), *rest], values, results


def quantized_conv1d(draw) -> Case:
    (x, *rest), values, results = conv1d(draw)
    return [x, (1,), *rest], values, results


def quantized_conv2d(draw) -> Case:
    (x, *rest), values, results = conv2d(draw)
    return [x, (1,), *rest], values, results


def quantized_attention(draw) -> Case:
    (q, k, v, *_), values, results = attention(draw)
    return [q, q[:-1], k, k[:-1], v, (1,)], values, results


def binary_attention(draw) -> Case:
    (q, k, v, *_), values, results = attention(draw)
    level = [(1,)] if draw(st.booleans()) else []
    return [q, q[:-1], k, k[:-1], v, v[:-1], *level], values, results


def _name(case: Callable[..., Case]) -> str:
    names = {"take": "slice", "total": "sum", "static_quantize": "quantize"}
    return names.get(case.__name__, case.__name__)


CASES = {
    **{
        _name(case): case
        for case in (
            *(reshape, transpose, take, expand, rel_shift),
            *(embedding, positions, relative_buckets, concat, cache_append, pad, repeat),
            *(affine, glu, total, layer_norm, batch_norm, group_norm),
            *(linear, conv1d, conv2d, matmul, attention),
            *(static_quantize, cast),
            *(dynamic_quantize, dynamic_binarize, binarize, binary_attention),
            *(quantized_linear, quantized_conv1d, quantized_conv2d, quantized_attention),
        )
    },
    **dict.fromkeys(("gelu", "relu", "silu", "tanh", "sigmoid"), element),
    **dict.fromkeys(("add", "sub", "mul"), add),
}
