"""Claims about tiny Conformers: printed sizes, what sharing aliases, and what layers compute.

Printed sizes are those of Hernandez et al. 2023, tables 1 to 5, in millions, cut and not rounded.
"""

import math

import numpy as np
import pytest
import torch
from own_models import (
    TINY,
    compute,
    config,
    counted_macs,
    drawn,
    executed,
    files,
    interpret,
    lowered,
    macs,
    noise,
    shipped,
    tiny,
)

from cosim.errors import CosimError
from cosim.models import load
from cosim.models.own_folder import aliases
from cosim.models.sharing import share

PRINTED = {
    **dict.fromkeys(("sl0", "sl1", "sl2"), 2.55),
    **dict.fromkeys(("sl3", "sl4", "sl5", "sl6", "lr0"), 4.84),
    **dict.fromkeys(("sc0", "sc1", "sc8", "sc9"), 6.02),
    **dict.fromkeys(("sc2", "sc3", "sc4", "sc7"), 5.01),
    "sc5": 5.17,
    **dict.fromkeys(("lr1", "lrs0", "lrs1", "lrs2", "lrs3"), 5.04),
    "lr2": 4.98,
    "lr3": 5.00,
    "sm0": 4.93,
    "sm3": 4.93,
}
# Rows whose details the paper leaves open: printed, and what our reading gives.
OPEN = {
    "b1": (4.9, 4.90),
    "sm1": (4.99, 4.98),
    "sm2": (5.03, 5.06),
    "sm4": (5.03, 5.03),
    "sc6": (5.35, 4.88),
    "sc10": (5.36, 5.19),
}


def size_m(name: str) -> float:
    """Parameters of the paper's whole network in millions, executed and assumed."""
    loaded = shipped(f"tiny_conformer_{name}")
    return (loaded.parameters + sum(loaded.assumed_parameters.values())) / 1e6


@pytest.mark.parametrize("name", PRINTED)
def test_size_is_printed_to_the_last_digit(name):
    assert math.floor(size_m(name) * 100) / 100 == PRINTED[name]


def test_base_model_has_14_million_parameters_in_16_layers_of_three_quarters():
    assert size_m("b0") == pytest.approx(13.993, abs=5e-4)
    layers = shipped("tiny_conformer_b0").module.encoder.encoders
    assert len(layers) == 16
    # 4 x 144 x 1024 in feed-forward modules, 8 x 144^2 in matrices, 46 x 144 in vectors
    assert sum(p.numel() for p in layers[3].parameters()) == 589_824 + 8 * 144**2 + 46 * 144


@pytest.mark.parametrize("name", OPEN)
def test_size_of_a_row_that_the_paper_leaves_open_is_ours(name):
    printed, ours = OPEN[name]
    assert round(size_m(name), 2) == ours
    assert abs(ours - printed) <= 0.48


def test_every_row_of_the_paper_is_a_file():
    assert {f"tiny_conformer_{name}" for name in (*PRINTED, *OPEN, "b0")} == set(
        files("tiny_conformer_*.yaml")
    )


@pytest.mark.parametrize(
    ("name", "physical", "virtual"),
    [("sl2", 1, 3), ("sl6", 4, 16), ("lr3", 16, 16), ("lrs3", 8, 40), ("sm4", 4, 12)],
)
def test_layers_are_stored_once_and_used_as_often_as_printed(name, physical, virtual):
    module = shipped(f"tiny_conformer_{name}").module
    assert module.dimensions.physical_layers == physical
    assert len(module.encoder.encoders) == module.dimensions.virtual_layers == virtual
    norms = {id(layer.norm_final.weight) for layer in module.encoder.encoders}
    assert len(norms) == physical


def test_equal_indices_are_one_parameter_and_different_ones_are_not():
    sharing = {
        "block": [1, 1, 2],
        "self_attn": [1, 2, 3],
        "self_attn.linear_q.weight": [1, 1, 1],
        "conv_module": [1, 2, 2],
    }
    layers = tiny(sharing=sharing).module.encoder.encoders

    def same(name, first, second):
        one, other = (dict(tensors(layers[i]))[name] for i in (first, second))
        return one is other

    assert same("feed_forward.w_1.weight", 0, 1)
    assert not same("feed_forward.w_1.weight", 0, 2)
    assert not same("self_attn.linear_k.weight", 0, 1)
    assert same("self_attn.linear_q.weight", 0, 1)
    assert same("self_attn.linear_q.weight", 1, 2)
    assert not same("conv_module.norm.running_mean", 0, 1)
    assert same("conv_module.norm.running_mean", 1, 2)
    assert same("conv_module.norm.bias", 1, 2)


def tensors(module):
    return [*module.named_parameters(), *module.named_buffers()]


def test_a_shared_network_computes_what_separate_copies_of_its_parts_compute():
    shared = tiny(sharing={"block": [1, 1, 2], "conv_module": [1, 2, 2]})
    apart = tiny(sharing={"block": [1, 2, 3]})
    assert aliases(shared.module)
    assert not aliases(apart.module)
    apart.module.load_state_dict(shared.module.state_dict())
    given = noise(1, 101, 9)
    assert np.array_equal(compute(shared, given), compute(apart, given))


