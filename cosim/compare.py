"""Compare runs with the first: paired WER difference, ratios of cycles, joules, bytes, areas."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any

from cosim.errors import CosimError
from cosim.evaluate import Transcript, difference_interval, measure
from cosim.results import read_rows
from hwmodels.energy import EnergyRow
from hwmodels.energy_split import ratio

Rows = Mapping[str, Mapping[str, object]]


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
    rows: Rows,
    first_rows: Rows,
) -> dict[str, object]:
    difference, interval, note = _difference(document, first, rows, first_rows)
    text = note
    if difference is not None and interval is not None:
        low, high = (100 * bound for bound in interval)
        text = f"{100 * difference:+.2f} ({low:+.2f} to {high:+.2f})"
    shared = [key for key in first_rows if key in rows]
    return {
        "run": path.name,
        "wer": document["accuracy"]["wer"],
        "shared_utterances": len(shared),
        "wer_difference": difference,
        "wer_difference_interval": interval,
        "wer_difference_text": text,
        "cycles_ratio": _ratio(rows, first_rows, shared, "cycles"),
        "energy_ratio": _ratio(rows, first_rows, shared, "energy_j"),
        **_energy_range(document, first, is_whole=set(rows) == set(first_rows)),
        "dram_ratio": _ratio(rows, first_rows, shared, "dram_bytes"),
        "size_ratio": document["compression"]["size_bytes"] / first["compression"]["size_bytes"],
        **_area_ratios(document, first, _ratio(rows, first_rows, shared, "seconds")),
    }


def _area_ratios(
    document: Mapping[str, Any], first: Mapping[str, Any], seconds_ratio: float | None
) -> dict[str, object]:
    """Return the ratio of areas of the chips, and of speeds per area; None for unknown areas."""
    mine, other = (one["totals"].get("area_mm2") for one in (document, first))
    areas = mine / other if mine and other else None
    speed = 1 / (seconds_ratio * areas) if areas and seconds_ratio else None
    return {"area_ratio": areas, "speed_per_area_ratio": speed}


def _energy_range(
    document: Mapping[str, Any], first: Mapping[str, Any], *, is_whole: bool
) -> dict[str, object]:
    """Return two ranges of the ratio of joules, None where the runs heard different utterances.

    In `energy_ratio_interval` figures that both runs use are wrong alike, in
    `energy_ratio_interval_apart` each goes where it likes.
    """
    found = None
    if is_whole:
        found = ratio(*(ledger(one["totals"]["energy_rows"]) for one in (document, first)))
    together = None if found is None else [found.low, found.high]
    apart = None if found is None else [found.loose_low, found.loose_high]
    return {"energy_ratio_interval": together, "energy_ratio_interval_apart": apart}


def ledger(rows: Sequence[Mapping[str, Any]]) -> tuple[EnergyRow, ...]:
    """Return the rows of a ledger that `run.json` holds."""
    known = {field.name for field in fields(EnergyRow)}
    return tuple(
        EnergyRow(**{key: value for key, value in row.items() if key in known}) for row in rows
    )


def _ratio(rows: Rows, first_rows: Rows, shared: Sequence[str], key: str) -> float | None:
    """Return the ratio of sums over the utterances that both runs have."""
    base = sum(float(str(first_rows[name][key])) for name in shared)
    return sum(float(str(rows[name][key])) for name in shared) / base if base else None


def _difference(
    document: Mapping[str, Any], first: Mapping[str, Any], rows: Rows, first_rows: Rows
) -> tuple[float | None, list[float] | None, str]:
    if any(item["accuracy"]["words"] is None for item in (document, first)):
        return None, None, "not measured"
    names = [item["accuracy"]["normalizer_name"] for item in (document, first)]
    if names[0] != names[1]:
        return None, None, "other normaliser"
    ours, theirs = (
        measure([Transcript.from_row(table[key]) for key in first_rows if key in rows], names[0])
        for table in (rows, first_rows)
    )
    if not ours.total.words:
        return None, None, "no words shared"
    speakers = [str(first_rows[key]["speaker"]) for key in first_rows if key in rows]
    interval = difference_interval(ours, theirs, speakers)
    return (ours.total.errors - theirs.total.errors) / ours.total.words, interval, ""
