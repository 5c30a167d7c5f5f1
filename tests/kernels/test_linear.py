"""Linear layers: every registered kernel against plain numpy, exact where integers are."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kernels import encodings as enc
from kernels import panels, reference
from kernels.registry import KERNELS

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


def _extreme(kind: str, rng: np.random.Generator, shape: tuple[int, int], limit: int) -> np.ndarray:
    signs = rng.choice([-1, 1], (shape[0], 1))
    return {
        "uniform": rng.integers(-limit, limit + 1, shape),
        "largest": np.full(shape, limit),
        "smallest": np.full(shape, -limit),
        "signed_rows": np.full(shape, limit) * signs,
        "alternating": np.full(shape, limit) * np.where(np.arange(shape[1]) % 2, 1, -1),
    }[kind].astype(np.int8)


KINDS = ["uniform", "largest", "smallest", "signed_rows", "alternating"]


@pytest.mark.parametrize("bits", [8, 4, 3, 2])
@pytest.mark.parametrize("weights", KINDS)
@pytest.mark.parametrize("activations", KINDS)
def test_integer_sums_are_exact_for_the_worst_codes(bits, weights, activations):
    rng = np.random.default_rng(bits)
    limit = {8: 127, 4: 7, 3: 3, 2: 1}[bits]
    for n, k in SHAPES:
        w = _extreme(weights, rng, (n, k), limit)
        one = np.ones((1, 1), np.float32)
        encoding = enc.encode_bitpacked(w, one, bits=bits)
        panel = panels.prepare_linear(encoding, rows=97, activation="i8")
        for rows in (1, 2, 3, 5, 6, 7, 13, 97):
            x = _extreme(activations, rng, (rows, k), 127)
            out = np.empty((rows, n), np.int32)
            panels.accumulate(panel, x, out)
            np.testing.assert_array_equal(out, reference.linear_accumulators(x, w))


@settings(max_examples=150)
@given(
    seed=st.integers(0, 10**6),
    rows=st.sampled_from(ROWS),
    n=st.integers(1, 40),
    k=st.integers(1, 300),
    bits=st.sampled_from([8, 4]),
    spread=st.sampled_from([0.05, 0.3, 1.0]),
    per_row=st.booleans(),
)
def test_scaled_codes_equal_the_reference_bit_for_bit(seed, rows, n, k, bits, spread, per_row):
    rng = np.random.default_rng(seed)
    limit = {8: 127, 4: 7}[bits]
    w = rng.integers(-limit, limit + 1, (n, k)).astype(np.int8)
    w_scale = rng.uniform(1e-3, 1e-1, (n, 1)).astype(np.float32)
    x = np.clip(np.rint(rng.standard_normal((rows, k)) * 127 * spread), -127, 127).astype(np.int8)
    x_scale = rng.uniform(0.1, 1, rows if per_row else 1).astype(np.float32)
    bias = rng.standard_normal(n).astype(np.float32) if seed % 2 else None
    encoding = enc.encode_bitpacked(w, w_scale, bits=bits)
    panel = panels.prepare_linear(encoding, rows=rows, activation="i8")
    wide = np.full((rows, n + 3), np.nan, np.float32)
    panels.linear(panel, x, wide[:, :n], x_scale=x_scale, bias=bias)
    full = np.broadcast_to(x_scale, (rows,))
    expected = reference.linear_i8(x, w, full, w_scale[:, 0], bias)
    np.testing.assert_array_equal(wide[:, :n], expected)
    assert np.isnan(wide[:, n:]).all()  # nothing is written past the outputs


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


@pytest.mark.parametrize("name", sorted(KERNELS))
def test_every_registered_linear_kernel_equals_its_reference(name):
    """Conformance: rows are picked up from the registry, none is left out."""
    row = KERNELS[name]
    if not row.is_usable() or row.op != "linear":
        pytest.skip("needs another CPU" if row.op == "linear" else "not a linear layer")
    rng = np.random.default_rng(7)
    n, k, rows = 35, 77, 13
    limit = {"i8": 127, "i4": 7}.get(row.values)
    if limit is None:
        table = (rng.standard_normal((n, k)) * (rng.random((n, k)) < 0.6)).astype(np.float32)
        scale = np.zeros(0, np.float32)
    else:
        table = rng.integers(-limit, limit + 1, (n, k)).astype(np.int8)
        scale = rng.uniform(0.1, 1, n).astype(np.float32)
    arguments = row.layout.pack(table)
    ids = np.array([0, 34, 8, 15, 16, 7])
    np.testing.assert_array_equal(row.layout.rows(arguments, ids), table[ids])
    bias = rng.standard_normal(n).astype(np.float32)
    none = np.zeros(0, np.float32)
    out = np.empty((rows, n), np.float32)
    weights = table.astype(np.float32) * (scale[:, None] if scale.size else np.float32(1.0))
    if row.activation == "i8":
        x = rng.integers(-127, 128, (rows, k)).astype(np.int8)
        x_scale = rng.uniform(0.1, 1, rows).astype(np.float32)
        assert row.run(x, *arguments, scale, x_scale, bias, out) == 0
        np.testing.assert_array_equal(out, reference.linear_i8(x, table, x_scale, scale, bias))
    else:
        x = rng.standard_normal((rows, k)).astype(np.float32)
        assert row.run(x, *arguments, scale, none, bias, out) == 0
        exact = reference.linear_f32(x, weights, bias)
        assert (np.abs(out - exact) <= 2 * _float_bound(x, weights) + 1e-5).all()
    assert hasattr(reference, row.reference)


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
        panels.embedding(panel, np.array([0, 70]), out)
    with pytest.raises(ValueError, match="embedding: out"):
        panels.embedding(panel, ids, out[:3])


def test_panels_of_one_constant_share_arrays_where_layouts_agree():
    encoding = enc.encode_bitpacked(np.ones((20, 40), int), np.ones((20, 1)), bits=8)
    integer = panels.prepare_linear(encoding, rows=1500, activation="i8")
    single = panels.prepare_linear(encoding, rows=1, activation="f32", share=[integer])
    assert (single.kernel != integer.kernel) or not panels.host_features()
    assert single.arguments[0] is integer.arguments[0]
    other = panels.prepare_linear(encoding, rows=1500, activation="f32", share=[integer])
    assert other.arguments[0] is not integer.arguments[0]


def test_unfit_arguments_are_named():
    panel = panels.prepare_linear(enc.encode_dense(np.ones((4, 6), np.float32)), rows=2)
    x, out = np.ones((2, 6), np.float32), np.empty((2, 4), np.float32)
    with pytest.raises(ValueError, match=r"x float32 \(2, 5\).*expected x float32 \(T, 6\)"):
        panels.linear(panel, x[:, :5], out)
    with pytest.raises(ValueError, match="unit inner stride"):
        panels.linear(panel, np.ones((2, 12), np.float32)[:, ::2], out)
    with pytest.raises(TypeError, match="found x float64"):
        panels.linear(panel, x.astype(np.float64), out)
    codes = enc.encode_bitpacked(np.ones((4, 6), int), np.ones((4, 1)), bits=8)
    integer = panels.prepare_linear(codes, rows=2, activation="i8")
    with pytest.raises(ValueError, match="x_scale"):
        panels.linear(integer, x.astype(np.int8), out)
    with pytest.raises(ValueError, match="no exact integer form"):
        panels.prepare_linear(enc.encode_dense(np.ones((4, 6))), rows=2, activation="i8")
    with pytest.raises(ValueError, match="'i9'"):
        panels.prepare_linear(codes, rows=2, activation="i9")
    with pytest.raises(ValueError, match="kernel_size 4"):
        panels.prepare_linear(codes, rows=2, kernel_size=4)


@pytest.mark.parametrize("bits", [8, 4])
def test_the_code_minus_128_is_refused(bits):
    codes = enc.encode_bitpacked(np.ones((4, 70), int), np.ones((4, 1)), bits=bits)
    panel = panels.prepare_linear(codes, rows=2, activation="i8")
    for place in (0, 31, 64, 69):
        x = np.ones((3, 70), np.int8)
        x[2, place] = -128
        with pytest.raises(ValueError, match="-128"):
            panels.accumulate(panel, x, np.empty((3, 4), np.int32))


def test_sums_that_could_leave_int32_are_refused():
    wide = enc.encode_bitpacked(np.zeros((1, 140_000), int), np.ones((1, 1)), bits=8)
    with pytest.raises(ValueError, match="140000"):
        panels.prepare_linear(wide, rows=1, activation="i8")
