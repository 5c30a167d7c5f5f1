"""Heat on every shipped chip: refresh settles where both agree, or the run says that none is known.

The oracle solves the balances of heat of a stack's YAML file, resistor by resistor, for the watts
of the ledger.
"""

from dataclasses import replace
from math import isfinite

import numpy as np
import pytest
import yaml
from click.testing import CliRunner

from cosim.chip import load_chip
from cosim.cli import main
from cosim.config import configs_root, read
from cosim.heat import settled
from cosim.simulate import simulate_any, simulate_workloads
from hwmodels.gemm_list import read_gemms

ROOT = configs_root().parent
FILES = {path.stem: path for path in sorted((configs_root() / "hardware").glob("*.yaml"))}
STACKS = {
    name: memory["thermal"]
    for name, memory in ((name, read(path)["memory"]) for name, path in FILES.items())
    if "thermal" in memory
}
WITHOUT = {
    "edge_tpu_64": "its DRAM is the host's",
    "gemmini_16": "its DRAM lies beside it",
    "hypothetical_m3d_32": "its memory is SRAM",
    "ticsat_16": "its DRAM lies beside it",
    "ticsat_32": "its DRAM lies beside it",
    "ticsat_4": "its DRAM lies beside it",
    "ticsat_8": "its DRAM lies beside it",
    "tpuv4i_4x128": "its stacks stand beside it",
    "tpuv4i_quarter_128": "its stacks stand beside it",
}
LIMITS_C = {1: 85, 2: 95, 4: 105}


def product(folder, frames):
    """Return a list of one product of wav2vec2-base on so many frames of speech."""
    path = folder / "product.csv"
    path.write_text(f"name,m,n,k,bits\nquery,{frames},768,768,8\n")
    return path


def balanced(chip, rows, seconds):
    """Return the temperature of every node where what comes in flows out."""
    stack = yaml.safe_load((ROOT / STACKS[chip]).read_text())
    dies = stack["dram_dies"]
    dram = sum(
        row["energy_j"]
        for row in rows
        if row["component"] == "memory" and row["action"] != "io_bit"
    )
    logic = sum(row["energy_j"] for row in rows) - dram
    nodes = [f"dram_{i}" for i in range(dies)]
    nodes = [*nodes, "logic"] if stack["logic"] == "above" else ["logic", *nodes]
    watts = {"logic": logic / seconds} | {f"dram_{i}": dram / dies / seconds for i in range(dies)}
    area = stack["area_m2"]["value"]

    def conductance(slabs):
        return area / sum(one["height_m"] / one["conductivity_w_per_m_k"] for one in slabs)

    between, out = conductance(stack["die"].values()), conductance([stack["sink"]])
    count = len(nodes) + 1
    matrix = np.zeros((count, count))
    for i in range(count - 1):
        matrix[i : i + 2, i : i + 2] += between * np.array([[1, -1], [-1, 1]])
    matrix[-1, -1] += out
    if "board_k_per_w" in stack:
        matrix[0, 0] += 1 / stack["board_k_per_w"]["value"]
    rises = np.linalg.solve(matrix, [*(watts[node] for node in nodes), 0.0])
    return dict(zip([*nodes, "sink"], rises + stack["ambient_c"]["value"], strict=True))


def test_each_shipped_chip_has_a_stack_or_a_reason_for_none():
    assert {*STACKS, *WITHOUT} == {*FILES}
    assert not STACKS.keys() & WITHOUT.keys()
    for name, reason in WITHOUT.items():
        assert f"Its temperature is not modelled: {reason}" in FILES[name].read_text().replace(
            "\n# ", " "
        )


@pytest.mark.parametrize("name", STACKS)
def test_a_product_on_a_shipped_chip_is_as_hot_as_its_ledger_says(name, tmp_path):
    path = product(tmp_path, 499)
    _, total = simulate_any(path, FILES[name], assignments=["memory.fidelity=roofline"])
    found, rows = total["thermal"], total["energy_rows"]
    assert sum(row["energy_j"] for row in rows) == pytest.approx(total["energy_j"], rel=1e-12)
    expected = balanced(name, rows, total["seconds"])
    assert all(isfinite(value) for value in expected.values())
    assert found["temperatures_c"] == pytest.approx(expected, rel=1e-9)
    dram_c = max(value for node, value in expected.items() if node.startswith("dram"))
    assert found["ambient_c"] < found["dram_c"] == pytest.approx(dram_c, rel=1e-9)
    rate = min(rate for rate, limit_c in LIMITS_C.items() if dram_c <= limit_c)
    assert found["refresh_multiplier"] == rate


@pytest.mark.parametrize("name", STACKS)
def test_a_shipped_chip_in_a_hot_place_settles_at_twice_the_refresh_and_pays_for_it(name, tmp_path):
    work = read_gemms(product(tmp_path, 64))
    chip = load_chip(FILES[name])
    runs = {}

    def run(own):
        rate = own.dram.refresh_rate
        if rate not in runs:
            runs[rate] = simulate_workloads([work], own, "product")
        return runs[rate]

    _, cool = settled(chip, run, lambda stats: stats)
    assert cool.refresh_multiplier == 1
    ambient = replace(chip.thermal.ambient_c, value=cool.ambient_c + 86 - cool.dram_c, high=90)
    hot_chip = replace(chip, thermal=replace(chip.thermal, ambient_c=ambient))
    stats, hot = settled(hot_chip, run, lambda stats: stats)
    assert hot.tried[0] == (1, pytest.approx(86, abs=1e-9))
    assert (hot.refresh_multiplier, set(runs)) == (2, {1, 2})
    assert 85 < hot.dram_c <= 95
    assert stats is runs[2]

    spec = chip.dram.spec
    due_s = spec.cycles("tREFI") * spec.ticks_per_clock * spec.tick_s
    ranks = spec.organisation.channels * spec.organisation.pseudo_channels
    for rate, one in runs.items():
        done = sum(row.count for row in one.energy if row.action == "refresh_rank")
        assert done / ranks == pytest.approx(rate * one.seconds / due_s, abs=2)
        assert sum(row.energy_j for row in one.energy) == pytest.approx(one.energy_j, rel=1e-12)


@pytest.mark.parametrize("name", WITHOUT)
def test_a_chip_without_a_stack_says_that_its_temperature_is_not_modelled(name, tmp_path):
    roofline = ["memory.fidelity=roofline"]
    _, total = simulate_any(product(tmp_path, 8), FILES[name], assignments=roofline)
    assert total["thermal"] is None


def test_the_table_says_so_too(tmp_path):
    place = ("--hardware", str(FILES["edge_tpu_64"]))
    found = CliRunner().invoke(
        main, ["simulate", str(product(tmp_path, 8)), *place], catch_exceptions=False
    )
    assert "temperature not modelled: the chip names no memory.thermal" in found.output
