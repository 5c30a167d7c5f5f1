"""How mistakes of memory specifications, address maps and policies are told."""

import difflib
from collections.abc import Iterable


class SpecError(ValueError):
    """A memory, map or policy that cannot be; `problems` are all its mistakes, one line each."""

    def __init__(self, problems: Iterable[str]) -> None:
        self.problems = list(problems)
        super().__init__("\n".join(self.problems))


def nearest(name: str, names: Iterable[str]) -> str:
    """Return the ending of a message about an unknown name: the nearest one, or all there are.

    Example:
        >>> nearest("tRPP", ["tRP", "tRAS"])
        '; did you mean "tRP"?'

    """
    known = list(names)
    close = difflib.get_close_matches(name, known, n=1)
    return f'; did you mean "{close[0]}"?' if close else f"; expected one of {', '.join(known)}"
