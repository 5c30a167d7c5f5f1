"""cosim bench --patterns and --precision: what is asked, what a row says, and what is kept."""

import json
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
from click.testing import CliRunner
from silent import Silent

from cosim import bench
from cosim.bench import chips, questions
from cosim.bench.questions import PATTERNS, PRECISION, QUESTIONS, Block, Variant, Version
from cosim.cli import main
from cosim.errors import CosimError
from cosim.report.patterns_markdown import patterns_markdown
from cosim.report.precision_markdown import precision_markdown
from hwmodels.workload import Gemm, Nonzero, TensorRef, Workload
from kernels.encodings import encode_csr, encode_dense
from kernels.sparse_speeds import DEFAULT_BREAK_EVEN

# --- what is asked ----------------------------------------------------------------------------


@pytest.mark.parametrize("name", QUESTIONS)
def test_every_variant_is_a_sound_chip_and_the_first_of_a_chip_is_as_shipped(name):
    seen = {}
    for variant in QUESTIONS[name].variants:
        chip = chips.chip_of(variant)
        assert chip.name == variant.chip
        assert seen.setdefault(variant.chip, variant.changes) == {} or variant.changes
    composable = {"composable_edge_32"} if name == "energy" else set()
    assert set(seen) == {"stacked_edge_32", "stacked_server_128"} | composable


def test_a_variant_that_breaks_a_rule_is_refused_by_name():
    broken = Variant("gathering", "stacked_edge_32", {"sparsity": "csr_gather"})
    with pytest.raises(CosimError, match=r"stacked_edge_32\.yaml with gathering.*output_station"):
        chips.chip_of(broken)


def test_a_filter_takes_cases_by_model_and_version():
    found = chips.cases(PATTERNS, "tiny_en/2:4")
    assert [chips.case_id(*one) for one in found] == [
        "whisper_tiny_en/dense",
        "whisper_tiny_en/2:4",
    ]
    assert len(chips.cases(PRECISION, "")) == 2 * 4
    with pytest.raises(CosimError, match="bench --patterns: no case contains 'w9'"):
        chips.cases(PATTERNS, "w9")


@pytest.mark.parametrize("name", QUESTIONS)
def test_every_version_is_a_sound_recipe(name):
    for version in QUESTIONS[name].versions:
        recipe = chips.recipe_of(version)
        assert recipe.name == version.name
        assert version.methods is None or len(recipe.methods) == len(version.methods) > 0
    with pytest.raises(CosimError, match="weight_bits"):
        chips.recipe_of(Version("odd", ({"method": "quantize", "weight_bits": 5},)))


# --- what a row says --------------------------------------------------------------------------


def product(mask):
    """One product of 8 activation rows with 64 x 64 weights."""
    return Gemm(
        "encoder/layers.0.fc",
        "linear",
        m=8,
        n=64,
        k=64,
        a=TensorRef("x", "input", (8, 64), 8 * 8 * 64),
        w=TensorRef("w", "constant", (64, 64), 8 * 64 * 64),
        result=TensorRef("y", "output", (8, 64), 32 * 8 * 64),
        a_number="i8",
        w_number="i8",
        accumulator="i32",
        nonzero=Nonzero(np.packbits(mask, axis=1, bitorder="little"), "a diagonal of blocks"),
    )


def test_a_diagonal_of_array_blocks_leaves_half_of_the_folds():
    mask = np.kron(np.eye(2, dtype=np.uint8), np.ones((32, 32), np.uint8))
    calls = [Workload("encoder", (product(mask),))]
    found = {}
    for variant in PATTERNS.variants[:3]:
        chip = chips.chip_of(variant)
        found[variant.name] = chips._on_chip(calls, variant, chip, {"layers.0.fc"})
    dense, skipped = found["dense"], found["skip_zero_fold"]
    assert dense["linear_array_macs"] == dense["macs"] == 8 * 64 * 64
    assert skipped["linear_array_macs"] == 8 * 64 * 64 // 2
    # a fold hides behind the load of the next, 32 cycles: 4 of them or 2, then the way through
    assert dense["array_cycles"] - skipped["array_cycles"] == 2 * 32
    assert skipped["cycles"] == sum(
        skipped[key] for key in ("array_cycles", "vector_cycles", "stall_cycles")
    )
    assert dense["products"] == {"mac_i8xi8": 8 * 64 * 64}


def test_layers_outside_the_blocks_are_no_part_of_the_linear_layers():
    calls = [Workload("encoder", (product(np.ones((64, 64), np.uint8)),))]
    variant = PATTERNS.variants[0]
    row = chips._on_chip(calls, variant, chips.chip_of(variant), {"layers.1.fc"})
    assert row["linear_array_cycles"] == row["linear_array_macs"] == 0 < row["array_cycles"]


