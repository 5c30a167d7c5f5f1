"""Each command tells the mistakes of everything it is given at once, and exits with 2."""

import pytest
from click.testing import CliRunner

from cosim.cli import main

EXPERIMENT = """
name: wrong
model: configs/models/whisper_tiny.yaml
recipe: configs/recipes/w8a9.yaml
speech: {corpus: prompt, split: test}
calibration: {corpus: prompts, split: tset}
hardware: configs/hardware/stacked_edge_32.yaml
"""


def told(*words):
    done = CliRunner().invoke(main, words, catch_exceptions=False)
    assert done.exit_code == 2
    return done.stderr.splitlines()


def test_an_experiment_without_a_table_is_told_so_once_and_its_speech_is_checked(tmp_path):
    path = tmp_path / "wrong.yaml"
    path.write_text(EXPERIMENT)
    lines = told("run", str(path), "--out", str(tmp_path / "run"))
    assert [line for line in lines if ": energy" in line] == [
        f"error: {path}: energy: missing, expected text or a mapping"
    ]
    text = "\n".join(lines)
    assert 'did you mean "whisper_tiny_en.yaml"?' in text
    assert 'did you mean "w8a8.yaml"?' in text
    assert 'speech: corpus: found "prompt"; did you mean "prompts"?' in text
    assert 'calibration: split: found "tset"; did you mean "test"?' in text
    assert len(lines) == 5
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("words", "wanted"),
    [
        (
            ("compare", "nowhere", "--energy", "horowitz"),
            ("nowhere: no run.json", 'did you mean "configs/energy/horowitz_45nm.yaml"?'),
        ),
        (
            ("stream", "nowhere", "--arrivals", "poison", "--rest", "asleep", "--chips", "0"),
            ("--chips: found 0", "nowhere: no run.json", '"poisson"?', '"asleep" does not exist'),
        ),
        (
            ("evaluate", "nowhere", "--speech", "silence", "--normalizer", "loud"),
            ("'loud'; known: ", "--speech silence: no such file", "nowhere: not an artefact"),
        ),
    ],
)
def test_other_commands_tell_all_of_their_files(words, wanted):
    text = "\n".join(told(*words))
    assert [part for part in wanted if part not in text] == []
