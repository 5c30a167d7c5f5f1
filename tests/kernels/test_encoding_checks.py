"""What is not an encoding is refused, with what was found and what was expected."""

import numpy as np
import pytest

from kernels import encodings as enc

ONE = np.ones((1, 1))


def _pack(codes: list, scale: np.ndarray, bits: int) -> enc.BitPacked:
    return enc.encode_bitpacked(np.array(codes), scale, bits=bits)


def _shifted(codes: list, zero_point: list) -> enc.BitPacked:
    zero = np.array(zero_point)
    return enc.encode_bitpacked(np.array(codes), ONE, bits=4, zero_point=zero)


def _two_of_four(codes: list) -> enc.NofM:
    return enc.encode_n_of_m(np.array(codes), ONE, n_kept=2, m=4, bits=4)


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: _pack([[8]], ONE, 4), ["[8, 8]", "[-7, 7]"]),
        (lambda: _pack([[-128]], ONE, 8), ["-128"]),
        (lambda: _pack([[1]], ONE, 5), ["found 5"]),
        (lambda: _pack([[1.0]], ONE, 8), ["float64"]),
        (lambda: _pack([[1, 2], [3, 4]], np.ones((3, 1)), 8), ["(3, 1)", "(2, 1)"]),
        (lambda: enc.encode_csr(np.array([[1]]), bits=8), ["scale"]),
        (lambda: enc.encode_csr(np.array([[1]])), ["int64"]),
        (lambda: enc.codes(enc.encode_dense(np.ones((1, 1)))), ["dense", "codes"]),
        (lambda: enc.encode_dense(np.ones((1, 1), int)), ["int64"]),
        (lambda: _pack([[1]], ONE * np.nan, 8), ["scale", "NaN"]),
        (lambda: _pack([[1]], ONE * np.inf, 8), ["scale", "infinity"]),
        (lambda: _pack([[1]], ONE * 1e300, 8), ["scale", "infinity"]),  # beyond float32
        (lambda: _pack([[1]], -ONE, 8), ["scale", "-1", "at least 0"]),
        (lambda: _pack([[1]], np.ones((1, 1), int), 8), ["scale", "int64"]),
        (lambda: _shifted([[-9]], [[0]]), ["[-9, -9]", "[-8, 7]"]),
        (lambda: _shifted([[1]], [[128]]), ["zero_point", "128", "[-128, 127]"]),
        (lambda: _shifted([[1]], [[np.nan]]), ["zero_point", "NaN"]),
        (lambda: _shifted([[1]], [[True]]), ["zero_point", "bool"]),
        (lambda: _shifted([[1]], [[1, 1]]), ["zero_point", "(1, 2)", "(1, 1)"]),
        (lambda: enc.encode_binary([[1, 0, -1]], ONE), ["signs", "found 0", "-1 and 1"]),
        (lambda: enc.encode_binary([[1, -1]], np.ones((1, 2))), ["(1, 2)", "(1, 1)"]),
        (lambda: enc.encode_block_sparse(ONE, block=(0, 4)), ["block", "(0, 4)"]),
        (lambda: enc.encode_n_of_m(ONE, n_kept=3, m=2), ["n_kept 3", "m 2"]),
        (lambda: enc.encode_n_of_m(ONE, n_kept=1, m=257), ["m 257"]),
        (lambda: _two_of_four([[0] * 9, [0, 0, 0, 0, 1, 1, 1, 0, 1]]), ["row 1", "4 to 7", "3"]),
    ],
)
def test_wrong_input_says_what_was_found_and_expected(call, words):
    with pytest.raises(ValueError, match="expected") as raised:
        call()
    assert all(word in str(raised.value) for word in words)


