"""cosim simulate: what is wrong with chip, work and options is told at once, before any work."""

import pytest
from click.testing import CliRunner

from cosim.cli import main
from cosim.config import configs_root

CHIP = str(configs_root() / "hardware" / "stacked_edge_32.yaml")
MODEL = str(configs_root() / "models" / "whisper_tiny_en.yaml")
HEADER = "name,m,n,k,count,bits\n"


@pytest.fixture
def simulate(tmp_path):
    """Return a function that simulates a list of GEMMs, or other work, with options."""

    def run(row, *options, what=None):
        path = tmp_path / "list.csv"
        path.write_text(HEADER + row)
        words = ["simulate", what or str(path), *options]
        done = CliRunner().invoke(main, words, catch_exceptions=False)
        assert not (tmp_path / "out.csv").exists()
        return done.exit_code, done.stderr

    return run


def test_chip_list_and_options_are_told_of_together(simulate, tmp_path):
    out = str(tmp_path / "out.csv")
    chip = ("--set", "array.=3", "--set", "array.rows=0", "--set", "memory.fidelty=exact")
    code, text = simulate("a,4,4,x,1,8\n", "--hardware", CHIP, *chip, "--bandwidth", out)
    assert code == 2
    assert "--set array.=3: expected a.b=value" in text
    assert "array.rows: found 0, expected an integer >= 1" in text
    assert 'memory.fidelty: unknown key; did you mean "fidelity"?' in text
    assert "list.csv: line 2: k" in text


def test_model_recipe_chip_and_table_are_told_of_together(simulate):
    options = ("--hardware", CHIP, "--recipe", "w8a9", "--energy", "horowitz", "--utterances", "2")
    code, text = simulate("", *options, what="whisper_tiny")
    assert code == 2
    assert 'did you mean "configs/recipes/w8a8.yaml"?' in text
    assert 'did you mean "configs/energy/horowitz_45nm.yaml"?' in text
    assert 'did you mean "configs/models/whisper_tiny_en.yaml"?' in text


def test_a_recipe_beside_a_list_is_refused(simulate):
    code, text = simulate("a,4,4,4,1,8\n", "--hardware", CHIP, "--recipe", "w8a8")
    assert code == 2
    assert "list.csv, expected a model file to compress by it" in text


def test_a_file_that_cannot_be_written_is_told_without_a_traceback(simulate, tmp_path):
    (tmp_path / "file").write_text("")
    where = tmp_path / "file" / "bandwidth.csv"
    options = ("--set", "memory.fidelity=roofline", "--bandwidth", str(where))
    code, text = simulate("a,4,4,4,1,8\n", "--hardware", CHIP, *options)
    assert code == 2
    assert f"{where}: cannot be written" in text
