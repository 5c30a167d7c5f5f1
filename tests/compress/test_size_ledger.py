"""Claims about stored sizes: every byte counted by hand, the smallest encoding chosen."""

import zlib

import numpy as np
import pytest

from cosim.compress.compressed import compress, encode, zipped_bytes
from cosim.compress.network import Weight
from cosim.compress.recipe import parse_recipe
from kernels import encodings as store


def made(network, *entries):
    return compress(network, parse_recipe({"methods": list(entries)}, name="r", source="r.yaml"))


def weight_with_zeros(rows, columns, nonzero, bits):
    table = np.zeros(rows * columns, np.int8 if bits < 32 else np.float32)
    table[np.random.default_rng(0).permutation(table.size)[:nonzero]] = 3
    scale = np.ones((rows, 1), np.float32) if bits < 32 else None
    return Weight(table.reshape(rows, columns), bits, scale)


@pytest.mark.parametrize(
    ("bits", "nonzero", "kind", "size_bits"),
    [
        (32, 640, "dense", 640 * 32),
        (32, 620, "dense", 640 * 32),  # 20 zeros save as much as the mask costs: no index
        (32, 619, "bitmap", 619 * 32 + 640),
        (32, 10, "csr", 10 * (32 + 16) + 9 * 32),
        (8, 640, "bitpacked", 640 * 8 + 8 * 32),
        (8, 559, "bitmap", 559 * 8 + 640 + 8 * 32),
        (4, 600, "bitpacked", 640 * 4 + 8 * 32),
        (4, 400, "bitmap", 400 * 4 + 640 + 8 * 32),
        (4, 5, "csr", 24 + 5 * 16 + 9 * 32 + 8 * 32),  # 5 codes of 4 bits fill 3 bytes
    ],
)
def test_smallest_encoding_wins_with_its_size_counted_by_hand(bits, nonzero, kind, size_bits):
    weight = weight_with_zeros(8, 80, nonzero, bits)
    encoding = encode(weight)
    assert isinstance(encoding, store.ENCODINGS[kind])
    assert store.size_bits(encoding) == size_bits
    np.testing.assert_array_equal(store.decode(encoding), weight.values)


@pytest.mark.parametrize("bits", [4, 8, 32])
@pytest.mark.parametrize("columns", [1, 3, 17, 80])
def test_no_other_encoding_would_be_smaller(bits, columns):
    for nonzero in range(0, 8 * columns + 1, max(1, columns // 4)):
        w = weight_with_zeros(8, columns, nonzero, bits)
        plain = (
            store.encode_dense(w.values)
            if w.scale is None
            else store.encode_bitpacked(w.table, w.scale, bits=bits)
        )
        others = [
            store.encode_bitmap(w.table, w.scale, bits=bits),
            store.encode_csr(w.table, w.scale, bits=bits),
        ]
        assert store.size_bits(encode(w)) == min(map(store.size_bits, [plain, *others]))


def test_ledger_holds_every_tensor_once_and_sums_to_the_totals(small):
    model = made(small, {"method": "quantize", "weight_bits": 4, "layers": "fc1"})
    elements = {
        **{f"attn.{p}_proj.weight": 64 for p in ("q", "k", "v", "out")},
        **{f"attn.{p}_proj.bias": 8 for p in ("q", "v", "out")},
        "conv.weight": 45,
        "conv.bias": 5,
        "norm.weight": 8,
        "norm.bias": 8,
        "fc1.weight": 48,
        "fc1.bias": 6,
        "embed.weight": 56,
        "positions": 32,
        "shift": 3,
    }
    assert {row.name: row.elements for row in model.ledger} == elements
    sizes = {name: count * 32 for name, count in elements.items()}
    sizes["fc1.weight"] = 6 * 8 * 4 + 6 * 32
    assert {row.name: row.size_bits for row in model.ledger} == sizes
    for row in model.ledger:
        assert row.size_bits == row.payload_bits + row.scale_bits + row.index_bits
    assert model.elements == 491
    assert model.size_bytes == sum(sizes.values()) // 8
    assert model.mean_bits == sum(sizes.values()) / 491


def test_sparsity_is_the_share_of_zeros(small):
    model = made(small, {"method": "prune_magnitude", "rate": 0.5, "layers": "fc1"})
    assert model.sparsity == pytest.approx(24 / 491)
    assert made(small).sparsity == 0


def test_zipped_bytes_are_those_of_zlib_and_add_up(small):
    model = made(small, {"method": "quantize", "weight_bits": 8})
    wanted = sum(
        len(zlib.compress(array.tobytes(), 6))
        for encoding in model.encodings.values()
        for array in store.tensors(encoding).values()
    )
    assert zipped_bytes(model.encodings) == wanted
    each = [zipped_bytes({name: encoding}) for name, encoding in model.encodings.items()]
    assert sum(each) == wanted


def test_same_recipe_gives_the_same_bytes(small):
    entries = (
        {"method": "prune_magnitude", "rate": 0.4},
        {"method": "quantize", "weight_bits": 4, "activations": {"per": "row"}},
    )
    one, other = made(small, *entries), made(small, *entries)
    assert [store.digest(e) for e in one.encodings.values()] == [
        store.digest(e) for e in other.encodings.values()
    ]
    assert one.ledger == other.ledger
    assert one.policies == other.policies
