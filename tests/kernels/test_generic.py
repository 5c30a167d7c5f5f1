"""The plain loops: every form of weights and activations, exact or bounded, and a warning."""

import every_kernel as every
import numpy as np
import pytest

from kernels import generic, panels, reference
from kernels.finish import FORBIDDEN_CODE, MISFIT, NAN_SCALE
from kernels.registry import KERNELS, Matrix

NAMES = [name for name, row in KERNELS.items() if name.startswith("generic")]
EPSILON = np.finfo(np.float32).eps


def _panel(name, matrix):
    return every.panel_for(KERNELS[name], matrix)


def test_every_form_that_a_cpu_without_avx2_can_be_asked_for_is_there():
    forms = {(KERNELS[name].values, KERNELS[name].activation) for name in NAMES}
    codes = {(v, a) for v in ("i8", "i8_group") for a in ("f32", "i8", "i7")}
    assert forms == codes | {("f32", "f32"), ("b1", "b1"), ("b1", "u1")}
    assert not any(KERNELS[name].requires for name in NAMES)


@pytest.mark.parametrize(("name", "limit"), [("generic_i8", 127), ("generic_i7", 63)])
def test_sums_of_extreme_codes_are_exact(name, limit):
    k = 300
    w = np.stack([np.full(k, -128), np.full(k, 127), np.resize([-128, 127], k)]).astype(np.int8)
    x = np.stack([np.full(k, limit), np.full(k, -limit), np.resize([limit, -limit], k)])
    panel = _panel(name, Matrix(w, np.ones((3, 1), np.float32), None, k))
    out = np.empty((3, 3), np.int32)
    panels.accumulate(panel, x.astype(np.int8), out)
    np.testing.assert_array_equal(out, x.astype(np.int64) @ w.astype(np.int64).T)


@pytest.mark.parametrize(("name", "values"), [("generic_b1", (-1, 1)), ("generic_u1", (0, 1))])
@pytest.mark.parametrize("k", [1, 8, 13, 200])
def test_sums_of_bits_are_exact_and_bits_past_the_last_step_are_ignored(name, values, k):
    rng = np.random.default_rng(k)
    bits = rng.integers(0, 2, (5, k), dtype=np.uint8)
    w = (2 * rng.integers(0, 2, (9, k)) - 1).astype(np.int8)
    panel = _panel(name, Matrix(w, np.ones((9, 1), np.float32), None, k))
    packed = np.packbits(bits, axis=1, bitorder="little")
    if k % 8:
        packed[:, -1] |= np.uint8(0xFF << (k % 8) & 0xFF)
    out = np.empty((5, 9), np.int32)
    panels.accumulate(panel, packed, out)
    x = np.where(bits == 1, values[1], values[0]).astype(np.int64)
    np.testing.assert_array_equal(out, x @ w.astype(np.int64).T)


def test_scales_are_applied_in_the_order_of_the_reference():
    rng = np.random.default_rng(1)
    w, x = (rng.integers(-127, 128, size).astype(np.int8) for size in ((11, 90), (6, 90)))
    w_scale = rng.uniform(0.01, 0.1, 11).astype(np.float32)
    x_scale = rng.uniform(0.01, 0.1, 6).astype(np.float32)
    bias = rng.standard_normal(11).astype(np.float32)
    panel = _panel("generic_i8", Matrix(w, w_scale[:, None], None, 90))
    out = np.empty((6, 11), np.float32)
    panels.linear(panel, x, out, x_scale=x_scale, bias=bias)
    np.testing.assert_array_equal(out, reference.linear_i8(x, w, x_scale, w_scale, bias))


