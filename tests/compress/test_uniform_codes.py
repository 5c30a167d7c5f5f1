"""Claims about uniform codes: half a step everywhere, exact zeros, what finer scales promise."""

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from cosim.compress.codes import Group, Percentile, quantized

BITS = st.sampled_from([2, 3, 4, 8])
SCHEMES = st.sampled_from(["symmetric", "asymmetric"])
GRANULARITIES = st.sampled_from(["tensor", "channel", Group(32), Group(64)])
VALUES = st.floats(-1e6, 1e6, width=32)
MATRICES = st.tuples(st.integers(1, 4), st.integers(1, 140)).flatmap(
    lambda shape: arrays(np.float32, shape, elements=VALUES, fill=VALUES)
)


def runs_of(values, granularity):
    """The weights under each scale, by row and by run of the row, as plain slices."""
    if granularity == "tensor":
        return [[(values, (slice(None), slice(None)))]]
    length = granularity.group if isinstance(granularity, Group) else values.shape[1]
    return [
        [(row[i : i + length], (r, slice(i, i + length))) for i in range(0, len(row), length)]
        for r, row in enumerate(values)
    ]


def exact(weight, granularity):
    """(code - zero point) * scale in float64, and the scale of every weight, run by run."""
    shape = weight.table.shape
    result, steps = np.zeros(shape), np.zeros(shape)
    for r, row in enumerate(runs_of(weight.table, granularity)):
        for g, (codes, place) in enumerate(row):
            zero = 0 if weight.zero_point is None else float(weight.zero_point[r, g])
            scale = float(weight.scale[r, g])
            result[place] = (codes.astype(np.float64) - zero) * scale
            steps[place] = scale
    return result, steps


@given(MATRICES, BITS, SCHEMES, GRANULARITIES)
def test_every_weight_is_within_half_a_step(values, bits, scheme, granularity):
    weight = quantized(values, bits=bits, scheme=scheme, granularity=granularity)
    decoded, steps = exact(weight, granularity)
    # float32 rounding of scale and of w / scale is that of some codes of the largest magnitude
    slack = 1e-6 * np.abs(values).max() if scheme == "asymmetric" else 0
    assert np.all(np.abs(decoded - values) <= steps * (0.5 + 1e-4) + slack)
    lowest = -(2 ** (bits - 1)) + (scheme == "symmetric")
    assert weight.table.min() >= lowest
    assert weight.table.max() <= 2 ** (bits - 1) - 1
    np.testing.assert_allclose(weight.values, decoded, rtol=1e-6)


@given(MATRICES, BITS, GRANULARITIES)
def test_a_zero_is_exactly_zero_in_every_scheme(values, bits, granularity):
    values[:, ::2] = 0
    for scheme in ("symmetric", "asymmetric"):
        weight = quantized(values, bits=bits, scheme=scheme, granularity=granularity)
        assert not weight.values[:, ::2].any()


@given(MATRICES, BITS, SCHEMES)
def test_the_ends_of_the_range_are_the_largest_and_the_smallest_weight(values, bits, scheme):
    weight = quantized(values, bits=bits, scheme=scheme)
    for row, scale in zip(values.astype(np.float64), weight.scale[:, 0], strict=True):
        if scheme == "symmetric":
            wanted = np.abs(row).max() / (2 ** (bits - 1) - 1)
        else:
            wanted = (max(row.max(), 0) - min(row.min(), 0)) / (2**bits - 1)
        assert scale == pytest.approx(wanted if wanted >= 2.0**-126 else 1.0, rel=1e-6)


@settings(deadline=None, max_examples=40)
@given(MATRICES, BITS, SCHEMES)
def test_searched_ranges_have_no_larger_error_with_finer_granularity(values, bits, scheme):
    errors = []
    for granularity in ("tensor", "channel", Group(32)):
        weight = quantized(values, bits=bits, scheme=scheme, granularity=granularity, reach="mse")
        decoded = weight.values.astype(np.float64)
        errors.append(np.square(decoded - values).sum())
    assert errors[1] <= errors[0] * (1 + 1e-6)
    assert errors[2] <= errors[1] * (1 + 1e-6)


@settings(deadline=None, max_examples=40)
@given(MATRICES, BITS, SCHEMES, GRANULARITIES)
def test_a_searched_range_is_never_worse_than_the_whole_one(values, bits, scheme, granularity):
    def error(reach):
        weight = quantized(values, bits=bits, scheme=scheme, granularity=granularity, reach=reach)
        return np.square(weight.values.astype(np.float64) - values).sum()

    assert error("mse") <= error("minmax") * (1 + 1e-6)


