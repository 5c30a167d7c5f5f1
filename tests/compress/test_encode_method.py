"""Claims about `encode`: the form asked for is stored, or refused by weight and reason."""

import numpy as np
import pytest
import torch

from cosim.compress.compressed import compress
from cosim.compress.network import BlockForm, NofMForm, Weight
from cosim.compress.recipe import parse_recipe
from cosim.compress.stored import encode
from cosim.errors import CosimError
from kernels import encodings as store

PRUNE = {"method": "prune_magnitude", "rate": 0.6}
W8 = {"method": "quantize", "weight_bits": 8, "layers": "fc1"}


def made(network, *entries):
    return compress(network, parse_recipe({"methods": list(entries)}, name="r", source="r.yaml"))


def asked(encoding, layers="fc1", **more):
    return {"method": "encode", "encoding": encoding, "layers": layers, **more}


def problems_of(network, *entries):
    with pytest.raises(CosimError) as raised:
        made(network, *entries)
    return raised.value.problems


@pytest.mark.parametrize("encoding", ["dense", "csr", "csc", "coo", "bitmap"])
@pytest.mark.parametrize("layers", ["fc1", "conv", "embed"])
def test_a_form_that_is_asked_for_is_stored_with_the_same_values(small, encoding, layers):
    plain = made(small, {**PRUNE, "layers": layers})
    found = made(small, {**PRUNE, "layers": layers}, asked(encoding, layers))
    name = f"{layers}.weight"
    row = next(row for row in found.ledger if row.name == name)
    assert row.encoding == encoding
    assert row.why.endswith("form that the recipe asks for")
    np.testing.assert_array_equal(
        store.decode(found.encodings[name]), store.decode(plain.encodings[name])
    )


@pytest.mark.parametrize("order", ["before", "behind"])
def test_the_order_of_encode_and_quantize_does_not_matter(small, order):
    entries = [W8, asked("csr")] if order == "behind" else [asked("csr"), W8]
    encoding = made(small, {**PRUNE, "layers": "fc1"}, *entries).encodings["fc1.weight"]
    assert isinstance(encoding, store.Csr)
    assert encoding.bits == 8


def test_patterns_that_zeros_have_are_stored_when_named(small):
    with torch.no_grad():
        small.fc1.weight.view(6, 2, 4)[:, :, 1::2] = 0
        small.fc1.weight[4:6, 2:4] = 0
    found = made(small, asked("n_of_m", n=2, m=4)).encodings["fc1.weight"]
    assert (found.n_kept, found.m) == (2, 4)
    found = made(small, asked("block_sparse", block=[2, 2])).encodings["fc1.weight"]
    assert found.block == (2, 2)
    assert found.columns.size == 11  # of 12 blocks
    np.testing.assert_array_equal(store.decode(found), small.fc1.weight.numpy(force=True))


def test_what_no_method_changed_is_stored_as_it_is_even_where_it_is_zero(small):
    with torch.no_grad():
        small.fc1.weight[:] = 0
        small.norm.bias[:] = 0
    plain = made(small)
    kinds = {row.name: (row.encoding, row.size_bits) for row in plain.ledger}
    assert kinds["fc1.weight"] == ("dense", 48 * 32)
    assert kinds["norm.bias"] == ("dense", 8 * 32)
    kinds = {row.name: row.encoding for row in made(small, asked("auto")).ledger}
    assert kinds["fc1.weight"] == "coo"  # no nonzero: no bit
    assert kinds["norm.bias"] == "dense"


def test_every_weight_that_cannot_be_stored_so_is_told_with_the_reason(small):
    signs = {"method": "binarize", "layers": ["fc1", "attn.q_proj"]}
    found = problems_of(small, signs, asked("csr", "*"), asked("bitpacked", "conv"))
    assert found == [
        "recipe r: conv.weight: bitpacked: found f32 values, expected dense or a sparse form",
        *(
            f"recipe r: {name}.weight: csr: found one-bit weights, which have no zeros to leave "
            "out, expected binary"
            for name in ("attn.q_proj", "fc1")
        ),
    ]
    (found,) = problems_of(small, asked("n_of_m", n=2, m=4))
    assert found == (
        "recipe r: fc1.weight: n_of_m: found 4 nonzeros in a run of 4 weights, expected at most 2"
    )
    (found,) = problems_of(small, W8, asked("dense"))
    assert "fc1.weight: dense: found codes of 8 bits, expected bitpacked or a sparse form" in found
    (found,) = problems_of(small, W8, asked("binary"))
    assert "fc1.weight: binary: found codes of 8 bits, expected bitpacked" in found


def test_codes_with_zero_points_have_no_sparse_form():
    table, scale = np.zeros((2, 4), np.int8), np.ones((2, 1), np.float32)
    points = np.ones((2, 1), np.int8)
    weight = Weight(table, 8, scale, zero_point=points)
    assert isinstance(encode(weight), store.BitPacked)
    np.testing.assert_array_equal(store.decode(encode(weight)), -np.ones((2, 4)))
    for form, name in (
        (None, "csr"),
        (NofMForm(1, 2), "n_of_m"),
        (BlockForm(1, 2), "block_sparse"),
    ):
        asked_for = Weight(table, 8, scale, 0, points, form=form, encoding=name)
        with pytest.raises(ValueError, match="with zero points, which sparse forms have no room"):
            encode(asked_for)


def test_values_that_16_bits_do_not_hold_are_refused():
    with pytest.raises(ValueError, match="values that f16 does not hold"):
        encode(Weight(np.array([[1.0001]], np.float32), number="f16"))


def test_a_negative_zero_costs_nothing_in_a_sparse_form():
    table = np.array([[-0.0, 1.0, -0.0, 2.0]], np.float32)
    for number in ("f32", "f16", "bf16"):
        found = encode(Weight(table, number=number, encoding="coo"))
        assert found.columns.tolist() == [1, 3]


@pytest.mark.parametrize(
    ("entry", "words"),
    [
        (asked("csrr"), 'encoding: found "csrr", expected one of'),
        (asked("n_of_m", n=2), "n, m: found n without m"),
        (asked("n_of_m", n=4, m=4), "n: found 4, expected less than m, which is 4"),
        (asked("csr", n=2, m=4), "n, m: found with csr, expected n_of_m or auto"),
        (asked("bitmap", block=[4, 1]), "block: found with bitmap, expected block_sparse or auto"),
        (asked("auto", n=2, m=4, block=[4, 1]), "block: found with n and m, expected one pattern"),
        (asked("block_sparse", block=[0, 1]), "block"),
        (asked("n_of_m"), "fc1.weight: no entry before this one gave the zeros such a pattern"),
        (asked("block_sparse"), "expected block"),
        (asked("auto", "fc9"), "nearest: fc1"),
    ],
)
def test_a_wrong_entry_says_what_is_wrong(small, entry, words):
    with pytest.raises(CosimError) as raised:
        made(small, entry)
    assert words in str(raised.value)


def test_decoded_values_are_made_when_asked_for_and_share_nothing_with_the_module(small):
    before = {name: value.clone() for name, value in small.state_dict().items()}
    model = made(small, W8)
    twin = model.module
    assert twin is model.module
    assert twin.head.weight is twin.embed.weight
    with torch.no_grad():
        for value in (*twin.parameters(), *twin.buffers()):
            value.add_(1)
    for name, value in small.state_dict().items():
        assert torch.equal(value, before[name]), name
    assert made(small).module is small
