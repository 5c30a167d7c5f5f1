"""Claims about ESPnet experiment folders: what they state, and that saving keeps it."""

from dataclasses import replace

import numpy as np
import pytest
import torch
import yaml
from espnet_files import ENCODERS, OURS, TOKENS, config, edit, problems, rewrite, statistics, write
from espnet_reference import BANDS, DECODER, NETWORKS, dimensions, features, small

from cosim.errors import CosimError
from cosim.models import (
    AttentionRules,
    CtcRules,
    FrontEnd,
    ModelConfig,
    RandomWeights,
    Weights,
    load,
)
from cosim.models.espnet_save import save_espnet
from cosim.models.own_folder import weights_hash


@pytest.fixture(autouse=True)
def _own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


@pytest.fixture
def folder(tmp_path):
    return write(tmp_path, "conformer")


@pytest.mark.parametrize("family", ENCODERS)
def test_folder_gives_sizes_weights_statistics_tokens_and_rules(tmp_path, family):
    folder = write(tmp_path, family)
    loaded = load(config(folder, family))
    theirs = small(OURS[family])
    assert weights_hash(loaded.module) == weights_hash(theirs.module)
    assert loaded.module.dimensions.encoder == theirs.module.dimensions.encoder
    given = features(40)
    assert torch.equal(loaded.module.encoder(given), theirs.module.encoder(given))
    frames, _ = statistics()
    front = loaded.front
    assert (front.kind, front.mels, front.hop, front.fft) == ("espnet_log_mel", BANDS, 160, 512)
    normal = (frames - np.array(front.mean)) * np.array(front.scale)
    np.testing.assert_allclose(normal.mean(0), 0, atol=1e-9)
    np.testing.assert_allclose(normal.std(0), 1, rtol=1e-9)
    assert loaded.decoding == AttentionRules(
        start=10, end=10, blank=0, beam=10, ctc_weight=0.3, max_tokens=1023
    )
    assert loaded.tokens.kind == "pieces"
    assert loaded.tokens.file.read_text().splitlines() == TOKENS
    assert loaded.source == f"folder {folder}"
    assert not loaded.is_random


@pytest.mark.parametrize("name", NETWORKS)
@pytest.mark.parametrize("has_decoder", [True, False])
def test_saved_folder_loads_to_the_same_weights_sizes_and_rules(tmp_path, name, has_decoder):
    loaded = small(name, has_decoder=has_decoder)
    mean, scale = (tuple(np.linspace(start, 2, BANDS)) for start in (-3, 0.1))
    loaded = replace(loaded, front=replace(loaded.front, mean=mean, scale=scale))
    save_espnet(loaded, tmp_path)
    sizes = {"decoder": {"positions": DECODER["positions"]}} if has_decoder else None
    again = load(config(tmp_path, NETWORKS[name][0], dimensions=sizes))
    assert weights_hash(again.module) == weights_hash(loaded.module)
    assert again.module.dimensions == loaded.module.dimensions
    assert again.decoding == loaded.decoding
    np.testing.assert_allclose(again.front.mean, mean, rtol=1e-6)
    np.testing.assert_allclose(again.front.scale, scale, rtol=1e-6)
    assert again.tokens is None
    assert again.notes == ("no token is text: nothing can be transcribed",)
    twice = tmp_path / "twice"
    save_espnet(again, twice)
    assert load(config(twice, NETWORKS[name][0], dimensions=sizes)).front == again.front


def test_tokens_and_features_made_elsewhere_survive_saving(tmp_path, folder):
    with_text = load(config(folder))
    save_espnet(with_text, tmp_path / "text")
    assert load(config(tmp_path / "text")).tokens == with_text.tokens
    sizes = {
        **dimensions("transformer"),
        "features": {"kind": "kaldi_fbank", "mels": 80, "zeros": 3},
    }
    pitch = load(ModelConfig("x", "transformer", Weights(random=RandomWeights()), sizes))
    place = tmp_path / "pitch"
    save_espnet(pitch, place)
    (line,) = problems(place, "transformer")
    assert "dimensions.features: missing, expected because config.yaml" in line
    again = load(config(place, "transformer", dimensions={"features": sizes["features"]}))
    assert again.front == pitch.front == FrontEnd("kaldi_fbank", mels=80, zeros=3, hop=128)
    assert weights_hash(again.module) == weights_hash(pitch.module)
    (line,) = problems(place, "transformer", dimensions={"features": {"mels": 80}})
    assert "found 80 dimensions, but config.yaml has input_size 83" in line


