"""Rows of a reproduction: what a paper prints, what comes out here, and what that says."""

import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Literal

from cosim.errors import CosimError

Verdict = Literal["reproduced", "misprint", "ambiguous", "not reproducible"]
UNEXPLAINED = "differs, and no reason was found"


@dataclass(frozen=True)
class Source:
    """Where a paper appeared."""

    title: str
    authors: str
    venue: str
    year: int


@dataclass(frozen=True)
class Remark:
    """What is known about a printed cell (`TABLE/QUANTITY`) that plain agreement does not tell.

    `ambiguous` names the assumption on which our value rests; `misprint` and `not reproducible`
    give the reason. `correct` is what a misprint should have been, where that is not simply our
    value; ours must agree with it.
    """

    cell: str
    verdict: Literal["misprint", "ambiguous", "not reproducible"]
    why: str
    correct: str = ""

    def allows(self, ours: float | None, *, within: float = 0.0) -> bool:
        """Return whether our value does not contradict the corrected one."""
        return ours is None or not self.correct or agrees(self.correct, ours, within=within)


@dataclass(frozen=True)
class Row:
    """One figure. `paper` is the text as printed ("" where blank), `ours` None where there is none.

    `note` is the corrected value of a misprint, the assumption of what is ambiguous, or why
    something cannot be reproduced.
    """

    table: str
    quantity: str
    unit: str
    paper: str
    ours: float | None
    verdict: Verdict
    note: str = ""

    @property
    def difference(self) -> float | None:
        """Ours minus the printed value, in the row's unit; None where one of them is missing."""
        printed = number(self.paper)
        return None if printed is None or self.ours is None else self.ours - printed

    def row(self) -> dict[str, object]:
        """Return the figure as a result row."""
        printed = number(self.paper)
        return {
            "table": self.table,
            "quantity": self.quantity,
            "unit": self.unit,
            "paper": self.paper or None if printed is None or self.paper[0] in "<>~" else printed,
            "printed": self.paper,
            "ours": self.ours,
            "difference": self.difference,
            "verdict": self.verdict,
            "note": self.note,
        }


Zipped = Literal["not", "sampled", "whole"]


@dataclass(frozen=True)
class Request:
    """What a reproduction may spend: `zipped` are the deflate sizes of drawn weights.

    `sampled` zips a piece of each tensor (a minute for all of 000), `whole` all of it (minutes).
    """

    zipped: Zipped = "not"
    tell: Callable[[str], None] = field(default=lambda _text: None, compare=False)


TableRows = Callable[[Request], Iterable[Row]]


def number(printed: str) -> float | None:
    """Return the number in a printed cell, None where it is blank.

    Example:
        >>> number("< 5"), number("~33"), number("-")
        (5.0, 33.0, None)

    """
    text = printed.lstrip("<>~ ")
    return None if text in ("", "-") else float(text)


def decimals(printed: str) -> int:
    """Return the number of digits after the point of a printed number."""
    return len(printed.partition(".")[2])


def agrees(printed: str, ours: float, *, within: float = 0.0) -> bool:
    """Return whether `ours`, rounded or cut to the printed digits, is what is printed.

    `<x` asks for less than x, `>x` for more. `within` allows a relative difference besides.

    Example:
        >>> agrees("26.62", 26.625), agrees("107", 106.54), agrees("108", 106.54), agrees("<5", 4.4)
        (True, True, False, True)

    """
    value = number(printed)
    if value is None:
        return False
    if printed[0] in "<>":
        return ours < value if printed[0] == "<" else ours > value
    step = 10.0 ** -decimals(printed)
    cut = math.trunc(ours / step + math.copysign(1e-9, ours)) * step
    is_same = abs(ours - value) <= 0.5 * step * (1 + 1e-9) or abs(cut - value) < 1e-6 * step
    return is_same or abs(ours - value) <= within * abs(value)


def shown(ours: float, printed: str) -> str:
    """Return our value with the digits the paper prints."""
    return f"{ours:.{decimals(printed)}f}"


@dataclass(frozen=True)
class Judge:
    """Turns figures of one table into rows, with the remarks of the paper's data file."""

    table: str
    remarks: Mapping[str, Remark]

    def __call__(
        self,
        quantity: str,
        printed: str,
        ours: float | None,
        *,
        unit: str = "",
        within: float = 0.0,
        note: str = "",
    ) -> Row:
        """Return the row of one figure.

        Agreement is `reproduced`, unless a remark calls it ambiguous. What disagrees is what the
        remark says, else not reproducible. Without a value of ours there must be a remark or note.
        """
        remark = self.remarks.get(f"{self.table}/{quantity}")
        reasons = [text for text in (note, remark.why if remark else "") if text]
        verdict: Verdict
        if ours is not None and agrees(printed, ours, within=within):
            is_ambiguous = remark is not None and remark.verdict == "ambiguous"
            verdict = "ambiguous" if is_ambiguous else "reproduced"
        elif remark is not None and remark.allows(ours, within=within):
            verdict = remark.verdict
            if verdict == "misprint" and (remark.correct or ours is not None):
                reasons.insert(0, remark.correct or shown(ours or 0.0, printed))
        else:
            verdict = "not reproducible"
            reasons = reasons if ours is None and reasons else [*reasons, UNEXPLAINED]
        return Row(self.table, quantity, unit, printed, ours, verdict, "; ".join(reasons))


def by_cell(remarks: Iterable[Remark], *, source: str) -> dict[str, Remark]:
    """Return remarks by cell; CosimError where a cell has two."""
    found: dict[str, Remark] = {}
    repeated = []
    for remark in remarks:
        if remark.cell in found:
            repeated.append(f"{source}: remarks: {remark.cell}: found twice, expected once")
        found[remark.cell] = remark
    if repeated:
        raise CosimError(repeated)
    return found


def missing(table: str, what: str, why: str) -> Row:
    """Return the row of figures that cannot be made here at all."""
    return Row(table, what, "", "", None, "not reproducible", why)
