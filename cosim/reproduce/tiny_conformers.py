"""Hernandez et al. 2023, tiny Conformers (004): the size of every row of Tables 1 to 5.

The encoder is counted in the model; the rest of the network (subsampling, decoder, joint) is not
published and stands in the model file as assumed parameters, fitted once for all rows.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import partial

from cosim.config import configs_root, load
from cosim.reproduce.rows import Judge, Remark, Request, Row, Source, TableRows, by_cell, missing
from cosim.reproduce.shapes import shapes_of

_DATA = configs_root() / "published" / "004_tiny_conformers.yaml"


@dataclass(frozen=True)
class Line:
    """A row of a table as printed."""

    name: str
    size: str
    wer: str
    physical: str = ""
    virtual: str = ""
    width: str = ""
    rank: str = ""
    unshared: str = ""


@dataclass(frozen=True)
class Published:
    """The data file; `models` names a row's model file."""

    source: Source
    models: str
    tables: dict[str, tuple[Line, ...]]
    abstract_test_wer: str
    remarks: tuple[Remark, ...]


def size_m(model: str) -> float:
    """Return millions of parameters: those executed, a shared one once, and those assumed."""
    loaded = shapes_of(model)
    return (loaded.parameters + sum(loaded.assumed_parameters.values())) / 1e6


def _sizes(table: str, _request: Request) -> Iterator[Row]:
    data = load(_DATA, Published)
    judge = Judge(table, by_cell(data.remarks, source=str(_DATA)))
    for line in data.tables[table]:
        ours = size_m(data.models.format(line.name.lower()))
        yield judge(f"{line.name} size", line.size, ours, unit="M")
    yield missing(table, f"{2 * len(data.tables[table])} WERs", "needs training on LibriSpeech")


def _text(_request: Request) -> Iterator[Row]:
    """Compare the abstract with the table it quotes."""
    data = load(_DATA, Published)
    best = next(line for line in data.tables["4"] if line.name == "LRS3")
    table = best.wer.split()[1]
    quoted = data.abstract_test_wer
    is_same = table == quoted
    note = "as Table 4" if is_same else f"{table}, as Tables 4 and 5 and section 5.5 have it"
    yield Row(
        "text",
        "LRS3 WER on test-clean in the abstract",
        "%",
        quoted,
        float(table),
        "reproduced" if is_same else "misprint",
        note,
    )


TABLES: Mapping[str, TableRows] = {
    **{name: partial(_sizes, name) for name in ("1", "2", "3", "4", "5")},
    "text": _text,
}
