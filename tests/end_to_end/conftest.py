"""A whole experiment in small: a random Whisper checkpoint, noise as speech, a shipped chip."""

import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
import yaml
from click.testing import CliRunner
from safetensors.torch import save_file
from tokenizers import Tokenizer
from tokenizers.models import WordLevel

from cosim.cli import main
from cosim.models.whisper import Whisper, WhisperDimensions

SMALL = WhisperDimensions(
    width=16,
    heads=2,
    encoder_layers=1,
    decoder_layers=1,
    hidden=32,
    mels=80,
    vocabulary=32,
    source_positions=1500,
    target_positions=240,
)
SPECIAL = (
    "<|endoftext|>",
    "<|startoftranscript|>",
    "<|en|>",
    "<|transcribe|>",
    "<|notimestamps|>",
)


def write_checkpoint(folder):
    folder.mkdir(parents=True)
    generator = torch.Generator().manual_seed(7)
    network = Whisper(SMALL).eval().requires_grad_(requires_grad=False)
    for name, parameter in network.named_parameters():
        spread = 0.05 if "embed_tokens" in name else 0.3
        parameter.copy_(torch.randn(parameter.shape, generator=generator) * spread)
    # a pull towards the end token, so that decoding stops
    network.decoder.layer_norm.bias.copy_(30 * network.decoder.embed_tokens.weight[20])
    tensors = {f"model.{name}": tensor.clone() for name, tensor in network.named_parameters()}
    save_file(tensors, folder / "model.safetensors")
    keys = {
        "d_model": SMALL.width,
        "encoder_attention_heads": SMALL.heads,
        "decoder_attention_heads": SMALL.heads,
        "encoder_layers": SMALL.encoder_layers,
        "decoder_layers": SMALL.decoder_layers,
        "encoder_ffn_dim": SMALL.hidden,
        "decoder_ffn_dim": SMALL.hidden,
        "num_mel_bins": SMALL.mels,
        "vocab_size": SMALL.vocabulary,
        "max_source_positions": SMALL.source_positions,
        "max_target_positions": SMALL.target_positions,
    }
    (folder / "config.json").write_text(json.dumps({"model_type": "whisper", **keys}))
    words = {f"w{chr(97 + index)}": index for index in range(19)} | {"Ġ": 19}
    tokenizer = Tokenizer(WordLevel(words, unk_token="wa"))  # noqa: S106, a word and no secret
    tokenizer.save(str(folder / "tokenizer.json"))
    document = json.loads((folder / "tokenizer.json").read_text())
    document["added_tokens"] = [
        {
            "id": 20 + index,
            "content": text,
            "single_word": False,
            "lstrip": False,
            "rstrip": False,
            "normalized": False,
            "special": True,
        }
        for index, text in enumerate(SPECIAL)
    ]
    document["model"]["vocab"] |= {text: 20 + index for index, text in enumerate(SPECIAL)}
    (folder / "tokenizer.json").write_text(json.dumps(document))
    return folder


@dataclass(frozen=True)
class Workspace:
    """Files of one small experiment."""

    root: Path
    experiment: Path
    model: Path
    manifest: Path

    def invoke(self, *arguments):
        return CliRunner().invoke(main, [str(item) for item in arguments])

    def write(self, name, document):
        path = self.root / name
        path.write_text(yaml.safe_dump(document))
        return path

    def document(self):
        return yaml.safe_load(self.experiment.read_text())


def make_workspace(root):
    checkpoint = write_checkpoint(root / "checkpoint")
    generator = np.random.default_rng(3)
    rows = []
    for index, word in enumerate(("wb wc", "wd", "we wf wg")):
        name = f"noise{index}.wav"
        samples = generator.normal(0, 0.1, 16000 + 4000 * index)
        soundfile.write(root / name, samples.astype(np.float32), 16000)
        rows.append({"id": f"u{index}", "audio": name, "text": word, "duration": 1.0})
    manifest = root / "speech.jsonl"
    manifest.write_text("".join(json.dumps(row) + "\n" for row in rows))
    model = root / "model.yaml"
    model.write_text(
        yaml.safe_dump(
            {"name": "small", "family": "whisper", "weights": {"folder": str(checkpoint)}}
        )
    )
    experiment = root / "experiment.yaml"
    experiment.write_text(
        yaml.safe_dump(
            {
                "name": "small",
                "model": str(model),
                "recipe": "configs/recipes/w8a8.yaml",
                "speech": {"manifest": str(manifest)},
                "hardware": "configs/hardware/stacked_edge_32.yaml",
                "energy": "configs/energy/aladdin_cacti_28nm.yaml",
            }
        )
    )
    return Workspace(root, experiment, model, manifest)


@pytest.fixture(scope="module")
def shared_workspace(tmp_path_factory):
    """A workspace for tests that only read it, or write beside it."""
    root = tmp_path_factory.mktemp("shared")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(root / "cache"))
        patch.chdir(root)
        (root / "work").mkdir()
        yield make_workspace(root / "work")


@pytest.fixture
def workspace(tmp_path, monkeypatch):
    """A fresh copy: tests may change every file."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)
    (tmp_path / "work").mkdir()
    return make_workspace(tmp_path / "work")
