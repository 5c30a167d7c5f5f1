"""Claims about patterns and scopes of pruning, against loops over single weights."""

import itertools
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cosim.compress.compressed import compress
from cosim.compress.network import BlockForm, Layer, NofMForm, State, Weight
from cosim.compress.prune_magnitude import (
    Blocks,
    NofM,
    PruneMagnitudeConfig,
    prune_magnitude,
)
from cosim.compress.recipe import parse_recipe
from cosim.errors import CosimError
from kernels import encodings as store

SHAPES = st.lists(
    st.tuples(st.integers(1, 7), st.integers(1, 9)) | st.just((2, 3, 2)), min_size=1, max_size=4
)


def state_of(*tables):
    names = [f"l{index}" for index in range(len(tables))]
    layers = tuple(Layer(name, "linear", f"{name}.weight") for name in names)
    weights = {layer.weight: Weight(t) for layer, t in zip(layers, tables, strict=True)}
    return State(layers, weights)


def drawn(shapes, seed):
    generator = np.random.default_rng(seed)
    return [generator.integers(-9, 10, shape).astype(np.float32) for shape in shapes]


def pruned(state, **keys):
    return prune_magnitude(state, PruneMagnitudeConfig("prune_magnitude", **keys), state.layers)


def tables(state):
    return [weight.values for weight in state.weights.values()]


def blocks_of(table, block):
    """Return the flat indices of the weights of each block, in the order in which they rank."""
    n, k = len(table), table[0].size
    rows, columns = block
    return [
        [
            i * k + j
            for i in range(top, min(top + rows, n))
            for j in range(left, min(left + columns, k))
        ]
        for top, left in itertools.product(range(0, n, rows), range(0, k, columns))
    ]


def block_for(pattern, table):
    if isinstance(pattern, Blocks):
        return pattern.block
    return {
        "unstructured": (1, 1),
        "rows": (1, table[0].size),
        "columns": (len(table), 1),
    }[pattern]


def norm_of(values, norm):
    values = np.abs(np.asarray(values, np.float64))
    return np.float32(values.mean() if norm == "l1" else np.sqrt((values**2).mean()))


PATTERNS = st.sampled_from(["unstructured", "columns", Blocks((2, 3)), Blocks((4, 1))])


