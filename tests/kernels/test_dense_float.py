"""Float linear layers: bounded error, one result for any rows and threads, nothing else written."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kernels import dense, panels
from kernels import encodings as enc
from kernels.float_tiles import LONGEST_BLOCK, STEP_BLOCK
from kernels.jit import host_features
from kernels.registry import SIMD, Matrix

pytestmark = pytest.mark.skipif(
    not host_features().issuperset(SIMD), reason="these tiles need AVX2 and FMA"
)
EPSILON = float(np.finfo(np.float32).eps)


def _run(x, w, *, bias=None, threads=1):
    panel = panels.prepare_linear(enc.encode_dense(w), rows=len(x))
    assert panel.kernel == "f32_dense"
    out = np.full((len(x), len(w)), np.nan, np.float32)
    panels.linear(panel, x, out, bias=bias, threads=threads)
    return out


def _exact(x, w, bias=None):
    """Product, and the magnitudes whose rounding can go wrong, in float64."""
    x, w = x.astype(np.float64), w.astype(np.float64)
    y, size = x @ w.T, np.abs(x) @ np.abs(w).T
    return (y, size) if bias is None else (y + bias, size + np.abs(bias))


def _always(k):
    """Relative bound for any input: roundings of the longest block, and one per block."""
    return (min(k, LONGEST_BLOCK) + -(-k // STEP_BLOCK) + 1) * EPSILON / 2


def _data(kind, shape, rng):
    if kind == "normal":
        return rng.standard_normal(shape).astype(np.float32)
    if kind == "uniform":
        return rng.uniform(-1, 1, shape).astype(np.float32)
    if kind == "positive":
        return rng.random(shape, np.float32)
    if kind == "constant":
        return np.full(shape, np.float32(1 / 3))
    # magnitudes over 30 binades with alternating signs, so that sums cancel
    signs = np.where(np.arange(shape[1]) % 2, -1.0, 1.0)
    return (signs * np.exp2(rng.integers(-15, 16, shape))).astype(np.float32)


@pytest.mark.parametrize("kind", ["normal", "positive", "constant", "cancelling"])
@pytest.mark.parametrize(
    ("rows", "k", "n"), [(7, 3072, 33), (13, 385, 17), (121, 300, 300), (1, 1024, 130), (3, 5, 70)]
)
def test_errors_stay_within_the_bound_of_the_blocks(kind, rows, k, n):
    rng = np.random.default_rng(rows)
    x, w = _data(kind, (rows, k), rng), _data(kind, (n, k), rng)
    bias = rng.standard_normal(n).astype(np.float32)
    y, size = _exact(x, w, bias)
    assert (np.abs(_run(x, w, bias=bias) - y) <= _always(k) * size).all()


@pytest.mark.parametrize(("kind", "limit"), [("normal", 4), ("uniform", 4), ("positive", 12)])
@pytest.mark.parametrize(("k", "n"), [(256, 300), (768, 100), (3072, 64), (1500, 40)])
def test_errors_of_ordinary_data_are_a_few_roundings(kind, limit, k, n):
    rng = np.random.default_rng(k)
    x, w = _data(kind, (100, k), rng), _data(kind, (n, k), rng)
    y, size = _exact(x, w)
    assert (np.abs(_run(x, w) - y) <= limit * EPSILON * size).all()


@given(
    rows=st.integers(1, 24) | st.sampled_from([96, 97, 119, 120, 121, 217]),
    k=st.integers(1, 40) | st.sampled_from([255, 256, 257, 384, 385, 641, 1025]),
    n=st.integers(1, 80) | st.sampled_from([255, 256, 257, 300]),
    seed=st.integers(0, 99),
)
@settings(deadline=None, max_examples=40)
def test_an_output_has_the_same_bits_for_any_number_of_rows_outputs_and_threads(rows, k, n, seed):
    rng = np.random.default_rng(seed)
    x = rng.standard_normal((rows, k)).astype(np.float32)
    w = rng.standard_normal((n, k)).astype(np.float32)
    bias = rng.standard_normal(n).astype(np.float32) if seed % 2 else None
    full = _run(x, w, bias=bias)
    np.testing.assert_array_equal(full, _run(x, w, bias=bias))
    row, first = seed % rows, seed % n
    np.testing.assert_array_equal(full[row : row + 1], _run(x[row : row + 1], w, bias=bias))
    part = None if bias is None else bias[first:]
    np.testing.assert_array_equal(full[:, first:], _run(x, w[first:], bias=part))
    for threads in (2, 3):
        np.testing.assert_array_equal(full, _run(x, w, bias=bias, threads=threads))
    y, size = _exact(x, w, bias)
    assert (np.abs(full - y) <= _always(k) * size).all()


@pytest.mark.parametrize(("rows", "n"), [(1, 70), (3, 64), (5, 33), (200, 300)])
def test_nothing_is_written_beside_the_outputs(rows, n):
    rng = np.random.default_rng(n)
    x = rng.standard_normal((rows, 37)).astype(np.float32)
    w = rng.standard_normal((n, 37)).astype(np.float32)
    around = np.full((rows + 2, n + 40), np.float32(7.0))
    panel = panels.prepare_linear(enc.encode_dense(w), rows=rows)
    panels.linear(panel, x, around[1:-1, 20 : 20 + n])
    np.testing.assert_array_equal(around[1:-1, 20 : 20 + n], _run(x, w))
    around[1:-1, 20 : 20 + n] = 7.0
    assert (around == 7.0).all()


@pytest.mark.parametrize("rows", [2, 130])
@pytest.mark.parametrize("n", [19, 300])
def test_overlapping_rows_are_read_where_they_are(rows, n):
    rng = np.random.default_rng(rows)
    signal = rng.standard_normal(7 * rows + 400).astype(np.float32)
    x = np.lib.stride_tricks.as_strided(signal, (rows, 400), (4 * 7, 4))
    w = rng.standard_normal((n, 400)).astype(np.float32)
    np.testing.assert_array_equal(_run(x, w), _run(x.copy(), w))


def test_infinities_and_nan_reach_their_own_outputs_only():
    rng = np.random.default_rng(3)
    x, w = rng.standard_normal((9, 300)), rng.standard_normal((40, 300))
    x[4, 7], w[17, 299] = np.inf, np.nan
    y = _run(x.astype(np.float32), w.astype(np.float32))
    assert np.isnan(y[:, 17]).all()
    finite = np.isfinite(np.delete(y, 17, axis=1))
    assert not finite[4].any()
    assert np.delete(finite, 4, axis=0).all()


def test_panels_give_back_the_rows_they_were_made_of():
    w = np.random.default_rng(0).standard_normal((37, 21)).astype(np.float32)
    ids = np.array([0, 36, 15, 16, 15])
    np.testing.assert_array_equal(dense.rows_f32(dense.pack_f32(Matrix(w)), ids), w[ids])
