"""Transcribe speech with an engine and count its errors."""

import os
import threading
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import FIRST_EXCEPTION, ThreadPoolExecutor, wait
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Protocol, TypeVar

from cosim import dispatch
from cosim.artefact import Artefact
from cosim.artefact_folder import load as load_artefact
from cosim.errors import CosimError, collect
from cosim.execute import KernelChoice, ProgramEngine, Weights, ZeroCounts, fallbacks
from cosim.models import AttentionRules, Decoding
from cosim.speech.decoding import decode
from cosim.speech.engine import Engine
from cosim.speech.features import WINDOW_S, features
from cosim.speech.manifest import FORMATS, SpeechConfig, Utterance
from cosim.speech.normalize import normalizer
from cosim.speech.selection import Speech, load_utterance, select
from cosim.speech.tokens import text_of
from cosim.speech.wer import (
    UtteranceErrors,
    WerResult,
    align,
    paired_interval,
    speaker_groups,
    total,
)

EngineMaker = Callable[[], Engine]
# Which normaliser a family's published figures use; `basic` where none is named.
NORMALIZERS: Mapping[str, str] = {"whisper": "whisper_english"}
DRAWN_TOKENS_PER_SECOND = 4
"""Decoding steps of drawn weights, which never end by themselves: `assumed`, about the pieces of
a 5,000-piece vocabulary in a second of read English."""
REPORTED_S = 10.0
"""Length of the utterance for which results say which kernels were chosen."""
DENSITY_UTTERANCES = 8
"""Utterances on which zeros of activations are counted, where a chip saves energy by them."""
UNMEASURED = "not measured: "
# The longest audio of families with a window, known before a model is loaded.
WINDOWS_S: Mapping[str, float] = {"whisper": WINDOW_S}


class Progress(Protocol):
    """Where long work tells what it is doing."""

    def stage(self, text: str, total: int = 0) -> None:
        """Begin a stage of `total` pieces (0: unknown)."""

    def advance(self) -> None:
        """Say that one piece is finished."""

    def note(self, text: str) -> None:
        """Say something that stays on the screen."""


@dataclass(frozen=True)
class Transcript:
    """What one engine heard in one utterance.

    `steps` counts calls of the decoder, `widths` those at each position from 0 (a beam takes
    several); `hit_limit` says that decoding stopped for lack of room.
    """

    id: str
    text: str
    reference: str
    speaker: str
    duration_s: float
    tokens: tuple[int, ...]
    steps: int
    hit_limit: bool
    widths: tuple[int, ...] = ()

    @classmethod
    def from_row(cls, row: Mapping[str, object]) -> "Transcript":
        """Return the transcript that `row` kept."""
        values = {field.name: row[field.name] for field in fields(cls)}
        for key in ("tokens", "widths"):
            values[key] = tuple(row[key])  # type: ignore[arg-type]
        return cls(**values)  # type: ignore[arg-type]

    def row(self) -> dict[str, object]:
        """Return the transcript as a JSON row."""
        return asdict(self)


def speech_at(path: Path, *, limit: int | None = None, option: str = "--speech") -> SpeechConfig:
    """Return the `speech:` key that stands for a manifest file or a corpus folder.

    Raises CosimError naming the option and the three formats when the path is none of them.
    """
    if path.is_file():
        return SpeechConfig(manifest=str(path), limit=limit)
    if (path / "wav.scp").is_file():
        return SpeechConfig(kaldi=str(path), limit=limit)
    if path.is_dir() and next(path.rglob("*.trans.txt"), None) is not None:
        return SpeechConfig(librispeech=str(path), limit=limit)
    found = "a folder of another kind" if path.is_dir() else "no such file or folder"
    raise CosimError(f"{option} {path}: {found}, expected {FORMATS}")


def normalizer_of(family: str) -> str:
    """Return the name of the normaliser that a family's figures use."""
    return NORMALIZERS.get(family, "basic")


def unmeasured(artefact: Artefact) -> str:
    """Return why the WER of an artefact cannot be measured; empty where it can."""
    if artefact.model.is_random:
        return f"{UNMEASURED}the weights are drawn, not trained"
    if artefact.tokens is None:
        return f"{UNMEASURED}the model has no token list, so it writes no text"
    return ""


def _rules(artefact: Artefact, seconds: float) -> Decoding:
    """Return the model's decoding; greedy with a fixed number of steps for drawn weights."""
    rules = artefact.model.decoding
    if artefact.model.is_random and isinstance(rules, AttentionRules):
        steps = max(1, round(DRAWN_TOKENS_PER_SECOND * seconds))
        return replace(rules, beam=1, ctc_weight=0.0, max_tokens=min(rules.max_tokens, steps))
    return rules


def program_engines(artefact: Artefact) -> Callable[[], ProgramEngine]:
    """Return a maker of engines that execute the program; they share prepared weights."""
    weights = Weights(artefact.program, artefact.encodings, dispatch.speeds())
    return lambda: ProgramEngine(weights)


def activation_densities(artefact: Artefact, speech: Speech) -> dict[str, float]:
    """Return the share of activations that are not zero, by product, on the first utterances.

    `DENSITY_UTTERANCES` are decoded once more for that. Empty for drawn weights: what they make of
    speech says nothing.
    """
    if artefact.model.is_random:
        return {}
    counts = ZeroCounts()
    weights = Weights(artefact.program, artefact.encodings, dispatch.speeds())
    first = replace(speech, utterances=speech.utterances[:DENSITY_UTTERANCES])
    transcribe(lambda: ProgramEngine(weights, counts=counts), first, artefact=artefact, workers=1)
    return counts.densities()


