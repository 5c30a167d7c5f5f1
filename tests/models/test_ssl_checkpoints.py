"""Claims about folders of wav2vec2-type models: what loads, what round trips, what is refused."""

import json

import pytest
import torch
from safetensors.torch import load_file, save_file
from ssl_reference import (
    LAYER_NORM,
    NAMES,
    VARIANTS,
    assert_close,
    edit_json,
    oracle,
    samples,
)
from transformers import AutoModel, AutoModelForCTC

from cosim.errors import CosimError
from cosim.models import CtcRules, ModelConfig, RandomWeights, Tokens, Weights, load
from cosim.models.own_folder import weights_hash
from cosim.models.ssl_checkpoint import save_hugging_face

CONVOLUTION = "wav2vec2.encoder.pos_conv_embed.conv"
SIZES = {"width": 24, "heads": 3, "layers": 1, "hidden": 8, "position_taps": 6}
SIZES |= {"position_groups": 2, "channels": [8, 8], "taps": [10, 3], "strides": [5, 2]}


@pytest.fixture
def made(tmp_path):
    return oracle(tmp_path / "folder", "wav2vec2")


def drawn(family, **sizes):
    weights = Weights(random=RandomWeights(seed=2))
    return load(ModelConfig("drawn", family, weights, {**SIZES, **sizes}))


def reload(loaded, folder):
    return load(ModelConfig("again", loaded.family, Weights(folder=str(folder))))


def rewrite(folder, change):
    path = folder / "model.safetensors"
    tensors = load_file(path)
    change(tensors)
    save_file(tensors, path)


def problems(made, **changes):
    with pytest.raises(CosimError) as caught:
        made.load(**changes)
    return [line.removeprefix(f"{made.folder}") for line in caught.value.problems]


def test_front_end_tokens_and_blank_come_from_the_folder(made):
    loaded = made.load()
    assert loaded.front.kind == "waveform"
    assert loaded.front.is_normalized
    assert loaded.decoding == CtcRules(blank=2)
    assert loaded.tokens == Tokens("characters", made.folder / "vocab.json")
    assert loaded.notes == ()
    edit_json(made.folder / "preprocessor_config.json", do_normalize=False)
    assert not made.load().front.is_normalized


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("family", sorted(NAMES))
def test_saved_folder_gives_equal_weights_here_and_equal_logits_in_transformers(
    tmp_path, family, variant
):
    loaded = oracle(tmp_path / "theirs", family, **VARIANTS[variant]).load()
    save_hugging_face(loaded, tmp_path / "ours")
    again = reload(loaded, tmp_path / "ours")
    assert weights_hash(again.module) == weights_hash(loaded.module)
    assert again.module.dimensions == loaded.module.dimensions
    assert again.tokens.file.read_bytes() == loaded.tokens.file.read_bytes()
    theirs = AutoModelForCTC.from_pretrained(tmp_path / "ours").eval()
    with torch.no_grad():
        assert_close(theirs(samples(800)).logits, loaded.module(samples(800)))


@pytest.mark.parametrize(
    ("family", "sizes"),
    [
        ("wav2vec2", {"vocabulary": 9, "blank": 4, "has_mask_vector": False}),
        ("wav2vec2", {"codebooks": {"groups": 2, "entries": 3, "width": 8, "projected": 5}}),
        ("wav2vec2", {}),
        ("hubert", {"clusters": {"labels": 6, "projected": 5}, "is_normalized": False}),
        ("wavlm", {"buckets": 12, "furthest": 9, "epsilon": 1e-6}),
    ],
)
def test_every_head_round_trips(tmp_path, family, sizes):
    loaded = drawn(family, **sizes)
    save_hugging_face(loaded, tmp_path / "ours")
    again = reload(loaded, tmp_path / "ours")
    assert again.module.dimensions == loaded.module.dimensions
    assert weights_hash(again.module) == weights_hash(loaded.module)
    assert again.parameters == loaded.parameters
    stated = json.loads((tmp_path / "ours/config.json").read_text())
    assert stated["architectures"][0].startswith(NAMES[family])
    if stated["architectures"] == ["HubertForPreTraining"]:  # a class of ours
        return
    theirs, report = AutoModel.from_pretrained(tmp_path / "ours", output_loading_info=True)
    assert not report["missing_keys"]
    with torch.no_grad():
        hidden = theirs.eval()(samples(400)).last_hidden_state
        upstream = getattr(loaded.module, family, loaded.module)
        assert_close(hidden, upstream(samples(400)))


