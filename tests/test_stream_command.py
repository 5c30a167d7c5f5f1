"""`cosim stream`: a finished run's utterances over time, priced by the ledger of its chip."""

import json
import math
import re
import shlex
from pathlib import Path

import pytest
from click.testing import CliRunner
from sybil import Sybil
from sybil.parsers.markdown import PythonCodeBlockParser

from cosim.chip import load_chip
from cosim.cli import main
from cosim.config import load, resolve
from cosim.simulate import simulate_any
from hwmodels.dram.energy import DramEnergy, core_figures
from hwmodels.dram.spec import DramSpec

PAGE = Path(__file__).resolve().parents[1] / "docs" / "streams.md"
CHIP = "configs/hardware/stacked_edge_32.yaml"
CYCLES = {"a": 500_000_000, "b": 1_000_000_000, "c": 250_000_000}


@pytest.fixture(scope="module")
def ledger(tmp_path_factory):
    """The totals of a simulation: what `run.json` holds of the chip."""
    path = tmp_path_factory.mktemp("list") / "products.csv"
    path.write_text("name,m,n,k,count,a_number,w_number\none,4,8,8,1,i8,i8\n")
    return simulate_any(path, resolve(CHIP), assignments=["memory.fidelity=roofline"])[1]


@pytest.fixture
def run(tmp_path, ledger):
    """A run folder of three utterances at 1 GHz; each lasted 2 s and took a joule."""
    folder = tmp_path / "run"
    folder.mkdir()
    hardware = {"name": "stacked_edge_32", "clock_hz": 1e9}
    totals = ledger | {"cycles": sum(CYCLES.values())}
    document = {"schema": 1, "name": "small", "hardware": hardware, "totals": totals}
    (folder / "run.json").write_text(json.dumps(document))
    rows = [
        {"id": name, "text": "", "duration_s": 2.0, "cycles": cycles, "energy_j": 1.0}
        for name, cycles in CYCLES.items()
    ]
    (folder / "utterances.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folder


def invoke(*arguments):
    return CliRunner().invoke(main, ["stream", *map(str, arguments)])


def table(*arguments):
    result = invoke(*arguments, "--json")
    assert result.exit_code == 0, result.output
    document = json.loads(result.output)
    assert document["schema"] == 1
    return document["rows"], document["total"]


def refused(*arguments):
    result = invoke(*arguments)
    assert result.exit_code == 2, (result.output, result.exception)
    return result.output


def write(path, *rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def test_a_batch_is_served_in_the_order_of_the_run(run):
    rows, total = table(run, "--arrivals", "batch")
    log = [(row["id"], row["arrival_s"], row["start_s"], row["end_s"]) for row in rows]
    assert log == [("a", 0, 0, 0.5), ("b", 0, 0.5, 1.5), ("c", 0, 1.5, 1.75)]
    assert total["window_s"] == total["busy_s"] == 1.75
    assert total["idle_s"] == total["idle_energy_j"] == 0
    assert total["waiting_s"]["max"] == 1.5
    assert total["energy_j"] == 3.0
    assert total["seed"] is None
    assert total["throughput_hz"] == 3 / 1.75


def test_idle_chips_pay_leakage_and_background_of_their_files(run):
    starts = write(run / "starts.jsonl", *({"id": "c", "start": 8.0 * i} for i in range(4)))
    rows, total = table(run, "--arrivals", starts, "--chips", 2, "--battery-wh", 5)
    assert [row["start_s"] for row in rows] == [2, 10, 18, 26]  # complete 2 s after its start
    assert [row["chip"] for row in rows] == [0, 1, 0, 1]
    assert total["waiting_s"]["max"] == 0
    assert total["idle_s"] == 2 * 26.25 - 4 * 0.25
    chip = load_chip(resolve(CHIP))
    parts, table_of = chip.architecture, chip.energy
    size_bytes = sum(buffer.size_bytes for buffer in vars(parts.buffers).values())
    idle_w = (
        table_of.sram_leakage_w_per_byte.value * size_bytes
        + table_of.cell_leakage_w.value * 32 * 32
        + table_of.lane_leakage_w.value * parts.vector_unit.lanes
        + chip.technology.background_w.value * parts.memory.channels
    )
    assert math.isclose(total["idle_energy_j"], idle_w * total["idle_s"], rel_tol=1e-9)
    assert math.isclose(
        sum(row["energy_j"] for row in total["idle_energy_rows"]), total["idle_energy_j"]
    )
    assert math.isclose(total["energy_j"], 4.0 + total["idle_energy_j"])
    assert math.isclose(total["energy_per_hour_j"], 3600 * total["energy_j"] / 26.25)
    assert math.isclose(total["battery_hours"], 5 * 3600 / total["energy_per_hour_j"])
    assert "2 utterances of the run are not in" in " ".join(total["warnings"])


def test_a_controller_without_work_keeps_rows_closed_and_refreshes(run, tmp_path):
    path = tmp_path / "products.csv"
    path.write_text("m,n,k,bits\n4,8,8,8\n")
    found = simulate_any(path, resolve(CHIP))[1]
    document = json.loads((run / "run.json").read_text())
    document["totals"] = found | {"cycles": sum(CYCLES.values())}
    (run / "run.json").write_text(json.dumps(document))
    total = table(run, "--arrivals", "batch", "--chips", 4)[1]
    joules = {
        row["action"]: row["energy_j"]
        for row in total["idle_energy_rows"]
        if row["component"] == "memory"
    }
    spec = load(resolve("configs/memory/timing/hbm2_2000.yaml"), DramSpec)
    energy = load(resolve("configs/memory/energy/hbm2_2000.yaml"), DramEnergy)
    core = core_figures(spec, energy)
    refresh_w = core["refresh_j"].value / 3900e-9
    ranks = 8 * 2  # pseudo-channels of one rank
    for action, expected_w in (("background", core["closed_w"].value), ("refresh", refresh_w)):
        expected_j = ranks * expected_w * total["idle_s"]
        assert math.isclose(joules[action], expected_j, rel_tol=1e-3), action
    assert total["energy_by_cause_j"]["idle_refresh"] == joules["refresh"]
    assert math.isclose(sum(total["energy_by_cause_j"].values()), total["energy_j"])
    shown = invoke(run, "--arrivals", "batch", "--chips", 4).output
    assert re.search(r"idle: array .*J, memory .*J, refresh .*J", shown)
    del document["totals"]["memory"]["rest_by_action_w"]  # a run of an earlier version
    (run / "run.json").write_text(json.dumps(document))
    again = table(run, "--arrivals", "batch", "--chips", 4)[1]
    assert math.isclose(again["idle_energy_j"], total["idle_energy_j"])


def test_speech_without_a_pause_arrives_as_it_is_spoken(run):
    rows, total = table(run, "--arrivals", "continuous", "--battery-wh", 1)
    assert [(row["arrival_s"], row["end_s"]) for row in rows] == [(2, 2.5), (4, 5), (6, 6.25)]
    assert total["window_s"] == 6.25
    assert total["seed"] is None
    joules = 3.0 + total["idle_energy_j"]
    assert math.isclose(total["battery_hours"], 6.25 / joules)


def test_segments_of_a_recording_arrive_where_they_end(run):
    rows = (run / "utterances.jsonl").read_text().replace('"a"', '"talk"').replace('"b"', '"x"')
    (run / "utterances.jsonl").write_text(rows.replace('"c"', '"talk@4.5"'))
    manifest = write(
        run / "manifest.jsonl",
        {"audio": "talk.wav", "offset": 4.5, "duration": 2.0, "text": "two"},
        {"audio_filepath": "talk.wav", "offset": 0, "duration": 2.0, "text": "one"},
    )
    found, _ = table(run, "--arrivals", manifest)
    assert [(row["id"], row["arrival_s"]) for row in found] == [("talk", 2.0), ("talk@4.5", 6.5)]


def test_random_arrivals_repeat_and_tell_how_much_is_offered(run):
    options = ("--arrivals", "poisson", "--rate-hz", 1.2, "--draw", 400)
    rows, total = table(run, *options)
    assert (rows, total) == table(run, *options)
    other, _ = table(run, *options, "--seed", 1)
    assert [row["arrival_s"] for row in other] != [row["arrival_s"] for row in rows]
    assert {row["id"] for row in rows} == set(CYCLES)
    mean_s = sum(row["service_s"] for row in rows) / 400
    assert math.isclose(total["offered_load"], 1.2 * mean_s)
    assert total["warnings"] == []
    assert all(row["service_s"] == CYCLES[row["id"]] / 1e9 for row in rows)
    responses = sorted(row["response_s"] for row in rows)
    assert total["response_s"]["max"] == responses[-1]
    assert responses[394] <= total["response_s"]["p99"] <= responses[396]
    _, over = table(run, "--arrivals", "poisson", "--rate-hz", 4)
    assert "the queue grows without end" in over["warnings"][0]
    assert "p99 of 3 utterances" in over["warnings"][1]


def test_the_table_names_chip_order_and_what_is_left_on(run):
    result = invoke(run, "--arrivals", "poisson", "--rate-hz", 0.5, "--battery-wh", 1)
    assert result.exit_code == 0, result.output
    for part in ("1 x stacked_edge_32", "in the order of the run", "at 0.5 /s, seed 0"):
        assert part in result.output
    for part in ("waiting", "p99", "nothing switched off", "1 Wh last", "warning: p99"):
        assert part in result.output


def test_all_mistakes_of_the_options_are_told_at_once(run):
    text = refused(run / "nowhere", "--arrivals", "poison", "--rate-hz", -1, "--chips", 0)
    assert "--rate-hz: found -1" in text
    assert "--rate-hz: found beside --arrivals poison" in text
    assert "--chips: found 0" in text
    assert 'did you mean "poisson"?' in text
    assert "no run.json, expected the folder of a finished `cosim run`" in text
    assert "--seed: found beside --arrivals batch" in refused(
        run, "--arrivals", "batch", "--seed", 1
    )
    assert "--rate-hz: found 1e-300" in refused(run, "--arrivals", "poisson", "--rate-hz", 1e-300)
    text = refused(run, "--arrivals", "poisson", "--draw", 0, "--seed", -1, "--battery-wh", 0)
    for part in ("--rate-hz: missing", "--draw: found 0", "--seed: found -1", "--battery-wh"):
        assert part in text


def test_a_run_without_a_chip_is_refused(run):
    document = {"schema": 1, "name": "small", "totals": {"energy_rows": []}}
    (run / "run.json").write_text(json.dumps(document))
    write(run / "utterances.jsonl", {"id": "a", "duration_s": 1.0, "cycles": 0})
    text = refused(run, "--arrivals", "batch")
    for part in (
        "hardware: ",
        " cycles: found nothing",
        "utterances.0.cycles: found 0",
        "utterances.0.energy_j: missing",
    ):
        assert part in text
    (run / "run.json").write_text("{")
    assert "holds a file that is not what" in refused(run, "--arrivals", "batch")


def test_a_run_that_lost_an_utterance_is_refused(run):
    rows = (run / "utterances.jsonl").read_text().splitlines(keepends=True)
    (run / "utterances.jsonl").write_text("".join(rows[:2]))
    text = refused(run, "--arrivals", "batch")
    assert "found 1500000000 cycles in all, expected 1750000000 as in run.json" in text


def test_a_ledger_without_leakage_is_refused(run):
    document = json.loads((run / "run.json").read_text())
    rows = document["totals"]["energy_rows"]
    document["totals"]["energy_rows"] = [row for row in rows if row["action"] != "leakage"]
    (run / "run.json").write_text(json.dumps(document))
    text = refused(run, "--arrivals", "batch")
    assert [part in text for part in ("array leakage", "buffers leakage", "memory")] == [
        True,
        True,
        False,
    ]


def test_all_mistakes_of_a_file_of_arrivals_are_told_at_once(run):
    path = write(
        run / "starts.jsonl",
        {"id": "aa", "start": 1},
        {"id": "b", "start": "soon"},
        {"audio": "one.wav", "offset": 1.0},
        {"audio": "two.wav", "offset": 1.0},
    )
    with path.open("a") as file:
        file.write('{"id": "a"}\n{"id"\n[1]\n{"id": "a", "start": 1e300}\n')
    text = refused(run, "--arrivals", path, "--draw", 3)
    assert "--draw: found beside" in text
    assert "line 2: start: found" in text
    assert "line 5: start: missing" in text
    assert "line 6: not valid JSON" in text
    assert "line 7: " in text
    assert "line 8: start: " in text
    assert "found times of 3 clocks (offset in one.wav, offset in two.wav, start)" in text
    good = write(run / "starts.jsonl", {"id": "aa", "start": 1}, {"id": "a", "start": 1})
    text = refused(run, "--arrivals", good)
    assert 'line 1: id: found "aa", expected an utterance' in text
    assert 'did you mean "a"?' in text
    assert text.count("error:") == 1
    good.write_text("\n")
    assert "found no row" in refused(run, "--arrivals", good)


def test_the_commands_of_its_page_run_on_any_run(run, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "runs").mkdir()
    run.rename(tmp_path / "runs" / "quickstart")
    write(tmp_path / "day.jsonl", {"id": "a", "start": 12.5})
    block = re.search(r"^```console\n(.*?)^```", PAGE.read_text(), re.MULTILINE | re.DOTALL)[1]
    for line in block.splitlines():
        words = shlex.split(line.removeprefix("$ cosim stream "))
        result = invoke(*("100" if word == "10000" else word for word in words))
        assert result.exit_code == 0, result.output


def test_the_python_of_its_page_says_what_it_prints():
    for example in Sybil([PythonCodeBlockParser()]).parse(PAGE):
        example.evaluate()
