"""docs/gemm_lists.md: a list of products is simulated without torch and speech packages."""

import json
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
from sybil import Sybil
from sybil.parsers.markdown import PythonCodeBlockParser

ROOT = Path(__file__).resolve().parents[1]
PAGE = ROOT / "docs" / "gemm_lists.md"
TEXT = PAGE.read_text()
EXTRAS = ("torch", "jiwer", "soundfile", "soxr", "av", "tokenizers", "huggingface_hub")
EXTRAS += ("whisper_normalizer", "kaldi_native_fbank", "transformers")
ALONE = (
    "import json, sys\n"
    "names, *calls = json.loads(sys.argv[1])\n"
    "for name in names: sys.modules[name] = None\n"
    "from cosim.cli import main\n"
    "for call in calls: main(call, standalone_mode=False)\n"
)


def block(language):
    return re.search(rf"^```{language}\n(.*?)^```", TEXT, re.MULTILINE | re.DOTALL)[1]


@pytest.fixture(scope="module")
def products(tmp_path_factory):
    path = tmp_path_factory.mktemp("list") / "products.csv"
    path.write_text(block("csv"))
    path.with_suffix(".yaml").write_text(block("yaml"))
    return path


def commands(products):
    """Return the arguments of every cosim command of the page."""
    lines = [line.removeprefix("$ cosim ") for line in block("console").splitlines()]
    words = [shlex.split(line) for line in lines]
    return [
        [str(products.with_name(word)) if word.startswith("products.") else word for word in call]
        for call in words
    ]


def test_its_commands_run_without_torch_and_speech_packages(products):
    calls = commands(products)
    assert [call[0] for call in calls] == ["simulate"] * 3
    done = subprocess.run(
        [sys.executable, "-c", ALONE, json.dumps([EXTRAS, *calls])],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    begin = re.search(r"^{", done.stdout, re.MULTILINE).start()
    assert "products.csv" in done.stdout[:begin]
    document = json.loads(done.stdout[begin:])
    listed = re.findall(r"^(\w+),\d", block("csv"), re.MULTILINE)
    assert [row["name"] for row in document["rows"]] == listed
    total = document["total"]
    assert total["hardware"] == "edge_tpu_64"
    assert total["cycles"] == sum(row["cycles"] for row in document["rows"])
    assert any("assumed uniform density 0.5" in note for note in total["warnings"])
    assert any("u8xi8" in note or "i8xi4" in note for note in total["warnings"])


def test_its_python_runs_and_prints_what_it_says(products, monkeypatch, tmp_path):
    (tmp_path / "configs").symlink_to(ROOT / "configs")
    (tmp_path / products.name).write_text(products.read_text())
    monkeypatch.chdir(tmp_path)
    examples = list(Sybil([PythonCodeBlockParser()], path=str(ROOT)).parse(PAGE))
    assert examples
    for example in examples:
        example.evaluate()