@pytest.mark.parametrize("zero", ["none", "whole", "fraction"])
@pytest.mark.parametrize("group", [32, 7])
def test_groups_of_codes_follow_the_steps_of_the_contract_bit_for_bit(zero, group):
    rng = np.random.default_rng(group)
    n, k, rows = 9, 75, 5
    groups = -(-k // group)
    w, x = (rng.integers(-8, 8, size).astype(np.int8) for size in ((n, k), (rows, k)))
    scale = rng.uniform(0.01, 0.1, (n, groups)).astype(np.float32)
    zeros = {
        "none": None,
        "whole": rng.integers(-8, 8, (n, groups)).astype(np.int8),
        "fraction": rng.uniform(-8, 8, (n, groups)).astype(np.float32),
    }[zero]
    x_scale = rng.uniform(0.01, 0.1, rows).astype(np.float32)
    bias = rng.standard_normal(n).astype(np.float32)
    y = np.zeros((rows, n), np.float32)
    for g in range(groups):
        at = slice(g * group, (g + 1) * group)
        part = (x[:, at].astype(np.int64) @ w[:, at].astype(np.int64).T).astype(np.float32)
        if zeros is not None:
            total = x[:, at].astype(np.int64).sum(axis=1).astype(np.float32)
            part -= zeros[:, g].astype(np.float32) * total[:, None]
        y += part * scale[:, g]
    y = y * x_scale[:, None] + bias
    panel = _panel("generic_i8_group", Matrix(w, scale, zeros, group))
    out = np.empty((rows, n), np.float32)
    panels.linear(panel, x, out, x_scale=x_scale, bias=bias)
    np.testing.assert_array_equal(out, y)


@pytest.mark.parametrize("k", [5, 256, 1000])
def test_float_sums_are_bounded_by_their_blocks(k):
    rng = np.random.default_rng(k)
    x = np.full((3, k), np.float32(1 / 3))
    w = rng.uniform(0.5, 1, (20, k)).astype(np.float32)
    out = np.empty((3, 20), np.float32)
    panels.linear(_panel("generic_f32", Matrix(w, group=k)), x, out)
    exact = x.astype(np.float64) @ w.astype(np.float64).T
    roundings = min(k, generic.STEP_BLOCK) + -(-k // generic.STEP_BLOCK) + 1
    assert (np.abs(out - exact) <= roundings * EPSILON / 2 * exact).all()


def test_forbidden_codes_and_unfit_scales_are_told_apart():
    matrix = Matrix(np.ones((2, 6), np.int8), np.ones((2, 1), np.float32), None, 6)
    one, none = np.ones(2, np.float32), np.zeros(0, np.float32)
    out, floats = np.empty((1, 2), np.float32), np.zeros((0, 0), np.float32)
    codes = np.zeros((0, 0), np.int8)

    def status(name, value, w_scale, x_scale):
        row = KERNELS[name]
        x = np.full((1, 6), value, np.int8)
        end = (w_scale, x_scale, none, floats, out, codes, none, 0, 1)
        return row.run(x, *row.layout.pack(matrix), *end)

    assert status("generic_i8", -127, one, one[:1]) == 0
    assert status("generic_i8", -128, one, one[:1]) == FORBIDDEN_CODE
    assert status("generic_i7", 63, one, one[:1]) == 0
    assert status("generic_i7", 64, one, one[:1]) == FORBIDDEN_CODE
    assert status("generic_i8", 1, one, none) == MISFIT
    assert status("generic_i8", 1, none, one[:1]) == MISFIT
    assert status("generic_i8", 1, one * np.float32(np.nan), one[:1]) == NAN_SCALE
    wide = Matrix(np.zeros((1, 140_000), np.int8), np.ones((1, 1), np.float32), None, 140_000)
    with pytest.raises(ValueError, match="140000"):
        KERNELS["generic_i8"].layout.pack(wide)


def test_slow_loops_are_warned_of_once():
    code = """
import warnings
import numpy as np
from kernels import encodings as enc, panels
e = enc.encode_bitpacked(np.ones((3, 7), int), np.ones((3, 1)), bits=4)
with warnings.catch_warnings(record=True) as caught:
    warnings.simplefilter("always")
    for activation in ("f32", "i8"):
        panel = panels.prepare_linear(e, rows=2, activation=activation)
        assert panel.kernel.startswith("generic"), panel
    panels.prepare_linear(enc.encode_dense(np.ones((3, 7))), rows=2)
found = [str(w.message) for w in caught if issubclass(w.category, RuntimeWarning)]
assert len(found) == 1 and "plain loops" in found[0], found
print("once")
"""
    assert every.python(code, COSIM_GENERIC_KERNELS="1").strip() == "once"
