"""Bits in, bits out: the same bits as the float layer and a comparison."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kernels import binary_signs, panels, reference
from kernels import encodings as enc
from kernels.finish import FINE, MISFIT, NAN_SCALE
from kernels.registry import KERNELS, Matrix

pytestmark = pytest.mark.skipif(not KERNELS["w1a1"].is_usable(), reason="needs AVX2")
NONE = np.zeros(0, np.float32)


def _case(seed, rows, n, k):
    rng = np.random.default_rng(seed)
    w = np.where(rng.random((n, k)) < 0.5, 1, -1).astype(np.int8)
    x = rng.integers(0, 256, (rows, -(-k // 8))).astype(np.uint8)
    w_scale = rng.choice(np.array([0.25, 0.5, 1.0], np.float32), n)
    return w, x, w_scale, np.full(rows, 0.5, np.float32), rng


@settings(max_examples=60)
@given(
    seed=st.integers(0, 10**6),
    name=st.sampled_from(["w1a1_bits", "w1u1_bits"]),
    rows=st.sampled_from([1, 2, 5, 97]),
    n=st.integers(1, 150),
    k=st.integers(1, 300),
    has_bias=st.booleans(),
    threads=st.sampled_from([1, 2]),
)
def test_bits_are_those_of_the_float_outputs(seed, name, rows, n, k, has_bias, threads):
    w, x, w_scale, x_scale, rng = _case(seed, rows, n, k)
    bias = rng.integers(-9, 9, n).astype(np.float32) if has_bias else NONE
    threshold = rng.integers(-9, 9, n).astype(np.float32) / 4  # often met exactly
    row = KERNELS[name]
    arguments = row.layout.pack(Matrix(w))
    wide = np.full((rows, -(-n // 8) + 1), 77, np.uint8)
    run = row.run.ready() if threads == 1 else row.run.ready_parallel()
    packed = wide[:, :-1]
    assert run(x, *arguments, w_scale, x_scale, bias, threshold, packed, threads) == FINE
    meaning = getattr(reference, row.reference)
    expected = meaning(x, w, x_scale, w_scale, bias if has_bias else None, threshold)
    np.testing.assert_array_equal(packed, expected)
    assert (wide[:, -1] == 77).all()


def test_unfit_arguments_have_their_status():
    w, x, w_scale, x_scale, _ = _case(0, 3, 20, 30)
    arguments = binary_signs.SIGNED_BITS.pack(Matrix(w))
    bound, packed = np.zeros(20, np.float32), np.empty((3, 3), np.uint8)

    def status(**changed):
        given = {"x": x, "scale": w_scale, "x_scale": x_scale, "bound": bound, "packed": packed}
        given |= changed
        return binary_signs.linear_to_bits(
            given["x"], *arguments, given["scale"], given["x_scale"], NONE, given["bound"],
            given["packed"], 1,
        )  # fmt: skip

    assert status() == FINE
    assert status(x=x[:0], packed=packed[:0]) == FINE
    for wrong in (
        {"x": x[:, :-1]},
        {"scale": w_scale[:-1]},
        {"x_scale": NONE},
        {"bound": NONE},
        {"bound": np.zeros(40, np.float32)[::2]},
        {"packed": packed[:2]},
        {"packed": np.empty((3, 6), np.uint8)[:, ::2]},
    ):
        assert status(**wrong) == MISFIT
    assert status(bound=np.full(20, np.nan, np.float32)) == NAN_SCALE
    assert status(x_scale=np.full(3, np.nan, np.float32)) == NAN_SCALE


@pytest.mark.parametrize(("n", "k"), [(1, 1), (20, 30), (70, 256)])
def test_a_panel_writes_the_bits_of_its_own_float_outputs(n, k):
    w, x, w_scale, x_scale, rng = _case(5, 9, n, k)
    bound = rng.integers(-9, 9, n).astype(np.float32)
    panel = panels.prepare_linear(enc.encode_binary(w, w_scale[:, None]), rows=9, activation="b1")
    out, packed = np.empty((9, n), np.float32), np.empty((9, -(-n // 8)), np.uint8)
    panels.linear(panel, x, out, x_scale=x_scale)
    panels.linear_bits(panel, x, packed, x_scale=x_scale, threshold=bound)
    np.testing.assert_array_equal(packed, np.packbits(out >= bound, axis=1, bitorder="little"))


def test_a_panel_of_other_weights_and_unfit_arrays_are_refused():
    w, x, w_scale, x_scale, _ = _case(0, 3, 20, 30)
    bound, packed = np.zeros(20, np.float32), np.empty((3, 3), np.uint8)
    codes = enc.encode_bitpacked(w, w_scale[:, None], bits=8)
    other = panels.prepare_linear(codes, rows=3, activation="i8")
    with pytest.raises(ValueError, match="expected one-bit weights"):
        panels.linear_bits(other, x, packed, x_scale=x_scale, threshold=bound)
    panel = panels.prepare_linear(enc.encode_binary(w, w_scale[:, None]), rows=3, activation="b1")
    wrong = (
        (x, packed[:2], bound),
        (x, packed, bound[:5]),
        (x, packed, bound.astype(np.float64)),
        (x, packed, np.full(20, np.nan, np.float32)),
        (x[:, :2], packed, bound),
    )
    for a, b, c in wrong:
        with pytest.raises((ValueError, TypeError), match="linear_bits"):
            panels.linear_bits(panel, a, b, x_scale=x_scale, threshold=c)
