"""cosim simulate and stream on chips of several cores: what is printed, and what waiting costs."""

import json
from pathlib import Path

import pytest
from click.testing import CliRunner

from cosim.cli import main

CHIP = Path(__file__).resolve().parents[1] / "configs" / "hardware" / "stacked_edge_32.yaml"
CORES = ("--set", "cores.count=2")


@pytest.fixture
def simulate(tmp_path):
    """Return a function that simulates one product on the edge chip with options."""
    path = tmp_path / "layer.csv"
    path.write_text("name,m,n,k,count,a_number,w_number\nlayer,64,512,512,1,i8,i8\n")

    def run(*options):
        arguments = ["simulate", str(path), "--hardware", str(CHIP), *options]
        found = CliRunner().invoke(main, arguments, catch_exceptions=False)
        return found.exit_code, found.output

    return run


def test_the_speed_up_is_that_over_one_core_with_all_the_memory(simulate):
    one = json.loads(simulate("--json")[1])["total"]
    two = json.loads(simulate("--json", *CORES)[1])["total"]
    assert "cores" not in one
    assert two["one_core_cycles"] == one["cycles"]
    assert two["speed_up"] == one["cycles"] / two["cycles"]
    assert two["core_efficiency"] == two["speed_up"] / 2
    assert 1 < two["speed_up"] < 2
    assert [core["macs"] for core in two["cores"]] == [one["macs"] // 2] * 2
    assert sum(core["dram_bytes"] for core in two["cores"]) == two["dram_bytes"]
    for core in two["cores"]:
        assert (
            core["busy_cycles"]
            + sum(
                core[f"stall_{name}_cycles"] for name in ("input", "weight", "output", "dependency")
            )
            == two["cycles"]
        )


def test_the_terminal_tells_of_cores(simulate):
    code, text = simulate(*CORES)
    assert code == 0
    assert "2 cores on one memory, busy" in text
    assert "times as fast as one of them" in text


def test_utterances_side_by_side_are_timed_each_and_together(simulate):
    split = ("--set", "cores.split=utterances")
    total = json.loads(simulate("--json", *CORES, *split, "--utterances", "3")[1])["total"]
    one = json.loads(simulate("--json")[1])["total"]
    assert [turn["core"] for turn in total["utterances"]] == [0, 1, 0]
    assert max(turn["end_s"] for turn in total["utterances"]) == total["seconds"]
    assert total["macs"] == 3 * one["macs"]
    assert total["one_core_cycles"] == 3 * one["cycles"]
    assert 1 < total["speed_up"] < 2
    code, text = simulate("--utterances", "3")
    assert code == 2
    assert "cores.split: utterances" in text


@pytest.mark.parametrize(
    ("assignment", "said"),
    [("cores.count=0", "cores.count"), ("cores.split=colums", 'did you mean "columns"')],
)
def test_impossible_cores_are_refused(simulate, assignment, said):
    code, text = simulate("--set", assignment)
    assert code == 2
    assert said in text


def test_a_chip_without_work_leaks_with_all_its_cores(tmp_path, simulate):
    window = {}
    for cores in (1, 2):
        ledger = json.loads(simulate("--json", "--set", f"cores.count={cores}")[1])["total"]
        hardware = {"name": "edge", "clock_hz": 1e9, "cores": cores}
        totals = ledger | {"cycles": 10**9}
        document = {"schema": 1, "name": "run", "hardware": hardware, "totals": totals}
        (tmp_path / "run.json").write_text(json.dumps(document))
        row = {"id": "a", "duration_s": 1.0, "cycles": 10**9, "energy_j": 1.0}
        (tmp_path / "utterances.jsonl").write_text(json.dumps(row) + "\n")
        starts = tmp_path / "starts.jsonl"
        starts.write_text(json.dumps({"id": "a", "start": 4.0}) + "\n")
        arguments = ["stream", str(tmp_path), "--arrivals", str(starts), "--json"]
        found = CliRunner().invoke(main, arguments, catch_exceptions=False)
        rows = json.loads(found.output)["total"]["idle_energy_rows"]
        window[cores] = {(row["component"], row["action"]): row["energy_j"] for row in rows}
    memory = ("memory", "background")
    for action, energy_j in window[1].items():
        times = 1 if action == memory else 2
        assert window[2][action] == pytest.approx(times * energy_j)


def test_cores_behind_the_controller_pay_for_every_command_once(simulate):
    timing = "memory.timing=configs/memory/timing/hbm2_2000.yaml"
    exact = ("--set", "memory.fidelity=exact", "--set", timing)
    total = json.loads(simulate("--json", *CORES, *exact)[1])["total"]
    counts = {
        row["action"]: row["count"] for row in total["energy_rows"] if row["component"] == "memory"
    }
    assert counts["read_burst"] == total["memory"]["commands"]["RD"]
    assert counts["write_burst"] == total["memory"]["commands"]["WR"]
    assert counts["read_burst"] + counts["write_burst"] == total["dram_bytes"] // 32
    assert total["energy_j"] == pytest.approx(sum(core["energy_j"] for core in total["cores"]))