def test_older_names_of_the_weight_norm_are_read_too(made):
    wanted = made.load().module.state_dict()

    def rename(tensors):
        for new, old in (("original0", "weight_g"), ("original1", "weight_v")):
            tensors[f"{CONVOLUTION}.{old}"] = tensors.pop(
                f"{CONVOLUTION}.parametrizations.weight.{new}"
            )

    rewrite(made.folder, rename)
    found = made.load().module.state_dict()
    assert all(torch.equal(found[name], tensor) for name, tensor in wanted.items())


def test_folded_weight_is_torchs_own_and_its_magnitudes_count_as_parameters(made):
    loaded = made.load()
    wanted = made.network.wav2vec2.encoder.pos_conv_embed.conv.weight
    assert_close(loaded.module.get_parameter(f"{CONVOLUTION}.weight"), wanted, 1e-6)
    assert loaded.folded_parameters == {f"{CONVOLUTION} (weight-norm magnitudes)": 8}


def test_a_tap_without_weight_stays_without_weight(tmp_path):
    loaded = drawn("wav2vec2", vocabulary=9)
    weight = loaded.module.get_parameter(f"{CONVOLUTION}.weight")
    weight[:, :, 1] = 0.0
    save_hugging_face(loaded, tmp_path)
    again = reload(loaded, tmp_path)
    assert torch.equal(again.module.get_parameter(f"{CONVOLUTION}.weight"), weight)


def test_mask_vector_may_be_missing_and_is_told(made):
    rewrite(made.folder, lambda tensors: tensors.pop("wav2vec2.masked_spec_embed"))
    loaded = made.load()
    (note,) = loaded.notes
    assert note.startswith("masked_spec_embed is not in the checkpoint")
    whole = sum(p.numel() for p in made.network.parameters())
    assert loaded.parameters == whole - 24


def test_half_precision_is_read_as_fp32(made):
    def halve(tensors):
        tensors.update({name: tensor.half() for name, tensor in tensors.items()})

    wanted = made.load().module
    rewrite(made.folder, halve)
    found = made.load().module
    for name, parameter in wanted.named_parameters():
        assert found.get_parameter(name).dtype == torch.float32
        assert_close(found.get_parameter(name), parameter, 2e-3)


def test_without_vocabulary_file_there_is_no_text_and_a_note(made):
    (made.folder / "vocab.json").unlink()
    loaded = made.load()
    assert loaded.tokens is None
    assert "vocab.json is not in the checkpoint" in loaded.notes[0]


def test_missing_extra_misshaped_and_wrong_typed_tensors_are_listed_at_once(made):
    layer = "wav2vec2.encoder.layers.0"

    def damage(tensors):
        tensors[f"{layer}.attention.k_prof.weight"] = tensors.pop(
            f"{layer}.attention.k_proj.weight"
        )
        tensors["lm_head.weight"] = torch.zeros(8, 24)
        tensors["lm_head.bias"] = torch.zeros(7, dtype=torch.int32)

    rewrite(made.folder, damage)
    assert problems(made) == [
        f": {layer}.attention.k_proj.weight: missing, expected shape [24, 24]",
        ": lm_head.weight: found shape [8, 24], expected [7, 24]",
        ": lm_head.bias: found torch.int32, expected floating point",
        (
            f": {layer}.attention.k_prof.weight: not a tensor of this network; did you mean "
            f'"{layer}.attention.k_proj.weight"?'
        ),
    ]


def test_weight_norm_must_be_whole_and_fit_together(made):
    first = f"{CONVOLUTION}.parametrizations.weight.original0"
    second = f"{CONVOLUTION}.parametrizations.weight.original1"

    def misshape(tensors):
        tensors[first] = torch.ones(24, 1, 1)

    rewrite(made.folder, misshape)
    assert problems(made) == [
        f": {first}: found shape [24, 1, 1], expected [1, 1, 8] beside {second} of shape [24, 6, 8]"
    ]
    rewrite(made.folder, lambda tensors: tensors.pop(first))
    assert problems(made) == [f": {first}: missing"]


def test_config_must_be_of_this_network(made):
    path = made.folder / "config.json"
    edit_json(path, hidden_act="relu", add_adapter=True, feat_extract_norm="batch")
    assert problems(made) == [
        "/config.json: hidden_act: found 'relu', expected 'gelu'",
        "/config.json: add_adapter: found True, expected False",
    ]
    edit_json(path, "conv_dim", "vocab_size", hidden_act="gelu", add_adapter=False)
    assert problems(made) == [
        "/config.json: conv_dim: missing",
        "/config.json: vocab_size: missing",
    ]
    edit_json(path, conv_dim=[12, 16], vocab_size=7)
    assert problems(made) == [
        '/config.json: convolution_norm: found "batch", expected one of group, layer'
    ]
    edit_json(path, feat_extract_norm="group", num_attention_heads=5, pad_token_id=7)
    assert problems(made) == [
        "/config.json: heads: found 5, expected a divisor of width 24",
        "/config.json: channels, taps, strides: found 2, 3 and 3 numbers, expected as many",
        "/config.json: blank: found 7, expected an id below 7",
    ]


