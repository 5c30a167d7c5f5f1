"""Bias, bounds on the keys that queries see, and threads."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kernels import attention, attention_blocks, attention_plain, reference

ROWS = [1, 5, 8, 9, 24, 30, 61]
SHAPES = [(2, rows, 50, 64) for rows in ROWS] + [(3, 12, 17, 13), (1, 3, 70, 5), (2, 26, 300, 80)]


def _floats(seed: int, shape: tuple[int, int, int, int]) -> list[np.ndarray]:
    heads, rows, keys, depth = shape
    rng = np.random.default_rng(seed)
    return [
        rng.standard_normal((n, heads, depth)).astype(np.float32).transpose(1, 0, 2)
        for n in (rows, keys, keys)
    ]


def _codes(seed: int, shape: tuple[int, int, int, int]) -> list[np.ndarray]:
    """Codes, each followed by its scales."""
    heads, rows, keys, _ = shape
    rng = np.random.default_rng(seed)
    sizes = ((heads, rows), (heads, keys), (heads,))
    scales = [rng.uniform(0.005, 0.02, size).astype(np.float32) for size in sizes]
    codes = [np.clip(np.rint(x * 50), -127, 127).astype(np.int8) for x in _floats(seed, shape)]
    return [x for pair in zip(codes, scales, strict=True) for x in pair]


def _seen(keys: np.ndarray, length: int) -> np.ndarray:
    return np.arange(length)[None, :] < keys[:, None]


@pytest.mark.parametrize("shape", SHAPES)
def test_a_bias_of_any_strides_is_added_to_the_scores(shape):
    heads, rows, keys, depth = shape
    q, k, v = _floats(1, shape)
    rng = np.random.default_rng(2)
    wide = rng.standard_normal((2 * rows, heads, keys + 5)).astype(np.float32)
    for bias in (wide[::2, :, 2:-3].transpose(1, 0, 2), wide[:rows, :1, 5:].transpose(1, 0, 2)):
        out = np.empty((rows, heads * depth), np.float32)
        attention.attention_f32(q, k, v, 0.2, out, bias=bias)
        expected = reference.attention_masked(q, k, v, 0.2, None, bias)
        np.testing.assert_allclose(out, expected, atol=5e-6)
        attention_plain.attention_f32(q, k, v, 0.2, bias, attention.NO_BOUNDS, out, 1)
        np.testing.assert_allclose(out, expected, atol=5e-6)


def test_a_bias_may_be_a_view_in_which_rows_overlap():
    """Scores by distance, as relative positions have them: each row starts one place earlier."""
    rows, depth = 40, 16
    q, k, v = _floats(3, (1, rows, rows, depth))
    by_distance = np.random.default_rng(4).standard_normal(2 * rows - 1).astype(np.float32)
    bias = np.lib.stride_tricks.as_strided(by_distance[rows - 1 :], (1, rows, rows), (0, -4, 4))
    out = np.empty((rows, depth), np.float32)
    attention.attention_f32(q, k, v, 0.2, out, bias=bias)
    t, s = np.ogrid[:rows, :rows]
    expected = reference.attention_masked(q, k, v, 0.2, None, by_distance[s - t + rows - 1][None])
    np.testing.assert_allclose(out, expected, atol=5e-6)


@pytest.mark.parametrize("shape", SHAPES)
def test_keys_of_minus_infinite_bias_have_no_weight_at_all(shape):
    heads, rows, keys, depth = shape
    q, k, v = _floats(5, shape)
    mask = np.random.default_rng(6).random((rows, keys)) < 0.5
    mask[0] = False
    v[:, ~mask.any(axis=0)] = 1e38
    v[:, 3] = 1e38
    mask[:, 3] = False
    out = np.empty((rows, heads * depth), np.float32)
    bias = np.where(mask, np.float32(0), np.float32(-np.inf))[None]
    attention.attention_f32(q, k, v, 0.2, out, bias=bias)
    expected = reference.attention_masked(q, k, v, 0.2, mask)
    np.testing.assert_allclose(out, expected, atol=5e-6)
    assert not out[0].any()


@pytest.mark.parametrize("shape", SHAPES)
def test_queries_see_as_many_keys_as_their_bound_says(shape):
    heads, rows, length, depth = shape
    q, k, v = _floats(7, shape)
    k[:, length // 2] *= 30  # a score that must not decide the rows that do not see it
    codes = _codes(8, shape)
    rng = np.random.default_rng(9)
    for keys in (
        np.minimum(np.arange(1, rows + 1), length),
        rng.integers(-3, length + 3, rows),
        np.array([length - 1]),
        np.array([0]),
    ):
        bounds = keys.astype(np.int64)
        seen = _seen(np.broadcast_to(keys, rows), length)
        out, plain = np.empty((2, rows, heads * depth), np.float32)
        attention.attention_f32(q, k, v, 0.2, out, keys=bounds)
        expected = reference.attention_masked(q, k, v, 0.2, seen)
        np.testing.assert_allclose(out, expected, atol=5e-6)
        assert not out[~seen.any(axis=1)].any()
        attention_plain.attention_f32(q, k, v, 0.2, attention.NO_BIAS, bounds, plain, 1)
        np.testing.assert_allclose(plain, expected, atol=5e-6)
        attention.attention_i8(*codes, 0.2, out, keys=bounds)
        attention_plain.attention_i8(*codes, 0.2, bounds, plain, 1)
        np.testing.assert_array_equal(out, plain)
        assert not out[~seen.any(axis=1)].any()


@pytest.mark.parametrize("rows", [1, 30])
def test_keys_behind_every_bound_are_not_read(rows):
    q, k, v = _floats(10, (2, rows, 64, 32))
    k[:, 40:], v[:, 40:] = np.nan, np.inf
    out, cut = np.empty((2, rows, 64), np.float32)
    attention.attention_f32(q, k, v, 0.2, out, keys=np.array([40]))
    attention.attention_f32(q, k[:, :40], v[:, :40], 0.2, cut)
    np.testing.assert_allclose(out, cut, atol=1e-6)


@pytest.mark.parametrize("shape", [(3, 1, 50, 64), (2, 60, 50, 64), (5, 30, 20, 16)])
@pytest.mark.parametrize("threads", [2, 3])
def test_results_do_not_depend_on_the_number_of_threads(shape, threads):
    heads, rows, keys, depth = shape
    q, k, v = _floats(11, shape)
    codes = _codes(12, shape)
    bias = np.random.default_rng(13).standard_normal((heads, rows, keys)).astype(np.float32)
    bounds = np.arange(rows) % keys
    pattern = attention_blocks.local(rows, keys, window=9, block=16)
    for call in (
        lambda out, n: attention.attention_f32(
            q, k, v, 0.2, out, bias=bias, keys=bounds, threads=n
        ),
        lambda out, n: attention.attention_i8(*codes, 0.2, out, keys=bounds, threads=n),
        lambda out, n: attention_blocks.attention_blocks_f32(q, k, v, 0.2, pattern, out, threads=n),
        lambda out, n: attention_blocks.attention_blocks_i8(*codes, 0.2, pattern, out, threads=n),
    ):
        one, many = np.full((2, rows, heads * depth), np.nan, np.float32)
        call(one, 1)
        call(many, threads)
        np.testing.assert_array_equal(one, many)
        assert np.isfinite(one).all()


def _arguments() -> dict[str, np.ndarray]:
    q, k, v = _floats(14, (3, 12, 20, 16))
    return {
        "q": q,
        "k": k,
        "v": v,
        "out": np.full((12, 48), 7, np.float32),
        "bias": np.zeros((3, 12, 20), np.float32),
        "keys": np.full(12, 20, np.int64),
    }


def _misaligned(a: np.ndarray) -> np.ndarray:
    raw = np.zeros(a.nbytes + 1, np.uint8)
    return raw[1:].view(a.dtype).reshape(a.shape)


WAYS = {
    "float64": lambda a: a.astype(np.float64),
    "int32": lambda a: a.astype(np.int32),
    "a list": lambda a: a.tolist(),
    "misaligned": _misaligned,
    "foreign": lambda a: a.astype(a.dtype.newbyteorder()),
    "an axis more": lambda a: a[None],
    "an axis less": lambda a: a[0],
    "inner stride": lambda a: np.repeat(a, 2, axis=-1)[..., ::2],
    "reversed": lambda a: a[..., ::-1],
    "shorter": lambda a: a[..., :-1],
    "longer": lambda a: np.concatenate([a, a], axis=-1),
    "shorter first axis": lambda a: a[1:],
    "longer first axis": lambda a: np.concatenate([a, a], axis=0),
}


@settings(max_examples=100, deadline=None)
@given(st.sampled_from(sorted(_arguments())), st.sampled_from(sorted(WAYS)))
def test_arguments_that_do_not_fit_are_refused_before_anything_is_written(name, way):
    arguments = _arguments()
    if name == "keys" and way in {"inner stride", "reversed"}:
        return  # any stride will do
    spoilt = WAYS[way](arguments[name])
    out = spoilt if name == "out" else arguments["out"]
    before = np.array(out)
    given_ = {**arguments, name: spoilt}
    with pytest.raises((ValueError, TypeError)):
        attention.attention_f32(
            given_["q"],
            given_["k"],
            given_["v"],
            0.2,
            given_["out"],
            bias=given_["bias"],
            keys=given_["keys"],
        )
    np.testing.assert_array_equal(np.array(out), before)


@pytest.mark.parametrize("threads", [0, -1])
def test_less_than_one_thread_is_refused(threads):
    q, k, v = _floats(15, (1, 4, 4, 8))
    with pytest.raises(ValueError, match="one or more threads"):
        attention.attention_f32(q, k, v, 0.2, np.empty((4, 8), np.float32), threads=threads)
