"""Claims about heads and hidden units: found in every family, and zeroed as if they were not there.

The oracle of a network without a unit is the same network with that unit's columns cleared in torch
in what reads it.
"""

from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from cosim.compress.compressed import compress
from cosim.compress.network import BlockForm, Layer, scan, select
from cosim.compress.prune_magnitude import PruneMagnitudeConfig, prune_magnitude
from cosim.compress.recipe import load_recipe, parse_recipe
from cosim.compress.units import Part, attention_units, ffn_units
from cosim.errors import CosimError
from cosim.models.attention import Heads
from cosim.models.conformer import ConformerLayer
from cosim.models.espnet_attention import distances_of
from cosim.models.factors import LowRank
from cosim.models.sharing import share
from cosim.models.ssl_layers import EncoderLayer, GatedAttention
from cosim.models.wavlm import WavlmDimensions
from cosim.reproduce.shapes import shapes_of
from kernels.encodings import encode_block_sparse

HEADS = {"method": "prune_magnitude", "pattern": "heads"}
RECIPES = sorted((Path(__file__).parents[2] / "configs" / "recipes").glob("prune*.yaml"))
UNITS = {"method": "prune_magnitude", "pattern": "units"}


def made(network, *entries):
    return compress(network, parse_recipe({"methods": list(entries)}, name="r", source="r.yaml"))


def shaken(network):
    generator = torch.Generator().manual_seed(5)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator) * 0.5)
    return network.eval()


def conformer():
    return shaken(ConformerLayer(8, 4, 12, taps=3, is_macaron=True))


def run_conformer(layer):
    x = torch.linspace(-1, 1, 40).reshape(1, 5, 8) ** 3
    with torch.no_grad():
        return layer(x, distances_of(x))


def norms(module, units, norm):
    parameters = dict(module.named_parameters())
    found = []
    for unit in range(units.count):
        parts = [parameters[p.parameter].detach()[p.at(unit)].flatten() for p in units.weights]
        values = torch.cat(parts).double()
        found.append(float(values.abs().mean() if norm == "l1" else values.square().mean().sqrt()))
    return found


# attentions, heads in the first, feed-forwards, units in the first; of shared ones together
FAMILIES = {
    "whisper_tiny_en": (12, 6, 8, 1536),
    "transformer_002_libri_trans": (24, 4, 18, 2048),
    "conformer_macaron": (24, 8, 30, 2048),
    "branchformer_000": (30, 8, 6, 2048),
    "e_branchformer_000": (29, 8, 40, 1024),
    "wav2vec2_base": (12, 12, 12, 3072),
    "hubert_base": (12, 12, 12, 3072),
    "wavlm_base": (12, 12, 12, 3072),
    "hubert_conformer_s": (16, 4, 32, 576),
    "hubert_squeeze_xs": (16, 4, 32, 576),
    "hubert_sparse_dn_s": (16, 4, 16, 1024),
    "tiny_conformer_lr1": (8, 4, 16, 1024),
    "tiny_conformer_sc2": (4, 4, 8, 1024),
}


@pytest.mark.parametrize("name", FAMILIES)
def test_units_of_every_family_are_found_and_fill_their_axes(name):
    module = shapes_of(f"configs/models/{name}.yaml").module
    shapes = {key: tuple(value.shape) for key, value in module.named_parameters()}
    attentions, feed_forwards = attention_units(module), ffn_units(module)
    found = (len(attentions), attentions[0].count, len(feed_forwards), feed_forwards[0].count)
    assert found == FAMILIES[name]
    every = [part for units in (*attentions, *feed_forwards) for part in units.parts]
    assert max(Counter((part.parameter, part.axis) for part in every).values()) == 1
    for units in (*attentions, *feed_forwards):
        assert {part.axis for part in units.weights} == {0, 1}
        for part in units.parts:
            assert shapes[part.parameter][part.axis] == part.size * units.count
    named = {name for units in attentions for name in units.modules}
    assert named == {key for key, each in module.named_modules() if isinstance(each, Heads)}
    names = {id(value): key for key, value in module.named_parameters()}
    linears = {key: each for key, each in module.named_modules() if isinstance(each, nn.Linear)}
    in_units = {part.parameter for part in every}
    left = {
        names[id(each.weight)]
        for key, each in linears.items()
        if Layer(key, "linear").role != "other" and names[id(each.weight)] not in in_units
    }
    # sides of a product on which no unit is, and the gates that all heads of WavLM share
    beside = ("w_1.0.weight", "w_2.1.weight", "gru_rel_pos_linear.weight")
    assert not [weight for weight in left if not weight.endswith(beside)]


