"""Energy and area in results: every split adds up, and other tables keep the counts of a run."""

import json
from dataclasses import asdict
from math import isclose
from pathlib import Path

import pytest
from click.testing import CliRunner

from cosim.chip import load_chip
from cosim.cli import main
from cosim.compare import _area_ratios, _energy_range
from cosim.compare_tables import compare_tables, named_tables, side_by_side
from cosim.config import configs_root
from cosim.errors import CosimError
from cosim.simulate import simulate_any
from hwmodels.energy import prices
from hwmodels.gemm_list import read_gemms
from hwmodels.reprice import reprice
from hwmodels.simulate import simulate

GEMMS = """name,m,n,k,count,a_number,w_number,density
query,99,96,64,3,i8,i8,
context,99,64,99,2,u8,i8,
"""
CHIP = configs_root() / "hardware" / "stacked_edge_32.yaml"


@pytest.fixture(scope="module")
def products(tmp_path_factory):
    path = tmp_path_factory.mktemp("energy") / "products.csv"
    path.write_text(GEMMS)
    return path


@pytest.fixture(scope="module")
def total(products):
    return simulate_any(products, CHIP)[1]


@pytest.fixture(scope="module")
def run_folder(products, total):
    """Return a folder that says of this work what a run says."""
    document = load_chip(CHIP).document
    chip = {key: document[key] for key in ("hardware", "memory")}
    text = json.dumps({"hardware": {"chip": chip}, "totals": total})
    (products.parent / "run.json").write_text(text)
    return products.parent


def test_every_split_adds_up_to_the_joules_of_the_run(total):
    whole = total["energy_j"]
    for split in ("component", "cause"):
        assert isclose(sum(total[f"energy_by_{split}_j"].values()), whole)
    factors = total["energy_by_factor_j"].values()
    assert isclose(sum(one["value"] for one in factors), whole)
    assert isclose(sum(one["high"] for one in factors), total["energy_high_j"])
    kinds = total["energy_by_kind_j"].values()
    assert isclose(sum(sum(causes.values()) for causes in kinds), whole)
    assert isclose(total["energy_per_mac_j"] * total["macs"], whole)
    assert isclose(total["power_w"] * total["seconds"], whole)
    assert total["energy_inherited_fraction"] == 0


def test_area_is_in_every_result(total):
    assert isclose(sum(row["area_mm2"] for row in total["area_rows"]), total["area_mm2"])
    assert total["area_low_mm2"] < total["area_mm2"] < total["area_high_mm2"]
    # 8 channels of 212 vias at a pitch of 40 um
    assert isclose(total["via_area_fraction"] * total["area_mm2"], 8 * 212 * 0.04**2)
    assert total["macs_per_second_per_mm2"] > 0


def test_repricing_is_simulating_with_the_other_table(products):
    chip = load_chip(CHIP)
    other = load_chip(CHIP, configs_root() / "energy" / "horowitz_45nm.yaml")
    parts = {"technology": chip.technology, "dram": chip.dram}
    ledgers = [
        simulate(read_gemms(products), chip.architecture, **parts, energy=one.energy).energy
        for one in (chip, other)
    ]
    again = reprice(ledgers[0], chip.architecture, chip.technology, table=other.energy)
    assert sorted(again, key=str) == sorted(ledgers[1], key=str)


def test_one_run_under_every_shipped_table(run_folder, total):
    rows = compare_tables(run_folder, ["all"])
    assert isclose(rows[0]["energy_j"], total["energy_j"])
    named = {row["table"]: row for row in rows[1:]}
    assert len(named) == len(list((configs_root() / "energy").glob("*.yaml")))
    assert isclose(named["aladdin_cacti_28nm"]["energy_ratio"], 1.0)
    nodes = [7, 12, 16, 22, 28, 32, 45, 65]
    joules = [named[f"aladdin_cacti_{nm}nm"]["energy_j"] for nm in nodes]
    assert joules == sorted(joules)
    assert named["horowitz_45nm"]["energy_inherited_fraction"] > 0
    assert named["aladdin_cacti_45nm"]["energy_inherited_fraction"] == 0
    for row in rows:
        assert row["energy_low_j"] <= row["energy_j"] <= row["energy_high_j"]
        assert isclose(sum(row["energy_by_cause_j"].values()), row["energy_j"])


def test_the_command_prints_tables_and_refuses_two_runs(run_folder):
    name = "configs/energy/horowitz_45nm.yaml"
    done = CliRunner().invoke(main, ["compare", str(run_folder), "--energy", name, "--json"])
    assert [row["table"] for row in json.loads(done.output)["rows"]][1:] == ["horowitz_45nm"]
    done = CliRunner().invoke(main, ["compare", str(run_folder), "--energy", name])
    assert "horowitz_45nm" in done.output
    with pytest.raises(CosimError, match=r"no run\.json"):
        compare_tables(Path("nowhere"), ["all"])
    with pytest.raises(CosimError, match="does not exist"):
        named_tables(["horowitz_54nm.yaml"])


def test_tables_that_lack_an_action_are_all_told_of():
    chip = load_chip(configs_root() / "hardware" / "composable_edge_32.yaml")
    tables = named_tables(["configs/energy/horowitz_45nm.yaml"])
    bare = type(tables[0])(**{**vars(tables[0]), "name": "bare", "actions": {}})
    with pytest.raises(CosimError, match="bare: no action") as error:
        side_by_side((), chip.architecture, chip.technology, tables=[*tables, bare], run="r")
    wanted = [line for line in error.value.problems if line.startswith("bare: no action")]
    assert len(wanted) > 5


def test_runs_of_one_chip_are_as_sure_of_their_ratio_as_their_memory_allows(total):
    twice = {
        **total,
        "energy_rows": [{**row, "count": 2 * row["count"]} for row in total["energy_rows"]],
    }
    found = _energy_range({"totals": twice}, {"totals": total}, is_whole=True)
    assert found["energy_ratio_interval"] == [pytest.approx(2.0), pytest.approx(2.0)]
    low, high = found["energy_ratio_interval_apart"]
    assert low < 1.8
    assert high > 2.2
    none = {"energy_ratio_interval": None, "energy_ratio_interval_apart": None}
    assert _energy_range({"totals": twice}, {"totals": total}, is_whole=False) == none


def test_twice_the_area_at_three_times_the_speed_is_half_as_fast_again_per_area():
    first, second = ({"totals": {"area_mm2": area}} for area in (2.0, 4.0))
    found = _area_ratios(second, first, 1 / 3)
    assert found == {"area_ratio": 2.0, "speed_per_area_ratio": pytest.approx(1.5)}
    unknown = {"area_ratio": None, "speed_per_area_ratio": None}
    assert _area_ratios(second, {"totals": {"area_mm2": None}}, 1 / 3) == unknown


def test_a_ledger_row_says_what_its_price_was_inherited_from(products):
    energy = configs_root() / "energy" / "tpu_v4i_7nm.yaml"
    rows = simulate_any(products, CHIP, energy=energy)[1]["energy_rows"]
    found = {(row["component"], row["action"]): row["inherited"] for row in rows}
    assert found["array", "clock"] == "aladdin_cacti_7nm"
    assert found["weight_buffer", "read_byte"] is None
    other = load_chip(CHIP, energy)
    priced = prices(other.architecture, other.technology, other.energy)
    assert asdict(priced["host", "op"])["inherited"] == "aladdin_cacti_7nm"
