"""The table, docs/kernels.md and the roofline picture of a benchmark, from handwritten rows."""

import re

import pytest
from click.testing import CliRunner

from cosim import bench
from cosim.cli import main
from cosim.report.bench_markdown import markdown_of
from cosim.report.roofline import roofline_of

TOTAL = {
    "created": "2025-01-01T00:00:00+00:00",
    "cpu": "some <cpu>",
    "cores": 2,
    "features": ["avx2", "fma"],
    "caches_bytes": {"L2": 512 << 10},
    "load_average": [0.5, 0.25, 0.125],
    "load_average_after": [0.75, 0.5, 0.25],
    "versions": {"numpy": "2.4"},
    "rounds": 15,
    "threads": 1,
    "filter": "",
    "peaks": {
        "fma": {"meaning": "multiply-add", "rate": 100e9},
        "pshufb": {"meaning": "tables", "rate": 1000e9},
        "DRAM": {"meaning": "memory", "rate": 20e9},
    },
    "skipped": [
        {"case": "w3a8/768x768-T499", "note": "no kernel"},
        {"case": "w3a8/768x768-T100", "note": "no kernel"},
    ],
    "failed": [],
}


def row(kernel, shape, **changes):
    weights = changes.get("weights", "hot")
    return {
        "kernel": kernel,
        "shape": shape,
        "threads": 1,
        "ratio_torch": 2.0,
        "ratio_numpy": 1.9,
        "share_of_limit": 0.9,
        "gops": 90.0,
        "case": f"{kernel}/{shape}" + ("-cold" if weights == "cold" else ""),
        "weights": weights,
        "seconds": 1e-3,
        "ratio_torch_interval": [1.8, 2.2, 0.96],
        "ratio_torch_quantizing": None,
        "limit": "fma",
        "limit_gops": 100.0,
        "work": 90_000_000,
        "operations": 90_000_000,
        "bytes": 1_000_000,
        "operations_per_byte": 90.0,
        "error": 0.0108,
        "kernel_used": kernel,
        "peers": {"torch": {"ratio_torch": 1.0, "ratio_ours": 2.0, "error": 2e-7}},
        "notes": [],
    } | changes


ROWS = [
    row("w8a8", "768x3072-T499", ratio_torch=1.5),
    row(
        "w8a8",
        "768x768-T499",
        ratio_torch=2.5,
        peers={"onnxruntime_int8": {"ratio_torch": 1.7, "ratio_ours": 1.47, "error": 0.11}},
        notes=["scipy: scipy is not installed"],
    ),
    row("w4a8", "768x768-T1", ratio_torch=7.5, weights="cold", gops=10.0, work=1_000_000),
    row("f32_dense", "768x768-T499", ratio_torch=1.0, ratio_numpy=0.98, share_of_limit=0.8),
    row("w1a1", "512x2048-T499", ratio_torch=12.0),
    row("w1a1_codes", "256x2048-T499", ratio_torch=9.5),
    row("attention_f32", "12x64x499-T499", ratio_torch=1.25),
    row(
        "csr_break_even",
        "768x768-T499",
        ratio_torch=None,
        ratio_torch_interval=None,
        ratio_dense_by_sparsity={"0.20": 0.9, "0.30": 1.1},
        break_even_sparsity=0.25,
    ),
    {
        "kernel": "whisper_w8a8",
        "shape": "tiny-6utterances",
        "threads": 1,
        "ratio_torch": 1.6,
        "ratio_numpy": None,
        "share_of_limit": None,
        "gops": None,
        "case": "whisper_w8a8/tiny-6utterances",
        "seconds": 1.5,
        "ratio_torch_interval": [1.5, 1.7, 0.75],
        "error": 0.5,
        "length_ratio": 1.01,
        "peers": {"ctranslate2_int8": {"ratio_torch": 1.15, "ratio_ours": 1.39, "error": 0.17}},
        "notes": [],
    },
]


def cells(text, start):
    (line,) = [line for line in text.splitlines() if line.startswith(f"| {start} |")]
    return [cell.strip() for cell in line.strip("|").split("|")]


