"""docs/compression.md: what a page says follows from the rows, and which rows nothing beats."""

from cosim.report.compression_markdown import TITLE, section
from cosim.report.markdown import with_section
from cosim.study_rows import pareto


def point(recipe, size, wer, speech="a"):
    return {"recipe": recipe, "speech": speech, "size_bytes": size, "wer": wer}


def test_the_frontier_keeps_what_no_other_beats_in_both():
    rows = [
        point("big", 4, 0.1),
        point("same", 4, 0.1),
        point("worse", 5, 0.1),
        point("small", 1, 0.9),
        point("beaten", 2, 0.95),
        point("unmeasured", 0, None),
        point("other corpus", 9, 2.0, speech="b"),
    ]
    assert [row["recipe"] for row in pareto(rows)] == ["small", "big", "same", "other corpus"]


def row_of(recipe, wer, interval, *, hit_limit=0, size=100, **more):
    return {
        **point(recipe, size, wer),
        "about": f"About {recipe}.",
        "notes": [],
        "warnings": [],
        "fallbacks": 0,
        "size_ratio": 0.5,
        "zipped_bytes": size,
        "mean_bits": 8.0,
        "sparsity": 0.0,
        "substitutions": 1,
        "insertions": 2,
        "deletions": 3,
        "words": 50,
        "utterances": 9,
        "normalizer": "plain",
        "wer_difference": wer - 0.1,
        "heard": 9,
        "wer_difference_interval": interval,
        "hit_limit": hit_limit,
        "is_pareto": False,
        "changed_weights": 10,
        **more,
    }


def page_of(rows, question="compression"):
    speech = {"name": "a", "utterances": 9, "seconds": 60.0, "speakers": 2, "attribution": ""}
    total = {
        "name": "n",
        "question": question,
        "created": "2030-01-02T03:04:05",
        "seed": 0,
        "versions": {"cosim-speech": "1", "numba": "1"},
        "baseline": "fp32",
        "note": "",
        "model": {
            "name": "m",
            "parameters": 100,
            "size_bytes": 400,
            "zipped_bytes": 300,
            "source": "drawn",
        },
        "speech": [speech],
    }
    return section({"rows": rows, "total": total}, "cosim run study.yaml")


def test_the_page_says_which_recipes_break_the_model():
    text = page_of(
        [
            row_of("fp32", 0.1, [0, 0]),
            row_of("even", 0.11, [-0.01, 0.03]),
            row_of("worse", 0.15, [0.01, 0.09]),
            row_of("broken", 0.4, [0.2, 0.4], hit_limit=2),
            row_of("useless", 1.5, [1.0, 2.0], hit_limit=9, fallbacks=3),
        ]
    )
    said = {line.rpartition(": ")[2]: line for line in text.splitlines() if line.startswith("- ")}
    assert "100 %" in said["`useless`."]
    assert "twice" in said["`broken`."]
    assert "holds zero" in said["`even`."]
    assert "Worse than fp32" in said["`worse`."]
    assert "step limit" in said["`broken` 2, `useless` 9."]
    assert "zeros or codes" in said["`useless` 3."]


def test_the_page_of_a_scan_puts_the_greatest_loss_first():
    rows = [
        row_of("fp32", 0.1, [0, 0]),
        row_of("little", 0.11, [-0.01, 0.03]),
        row_of("much", 0.3, [0.1, 0.4]),
    ]
    text = page_of(rows, "sensitivity")
    assert text.index("| About much") < text.index("| About little")
    assert "Most is lost in About much" in text
    assert "lies above zero for: About much; the others" in text


def test_a_section_of_a_page_is_replaced_and_others_stay(tmp_path):
    page = tmp_path / "page.md"
    first = page_of([row_of("fp32", 0.1, [0, 0])])
    page.write_text(with_section(page, first, name="n", title=TITLE))
    page.write_text(page.read_text() + "\nmine\n")
    second = first.replace("drawn", "trained")
    text = with_section(page, second, name="n", title=TITLE)
    assert "trained" in text
    assert "drawn" not in text
    assert text.count("<!-- study n -->") == 1
    assert text.startswith("# Compression")
    assert text.endswith("\nmine\n")
