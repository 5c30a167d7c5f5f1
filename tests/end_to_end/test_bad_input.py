"""What a user gets wrong is told once, whole and by name, with exit code 2 and nothing written."""

import json
import pickle
import subprocess
import sys

import numpy as np
import pytest
import soundfile
import torch
import yaml
from safetensors.torch import load_file, save_file

from cosim.config import configs_root


def refused(workspace, *arguments):
    result = workspace.invoke(*arguments)
    assert result.exit_code == 2, (result.exit_code, result.output, result.exception)
    assert "Traceback" not in result.output
    return result.output


def run_refused(workspace, *more):
    out = workspace.root / "out"
    text = refused(workspace, "run", workspace.experiment, "--out", out, *more)
    assert not (out / "run.json").exists()
    return text


def test_all_mistakes_of_all_files_at_once(workspace):
    document = workspace.document()
    document["nmae"] = document.pop("name")
    document["seed"] = "zero"
    document["speech"] = {"manifest": str(workspace.manifest), "limit": 0}
    document["recipe"] = {
        "methods": [{"method": "quantise", "layers": "*"}, {"method": "prune_magnitude", "rate": 2}]
    }
    document["hardware"] = {
        **yaml.safe_load(_shipped("hardware/stacked_edge_32.yaml")),
        "array": {"rows": -1, "colums": 32, "clock_hz": "fast", "dataflow": "weight_stationary"},
    }
    workspace.experiment.write_text(yaml.safe_dump(document))
    text = run_refused(workspace)
    for part in ("nmae", 'did you mean "name"', "seed", "limit", "quantize", "rate"):
        assert part in text
    for part in ("array.rows", "array.colums", 'did you mean "columns"', "clock_hz"):
        assert part in text


def _shipped(name):
    return (configs_root() / name).read_text()


@pytest.mark.parametrize(
    ("part", "file"),
    [
        ("hardware", "hardware/stacked_edge_32.yaml"),
        ("energy", "energy/aladdin_cacti_28nm.yaml"),
        ("recipe", "recipes/w8a8.yaml"),
        ("model", "models/whisper_tiny_en.yaml"),
    ],
)
def test_an_unknown_key_in_every_kind_of_file(workspace, part, file):
    data = yaml.safe_load(_shipped(file))
    data["unheard_of"] = 1
    path = workspace.write(f"{part}.yaml", data)
    text = run_refused(workspace, "--set", f"{part}={path}")
    assert "unheard_of" in text
    assert str(path) in text


def test_an_unknown_key_in_a_memory_file(workspace):
    chip = yaml.safe_load(_shipped("hardware/stacked_edge_32.yaml"))
    memory = yaml.safe_load(_shipped(chip["memory"]["technology"].removeprefix("configs/")))
    memory["unheard_of"] = 1
    chip["memory"]["technology"] = str(workspace.write("memory.yaml", memory))
    text = run_refused(workspace, "--set", f"hardware={workspace.write('chip.yaml', chip)}")
    assert "memory.yaml" in text
    assert "unheard_of" in text


def test_a_missing_file_names_the_nearest(workspace):
    text = run_refused(workspace, "--set", "hardware=configs/hardware/stacked_egde_32.yaml")
    assert "stacked_edge_32.yaml" in text


def _bad_audio(workspace, kind):
    path = workspace.root / f"{kind}.wav"
    good = (np.random.default_rng(0).normal(0, 0.1, 16000)).astype(np.float32)
    if kind == "missing":
        return path
    if kind == "empty":
        path.write_bytes(b"")
    elif kind == "truncated":
        soundfile.write(path, good, 16000, subtype="PCM_16")
        path.write_bytes(path.read_bytes()[:20000])
    elif kind == "nan":
        soundfile.write(path, np.full(16000, np.nan, np.float32), 16000, subtype="FLOAT")
    elif kind == "zero_length":
        soundfile.write(path, good[:0], 16000)
    elif kind == "long":
        soundfile.write(path, np.tile(good, 31), 16000)
    else:
        path.write_bytes(b"this is no audio at all, only words")
    return path


BROKEN = ("missing", "empty", "truncated", "nan", "zero_length", "long", "text")


def test_broken_audio_is_refused_by_name_and_all_at_once(workspace):
    with workspace.manifest.open("a") as file:
        for kind in BROKEN[1:]:
            path = _bad_audio(workspace, kind)
            file.write(json.dumps({"audio": path.name, "text": "w1", "duration": 1}) + "\n")
    text = run_refused(workspace)
    for kind in BROKEN[1:]:
        assert f"{kind}.wav" in text


def test_keep_going_skips_and_counts_broken_audio(workspace):
    with workspace.manifest.open("a") as file:
        for kind in BROKEN:
            path = _bad_audio(workspace, kind)
            file.write(json.dumps({"audio": path.name, "text": "w1", "duration": 1}) + "\n")
    out = workspace.root / "out"
    result = workspace.invoke("run", workspace.experiment, "--out", out, "--keep-going")
    assert result.exit_code == 0, result.output
    accuracy = json.loads((out / "run.json").read_text())["accuracy"]
    assert accuracy["utterances"] == 3
    assert len(accuracy["skipped"]) == len(BROKEN)


