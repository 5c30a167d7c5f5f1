"""Compare runs with the first one: paired WER difference, ratios of cycles, joules and bytes."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from cosim.errors import CosimError
from cosim.results import read_rows
from cosim.speech.wer import paired_interval, utterance_errors


def compare(runs: Sequence[Path]) -> list[dict[str, object]]:
    """Return one row per run folder, with ratios to the first.

    The WER difference is paired over the utterances that both runs heard; it is None where the
    normalisers differ or no utterance is shared. Raises CosimError for folders without a run.
    """
    missing = [f"{path}: no run.json, expected a run folder" for path in runs if not _has(path)]
    if missing:
        raise CosimError(missing)
    documents = [json.loads((path / "run.json").read_text(encoding="utf-8")) for path in runs]
    heard = [{str(row["id"]): row for row in read_rows(path / "utterances.jsonl")} for path in runs]
    return [
        _row(path, document, documents[0], rows, heard[0])
        for path, document, rows in zip(runs, documents, heard, strict=True)
    ]


def _has(path: Path) -> bool:
    return (path / "run.json").is_file()


def _row(
    path: Path,
    document: Mapping[str, Any],
    first: Mapping[str, Any],
    rows: Mapping[str, Mapping[str, object]],
    first_rows: Mapping[str, Mapping[str, object]],
) -> dict[str, object]:
    difference, interval, note = _difference(document, first, rows, first_rows)
    text = note
    if difference is not None and interval is not None:
        low, high = (100 * bound for bound in interval)
        text = f"{100 * difference:+.2f} ({low:+.2f} to {high:+.2f})"
    return {
        "run": path.name,
        "wer": document["accuracy"]["wer"],
        "wer_difference": difference,
        "wer_difference_interval": interval,
        "wer_difference_text": text,
        "cycles_ratio": _ratio(document, first, "totals", "cycles"),
        "energy_ratio": _ratio(document, first, "totals", "energy_j"),
        "dram_ratio": _ratio(document, first, "totals", "dram_bytes"),
        "size_ratio": _ratio(document, first, "compression", "size_bytes"),
    }


def _ratio(document: Mapping[str, Any], first: Mapping[str, Any], part: str, key: str) -> float:
    return float(document[part][key] / first[part][key])


def _difference(
    document: Mapping[str, Any],
    first: Mapping[str, Any],
    rows: Mapping[str, Mapping[str, object]],
    first_rows: Mapping[str, Mapping[str, object]],
) -> tuple[float | None, tuple[float, float] | None, str]:
    names = [item["accuracy"]["normalizer_name"] for item in (document, first)]
    if names[0] != names[1]:
        return None, None, "other normaliser"
    shared = [key for key in first_rows if key in rows]
    if not shared:
        return None, None, "no utterance shared"
    references = [str(rows[key]["reference"]) for key in shared]
    ours, words = utterance_errors(references, [str(rows[k]["text"]) for k in shared], names[0])
    theirs, _ = utterance_errors(references, [str(first_rows[k]["text"]) for k in shared], names[0])
    total = int(sum(words))
    if not total:
        return None, None, "no words"
    interval = paired_interval(ours, theirs, words, groups=None, seed=0)
    return (int(sum(ours)) - int(sum(theirs))) / total, interval, ""
