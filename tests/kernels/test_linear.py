"""Linear layers: every registered kernel against plain numpy, exact where integers are."""

import numpy as np
import pytest

from kernels import encodings as enc
from kernels import panels, reference

ROWS = [*range(1, 18), 96, 97]
SHAPES = [(16, 128), (50, 37), (1, 1), (33, 385), (17, 3)]
EPSILON = np.finfo(np.float32).eps


def _run(panel: panels.LinearPanel, x: np.ndarray, scale=None, bias=None) -> np.ndarray:
    out = np.full((len(x), panel.n), np.nan, np.float32)
    panels.linear(panel, x, out, x_scale=scale, bias=bias)
    return out


def _float_bound(x: np.ndarray, w: np.ndarray) -> np.ndarray:
    """4 eps sum |x| |w|: notes of the numerics of blocked float32 sums."""
    return 4 * EPSILON * (np.abs(x).astype(np.float64) @ np.abs(w).astype(np.float64).T) + 1e-30


@pytest.mark.parametrize(("n", "k"), [*SHAPES, (40, 1000)])
def test_float_layers_stay_within_the_rounding_bound(n, k):
    rng = np.random.default_rng(n * k)
    w = rng.standard_normal((n, k)).astype(np.float32)
    bias = rng.standard_normal(n).astype(np.float32)
    panel = panels.prepare_linear(enc.encode_dense(w), rows=97)
    for rows in ROWS:
        x = rng.standard_normal((rows, k)).astype(np.float32)
        exact = x.astype(np.float64) @ w.astype(np.float64).T
        bound = _float_bound(x, w)
        assert (np.abs(_run(panel, x) - exact) <= bound).all()
        biased = _run(panel, x, bias=bias)
        assert (np.abs(biased - (exact + bias)) <= bound + 2 * EPSILON * np.abs(bias)).all()
        np.testing.assert_array_equal(_run(panel, x, bias=bias), biased)


@pytest.mark.parametrize("bits", [8, 4, 3, 2])
@pytest.mark.parametrize("group", [None, 32])
def test_weight_only_layers_match_the_dequantised_weights(bits, group):
    rng = np.random.default_rng(bits)
    limit = {8: 127, 4: 7, 3: 3, 2: 1}[bits]
    n, k = 37, 131
    codes = rng.integers(-limit, limit + 1, (n, k))
    scale = rng.uniform(0.01, 0.1, (n, 1 if group is None else -(-k // group)))
    encoding = enc.encode_bitpacked(codes, scale, bits=bits, group=group)
    w = enc.decode(encoding)
    for rows in ROWS:
        panel = panels.prepare_linear(encoding, rows=rows)
        x = rng.standard_normal((rows, k)).astype(np.float32)
        error = np.abs(_run(panel, x) - x.astype(np.float64) @ w.astype(np.float64).T)
        assert (error <= _float_bound(x, w)).all(), panel.kernel


def test_sparse_codes_run_on_integers_like_dense_ones():
    rng = np.random.default_rng(0)
    codes = rng.integers(-127, 128, (20, 70)) * (rng.random((20, 70)) < 0.3)
    scale = np.ones((20, 1), np.float32)
    x = rng.integers(-127, 128, (5, 70)).astype(np.int8)
    for encode in (enc.encode_csr, enc.encode_bitmap):
        panel = panels.prepare_linear(encode(codes, scale, bits=8), rows=5, activation="i8")
        out = np.empty((5, 20), np.int32)
        panels.accumulate(panel, x, out)
        np.testing.assert_array_equal(out, reference.linear_accumulators(x, codes))


def test_overlapping_rows_are_read_where_they_are():
    rng = np.random.default_rng(1)
    signal = rng.standard_normal(400).astype(np.float32)
    x = np.lib.stride_tricks.as_strided(signal, (50, 21), (4 * 7, 4))
    w = rng.standard_normal((19, 21)).astype(np.float32)
    panel = panels.prepare_linear(enc.encode_dense(w), rows=50)
    np.testing.assert_array_equal(_run(panel, x), _run(panel, x.copy()))


def test_embedding_gathers_dequantised_rows_of_any_panel():
    rng = np.random.default_rng(2)
    codes = rng.integers(-7, 8, (70, 29))
    scale = rng.uniform(0.1, 1, (70, 1)).astype(np.float32)
    ids = np.array([0, 69, 15, 16, 8, 7, 8])
    out = np.empty((7, 29), np.float32)
    for bits in (8, 4):
        encoding = enc.encode_bitpacked(codes, scale, bits=bits)
        for activation in ("f32", "i8"):
            for rows in (1, 100):
                panel = panels.prepare_linear(encoding, rows=rows, activation=activation)
                panels.embedding(panel, ids, out)
                np.testing.assert_array_equal(out, enc.decode(encoding)[ids])
    with pytest.raises(ValueError, match=r"found ids \[0, 70\], expected \[0, 69\]"):
        panels.embedding(panel, np.array([0, 70]), out[:2])
    with pytest.raises(ValueError, match="embedding: out"):
        panels.embedding(panel, ids, out[:3])


def test_panels_of_one_constant_share_arrays_where_layouts_agree():
    encoding = enc.encode_bitpacked(np.ones((20, 40), int), np.ones((20, 1)), bits=8)
    integer = panels.prepare_linear(encoding, rows=1500, activation="i8")
    single = panels.prepare_linear(encoding, rows=1, activation="f32", share=[integer])
    assert (single.kernel != integer.kernel) or not panels.host_features()
    assert single.arguments[0] is integer.arguments[0]
    many = panels.prepare_linear(encoding, rows=1500, activation="f32", share=[integer])
    assert many.arguments[0] is integer.arguments[0]
    floats = enc.encode_dense(np.ones((20, 40), np.float32))
    other = panels.prepare_linear(floats, rows=1500, share=[integer])
    assert other.arguments[0] is not integer.arguments[0]


def test_unfit_arguments_are_named():
    panel = panels.prepare_linear(enc.encode_dense(np.ones((4, 6), np.float32)), rows=2)
    x, out = np.ones((2, 6), np.float32), np.empty((2, 4), np.float32)
    with pytest.raises(ValueError, match=r"x float32 \(2, 5\).*expected x float32 \(T, 6\)"):
        panels.linear(panel, x[:, :5], out)
    with pytest.raises(ValueError, match="unit inner stride"):
        panels.linear(panel, np.ones((2, 12), np.float32)[:, ::2], out)
    with pytest.raises(TypeError, match="float64"):
        panels.linear(panel, x.astype(np.float64), out)
    codes = enc.encode_bitpacked(np.ones((4, 6), int), np.ones((4, 1)), bits=8)
    integer = panels.prepare_linear(codes, rows=2, activation="i8")
    with pytest.raises(ValueError, match="x_scale"):
        panels.linear(integer, x.astype(np.int8), out)
    with pytest.raises(ValueError, match="no exact product with i8"):
        panels.prepare_linear(enc.encode_dense(np.ones((4, 6))), rows=2, activation="i8")
    with pytest.raises(ValueError, match="'i9'"):
        panels.prepare_linear(codes, rows=2, activation="i9")
    with pytest.raises(ValueError, match="kernel_size 4"):
        panels.prepare_linear(codes, rows=2, kernel_size=4)


def test_sums_that_could_leave_int32_are_refused():
    wide = enc.encode_bitpacked(np.zeros((1, 140_000), int), np.ones((1, 1)), bits=8)
    with pytest.raises(ValueError, match="140000"):
        panels.prepare_linear(wide, rows=1, activation="i8")
