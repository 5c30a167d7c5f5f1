"""Claims about recipe files: every mistake told at once, selectors that select, order kept."""

from pathlib import Path

import pytest

from cosim.compress.compressed import compress
from cosim.compress.recipe import load_recipe, methods, parse_recipe
from cosim.errors import CosimError

RECIPES = sorted((Path(__file__).resolve().parents[2] / "configs" / "recipes").glob("*.yaml"))


def recipe(*entries):
    return parse_recipe({"methods": list(entries)}, name="r", source="r.yaml")


def problems(call):
    with pytest.raises(CosimError) as caught:
        call()
    return caught.value.problems


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.stem)
def test_shipped_recipe_is_valid_and_named_after_its_file(path):
    assert load_recipe(path).name == path.stem
    assert len(RECIPES) >= 7


def test_registered_methods_are_named_after_their_files():
    folder = Path(__file__).resolve().parents[2] / "cosim" / "compress"
    assert set(methods()) >= {"quantize", "prune_magnitude"}
    assert all((folder / f"{name}.py").is_file() for name in methods())


def test_all_mistakes_of_a_recipe_are_told_at_once():
    found = problems(
        lambda: recipe(
            {"method": "quantise", "weight_bits": 8},
            {"method": "quantize", "weight_bits": 5, "granularty": "tensor"},
            {"method": "quantize", "weight_bits": 8, "activations": {"bits": 8, "per": "column"}},
            {"method": "quantize", "weight_bits": 8, "scope": ["linear", "lstm"]},
            {"method": "prune_magnitude", "rate": 1.0},
            {"method": "prune_magnitude", "rate": "0.5", "layers": []},
            {"method": "prune_magnitude"},
            {"weight_bits": 8},
        )
    )
    told = "\n".join(found)
    for line in (
        'r.yaml: methods.0.method: found "quantise"',
        'did you mean "quantize"?',
        "r.yaml: methods.1.weight_bits: found 5, expected one of 2, 3, 4, 8",
        'r.yaml: methods.1.granularty: unknown key; did you mean "granularity"?',
        'r.yaml: methods.2.activations.per: found "column", expected one of row, tensor',
        'r.yaml: methods.3.scope.1: found "lstm"',
        "r.yaml: methods.4.rate: found 1.0, expected a number >= 0 and < 1",
        'r.yaml: methods.5.rate: found "0.5"',
        "r.yaml: methods.5.layers: found",
        "r.yaml: methods.6: found none, expected exactly one of rate, threshold, quality",
        "r.yaml: methods.7.method: missing",
    ):
        assert line in told


def test_selectors_that_select_nothing_are_told_at_once_with_near_names(small):
    entries = recipe(
        {"method": "prune_magnitude", "rate": 0.5, "layers": "fc2"},
        {"method": "quantize", "weight_bits": 8, "layers": ["conv", "attn.*_prj", "norm"]},
        {"method": "quantize", "weight_bits": 8, "layers": "attn", "scope": ["attention"]},
    )
    found = problems(lambda: compress(small, entries, source="r.yaml"))
    assert [line.partition(", which")[0] for line in found] == [
        'r.yaml: methods.0 (prune_magnitude): layers: found "fc2"',
        'r.yaml: methods.1 (quantize): layers: found "attn.*_prj"',
        'r.yaml: methods.1 (quantize): layers: found "norm"',
        'r.yaml: methods.2 (quantize): layers: found "attn"',
    ]
    assert "nearest: fc1" in found[0]
    assert "attn.q_proj" in found[1]


def test_selector_globs_span_dots_and_lists_unite(small):
    chosen = recipe({"method": "quantize", "weight_bits": 8, "layers": ["attn.?_proj", "fc*"]})
    packed = {row.name for row in compress(small, chosen).ledger if row.encoding != "dense"}
    assert packed == {f"attn.{p}_proj.weight" for p in "qkv"} | {"fc1.weight"}
    everything = recipe({"method": "quantize", "weight_bits": 8})
    packed = {row.name for row in compress(small, everything).ledger if row.encoding != "dense"}
    assert packed == {f"attn.{p}_proj.weight" for p in ("q", "k", "v", "out")} | {
        "fc1.weight",
        "conv.weight",
        "embed.weight",
    }


def test_tied_weight_is_one_tensor_whichever_module_selects_it(small):
    for layer in ("embed", "head"):
        chosen = recipe({"method": "quantize", "weight_bits": 8, "layers": layer})
        model = compress(small, chosen)
        rows = [row for row in model.ledger if row.encoding != "dense"]
        assert [row.name for row in rows] == ["embed.weight"]
        assert model.module.head.weight is model.module.embed.weight
        assert "head.weight" not in model.encodings