@pytest.mark.parametrize(
    ("kind", "change", "words"),
    [
        ("bitpacked", {"payload": np.full((2, 3), 0x88, np.uint8)}, ["code -8", "at least -7"]),
        ("bitpacked", {"payload": np.zeros((2, 2), np.uint8)}, ["(2, 2)", "(2, 3)"]),
        ("bitpacked", {"scale": np.ones((2, 1))}, ["float64", "float32"]),
        ("bitpacked", {"zero_point": np.ones((2, 1), np.int16)}, ["int16", "int8 or float32"]),
        ("bitpacked", {"group": 0}, ["group", "found 0"]),
        ("bitpacked", {"bits": 5}, ["bits", "found 5"]),
        ("bitpacked", {"bits": 4.0}, ["bits", "4.0"]),
        ("bitpacked", {"shape": [2, -5]}, ["shape", "(2, -5)"]),
        ("bitpacked", {"shape": 10}, ["shape", "list"]),
        ("binary", {"payload": np.full((2, 1), 32, np.uint8)}, ["bits beyond column 4"]),
        ("csr", {"columns": np.array([0, 2, 5, 4], np.uint16)}, ["columns", "found 5", "below 5"]),
        ("csr", {"columns": np.array([0, 4, 2, 4], np.uint16)}, ["twice or out of order"]),
        ("csr", {"columns": np.array([0, 2, 2, 4], np.uint16)}, ["twice or out of order"]),
        ("csr", {"row_pointers": np.array([0, 5, 4], np.uint32)}, ["row_pointers", "0 to 4"]),
        ("csr", {"row_pointers": np.array([0, 3, 5], np.uint32)}, ["row_pointers", "0 to 4"]),
        ("csr", {"row_pointers": np.array([0, 4], np.uint32)}, ["row_pointers", "(3,)"]),
        ("csr", {"payload": np.zeros(3, np.uint8)}, ["payload", "(2,)"]),
        ("csc", {"rows": np.array([0, 0, 0, 2], np.uint16)}, ["rows", "found 2"]),
        ("coo", {"rows": np.array([0, 0, 0, 2], np.uint16)}, ["rows", "found 2"]),
        ("coo", {"rows": np.array([1, 0, 0, 1], np.uint16)}, ["twice or out of order"]),
        ("coo", {"rows": np.array([0, 0, 0], np.uint16)}, ["rows", "(4,)"]),
        ("bitmap", {"mask": np.full((2, 1), 31, np.uint8)}, ["payload", "(5,)"]),
        ("block_sparse", {"block": [2, 0]}, ["block"]),
        ("block_sparse", {"columns": np.array([0, 1, 3, 2], np.uint16)}, ["columns", "found 3"]),
        ("n_of_m", {"indices": np.full((2, 1), 0b11111111, np.uint8)}, ["indices", "below 3"]),
        ("n_of_m", {"indices": np.zeros((2, 1), np.uint8)}, ["indices", "ascending"]),
    ],
)
def test_damaged_arrays_are_refused_before_anything_reads_them(kind, change, words):
    codes = np.array([[1, 0, -7, 0, 2], [0, 0, 0, 0, 3]])
    scale = np.ones((2, 1), np.float32)
    e = {
        "bitpacked": lambda: enc.encode_bitpacked(codes, scale, bits=4),
        "binary": lambda: enc.encode_binary(codes > 0, scale),
        "csr": lambda: enc.encode_csr(codes, scale, bits=4),
        "csc": lambda: enc.encode_csc(codes, scale, bits=4),
        "coo": lambda: enc.encode_coo(codes, scale, bits=4),
        "bitmap": lambda: enc.encode_bitmap(codes, scale, bits=4),
        "block_sparse": lambda: enc.encode_block_sparse(codes, scale, block=(1, 2), bits=4),
        "n_of_m": lambda: enc.encode_n_of_m(codes, scale, n_kept=2, m=3, bits=4),
    }[kind]()
    arrays = {**enc.tensors(e), **{k: v for k, v in change.items() if hasattr(v, "dtype")}}
    named = {**enc.attributes(e), **{k: v for k, v in change.items() if k not in arrays}}
    enc.rebuild(kind, enc.attributes(e), enc.tensors(e))
    with pytest.raises(ValueError, match="expected") as raised:
        enc.rebuild(kind, named, arrays)
    assert all(word in str(raised.value) for word in [kind, *words]), str(raised.value)


def test_rebuild_names_what_is_missing_and_left_over():
    e = enc.encode_bitpacked(np.array([[1]]), np.ones((1, 1)), bits=8)
    with pytest.raises(KeyError, match="scale"):
        enc.rebuild("bitpacked", enc.attributes(e), {"payload": e.payload})
    with pytest.raises(KeyError, match="bitpackd"):
        enc.rebuild("bitpackd", enc.attributes(e), enc.tensors(e))
    with pytest.raises(KeyError, match=r"left over.*more"):
        enc.rebuild("bitpacked", {**enc.attributes(e), "more": 1}, enc.tensors(e))
