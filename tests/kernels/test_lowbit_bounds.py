"""How far 16-bit sums may run: exact at the proven length, wrong beyond it."""

import numba
import numpy as np
import pytest
from numba import int64

from kernels.activations import (
    SAFE_PAIR_SUM,
    copy_row,
    longest_run,
    sums_octets,
    widest_sums,
)
from kernels.jit import host_features
from kernels.lowbit import LIMITS
from kernels.lowbit_tiles import UNROLL, tile_8, tile_low
from kernels.memory import aligned_zeros
from kernels.quads import QUAD, WIDTH

pytestmark = pytest.mark.skipif(not host_features(), reason="these tiles need AVX2")

_low_tile, _bytes_tile, _paired_tile = tile_low(1, 8), tile_8(1), tile_8(1, is_paired=True)
PROVEN = {4: 8, 3: 16, 2: 40}
"""Quads that always fit: 8 * 254 * 15 = 30480, 16 * 254 * 7 = 28448, 40 * 254 * 3 = 30480."""


@numba.njit
def _sum_low(x, panel, quads, run, sums):
    _low_tile(int64(x), int64(64), int64(panel), int64(quads), int64(run), int64(sums))


@numba.njit
def _sum_bytes(x, panel, quads, sums):
    _bytes_tile(
        int64(x), int64(64), int64(panel), int64(quads), int64(0), int64(0), int64(0), int64(0),
        int64(sums),
    )  # fmt: skip


@numba.njit
def _sum_paired(x, panel, quads, sums):
    _paired_tile(
        int64(x), int64(64), int64(panel), int64(quads), int64(0), int64(0), int64(0), int64(0),
        int64(sums),
    )  # fmt: skip