def test_stereo_other_rates_and_24_bits_are_converted_with_a_warning(workspace):
    generator = np.random.default_rng(1)
    stereo = generator.normal(0, 0.1, (16000, 2)).astype(np.float32)
    soundfile.write(workspace.root / "stereo.wav", stereo, 16000)
    soundfile.write(workspace.root / "slow.wav", stereo[:8000, 0], 8000)
    soundfile.write(workspace.root / "deep.wav", stereo[:, 0], 16000, subtype="PCM_24")
    rows = [{"audio": f"{n}.wav", "text": "w1", "duration": 1} for n in ("stereo", "slow", "deep")]
    workspace.manifest.write_text("".join(json.dumps(row) + "\n" for row in rows))
    out = workspace.root / "out"
    result = workspace.invoke("run", workspace.experiment, "--out", out)
    assert result.exit_code == 0, result.output
    warnings = " ".join(json.loads((out / "run.json").read_text())["warnings"])
    assert "stereo.wav" in warnings
    assert "slow.wav" in warnings
    assert "deep.wav" not in warnings


def test_manifest_rows_without_text_or_file_are_told_by_line(workspace):
    with workspace.manifest.open("a") as file:
        file.write(json.dumps({"audio": "noise0.wav", "duration": 1}) + "\n")
        file.write(json.dumps({"audio": "gone.wav", "text": "w1"}) + "\n")
        file.write("{not json\n")
    text = run_refused(workspace)
    for part in ("line 4", "line 5", "line 6", "text", "gone.wav"):
        assert part in text


def test_a_checkpoint_with_wrong_tensors_lists_them_all(workspace):
    path = workspace.root / "checkpoint" / "model.safetensors"
    tensors = load_file(path)
    del tensors["model.encoder.conv1.bias"]
    tensors["model.encoder.conv2.bias"] = torch.zeros(3)
    tensors["model.encoder.extra"] = torch.zeros(2)
    save_file(tensors, path)
    text = run_refused(workspace)
    for part in ("conv1.bias", "conv2.bias", "encoder.extra"):
        assert part in text


def test_a_pickle_is_never_opened(workspace):
    folder = workspace.root / "checkpoint"
    (folder / "model.safetensors").unlink()
    with (folder / "pytorch_model.bin").open("wb") as file:
        pickle.dump({"a": 1}, file)
    assert "pickle" in run_refused(workspace)
    (folder / "pytorch_model.bin").rename(folder / "model.safetensors")
    assert "safetensors" in run_refused(workspace)


def test_a_selector_that_matches_nothing_names_file_and_entry(workspace):
    recipe = workspace.write(
        "recipe.yaml",
        {"methods": [{"method": "quantize", "layers": "encoder.*.fc9", "weight_bits": 8}]},
    )
    text = run_refused(workspace, "--set", f"recipe={recipe}")
    assert "recipe.yaml" in text
    assert "encoder.*.fc9" in text


def test_ops_that_the_chip_supports_nowhere_are_all_listed(workspace):
    text = run_refused(
        workspace,
        "--set",
        "recipe=configs/recipes/fp32.yaml",
        "--set",
        "hardware.vector_unit.fallback=false",
    )
    assert "f32xf32" in text
    assert "encoder/encoder.conv1" in text
    assert "step/proj_out" in text


def test_an_artefact_that_was_changed_is_refused(workspace):
    artefact = workspace.root / "artefact"
    recipe = "configs/recipes/w8a8.yaml"
    made = workspace.invoke("compress", workspace.model, "--recipe", recipe, "--out", artefact)
    assert made.exit_code == 0, made.output
    program = artefact / "program.txt"
    program.write_text(program.read_text().replace("stride=2", "stride=1"))
    text = refused(workspace, "evaluate", artefact, "--speech", workspace.manifest)
    assert "program.txt" in text
    assert "artefact" in refused(
        workspace, "evaluate", workspace.root, "--speech", workspace.manifest
    )


def test_a_gemm_list_with_a_wrong_header_says_what_is_expected(workspace):
    path = workspace.root / "gemms.csv"
    path.write_text("layer,m,n\nfc,1,2\n")
    chip = "configs/hardware/stacked_edge_32.yaml"
    text = refused(workspace, "simulate", path, "--hardware", chip)
    assert "gemms.csv" in text
    assert "expected m, n, k and bits" in text


def test_unknown_names_on_the_command_line(workspace):
    assert "prompts" in refused(workspace, "data", "promtps")
    assert 'did you mean "recipes"' in refused(workspace, "list", "recipe")
    assert "no run.json" in refused(workspace, "compare", workspace.root)


@pytest.mark.parametrize(
    "arguments",
    [
        ["--help"],
        ["list"],
        *([name, "--help"] for name in ("run", "profile", "compress", "evaluate", "simulate")),
        *([name, "--help"] for name in ("compare", "bench", "data", "list")),
    ],
)
def test_help_and_list_import_nothing_heavy(arguments):
    code = (
        "import sys\n"
        "from cosim.cli import main\n"
        f"sys.argv = ['cosim', *{arguments!r}]\n"
        "try:\n    main()\nexcept SystemExit as stop:\n    assert not stop.code, stop.code\n"
        "heavy = {'torch', 'numba', 'numpy', 'rich', 'simpy', 'jiwer', 'pydantic', 'soundfile'}\n"
        "assert not heavy & set(sys.modules), heavy & set(sys.modules)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip()
