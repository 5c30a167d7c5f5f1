"""cosim.config and cosim.validate: what a YAML file may say and how mistakes are told."""

import math
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Literal, Optional

import pytest
from annotated_types import Ge, Gt, Le, MinLen, MultipleOf

from cosim import config
from cosim.errors import CosimError


@dataclass(frozen=True)
class Array:
    rows: Annotated[int, Ge(1)]
    columns: Annotated[int, Ge(1)]
    clock_hz: Annotated[float, Gt(0)]
    dataflow: Literal["weight_stationary", "output_stationary"] = "weight_stationary"
    supports: Annotated[tuple[str, ...], MinLen(1)] = ("i8xi8",)


@dataclass(frozen=True)
class Chip:
    name: str
    array: Array
    burst: Annotated[int, MultipleOf(8)] | None = None
    ladder: tuple[float, float] = (1.0, 2.0)
    rates: dict[str, Annotated[float, Ge(0), Le(1)]] = field(default_factory=dict)
    old: Optional[bool] = None  # noqa: UP045, both spellings must work


@dataclass(frozen=True)
class Quantize:
    method: Literal["quantize"]
    bits: Literal[4, 8] = 8


@dataclass(frozen=True)
class Prune:
    method: Literal["prune"]
    rate: Annotated[float, Ge(0), Le(1)]


@dataclass(frozen=True)
class Recipe:
    methods: tuple[Quantize | Prune, ...]


@dataclass(frozen=True)
class Experiment:
    recipe: str | Recipe
    hardware: Path | Chip
    seed: int = 0
    anything: Any = None


@dataclass(frozen=True)
class Either:
    left: str | None = None
    right: str | None = None

    def __post_init__(self) -> None:
        if (self.left is None) == (self.right is None):
            raise ValueError("exactly one of left, right")


ARRAY = {"rows": 4, "columns": 4, "clock_hz": 1e9}
CHIP = {"name": "c", "array": ARRAY}


def problems(data, kind=Chip):
    with pytest.raises(CosimError) as caught:
        config.parse(data, kind, source="f.yaml")
    return caught.value.problems


def write(folder, text):
    path = folder / "edge.yaml"
    path.write_text(text)
    return path


def test_a_file_becomes_nested_frozen_dataclasses(tmp_path):
    path = write(
        tmp_path,
        "name: edge\narray: {rows: 32, columns: 16, clock_hz: 1.0e9, supports: [i8xi8, i8xi4]}\n"
        "ladder: [1, 2.5]\nrates: {a: 0.5, b: 1}\nold: true\nburst: 64\n",
    )
    chip = config.load(path, Chip)
    assert chip == Chip(
        "edge",
        Array(32, 16, 1e9, "weight_stationary", ("i8xi8", "i8xi4")),
        64,
        (1.0, 2.5),
        {"a": 0.5, "b": 1.0},
        True,
    )
    assert isinstance(chip.ladder[0], float)


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("1e9", 1e9),
        ("1.0e9", 1e9),
        ("-2.5E-3", -2.5e-3),
        (".inf", math.inf),
        ("010", 10),
        ("0x10", 16),
        ("0o10", 8),
        ("no", "no"),
        ("on", "on"),
        ("08:30", "08:30"),
        ("2024-01-02", "2024-01-02"),
        ("true", True),
        ("~", None),
        ("", None),
        ("1_000", "1_000"),
        ("'16'", "16"),
    ],
)
def test_scalars_follow_yaml_1_2(tmp_path, text, value):
    found = config.read(write(tmp_path, f"key: {text}\n"))["key"]
    assert found == value
    assert type(found) is type(value)


def test_all_mistakes_of_a_file_are_told_at_once(tmp_path):
    path = write(
        tmp_path,
        "nam: edge\narray:\n  rows: '16'\n  colums: 16\n  clock_hz: 0\n"
        "  dataflow: weight_stationery\n  supports: []\nburst: 12\nladder: [1]\n"
        "rates: {a: 2}\nold: 1\n",
    )
    with pytest.raises(CosimError) as caught:
        config.load(path, Chip)
    assert [line.removeprefix(f"{path}: ") for line in caught.value.problems] == [
        'array.rows: found "16", expected an integer >= 1',
        "array.clock_hz: found 0, expected a number > 0",
        (
            'array.dataflow: found "weight_stationery", expected one of weight_stationary, '
            'output_stationary; did you mean "weight_stationary"?'
        ),
        "array.supports: found a list of 0, expected a list (text, ...) with at least 1",
        'array.colums: unknown key; did you mean "columns"?',
        "burst: found 12, expected an integer a multiple of 8 or nothing",
        "ladder: found 1 values, expected 2",
        "rates.a: found 2, expected a number >= 0 and <= 1",
        "old: found 1, expected true or false or nothing",
        'nam: unknown key; did you mean "name"?',
    ]


