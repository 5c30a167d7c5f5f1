"""Chips that rest while idle: time line, ledger, and what one utterance a minute takes."""

import json
from dataclasses import replace
from math import isclose

import pytest
from click.testing import CliRunner

from cosim.chip import load_chip
from cosim.cli import main
from cosim.config import configs_root, load
from hwmodels.architecture import Figure
from hwmodels.area import chip_area
from hwmodels.arrivals import Task, idle_rows, serve
from hwmodels.energy import STATIC, EnergyRow, prices
from hwmodels.rest import RestState, rest_rows, resting

REST = configs_root() / "energy" / "rest"
STATES = sorted(REST.glob("*.yaml"))
MINUTE = 60 * 10**9


def figure(value, low=None, high=None):
    return Figure(value, "assumed for a test", low, high)


def static(joules=0.25):
    return [EnergyRow(*one, 1, joules, joules, 2 * joules, "assumed", "f") for one in STATIC]


def test_a_chip_rests_after_a_while_and_wakes_for_the_next():
    tasks = [Task("a", 0, 5), Task("b", 100, 5), Task("c", 112, 5)]
    found = serve(tasks, rest_after_fs=10, wake_fs=3)
    # idle from 5: at rest from 15 to 100; idle from 108 to 112: too short
    assert [(one.start_fs, one.end_fs) for one in found.served] == [(0, 5), (103, 108), (112, 117)]
    assert (found.rested_fs, found.wakes, found.window_fs) == (85, 1, 117)
    assert found.busy_fs + found.idle_fs == 117


def test_a_chip_that_is_never_needed_rests_to_the_end_without_a_wake():
    found = serve([Task("a", 0, 100)], chips=2, rest_after_fs=10, wake_fs=3)
    assert (found.rested_fs, found.wakes) == (90, 0)
    awake = serve([Task("a", 0, 100)], chips=2)
    assert (awake.rested_fs, awake.wakes) == (0, 0)
    with pytest.raises(ValueError, match="wake_fs: found -1"):
        serve([Task("a", 0, 100)], wake_fs=-1)


def test_resting_pays_after_the_time_that_one_wake_costs():
    # 1 W awake: memory a quarter of it. At rest: 0.75 / 2 + 0.25; waking takes 2 s and 4 J
    state = RestState("half", figure(0.5), figure(1.0), figure(2.0), figure(2.0))
    how = resting(state, static(), area_m2=2.0, clock_hz=1.0)
    assert how.after_s == pytest.approx((4.0 + 2.0) / (1.0 - 0.625))
    with pytest.raises(ValueError, match=r"no: takes 1 W, expected less than 1 W awake"):
        resting(replace(state, name="no", logic_share=figure(1.0)), static(), area_m2=1, clock_hz=1)
    wrong = replace(state, logic_share=figure(0.5, 0.6, 1.5))
    with pytest.raises(ValueError, match=r"logic_share: found low 0\.6") as error:
        resting(wrong, static(), area_m2=1, clock_hz=1)
    assert len(str(error.value).splitlines()) == 2


def test_the_ledger_of_rest_covers_all_time_without_work():
    state = RestState("half", figure(0.5, 0.25, 0.75), figure(1.0), figure(0.0), figure(3.0))
    how = resting(state, static(), area_m2=1.0, clock_hz=1.0)
    tasks = [Task("a", 0, 5), Task("b", 100, 5)]
    stats = serve(tasks, rest_after_fs=10, wake_fs=3)
    rows = rest_rows(static(), stats, how, period_fs=1)
    # 10 idle and 3 waking at 1 J each, 85 at rest: 0.75 / 2 + 0.25 each, one wake of 3 J
    assert sum(row.energy_j for row in rows) == pytest.approx(13 * 1.0 + 85 * 0.625 + 3.0)
    twice = rest_rows(static(), stats, how, period_fs=1, cores=2)
    assert [b.count / a.count for a, b in zip(rows, twice, strict=True)] == [2.0] * 8 + [1.0]
    assert rest_rows(static(), stats, None, period_fs=1) == idle_rows(static(), 13)
    assert all(row.energy_low_j <= row.energy_j <= row.energy_high_j for row in rows)


