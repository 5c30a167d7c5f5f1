"""docs/cells.md: its chip loads, and its cycles are those of the closed form."""

import re
from pathlib import Path

import pytest
import yaml
from wav2vec2_gemms import LAYERS

from cosim.chip import load_chip, parse_chip
from cosim.config import configs_root, read
from hwmodels.array import fold
from hwmodels.cells import operand_numbers
from hwmodels.precision import engine

PAGE = Path(__file__).resolve().parents[1] / "docs" / "cells.md"
HARDWARE = configs_root() / "hardware"


def rows(heading):
    part = PAGE.read_text().partition(f"## {heading}")[2].partition("\n## ")[0]
    table = [line.strip("| \n").split("|") for line in re.findall(r"^\|.*$", part, re.MULTILINE)]
    return [[cell.strip() for cell in row] for row in table[2:]]


def cycles(chip, operands):
    """Return the stall-free array cycles of all products."""
    total = 0
    for (m, n, k), count in LAYERS.values():
        found = engine(chip.architecture.array, *operand_numbers(operands), m=m, n=n, k=k)
        total += count * fold(found.array, m=m, n=n, k=found.words).total
    return total


@pytest.mark.parametrize("row", rows("Whole model, products alone"), ids=lambda row: row[0])
def test_the_cycles_of_the_table_are_those_of_the_chips(row):
    operands, fixed, composable, ratio = row
    chips = [load_chip(HARDWARE / f"{name}_edge_32.yaml") for name in ("stacked", "composable")]
    found = cycles(chips[1], operands)
    assert int(composable) == found
    if fixed:
        assert int(fixed) == cycles(chips[0], operands)
    else:
        assert operands not in chips[0].architecture.array.supports
    eight = cycles(chips[0], "i8xi8")
    assert float(ratio) == pytest.approx(eight / found, rel=0.005)


def test_the_array_of_the_page_is_a_chip():
    (text,) = re.findall(r"```yaml\n(.*?)```", PAGE.read_text(), re.DOTALL)
    hardware = read(HARDWARE / "stacked_edge_32.yaml")
    hardware["array"] |= yaml.safe_load(text)["array"]
    chip = parse_chip(
        hardware,
        read(configs_root() / "energy" / "aladdin_cacti_28nm.yaml"),
        source="page",
        table_source="energy",
        relative_to=HARDWARE / "stacked_edge_32.yaml",
    )
    assert chip.architecture.array.xnor is not None
