"""Claims about floats of 16 bits: every bit pattern that can go wrong, rows in views, refusals."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from kernels.rounding import round_to

TORCH = {"f16": torch.float16, "bf16": torch.bfloat16}
# around every power of two and every tie: all upper halves, with lower halves that decide a round
UPPER = np.arange(1 << 16, dtype=np.uint32) << 16
LOWER = (0, 1, 0x0FFF, 0x1000, 0x1001, 0x2FFF, 0x3000, 0x7FFF, 0x8000, 0x8001, 0xFFFF)


def rounded(x, number):
    out = np.empty_like(x)
    round_to(x, number, out)
    return out


def by_torch(x, number):
    return torch.from_numpy(x.copy()).to(TORCH[number]).float().numpy()


def same(found, wanted):
    number = ~np.isnan(wanted)
    np.testing.assert_array_equal(np.isnan(found), ~number)
    np.testing.assert_array_equal(found[number].view(np.uint32), wanted[number].view(np.uint32))


@pytest.mark.parametrize("lower", LOWER)
@pytest.mark.parametrize("number", ["f16", "bf16"])
def test_every_exponent_and_sign_rounds_as_torch_does_bit_for_bit(number, lower):
    x = (UPPER | np.uint32(lower)).view(np.float32).reshape(16, -1)
    same(rounded(x, number), by_torch(x, number))


@given(st.lists(st.floats(width=32), min_size=1, max_size=67), st.sampled_from(["f16", "bf16"]))
def test_any_row_of_any_length_rounds_as_torch_does(values, number):
    x = np.array([values], np.float32)
    same(rounded(x, number), by_torch(x, number))


def test_hand_worked_numbers():
    # ulp of f16 is 2^-10 at 1: a half of it goes to even; 65520 is half way to 65536, which is none
    x = np.array([[1 + 2**-11, 1 + 3 * 2**-11, 65519.0, 65520.0, 2**-25, 3 * 2**-25]], np.float32)
    assert rounded(x, "f16").tolist() == [[1.0, 1 + 2**-9, 65504.0, np.inf, 0.0, 2**-23]]
    assert rounded(np.array([[1 + 2**-8, 1e38]], np.float32), "bf16")[0, 0] == 1.0


def test_rows_of_a_view_are_rounded_and_nothing_beside_them():
    whole = np.full((4, 10), 1.0001, np.float32)
    view = whole[1:3, 2:7]
    round_to(view, "f16", view)
    changed = np.zeros((4, 10), bool)
    changed[1:3, 2:7] = True
    np.testing.assert_array_equal(whole == 1.0, changed)


@pytest.mark.parametrize(
    ("x", "out"),
    [
        (np.zeros((2, 3), np.float32), np.zeros((2, 4), np.float32)),
        (np.zeros((3, 2), np.float32).T, np.zeros((2, 3), np.float32)),
    ],
)
def test_what_does_not_fit_is_refused(x, out):
    with pytest.raises(ValueError, match="round_to: found"):
        round_to(x, "f16", out)


def test_an_unknown_format_is_refused():
    x = np.zeros((1, 1), np.float32)
    with pytest.raises(ValueError, match="found 'f8', expected one of f16, bf16"):
        round_to(x, "f8", x)
