"""cosim simulate --set: another memory model and map for a chip, and what the report says of it."""

import json
from pathlib import Path

import pytest
from click.testing import CliRunner

from cosim.cli import main
from cosim.report.numbers import scaled
from cosim.report.run_table import LIMITED_BY
from hwmodels.dram.commands import LIMITS

ROOT = Path(__file__).resolve().parents[1]
CHIP = ROOT / "configs" / "hardware" / "stacked_edge_32.yaml"
EXACT = ("--set", "memory.fidelity=exact", "--set", "memory.timing=configs/memory/timing/")
APART = "memory.address_map=channel row bank column bank_group pseudo_channel"


@pytest.fixture
def simulate(tmp_path):
    """Return a function that simulates one layer on the edge chip with options."""
    path = tmp_path / "layer.csv"
    path.write_text("name,m,n,k,count,a_number,w_number\nlayer,4,512,512,1,i8,i8\n")

    def run(*options):
        found = CliRunner().invoke(
            main, ["simulate", str(path), "--hardware", str(CHIP), *options], catch_exceptions=False
        )
        return found.exit_code, found.output

    return run


def exact(stem="hbm2_2000"):
    return (*EXACT[:3], f"{EXACT[3]}{stem}.yaml")


def test_the_map_of_the_command_line_goes_before_that_of_the_table(simulate):
    results = []
    for options in (exact(), (*exact(), "--set", APART)):
        code, text = simulate("--json", *options)
        assert code == 0
        results.append(json.loads(text)["total"])
    spread, apart = results
    assert spread["cycles"] < apart["cycles"]
    assert apart["memory"]["address_map"] == APART.partition("=")[2]
    found = spread["memory"]
    assert found["binding_limit"] == max(found["limits"], key=found["limits"].get)
    assert sum(found["limits"].values()) == pytest.approx(1)
    assert found["read_latency_s"]["p50"] <= found["read_latency_s"]["p99"]
    moved = [one["read_bytes"] + one["write_bytes"] for one in found["requesters"].values()]
    assert sum(moved) == spread["dram_bytes"]
    stalls = {f"stall_{name}": one["stall_cycles"] for name, one in found["requesters"].items()}
    assert stalls == {name: spread["cycles_by_category"][name] for name in stalls}


def test_who_moves_what_and_where_the_joules_of_the_memory_go_is_printed(simulate):
    text = simulate(*exact())[1]
    total = json.loads(simulate("--json", *exact())[1])["total"]
    line = next(line for line in text.splitlines() if line.startswith("requesters: "))
    told, joules = line.removeprefix("requesters: ").split("; memory energy ")
    moved = {name: one["read_bytes"] + one["write_bytes"] for name, one in requesters(total)}
    assert [part.split()[0] for part in told.split(", ")] == list(moved)
    for name, one in requesters(total):
        assert f"(stalls {scaled(one['stall_cycles'])} cycles)" in told
        assert f"{name} {scaled(moved[name], 'B')} " in told
    whole = total["energy_by_component_j"]["memory"]
    assert joules.startswith(f"{scaled(whole, 'J')}: ")
    shares = [float(part.split()[-2]) for part in joules.partition(": ")[2].split(", ")]
    assert sum(shares) == pytest.approx(100, abs=0.05)


def requesters(total):
    return total["memory"]["requesters"].items()


def test_every_limit_is_told_in_words():
    assert set(LIMITED_BY) == set(LIMITS)


def test_the_limit_is_printed(simulate):
    code, text = simulate(*exact())
    assert code == 0
    assert "hbm2_2000 (ramulator2), limited by demand (the memory waits for requests)" in text
    assert "data buses: demand" in text
    assert all(f"% {name}" in text for name in ("hits", "misses", "conflicts"))
    assert "data buses" not in simulate("--set", "memory.fidelity=roofline")[1]
