"""`cosim bench --filter simulate`: rows, other simulators in their own environments, and tables."""

import math
import sys
from types import SimpleNamespace

import pytest
from silent import Silent

from cosim.bench import simulator_peers, simulators
from cosim.bench.simulator_peers import SIMULATORS
from cosim.errors import CosimError
from cosim.report.simulators_table import print_simulators, simulators_markdown

WORKER = """#!{python}
import json, sys
print(json.dumps({{"version": "0.9"}}), flush=True)
for line in sys.stdin:
    job = json.loads(line)
    if job["name"] == "{breaks}":
        sys.exit("some trace\\nno such layer")
    print(json.dumps({{"cycles": job["m"] * job["rows"], "cpu_seconds": 7.0}}), flush=True)
"""


@pytest.fixture(autouse=True)
def _no_simulators(monkeypatch):
    for simulator in SIMULATORS:
        monkeypatch.delenv(simulator.variable, raising=False)


def interpreter(folder, breaks=""):
    """Return a program that answers jobs as a worker does, whatever script it is given."""
    path = folder / "python"
    path.write_text(WORKER.format(python=sys.executable, breaks=breaks))
    path.chmod(0o755)
    return str(path)


def rows(text, rounds=1):
    return list(simulators.simulator_rows(text, rounds, Silent()))


def test_a_row_says_how_many_cycles_a_second_and_what_was_not_measured():
    (row,) = rows("simulate_av/")
    m, n, k = simulators.LAYERS["av"]
    assert row["case"] == f"simulate_av/{k}x{n}-T{m}"
    assert row["cycles"] >= math.ceil(m * n * k / 128**2)
    assert row["cycles_per_second"] == row["cycles"] / row["seconds"]
    assert (row["peers"], row["ratio_torch"]) == ({}, None)
    assert [note.partition(",")[0] for note in row["notes"]] == [
        "scale_sim: not measured",
        "zigzag: not measured",
    ]
    assert all(one.variable in note for one, note in zip(SIMULATORS, row["notes"], strict=True))


def test_another_simulator_is_asked_in_its_own_environment(monkeypatch, tmp_path):
    monkeypatch.setenv("COSIM_ZIGZAG_PYTHON", interpreter(tmp_path))
    found = rows("simulate_q", rounds=2)
    assert [row["kernel"] for row in found] == ["simulate_qk", "simulate_qkvo"]
    for row in found:
        peer = row["peers"]["zigzag"]
        assert (peer["cycles"], peer["version"]) == (499 * 128, "0.9")
        low, high, coverage = peer["ratio_ours_interval"]
        assert low <= peer["ratio_ours"] <= high
        assert low <= 7.0 / row["seconds"] <= high
        assert coverage == 0.5  # of two rounds
        assert [note.partition(":")[0] for note in row["notes"]] == ["scale_sim"]


def test_all_layers_together_are_one_more_row_of_sums(monkeypatch, tmp_path):
    monkeypatch.setenv("COSIM_SCALE_SIM_PYTHON", interpreter(tmp_path))
    *layers, total = simulators._layer_rows(list(simulators.LAYERS), 1, Silent())
    assert total["case"] == "simulate_layers/5layers"
    for key in ("cycles", "simpy_events"):
        assert total[key] == sum(row[key] for row in layers)
    assert total["seconds"] == pytest.approx(sum(row["seconds"] for row in layers))
    peer = total["peers"]["scale_sim"]
    assert (peer["seconds"], peer["cycles"]) == (35.0, 5 * 499 * 128)
    assert peer["ratio_ours"] == pytest.approx(35.0 / total["seconds"])


def test_a_variable_that_names_nothing_is_the_users_mistake(monkeypatch, tmp_path):
    monkeypatch.setenv("COSIM_ZIGZAG_PYTHON", str(tmp_path / "python"))
    with pytest.raises(CosimError, match=r"COSIM_ZIGZAG_PYTHON: found .*, no such file; expected"):
        rows("simulate_qk/")


def test_a_simulator_that_breaks_is_told_by_its_last_words(monkeypatch, tmp_path):
    monkeypatch.setenv("COSIM_ZIGZAG_PYTHON", interpreter(tmp_path, breaks="qk"))
    with pytest.raises(RuntimeError, match=r"^zigzag ended: no such layer$"):
        rows("simulate_qk/")


def test_an_environment_without_the_simulator_is_told(monkeypatch):
    monkeypatch.setenv("COSIM_SCALE_SIM_PYTHON", sys.executable)
    with (
        pytest.raises(RuntimeError, match=r"^scale_sim ended: .*scalesim"),
        simulator_peers.started(SIMULATORS[0]),
    ):
        pass


def test_models_are_simulated_with_memory_at_the_roofline(monkeypatch):
    chips = []

    class Listed:
        cycles = SimpleNamespace(total=8)
        simpy_events = 1

    monkeypatch.setattr(simulators, "build_from", lambda *_args, **_options: None)
    monkeypatch.setattr(
        simulators, "Caller", lambda _artefact: SimpleNamespace(utterance=lambda *_args: [])
    )
    monkeypatch.setattr(
        simulators, "simulate_workloads", lambda _calls, chip, _name: chips.append(chip) or Listed
    )
    (row,) = rows("simulate_whisper")
    assert {chip.architecture.memory.fidelity for chip in chips} == {"roofline"}
    assert row["fidelity"] == "roofline"
    assert "ours, roofline" in simulators_markdown([row])


def test_tables_show_each_simulator_beside_ours(monkeypatch, tmp_path, capsys):
    monkeypatch.setenv("COSIM_ZIGZAG_PYTHON", interpreter(tmp_path))
    (row,) = rows("simulate_qk/")
    print_simulators([row])
    printed = capsys.readouterr().out
    page = simulators_markdown([row, {"case": "w8a8/1x1-T1"}])
    for text in (printed, page):
        assert f"{row['cycles']:,}" in text
        assert "zigzag 0.9" in text
        assert f"{row['peers']['zigzag']['ratio_ours']:,.0f} (" in text
        assert "w8a8" not in text
    assert simulators_markdown([{"case": "w8a8/1x1-T1"}]) == ""
