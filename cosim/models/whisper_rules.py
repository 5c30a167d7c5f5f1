"""The published decoding rules of Whisper (Radford et al. 2022; openai/whisper decoding.py)."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from cosim.errors import CosimError
from cosim.models import DecodingValues
from cosim.models.checkpoint import read_json

ENGLISH_VOCABULARY = 51864  # openai/whisper model.py: a larger vocabulary is multilingual
# openai/whisper tokenizer.py: the id of the end by size of the vocabulary. Behind it stand the
# start, the languages (English first), six marks of tasks and 1501 time stamps.
_ENDS: Mapping[int, int] = {51864: 50256, 51865: 50257, 51866: 50257}
_TIME_STAMPS = 1501
_BLANK = 220  # a space alone, in all vocabularies


@dataclass(frozen=True)
class _Vocabulary:
    """Token ids by text, and the file they stand in."""

    path: Path
    ids: Mapping[str, int]

    def of(self, text: str) -> int:
        if text not in self.ids:
            raise CosimError(f"{self.path}: token {text}: missing, expected by Whisper's prompt")
        return self.ids[text]


def _vocabulary(path: Path) -> _Vocabulary:
    data = read_json(path)
    inner = data.get("model")
    table = inner.get("vocab") if isinstance(inner, dict) else None
    added = data.get("added_tokens")
    if not isinstance(table, dict) or not isinstance(added, list):
        raise CosimError(f"{path}: expected the keys model.vocab and added_tokens of a tokenizer")
    special = {str(token["content"]): int(token["id"]) for token in added}
    return _Vocabulary(path, {**table, **special})


def checkpoint_rules(folder: Path, vocabulary: int, target_positions: int) -> DecodingValues:
    """Return prompt and suppression rules as openai/whisper publishes them (decoding.py).

    English-only models start with <|startoftranscript|><|notimestamps|>, multilingual ones name
    language and task between them. At the first step a blank and the end are suppressed. At most
    half of the text positions are decoded.
    """
    ids = _vocabulary(folder / "tokenizer.json")
    end = ids.of("<|endoftext|>")
    task = ("<|en|>", "<|transcribe|>") if vocabulary > ENGLISH_VOCABULARY else ()
    prompt = ("<|startoftranscript|>", *task, "<|notimestamps|>")
    path = folder / "generation_config.json"
    rules = read_json(path) if path.exists() else {}
    first = rules.get("begin_suppress_tokens") or [ids.of("Ġ"), end]
    always = rules.get("suppress_tokens") or []
    return DecodingValues(
        prompt=tuple(ids.of(text) for text in prompt),
        end=end,
        first_suppressed=_ids(first, path),
        suppressed=_ids(always, path),
        max_steps=target_positions // 2,
    )


def _ids(values: object, path: Path) -> tuple[int, ...]:
    if not isinstance(values, list) or not all(isinstance(value, int) for value in values):
        raise CosimError(f"{path}: found {values!r}, expected a list of token ids")
    return tuple(values)


def published_rules(vocabulary: int, target_positions: int, *, at: str) -> DecodingValues:
    """Return the rules of a published vocabulary for a model that has no tokenizer.

    Nothing but the blank is suppressed. Raises CosimError, with `at` before it, for another
    vocabulary.
    """
    end = _ENDS.get(vocabulary)
    if end is None:
        known = ", ".join(map(str, _ENDS))
        raise CosimError(
            f"{at}: found {vocabulary}, expected one of {known}: without a tokenizer the ids of "
            "the prompt are known for these alone"
        )
    without_times = vocabulary - _TIME_STAMPS - 1
    # <|transcribe|> stands four marks before <|notimestamps|>.
    task = (end + 2, without_times - 4) if vocabulary > ENGLISH_VOCABULARY else ()
    return DecodingValues(
        prompt=(end + 1, *task, without_times),
        end=end,
        first_suppressed=(_BLANK, end),
        suppressed=(),
        max_steps=target_positions // 2,
    )
