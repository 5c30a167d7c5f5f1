"""One-bit layers: exact sums for every pattern that could leave a counter."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kernels import binary, reference
from kernels.binary_panels import LONGEST_K
from kernels.finish import FINE, FORBIDDEN_CODE, MISFIT, NAN_SCALE
from kernels.finish_rows import QUANTIZE_STATIC, RAW
from kernels.registry import KERNELS, Matrix

pytestmark = pytest.mark.skipif(not KERNELS["w1a1"].is_usable(), reason="needs AVX2")

NONE = np.zeros(0, np.float32)
NO_ROWS = np.zeros((0, 0), np.float32)
NO_CODES = np.zeros((0, 0), np.int8)
NAMES = ("w1a1", "w1u1", "w1a8")
ROWS = [*range(1, 18), 96, 97]
FLUSHES = [1, 3, 4, 5, 8, 11, 12, 13, 23, 24, 25, 239, 240, 241, 251, 252, 253, 256, 263, 264, 265]
"""Steps around whole lookups, groups, doubles, and the longest runs of byte counters."""
BLOCKS = [504, 767, 768, 769, 1535, 1536, 1537, 2049]
"""Steps around blocks of unpacked bits, and the runs of 64 lookups of word counters."""


def _call(name, x, w, *, out, scales=(NONE, NONE, NONE), steps=0, threads=1, codes=None):
    row = KERNELS[name]
    arguments = row.layout.pack(Matrix(w))
    quantized = (NO_CODES, NONE) if codes is None else codes
    run = row.run.ready() if threads == 1 else row.run.ready_parallel()
    return run(x, *arguments, *scales, NO_ROWS, out, *quantized, steps, threads)


def _sums(name, x, w, *, threads=1):
    out = np.full((len(x), len(w)), np.nan, np.float32)
    assert _call(name, x, w, out=out, steps=RAW, threads=threads) == FINE
    return out.view(np.int32)


def _packed(flags: np.ndarray) -> np.ndarray:
    """Packed bits; those past the last step are 1, as nothing says that they are 0."""
    k = flags.shape[1]
    full = np.ones((len(flags), -(-k // 8) * 8), bool)
    full[:, :k] = flags
    return np.packbits(full, axis=1, bitorder="little")


def _operand(name: str, flags: np.ndarray, size: int = 127) -> tuple[np.ndarray, np.ndarray]:
    """Activations as the kernel takes them where flags are set or not, and their int64 values."""
    if name == "w1a8":
        codes = np.where(flags, size, -size).astype(np.int8)
        return codes, codes.astype(np.int64)
    low = 0 if name == "w1u1" else -1
    return _packed(flags), np.where(flags, 1, low).astype(np.int64)


def _signs(flags: np.ndarray) -> np.ndarray:
    return np.where(flags, 1, -1).astype(np.int8)


@pytest.mark.parametrize("name", NAMES)
def test_sums_are_exact_for_all_heights_and_tails(name):
    rng = np.random.default_rng(1)
    for n, k in [(64, 96), (130, 37), (1, 1), (193, 777), (70, 264)]:
        w = _signs(rng.random((n, k)) < 0.5)
        for rows in ROWS:
            flags = rng.random((rows, k)) < 0.5
            x, values = _operand(name, flags)
            if name == "w1a8":
                x = rng.integers(-127, 128, x.shape).astype(np.int8)
                values = x.astype(np.int64)
            np.testing.assert_array_equal(_sums(name, x, w), values @ w.T.astype(np.int64))


@pytest.mark.parametrize("name", NAMES)
def test_sums_of_many_rows_are_exact(name):
    rng = np.random.default_rng(2)
    w = _signs(rng.random((200, 300)) < 0.5)
    x, values = _operand(name, rng.random((499, 300)) < 0.5)
    np.testing.assert_array_equal(_sums(name, x, w), values @ w.T.astype(np.int64))


def _patterns(rows: int, k: int) -> dict[str, np.ndarray]:
    steps = np.arange(k)
    return {
        "ones": np.ones((rows, k), bool),
        "zeros": np.zeros((rows, k), bool),
        "alternating": np.broadcast_to(steps % 2 == 0, (rows, k)),
        "odd_rows": np.broadcast_to((np.arange(rows) % 2 == 1)[:, None], (rows, k)),
        "last_step": np.broadcast_to(steps == k - 1, (rows, k)),
    }


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("k", [*FLUSHES, *BLOCKS])
def test_counters_hold_the_most_that_a_run_can_count(name, k):
    n, rows = 129, 6
    outputs = np.arange(n)[:, None] % 3
    for flags in _patterns(rows, k).values():
        x, values = _operand(name, flags)
        # per output: where the first row has its bits, where it has none, and every step
        w = _signs(np.where(outputs == 0, flags[0], np.where(outputs == 1, ~flags[0], True)))
        for count in (rows, 2, 1):  # unpacked beforehand, in registers, and a lone row
            expected = values[:count] @ w.T.astype(np.int64)
            np.testing.assert_array_equal(_sums(name, x[:count], w), expected)


@pytest.mark.parametrize("name", NAMES)
def test_the_longest_rows_stay_exact(name):
    flags = np.ones((6, LONGEST_K), bool)
    flags[1::2] = False
    x, values = _operand(name, flags)
    w = _signs(np.arange(65)[:, None] % 2 == np.zeros(LONGEST_K))
    np.testing.assert_array_equal(_sums(name, x, w), values @ w.T.astype(np.int64))
    with pytest.raises(ValueError, match=f"found k {LONGEST_K + 1}, expected at most {LONGEST_K}"):
        binary.BITS.pack(Matrix(np.ones((1, LONGEST_K + 1), np.int8)))


@settings(max_examples=60)
@given(
    seed=st.integers(0, 10**6),
    name=st.sampled_from(NAMES),
    rows=st.integers(1, 20),
    n=st.integers(1, 150),
    k=st.integers(1, 400),
    per_row=st.booleans(),
    has_bias=st.booleans(),
)
def test_scaled_outputs_equal_the_reference_bit_for_bit(seed, name, rows, n, k, per_row, has_bias):
    rng = np.random.default_rng(seed)
    w = _signs(rng.random((n, k)) < 0.5)
    x, _ = _operand(name, rng.random((rows, k)) < 0.5)
    w_scale = rng.uniform(1e-3, 1e-1, n).astype(np.float32)
    x_scale = rng.uniform(0.1, 1, rows if per_row else 1).astype(np.float32)
    bias = rng.standard_normal(n).astype(np.float32) if has_bias else NONE
    wide = np.full((rows, n + 3), np.nan, np.float32)
    assert _call(name, x, w, out=wide[:, :n], scales=(w_scale, x_scale, bias)) == FINE
    meaning = getattr(reference, KERNELS[name].reference)
    full = np.broadcast_to(x_scale, (rows,))
    expected = meaning(x, w, full, w_scale, bias if has_bias else None)
    np.testing.assert_array_equal(wide[:, :n], expected)
    assert np.isnan(wide[:, n:]).all()  # nothing is written past the outputs


@pytest.mark.parametrize("name", NAMES)
def test_threads_split_rows_or_outputs_without_changing_a_bit(name):
    rng = np.random.default_rng(3)
    w = _signs(rng.random((330, 100)) < 0.5)
    for rows in (5, 200):
        x, _ = _operand(name, rng.random((rows, 100)) < 0.5)
        alone = _sums(name, x, w)
        for threads in (2, 3):
            np.testing.assert_array_equal(_sums(name, x, w, threads=threads), alone)


@pytest.mark.parametrize("name", NAMES)
def test_outputs_become_codes_without_float_outputs(name):
    rng = np.random.default_rng(4)
    w = _signs(rng.random((140, 90)) < 0.5)
    x, _ = _operand(name, rng.random((101, 90)) < 0.5)
    scales = (np.full(140, 0.5, np.float32), np.ones(1, np.float32), NONE)
    floats = np.empty((101, 140), np.float32)
    assert _call(name, x, w, out=floats, scales=scales) == FINE
    step = np.full(1, 0.25 if name != "w1a8" else 16.0, np.float32)
    codes = np.empty((101, 140), np.int8)
    quantized = (codes, step)
    steps = QUANTIZE_STATIC
    assert _call(name, x, w, out=NO_ROWS, scales=scales, steps=steps, codes=quantized) == FINE
    expected = np.clip(np.rint(floats.astype(np.float64) / step), -127, 127)
    np.testing.assert_array_equal(codes, expected)


def test_rows_may_overlap_and_lie_anywhere():
    rng = np.random.default_rng(5)
    signal = rng.integers(0, 256, 200).astype(np.uint8)
    x = np.lib.stride_tricks.as_strided(signal, (40, 11), (3, 1))
    w = _signs(rng.random((20, 85)) < 0.5)
    np.testing.assert_array_equal(_sums("w1a1", x, w), _sums("w1a1", x.copy(), w))


@pytest.mark.parametrize("name", NAMES)
def test_unfit_arguments_have_their_status(name):
    rng = np.random.default_rng(6)
    w = _signs(rng.random((20, 30)) < 0.5)
    x, _ = _operand(name, rng.random((3, 30)) < 0.5)
    out = np.empty((3, 20), np.float32)
    one, many = np.ones(1, np.float32), np.ones(20, np.float32)
    assert _call(name, x, w, out=out, scales=(many, one, NONE)) == FINE
    for scales in ((NONE, one, NONE), (many, NONE, NONE), (many[:5], one, NONE), (many, one, one)):
        assert _call(name, x, w, out=out, scales=scales) == MISFIT
    assert _call(name, x[:, :-1], w, out=out, scales=(many, one, NONE)) == MISFIT
    assert _call(name, x, w, out=out[:2], scales=(many, one, NONE)) == MISFIT
    bad = np.full(1, np.nan, np.float32)
    assert _call(name, x, w, out=out, scales=(many, bad, NONE)) == NAN_SCALE
    empty = _call(name, x[:0], w, out=out[:0], scales=(many, one, NONE))
    assert empty == FINE


def test_the_code_minus_128_is_refused_wherever_it_stands():
    w = np.ones((3, 75), np.int8)
    for place in (0, 7, 64, 74):
        x = np.ones((4, 75), np.int8)
        x[3, place] = -128
        out = np.empty((4, 3), np.float32)
        assert _call("w1a8", x, w, out=out, steps=RAW) == FORBIDDEN_CODE


def test_panels_give_their_rows_back_and_refuse_other_codes():
    rng = np.random.default_rng(7)
    w = _signs(rng.random((150, 45)) < 0.5)
    ids = np.array([0, 149, 63, 64, 15, 16, 17, 31, 32])
    for layout in (binary.BITS, binary.SIGNED_BITS, binary.UNSIGNED_BITS):
        arguments = layout.pack(Matrix(w))
        np.testing.assert_array_equal(layout.rows(arguments, ids), w[ids])
        with pytest.raises(ValueError, match="neither -1 nor"):
            layout.pack(Matrix(np.zeros((2, 9), np.int8)))
