"""Many recipes on several corpora: word errors, sizes, and which recipes nothing dominates.

The model is loaded and captured once. Transcripts are kept in the folder under the hash of the
program that made them, so that a killed study goes on and an edited recipe is measured alone.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from time import perf_counter

from cosim.artefact import Artefact, ModelFacts, build, captured, facts_of
from cosim.artefact_folder import DECISIONS
from cosim.compress.compressed import compress
from cosim.errors import CosimError, collect
from cosim.evaluate import (
    WINDOWS_S,
    Progress,
    Transcript,
    kernels_of,
    measure,
    normalizer_of,
    program_engines,
    unmeasured,
)
from cosim.execute import fallbacks
from cosim.ir import Graph
from cosim.models import LoadedModel, load
from cosim.results import (
    SCHEMA,
    RunFolder,
    config_hash,
    read_rows,
    versions,
    write_json,
    write_rows,
)
from cosim.run import batches_of, hear, heard_before
from cosim.speech.selection import Speech, select
from cosim.study_file import Entry, Study
from cosim.study_rows import (
    Made,
    Row,
    digests,
    facts_row,
    pareto,
    pareto_rows,
    scored,
    total,
    unscored,
)


@dataclass(frozen=True)
class Workshop:
    """Makes the artefact of a recipe; the model is loaded and captured once."""

    loaded: LoadedModel = field(repr=False)
    facts: ModelFacts
    graphs: tuple[Graph, ...] = field(repr=False)
    batches: Sequence[object] = field(repr=False, default=())

    def artefact(self, entry: Entry) -> Artefact:
        """Return the artefact of one recipe; raises CosimError as `compress` and `build` do."""
        compressed = compress(
            self.loaded.module, entry.recipe, source=entry.source, batches=self.batches
        )
        return build(self.loaded, compressed, self.facts, self.graphs)


def default_folder(study: Study) -> Path:
    """Return `runs/NAME-HASH`: the folder stays while recipes and corpora of a study change."""
    return Path("runs") / f"{study.name}-{config_hash(_kept(study))[:10]}"


def run_study(
    study: Study, folder: Path, *, progress: Progress, keep_going: bool = False
) -> dict[str, object]:
    """Measure every recipe on every corpus; write and return the document of `study.json`.

    Beside it stand `pareto.json`, the recipes that none dominates in size and word error rate,
    `utterances.jsonl`, and in `decisions.jsonl` what methods report of layers. Raises CosimError
    for bad input, that of all corpora at once and that of all recipes at once, before anything is
    transcribed.
    """
    started = perf_counter()
    corpora = _corpora(study, keep_going=keep_going, progress=progress)
    place = RunFolder(folder)
    place.open(config_hash({**_kept(study), "versions": versions()}))
    workshop = _workshop(study, progress)
    made, reason = _all_made(study, workshop, progress)
    heard = _all_heard(place, workshop, made, corpora, progress)
    rows, spoken = _rows(study, workshop.facts, made, corpora, place, heard, reason)
    document: dict[str, object] = {
        "schema": SCHEMA,
        "rows": rows,
        "total": total(study, workshop.facts, corpora, reason)
        | {"wall_seconds": round(perf_counter() - started, 1)},
    }
    write_rows(folder / "utterances.jsonl", spoken)
    told = [{"recipe": one.name, **row} for one in made for row in one.decisions]
    write_rows(folder / DECISIONS, told)
    write_json(folder / "pareto.json", {"schema": SCHEMA, "rows": pareto_rows(rows)})
    write_json(folder / "study.json", document)
    return document


def _rows(
    study: Study,
    facts: ModelFacts,
    made: Sequence[Made],
    corpora: Sequence[Speech],
    place: RunFolder,
    heard: Mapping[tuple[str, str], Sequence[Transcript]],
    reason: str,
) -> tuple[list[Row], list[Row]]:
    """Return a row per recipe and corpus, and one per utterance of each where texts are scored."""
    name = normalizer_of(facts.family)
    rows: list[Row] = []
    spoken: list[Row] = []
    for speech in corpora:
        base = heard[made[0].name, speech.name]
        for one in made:
            items = heard[one.name, speech.name]
            choices = next(read_rows(place.part(f"{one.part(speech)}.kernels.jsonl")))
            row: Row = {**facts_row(one, facts), "speech": speech.name, **choices}
            if reason:
                rows.append({**row, **unscored(items, base)})
                continue
            ours, theirs = measure(items, name), measure(base, name)
            rows.append({**row, **scored(items, base, ours, theirs, seed=study.seed)})
            spoken += [
                {"recipe": one.name, "speech": speech.name, **item.row()}
                | {"errors": counts.errors, "words": counts.words}
                for item, counts in zip(items, ours.rows, strict=True)
            ]
    best = [(row["recipe"], row["speech"]) for row in pareto(rows)]
    rows = [{**row, "is_pareto": (row["recipe"], row["speech"]) in best} for row in rows]
    return rows, spoken


def _kept(study: Study) -> dict[str, object]:
    """Return what may not change within a folder."""
    return {"kind": "study", "name": study.name, "model": study.document["model"]}


def _corpora(study: Study, *, keep_going: bool, progress: Progress) -> tuple[Speech, ...]:
    """Return the checked corpora; CosimError for what is wrong in any of them."""
    problems: list[str] = []
    found = [
        collect(
            problems,
            lambda: select(
                speech,  # noqa: B023, called at once
                relative_to=study.path,
                keep_going=keep_going,
                max_seconds=WINDOWS_S.get(study.model.family),
                progress=progress.note,
            ),
        )
        for speech in study.speech
    ]
    corpora = tuple(speech for speech in found if speech is not None)
    names = [speech.name for speech in corpora]
    problems += [
        f"{study.path}: speech: found {name} {names.count(name)} times, expected each corpus once"
        for name in dict.fromkeys(names)
        if names.count(name) > 1
    ]
    if problems:
        raise CosimError(problems)
    for text in dict.fromkeys(speech.attribution for speech in corpora if speech.attribution):
        progress.note(text)
    return corpora


def _workshop(study: Study, progress: Progress) -> Workshop:
    progress.stage("loading and capturing the model")
    loaded = load(study.model)
    progress.note(f"weights: {loaded.source}")
    batches = batches_of(loaded, study.calibration, study.path, progress)
    return Workshop(loaded, facts_of(loaded), captured(loaded), batches)


def _all_made(study: Study, workshop: Workshop, progress: Progress) -> tuple[tuple[Made, ...], str]:
    """Apply every recipe once, so that all that are wrong are told before anything is heard.

    Returns what is known of each, and why word errors cannot be measured (empty where they can).
    """
    problems: list[str] = []
    made: list[Made] = []
    reason, plain = "", {}
    progress.stage("compressing", len(study.entries))
    for index, entry in enumerate(study.entries):
        artefact = collect(problems, lambda: workshop.artefact(entry))  # noqa: B023, at once
        progress.advance()
        if artefact is None:
            continue
        if index == 0:
            reason, plain = unmeasured(artefact), digests(artefact)
        made.append(Made.of(entry, artefact, plain))
    if problems:
        raise CosimError(problems)
    return tuple(made), reason


def _all_heard(
    place: RunFolder,
    workshop: Workshop,
    made: Sequence[Made],
    corpora: Sequence[Speech],
    progress: Progress,
) -> dict[tuple[str, str], list[Transcript]]:
    """Return the transcripts by recipe and corpus; only what is not in the folder is work."""
    heard: dict[tuple[str, str], list[Transcript]] = {}
    clock = _Clock(
        {
            (one.name, speech.name): len(speech.utterances)
            - len(heard_before(place, f"{one.part(speech)}.jsonl"))
            for one in made
            for speech in corpora
        }
    )
    for one in made:
        name = one.name
        artefact, maker = None, None
        for speech in corpora:
            part, short = one.part(speech), speech.name.partition(" (")[0]
            kept = heard_before(place, f"{part}.jsonl")
            choices = place.part(f"{part}.kernels.jsonl")
            if choices.exists() and not clock.waiting[name, speech.name]:
                heard[name, speech.name] = [kept[item.id] for item in speech.utterances]
                continue
            if artefact is None or maker is None:
                artefact = workshop.artefact(one.entry)
                maker = program_engines(artefact)
            heard[name, speech.name] = hear(
                place,
                f"{part}.jsonl",
                maker,
                speech,
                title=f"{name} on {short}",
                artefact=artefact,
                progress=progress,
            )
            kernels = kernels_of(artefact, maker())
            count = sum(choice.is_fallback for choice in kernels)
            write_rows(choices, [{"fallbacks": count, "warnings": fallbacks(kernels)}])
            progress.note(f"{name} on {short}: {clock.tell((name, speech.name))}")
    return heard


class _Clock:
    """How much of a study is left; `waiting` counts utterances by recipe and corpus."""

    def __init__(self, waiting: Mapping[tuple[str, str], int]) -> None:
        self.waiting = dict(waiting)
        self._all = sum(waiting.values())
        self._left = self._all
        self._started = perf_counter()

    def tell(self, finished: tuple[str, str]) -> str:
        """Take one recipe on one corpus as finished; return how far the study is."""
        self._left -= self.waiting[finished]
        done = self._all - self._left
        minutes = (perf_counter() - self._started) / 60
        rest = minutes * self._left / done if done else 0.0
        return f"{done} of {self._all} utterances in {minutes:.1f} min, about {rest:.0f} min to go"
