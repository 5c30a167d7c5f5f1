"""docs/compression.md: a section for each study, from its rows alone."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from cosim.report.markdown import bullets, marks, table
from cosim.report.numbers import percent, scaled
from cosim.report.study_table import COLUMNS, cells, difference, speeches

Row = Mapping[str, Any]
_TITLES = {
    "compression": "Size against word error rate",
    "sensitivity": "Which layers carry the loss",
}
TITLE = "# Compression, measured"


def section(document: Row, command: str) -> str:
    """Return the section of a study as Markdown; `command` is what makes it again."""
    total = document["total"]
    begin, end = marks(total["name"])
    lines = [begin, f"## {_TITLES[total['question']]}", "", *_head(document, command)]
    for speech, rows in speeches(document):
        lines += ["", f"### {speech['name']}", "", _speech_line(speech, rows, total), ""]
        if total["question"] == "sensitivity":
            lines += _losses(rows, total)
        else:
            lines += table(COLUMNS, (_marked(row) for row in rows))
            lines += ["", *bullets(_findings(rows, total))]
    if total["question"] == "compression":
        lines += ["", *_recipes(document["rows"])]
    return "\n".join((*lines, "", end)) + "\n"


def _head(document: Row, command: str) -> list[str]:
    """Return what was measured, by what, of which weights."""
    total = document["total"]
    model, versions = total["model"], total["versions"]
    sizes = (
        f"{scaled(model['size_bytes'], 'B')} in fp32, {scaled(model['zipped_bytes'], 'B')} zipped"
    )
    return [
        f"Written by `{command}` on {total['created'][:10]}, from the rows of its `study.json`.",
        f"{model['name']}: {scaled(model['parameters'])} parameters, {sizes}.",
        f"Weights: {model['source']}.",
        "Every row is the artefact of its recipe, executed by the kernels; nothing is trained.",
        "Sizes hold codes, scales, zero points, indices and padding; zipped: zlib, level 6.",
        f"Differences are to `{total['baseline']}` in points of WER, paired bootstrap of 95 %.",
        f"cosim {versions['cosim-speech']}, numba {versions['numba']}, seed {total['seed']}.",
    ]


def _speech_line(speech: Row, rows: Sequence[Row], total: Row) -> str:
    """Return what was spoken, and by how many."""
    first = rows[0]
    text = f"{speech['utterances']} utterances, {speech['seconds'] / 60:.1f} minutes"
    speakers = speech["speakers"]
    text += f", {speakers} {'speaker' if speakers == 1 else 'speakers'}"
    if total["note"]:
        return f"{text}; WER {total['note']}."
    text += f"; {first['words']} words in {first['utterances']} of them ({first['normalizer']})."
    if speech["attribution"]:
        text += f" {speech['attribution']}."
    return text


def _marked(row: Row) -> tuple[str, ...]:
    """Return the cells of a row, its name in bold where nothing dominates it."""
    name, *rest = cells(row)
    return (f"**{name}**" if row["is_pareto"] else name, *rest)


def _names(rows: Iterable[Row]) -> str:
    return ", ".join(f"`{row['recipe']}`" for row in rows)


def _findings(rows: Sequence[Row], total: Row) -> list[str]:
    """Return what the rows of one corpus say, worst news included."""
    base = next(row for row in rows if row["recipe"] == total["baseline"])
    if base["wer"] is None:
        return []
    others = [row for row in rows if row is not base]
    best = sorted((row for row in rows if row["is_pareto"]), key=lambda row: row["size_bytes"])
    points = (
        f"`{r['recipe']}` ({scaled(r['size_bytes'], 'B')}, {percent(r['wer'])})" for r in best
    )
    found = [f"In bold, none other is both smaller and better (Pareto): {', '.join(points)}."]
    useless = [row for row in others if row["wer"] > 1]
    if useless:
        found.append(
            f"Useless as it is, more errors than words (WER above 100 %): {_names(useless)}."
        )
    broken = [row for row in others if 2 * base["wer"] < row["wer"] <= 1]
    if broken:
        found.append(f"Broken, more than twice the errors of fp32: {_names(broken)}.")
    found += _distinguished([row for row in others if row not in useless and row not in broken])
    stuck = [row for row in rows if row["hit_limit"]]
    counts = ", ".join(f"`{row['recipe']}` {row['hit_limit']}" for row in stuck)
    of = f"of {base['heard']} utterances"
    found.append(
        f"Decoding ran into the step limit (the model repeats itself), {of}: {counts}."
        if stuck
        else f"No recipe ran into the step limit in any {of}."
    )
    slow = [row for row in rows if row["fallbacks"]]
    if slow:
        listed = ", ".join(f"`{row['recipe']}` {row['fallbacks']}" for row in slow)
        found.append(f"Products that do not use the zeros or codes they are given: {listed}.")
    return found


def _distinguished(rows: Sequence[Row]) -> list[str]:
    """Return which recipes' intervals hold zero, and which are on either side of it."""
    tested = [row for row in rows if row["wer_difference_interval"] is not None]
    groups = (
        (
            "Not to be told from fp32 here, the interval of the difference holds zero",
            [r for r in tested if r["wer_difference_interval"][0] <= 0 <= _high(r)],
        ),
        (
            "Worse than fp32, but less than twice its errors",
            [r for r in tested if r["wer_difference_interval"][0] > 0],
        ),
        ("Better than fp32 on this corpus", [r for r in tested if _high(r) < 0]),
    )
    return [f"{text}: {_names(found)}." for text, found in groups if found]


