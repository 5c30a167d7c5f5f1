"""Word errors of finished runs and studies, by the hash of the program that made the texts."""

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from cosim.bench.measure import Row
from cosim.errors import CosimError
from cosim.results import SCHEMA

_KEYS = ("speech", "wer", "words", "normalizer", "wer_difference_interval")


def word_errors(folders: Sequence[Path]) -> dict[str, list[Row]]:
    """Return word error rates of run and study folders by program hash, a row per corpus.

    A row holds `speech`, `wer` (a fraction), `words`, `normalizer` and `wer_difference_interval`.
    What was not scored is left out; of a program measured twice on a corpus the last stays. Raises
    CosimError naming every folder that holds neither `study.json` nor `run.json`.
    """
    problems: list[str] = []
    found: dict[str, dict[str, Row]] = {}
    for folder in folders:
        document = _document(folder)
        if document is None:
            problems.append(f"{folder}: no study.json or run.json of schema {SCHEMA}")
            continue
        for program, row in _rows(document):
            if row["wer"] is not None:
                found.setdefault(program, {})[str(row["speech"])] = row
    if problems:
        raise CosimError([f"{one}; expected a folder of cosim run" for one in problems])
    return {program: list(rows.values()) for program, rows in found.items()}


def _document(folder: Path) -> Mapping[str, Any] | None:
    for path in (folder / "study.json", folder / "run.json"):
        if not path.is_file():
            continue
        try:
            document = json.loads(path.read_text(encoding="utf-8"))
        except ValueError:
            return None
        if isinstance(document, dict) and document.get("schema") == SCHEMA:
            return document
    return None


def _rows(document: Mapping[str, Any]) -> Iterator[tuple[str, Row]]:
    """Yield the program hash and the row of every corpus of a study, or the one of a run."""
    if "rows" in document:
        for row in document["rows"]:
            yield row["program_hash"], {key: row[key] for key in _KEYS}
        return
    told = {**document["accuracy"], "speech": document["speech"]["name"]}
    yield document["program_hash"], {key: told[key] for key in _KEYS}
