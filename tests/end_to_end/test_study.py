"""A study in small: rows are those of single artefacts, mistakes are told at once, work is kept."""

import json
import re

import pytest

from cosim import run as run_module
from cosim.config import configs_root, read
from cosim.study import default_folder
from cosim.study_file import load_study

STUDIES = [
    path
    for path in sorted((configs_root() / "experiments").glob("*.yaml"))
    if "recipes" in read(path)
]
PRUNED = {
    "method": "prune_magnitude",
    "rate": 0.8,
    "scope": "local",
    "layers": {"kinds": ["linear"]},
}
RECIPES = [
    "configs/recipes/w8a8.yaml",
    "configs/recipes/w8a8_static.yaml",
    {"name": "pruned80", "about": "Four of five weights zero.", "methods": [PRUNED]},
]


def drawn_model(*, width, heads, layers):
    return {
        "name": "drawn",
        "family": "whisper",
        "weights": {"random": {"seed": 1}},
        "dimensions": {
            "width": width,
            "heads": heads,
            "encoder_layers": layers,
            "decoder_layers": layers,
            "hidden": 2 * width,
            "mels": 80,
            "vocabulary": 51864,
            "source_positions": 1500,
            "target_positions": 240,
        },
    }


def write_study(workspace, name="study.yaml", **changes):
    short = workspace.root / "short.jsonl"
    rows = workspace.manifest.read_text().splitlines(keepends=True)
    short.write_text("".join(rows[:2]))
    document = {
        "name": "small_study",
        "model": str(workspace.model),
        "recipes": RECIPES,
        "speech": [{"manifest": str(workspace.manifest)}, {"manifest": str(short)}],
        "calibration": {"manifest": str(short)},
    }
    return workspace.write(name, {**document, **changes})


@pytest.fixture(scope="module")
def studied(shared_workspace):
    """One finished study that the tests below read."""
    out = shared_workspace.root / "studied"
    page = shared_workspace.root / "page.md"
    path = write_study(shared_workspace)
    result = shared_workspace.invoke("run", path, "--out", out, "--markdown", page)
    assert result.exit_code == 0, result.output
    return shared_workspace, path, out


def rows_of(out):
    return json.loads((out / "study.json").read_text())["rows"]


def steady(out):
    document = json.loads((out / "study.json").read_text())
    for key in ("created", "wall_seconds"):
        document["total"].pop(key)
    return document


def test_every_recipe_is_measured_on_every_corpus_beside_fp32(studied):
    workspace, _, out = studied
    found = [(row["recipe"], row["speech"]) for row in rows_of(out)]
    corpora = [str(workspace.manifest), str(workspace.root / "short.jsonl")]
    names = ["fp32", "w8a8", "w8a8_static", "pruned80"]
    assert found == [(name, corpus) for corpus in corpora for name in names]
    for row in rows_of(out):
        assert row["words"] == (6 if row["speech"] == corpora[0] else 3)
        errors = row["substitutions"] + row["insertions"] + row["deletions"]
        assert row["wer"] == errors / row["words"]
        assert row["program_hash"]
    spoken = [json.loads(line) for line in (out / "utterances.jsonl").read_text().splitlines()]
    assert len(spoken) == 4 * (3 + 2)


def test_differences_are_to_fp32_on_the_same_corpus(studied):
    _, _, out = studied
    rows = rows_of(out)
    for row in rows:
        base = next(b for b in rows if b["recipe"] == "fp32" and b["speech"] == row["speech"])
        assert row["wer_difference"] == row["wer"] - base["wer"]
        low, high = row["wer_difference_interval"]
        assert low <= row["wer_difference"] <= high
    assert all(row["same_as_baseline"] == 1 for row in rows if row["recipe"] == "fp32")


def test_changed_weights_are_those_that_the_recipe_selects(studied):
    workspace, _, out = studied
    checkpoint = json.loads((workspace.root / "checkpoint/config.json").read_text())
    width, hidden = checkpoint["d_model"], checkpoint["encoder_ffn_dim"]
    blocks = 3 * 4 * width * width + 2 * 2 * width * hidden  # three attentions, two feed-forwards
    output = checkpoint["vocab_size"] * width  # tied to the embedding, once
    rows = {row["recipe"]: row for row in rows_of(out)}
    assert rows["fp32"]["changed_weights"] == 0
    assert rows["pruned80"]["changed_weights"] == blocks + output


