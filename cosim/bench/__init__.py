"""Speed of kernels and of whole networks against peers and limits, as ratios in one run.

The sides alternate (A B A B ...) and are timed in CPU seconds, so that a busy machine disturbs all
of them alike; a ratio above 1 means that ours is faster.
"""

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import cosim.guard  # noqa: F401 (the check is the import)
from cosim import results
from cosim.bench import linear, others
from cosim.bench.cases import AbsentError, Plan, chosen
from cosim.bench.machine import describe, load_average
from cosim.bench.measure import Row, row_of
from cosim.bench.questions import QUESTIONS
from cosim.bench.whole import NETWORKS
from cosim.errors import CosimError
from cosim.evaluate import Progress
from kernels import peaks

__all__ = [
    "Bench",
    "bench",
    "bench_chips",
    "bench_memory",
    "bench_models",
    "bench_tiles",
    "load",
    "plans",
    "save",
    "with_word_errors",
]
_NEEDED = ("kernel", "shape", "threads", "ratio_torch", "ratio_numpy", "share_of_limit", "gops")
_NEEDED_BY: Mapping[str, tuple[str, ...]] = {
    "kernels": _NEEDED,
    "models": ("model", "note"),
    "memory": ("case", "kind"),
    "tiles": ("case", "chip", "cycles", "dense_cycles", "note"),
    **dict.fromkeys(QUESTIONS, ("case", "model", "version", "config_hash", "note")),
}


@dataclass(frozen=True)
class Bench:
    """Rows of one run, and what they were measured on.

    ``total`` holds the machine, the peaks, the arguments, and lists of what was skipped (something
    is not installed or not there) and of what failed.
    """

    rows: list[Row]
    total: dict[str, object]

    @property
    def failed(self) -> list[str]:
        """What went wrong, one line a case."""
        found = self.total.get("failed", [])
        return [f"{one['case']}: {one['note']}" for one in found] if isinstance(found, list) else []


def plans(threads: int = 1) -> list[Plan]:
    """Return every kernel case; only linear layers are timed on several threads."""
    return [*linear.plans(threads), *(others.plans() if threads == 1 else ())]


def bench(text: str, *, rounds: int, progress: Progress, threads: int = 1) -> Bench:
    """Time the cases and whole networks whose id contains `text`.

    Whole transcriptions take the first utterances of the prompts test split. A case that cannot
    be built, for want of a package or a kernel, is skipped with a note; one that raises is noted as
    failed. Raises CosimError when no case has such an id.
    """
    found = chosen(plans(threads), text)
    networks = [row for row in NETWORKS if threads == 1 and row.chosen(text)]
    if not found and not networks:
        raise CosimError(f"bench: no case contains {text!r}; cases are named kernel/KxN-Tt")
    total: dict[str, object] = describe() | {"filter": text, "rounds": rounds, "threads": threads}
    rows: list[Row] = []
    skipped: list[dict[str, str]] = []
    failed: list[dict[str, str]] = []
    if found:
        progress.stage("calibrating")
        measured = peaks.calibrate()
        total["peaks"] = {
            name: {"meaning": peak.meaning, "rate": peak.rate} for name, peak in measured.items()
        }
        progress.stage("timing kernels", total=len(found))
    for plan in found:
        try:
            rows.append(row_of(plan, plan.make(), measured, rounds=rounds))
        except AbsentError as error:
            skipped.append({"case": plan.id, "note": str(error)})
        except Exception as error:  # noqa: BLE001 (one broken kernel must not hide the others)
            failed.append({"case": plan.id, "note": f"{type(error).__name__}: {error}"})
        progress.advance()
    for network in networks:
        progress.stage(f"timing whole networks: {network.name}")
        try:
            rows += network.rows(text, rounds, progress)
        except AbsentError as error:
            skipped.append({"case": network.name, "note": str(error)})
        except Exception as error:  # noqa: BLE001 (as above)
            failed.append({"case": network.name, "note": f"{type(error).__name__}: {error}"})
    total |= {"skipped": skipped, "failed": failed, "load_average_after": load_average()}
    return Bench(rows, total)


def bench_models(text: str, *, rounds: int, progress: Progress) -> Bench:
    """Take every shipped model whose file name contains `text` through the whole path.

    Raises CosimError when there is none.
    """
    from cosim.bench import zoo  # noqa: PLC0415, imports what only models need

    paths = zoo.model_files(text)
    if not paths:
        raise CosimError(f"bench --models: no file of configs/models contains {text!r}")
    total: dict[str, object] = describe() | {
        "filter": text,
        "rounds": rounds,
        "threads": 1,
        "models": len(paths),
        "seconds": zoo.SECONDS,
        "chip": zoo.CHIP,
        "recipe": zoo.RECIPE,
        "steps": zoo.STEPS,
    }
    rows = list(zoo.zoo_rows(paths, rounds=rounds, progress=progress))
    failed = [{"case": row["model"], "note": row["note"]} for row in rows if row["note"]]
    total |= {"skipped": [], "failed": failed, "load_average_after": load_average()}
    return Bench(rows, total)


def bench_tiles(text: str, *, progress: Progress) -> Bench:
    """Simulate blocks of zeros as large as the array for the cases that contain `text`.

    Raises CosimError when there is no such case.
    """
    from cosim.bench.tiles import tile_rows  # noqa: PLC0415, imports what only models need

    total: dict[str, object] = describe() | {"filter": text, "rounds": 1, "threads": 1}
    rows = list(tile_rows(text, progress))
    total |= {"skipped": [], "failed": [], "load_average_after": load_average()}
    return Bench(rows, total)


