"""Claims about folders of our own: they give the same network back, or one clear error."""

import numpy as np
import pytest
import torch
import yaml
from own_models import BLOCKS, TINY, VARIANT, compute, config, noise, tiny, variant
from safetensors.torch import load_file, save_file

from cosim.errors import CosimError
from cosim.models import PackageWeights, RandomWeights, Weights, load
from cosim.models.own_folder import aliases, save_own, weights_hash

SHARED = {"sharing": {"block": [1, 1, 2], "conv_module": [1, 2, 2]}}


@pytest.fixture
def folder(tmp_path):
    save_own(tiny(**SHARED), tmp_path / "model")
    return tmp_path / "model"


def open_folder(folder, dimensions=None, family="tiny_conformer"):
    return load(config(family, dimensions, folder=str(folder)))


def change(folder, **keys):
    path = folder / "config.yaml"
    stated = yaml.safe_load(path.read_text(encoding="utf-8"))
    path.write_text(yaml.safe_dump({**stated, **keys}), encoding="utf-8")


def retensor(folder, work):
    path = folder / "model.safetensors"
    tensors = load_file(path)
    work(tensors)
    save_file(tensors, path)


def test_a_shared_network_comes_back_with_the_same_hash_and_the_same_aliases(folder):
    before, after = tiny(**SHARED), open_folder(folder)
    assert weights_hash(after.module) == weights_hash(before.module)
    assert aliases(after.module) == aliases(before.module) != {}
    given = noise(1, 50, 9)
    assert np.array_equal(compute(after, given), compute(before, given))
    assert not after.is_random
    assert before.is_random


@pytest.mark.parametrize("blocks", BLOCKS)
def test_a_variant_comes_back_with_the_same_hash(tmp_path, blocks):
    before = variant(blocks)
    save_own(before, tmp_path)
    after = open_folder(tmp_path, {**VARIANT, "blocks": BLOCKS[blocks]}, "hubert_variant")
    assert weights_hash(after.module) == weights_hash(before.module)


def test_shared_tensors_are_stored_once(folder):
    names = set(load_file(folder / "model.safetensors"))
    module = tiny(**SHARED).module
    assert not names & set(aliases(module))
    stored = sum(tensor.numel() for tensor in load_file(folder / "model.safetensors").values())
    buffers = sum(buffer.numel() for buffer in module.buffers())
    assert stored == sum(p.numel() for p in module.parameters()) + buffers


def test_the_hash_sees_every_value_and_what_is_shared():
    one, other = tiny(), tiny()
    assert weights_hash(one.module) == weights_hash(other.module)
    other.module.encoder.encoders[1].norm_ff.bias[3] += 1e-3
    assert weights_hash(one.module) != weights_hash(other.module)
    pair = torch.nn.Sequential(torch.nn.Linear(2, 2), torch.nn.Linear(2, 2))
    pair[1].load_state_dict(pair[0].state_dict())
    apart = weights_hash(pair)
    pair[1].weight = pair[0].weight
    assert weights_hash(pair) != apart


def test_tokens_beside_the_weights_are_found_and_kept(folder, tmp_path):
    (folder / "tokens.txt").write_text("<blank>\n\u2581a\nb\nc\nd\n", encoding="utf-8")
    loaded = open_folder(folder)
    assert loaded.tokens is not None
    save_own(loaded, tmp_path / "again")
    assert open_folder(tmp_path / "again").tokens.file.read_text(encoding="utf-8") == (
        "<blank>\n\u2581a\nb\nc\nd\n"
    )


def break_missing(tensors):
    del tensors["encoder.encoders.0.norm_mha.weight"]
    tensors["ctc.ctc_lo.bias"] = tensors["ctc.ctc_lo.bias"][:3].clone()
    tensors["encoder.encoder.0.norm_mha.weight"] = torch.ones(8)
    tensors["encoder.after_norm.bias"] = torch.ones(8, dtype=torch.int32)


def test_every_tensor_that_does_not_fit_is_named_at_once(folder):
    retensor(folder, break_missing)
    with pytest.raises(CosimError) as caught:
        open_folder(folder)
    text = str(caught.value)
    assert "encoder.encoders.0.norm_mha.weight: missing, expected shape [8]" in text
    assert "ctc.ctc_lo.bias: found shape [3], expected [5]" in text
    assert "not a tensor of this network" in text
    assert "encoder.after_norm.bias: found torch.int32" in text


def test_dimensions_that_contradict_the_folder_are_named(folder):
    with pytest.raises(CosimError, match=r"dimensions\.hidden: found 16, but .* has 12"):
        open_folder(folder, {**TINY, **SHARED, "hidden": 16})


def test_aliases_that_contradict_the_dimensions_are_named(folder):
    change(folder, aliases={"ctc.ctc_lo.weight": "encoder.after_norm.weight"})
    with pytest.raises(CosimError) as caught:
        open_folder(folder)
    text = str(caught.value)
    assert "but the dimensions make it a tensor of its own" in text
    assert "aliases.encoder.encoders.1.norm_ff.weight: found none" in text


@pytest.mark.parametrize(
    ("keys", "words"),
    [
        ({"family": "tiny_conformr"}, "family: found tiny_conformr, expected tiny_conformer"),
        ({"version": 2}, "version: found 2, expected 1"),
        ({"format": "onnx"}, "format: found"),
        ({"dimension": {}}, "dimension: unknown key"),
    ],
)
def test_a_folder_of_another_kind_is_refused(folder, keys, words):
    change(folder, **keys)
    with pytest.raises(CosimError) as caught:
        open_folder(folder)
    assert words in str(caught.value)


def test_missing_files_are_named(folder, tmp_path):
    with pytest.raises(CosimError, match="no such folder"):
        open_folder(tmp_path / "absent")
    (folder / "model.safetensors").unlink()
    with pytest.raises(CosimError, match=r"model\.safetensors: missing"):
        open_folder(folder)
    (folder / "config.yaml").unlink()
    with pytest.raises(CosimError, match=r"config\.yaml: no such file"):
        open_folder(folder)


def test_weights_of_another_kind_are_refused():
    package = PackageWeights("a", "1", "b", "c", "d", "e")
    for weights in ({"hub": "someone/model"}, {"package": package}):
        with pytest.raises(CosimError, match="expected folder or random"):
            load(config("tiny_conformer", TINY, **weights))
    with pytest.raises(CosimError, match="dimensions: missing"):
        load(config("tiny_conformer", None))


def test_a_folder_with_something_else_is_not_overwritten(tmp_path):
    (tmp_path / "notes.txt").write_text("mine", encoding="utf-8")
    with pytest.raises(CosimError, match="not a model folder"):
        save_own(tiny(), tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["notes.txt"]


def test_a_network_without_values_is_not_saved(tmp_path):
    found = load(config("tiny_conformer", TINY, random=RandomWeights("none")))
    with pytest.raises(CosimError, match="expected weights"):
        save_own(found, tmp_path / "model")
    assert not (tmp_path / "model").exists()
    assert Weights(random=RandomWeights("none")).random is not None
