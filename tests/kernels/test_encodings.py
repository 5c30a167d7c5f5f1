import hashlib
import json
from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kernels import encodings as enc
from kernels.bits import CODE_LIMITS, pack_codes


def _codes(seed: int, shape: tuple[int, ...], bits: int, keep: float) -> np.ndarray:
    rng = np.random.default_rng(seed)
    limit = CODE_LIMITS[bits]
    return rng.integers(-limit, limit + 1, shape) * (rng.random(shape) < keep)


ONE = np.ones((1, 1))


def _scales(rng: np.random.Generator, n: int, k: int, group: int | None) -> np.ndarray:
    return rng.uniform(0.01, 1.0, (n, 1 if group is None else -(-k // group))).astype(np.float32)


def _wide(per_group: np.ndarray, k: int, group: int | None) -> np.ndarray:
    """One column per column of the constant, by indexing."""
    return np.stack([per_group[:, j // (group or k)] for j in range(k)], axis=1)


@dataclass(frozen=True)
class Case:
    """A random constant: codes, their scales, and the values that both mean."""

    shape: tuple[int, ...]
    bits: int
    group: int | None
    codes: np.ndarray
    scale: np.ndarray
    seed: int

    @property
    def values(self) -> np.ndarray:
        n, k = self.shape[0], self.codes[0].size
        table = self.codes.reshape(n, k).astype(np.float32)
        return (table * _wide(self.scale, k, self.group)).reshape(self.shape)

    def named(self) -> dict[str, int | None]:
        return {"bits": self.bits, "group": self.group}


Made = list[tuple[enc.Encoding, np.ndarray, np.ndarray | None]]


def _dense(case: Case) -> Made:
    return [(enc.encode_dense(case.values), case.values, None)]


def _rounded(values: np.ndarray, number: str) -> np.ndarray:
    """Nearest values of 16 bits, half to even: 8 or 11 bits of the mantissa, none subnormal."""
    mantissa, exponent = np.frexp(values.astype(np.float64))
    steps = 2.0 ** (8 if number == "bf16" else 11)
    return np.ldexp(np.rint(mantissa * steps) / steps, exponent).astype(np.float32)


def _half(case: Case) -> Made:
    return [
        (enc.encode_half(case.values, number), _rounded(case.values, number), None)
        for number in ("f16", "bf16")
    ]


def _bitpacked(case: Case) -> Made:
    rng = np.random.default_rng(case.seed)
    n, k = case.shape[0], case.codes[0].size
    made: Made = [
        (enc.encode_bitpacked(case.codes, case.scale, **case.named()), case.values, case.codes)
    ]
    limit = CODE_LIMITS[case.bits]
    codes = rng.integers(-limit - 1, limit + 1, case.shape)
    whole = rng.integers(-limit - 1, limit + 1, case.scale.shape).astype(np.int8)
    for zero in (whole, whole[:1], rng.normal(0, 3, case.scale.shape).astype(np.float32)):
        shift = codes.reshape(n, k).astype(np.float32) - _wide(
            zero.astype(np.float32), k, case.group
        )
        values = (shift * _wide(case.scale, k, case.group)).reshape(case.shape)
        e = enc.encode_bitpacked(codes, case.scale, zero_point=zero, **case.named())
        assert enc.zero_points(e).dtype == zero.dtype
        assert enc.zero_point_bits(e) == zero.nbytes * 8
        made.append((e, values, codes))
    return made


def _binary(case: Case) -> Made:
    signs = np.where(case.codes < 0, -1, 1)
    scale = np.abs(case.scale[:, :1])
    wide = scale.reshape(-1, *[1] * (len(case.shape) - 1))
    values = signs.astype(np.float32) * wide
    return [
        (enc.encode_binary(signs, scale), values, signs),
        (enc.encode_binary(signs > 0, scale), values, signs),
    ]


def _sparse(encode: Callable[..., enc.Encoding], **more: object) -> Callable[[Case], Made]:
    def make(case: Case) -> Made:
        return [
            (encode(case.codes, case.scale, **case.named(), **more), case.values, case.codes),
            (encode(case.values, **more), case.values, None),
            *(
                (
                    encode(enc.narrowed(case.values, number), bits=16, **more),
                    _rounded(case.values, number),
                    None,
                )
                for number in ("f16", "bf16")
            ),
        ]

    return make


def _blocks(case: Case) -> Made:
    sizes = [(16, 1), (8, 1), (4, 4), (32, 32), (1, 1), (3, 5)]
    return [one for size in sizes for one in _sparse(enc.encode_block_sparse, block=size)(case)]


def _n_of_m(case: Case) -> Made:
    made = []
    for n_kept, m in ((2, 4), (1, 2), (1, 3), (4, 5), (3, 16), (2, 256)):
        flat = case.codes.reshape(case.shape[0], -1).copy()
        for row in flat:
            for first in range(0, row.size, m):
                row[first : first + m][np.flatnonzero(row[first : first + m])[n_kept:]] = 0
        kept = replace(case, codes=flat.reshape(case.shape))
        made += _sparse(enc.encode_n_of_m, n_kept=n_kept, m=m)(kept)
    return made


MAKERS = {
    "dense": _dense,
    "half": _half,
    "bitpacked": _bitpacked,
    "binary": _binary,
    "csr": _sparse(enc.encode_csr),
    "csc": _sparse(enc.encode_csc),
    "coo": _sparse(enc.encode_coo),
    "bitmap": _sparse(enc.encode_bitmap),
    "block_sparse": _blocks,
    "n_of_m": _n_of_m,
}


@pytest.mark.parametrize("kind", enc.ENCODINGS)
@settings(max_examples=40)
@given(
    seed=st.integers(0, 999),
    n=st.integers(1, 19),
    tail=st.sampled_from([(1,), (7,), (16,), (5, 3), (33,), (67,)]),
    bits=st.sampled_from([8, 4, 3, 2]),
    keep=st.sampled_from([0.0, 0.05, 0.3, 1.0]),
    group=st.sampled_from([None, 1, 4, 32]),
)
def test_every_encoding_keeps_its_contract(kind, seed, n, tail, bits, keep, group):
    shape = (n, *tail)
    scale = _scales(np.random.default_rng(seed + 1), n, int(np.prod(tail)), group)
    for e, values, codes in MAKERS[kind](
        Case(shape, bits, group, _codes(seed, shape, bits, keep), scale, seed)
    ):
        assert enc.kind(e) == kind
        assert enc.decode(e).shape == e.shape == shape
        np.testing.assert_array_equal(enc.decode(e), values)
        if codes is None:
            assert enc.value_bits(e) in (16, 32)
            assert enc.scales(e) is None
        else:
            assert enc.value_bits(e) == (1 if kind == "binary" else bits)
            np.testing.assert_array_equal(enc.codes(e), codes.reshape(n, -1))
        stored = enc.tensors(e)
        assert enc.size_bits(e) == sum(array.nbytes for array in stored.values()) * 8
        parts = enc.payload_bits(e) + enc.scale_bits(e) + enc.zero_point_bits(e)
        assert enc.size_bits(e) == parts + enc.index_bits(e)
        attributes = json.loads(json.dumps(enc.attributes(e)))
        again = enc.rebuild(kind, attributes, {key: array.copy() for key, array in stored.items()})
        assert type(again) is type(e)
        assert enc.digest(again) == enc.digest(e)
        np.testing.assert_array_equal(enc.decode(again), values)
        _check_nonzero(e, values.reshape(n, -1) != 0)


def _check_nonzero(e: enc.Encoding, flags: np.ndarray) -> None:
    mask = enc.nonzero_mask(e)
    if mask is None:
        assert flags.all()
    else:
        assert mask.shape == (len(flags), -(-flags.shape[1] // 8))
        found = [[(row[j // 8] >> (j % 8)) & 1 for j in range(flags.shape[1])] for row in mask]
        np.testing.assert_array_equal(np.array(found, bool), flags)
    assert enc.density(e) == pytest.approx(flags.mean())


@pytest.mark.parametrize("kind", enc.ENCODINGS)
def test_a_digest_changes_with_every_byte_and_attribute(kind):
    shape = (6, 11)
    case = Case(shape, 4, 4, _codes(3, shape, 4, 0.5), np.ones((6, 3), np.float32), 3)
    for e, _, _ in MAKERS[kind](case):
        seen = {enc.digest(e)}
        for name, array in enc.tensors(e).items():
            for position in {0, array.nbytes // 2, array.nbytes - 1} if array.size else ():
                changed = array.copy()
                changed.reshape(-1).view(np.uint8)[position] ^= 1
                different = replace(e, **{name: changed})
                assert enc.digest(different) not in seen
                seen.add(enc.digest(different))
        for name, value in enc.attributes(e).items():
            if isinstance(value, str):
                continue
            more = (*value, 1) if isinstance(value, list) else value + 1
            different = replace(e, **{name: tuple(more) if isinstance(value, list) else more})
            assert enc.digest(different) not in seen
            seen.add(enc.digest(different))


def test_digests_of_symmetric_encodings_stay_what_programs_were_hashed_with():
    codes = np.array([[1, 0, -7, 0, 2], [0, 0, 0, 0, 3]])
    scale = np.array([[0.5], [0.25]], np.float32)
    found = [
        enc.encode_bitpacked(codes, scale, bits=4),
        enc.encode_csr(codes, scale, bits=4),
        enc.encode_bitmap(codes, scale, bits=4),
        enc.encode_dense((codes * scale).astype(np.float32)),
    ]
    assert [enc.digest(e) for e in found] == [
        "7a92c03c3b549fa8b56305b18b16c73c5f77325f69b67a2e62cbb57979d0bfdc",
        "fcdf527fe5b4201a3b2c20e409b2fb237b1c98d242e259916331601524f52ad5",
        "0b3603fbfeac829692743cfda5b3e1925650eeab862f6756741e073bf60ae1ac",
        "e9c66aa4bef06dbe0e44068ad0f51eb9ba52bdf10ddff56f68b3a6374486e47e",
    ]


def test_zero_points_shift_codes_before_the_scale_and_count_as_zero():
    codes = np.array([[-8, 7, -3, 0], [0, 1, 2, 3]])
    scale = np.array([[0.5, 2.0], [0.1, 1.0]], np.float32)
    zero = np.array([[-8, -3], [1, 3]])
    e = enc.encode_bitpacked(codes, scale, bits=4, group=2, zero_point=zero)
    tenth = np.float32(0.1)
    np.testing.assert_array_equal(enc.decode(e), [[0.0, 7.5, 0.0, 6.0], [-tenth, 0.0, -1.0, 0.0]])
    assert enc.nonzero_mask(e).tolist() == [[0b1010], [0b0101]]
    assert enc.density(e) == 0.5
    assert enc.size_bits(e) == 2 * 16 + 4 * 32 + 4 * 8
    assert list(enc.tensors(e)) == ["payload", "scale", "zero_point"]
    # a float zero point is subtracted with one rounding, then scaled with another
    third = np.full((2, 2), 1 / 3, np.float32)
    e = enc.encode_bitpacked(codes, scale, bits=4, group=2, zero_point=third)
    expected = (codes.astype(np.float32) - np.float32(1 / 3)) * np.repeat(scale, 2, axis=1)
    np.testing.assert_array_equal(enc.decode(e), expected.astype(np.float32))


def test_blocks_hold_their_zeros_and_count_the_padding_of_edges():
    values = np.zeros((5, 6), np.float32)
    values[0, 0], values[4, 5] = 1.0, 2.0
    e = enc.encode_block_sparse(values, block=(4, 4))
    assert e.row_pointers.tolist() == [0, 1, 2]
    assert e.columns.tolist() == [0, 1]
    assert e.payload.shape == (2, 4, 4)
    assert enc.payload_bits(e) == 2 * 16 * 32
    assert enc.index_bits(e) == 3 * 32 + 2 * 16
    codes = enc.encode_block_sparse(values.astype(int), ONE, block=(3, 1), bits=3)
    assert codes.payload.shape == (2, 2)  # 3 codes of 3 bits are 9 bits: 2 bytes a block
    assert enc.size_bits(codes) == 2 * 16 + 3 * 32 + 2 * 16 + 32


def test_two_of_four_costs_two_bits_an_index():
    codes = np.array([[0, 3, 0, 4, 5, 0, 0, 0, 0, 1]])
    e = enc.encode_n_of_m(codes, ONE, n_kept=2, m=4, bits=4)
    assert enc.slot_places(e).tolist() == [[[1, 3], [0, 1], [0, 1]]]
    assert enc.index_bits(e) == 16  # 6 slots of 2 bits
    assert enc.payload_bits(e) == 24
    assert enc.codes(e).tolist() == codes.tolist()


def test_columns_lead_in_csc_and_both_places_are_kept_in_coo():
    values = np.array([[0, 5, 0], [7, 6, 0]], np.float32)
    e = enc.encode_csc(values)
    assert (e.column_pointers.tolist(), e.rows.tolist()) == ([0, 1, 3, 3], [1, 0, 1])
    assert e.payload.tolist() == [7, 5, 6]
    e = enc.encode_coo(values)
    assert (e.rows.tolist(), e.columns.tolist()) == ([0, 1, 1], [1, 0, 1])
    assert enc.size_bits(e) == 3 * (16 + 16 + 32)


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


def test_scalars_and_vectors_are_matrices_of_one_column():
    assert enc.matrix_shape(()) == (1, 1)
    e = enc.encode_dense(np.array([1.0, 0.0, 2.0]))
    np.testing.assert_array_equal(enc.nonzero_mask(e), [[1], [0], [1]])
