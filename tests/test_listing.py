"""`cosim list` names what is shipped, and what each file says of itself."""

from click.testing import CliRunner

from cosim.cli import main
from cosim.config import configs_root


def test_every_recipe_is_listed_with_what_its_first_line_says():
    result = CliRunner().invoke(main, ["list", "recipes"])
    assert result.exit_code == 0
    found = dict(line.split(maxsplit=1) for line in result.output.splitlines())
    files = sorted((configs_root() / "recipes").glob("*.yaml"))
    assert list(found) == [path.stem for path in files]
    for path in files:
        assert path.read_text().startswith(f"# {found[path.stem]}\n")


def test_kinds_without_files_are_listed_by_name():
    result = CliRunner().invoke(main, ["list", "methods"])
    assert "quantize" in result.output.splitlines()


def test_an_unknown_kind_names_the_nearest():
    result = CliRunner().invoke(main, ["list", "recipe"])
    assert result.exit_code == 2
    assert 'did you mean "recipes"' in result.output
