"""Rows that are not negative become 0 or one level: the kernel, its reference and the claim."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from kernels import reference
from kernels.binarize import binarize_steps

ROWS = st.tuples(st.integers(1, 4), st.integers(1, 40)).flatmap(
    lambda shape: arrays(np.float32, shape, elements=st.floats(-4, 4, width=16))
)


def steps(x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    packed = np.full((len(x), (x.shape[1] + 7) // 8), 255, np.uint8)
    level = np.empty(len(x), np.float32)
    binarize_steps(x, packed, level)
    return packed, level


@settings(deadline=None)
@given(ROWS)
def test_bits_and_levels_are_those_of_the_reference(x):
    packed, level = steps(x)
    bits, wanted = reference.binarize_steps(x)
    np.testing.assert_allclose(level, wanted, rtol=1e-6)
    near = np.abs(x - wanted[:, None] / 2) <= 1e-6 * wanted[:, None]
    sure = ~near.any(axis=1) | (np.ptp(x, axis=1) == 0)
    np.testing.assert_array_equal(packed[sure], bits[sure])


def test_a_row_by_hand():
    packed, level = steps(np.array([[4, 2, 1, 0, -9, 0, 0, 0, 1]], np.float32))
    assert level.tolist() == [22 / 8]  # (16 + 4 + 1 + 1) / (4 + 2 + 1 + 1)
    assert packed.tolist() == [[0b11, 0]]  # above 11 / 8


@given(st.integers(1, 30), st.integers(0, 30), st.floats(0.125, 8, width=16))
def test_values_alike_beside_zeros_are_kept_exactly(count, zeros, value):
    x = np.array([[value] * count + [0.0] * zeros], np.float32)
    packed, level = steps(x)
    bits = np.unpackbits(packed, axis=1, count=count + zeros, bitorder="little")
    np.testing.assert_allclose(bits * level[:, None], x, rtol=1e-6)


def test_rows_without_ones_have_the_level_zero_and_rows_with_nan_show_it():
    x = np.zeros((3, 9), np.float32)
    x[1] -= 1
    x[2, 3] = np.nan
    packed, level = steps(x)
    assert not packed.any()
    assert level[:2].tolist() == [0, 0]
    assert np.isnan(level[2])


@pytest.mark.parametrize(
    ("x", "packed", "level"),
    [((2, 9), (2, 1), 2), ((2, 9), (1, 2), 2), ((2, 9), (2, 2), 1), ((2, 0), (2, 0), 2)],
)
def test_shapes_that_do_not_fit_are_told(x, packed, level):
    with pytest.raises(ValueError, match=r"binarize_steps: found x float32 \(2, "):
        binarize_steps(
            np.zeros(x, np.float32), np.zeros(packed, np.uint8), np.zeros(level, np.float32)
        )