@pytest.mark.parametrize(
    ("value", "said"),
    [
        (True, "found true"),
        (1.0, "found 1.0"),
        ("4", 'found "4"'),
        (None, "found nothing"),
        ([4], "found a list of 1"),
        ({"a": 1}, "found a mapping"),
        (0, "found 0"),
    ],
)
def test_nothing_but_an_integer_is_an_integer(value, said):
    assert problems({**CHIP, "array": {**ARRAY, "rows": value}}) == [
        f"f.yaml: array.rows: {said}, expected an integer >= 1"
    ]


def test_not_a_number_and_text_are_no_numbers_but_an_integer_is():
    for bad in (math.nan, "1", True, None):
        assert len(problems({**CHIP, "array": {**ARRAY, "clock_hz": bad}})) == 1
    array = config.parse({**ARRAY, "clock_hz": 3}, Array, source="f")
    assert (array.clock_hz, type(array.clock_hz)) == (3.0, float)


def test_a_missing_key_and_a_wrong_shape_are_told():
    assert problems({"array": {"rows": 1, "columns": 2}}) == [
        "f.yaml: array.clock_hz: missing, expected a number > 0",
        "f.yaml: name: missing, expected text",
    ]
    assert problems({"name": "c", "array": 7}) == [
        "f.yaml: array: found 7, expected a mapping with rows, columns, clock_hz"
    ]


def test_an_unknown_key_far_from_all_lists_the_known_ones():
    (line,) = problems({**CHIP, "zzz": 1})
    assert line == "f.yaml: zzz: unknown key; known: array, burst, ladder, name, old, rates"


def test_a_field_may_be_a_path_or_inline():
    inline = config.parse(
        {"recipe": {"methods": [{"method": "prune", "rate": 0.5}]}, "hardware": "a.yaml"},
        Experiment,
        source="f",
    )
    assert inline.recipe == Recipe((Prune("prune", 0.5),))
    assert inline.hardware == Path("a.yaml")
    named = config.parse({"recipe": "r.yaml", "hardware": CHIP}, Experiment, source="f")
    assert named.recipe == "r.yaml"
    assert named.hardware == Chip("c", Array(4, 4, 1e9))
    assert problems({"recipe": 3, "hardware": {"name": "c"}}, Experiment) == [
        "f.yaml: recipe: found 3, expected text or a mapping with methods",
        "f.yaml: hardware.array: missing, expected a mapping with rows, columns, clock_hz",
    ]


def test_the_literal_field_picks_the_member_of_a_union():
    assert problems(
        {
            "methods": [
                {"method": "quantise"},
                {"method": "prune", "rate": 1.5, "bits": 3},
                {"bits": 8},
                {"method": "quantize", "bits": 3},
                "quantize",
            ]
        },
        Recipe,
    ) == [
        (
            'f.yaml: methods.0.method: found "quantise", expected one of quantize, prune; '
            'did you mean "quantize"?'
        ),
        "f.yaml: methods.1.rate: found 1.5, expected a number >= 0 and <= 1",
        "f.yaml: methods.1.bits: unknown key; known: method, rate",
        "f.yaml: methods.2.method: missing, expected one of quantize, prune",
        "f.yaml: methods.3.bits: found 3, expected one of 4, 8",
        (
            'f.yaml: methods.4: found "quantize", expected a mapping with method or a mapping with '
            "method, rate"
        ),
    ]


def test_a_rule_between_fields_is_told_with_its_place():
    with pytest.raises(CosimError, match=r"^f\.yaml: speech: exactly one of left, right$"):
        config.parse({"left": "a", "right": "b"}, Either, source="f.yaml", at="speech")


def test_anything_goes_where_the_type_is_any():
    data = {"recipe": "r", "hardware": "h", "anything": {1: [2, {"x": None}]}}
    assert config.parse(data, Experiment, source="f").anything == {1: [2, {"x": None}]}


def test_a_bare_name_is_told_its_path():
    with pytest.raises(CosimError, match=r'did you mean "configs/recipes/w8a8\.yaml"\?'):
        config.resolve("w8a8")