@pytest.mark.parametrize("recipe", ["w8a8", "w8a8_static"])
def test_the_word_errors_of_an_artefact_are_those_of_its_row(studied, recipe):
    workspace, _, out = studied
    artefact = workspace.root / f"artefact_{recipe}"
    named = f"configs/recipes/{recipe}.yaml"
    calibrated = ("--calibration", workspace.manifest, "--calibration-limit", 2)  # those of short
    made = workspace.invoke(
        "compress", workspace.model, "--recipe", named, "--out", artefact, *calibrated
    )
    assert made.exit_code == 0, made.output
    heard = workspace.invoke("evaluate", artefact, "--speech", workspace.manifest, "--json")
    assert heard.exit_code == 0, heard.output
    table = json.loads(heard.stdout)
    row = next(
        row
        for row in rows_of(out)
        if row["recipe"] == recipe and row["speech"] == str(workspace.manifest)
    )
    assert table["total"]["program_hash"] == row["program_hash"]
    keys = ("wer", "cer", "substitutions", "insertions", "deletions", "words", "hit_limit")
    assert {key: table["total"][key] for key in keys} == {key: row[key] for key in keys}
    spoken = [json.loads(line) for line in (out / "utterances.jsonl").read_text().splitlines()]
    ours = [
        item["tokens"]
        for item in spoken
        if item["recipe"] == recipe and item["speech"] == str(workspace.manifest)
    ]
    assert ours == [item["tokens"] for item in table["rows"]]
    facts = json.loads((artefact / "artefact.json").read_text())["compression"]
    for key in ("size_bytes", "zipped_bytes", "mean_bits", "sparsity"):
        assert facts[key] == row[key]


def test_a_study_twice_gives_the_same_document_without_transcribing(studied, monkeypatch):
    workspace, path, out = studied
    before = steady(out)
    monkeypatch.setattr(run_module, "transcribe", None)
    again = workspace.invoke("run", path, "--out", out, "--json")
    assert again.exit_code == 0, again.output
    assert steady(out) == before
    assert json.loads(again.stdout)["rows"] == before["rows"]


def test_a_killed_study_goes_on_and_an_edited_recipe_is_measured_alone(studied, monkeypatch):
    workspace, path, finished = studied
    out = workspace.root / "killed"
    real = run_module.transcribe
    calls = []

    def dies(maker, speech, **keywords):
        calls.append(len(speech.utterances) - len(keywords["finished"]))
        if len(calls) == 3:
            report = keywords["report"]

            def one_only(transcript):
                report(transcript)
                raise KeyboardInterrupt

            keywords = {**keywords, "report": one_only, "workers": 1}
        return real(maker, speech, **keywords)

    monkeypatch.setattr(run_module, "transcribe", dies)
    assert workspace.invoke("run", path, "--out", out).exit_code == 130
    assert not (out / "study.json").exists()
    calls[:] = [0] * 9
    assert workspace.invoke("run", path, "--out", out).exit_code == 0
    assert 0 <= calls[9] < 3  # of the third part, one at least was heard before
    assert calls[10:] == [2, 3, 2, 3, 2]
    assert steady(out) == steady(finished)
    edited = "recipes.2.methods.0.rate=0.9"
    calls[:] = [0] * 9
    assert workspace.invoke("run", path, "--out", out, "--set", edited).exit_code == 0
    assert calls[9:] == [3, 2]
    changed = [a["recipe"] for a, b in zip(rows_of(out), rows_of(finished), strict=True) if a != b]
    assert set(changed) <= {"pruned80", *_frontier(out), *_frontier(finished)}


def _frontier(out):
    rows = json.loads((out / "pareto.json").read_text())["rows"]
    return {row["recipe"] for row in rows}


def test_all_mistakes_of_recipes_and_corpora_are_told_at_once(workspace):
    path = write_study(
        workspace,
        nmae="x",
        recipes=[
            "configs/recipes/w8a8.yaml",
            "configs/recipes/w8a9.yaml",
            {"name": "w8a8", "methods": []},
            {"name": "wrong", "methods": [{"method": "quantise", "layers": "*"}]},
            {"methods": [{**PRUNED, "rate": 2}]},
        ],
        speech=[{"manifest": "nowhere.jsonl"}, {"manifest": str(workspace.manifest), "limit": 0}],
    )
    out = workspace.root / "out"
    result = workspace.invoke("run", path, "--out", out)
    assert result.exit_code == 2
    for part in (
        "nmae",
        'did you mean "w8a8.yaml"',
        'recipes.2: name: found "w8a8" again',
        "quantize",
        "recipes.4.name",
        "methods.0.rate",
        "limit",
    ):
        assert part in result.output, result.output
    assert not out.exists()


def test_missing_speech_is_told_beside_wrong_recipes(workspace):
    path = write_study(
        workspace,
        recipes=["configs/recipes/w8a9.yaml"],
        speech=[{"manifest": "nowhere.jsonl"}],
        calibration={"manifest": "neither.jsonl"},
    )
    result = workspace.invoke("run", path, "--out", workspace.root / "out")
    assert result.exit_code == 2
    for part in ("w8a9", "nowhere.jsonl", "neither.jsonl"):
        assert part in result.output


