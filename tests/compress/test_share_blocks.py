"""Claims about shared blocks: one copy is stored, every block computes, and shapes must agree."""

import numpy as np
import pytest
import torch
from small_networks import FAMILIES, deviation, executed, in_torch, lowered, made, network, plain

from cosim.errors import CosimError
from cosim.models import ModelConfig, RandomWeights, Weights, load
from cosim.models.own_folder import aliases
from cosim.schedule import schedule
from kernels import encodings as store

PAIRS = {"method": "share", "groups": 2, "layers": {"blocks": [0, 99]}}
ENCODER = {"method": "share", "groups": [[0, 1]], "layers": "encoder.layers.*"}


def parameters(module):
    return dict(module.named_parameters())


def problems(module, *entries):
    with pytest.raises(CosimError) as caught:
        made(module, *entries)
    return [text.partition("): ")[2] for text in caught.value.problems]  # behind the entry's place


def test_blocks_of_a_group_have_the_values_of_its_first():
    model = made(network("whisper"), ENCODER)
    before, layers = parameters(network("whisper")), model.module.encoder.layers
    assert layers[0].fc1.weight is layers[1].fc1.weight
    assert layers[0] is not layers[1]
    for name, tensor in layers[0].named_parameters():
        assert torch.equal(tensor, before[f"encoder.layers.0.{name}"])
        assert tensor is layers[1].get_parameter(name)
    for name in ("encoder.layer_norm.weight", "decoder.layers.1.fc1.weight"):
        assert torch.equal(model.module.get_parameter(name), before[name])


def test_a_copy_is_stored_once():
    whole, shared = plain("whisper"), made(network("whisper"), ENCODER)
    block = sum(t.numel() for t in network("whisper").encoder.layers[1].parameters())
    assert shared.elements == whole.elements - block
    assert shared.size_bytes == whole.size_bytes - 4 * block
    assert not [name for name in shared.encodings if name.startswith("encoder.layers.1.")]
    assert any(f"{block} parameters fewer" in note for note in shared.notes)
    assert [(row["blocks"], row["parameters_saved"]) for row in shared.report] == [([0, 1], block)]


def test_the_mean_is_that_of_all_blocks_of_the_group():
    model = made(network("tiny_conformer"), {**PAIRS, "groups": [[0, 1, 2]], "values": "mean"})
    before = parameters(network("tiny_conformer"))
    name = "feed_forward.w_1.weight"  # blocks 0 and 1 have one copy already: it counts once
    first, third = (before[f"encoder.encoders.{n}.{name}"] for n in (0, 2))
    found = store.decode(model.encodings[f"encoder.encoders.0.{name}"])
    np.testing.assert_allclose(found, (first + third).numpy() / 2, rtol=1e-6)


def test_sharing_afterwards_aliases_what_a_model_of_shared_layers_does():
    family, dimensions = FAMILIES["tiny_conformer"]

    def drawn(*indices):
        sizes = {**dimensions, "sharing": {"block": list(indices)}}
        return load(ModelConfig("t", family, Weights(random=RandomWeights(seed=1)), sizes)).module

    shared = made(drawn(1, 2, 3, 4, 5), {**PAIRS, "groups": [[0, 3], [4, 1]]}).module
    assert aliases(shared) == aliases(drawn(1, 2, 3, 1, 2))


def test_parts_alone_are_shared_where_they_are_named():
    entry = {**ENCODER, "parts": ["self_attn.q_proj", "fc1.weight"]}
    first, second = made(network("whisper"), entry).module.encoder.layers
    assert first.self_attn.q_proj.weight is second.self_attn.q_proj.weight
    assert first.self_attn.q_proj.bias is second.self_attn.q_proj.bias
    assert first.fc1.weight is second.fc1.weight
    assert first.fc1.bias is not second.fc1.bias
    assert first.self_attn.k_proj.weight is not second.self_attn.k_proj.weight


