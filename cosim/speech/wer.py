"""Word error counts over a corpus, and how far two systems differ on the same recordings."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from cosim.speech.normalize import Normalizer

_BLOCK = 500  # bootstrap samples drawn at a time, to bound memory
_FEWEST_SPEAKERS = 5  # resampling fewer groups says little about other speakers


@dataclass(frozen=True)
class UtteranceErrors:
    """Counts of one utterance after normalisation; `words` is 0 where nothing is to be scored."""

    reference: str
    hypothesis: str
    substitutions: int
    insertions: int
    deletions: int
    words: int
    character_errors: int
    characters: int

    @property
    def errors(self) -> int:
        """Substitutions, insertions and deletions of words."""
        return self.substitutions + self.insertions + self.deletions


@dataclass(frozen=True)
class WerResult:
    """Counts of a corpus; ratios are derived.

    `utterances` counts those scored, `left_out` those whose reference has no words after
    normalisation. `normalizer` is the description with version. `interval` is set where this
    result is compared with a baseline: low and high of the WER difference.
    """

    substitutions: int
    insertions: int
    deletions: int
    words: int
    utterances: int
    left_out: int
    character_errors: int
    characters: int
    normalizer: str
    interval: tuple[float, float] | None = None

    @property
    def errors(self) -> int:
        """Substitutions, insertions and deletions of words."""
        return self.substitutions + self.insertions + self.deletions

    @property
    def wer(self) -> float:
        """Word errors per reference word, a fraction; ValueError when there are no words."""
        return _ratio(self.errors, self.words)

    @property
    def cer(self) -> float:
        """Character errors (spaces count) per reference character; ValueError when none."""
        return _ratio(self.character_errors, self.characters)


def align(
    references: Sequence[str], hypotheses: Sequence[str], normalizer: Normalizer
) -> tuple[UtteranceErrors, ...]:
    """Return the counts of every utterance. Raises ValueError when the lengths differ."""
    return tuple(
        _align(normalizer.apply(reference), normalizer.apply(hypothesis))
        for reference, hypothesis in zip(references, hypotheses, strict=True)
    )


def total(rows: Sequence[UtteranceErrors], normalizer: Normalizer) -> WerResult:
    """Return the sums over the utterances that have words to be scored."""
    scored = [row for row in rows if row.words]
    return WerResult(
        substitutions=sum(row.substitutions for row in scored),
        insertions=sum(row.insertions for row in scored),
        deletions=sum(row.deletions for row in scored),
        words=sum(row.words for row in scored),
        utterances=len(scored),
        left_out=len(rows) - len(scored),
        character_errors=sum(row.character_errors for row in scored),
        characters=sum(row.characters for row in scored),
        normalizer=normalizer.description,
    )


def score(
    references: Sequence[str], hypotheses: Sequence[str], normalizer: Normalizer
) -> WerResult:
    """Return the error counts of `hypotheses` against `references`, both normalised.

    Example:
        >>> from cosim.speech.normalize import normalizer
        >>> result = score(["One, two three"], ["one too"], normalizer("basic"))
        >>> result.substitutions, result.deletions, result.words
        (1, 1, 3)

    """
    return total(align(references, hypotheses, normalizer), normalizer)


def paired_interval(
    errors_a: Sequence[int],
    errors_b: Sequence[int],
    words: Sequence[int],
    *,
    groups: Sequence[str] | None = None,
    seed: int = 0,
    samples: int = 10_000,
    level: float = 0.95,
) -> tuple[float, float]:
    """Return (low, high) of WER of a minus WER of b: paired percentile bootstrap.

    The three sequences hold one number an utterance; utterances without words are left out. Drawn
    with replacement are utterances, or whole `groups` (speakers) where given. Bisani and Ney 2004,
    "Bootstrap estimates for confidence intervals in ASR performance evaluation". The same seed
    gives the same interval. Raises ValueError for unequal lengths or fewer than two units.
    """
    columns = np.array([errors_a, errors_b, words], dtype=np.int64)
    if groups is not None and len(groups) != columns.shape[1]:
        raise ValueError(f"found {len(groups)} groups for {columns.shape[1]} utterances")
    units = _units(columns, groups)
    difference, weight = units[0] - units[1], units[2]
    if weight.size < 2:
        raise ValueError(f"found {weight.size} unit to resample, expected at least 2")
    generator = np.random.default_rng(seed)
    chances = np.full(weight.size, 1.0 / weight.size)
    drawn = np.empty(samples)
    for start in range(0, samples, _BLOCK):
        block = drawn[start : start + _BLOCK]
        counts = generator.multinomial(weight.size, chances, size=block.size)
        block[:] = (counts @ difference) / (counts @ weight)
    tail = (1.0 - level) / 2.0
    low, high = np.quantile(drawn, [tail, 1.0 - tail])
    return float(low), float(high)


def speaker_groups(speakers: Sequence[str]) -> tuple[str, ...] | None:
    """Return `speakers` as groups to resample, or None where utterances must serve.

    That is where a speaker is unknown or where there are fewer than five.
    """
    known = set(speakers)
    return tuple(speakers) if "" not in known and len(known) >= _FEWEST_SPEAKERS else None


def write_trn(
    path: Path, ids: Sequence[str], texts: Sequence[str], speakers: Sequence[str]
) -> None:
    """Write `texts` (already normalised) as a .trn file that NIST's sclite reads.

    A line is `words (speaker-id)`; characters that end an id there become `.`.
    """
    lines = [
        f"{text} ({_trn_id(speaker or 'unknown')}-{_trn_id(name)})\n"
        for name, text, speaker in zip(ids, texts, speakers, strict=True)
    ]
    path.write_text("".join(lines), encoding="utf-8")


def _trn_id(text: str) -> str:
    return "".join("." if letter in "()-_" or letter.isspace() else letter for letter in text)


def _align(reference: str, hypothesis: str) -> UtteranceErrors:
    import jiwer  # noqa: PLC0415, slow to import

    if not reference:
        return UtteranceErrors(reference, hypothesis, 0, 0, 0, 0, 0, 0)
    words = jiwer.process_words(reference, hypothesis)
    letters = jiwer.process_characters(reference, hypothesis)
    return UtteranceErrors(
        reference,
        hypothesis,
        substitutions=words.substitutions,
        insertions=words.insertions,
        deletions=words.deletions,
        words=len(reference.split()),
        character_errors=letters.substitutions + letters.insertions + letters.deletions,
        characters=len(reference),
    )


def _units(columns: NDArray[np.int64], groups: Sequence[str] | None) -> NDArray[np.int64]:
    """Return int64[3, units]: columns with words, summed by group where groups are given."""
    scored = columns[2] > 0
    kept = columns[:, scored]
    if groups is None:
        return kept
    names, index = np.unique(np.array(groups)[scored], return_inverse=True)
    belongs = index[:, None] == np.arange(names.size)
    return np.asarray(kept @ belongs.astype(np.int64), dtype=np.int64)


def _ratio(errors: int, count: int) -> float:
    if not count:
        raise ValueError("there is nothing to score: no reference has words after normalisation")
    return errors / count
