"""Claims about quantisation: bounds, scales and the policies of operands."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from torch import nn

from cosim.compress.compressed import compress
from cosim.compress.network import OperandPolicy
from cosim.compress.quantize import quantized
from cosim.compress.recipe import load_recipe, parse_recipe
from cosim.errors import CosimError
from kernels import encodings as store

MATRICES = st.tuples(st.integers(1, 6), st.integers(1, 9)).flatmap(
    lambda shape: arrays(np.float32, shape, elements=st.floats(-1e6, 1e6, width=32))
)


def model(network, **settings):
    entry = {"method": "quantize", "weight_bits": 8, **settings}
    return compress(network, parse_recipe({"methods": [entry]}, name="r", source="r.yaml"))


@given(MATRICES, st.sampled_from([4, 8]), st.sampled_from(["channel", "tensor"]))
def test_error_is_at_most_half_a_step(values, bits, granularity):
    weight = quantized(values, bits=bits, granularity=granularity)
    limit = {4: 7, 8: 127}[bits]
    exact = weight.table.astype(np.float64) * weight.scale.astype(np.float64)
    step = np.broadcast_to(weight.scale.astype(np.float64), values.shape)
    assert np.abs(weight.table.astype(int)).max() <= limit
    assert np.all(np.abs(exact - values) <= step * (0.5 + 1e-5))


@given(MATRICES, st.sampled_from([4, 8]))
def test_codes_are_those_of_exact_arithmetic_on_the_float32_scale(values, bits):
    weight = quantized(values, bits=bits, granularity="channel")
    limit = {4: 7, 8: 127}[bits]
    for row, scale, codes in zip(values, weight.scale[:, 0], weight.table, strict=True):
        largest = np.abs(row).max()
        wanted = np.float32(largest) / np.float32(limit)
        assert scale == (wanted if wanted >= 2.0**-126 else 1)
        ratio = row.astype(np.float64) / float(scale)
        away_from_ties = np.abs(ratio - np.floor(ratio) - 0.5) > 1e-5
        np.testing.assert_array_equal(codes[away_from_ties], np.rint(ratio)[away_from_ties])


def test_a_scale_below_normal_numbers_becomes_one_and_the_codes_zero():
    weight = quantized(np.array([[1e-44, -1e-38]], np.float32), bits=4, granularity="channel")
    assert weight.scale.tolist() == [[1.0]]
    assert weight.table.tolist() == [[0, 0]]


def test_hand_worked_channels_and_tensor():
    values = np.array([[0.7, -0.34, 0.0], [0.0, 0.0, 0.0], [14.0, 3.0, -1.0]], np.float32)
    channel = quantized(values, bits=4, granularity="channel")
    np.testing.assert_allclose(channel.scale, [[0.1], [1.0], [2.0]], rtol=1e-6)
    # 3 / 2 and -1 / 2 lie between two codes: half goes to the even one
    assert channel.table.tolist() == [[7, -3, 0], [0, 0, 0], [7, 2, 0]]
    tensor = quantized(values, bits=4, granularity="tensor")
    assert tensor.scale.tolist() == [[2.0]]
    assert tensor.table.tolist() == [[0, 0, 0], [0, 0, 0], [7, 2, 0]]


@pytest.mark.parametrize("granularity", ["channel", "tensor"])
@pytest.mark.parametrize("bits", [4, 8])
def test_module_computes_with_what_is_stored(small, bits, granularity):
    made = model(small, weight_bits=bits, granularity=granularity)
    for name, parameter in made.module.named_parameters():
        stored = store.decode(made.encodings[name])
        np.testing.assert_array_equal(parameter.detach().numpy(), stored)
    original = dict(small.named_parameters())
    for name in ("norm.weight", "norm.bias", "fc1.bias", "positions"):
        assert made.encodings[name].values.tobytes() == original[name].detach().numpy().tobytes()
    assert not np.array_equal(made.module.fc1.weight.detach(), original["fc1.weight"].detach())


def test_compression_leaves_the_given_module_alone(small):
    before = {name: value.detach().clone() for name, value in small.named_parameters()}
    model(small, weight_bits=4)
    assert all((value == before[name]).all() for name, value in small.named_parameters())


def test_activations_become_one_policy_for_each_operand(small):
    made = model(small, activations={"bits": 8, "scale": "dynamic", "per": "row"})
    linear = [f"attn.{p}_proj" for p in ("q", "k", "v", "out")] + ["fc1", "head"]
    assert set(made.policies) == {
        *(OperandPolicy(name, "input", 8, True, "row", "dynamic") for name in linear),
        OperandPolicy("conv", "input", 8, True, "tensor", "dynamic"),
        OperandPolicy("attn", "q", 8, True, "row", "dynamic"),
        OperandPolicy("attn", "k", 8, True, "row", "dynamic"),
        OperandPolicy("attn", "v", 8, True, "tensor", "dynamic"),
        OperandPolicy("attn", "p", 8, False, "tensor", "unit"),
    }
    assert len(made.policies) == len(set(made.policies))
    assert len(made.notes) == 1
    assert "convolutions are scaled per tensor" in made.notes[0]


class Convolutions(nn.Module):
    """Every kind of convolution once."""

    def __init__(self):
        super().__init__()
        self.first = nn.Conv1d(1, 4, 3)
        self.grouped = nn.Conv1d(6, 4, 3, groups=2)
        self.depthwise = nn.Conv1d(4, 4, 3, groups=4)
        self.image = nn.Conv2d(2, 4, 3)
        self.grouped_image = nn.Conv2d(4, 4, 3, groups=2)
        self.depthwise_image = nn.Conv2d(4, 4, 3, groups=4)


def test_convolutions_take_codes_where_a_kernel_multiplies_them():
    made = model(Convolutions(), activations={"per": "row"})
    assert made.policies == tuple(
        OperandPolicy(name, "input", 8, True, "tensor", "dynamic")
        for name in ("first", "grouped", "image")
    )
    assert made.notes[0].startswith("quantize: operands of 3 layers stay fp32 (depthwise, ...)")


def test_scope_limits_weights_and_operands(small):
    made = model(small, scope=["conv", "attention"], activations={"per": "tensor"})
    assert [row.name for row in made.ledger if row.encoding != "dense"] == ["conv.weight"]
    assert {(policy.target, policy.per) for policy in made.policies} == {
        ("conv", "tensor"),
        ("attn", "tensor"),
    }
    assert made.notes == ()
    assert model(small).policies == ()


def test_two_entries_that_decide_the_format_of_a_layer_are_refused_by_their_lines(small, tmp_path):
    file = tmp_path / "r.yaml"
    file.write_text(
        "methods:\n"
        "  - {method: quantize, weight_bits: 4}\n"
        "\n"
        "  - method: quantize\n"
        "    weight_bits: 8\n"
        "    layers: fc1\n"
    )
    with pytest.raises(CosimError) as error:
        compress(small, load_recipe(file), source=str(file))
    (problem,) = error.value.problems
    assert f"{file}: line 4: methods.1 (quantize)" in problem
    assert "line 2: methods.0 (quantize)" in problem
    assert "fc1.weight" in problem


def test_a_layer_left_out_of_one_entry_is_free_for_another(small):
    entries = [
        {"method": "quantize", "weight_bits": 4, "layers": ["*", "!fc1"]},
        {"method": "quantize", "weight_bits": 8, "layers": {"names": "fc1", "kinds": ["linear"]}},
    ]
    made = compress(small, parse_recipe({"methods": entries}, name="r", source="r.yaml"))
    assert store.value_bits(made.encodings["fc1.weight"]) == 8
    assert store.value_bits(made.encodings["conv.weight"]) == 4
