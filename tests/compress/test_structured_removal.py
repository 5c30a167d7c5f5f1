"""Claims about removed units: what is left computes what the whole does with the units at zero."""

import copy

import numpy as np
import pytest
import torch
from small_networks import (
    NAMES,
    UPSTREAM,
    deviation,
    executed,
    in_torch,
    lowered,
    made,
    network,
    plain,
)
from torch import nn

from cosim.errors import CosimError
from cosim.models import ModelConfig, RandomWeights, Weights, load
from cosim.schedule import schedule
from kernels import encodings as store

EXACT = 1e-6
CODEBOOKS = {"groups": 2, "entries": 3, "width": 4, "projected": 5}
HEADS = {"method": "structured", "remove": "heads", "rate": 0.5}
LISTED = {"method": "structured", "remove": "heads"}
UNITS = {"method": "structured", "remove": "units", "rate": 0.25, "layers": {"role": "ffn"}}
CHANNELS = {"method": "structured", "remove": "channels"}
HIDDEN = {"method": "structured", "remove": "hidden"}
# A network, a convolution, the channels that stay, and who reads them: columns of a channel.
CHAINS = [
    ("whisper", "encoder.conv1", [0, 3, 7], {"encoder.conv2": 1}),
    ("transformer", "encoder.embed.conv.0", [1, 2], {"encoder.embed.conv.2": 1}),
    ("transformer", "encoder.embed.conv.2", [1, 2, 15], {"encoder.embed.out.0": 4}),
    (
        "conformer",
        "encoder.encoders.1.conv_module.pointwise_conv1",
        [0, 5, 6, 14],
        {"encoder.encoders.1.conv_module.pointwise_conv2": 1},
    ),
    (
        "squeezeformer",
        "stack.layers.0.convolution.pointwise_conv1",
        [31, 2],
        {"stack.layers.0.convolution.pointwise_conv2": 1},
    ),
    (
        "tiny_conformer",
        "encoder.encoders.2.conv_module.pointwise_conv1",
        [3, 4],
        {"encoder.encoders.2.conv_module.pointwise_conv2": 1},
    ),
    (
        "wav2vec2",
        "wav2vec2.feature_extractor.conv_layers.0.conv",
        [0, 7],
        {"wav2vec2.feature_extractor.conv_layers.1.conv": 1},
    ),
    (
        "wav2vec2",
        "wav2vec2.feature_extractor.conv_layers.1.conv",
        [0, 1, 2, 11],
        {"wav2vec2.feature_extractor.conv_layers.2.conv": 1},
    ),
]


def problems(module, *entries):
    with pytest.raises(CosimError) as caught:
        made(module, *entries)
    return [text.partition("): ")[2] for text in caught.value.problems]  # behind the entry's place


def pruned(entry):
    """The pruning that zeroes the units which an entry removes."""
    return {**entry, "method": "prune_magnitude", "pattern": entry["remove"]} | {"scope": "local"}


@pytest.mark.parametrize("entry", [HEADS, UNITS], ids=["heads", "units"])
@pytest.mark.parametrize("name", NAMES)
def test_a_network_without_units_computes_what_it_does_with_them_at_zero(name, entry):
    zeroed = {key: value for key, value in pruned(entry).items() if key != "remove"}
    whole, cut = made(network(name), zeroed), made(network(name), entry)
    wanted = in_torch(whole.module, name)
    assert deviation(in_torch(cut.module, name), wanted) < EXACT
    assert deviation(wanted, in_torch(network(name), name)) > 1e-3
    assert cut.elements < whole.elements
    again = made(network(name), zeroed, entry)
    assert deviation(in_torch(again.module, name), wanted) < EXACT


@pytest.mark.parametrize(("name", "layer", "kept", "readers"), CHAINS)
def test_a_channel_removed_is_one_that_nobody_reads(name, layer, kept, readers):
    module = copy.deepcopy(network(name))
    count = 0
    for reader, size in readers.items():
        weight = module.get_submodule(reader).weight
        by_channel = weight.unflatten(1, (-1, size))
        count = by_channel.shape[1]
        by_channel[:, [c for c in range(count) if c not in kept]] = 0.0
    wanted = in_torch(module, name)
    cut = made(network(name), {**CHANNELS, "kept": {layer: kept}})
    assert deviation(in_torch(cut.module, name), wanted) < EXACT
    assert deviation(wanted, in_torch(network(name), name)) > 1e-4
    assert cut.notes == (
        f"structured: {count - len(kept)} of {count} channels removed in 1 places",
    )


