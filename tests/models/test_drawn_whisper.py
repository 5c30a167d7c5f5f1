"""Claims about Whisper without a checkpoint: sizes, the published ids of its prompt, ties."""

from dataclasses import replace

import pytest
import torch

from cosim import config
from cosim.errors import CosimError
from cosim.models import ModelConfig, RandomWeights, Weights, load

SIZES = {"width": 16, "heads": 2, "encoder_layers": 1, "decoder_layers": 1, "hidden": 8, "mels": 4}
SIZES |= {"source_positions": 30, "target_positions": 60}


def drawn(vocabulary, **random):
    weights = Weights(random=RandomWeights(**random))
    return load(ModelConfig("drawn", "whisper", weights, {**SIZES, "vocabulary": vocabulary}))


def test_whisper_base_has_its_published_size():
    """The sum over the layers of openai/whisper-base, 72,593,920 parameters."""
    path = config.configs_root() / "models/whisper_base.yaml"
    stated = config.load(path, ModelConfig)
    shapes = load(replace(stated, weights=Weights(random=RandomWeights(distribution="none"))))
    assert shapes.parameters == 72_593_920
    assert shapes.front.length(16000) == 3000


# generation_config.json and tokenizer.json of openai/whisper-tiny.en, -base and -large-v3.
@pytest.mark.parametrize(
    ("vocabulary", "prompt", "end"),
    [
        (51864, (50257, 50362), 50256),
        (51865, (50258, 50259, 50359, 50363), 50257),
        (51866, (50258, 50259, 50360, 50364), 50257),
    ],
)
def test_prompt_has_the_published_ids_of_its_vocabulary(vocabulary, prompt, end):
    rules = drawn(vocabulary, distribution="none").decoding
    assert rules.prompt == prompt
    assert rules.end == end
    assert rules.first_suppressed == (220, end)
    assert rules.max_steps == 30


def test_drawn_output_layer_is_the_token_embedding_and_has_no_tokens():
    loaded = drawn(51864, seed=3)
    module = loaded.module
    assert module.proj_out.weight is module.decoder.embed_tokens.weight
    assert torch.equal(module.proj_out.weight, drawn(51864, seed=3).module.proj_out.weight)
    assert loaded.is_random
    assert loaded.tokens is None
    assert loaded.source == "random weights, normal, seed 3"


def test_vocabularies_without_published_ids_are_refused():
    with pytest.raises(
        CosimError, match=r"dimensions\.vocabulary: found 40, expected one of 51864"
    ):
        drawn(40)