def test_the_side_that_leaves_zeros_out_never_takes_a_dense_kernel():
    codes = np.random.default_rng(0).integers(1, 9, (64, 64)).astype(np.int8)
    codes[:, ::2] = 0
    scale = np.ones((64, 1), np.float32)
    weights = {
        "@layers.0.fc.weight": encode_csr(codes, scale, bits=8),
        "@layers.0.norm.weight": encode_dense(np.ones(64, np.float32)),
    }
    artefact = SimpleNamespace(encodings=weights)
    block = Block("block", r"@layers\.0\..*\.weight", 16)
    (own,) = chips._layers(block, artefact, "i8", DEFAULT_BREAK_EVEN)
    (sparse,) = chips._layers(block, artefact, "i8", chips._without_dense(DEFAULT_BREAK_EVEN))
    assert own[0] == "w8a8"  # half of the weights are too many for a kernel of scattered ones
    assert sparse[0].startswith("i8_")
    sparse[1]()
    with pytest.raises(ValueError, match=r"no weight of the model fits @none"):
        chips._layers(replace(block, pattern="@none"), artefact, "i8", DEFAULT_BREAK_EVEN)


# --- what is kept -----------------------------------------------------------------------------

SMALL = replace(PATTERNS, variants=PATTERNS.variants[:1], versions=PATTERNS.versions[:2])


@pytest.fixture
def measured(monkeypatch):
    """Replace the work by its name; return the names."""
    done = []

    def measure(_model, version, _chips, **_how):
        if version.name == "unstructured 50 %" and done.count(version.name) == 0:
            done.append(version.name)
            raise ValueError("no room")
        done.append(version.name)
        return {"chips": [], "executed": [], "seconds": 1.0, "steps": 0, "is_random": False}

    monkeypatch.setattr(chips, "_model", lambda subject, _first: subject)
    monkeypatch.setattr(chips, "_measured", measure)
    monkeypatch.setitem(questions.QUESTIONS, "patterns", SMALL)
    return done


def test_a_stopped_command_goes_on_where_the_key_is_the_same(measured, tmp_path):
    out = tmp_path / "rows.json"
    first = bench.bench_chips("patterns", "wav2vec2", rounds=3, progress=Silent(), out=out)
    assert first.failed == ["wav2vec2_base/unstructured 50 %: ValueError: no room"]
    assert json.loads(out.read_text())["rows"] == first.rows
    assert measured == ["dense", "unstructured 50 %"]
    again = bench.bench_chips("patterns", "wav2vec2", rounds=3, progress=Silent(), out=out)
    assert measured == ["dense", "unstructured 50 %", "unstructured 50 %"]  # what failed is done
    assert not again.failed
    bench.bench_chips("patterns", "wav2vec2", rounds=4, progress=Silent(), out=out)
    assert measured[3:] == ["dense", "unstructured 50 %"]  # other rounds, another key


def test_a_file_of_something_else_is_refused(measured, tmp_path):
    out = tmp_path / "rows.json"
    bench.save(bench.Bench([{"kernel": "w8a8"}], {}), out)
    with pytest.raises(CosimError, match=r"rows\[0\]: case, model, version, config_hash, note"):
        bench.bench_chips("patterns", "", rounds=3, progress=Silent(), out=out)
    assert not measured


# --- the pages --------------------------------------------------------------------------------

TOTAL = {
    "created": "2025-01-01T00:00:00+00:00",
    "cpu": "some cpu",
    "cores": 2,
    "load_average": [0.5],
    "load_average_after": [0.75],
    "versions": {"numpy": "2.4"},
    "rounds": 15,
    "failed": [],
}


def on_chip(variant, cycles, **changes):
    return {
        "chip": "stacked_edge_32",
        "variant": variant,
        "rows": 32,
        "columns": 32,
        "note": "",
        "cycles": cycles,
        "array_cycles": cycles - 300,
        "vector_cycles": 200,
        "stall_cycles": 100,
        "macs": 1000,
        "array_macs": 1000,
        "linear_array_cycles": 400,
        "linear_array_macs": 800,
        "dram_bytes": 5000,
        "energy_j": 2.0,
        "products": {"mac_i8xi8": 1000},
        "quantize_cycles": 50,
        "quantize_j": 0.2,
        "partial_sum_bytes": 640,
        "accumulator_j": 0.1,
        "notes": [],
    } | changes


