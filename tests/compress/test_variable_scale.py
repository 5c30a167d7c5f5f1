"""Claims about variable scale pruning: rates by block, exact counts, both sparsities, errors."""

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from cosim.compress.compressed import compress
from cosim.compress.recipe import load_recipe, parse_recipe
from cosim.errors import CosimError
from kernels import encodings as store

ENTRY = {
    "method": "variable_scale",
    "u0": 0.3,
    "v0": 0.25,
    "attention_rate": 0.1,
    "alpha": 0.02,
    "beta": 0.05,
}
RECIPES = sorted(Path(__file__).resolve().parents[2].glob("configs/recipes/variable_scale_*.yaml"))


class Block(nn.Module):
    def __init__(self, *attentions):
        super().__init__()
        for name in attentions:
            self.add_module(name, nn.ModuleDict({"linear_q": nn.Linear(5, 5)}))
        self.feed_forward = nn.ModuleDict({"w_1": nn.Linear(5, 20), "w_2": nn.Linear(20, 5)})


class Stack(nn.Module):
    def __init__(self, blocks, *attentions):
        super().__init__()
        self.out = nn.Linear(5, 5)
        self.layers = nn.ModuleList(Block(*attentions) for _ in range(blocks))


class Network(nn.Module):
    def __init__(self, encoder=3, decoder=2):
        super().__init__()
        self.encoder = Stack(encoder, "self_attn")
        self.decoder = Stack(decoder, "self_attn", "src_attn")


@pytest.fixture
def network():
    torch.manual_seed(0)
    return Network()


def made(module, **changed):
    recipe = parse_recipe({"methods": [{**ENTRY, **changed}]}, name="r", source="r.yaml")
    return compress(module, recipe, source="r.yaml")


def zeros_of(model):
    decoded = {name: store.decode(encoding) for name, encoding in model.encodings.items()}
    return {name: int(np.sum(values == 0)) for name, values in decoded.items()}


def test_each_block_has_its_own_rate_and_attention_one_for_all(network):
    zeros = zeros_of(made(network))
    # 100 weights in each feed-forward matrix: 30, 28, 26 % and 25, 20 % of them
    for block, count in enumerate((30, 28, 26)):
        for matrix in ("w_1", "w_2"):
            assert zeros[f"encoder.layers.{block}.feed_forward.{matrix}.weight"] == count
    for block, count in enumerate((25, 20)):
        for matrix in ("w_1", "w_2"):
            assert zeros[f"decoder.layers.{block}.feed_forward.{matrix}.weight"] == count
    attention = [count for name, count in zeros.items() if "_attn" in name and "weight" in name]
    assert attention == [2] * (3 + 2 * 2)  # 10 % of 25 weights
    others = [name for name in zeros if name.endswith("bias") or ".out." in name]
    assert len(others) > 4
    assert all(zeros[name] == 0 for name in others)


def test_pruned_are_the_smallest_magnitudes_of_the_layer(network):
    before = network.encoder.layers[1].feed_forward["w_1"].weight.detach().numpy()
    after = store.decode(made(network).encodings["encoder.layers.1.feed_forward.w_1.weight"])
    threshold = np.sort(np.abs(before), axis=None)[28]
    np.testing.assert_array_equal(after, np.where(np.abs(before) < threshold, 0, before))


def test_notes_tell_the_papers_sparsity_and_the_true_one(network):
    model = made(network)
    (note,) = model.notes
    # feed-forward 600 weights at a mean of 28 %, 400 at 22.5 %; attention 7 x 2 of 7 x 25
    paper = (600 * 0.28 + 400 * 0.225 + 7 * 2) / 1175
    assert f"sparsity {paper:.2%} of the attention and feed-forward weights" in note
    assert f"{model.sparsity:.2%} of all stored numbers" in note


def test_the_report_has_a_row_for_each_pruned_layer(network):
    rows = {row["layer"]: row for row in made(network).report}
    assert len(rows) == 7 + 2 * 5
    assert rows["decoder.layers.1.feed_forward.w_2"] == {
        "method": "variable_scale",
        "layer": "decoder.layers.1.feed_forward.w_2",
        "rate": 0.2,
        "zeros": 20,
        "weights": 100,
    }


def test_rates_are_decimals_and_not_binary_fractions(network):
    # 0.29 - 0.01 x 2 in floats is 0.27 - 5e-17, which would cut 27 weights of 100 to 26
    zeros = zeros_of(made(network, u0=0.29, alpha=0.01))
    assert zeros["encoder.layers.2.feed_forward.w_1.weight"] == 27


def test_every_block_below_zero_is_told_with_its_entry(network):
    with pytest.raises(CosimError) as caught:
        made(network, u0=0.03, v0=0.01)
    place = "r.yaml: methods.0 (variable_scale)"
    assert caught.value.problems == [
        f"{place}: u0, alpha: encoder block 2: found 0.03 - 2 x 0.02 = -0.01, expected a rate >= 0",
        f"{place}: v0, beta: decoder block 1: found 0.01 - 1 x 0.05 = -0.04, expected a rate >= 0",
    ]


def test_a_rate_of_just_zero_is_allowed(network):
    zeros = zeros_of(made(network, u0=0.04))
    assert zeros["encoder.layers.2.feed_forward.w_1.weight"] == 0


def test_layers_to_prune_are_those_of_blocks(network):
    with pytest.raises(CosimError, match="expected attention or feed-forward layers"):
        made(network, layers="*.out")
    network.encoder.layers[0].feed_forward["w_1"] = nn.Linear(5, 20)
    network.encoder.fc1 = nn.Linear(5, 5)
    with pytest.raises(CosimError, match=r"encoder\.fc1: found no number of a block"):
        made(network)


def test_a_selector_narrows_what_is_pruned(network):
    zeros = zeros_of(made(network, layers={"side": "decoder", "role": "ffn"}))
    pruned = [name for name, count in zeros.items() if count]
    assert len(pruned) == 4
    assert all(name.startswith("decoder.layers") for name in pruned)


def test_a_stack_beside_encoder_and_decoder_follows_the_encoders_rates():
    torch.manual_seed(0)
    zeros = zeros_of(made(nn.ModuleDict({"stack": Stack(2, "attention")})))
    assert zeros["stack.layers.1.feed_forward.w_2.weight"] == 28


def test_a_shared_weight_has_the_rate_of_its_first_layer(network):
    blocks = network.encoder.layers
    blocks[2].feed_forward["w_1"].weight = blocks[0].feed_forward["w_1"].weight
    zeros = zeros_of(made(network))
    assert zeros["encoder.layers.0.feed_forward.w_1.weight"] == 30
    assert "encoder.layers.2.feed_forward.w_1.weight" not in zeros


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.stem)
def test_the_name_of_a_recipe_says_its_rates(path):
    (entry,) = load_recipe(path).methods
    rates = [round(100 * rate) for rate in (entry.u0, entry.v0, entry.attention_rate)]
    assert path.stem == "variable_scale_{}_{}_{}".format(*rates)
    assert len(RECIPES) >= 3
