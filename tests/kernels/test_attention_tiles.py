import os
import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kernels import attention, attention_plain, reference
from kernels.attention_common import BAD_SCALE, LONGEST

SHAPES = [
    (6, 1, 1, 64),
    (6, 1, 7, 64),
    (2, 1, 8, 64),
    (6, 1, 450, 64),
    (2, 8, 33, 80),
    (2, 3, 33, 13),
    (1, 1, 40, 4),
    (2, 9, 47, 24),
    (2, 17, 5, 64),
    (3, 49, 130, 20),
    (2, 26, 1500, 64),
]


def _heads(x: np.ndarray, heads: int) -> np.ndarray:
    """Rows (T, H * D) of a longer row as (H, T, D)."""
    wide = np.full((x.shape[0], x.shape[1] + 3), 101, x.dtype)
    wide[:, : x.shape[1]] = x
    return wide[:, : x.shape[1]].reshape(x.shape[0], heads, -1).transpose(1, 0, 2)


def _floats(seed: int, shape: tuple[int, int, int, int]) -> list[np.ndarray]:
    heads, rows, length, depth = shape
    rng = np.random.default_rng(seed)
    sizes = (rows, length, length)
    return [
        _heads(rng.standard_normal((n, heads * depth)).astype(np.float32) * 2, heads) for n in sizes
    ]


def _output(rows: int, width: int) -> np.ndarray:
    """Rows inside longer rows, to be overwritten."""
    return np.full((rows, width + 5), np.nan, np.float32)[:, :width]


@pytest.mark.parametrize("shape", SHAPES)
def test_float_attention_matches_float64(shape):
    heads, rows, _, depth = shape
    q, k, v = _floats(1, shape)
    for scale in (depth**-0.5, -0.3, 0.0):
        out = _output(rows, heads * depth)
        attention.attention_f32(q, k, v, scale, out)
        expected = reference.attention_f32(q, k, v, scale)
        assert np.abs(out - expected).max() <= 2e-5 * np.abs(v).max()
        assert np.isnan(out.base[:, heads * depth :]).all()


@pytest.mark.parametrize("rows", range(1, 18))
def test_float_attention_handles_every_number_of_rows(rows):
    q, k, v = _floats(rows, (2, rows, 21, 32))
    out = _output(rows, 64)
    attention.attention_f32(q, k, v, 0.2, out)
    np.testing.assert_allclose(out, reference.attention_f32(q, k, v, 0.2), atol=2e-5)


@pytest.mark.parametrize("rows", [1, 30])
def test_float_softmax_survives_scores_of_every_size(rows):
    q = np.ones((1, rows, 16), np.float32)
    k = np.zeros((1, 20, 16), np.float32)
    k[0, :, 0] = np.linspace(-1000, 900, 20)
    v = np.arange(320, dtype=np.float32).reshape(1, 20, 16)
    out = np.empty((rows, 16), np.float32)
    attention.attention_f32(q, k, v, 1.0, out)
    np.testing.assert_array_equal(out, np.broadcast_to(v[0, 19], (rows, 16)))


@pytest.mark.parametrize("rows", [1, 30])
@pytest.mark.parametrize("which", [0, 1, 2])
def test_float_attention_shows_nan(rows, which):
    arrays = [np.ascontiguousarray(x) for x in _floats(3, (2, rows, 40, 16))]
    arrays[which][1, 0, 5] = np.nan
    out = np.zeros((rows, 32), np.float32)
    attention.attention_f32(*arrays, 0.25, out)
    expected = reference.attention_f32(*arrays, 0.25)
    assert np.isnan(expected).any()
    np.testing.assert_array_equal(np.isnan(out), np.isnan(expected))


def _codes(seed: int, shape: tuple[int, int, int, int], spread: float) -> list[np.ndarray]:
    """Strided q, k, v, where ``spread`` 1000 gives only -127 and 127."""
    heads, rows, length, depth = shape
    rng = np.random.default_rng(seed)
    return [
        _heads(
            np.clip(rng.standard_normal((n, heads * depth)) * spread, -127, 127).astype(np.int8),
            heads,
        )
        for n in (rows, length, length)
    ]


def _scales(seed: int, shape: tuple[int, int, int, int]) -> list[np.ndarray]:
    heads, rows, length, _ = shape
    rng = np.random.default_rng(seed)
    return [
        2.0 ** rng.integers(-8, -4, size).astype(np.float32)
        for size in ((heads, rows), (heads, length), (heads,))
    ]


