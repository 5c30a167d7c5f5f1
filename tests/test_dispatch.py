"""Where the choice of kernels was measured on this machine, and what a damaged file says."""

import json

import pytest

from cosim import dispatch
from cosim.dispatch import Dispatch, Point
from cosim.errors import CosimError

POINTS = (
    Point("f32_csr", 16, 0.2, 3.0),
    Point("f32_csr", 16, 0.6, 1.5),
    Point("f32_csr", 16, 0.8, 0.5),
    Point("f32_csr", 499, 0.2, 0.9),
    Point("f32_csr", 499, 0.6, 0.5),
    Point("f32_mask", 1, 0.2, 2.0),
    Point("f32_mask", 1, 0.9, 1.1),
)


@pytest.fixture
def found(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    return Dispatch("some cpu", "abc", "2025-01-01T00:00:00+00:00", POINTS)


def test_measurements_come_back_as_they_were(found):
    path = dispatch.save(found)
    assert dispatch.load("some cpu", "abc") == found
    assert path.parent.name == "kernels"


def test_another_processor_or_another_kernel_source_has_none(found):
    dispatch.save(found)
    assert dispatch.load("other cpu", "abc") is None
    assert dispatch.load("some cpu", "abd") is None


def test_a_break_even_is_read_between_two_densities(found):
    assert found.break_even("f32_csr", 16) == pytest.approx(0.6 + 0.2 * 0.5 / 1.0)
    assert found.break_even("f32_csr", 400) == 0.0  # never wins
    assert found.break_even("f32_mask", 3) == 0.9  # always wins, as far as was measured
    assert found.break_even("f32_4x4", 16) is None


def test_the_nearest_rows_are_nearest_in_proportion(found):
    # 16 * 499 = 89.4 ** 2
    assert found.break_even("f32_csr", 89) == found.break_even("f32_csr", 16)
    assert found.break_even("f32_csr", 90) == found.break_even("f32_csr", 499)


def test_every_mistake_of_a_file_is_told_with_the_remedy(found):
    path = dispatch.save(found)
    document = json.loads(path.read_text())
    document["created"] = 5
    document["points"][0]["ratio"] = -1
    document["points"][1]["density"] = float("nan")
    document["points"][2] = {"values": "f32_csr"}
    document["points"][3]["rows"] = True
    path.write_text(json.dumps(document))
    with pytest.raises(CosimError) as error:
        dispatch.load("some cpu", "abc")
    told = "\n".join(error.value.problems)
    assert len(error.value.problems) == 5
    for part in (
        "created",
        "points[0]: ratio",
        "points[1]: density",
        "points[2]",
        "points[3]: rows",
    ):
        assert part in told
    assert all("--calibrate" in problem for problem in error.value.problems)


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
