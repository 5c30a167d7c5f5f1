"""The whole path in small: results repeat, resume, balance, and say what they are."""

import json
import math

import pytest

from cosim import run as run_module


@pytest.fixture(scope="module")
def finished(shared_workspace):
    """One run that the tests below look at and add to, but do not change."""
    out = shared_workspace.root / "out"
    result = shared_workspace.invoke("run", shared_workspace.experiment, "--out", out)
    assert result.exit_code == 0, result.output
    return shared_workspace


def document(folder):
    return json.loads((folder / "run.json").read_text())


def steady(folder):
    return {k: v for k, v in document(folder).items() if k not in ("created", "wall_seconds")}


def test_a_run_reports_three_engines_and_a_chip(finished):
    found = document(finished.root / "out")
    assert [row["engine"] for row in found["accuracy"]["engines"]] == [
        "torch fp32",
        "cosim fp32",
        "cosim w8a8",
    ]
    assert found["accuracy"]["words"] == 6
    assert found["accuracy"]["utterances"] == 3
    assert found["hardware"]["name"] == "stacked_edge_32"
    assert found["totals"]["cycles"] > 0
    assert found["totals"]["simpy_events"] > 0
    assert found["not_simulated"]
    assert found["model"]["source"]


def test_the_fp32_executor_hears_what_torch_hears(finished):
    rows = (finished.root / "out" / "utterances.jsonl").read_text().splitlines()
    for row in map(json.loads, rows):
        assert row["texts"]["cosim fp32"] == row["texts"]["torch fp32"]


def test_totals_are_sums_of_layers_and_of_utterances(finished):
    out = finished.root / "out"
    totals = document(out)["totals"]
    layers = [json.loads(row) for row in (out / "layers.jsonl").read_text().splitlines()]
    heard = [json.loads(row) for row in (out / "utterances.jsonl").read_text().splitlines()]
    for key in ("cycles", "macs"):
        assert sum(row[key] for row in layers) == totals[key] == sum(row[key] for row in heard)
    assert sum(totals["cycles_by_category"].values()) == totals["cycles"]
    assert sum(row["dram_bytes"] for row in heard) == totals["dram_bytes"]
    energy = sum(row["energy_j"] for row in totals["energy_rows"])
    assert math.isclose(energy, totals["energy_j"], rel_tol=1e-12)
    assert math.isclose(sum(row["energy_j"] for row in heard), energy, rel_tol=1e-9)
    assert all(row["source"] for row in totals["energy_rows"])
    assert sum(row["cycles"] for row in totals["by_kind"]) == totals["cycles"]


def test_the_same_experiment_twice_gives_the_same_document(finished):
    other = finished.root / "again"
    assert finished.invoke("run", finished.experiment, "--out", other).exit_code == 0
    assert steady(finished.root / "out") == steady(other)
    assert (finished.root / "out" / "layers.jsonl").read_bytes() == (
        other / "layers.jsonl"
    ).read_bytes()


def test_a_killed_run_goes_on_and_ends_in_the_same_result(finished, monkeypatch):
    other = finished.root / "killed"
    real = run_module.transcribe
    calls = []

    def dies(maker, speech, **keywords):
        calls.append(len(keywords["finished"]))
        if len(calls) == 2:
            report = keywords["report"]

            def one_only(transcript):
                report(transcript)
                raise KeyboardInterrupt

            keywords = {**keywords, "report": one_only, "workers": 1}
        return real(maker, speech, **keywords)

    monkeypatch.setattr(run_module, "transcribe", dies)
    assert finished.invoke("run", finished.experiment, "--out", other).exit_code == 130
    assert not (other / "run.json").exists()
    # a kill may cut the last line short
    part = other / "parts" / "cosim-fp32.jsonl"
    with part.open("a") as file:
        file.write('{"id": "u1", "te')
    calls[:] = [0, 0]
    assert finished.invoke("run", finished.experiment, "--out", other).exit_code == 0
    torch_done, fp32_done, recipe_done = calls[2:]
    assert torch_done == 3
    assert 1 <= fp32_done < 3
    assert recipe_done == 0
    assert steady(finished.root / "out") == steady(other)


def test_a_complete_run_is_shown_again_without_work(finished, monkeypatch):
    monkeypatch.setattr(run_module, "load", None)
    out = finished.root / "out"
    again = finished.invoke("run", finished.experiment, "--out", out)
    assert again.exit_code == 0
    assert "complete" in again.output


def test_a_folder_of_another_run_is_refused(finished):
    out = finished.root / "out"
    result = finished.invoke("run", finished.experiment, "--out", out, "--set", "seed=5")
    assert result.exit_code == 2
    assert "choose another --out" in result.output
    taken = finished.root / "taken"
    taken.mkdir()
    (taken / "mine.txt").write_text("keep me")
    result = finished.invoke("run", finished.experiment, "--out", taken)
    assert result.exit_code == 2
    assert "not a run folder" in result.output
    assert [path.name for path in taken.iterdir()] == ["mine.txt"]


def test_an_artefact_is_evaluated_and_simulated_as_in_the_run(finished):
    artefact = finished.root / "artefact"
    recipe = "configs/recipes/w8a8.yaml"
    made = finished.invoke("compress", finished.model, "--recipe", recipe, "--out", artefact)
    assert made.exit_code == 0, made.output
    heard = finished.invoke("evaluate", artefact, "--speech", finished.manifest, "--json")
    assert heard.exit_code == 0, heard.output
    total = json.loads(heard.stdout)["total"]
    accuracy = document(finished.root / "out")["accuracy"]
    assert total["wer"] == accuracy["wer"]
    rows = (finished.root / "out" / "utterances.jsonl").read_text().splitlines()
    first = json.loads(rows[0])
    chip = "configs/hardware/stacked_edge_32.yaml"
    told = finished.invoke(
        "simulate", artefact, "--hardware", chip, "--steps", first["steps"], "--json"
    )
    assert told.exit_code == 0, told.output
    assert json.loads(told.stdout)["total"]["cycles"] == first["cycles"]


def test_compare_of_a_run_with_itself_is_one(finished):
    out = finished.root / "out"
    result = finished.invoke("compare", out, out, "--json")
    assert result.exit_code == 0, result.output
    row = json.loads(result.stdout)["rows"][1]
    assert (row["cycles_ratio"], row["energy_ratio"], row["dram_ratio"]) == (1, 1, 1)
    assert row["wer_difference"] == 0
    assert row["wer_difference_interval"] == [0, 0]


def test_a_plain_recipe_needs_two_engines(workspace):
    result = workspace.invoke(
        "run",
        workspace.experiment,
        "--out",
        workspace.root / "plain",
        "--set",
        "recipe=configs/recipes/fp32.yaml",
        "--set",
        "speech.limit=1",
    )
    assert result.exit_code == 0, result.output
    found = document(workspace.root / "plain")
    assert len(found["accuracy"]["engines"]) == 2
    assert any("vector unit" in warning for warning in found["warnings"])


def test_profile_counts_what_the_checkpoint_holds(workspace):
    result = workspace.invoke("profile", workspace.model, "--json")
    assert result.exit_code == 0, result.output
    table = json.loads(result.stdout)
    assert table["schema"] == 1
    for key in ("parameters", "size_bytes", "macs", "bops_bayesian_bits"):
        assert sum(row[key] for row in table["rows"]) == table["total"][key]
    assert table["total"]["size_bytes"] == 4 * table["total"]["parameters"]
