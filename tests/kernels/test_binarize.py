"""Float rows to bits: exact flags and scales, NaN never hidden."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kernels import reference
from kernels.binarize import binarize


def _run(x, threshold=None, level=None, is_signed=True):
    bits = np.full((len(x), -(-x.shape[1] // 8)), 255, np.uint8)
    scale = np.full(len(x), -1.0, np.float32)
    binarize(x, bits, scale, threshold=threshold, level=level, is_signed=is_signed)
    return bits, scale


def _expected(x, threshold, level, is_signed):
    full = np.broadcast_to(np.zeros(1) if threshold is None else threshold, x.shape[1:])
    full = full.astype(np.float32)
    if is_signed:
        return reference.binarize_signed(x, full, level)
    return reference.binarize_unsigned(x, full, level)


@settings(max_examples=150)
@given(
    seed=st.integers(0, 10**6),
    rows=st.integers(0, 5),
    k=st.integers(1, 70),
    bounds=st.sampled_from(["none", "one", "each"]),
    is_signed=st.booleans(),
    has_level=st.booleans(),
)
def test_bits_and_scales_equal_the_reference(seed, rows, k, bounds, is_signed, has_level):
    rng = np.random.default_rng(seed)
    x = (rng.integers(-8, 9, (rows, k)) / 8).astype(np.float32)  # many are equal to a threshold
    size = {"none": 0, "one": 1, "each": k}[bounds]
    threshold = (rng.integers(-4, 5, size) / 8).astype(np.float32) if size else None
    level = 0.5 if has_level or not is_signed else None  # half a level is met exactly
    bits, scale = _run(x, threshold, level, is_signed)
    expected_bits, expected_scale = _expected(x, threshold, level, is_signed)
    np.testing.assert_array_equal(bits, expected_bits)
    np.testing.assert_array_equal(scale, expected_scale)  # sums of eighths are exact


def test_the_mean_distance_is_rounded_once():
    rng = np.random.default_rng(0)
    x = rng.standard_normal((50, 777)).astype(np.float32)
    _, scale = _run(x)
    exact = np.abs(x.astype(np.float64)).mean(axis=1)
    assert (np.abs(scale - exact) <= np.spacing(scale) * 0.501).all()


@pytest.mark.parametrize("is_signed", [True, False])
@pytest.mark.parametrize("place", [0, 7, 8, 16])
def test_nan_shows_in_the_scale_of_its_row(is_signed, place):
    x = np.ones((3, 17), np.float32)
    x[1, place] = np.nan
    bits, scale = _run(x, level=0.5, is_signed=is_signed)
    assert np.isnan(scale).tolist() == [False, True, False]
    assert np.unpackbits(bits[1:2], count=17, bitorder="little")[place] == 0
    with pytest.raises(ValueError, match="found NaN in x"):
        binarize(x, bits, level=0.5, is_signed=is_signed)


def test_infinities_are_ordinary_values():
    x = np.array([[np.inf, -np.inf, 1.0]], np.float32)
    bits, scale = _run(x)
    assert bits.tolist() == [[5]]
    assert scale.tolist() == [np.inf]
    bits, scale = _run(x, level=0.5, is_signed=False)
    assert bits.tolist() == [[5]]
    assert scale.tolist() == [0.5]


def test_strided_rows_are_read_and_written_in_place():
    rng = np.random.default_rng(1)
    wide = rng.standard_normal((4, 40)).astype(np.float32)
    held = np.full((4, 9), 7, np.uint8)
    binarize(wide[:, 3:22], held[:, 2:5])
    np.testing.assert_array_equal(held[:, 2:5], _run(wide[:, 3:22].copy())[0])
    assert (held[:, :2] == 7).all()
    assert (held[:, 5:] == 7).all()


def test_unfit_arguments_are_named():
    x, bits = np.ones((2, 9), np.float32), np.empty((2, 2), np.uint8)
    with pytest.raises(ValueError, match=r"packed uint8 \(2, 1\).*ceil\(K / 8\)"):
        binarize(x, bits[:, :1])
    with pytest.raises(ValueError, match="level None for unsigned bits"):
        binarize(x, bits, is_signed=False)
    with pytest.raises(ValueError, match="found level -1"):
        binarize(x, bits, level=-1.0)
    with pytest.raises(ValueError, match="NaN True"):
        binarize(x, bits, threshold=np.full(1, np.nan, np.float32))
    with pytest.raises(ValueError, match=r"threshold float32 \(4,\)"):
        binarize(x, bits, threshold=np.zeros(4, np.float32))
    with pytest.raises(ValueError, match="scale float32"):
        binarize(x, bits, np.empty(3, np.float32))
    with pytest.raises(TypeError, match="float64"):
        binarize(x.astype(np.float64), bits)
    with pytest.raises(ValueError, match="unit inner strides"):
        binarize(np.ones((2, 18), np.float32)[:, ::2], bits)
    with pytest.raises(ValueError, match="K at least 1"):
        binarize(x[:, :0], bits[:, :0])
