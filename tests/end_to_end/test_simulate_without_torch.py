"""Whoever only simulates an artefact needs no torch, no speech packages and little memory."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from cosim.artefact import build_from
from cosim.artefact_folder import save
from cosim.simulate import simulate_any

CODES = {"bits": 8, "scale": "dynamic", "per": "row"}
CHIP = "configs/hardware/row_skip_edge_32.yaml"
DENSE = "configs/hardware/stacked_edge_32.yaml"
RECIPE = {
    "methods": [
        {"method": "prune_magnitude", "rate": 0.5, "pattern": {"block": [32, 32]}},
        {"method": "quantize", "weight_bits": 8, "activations": CODES},
    ]
}
EXTRAS = [
    "torch",
    "jiwer",
    "soundfile",
    "soxr",
    "av",
    "tokenizers",
    "huggingface_hub",
    "kaldi_native_fbank",
]
MODEL = {
    "name": "drawn",
    "family": "whisper",
    "weights": {"random": {"seed": 1}},
    "dimensions": {
        "width": 512,
        "heads": 8,
        "encoder_layers": 1,
        "decoder_layers": 1,
        "hidden": 512,
        "mels": 80,
        "vocabulary": 51864,
        "source_positions": 100,
        "target_positions": 100,
    },
}
SCRIPT = """
import json, sys
sys.modules.update(dict.fromkeys({extras}))
from pathlib import Path
from cosim.simulate import simulate_any
def peak():
    lines = Path("/proc/self/status").read_text().splitlines()
    return 1024 * next(int(line.split()[1]) for line in lines if line.startswith("VmHWM"))
Path({list!r}).write_text("name,m,n,k,a_number,w_number\\none,9,9,9,i8,i8\\n")
simulate_any(Path({list!r}), Path({chip!r}))
before = peak()
rows, total = simulate_any(Path({artefact!r}), Path({chip!r}), steps=2)
print(json.dumps([before, peak(), total["cycles"], rows]))
"""


@pytest.fixture(scope="module")
def artefact(shared_workspace):
    folder = shared_workspace.root / "pruned_artefact"
    model = shared_workspace.write("drawn.yaml", MODEL)
    recipe = shared_workspace.write("blocks.yaml", RECIPE)
    save(build_from(model, recipe, is_zipped=False), folder)
    return folder


@pytest.mark.slow
def test_an_artefact_is_simulated_without_torch_in_less_memory_than_its_weights_in_fp32(
    artefact, tmp_path
):
    names = {"extras": EXTRAS, "list": str(tmp_path / "a.csv"), "chip": CHIP}
    script = SCRIPT.format(artefact=str(artefact), **names)
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    before, after, cycles, rows = json.loads(done.stdout)
    facts = json.loads((artefact / "artefact.json").read_text())
    assert after - before < facts["model"]["size_bytes"]
    again, total = simulate_any(artefact, Path(CHIP), steps=2)
    assert (cycles, rows) == (total["cycles"], json.loads(json.dumps(again)))
    _, dense = simulate_any(artefact, Path(DENSE), steps=2)
    assert cycles < dense["cycles"]  # the chip leaves out rows of weights without a nonzero
