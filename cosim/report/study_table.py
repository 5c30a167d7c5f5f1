"""The table of a study: a row for each recipe on each corpus, as cells and on the terminal."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from cosim.report.numbers import percent, scaled
from cosim.report.terminal import open_console, print_table

Row = Mapping[str, Any]
COLUMNS = (
    *("recipe", "size", "of fp32", "zipped", "bits a weight", "zeros"),
    *("WER", "S / I / D", "difference, 95 %", "step limit", "fallbacks"),
)


def cells(row: Row) -> tuple[str, ...]:
    """Return the text of each of `COLUMNS` for one row of `study.json`."""
    errors = "not measured"
    if row["wer"] is not None:
        errors = f"{row['substitutions']} / {row['insertions']} / {row['deletions']}"
    return (
        str(row["recipe"]),
        scaled(row["size_bytes"], "B"),
        percent(row["size_ratio"]),
        scaled(row["zipped_bytes"], "B"),
        f"{row['mean_bits']:.2f}",
        percent(row["sparsity"]),
        percent(row["wer"]),
        errors,
        difference(row),
        str(row["hit_limit"]),
        str(row["fallbacks"]),
    )


def difference(row: Row) -> str:
    """Return the difference of word error rates to the baseline in points, with its interval.

    Example:
        >>> difference({"wer_difference": 0.012, "wer_difference_interval": [-0.001, 0.02]})
        '+1.20 (-0.10 to +2.00)'

    """
    if row["wer_difference"] is None:
        return "not measured"
    text = f"{100 * row['wer_difference']:+.2f}"
    if row["wer_difference_interval"] is None:
        return text
    low, high = (100 * bound for bound in row["wer_difference_interval"])
    return f"{text} ({low:+.2f} to {high:+.2f})"


def speeches(document: Row) -> tuple[tuple[Row, Sequence[Row]], ...]:
    """Return each corpus of a study with its rows."""
    return tuple(
        (speech, [row for row in document["rows"] if row["speech"] == speech["name"]])
        for speech in document["total"]["speech"]
    )


def print_study(document: Row, folder: Path) -> None:
    """Print a table for each corpus; `*` marks what no recipe dominates in size and WER."""
    console, total = open_console(), document["total"]
    model = total["model"]
    console.print(
        f"{model['name']}: {scaled(model['parameters'])} parameters, "
        f"{scaled(model['size_bytes'], 'B')} fp32, {total['recipes']} recipes\n"
        f"weights: {model['source']}",
        soft_wrap=True,
    )
    for speech, rows in speeches(document):
        measured = rows[0]
        what = f"{measured['utterances']} utterances"
        if measured["words"] is not None:
            what += f", {measured['words']} words ({measured['normalizer']})"
        note = f"; WER {total['note']}" if total["note"] else ""
        print_table(
            console,
            f"\n{speech['name']}: {what}{note}; differences to {total['baseline']} in points",
            COLUMNS,
            (
                (f"{'*' if row['is_pareto'] else ' '} {first}", *rest)
                for row in rows
                for first, *rest in [cells(row)]
            ),
        )
    console.print(
        "* no other recipe is both smaller and better\n"
        f"notes and warnings of each recipe: {folder / 'study.json'}",
        soft_wrap=True,
    )