@pytest.mark.parametrize("path", STATES, ids=lambda path: path.stem)
def test_one_utterance_a_minute_is_static_energy_that_only_memory_asleep_saves(path):
    chip = load_chip(configs_root() / "hardware" / "stacked_edge_32.yaml")
    parts = chip.architecture, chip.technology
    priced = prices(*parts, chip.energy)
    rows = [
        EnergyRow(*one, 1, price.value_j, price.low_j, price.high_j, price.source, price.factor)
        for one, price in ((one, priced[one]) for one in STATIC)
    ]
    area_m2 = sum(row.area_m2 for row in chip_area(*parts, chip.energy))
    how = resting(load(path, RestState), rows, area_m2=area_m2, clock_hz=chip.clock_hz)
    period = 10**6
    tasks = [Task(f"u{i}", (i + 1) * MINUTE * period, 10**8 * period) for i in range(5)]
    stats = serve(tasks, rest_after_fs=how.after_fs, wake_fs=how.wake_fs)
    awake = sum(row.energy_j for row in idle_rows(rows, stats.idle_fs // period))
    resting_j = sum(row.energy_j for row in rest_rows(rows, stats, how, period_fs=period))
    assert awake / 5 > 0.5  # joules a minute, where an utterance takes about 0.14
    share = resting_j / awake
    assert share > 0.95 if path.stem == "power_gated" else 0.25 < share < 0.35
    assert how.after_s < 1.0


def _idle_minute(chip):
    """Return joules of a minute without work by component and action, from files alone."""
    priced = prices(chip.architecture, chip.technology, chip.energy)
    watts = {one: priced[one].value_j * chip.clock_hz for one in STATIC}
    if chip.dram is not None:
        parts = chip.dram.rest_by_action_w().items()
        watts |= {("memory", action): part.value for action, part in parts}
    return {one: 60 * power for one, power in watts.items()}


def test_its_page_tells_what_a_minute_without_work_takes():
    page = (configs_root().parent / "docs" / "streams.md").read_text()
    rows = [line.split("|")[1:-1] for line in page.splitlines() if line.startswith("| `")]
    told = {cells[0].split("`")[1]: cells[1:] for cells in rows}
    assert len(told) == 4
    asleep = load(REST / "asleep.yaml", RestState)
    for name, cells in told.items():
        chip = load_chip(configs_root() / "hardware" / f"{name}.yaml")
        joules = _idle_minute(chip)
        logic = sum(one for (part, _), one in joules.items() if part != "memory")
        work, leakage, memory, refresh, awake, gated, resting_j = (
            float(cell.replace("none", "0").split()[0]) for cell in cells[:7]
        )
        near = {"rel": 0.02, "abs": 0.006}  # the chip works for a hundredth of the minute
        assert leakage == pytest.approx(logic, **near)
        assert memory == pytest.approx(joules["memory", "background"], **near)
        assert refresh == pytest.approx(joules.get(("memory", "refresh"), 0), **near)
        assert awake == pytest.approx(work + leakage + memory + refresh, **near)
        kept = asleep.logic_share.value * leakage, asleep.memory_share.value * (memory + refresh)
        assert gated == pytest.approx(awake - leakage + kept[0], **near)
        assert resting_j == pytest.approx(work + sum(kept), **near)
        hours = [float(one) for one in cells[8].split(" and ")]
        assert hours == pytest.approx([600 / awake, 600 / resting_j], rel=0.01)
        grams = [float(one) for one in cells[9].split(" and ")]
        assert grams == pytest.approx([0.4 * one / 60 for one in (awake, resting_j)], rel=0.05)


def test_the_command_says_what_rest_saves_and_grams_of_co2(tmp_path):
    products = tmp_path / "products.csv"
    products.write_text("name,m,n,k,count,a_number,w_number\none,64,64,64,1,i8,i8\n")
    chip = str(configs_root() / "hardware" / "stacked_edge_32.yaml")
    done = CliRunner().invoke(main, ["simulate", str(products), "--hardware", chip, "--json"])
    totals = json.loads(done.output)["total"]
    hardware = {"name": "chip", "clock_hz": 1e9}
    (tmp_path / "run.json").write_text(
        json.dumps({"name": "small", "hardware": hardware, "totals": totals})
    )
    one = {"id": "u", "duration_s": 1.0, "cycles": totals["cycles"], "energy_j": totals["energy_j"]}
    (tmp_path / "utterances.jsonl").write_text(json.dumps(one) + "\n")

    def stream(*more):
        arrivals = ("--arrivals", "poisson", "--rate-hz", "0.1", "--draw", "20")
        return CliRunner().invoke(main, ["stream", str(tmp_path), *arrivals, *more])

    asleep = ("--rest", str(REST / "asleep.yaml"), "--grid-g-per-kwh", "400")
    awake = json.loads(stream("--json").output)["total"]
    found = json.loads(stream(*asleep, "--json").output)["total"]
    assert awake["rest"] is None
    assert found["wakes"] == 20
    assert found["energy_j"] < 0.5 * awake["energy_j"]
    assert isclose(found["co2_g_per_hour"], 0.4 * found["power_w"])
    assert isclose(sum(found["energy_by_cause_j"].values()), found["energy_j"])
    assert "20 wakes" in stream(*asleep).output
    assert "nothing switched off" in stream().output
    (tmp_path / "run.json").write_text(
        json.dumps({"name": "old", "hardware": hardware, "totals": totals | {"area_mm2": None}})
    )
    refused = stream(*asleep)
    assert refused.exit_code == 2
    assert "area" in refused.output