def _low(x: np.ndarray, unsigned: int, run: int) -> int:
    """Sum of all codes times one weight, ``run`` quads at a time in 16 bits."""
    codes = aligned_zeros((x.size,), np.int8)
    codes[:] = x
    panel = np.full(x.size * WIDTH, unsigned, np.uint8)
    sums = aligned_zeros((WIDTH,), np.int32)
    _sum_low(codes.ctypes.data, panel.ctypes.data, x.size // QUAD, run, sums.ctypes.data)
    assert (sums == sums[0]).all()
    return int(sums[0])


def _bytes(x: list[int], unsigned: int, tile=_sum_bytes) -> int:
    codes = np.array(x, np.int8)
    panel = np.full(codes.size * WIDTH, unsigned, np.uint8)
    sums = aligned_zeros((WIDTH,), np.int32)
    tile(codes.ctypes.data, panel.ctypes.data, codes.size // QUAD, sums.ctypes.data)
    return int(sums[0])


@pytest.mark.parametrize("bits", PROVEN)
@pytest.mark.parametrize("sign", [1, -1])
def test_the_proven_run_is_the_longest_that_holds_the_worst_codes(bits, sign):
    largest = 2**bits - 1
    x = np.full(4 * 64, 127 * sign)
    proven = longest_run(bits, 64 * 127, 64, 2)
    assert proven == PROVEN[bits]
    exact = int(x.sum()) * largest
    assert _low(x, largest, proven) == exact
    assert _low(x, largest, proven + UNROLL) != exact


@pytest.mark.parametrize("bits", PROVEN)
def test_a_run_of_windows_is_as_long_as_their_widest_sums_allow(bits):
    largest = 2**bits - 1
    for windows in (1, 2, 3):
        widest = 32767 // (largest * windows)
        longer = 32 * windows
        assert longest_run(bits, widest, 64, 2) == max(longer, PROVEN[bits])
        assert longest_run(bits, widest + 1, 64, 2) < max(longer, PROVEN[bits] + 1)
        x = np.zeros((windows, 64, 2), int)  # windows, pairs, the two codes of a pair
        x[:, 0::2] = _spread(widest, (32, 2)) if widest <= 32 * 2 * 127 else 127
        if (x.sum(axis=(1, 2)) == widest).all():
            codes = x.reshape(-1)
            assert _low(codes, largest, longer) == widest * windows * largest
            codes = codes.copy()
            codes[np.flatnonzero((codes > 0) & (codes < 127))[:windows]] += 1
            beyond = int(codes.sum()) * largest
            assert beyond > 32767
            assert _low(codes, largest, longer) != beyond


def _spread(total: int, shape: tuple[int, int]) -> np.ndarray:
    """Codes as even as can be that sum to ``total``."""
    size = shape[0] * shape[1]
    return (total // size + (np.arange(size) < total % size)).reshape(shape)


def test_groups_that_start_within_a_window_get_one_window_less():
    widest = 32767 // (15 * 3)
    assert longest_run(4, widest, 32, 9) == 96
    assert longest_run(4, widest, 8, 9) == 96
    assert longest_run(4, widest, 12, 1) == 96
    assert longest_run(4, widest, 12, 9) == 64
    assert longest_run(4, 2184, 12, 9) == PROVEN[4]
    assert longest_run(4, 0, 12, 9) > 10**6


@pytest.mark.parametrize("seed", range(5))
def test_the_widest_sum_is_that_of_one_parity_of_pairs_and_one_sign(seed):
    rng = np.random.default_rng(seed)
    x = rng.integers(-127, 128, 128 * 5).astype(np.int8)
    room = aligned_zeros((64,), np.uint8)
    pairs = x.astype(int).reshape(5, 32, 2, 2)  # windows, quads, parity, the codes of a pair
    positive = np.maximum(pairs, 0).sum(axis=(1, 3)).max()
    negative = np.maximum(-pairs, 0).sum(axis=(1, 3)).max()
    assert widest_sums(x.ctypes.data, x.size, room.ctypes.data) == max(positive, negative)


def test_pairs_of_bytes_saturate_just_beyond_the_sum_that_counts_as_safe():
    assert SAFE_PAIR_SUM == 128
    assert _bytes([64, 64, 0, 0], 255) == 255 * 128
    assert _bytes([-64, -64, 0, 0], 255) == -255 * 128
    assert _bytes([65, 64, 0, 0], 255) == 32767 != 255 * 129
    assert _bytes([-65, -64, 0, 0], 255) == -32768 != -255 * 129


def test_codes_of_seven_bits_never_saturate():
    assert 2 * LIMITS["i7"] <= SAFE_PAIR_SUM
    assert _bytes([63, 63, 63, 63], 255) == 4 * 63 * 255
    assert _bytes([-63, -63, -63, -63], 255) == -4 * 63 * 255


def test_octets_overflow_just_beyond_the_sum_that_counts_as_safe():
    fits = [32, 32, 63, 1, 32, 32, 1, 63]
    assert _bytes(fits, 255, _sum_paired) == 255 * sum(fits)
    assert _bytes([-code for code in fits], 255, _sum_paired) == -255 * sum(fits)
    beyond = [33, 32, 63, 1, 32, 32, 1, 63]
    assert _bytes(beyond, 255) == 255 * sum(beyond)
    assert _bytes(beyond, 255, _sum_paired) != 255 * sum(beyond)


def test_two_quads_are_summed_where_few_octets_are_unsafe():
    rng = np.random.default_rng(0)
    narrow = np.clip(np.rint(rng.standard_normal((4, 512)) * 20), -63, 63).astype(np.int8)
    wide = rng.integers(-63, 64, (4, 512)).astype(np.int8)
    assert _sums_octets(narrow)
    assert not _sums_octets(wide)


def _sums_octets(x: np.ndarray) -> bool:
    """Copy the rows with their flags, and ask."""
    blocks = x.shape[1] // 32
    flags, total = np.zeros((len(x), blocks * 2), np.uint32), aligned_zeros((64,), np.uint8)
    copies = np.zeros((len(x), x.shape[1] + 128), np.int8)
    for r, row in enumerate(x):
        found = copy_row(
            row.ctypes.data, row.size, row.size, row.size, copies[r].ctypes.data, 127,
            flags[r].ctypes.data, total.ctypes.data,
        )  # fmt: skip
        assert found == row.sum()
    return bool(sums_octets(flags.ctypes.data, flags.strides[0], len(x), blocks))