@pytest.mark.parametrize(
    "heads", [{"vocabulary": 6}, {"codebooks": CODEBOOKS}], ids=["ctc", "codes"]
)
def test_channels_of_the_last_convolution_leave_a_norm_over_those_that_stay(heads):
    weights = Weights(random=RandomWeights(seed=2))
    module = load(ModelConfig("w", "wav2vec2", weights, {**UPSTREAM, **heads})).module
    layer, kept = "wav2vec2.feature_extractor.conv_layers.2.conv", [0, 2, 3, 9]
    cut = made(module, {**CHANNELS, "kept": {layer: kept}})
    whole = copy.deepcopy(module)
    projection = whole.upstream.feature_projection
    projection.layer_norm = SurvivorsNorm(projection.layer_norm, kept)
    wanted = in_torch(whole, "wav2vec2")
    assert deviation(in_torch(cut.module, "wav2vec2"), wanted) < EXACT
    assert any("statistics over the channels that stay" in note for note in cut.notes)
    if "codebooks" in heads:
        before, after = (each.quantizer.weight_proj.weight for each in (module, cut.module))
        assert torch.equal(after, before[:, kept])


class SurvivorsNorm(nn.Module):
    """A layer norm with statistics over some of its units, and zero for the others."""

    def __init__(self, norm, kept):
        super().__init__()
        self.norm, self.kept = norm, kept

    def forward(self, x):
        part = x[..., self.kept]
        centred = part - part.mean(-1, keepdim=True)
        scaled = centred / (centred.square().mean(-1, keepdim=True) + self.norm.eps).sqrt()
        result = torch.zeros_like(x)
        result[..., self.kept] = scaled * self.norm.weight[self.kept] + self.norm.bias[self.kept]
        return result


def survivors(name, prefix, kept):
    """A network whose norms see the kept units of the width alone, with the others at zero."""
    module = copy.deepcopy(network(name))
    upstream = module.get_submodule(prefix)
    gone = [unit for unit in range(16) if unit not in kept]
    projection = upstream.feature_projection.projection
    projection.weight[gone], projection.bias[gone] = 0.0, 0.0
    for path, norm in list(upstream.encoder.named_modules()):
        if isinstance(norm, nn.LayerNorm):
            owner, _, key = path.rpartition(".")
            setattr(upstream.encoder.get_submodule(owner), key, SurvivorsNorm(norm, kept))
    return module


@pytest.mark.parametrize("name", ["wav2vec2", "hubert"])
def test_hidden_units_removed_leave_norms_over_those_that_stay(name):
    kept = [0, 3, 5, 6, 8, 9, 14, 15]  # two of each group of the positional convolution
    wanted = in_torch(survivors(name, name, kept), name)
    cut = made(network(name), {**HIDDEN, "kept": {f"{name}.encoder": kept}})
    assert deviation(in_torch(cut.module, name), wanted) < EXACT
    assert any("statistics over the hidden units that stay" in note for note in cut.notes)
    convolution = cut.module.upstream.encoder.pos_conv_embed.conv
    assert (convolution.in_channels, convolution.out_channels, convolution.groups) == (8, 8, 4)


def test_hidden_units_go_equally_from_each_group_of_the_positional_convolution():
    cut = made(network("wav2vec2"), {**HIDDEN, "rate": 0.3})
    assert cut.module.lm_head.in_features == 12  # floor(0.3 * 4) from each of 4 groups
    assert cut.encodings["wav2vec2.encoder.pos_conv_embed.conv.weight"].shape == (12, 3, 8)


def test_rates_take_the_units_of_least_norm():
    module = copy.deepcopy(network("whisper"))
    layer = module.encoder.layers[0]
    for unit in (2, 9):
        layer.fc1.weight[unit] *= 1e-3
        layer.fc2.weight[:, unit] *= 1e-3
    layer.self_attn.v_proj.weight[4:8] = 0.0
    layer.self_attn.out_proj.weight[:, 4:8] = 0.0
    units = made(module, {**UNITS, "rate": 0.09})
    found = store.decode(units.encodings["encoder.layers.0.fc1.bias"])
    np.testing.assert_array_equal(found, np.delete(layer.fc1.bias.numpy(), [2, 9]))
    heads = made(module, {**HEADS, "rate": 0.25})
    told = {row["layer"]: row["kept"] for row in heads.report}
    assert told["encoder.layers.0.self_attn"] == [0, 2, 3]
    found = store.decode(heads.encodings["encoder.layers.0.self_attn.q_proj.bias"])
    wanted = np.delete(layer.self_attn.q_proj.bias.numpy(), [4, 5, 6, 7])
    np.testing.assert_array_equal(found, wanted)


def test_layers_keep_the_heads_listed_and_others_stay_whole():
    kept = {"encoder.layers.0.self_attn": [3, 1], "decoder.layers.1.encoder_attn": [2]}
    module = made(network("whisper"), {**LISTED, "kept": kept}).module
    heads = [block.heads for block in module.modules() if hasattr(block, "heads")]
    assert heads == [2, 4, 4, 4, 4, 1]
    before = network("whisper").encoder.layers[0].self_attn.out_proj.weight
    after = module.encoder.layers[0].self_attn.out_proj
    assert torch.equal(after.weight, before[:, [4, 5, 6, 7, 12, 13, 14, 15]])
    assert (after.in_features, after.out_features) == (8, 16)


