"""The heat of a simulated run: how it is told, and the refresh that it costs."""

import json
from pathlib import Path

import pytest
import yaml
from click.testing import CliRunner

from cosim.cli import main

ROOT = Path(__file__).resolve().parents[1]
CHIP = ROOT / "configs" / "hardware" / "stacked_edge_32.yaml"
EXACT = (
    "--set",
    "memory.channels=1",
    "--set",
    "memory.fidelity=exact",
    "--set",
    "memory.timing=configs/memory/timing/hbm2_2000.yaml",
)


@pytest.fixture
def simulate(tmp_path):
    """Return a function that simulates one layer in a stack at an ambient temperature."""
    path = tmp_path / "layer.csv"
    path.write_text("name,m,n,k,count,a_number,w_number\nlayer,8,2048,2048,1,i8,i8\n")
    stack = yaml.safe_load((ROOT / "configs/memory/thermal/stack_8high.yaml").read_text())

    def run(ambient_c, *options):
        place = tmp_path / "stack.yaml"
        stack["ambient_c"] = {"value": ambient_c, "source": "assumed for a test"}
        place.write_text(yaml.safe_dump(stack))
        found = CliRunner().invoke(
            main,
            [
                *("simulate", str(path), "--hardware", str(CHIP)),
                *("--set", f"memory.thermal={place}", *options),
            ],
            catch_exceptions=False,
        )
        return found.exit_code, found.output

    return run


def total(found):
    code, text = found
    assert code == 0, text
    return json.loads(text)["total"]


def test_heat_doubles_the_refreshes_and_they_take_time_and_energy(simulate):
    cool = total(simulate(20, "--json", *EXACT))
    hot = total(simulate(82, "--json", *EXACT))
    assert cool["thermal"]["refresh_multiplier"] == 1
    assert [one["refresh_multiplier"] for one in hot["thermal"]["tried"]] == [1, 2]
    assert hot["thermal"]["tried"][0]["dram_c"] > 85 > cool["thermal"]["dram_c"]
    times = [run["memory"]["commands"]["REFab"] / run["seconds"] for run in (cool, hot)]
    assert times[1] / times[0] == pytest.approx(2, rel=0.05)
    assert hot["energy_j"] > cool["energy_j"]
    assert hot["cycles"] > cool["cycles"]


def test_a_stack_too_hot_at_any_rate_is_refused_with_its_temperatures(simulate):
    code, text = simulate(103, *EXACT)
    assert code == 2
    assert "stacked_edge_32: stack_8high: 4 x refresh: " in text
    assert "expected at most 105 C" in text


def test_the_roofline_says_that_it_leaves_refresh_out(simulate):
    code, text = simulate(82, "--set", "memory.fidelity=roofline")
    assert code == 0
    assert "asks for refresh x2, which fidelity roofline leaves out of time and energy" in text
    assert "working without a pause: DRAM 9" in text
    assert "leaves out" not in simulate(20, "--set", "memory.fidelity=roofline")[1]


def test_a_file_that_is_no_stack_is_refused_with_all_its_mistakes(simulate, tmp_path):
    place = tmp_path / "broken.yaml"
    place.write_text("name: broken\ndram_dies: 0\nlogic: beside\n")
    code, text = simulate(20, "--set", f"memory.thermal={place}")
    assert code == 2
    for part in ("dram_dies", "logic", "area_m2", "sink", "ambient_c"):
        assert part in text