def row(version, found, *executed):
    return {
        "case": f"wav2vec2_base/{version}",
        "model": "wav2vec2_base",
        "version": version,
        "config_hash": version,
        "note": "",
        "seconds": 10.0,
        "steps": 0,
        "is_random": True,
        "chips": found,
        "executed": [{"block": "block", **dict(zip(("own", "sparse"), executed, strict=False))}],
    }


def timed(kernel, speedup):
    interval = [speedup - 0.1, speedup + 0.1, 0.75]
    return {"kernels": [kernel], "speedup": speedup, "speedup_interval": interval}


ZEROS = [
    row("dense", [on_chip("dense", 1000), on_chip("row_skip", 1000)], timed("w8a8", 1.0)),
    row(
        "16x1 50 %",
        [
            on_chip("dense", 1000),
            on_chip("row_skip", 800, linear_array_macs=600, energy_j=1.8),
        ],
        timed("w8a8", 1.0),
        timed("i8_csr_blocks", 0.8),
    ),
]


def test_the_page_of_patterns_says_what_pays_and_what_bounds_it():
    text = patterns_markdown(ZEROS, TOTAL)
    assert "| 16x1 50 % | 1.00 (1.00) | **1.25** (1.40) |" in text  # 1000 / 800, 700 / 500
    assert "16x1 50 %: faster than dense weights under the same policy with `row_skip` 1.25" in text
    assert "at best -10.0 % with `row_skip`" in text
    assert "take 40.00 % of the dense cycles" in text  # 400 of 1000
    assert "at most 1.67 times as fast" in text
    assert "Products left: 16x1 50 % 75.00 %." in text  # 600 of 800
    assert "slower than computing them for 16x1 50 % 0.80" in text
    assert "for none of the patterns" in text
    assert "dense, `row_skip`" not in text  # it changes nothing


def test_no_policy_that_pays_is_said_to_pay():
    same = [ZEROS[0], ZEROS[1] | {"chips": ZEROS[0]["chips"]}]
    assert "16x1 50 %: no policy saves as much as 1 % of the cycles." in patterns_markdown(
        same, TOTAL
    )


WIDTHS = [
    row("w8a8", [on_chip("fixed", 1000), on_chip("composable", 1100)], timed("w8a8", 1.0)),
    row(
        "w1a1",
        [
            on_chip("fixed", 4000, products={"mac_i8xi8": 300, "vector_mac": 700}),
            on_chip("composable", 500, energy_j=1.0, dram_bytes=2500),
        ],
        timed("w1a1", 6.5),
    ),
]


def test_the_page_of_precision_says_what_the_array_cannot_shorten_and_what_falls_off_it():
    text = precision_markdown(WIDTHS, TOTAL)
    assert "| w1a1 | 0.25 (0.19) | **2.00** (3.50) |" in text
    assert "w1a1: 2.00 times on `composable`, the array alone 3.50 times" in text
    assert "40.00 % are the vector unit's and 20.00 % stalls" in text
    assert "run on the vector unit: w1a1 on `fixed` 70.00 %." in text
    assert "w8a8 5.00 % and 10.00 %, w1a1 10.00 % and 20.00 %" in text
    assert "| w1a1 | 6.50 (6.40-6.60) `w1a1` |" in text


@pytest.mark.parametrize("page", [patterns_markdown, precision_markdown])
def test_what_failed_is_listed_and_no_table_has_it(page):
    failed = ZEROS[1] | {"note": "ValueError: no room"}
    full = on_chip("row_skip", 1, note="buffers.input: too small")
    text = page([row("dense", [on_chip("dense", 1000), full], timed("w8a8", 1.0)), failed], TOTAL)
    assert "- `wav2vec2_base/16x1 50 %`: ValueError: no room" in text
    assert "stacked_edge_32, row_skip: buffers.input: too small" in text
    assert "| dense | 1.00 (1.00) | does not fit |" in text
    assert "| 16x1" not in text


def test_the_command_writes_a_page_from_a_saved_file_and_takes_one_question(tmp_path):
    saved, page = tmp_path / "rows.json", tmp_path / "page.md"
    bench.save(bench.Bench(ZEROS, TOTAL), saved)
    options = ["--patterns", "--load", str(saved), "--markdown", str(page)]
    done = CliRunner().invoke(main, ["bench", *options])
    assert done.exit_code == 0, done.output
    assert page.read_text() == patterns_markdown(ZEROS, TOTAL)
    for wrong, told in (
        (["--patterns", "--precision"], "--patterns, --precision: found 2"),
        (["--precision", "--threads", "2"], "--precision: found beside"),
    ):
        done = CliRunner().invoke(main, ["bench", *wrong])
        assert done.exit_code == 2
        assert told in done.output
