"""One experiment from checkpoint to run folder: compress, lower, execute, simulate, record.

Finished pieces are kept in the run folder: a run that was killed goes on where it stopped and ends
in the same result.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from time import perf_counter
from typing import cast

from cosim.artefact import Artefact, ModelFacts, build, captured, facts_of
from cosim.artefact_folder import DECISIONS
from cosim.calls import check_chip
from cosim.compress.compressed import compress
from cosim.compress.recipe import Recipe
from cosim.evaluate import (
    DRAWN_TOKENS_PER_SECOND,
    WINDOWS_S,
    EngineMaker,
    Measured,
    Progress,
    Transcript,
    activation_densities,
    difference_interval,
    kernels_of,
    measure,
    normalizer_of,
    program_engines,
    transcribe,
    unmeasured,
)
from cosim.execute import KernelChoice, ProgramEngine, fallbacks
from cosim.experiment import Experiment
from cosim.models import AttentionRules, LoadedModel, load
from cosim.results import SCHEMA, RunFolder, config_hash, now, read_rows, versions, write_rows
from cosim.simulate_speech import SpeechRun, simulate_speech
from cosim.speech.manifest import SpeechConfig
from cosim.speech.normalize import normalizer
from cosim.speech.selection import Speech, select
from cosim.speech.wer import write_trn

BASELINE = "torch fp32"


@dataclass(frozen=True)
class Engines:
    """The engines of a run by name, in the order they are reported; the last is the recipe's."""

    makers: Mapping[str, EngineMaker]
    artefact: Artefact

    @property
    def kernels(self) -> tuple[KernelChoice, ...]:
        """Which kernel executes each op of the recipe's program."""
        make = list(self.makers.values())[-1]
        return kernels_of(self.artefact, cast("ProgramEngine", make()))


def default_folder(experiment: Experiment) -> Path:
    """Return `runs/NAME-HASH`: runs of different configurations never meet."""
    return Path("runs") / f"{experiment.name}-{config_hash(experiment.document)[:10]}"


def run(
    experiment: Experiment,
    folder: Path,
    *,
    progress: Progress,
    keep_going: bool = False,
) -> dict[str, object]:
    """Carry out an experiment and return the document of its `run.json`.

    A folder whose run is complete is read, not made again. Raises CosimError for bad input and for
    a folder that holds something else.
    """
    speech = select(
        experiment.speech,
        relative_to=experiment.path,
        keep_going=keep_going,
        max_seconds=WINDOWS_S.get(experiment.model.family),
        progress=progress.note,
    )
    if speech.attribution:
        progress.note(speech.attribution)
    identity = {
        "config": experiment.document,
        "speech": [(item.id, item.text, item.duration_s) for item in speech.utterances],
        "versions": versions(),
    }
    place = RunFolder(folder)
    if place.open(config_hash(identity)):
        progress.note(f"{folder}: this run is complete; its results are shown again")
        return dict(json.loads(place.document.read_text(encoding="utf-8")))
    seconds: dict[str, float] = {}
    progress.stage("loading the model")
    loaded = load(experiment.model)
    progress.note(f"weights: {loaded.source}")
    engines = _engines(experiment, loaded, progress, seconds)
    check_chip(engines.artefact, experiment.chip)
    started = perf_counter()
    heard = {
        name: hear(
            place,
            f"{name.replace(' ', '-')}.jsonl",
            maker,
            speech,
            title=f"transcribing with {name}",
            artefact=engines.artefact,
            progress=progress,
        )
        for name, maker in engines.makers.items()
    }
    seconds["execute"] = perf_counter() - started
    started = perf_counter()
    final = heard[list(heard)[-1]]
    densities = None
    if experiment.chip.architecture.array.gating == "activations":
        progress.stage("counting zeros of activations")
        densities = activation_densities(engines.artefact, speech)
    progress.stage(f"simulating {experiment.chip.name}", len(final))
    simulated = simulate_speech(
        engines.artefact, experiment.chip, final, progress.advance, densities
    )
    seconds["simulate"] = perf_counter() - started
    document = _document(experiment, engines, speech, heard, simulated, seconds)
    write_rows(folder / "layers.jsonl", simulated.layer_rows())
    write_rows(folder / "utterances.jsonl", _utterance_rows(heard, simulated))
    if engines.artefact.decisions:
        write_rows(folder / DECISIONS, engines.artefact.decisions)
    if not unmeasured(engines.artefact):
        _write_trn(folder, heard, normalizer_of(engines.artefact.model.family))
    place.close(document)
    return document