def _exact(q, qs, k, ks, v, vs, scale):
    """Output of exact sums, and which rows of it have no code near the middle of two.

    Scores are exact in float32 here (scales are powers of two), so such codes are certain.
    """
    factor = qs.astype(np.float64)[:, :, None] * ks.astype(np.float64)[:, None, :] * scale
    products = q.astype(np.int64) @ k.astype(np.int64).transpose(0, 2, 1)
    scores = products * factor
    shares = 255.0 * np.exp(scores - scores.max(axis=2, keepdims=True))
    # the kernel rounds scores times log2 e, and shares with what is carried, to float32
    doubts = 4e-7 * shares * (1 + np.abs(scores).max(axis=2, keepdims=True)) + 2e-5
    codes = np.zeros(shares.shape, np.int64)
    carried, doubt = np.zeros((2, *shares.shape[:2], 32))
    is_sure = np.ones(shares.shape[:2], bool)
    for s in range(shares.shape[2]):
        share = np.minimum(shares[:, :, s] + carried[:, :, s % 32], 255)
        doubt[:, :, s % 32] += doubts[:, :, s]
        is_sure &= np.abs(share - np.floor(share) - 0.5) > doubt[:, :, s % 32]
        codes[:, :, s] = np.rint(share)
        carried[:, :, s % 32] = share - codes[:, :, s]
    sums = codes @ v.astype(np.int64)
    norm = vs[:, None] / codes.sum(axis=2).astype(np.float32)
    y = sums.astype(np.float32) * norm[:, :, None]
    return y.transpose(1, 0, 2).reshape(q.shape[1], -1), np.repeat(is_sure.T, q.shape[2], axis=1)


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("spread", [20.0, 60.0, 1000.0])
def test_integer_attention_equals_int64_sums_bit_for_bit(shape, spread):
    heads, rows, _, depth = shape
    q, k, v = _codes(4, shape, spread)
    qs, ks, vs = _scales(5, shape)
    out = _output(rows, heads * depth)
    scale = 2.0 ** np.round(np.log2(8 / spread / np.sqrt(depth)))
    attention.attention_i8(q, qs, k, ks, v, vs, scale, out)
    expected, is_sure = _exact(q, qs, k, ks, v, vs, scale)
    assert is_sure.mean() > 0.1 or shape[2] > 30  # long rows: see the plain loops below
    np.testing.assert_array_equal(out[is_sure], expected[is_sure])
    one_code = 127 * vs.max() / 255  # at most, as the codes sum to at least 255
    y = reference.attention_i8(q, qs, k, ks, v, vs, scale)
    np.testing.assert_allclose(out, y, atol=one_code)


@pytest.mark.parametrize("shape", SHAPES)
def test_tiles_give_the_bits_of_the_plain_loops(shape):
    heads, rows, _, depth = shape
    q, k, v = _codes(6, shape, 40.0)
    rng = np.random.default_rng(7)
    qs, ks, vs = (rng.random(s.shape).astype(np.float32) * 0.05 for s in _scales(0, shape))
    out, plain = np.empty((2, rows, heads * depth), np.float32)
    attention.attention_i8(q, qs, k, ks, v, vs, depth**-0.5, out)
    none = attention.NO_BOUNDS
    attention_plain.attention_i8(q, qs, k, ks, v, vs, depth**-0.5, none, plain, 1)
    np.testing.assert_array_equal(out, plain)


@pytest.mark.parametrize("rows", [1, 8, 9, 30])
@pytest.mark.parametrize("length", [1, 4, 15, 32, 33, 61])
def test_context_is_exact_when_every_probability_code_is_255(rows, length):
    q = np.zeros((2, rows, 16), np.int8)
    k = np.full((2, length, 16), 127, np.int8)
    one = np.ones(1, np.float32)
    for fill in (-128, -127, 127):
        v = np.full((2, length, 16), fill, np.int8)
        v[1, ::2] = -fill if fill == 127 else 127
        out = np.empty((rows, 32), np.float32)
        attention.attention_i8(q, one, k, one, v, one, 0.125, out)
        total = 255 * v.astype(np.int64).sum(axis=1).reshape(-1)
        expected = total.astype(np.float32) * (one / np.float32(255 * length))
        np.testing.assert_array_equal(out, np.broadcast_to(expected, out.shape))