@given(MATRICES, BITS, SCHEMES)
def test_whole_ranges_have_no_larger_step_with_finer_granularity(values, bits, scheme):
    assume(np.abs(values).max() > 1e-30)

    def largest_step(granularity):
        weight = quantized(values, bits=bits, scheme=scheme, granularity=granularity)
        used = np.abs(weight.values) > 0  # an empty run has scale 1
        steps = exact(weight, granularity)[1]
        return np.max(np.where(used, steps, 0))

    tensor, channel, group = map(largest_step, ("tensor", "channel", Group(32)))
    assert group <= channel * (1 + 1e-6)
    assert channel <= tensor * (1 + 1e-6)


def test_whole_ranges_may_have_a_larger_error_by_channel():
    # On the grid of the tensor, 3 is a code; on that of its own channel, 7 / 5 a step, it is none.
    values = np.array([[7.0, 0.0], [5.0, 3.0]], np.float32)
    tensor = quantized(values, bits=4, granularity="tensor").values
    channel = quantized(values, bits=4, granularity="channel").values
    np.testing.assert_array_equal(tensor, values)
    assert np.square(channel - values).sum() > 0


@pytest.mark.parametrize("scheme", ["symmetric", "asymmetric"])
@pytest.mark.parametrize("bits", [2, 3, 4, 8])
def test_channels_and_groups_have_less_error_on_weights_of_unequal_channels(bits, scheme):
    rng = np.random.default_rng(bits)
    values = rng.standard_normal((32, 256)) * np.exp(rng.standard_normal((32, 1)))
    errors = [
        np.square(
            quantized(values.astype(np.float32), bits=bits, scheme=scheme, granularity=one).values
            - values
        ).sum()
        for one in ("tensor", "channel", Group(128), Group(64), Group(32))
    ]
    assert errors == sorted(errors, reverse=True)


def test_hand_worked_groups_with_a_shorter_one_at_the_end():
    values = np.zeros((1, 40), np.float32)
    values[0, 0], values[0, 1], values[0, 35] = 7.0, 2.6, -14.0
    weight = quantized(values, bits=4, granularity=Group(32))
    assert weight.group == 32
    assert weight.scale.tolist() == [[1.0, 2.0]]
    assert weight.table[0, [0, 1, 35]].tolist() == [7, 3, -7]


def test_hand_worked_zero_points():
    # -1 to 14 in 15 steps of 1: code of 0 is -8 + 1, of 14 it is 7, of -1 it is -8
    weight = quantized(np.array([[-1.0, 0.0, 14.0]], np.float32), bits=4, scheme="asymmetric")
    assert weight.scale.tolist() == [[1.0]]
    assert weight.zero_point.tolist() == [[-7]]
    assert weight.table.tolist() == [[-8, -7, 7]]
    # weights of one sign: the range still begins at 0
    weight = quantized(np.array([[3.0, 1.0]], np.float32), bits=2, scheme="asymmetric")
    assert (weight.scale.tolist(), weight.zero_point.tolist()) == ([[1.0]], [[-2]])
    assert weight.table.tolist() == [[1, -1]]


def test_what_is_beyond_a_percentile_saturates():
    values = np.concatenate([np.linspace(-1, 1, 999), [100.0]]).astype(np.float32)[None]
    weight = quantized(values, bits=8, reach=Percentile(99.9))
    end = np.percentile(np.abs(values), 99.9)
    assert weight.scale[0, 0] == pytest.approx(end / 127, rel=1e-6)
    assert weight.table[0, -1] == 127
    assert weight.values[0, -1] == pytest.approx(end, rel=1e-6)
    inside = np.abs(values[0]) <= end
    assert np.abs(weight.values - values)[0, inside].max() <= end / 127 / 2 * (1 + 1e-5)


def test_a_percentile_of_nearly_empty_weights_takes_what_there_is():
    values = np.zeros((1, 100), np.float32)
    values[0, 7] = 5.0
    for scheme in ("symmetric", "asymmetric"):
        weight = quantized(values, bits=4, scheme=scheme, reach=Percentile(90.0))
        assert weight.values[0, 7] == pytest.approx(5.0)


def test_two_bits_of_normal_weights_lose_less_in_a_searched_range():
    values = np.random.default_rng(0).standard_normal((8, 512)).astype(np.float32)
    power = np.square(values).mean()

    def share(reach):
        made = quantized(values, bits=2, reach=reach).values
        return np.square(made - values).mean() / power

    # The best three levels 0, +-a of a normal variable leave 0.1902 (Max 1960, table I, N = 3).
    assert share("mse") == pytest.approx(0.1902, abs=0.01)
    assert share("minmax") > 0.5