def test_recipes_that_do_not_fit_the_model_are_all_told_before_anything_is_heard(
    workspace, monkeypatch
):
    monkeypatch.setattr(run_module, "transcribe", None)
    wrong = [
        {"name": f"wrong{index}", "methods": [{**PRUNED, "layers": glob}]}
        for index, glob in enumerate(("encoder.layrs.*", "decoder.layrs.*"))
    ]
    path = write_study(workspace, recipes=["configs/recipes/w8a8.yaml", *wrong])
    result = workspace.invoke("run", path, "--out", workspace.root / "out")
    assert result.exit_code == 2
    for part in ("recipes.1", "encoder.layrs.*", "recipes.2", "decoder.layrs.*"):
        assert part in result.output, result.output


def test_a_page_is_refused_for_an_experiment_of_one_recipe(workspace):
    result = workspace.invoke("run", workspace.experiment, "--markdown", workspace.root / "p.md")
    assert result.exit_code == 2
    assert "recipes" in result.output


def test_a_corpus_named_twice_is_refused(workspace):
    path = write_study(workspace, speech=[{"manifest": str(workspace.manifest)}] * 2)
    result = workspace.invoke("run", path, "--out", workspace.root / "out")
    assert result.exit_code == 2
    assert "expected each corpus once" in result.output


def test_a_study_of_drawn_weights_gives_sizes_and_says_why_there_are_no_word_errors(workspace):
    drawn = drawn_model(width=16, heads=2, layers=1)
    path = write_study(workspace, model=drawn, recipes=RECIPES[:1])
    out = workspace.root / "out"
    result = workspace.invoke("run", path, "--out", out)
    assert result.exit_code == 0, result.output
    document = json.loads((out / "study.json").read_text())
    assert "drawn" in document["total"]["note"]
    assert [row["wer"] for row in document["rows"]] == [None] * 4
    sizes = [row["size_bytes"] for row in document["rows"][:2]]
    assert sizes[0] > sizes[1] > 0
    assert "drawn" in (out / "table.md").read_text()


def test_the_table_in_the_folder_is_the_section_of_the_page(studied):
    workspace, _, out = studied
    table = (out / "table.md").read_text()
    assert table.strip() in (workspace.root / "page.md").read_text()
    assert "cosim run study.yaml" in table


def test_settings_reach_into_the_lists_of_a_study(workspace):
    path = write_study(workspace)
    found = load_study(path, ["speech=[{corpus: prompts}]", "recipes.0=configs/recipes/w4a8.yaml"])
    names = [entry.recipe.name for entry in found.entries]
    assert names == ["fp32", "w4a8", "w8a8_static", "pruned80"]
    assert found.speech[0].corpus == "prompts"
    assert default_folder(found) == default_folder(load_study(path))


@pytest.mark.slow
def test_every_kind_of_shipped_recipe_is_carried_out_from_weights_to_tokens(workspace):
    shipped = sorted((configs_root() / "recipes").glob("*.yaml"))
    shipped = [file for file in shipped if file.stem != "low_rank_ffn_50"]  # more than this width
    alike = {re.sub(r"[0-9]*\.[0-9]+", "share", str(read(file))): file for file in shipped}
    files = sorted(alike.values())  # of those that differ in shares alone, one
    path = write_study(
        workspace,
        model=drawn_model(width=64, heads=4, layers=2),
        recipes=[str(file) for file in files],
        speech=[{"manifest": str(workspace.manifest), "limit": 1}],
        calibration={"manifest": str(workspace.manifest), "limit": 2},
    )
    out = workspace.root / "out"
    result = workspace.invoke("run", path, "--out", out)
    assert result.exit_code == 0, result.output
    rows = rows_of(out)
    assert {row["recipe"] for row in rows} == {file.stem for file in files}
    plain = next(row for row in rows if row["recipe"] == "fp32")
    for row in rows:
        is_plain = row["recipe"] == "fp32"
        assert (row["program_hash"] == plain["program_hash"]) == is_plain, row["recipe"]
        assert row["about"], row["recipe"]
    decided = [json.loads(line) for line in (out / "decisions.jsonl").read_text().splitlines()]
    fuzzy = {file.stem for file in files if file.stem.startswith("fuzzy")}
    assert {row["recipe"] for row in decided} >= fuzzy
    assert len(fuzzy) == 2


@pytest.mark.parametrize("path", STUDIES, ids=lambda path: path.stem)
def test_shipped_studies_are_valid(path):
    study = load_study(path, ["speech=[{corpus: prompts}]", "calibration={corpus: prompts}"])
    assert not study.entries[0].recipe.methods
    assert len(study.entries) >= 15
