"""Attention on single bits: integer sums are exact, levels and ties are those of the definition."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kernels import reference
from kernels.attention_binary import FEW_ROWS, attention_b1

# heads, queries, keys, depth: both ways to sum values, one and several words, odd tails
SHAPES = [
    (1, 1, 1, 1),
    (2, 1, 63, 36),
    (6, 1, 451, 64),
    (3, 7, 65, 36),
    (2, 9, 47, 24),
    (2, 17, 129, 64),
    (1, 33, 200, 130),
    (2, 101, 333, 36),
]


def heads_of(rows: np.ndarray, heads: int) -> np.ndarray:
    """Rows of all heads side by side, inside longer rows, as (heads, rows, bytes)."""
    wide = np.full((len(rows), rows.shape[1] + 3), 255, np.uint8)
    wide[:, : rows.shape[1]] = rows
    return wide[:, : rows.shape[1]].reshape(len(rows), heads, -1).transpose(1, 0, 2)


def drawn(seed: int, shape: tuple[int, int, int, int]) -> list[np.ndarray]:
    """Draw q, k and v in packed bits, each with its scales; bits past the depth are set too."""
    heads, rows, length, depth = shape
    rng = np.random.default_rng(seed)
    found = []
    for count in (rows, length, length):
        bits = rng.integers(0, 256, (count, heads * ((depth + 7) // 8))).astype(np.uint8)
        scale = rng.uniform(0.5, 1.5, (heads, count)).astype(np.float32)
        found += [heads_of(bits, heads), scale]
    return found


def integers(arrays, scale: float, depth: int, level: float):
    """Return sums of signs over the keys of bit 1, what they are worth, and which rows are sure.

    Worked out key by key from integers; a row is sure where no share is near the bound.
    """
    q, qs, k, ks, v, vs = arrays
    signs = [np.unpackbits(x, axis=2, count=depth, bitorder="little") * 2 - 1.0 for x in (q, k, v)]
    products = np.einsum("htd,hsd->hts", signs[0], signs[1])
    scores = products * (qs[:, :, None].astype(np.float64) * ks[:, None, :]) * scale
    e = np.exp(scores - scores.max(axis=2, keepdims=True))
    total = e.sum(axis=2)
    a = np.full(total.shape, level) if level else np.square(e).sum(axis=2) / np.square(total)
    bound = (a * total / 2)[:, :, None]
    near = np.abs(e - bound) <= 1e-5 * bound * (1 + np.abs(scores).max())
    sums = np.einsum("hts,hsd->htd", (e > bound) * 1.0, signs[2])
    worth = a * vs.astype(np.float64).mean(axis=1)[:, None]
    return sums, worth[:, :, None], ~near.any(axis=2)


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("level", [0.0, 0.02])
def test_sums_of_signs_are_exact(shape, level):
    heads, rows, _, depth = shape
    arrays = drawn(3, shape)
    out = np.full((rows, heads * depth + 5), np.nan, np.float32)[:, : heads * depth]
    attention_b1(*arrays, depth**-0.5, out, depth=depth, level=level)
    sums, worth, is_sure = integers(arrays, depth**-0.5, depth, level)
    found = out.reshape(rows, heads, depth).transpose(1, 0, 2) / worth
    assert is_sure.mean() > 0.8
    np.testing.assert_array_equal(np.rint(found)[is_sure], sums[is_sure])
    np.testing.assert_allclose(found[is_sure], sums[is_sure], rtol=1e-5)
    assert np.isnan(out.base[:, heads * depth :]).all()


@settings(deadline=None, max_examples=30)
@given(
    st.tuples(st.integers(1, 3), st.integers(1, 20), st.integers(1, 140), st.integers(1, 140)),
    st.integers(0, 9),
    st.sampled_from([0.0, 1e-3, 0.4]),
)
def test_the_kernel_does_what_the_reference_means(shape, seed, level):
    heads, rows, _, depth = shape
    arrays = drawn(seed, shape)
    out = np.empty((rows, heads * depth), np.float32)
    attention_b1(*arrays, depth**-0.5, out, depth=depth, level=level)
    wanted = reference.attention_b1(*arrays, depth**-0.5, depth, level)
    sure = np.repeat(integers(arrays, depth**-0.5, depth, level)[2].T, depth, axis=1)
    np.testing.assert_allclose(out[sure], wanted[sure], rtol=2e-5, atol=1e-6 * shape[2])


def test_few_and_many_queries_give_the_same_bits():
    arrays = drawn(5, (3, FEW_ROWS + 3, 150, 36))
    whole, part = np.empty((2, FEW_ROWS + 3, 108), np.float32)
    attention_b1(*arrays, 0.2, whole, depth=36)
    for t in range(len(part)):
        one = [arrays[0][:, t : t + 1], arrays[1][:, t : t + 1], *arrays[2:]]
        attention_b1(*one, 0.2, part[t : t + 1], depth=36)
    np.testing.assert_array_equal(whole, part)


@pytest.mark.parametrize("rows", [1, FEW_ROWS])
def test_threads_do_not_change_results(rows):
    arrays = drawn(6, (5, rows, 70, 64))
    one, three = np.empty((2, rows, 320), np.float32)
    attention_b1(*arrays, 0.125, one, depth=64)
    attention_b1(*arrays, 0.125, three, depth=64, threads=3)
    np.testing.assert_array_equal(one, three)


@pytest.mark.parametrize("rows", [1, FEW_ROWS])
def test_keys_that_are_alike_are_averaged(rows):
    """n keys of p = 1 / n have the level 1 / n; all their bits are 1."""
    q, k = np.full((1, rows, 1), 255, np.uint8), np.full((1, 5, 1), 255, np.uint8)
    v = np.array([[[1], [3], [7], [15], [31]]], np.uint8)  # key s has s + 1 ones
    scale = np.arange(1, 6, dtype=np.float32)[None]  # mean 3
    out, one = np.empty((rows, 8), np.float32), np.ones((1, 1), np.float32)
    attention_b1(q, one, k, one, v, scale, 1.0, out, depth=8)
    ones = np.array([5, 4, 3, 2, 1, 0, 0, 0])
    np.testing.assert_allclose(out, np.tile(3 * (2 * ones - 5) / 5, (rows, 1)), rtol=1e-6)


@pytest.mark.parametrize(("level", "is_one"), [(0.5, False), (0.4999, True), (0.6, False)])
def test_half_of_the_level_rounds_to_zero(level, is_one):
    """Four keys alike have p = 1/4: half of the level 1/2."""
    bits = np.full((1, 4, 1), 255, np.uint8)
    out, one = np.empty((4, 8), np.float32), np.ones((1, 1), np.float32)
    attention_b1(bits, one, bits, one, bits, one, 1.0, out, depth=8, level=level)
    np.testing.assert_allclose(out, 4 * level if is_one else 0.0)


@pytest.mark.parametrize("rows", [1, FEW_ROWS])
@pytest.mark.parametrize("which", [1, 3, 5])
def test_scales_that_are_no_numbers_show(rows, which):
    arrays = drawn(7, (2, rows, 30, 40))
    arrays[which][1, 0] = np.nan
    out = np.zeros((rows, 80), np.float32)
    attention_b1(*arrays, 0.2, out, depth=40)
    assert np.isnan(out[0, 40:]).all()
    assert np.isfinite(out[:, :40]).all()


def test_what_does_not_fit_is_refused_before_anything_is_written():
    q, qs, k, ks, v, vs = drawn(8, (2, 3, 9, 12))
    out = np.full((3, 24), 7, np.float32)
    wrong = [
        ((q, qs, k, ks, v, vs), {"depth": 17}),
        ((q, qs, k[:1], ks, v, vs), {"depth": 12}),
        ((q, qs, k, ks, v[:, :8], vs), {"depth": 12}),
        ((q, qs[:, :2], k, ks, v, vs), {"depth": 12}),
        ((q, qs, k, ks, v, vs), {"depth": 12, "level": -1.0}),
        ((q, qs, k, ks, v, vs), {"depth": 12, "threads": 0}),
        ((q[:, :0], qs[:, :0], k, ks, v, vs), {"depth": 12}),
    ]
    for arrays, values in wrong:
        with pytest.raises(ValueError, match=r"attention_b1: found q uint8.*expected q \(H, T"):
            attention_b1(*arrays, 0.3, out, **values)
    with pytest.raises(TypeError, match="expected an array of uint8"):
        attention_b1(q.astype(np.int8), qs, k, ks, v, vs, 0.3, out, depth=12)
    assert (out == 7).all()
