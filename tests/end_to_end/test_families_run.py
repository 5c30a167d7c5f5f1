"""Models of other families through the whole path: own lengths, drawn weights, beams, tokens."""

import json
from dataclasses import replace

import pytest

from cosim.models import ModelConfig, RandomWeights, Tokens, Weights, load
from cosim.models.espnet_save import save_espnet

AED = {
    "vocabulary": 9,
    "encoder": {
        "width": 16,
        "heads": 2,
        "layers": 1,
        "hidden": 24,
        "taps": 5,
        "subsampling": "conv2d",
    },
    "decoder": {"layers": 1, "heads": 2, "hidden": 24},
    "features": {"mels": 80},
}
PIECES = ("<blank>", "<unk>", "▁wb", "▁wc", "▁w", "d", "e", "f", "<sos/eos>")
CTC = {
    "width": 16,
    "heads": 2,
    "layers": 1,
    "hidden": 24,
    "channels": [8, 8],
    "taps": [10, 4],
    "strides": [40, 8],
    "vocabulary": 9,
    "position_taps": 4,
    "position_groups": 2,
}


def run(workspace, name, model, *options):
    experiment = workspace.write(f"{name}.yaml", {**workspace.document(), "model": model})
    out = workspace.root / name
    done = workspace.invoke("run", experiment, "--out", out, *options)
    assert done.exit_code == 0, done.output
    rows = [json.loads(row) for row in (out / "utterances.jsonl").read_text().splitlines()]
    return json.loads((out / "run.json").read_text()), rows, done.output


def drawn(family, dimensions):
    weights = {"random": {"distribution": "normal", "seed": 0}}
    return {"name": family, "family": family, "weights": weights, "dimensions": dimensions}


def test_drawn_weights_are_simulated_and_their_wer_is_not_measured(shared_workspace):
    found, rows, told = run(shared_workspace, "drawn", drawn("conformer", AED))
    accuracy = found["accuracy"]
    assert accuracy["wer"] is None is accuracy["words"] is accuracy["baseline"]["wer"]
    assert accuracy["note"] == "not measured: the weights are drawn, not trained"
    assert "WER not measured: the weights are drawn" in told
    assert any("steps of drawn weights are assumed: 4 per second" in w for w in found["warnings"])
    assert accuracy["engines"][1]["same_text_as_baseline"] == 1  # fp32 decodes torch's tokens
    assert [row["steps"] for row in rows] == [round(4 * row["duration_s"]) for row in rows]
    cycles = [row["cycles"] for row in rows]
    assert cycles == sorted(set(cycles)), "longer audio takes longer where there is no window"
    assert found["model"]["window"].startswith("none")
    assert not list((shared_workspace.root / "drawn").glob("*.trn"))


def test_an_encoder_with_ctc_takes_no_steps(shared_workspace):
    found, rows, _ = run(shared_workspace, "ctc", drawn("wav2vec2", CTC))
    assert found["totals"]["cycles"] == sum(row["cycles"] for row in rows) > 0
    assert {row["steps"] for row in rows} == {0}


@pytest.fixture(scope="module")
def folder(shared_workspace):
    """A checkpoint with everything that text needs; nobody trained it."""
    config = ModelConfig("small", "conformer", Weights(random=RandomWeights(seed=1)), AED)
    pieces = shared_workspace.root / "pieces.txt"
    pieces.write_text("\n".join(PIECES) + "\n", encoding="utf-8")
    loaded = replace(load(config), tokens=Tokens("pieces", pieces))
    save_espnet(loaded, shared_workspace.root / "espnet")
    return shared_workspace.root / "espnet"


def test_every_step_of_a_beam_is_simulated(shared_workspace, folder):
    model = {"name": "small", "family": "conformer", "weights": {"folder": str(folder)}}
    found, rows, _ = run(shared_workspace, "beam", model)
    assert found["accuracy"]["wer"] is not None
    assert found["accuracy"]["words"] == 6
    assert found["accuracy"]["normalizer_name"] == "basic"
    assert all(sum(row["widths"]) == row["steps"] for row in rows)
    assert max(max(row["widths"]) for row in rows) > 1
    layers = (shared_workspace.root / "beam" / "layers.jsonl").read_text().splitlines()
    calls = {row["name"]: row["calls"] for row in map(json.loads, layers)}
    embedding = [count for name, count in calls.items() if name.startswith("step/decoder.embed")]
    assert embedding
    assert set(embedding) == {sum(row["steps"] for row in rows)}


def test_an_artefact_keeps_how_its_model_hears_and_writes(shared_workspace, folder):
    model = shared_workspace.write(
        "espnet.yaml", {"name": "small", "family": "conformer", "weights": {"folder": str(folder)}}
    )
    artefact = shared_workspace.root / "espnet_artefact"
    recipe = "configs/recipes/w8a8.yaml"
    made = shared_workspace.invoke("compress", model, "--recipe", recipe, "--out", artefact)
    assert made.exit_code == 0, made.output
    heard = shared_workspace.invoke(
        "evaluate", artefact, "--speech", shared_workspace.manifest, "--json"
    )
    assert heard.exit_code == 0, heard.output
    rows = json.loads(heard.stdout)["rows"]
    beam = (shared_workspace.root / "beam" / "utterances.jsonl").read_text().splitlines()
    assert [row["text"] for row in rows] == [json.loads(row)["text"] for row in beam]
