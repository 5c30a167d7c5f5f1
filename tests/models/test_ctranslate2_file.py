"""Claims about the CTranslate2 reader, on files written here byte by byte."""

import struct

import numpy as np
import pytest
import torch
from whisper_files import whisper_variables, write

from cosim.errors import CosimError
from cosim.models.ctranslate2 import read, whisper_tensors


def lines(call):
    with pytest.raises(CosimError) as caught:
        call()
    return caught.value.problems


def test_variables_come_back_with_shape_dtype_and_values(tmp_path):
    wanted = {
        "a": np.arange(6, dtype=np.float32).reshape(2, 3),
        "b": np.array([-3, 4], np.int8),
        "c": np.array(-1, np.int16),
        "d": np.array([[1 << 20]], np.int32),
        "e": np.array([0.5, -2], np.float16),
    }
    file = read(write(tmp_path / "model.bin", wanted, spec="Any", aliases={"x": "a"}))
    assert (file.spec, file.revision, file.aliases) == ("Any", 3, {"x": "a"})
    assert file.variables.keys() == wanted.keys()
    for name, array in wanted.items():
        assert file.variables[name].dtype == array.dtype
        np.testing.assert_array_equal(file.variables[name], array)


def test_every_truncation_is_an_error_and_none_a_crash(tmp_path):
    path = write(tmp_path / "model.bin", {"a": np.ones((2, 2), np.float32)}, aliases={"x": "a"})
    whole = path.read_bytes()
    for size in range(len(whole)):
        path.write_bytes(whole[:size])
        (line,) = lines(lambda: read(path))
        assert str(path) in line
    path.write_bytes(whole)
    read(path)


def test_foreign_files_are_refused(tmp_path):
    path = tmp_path / "model.bin"
    path.write_bytes(b"PK\x03\x04 a zip archive")
    assert "found format version" in lines(lambda: read(path))[0]
    path.write_bytes(struct.pack("<I", 6) + b"\x04\x00\xff\xfe\xfd\xfc")
    assert "not a CTranslate2 model" in lines(lambda: read(path))[0]
    array = {"a": np.ones(2, np.float32)}
    assert "3 bytes after" in lines(lambda: read(write(path, array, aliases={}, tail=b"123")))[0]
    assert "do not exist: z" in lines(lambda: read(write(path, array, aliases={"x": "z"})))[0]
    assert "cannot be read" in lines(lambda: read(tmp_path / "absent.bin"))[0]


def test_whisper_names_and_splits_give_the_network_back(tmp_path, network):
    path = write(tmp_path / "model.bin", whisper_variables(network))
    found = whisper_tensors(read(path), path=path)
    wanted = dict(network.named_parameters())
    assert found.tensors.keys() == wanted.keys()
    assert found.heads == 2
    for name, tensor in wanted.items():
        np.testing.assert_array_equal(found.tensors[name], tensor.to(torch.float16).numpy())


def test_missing_left_over_and_wrong_variables_are_listed_at_once(tmp_path, network):
    variables = whisper_variables(network)
    del variables["encoder/conv1/bias"]
    variables["decoder/extra"] = np.ones(1, np.float32)
    variables["decoder/activation"] = np.array(0, np.int8)
    variables["encoder/num_heads"] = np.array(4, np.int16)
    fused = "encoder/layer_0/self_attention/linear_0"
    variables[f"{fused}/bias"] = np.ones(48, np.float16)
    variables[f"{fused}/weight"] = np.ones((47, 16), np.float16)
    path = write(tmp_path / "model.bin", variables, aliases={})
    found = lines(lambda: whisper_tensors(read(path), path=path))
    assert [line.removeprefix(f"{path}: ") for line in found] == [
        "decoder/activation: found 0, expected 3",
        "num_heads: found [2, 4], expected one number for both sides",
        "aliases: found {}, expected the projection to be the embedding",
        "encoder/conv1/bias: missing",
        f"{fused}/weight: found shape [47, 16], expected rows for 3 projections",
        f"{fused}/bias: found a bias of k, expected zeros",
        "decoder/extra: left over, Whisper has no place for it",
    ]
    path = write(tmp_path / "model.bin", variables, spec="TransformerSpec")
    assert lines(lambda: whisper_tensors(read(path), path=path)) == [
        f'{path}: found spec "TransformerSpec", expected "WhisperSpec"'
    ]
