import json

import pytest
import torch
from safetensors.torch import save_file
from whisper_files import write_tokenizer

from cosim.models.whisper import Whisper, WhisperDimensions

TINY = WhisperDimensions(
    width=16,
    heads=2,
    encoder_layers=1,
    decoder_layers=2,
    hidden=24,
    mels=4,
    vocabulary=32,
    source_positions=30,
    target_positions=60,
)


@pytest.fixture
def dimensions():
    return TINY


@pytest.fixture(scope="session")
def network():
    """A tiny Whisper with random weights, the same in every test."""
    generator = torch.Generator().manual_seed(1)
    module = Whisper(TINY).eval().requires_grad_(requires_grad=False)
    for parameter in module.parameters():
        parameter.copy_(torch.randn(parameter.shape, generator=generator) * 0.3)
    return module


@pytest.fixture
def checkpoint(tmp_path, network):
    """A folder as Hugging Face writes it: names with `model.`, proj_out tied, stored in fp16."""
    folder = tmp_path / "checkpoint"
    folder.mkdir()
    tensors = {
        f"model.{name}": tensor.to(torch.float16) for name, tensor in network.named_parameters()
    }
    save_file(tensors, folder / "model.safetensors")
    config = {
        "model_type": "whisper",
        "d_model": TINY.width,
        "encoder_attention_heads": TINY.heads,
        "decoder_attention_heads": TINY.heads,
        "encoder_layers": TINY.encoder_layers,
        "decoder_layers": TINY.decoder_layers,
        "encoder_ffn_dim": TINY.hidden,
        "decoder_ffn_dim": TINY.hidden,
        "num_mel_bins": TINY.mels,
        "vocab_size": TINY.vocabulary,
        "max_source_positions": TINY.source_positions,
        "max_target_positions": TINY.target_positions,
    }
    (folder / "config.json").write_text(json.dumps(config))
    write_tokenizer(folder / "tokenizer.json")
    return folder
