"""Speeds measured on this machine: kept, found again, and refused when damaged."""

import json
from dataclasses import replace

import pytest
from silent import Silent

from cosim import dispatch
from cosim.bench.calibration import calibrate
from cosim.dispatch import Dispatch
from cosim.errors import CosimError
from kernels.jit import host_features
from kernels.patterns import break_even
from kernels.registry import SIMD
from kernels.sparse_speeds import DEFAULT_BREAK_EVEN, Speed

TABLE = (
    Speed("f32", "f32", 499, (1.0,), (1.0,)),
    Speed("f32_csr", "f32", 16, (3.0, 0.5), (0.25, 0.75)),
    Speed("f32_csr", "f32", 499, (3.0, 2.5), (0.25, 0.75)),
    Speed("i8_csr", "i8", 499, (0.5, 0.25), (0.25, 0.75)),
)


@pytest.fixture
def found(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    return Dispatch("some cpu", "abc", "2025-01-01T00:00:00+00:00", TABLE)


def test_measurements_come_back_as_they_were(found):
    path = dispatch.save(found)
    assert dispatch.load("some cpu", "abc") == found
    assert path.parent.name == "kernels"


def test_speeds_are_those_of_this_machine_or_the_defaults(found):
    assert dispatch.speeds() is DEFAULT_BREAK_EVEN
    dispatch.save(replace(found, cpu=dispatch.cpu_name(), kernels=dispatch.kernels_hash()))
    assert dispatch.speeds() == TABLE


def test_another_processor_or_another_kernel_source_has_none(found):
    dispatch.save(found)
    assert dispatch.load("other cpu", "abc") is None
    assert dispatch.load("some cpu", "abd") is None


def test_the_kernels_choose_by_what_was_kept(found):
    dispatch.save(found)
    table = dispatch.load("some cpu", "abc").table
    # time grows from 1/3 at 0.25 to 2 at 0.75 and is 1 in between: 0.25 + 0.5 * (2/3) / (5/3)
    assert break_even("f32_csr", "f32", 16, table=table) == pytest.approx(0.45, abs=0.011)
    assert break_even("f32_csr", "f32", 499, table=table) == 1.0


def test_every_mistake_of_a_file_is_told_with_the_remedy(found):
    path = dispatch.save(found)
    document = json.loads(path.read_text())
    document["created"] = 5
    document["table"][0]["speeds"] = [-1.0]
    document["table"][1]["densities"] = [0.75, 0.25]
    document["table"][2] = {"values": "f32_csr"}
    document["table"][3] |= {"rows": True, "speeds": [1.0]}
    path.write_text(json.dumps(document))
    with pytest.raises(CosimError) as error:
        dispatch.load("some cpu", "abc")
    problems = error.value.problems
    parts = (
        "created: found 5",
        "table[0]: speeds: found [-1.0]",
        "table[1]: densities: found [0.75, 0.25], expected ascending",
        "table[2]: found {'values'",
        "table[3]: rows: found True",
        "table[3]: found 1 speeds for 2 densities",
    )
    assert len(problems) == len(parts)
    for problem, part in zip(problems, parts, strict=True):
        assert part in problem
        assert "--calibrate" in problem


@pytest.mark.parametrize("bad", ["NaN", "Infinity", "1.5", '"0.5"', "true"])
def test_a_density_is_a_number_up_to_one(found, bad):
    path = dispatch.save(found)
    path.write_text(path.read_text().replace("0.75", bad, 1))
    with pytest.raises(CosimError, match="densities"):
        dispatch.load("some cpu", "abc")


@pytest.mark.parametrize("text", ["", "[]", '{"schema": 1}', "{}"])
def test_a_file_of_something_else_is_refused(found, text):
    dispatch.save(found).write_text(text)
    with pytest.raises(CosimError, match="--calibrate"):
        dispatch.load("some cpu", "abc")


def test_the_hash_of_the_kernels_is_that_of_their_sources(monkeypatch):
    assert dispatch.kernels_hash() == dispatch.kernels_hash()
    before = dispatch.kernels_hash()
    monkeypatch.setattr(dispatch, "fingerprint", lambda _path: "changed")
    assert dispatch.kernels_hash() != before


@pytest.mark.skipif(not host_features() >= set(SIMD), reason="needs AVX2 and FMA")
def test_calibrating_measures_what_was_asked_for_and_keeps_the_anchor():
    wanted = (
        TABLE[0],
        Speed("f32_csr", "f32", 16, (9.0, 9.0), (0.05, 0.5)),
        Speed("f32_16x1", "f32", 16, (9.0,), (0.05,)),
        Speed("i8", "i8", 2, (9.0,), (1.0,)),
        Speed("i5", "i8", 2, (9.0,), (1.0,)),  # which no kernel reads
    )
    found = calibrate(Silent(), rounds=2, wanted=wanted, sizes=(256, 512))
    keys = [(row.values, row.activation, row.rows, row.densities) for row in found.table]
    assert keys == [
        ("f32", "f32", 499, (1.0,)),
        ("i8", "i8", 2, (1.0,)),
        ("f32_csr", "f32", 16, (0.05, 0.5)),
        ("f32_16x1", "f32", 16, (0.05,)),
    ]
    csr = found.table[2].speeds
    assert csr[0] > csr[1] > 0  # fewer nonzeros are faster
    assert found.kernels == dispatch.kernels_hash()
    with pytest.raises(CosimError, match="no kernel to choose"):
        calibrate(Silent(), wanted=wanted[-1:])
