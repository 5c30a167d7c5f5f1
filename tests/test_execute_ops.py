"""Every op gives what it means, however its operands lie in memory, at two lengths."""

import itertools

import ir_interpreter
import numpy as np
import pytest
from drafts import Draft, agree, heard

from cosim.execute import plan

LENGTHS = ({"t": 5}, {"t": 18})
ORDERS = list(itertools.permutations(range(3)))
HEAD_ORDERS = [(0, 1, 2, 3), (0, 2, 1, 3), (0, 1, 3, 2), (0, 3, 2, 1), (2, 0, 3, 1)]
FUNCTIONS = ["gelu", "relu", "silu", "tanh", "sigmoid"]


@pytest.mark.parametrize("kind", FUNCTIONS)
@pytest.mark.parametrize("order", ORDERS)
def test_functions_of_elements(kind, order):
    d = Draft()
    x = d.input(1, 6, "t", order=order)
    agree(d, d.add(kind, x), lengths=LENGTHS)


@pytest.mark.parametrize("order", HEAD_ORDERS)
def test_a_function_of_a_part_leaves_the_rest_alone(order):
    d = Draft()
    x = d.input(1, 4, "t", 6, order=order)
    part = d.add("slice", x, axis=3, start=1, stop=5, step=2)
    other = d.add("slice", x, axis=1, start=2, stop=3)
    agree(d, d.add("silu", part), d.add("relu", other), x, lengths=LENGTHS)


@pytest.mark.parametrize("kind", ["add", "sub", "mul"])
@pytest.mark.parametrize(
    "shapes",
    [
        ((1, 6, "t"), (1, 6, "t")),
        ((1, 6, "t"), (6, 1)),
        ((1, 1, "t"), (1, 6, "t")),
        ((1, 6, 1), (1, 1, "t")),
        ((), (1, 6, "t")),
        ((1, 2, 3, "t", 4), (2, 1, "t", 1)),
    ],
)
def test_two_values_are_broadcast_together(kind, shapes):
    for order_a, order_b in itertools.product((False, True), repeat=2):
        d = Draft()
        a, b = (
            d.input(*shape, order=tuple(reversed(range(len(shape)))) if turned else None)
            for shape, turned in zip(shapes, (order_a, order_b), strict=True)
        )
        agree(d, d.add(kind, a, b), lengths=LENGTHS)


@pytest.mark.parametrize("kind", ["add", "sub", "mul"])
def test_a_channel_vector_is_broadcast_over_a_time_major_value(kind):
    d = Draft()
    x = d.input(1, 6, "t", order=(0, 2, 1))
    y = d.add(kind, x, d.constant(6, 1))
    agree(d, y, d.add(kind, d.constant(1), y), lengths=LENGTHS)


@pytest.mark.parametrize("order", ORDERS)
def test_affine_scales_then_shifts(order):
    d = Draft()
    x = d.input(1, 6, "t", order=order)
    once = d.add("affine", x, scale=-0.3, shift=1.25)
    agree(d, once, d.add("affine", once, scale=22.6, shift=0.0), lengths=LENGTHS)


@pytest.mark.parametrize("axis", [1, 2])
@pytest.mark.parametrize("order", ORDERS)
def test_glu_halves_any_axis(axis, order):
    d = Draft()
    x = d.input(1, 6, 8, order=order)
    agree(d, d.add("glu", x, axis=axis))


@pytest.mark.parametrize("order", HEAD_ORDERS)
@pytest.mark.parametrize("width", [1, 5])
def test_sums_over_the_last_axis(order, width):
    d = Draft()
    x = d.input(1, 3, "t", width, order=order)
    agree(d, d.add("sum", x), lengths=LENGTHS)


@pytest.mark.parametrize("order", ORDERS)
def test_layer_norm_is_over_the_last_axis_wherever_it_lies(order):
    d = Draft()
    x = d.input(1, "t", 24, order=order)
    agree(d, d.add("layer_norm", x, d.constant(24), d.constant(24), eps=1e-5), lengths=LENGTHS)


@pytest.mark.parametrize("order", ORDERS)
def test_channel_norms_in_any_order(order):
    d = Draft()
    x = d.input(1, 6, "t", order=order)
    vectors = [d.constant(6) for _ in range(3)]
    by_group = d.add("group_norm", x, *vectors[:2], eps=1e-5, groups=3)
    fixed = d.add("batch_norm", x, *vectors, d.constant(6, positive=True), eps=1e-5)
    agree(d, by_group, fixed, lengths=LENGTHS, tolerance=4e-6)


