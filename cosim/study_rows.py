"""Rows of a study: sizes and word errors of each recipe on each corpus, and who dominates whom."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from cosim.artefact import Artefact, ModelFacts
from cosim.evaluate import Measured, Transcript, difference_interval, normalizer_of
from cosim.results import config_hash, now, versions
from cosim.speech.selection import Speech
from cosim.study_file import Entry, Study

Row = dict[str, object]


@dataclass(frozen=True)
class Made:
    """What is known of a recipe once it is applied, without its weights.

    `changed_weights` counts the parameters of tensors that are not those of the baseline.
    """

    entry: Entry
    program_hash: str
    size_bytes: int
    zipped_bytes: int | None
    mean_bits: float
    sparsity: float
    changed_weights: int
    notes: tuple[str, ...]
    decisions: tuple[Mapping[str, object], ...]

    @classmethod
    def of(cls, entry: Entry, artefact: Artefact, plain: Mapping[str, str]) -> "Made":
        """Return what is known of an artefact; `plain` are the digests of the baseline."""
        done = artefact.compression
        changed = digests(artefact)
        return cls(
            entry,
            artefact.program.hash,
            done.size_bytes,
            done.zipped_bytes,
            done.mean_bits,
            done.sparsity,
            sum(
                int(str(row["elements"]))
                for row in artefact.ledger
                if changed.get(f"@{row['name']}") != plain.get(f"@{row['name']}")
            ),
            done.notes,
            artefact.decisions,
        )

    @property
    def name(self) -> str:
        """The recipe's."""
        return self.entry.recipe.name

    def part(self, speech: Speech) -> str:
        """Return the name of the part that keeps its transcripts of a corpus."""
        heard = config_hash([(item.id, item.text, item.duration_s) for item in speech.utterances])
        return f"{self.entry.recipe.name}-{self.program_hash[:16]}-{heard[:12]}"


def digests(artefact: Artefact) -> dict[str, str]:
    """Return the digest of every constant of the program."""
    return {name: constant.digest for name, constant in artefact.program.constants.items()}


def pareto(rows: Sequence[Mapping[str, object]]) -> list[Mapping[str, object]]:
    """Return the rows that no other of the same speech dominates, smallest first.

    One dominates if neither its bytes nor its word error rate are higher and one of them is lower.
    Rows without a word error rate are left out.

    Example:
        >>> found = [
        ...     {"speech": "a", "size_bytes": size, "wer": wer}
        ...     for size, wer in ((4, 0.1), (2, 0.1), (1, 0.5), (3, 0.05))
        ... ]
        >>> [(row["size_bytes"], row["wer"]) for row in pareto(found)]
        [(1, 0.5), (2, 0.1), (3, 0.05)]

    """
    kept: list[Mapping[str, object]] = []
    for speech in dict.fromkeys(row["speech"] for row in rows):
        points = [
            (float(str(row["size_bytes"])), float(str(row["wer"])), row)
            for row in rows
            if row["speech"] == speech and row["wer"] is not None
        ]
        for size, wer, row in sorted(points, key=lambda point: point[:2]):
            if not any(a <= size and b <= wer and (a < size or b < wer) for a, b, _ in points):
                kept.append(row)
    return kept


def pareto_rows(rows: Sequence[Row]) -> list[Row]:
    """Return the rows of `pareto.json`."""
    keys = ("speech", "recipe", "size_bytes", "zipped_bytes", "mean_bits", "wer")
    return [{key: row[key] for key in keys} for row in pareto(rows)]


def facts_row(made: Made, facts: ModelFacts) -> Row:
    """Return the columns that do not depend on the speech."""
    recipe = made.entry.recipe
    return {
        "recipe": recipe.name,
        "about": made.entry.about,
        "methods": [method.method for method in recipe.methods],
        "size_bytes": made.size_bytes,
        "size_ratio": made.size_bytes / facts.size_bytes,
        "zipped_bytes": made.zipped_bytes,
        "mean_bits": made.mean_bits,
        "sparsity": made.sparsity,
        "changed_weights": made.changed_weights,
        "notes": list(made.notes),
        "program_hash": made.program_hash,
    }


def scored(
    items: Sequence[Transcript],
    base: Sequence[Transcript],
    ours: Measured,
    theirs: Measured,
    *,
    seed: int,
) -> Row:
    """Return the word errors of transcripts, and how far they are from those of the baseline."""
    counts = ours.total
    difference = None
    if ours.wer is not None and theirs.wer is not None:
        difference = ours.wer - theirs.wer
    speakers = [item.speaker for item in items]
    return {
        "wer": ours.wer,
        "cer": ours.cer,
        "substitutions": counts.substitutions,
        "insertions": counts.insertions,
        "deletions": counts.deletions,
        "words": counts.words,
        "utterances": counts.utterances,
        "normalizer": counts.normalizer,
        "wer_difference": difference,
        "wer_difference_interval": difference_interval(ours, theirs, speakers, seed=seed),
        **_decoded(items, base),
    }


def unscored(items: Sequence[Transcript], base: Sequence[Transcript]) -> Row:
    """Return the same columns where word errors cannot be measured."""
    keys = ("wer", "cer", "substitutions", "insertions", "deletions", "words", "normalizer")
    differences = ("wer_difference", "wer_difference_interval")
    return {
        **dict.fromkeys(keys),
        "utterances": len(items),
        **dict.fromkeys(differences),
        **_decoded(items, base),
    }


def _decoded(items: Sequence[Transcript], base: Sequence[Transcript]) -> Row:
    same = sum(a.tokens == b.tokens for a, b in zip(items, base, strict=True))
    return {
        "hit_limit": sum(item.hit_limit for item in items),
        "heard": len(items),
        "steps": sum(item.steps for item in items),
        "same_as_baseline": same / len(items),
    }


def total(study: Study, facts: ModelFacts, corpora: Sequence[Speech], reason: str) -> Row:
    """Return what all rows share."""
    return {
        "name": study.name,
        "question": study.question,
        "created": now(),
        "versions": versions(),
        "config_hash": config_hash(study.document),
        "model": {
            "name": facts.name,
            "source": facts.source,
            "parameters": facts.parameters,
            "size_bytes": facts.size_bytes,
            "zipped_bytes": facts.zipped_bytes,
        },
        "baseline": study.entries[0].recipe.name,
        "recipes": len(study.entries),
        "speech": [
            {
                "name": speech.name,
                "utterances": len(speech.utterances),
                "seconds": speech.seconds,
                "speakers": len({item.speaker for item in speech.utterances}),
                "attribution": speech.attribution,
                "skipped": list(speech.skipped),
                "warnings": list(speech.warnings),
            }
            for speech in corpora
        ],
        "normalizer_name": normalizer_of(facts.family),
        "seed": study.seed,
        "note": reason,
    }