def test_the_document_holds_goals_limits_peers_networks_and_what_is_missing():
    text = markdown_of(ROWS, TOTAL)
    assert "Made by `cosim bench --markdown docs/kernels.md`" in text
    other = TOTAL | {"filter": "T499", "rounds": 7}
    assert "cosim bench --filter T499 --rounds 7 --markdown" in markdown_of(ROWS, other)
    assert "some <cpu>, 2 cores (L2 524 kB), avx2, fma" in text
    assert "load average 0.50 / 0.25 / 0.12 before, 0.75 / 0.50 / 0.25 after" in text
    goals = text[text.index("## Against the goals") : text.index("## 499 rows")]
    assert cells(goals, "w8a8")[1] == "**2.00** (1.50 to 2.50; 1.75)"
    assert cells(goals, "w4a8")[4] == "7.50 (7.50 to 7.50; 9)"  # not reached: not bold
    assert cells(goals, "f32_dense")[5] == "80% (80% to 80%; 85%)"
    assert cells(goals, "w1a1")[1] == "**12.00** (12.00 to 12.00; 11)"
    assert "few steps: w1a1_codes/256x2048-T499 **9.50** (9.50 to 9.50; 9)." in goals
    assert "against numpy at 499 rows: **0.98** (0.98 to 0.98; 0.97)" in goals
    shapes = text[text.index("## 499 rows") : text.index("## 1 row, cold")]
    assert cells(shapes, "kernel") == ["kernel", "768x3072", "768x768", "512x2048", "256x2048"]
    assert cells(shapes, "w8a8")[1:] == ["1.50 (1.80-2.20)", "2.50 (1.80-2.20)", "", ""]
    assert cells(shapes, "f32_dense")[1] == ""
    assert "| w8a8/768x768-T499 | onnxruntime_int8 | 1.70 | 1.47 | - | 0.11 | 0.011 |" in text
    assert "| 768x768-T499 | 0.90 | 1.10 | 25% |" in text
    assert cells(text, "attention_f32/12x64x499-T499")[1:3] == ["1.25", "1.80-2.20"]
    assert cells(text, "whisper_w8a8/tiny-6utterances")[1:4] == ["1.60", "1.50-1.70 (75%)", "1.50"]
    assert cells(text, "ctranslate2_int8 (peer)")[1] == "1.15"
    assert "- skipped: no kernel (2 cases, the first w3a8/768x768-T499)" in text
    assert "- scipy: scipy is not installed (w8a8/768x768-T499)" in text


def test_sections_without_rows_are_left_out():
    text = markdown_of(ROWS[:1], TOTAL | {"skipped": []})
    for title in ("1 row, cold", "Peers", "Break-even", "Attention", "Whole networks", "Notes"):
        assert f"## {title}" not in text
    assert "## 499 rows" in text


def test_a_point_lies_at_its_rate_and_intensity_under_its_roof():
    page = roofline_of(ROWS, TOTAL)
    assert "some &lt;cpu&gt;" in page
    assert "http" not in page  # opens without network
    points = {
        name: (float(x), float(y))
        for x, y, name in re.findall(
            r'<circle cx="([\d.]+)" cy="([\d.]+)" r="5" fill="[^"]+"><title>([^:]+):', page
        )
    }
    assert len(points) == 8  # whole networks have no rate
    fast, slow = points["w8a8/768x3072-T499"], points["w4a8/768x768-T1-cold"]
    assert fast[1] < slow[1]  # up is faster
    roofs = {
        name: float(y)
        for y, name in re.findall(
            r'<line class="roof"[^>]*y2="([\d.]+)"/>\n<text[^>]*>(\w+)<', page
        )
    }
    assert roofs["pshufb"] < roofs["fma"] < fast[1]  # 90 GOP/s is below 100
    # a decade is as high between 1 and 90 GOP/s as between 100 and 1000
    decade = roofs["fma"] - roofs["pshufb"]
    assert slow[1] - fast[1] == pytest.approx(decade * 1.954, rel=0.01)


def test_a_benchmark_without_kernels_has_a_page_that_says_so():
    assert "No case has a rate" in roofline_of(ROWS[-1:], TOTAL)


def test_the_command_makes_every_file_from_a_saved_one(tmp_path):
    saved = tmp_path / "bench.json"
    bench.save(bench.Bench(ROWS, TOTAL), saved)
    files = {"--markdown": tmp_path / "kernels.md", "--roofline": tmp_path / "roofline.html"}
    options = [str(part) for pair in files.items() for part in pair]
    done = CliRunner().invoke(main, ["bench", "--load", str(saved), *options])
    assert done.exit_code == 0, done.output
    assert files["--markdown"].read_text() == markdown_of(ROWS, TOTAL)
    assert files["--roofline"].read_text() == roofline_of(ROWS, TOTAL)
    assert "w8a8/768x3072-T499" in done.stdout
    assert "1.80-2.20" in done.stdout
    assert "onnxruntime_int8" in done.stdout


def test_a_failed_case_is_an_error_of_ours(tmp_path):
    saved = tmp_path / "bench.json"
    failed = [{"case": "w8a8/768x768-T499", "note": "ValueError: no"}]
    bench.save(bench.Bench(ROWS, TOTAL | {"failed": failed}), saved)
    done = CliRunner().invoke(main, ["bench", "--load", str(saved)])
    assert done.exit_code == 1
    assert "failed: w8a8/768x768-T499: ValueError: no" in done.stderr