@pytest.mark.parametrize("name", FAMILIES)
def test_shipped_recipes_prune_blocks_of_every_family_and_no_output_layer(name):
    module = shapes_of(f"configs/models/{name}.yaml").module
    kinds = {nn.Linear: "linear", nn.Conv1d: "conv", nn.Conv2d: "conv", nn.Embedding: "embedding"}
    layers = [
        Layer(key, "attention" if isinstance(each, Heads) else kinds[type(each)], f"{key}.weight")
        for key, each in module.named_modules()
        if isinstance(each, Heads) or type(each) in kinds
    ]
    in_blocks = {
        layer.name for layer in layers if layer.kind == "linear" and layer.block is not None
    }
    last = ("lm_head", "proj_out", "ctc_lo", "output_layer", "final_proj")
    assert not [key for key in in_blocks if key.endswith(last)]
    entries = [entry for path in RECIPES for entry in load_recipe(path).methods]
    for config in entries:
        if isinstance(config, PruneMagnitudeConfig):
            chosen, problems = select(layers, config.layers, config.kinds)
            assert chosen
            assert not problems
            if config.pattern not in ("heads", "units"):
                assert {layer.name for layer in chosen} <= in_blocks


@pytest.mark.parametrize("scope", ["local", "global"])
@pytest.mark.parametrize("norm", ["l1", "l2"])
def test_output_is_that_of_the_network_whose_out_projection_lacks_the_heads(scope, norm):
    layer = conformer()
    (units,) = attention_units(layer)
    order = np.argsort(norms(layer, units, norm), kind="stable")
    model = made(layer, HEADS | {"rate": 0.5, "scope": scope, "norm": norm})
    (row,) = model.report
    assert (row["layer"], row["zeroed"], row["of"]) == ("self_attn", 2, 4)
    found = run_conformer(model.module)
    for head in order[:2]:
        layer.self_attn.linear_out.weight.data[:, 2 * head : 2 * head + 2] = 0
    wanted = run_conformer(layer)
    assert float((wanted - run_conformer(conformer())).abs().max()) > 0.01
    torch.testing.assert_close(found, wanted, rtol=1e-6, atol=1e-6)


def test_everything_that_belongs_to_a_head_is_zero():
    layer = conformer()
    model = made(layer, HEADS | {"rate": 0.25})
    attention = model.module.self_attn
    (units,) = attention_units(layer)
    head = int(np.argmin(norms(layer, units, "l1")))
    rows = slice(2 * head, 2 * head + 2)
    for name in ("linear_q", "linear_k", "linear_v", "linear_pos"):
        weight = attention.get_submodule(name).weight
        assert not weight[rows].any()
        assert int((weight != 0).any(dim=1).sum()) == 6
    for name in ("linear_q", "linear_k", "linear_v"):
        assert (attention.get_submodule(name).bias == 0).nonzero().flatten().tolist() == [
            2 * head,
            2 * head + 1,
        ]
    assert (attention.pos_bias_u == 0).all(dim=1).tolist() == [unit == head for unit in range(4)]
    assert (attention.pos_bias_v == 0).all(dim=1).tolist() == [unit == head for unit in range(4)]
    assert not attention.linear_out.weight[:, rows].any()
    torch.testing.assert_close(attention.linear_out.bias, layer.self_attn.linear_out.bias)


def test_gated_heads_go_with_their_gates():
    dimensions = WavlmDimensions(
        width=8, heads=4, layers=1, hidden=6, channels=(8,), taps=(2,), strides=(2,), buckets=8,
        furthest=20, position_groups=2,
    )  # fmt: skip
    attention = GatedAttention(dimensions, buckets=8, furthest=20)
    attention.add_table()
    layer = shaken(EncoderLayer(dimensions, attention))
    x = torch.linspace(-1, 1, 40).reshape(1, 5, 8) ** 3
    model = made(layer, HEADS | {"rate": 0.25})
    with torch.no_grad():
        found = model.module(x, model.module.attention.distances(x))
        (units,) = attention_units(layer)
        head = int(np.argmin(norms(layer, units, "l1")))
        layer.attention.out_proj.weight[:, 2 * head : 2 * head + 2] = 0
        wanted = layer(x, layer.attention.distances(x))
    torch.testing.assert_close(found, wanted, rtol=1e-6, atol=1e-6)
    assert not model.module.attention.gru_rel_pos_const[0, head].any()
    assert torch.equal(
        model.module.attention.rel_attn_embed.weight, attention.rel_attn_embed.weight
    )


