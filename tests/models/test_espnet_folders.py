"""Claims about ESPnet experiment folders: what they state, and every fault told at once."""

import os
import pickle
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from espnet_reference import BANDS, DECODER, NETWORKS, WIDTH, dimensions, features, small

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

TOKENS = ["<blank>", "<unk>", "▁A", "B", "'", "▁THE", "ING", "▁", "S", "NO", "<sos/eos>"]
# As espnet2/bin/asr_train.py writes them, with settings of training among them.
ENCODERS = {
    "transformer": {"linear_units": 24, "pos_enc_layer_type": "abs_pos"},
    "conformer": {
        "linear_units": 24,
        "cnn_module_kernel": 7,
        "macaron_style": True,
        "rel_pos_type": "latest",
        "pos_enc_layer_type": "rel_pos",
        "selfattention_layer_type": "rel_selfattn",
        "activation_type": "swish",
        "use_cnn_module": True,
    },
    "branchformer": {"cgmlp_linear_units": 24, "cgmlp_conv_kernel": 5, "merge_method": "concat"},
    "e_branchformer": {
        "cgmlp_linear_units": 24,
        "cgmlp_conv_kernel": 5,
        "linear_units": 24,
        "merge_conv_kernel": 3,
        "macaron_ffn": True,
        "use_ffn": True,
    },
}
OURS = {name: name for name in ENCODERS} | {"conformer": "conformer, macaron"}


@pytest.fixture(autouse=True)
def _own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


def statistics():
    rng = np.random.default_rng(2)
    frames = rng.normal(-5, 3, (50, BANDS))
    return frames, {"count": 50, "sum": frames.sum(0), "sum_square": (frames**2).sum(0)}


def write(folder, family):
    """Write a folder as ESPnet does: the statistics stand where the recipe keeps them."""
    experiment = folder / "exp" / "asr_train"
    experiment.mkdir(parents=True)
    config = {
        "config": "conf/train.yaml",
        "accum_grad": 2,
        "input_size": None,
        "frontend": "default",
        "frontend_conf": {"n_fft": 512, "hop_length": 160, "n_mels": BANDS, "fs": "16k"},
        "specaug": "specaug",
        "normalize": "global_mvn",
        "normalize_conf": {"stats_file": "exp/asr_stats/train/feats_stats.npz"},
        "preencoder": None,
        "encoder": family,
        "encoder_conf": {
            "output_size": WIDTH,
            "attention_heads": 2,
            "num_blocks": 2,
            "dropout_rate": 0.1,
            "input_layer": "conv2d",
            **ENCODERS[family],
        },
        "postencoder": None,
        "decoder": "transformer",
        "decoder_conf": {
            "attention_heads": 2,
            "linear_units": 24,
            "num_blocks": 2,
            "src_attention_dropout_rate": 0.1,
        },
        "model_conf": {"ctc_weight": 0.3, "lsm_weight": 0.1},
        "token_type": "bpe",
        "bpemodel": "data/bpe.model",
        "token_list": TOKENS,
    }
    (experiment / "config.yaml").write_text(yaml.safe_dump(config, allow_unicode=True))
    place = folder / "exp" / "asr_stats" / "train"
    place.mkdir(parents=True)
    np.savez(place / "feats_stats.npz", **statistics()[1])
    network = small(OURS[family]).module
    state = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    for name in [key for key in state if key.endswith("running_mean")]:
        state[name.replace("running_mean", "num_batches_tracked")] = torch.tensor(7)
    state["frontend.logmel.melmat"] = torch.zeros(257, BANDS)
    state["decoder.embed.1.pe"] = torch.zeros(1, 5000, WIDTH)
    torch.save(state, experiment / "valid.acc.ave.pth")
    return experiment


@pytest.fixture
def folder(tmp_path):
    return write(tmp_path, "conformer")


def config(folder, family="conformer", **changes):
    return ModelConfig("tiny", family, Weights(folder=str(folder)), **changes)


def refused(folder, family="conformer", **changes):
    with pytest.raises(CosimError) as caught:
        load(config(folder, family, **changes))
    return caught.value.problems


def problems(folder, family="conformer", **changes):
    lines = refused(folder, family, **changes)
    return [line.replace(f"{folder}{os.sep}", "") for line in lines]


def edit(folder, **changes):
    """Change keys of config.yaml; a mapping changes keys inside a section."""
    path = folder / "config.yaml"
    data = yaml.safe_load(path.read_text())
    for name, value in changes.items():
        data[name] = {**data[name], **value} if isinstance(value, dict) else value
    path.write_text(yaml.safe_dump(data, allow_unicode=True))


def rewrite(folder, change):
    path = folder / "valid.acc.ave.pth"
    state = torch.load(path, weights_only=True)
    change(state)
    torch.save(state, path)


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