@settings(max_examples=60, deadline=None)
@given(
    SHAPES,
    PATTERNS,
    st.sampled_from(["local", "global", "class"]),
    st.sampled_from(["l1", "l2"]),
    st.integers(0, 99),
    st.integers(0, 99),
)
def test_exactly_the_share_of_least_norm_is_zeroed(shapes, pattern, scope, norm, percent, seed):
    before = drawn(shapes, seed)
    after = tables(
        pruned(state_of(*before), pattern=pattern, scope=scope, norm=norm, rate=percent / 100)
    )
    ranks = []
    for index, table in enumerate(before):
        deviation = float(np.std(table, dtype=np.float64))
        for order, places in enumerate(blocks_of(table, block_for(pattern, table))):
            score = norm_of(table.ravel()[places], norm)
            if scope == "class" and deviation:
                score /= np.float32(deviation)
            elif scope == "class" and score:
                score = np.float32(np.inf)
            ranks.append((score, index, order, places))
    parts = [[rank for rank in ranks if rank[1] == index] for index in range(len(before))]
    chosen = [
        rank
        for part in (parts if scope == "local" else [ranks])
        for rank in sorted(part)[: percent * len(part) // 100]
    ]
    for _, index, _, places in chosen:
        before[index].ravel()[places] = 0
    for found, wanted in zip(after, before, strict=True):
        np.testing.assert_array_equal(found, wanted)


@settings(max_examples=60, deadline=None)
@given(SHAPES, st.integers(2, 5), st.data())
def test_of_every_m_in_a_row_the_n_largest_stay(shapes, m, data):
    n = data.draw(st.integers(1, m - 1))
    before = drawn(shapes, data.draw(st.integers(0, 99)))
    state = pruned(state_of(*before), pattern=NofM(n, m))
    for table, weight in zip(before, state.weights.values(), strict=True):
        assert weight.form == (NofMForm(n, m) if table[0].size > n else None)
        rows, after = table.reshape(len(table), -1), weight.values.reshape(len(table), -1)
        for row, kept in zip(rows, after, strict=True):
            for start in range(0, len(row), m):
                run, left = row[start : start + m], kept[start : start + m]
                order = sorted(range(len(run)), key=lambda i: (abs(run[i]), i), reverse=True)
                wanted = [run[i] if i in order[:n] else 0 for i in range(len(run))]
                assert left.tolist() == wanted


@pytest.mark.parametrize("pattern", [NofM(2, 4), Blocks((16, 1)), Blocks((3, 2))])
def test_a_pattern_is_stored_in_its_form(pattern):
    table = np.random.default_rng(0).standard_normal((32, 40)).astype(np.float32)
    amount = {} if isinstance(pattern, NofM) else {"rate": 0.5}
    (weight,) = pruned(state_of(table), pattern=pattern, **amount).weights.values()
    if isinstance(pattern, NofM):
        encoding = store.encode_n_of_m(weight.values, n_kept=weight.form.n, m=weight.form.m)
        assert store.payload_bits(encoding) == 32 * table.size // 2
    else:
        assert weight.form == BlockForm(*pattern.block)
        encoding = store.encode_block_sparse(weight.values, block=pattern.block)
        blocks = -(-32 // pattern.block[0]) * -(-40 // pattern.block[1])
        assert len(encoding.columns) == blocks - blocks // 2
    np.testing.assert_array_equal(store.decode(encoding), weight.values)


def test_a_block_over_the_edge_ranks_by_the_weights_it_has():
    table = np.array([[1, 1, 3], [1, 1, 3], [2, 2, 0.5]], np.float32)
    (after,) = tables(pruned(state_of(table), pattern=Blocks((2, 2)), rate=0.5))
    assert after.tolist() == [[0, 0, 3], [0, 0, 3], [2, 2, 0]]


def test_norms_rank_a_block_of_one_large_weight_differently():
    table = np.array([[5, 0, 3, 3]], np.float32)  # means 2.5 and 3, root mean squares 3.5 and 3
    one = pruned(state_of(table), pattern=Blocks((1, 2)), rate=0.5, norm="l1")
    two = pruned(state_of(table), pattern=Blocks((1, 2)), rate=0.5, norm="l2")
    assert tables(one)[0].tolist() == [[0, 0, 3, 3]]
    assert tables(two)[0].tolist() == [[5, 0, 0, 0]]


def test_threshold_zeroes_what_is_below_and_not_what_is_at_it():
    table = np.array([[0.1, -0.2, 0.3, -0.05]], np.float32)
    for scope in ("local", "global"):
        (after,) = tables(pruned(state_of(table), threshold=0.2, scope=scope))
        np.testing.assert_array_equal(after, np.array([[0, -0.2, 0.3, 0]], np.float32))


def test_quality_is_the_threshold_in_deviations_of_each_layer():
    small = np.array([[-3, -1, 1, 3]], np.float32)  # mean 0, deviation sqrt(5)
    large = 100 * small
    for quality, kept in ((0.44, 4), (0.45, 2), (1.3, 2), (1.35, 0)):  # 1, 3 over sqrt(5)
        state = pruned(state_of(small, large), scope="class", quality=quality)
        assert [np.count_nonzero(table) for table in tables(state)] == [kept, kept]


def test_a_rate_of_class_scope_spreads_by_deviations_and_global_by_magnitudes():
    small, large = np.array([[-3, -1, 1, 3]], np.float32), np.array([[-300, -100, 99, 300]])
    state = state_of(small, large.astype(np.float32))
    by_class = tables(pruned(state, scope="class", rate=0.5))
    assert [np.count_nonzero(table) for table in by_class] == [2, 2]
    by_size = tables(pruned(state, scope="global", rate=0.5))
    assert [np.count_nonzero(table) for table in by_size] == [0, 4]


def test_layers_without_deviation_keep_what_is_not_zero():
    constant = np.full((2, 2), 0.1, np.float32)
    other = np.array([[-3, -1, 1, 3]], np.float32)
    state = pruned(state_of(constant, np.zeros((1, 2), np.float32), other), scope="class", rate=0.4)
    assert [np.count_nonzero(table) for table in tables(state)] == [4, 0, 2]


def test_equals_go_by_layer_then_by_place():
    ones = np.ones((1, 3), np.float32)
    after = tables(pruned(state_of(ones, ones), scope="global", rate=0.7))
    assert [table.tolist() for table in after] == [[[0, 0, 0]], [[0, 1, 1]]]


@pytest.mark.parametrize("scope", ["local", "global", "class"])
def test_rate_zero_changes_nothing(scope):
    state = state_of(*drawn([(3, 4), (2, 2)], 0))
    after = pruned(state, scope=scope, rate=0.0)
    assert all(after.weights[name] is weight for name, weight in state.weights.items())
    assert after.notes == ()


def test_a_tied_weight_counts_once_in_the_ranking_of_all(small):
    # embed.weight (7 x 8) is head.weight too, fc1.weight is 6 x 8: 104 weights, of them half
    entry = {"method": "prune_magnitude", "scope": "global", "rate": 0.5}
    layers = {"layers": ["embed", "head", "fc1"]}
    model = compress(small, parse_recipe({"methods": [entry | layers]}, name="r", source="r.yaml"))
    zeros = sum(row.elements - row.nonzero for row in model.ledger if row.name != "positions")
    assert zeros == 52
    assert [row["of"] for row in model.report] == [48, 56]


def test_rows_lose_their_bias_so_that_the_output_is_zero(small):
    entry = {"method": "prune_magnitude", "pattern": "rows", "rate": 0.5, "layers": ["fc1", "conv"]}
    model = compress(small, parse_recipe({"methods": [entry]}, name="r", source="r.yaml"))
    for name, count in (("fc1", 3), ("conv", 2)):
        weight = store.decode(model.encodings[f"{name}.weight"])
        bias = store.decode(model.encodings[f"{name}.bias"])
        before = np.abs(small.get_submodule(name).weight.detach().numpy().reshape(len(weight), -1))
        gone = np.sort(np.argsort(before.mean(axis=1))[:count])
        assert np.flatnonzero(~weight.reshape(len(weight), -1).any(axis=1)).tolist() == list(gone)
        assert np.flatnonzero(bias == 0).tolist() == list(gone)


def test_codes_stay_codes_with_zeros_among_them():
    codes = np.array([[7, -1, 3], [2, 5, -6]], np.int8)
    scale = np.array([[0.1], [10.0]], np.float32)  # 0.7 0.1 0.3 | 20 50 60
    state = state_of(codes.astype(np.float32))
    state = state.with_weights({"l0.weight": Weight(codes, 4, scale)})
    (weight,) = pruned(state, rate=0.5).weights.values()
    assert weight.table.tolist() == [[0, 0, 0], [2, 5, -6]]
    assert (weight.table.dtype, weight.bits, weight.scale is scale) == (np.int8, 4, True)


def test_codes_with_a_zero_point_become_it():
    codes = np.array([[7, -8, -3], [0, 5, 2]], np.int8)
    weight = Weight(codes, 4, np.ones((2, 1), np.float32), 0, np.array([[-2], [3]], np.int8))
    state = state_of(codes.astype(np.float32)).with_weights({"l0.weight": weight})
    (after,) = pruned(state, rate=0.5).weights.values()
    assert after.table.tolist() == [[7, -8, -2], [0, 3, 3]]
    assert after.values.tolist() == [[9, -6, 0], [-3, 0, 0]]


@pytest.mark.parametrize("zero", [[[0.5], [0.0]], [[8.0], [0.0]], [[-9.0], [0.0]]])
def test_codes_without_an_exact_zero_are_refused(zero):
    weight = Weight(np.ones((2, 3), np.int8), 4, np.ones((2, 1), np.float32))
    weight = replace(weight, zero_point=np.array(zero, np.float32))
    signs = Weight(np.ones((2, 3), np.int8), 1, np.ones((2, 1), np.float32))
    state = state_of(*drawn([(2, 3)] * 3, 0))
    state = state.with_weights({"l0.weight": weight, "l2.weight": signs})
    with pytest.raises(CosimError) as caught:
        pruned(state, rate=0.5)
    assert [text.partition(":")[0] for text in caught.value.problems] == ["l0.weight", "l2.weight"]
    assert "no codes of 4 bits" in caught.value.problems[0]


@pytest.mark.parametrize(
    ("keys", "told"),
    [
        ({}, "found none, expected exactly one of rate, threshold, quality"),
        ({"rate": 0.5, "threshold": 1.0}, "found rate and threshold, expected exactly one"),
        ({"quality": 1.0}, "scope: found local, expected class for quality"),
        ({"threshold": 1.0, "scope": "class"}, "scope: found class, expected local or global"),
        ({"pattern": {"n": 2, "m": 4}, "rate": 0.5}, "expected no amount beside pattern n, m"),
        ({"pattern": {"n": 2, "m": 4}, "scope": "global"}, "scope: found global, expected local"),
        ({"pattern": {"n": 4, "m": 4}}, "pattern: n: found 4, expected less than m 4"),
        ({"pattern": {"block": [0, 4]}, "rate": 0.5}, "pattern.block.0: found 0"),
        ({"pattern": "head", "rate": 0.5}, 'did you mean "heads"?'),
    ],
)
def test_what_does_not_go_together_is_refused(keys, told):
    with pytest.raises(CosimError) as caught:
        parse_recipe({"methods": [{"method": "prune_magnitude", **keys}]}, name="r", source="r")
    assert told in str(caught.value)


def test_a_threshold_above_or_below_everything_is_noted():
    state = state_of(np.ones((1, 4), np.float32), np.full((1, 3), 5, np.float32))
    assert pruned(state, threshold=2.0).notes == (
        "prune_magnitude: nothing zeroed in 1 of 2 layers (l1 has 3 weights)",
        "prune_magnitude: all weights zeroed in 1 of 2 layers (first l0)",
    )