def bench_chips(
    name: str, text: str, *, rounds: int, progress: Progress, out: Path | None = None
) -> Bench:
    """Answer a question of `QUESTIONS` for the cases whose `model/version` contains `text`.

    Finished rows are saved in `out` one by one. Rows that it holds are kept where chips, model,
    version and library versions are the same: a command that was stopped goes on. Raises
    CosimError when there is no such case, and as `load` for a file that is something else.
    """
    from cosim.bench.chips import question_rows  # noqa: PLC0415, imports what only models need

    question = QUESTIONS[name]
    known = load(out, of=name).rows if out is not None and out.exists() else []
    total: dict[str, object] = describe() | {
        "question": name,
        "filter": text,
        "rounds": rounds,
        "threads": 1,
        "skipped": [],
    }
    rows: list[Row] = []
    for row in question_rows(question, text, rounds=rounds, progress=progress, known=known):
        rows.append(row)
        failed = [{"case": one["case"], "note": one["note"]} for one in rows if one["note"]]
        total |= {"failed": failed, "load_average_after": load_average()}
        if out is not None:
            save(Bench(rows, total), out)
    return Bench(rows, total)


def with_word_errors(found: Bench, errors: Mapping[str, list[Row]]) -> Bench:
    """Return the rows with the word errors of their programs, as `word_errors` reads them.

    A program of which there are none gets an empty list.
    """
    rows = [{**row, "wer": errors.get(str(row.get("program_hash")), [])} for row in found.rows]
    return Bench(rows, found.total)


def bench_memory(text: str, *, rounds: int, progress: Progress, count: int | None = None) -> Bench:
    """Put the memory controller beside published simulators, and change one thing at a time.

    Takes the cases whose id contains `text`, all of which begin with `memory/`; `count` are the
    requests of a trace. Raises CosimError when there is no such case.
    """
    from cosim.bench import (  # noqa: PLC0415, brings numba
        memory,
        memory_changes,
        memory_chip,
        memory_efficiency,
    )

    count = memory.COUNT if count is None else count
    known = [(one, case) for one in memory.references() for case in memory.cases(one)]
    chosen = [(one, case) for one, case in known if text in case]
    changes = [one for one in memory_changes.changes() if text in one.case]
    speeds = [case for case in memory_changes.speed_cases() if text in case]
    chips = [case for case in memory_chip.chip_cases() if text in case]
    shares = [case for case in memory_efficiency.efficiency_cases() if text in case]
    if not (chosen or changes or speeds or chips or shares):
        raise CosimError(
            f"bench: no case contains {text!r}; cases are named memory/MEMORY/POLICY/TRACE, "
            "memory/what-if/TABLE/MEMORY/CHANGE, memory/chip/CHIP/MAP, memory/speed/MEMORY/POLICY, "
            "memory/efficiency/MEMORY/POLICY"
        )
    total: dict[str, object] = describe() | {
        "filter": text,
        "rounds": rounds,
        "threads": 1,
        "count": count,
        "skipped": [],
        "failed": [],
    }
    rows: list[Row] = []
    number = len(chosen) + len(changes) + len(speeds) + len(chips) + len(shares)
    progress.stage("memories", total=number)
    for reference, case in chosen:
        rows += memory.reference_rows(reference, case, count=count)
        progress.advance()
    for change in changes:
        rows += memory_changes.change_rows(change, count=count)
        progress.advance()
    for case in chips:
        rows.append(memory_chip.chip_row(case))
        progress.advance()
    for case in shares:
        rows += memory_efficiency.efficiency_rows(case)
        progress.advance()
    for case in speeds:
        rows.append(memory_changes.speed_row(case, rounds=rounds, count=count))
        progress.advance()
    return Bench(rows, total | {"load_average_after": load_average()})


def save(found: Bench, path: Path) -> None:
    """Write the document that `--json` prints."""
    results.write_text(path, results.table(found.rows, found.total) + "\n")


def load(path: Path, *, of: str = "kernels") -> Bench:
    """Read what `save` wrote of `kernels`, `models`, `memory` or a question; else CosimError."""
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise CosimError(f"{path}: cannot be read: {error.strerror}") from None
    except ValueError as error:
        raise CosimError(f"{path}: not JSON: {error}") from None
    problems = list(_problems(document, _NEEDED_BY[of]))
    if problems:
        raise CosimError(
            [f"{path}: {problem}; expected a file of cosim bench --out" for problem in problems]
        )
    return Bench(document["rows"], document["total"])


def _problems(document: object, needed: Sequence[str]) -> Iterable[str]:
    if not isinstance(document, dict):
        yield f"found {type(document).__name__}, expected an object"
        return
    if document.get("schema") != results.SCHEMA:
        yield f"schema: found {document.get('schema')!r}, expected {results.SCHEMA}"
    if not isinstance(document.get("total"), dict):
        yield "total: missing"
    rows = document.get("rows")
    if not isinstance(rows, list):
        yield "rows: missing"
        return
    for i, row in enumerate(rows):
        missing = [key for key in needed if not isinstance(row, dict) or key not in row]
        if missing:
            yield f"rows[{i}]: {', '.join(missing)} missing"