def test_low_rank_is_a_matrix_that_is_a_product_of_two():
    low, full = tiny(rank=3), tiny()
    state = low.module.state_dict()
    for name in [name for name in state if ".w_1.0." in name or ".w_2.0." in name]:
        first = state.pop(name)
        second = state.pop(name.replace(".0.weight", ".1.weight"))
        state[name.replace(".0.weight", ".weight")] = second @ first
    full.module.load_state_dict(state)
    given = noise(1, 60, 9)
    assert np.allclose(compute(low, given), compute(full, given), atol=1e-5)
    d = TINY
    saved = 2 * (d["width"] * d["hidden"] - 3 * (d["width"] + d["hidden"]))
    assert full.parameters - low.parameters == 2 * saved * len(d["sharing"]["block"])


def test_an_even_filter_sees_one_position_more_behind_than_before():
    convolution = tiny().module.encoder.encoders[0].conv_module.depthwise_conv
    x = torch.from_numpy(noise(1, 8, 11))
    filters = convolution[1].weight[:, 0]
    padded = torch.cat((torch.zeros(8, 1), x[0], torch.zeros(8, 2)), 1)
    wanted = torch.stack([(padded[:, t : t + 4] * filters).sum(1) for t in range(11)], 1)
    assert torch.allclose(convolution(x)[0], wanted, atol=1e-6)


@pytest.fixture(scope="module")
def small():
    return tiny(rank=3, sharing={"block": [1, 1], "conv_module": [1, 2]})


def test_one_capture_means_what_torch_computes_at_every_length(small):
    program, constants = lowered(small)
    for frames in (200, 1000, 1730):
        given = noise(1, frames, 9)
        found = interpret(program, constants, "features", given)
        assert found.shape == (1, ((frames - 1) // 2 - 1) // 2, 5)
        assert np.allclose(found, compute(small, given), atol=2e-4)


def test_kernels_compute_what_torch_computes(small):
    for frames in (200, 1003):
        given = noise(1, frames, 9)
        found = executed(small, given)
        assert np.abs(found - compute(small, given)).max() < 1e-4 * np.abs(found).max()


def test_products_of_the_program_are_those_that_torch_counts(small):
    assert macs(small, frames=203) == counted_macs(small, noise(1, 203, 9)) > 0


def test_a_shared_tensor_is_one_constant_that_every_virtual_layer_reads(small):
    program, _ = lowered(small)
    reads: dict[str, list[str]] = {}
    for op in program.graph("encoder").ops:
        for name in op.inputs:
            if name.startswith("@"):
                reads.setdefault(name, []).append(op.scope)
    prefix, layer = "@encoder.encoders", "encoder.encoders"
    assert reads[f"{prefix}.0.self_attn.linear_q.weight"] == [
        f"{layer}.0.self_attn.linear_q",
        f"{layer}.1.self_attn.linear_q",
    ]
    for i in range(2):  # not shared
        assert reads[f"{prefix}.{i}.conv_module.pointwise_conv1.weight"] == [
            f"{layer}.{i}.conv_module.pointwise_conv1"
        ]
    assert set(reads) == set(program.constants)
    second = [name for name in reads if name.startswith(f"{prefix}.1.")]
    assert second == [name for name in second if ".conv_module." in name]


def test_biases_are_there_when_they_are_asked_for():
    with_biases, without = tiny(has_bias=True), tiny()
    # q, k, v, out, two matrices of two feed-forward modules, three convolutions
    width, hidden = TINY["width"], TINY["hidden"]
    each = 4 * width + 2 * (hidden + width) + 2 * width + width + width
    assert with_biases.parameters - without.parameters == 2 * each


def test_all_that_is_wrong_with_dimensions_is_said_at_once():
    wrong = {
        **TINY,
        "width": 7,
        "blank": 5,
        "sharing": {"block": [1, 2], "self_attn": [1], "conv_module": [0, 3]},
    }
    with pytest.raises(CosimError) as caught:
        load(config("tiny_conformer", wrong))
    text = str(caught.value)
    for words in (
        "sharing.self_attn: found 1 indices, expected 2",
        "sharing.conv_module: found 0, expected an index from 1 to 2",
        "sharing.conv_module: found 3",
        "heads: found 2, expected a divisor of width 7",
        "width: found 7, expected an even number",
        "blank: found 5, expected an id below 5",
    ):
        assert words in text


def test_a_part_that_no_layer_has_is_refused_with_the_nearest_name():
    with pytest.raises(CosimError) as caught:
        tiny(sharing={"block": [1, 2], "self_atn.linear_q": [1, 1], "conv": [1, 1]})
    assert (
        'sharing.self_atn.linear_q: names no part of a layer; did you mean "self_attn.linear_q'
        in (str(caught.value))
    )
    assert "sharing.conv: names no part" in str(caught.value)


def test_sharing_without_an_entry_for_the_block_is_refused():
    with pytest.raises(CosimError, match=r"sharing\.block: missing"):
        tiny(sharing={"self_attn": [1, 1]})


def test_share_keeps_what_the_first_user_of_a_copy_brings():
    blocks = [torch.nn.Linear(2, 2) for _ in range(3)]
    weights = [block.weight for block in blocks]
    share(blocks, {"block": [2, 1, 2], "bias": [1, 2, 3]})
    assert [block.weight for block in blocks] == [weights[0], weights[1], weights[0]]
    assert len({id(block.bias) for block in blocks}) == 3


@pytest.mark.slow
@pytest.mark.parametrize("name", ["b1", "lrs3"])
def test_ten_seconds_at_true_size_are_executed_as_torch_does(name):
    loaded = drawn(f"tiny_conformer_{name}")
    frames = loaded.front.length(160_000)
    given = noise(1, frames, 80)
    wanted = compute(loaded, given)
    assert np.abs(executed(loaded, given) - wanted).max() < 1e-3 * np.abs(wanted).max()
    assert macs(loaded, frames=frames) == counted_macs(loaded, given)
