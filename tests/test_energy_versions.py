"""cosim bench --energy: what a row says of joules, section and picture made of rows, and WER."""

import json
import re
import xml.etree.ElementTree as ET

import pytest
from click.testing import CliRunner

from cosim import bench
from cosim.bench import chips
from cosim.bench.questions import ENERGY, Variant
from cosim.bench.word_errors import word_errors
from cosim.cli import main
from cosim.errors import CosimError
from cosim.report.energy_markdown import PICTURE, energy_markdown, ratio
from cosim.report.energy_picture import picture_of
from hwmodels.workload import Gemm, TensorRef, Workload

CAUSES = ("compute", "on_chip_movement", "off_chip_movement", "static")


# --- what a row says --------------------------------------------------------------------------


def product(number):
    bits = {"i8": 8, "f32": 32}[number]
    return Gemm(
        "encoder/layers.0.fc",
        "linear",
        m=8,
        n=64,
        k=64,
        a=TensorRef("x", "input", (8, 64), bits * 8 * 64),
        w=TensorRef("w", "constant", (64, 64), bits * 64 * 64),
        result=TensorRef("y", "output", (8, 64), 32 * 8 * 64),
        a_number=number,
        w_number=number,
        accumulator="i32" if number == "i8" else "f32",
    )


def figures(number, changes=()):
    variant = Variant("own", "stacked_edge_32", dict(changes))
    calls = [Workload("encoder", (product(number),))]
    return chips._on_chip(calls, variant, chips.chip_of(variant), set())


def test_causes_components_and_factors_of_a_row_sum_to_its_joules_and_range():
    found = figures("i8")
    for key in ("energy_by_cause_j", "energy_by_component_j"):
        assert sum(found[key].values()) == pytest.approx(found["energy_j"], rel=1e-12)
    for end, key in (("value", "energy_j"), ("low", "energy_low_j"), ("high", "energy_high_j")):
        total = sum(one[end] for one in found["energy_by_factor_j"].values())
        assert total == pytest.approx(found[key], rel=1e-12)
    assert json.loads(json.dumps(found)) == found


def test_floats_go_to_the_lanes_and_take_longer_and_more_joules():
    narrow, wide = figures("i8"), figures("f32")
    assert narrow["products"] == {"mac_i8xi8": 8 * 64 * 64}
    assert wide["products"] == {"vector_mac": 8 * 64 * 64}
    assert wide["run_seconds"] > narrow["run_seconds"]
    assert ratio(wide, narrow).low > 1


def test_a_chip_that_cannot_hold_a_version_says_why(monkeypatch):
    def refused(*_args, **_how):
        raise CosimError(["encoder: no room", "step: no room"])

    monkeypatch.setattr(chips, "simulate_workloads", refused)
    assert figures("i8")["note"] == "encoder: no room; step: no room"


def test_rounds_of_timing_are_no_part_of_a_question_that_times_nothing():
    subject, version = ENERGY.subjects[0], ENERGY.versions[0]
    assert chips._key(subject, version, {}, 3) == chips._key(subject, version, {}, 4)
    assert chips._key(subject, version, {}, 3) != chips._key(subject, ENERGY.versions[1], {}, 3)


# --- word errors ------------------------------------------------------------------------------


def scored(program, wer, speech="prompts test"):
    return {
        "program_hash": program,
        "speech": speech,
        "wer": wer,
        "words": 958,
        "normalizer": "english",
        "wer_difference_interval": None,
    }


@pytest.fixture
def study(tmp_path):
    rows = [scored("p8", 0.0292), scored("p8", 0.1496, "libri"), scored("p4", None)]
    folder = tmp_path / "study"
    folder.mkdir()
    (folder / "study.json").write_text(json.dumps({"schema": 1, "rows": rows}))
    return folder


