"""The one exception a user's input can raise."""

import difflib
from collections.abc import Callable, Iterable, Sequence
from typing import TypeVar

T = TypeVar("T")


class CosimError(ValueError):
    """Everything that is wrong with one input, at once; the command line exits with 2.

    Example:
        >>> print(CosimError(["edge.yaml: array.rows: found -1, expected an integer >= 1"]))
        edge.yaml: array.rows: found -1, expected an integer >= 1

    """

    def __init__(self, problems: str | Iterable[str]) -> None:
        self.problems = [problems] if isinstance(problems, str) else list(problems)
        super().__init__("\n".join(self.problems))


def suggestion(found: str, known: Sequence[str]) -> str:
    """Return '; did you mean "x"?' for the nearest known name, or the names when none is near.

    Example:
        >>> suggestion("colums", ["rows", "columns"])
        '; did you mean "columns"?'
        >>> suggestion("zzz", ["rows", "columns"])
        '; known: columns, rows'

    """
    near = difflib.get_close_matches(found, known, n=1)
    if near:
        return f'; did you mean "{near[0]}"?'
    return f"; known: {', '.join(sorted(known))}"


def collect(problems: list[str], work: Callable[[], T]) -> T | None:
    """Return what `work` returns, or None after adding its problems to the list.

    Example:
        >>> problems = []
        >>> collect(problems, lambda: 3), problems
        (3, [])

    """
    try:
        return work()
    except CosimError as error:
        problems += error.problems
        return None
