"""Depthwise convolution against a float64 loop."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kernels import depthwise, norms, pointwise, reference

EPSILON = 2.0**-24


@settings(deadline=None, max_examples=60)
@given(
    seed=st.integers(0, 999),
    frames=st.integers(1, 40),
    channels=st.sampled_from([1, 3, 15, 16, 17, 32, 40]),
    size=st.integers(1, 9),
    stride=st.integers(1, 4),
    padding=st.integers(0, 9),
    has_bias=st.booleans(),
)
def test_every_output_keeps_the_stated_bound(
    seed, frames, channels, size, stride, padding, has_bias
):
    if frames + 2 * padding < size:
        frames = size
    rng = np.random.default_rng(seed)
    wide = rng.standard_normal((frames, channels + 2)).astype(np.float32)
    x, w = wide[:, :channels], rng.standard_normal((channels, size)).astype(np.float32)
    bias = rng.standard_normal(channels).astype(np.float32) if has_bias else None
    zero = np.zeros(channels, np.float32) if bias is None else bias
    exact = reference.conv1d(x, w[:, None], zero, stride, padding, channels).astype(np.float64)
    sums = reference.conv1d(np.abs(x), np.abs(w[:, None]), np.abs(zero), stride, padding, channels)
    room = np.full((len(exact), channels + 3), 9.0, np.float32)
    out = room[:, :channels]
    depthwise.depthwise_conv1d(
        x, depthwise.pack_depthwise(w), out, bias=bias, stride=stride, padding=padding
    )
    # one more rounding for the reference, which is float32
    assert (np.abs(out - exact) <= (size + 2) * EPSILON * sums).all()
    assert (room[:, channels:] == 9.0).all()


@pytest.mark.parametrize(("frames", "size", "padding"), [(499, 31, 15), (300, 300, 150), (8, 1, 0)])
def test_long_windows_and_several_strips(frames, size, padding):
    rng = np.random.default_rng(size)
    x = rng.integers(-9, 10, (frames, 24)).astype(np.float32)
    w = rng.integers(-9, 10, (24, size)).astype(np.float32)
    padded = np.pad(x, ((padding, padding), (0, 0)))
    views = np.lib.stride_tricks.sliding_window_view(padded, size, axis=0)
    expected = np.einsum("tcs,cs->tc", views.astype(np.float64), w)
    out = np.empty(expected.shape, np.float32)
    depthwise.depthwise_conv1d(x, depthwise.pack_depthwise(w), out, padding=padding)
    np.testing.assert_array_equal(out, expected)  # small integers: exact in float32


def test_a_fused_activation_gives_the_bits_of_a_separate_one():
    rng = np.random.default_rng(3)
    x = rng.standard_normal((300, 20)).astype(np.float32)
    panels = depthwise.pack_depthwise(rng.standard_normal((20, 5)).astype(np.float32))
    plain, fused = np.empty_like(x), np.empty_like(x)
    depthwise.depthwise_conv1d(x, panels, plain, padding=2)
    depthwise.depthwise_conv1d(x, panels, fused, padding=2, activation="silu")
    pointwise.silu(plain, plain)
    np.testing.assert_array_equal(fused, plain)


def _panels(channels: int, size: int) -> np.ndarray:
    return depthwise.pack_depthwise(np.ones((channels, size), np.float32))


@pytest.mark.parametrize("channels", [1, 15, 16, 40])
@pytest.mark.parametrize("activation", ["none", "silu", "relu"])
def test_a_norm_in_the_tile_gives_the_bits_of_a_norm_behind_it(channels, activation):
    rng = np.random.default_rng(channels)
    x = rng.standard_normal((300, channels)).astype(np.float32)
    mean, factor, shift = rng.standard_normal((3, channels)).astype(np.float32)
    fused, apart = np.empty_like(x), np.empty_like(x)
    panels, norm = _panels(channels, 3), (mean, factor, shift)
    depthwise.depthwise_conv1d(x, panels, fused, padding=1, norm=norm, activation=activation)
    depthwise.depthwise_conv1d(x, panels, apart, padding=1)
    norms.batch_norm(apart, mean, factor, shift, apart, activation=activation)
    np.testing.assert_array_equal(fused, apart)


ONES = np.ones(20, np.float32)
GOOD = {
    "x": np.ones((9, 20), np.float32),
    "panels": _panels(20, 3),
    "out": np.full((9, 20), 5.0, np.float32),
    "bias": np.ones(20, np.float32),
    "stride": 1,
    "padding": 1,
    "activation": "none",
}
WRONG = [
    ("x", np.ones((9, 40), np.float32)),
    ("x", np.ones((9, 40), np.float32)[:, ::2]),
    ("x", np.ones((9, 20))),
    ("x", np.ones((9, 20), ">f4")),
    ("x", np.ones(20, np.float32)),
    ("x", GOOD["out"]),
    ("out", np.full((8, 20), 5.0, np.float32)),
    ("bias", np.ones(19, np.float32)),
    ("bias", np.ones(20)),
    ("panels", GOOD["panels"][:, ::-1]),
    ("panels", _panels(20, 12)),
    ("panels", _panels(20, 3)[:1]),
    ("stride", 0),
    ("padding", -1),
    ("activation", "glu"),
    ("norm", (ONES, ONES, ONES[:19])),
    ("norm", (ONES[:19], ONES[:19], ONES[:19])),
    ("norm", (ONES, ONES, np.ones(40, np.float32)[::2])),
    ("norm", (ONES, ONES.astype(np.float64), ONES)),
]


@pytest.mark.parametrize(("name", "value"), WRONG, ids=[name for name, _ in WRONG])
def test_arguments_that_do_not_fit_are_refused_and_nothing_is_written(name, value):
    arguments = {**GOOD, name: value}
    before = arguments["out"].copy()
    with pytest.raises((ValueError, TypeError), match="depthwise_conv1d"):
        depthwise.depthwise_conv1d(**arguments)
    np.testing.assert_array_equal(arguments["out"], before)


def test_the_arguments_above_fit_otherwise():
    depthwise.depthwise_conv1d(**{**GOOD, "out": GOOD["out"].copy()})
