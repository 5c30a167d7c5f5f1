"""Claims about loading checkpoint folders: names, types, and every fault told at once."""

import json
import pickle
from pathlib import Path

import huggingface_hub
import pytest
import torch
from safetensors.torch import load_file, save_file

import cosim.models
from cosim.errors import CosimError
from cosim.models import ModelConfig, Weights, families, load


def config(folder, **changes):
    return ModelConfig("tiny", "whisper", Weights(folder=str(folder)), **changes)


def rewrite(folder, change):
    path = folder / "model.safetensors"
    tensors = load_file(path)
    change(tensors)
    save_file(tensors, path)


def edit(path, **changes):
    data = json.loads(path.read_text())
    path.write_text(json.dumps({**data, **changes}))


def problems(folder, **changes):
    with pytest.raises(CosimError) as caught:
        load(config(folder, **changes))
    return caught.value.problems


def test_folder_gives_every_stored_value_in_fp32(checkpoint, network):
    loaded = load(config(checkpoint))
    places = dict(loaded.module.named_parameters())
    assert places.keys() == dict(network.named_parameters()).keys()
    for name, wanted in network.named_parameters():
        assert places[name].dtype == torch.float32
        assert torch.equal(places[name], wanted.half().float())
    assert loaded.module.proj_out.weight is places["decoder.embed_tokens.weight"]
    assert loaded.source == f"folder {checkpoint}"
    assert loaded.parameters == sum(p.numel() for p in network.parameters())


def test_tied_projection_in_the_file_is_accepted_and_another_one_refused(checkpoint):
    def tied(tensors):
        tensors["proj_out.weight"] = tensors["model.decoder.embed_tokens.weight"].clone()

    def other(tensors):
        tensors["proj_out.weight"] = tensors["proj_out.weight"] + 1

    rewrite(checkpoint, tied)
    load(config(checkpoint))
    rewrite(checkpoint, other)
    assert "proj_out.weight: found values other than" in problems(checkpoint)[0]


def test_shards_are_read_as_one(checkpoint):
    tensors = load_file(checkpoint / "model.safetensors")
    names = sorted(tensors)
    weight_map = {}
    for index, part in enumerate((names[:10], names[10:])):
        file = f"model-{index}.safetensors"
        save_file({name: tensors[name] for name in part}, checkpoint / file)
        weight_map.update(dict.fromkeys(part, file))
    (checkpoint / "model.safetensors").unlink()
    index = checkpoint / "model.safetensors.index.json"
    index.write_text(json.dumps({"weight_map": weight_map}))
    load(config(checkpoint))
    index.write_text(json.dumps({"weight_map": {"x": "../elsewhere.safetensors"}}))
    assert "expected plain names" in problems(checkpoint)[0]


def test_missing_extra_misshaped_and_wrong_typed_tensors_are_listed_at_once(checkpoint):
    def damage(tensors):
        tensors["model.encoder.layers.0.fc3.weight"] = tensors.pop(
            "model.encoder.layers.0.fc1.weight"
        )
        tensors["model.encoder.conv1.weight"] = torch.zeros(2, 3)
        tensors["model.encoder.conv1.bias"] = torch.zeros(16, dtype=torch.int32)
        tensors["model.encoder.layer_norm.bias"] = torch.full((16,), torch.nan)

    rewrite(checkpoint, damage)
    renamed = "encoder.layers.0.fc3.weight"
    found = problems(checkpoint)
    assert [line.removeprefix(f"{checkpoint}: ") for line in found] == [
        "encoder.conv1.weight: found shape [2, 3], expected [16, 4, 3]",
        "encoder.conv1.bias: found torch.int32, expected floating point",
        "encoder.layers.0.fc1.weight: missing, expected shape [24, 16]",
        "encoder.layer_norm.bias: found values that are not finite",
        f'{renamed}: not a tensor of this network; did you mean "encoder.layers.0.fc1.weight"?',
    ]


class Bomb:
    """Fails the test if it is ever unpickled."""

    def __reduce__(self):
        return pytest.fail, ("a pickle was opened",)


@pytest.mark.parametrize("name", ["pytorch_model.bin", "model.pt", "anything.bin"])
def test_pickle_beside_config_is_refused_unopened(checkpoint, name):
    (checkpoint / "model.safetensors").unlink()
    (checkpoint / name).write_bytes(pickle.dumps(Bomb()))
    (line,) = problems(checkpoint)
    assert name in line
    assert "convert it to model.safetensors" in line


