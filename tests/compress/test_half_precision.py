"""Claims about method cast: nearest values, half of the bytes, refusals that name the tensor."""

import numpy as np
import pytest
import torch
from small_networks import deviation, heard, in_torch, network, said

from cosim.compress.cast import CastConfig
from cosim.compress.compressed import compress
from cosim.compress.network import OperandPolicy
from cosim.compress.recipe import parse_recipe
from cosim.errors import CosimError
from cosim.execute import ProgramEngine, Weights
from cosim.lower import lower
from kernels import encodings as store

TORCH = {"f16": torch.float16, "bf16": torch.bfloat16}


def made(module, *entries):
    return compress(module, parse_recipe({"methods": list(entries)}, name="r", source="r.yaml"))


@pytest.mark.parametrize("number", ["f16", "bf16"])
def test_weights_are_the_nearest_of_the_format_and_take_two_bytes(small, number):
    result = made(small, {"method": "cast", "number": number})
    rows = {row.name: row for row in result.ledger}
    for name in ("fc1.weight", "embed.weight", "conv.weight", "attn.q_proj.weight"):
        tensor = small.get_parameter(name).detach()
        wanted = tensor.to(TORCH[number]).float().numpy()
        np.testing.assert_array_equal(store.decode(result.encodings[name]), wanted)
        assert rows[name].encoding == "half"
        assert rows[name].size_bits == 16 * tensor.numel()
    assert rows["fc1.bias"].size_bits == 32 * 6


def test_inputs_of_products_are_rounded_unless_storage_alone_is_asked_for(small):
    both = made(small, {"method": "cast", "number": "f16"})
    linear = [f"attn.{p}_proj" for p in ("q", "k", "v", "out")] + ["fc1", "head", "conv"]
    assert set(both.policies) == {
        OperandPolicy(name, "input", 16, True, "tensor", "f16") for name in linear
    }
    stored = made(small, {"method": "cast", "number": "f16", "compute": False})
    assert stored.policies == ()
    assert stored.size_bytes == both.size_bytes


def test_every_weight_too_large_for_the_format_is_named_and_nothing_is_cut(small):
    with torch.no_grad():
        small.fc1.weight[0, 0] = 65505.0
        small.conv.weight[0, 0, 0] = -1e6
    with pytest.raises(CosimError) as caught:
        made(small, {"method": "cast", "number": "f16"})
    first, second = sorted(caught.value.problems)
    assert "conv.weight: found a weight of magnitude 1e+06, expected at most 65504" in first
    assert "fc1.weight" in second
    assert made(small, {"method": "cast", "number": "bf16"}).size_bytes > 0


def test_a_layer_has_one_format(small):
    entries = [{"method": "quantize", "weight_bits": 8}, {"method": "cast", "number": "f16"}]
    with pytest.raises(CosimError, match="has decided how they are stored"):
        made(small, *entries)


def test_zeros_stay_zeros_and_are_left_out_of_16_bit_forms(small):
    entries = [
        {"method": "prune_magnitude", "rate": 0.9, "layers": "fc1"},
        {"method": "cast", "number": "bf16", "layers": "fc1"},
    ]
    (row,) = [row for row in made(small, *entries).ledger if row.name == "fc1.weight"]
    assert row.nonzero == 48 - 43
    assert row.payload_bits == 16 * row.nonzero


def test_only_what_is_in_scope_is_cast():
    assert CastConfig("cast", "f16", scope=("linear",)).kinds == ("linear",)


@pytest.mark.parametrize(
    ("name", "number", "within"), [("whisper", "f16", 5e-3), ("wav2vec2", "bf16", 4e-2)]
)
def test_networks_say_nearly_the_same_in_16_bits(name, number, within):
    module = network(name)
    result = made(module, {"method": "cast", "number": number})
    program = lower(
        "small", result.module.graphs(), encodings=result.encodings, policies=result.policies
    )
    constants = {f"@{key}": value for key, value in result.encodings.items()}
    engine = ProgramEngine(Weights(program, constants))
    found, wanted = said(engine, name), in_torch(module, name)
    assert 0 < deviation(found, wanted) < within
    kinds = {op.kind for graph in program.graphs for op in graph.ops}
    assert "cast" in kinds
    assert heard(name).dtype == np.float32
