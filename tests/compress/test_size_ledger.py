"""Claims about stored sizes: every byte counted by hand, the smallest encoding chosen."""

import zlib
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cosim.compress.compressed import compress, encode, zipped_bytes
from cosim.compress.network import BlockForm, NofMForm, Weight
from cosim.compress.recipe import parse_recipe
from cosim.compress.stored import size_of_each
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
        (32, 20, "csr", 20 * (32 + 16) + 9 * 32),
        (32, 10, "coo", 10 * (32 + 16 + 16)),
        (8, 640, "bitpacked", 640 * 8 + 8 * 32),
        (8, 559, "bitmap", 559 * 8 + 640 + 8 * 32),
        (4, 600, "bitpacked", 640 * 4 + 8 * 32),
        (4, 400, "bitmap", 400 * 4 + 640 + 8 * 32),
        (4, 5, "coo", 24 + 5 * 32 + 8 * 32),  # 5 codes of 4 bits fill 3 bytes
        (4, 20, "csr", 80 + 20 * 16 + 9 * 32 + 8 * 32),
    ],
)
def test_smallest_encoding_wins_with_its_size_counted_by_hand(bits, nonzero, kind, size_bits):
    weight = weight_with_zeros(8, 80, nonzero, bits)
    encoding = encode(weight)
    assert isinstance(encoding, store.ENCODINGS[kind])
    assert store.size_bits(encoding) == size_bits
    np.testing.assert_array_equal(store.decode(encoding), weight.values)


def every_form(w):
    """Every way to store a weight without zero points, made in full."""
    if w.number != "f32":
        values, bits = store.narrowed(w.values, w.number), 16
        plain = store.encode_half(w.values, w.number)
    elif w.scale is None:
        values, bits, plain = w.values, 32, store.encode_dense(w.values)
    else:
        values, bits = w.table, w.bits
        plain = store.encode_bitpacked(w.table, w.scale, bits=bits)
    yield "half" if w.number != "f32" else store.kind(plain), plain
    for name in ("bitmap", "csr", "csc", "coo"):
        encode_as = getattr(store, f"encode_{name}")
        yield name, encode_as(values, w.scale, bits=bits)
    if isinstance(w.form, NofMForm):
        form = {"n_kept": w.form.n, "m": w.form.m}
        yield "n_of_m", store.encode_n_of_m(values, w.scale, bits=bits, **form)
    if isinstance(w.form, BlockForm):
        block = (w.form.rows, w.form.columns)
        yield "block_sparse", store.encode_block_sparse(values, w.scale, bits=bits, block=block)


def in_form(table, form):
    """Zero what the form has no room for, or a random half of the blocks."""
    if isinstance(form, NofMForm):
        for row in table:
            for first in range(0, row.size, form.m):
                run = row[first : first + form.m]
                run[np.flatnonzero(run)[form.n :]] = 0
    elif isinstance(form, BlockForm):
        drop = np.random.default_rng(1).random(table.shape) < 0.5
        for i in range(0, len(table), form.rows):
            for j in range(0, table.shape[1], form.columns):
                if drop[i, j]:
                    table[i : i + form.rows, j : j + form.columns] = 0


@settings(max_examples=150)
@given(
    rows=st.integers(1, 9),
    columns=st.sampled_from([1, 3, 17, 80]),
    keep=st.sampled_from([0.0, 0.01, 0.1, 0.5, 0.97, 1.0]),
    stored_as=st.sampled_from([2, 3, 4, 8, "f16", "bf16", "f32"]),
    form=st.sampled_from([None, NofMForm(2, 4), NofMForm(1, 3), BlockForm(4, 1), BlockForm(3, 5)]),
)
def test_sizes_are_known_before_storing_and_the_smallest_is_taken(
    rows, columns, keep, stored_as, form
):
    generator = np.random.default_rng(rows * 81 + columns)
    table = generator.choice([-1, 1], (rows, columns)) * (generator.random((rows, columns)) < keep)
    in_form(table, form)
    if isinstance(stored_as, int):
        scale = np.ones((rows, 1), np.float32)
        w = Weight(table.astype(np.int8), stored_as, scale, form=form)
    else:
        w = Weight(table.astype(np.float32), number=stored_as, form=form)
    made = dict(every_form(w))
    sizes = {name: store.size_bits(e) for name, e in made.items()}
    assert size_of_each(w) == sizes
    assert store.size_bits(encode(w)) == min(sizes.values())
    for name, e in made.items():
        asked = encode(replace(w, encoding=name))
        assert store.digest(asked) == store.digest(e)
        np.testing.assert_array_equal(store.decode(asked), w.values)


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
        parts = (row.payload_bits, row.scale_bits, row.zero_point_bits, row.index_bits)
        assert row.size_bits == sum(parts) + row.padding_bits
        assert row.payload_bits == row.elements * (4 if row.name == "fc1.weight" else 32)
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