def test_hubert_variants_that_the_network_has_not_are_refused_by_name(tmp_path):
    made = oracle(tmp_path, "hubert", **LAYER_NORM)
    edit_json(tmp_path / "config.json", conv_pos_batch_norm=True, feat_proj_layer_norm=False)
    assert problems(made) == [
        "/config.json: feat_proj_layer_norm: found False, expected True",
        "/config.json: conv_pos_batch_norm: found True, expected False",
    ]


def test_unknown_model_types_and_classes_are_refused(made):
    path = made.folder / "config.json"
    edit_json(path, architectures=["Wav2Vec2ForCTX"])
    (line,) = problems(made)
    assert line.startswith("/config.json: architectures: found ['Wav2Vec2ForCTX'], expected one of")
    assert line.endswith('did you mean "Wav2Vec2ForCTC"?')
    edit_json(path, architectures=["Wav2Vec2Model"])
    (line,) = problems(made)
    assert "tensors with the prefix wav2vec2." in line
    edit_json(path, model_type="wav2vec2-conformer")
    (line,) = problems(made)
    assert "model_type: found 'wav2vec2-conformer', expected 'wav2vec2'" in line


def test_config_that_contradicts_the_tensors_names_each_tensor(made):
    edit_json(made.folder / "config.json", num_hidden_layers=1, intermediate_size=41)
    found = problems(made)
    name = "wav2vec2.encoder.layers.0.feed_forward.output_dense.weight"
    assert f": {name}: found shape [24, 40], expected [24, 41]" in found
    assert any(line.startswith(": wav2vec2.encoder.layers.1.") for line in found)


def test_tokens_must_fit_the_head_and_the_blank(made):
    edit_json(made.folder / "vocab.json", d=7)
    wrong = {"pad_token": "a", "word_delimiter_token": " "}
    edit_json(made.folder / "tokenizer_config.json", **wrong)
    found = problems(made)
    assert found[0] == "/vocab.json: d: found 7, expected an id below 7"
    assert found[1] == "/tokenizer_config.json: word_delimiter_token: found ' ', expected '|'"
    assert "pad_token: found 'a' of id 1, but pad_token_id of" in found[2]


def test_another_front_end_is_refused(made):
    path = made.folder / "preprocessor_config.json"
    edit_json(path, "do_normalize", sampling_rate=8000, feature_size=80)
    assert problems(made) == [
        "/preprocessor_config.json: sampling_rate: found 8000, expected 16000",
        "/preprocessor_config.json: feature_size: found 80, expected 1",
        "/preprocessor_config.json: do_normalize: found None, expected true or false",
    ]
    path.unlink()
    assert problems(made) == ["/preprocessor_config.json: missing from the checkpoint"]


def test_dimensions_of_the_model_file_must_agree_with_the_checkpoint(made):
    made.load(dimensions={"width": 24, "channels": [12, 16, 20], "vocabulary": 7})
    wrong = problems(made, dimensions={"hidden": 41, "channels": [12, 16, 21], "layers": 2})
    assert [line.split(", but")[0] for line in wrong] == [
        "model small: dimensions.hidden: found 41",
        "model small: dimensions.channels: found (12, 16, 21)",
    ]
    assert problems(made, dimensions={"widht": 24}) == [
        'model small: dimensions.widht: unknown key; did you mean "width"?'
    ]


def test_drawn_networks_need_whole_dimensions_and_one_head():
    with pytest.raises(CosimError, match=r"dimensions\.width: missing"):
        load(ModelConfig("x", "wav2vec2", Weights(random=RandomWeights())))
    books = {"groups": 2, "entries": 3, "width": 8, "projected": 5}
    with pytest.raises(CosimError, match="found vocabulary and codebooks, expected at most one"):
        drawn("wav2vec2", vocabulary=4, codebooks=books)
    with pytest.raises(CosimError, match="found 3, expected a divisor of 8"):
        drawn("wav2vec2", codebooks={**books, "groups": 3})
    with pytest.raises(CosimError, match="expected more than a quarter of the 40 buckets"):
        drawn("wavlm", buckets=40, furthest=10)


def test_nothing_is_overwritten_and_nothing_without_values_is_saved(made, tmp_path):
    loaded = made.load()
    with pytest.raises(CosimError, match=r"found config\.json, model\.safetensors, expected an"):
        save_hugging_face(loaded, made.folder)
    shapes = load(
        ModelConfig("shapes", "wav2vec2", Weights(random=RandomWeights(distribution="none")), SIZES)
    )
    with pytest.raises(CosimError, match=r"weights\.random: found none"):
        save_hugging_face(shapes, tmp_path / "new")
