"""What a stream is made of: a finished run, and a file that says when its utterances start."""

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Annotated, Any

from annotated_types import Ge, Gt, Le, MinLen

from cosim.errors import CosimError, collect, suggestion
from cosim.results import read_rows
from cosim.speech.manifest import lines, utterance_id
from cosim.validate import parse
from hwmodels.architecture import FEMTO, Figure
from hwmodels.arrivals import idle_rows
from hwmodels.energy import EnergyRow

ARRIVALS = ("batch", "poisson", "continuous")
"""Words that stand where the path of a file of arrivals could."""
Seconds = Annotated[float, Ge(0), Le(1e10)]


@dataclass(frozen=True)
class Simulated:
    """One utterance of a run: what its simulation says of it."""

    id: Annotated[str, MinLen(1)]
    duration_s: Seconds
    cycles: Annotated[int, Ge(1)]
    energy_j: Annotated[float, Ge(0)]


@dataclass(frozen=True)
class Hardware:
    """The chip of a run; each of its `cores` pays the static prices of the ledger."""

    name: str
    clock_hz: Annotated[float, Gt(0), Le(FEMTO)]
    cores: Annotated[int, Ge(1)] = 1


@dataclass(frozen=True)
class Recorded:
    """What a run folder says of its chip and its utterances."""

    name: str
    hardware: Hardware
    cycles: int
    energy_rows: tuple[EnergyRow, ...]
    utterances: Annotated[tuple[Simulated, ...], MinLen(1)]
    area_mm2: Annotated[float, Gt(0)] | None = None

    @property
    def period_fs(self) -> int:
        """Femtoseconds of a cycle, as in the simulation of the chip."""
        return round(FEMTO / self.hardware.clock_hz)


@dataclass(frozen=True)
class Start:
    """A row of a file of arrivals: when an utterance starts, seconds after the chips were on."""

    id: Annotated[str, MinLen(1)]
    start: Seconds


def read_run(run: Path) -> Recorded:
    """Return what a run folder says; CosimError for one that simulated no utterance on a chip."""
    if not (run / "run.json").is_file():
        raise CosimError(f"{run}: no run.json, expected the folder of a finished `cosim run`")
    try:
        document = json.loads((run / "run.json").read_text(encoding="utf-8"))
        utterances = list(read_rows(run / "utterances.jsonl"))
    except ValueError as error:  # no JSON, or no text
        raise CosimError(
            f"{run}: holds a file that is not what `cosim run` wrote: {error}"
        ) from None
    document = document if isinstance(document, dict) else {}
    totals = document.get("totals")
    totals = totals if isinstance(totals, dict) else {}
    rows = totals.get("energy_rows")
    memory = totals.get("memory")
    if isinstance(rows, list) and isinstance(memory, dict) and "rest_w" in memory:
        hardware = parse(_only(document.get("hardware"), Hardware), Hardware, source=str(run))
        rows = [*rows, *_at_rest(memory, hardware, source=f"{run}: totals.memory")]
    plain = {
        "name": document.get("name"),
        "hardware": _only(document.get("hardware"), Hardware),
        "cycles": totals.get("cycles"),
        "energy_rows": [_only(row, EnergyRow) for row in rows] if isinstance(rows, list) else rows,
        "utterances": [_only(row, Simulated) for row in utterances],
        "area_mm2": totals.get("area_mm2"),
    }
    recorded = parse(plain, Recorded, source=str(run))
    problems = []
    cycles = sum(one.cycles for one in recorded.utterances)
    if cycles != recorded.cycles:
        problems.append(
            f"utterances.jsonl: found {cycles} cycles in all, expected {recorded.cycles} as in "
            "run.json"
        )
    try:
        idle_rows(recorded.energy_rows, 0)
    except ValueError as error:
        problems += [f"energy_rows: {line}" for line in str(error).splitlines()]
    if problems:
        raise CosimError(f"{run}: {problem}" for problem in problems)
    return recorded


def _at_rest(
    memory: Mapping[str, Any], hardware: Hardware, *, source: str
) -> Iterator[dict[str, object]]:
    """Yield what a memory behind a controller takes without work, per cycle of each core.

    Runs that were made before refresh was told apart have it in their `rest_w`.
    """
    cycles_hz = hardware.clock_hz * hardware.cores
    parts = memory.get("rest_by_action_w")
    if not isinstance(parts, dict):
        parts = {"background": memory["rest_w"]}
    for action, watts in parts.items():
        rest = parse(watts, Figure, source=f"{source}.{action}")
        low, high = rest.bounds
        prices = (rest.value / cycles_hz, low / cycles_hz, high / cycles_hz)
        row = EnergyRow("memory", action, 0, *prices, rest.source, "memory at rest")
        yield dict(vars(row))


def _only(data: object, kind: type) -> object:
    """Return a mapping with the keys that `kind` knows; a run may say more than is read here."""
    if not isinstance(data, dict):
        return data
    return {key: value for key, value in data.items() if key in kind.__annotations__}


def read_starts(path: Path) -> list[tuple[str, Start]]:
    """Return the rows of a file of arrivals with their places; CosimError with all mistakes.

    A row holds `id` and `start`, seconds after the chips were switched on. The manifest of segments
    of one recording will do: `offset` is their start there, `audio` names those without `id`.
    """
    if not path.is_file():
        raise CosimError(
            f'--arrivals: found "{path}", no such file, expected a word or JSON lines with `id` '
            f"and `start`{suggestion(str(path), ARRIVALS)}"
        )
    problems: list[str] = []
    rows: list[tuple[str, Start]] = []
    clocks: set[str] = set()
    for where, line in lines(path):
        try:
            data = json.loads(line)
        except json.JSONDecodeError as error:
            problems.append(f"{where}: not valid JSON: {error.msg} at column {error.colno}")
            continue
        plain, clock = _start(data) if isinstance(data, dict) else (data, "")
        row = collect(problems, partial(parse, plain, Start, source=where))
        if row is not None:
            rows.append((where, row))
            clocks.add(clock)
    if len(clocks) > 1:
        problems.append(
            f"{path}: found times of {len(clocks)} clocks ({', '.join(sorted(clocks))}), expected "
            "`start` in every row, or in none and `offset` in one recording"
        )
    if not rows and not problems:
        problems.append(f"{path}: found no row, expected JSON lines with `id` and `start`")
    if problems:
        raise CosimError(problems)
    return rows


def _start(data: dict[str, object]) -> tuple[dict[str, object], str]:
    """Return `id` and `start` of a row, and what its time is counted by."""
    audio = data.get("audio", data.get("audio_filepath"))
    plain: dict[str, object] = {}
    if "id" in data:
        plain["id"] = str(data["id"])  # as a manifest's
    elif isinstance(audio, str):
        plain["id"] = utterance_id(audio, data.get("offset"))
    for key, clock in (("start", "start"), ("offset", f"offset in {audio}")):
        if key in data:
            return plain | {"start": data[key]}, clock
    return plain, "none"
