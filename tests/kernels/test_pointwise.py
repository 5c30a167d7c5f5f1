import math

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


OPS = ["gelu", "softmax", "relu", "silu", "tanh", "sigmoid"]


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("op", OPS)
def test_kernels_match_float64_and_give_the_same_bits_in_place(op, shape):
    x = _rows(1, shape)
    expected = getattr(reference, op)(x)
    out = _strided(np.zeros_like(x))
    getattr(pointwise, op)(_strided(x), out)
    bound = 1e-6 * np.maximum(1.0, np.abs(x))
    assert (np.abs(out.astype(np.float64) - expected) <= bound).all()
    assert np.isnan(out.base[:, shape[1] :]).all() or not shape[1]
    getattr(pointwise, op)(x, x)
    np.testing.assert_array_equal(x, out)


def _every(step: int) -> np.ndarray:
    """One row of float32 of every exponent and sign, ``step`` bit patterns apart."""
    bits = np.arange(0, 0x7F800000, step, dtype=np.uint32)
    return np.concatenate([bits, bits | np.uint32(0x80000000)]).view(np.float32).reshape(1, -1)


EXACT = {
    "silu": lambda x: x / (1.0 + np.exp(-x)),
    "sigmoid": lambda x: 1.0 / (1.0 + np.exp(-x)),
    "tanh": np.tanh,
    "relu": lambda x: np.maximum(x, 0.0),
    "gelu": lambda x: np.array([0.5 * v * math.erfc(-v / math.sqrt(2.0)) for v in x[0].tolist()]),
}
BOUNDS = {
    "silu": (2.5e-7, 1e-36),
    "sigmoid": (2.5e-7, 1e-36),
    "tanh": (2e-7, 1e-36),
    "relu": (0.0, 0.0),
    "gelu": (2.5e-7, 0.0),
}
"""Of |y|, for gelu of max(1, |x|); and a floor."""


@pytest.mark.parametrize("op", sorted(EXACT))
def test_error_bounds_hold_from_the_smallest_to_the_largest_number(op):
    x = _every(7919)
    out = np.empty_like(x)
    getattr(pointwise, op)(x, out)
    with np.errstate(over="ignore"):
        wide = x.astype(np.longdouble) if op != "gelu" else x.astype(np.float64)
        exact = EXACT[op](wide)
    factor, floor = BOUNDS[op]
    size = np.maximum(1.0, np.abs(wide)) if op == "gelu" else np.abs(exact)
    assert (np.abs(out - exact) <= factor * size + floor).all()


@pytest.mark.parametrize(("width", "spread"), [(1, 1.0), (33, 0.1), (499, 3.0), (1500, 30.0)])
def test_softmax_keeps_its_bound(width, spread):
    x = _rows(width, (40, width), spread)
    x64 = x.astype(np.longdouble)
    below = x64 - x64.max(axis=1, keepdims=True)
    exact = np.exp(below) / np.exp(below).sum(axis=1, keepdims=True)
    out = np.empty_like(x)
    pointwise.softmax(x, out)
    bound = (12 + np.abs(below) + width / 8) * 2.0**-24 * exact + 1e-37
    assert (np.abs(out - exact) <= bound).all()


@pytest.mark.parametrize("width", [1, 7, 8, 50])
def test_glu_is_a_product_with_a_sigmoid_also_over_its_own_first_half(width):
    x = _rows(width, (3, 2 * width))
    out = _strided(np.zeros((3, width), np.float32))
    pointwise.glu(_strided(x), out)
    np.testing.assert_allclose(out, reference.glu(x), rtol=3e-7)
    pointwise.glu(x, x[:, :width])
    np.testing.assert_array_equal(x[:, :width], out)


def test_softmax_of_masked_and_huge_scores():
    x = np.array([[0.0, -np.inf, 1e4, 1e4], [-1e30, -1e30, -1e30, -1e30]], np.float32)
    out = np.empty_like(x)
    pointwise.softmax(x, out)
    np.testing.assert_array_equal(out[0], [0, 0, 0.5, 0.5])
    np.testing.assert_allclose(out[1], 0.25, atol=1e-6)


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
        for op in OPS:
            out = np.empty_like(x)
            getattr(pointwise, op)(x, out)
            assert np.isnan(out[1, 33]), op
            assert not np.isnan(out[0]).any()


ODD = np.zeros(4 * 12 + 1, np.uint8)[1:].view(np.float32).reshape(2, 6)
GOOD = np.zeros((2, 6), np.float32)
WRONG = {
    "shape": (GOOD, np.zeros((2, 5), np.float32), r"found float32 \(2, 6\).*\(2, 5\)"),
    "stride": (np.zeros((2, 12), np.float32)[:, ::2], GOOD, "unit inner stride"),
    "type": (GOOD.astype(np.float64), GOOD, r"found float64 \(2, 6\)"),
    "byte order": (GOOD.astype(">f4"), GOOD, "found >f4"),
    "alignment": (ODD, GOOD, "misaligned"),
    "dimensions": (GOOD[0], GOOD, "2 dimensions"),
    "no array": (GOOD.tolist(), GOOD, "found list"),
}


@pytest.mark.parametrize("wrong", sorted(WRONG))
@pytest.mark.parametrize("op", [*OPS, "glu"])
def test_what_does_not_fit_is_named_and_nothing_is_written(op, wrong):
    x, out, message = WRONG[wrong]
    out = np.where(out == 0, np.float32(5.0), out)
    with pytest.raises((ValueError, TypeError), match=f"{op}.*{message}"):
        getattr(pointwise, op)(x, out)
    assert (out == 5.0).all()


@given(rows=st.integers(0, 3), width=st.integers(0, 9), other=st.integers(0, 9),
       steps=st.integers(1, 2), scales=st.integers(0, 4))  # fmt: skip
def test_codes_of_other_shapes_are_refused_before_any_is_written(rows, width, other, steps, scales):
    x = np.ones((rows, width * steps), np.float32)[:, ::steps]
    q, scale = np.full((rows, other), 7, np.int8), np.full(scales, 7.0, np.float32)
    fits = width == other and (steps == 1 or width < 2 or rows == 0)
    for run, length in ((pointwise.dynamic_quantize_row, rows), (
        pointwise.dynamic_quantize_tensor, 1)):  # fmt: skip
        if fits and scales == length:
            run(x, q, scale)
            q[:], scale[:] = 7, 7.0
        else:
            with pytest.raises(ValueError, match=run.__name__):
                run(x, q, scale)
            assert (q == 7).all()
            assert (scale == 7.0).all()
