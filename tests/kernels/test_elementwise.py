"""Broadcast sums and products, factors and row sums: the bits of numpy, on any strides."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kernels import elementwise, reference

KINDS = ["add", "subtract", "multiply"]
SIZES = st.integers(1, 4)


@st.composite
def broadcast(draw, shape):
    """Draw an array that is broadcast to ``shape``: turned, with gaps, with axes of one."""
    rng = np.random.default_rng(draw(st.integers(0, 99)))
    kept = [size if draw(st.booleans()) else 1 for size in shape]
    step = draw(st.sampled_from([-1, 1, 2]))
    order = draw(st.permutations(range(3)))
    memory = rng.standard_normal([kept[axis] for axis in order]).astype(np.float32)
    value = memory.transpose(np.argsort(order))
    wide = np.repeat(value, 2, axis=2)[:, :, ::step] if step == 2 else value[:, :, ::step]
    return np.broadcast_to(wide, shape)


@settings(deadline=None, max_examples=150)
@given(data=st.data(), width=st.sampled_from([1, 2, 7, 8, 33, 255, 256, 257, 600]))
def test_broadcast_arrays_give_the_bits_of_numpy(data, width):
    shape = (data.draw(SIZES), data.draw(SIZES), width)
    a, b = data.draw(broadcast(shape)), data.draw(broadcast(shape))
    out = np.full((*shape[:2], width + 1), 5.0, np.float32)[:, :, :width]
    for kind in KINDS:
        getattr(elementwise, kind)(a, b, out)
        np.testing.assert_array_equal(out, getattr(reference, kind)(a, b))
    elementwise.add_scaled(a, b, 0.3, out)
    np.testing.assert_array_equal(out, reference.add_scaled(a, b, 0.3))
    for shift in (0.0, 1.5):
        elementwise.affine(a, 0.3, shift, out)
        np.testing.assert_array_equal(out, reference.affine(a, 0.3, shift))
    assert (out.base[:, :, width] == 5).all()


@settings(deadline=None, max_examples=40)
@given(data=st.data(), width=st.integers(1, 40))
def test_row_sums_keep_their_bound(data, width):
    shape = (data.draw(SIZES), data.draw(SIZES), width)
    x = data.draw(broadcast(shape))
    out = np.empty(shape[:2], np.float32)
    elementwise.row_sums(x, out)
    allowed = width * 2.0**-24 * np.abs(x).sum(axis=-1)
    assert (np.abs(out - reference.row_sums(x)) <= allowed).all()


@pytest.mark.parametrize("kind", KINDS)
def test_a_result_may_be_an_operand(kind):
    a, b = (np.random.default_rng(i).standard_normal((2, 3, 9)).astype(np.float32) for i in (0, 1))
    wanted = getattr(reference, kind)(a, b)
    getattr(elementwise, kind)(a, b, a)
    np.testing.assert_array_equal(a, wanted)


def test_nan_and_infinity_pass():
    a = np.array([[[np.nan, np.inf, -np.inf, 1.0]]], np.float32)
    out = np.empty_like(a)
    elementwise.add(a, a, out)
    np.testing.assert_array_equal(out, a + a)


X = np.ones((2, 3, 5), np.float32)
WRONG = {
    "other shape": (X, X[:, :2], X.copy()),
    "fewer axes": (X[0], X[0], X[0].copy()),
    "other type": (X, X.astype(np.float64), X.copy()),
    "result with gaps": (X, X, np.ones((2, 3, 10), np.float32)[:, :, ::2]),
    "read-only result": (X, X, np.broadcast_to(np.float32(1), X.shape)),
    "longer result": (X, X, np.ones((3, 3, 5), np.float32)),
}


@pytest.mark.parametrize("case", WRONG)
def test_arrays_that_do_not_fit_are_refused_and_nothing_is_written(case):
    a, b, out = WRONG[case]
    before = out.copy()
    calls = [
        lambda: elementwise.multiply(a, b, out),
        lambda: elementwise.affine(b if case == "other shape" else a, 2.0, 1.0, out),
    ]
    for call in calls[: 1 if case == "other type" else 2]:
        with pytest.raises((ValueError, TypeError), match=r"multiply|affine"):
            call()
    np.testing.assert_array_equal(out, before)


def test_sums_that_do_not_fit_are_refused():
    with pytest.raises(ValueError, match="row_sums"):
        elementwise.row_sums(X, np.ones((2, 2), np.float32))
