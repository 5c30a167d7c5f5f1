import hashlib

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from kernels import encodings as enc
from kernels.bits import CODE_LIMITS, pack_codes


def _codes(seed: int, shape: tuple[int, ...], bits: int, keep: float) -> np.ndarray:
    rng = np.random.default_rng(seed)
    limit = CODE_LIMITS[bits]
    return rng.integers(-limit, limit + 1, shape) * (rng.random(shape) < keep)


ONE = np.ones((1, 1))


def _pack(codes: list, scale: np.ndarray, bits: int) -> enc.BitPacked:
    return enc.encode_bitpacked(np.array(codes), scale, bits=bits)


def _every_encoding(seed: int, shape: tuple[int, ...], bits: int, keep: float, group: int | None):
    rng = np.random.default_rng(seed + 1)
    codes = _codes(seed, shape, bits, keep)
    n, k = shape[0], int(np.prod(shape[1:]))
    g = group or k
    scale = rng.uniform(0.01, 1.0, (n, -(-k // g))).astype(np.float32)
    wide = np.stack([scale[:, j // g] for j in range(k)], axis=1)
    values = (codes.reshape(n, k).astype(np.float32) * wide).reshape(shape)
    return (
        codes,
        values,
        {
            "dense": enc.encode_dense(values),
            "bitpacked": enc.encode_bitpacked(codes, scale, bits=bits, group=group),
            "csr": enc.encode_csr(codes, scale, bits=bits, group=group),
            "bitmap": enc.encode_bitmap(codes, scale, bits=bits, group=group),
            "csr_f32": enc.encode_csr(values),
            "bitmap_f32": enc.encode_bitmap(values),
        },
    )


@given(
    seed=st.integers(0, 999),
    n=st.integers(1, 6),
    tail=st.sampled_from([(1,), (7,), (16,), (5, 3), (33,)]),
    bits=st.sampled_from([8, 4, 3, 2]),
    keep=st.sampled_from([0.0, 0.3, 1.0]),
    group=st.sampled_from([None, 1, 4]),
)
def test_every_encoding_decodes_to_what_went_in(seed, n, tail, bits, keep, group):
    shape = (n, *tail)
    codes, values, made = _every_encoding(seed, shape, bits, keep, group)
    for e in made.values():
        np.testing.assert_array_equal(enc.decode(e), values)
        assert enc.decode(e).shape == shape
        if enc.value_bits(e) != 32:
            np.testing.assert_array_equal(enc.codes(e), codes.reshape(n, -1))
        again = enc.rebuild(enc.kind(e), enc.attributes(e), enc.tensors(e))
        assert enc.digest(again) == enc.digest(e)
        mask = enc.nonzero_mask(e)
        flags = values.reshape(n, -1) != 0
        if mask is None:
            assert flags.all()
        else:
            bits_found = [
                [(row[j // 8] >> (j % 8)) & 1 for j in range(flags.shape[1])] for row in mask
            ]
            np.testing.assert_array_equal(np.array(bits_found, bool), flags)
        assert enc.density(e) == pytest.approx(flags.mean())


def test_sizes_count_payload_scales_indices_and_padding():
    codes = np.array([[1, 0, -7, 0, 2], [0, 0, 0, 0, 3]])
    scale = np.ones((2, 1), np.float32)
    packed = enc.encode_bitpacked(codes, scale, bits=4)
    assert enc.payload_bits(packed) == 2 * 3 * 8  # 5 nibbles fill 3 bytes of each row
    assert enc.scale_bits(packed) == 64
    assert enc.size_bits(packed) == 48 + 64
    sparse = enc.encode_csr(codes, scale, bits=4)
    assert enc.payload_bits(sparse) == 16  # 4 nonzeros of 4 bits
    assert enc.index_bits(sparse) == 3 * 32 + 4 * 16
    assert enc.size_bits(sparse) == 16 + 160 + 64
    bitmap = enc.encode_bitmap(codes, scale, bits=4)
    assert enc.size_bits(bitmap) == 16 + 2 * 8 + 64
    assert enc.size_bits(enc.encode_dense(np.ones((2, 5), np.float32))) == 320
    assert sum(a.nbytes for a in enc.tensors(sparse).values()) * 8 == enc.size_bits(sparse)


def test_columns_widen_when_a_row_is_longer_than_65536():
    wide = np.zeros((1, 70000), np.float32)
    wide[0, 69999] = 2.0
    e = enc.encode_csr(wide)
    assert e.columns.dtype == np.uint32
    assert enc.decode(e)[0, 69999] == 2.0
    assert enc.encode_csr(wide[:, :65536]).columns.dtype == np.uint16


def test_packing_is_little_endian_two_complement():
    assert pack_codes(np.array([[1, -1, 2, -2]], np.int8), 4).tolist() == [[0xF1, 0xE2]]
    # 3 bit: 001 | 111<<3 | 011<<6 = 0b0_1111_1001 -> 0xF9, 0x00
    assert pack_codes(np.array([[1, -1, 3]], np.int8), 3).tolist() == [[0xF9, 0x00]]
    assert pack_codes(np.array([[1, -1, 0, 1]], np.int8), 2).tolist() == [[0b01_00_11_01]]


def test_digest_changes_with_values_scale_and_shape():
    codes = np.array([[1, 2], [3, 4]])
    one = np.ones((2, 1), np.float32)
    base = enc.digest(enc.encode_bitpacked(codes, one, bits=4))
    assert enc.digest(enc.encode_bitpacked(codes, one, bits=4)) == base
    assert enc.digest(enc.encode_bitpacked(codes, one, bits=8)) != base
    assert enc.digest(enc.encode_bitpacked(codes, one * 2, bits=4)) != base
    assert enc.digest(enc.encode_bitpacked(codes[:, ::-1], one, bits=4)) != base
    assert enc.digest(enc.encode_bitpacked(codes.reshape(2, 2, 1), one, bits=4)) != base
    assert len(base) == hashlib.sha256().digest_size * 2


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
    ],
)
def test_wrong_input_says_what_was_found_and_expected(call, words):
    with pytest.raises(ValueError, match="expected") as raised:
        call()
    assert all(word in str(raised.value) for word in words)


def test_rebuild_names_what_is_missing_and_left_over():
    e = enc.encode_bitpacked(np.array([[1]]), np.ones((1, 1)), bits=8)
    with pytest.raises(KeyError, match="scale"):
        enc.rebuild("bitpacked", enc.attributes(e), {"payload": e.payload})
    with pytest.raises(KeyError, match="bitpackd"):
        enc.rebuild("bitpackd", enc.attributes(e), enc.tensors(e))
    with pytest.raises(KeyError, match=r"left over.*more"):
        enc.rebuild("bitpacked", {**enc.attributes(e), "more": 1}, enc.tensors(e))


def test_scalars_and_vectors_are_matrices_of_one_column():
    assert enc.matrix_shape(()) == (1, 1)
    e = enc.encode_dense(np.array([1.0, 0.0, 2.0]))
    np.testing.assert_array_equal(enc.nonzero_mask(e), [[1], [0], [1]])