@pytest.mark.parametrize("protocol", [2, 5, "zip"])
def test_pickle_named_safetensors_is_refused_unopened(checkpoint, protocol):
    path = checkpoint / "model.safetensors"
    if protocol == "zip":
        torch.save({"x": torch.zeros(1)}, path)
    else:
        path.write_bytes(pickle.dumps(Bomb(), protocol=protocol))
    (line,) = problems(checkpoint)
    assert "found a pickle under the name of safetensors" in line


def test_absent_and_truncated_files_are_named(checkpoint, tmp_path):
    path = checkpoint / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-10])
    assert "not a whole safetensors file" in problems(checkpoint)[0]
    path.rename(checkpoint / "model.safetensor")
    assert 'did you mean "model.safetensor"?' in problems(checkpoint)[0]
    assert "no such folder" in problems(tmp_path / "nowhere")[0]


def test_config_must_be_whole_and_of_this_network(checkpoint):
    path = checkpoint / "config.json"
    edit(path, activation_function="relu", decoder_ffn_dim=25)
    assert [line.removeprefix(f"{path}: ") for line in problems(checkpoint)] == [
        "activation_function: found 'relu', expected 'gelu'",
        "encoder_ffn_dim, decoder_ffn_dim: found 24, 25, expected one",
    ]
    edit(path, activation_function="gelu", decoder_ffn_dim=24, d_model="16", vocab_size=0)
    assert [line.removeprefix(f"{path}: ") for line in problems(checkpoint)] == [
        'width: found "16", expected an integer >= 1',
        "vocabulary: found 0, expected an integer >= 1",
    ]
    edit(path, d_model=15, vocab_size=32)
    assert "expected a divisor of width 15" in problems(checkpoint)[0]
    path.write_text("{")
    assert "cannot be read as JSON" in problems(checkpoint)[0]
    path.unlink()
    assert problems(checkpoint) == [f"{path}: missing from the checkpoint"]


def test_dimensions_of_the_model_file_must_agree_with_the_checkpoint(checkpoint, dimensions):
    sizes = {name: getattr(dimensions, name) for name in type(dimensions).__dataclass_fields__}
    load(config(checkpoint, dimensions=sizes))
    wrong = problems(checkpoint, dimensions={**sizes, "hidden": 48, "mels": 80})
    assert [line.split(", but")[0] for line in wrong] == [
        "model tiny: dimensions.hidden: found 48",
        "model tiny: dimensions.mels: found 80",
    ]
    assert problems(
        checkpoint, dimensions={"widht": 16, **{k: v for k, v in sizes.items() if k != "width"}}
    ) == ['model tiny: dimensions.widht: unknown key; did you mean "width"?']


def test_decoding_rules_come_from_tokenizer_and_generation_config(checkpoint):
    rules = load(config(checkpoint)).decoding
    assert rules.prompt == (21, 24)  # an English vocabulary: no language, no task
    assert rules.end == 20
    assert rules.first_suppressed == (7, 20)
    assert rules.suppressed == ()
    assert rules.max_steps == 30
    generation = checkpoint / "generation_config.json"
    generation.write_text(json.dumps({"begin_suppress_tokens": [1], "suppress_tokens": [2, 3]}))
    rules = load(config(checkpoint)).decoding
    assert (rules.first_suppressed, rules.suppressed) == ((1,), (2, 3))
    edit(checkpoint / "tokenizer.json", added_tokens=[{"id": 20, "content": "<|endoftext|>"}])
    assert "token <|startoftranscript|>: missing" in problems(checkpoint)[0]


def test_families_are_named_after_their_files():
    folder = Path(cosim.models.__file__).parent
    assert "whisper" in families()
    assert all((folder / f"{name}.py").is_file() for name in families())


def test_unknown_family_and_ambiguous_weights_are_refused():
    with pytest.raises(CosimError, match='did you mean "whisper"'):
        load(ModelConfig("tiny", "wisper", Weights(folder="x")))
    with pytest.raises(CosimError, match="found folder and hub, expected exactly one"):
        Weights(folder="x", hub="y")
    with pytest.raises(CosimError, match="found none of them"):
        Weights()
    with pytest.raises(CosimError, match="found without hub"):
        Weights(folder="x", revision="main")


def test_unreachable_hub_is_a_clear_error(monkeypatch):
    def offline(*_args, **_kwargs):
        raise huggingface_hub.errors.LocalEntryNotFoundError("no connection\nmore")

    monkeypatch.setattr(huggingface_hub, "snapshot_download", offline)
    with pytest.raises(CosimError) as caught:
        load(ModelConfig("tiny", "whisper", Weights(hub="somebody/whisper")))
    assert "hub somebody/whisper: could not be fetched" in str(caught.value)
    assert "give weights.folder" in str(caught.value)
