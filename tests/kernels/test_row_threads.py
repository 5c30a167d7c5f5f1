"""Rows shared over threads give the bits of one thread."""

import numpy as np
import pytest

from kernels import depthwise, norms, pointwise

X = (np.random.default_rng(0).standard_normal((37, 50)) * 3).astype(np.float32)
ROW = X[0].copy()
PANELS = depthwise.pack_depthwise(np.ascontiguousarray(X[:7].T))


def _quantized(threads: int) -> np.ndarray:
    q, scale = np.empty(X.shape, np.int8), np.empty(len(X), np.float32)
    pointwise.dynamic_quantize_row(X, q, scale, threads=threads)
    return np.concatenate([q, scale[:, None]], axis=1)


def _written(run, threads: int, *arguments) -> np.ndarray:
    out = np.full_like(X, np.nan)
    run(X, *arguments, out, threads=threads)
    return out


RUNS = {
    "gelu": lambda threads: _written(pointwise.gelu, threads),
    "softmax": lambda threads: _written(pointwise.softmax, threads),
    "add": lambda threads: _written(pointwise.add, threads, X),
    "layer_norm": lambda threads: _written(norms.layer_norm, threads, ROW, ROW, 1e-5),
    "quantize": _quantized,
}


@pytest.mark.parametrize("name", sorted(RUNS))
def test_results_do_not_depend_on_the_number_of_threads(name):
    one = RUNS[name](1)
    assert not np.isnan(one).any()
    for threads in (2, 3, 50):  # also more threads than rows
        np.testing.assert_array_equal(RUNS[name](threads), one)


def test_a_convolution_does_not_depend_on_the_number_of_threads():
    outs = [np.full_like(X, np.nan) for _ in range(3)]
    for out, threads in zip(outs, (1, 2, 9), strict=True):
        depthwise.depthwise_conv1d(X, PANELS, out, padding=3, activation="tanh", threads=threads)
    assert not np.isnan(outs[0]).any()
    np.testing.assert_array_equal(outs[1], outs[0])
    np.testing.assert_array_equal(outs[2], outs[0])


@pytest.mark.parametrize("threads", [0, -1])
def test_no_threads_are_refused(threads):
    with pytest.raises(ValueError, match=f"threads: found {threads}"):
        pointwise.gelu(X, X.copy(), threads=threads)
