"""A chip file with mistakes gets one error that tells them all: fields, and rules between them."""

import pytest
import yaml

from cosim.chip import load_chip
from cosim.config import configs_root, read
from cosim.errors import CosimError
from cosim.validate import mend
from hwmodels.architecture import Architecture
from hwmodels.chip_rules import fold_problems

GOOD = configs_root() / "hardware" / "stacked_edge_32.yaml"


@pytest.fixture
def chip():
    document = read(GOOD)
    document["array"]["supports"] = ["i8xi8", "u8xi8"]
    return document


@pytest.fixture
def mistakes(tmp_path):
    """Return a function that writes a chip and returns what is said about it."""

    def told(document):
        path = tmp_path / "chip.yaml"
        path.write_text(yaml.safe_dump(document))
        with pytest.raises(CosimError) as caught:
            load_chip(path)
        assert all(line.startswith(f"{path}: ") for line in caught.value.problems)
        return [line.removeprefix(f"{path}: ") for line in caught.value.problems]

    return told


def test_four_mistakes_of_four_kinds_are_told_at_once(chip, mistakes):
    chip["array"]["dataflow"] = "row_stationary"
    chip["array"]["supports"] = ["i8xi8", "i8xi3"]
    chip["buffers"]["input"]["port_bytes"] = 0
    chip["buffers"]["weight"]["size_bytes"] = 1024
    found = mistakes(chip)
    text = "\n".join(found)
    assert 'array.dataflow: found "row_stationary", expected' in text
    assert "weight_stationary" in text
    assert "buffers.input.port_bytes: found 0, expected an integer >= 1 or nothing" in text
    assert "i8xi3" in text
    assert (
        "buffers.weight.size_bytes: found 1024, of which one step may hold 384; one "
        "weight_stationary fold has 32 x 32 weights of 8 bits, 1024 bytes; expected at least 2730"
    ) in found


def test_every_buffer_below_one_fold_is_told_with_the_size_it_needs(chip, mistakes):
    chip["array"] |= {"rows": 256, "columns": 512}
    for buffer in chip["buffers"].values():
        buffer["size_bytes"] = 512
    found = mistakes(chip)
    assert [line.split(":")[0] for line in found] == [
        f"buffers.{name}.size_bytes" for name in ("input", "weight", "output")
    ]
    assert [int(line.rsplit(" ", 1)[1]) for line in found] == [682, 349525, 4096]
    for name, line in zip(("input", "weight", "output"), found, strict=True):
        chip["buffers"][name]["size_bytes"] = int(line.rsplit(" ", 1)[1])
    assert fold_problems(mend(chip, Architecture)) == []
    for buffer in chip["buffers"].values():
        buffer["size_bytes"] -= 1
    assert len(fold_problems(mend(chip, Architecture))) == 3


def test_an_array_whose_fold_fits_no_unit_is_told_so(chip, mistakes):
    chip["array"] |= {"rows": 2048, "columns": 1024}
    (line,) = mistakes(chip)
    assert line.startswith("buffers.weight.size_bytes: found 262144")
    assert line.endswith("expected an array whose folds need at most 1048576")


def test_a_key_that_is_nearly_right_counts_for_the_rules(chip, mistakes):
    chip["array"]["colums"] = chip["array"].pop("columns")
    chip["memory"]["channels"] = 99
    found = mistakes(chip)
    assert 'array.colums: unknown key; did you mean "columns"?' in found
    assert any("found 99, but hbm2_2000 has 8" in line for line in found)
    assert len(found) == 2


def test_without_a_size_only_what_is_sure_is_told(chip, mistakes):
    chip["array"]["rows"] = "many"
    chip["memory"]["channels"] = 99
    assert mistakes(chip) == ['array.rows: found "many", expected an integer >= 1']


def test_mending_takes_nothing_for_a_value_that_may_be_missing(chip):
    chip["buffers"]["input"]["port_bytes"] = 0
    mended = mend(chip, Architecture)
    assert mended.buffers.input.port_bytes is None
    assert mended.buffers.weight.port_bytes == 32
    assert chip["buffers"]["input"]["port_bytes"] == 0
