"""`cosim reproduce`: the figures of five papers beside ours, one file per paper.

Printed values are data in configs/published/, ours are computed when asked, from the models (their
parameters on torch's meta device) or from formulas.
"""

import importlib
from collections.abc import Mapping

from cosim.errors import CosimError, suggestion
from cosim.reproduce.rows import Request, Row, TableRows

__all__ = ["PAPERS", "Request", "Row", "reproduce", "tables"]

PAPERS: Mapping[str, str] = {
    "000": "adaptive_compression",
    "001": "hj_pruning",
    "002": "variable_scale",
    "003": "attention_or_convolution",
    "004": "tiny_conformers",
}
_ROMAN = {"1": "I", "2": "II", "3": "III", "4": "IV", "5": "V", "6": "VI"}


def tables(paper: str) -> Mapping[str, TableRows]:
    """Return the tables of a paper by the name it gives them; CosimError for an unknown paper."""
    known = {**PAPERS, **{name: name for name in PAPERS.values()}}
    if paper not in known:
        raise CosimError(
            f"reproduce: found paper {paper!r}, expected one of {', '.join(PAPERS)}"
            f"{suggestion(paper, list(known))}"
        )
    module = importlib.import_module(f"{__name__}.{known[paper]}")
    found: Mapping[str, TableRows] = module.TABLES
    return found


def reproduce(
    paper: str, *, table: str | None = None, request: Request | None = None
) -> tuple[Row, ...]:
    """Return the rows of a paper, or of one of its tables.

    Raises CosimError for an unknown paper or table.

    Example:
        reproduce("002", table="A1")

    """
    known = tables(paper)
    chosen = list(known)
    if table is not None:
        names = (table, table.upper(), table.lower(), _ROMAN.get(table, ""))
        chosen = [name for name in dict.fromkeys(names) if name in known]
        if not chosen:
            raise CosimError(
                f"reproduce {paper}: --table: found {table!r}, expected one of "
                f"{', '.join(known)}{suggestion(table, list(known))}"
            )
    asked = request or Request()
    return tuple(row for name in chosen for row in known[name](asked))


def counts(rows: tuple[Row, ...]) -> dict[str, int]:
    """Return the number of rows per verdict."""
    found = {"reproduced": 0, "misprint": 0, "ambiguous": 0, "not reproducible": 0}
    for row in rows:
        found[row.verdict] += 1
    return found
