"""The utterances of an experiment: listed, cut to split and limit, their audio checked."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from cosim import config
from cosim.errors import CosimError, suggestion
from cosim.speech import corpora
from cosim.speech.audio import load_audio
from cosim.speech.manifest import (
    Listing,
    SpeechConfig,
    Utterance,
    read_kaldi,
    read_librispeech,
    read_manifest,
)

# Panayotov et al. 2015, the evaluation sets of LibriSpeech
LIBRISPEECH_UTTERANCES = {
    "dev-clean": 2703,
    "dev-other": 2864,
    "test-clean": 2620,
    "test-other": 2939,
}


@dataclass(frozen=True)
class Speech:
    """Checked utterances. `duration_s` of each is measured.

    `skipped` says what was left out and why (only with `keep_going`), `warnings` what was
    converted, `attribution` what a fetched corpus asks to be printed (else empty).
    """

    name: str
    utterances: tuple[Utterance, ...]
    skipped: tuple[str, ...]
    warnings: tuple[str, ...]
    attribution: str

    @property
    def seconds(self) -> float:
        """Seconds of real speech."""
        return sum(utterance.duration_s or 0.0 for utterance in self.utterances)


def source_problems(speech: SpeechConfig, relative_to: Path | None) -> Iterator[str]:
    """Yield what is wrong with the name of a corpus, its split, or a path, before any is read."""
    if speech.corpus is None:
        named = speech.manifest or speech.librispeech or speech.kaldi or ""
        try:
            config.resolve(named, relative_to)
        except CosimError as error:
            yield from (line.removeprefix(f"{relative_to}: ") for line in error.problems)
    elif speech.corpus not in corpora.CORPORA:
        near = suggestion(speech.corpus, list(corpora.CORPORA))
        yield f'corpus: found "{speech.corpus}"{near}'
    elif speech.split is not None and speech.corpus == "prompts":
        splits = list(vars(corpora.prompt_splits()))
        if speech.split not in splits:
            yield f'split: found "{speech.split}"{suggestion(speech.split, splits)}'


def select(
    speech: SpeechConfig,
    *,
    relative_to: Path | None = None,
    keep_going: bool = False,
    max_seconds: float | None = None,
    progress: corpora.Progress,
    cache: Path | None = None,
    is_transcribed: bool = True,
) -> Speech:
    """Return the utterances that `speech` names, each one's audio read once to check it.

    Paths are resolved as `cosim.config.resolve` does, beside the file `relative_to`. Raises
    CosimError naming every broken row and every unusable recording; `keep_going` skips those.
    Without `is_transcribed` rows of a manifest may lack their text.
    """
    listing, name, attribution = _list(
        speech, relative_to, progress, cache, keep_going=keep_going, is_transcribed=is_transcribed
    )
    utterances = listing.utterances[: speech.limit]
    usable, broken, warnings = _check(utterances, max_seconds)
    if broken and not keep_going:
        raise CosimError(broken)
    if not usable:
        raise CosimError([*listing.skipped, *broken, f"{name}: no utterance is left"])
    suffix = f", first {len(utterances)}" if len(utterances) < len(listing.utterances) else ""
    suffix += _subset(name, len(usable))
    skipped = (*listing.skipped, *broken)
    return Speech(name + suffix, tuple(usable), skipped, tuple(warnings), attribution)


def _subset(name: str, utterances: int) -> str:
    """Return a label for a part of a published evaluation set, empty for anything else.

    No figure of the part may be taken for one of the whole.

    Example:
        >>> _subset("speech/test_other.jsonl", 80)
        ' (subset: 80 of the 2939 utterances of LibriSpeech test-other)'

    """
    plain = name.lower().replace("_", "-")
    for published, size in LIBRISPEECH_UTTERANCES.items():
        if published in plain and utterances < size:
            return f" (subset: {utterances} of the {size} utterances of LibriSpeech {published})"
    return ""


def load_utterance(
    utterance: Utterance, rate: int = 16000, *, max_seconds: float | None = None
) -> NDArray[np.float32]:
    """Return the samples of `utterance`, float32[samples] at `rate` Hz; raises as `load_audio`."""
    samples, _ = load_audio(
        utterance.audio,
        rate,
        start_s=utterance.start_s,
        end_s=utterance.end_s,
        max_seconds=max_seconds,
    )
    return samples


def _list(
    speech: SpeechConfig,
    relative_to: Path | None,
    progress: corpora.Progress,
    cache: Path | None,
    *,
    keep_going: bool,
    is_transcribed: bool,
) -> tuple[Listing, str, str]:
    """Return the listing, the name of the speech and its attribution."""
    split = speech.split
    if speech.corpus is not None:
        corpus = corpora.fetch(speech.corpus, progress=progress, cache=cache)
        listing = read_manifest(corpus.manifest, split=split, keep_going=keep_going)
        return listing, f"{corpus.name} {split or 'all'}", corpus.attribution
    given = speech.manifest or speech.librispeech or speech.kaldi or ""
    path = config.resolve(given, relative_to)
    if speech.manifest is not None:
        listing = read_manifest(
            path, split=split, keep_going=keep_going, is_transcribed=is_transcribed
        )
    elif speech.librispeech is not None:
        listing = read_librispeech(path, split=split, keep_going=keep_going)
    else:
        listing = read_kaldi(path, keep_going=keep_going)
    return listing, " ".join(filter(None, (given, split))), ""


def _check(
    utterances: Iterable[Utterance], max_seconds: float | None
) -> tuple[list[Utterance], list[str], list[str]]:
    """Return the usable utterances with measured durations, the problems and the warnings."""
    rate = 16000
    usable: list[Utterance] = []
    broken: list[str] = []
    warnings: list[str] = []
    for utterance in utterances:
        try:
            samples, notes = load_audio(
                utterance.audio,
                rate,
                start_s=utterance.start_s,
                end_s=utterance.end_s,
                max_seconds=max_seconds,
            )
        except CosimError as error:
            broken.extend(error.problems)
            continue
        warnings.extend(notes)
        usable.append(replace(utterance, duration_s=samples.size / rate))
    return usable, broken, warnings
