"""Sparse linear layers on blocks and on codes: exact integer sums, float sums within bounds."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kernels import blocks, csr, exact, reference, sparse  # noqa: F401 (register kernels)
from kernels.finish import FORBIDDEN_CODE, MISFIT, NAN_SCALE
from kernels.finish_rows import GLU, QUANTIZE_ROW, RAW, RELU
from kernels.jit import host_features
from kernels.registry import KERNELS, Matrix

pytestmark = pytest.mark.skipif(not host_features() >= {"avx2", "fma"}, reason="needs AVX2, FMA")
EPSILON = np.finfo(np.float32).eps
NONE = np.zeros(0, np.float32)
NO_ROWS = np.zeros((0, 0), np.float32)
NO_CODES = np.zeros((0, 0), np.int8)
FLOATS = ("f32_blocks_16x1", "f32_blocks_8x1", "f32_squares", "f32_csr_narrow")
CODES = ("i8_csr_blocks", "i8_csr_narrow", "i8_blocks_16x1", "i8_blocks_8x1", "i8_squares")
WIDENED = tuple(f"{name}_f32".replace("_16x1_f32", "_f32_16x1").replace("_8x1_f32", "_f32_8x1")
                for name in CODES)  # fmt: skip
ROWS = [*range(1, 18), 33, 49, 96, 97]
EDGES = {
    "16x1": (16, 1),
    "8x1": (8, 1),
    "4x4": (4, 4),
    "csr": (1, 1),
    "narrow": (1, 1),
    "32x32": (32, 32),
}


def _pattern(rng, n, k, block, density):
    a, b = EDGES[block]
    kept = rng.random((-(-n // a), -(-k // b))) < density
    return np.kron(kept, np.ones((a, b), np.bool_))[:n, :k]


def _block_of(name):
    return KERNELS[name].values.split("_")[1]


def _floats(rng, name, shape, density):
    kept = _pattern(rng, *shape, _block_of(name), density)
    return (rng.standard_normal(shape) * kept).astype(np.float32)


def _codes(rng, name, shape, density, limit=127):
    kept = _pattern(rng, *shape, _block_of(name), density)
    return (rng.integers(-limit, limit + 1, shape) * kept).astype(np.int8)


def _call(
    name, w, x, out, *, w_scale=NONE, x_scale=NONE, bias=NONE, residual=NO_ROWS, codes=NO_CODES,
    codes_scale=NONE, steps=0, threads=1, is_parallel=False,
):  # fmt: skip
    row = KERNELS[name]
    run = row.run.ready_parallel() if is_parallel else row.run.ready()
    packed = row.layout.pack(Matrix(w))
    tail = (w_scale, x_scale, bias, residual, out, codes, codes_scale, steps, threads)
    return run(x, *packed, *tail)


def _run(name, w, x, **more):
    """Output in a wider array whose rest must stay untouched."""
    wide = np.full((len(x), len(w) + 3), 7.0, np.float32)
    assert _call(name, w, x, wide[:, : len(w)], **more) == 0
    assert (wide[:, len(w) :] == 7.0).all()
    return wide[:, : len(w)]


def _sums(name, w, x):
    return _run(name, w, x, steps=RAW).copy().view(np.int32)


def _magnitudes(x, w):
    return np.abs(x).astype(np.float64) @ np.abs(w).astype(np.float64).T


@pytest.mark.parametrize("name", FLOATS)
@pytest.mark.parametrize("rows", ROWS)
def test_float_sums_stay_within_the_rounding_bound(name, rows):
    rng = np.random.default_rng(rows)
    for n, k, density in [(21, 203, 0.4), (64, 96, 0.1), (1, 1, 1.0), (530, 97, 0.2), (9, 5, 0.6)]:
        w = _floats(rng, name, (n, k), density)
        x = rng.standard_normal((rows, k)).astype(np.float32)
        bias = rng.standard_normal(n).astype(np.float32)
        for added in (NONE, bias):
            found = _run(name, w, x, bias=added)
            shift = added if added.size else np.float32(0.0)
            error = np.abs(found - (x.astype(np.float64) @ w.astype(np.float64).T + shift))
            assert (error <= 4 * EPSILON * (_magnitudes(x, w) + np.abs(shift)) + 1e-30).all()
            np.testing.assert_array_equal(_run(name, w, x, bias=added), found)  # bit for bit


@pytest.mark.parametrize("name", FLOATS)
def test_float_sums_over_many_columns_stay_within_the_bound_of_their_blocks(name):
    rng = np.random.default_rng(1)
    n, k = 40, 1700
    step = KERNELS[name].layout.pack(Matrix(np.ones((n, k), np.float32)))[-2]
    assert step < k
    chain = step + -(-k // step) + 1
    for kind in ("normal", "uniform", "constant"):
        kept = _pattern(rng, n, k, _block_of(name), 0.3)
        drawn = {
            "normal": rng.standard_normal,
            "uniform": lambda shape: rng.uniform(-1, 1, shape),
            "constant": lambda shape: np.full(shape, 0.1),
        }[kind]
        w, x = (drawn((n, k)) * kept).astype(np.float32), drawn((13, k)).astype(np.float32)
        error = np.abs(_run(name, w, x) - x.astype(np.float64) @ w.astype(np.float64).T)
        bound = chain * EPSILON / 2 if kind == "constant" else 4 * EPSILON
        assert (error <= bound * _magnitudes(x, w) + 1e-30).all()


@settings(max_examples=60, deadline=None)
@given(
    seed=st.integers(0, 10**6),
    name=st.sampled_from(CODES),
    rows=st.sampled_from(ROWS),
    n=st.integers(1, 70),
    k=st.integers(1, 300),
    density=st.sampled_from([0.0, 0.02, 0.3, 1.0]),
    limit=st.sampled_from([1, 7, 127]),
)
def test_codes_give_the_integer_sums_and_the_reference_bit_for_bit(
    seed, name, rows, n, k, density, limit
):
    rng = np.random.default_rng(seed)
    w = _codes(rng, name, (n, k), density, limit)
    x = rng.integers(-127, 128, (rows, k)).astype(np.int8)
    np.testing.assert_array_equal(_sums(name, w, x), reference.linear_accumulators(x, w))
    w_scale = rng.uniform(1e-3, 1e-1, n).astype(np.float32)
    x_scale = rng.uniform(0.1, 1, rows if seed % 3 else 1).astype(np.float32)
    bias = rng.standard_normal(n).astype(np.float32) if seed % 2 else NONE
    found = _run(name, w, x, w_scale=w_scale, x_scale=x_scale, bias=bias)
    full = np.broadcast_to(x_scale, (rows,))
    expected = reference.linear_i8(x, w, full, w_scale, bias if bias.size else None)
    np.testing.assert_array_equal(found, expected)
    ids = rng.integers(0, n, 5)
    layout = KERNELS[name].layout
    np.testing.assert_array_equal(layout.rows(layout.pack(Matrix(w)), ids), w[ids])


@pytest.mark.parametrize("name", CODES)
@pytest.mark.parametrize("kind", ["largest", "smallest", "signed_rows", "alternating"])
def test_sums_at_the_edge_of_exact_floats_are_exact(name, kind):
    """1040 codes of 127 against 127: 16774160 of 2^24 = 16777216, where float32 ends to count."""
    k = 1040
    signs = {
        "largest": np.ones((33, k)),
        "smallest": -np.ones((33, k)),
        "signed_rows": np.where(np.arange(33) % 2, 1, -1)[:, None] * np.ones((33, k)),
        "alternating": np.ones((33, 1)) * np.where(np.arange(k) % 2, 1, -1),
    }[kind]
    w = (127 * signs).astype(np.int8)
    assert exact.magnitudes(w) <= exact.LARGEST_MAGNITUDES
    x = np.concatenate([w[:7], -w[:7], np.full((2, k), 127), np.full((1, k), -127)]).astype(np.int8)
    x[3, 5] = 126  # an odd sum beside the even ones
    for rows in (1, 6, 17):
        found = _sums(name, w, x[:rows])
        np.testing.assert_array_equal(found, reference.linear_accumulators(x[:rows], w))


def test_one_code_more_would_not_be_exact_and_is_refused():
    w = np.full((3, 1041), 127, np.int8)
    w[0, 0] = 0  # this output alone is fine
    assert int(np.float32(1041 * 127 * 127)) != 1041 * 127 * 127
    for name in CODES:
        with pytest.raises(ValueError, match=r"found an output.*132207.*at most 132104"):
            KERNELS[name].layout.pack(Matrix(w))
        KERNELS[name].layout.pack(Matrix(w[:1]))


@pytest.mark.parametrize("name", WIDENED)
def test_float_activations_times_codes_equal_the_dequantised_weights(name):
    rng = np.random.default_rng(2)
    w = _codes(rng, name, (43, 210), 0.4)
    scale = rng.uniform(0.01, 0.1, 43).astype(np.float32)
    bias = rng.standard_normal(43).astype(np.float32)
    whole = w * scale[:, None].astype(np.float64)
    for rows in (1, 2, 5, 8, 13, 16, 64, 97):
        x = rng.standard_normal((rows, 210)).astype(np.float32)
        found = _run(name, w, x, w_scale=scale, bias=bias)
        bound = 4 * EPSILON * (_magnitudes(x, whole) + np.abs(bias))
        assert (np.abs(found - (x.astype(np.float64) @ whole.T + bias)) <= bound).all()


@pytest.mark.parametrize("name", [*FLOATS, *CODES])
def test_empty_outputs_give_the_bias_and_one_nonzero_gives_one_product(name):
    rng = np.random.default_rng(3)
    is_codes = name in CODES
    kind = np.int8 if is_codes else np.float32
    scales = {"w_scale": np.ones(60, np.float32), "x_scale": np.ones(1, np.float32)}
    scales = scales if is_codes else {}
    bias = np.arange(60, dtype=np.float32)
    x = rng.integers(-127, 128, (19, 500)).astype(kind)
    none = np.zeros((60, 500), kind)
    for rows in (1, 19):
        found = _run(name, none, x[:rows], bias=bias, **scales)
        np.testing.assert_array_equal(found, np.broadcast_to(bias, (rows, 60)))
        one = none.copy()
        one[37, 401] = 3
        expected = np.tile(bias, (rows, 1))
        expected[:, 37] += 3 * x[:rows, 401].astype(np.float32)
        np.testing.assert_array_equal(_run(name, one, x[:rows], bias=bias, **scales), expected)


@pytest.mark.parametrize("name", FLOATS)
def test_nothing_leaks_between_rows_or_from_the_columns_that_fill_up_a_block(name):
    rng = np.random.default_rng(4)
    w = _floats(rng, name, (20, 50), 0.5)
    wide = np.full((21, 60), np.nan, np.float32)  # what lies beyond a row must not be read as x
    wide[:, :50] = rng.standard_normal((21, 50))
    x = wide[:, :50]
    plain = _run(name, w, x)
    assert np.isfinite(plain).all()
    wide[13, 7] = np.inf
    found = _run(name, w, x)
    others = np.arange(21) != 13
    np.testing.assert_array_equal(found[others], plain[others])
    assert not np.isfinite(found[13, w[:, 7] != 0]).any()


@pytest.mark.parametrize("name", [*FLOATS, "i8_csr_blocks", "f32_csr_blocks", "i8_squares"])
@pytest.mark.parametrize("rows", [5, 100, 499])
def test_the_result_does_not_depend_on_how_work_is_shared(name, rows):
    rng = np.random.default_rng(rows)
    if name.startswith("i8"):
        w, x = _codes(rng, name, (1100, 150), 0.3), rng.integers(-127, 128, (rows, 150))
        x, more = x.astype(np.int8), {"steps": RAW}
    else:
        w, more = _floats(rng, name, (1100, 150), 0.3), {"bias": np.ones(1100, np.float32)}
        x = rng.standard_normal((rows, 150)).astype(np.float32)
    one = _run(name, w, x, **more)
    for threads in (2, 3, 5):
        np.testing.assert_array_equal(_run(name, w, x, threads=threads, **more), one)


@pytest.mark.parametrize("name", ["f32_csr_blocks", "f32_blocks_16x1"])
def test_two_threads_give_the_bits_of_one(name):
    rng = np.random.default_rng(5)
    w = _floats(rng, name, (1100, 150), 0.3)
    for rows in (3, 200):
        x = rng.standard_normal((rows, 150)).astype(np.float32)
        found = _run(name, w, x, threads=2, is_parallel=True)
        np.testing.assert_array_equal(found, _run(name, w, x))


@pytest.mark.parametrize("name", [*FLOATS, "f32_csr_blocks"])
@pytest.mark.parametrize("threads", [1, 2])
def test_fused_steps_equal_the_same_steps_afterwards(name, threads):
    rng = np.random.default_rng(6)
    w = _floats(rng, name, (64, 90), 0.4)
    for rows in (1, 13, 200):
        x, added = (rng.standard_normal((rows, size)).astype(np.float32) for size in (90, 64))
        plain = _run(name, w, x)
        found = _run(name, w, x, residual=added, steps=RELU, threads=threads)
        np.testing.assert_array_equal(found, np.maximum(plain, 0) + added)
        codes, scale = np.zeros((rows, 64), np.int8), np.zeros(rows, np.float32)
        fused = {"codes": codes, "codes_scale": scale, "steps": QUANTIZE_ROW, "threads": threads}
        assert _call(name, w, x, NO_ROWS, **fused) == 0
        expected = reference.dynamic_quantize_row(plain)
        np.testing.assert_array_equal(codes, expected[0])
        np.testing.assert_array_equal(scale, expected[1])
        gated = np.full((rows, 32), np.nan, np.float32)
        assert _call(name, w, x, gated, steps=GLU, threads=threads) == 0
        exactly = plain[:, :32] / (1 + np.exp(-plain[:, 32:].astype(np.float64)))
        np.testing.assert_allclose(gated, exactly, rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize("name", CODES)
def test_the_code_minus_128_and_unfit_arguments_are_refused_before_anything_is_written(name):
    w = np.eye(6, dtype=np.int8)
    x, out = np.zeros((9, 6), np.int8), np.full((9, 6), 7.0, np.float32)
    one, each = np.ones(1, np.float32), np.ones(6, np.float32)
    fine = {"w_scale": each, "x_scale": one}
    assert _call(name, w, x, out, **fine) == 0
    out[:] = 7.0
    for place in (0, 31, 53):
        bad = x.copy()
        bad.reshape(-1)[place] = -128
        assert _call(name, w, bad, out, **fine) == FORBIDDEN_CODE
    assert _call(name, w, x, out, **fine | {"x_scale": one * np.nan}) == NAN_SCALE
    for more in [
        {},
        {"w_scale": each},
        {"w_scale": each[:5], "x_scale": one},
        {"w_scale": each, "x_scale": np.ones(5, np.float32)},
        fine | {"bias": each[:5]},
        fine | {"residual": np.ones((9, 5), np.float32)},
        fine | {"threads": 0},
    ]:
        assert _call(name, w, x, out, **more) == MISFIT
    assert _call(name, w, x[:, :5], out, **fine) == MISFIT
    assert _call(name, w, x, out[:, :5], **fine) == MISFIT
    assert _call(name, w, np.zeros((9, 12), np.int8)[:, ::2], out, **fine) == MISFIT
    assert (out == 7.0).all()


def test_no_rows_are_no_work():
    for name in (*FLOATS, "f32_csr_blocks"):
        w = np.ones((20, 30), np.float32)
        assert _run(name, w, np.zeros((0, 30), np.float32)).shape == (0, 20)


def test_blocks_of_32_are_read_as_panels_without_zeros_between():
    rng = np.random.default_rng(8)
    kept = _pattern(rng, 96, 160, "32x32", 0.3)
    w = (rng.standard_normal((96, 160)) * kept).astype(np.float32)
    packed = KERNELS["f32_blocks_16x1"].layout.pack(Matrix(w))
    assert packed[0].size - blocks.SLACK == np.count_nonzero(kept)
    x = rng.standard_normal((20, 160)).astype(np.float32)
    error = np.abs(_run("f32_blocks_16x1", w, x) - reference.linear_f32(x, w))
    assert (error <= 4 * EPSILON * _magnitudes(x, w)).all()
