"""A tensor file is what the format's own library reads, and every byte of its header is checked."""

import json
import struct

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from safetensors.numpy import load_file, save_file

from cosim import tensor_file
from cosim.errors import CosimError

ARRAYS = {
    "b|payload": np.arange(7, dtype=np.uint8).reshape(1, 7),
    "b|scale": np.array([[0.5]], np.float32),
    "a|values": np.arange(6, dtype=np.float32).reshape(2, 3),
    "c|columns": np.array([], np.uint16),
    "h|values": np.array([1, 2], np.float16),
    "z|zero_point": np.array([[-3]], np.int8),
    "p|row_pointers": np.array([0, 2], np.uint32),
}


def assert_same(found, wanted):
    assert found.keys() == wanted.keys()
    for name, array in wanted.items():
        assert found[name].dtype == array.dtype
        np.testing.assert_array_equal(found[name], array)


def test_the_formats_own_library_reads_what_is_written_and_writes_what_is_read(tmp_path):
    header = tensor_file.write(tmp_path / "ours", ARRAYS)
    assert_same(load_file(tmp_path / "ours"), ARRAYS)
    stored = sum(array.nbytes for array in ARRAYS.values())
    assert (tmp_path / "ours").stat().st_size == header + stored
    save_file(ARRAYS, tmp_path / "theirs")
    assert_same(tensor_file.read(tmp_path / "theirs"), ARRAYS)


def test_arrays_begin_at_multiples_of_their_elements(tmp_path):
    header = tensor_file.write(tmp_path / "file", ARRAYS)
    assert header % 8 == 0
    table = json.loads((tmp_path / "file").read_bytes()[8:header])
    for name, entry in table.items():
        assert entry["data_offsets"][0] % ARRAYS[name].itemsize == 0


def test_an_array_of_other_elements_is_refused_by_name(tmp_path):
    with pytest.raises(TypeError, match=r"x: found float64, expected one of F32"):
        tensor_file.write(tmp_path / "file", {"x": np.ones(2)})
    assert not list(tmp_path.iterdir())


def with_header(path, table, data=bytes(100)):
    text = table if isinstance(table, bytes) else json.dumps(table).encode()
    path.write_bytes(struct.pack("<Q", len(text)) + text + data)
    return path


def entry(dtype="F32", shape=(25,), offsets=(0, 100)):
    return {"dtype": dtype, "shape": list(shape), "data_offsets": list(offsets)}


@pytest.mark.parametrize(
    ("table", "words"),
    [
        ({"x": entry(shape=(26,), offsets=(0, 104))}, ["x: data from byte 0 to 104", "100 bytes"]),
        ({"x": entry(shape=(24,))}, ["x: found 100 bytes, expected 96"]),
        ({"x": entry(offsets=(100, 0))}, ["x: data from byte 100 to 0"]),
        ({"x": entry("F64")}, ["x: found elements 'F64'"]),
        ({"x": entry(["F32"])}, ["x: found elements ['F32']"]),
        ({"x": entry(shape=(-25,))}, ["x: found shape [-25]"]),
        ({"x": entry(shape=(25.0,))}, ["x: found shape [25.0]"]),
        ({"x": entry(shape=(2**62, 2**62), offsets=(0, 0))}, ["x: found 0 bytes"]),
        ({"x": {"dtype": "F32"}}, ["x: found", "expected dtype, shape and data_offsets"]),
        ({"x": [1]}, ["x: found [1]"]),
        ({"x": entry(shape=(10,), offsets=(0, 40))}, ["found 100 bytes of data, expected 40"]),
        (
            {"x": entry(), "y": entry(shape=(1,), offsets=(50, 54))},
            ["y: data begin at byte 50, expected 100"],
        ),
        (b'{"x": ', ["header: not a table"]),
        (b"\xff\xfe", ["header: not a table"]),
        (b"[1]", ["header: found list"]),
        (b'{"x": 1, "x": 2}', ["x stands twice"]),
        (b"[" * 100_000, ["header: not a table"]),
    ],
)
def test_a_header_that_does_not_fit_is_refused_with_the_tensor(tmp_path, table, words):
    path = with_header(tmp_path / "file.safetensors", table)
    with pytest.raises(CosimError) as raised:
        tensor_file.read(path)
    assert all(word in str(raised.value) for word in ["file.safetensors", *words])


@pytest.mark.parametrize("length", [2**63, 100_000_001, 10**6])
def test_a_length_beyond_the_file_reserves_no_memory(tmp_path, length):
    path = tmp_path / "file.safetensors"
    path.write_bytes(struct.pack("<Q", length) + b"{}")
    with pytest.raises(CosimError, match=f"header: found a length of {length} bytes"):
        tensor_file.read(path)


@given(cut=st.integers(0, 400))
def test_every_file_that_is_cut_short_is_refused(tmp_path_factory, cut):
    path = tmp_path_factory.mktemp("cut") / "file.safetensors"
    tensor_file.write(path, ARRAYS)
    whole = path.read_bytes()
    path.write_bytes(whole[: max(0, len(whole) - 1 - cut)])
    with pytest.raises(CosimError, match=r"file\.safetensors"):
        tensor_file.read(path)
