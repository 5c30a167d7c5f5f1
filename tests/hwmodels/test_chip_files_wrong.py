"""A chip file with mistakes gets one error that tells them all: fields, and rules between them."""

from copy import deepcopy
from itertools import combinations

import pytest
import yaml

from cosim.chip import load_chip
from cosim.config import configs_root, read
from cosim.errors import CosimError
from cosim.mend import mend
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
    assert fold_problems(mend(chip, Architecture)[0]) == []
    for buffer in chip["buffers"].values():
        buffer["size_bytes"] -= 1
    assert len(fold_problems(mend(chip, Architecture)[0])) == 3


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


def test_a_fold_without_a_size_is_not_judged_and_all_else_is(chip, mistakes):
    chip["array"]["rows"] = "many"
    chip["buffers"]["weight"]["size_bytes"] = 100
    chip["memory"]["channels"] = 99
    first, second = mistakes(chip)
    assert first == 'array.rows: found "many", expected an integer >= 1'
    assert "memory.channels: found 99, but hbm2_2000 has 8" in second


def test_a_buffer_below_one_fold_is_told_where_no_precision_is_possible(chip, mistakes):
    chip["array"]["supports"] = ["i3xi9"]
    chip["buffers"]["weight"]["size_bytes"] = 100
    first, second = mistakes(chip)
    assert 'array.supports.0: found "i3xi9"' in first
    assert second.startswith("buffers.weight.size_bytes: found 100")


MISTAKES = {  # key path: a value that is wrong, and what is said
    "array.dataflow": ("row_stationary", 'array.dataflow: found "row_stationary"'),
    "array.supports": (["i3xi9"], 'array.supports.0: found "i3xi9"'),
    "buffers.input.port_bytes": (0, "buffers.input.port_bytes: found 0"),
    "buffers.weight.size_bytes": (100, "buffers.weight.size_bytes: found 100, of which"),
    "cores.split": ("layers", 'cores.split: found "layers"'),
    "mapping.objective": ("speed", 'mapping.objective: found "speed"'),
    "memory.address_map": ("row", "address_map: channel is missing"),
    "memory.fidelty": ("exact", 'memory.fidelty: unknown key; did you mean "fidelity"?'),
    "memory.policy": ("oldest", 'policy: unknown policy "oldest"'),
}


def test_mistakes_are_told_together_as_each_alone(chip, mistakes):
    for keys in (*list(combinations(MISTAKES, 3))[::17], tuple(MISTAKES)):
        document = deepcopy(chip)
        for key in keys:
            *path, last = key.split(".")
            at = document
            for name in path:
                at = at.setdefault(name, {})
            at[last] = MISTAKES[key][0]
        text = "\n".join(mistakes(document))
        missing = [key for key in keys if MISTAKES[key][1] not in text]
        assert not missing, text
        assert "without memory.timing" not in text


def test_timings_that_do_not_exist_are_told_by_their_key_and_once(chip, mistakes):
    chip["memory"]["timing"] = "configs/memory/timing/hbm2_20000.yaml"
    (line,) = mistakes(chip)
    assert line.startswith('memory.timing: "configs/memory/timing/hbm2_20000.yaml" does not exist')
    assert 'did you mean "hbm2_2000.yaml"?' in line


def test_mending_takes_nothing_for_a_value_that_may_be_missing(chip):
    chip["buffers"]["input"]["port_bytes"] = 0
    mended, guessed = mend(chip, Architecture)
    assert guessed == ()
    assert mended.buffers.input.port_bytes is None
    assert mended.buffers.weight.port_bytes == 32
    assert chip["buffers"]["input"]["port_bytes"] == 0