def test_word_errors_are_those_of_the_very_program(study, tmp_path):
    run = tmp_path / "run"
    run.mkdir()
    told = {"wer": 0.03, "words": 9, "normalizer": "n", "wer_difference_interval": [0.0, 0.1]}
    document = {"schema": 1, "program_hash": "p1", "speech": {"name": "a"}, "accuracy": told}
    (run / "run.json").write_text(json.dumps(document))
    found = word_errors([study, run])
    assert [(one["speech"], one["wer"]) for one in found["p8"]] == [
        ("prompts test", 0.0292),
        ("libri", 0.1496),
    ]
    assert found["p1"] == [{"speech": "a", **told}]
    assert "p4" not in found  # nothing was scored


def test_every_folder_without_a_run_is_named(study, tmp_path):
    wrong = tmp_path / "wrong"
    wrong.mkdir()
    (wrong / "run.json").write_text("{")
    with pytest.raises(CosimError) as caught:
        word_errors([study, tmp_path / "none", wrong])
    reason = "no study.json or run.json of schema 1; expected a folder of cosim run"
    assert caught.value.problems == [f"{tmp_path / 'none'}: {reason}", f"{wrong}: {reason}"]


# --- the section and its picture --------------------------------------------------------------

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


def on_chip(joules, **changes):
    """A row whose compute has one price and whose static joules another, each wrong by itself."""
    share = {"compute": 0.5, "on_chip_movement": 0.2, "off_chip_movement": 0.1, "static": 0.2}
    ends = {
        "value": 0.5 * joules,
        "low": 0.4 * joules,
        "high": joules,
    }
    return {
        "chip": "edge",
        "variant": "as shipped",
        "note": "",
        "run_seconds": 0.061,
        "macs": 1000,
        "products": {"mac_i8xi8": 1000},
        "energy_j": joules,
        "energy_low_j": 0.8 * joules,
        "energy_high_j": 2 * joules,
        "energy_table": "mine",
        "area_mm2": 12.34,
        "energy_by_component_j": {"array": 0.7 * joules, "memory": 0.3 * joules},
        "energy_by_cause_j": {name: part * joules for name, part in share.items()},
        "energy_by_factor_j": {"arithmetic": dict(ends), "leakage": dict(ends)},
        "refresh_multiplier": 1,
    } | changes


def row(version, *found, **changes):
    return {
        "case": f"whisper_tiny_en/{version}",
        "model": "whisper_tiny_en",
        "version": version,
        "config_hash": version,
        "program_hash": version,
        "note": "",
        "seconds": 30.0,
        "steps": 20,
        "is_random": False,
        "sparsity": 0.0,
        "size_bytes": 4.0e7,
        "chips": list(found),
        "executed": [],
    } | changes


ROWS = [
    row("fp32", on_chip(0.8, products={"vector_mac": 1000}, refresh_multiplier=2)),
    row("w8a8", on_chip(0.1)),
    row("w1a1", on_chip(0.0, note="array.supports: i1xi1 is missing")),
]


def test_the_section_has_joules_with_range_beside_word_errors():
    errors = {"w8a8": [scored("w8a8", 0.0292)]}
    found = bench.with_word_errors(bench.Bench(ROWS, TOTAL), errors)
    text = energy_markdown(found.rows, TOTAL)
    assert "| w8a8 | 2.92 % | 100 mJ (80 mJ to 200 mJ) | 0.12 (0.12 to 0.12) |" in text
    assert "| fp32 | not measured | 800 mJ (640 mJ to 1.6 J) | 1.00 (1.00 to 1.00) |" in text
    assert "| 50 mJ | 20 mJ | 10 mJ | 20 mJ | 61 ms | 0.00 % |" in text  # the causes of w8a8
    assert "| 61 ms | 100.00 % |" in text  # fp32 is on the lanes
    assert "| w1a1 | not measured | cannot run: array.supports: i1xi1 is missing |" in text
    assert "- WER: prompts test, 958 words (english)." in text
    assert "| fp32 | 40 MB | 0.00 % | not measured: no run of it given |" in text
    assert "refreshed more often: `fp32` 2 times." in text
    assert "Least: `w8a8`, 100 mJ." in text


