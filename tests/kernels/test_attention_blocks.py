import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kernels import attention, attention_blocks, attention_plain, reference
from kernels.attention_blocks import (
    BlockPattern,
    custom,
    fixed,
    from_rule,
    global_tokens,
    kept,
    local,
    strided,
)

SHAPES = [(1, 16, 16, 8), (2, 50, 50, 64), (3, 70, 131, 20), (2, 33, 17, 13), (1, 5, 200, 16)]
SCALE = 0.25


def _heads(rng: np.random.Generator, count: int, heads: int, depth: int) -> np.ndarray:
    wide = rng.standard_normal((count, heads * depth + 3)).astype(np.float32)
    return wide[:, : heads * depth].reshape(count, heads, depth).transpose(1, 0, 2)


def _floats(seed: int, shape: tuple[int, int, int, int]) -> list[np.ndarray]:
    heads, rows, keys, depth = shape
    rng = np.random.default_rng(seed)
    return [_heads(rng, count, heads, depth) for count in (rows, keys, keys)]


def _codes(seed: int, shape: tuple[int, int, int, int]) -> list[np.ndarray]:
    return [np.clip(np.rint(x * 50), -128, 127).astype(np.int8) for x in _floats(seed, shape)]


def _scales(seed: int, shape: tuple[int, int, int, int]) -> list[np.ndarray]:
    heads, rows, keys, _ = shape
    rng = np.random.default_rng(seed)
    sizes = ((heads, rows), (heads, keys), (heads,))
    return [rng.uniform(0.005, 0.02, size).astype(np.float32) for size in sizes]


