"""Products of activations head by head, with panels and in plain loops."""

import numpy as np
import pytest
from every_kernel import python
from hypothesis import given, settings
from hypothesis import strategies as st

from kernels import matmul, reference

EPSILON = 2.0**-24
CASE = st.tuples(
    st.integers(1, 3),
    st.sampled_from([1, 2, 5, 7, 97, 130]),
    st.sampled_from([1, 3, 8, 20, 300]),
    st.sampled_from([1, 15, 16, 17, 40]),
)


def operands(heads, rows, depth, width, *, by_column):
    rng = np.random.default_rng(rows + depth)
    a = rng.standard_normal((rows, heads, depth)).astype(np.float32).transpose(1, 0, 2)
    if by_column:
        b = rng.standard_normal((width, heads, depth)).astype(np.float32).transpose(1, 2, 0)
    else:
        b = rng.standard_normal((depth, heads, width)).astype(np.float32).transpose(1, 0, 2)
    return a, b


@settings(deadline=None, max_examples=60)
@given(case=CASE, by_column=st.booleans(), scale=st.sampled_from([1.0, 0.3, -2.0]))
@pytest.mark.parametrize("run", ["_plain", "_run"])
def test_every_product_keeps_the_stated_bound(run, case, by_column, scale):
    heads, rows, depth, width = case
    a, b = operands(*case, by_column=by_column)
    out = np.full((heads, rows, width + 1), 5.0, np.float32)
    chosen, matmul._run = matmul._run, getattr(matmul, run)
    try:
        matmul.matmul(a, b, out[:, :, :width], scale=scale)
    finally:
        matmul._run = chosen
    exact = reference.matmul(a, b, scale)
    allowed = (depth + 4) * EPSILON * abs(scale) * (np.abs(a.astype(float)) @ np.abs(b))
    assert (np.abs(out[:, :, :width] - exact) <= allowed + 1e-37).all()
    assert (out[:, :, width] == 5).all()


def test_a_factor_is_rounded_behind_the_sum():
    a, b = operands(2, 9, 20, 17, by_column=True)
    plain, scaled = (np.empty((2, 9, 17), np.float32) for _ in range(2))
    matmul.matmul(a, b, plain)
    matmul.matmul(a, b, scaled, scale=0.3)
    np.testing.assert_array_equal(scaled, plain * np.float32(0.3))


def test_other_cpus_multiply_in_plain_loops():
    code = (
        "from kernels import matmul; import numpy as np; o = np.empty((1, 2, 3), np.float32);"
        "matmul.matmul(np.ones((1, 2, 4), np.float32), np.ones((1, 4, 3), np.float32), o);"
        "print(matmul._run is matmul._plain, o.min(), o.max())"
    )
    assert python(code, COSIM_GENERIC_KERNELS="1") == "True 4.0 4.0"


A, B = np.ones((2, 3, 4), np.float32), np.ones((2, 4, 5), np.float32)
OUT = np.ones((2, 3, 5), np.float32)
WRONG = {
    "depth": (A[:, :, :3], B, OUT),
    "heads": (A[:1], B, OUT),
    "type": (A.astype(np.float64), B, OUT),
    "gaps": (np.ones((2, 3, 8), np.float32)[:, :, ::2], B, OUT),
    "gaps of b": (A, np.ones((2, 8, 10), np.float32)[:, ::2, ::2], OUT),
    "result": (A, B, np.ones((2, 3, 6), np.float32)),
    "memory": (A, B, B[:, :3]),
    "empty": (A[:, :0], B, OUT[:, :0]),
}


@pytest.mark.parametrize("case", WRONG)
def test_arrays_that_do_not_fit_are_refused_and_nothing_is_written(case):
    a, b, out = WRONG[case]
    before = out.copy()
    with pytest.raises((ValueError, TypeError), match="matmul"):
        matmul.matmul(a, b, out)
    np.testing.assert_array_equal(out, before)