def test_batch_norm_of_an_image():
    d = Draft()
    x = d.input(1, 6, "t", 4)
    vectors = [d.constant(6) for _ in range(3)]
    agree(
        d,
        d.add("batch_norm", x, *vectors, d.constant(6, positive=True), eps=1e-5),
        lengths=LENGTHS,
    )


@pytest.mark.parametrize("order", HEAD_ORDERS)
def test_linear_layers_read_rows_in_any_order(order):
    d = Draft()
    x = d.input(1, 3, "t", 10, order=order)
    y = d.add("linear", x, d.constant(7, 10), d.constant(7))
    agree(d, y, d.add("linear", y, d.constant(4, 7)), lengths=LENGTHS)


@pytest.mark.parametrize("groups", [1, 2, 6])
@pytest.mark.parametrize(
    ("taps", "stride", "padding"),
    [(1, 1, 0), (1, 2, 0), (3, 1, 1), (3, 2, 0), (4, 1, 2), (5, 3, 1)],
)
@pytest.mark.parametrize("order", [(0, 1, 2), (0, 2, 1)])
def test_convolutions_over_time(groups, taps, stride, padding, order):
    d = Draft()
    x = d.input(1, 6, "t", order=order)
    w, b = (
        d.constant(12 if groups < 6 else 6, 6 // groups, taps),
        d.constant(12 if groups < 6 else 6),
    )
    values = {"stride": stride, "padding": padding, "groups": groups}
    agree(d, d.add("conv1d", x, w, b, **values), d.add("conv1d", x, w, **values), lengths=LENGTHS)


def test_a_filter_bank_on_raw_samples():
    d = Draft()
    x = d.input(1, 1, "t")
    y = d.add("conv1d", x, d.constant(20, 1, 10), stride=5, padding=0, groups=1)
    agree(d, y, lengths=({"t": 10}, {"t": 87}))


@pytest.mark.parametrize("groups", [1, 5])
@pytest.mark.parametrize(("stride", "padding"), [(1, 0), (2, 0), (2, 1), (3, 2)])
@pytest.mark.parametrize("order", [(0, 1, 2, 3), (0, 2, 3, 1)])
def test_convolutions_of_images(groups, stride, padding, order):
    d = Draft()
    x = d.input(1, 5, "t", 9, order=order)
    w, b = d.constant(5 if groups > 1 else 7, 5 // groups, 3, 3), d.constant(5 if groups > 1 else 7)
    values = {"stride": stride, "padding": padding, "groups": groups}
    agree(d, d.add("conv2d", x, w, b, **values), d.add("conv2d", x, w, **values), lengths=LENGTHS)


def test_an_image_front_end_becomes_rows():
    d = Draft()
    x = d.add("reshape", d.input(1, "t", 13), shape=(1, 1, d.types["%in0"].shape[1], 13))
    values = {"stride": 2, "padding": 0, "groups": 1}
    for channels in (1, 6):
        x = d.add(
            "relu", d.add("conv2d", x, d.constant(6, channels, 3, 3), d.constant(6), **values)
        )
    frames = d.types[x].shape[2]
    rows = d.add("reshape", d.add("transpose", x, order=(0, 2, 1, 3)), shape=(1, frames, 12))
    agree(d, d.add("linear", rows, d.constant(8, 12)), lengths=({"t": 17}, {"t": 90}))


@pytest.mark.parametrize("order_a", HEAD_ORDERS)
@pytest.mark.parametrize("order_b", HEAD_ORDERS)
def test_products_of_activations(order_a, order_b):
    d = Draft()
    a, b = d.input(1, 3, "t", 8, order=order_a), d.input(1, 3, 8, "t", order=order_b)
    agree(d, d.add("matmul", a, b), lengths=LENGTHS)


def test_products_of_several_batches_and_of_one_matrix():
    d = Draft()
    a, b = d.input(2, 3, "t", 8), d.input(2, 3, 8, 5)
    agree(d, d.add("matmul", a, b), d.add("matmul", a, d.input(8, "t")), lengths=LENGTHS)


@pytest.mark.parametrize("order", [(0, 1, 2, 3), (0, 2, 1, 3), (0, 1, 3, 2)])
def test_attention_with_and_without_a_bias(order):
    d = Draft()
    q, k, v = (d.input(1, 3, "t", 8, order=order) for _ in range(3))
    biases = [d.input(1, 3, "t", "t"), d.input(1, 1, "t", "t", order=order), d.input("t", "t")]
    results = [
        d.add("attention", q, k, v, *bias, scale=0.3) for bias in ([], *([b] for b in biases))
    ]
    agree(d, *results, lengths=LENGTHS)


@pytest.mark.parametrize(
    "pattern",
    [
        "local window=3 block=16",
        "strided near=0 stride=2 block=16",
        "global count=2 window=1 block=16",
        "local window=2 block=16 causal=true",
    ],
)
def test_attention_over_a_pattern(pattern):
    d = Draft()
    q, k, v = (d.input(1, 3, "t", 8, order=(0, 2, 1, 3)) for _ in range(3))
    y = d.add("attention", q, k, v, scale=0.4, pattern=pattern)
    agree(d, y, lengths=({"t": 5}, {"t": 70}))


def test_scores_by_position_are_read_as_scores_by_key():
    d = Draft()
    x = d.input(1, 3, "t", "2*t - 1")
    agree(d, d.add("rel_shift", x), lengths=LENGTHS)


def test_a_table_of_distances_is_shared_by_all_queries():
    d = Draft()
    t = d.input(1, "t", 4)
    frames = d.types[t].shape[1]
    columns = frames * 2 - 1
    ids = d.add("relative_buckets", shape=(columns,), buckets=8, furthest=6)
    table = d.add("transpose", d.add("embedding", ids, d.constant(8, 3)), order=(1, 0))
    table = d.add("reshape", table, shape=(1, 3, 1, columns))
    table = d.add("rel_shift", d.add("expand", table, shape=(1, 3, frames, columns)))
    gate = d.input(1, 3, "t", 1, order=(0, 2, 1, 3))
    agree(d, table, d.add("mul", gate, table), t, lengths=LENGTHS)


@pytest.mark.parametrize("order", ORDERS)
def test_data_is_moved_as_it_says(order):
    d = Draft()
    x = d.input(1, 6, "t", order=order)
    agree(
        d,
        d.add("pad", x, axis=2, before=0, after=3),
        d.add("pad", x, axis=1, before=2, after=1),
        d.add("repeat", x, axis=2, times=2),
        d.add("concat", x, d.add("relu", x), axis=1),
        d.add("reshape", x, shape=(d.types[x].shape[2] * 6,)),
        d.add("slice", x, axis=2, start=1, stop=d.types[x].shape[2] - 1, step=2),
        lengths=LENGTHS,
    )


def test_positions_are_sinusoids():
    d = Draft()
    x = d.input(1, "t", 6)
    frames = d.types[x].shape[1]
    relative = d.add("positions", shape=(1, frames * 2 - 1, 6), kind="relative")
    absolute = d.add("positions", shape=(1, frames, 6), kind="absolute", start=3)
    agree(d, relative, d.add("add", x, absolute), lengths=(*LENGTHS, {"t": 3}))


def test_a_step_reads_its_own_position_and_all_caches():
    d = Draft()
    x = d.input(1, 1, 6)
    past = d.state(1, 2, "past", 3, capacity=9)
    start = d.types[past].shape[2]
    x = d.add("add", x, d.add("positions", shape=(1, 1, 6), kind="absolute", start=start))
    heads = d.add("transpose", d.add("reshape", x, shape=(1, 1, 2, 3)), order=(0, 2, 1, 3))
    keys = d.add("cache_append", past, heads, axis=2)
    y = d.add("attention", heads, keys, keys, scale=0.5)
    weights = d.weights(y)
    graph = weights.program.graph("encoder")
    made = plan(weights, "encoder", bindings={})
    states = {past: np.zeros((1, 2, 0, 3), np.float32)}
    for count in range(9):
        inputs = d.operands(graph, {"past": count})
        wanted, states = ir_interpreter.run(graph, d.meanings(), inputs, states)
        assert np.abs(heard(made, inputs, count)[0] - wanted["y0"]).max() < 2e-6
