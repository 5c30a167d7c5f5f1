"""Finishing a block of rows equals the separate functions, one after the other, bit for bit."""

import numba
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kernels import finish_rows as fin
from kernels import pointwise, reference
from kernels.jit import in2, out1, out2

F32, I8 = numba.float32, numba.int8
NONE = np.zeros((0, 0), np.float32)
NO_CODES = np.zeros((0, 0), np.int8)


@pytest.fixture(scope="module")
def run():
    def call(rows, residual, out, codes, scale, steps):
        step = 4 if steps & fin.QUANTIZE_ROW else 0
        fin.finish_rows(
            rows.ctypes.data, rows.strides[0], rows.shape[0], rows.shape[1], steps,
            residual.ctypes.data if residual.size else 0, residual.strides[0],
            out.ctypes.data if out.size else 0, out.strides[0],
            codes.ctypes.data if codes.size else 0, codes.strides[0],
            scale.ctypes.data, step,
        )  # fmt: skip

    compiled = numba.njit(call)
    compiled.compile((out2(F32), in2(F32), out2(F32), out2(I8), out1(F32), numba.int64))
    compiled.disable_compile()
    return compiled


ACTIVATIONS = {
    0: None,
    fin.RELU: pointwise.relu,
    fin.GELU: pointwise.gelu,
    fin.SILU: pointwise.silu,
    fin.TANH: pointwise.tanh,
    fin.GLU: pointwise.glu,
}


def _apart(x: np.ndarray, gap: int) -> np.ndarray:
    """Copy of x whose rows lie ``gap`` elements apart, with canaries between."""
    wide = np.full((x.shape[0], x.shape[1] + gap), 77, x.dtype)
    wide[:, : x.shape[1]] = x
    return wide[:, : x.shape[1]]


@settings(deadline=None)
@given(
    seed=st.integers(0, 999),
    rows=st.integers(1, 5),
    width=st.integers(1, 90),
    activation=st.sampled_from(sorted(ACTIVATIONS)),
    quantization=st.sampled_from([0, fin.QUANTIZE_ROW, fin.QUANTIZE_STATIC]),
    has_residual=st.booleans(),
    target=st.sampled_from(["rows", "out", "residual", "codes only"]),
)
def test_a_finished_block_is_the_separate_kernels_bit_for_bit(
    run, seed, rows, width, activation, quantization, has_residual, target
):
    rng = np.random.default_rng(seed)
    n = 2 * width if activation == fin.GLU else width
    start = (rng.standard_normal((rows, n)) * 4).astype(np.float32)
    residual = rng.standard_normal((rows, width)).astype(np.float32)
    expected = start.copy()
    if activation:
        expected = np.empty((rows, width), np.float32)
        ACTIVATIONS[activation](start, expected)
    if has_residual:
        pointwise.add(expected, residual, expected)
    codes, scale = np.zeros((rows, width), np.int8), np.full(rows, 0.03, np.float32)
    if quantization == fin.QUANTIZE_ROW:
        pointwise.dynamic_quantize_row(expected, codes, scale)
    elif quantization == fin.QUANTIZE_STATIC:
        pointwise.static_quantize(expected, scale[:1], codes)

    block = _apart(start, 3)
    other = _apart(residual, 2) if has_residual else NONE
    out = {"rows": block[:, :width], "residual": other}.get(
        target, _apart(np.zeros((rows, width), np.float32), 5)
    )
    found_codes = _apart(np.zeros((rows, width), np.int8), 7)
    found_scale = np.full(rows, 0.03, np.float32)
    given_out = NONE if target == "codes only" else out
    if target == "residual" and not has_residual:
        given_out = out = block[:, :width]
    run(block, other, given_out, found_codes if quantization else NO_CODES, found_scale,
        activation | quantization)  # fmt: skip
    result = block[:, :width] if target == "codes only" else out
    np.testing.assert_array_equal(result.view(np.int32), expected.view(np.int32))
    if quantization:
        np.testing.assert_array_equal(found_codes, codes)
        np.testing.assert_array_equal(found_scale, scale)
    for array in (out, found_codes):  # nothing beside the rows was touched
        base = array.base
        if base is not None and base.shape[1] > n:
            assert (base[:, n:] == 77).all()


def test_rows_of_none_and_blocks_of_none_are_left_alone(run):
    block = np.full((2, 4), 3.0, np.float32)
    run(block[:0], NONE, NONE, NO_CODES, np.ones(1, np.float32), fin.GELU)
    np.testing.assert_array_equal(block, 3.0)


def test_static_codes_clip_round_to_even_and_show_nan():
    x = np.array(
        [[0.5, 1.5, -2.5, 1e30, -1e30, np.inf, -np.inf, np.nan, 127.4, -127.6, -0.0]], np.float32
    )
    x = np.tile(x, (1, 7))  # wide enough for vectors and their rest
    codes = np.empty(x.shape, np.int8)
    pointwise.static_quantize(x, np.ones(1, np.float32), codes)
    expected = [0, 2, -2, 127, -127, 127, -127, -128, 127, -127, 0]
    assert codes[0].tolist() == expected * 7
    np.testing.assert_array_equal(codes, reference.static_quantize(x, np.ones(1, np.float32)))


@given(seed=st.integers(0, 999), width=st.integers(1, 100), exponent=st.integers(-30, 20))
def test_static_codes_are_bit_for_bit_the_reference(seed, width, exponent):
    rng = np.random.default_rng(seed)
    scale = np.array([10.0**exponent], np.float32)
    x = (rng.standard_normal((3, width)) * 200 * scale).astype(np.float32)
    x[:, ::3] = np.rint(x[:, ::3] / scale) * scale + scale / 2  # near ties
    codes = np.empty(x.shape, np.int8)
    pointwise.static_quantize(x, scale, codes)
    np.testing.assert_array_equal(codes, reference.static_quantize(x, scale))


@pytest.mark.parametrize("bad", [0.0, -1.0, np.nan, np.inf])
def test_a_static_scale_is_a_positive_number(bad):
    codes = np.full((1, 3), 5, np.int8)
    with pytest.raises(ValueError, match="expected a positive number"):
        pointwise.static_quantize(np.ones((1, 3), np.float32), np.array([bad], np.float32), codes)
    assert (codes == 5).all()


def test_the_steps_are_distinct_bits():
    steps = [fin.RELU, fin.GELU, fin.SILU, fin.TANH, fin.GLU]
    steps += [fin.QUANTIZE_ROW, fin.QUANTIZE_STATIC, fin.RAW]
    assert sum(steps) == 2 ** len(steps) - 1
