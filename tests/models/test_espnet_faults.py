"""Claims about faults in ESPnet experiment folders: each is told, and all at once."""

import pickle
from pathlib import Path

import pytest
import torch
import yaml
from espnet_files import TOKENS, config, edit, problems, refused, rewrite, write
from espnet_reference import WIDTH

from cosim.models import load


@pytest.fixture(autouse=True)
def _own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


@pytest.fixture
def folder(tmp_path):
    return write(tmp_path, "conformer")


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


def test_without_feed_forward_layers_an_e_branchformer_is_refused(tmp_path):
    folder = write(tmp_path, "e_branchformer")
    path = folder / "config.yaml"
    data = yaml.safe_load(path.read_text())
    del data["encoder_conf"]["use_ffn"]  # false is ESPnet's default
    path.write_text(yaml.safe_dump(data))
    assert problems(folder, "e_branchformer") == [
        "config.yaml: encoder_conf.use_ffn: found nothing, expected True: this network has no other"
    ]


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
