"""Pieces of Markdown that the written pages share."""

from collections.abc import Iterable, Sequence


def table(columns: Sequence[str], rows: Iterable[Sequence[str]]) -> list[str]:
    """Return lines of a table: the first column to the left, the others to the right.

    Example:
        >>> table(("chip", "cycles"), [("edge", "7")])
        ['| chip | cycles |', '|---|---:|', '| edge | 7 |']

    """
    return [
        "| " + " | ".join(columns) + " |",
        "|---|" + "---:|" * (len(columns) - 1),
        *("| " + " | ".join(row) + " |" for row in rows),
    ]


def bullets(lines: Iterable[str]) -> list[str]:
    """Return the lines of a list."""
    return [f"- {line}" for line in lines]