def test_missing_extra_misshaped_and_wrong_typed_tensors_are_listed_at_once(folder):
    layer = "encoder.encoders.1"

    def damage(state):
        state[f"{layer}.feed_forward.w_3.weight"] = state.pop(f"{layer}.feed_forward.w_2.weight")
        state[f"{layer}.self_attn.pos_bias_u"] = torch.zeros(16)
        state["ctc.ctc_lo.bias"] = torch.zeros(11, dtype=torch.int32)
        state["decoder.after_norm.bias"] = torch.full((WIDTH,), torch.nan)

    rewrite(folder, damage)
    found = [line.removeprefix(f"{folder}: ") for line in problems(folder)]
    assert sorted(found) == [
        "ctc.ctc_lo.bias: found torch.int32, expected floating point",
        "decoder.after_norm.bias: found values that are not finite",
        f"{layer}.feed_forward.w_2.weight: missing, expected shape [16, 24]",
        (
            f"{layer}.feed_forward.w_3.weight: not a tensor of this network; did you mean "
            f'"{layer}.feed_forward.w_2.weight"?'
        ),
        f"{layer}.self_attn.pos_bias_u: found shape [16], expected [2, 8]",
    ]


def test_mel_filters_of_another_front_end_are_refused(folder):
    edit(folder, frontend_conf={"n_fft": 400})
    (line,) = problems(folder)
    assert "frontend.logmel.melmat: found shape [257, 20], expected [201, 20]" in line


def test_config_that_contradicts_the_tensors_is_told_by_the_tensors(folder):
    edit(folder, encoder_conf={"num_blocks": 3, "linear_units": 25})
    found = problems(folder)
    assert any("encoders.2.norm_mha.weight: missing" in line for line in found)
    assert any("w_1.weight: found shape [24, 16], expected [25, 16]" in line for line in found)


def test_settings_that_the_network_has_not_are_listed_at_once(folder):
    edit(
        folder,
        frontend="s3prl",
        preencoder="linear",
        normalize="utterance_mvn",
        token_type="word",  # noqa: S106 (not a password)
        encoder_conf={"activation_type": "relu", "rel_pos_type": "newest", "macaron": True},
        decoder_conf={"normalize_before": False},
        frontend_conf={"htk": True, "win_lenght": 400},
    )
    assert problems(folder) == [
        "config.yaml: frontend: found 's3prl', expected 'default' or None",
        "config.yaml: preencoder: found 'linear', expected None",
        "config.yaml: normalize: found 'utterance_mvn', expected 'global_mvn' or None",
        "config.yaml: token_type: found 'word', expected 'bpe' or 'char'",
        "config.yaml: encoder_conf.rel_pos_type: found 'newest', expected 'latest' or 'legacy'",
        (
            "config.yaml: encoder_conf.activation_type: found 'relu', expected 'swish': this "
            "network has no other"
        ),
        (
            "config.yaml: encoder_conf.macaron: not an option of this network; did you mean "
            '"macaron_style"?'
        ),
        (
            "config.yaml: decoder_conf.normalize_before: found False, expected True: this network "
            "has no other"
        ),
        "config.yaml: frontend_conf.htk: found True, expected False: this network has no other",
        (
            "config.yaml: frontend_conf.win_lenght: not an option of this network; did you mean "
            '"win_length"?'
        ),
    ]


def test_encoder_of_another_family_names_it_and_an_unknown_one_does_not(folder):
    (line,) = problems(folder, "transformer")
    assert line == (
        "config.yaml: encoder: found 'conformer', expected 'transformer'; set family: conformer"
    )
    edit(folder, encoder="rnn", decoder="rnn")
    assert problems(folder) == [
        "config.yaml: encoder: found 'rnn', expected 'conformer'",
        (
            "config.yaml: decoder: found 'rnn', expected 'transformer', or model_conf.ctc_weight "
            "1.0 for none"
        ),
    ]


def test_values_of_config_are_checked_where_they_stand(folder):
    edit(folder, encoder_conf={"output_size": "16", "cnn_module_kernel": 4, "attention_heads": 0})
    assert problems(folder) == [
        'config.yaml: encoder.width: found "16", expected an integer >= 2',
        "config.yaml: encoder.heads: found 0, expected an integer >= 1",
    ]
    (folder / "config.yaml").write_text("- 1")
    assert problems(folder) == ["config.yaml: found list, expected a mapping"]
    (folder / "config.yaml").write_text("a: [")
    assert "cannot be read as YAML" in problems(folder)[0]


def test_legacy_positions_are_what_a_silent_config_means(folder):
    path = folder / "config.yaml"
    data = yaml.safe_load(path.read_text())
    del data["encoder_conf"]["rel_pos_type"]
    path.write_text(yaml.safe_dump(data))
    assert load(config(folder)).module.dimensions.encoder.is_legacy
    edit(folder, encoder_conf={"rel_pos_type": "latest"})
    assert not load(config(folder)).module.dimensions.encoder.is_legacy