def _mask(seed: int, rows: int, keys: int, density: float) -> np.ndarray:
    """Clustered: blocks that are empty, full and mixed; some queries see nothing."""
    rng = np.random.default_rng(seed)
    coarse = rng.random((-(-rows // 16), -(-keys // 16))) < density
    mask = np.kron(coarse, np.ones((16, 16), bool))[:rows, :keys]
    mask &= rng.random((rows, 1)) < 0.9
    mask[: rows // 2] &= rng.random((rows // 2, keys)) < 0.7
    return mask


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("block", [16, 48, 64])
@pytest.mark.parametrize("density", [0.0, 0.3, 1.0])
def test_float_attention_over_a_pattern_is_dense_masked_attention(shape, block, density):
    heads, rows, keys, depth = shape
    q, k, v = _floats(1, shape)
    mask = _mask(2, rows, keys, density)
    out = np.full((rows, heads * depth + 4), np.nan, np.float32)
    mine = out[:, : heads * depth]
    attention_blocks.attention_blocks_f32(q, k, v, SCALE, custom(mask, block=block), mine)
    expected = reference.attention_masked(q, k, v, SCALE, mask)
    np.testing.assert_allclose(mine, expected, atol=3e-6)
    assert not mine[~mask.any(axis=1)].any()
    assert np.isnan(out[:, heads * depth :]).all()


@pytest.mark.parametrize("shape", SHAPES)
def test_a_bias_is_added_to_kept_scores(shape):
    heads, rows, keys, depth = shape
    q, k, v = _floats(3, shape)
    mask = _mask(4, rows, keys, 0.5)
    for heads_of_bias in (1, heads):
        rng = np.random.default_rng(5)
        bias = rng.standard_normal((heads_of_bias, rows, keys + 2)).astype(np.float32)[:, :, 1:-1]
        out = np.empty((rows, heads * depth), np.float32)
        pattern = custom(mask, block=32)
        attention_blocks.attention_blocks_f32(q, k, v, SCALE, pattern, out, bias=bias)
        expected = reference.attention_masked(q, k, v, SCALE, mask, bias)
        np.testing.assert_allclose(out, expected, atol=3e-6)


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("density", [0.0, 0.4, 1.0])
def test_integer_attention_over_a_pattern_is_within_two_codes_of_float64(shape, density):
    heads, rows, keys, depth = shape
    codes, scales = _codes(6, shape), _scales(7, shape)
    mask = _mask(8, rows, keys, density)
    out = np.empty((rows, heads * depth), np.float32)
    operands = [x for pair in zip(codes, scales, strict=True) for x in pair]
    attention_blocks.attention_blocks_i8(*operands, SCALE, custom(mask, block=32), out)
    q, k = (
        c * s.astype(np.float64)[:, :, None] for c, s in zip(codes[:2], scales[:2], strict=True)
    )
    v = codes[2] * scales[2].astype(np.float64)[:, None, None]
    expected = reference.attention_masked(q, k, v, SCALE, mask)
    np.testing.assert_allclose(out, expected, atol=2 * 128 * scales[2].max() / 255)
    assert not out[~mask.any(axis=1)].any()


@pytest.mark.parametrize("fill", [-128, 127])
def test_the_context_of_kept_keys_is_exact_when_every_code_is_255(fill):
    """Equal scores: the output is the mean of the kept values, and any other key would show."""
    rows, keys = 40, 150
    mask = _mask(9, rows, keys, 0.5)
    q, k = np.zeros((1, rows, 16), np.int8), np.full((1, keys, 16), 127, np.int8)
    v = np.where(np.arange(keys) % 3 == 0, fill, 1).astype(np.int8)[None, :, None]
    v = np.ascontiguousarray(np.broadcast_to(v, (1, keys, 16)))
    one, out = np.ones(1, np.float32), np.empty((rows, 16), np.float32)
    attention_blocks.attention_blocks_i8(q, one, k, one, v, one, 1.0, custom(mask, block=16), out)
    total = 255 * (mask.astype(np.int64) @ v[0].astype(np.int64))
    norm = np.maximum(255 * mask.sum(axis=1), 1).astype(np.float32)
    np.testing.assert_array_equal(out, total.astype(np.float32) * (one / norm)[:, None])


@settings(max_examples=40, deadline=None)
@given(
    st.integers(1, 2),
    st.integers(1, 60),
    st.integers(1, 120),
    st.integers(1, 40),
    st.sampled_from([16, 32, 64]),
    st.floats(0.0, 1.0),
    st.integers(0, 99),
)
def test_any_pattern_gives_what_the_plain_loops_give(
    heads, rows, keys, depth, block, density, seed
):
    shape = (heads, rows, keys, depth)
    pattern = custom(_mask(seed, rows, keys, density), block=block)
    data = (pattern.block, pattern.pointers, pattern.columns, pattern.which, pattern.masks)
    out, plain = np.empty((2, rows, heads * depth), np.float32)
    q, k, v = _floats(seed, shape)
    attention_blocks.attention_blocks_f32(q, k, v, SCALE, pattern, out)
    bias = attention.NO_BIAS
    assert not attention_plain.attention_blocks_f32(q, k, v, SCALE, bias, *data, plain, 1)
    np.testing.assert_allclose(out, plain, atol=5e-6)
    codes, scales = _codes(seed, shape), _scales(seed, shape)
    operands = [x for pair in zip(codes, scales, strict=True) for x in pair]
    attention_blocks.attention_blocks_i8(*operands, SCALE, pattern, out)
    assert not attention_plain.attention_blocks_i8(*operands, SCALE, *data, plain, 1)
    np.testing.assert_array_equal(out, plain)


def test_whole_patterns_give_dense_attention():
    shape = (2, 50, 75, 64)
    q, k, v = _floats(10, shape)
    out, dense = np.empty((2, 50, 128), np.float32)
    whole = from_rule(50, 75, lambda t, s: (t >= 0) & (s >= 0), block=32)
    assert (whole.which == -1).all()
    attention_blocks.attention_blocks_f32(q, k, v, SCALE, whole, out)
    attention.attention_f32(q, k, v, SCALE, dense)
    np.testing.assert_allclose(out, dense, atol=1e-6)


# --- patterns -------------------------------------------------------------------------------

T_POSITION, S_POSITION = np.ogrid[:70, :90]
APART = T_POSITION + 20 - S_POSITION
BLOCKS_APART = (T_POSITION + 20) // 16 - S_POSITION // 16


def test_patterns_keep_what_their_definition_says():
    rows, keys, block = 70, 90, 16
    near = np.abs(APART) <= 7
    np.testing.assert_array_equal(kept(local(rows, keys, window=7, block=block)), near)
    causal = local(rows, keys, window=7, causal=True, block=block)
    np.testing.assert_array_equal(kept(causal), near & (APART >= 0))
    found = kept(global_tokens(rows, keys, count=3, window=7, block=block))
    np.testing.assert_array_equal(found, near | (T_POSITION < 3) | (S_POSITION < 3))
    found = kept(strided(rows, keys, near=1, stride=3, block=block))
    expected = (np.abs(BLOCKS_APART) <= 1) | (BLOCKS_APART % 3 == 0)
    np.testing.assert_array_equal(found, expected)
    found = kept(fixed(rows, keys, span=3, summary=1, causal=True, block=block))
    query, key = (T_POSITION + 20) // 16, S_POSITION // 16
    expected = ((query // 3 == key // 3) | (key % 3 == 2)) & (APART >= 0)
    np.testing.assert_array_equal(found, expected)


@settings(max_examples=40, deadline=None)
@given(st.integers(1, 90), st.integers(1, 90), st.sampled_from([16, 32, 80]), st.integers(0, 99))
def test_a_custom_pattern_keeps_its_mask(rows, keys, block, seed):
    mask = np.random.default_rng(seed).random((rows, keys)) < seed / 99
    np.testing.assert_array_equal(kept(custom(mask, block=block)), mask)


def test_equal_parts_of_a_window_are_stored_once():
    pattern = local(1500, 1500, window=100, block=64)
    assert len(pattern.columns) > 100
    assert len(pattern.masks) < 12


@pytest.mark.parametrize(
    "make",
    [
        lambda: local(0, 5, window=1),
        lambda: local(5, 5, window=-1),
        lambda: local(5, 5, window=1, block=24),
        lambda: local(5, 5, window=1, block=0),
        lambda: strided(5, 5, near=1, stride=0),
        lambda: fixed(5, 5, span=2, summary=3),
        lambda: global_tokens(5, 5, count=-1, window=1),
        lambda: custom(np.ones((4, 4))),
        lambda: custom(np.ones(4, bool)),
    ],
)
def test_patterns_that_make_no_sense_are_refused(make):
    with pytest.raises(ValueError, match=r"pattern: found .*expected"):
        make()


def _changed(pattern: BlockPattern, **arrays: np.ndarray | int) -> BlockPattern:
    fields = {name: getattr(pattern, name) for name in BlockPattern.__dataclass_fields__}
    return BlockPattern(**{**fields, **arrays})


def _broken(pattern: BlockPattern) -> dict[str, BlockPattern]:
    def with_value(name: str, index: int, value: int) -> BlockPattern:
        array = getattr(pattern, name).copy()
        array[index] = value
        return _changed(pattern, **{name: array})

    strange = np.repeat(pattern.columns, 2)[::2]
    return {
        "block": _changed(pattern, block=24),
        "no block": _changed(pattern, block=0),
        "other block": _changed(pattern, block=64),
        "rows": _changed(pattern, rows=101),
        "keys": _changed(pattern, keys=99),
        "first pointer": with_value("pointers", 0, 1),
        "falling pointers": with_value("pointers", 2, 0),
        "far pointer": with_value("pointers", 1, 10**9),
        "negative pointer": with_value("pointers", 1, -5),
        "last pointer": with_value("pointers", -1, 10**9),
        "fewer pointers": _changed(pattern, pointers=pattern.pointers[:-1]),
        "column past the end": with_value("columns", -1, 4),
        "negative column": with_value("columns", 0, -1),
        "column twice": with_value("columns", 1, 0),
        "fewer columns": _changed(pattern, columns=pattern.columns[:-1]),
        "part past the end": with_value("which", 0, len(pattern.masks)),
        "part below -1": with_value("which", 0, -2),
        "fewer which": _changed(pattern, which=pattern.which[:-1]),
        "strided columns": _changed(pattern, columns=strange),
        "masks of other blocks": _changed(pattern, masks=pattern.masks[:, :16]),
        "strided masks": _changed(pattern, masks=pattern.masks[:, ::-1]),
        "column dtype": _changed(pattern, columns=pattern.columns.astype(np.int64)),
        "mask dtype": _changed(pattern, masks=pattern.masks.astype(np.int16)),
    }


GOOD = local(100, 100, window=9, block=32)


@pytest.mark.parametrize("what", _broken(GOOD))
def test_broken_patterns_are_refused_before_anything_is_written(what):
    pattern = _broken(GOOD)[what]
    q, k, v = _floats(11, (2, 100, 100, 16))
    out = np.full((100, 32), 7, np.float32)
    codes, one = _codes(11, (2, 100, 100, 16)), np.ones(1, np.float32)
    with pytest.raises((ValueError, TypeError)):
        attention_blocks.attention_blocks_f32(q, k, v, SCALE, pattern, out)
    with pytest.raises((ValueError, TypeError)):
        attention_blocks.attention_blocks_i8(
            codes[0], one, codes[1], one, codes[2], one, SCALE, pattern, out
        )
    data = (pattern.block, pattern.pointers, pattern.columns, pattern.which, pattern.masks)
    if "dtype" not in what and what not in {"rows", "keys"}:
        bias = attention.NO_BIAS
        assert attention_plain.attention_blocks_f32(q, k, v, SCALE, bias, *data, out, 1)
    assert (out == 7).all()