def test_output_is_that_of_the_network_whose_second_layer_lacks_the_units():
    layer = conformer()
    model = made(layer, UNITS | {"rate": 0.25, "scope": "global"})
    found = run_conformer(model.module)
    macaron, other = ffn_units(layer)
    ranks = sorted(
        (norm, place, unit)
        for place, units in enumerate((macaron, other))
        for unit, norm in enumerate(norms(layer, units, "l1"))
    )
    for _, place, unit in ranks[:6]:  # of 2 x 12
        owner = layer.get_submodule((macaron, other)[place].modules[1])
        owner.weight.data[:, unit] = 0
    torch.testing.assert_close(found, run_conformer(layer), rtol=1e-6, atol=1e-6)
    assert sum(row["zeroed"] for row in model.report) == 6


def test_zeros_of_units_are_whole_blocks_of_their_weights():
    state = scan(conformer())
    for pattern in ("heads", "units"):
        config = PruneMagnitudeConfig("prune_magnitude", pattern=pattern, rate=0.5)
        chosen = tuple(layer for layer in state.layers if layer.kind in config.kinds)
        state = prune_magnitude(state, config, chosen)
    forms = {
        "self_attn.linear_v.weight": BlockForm(2, 8),
        "self_attn.linear_out.weight": BlockForm(8, 2),
        "feed_forward.w_1.weight": BlockForm(1, 8),
        "feed_forward.w_2.weight": BlockForm(8, 1),
    }
    for name, form in forms.items():
        weight = state.weights[name]
        assert weight.form == form
        encoding = encode_block_sparse(weight.values, block=(form.rows, form.columns))
        assert encoding.payload.size == weight.table.size // 2
    assert np.count_nonzero(state.weights["feed_forward.w_1.bias"].table) == 6


def test_units_of_a_product_stand_on_its_inner_sides():
    layer = conformer()
    first = layer.feed_forward.w_1
    down, up = nn.Parameter(torch.ones(3, 8)), nn.Parameter(torch.ones(12, 3))
    layer.feed_forward.w_1 = LowRank(down, up, first.bias)
    units = ffn_units(layer)[0]
    assert units.modules == ("feed_forward.w_1", "feed_forward.w_2")
    assert units.weights == (
        Part("feed_forward.w_1.up.weight", 0),
        Part("feed_forward.w_2.weight", 1),
    )
    assert units.others == (Part("feed_forward.w_1.up.bias", 0),)


def test_blocks_that_share_a_part_lose_the_same_heads():
    pair = nn.ModuleList([conformer(), shaken(ConformerLayer(8, 4, 12, taps=3, is_macaron=True))])
    pair[1].self_attn.linear_out.weight.data *= 3
    share(list(pair), {"block": [1, 2], "self_attn.linear_q": [1, 1]})
    (units,) = attention_units(pair)
    assert units.modules == ("0.self_attn", "1.self_attn")
    assert len(units.weights) == 9  # one of q, two of k, v, pos and out
    model = made(pair, HEADS | {"rate": 0.25})
    gone = [
        (block.self_attn.linear_v.weight.reshape(4, 16) == 0).all(dim=1).nonzero().tolist()
        for block in model.module
    ]
    assert gone[0] == gone[1] == [[int(np.argmin(norms(pair, units, "l1")))]]
    with pytest.raises(CosimError, match=r"found 5 of 9 weights selected.*missing: 1.self_attn"):
        made(pair, HEADS | {"rate": 0.25, "layers": "0.*"})


def test_only_half_of_a_feed_forward_is_refused_and_none_as_well():
    with pytest.raises(CosimError) as caught:
        made(conformer(), UNITS | {"rate": 0.5, "layers": "feed_forward*.w_1"})
    assert len(caught.value.problems) == 2
    assert "of feed_forward.w_1 and feed_forward.w_2, found 1 of 2" in caught.value.problems[0]
    with pytest.raises(CosimError, match="found no feed-forward of two linear layers"):
        made(conformer(), UNITS | {"rate": 0.5, "layers": "self_attn.*"})


def test_a_rate_of_no_whole_head_is_noted():
    model = made(conformer(), HEADS | {"rate": 0.2})
    assert model.notes == (
        "prune_magnitude: nothing zeroed in 1 of 1 layers (self_attn has 4 heads)",
    )


def test_heads_of_weights_in_single_bits_are_refused():
    signs = {"method": "binarize", "layers": "self_attn.linear_v"}
    with pytest.raises(CosimError, match=r"self_attn.linear_v.weight: found signs"):
        made(conformer(), signs, HEADS | {"rate": 0.5})


def test_an_attention_with_projections_of_other_names_is_refused():
    class Strange(Heads):
        def __init__(self) -> None:
            super().__init__(8, 2)
            self.q_proj = nn.Linear(8, 8)
            self.out = nn.Linear(8, 8)

    with pytest.raises(ValueError, match="attn: found the projections q, expected"):
        attention_units(nn.ModuleDict({"attn": Strange()}))
