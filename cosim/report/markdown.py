"""Pieces of Markdown that the written pages share."""

from collections.abc import Iterable, Sequence
from pathlib import Path


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


def with_section(page: Path, text: str, *, name: str, title: str) -> str:
    """Return the text of a page with the section of study `name` replaced, or added at its end.

    A page that does not exist begins with `title`.
    """
    begin, end = marks(name)
    old = page.read_text(encoding="utf-8") if page.exists() else f"{title}\n"
    if begin in old and end in old:
        before, _, rest = old.partition(begin)
        return f"{before}{text.rstrip()}{rest.partition(end)[2]}"
    return f"{old.rstrip()}\n\n{text}"


def marks(name: str) -> tuple[str, str]:
    """Return the lines before and after the section of study `name`."""
    return f"<!-- study {name} -->", f"<!-- end of study {name} -->"