def test_gated_heads_keep_their_biases_when_removed_twice():
    first = {"wavlm.encoder.layers.1.attention": [0, 2, 3]}
    second = {"wavlm.encoder.layers.1.attention": [1, 2]}
    both = {"wavlm.encoder.layers.1.attention": [2, 3]}
    entry = LISTED
    twice = made(network("wavlm"), {**entry, "kept": first}, {**entry, "kept": second})
    once = made(network("wavlm"), {**entry, "kept": both})
    wanted = in_torch(once.module, "wavlm")
    np.testing.assert_array_equal(in_torch(twice.module, "wavlm"), wanted)


@pytest.mark.parametrize(
    ("name", "entry"),
    [
        ("whisper", {**LISTED, "kept": {"decoder.layers.0.self_attn": [0, 2, 3]}}),
        ("wavlm", {**LISTED, "kept": {"wavlm.encoder.layers.1.attention": [0, 3]}}),
        ("hubert", {**HIDDEN, "rate": 0.5}),
        ("squeezeformer", {**CHANNELS, "rate": 0.5}),
    ],
    ids=["heads of one layer", "gated heads", "width", "channels"],
)
def test_captured_graphs_compute_without_the_units(name, entry):
    cut = made(network(name), entry)
    assert deviation(executed(cut, name), in_torch(cut.module, name)) < 1e-5


def test_macs_and_bytes_fall_by_what_the_units_cost():
    """Peng et al. 2023, equations 10 and 11: 4 T d dh + 2 T^2 dh a head, 2 T d a unit."""

    def macs(model):
        return schedule(lowered(model), "encoder", bindings={"samples": 6400}).macs

    whole = plain("wav2vec2")
    cut = made(network("wav2vec2"), HEADS, UNITS)
    width, head, heads, units, layers, positions = 16, 4, 2, 6, 2, 20
    saved = heads * (4 * positions * width * head + 2 * positions**2 * head)
    assert macs(whole) - macs(cut) == layers * (saved + units * 2 * positions * width)
    fewer = heads * (4 * width * head + 3 * head) + units * (2 * width + 1)
    assert whole.elements - cut.elements == layers * fewer
    assert whole.size_bytes - cut.size_bytes == 4 * layers * fewer


def test_units_go_from_layers_of_low_rank():
    factors = {"method": "low_rank", "rank": 3, "layers": {"role": "ffn", "kinds": ["linear"]}}
    cut = made(network("whisper"), factors, UNITS)
    zeroed = {key: value for key, value in pruned(UNITS).items() if key != "remove"}
    whole = made(network("whisper"), factors, zeroed)
    found, wanted = (in_torch(each.module, "whisper") for each in (cut, whole))
    assert deviation(found, wanted) < EXACT
    assert cut.module.encoder.layers[0].fc1.up.out_features == 18
    assert cut.module.encoder.layers[0].fc2.down.in_features == 18


def test_the_module_given_is_not_changed():
    before = {name: tensor.clone() for name, tensor in network("wavlm").named_parameters()}
    made(network("wavlm"), HEADS, UNITS)
    after = dict(network("wavlm").named_parameters())
    assert before.keys() == after.keys()
    assert all(torch.equal(before[name], after[name]) for name in before)


def test_what_is_not_there_is_told_at_once():
    kept = {"encoder.layers.0.self_atn": [0], "decoder.layers.0.self_attn": [4]}
    found = problems(network("whisper"), {**LISTED, "kept": kept})
    assert found == [
        (
            "kept.encoder.layers.0.self_atn: no such heads; did you "
            'mean "encoder.layers.0.self_attn"?'
        ),
        ("kept.decoder.layers.0.self_attn: found 4, expected different numbers below 4"),
    ]


def test_a_list_that_fits_no_group_convolution_is_refused():
    found = problems(network("wav2vec2"), {**HIDDEN, "kept": {"wav2vec2.encoder": [0, 1, 4, 8]}})
    assert "found [2, 1, 1, 0] units in the 4 groups of 4" in found[0]


def test_a_width_that_is_gated_head_by_head_is_refused():
    assert (
        "gates of attention read the width"
        in problems(network("wavlm"), {**HIDDEN, "rate": 0.5})[0]
    )
    assert (
        "found none in a stack whose width"
        in problems(network("whisper"), {**HIDDEN, "rate": 0.5})[0]
    )


def test_heads_with_a_stored_form_are_refused_by_tensor():
    quantize = {"method": "quantize", "weight_bits": 8, "layers": "encoder.layers.0.*.q_proj"}
    found = problems(network("whisper"), quantize, HEADS)
    assert found == [
        (
            "encoder.layers.0.self_attn.q_proj.weight: an earlier "
            "entry has decided how it is stored; remove units before that"
        ),
    ]


def test_rates_that_remove_nothing_are_refused():
    assert "no heads go" in problems(network("whisper"), {**HEADS, "rate": 0.2})[0]
    for wrong in ({"rate": 0.5, "kept": {"a": [0]}}, {}):
        with pytest.raises(CosimError, match="of rate and kept, expected one"):
            made(network("whisper"), {**CHANNELS, **wrong})