@pytest.mark.parametrize("rows", [1, 30])
@pytest.mark.parametrize("depth", [16, 64, 67])
def test_extreme_scores_do_not_saturate(rows, depth):
    """Codes of one sign select one key exactly: a wrapped or cut score would select another."""
    q = np.full((1, rows, depth), -127, np.int8)
    k = np.full((1, 40, depth), 127, np.int8)
    k[0, 17] = -127
    k[0, 18] = np.where(np.arange(depth) == depth - 1, -126, -127)
    v = np.arange(40, dtype=np.int8).repeat(depth).reshape(1, 40, depth)
    one = np.ones(1, np.float32)
    out = np.empty((rows, depth), np.float32)
    attention.attention_i8(q, one, k, one, v, one, 1.0, out)
    expected = np.float32(255 * 17) * (one[0] / np.float32(255))
    np.testing.assert_array_equal(out, np.full((rows, depth), expected))


@settings(max_examples=40, deadline=None)
@given(
    st.integers(1, 3),
    st.integers(1, 28),
    st.integers(1, 70),
    st.integers(1, 80),
    st.integers(0, 99),
)
def test_integer_attention_of_any_shape(heads, rows, length, depth, seed):
    shape = (heads, rows, length, depth)
    q, k, v = _codes(seed, shape, 50.0)
    scales = [np.full(1, 2.0**-6, np.float32), *_scales(seed, shape)[1:]]
    qs = np.full((heads, rows), scales[0][0])
    out = np.empty((rows, heads * depth), np.float32)
    attention.attention_i8(q, scales[0], k, scales[1], v, scales[2], 0.125, out)
    expected, is_sure = _exact(q, qs, k, scales[1], v, scales[2], 0.125)
    np.testing.assert_array_equal(out[is_sure], expected[is_sure])


@pytest.mark.parametrize("rows", [1, 30])
@pytest.mark.parametrize("which", [0, 1, 2])
@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("module", [attention, attention_plain])
def test_integer_attention_refuses_scales_that_are_no_numbers(rows, which, value, module):
    shape = (2, rows, 40, 16)
    q, k, v = _codes(8, shape, 40.0)
    scales = _scales(9, shape)
    scales[which].reshape(-1)[-1] = value
    out = np.full((rows, 32), 7, np.float32)
    given = (q, scales[0], k, scales[1], v, scales[2], 0.25)
    if module is attention:
        with pytest.raises(ValueError, match="NaN or infinite"):
            attention.attention_i8(*given, out)
    else:
        assert attention_plain.attention_i8(*given, attention.NO_BOUNDS, out, 1) == BAD_SCALE
    assert (out == 7).all()


def test_scales_under_which_scores_overflow_are_refused():
    q = np.full((1, 2, 16), 127, np.int8)
    out = np.zeros((2, 16), np.float32)
    one, large = np.ones(1, np.float32), np.full(1, 1e20, np.float32)
    with pytest.raises(ValueError, match="scores overflow"):
        attention.attention_i8(q, large, q, large, q, one, 1.0, out)
    attention.attention_i8(q, large, q, one, q, one, 1.0, out)
    assert np.isfinite(out).all()


def test_a_grown_cache_gives_the_result_of_a_copy():
    q, k, v = _floats(10, (6, 1, 448, 64))
    codes = _codes(11, (6, 1, 448, 64), 40.0)
    one = np.full(1, 0.02, np.float32)
    for past in (0, 1, 6, 7, 8, 15, 16, 31, 32, 100):
        first, second = np.empty((2, 1, 384), np.float32)
        part = [x[:, : past + 1] for x in (k, v)]
        attention.attention_f32(q, *part, 0.125, first)
        attention.attention_f32(q, *(np.ascontiguousarray(x) for x in part), 0.125, second)
        np.testing.assert_array_equal(first, second)
        k8, v8 = (x[:, : past + 1] for x in codes[1:])
        attention.attention_i8(codes[0], one, k8, one, v8, one, 0.125, first)
        copies = [np.ascontiguousarray(x) for x in (k8, v8)]
        attention.attention_i8(codes[0], one, copies[0], one, copies[1], one, 0.125, second)
        np.testing.assert_array_equal(first, second)


