"""docs/dataflows.md: its example prints what it says, its keys are those of a chip file."""

import re
from pathlib import Path
from typing import get_args

from sybil import Sybil
from sybil.parsers.markdown import PythonCodeBlockParser

from cosim.config import parse, read
from hwmodels.architecture import (
    ConventionName,
    Dataflow,
    Drain,
    MappingChoice,
    Objective,
    ProcessingArray,
    Schedule,
)
from hwmodels.conventions import CONVENTIONS
from hwmodels.dataflow import DATAFLOWS

ROOT = Path(__file__).resolve().parents[2]
PAGE = ROOT / "docs" / "dataflows.md"
TEXT = PAGE.read_text()


def test_its_example_prints_what_it_says(monkeypatch, tmp_path):
    (tmp_path / "configs").symlink_to(ROOT / "configs")
    monkeypatch.chdir(tmp_path)
    examples = list(Sybil([PythonCodeBlockParser()], path=str(ROOT)).parse(PAGE))
    assert examples
    for example in examples:
        example.evaluate()


def test_its_chip_file_is_read(tmp_path):
    path = tmp_path / "page.yaml"
    path.write_text(re.search(r"^```yaml\n(.*?)^```", TEXT, re.MULTILINE | re.DOTALL)[1])
    found = read(path)
    array = parse(found["array"], ProcessingArray, source="page")
    assert (array.dataflow, array.convention) == ("output_stationary", "scale_sim")
    assert parse(found["mapping"], MappingChoice, source="page") == MappingChoice()


def test_it_names_every_choice_that_a_chip_file_has():
    table = {word for line in TEXT.splitlines() if line.startswith("|") for word in line.split("`")}
    for choices in (Dataflow, Schedule, Drain, ConventionName, Objective):
        assert set(get_args(choices)) <= table


def test_chip_files_offer_every_dataflow_and_convention_there_is():
    assert set(get_args(Dataflow)) == set(DATAFLOWS)
    assert set(get_args(ConventionName)) == set(CONVENTIONS)
