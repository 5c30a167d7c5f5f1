"""Integer linear layers against int64 sums and against float32 steps in the stated order."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kernels import encodings as enc
from kernels import panels, reference
from kernels.jit import host_features
from kernels.registry import KERNELS, Matrix

WIDTHS = [8, 4, 3, 2]
LIMITS = {"i8": 127, "i7": 63}
SHAPES = [(16, 128), (50, 37), (1, 1), (33, 385), (17, 3), (20, 2100)]
KINDS = ["uniform", "largest", "smallest", "signed_rows", "alternating"]
ROWS = [*range(1, 18), 96, 97, 499]

pytestmark = pytest.mark.skipif(not host_features(), reason="these kernels need AVX2")


def _codes(kind: str, rng: np.random.Generator, shape: tuple[int, int], low: int, high: int):
    signs = rng.random((shape[0], 1)) < 0.5
    table = {
        "uniform": lambda: rng.integers(low, high + 1, shape),
        "largest": lambda: np.full(shape, high),
        "smallest": lambda: np.full(shape, low),
        "signed_rows": lambda: np.where(signs, high, low) + np.zeros(shape, int),
        "alternating": lambda: np.where(np.arange(shape[1]) % 2, high, low) + np.zeros(shape, int),
        "spiky": lambda: np.where(
            rng.random(shape) < 0.01, rng.choice([low, high], shape), rng.integers(-9, 10, shape)
        ).clip(low, high),
        "normal": lambda: np.clip(np.rint(rng.standard_normal(shape) * high / 3.2), low, high),
    }[kind]()
    return table.astype(np.int8)


def _panel(bits: int, activation: str, codes: np.ndarray) -> panels.LinearPanel:
    """Return a panel of any codes of so many bits, the lowest included, with scales of one."""
    row = KERNELS[f"w{bits}a{activation[1]}"]
    n, k = codes.shape
    arguments = row.layout.pack(Matrix(codes))
    ones = np.ones(n, np.float32)
    return panels.LinearPanel(row.name, "asked for", n, k, activation, arguments, ones, row.run)


def _sums(panel: panels.LinearPanel, x: np.ndarray) -> np.ndarray:
    out = np.full((len(x), panel.n), -(2**31), np.int32)
    panels.accumulate(panel, x, out)
    return out


@pytest.mark.parametrize("bits", WIDTHS)
@pytest.mark.parametrize("activation", LIMITS)
@pytest.mark.parametrize("weights", KINDS)
def test_sums_are_exact_for_the_worst_codes(bits, activation, weights):
    rng = np.random.default_rng(bits)
    high, limit = 2 ** (bits - 1) - 1, LIMITS[activation]
    for n, k in SHAPES:
        w = _codes(weights, rng, (n, k), -high - 1, high)
        panel = _panel(bits, activation, w)
        for rows in (1, 2, 3, 5, 7, 13):
            for kind in KINDS:
                x = _codes(kind, rng, (rows, k), -limit, limit)
                np.testing.assert_array_equal(_sums(panel, x), x.astype(int) @ w.astype(int).T)


@pytest.mark.parametrize("bits", WIDTHS)
@pytest.mark.parametrize("activation", LIMITS)
def test_sums_are_exact_for_every_number_of_rows(bits, activation):
    rng = np.random.default_rng(bits)
    high, limit = 2 ** (bits - 1) - 1, LIMITS[activation]
    for n, k in [(35, 261), (16, 1040)]:
        w = _codes("uniform", rng, (n, k), -high - 1, high)
        panel = _panel(bits, activation, w)
        for rows in ROWS:
            kind = ("spiky", "normal", "uniform")[rows % 3]
            x = _codes(kind, rng, (rows, k), -limit, limit)
            np.testing.assert_array_equal(_sums(panel, x), x.astype(int) @ w.astype(int).T)


@settings(max_examples=100, deadline=None)
@given(
    seed=st.integers(0, 10**6),
    rows=st.sampled_from([r for r in ROWS if r < 100]),
    n=st.integers(1, 40),
    k=st.integers(1, 300),
    bits=st.sampled_from(WIDTHS),
    activation=st.sampled_from(sorted(LIMITS)),
    per_row=st.booleans(),
)
def test_scaled_codes_equal_the_reference_bit_for_bit(seed, rows, n, k, bits, activation, per_row):
    rng = np.random.default_rng(seed)
    high, limit = 2 ** (bits - 1) - 1, LIMITS[activation]
    w = _codes("uniform", rng, (n, k), -high, high)
    w_scale = rng.uniform(1e-3, 1e-1, (n, 1)).astype(np.float32)
    x = _codes("normal", rng, (rows, k), -limit, limit)
    x_scale = rng.uniform(0.1, 1, rows if per_row else 1).astype(np.float32)
    bias = rng.standard_normal(n).astype(np.float32) if seed % 2 else None
    encoding = enc.encode_bitpacked(w, w_scale, bits=bits)
    panel = panels.prepare_linear(encoding, rows=rows, activation=activation)
    assert panel.kernel == f"w{bits}a{activation[1]}"
    wide = np.full((rows, n + 3), np.nan, np.float32)
    panels.linear(panel, x, wide[:, :n], x_scale=x_scale, bias=bias)
    full = np.broadcast_to(x_scale, (rows,))
    expected = reference.linear_i8(x, w, full, w_scale[:, 0], bias)
    np.testing.assert_array_equal(wide[:, :n], expected)
    assert np.isnan(wide[:, n:]).all()  # nothing is written past the outputs


def _by_groups(x, w, scale, zero, group, x_scale, bias):
    """Return the sum over groups in order, every step in float32."""
    y = np.zeros((len(x), len(w)), np.float32)
    for g, start in enumerate(range(0, w.shape[1], group)):
        part_x = x[:, start : start + group].astype(np.int64)
        exact = part_x @ w[:, start : start + group].astype(np.int64).T
        part = exact.astype(np.float32)
        if zero is not None:
            total = part_x.sum(axis=1).astype(np.float32)
            part = part - zero[:, g].astype(np.float32)[None] * total[:, None]
        y = y + part * scale[:, g][None]
    y = y * x_scale[:, None]
    return y if bias is None else y + bias


@pytest.mark.parametrize("bits", WIDTHS)
@pytest.mark.parametrize("activation", LIMITS)
@pytest.mark.parametrize("zeros", ["none", "codes", "floats"])
def test_groups_are_scaled_in_order_and_rounded_at_every_step(bits, activation, zeros):
    rng = np.random.default_rng(bits)
    high, limit = 2 ** (bits - 1) - 1, LIMITS[activation]
    for (n, k), group in [
        ((33, 384), 32), ((16, 1100), 128), ((20, 260), 64), ((5, 70), 4), ((17, 50), 7),
        ((18, 300), 48), ((3, 96), 96), ((16, 2600), 1300), ((7, 29), 64), ((9, 33), 1),
    ]:  # fmt: skip
        groups = -(-k // group)
        if groups == 1 and zeros == "none":
            continue  # one scale per output, which comes after that of the row
        low = -high if zeros == "none" else -high - 1
        w = _codes("uniform", rng, (n, k), low, high)
        scale = rng.uniform(1e-3, 1e-1, (n, groups)).astype(np.float32)
        zero = {
            "none": None,
            "codes": rng.integers(-high - 1, high + 1, (n, groups)).astype(np.int8),
            "floats": rng.uniform(-high, high, (n, groups)).astype(np.float32),
        }[zeros]
        encoding = enc.encode_bitpacked(w, scale, bits=bits, group=group, zero_point=zero)
        panel = panels.prepare_linear(encoding, rows=1, activation=activation)
        for rows in (1, 2, 4, 7, 103):
            kind = ("spiky", "uniform", "normal", "signed_rows")[rows % 4]
            x = _codes(kind, rng, (rows, k), -limit, limit)
            x_scale = rng.uniform(0.1, 1, rows).astype(np.float32)
            bias = rng.standard_normal(n).astype(np.float32) if rows % 2 else None
            out = np.full((rows, n), np.nan, np.float32)
            panels.linear(panel, x, out, x_scale=x_scale, bias=bias)
            expected = _by_groups(x, w, scale, zero, group, x_scale, bias)
            np.testing.assert_array_equal(out, expected, err_msg=f"{n}x{k} group {group} T {rows}")


def test_a_zero_point_for_the_whole_row_shifts_all_codes():
    w = np.array([[-8, 7, 0]], np.int8)
    encoding = enc.encode_bitpacked(
        w, np.full((1, 1), 0.5), bits=4, zero_point=np.array([[-3]], np.int8)
    )
    panel = panels.prepare_linear(encoding, rows=1, activation="i8")
    out = np.empty((1, 1), np.float32)
    panels.linear(panel, np.array([[2, 1, 10]], np.int8), out, x_scale=np.ones(1, np.float32))
    assert out.item() == (2 * (-8 + 3) + 1 * (7 + 3) + 10 * (0 + 3)) * 0.5


@pytest.mark.parametrize("bits", [8, 4])
@pytest.mark.parametrize(("activation", "bad"), [("i8", -128), ("i7", 64), ("i7", -64)])
def test_a_code_beyond_the_limit_is_refused_before_anything_is_written(bits, activation, bad):
    panel = _panel(bits, activation, np.ones((4, 70), np.int8))
    for rows, place in [(3, 0), (3, 31), (1, 64), (3, 69), (300, 40), (300, 69)]:
        x = np.ones((rows, 70), np.int8)
        x[-1, place] = bad
        out = np.full((rows, 4), 5, np.int32)
        with pytest.raises(ValueError, match=rf"outside \[-{LIMITS[activation]}, "):
            panels.accumulate(panel, x, out)
        assert (out == 5).all()


def test_sums_that_could_leave_int32_are_refused():
    wide = enc.encode_bitpacked(np.zeros((1, 140_000), int), np.ones((1, 1)), bits=8)
    with pytest.raises(ValueError, match="140000"):
        panels.prepare_linear(wide, rows=1, activation="i8")


def test_group_scales_have_no_integer_sums_and_rows_need_a_scale():
    encoding = enc.encode_bitpacked(np.ones((4, 64), int), np.ones((4, 2)), bits=4, group=32)
    panel = panels.prepare_linear(encoding, rows=2, activation="i8")
    x = np.ones((2, 64), np.int8)
    with pytest.raises(ValueError, match="no integer sums"):
        panels.accumulate(panel, x, np.empty((2, 4), np.int32))
    with pytest.raises(ValueError, match="x_scale"):
        panels.linear(panel, x, np.empty((2, 4), np.float32))
