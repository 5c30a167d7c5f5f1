"""The choice of a sparse form: by the zeros that are there, the rows, and a table of speeds."""

import numpy as np
import pytest

from kernels import patterns
from kernels.exact import LARGEST_MAGNITUDES
from kernels.jit import host_features
from kernels.patterns import FORMS, break_even, choose_values, densities, speed
from kernels.registry import lookup
from kernels.sparse_speeds import DEFAULT_BREAK_EVEN, Speed

needs_avx2 = pytest.mark.skipif(not host_features() >= {"avx2", "fma"}, reason="needs AVX2, FMA")


def _matrix(shape, block, density, seed=0):
    rng = np.random.default_rng(seed)
    a, b = block
    kept = np.kron(rng.random((shape[0] // a, shape[1] // b)) < density, np.ones(block))
    return (kept * rng.uniform(1, 2, shape)).astype(np.float32)


def test_densities_count_the_zeros_that_a_form_keeps():
    table = np.zeros((16, 8), np.float32)
    table[3, 5] = 1
    found = densities(table)
    expected = {"16x1": 1 / 8, "8x1": 1 / 16, "4x4": 1 / 8}  # of 8 columns, 16 of 8, 8 squares
    assert {form: found[form] for form in expected} == expected
    assert found["csr"] == found["narrow"] == found["mask"] == 1 / 128
    assert set(found) == set(FORMS)


def test_speeds_are_read_between_and_beyond_the_measured_densities():
    table = (
        Speed("f32_csr", "f32", 10, (8.0, 2.0), (0.1, 0.5)),
        Speed("f32_csr", "f32", 100, (4.0,), (0.5,)),
        Speed("f32_mask", "f32", 10, (4.0,), (0.5,)),
    )
    assert speed("f32_csr", "f32", 10, 0.1, table) == pytest.approx(8.0)
    assert speed("f32_csr", "f32", 7, 0.3, table) == pytest.approx(1 / 0.3125)  # mean of times
    assert speed("f32_csr", "f32", 10, 1.0, table) == pytest.approx(1.0)  # twice the time
    assert speed("f32_csr", "f32", 10, 0.0, table) == pytest.approx(8.0)  # never less time
    assert speed("f32_csr", "f32", 11, 0.5, table) == pytest.approx(4.0)
    assert speed("f32_csr", "f32", 999, 0.5, table) == pytest.approx(4.0)
    assert speed("f32_mask", "f32", 10, 0.5, table) == pytest.approx(4.0)
    assert speed("f32_mask", "f32", 11, 0.5, table) is None  # measured for few rows only
    assert speed("f32_csr", "i8", 10, 0.5, table) is None


@needs_avx2
@pytest.mark.parametrize(
    ("block", "density", "form"),
    [((1, 1), 0.2, "csr"), ((16, 1), 0.2, "16x1"), ((8, 1), 0.2, "8x1"), ((4, 4), 0.2, "4x4"),
     ((32, 32), 0.2, "16x1"), ((64, 1), 0.5, "16x1")],
)  # fmt: skip
def test_the_form_follows_the_pattern_of_zeros(block, density, form):
    matrix = _matrix((256, 256), block, density)
    values, reason = choose_values(matrix, 499)
    assert values == f"f32_{form}"
    assert f"density {densities(matrix)[form]:.2f} as {form} below the break-even" in reason
    codes = np.rint(matrix).astype(np.int8)
    assert choose_values(codes, 499, activation="i8", dense="i8")[0] == f"i8_{form}"


@needs_avx2
def test_above_the_break_even_the_dense_form_is_taken_and_the_reason_says_so():
    for rows in (1, 4, 16, 100, 1500):
        values, reason = choose_values(_matrix((64, 512), (1, 1), 0.93), rows)
        assert values == "f32"
        assert "above the break-even" in reason
        assert f"at {rows} rows: dense" in reason
    matrix = _matrix((256, 256), (1, 1), 0.5)
    assert choose_values(matrix, 499)[0] == "f32_csr"
    codes = np.rint(matrix).astype(np.int8)
    assert choose_values(codes, 499, activation="i8", dense="i8")[0] == "i8"  # faster dense


@needs_avx2
def test_another_table_changes_the_choice():
    matrix = _matrix((64, 64), (1, 1), 0.3)
    slow = (Speed("f32", "f32", 499, (1.0,), (1.0,)), Speed("f32_csr", "f32", 499, (0.5,), (0.3,)))
    fast = (slow[0], Speed("f32_csr", "f32", 499, (2.0,), (0.3,)))
    assert choose_values(matrix, 499, table=slow)[0] == "f32"
    assert choose_values(matrix, 499, table=fast)[0] == "f32_csr"
    assert break_even("f32_csr", "f32", 499, table=slow) == 0
    assert break_even("f32_csr", "f32", 499, table=fast) == pytest.approx(0.59)  # 0.6 is a tie
    assert choose_values(matrix, 499, table=slow[:1])[0] == "f32"
    with pytest.raises(ValueError, match="no speed of the dense form i4 with f32"):
        choose_values(matrix, 499, dense="i4", table=slow)


@needs_avx2
def test_activations_without_sparse_kernels_stay_dense():
    codes = np.eye(64, dtype=np.int8)
    values, reason = choose_values(codes, 499, activation="i7", dense="i8")
    assert values == "i8"
    assert "no sparse form of i8 values takes i7 activations" in reason


@needs_avx2
def test_codes_whose_float_sums_might_round_stay_dense():
    codes = np.zeros((16, 4096), np.int8)
    codes[:, :1040] = 127
    assert choose_values(codes, 499, activation="i8", dense="i8")[0] == "i8_16x1"
    codes[:, 1040] = 127
    values, reason = choose_values(codes, 499, activation="i8", dense="i8")
    assert values == "i8"
    assert f"132207, more than {LARGEST_MAGNITUDES}" in reason


def test_without_avx2_everything_is_dense_and_says_so(monkeypatch):
    monkeypatch.setattr(patterns, "host_features", frozenset)
    values, reason = choose_values(_matrix((64, 64), (1, 1), 0.1), 1500)
    assert values == "f32"
    assert "need AVX2" in reason


@needs_avx2
def test_every_measured_form_has_a_kernel():
    from kernels import panels  # noqa: F401, PLC0415 (registers the dense kernels)

    for row in DEFAULT_BREAK_EVEN:
        assert lookup("linear", values=row.values, activation=row.activation), row
        assert len(row.speeds) == len(row.densities)
        assert all(one > 0 for one in row.speeds)