def kernels_of(artefact: Artefact, engine: ProgramEngine) -> tuple[KernelChoice, ...]:
    """Return which kernel executes each op of an utterance as long as `REPORTED_S`."""
    engine.prepare(artefact.model.length(REPORTED_S))
    return engine.kernels


def transcribe(
    make_engine: EngineMaker,
    speech: Speech,
    *,
    artefact: Artefact,
    finished: Mapping[str, Transcript] | None = None,
    report: Callable[[Transcript], None] | None = None,
    workers: int | None = None,
) -> list[Transcript]:
    """Return the transcript of every utterance, in order.

    One engine per worker thread (the kernels release the interpreter). `finished` are transcripts
    that need no work; `report` is called for each new one, one at a time.
    """
    found = dict(finished or {})
    waiting = [utterance for utterance in speech.utterances if utterance.id not in found]
    local = threading.local()
    lock = threading.Lock()
    write = text_of(artefact.tokens) if artefact.tokens is not None else None

    def work(utterance: Utterance) -> None:
        if not hasattr(local, "engine"):
            with lock:  # weights are prepared once
                local.engine = make_engine()
        audio = load_utterance(utterance)
        rules = _rules(artefact, utterance.duration_s or 0.0)
        heard = decode(local.engine, features(audio, artefact.model.front), rules)
        transcript = Transcript(
            utterance.id,
            write(heard.tokens) if write is not None else "",
            utterance.text,
            utterance.speaker,
            utterance.duration_s or 0.0,
            heard.tokens,
            heard.steps,
            heard.hit_limit,
            heard.widths or (1,) * heard.steps,
        )
        with lock:
            found[utterance.id] = transcript
            if report is not None:
                report(transcript)

    _run_all(work, waiting, workers or os.cpu_count() or 1)
    return [found[utterance.id] for utterance in speech.utterances]


T = TypeVar("T")


def _run_all(work: Callable[[T], None], items: Sequence[T], workers: int) -> None:
    """Run `work` on every item; the first failure or Ctrl-C stops what has not begun."""
    with ThreadPoolExecutor(max_workers=max(1, min(workers, len(items) or 1))) as pool:
        futures = [pool.submit(work, item) for item in items]
        try:
            done, _ = wait(futures, return_when=FIRST_EXCEPTION)
            for future in done:
                future.result()
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise


@dataclass(frozen=True)
class Measured:
    """Error counts of an engine: the corpus and each utterance, in order."""

    total: WerResult
    rows: tuple[UtteranceErrors, ...]

    @property
    def wer(self) -> float | None:
        """Word errors per reference word; None where no reference has words."""
        return self.total.wer if self.total.words else None

    @property
    def cer(self) -> float | None:
        """Character errors per reference character; None where no reference has words."""
        return self.total.cer if self.total.words else None


def measure(transcripts: Sequence[Transcript], name: str) -> Measured:
    """Return the error counts of transcripts under the normaliser `name`."""
    chosen = normalizer(name)
    rows = align([item.reference for item in transcripts], [t.text for t in transcripts], chosen)
    return Measured(total(rows, chosen), rows)


def difference_interval(
    ours: Measured, theirs: Measured, speakers: Sequence[str], *, seed: int = 0
) -> list[float] | None:
    """Return [low, high] of WER ours minus theirs on the same utterances, 95 % paired bootstrap.

    Speakers are resampled where there are enough of them, else utterances; None for fewer than two.
    """
    words = [row.words for row in ours.rows]
    if sum(count > 0 for count in words) < 2:
        return None
    interval = paired_interval(
        [row.errors for row in ours.rows],
        [row.errors for row in theirs.rows],
        words,
        groups=speaker_groups(speakers),
        seed=seed,
    )
    return list(interval)


def evaluate_artefact(
    artefact_folder: Path,
    speech: Path,
    *,
    progress: Progress,
    limit: int | None = None,
    normalizer_name: str | None = None,
    keep_going: bool = False,
) -> tuple[list[dict[str, object]], dict[str, object]]:
    """Return rows per utterance and the WER of an artefact on a manifest or corpus folder."""
    problems: list[str] = []
    if normalizer_name is not None:
        collect(problems, lambda: normalizer(normalizer_name))  # told before any work
    config = collect(problems, lambda: speech_at(speech, limit=limit))
    artefact = collect(problems, lambda: load_artefact(artefact_folder))
    if artefact is None or config is None or problems:
        raise CosimError(problems)
    name = normalizer_name or normalizer_of(artefact.model.family)
    if reason := unmeasured(artefact):
        raise CosimError(f"{artefact_folder}: WER {reason}")
    checked = select(
        config,
        keep_going=keep_going,
        max_seconds=artefact.model.max_seconds,
        progress=progress.note,
    )
    progress.stage("transcribing", len(checked.utterances))
    make_engine = program_engines(artefact)
    heard = transcribe(
        make_engine,
        checked,
        artefact=artefact,
        report=lambda _transcript: progress.advance(),
    )
    measured = measure(heard, name)
    rows = [
        {**item.row(), "errors": counts.errors, "words": counts.words}
        for item, counts in zip(heard, measured.rows, strict=True)
    ]
    result = measured.total
    summary: dict[str, object] = {
        "speech": checked.name,
        "wer": measured.wer,
        "cer": measured.cer,
        "substitutions": result.substitutions,
        "insertions": result.insertions,
        "deletions": result.deletions,
        "words": result.words,
        "utterances": result.utterances,
        "normalizer": result.normalizer,
        "hit_limit": sum(item.hit_limit for item in heard),
        "skipped": len(checked.skipped),
        "program_hash": artefact.program.hash,
        "warnings": [*checked.warnings, *fallbacks(kernels_of(artefact, make_engine()))],
    }
    return rows, summary