def batches_of(
    loaded: LoadedModel, speech: SpeechConfig | None, relative_to: Path, progress: Progress
) -> Sequence[object]:
    """Return inputs for methods that calibrate; none without `speech`."""
    if speech is None:
        return ()
    from cosim.calibration import calibration_batches  # noqa: PLC0415, only some recipes need it

    return calibration_batches(loaded, speech, relative_to=relative_to, progress=progress.note)


def _engines(
    experiment: Experiment, loaded: LoadedModel, progress: Progress, seconds: dict[str, float]
) -> Engines:
    """Return torch, our fp32 and the recipe's engine (the last two are one for an fp32 recipe)."""
    from cosim.models.torch_engine import torch_engine  # noqa: PLC0415, imports torch

    progress.stage("compressing")
    started = perf_counter()
    facts = facts_of(loaded)
    compressed = compress(
        loaded.module,
        experiment.recipe,
        source=experiment.recipe_source,
        batches=batches_of(loaded, experiment.calibration, experiment.path, progress),
    )
    seconds["compress"] = perf_counter() - started
    progress.stage("lowering")
    started = perf_counter()
    plain = Recipe("fp32")
    makers: dict[str, EngineMaker] = {BASELINE: lambda: torch_engine(loaded)}
    graphs = captured(loaded)
    reference = build(loaded, compress(loaded.module, plain), facts, graphs)
    makers["cosim fp32"] = program_engines(reference)
    artefact = reference
    if experiment.recipe.methods:
        artefact = build(loaded, compressed, facts, graphs)
        makers[f"cosim {experiment.recipe.name}"] = program_engines(artefact)
    seconds["lower"] = perf_counter() - started
    return Engines(makers, artefact)


def heard_before(place: RunFolder, part: str) -> dict[str, Transcript]:
    """Return the transcripts that a part of the run folder keeps, by utterance."""
    rows = map(Transcript.from_row, read_rows(place.part(part)))
    return {transcript.id: transcript for transcript in rows}


def hear(
    place: RunFolder,
    part: str,
    maker: EngineMaker,
    speech: Speech,
    *,
    title: str,
    artefact: Artefact,
    progress: Progress,
) -> list[Transcript]:
    """Transcribe with one engine; every finished utterance is on disk before the next is told."""
    finished = heard_before(place, part)
    progress.stage(title, len(speech.utterances))
    for _ in finished:
        progress.advance()
    with place.appending(part) as file:

        def keep(transcript: Transcript) -> None:
            file.write(json.dumps(transcript.row()) + "\n")
            file.flush()
            progress.advance()

        return transcribe(maker, speech, artefact=artefact, finished=finished, report=keep)


def _document(
    experiment: Experiment,
    engines: Engines,
    speech: Speech,
    heard: Mapping[str, Sequence[Transcript]],
    simulated: SpeechRun,
    seconds: Mapping[str, float],
) -> dict[str, object]:
    """Return `run.json` (schema in DESIGN: keys are added, never renamed)."""
    artefact, kernels = engines.artefact, engines.kernels
    name = normalizer_of(artefact.model.family)
    final = list(heard)[-1]
    reason = unmeasured(artefact)
    if reason:
        accuracy = _no_accuracy(heard, final, reason)
    else:
        measured = {engine: measure(items, name) for engine, items in heard.items()}
        accuracy = _accuracy(measured, heard, final, experiment.seed)
    accuracy["normalizer_name"] = name
    accuracy["skipped"] = list(speech.skipped)
    model = artefact.model
    return {
        "schema": SCHEMA,
        "name": experiment.name,
        "created": now(),
        "versions": versions(),
        "config_hash": config_hash(experiment.document),
        "program_hash": artefact.program.hash,
        "speech": {
            "name": speech.name,
            "utterances": len(speech.utterances),
            "seconds": speech.seconds,
            "attribution": speech.attribution,
        },
        "model": {
            "name": model.name,
            "source": model.source,
            "parameters": model.parameters,
            "size_bytes": model.size_bytes,
            "zipped_bytes": model.zipped_bytes,
            "macs_per_second_of_audio": simulated.macs_per_second_of_audio,
            "window": _window(model),
        },
        "compression": {
            "recipe": artefact.compression.recipe,
            "size_bytes": artefact.compression.size_bytes,
            "zipped_bytes": artefact.compression.zipped_bytes,
            "sparsity": artefact.compression.sparsity,
            "mean_bits": artefact.compression.mean_bits,
        },
        "accuracy": accuracy,
        "hardware": {
            "name": experiment.chip.name,
            "clock_hz": experiment.chip.clock_hz,
            "chip": {key: experiment.chip.document[key] for key in ("hardware", "memory")},
            "cores": experiment.chip.architecture.cores.count,
        },
        "not_simulated": list(simulated.not_simulated),
        "warnings": [
            *speech.warnings,
            *_model_warnings(model),
            *artefact.compression.notes,
            *fallbacks(kernels),
            *simulated.warnings,
        ],
        "execution": {"kernels": [asdict(choice) for choice in kernels]},
        "totals": simulated.totals(),
        "wall_seconds": {
            key: round(seconds[key], 3) for key in ("compress", "lower", "execute", "simulate")
        },
    }


