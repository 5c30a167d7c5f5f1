"""What compiled code cannot see of its operands: type, byte order, alignment, shared memory."""

import numpy as np
import pytest

from kernels.operands import MOST_THREADS, check_embedding, check_linear, overlap

T, N, K = 4, 6, 10
NONE, NO_ROWS, NO_CODES = (
    np.zeros(0, np.float32),
    np.zeros((0, 0), np.float32),
    np.zeros((0, 0), np.int8),
)


def _check(x, *, out=NO_ROWS, activation="f32", threads=1, **more):
    names = ("x_scale", "bias", "residual")
    read = [more.pop(name, empty) for name, empty in zip(names, (NONE, NONE, NO_ROWS), strict=True)]
    codes, scale = more.pop("codes", NO_CODES), more.pop("codes_scale", NONE)
    assert not more
    check_linear("linear", activation, x, (*read, out, codes, scale), threads=threads)


def _x() -> np.ndarray:
    return np.ones((T, K), np.float32)


def _out() -> np.ndarray:
    return np.ones((T, N), np.float32)


@pytest.mark.parametrize(
    ("activation", "dtype"),
    [
        ("f32", np.float32),
        ("i8", np.int8),
        ("i7", np.int8),
        ("b1", np.uint8),
        ("u1", np.uint8),
    ],
)
def test_an_activation_has_one_type(activation, dtype):
    _check(np.ones((T, K), dtype), out=_out(), activation=activation)
    for other in {np.float32, np.int8, np.uint8, np.float64} - {dtype}:
        with pytest.raises(TypeError, match=r"linear: x: found"):
            _check(np.ones((T, K), other), out=_out(), activation=activation)


def test_foreign_byte_order_and_odd_addresses_are_refused():
    with pytest.raises(TypeError, match=">f4"):
        _check(_x().astype(">f4"), out=_out())
    odd = np.zeros(T * K * 4 + 1, np.uint8)[1:].view(np.float32).reshape(T, K)
    with pytest.raises(ValueError, match="misaligned"):
        _check(odd, out=_out())
    with pytest.raises(ValueError, match=r"bias.*misaligned"):
        _check(_x(), out=_out(), bias=np.zeros(25, np.uint8)[1:].view(np.float32))


def test_column_ranges_of_one_matrix_do_not_overlap_and_a_shared_column_does():
    memory = np.ones((T, 4 * N), np.float32)
    left, right = memory[:, :N], memory[:, N : 2 * N]
    assert not overlap(left, right)
    _check(_x(), out=left, residual=right)
    assert overlap(left, memory[:, N - 1 : 2 * N - 1])
    with pytest.raises(ValueError, match=r"out: found .* in the memory of residual"):
        _check(_x(), out=left, residual=memory[:, N - 1 : 2 * N - 1])
    with pytest.raises(ValueError, match="in the memory of residual"):
        _check(_x(), out=left, residual=left)  # it would be overwritten before it is read
    with pytest.raises(ValueError, match="in the memory of x"):
        _check(memory[:, :K], out=left)


def test_results_share_no_memory_either():
    memory = np.ones((T, N), np.float32)
    codes = memory.view(np.int8)[:, :N]
    with pytest.raises(ValueError, match=r"out: found .* in the memory of codes"):
        _check(_x(), out=memory, codes=codes, codes_scale=np.ones(T, np.float32))


def test_rows_of_a_result_lie_apart_while_rows_of_x_may_overlap():
    memory = np.ones(T * K, np.float32)
    windows = np.lib.stride_tricks.as_strided(memory, (T, K), (8, 4))
    _check(windows, out=_out())
    packed = np.lib.stride_tricks.as_strided(memory, (T, N), (4 * N - 4, 4))
    with pytest.raises(ValueError, match="20 bytes apart, expected at least 24"):
        _check(_x(), out=packed)
    still = np.broadcast_to(np.ones(N, np.float32), (T, N))
    with pytest.raises(ValueError, match="read-only"):
        _check(_x(), out=still)


@pytest.mark.parametrize("threads", [0, -1, MOST_THREADS + 1, 1.0, "1", None])
def test_threads_are_a_small_whole_number(threads):
    with pytest.raises(ValueError, match=r"threads.*expected"):
        _check(_x(), out=_out(), threads=threads)


def test_ids_are_rows_that_exist():
    out = np.zeros((2, K), np.float32)
    check_embedding(np.array([0, N - 1]), out, n=N, k=K)
    for ids in ([0, N], [-1, 0]):
        with pytest.raises(ValueError, match=r"ids \[.*expected \[0, 5\]"):
            check_embedding(np.array(ids), out, n=N, k=K)
    for bad in (np.array([0.0, 1.0]), np.array([True, False]), [0, 1]):
        with pytest.raises(TypeError, match="ids"):
            check_embedding(bad, out, n=N, k=K)
    with pytest.raises(ValueError, match="out"):
        check_embedding(np.array([0]), out, n=N, k=K)