def _high(row: Row) -> float:
    return float(row["wer_difference_interval"][1])


def _losses(rows: Sequence[Row], total: Row) -> list[str]:
    """Return the table of a scan, most loss first, and what it says."""
    base = next(row for row in rows if row["recipe"] == total["baseline"])
    if base["wer"] is None:
        return ["Not measured."]
    parameters = total["model"]["parameters"]
    scanned = sorted(
        (row for row in rows if row is not base),
        key=lambda row: (-row["wer_difference"], row["recipe"]),
    )
    lines = table(
        (
            *("compressed alone", "weights", "share", "size", "WER"),
            *("difference, 95 %", "S / I / D", "step limit"),
        ),
        (
            (
                _part(row),
                scaled(row["changed_weights"]),
                percent(row["changed_weights"] / parameters),
                scaled(row["size_bytes"], "B"),
                percent(row["wer"]),
                difference(row),
                f"{row['substitutions']} / {row['insertions']} / {row['deletions']}",
                str(row["hit_limit"]),
            )
            for row in scanned
        ),
    )
    return [*lines, "", *bullets(_scan_findings(scanned, base))]


def _scan_findings(scanned: Sequence[Row], base: Row) -> list[str]:
    words, wrong = base["words"], [row for row in scanned if row["wer_difference"] > 0]
    found = [f"Nothing compressed: WER {percent(base['wer'])}; one word is {percent(1 / words)}."]
    sure = [
        r for r in wrong if r["wer_difference_interval"] and r["wer_difference_interval"][0] > 0
    ]
    if wrong:
        worst = wrong[0]
        found.append(f"Most is lost in {_part(worst)}: {difference(worst)} points.")
    text = ", ".join(_part(row) for row in sure)
    found.append(
        f"The interval lies above zero for: {text}; the others cannot be told from fp32 on so few "
        "words."
        if sure
        else "No part alone can be told from fp32 on so few words."
    )
    return found


def _part(row: Row) -> str:
    """Return which part of the model a recipe of a scan compresses, in words."""
    return str(row["about"] or row["recipe"]).rstrip(".")


def _recipes(rows: Sequence[Row]) -> list[str]:
    """Return what each recipe does, and what was noted while it was applied."""
    first = {str(row["recipe"]): row for row in reversed(rows)}
    names = dict.fromkeys(str(row["recipe"]) for row in rows)
    lines = ["### Recipes", ""]
    lines += [f"- `{name}`: {first[name]['about']}" for name in names]
    notes: dict[str, list[str]] = {}
    for name in names:
        for note in first[name]["notes"]:
            notes.setdefault(str(note), []).append(f"`{name}`")
    for row in rows:
        for warning in row["warnings"]:
            listed = notes.setdefault(str(warning), [])
            if f"`{row['recipe']}`" not in listed:
                listed.append(f"`{row['recipe']}`")
    if notes:
        lines += ["", "### Notes and warnings", ""]
        lines += bullets(f"{', '.join(found)}: {note}" for note, found in notes.items())
    return lines
