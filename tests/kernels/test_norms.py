"""Norms against float64, also where a large mean or a long row would cost float32 sums digits."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kernels import norms, pointwise, reference

SHAPES = [(1, 384), (7, 384), (3, 1), (2, 7), (600, 64), (4, 1536), (3, 5000), (67, 33)]
ACTIVATIONS = {"relu": pointwise.relu, "gelu": pointwise.gelu, "tanh": pointwise.tanh}


def _rows(seed: int, shape: tuple[int, ...], spread: float = 3.0) -> np.ndarray:
    return (np.random.default_rng(seed).standard_normal(shape) * spread).astype(np.float32)


def _apart(x: np.ndarray) -> np.ndarray:
    """Same values, rows further apart, NaN between them."""
    wide = np.full((x.shape[0], x.shape[1] + 3), np.nan, np.float32)
    wide[:, : x.shape[1]] = x
    return wide[:, : x.shape[1]]


def _bound(x, mean, root, gamma, beta) -> np.ndarray:
    """The error that kernels.norms states."""
    normal = np.abs(x.astype(np.float64) - mean) / root
    return 2e-6 * (normal * np.abs(gamma) + np.abs(mean / root * gamma) + np.abs(beta))


@pytest.mark.parametrize("mean", [0.0, 100.0, -3e4])
@pytest.mark.parametrize("shape", SHAPES)
def test_layer_norm_keeps_its_bound_for_any_mean(shape, mean):
    x = _rows(2, shape) + np.float32(mean)
    gamma, beta = _rows(3, (2, shape[1]))
    exact = reference.layer_norm(x, gamma, beta, 1e-5).astype(np.float64)
    x64 = x.astype(np.float64)
    centre = x64.mean(axis=1, keepdims=True)
    root = np.sqrt(x64.var(axis=1, keepdims=True) + 1e-5)
    bound = _bound(x, centre, root, gamma, beta)
    out = _apart(np.zeros_like(x))
    norms.layer_norm(_apart(x), gamma, beta, 1e-5, out)
    assert (np.abs(out - exact) <= bound).all()
    norms.layer_norm(x, gamma, beta, 1e-5, x)  # in place, and the same bits
    np.testing.assert_array_equal(x, out)


@pytest.mark.parametrize("mean", [0.0, 1000.0])
@pytest.mark.parametrize(("frames", "channels", "groups"),
                         [(1, 8, 8), (3, 6, 2), (63, 32, 32), (64, 8, 1), (65, 33, 11),
                          (1100, 16, 4), (7, 1, 1)])  # fmt: skip
def test_group_norm_is_the_same_in_both_memory_orders(frames, channels, groups, mean):
    x = _rows(frames, (frames, channels)) + np.float32(mean)
    gamma, beta = _rows(4, (2, channels))
    exact = reference.group_norm(x, gamma, beta, 1e-5, groups).astype(np.float64)
    grouped = x.astype(np.float64).reshape(frames, groups, -1)
    each = channels // groups
    centre = np.repeat(grouped.mean(axis=(0, 2)), each)
    root = np.repeat(np.sqrt(grouped.var(axis=(0, 2)) + 1e-5), each)
    bound = _bound(x, centre, root, gamma, beta)
    last, first = _apart(np.zeros_like(x)), _apart(np.zeros_like(x.T))
    norms.group_norm(_apart(x), gamma, beta, 1e-5, last, groups=groups)
    norms.group_norm(_apart(x.T), gamma, beta, 1e-5, first, groups=groups, channels_last=False)
    assert (np.abs(last - exact) <= bound).all()
    assert (np.abs(first.T - exact) <= bound).all()


def test_moments_merged_over_blocks_do_not_lose_a_far_first_block():
    x = np.full((5000, 1), 1e4, np.float32)
    x[64:] = _rows(5, (4936, 1), 1.0)
    one, zero = np.ones(1, np.float32), np.zeros(1, np.float32)
    exact = reference.group_norm(x, one, zero, 1e-5, 1)
    for layout in (True, False):
        source = x if layout else np.ascontiguousarray(x.T)
        out = np.empty_like(source)
        norms.group_norm(source, one, zero, 1e-5, out, groups=1, channels_last=layout)
        np.testing.assert_allclose(out.reshape(-1), exact[:, 0], atol=2e-6, rtol=2e-6)


@pytest.mark.parametrize("shape", [(5, 40), (1, 1), (9, 7)])
def test_batch_norm_is_the_folded_norm_in_both_memory_orders(shape):
    x, channels = _rows(6, shape) + np.float32(20.0), shape[1]
    mean, gamma, beta = _rows(7, (3, channels))
    variance = np.abs(_rows(8, (channels,))) + np.float32(0.1)
    factor = norms.fold_batch_norm(variance, gamma, 1e-3)
    exact = (x.astype(np.float64) - mean) / np.sqrt(variance.astype(np.float64) + 1e-3)
    exact = exact * gamma + beta
    bound = 2e-7 * (np.abs((x.astype(np.float64) - mean) * factor) + np.abs(exact))
    out, turned = np.empty_like(x), np.empty_like(x.T.copy())
    norms.batch_norm(_apart(x), mean, factor, beta, out)
    norms.batch_norm(x.T.copy(), mean, factor, beta, turned, channels_last=False)
    assert (np.abs(out - exact) <= bound).all()
    np.testing.assert_array_equal(turned.T, out)
    np.testing.assert_allclose(
        out, reference.batch_norm(x, mean, factor, beta), rtol=1e-6, atol=1e-5
    )


@pytest.mark.parametrize("activation", sorted(ACTIVATIONS))
def test_a_fused_activation_gives_the_bits_of_a_separate_one(activation):
    x = _rows(9, (70, 24))
    gamma, beta = _rows(10, (2, 24))
    plain, fused, expected = np.empty_like(x), np.empty_like(x), np.empty_like(x)
    layouts = [(x, plain, fused, expected)]
    runs = {
        "layer": lambda a, y, name: norms.layer_norm(a, gamma, beta, 1e-5, y, activation=name),
        "group": lambda a, y, name: norms.group_norm(
            a, gamma, beta, 1e-5, y, groups=4, activation=name
        ),
        "batch": lambda a, y, name: norms.batch_norm(a, gamma, beta, gamma, y, activation=name),
    }
    for run in runs.values():
        for source, first, second, wanted in layouts:
            run(source, first, "none")
            ACTIVATIONS[activation](first, wanted)
            run(source, second, activation)
            np.testing.assert_array_equal(second, wanted)


@pytest.mark.parametrize("poison", [np.nan, np.inf])
def test_a_group_that_holds_no_number_becomes_nan_and_no_other(poison):
    x = _rows(11, (70, 6))
    x[66, 3] = poison
    gamma, beta = _rows(12, (2, 6))
    out = np.empty_like(x)
    norms.layer_norm(x, gamma, beta, 1e-5, out)
    assert np.isnan(out).all(axis=1).tolist() == [t == 66 for t in range(70)]
    norms.group_norm(x, gamma, beta, 1e-5, out, groups=3)
    expected = [False, False, True, True, False, False]
    assert np.isnan(out).all(axis=0).tolist() == expected
    assert np.isnan(out).any(axis=0).tolist() == expected
    turned = np.empty_like(x.T.copy())
    norms.group_norm(x.T.copy(), gamma, beta, 1e-5, turned, groups=3, channels_last=False)
    assert np.isnan(turned).any(axis=1).tolist() == expected


def test_a_constant_row_becomes_beta():
    x = np.full((2, 100), 7.25, np.float32)
    gamma, beta = _rows(13, (2, 100))
    out = np.empty_like(x)
    norms.layer_norm(x, gamma, beta, 1e-5, out)
    np.testing.assert_array_equal(out, np.tile(beta, (2, 1)))


MISALIGNED = np.zeros(4 * 12 + 1, np.uint8)[1:].view(np.float32).reshape(2, 6)


@settings(deadline=None)
@given(st.data())
def test_arguments_that_do_not_fit_are_refused_and_nothing_is_written(data):
    rows, width = data.draw(st.integers(1, 4)), 2 * data.draw(st.integers(1, 5))
    x, out = np.ones((rows, width), np.float32), np.full((rows, width), 5.0, np.float32)
    gamma, beta = np.ones((2, width), np.float32)
    groups, activation = 2, "none"
    wrong = data.draw(
        st.sampled_from(["x", "out", "gamma", "stride", "dtype", "order", "groups", "activation"])
    )
    if wrong == "x":
        x = np.ones((rows + 1, width), np.float32)
    elif wrong == "out":
        out = np.full((rows, width + 1), 5.0, np.float32)
    elif wrong == "gamma":
        gamma = np.ones(width + 1, np.float32)
    elif wrong == "stride":
        x = np.ones((rows, 2 * width), np.float32)[:, ::2]
    elif wrong == "dtype":
        x = x.astype(data.draw(st.sampled_from([np.float64, np.float16, np.int32])))
    elif wrong == "order":
        x = x.astype(">f4")
    elif wrong == "groups":
        groups = data.draw(st.sampled_from([0, -1, width + 1]))
    else:
        activation = "glu"
    before = out.copy()
    with pytest.raises((ValueError, TypeError), match="group_norm"):
        norms.group_norm(x, gamma, beta, 1e-5, out, groups=groups, activation=activation)
    if wrong != "groups":
        with pytest.raises((ValueError, TypeError), match="layer_norm"):
            norms.layer_norm(x, gamma, beta, 1e-5, out, activation=activation)
        with pytest.raises((ValueError, TypeError), match="batch_norm"):
            norms.batch_norm(x, gamma, beta, beta, out, activation=activation)
    np.testing.assert_array_equal(out, before)


def test_misaligned_arrays_are_refused():
    one = np.ones(6, np.float32)
    with pytest.raises(ValueError, match="misaligned"):
        norms.layer_norm(MISALIGNED, one, one, 1e-5, np.empty((2, 6), np.float32))
