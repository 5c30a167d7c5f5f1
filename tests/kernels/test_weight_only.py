"""Weight-only linear layers: codes times float activations, against float64 in every form."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kernels import encodings as enc
from kernels import panels
from kernels.finish import MISFIT, NAN_SCALE
from kernels.float_blocks import FEW_ROWS
from kernels.float_tiles import LONGEST_BLOCK, STEP_BLOCK
from kernels.jit import host_features
from kernels.registry import KERNELS, SIMD, Matrix

pytestmark = pytest.mark.skipif(
    not host_features().issuperset(SIMD), reason="these tiles need AVX2 and FMA"
)
EPSILON = float(np.finfo(np.float32).eps)
BITS = [8, 4, 3, 2]
_NONE = np.zeros(0, np.float32)


def _codes(rng, bits, shape):
    limit = 1 << (bits - 1)
    return rng.integers(-limit, limit, shape).astype(np.int8)


def _zero_points(kind, rng, bits, shape):
    limit = 1 << (bits - 1)
    return {
        "none": None,
        "whole": rng.integers(-limit, limit, shape).astype(np.int8),
        "large": rng.integers(-128, 128, shape).astype(np.int8),
        "fraction": rng.uniform(-limit, limit, shape).astype(np.float32),
    }[kind]


def _weights(matrix):
    """Weights in float64, rounded nowhere."""
    k = matrix.values.shape[1]

    def spread(table):
        return np.repeat(table.astype(np.float64), matrix.group, axis=1)[:, :k]

    zero = 0.0 if matrix.zero_point is None else spread(matrix.zero_point)
    return (matrix.values.astype(np.float64) - zero) * spread(matrix.scale)


def _run(matrix, bits, x, *, bias=None, threads=1, out=None):
    grouped = matrix.zero_point is not None or matrix.scale.shape[1] > 1
    row = KERNELS[f"w{bits}a32_group" if grouped else f"w{bits}a32"]
    arguments = row.layout.pack(matrix)
    scale = _NONE if grouped else np.ascontiguousarray(matrix.scale[:, 0])
    out = np.full((len(x), len(matrix.values)), np.nan, np.float32) if out is None else out
    floats, codes = np.zeros((0, 0), np.float32), np.zeros((0, 0), np.int8)
    run = row.run.ready() if threads == 1 else row.run.ready_parallel()
    bias = _NONE if bias is None else bias
    end = (scale, _NONE, bias, floats, out, codes, _NONE, 0, threads)
    assert run(x, *arguments, *end) == 0
    return out


def _assert_close(y, matrix, x, bias=None):
    """Check the bound for any input: weights, sums of the longest block, blocks and the bias."""
    w, k = _weights(matrix), x.shape[1]
    exact = x.astype(np.float64) @ w.T
    size = np.abs(x).astype(np.float64) @ np.abs(w).T
    if bias is not None:
        exact, size = exact + bias, size + np.abs(bias)
    roundings = min(k, LONGEST_BLOCK) + -(-k // STEP_BLOCK) + 1 + 2
    # activations are made up to 2^24 times smaller: below 2^-102 they lose bits
    lost = 2.0**-126 * np.abs(w).sum(axis=1)
    assert (np.abs(y - exact) <= roundings * EPSILON / 2 * size + lost).all()


@pytest.mark.parametrize("zero", ["none", "whole", "large", "fraction"])
@pytest.mark.parametrize("bits", BITS)
def test_every_form_of_the_codes_is_within_the_bound(bits, zero):
    rng = np.random.default_rng(bits)
    for k, group in [(131, 131), (768, 128), (260, 32), (300, 64), (257, 36), (130, 50), (23, 7)]:
        n, groups = 37, -(-k // group)
        scale = rng.uniform(0.01, 0.1, (n, groups)).astype(np.float32)
        matrix = Matrix(
            _codes(rng, bits, (n, k)), scale, _zero_points(zero, rng, bits, (n, groups)), group
        )
        bias = rng.standard_normal(n).astype(np.float32)
        for rows in (1, 2, FEW_ROWS, FEW_ROWS + 1, 7, 16, 97):
            x = rng.standard_normal((rows, k)).astype(np.float32)
            _assert_close(_run(matrix, bits, x, bias=bias), matrix, x, bias)


@given(
    bits=st.sampled_from(BITS),
    rows=st.integers(1, 20) | st.sampled_from([96, 121, 217]),
    k=st.integers(1, 90) | st.sampled_from([255, 257, 385, 1030]),
    n=st.integers(1, 40) | st.sampled_from([250, 300]),
    group=st.sampled_from([4, 8, 20, 32, 64, 128, 7, 50, 0]),
    zero=st.sampled_from(["none", "whole", "fraction"]),
    seed=st.integers(0, 99),
)
@settings(deadline=None, max_examples=60)
def test_any_shape_and_number_of_threads_gives_the_same_close_result(
    bits, rows, k, n, group, zero, seed
):
    rng = np.random.default_rng(seed)
    group = group or k
    groups = -(-k // group)
    matrix = Matrix(
        _codes(rng, bits, (n, k)),
        rng.uniform(0.01, 0.1, (n, groups)).astype(np.float32),
        _zero_points(zero, rng, bits, (n, groups)),
        group,
    )
    x = rng.standard_normal((rows, k)).astype(np.float32)
    around = np.full((rows, n + 20), np.float32(7.0))
    y = _run(matrix, bits, x, out=around[:, 4 : 4 + n])
    _assert_close(y, matrix, x)
    np.testing.assert_array_equal(y, _run(matrix, bits, x, threads=2))
    np.testing.assert_array_equal(y, _run(matrix, bits, x, threads=3))
    around[:, 4 : 4 + n] = 7.0
    assert (around == 7.0).all()


@pytest.mark.parametrize("rows", [1, 5])
@pytest.mark.parametrize("bits", BITS)
def test_codes_and_activations_at_their_limits_stay_within_the_bound(bits, rows):
    rng = np.random.default_rng(rows)
    n, k, group = 33, 640, 128
    limit = 1 << (bits - 1)
    scale = np.full((n, 5), np.float32(1 / 3))
    lows, highs = np.full((n, k), -limit), np.full((n, k), limit - 1)
    alternating = np.where(np.arange(k) % 2, lows, highs)
    for codes in (lows, highs, alternating):
        for size in (1e-42, 2.0**-110, 1.0, 2.0**60):
            for signs in (1.0, np.where(np.arange(k) % 3, 1.0, -1.0)):
                x = (signs * rng.uniform(0.5, 1, (rows, k)) * size).astype(np.float32)
                for zero in (None, np.full((n, 5), -limit, np.int8)):
                    matrix = Matrix(codes.astype(np.int8), scale, zero, group)
                    _assert_close(_run(matrix, bits, x), matrix, x)


@pytest.mark.parametrize("rows", [1, 100])
def test_a_weight_that_equals_its_zero_point_adds_nothing(rows):
    rng = np.random.default_rng(rows)
    codes = _codes(rng, 4, (20, 256))
    zero = codes[:, ::128].copy()
    codes[:, 1:128] = zero[:, :1]
    codes[:, 129:] = zero[:, 1:]
    matrix = Matrix(codes, np.ones((20, 2), np.float32), zero, 128)
    x = rng.standard_normal((rows, 256)).astype(np.float32)
    np.testing.assert_array_equal(_run(matrix, 4, x), np.zeros((rows, 20)))


@pytest.mark.parametrize("rows", [1, 16, 499])
def test_prepared_panels_hold_codes_and_no_floats(rows):
    rng = np.random.default_rng(0)
    scale = rng.uniform(0.1, 1, (96, 2)).astype(np.float32)
    zero = rng.integers(-8, 8, (96, 2)).astype(np.int8)
    encoding = enc.encode_bitpacked(
        _codes(rng, 4, (96, 256)), scale, bits=4, group=128, zero_point=zero
    )
    panel = panels.prepare_linear(encoding, rows=rows)
    assert panel.kernel == "w4a32_group"
    assert panel.nbytes < 96 * 256 / 2 + 2 * 96 * 2 * 4 + 4096
    x = rng.standard_normal((rows, 256)).astype(np.float32)
    out = np.empty((rows, 96), np.float32)
    panels.linear(panel, x, out)
    exact = x.astype(np.float64) @ enc.decode(encoding).astype(np.float64).T
    np.testing.assert_allclose(out, exact, rtol=0, atol=1e-3)


def test_scales_that_are_missing_or_not_numbers_are_refused():
    matrix = Matrix(np.ones((4, 6), np.int8), np.ones((4, 1), np.float32), None, 6)
    row = KERNELS["w8a32"]
    arguments = row.layout.pack(matrix)
    x, out = np.ones((2, 6), np.float32), np.empty((2, 4), np.float32)
    floats, codes = np.zeros((0, 0), np.float32), np.zeros((0, 0), np.int8)
    end = (_NONE, _NONE, floats, out, codes, _NONE, 0, 1)
    assert row.run(x, *arguments, _NONE, *end) == MISFIT
    bad = np.array([1, np.nan, 1, 1], np.float32)
    assert row.run(x, *arguments, bad, *end) == NAN_SCALE
