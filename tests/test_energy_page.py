"""docs/energy.md: its Python says what it prints, its table loads, and it names every table."""

import re
from pathlib import Path

import yaml
from sybil import Sybil
from sybil.parsers.markdown import PythonCodeBlockParser

from cosim.config import configs_root
from cosim.energy_tables import parse_table

PAGE = Path(__file__).resolve().parents[1] / "docs" / "energy.md"


def test_its_python_says_what_it_prints(monkeypatch):
    monkeypatch.chdir(configs_root().parent)
    for example in Sybil([PythonCodeBlockParser()]).parse(PAGE):
        example.evaluate()


def test_its_table_extends_the_default_one():
    text = re.search(r"```yaml\n(.*?)```", PAGE.read_text(), re.DOTALL)[1]
    made = parse_table(yaml.safe_load(text), source=str(PAGE), relative_to=PAGE)
    assert made.actions["vector_op"].factor == "synthesis"
    assert made.actions["vector_op"].inherited is None
    assert made.actions["vector_mac"].inherited == "aladdin_cacti_28nm"


def test_it_names_every_shipped_table():
    nodes = "65,45,32,28,22,16,7"
    text = PAGE.read_text()
    spelt = [f"aladdin_cacti_{nm}nm" for nm in nodes.split(",")]
    assert f"aladdin_cacti_{{{nodes}}}nm" in text
    names = {path.stem for path in (configs_root() / "energy").glob("*.yaml")}
    assert names == {*spelt, *re.findall(r"^\| `(\w+)` \|", text, re.MULTILINE)}
