"""Claims about preset quanto: its codes bit for bit, its bytes, its scope, in every family."""

from math import prod

import numpy as np
import pytest
from small_networks import NAMES, network
from torch import nn

from cosim.compress import quanto
from cosim.compress.compressed import compress
from cosim.compress.recipe import parse_recipe
from cosim.config import configs_root, load
from cosim.errors import CosimError
from cosim.models import ModelConfig
from cosim.models import load as load_model
from kernels import encodings as store

BITS = (8, 4, 2)
SHAPES = [(7, 100), (6, 256), (9, 160), (4, 3, 3, 3), (2, 300), (1, 96), (1, 256), (5, 1)]


def recipe(bits, **more):
    entry = {"method": "quantize", "preset": "quanto", "weight_bits": bits, **more}
    return parse_recipe({"methods": [entry]}, name="r", source="r.yaml")


def unpacked(weight, bits):
    """The codes that quanto stores, of the runs one after the other, from 0 up below 8 bits."""
    packed, *_ = quanto.codes(weight, bits)
    if bits == 8:
        return packed.reshape(weight.shape)
    pieces = [(packed >> np.uint8(bits * i)) & (2**bits - 1) for i in range(8 // bits)]
    count = weight.size // packed.shape[1]
    return np.concatenate(pieces)[:count].reshape(weight.shape)


@pytest.mark.parametrize("bits", BITS)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_codes_are_those_of_quanto_bit_for_bit_and_values_too_up_to_rounding(shape, bits):
    weight = np.random.default_rng(3).standard_normal(shape).astype(np.float32)
    weight[0] = 0.25  # a constant row
    made = quanto.quantized(weight, bits)
    raw = unpacked(weight, bits).astype(np.int64)
    below = 0 if bits == 8 else 2 ** (bits - 1)
    np.testing.assert_array_equal(made.table, raw - below)
    _, scale, *shift = quanto.codes(weight, bits)
    runs = raw.reshape(shape[0] if bits == 8 else -1, prod(shape) // max(1, len(scale)))
    if bits < 8 and len(scale) == 1 and scale.size > 1:
        runs = raw.reshape(scale.shape)
    meant = scale.astype(np.float64) * runs - (shift[0].astype(np.float64) if shift else 0)
    np.testing.assert_allclose(made.values, meant.reshape(shape), rtol=0, atol=2e-6)


@pytest.mark.parametrize("bits", BITS)
@pytest.mark.parametrize("name", NAMES)
def test_the_ledger_is_the_formula_to_the_byte_but_for_padding_and_scalars(name, bits):
    module = network(name)
    made = compress(module, recipe(bits))
    kinds, untied = quanto.kinds_of(module), 0
    theirs = quanto.stored(module, bits)
    for row in made.ledger:
        coded = quanto.stored_weight(row.shape, bits) if row.name.endswith(".weight") else {}
        if row.encoding == "dense":
            assert theirs[row.name].size_bytes * 8 == row.size_bits
            continue
        if kinds[row.name] == "other":  # tied to an embedding, which quanto leaves as it is
            untied += 1
            continue
        payload = coded["_data" if bits == 8 else "_data._data"]
        factors = sum(part.size_bytes for part in coded.values()) - payload.size_bytes
        assert row.scale_bits + row.zero_point_bits == 8 * factors
        assert row.payload_bits == row.elements * bits
        if payload.size_bytes * 8 == row.elements * bits:
            assert row.size_bits - row.padding_bits == 8 * (payload.size_bytes + factors)
    modules = sum(name.endswith(".input_scale") for name in theirs)
    assert untied == (name == "whisper")
    count = sum(isinstance(module, nn.Linear | nn.Conv2d) for module in module.modules())
    assert f"{count} modules, {8 * count} bytes" in made.notes[0]
    padding = sum(row.padding_bits for row in made.ledger) / 8
    own = sum(
        part.size_bytes - row.elements * bits // 8
        for row in made.ledger
        if row.encoding != "dense" and kinds[row.name] != "other"
        for suffix, part in quanto.stored_weight(row.shape, bits).items()
        if suffix.startswith("_data")
    )
    if not untied:
        wanted = quanto.size_bytes(theirs) - 8 * modules - own
        assert abs(made.size_bytes - padding - wanted) < len(made.ledger)


@pytest.mark.parametrize("name", NAMES)
def test_only_linear_layers_and_planar_convolutions_are_in_scope(name):
    module = network(name)
    made = compress(module, recipe(8))
    wanted = {
        parameter
        for path, owner in module.named_modules()
        for parameter, tensor in module.named_parameters()
        if isinstance(owner, nn.Linear | nn.Conv2d) and tensor is owner.weight
    }
    assert {row.name for row in made.ledger if row.encoding != "dense"} == wanted
    assert made.policies == ()


def test_a_tied_table_is_told_to_take_more_bytes_untied(small):
    made = compress(small, recipe(4))
    (note,) = [note for note in made.notes if "unties" in note]
    assert "embed.weight" in note
    assert f"{4 * 7 * 8} bytes more" in note  # the embedding stays in fp32 beside the codes


def test_padding_is_all_that_differs_where_rows_do_not_fill_bytes():
    module = nn.Sequential(nn.Conv2d(1, 32, 3, bias=False))
    made = compress(module, recipe(4))
    # rows of 9 codes fill 5 bytes with 4 bits to spare; quanto packs two rows into 9 bytes
    assert made.size_bytes == 32 * 5 + 32 * 8
    assert quanto.size_bytes(quanto.stored(module, 4)) == 16 * 9 + 32 * 8 + 8
    assert made.ledger[0].padding_bits == 32 * 4


def test_keys_that_the_preset_decides_are_all_refused_beside_it():
    with pytest.raises(CosimError) as caught:
        recipe(3, scheme="asymmetric", granularity="tensor", range="mse", scope=["linear"])
    told = "\n".join(caught.value.problems)
    for key in ("scheme", "granularity", "range", "scope"):
        assert f"{key}: found beside preset quanto" in told
    assert "weight_bits: found 3, expected 2, 4 or 8" in told


@pytest.mark.parametrize("bits", BITS)
def test_zeros_cannot_be_put_into_codes_with_a_shift(small, bits):
    entries = [
        {"method": "quantize", "preset": "quanto", "weight_bits": bits},
        {"method": "prune_magnitude", "rate": 0.5, "layers": "fc1"},
    ]
    chosen = parse_recipe({"methods": entries}, name="r", source="r.yaml")
    if bits == 8:
        made = compress(small, chosen)
        assert np.count_nonzero(store.decode(made.encodings["fc1.weight"])) == 24
        return
    with pytest.raises(CosimError, match="cannot put zeros into 1 weights"):
        compress(small, chosen)


def test_layers_outside_the_scope_are_free_for_another_method():
    entries = [
        {"method": "quantize", "preset": "quanto", "weight_bits": 4},
        {"method": "quantize", "weight_bits": 8, "layers": {"kinds": ["conv"], "names": "0"}},
    ]
    module = nn.Sequential(nn.Conv1d(4, 6, 3), nn.Conv2d(2, 3, 3), nn.Linear(5, 4))
    made = compress(module, parse_recipe({"methods": entries}, name="r", source="r.yaml"))
    bits = {name: store.value_bits(value) for name, value in made.encodings.items()}
    assert (bits["0.weight"], bits["1.weight"], bits["2.weight"]) == (8, 4, 4)


@pytest.mark.slow
def test_a_whole_system_has_the_printed_megabytes_of_table_3_when_compressed():
    path = configs_root() / "models" / "transformer_000.yaml"
    loaded = load_model(load(path, ModelConfig))
    for bits, printed in ((8, 108), (4, 65), (2, 41)):
        made = compress(loaded.module, recipe(bits))
        scalars = 8 * sum(
            isinstance(module, nn.Linear | nn.Conv2d) for module in loaded.module.modules()
        )
        folded = 4 * sum(loaded.folded_parameters.values())
        assert int((made.size_bytes + scalars + folded) / 1e6) == printed
