import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from kernels import pointwise, reference


def _rows(seed: int, shape: tuple[int, int], spread: float = 3.0) -> np.ndarray:
    return (np.random.default_rng(seed).standard_normal(shape) * spread).astype(np.float32)


def _strided(x: np.ndarray) -> np.ndarray:
    """Same values, rows further apart."""
    wide = np.full((x.shape[0], x.shape[1] + 5), np.nan, x.dtype)
    wide[:, : x.shape[1]] = x
    return wide[:, : x.shape[1]]


SHAPES = [(1, 384), (7, 384), (3, 1), (2, 7), (1500, 64), (4, 1536)]


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("op", ["gelu", "softmax", "relu", "silu"])
def test_elementwise_kernels_match_float64(op, shape):
    x = _rows(1, shape)
    expected = getattr(reference, op)(x)
    for source in (x, _strided(x)):
        out = _strided(np.zeros_like(x))
        getattr(pointwise, op)(source, out)
        bound = 1e-6 * np.maximum(1.0, np.abs(x))
        assert (np.abs(out.astype(np.float64) - expected) <= bound).all()
        getattr(pointwise, op)(source, source)  # in place
        assert (np.abs(source.astype(np.float64) - expected) <= bound).all()


def test_gelu_error_is_bounded_over_the_whole_range():
    x = np.concatenate([np.linspace(-12, 12, 200_001), [1e-30, -1e-30, 0.0, 1e30, -1e30, 88.0]])
    x = x.astype(np.float32).reshape(1, -1)
    out = np.empty_like(x)
    pointwise.gelu(x, out)
    error = np.abs(out.astype(np.float64) - reference.gelu(x).astype(np.float64))
    assert (error <= 1e-6 * np.maximum(1.0, np.abs(x))).all()
    assert error[np.abs(x) <= 4].max() <= 1e-6


def test_softmax_of_masked_and_huge_scores():
    x = np.array([[0.0, -np.inf, 1e4, 1e4], [-1e30, -1e30, -1e30, -1e30]], np.float32)
    out = np.empty_like(x)
    pointwise.softmax(x, out)
    np.testing.assert_array_equal(out[0], [0, 0, 0.5, 0.5])
    np.testing.assert_allclose(out[1], 0.25, atol=1e-6)


@pytest.mark.parametrize("shape", SHAPES)
def test_layer_norm_matches_float64(shape):
    x = _rows(2, shape) + np.float32(5.0)
    gamma, beta = _rows(3, (2, shape[1]))
    expected = reference.layer_norm(x, gamma, beta, 1e-5)
    out = _strided(np.zeros_like(x))
    pointwise.layer_norm(_strided(x), gamma, beta, 1e-5, out)
    np.testing.assert_allclose(out, expected, atol=2e-5, rtol=2e-5)


@pytest.mark.parametrize("shape", SHAPES)
def test_add_takes_a_matrix_or_one_row(shape):
    a, b = _rows(4, shape), _rows(5, shape)
    for second in (b, b[:1]):
        out = np.empty_like(a)
        pointwise.add(a, second, out)
        np.testing.assert_array_equal(out, reference.add(a, second))


@given(seed=st.integers(0, 9999), rows=st.integers(1, 5), width=st.integers(1, 70),
       exponent=st.integers(-44, 36))  # fmt: skip
def test_dynamic_quantisation_is_bit_for_bit_the_reference(seed, rows, width, exponent):
    x = (_rows(seed, (rows, width)) * 10.0**exponent).astype(np.float32)
    x[0] *= np.float32(seed % 2)  # a row of zeros now and then
    q, scale = np.empty(x.shape, np.int8), np.empty(rows, np.float32)
    pointwise.dynamic_quantize_row(_strided(x), q, scale)
    codes, expected = reference.dynamic_quantize_row(x)
    np.testing.assert_array_equal(q, codes)
    np.testing.assert_array_equal(scale, expected)
    one = np.empty(1, np.float32)
    pointwise.dynamic_quantize_tensor(x, q, one)
    codes, expected = reference.dynamic_quantize_tensor(x)
    np.testing.assert_array_equal(q, codes)
    np.testing.assert_array_equal(one, expected)


def test_ties_round_to_even_and_the_largest_is_127():
    x = np.array([[127.0, 0.5, 1.5, -2.5, -127.0]], np.float32)
    q, scale = np.empty(x.shape, np.int8), np.empty(1, np.float32)
    pointwise.dynamic_quantize_row(x, q, scale)
    assert q.tolist() == [[127, 0, 2, -2, -127]]
    assert scale.tolist() == [1.0]


@pytest.mark.parametrize("poison", [np.nan, np.inf, -np.inf])
def test_what_is_not_a_number_stays_visible(poison):
    x = _rows(6, (3, 40))
    x[1, 33] = poison
    q, scale = np.empty(x.shape, np.int8), np.empty(3, np.float32)
    pointwise.dynamic_quantize_row(x, q, scale)
    assert np.isnan(scale).tolist() == [False, True, False]
    assert not q[1].any()
    one = np.empty(1, np.float32)
    pointwise.dynamic_quantize_tensor(x, q, one)
    assert np.isnan(one[0])
    if np.isnan(poison):
        for op in ("gelu", "softmax", "relu", "silu"):
            out = np.empty_like(x)
            getattr(pointwise, op)(x, out)
            assert np.isnan(out[1, 33]), op
            assert not np.isnan(out[0]).any()
        pointwise.layer_norm(x, x[0], x[2], 1e-5, out)
        assert np.isnan(out[1]).all()


def test_shapes_and_strides_that_do_not_fit_are_named():
    x, out = np.zeros((2, 6), np.float32), np.zeros((2, 5), np.float32)
    with pytest.raises(ValueError, match=r"gelu: found float32 \(2, 6\).*\(2, 5\)"):
        pointwise.gelu(x, out)
    with pytest.raises(ValueError, match="unit inner stride"):
        pointwise.relu(x[:, ::2], out[:, :3])
    with pytest.raises(ValueError, match="layer_norm"):
        pointwise.layer_norm(x, out[0], out[0], 1e-5, x)