def _window(model: ModelFacts) -> str:
    seconds = model.front.window_s
    if seconds is None:
        return "none: every utterance is encoded at its own length"
    return f"{seconds:g} s: shorter audio is padded with silence to it"


def _model_warnings(model: ModelFacts) -> list[str]:
    """Say what of the model is assumed."""
    found = []
    if model.is_random:
        found.append(f"{model.name}: weights are drawn from a distribution; WER is not measured")
    if model.is_random and isinstance(model.decoding, AttentionRules):
        found.append(
            f"decoding steps of drawn weights are assumed: {DRAWN_TOKENS_PER_SECOND} per second"
        )
    if model.front.zeros:
        found.append(f"{model.front.zeros} pitch dimensions of the input are zero (assumed)")
    return found


def _no_accuracy(
    heard: Mapping[str, Sequence[Transcript]], final: str, reason: str
) -> dict[str, object]:
    """Return the keys of `_accuracy` where there is nothing to compare with a reference."""
    absent = dict.fromkeys(
        ("wer", "cer", "substitutions", "insertions", "deletions", "words", "normalizer")
    )
    same = {
        name: sum(a.tokens == b.tokens for a, b in zip(items, heard[BASELINE], strict=True))
        for name, items in heard.items()
    }
    return {
        **absent,
        "utterances": len(heard[final]),
        "note": reason,
        "hit_limit": sum(item.hit_limit for item in heard[final]),
        "baseline": {"wer": None, "engine": BASELINE},
        "wer_difference_interval": None,
        "engines": [
            {
                "engine": name,
                "wer": None,
                "substitutions": None,
                "insertions": None,
                "deletions": None,
                "same_text_as_baseline": same[name] / len(heard[name]),
            }
            for name in heard
        ],
    }


def _accuracy(
    measured: Mapping[str, Measured],
    heard: Mapping[str, Sequence[Transcript]],
    final: str,
    seed: int,
) -> dict[str, object]:
    result, base = measured[final], measured[BASELINE]
    counts = result.total
    return {
        "wer": result.wer,
        "cer": result.cer,
        "substitutions": counts.substitutions,
        "insertions": counts.insertions,
        "deletions": counts.deletions,
        "words": counts.words,
        "utterances": counts.utterances,
        "normalizer": counts.normalizer,
        "note": f"{counts.left_out} utterances without words after normalisation left out",
        "hit_limit": sum(item.hit_limit for item in heard[final]),
        "baseline": {"wer": base.wer, "engine": BASELINE},
        "wer_difference_interval": difference_interval(
            result, base, [item.speaker for item in heard[final]], seed=seed
        ),
        "engines": [
            {
                "engine": name,
                "wer": item.wer,
                "substitutions": item.total.substitutions,
                "insertions": item.total.insertions,
                "deletions": item.total.deletions,
                "same_text_as_baseline": sum(
                    a.text == b.text for a, b in zip(heard[name], heard[BASELINE], strict=True)
                )
                / len(heard[name]),
            }
            for name, item in measured.items()
        ],
    }


def _write_trn(folder: Path, heard: Mapping[str, Sequence[Transcript]], name: str) -> None:
    """Write normalised references and hypotheses as .trn, so that sclite can confirm the WER."""
    apply = normalizer(name).apply
    texts = {"reference": [apply(item.reference) for item in next(iter(heard.values()))]}
    texts |= {
        engine.replace(" ", "-"): [apply(item.text) for item in items]
        for engine, items in heard.items()
    }
    for title, lines in texts.items():
        items = next(iter(heard.values()))
        ids, speakers = [item.id for item in items], [item.speaker for item in items]
        write_trn(folder / f"{title}.trn", ids, lines, speakers)


def _utterance_rows(
    heard: Mapping[str, Sequence[Transcript]], simulated: SpeechRun
) -> list[dict[str, object]]:
    names = list(heard)
    rows = []
    for index, transcript in enumerate(heard[names[-1]]):
        row = transcript.row()
        row["texts"] = {name: heard[name][index].text for name in names}
        rows.append(row | simulated.utterance_row(index))
    return rows
