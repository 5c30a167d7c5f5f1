"""Linear layers that leave zeros out: the same sums as dense ones, chosen where they are faster."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kernels import csr, harness, panels, reference
from kernels import encodings as enc
from kernels.finish import MISFIT
from kernels.finish_rows import RAW
from kernels.jit import host_features
from kernels.registry import KERNELS, Matrix

EPSILON = np.finfo(np.float32).eps
NONE = np.zeros(0, np.float32)
NAMES = ("f32_csr_blocks", "f32_masks")
needs_avx2 = pytest.mark.skipif(not host_features() >= {"avx2", "fma"}, reason="needs AVX2, FMA")
pytestmark = needs_avx2


def _weights(rng: np.random.Generator, shape: tuple[int, int], density: float) -> np.ndarray:
    return (rng.standard_normal(shape) * (rng.random(shape) < density)).astype(np.float32)


def _call(name, w, x, out, *, w_scale=NONE, x_scale=NONE, bias=NONE, steps=0, threads=1):
    """Status of one kernel run on float rows alone."""
    row = KERNELS[name]
    run = row.run.ready() if threads == 1 else row.run.ready_parallel()
    absent = (np.zeros((0, 0), np.int8), NONE)
    none = np.zeros((0, 0), np.float32)
    packed = row.layout.pack(Matrix(w))
    return run(x, *packed, w_scale, x_scale, bias, none, out, *absent, steps, threads)


def _run(name: str, w: np.ndarray, x: np.ndarray, bias: np.ndarray = NONE, **more) -> np.ndarray:
    """Output of one kernel, in a wider array whose rest must stay untouched."""
    wide = np.full((len(x), len(w) + 3), 7.0, np.float32)
    assert _call(name, w, x, wide[:, : len(w)], bias=bias, **more) == 0
    assert (wide[:, len(w) :] == 7.0).all()
    return wide[:, : len(w)]


def _bound(x: np.ndarray, w: np.ndarray, bias: np.ndarray | float = 0.0) -> np.ndarray:
    """Worst rounding of block sums: (block + blocks + 1) eps / 2 of the sum of magnitudes."""
    k = w.shape[1]
    block = min(k, csr.step_block(np.count_nonzero(w) / w.size))
    chain = block + -(-k // block) + 1
    magnitudes = np.abs(x).astype(np.float64) @ np.abs(w).astype(np.float64).T + np.abs(bias)
    return chain * EPSILON / 2 * magnitudes + 1e-30


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("rows", [*range(1, 18), 32, 33, 48, 49, 64, 65, 100, 131])
def test_sums_stay_within_the_rounding_bound_for_any_number_of_rows(name, rows):
    rng = np.random.default_rng(rows)
    for n, k, density in [(21, 203, 0.4), (8, 96, 0.05), (1, 1, 1.0), (530, 97, 0.2), (9, 5, 0.6)]:
        w = _weights(rng, (n, k), density)
        x = rng.standard_normal((rows, k)).astype(np.float32)
        bias = rng.standard_normal(n).astype(np.float32)
        exact = x.astype(np.float64) @ w.astype(np.float64).T
        assert (np.abs(_run(name, w, x) - exact) <= _bound(x, w)).all()
        found = _run(name, w, x, bias)
        assert (np.abs(found - (exact + bias)) <= _bound(x, w, bias)).all()
        np.testing.assert_array_equal(_run(name, w, x, bias), found)  # bit for bit


@settings(max_examples=120)
@given(
    seed=st.integers(0, 10**6),
    rows=st.integers(1, 70),
    n=st.integers(1, 40),
    k=st.integers(1, 300),
    density=st.sampled_from([0.0, 0.01, 0.3, 0.97, 1.0]),
)
def test_small_whole_numbers_give_exact_sums(seed, rows, n, k, density):
    rng = np.random.default_rng(seed)
    w = (rng.integers(-9, 10, (n, k)) * (rng.random((n, k)) < density)).astype(np.float32)
    x = rng.integers(-9, 10, (rows, k)).astype(np.float32)
    bias = rng.integers(-9, 10, n).astype(np.float32) if seed % 2 else NONE
    exact = reference.linear_f32(x, w, bias if bias.size else None)
    ids = rng.integers(0, n, 5)
    for name in NAMES:
        np.testing.assert_array_equal(_run(name, w, x, bias), exact)
        layout = KERNELS[name].layout
        np.testing.assert_array_equal(layout.rows(layout.pack(Matrix(w)), ids), w[ids])


@pytest.mark.parametrize("name", NAMES)
def test_rows_without_nonzeros_give_the_bias_and_empty_column_blocks_add_nothing(name):
    rng = np.random.default_rng(3)
    w = _weights(rng, (600, 400), 0.3)
    empty = [0, 5, 511, 512, 599]
    w[empty] = 0
    w[:, 96:192] = 0
    bias = rng.standard_normal(600).astype(np.float32)
    x = rng.standard_normal((67, 400)).astype(np.float32)
    found = _run(name, w, x, bias)
    assert (found[:, empty] == bias[empty]).all()
    exact = reference.linear_f32(x, w, bias)
    assert (np.abs(found - exact) <= _bound(x, w, bias)).all()


@pytest.mark.parametrize("name", NAMES)
def test_infinities_stay_in_their_row_of_activations_and_of_weights(name):
    rng = np.random.default_rng(4)
    w = _weights(rng, (20, 50), 0.5)
    x = rng.standard_normal((21, 50)).astype(np.float32)
    plain = _run(name, w, x)
    x[13, 7] = np.nan
    found = _run(name, w, x)
    assert np.isnan(found[13, w[:, 7] != 0]).all()
    others = np.arange(21) != 13
    np.testing.assert_array_equal(found[others], plain[others])
    w[6] = np.inf  # its neighbours' nonzeros lie beside it in memory
    found = _run(name, w, x[others])
    assert not np.isfinite(found[:, 6]).any()
    keep = np.arange(20) != 6
    np.testing.assert_allclose(found[:, keep], plain[others][:, keep], rtol=1e-4, atol=1e-5)
    assert np.isfinite(found[:, keep]).all()


@pytest.mark.parametrize("name", NAMES)
def test_what_does_not_fit_is_refused(name):
    w = np.eye(6, dtype=np.float32)
    x, out = np.zeros((2, 6), np.float32), np.zeros((2, 6), np.float32)
    assert _call(name, w, x, out) == 0
    for bad_x, bad_bias, bad_out in [
        (x[:, :5], NONE, out),
        (x, NONE, out[:1]),
        (x, NONE, out[:, :5]),
        (x, np.zeros(5, np.float32), out),
        (x, np.zeros(12, np.float32)[::2], out),
        (np.zeros((2, 12), np.float32)[:, ::2], NONE, out),
        (x, NONE, np.zeros((6, 2), np.float32).T),
    ]:
        assert _call(name, w, bad_x, bad_out, bias=bad_bias) == MISFIT
    assert _call(name, w, x, out, steps=RAW) == MISFIT  # float sums are no integers


@pytest.mark.parametrize("encode", [enc.encode_csr, enc.encode_bitmap])
@pytest.mark.parametrize("rows", [1, 4, 16, 200])
def test_any_kernel_chosen_for_a_sparse_encoding_computes_it(encode, rows):
    rng = np.random.default_rng(5)
    for density in (0.05, 0.3, 0.9):
        w = _weights(rng, (100, 300), density)
        panel = panels.prepare_linear(encode(w), rows=rows)
        assert panel.reason
        x = rng.standard_normal((rows, 300)).astype(np.float32)
        out = np.empty((rows, 100), np.float32)
        panels.linear(panel, x, out)
        magnitudes = np.abs(x).astype(np.float64) @ np.abs(w).astype(np.float64).T
        assert (np.abs(out - reference.linear_f32(x, w)) <= 4 * EPSILON * magnitudes).all()
        found = np.empty((3, 300), np.float32)
        panels.embedding(panel, np.array([99, 0, 99]), found)
        np.testing.assert_array_equal(found, w[[99, 0, 99]])


def test_a_sparse_convolution_reads_overlapping_rows():
    rng = np.random.default_rng(6)
    w = (rng.standard_normal((24, 10, 3)) * (rng.random((24, 10, 3)) < 0.3)).astype(np.float32)
    signal = rng.standard_normal((90, 10)).astype(np.float32)
    x = np.lib.stride_tricks.as_strided(signal, (44, 30), (4 * 20, 4))
    panel = panels.prepare_linear(enc.encode_csr(w), rows=44, kernel_size=3)
    out = np.empty((44, 24), np.float32)
    panels.linear(panel, x, out)
    for t in range(44):
        window = signal[2 * t : 2 * t + 3].astype(np.float64)  # (size, C)
        exact = np.einsum("ncs,sc->n", w.astype(np.float64), window)
        np.testing.assert_allclose(out[t], exact, atol=1e-5)


@pytest.mark.benchmark
@pytest.mark.parametrize(("density", "least"), [(0.5, 1.25), (0.2, 2.4)])
def test_the_encoder_layer_beats_the_dense_kernel(density, least):
    rng = np.random.default_rng(7)
    w = _weights(rng, (1536, 384), density)
    x = rng.standard_normal((1500, 384)).astype(np.float32)
    out = np.empty((1500, 1536), np.float32)
    made = {"sparse": enc.encode_csr(w), "dense": enc.encode_dense(w)}
    ready = {name: panels.prepare_linear(e, rows=1500) for name, e in made.items()}
    samples = harness.alternate(
        {name: lambda p=panel: panels.linear(p, x, out) for name, panel in ready.items()}
    )
    assert samples["dense"].median_s / samples["sparse"].median_s >= least
