import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cosim.errors import CosimError
from cosim.patterns import AttentionPattern, from_text
from kernels import attention_blocks as kernel

LENGTHS = ((64, 64), (100, 100), (37, 90), (90, 37), (1, 1), (16, 49))


def both(kind: str, rows: int, keys: int, **values: int):
    """One pattern by the IR's text, and the kernels' pattern of the same meaning."""
    makers = {
        "local": kernel.local,
        "global": kernel.global_tokens,
        "strided": kernel.strided,
        "fixed": kernel.fixed,
    }
    text = AttentionPattern(kind, **values).to_text()
    return from_text(text), makers[kind](rows, keys, **values)


@pytest.mark.parametrize(("rows", "keys"), LENGTHS)
@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize(
    ("kind", "values"),
    [
        ("local", {"window": 5}),
        ("local", {"window": 0}),
        ("global", {"count": 3, "window": 4}),
        ("strided", {"near": 0, "stride": 2}),
        ("strided", {"near": 1, "stride": 3}),
        ("fixed", {"span": 2, "summary": 1}),
        ("fixed", {"span": 3, "summary": 0}),
    ],
)
def test_a_pattern_sees_what_the_kernels_keep(kind, values, causal, rows, keys):
    pattern, kernels_pattern = both(kind, rows, keys, causal=causal, block=16, **values)
    assert np.array_equal(pattern.seen(rows, keys), kernel.kept(kernels_pattern))


@given(
    rows=st.integers(1, 150),
    keys=st.integers(1, 150),
    window=st.integers(0, 60),
    block=st.sampled_from([16, 32]),
    causal=st.booleans(),
)
@settings(max_examples=40, deadline=None)
def test_stored_blocks_are_those_that_the_kernels_store(rows, keys, window, block, causal):
    pattern, wanted = both("local", rows, keys, window=window, block=block, causal=causal)
    stored = pattern.stored(rows, keys)
    assert stored.shape == (-(-rows // block), -(-keys // block))
    for row, first, stop in zip(stored, wanted.pointers, wanted.pointers[1:], strict=False):
        assert np.flatnonzero(row).tolist() == wanted.columns[first:stop].tolist()
    assert [sum(pattern.sizes(length)) for length in (rows, keys)] == [rows, keys]
    assert max(pattern.sizes(rows)) <= block


def test_custom_blocks_are_seen_whole_and_for_shorter_lengths_too():
    pattern = AttentionPattern("custom", block=16, seen_blocks=("101", "010", "111"))
    seen = pattern.seen(40, 33)
    blocks = np.array([[1, 0, 1], [0, 1, 0], [1, 1, 1]], bool)
    expected = np.kron(blocks, np.ones((16, 16), bool))[:40, :33]
    assert np.array_equal(seen, expected)
    assert np.array_equal(seen, kernel.kept(kernel.custom(expected, block=16)))
    assert np.array_equal(pattern.seen(10, 10), expected[:10, :10])
    with pytest.raises(CosimError, match="found 3 x 3 blocks of 16, expected at least 4 x 3"):
        pattern.seen(49, 48)


@pytest.mark.parametrize(
    "text",
    [
        "local window=64 block=64",
        "local window=64 block=64 causal=true",
        "strided near=1 stride=4 block=32",
        "fixed span=4 summary=1 block=16",
        "global count=2 window=10 block=64",
        "custom seen_blocks=10/11 block=48",
    ],
)
def test_text_is_exact(text):
    assert from_text(text).to_text() == text


def test_a_wrong_text_lists_everything_that_is_wrong():
    with pytest.raises(CosimError) as raised:
        from_text("lokal windw=3 block=x block=2")
    message = str(raised.value)
    assert "unknown kind 'lokal'; did you mean \"local\"?" in message
    assert "unknown parameter 'windw=3'; did you mean \"window\"?" in message
    assert "block: found 'x', expected an integer" in message
    with pytest.raises(CosimError, match="block: stated twice"):
        from_text("local window=3 block=16 block=32")


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"kind": "local"}, "window: missing"),
        ({"kind": "local", "window": -1}, "window: found -1, expected at least 0"),
        ({"kind": "local", "window": 1, "span": 2}, "span: found 2, belongs to another kind"),
        ({"kind": "strided", "near": 0, "stride": 0}, "stride: found 0, expected at least 1"),
        ({"kind": "fixed", "span": 1, "summary": 2}, "summary: found 2, expected at most span 1"),
        ({"kind": "local", "window": 1, "block": 20}, "block: found 20, expected a multiple of 16"),
        ({"kind": "custom", "seen_blocks": ("10", "1")}, "expected rows of 0 and 1"),
    ],
)
def test_parameters_that_make_no_pattern_are_refused(values, message):
    with pytest.raises(CosimError, match=message):
        AttentionPattern(**values)