@pytest.mark.parametrize("case", ["length", "depth", "out", "empty", "stride"])
def test_arrays_that_do_not_fit_are_refused(case):
    q, k, v = (np.zeros((2, 5, 16), np.float32) for _ in range(3))
    out = np.zeros((5, 32), np.float32)
    if case == "length":
        v = v[:, :4]
    elif case == "depth":
        k = k[:, :, :8]
    elif case == "out":
        out = out[:, :31]
    elif case == "empty":
        k = v = k[:, :0]
    else:
        q = np.zeros((2, 5, 32), np.float32)[:, :, ::2]
    with pytest.raises(ValueError, match=r"attention_f32: found .*expected q \(H, T, D\)"):
        attention.attention_f32(q, k, v, 0.1, out)
    codes = [x.astype(np.int8) for x in (q, k, v)]
    if case == "stride":
        codes[0] = np.zeros((2, 5, 32), np.int8)[:, :, ::2]
    one = np.ones(1, np.float32)
    with pytest.raises(ValueError, match="attention_i8: found q int8"):
        attention.attention_i8(codes[0], one, codes[1], one, codes[2], one, 0.1, out)


def test_scales_that_do_not_fit_are_refused():
    q = np.zeros((2, 5, 16), np.int8)
    one, three = np.ones(1, np.float32), np.ones((2, 3), np.float32)
    out = np.zeros((5, 32), np.float32)
    for scales in ((three, one, one), (one, three, one), (one, one, np.ones(3, np.float32))):
        with pytest.raises(ValueError, match="scales float32"):
            attention.attention_i8(q, scales[0], q, scales[1], q, scales[2], 0.1, out)


@pytest.mark.parametrize("rows", [1, 30])
def test_the_code_that_has_no_opposite_counts_as_what_it_is(rows):
    """-128 times -128 beats 127 times 127: products of bytes would saturate or wrap."""
    q = np.full((1, rows, 16), -128, np.int8)
    k = np.full((1, 20, 16), -127, np.int8)
    k[0, 7] = -128
    v = np.zeros((1, 20, 16), np.int8)
    v[0, 7] = -128
    one = np.ones(1, np.float32)
    out = np.empty((rows, 16), np.float32)
    attention.attention_i8(q, one, k, one, v, one, 1.0, out)
    np.testing.assert_array_equal(out, np.full((rows, 16), np.float32(-128 * 255) / 255))


def test_more_keys_than_32_bits_can_sum_are_refused():
    q = np.zeros((1, 1, 1), np.int8)
    k = np.zeros((1, LONGEST + 1, 1), np.int8)
    one = np.ones(1, np.float32)
    with pytest.raises(ValueError, match=f"expected at most {LONGEST}"):
        attention.attention_i8(q, one, k, one, k, one, 0.1, np.zeros((1, 1), np.float32))


def test_the_plain_loops_run_when_asked_for():
    code = (
        "import numpy as np; from kernels import attention, attention_plain, reference\n"
        "q = np.arange(24, dtype=np.float32).reshape(1, 3, 8) / 24; out = np.empty((3, 8), 'f')\n"
        "attention.attention_f32(q, q, q, 0.5, out)\n"
        "assert abs(out - reference.attention_f32(q, q, q, 0.5)).max() < 1e-6\n"
        "print(attention._run_f32 is attention_plain.attention_f32)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, "COSIM_GENERIC_KERNELS": "1"},
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.strip() == "True"


@pytest.mark.parametrize("rows", [1, 30])
def test_many_small_probabilities_keep_their_weight(rows):
    """One key at 255 and 1,023 far below half a code: their sum is what plain rounding loses."""
    q = np.full((1, rows, 16), 1, np.int8)
    k = np.zeros((1, 1024, 16), np.int8)
    k[0, 500] = 127
    v = np.full((1, 1024, 16), 100, np.int8)
    v[0, 500] = 0
    one = np.ones(1, np.float32)
    out = np.empty((rows, 16), np.float32)
    scale = float(np.log(1000.0)) / (127 * 16)  # the others have a thousandth of the largest
    attention.attention_i8(q, one, k, one, v, one, scale, out)
    expected = 100 * (1023 / 1000) / (1 + 1023 / 1000)
    np.testing.assert_allclose(out, np.full((rows, 16), expected), rtol=0.02)