def test_a_missing_file_names_its_nearest_neighbour(tmp_path):
    write(tmp_path, "a: 1")
    with pytest.raises(CosimError, match=r'egde\.yaml: no such file; did you mean "edge\.yaml"\?'):
        config.load(tmp_path / "egde.yaml", Chip)
    with pytest.raises(CosimError, match="cannot be read: Is a directory"):
        config.load(tmp_path, Chip)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("a: [1, 2\nb: 3\n", r"line 2, column 2: not valid YAML: .*expected ',' or '\]'"),
        ("a: 1\nb: 2\na: 3\n", 'line 3, column 1: not valid YAML: key "a" repeats line 1'),
        ("a: {x: 1, x: 1}\n", 'line 1, column 11: not valid YAML: key "x" repeats line 1'),
        ("- 1\n- 2\n", "found a list of 2, expected a mapping of keys to values"),
        ("", "found nothing, expected a mapping"),
        ("a: &a [*a]\n", "not valid YAML: found unconstructable recursive node"),
        ("a: !!python/object:os.system x\n", "not valid YAML: could not determine a constructor"),
        ("a: 1\n---\nb: 1\n", "not valid YAML: but found another document"),
        ("a: \x01\n", "line 1: not valid YAML: special characters are not allowed"),
    ],
)
def test_what_is_not_a_yaml_mapping_is_refused_with_its_place(tmp_path, text, said):
    with pytest.raises(CosimError, match=said):
        config.read(write(tmp_path, text))


def test_bytes_that_are_no_text_are_refused(tmp_path):
    path = tmp_path / "x.yaml"
    path.write_bytes(b"ab: \xff")
    with pytest.raises(CosimError, match="not UTF-8 text, first at byte 4"):
        config.read(path)


def test_merge_keys_share_a_mapping(tmp_path):
    text = "a: &a {x: 1, y: 2}\nb: {<<: *a, y: 3}\n"
    assert config.read(write(tmp_path, text))["b"] == {"x": 1, "y": 3}


def test_override_sets_one_value_and_leaves_the_rest():
    data = {"array": {"rows": 8}, "methods": [{"rate": 0.1}, {"rate": 0.2}]}
    changed = config.override(data, "methods.1.rate=0.3")
    changed = config.override(changed, "array.supports=[i8xi8]")
    changed = config.override(changed, "new.deep=1e3")
    assert changed == {
        "array": {"rows": 8, "supports": ["i8xi8"]},
        "methods": [{"rate": 0.1}, {"rate": 0.3}],
        "new": {"deep": 1000.0},
    }
    assert data == {"array": {"rows": 8}, "methods": [{"rate": 0.1}, {"rate": 0.2}]}


@pytest.mark.parametrize(
    ("assignment", "said"),
    [
        ("array.rows", "expected a.b=value"),
        ("=3", "expected a.b=value"),
        ("a..b=3", "expected a.b=value"),
        ("name.x=3", 'x: found "c" above it, expected a mapping or list'),
        ("list.2=3", "found 2, expected an index below 2"),
        ("list.x=3", "found x, expected an index below 2"),
        ("a=[1", "not valid YAML"),
    ],
)
def test_a_bad_override_is_refused(assignment, said):
    with pytest.raises(CosimError, match=said):
        config.override({"name": "c", "list": [1, 2]}, assignment)


def test_resolve_tries_here_then_beside_then_shipped(tmp_path, monkeypatch):
    shipped, beside, here = (tmp_path / name for name in ("shipped", "beside", "here"))
    for folder in (shipped / "hardware", beside, here):
        folder.mkdir(parents=True)
    monkeypatch.setattr(config, "configs_root", lambda: shipped)
    monkeypatch.chdir(here)
    experiment = beside / "experiment.yaml"
    (shipped / "hardware" / "edge.yaml").touch()
    assert (
        config.resolve("configs/hardware/edge.yaml", experiment) == shipped / "hardware/edge.yaml"
    )
    assert config.resolve("hardware/edge.yaml") == shipped / "hardware/edge.yaml"
    (beside / "hardware").mkdir()
    (beside / "hardware" / "edge.yaml").touch()
    assert config.resolve("hardware/edge.yaml", experiment) == beside / "hardware/edge.yaml"
    (here / "hardware").mkdir()
    (here / "hardware" / "edge.yaml").touch()
    assert config.resolve("hardware/edge.yaml", experiment) == Path("hardware/edge.yaml")
    with pytest.raises(CosimError, match=r'experiment\.yaml: "hardware/egde\.yaml" does not exist'):
        config.resolve("hardware/egde.yaml", experiment)
    with pytest.raises(CosimError, match=r'did you mean "edge\.yaml"\?'):
        config.resolve("configs/hardware/egde.yaml", experiment)


def test_the_checkout_has_shipped_configs():
    assert config.configs_root().is_dir()
