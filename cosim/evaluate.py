"""Transcribe speech with an engine and count its errors."""

import os
import threading
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import FIRST_EXCEPTION, ThreadPoolExecutor, wait
from dataclasses import asdict, dataclass, field
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from cosim.artefact import Artefact
from cosim.errors import CosimError
from cosim.execute import ProgramEngine, Weights
from cosim.speech.audio import load_audio
from cosim.speech.decoding import Engine, Tokenizer, greedy
from cosim.speech.features import RATE_HZ, log_mel
from cosim.speech.manifest import Utterance
from cosim.speech.wer import WerResult, score

EngineMaker = Callable[[], Engine]


@dataclass(frozen=True)
class Transcript:
    """What one engine heard in one utterance.

    `steps` counts calls of the decoder; `hit_limit` says that decoding stopped for lack of room.
    """

    id: str
    text: str
    reference: str
    speaker: str
    duration_s: float
    tokens: tuple[int, ...]
    steps: int
    hit_limit: bool

    @classmethod
    def from_row(cls, row: Mapping[str, object]) -> "Transcript":
        """Return the transcript that `row` kept."""
        values = {**row, "tokens": tuple(row["tokens"])}  # type: ignore[arg-type]
        return cls(**values)  # type: ignore[arg-type]

    def row(self) -> dict[str, object]:
        """Return the transcript as a JSON row."""
        return asdict(self)


@dataclass(frozen=True)
class Speech:
    """Utterances that can be used, and what was skipped or converted on the way."""

    utterances: tuple[Utterance, ...]
    durations_s: Mapping[str, float]
    skipped: tuple[str, ...] = ()
    warnings: tuple[str, ...] = field(default=())


def check_speech(
    utterances: Iterable[Utterance], *, window_s: float, keep_going: bool = False
) -> Speech:
    """Read every file once and return what can be used.

    Raises CosimError with one line per unusable file; `keep_going` skips and counts them instead.
    """
    used: list[Utterance] = []
    durations: dict[str, float] = {}
    problems: list[str] = []
    warnings: list[str] = []
    for utterance in utterances:
        try:
            audio, notes = _audio_of(utterance, window_s)
        except CosimError as error:
            problems += error.problems
            continue
        warnings += notes
        durations[utterance.id] = len(audio) / RATE_HZ
        used.append(utterance)
    if problems and not keep_going:
        raise CosimError(problems)
    if not used:
        raise CosimError([*problems, "no utterance is left to transcribe"])
    return Speech(tuple(used), durations, tuple(problems), tuple(warnings))


def _audio_of(utterance: Utterance, window_s: float) -> tuple[NDArray[np.float32], tuple[str, ...]]:
    """Return samples and warnings of an utterance that must fit one window."""
    return load_audio(
        utterance.audio,
        RATE_HZ,
        start_s=utterance.start_s,
        end_s=utterance.end_s,
        max_seconds=window_s,
    )


def program_engines(artefact: Artefact) -> EngineMaker:
    """Return a maker of engines that execute the program; they share prepared weights."""
    weights = Weights(artefact.program, artefact.encodings)
    return lambda: ProgramEngine(weights, frames=artefact.model.frames)


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
    tokenizer = Tokenizer(artefact.tokenizer)

    def work(utterance: Utterance) -> None:
        if not hasattr(local, "engine"):
            with lock:  # weights are prepared once
                local.engine = make_engine()
        audio, _ = _audio_of(utterance, artefact.model.window_s)
        heard = greedy(local.engine, log_mel(audio, artefact.model.mels), artefact.model.decoding)
        transcript = Transcript(
            utterance.id,
            tokenizer.decode(heard.tokens),
            utterance.text,
            utterance.speaker,
            speech.durations_s[utterance.id],
            heard.tokens,
            heard.steps,
            heard.hit_limit,
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


def measure(transcripts: Sequence[Transcript], *, normalizer: str) -> WerResult:
    """Return corpus-level error counts of transcripts."""
    return score(
        [item.reference for item in transcripts],
        [item.text for item in transcripts],
        normalizer,
    )