def test_without_feed_forward_layers_an_e_branchformer_is_refused(tmp_path):
    folder = write(tmp_path, "e_branchformer")
    path = folder / "config.yaml"
    data = yaml.safe_load(path.read_text())
    del data["encoder_conf"]["use_ffn"]  # false is ESPnet's default
    path.write_text(yaml.safe_dump(data))
    assert problems(folder, "e_branchformer") == [
        "config.yaml: encoder_conf.use_ffn: found nothing, expected True: this network has no other"
    ]


def test_model_trained_with_ctc_alone_has_no_decoder(folder):
    edit(folder, model_conf={"ctc_weight": 1.0})

    def without(state):
        for name in [key for key in state if key.startswith("decoder.")]:
            del state[name]

    rewrite(folder, without)
    loaded = load(config(folder))
    assert loaded.decoding == CtcRules(blank=0, beam=10)
    assert loaded.module.decoder is None


def test_token_list_must_be_whole_and_special_tokens_are_found_by_name(folder):
    edit(folder, token_list=[TOKENS[-1], *TOKENS[1:-1], "<blank>"])
    rules = load(config(folder)).decoding
    assert (rules.blank, rules.start, rules.end) == (10, 0, 0)
    edit(folder, token_list=["<blank>", 3, "A", "A"])
    assert problems(folder) == [
        "config.yaml: token_list: found 1: 3, expected text",
        "config.yaml: token_list: found A more than once",
    ]
    edit(folder, token_list=None)
    assert problems(folder) == [
        "config.yaml: token_list: found nothing, expected the list of all tokens"
    ]


class Bomb:
    """Fails the test if it is ever unpickled."""

    def __reduce__(self):
        return pytest.fail, ("a pickle was opened",)


@pytest.mark.parametrize("is_archive", [True, False])
def test_pickles_of_more_than_tensors_are_refused_unopened(folder, is_archive):
    path = folder / "valid.acc.ave.pth"
    if is_archive:
        torch.save({"encoder.x": Bomb()}, path)
    else:
        path.write_bytes(pickle.dumps({"encoder.x": Bomb()}, protocol=2))
    (line,) = problems(folder)
    assert line.startswith("valid.acc.ave.pth: found objects other than tensors")
    assert "torch.save(model.state_dict(), path)" in line


def test_training_states_truncated_absent_and_ambiguous_files_are_named(folder, tmp_path):
    path = folder / "valid.acc.ave.pth"
    whole = path.read_bytes()
    torch.save({"model": torch.load(path, weights_only=True), "epoch": 3}, path)
    assert "found model, epoch, which are no tensors, expected a state dict" in problems(folder)[0]
    path.write_bytes(whole[: len(whole) // 2])
    assert "not a whole torch file" in problems(folder)[0]
    path.unlink()
    torch.save({}, folder / "checkpoint.pth")
    assert (
        "valid.acc.ave.pth: missing from the checkpoint; found checkpoint.pth, config.yaml"
        in (problems(folder)[0])
    )
    for name in ("5epoch.pth", "valid.loss.best.pth"):
        (folder / name).write_bytes(whole)
    assert problems(folder)[0].endswith(
        "found 5epoch.pth, valid.loss.best.pth, expected valid.acc.ave.pth or one file"
    )
    (folder / "5epoch.pth").unlink()
    load(config(folder))
    (line,) = refused(tmp_path)
    assert line.endswith(f"missing from the checkpoint; there is one in {folder}")
    assert "no such folder" in problems(tmp_path / "nowhere")[0]


def test_dimensions_of_the_model_file_must_agree_and_may_be_part_of_them(folder):
    load(config(folder, dimensions={"encoder": {"hidden": 24}, "decoding": {"beam": 3}}))
    given = {
        "vocabulary": 12,
        "encoder": {"hidden": 25, "is_macaron": 1},
        "decoder": None,
        "features": {"kind": "kaldi_fbank"},
    }
    assert [line.split(", but")[0] for line in problems(folder, dimensions=given)] == [
        "model tiny: dimensions.vocabulary: found 12",
        "model tiny: dimensions.encoder.hidden: found 25",
        "model tiny: dimensions.encoder.is_macaron: found 1",
        "model tiny: dimensions.decoder: found None",
        "model tiny: dimensions.features.kind: found kaldi_fbank",
    ]
    (line,) = problems(folder, dimensions={"encoder": {"hiden": 24}})
    assert line.startswith("model tiny: dimensions.encoder.hiden: unknown key")


def test_token_file_that_cannot_be_written_is_named(folder, tmp_path, monkeypatch):
    blocked = tmp_path / "blocked"
    blocked.write_text("")
    monkeypatch.setenv("XDG_CACHE_HOME", str(blocked))
    (line,) = problems(folder)
    assert "cannot be written" in line
    assert Path(blocked).read_text() == ""