def test_drawn_weights_have_no_word_errors_and_the_section_says_so():
    text = energy_markdown([{**one, "is_random": True} for one in ROWS], TOTAL)
    assert text.count("not measured: weights are drawn") == 3


def test_a_version_whose_prices_may_make_it_less_is_not_told_apart():
    near = on_chip(0.105)
    near["energy_by_factor_j"] = {"other": {"value": 0.105, "low": 0.05, "high": 0.2}}
    text = energy_markdown([ROWS[0], ROWS[1], row("w4a8", near)], TOTAL)
    assert "Least: `w8a8`, 100 mJ, or `w4a8` (1.05 (0.25 to 2.50) of it)." in text


def test_a_version_with_too_many_word_errors_is_not_called_usable():
    heard = {"fp32": 0.03, "w8a8": 0.06, "w4a8": 0.061}
    rows = [ROWS[0], ROWS[1], row("w4a8", on_chip(0.05))]
    errors = {name: [scored(name, wer)] for name, wer in heard.items()}
    found = bench.with_word_errors(bench.Bench(rows, TOTAL), errors).rows
    text = energy_markdown(found, TOTAL)
    assert "Least: `w4a8`, 50 mJ." in text
    assert "Least with at most twice the word errors of `fp32`: `w8a8`, 100 mJ." in text
    assert "word errors of" not in energy_markdown(rows, TOTAL)


def test_what_failed_is_listed_and_has_no_line():
    text = energy_markdown([*ROWS, row("w4a8", note="ValueError: no room")], TOTAL)
    assert "- `whisper_tiny_en/w4a8`: ValueError: no room" in text
    assert "| w4a8" not in text


def test_the_picture_draws_every_figure_in_its_place():
    picture = ET.fromstring(picture_of([*ROWS, row("w4a8", on_chip(0.01))]))  # noqa: S314
    svg = "{http://www.w3.org/2000/svg}"
    x = [float(one.get("cx")) for one in picture.iter(f"{svg}circle")]
    assert len(x) == 3  # fp32, w8a8, w4a8; w1a1 cannot run
    # a decade lies between 0.1 J and 0.01 J, and log10(8) of one between 0.8 J and 0.1 J
    assert x[0] - x[1] == pytest.approx(0.90309 * (x[1] - x[2]), abs=0.2)
    spans = [one for one in picture.iter(f"{svg}line") if one.get("class") == "span"]
    for dot, span in zip(x, spans, strict=True):
        assert float(span.get("x1")) < dot < float(span.get("x2"))
    parts = [one for one in picture.iter(f"{svg}rect") if one.find(f"{svg}title") is not None]
    widths = [float(one.get("width")) for one in parts[:4]]
    assert [width / sum(widths) for width in widths] == pytest.approx(
        [0.5, 0.2, 0.1, 0.2], abs=1e-3
    )


# --- the command ------------------------------------------------------------------------------


def invoke(*options):
    return CliRunner().invoke(main, ["bench", *map(str, options)])


def test_the_command_writes_the_section_and_leaves_the_page_around_it(tmp_path, study):
    saved, page = tmp_path / "rows.json", tmp_path / "energy.md"
    rows = [ROWS[0], ROWS[1] | {"program_hash": "p8"}]
    bench.save(bench.Bench(rows, TOTAL), saved)
    page.write_text("# Energy\n\nby hand\n")
    options = ("--energy", "--load", saved, "--markdown", page)
    for more in ((), ("--wer", study)):
        done = invoke(*options, *more)
        assert done.exit_code == 0, done.output
    text = page.read_text()
    assert text.startswith("# Energy\n\nby hand\n")
    assert text.count("<!-- study energy -->") == 1
    assert "| w8a8 | 2.92 % / 14.96 % |" in text
    assert re.search(rf"!\[.*\]\({PICTURE}\)", text)
    assert (tmp_path / PICTURE).read_text() == picture_of(rows)


def test_word_errors_go_with_energy_alone(study):
    done = invoke("--patterns", "--wer", study)
    assert done.exit_code == 2
    assert "--wer: found without --energy" in done.output
