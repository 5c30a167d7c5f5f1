"""Claims about ESPnet's networks: sizes of the papers' models, and what their parts compute."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from espnet_reference import (
    DECODER,
    NETWORKS,
    STRIDES,
    VOCABULARY,
    Reference,
    dimensions,
    features,
    small,
)
from torch.utils.flop_counter import FlopCounterMode

from cosim.config import load as read
from cosim.errors import CosimError
from cosim.models import (
    AttentionRules,
    CtcRules,
    ModelConfig,
    RandomWeights,
    Weights,
    load,
)

CONFIGS = Path(__file__).parents[2] / "configs" / "models"
NOTHING = Weights(random=RandomWeights(distribution="none"))
# Table I of paper 000 to the parameter, and the networks of its self-supervised systems, which add
# Linear(1024, 80); then table 1 of paper 002.
PARAMETERS = {
    "transformer_000": 99_364_624,
    "conformer_000": 93_297_424,
    "branchformer_000": 116_884_240,
    "e_branchformer_000": 148_923_152,
    "conformer_macaron": 116_228_960 - 1024 * 80 - 80,
}
# MACs of the encoder over 1000 frames, 10 s.
ENCODER_GMACS = {
    "transformer_000": 23.43,
    "conformer_000": 23.10,
    "branchformer_000": 34.96,
    "e_branchformer_000": 42.72,
}


def published(name):
    """Return a model at its true size, without values."""
    return load(replace(read(CONFIGS / f"{name}.yaml", ModelConfig), weights=NOTHING))


def closed_form(blocks, vocabulary, *, d=256, hidden=2048, bands=83):
    """Return the parameters of ESPnet1's Transformer with 6 decoder blocks."""
    attention = 4 * (d * d + d)
    forward = 2 * d * hidden + hidden + d
    encoder = blocks * (attention + forward + 4 * d) + 2 * d
    decoder = 6 * (2 * attention + forward + 6 * d) + 2 * d
    left = ((bands - 1) // 2 - 1) // 2
    convolutions = 9 * d + d + 9 * d * d + d + (left * d * d + d)
    heads = 2 * (vocabulary * d + vocabulary)
    return encoder + decoder + convolutions + vocabulary * d + heads


@pytest.mark.parametrize("name", PARAMETERS)
def test_published_models_have_the_parameters_of_the_paper(name):
    assert published(name).parameters == PARAMETERS[name]


@pytest.mark.parametrize(
    ("name", "blocks", "vocabulary", "millions"),
    [("libri_trans", 12, 1000, 27.92), ("voxforge_it", 18, 35, 35.07)],
)
def test_models_of_paper_002_have_the_closed_form_and_the_printed_size(
    name, blocks, vocabulary, millions
):
    loaded = published(f"transformer_002_{name}")
    assert loaded.parameters == closed_form(blocks, vocabulary)
    assert loaded.parameters // 10_000 == round(millions * 100)  # the paper truncates
    assert (loaded.front.mels, loaded.front.zeros) == (80, 3)
    assert "3 feature dimensions of pitch are zero (assumed)" in loaded.notes


@pytest.mark.parametrize("name", ENCODER_GMACS)
def test_published_encoders_have_the_macs_of_ten_seconds(name):
    loaded = published(name)
    with FlopCounterMode(display=False) as counter:
        loaded.module.encoder(torch.zeros(1, 1000, 80, device="meta"))
    assert round(counter.get_total_flops() / 2e9, 2) == ENCODER_GMACS[name]


@pytest.mark.parametrize("name", NETWORKS)
def test_encoders_compute_the_papers_equations(name):
    loaded = small(name)
    given = features(31)
    found = loaded.module.encoder(given)[0].double()
    wanted = Reference(loaded).encode(given)
    assert found.shape == wanted.shape
    assert float((found - wanted).abs().max()) < 2e-5


@pytest.mark.parametrize("subsampling", STRIDES)
def test_subsampling_keeps_so_many_positions_and_orders_channels_before_bands(subsampling):
    loaded = small("transformer", subsampling=subsampling)
    for positions in (1, 2, 5):
        given = features(loaded.module.encoder.least(positions))
        found = loaded.module.encoder.embed(given)[0].double()
        assert len(found) == positions
        assert torch.allclose(found, Reference(loaded).subsample(given), atol=1e-5)
        shorter = loaded.module.encoder.least(positions) - 1
        if positions > 1:
            assert len(loaded.module.encoder.embed(features(shorter))[0]) == positions - 1


def test_one_position_attends_to_itself_alone():
    for name in NETWORKS:
        loaded = small(name)
        given = features(loaded.module.encoder.least(1))
        found = loaded.module.encoder(given)[0].double()
        assert torch.allclose(found, Reference(loaded).encode(given), atol=2e-5)


def stepped(module, memory, tokens):
    decoder = module.decoder
    caches = [torch.zeros(1, 2, 0, 8)] * (2 * DECODER["layers"])
    cross = decoder.cross(memory)
    rows = []
    for token in tokens:
        logits, *caches = decoder(torch.tensor([[token]]), *caches, *cross)
        rows.append(logits[0])
    return torch.stack(rows)


def test_decoder_step_by_step_is_the_decoder_over_the_whole_text():
    loaded = small("conformer")
    reference = Reference(loaded)
    given = features(31)
    memory = loaded.module.encoder(given)
    tokens = [VOCABULARY - 1, 3, 3, 0, 7, 9]
    found = stepped(loaded.module, memory, tokens).double()
    wanted = reference.logits(tokens, memory[0].double())
    assert float((found - wanted).abs().max()) < 2e-5
    ctc = loaded.module.ctc(memory)[0].double()
    assert torch.allclose(ctc, reference.linear("ctc.ctc_lo", memory[0].double()), atol=1e-5)


def test_equal_seeds_give_equal_networks():
    weights = Weights(random=RandomWeights(seed=9))
    pair = [
        load(ModelConfig("x", "branchformer", weights, dimensions("branchformer"))).module
        for _ in range(2)
    ]
    given = features(40)
    assert torch.equal(pair[0].encoder(given), pair[1].encoder(given))


def test_decoding_joins_attention_and_ctc_where_there_is_a_decoder():
    sizes = {**dimensions("transformer"), "decoding": {"beam": 4, "penalty": 0.5}}
    weights = Weights(random=RandomWeights())
    rules = load(ModelConfig("x", "transformer", weights, sizes)).decoding
    assert rules == AttentionRules(
        start=10, end=10, blank=0, beam=4, ctc_weight=0.3, penalty=0.5, max_tokens=11
    )
    alone = load(ModelConfig("x", "transformer", weights, {**sizes, "decoder": None}))
    assert alone.decoding == CtcRules(blank=0, beam=4)
    assert [spec.name for spec in alone.module.graphs()] == ["encoder"]
    assert alone.is_random


@pytest.mark.parametrize(
    ("family", "encoder", "message"),
    [
        ("transformer", {"width": 15, "heads": 5}, "width: found 15, expected an even number"),
        ("transformer", {"heads": 3}, "heads: found 3, expected a divisor of width 16"),
        ("transformer", {"hiden": 3}, 'encoder.hiden: unknown key; did you mean "hidden"?'),
        ("transformer", {"subsampling": "conv2d8"}, "encoder.subsampling: found"),
        ("conformer", {"taps": 4}, "taps: found 4, expected an odd number"),
        ("branchformer", {"gate_hidden": 7}, "gate_hidden: found 7, expected an even number"),
        ("e_branchformer", {"merge_taps": 2}, "merge_taps: found 2, expected an odd number"),
    ],
)
def test_impossible_sizes_are_refused(family, encoder, message):
    sizes = dimensions(family)
    sizes["encoder"] = {**sizes["encoder"], **encoder}
    if "hiden" in encoder:
        del sizes["encoder"]["hidden"]
    with pytest.raises(CosimError) as caught:
        load(ModelConfig("x", family, NOTHING, sizes))
    assert message in str(caught.value)


def test_heads_of_the_decoder_and_few_bands_are_refused_at_once():
    sizes = {
        **dimensions("conformer"),
        "decoder": {**DECODER, "heads": 3},
        "features": {"mels": 6},
    }
    with pytest.raises(CosimError) as caught:
        load(ModelConfig("x", "conformer", NOTHING, sizes))
    assert caught.value.problems == [
        "model x: dimensions: decoder.heads: found 3, expected a divisor of width 16",
        "model x: dimensions: features: found 6 dimensions, expected at least 7 for conv2d",
    ]
    with pytest.raises(CosimError, match="dimensions: missing, expected because weights are drawn"):
        load(ModelConfig("x", "conformer", NOTHING))
    with pytest.raises(CosimError, match="found hub, expected folder"):
        load(ModelConfig("x", "conformer", Weights(hub="espnet/x"), sizes))