def test_neighbours_are_counted_among_the_selected_blocks():
    model = made(network("tiny_conformer"), {**PAIRS, "layers": {"blocks": [1, 2]}})
    blocks = model.module.encoder.encoders
    weights = [block.feed_forward.w_1.weight for block in blocks]
    assert weights[1] is weights[2]
    assert weights[0] is weights[1]  # they had one copy before, which is that of block 1
    before = parameters(network("tiny_conformer"))["encoder.encoders.0.feed_forward.w_1.weight"]
    assert torch.equal(weights[2], before)


def test_a_tensor_that_one_block_alone_has_stays_there():
    model = made(network("wavlm"), PAIRS)
    layers = model.module.upstream.encoder.layers
    assert layers[0].attention.q_proj.weight is layers[1].attention.q_proj.weight
    assert not hasattr(layers[1].attention, "rel_attn_embed")
    found = problems(network("wavlm"), {**PAIRS, "parts": ["attention.rel_attn_embed"]})
    assert found == [
        (
            "wavlm.encoder.layers.0 has attention.rel_attn_embed.weight, "
            "wavlm.encoder.layers.1 has not"
        ),
    ]


def test_running_statistics_are_shared_with_the_block():
    model = made(network("conformer"), {**PAIRS, "layers": "encoder.encoders.*"})
    norms = [block.conv_module.norm for block in model.module.encoder.encoders]
    assert norms[0].running_mean is norms[1].running_mean
    assert "encoder.encoders.1.conv_module.norm.running_var" not in model.encodings


def test_every_virtual_block_is_executed_and_charged():
    name = "tiny_conformer"
    whole, shared = plain(name), made(network(name), {**PAIRS, "groups": [[0, 2]]})
    assert deviation(executed(shared, name), in_torch(shared.module, name)) < 1e-5
    programs = lowered(whole), lowered(shared)
    macs = [schedule(each, "encoder", bindings={"frames": 40}).macs for each in programs]
    assert macs[0] == macs[1]
    assert len(programs[1].constants) < len(programs[0].constants)


def test_zeros_made_before_stay_in_the_copy():
    prune = {"method": "prune_magnitude", "rate": 0.5, "layers": "encoder.layers.0.fc1"}
    model = made(network("whisper"), prune, ENCODER)
    found = store.decode(model.encodings["encoder.layers.0.fc1.weight"])
    assert np.count_nonzero(found) == found.size // 2
    second = model.module.encoder.layers[1].fc1.weight
    assert np.array_equal(second.numpy(), found)


def test_unequal_shapes_name_both_blocks():
    cut = {"method": "structured", "remove": "units", "kept": {"encoder.layers.0.fc1": [0, 1, 2]}}
    found = problems(network("whisper"), {**cut, "layers": {"role": "ffn"}}, ENCODER)
    assert found[0] == (
        "fc1.weight: found shapes [3, 16] in encoder.layers.0 and "
        "[24, 16] in encoder.layers.1, expected equal ones"
    )
    assert len(found) == 3  # and the bias, and what reads them


def test_all_mistakes_of_groups_and_parts_are_told():
    found = problems(
        network("whisper"), {**ENCODER, "groups": [[0, 4]]}, {"method": "share", "groups": [[0, 1]]}
    )
    assert found == [
        ("groups: found block 4, expected one of those selected of encoder.layers: 0, 1"),
    ]
    found = problems(network("whisper"), {**ENCODER, "parts": ["self_atn", "fc1"]})
    assert found == [
        (
            "parts: found self_atn, which names nothing in "
            'encoder.layers.0; did you mean "self_attn"?'
        ),
    ]
    with pytest.raises(CosimError, match="found block 1 more than once"):
        made(network("whisper"), {**ENCODER, "groups": [[0, 1], [1, 2]]})
    with pytest.raises(CosimError, match="no block of a stack is selected with another"):
        made(network("whisper"), {**PAIRS, "layers": "encoder.layers.1.*"})
