"""Claims about wav2vec2, HuBERT and WavLM: outputs and sizes are those of transformers."""

from dataclasses import replace

import pytest
import torch
from ssl_reference import (
    LAYER_NORM,
    NAMES,
    PUBLISHED_BASE,
    PUBLISHED_LARGE,
    VARIANTS,
    assert_close,
    counted,
    oracle,
    samples,
)
from transformers.models.wavlm.modeling_wavlm import WavLMAttention

from cosim import config
from cosim.models import ModelConfig, RandomWeights, Weights, load
from cosim.models.marks import relative_buckets

# Model file -> transformers' family, its configuration, and the class of its head.
PUBLISHED = {
    "wav2vec2_base": ("wav2vec2", PUBLISHED_BASE, "ForCTC"),
    "wav2vec2_base_pretraining": ("wav2vec2", PUBLISHED_BASE, "ForPreTraining"),
    "wav2vec2_large": ("wav2vec2", PUBLISHED_LARGE, "ForCTC"),
    "wav2vec2_large_pretraining": (
        "wav2vec2",
        {**PUBLISHED_LARGE, "codevector_dim": 768, "proj_codevector_dim": 768},
        "ForPreTraining",
    ),
    "wav2vec2_large_lv60": ("wav2vec2", {**PUBLISHED_LARGE, **LAYER_NORM}, "ForCTC"),
    "wav2vec2_large_lv60_pretraining": (
        "wav2vec2",
        {**PUBLISHED_LARGE, **LAYER_NORM, "codevector_dim": 768, "proj_codevector_dim": 768},
        "ForPreTraining",
    ),
    "hubert_base": ("hubert", PUBLISHED_BASE, "ForCTC"),
    "hubert_large": ("hubert", {**PUBLISHED_LARGE, **LAYER_NORM}, "ForCTC"),
    "wavlm_base": ("wavlm", PUBLISHED_BASE, "ForCTC"),
    "wavlm_large": ("wavlm", {**PUBLISHED_LARGE, **LAYER_NORM, "conv_bias": False}, "ForCTC"),
}


def shaped(name):
    """Return a shipped model without values: only its shapes."""
    stated = config.load(config.configs_root() / "models" / f"{name}.yaml", ModelConfig)
    return load(replace(stated, weights=Weights(random=RandomWeights(distribution="none"))))


@pytest.mark.parametrize("name", PUBLISHED)
def test_published_sizes_have_the_parameters_of_transformers(name):
    family, sizes, head = PUBLISHED[name]
    assert shaped(name).parameters == counted(family, sizes, head)


def test_a_model_file_of_each_family_is_compared():
    folder = config.configs_root() / "models"
    own = {"hubert_base_pretraining", "hubert_large_pretraining"}  # no class in transformers
    shipped = {path.stem: config.load(path, ModelConfig).family for path in folder.glob("*.yaml")}
    found = {name for name, stated in shipped.items() if stated in NAMES}
    assert found == PUBLISHED.keys() | own


@pytest.mark.parametrize(("name", "width"), [("base", 256), ("large", 768)])
def test_pretrained_hubert_adds_a_projection_and_504_labels(name, width):
    """fairseq's HuBERT holds final_proj and label_embs_concat beside what transformers has."""
    base = PUBLISHED_BASE if name == "base" else {**PUBLISHED_LARGE, **LAYER_NORM}
    upstream = counted("hubert", base, "Model")
    hidden = 768 if name == "base" else 1024
    head = (hidden + 1) * width + 504 * width
    assert shaped(f"hubert_{name}_pretraining").parameters == upstream + head


def test_wav2vec2_base_keeps_4_45_percent_of_its_parameters_in_convolutions():
    network = shaped("wav2vec2_base").module
    convolutions = sum(p.numel() for p in network.upstream.feature_extractor.parameters())
    assert round(100 * convolutions / 94_396_320, 3) == 4.450


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("family", sorted(NAMES))
def test_logits_are_those_of_transformers(tmp_path, family, variant):
    made = oracle(tmp_path, family, **VARIANTS[variant])
    loaded = made.load()
    assert loaded.parameters == sum(p.numel() for p in made.network.parameters())
    for length in (400, 3217):
        with torch.no_grad():
            wanted = made.network(samples(length)).logits
            assert_close(loaded.module(samples(length)), wanted)


@pytest.mark.parametrize("family", sorted(NAMES))
def test_hidden_vectors_and_layer_inputs_are_those_of_transformers(tmp_path, family):
    made = oracle(tmp_path, family, head="Model", **LAYER_NORM)
    loaded = made.load()
    with torch.no_grad():
        wanted = made.network(samples(1600), output_hidden_states=True)
        states = loaded.module.states(samples(1600))
        assert_close(loaded.module(samples(1600)), wanted.last_hidden_state)
    # The last of theirs lacks the norm at the end; that one is their last_hidden_state.
    for state, hidden in zip(states[:-1], wanted.hidden_states[:-1], strict=True):
        assert_close(state, hidden)


def test_pretraining_heads_are_loaded_and_the_output_is_hidden(tmp_path):
    made = oracle(tmp_path, "wav2vec2", head="ForPreTraining", codevector_dim=32)
    loaded = made.load()
    assert loaded.parameters == sum(p.numel() for p in made.network.parameters())
    own = dict(loaded.module.named_parameters())
    for name in ("quantizer.codevectors", "quantizer.weight_proj.bias", "project_hid.weight"):
        assert torch.equal(own[name], made.network.get_parameter(name))
    with torch.no_grad():
        assert_close(
            loaded.module(samples(900)), made.network.wav2vec2(samples(900)).last_hidden_state
        )
    assert [graph.outputs for graph in loaded.module.graphs()] == [("hidden",)]


@pytest.mark.parametrize("length", [1, 2, 499, 1201])
def test_buckets_of_distances_are_those_of_wavlm(length):
    attention = WavLMAttention(32, 2, num_buckets=320, max_distance=800)
    distances = torch.arange(1 - length, length)
    wanted = attention._relative_positions_bucket(distances)
    assert torch.equal(relative_buckets(torch.zeros(1, length, 1), 320, 800), wanted)


def test_positions_follow_from_samples_as_in_transformers(tmp_path):
    made = oracle(tmp_path, "wav2vec2")
    dimensions = made.load().module.dimensions
    for count in (10, 49, 50, 400, 16000):
        frames = made.network._get_feat_extract_output_lengths(count)
        assert dimensions.positions(count) == max(0, int(frames))
    for positions in (1, 2, 20):
        fewest = dimensions.samples(positions)
        assert dimensions.positions(fewest) == positions
        assert dimensions.positions(fewest - 1) == positions - 1


def test_equal_seeds_draw_equal_weights():
    stated = config.load(config.configs_root() / "models/wavlm_base.yaml", ModelConfig)
    small = {"width": 32, "heads": 4, "layers": 1, "hidden": 8, "position_taps": 8}
    small |= {"channels": [8, 8], "taps": [10, 3], "strides": [5, 2], "vocabulary": 5}
    drawn = [
        load(replace(stated, dimensions=small, weights=Weights(random=RandomWeights(seed=seed))))
        for seed in (0, 0, 1)
    ]
    first, again, other = (dict(loaded.module.named_parameters()) for loaded in drawn)
    name = "wavlm.encoder.pos_conv_embed.conv.weight"
    assert torch.equal(first[name], again[name])
    assert not torch.equal(first[name], other[name])
    assert drawn[0].source == "random weights, normal, seed 0"
    assert drawn[0].is_random
    assert drawn[0].tokens is None