def test_saving_refuses_full_folders_other_networks_and_missing_values(tmp_path, folder):
    loaded = load(config(folder))
    with pytest.raises(CosimError, match=r"found config\.yaml, valid\.acc\.ave\.pth, expected an"):
        save_espnet(loaded, folder)
    with pytest.raises(CosimError, match="found Linear, expected a network of transformer"):
        save_espnet(replace(loaded, module=torch.nn.Linear(2, 2)), tmp_path / "other")
    nothing = Weights(random=RandomWeights(distribution="none"))
    empty = load(ModelConfig("x", "transformer", nothing, dimensions("transformer")))
    with pytest.raises(CosimError, match="found none, expected weights"):
        save_espnet(empty, tmp_path / "other")
    assert not (tmp_path / "other").exists()


def test_statistics_come_from_the_state_dict_first_and_must_agree_with_the_file(folder, tmp_path):
    frames, _ = statistics()
    mean = torch.from_numpy(frames.mean(0)).float()
    std = torch.from_numpy(frames.std(0)).float()

    def agreeing(state):
        state["normalize.mean"], state["normalize.std"] = mean, std

    def other(state):
        state["normalize.mean"] = mean + 0.01

    rewrite(folder, agreeing)
    assert load(config(folder)).front.mean == tuple(mean.double().tolist())
    file = tmp_path / "exp/asr_stats/train/feats_stats.npz"
    moved = folder / "feats_stats.npz"
    file.rename(moved)
    load(config(folder))
    rewrite(folder, other)
    assert "found other statistics than normalize.mean" in problems(folder)[0]
    moved.unlink()
    load(config(folder))
    rewrite(folder, lambda state: state.pop("normalize.std"))
    (line,) = problems(folder)
    assert line.startswith(
        "config.yaml: normalize_conf.stats_file: exp/asr_stats/train/feats_stats.npz: no such file"
    )


def test_kaldi_statistics_means_alone_and_no_normalisation(folder, tmp_path):
    frames, _ = statistics()
    table = np.zeros((2, BANDS + 1))
    table[0, :-1], table[1, :-1], table[0, -1] = frames.sum(0), (frames**2).sum(0), len(frames)
    np.save(tmp_path / "cmvn.npy", table)
    edit(folder, normalize_conf={"stats_file": str(tmp_path / "cmvn.npy"), "norm_vars": False})
    front = load(config(folder)).front
    np.testing.assert_allclose(front.mean, frames.mean(0), rtol=1e-12)
    assert front.scale == (1.0,) * BANDS
    np.save(tmp_path / "cmvn.npy", table[:, 2:])
    assert "statistics of 18 bands, expected 20" in problems(folder)[0]
    (tmp_path / "cmvn.npy").write_bytes(b"nothing")
    assert "cannot be read as feature statistics" in problems(folder)[0]
    edit(folder, normalize=None)
    assert (load(config(folder)).front.mean, load(config(folder)).front.scale) == ((), ())


def test_legacy_positions_are_what_a_silent_config_means(folder):
    path = folder / "config.yaml"
    data = yaml.safe_load(path.read_text())
    del data["encoder_conf"]["rel_pos_type"]
    path.write_text(yaml.safe_dump(data))
    assert load(config(folder)).module.dimensions.encoder.is_legacy
    edit(folder, encoder_conf={"rel_pos_type": "latest"})
    assert not load(config(folder)).module.dimensions.encoder.is_legacy


def test_model_trained_with_ctc_alone_has_no_decoder(folder):
    edit(folder, model_conf={"ctc_weight": 1.0})

    def without(state):
        for name in [key for key in state if key.startswith("decoder.")]:
            del state[name]

    rewrite(folder, without)
    loaded = load(config(folder))
    assert loaded.decoding == CtcRules(blank=0, beam=10)
    assert loaded.module.decoder is None
