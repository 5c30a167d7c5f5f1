"""Greedy decoding over any engine that offers one encoder call and single-token steps."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from cosim.errors import CosimError
from cosim.models import DecodingValues


class Engine(Protocol):
    """An encoder-decoder network in execution, with its memory and caches inside."""

    def encode(self, features: NDArray[np.float32]) -> None:
        """Take features float32[mels, frames] and keep what the steps attend to."""
        ...

    def step(self, token: int, past: int) -> NDArray[np.float32]:
        """Return logits float32[vocabulary] after `token` at position `past`."""
        ...


@dataclass(frozen=True)
class Decoded:
    """Token ids without prompt and end; `steps` counts the calls of `Engine.step`.

    `hit_limit` is true where decoding stopped for lack of room and not at the end token.
    """

    tokens: tuple[int, ...]
    steps: int
    hit_limit: bool


def greedy(engine: Engine, features: NDArray[np.float32], rules: DecodingValues) -> Decoded:
    """Return the most likely token after each token, from `features` float32[mels, frames].

    The prompt runs through `step` too, so steps = prompt + tokens sampled - 1. At most
    `rules.max_steps` tokens are sampled. Raises FloatingPointError when the logits are not finite.
    """
    engine.encode(features)
    past = 0
    for past, token in enumerate(rules.prompt):
        logits = engine.step(token, past)
    banned = _mask(rules, logits.size)
    banned_first = banned.copy()
    banned_first[list(rules.first_suppressed)] = True
    tokens: list[int] = []
    while True:
        allowed = np.where(banned if tokens else banned_first, -np.inf, logits)
        token = int(np.argmax(allowed))
        if not np.isfinite(allowed[token]):
            raise FloatingPointError(f"logits are not finite after position {past}")
        if token == rules.end:
            return Decoded(tuple(tokens), past + 1, hit_limit=False)
        tokens.append(token)
        if len(tokens) == rules.max_steps:
            return Decoded(tuple(tokens), past + 1, hit_limit=True)
        past += 1
        logits = engine.step(token, past)


def _mask(rules: DecodingValues, vocabulary: int) -> NDArray[np.bool_]:
    banned = np.arange(vocabulary) > rules.end
    banned[list(rules.suppressed)] = True
    return banned


class Tokenizer:
    """Token ids to text by a Hugging Face `tokenizer.json`.

    Raises CosimError when the file is missing or is no tokenizer.
    """

    def __init__(self, path: Path) -> None:
        from tokenizers import Tokenizer as FileTokenizer  # noqa: PLC0415, slow to import

        if not path.is_file():
            raise CosimError(f"{path}: no such file, expected a tokenizer.json")
        try:
            self._tokenizer = FileTokenizer.from_file(str(path))
        except Exception as error:  # noqa: BLE001, the library raises the bare class
            raise CosimError(f"{path}: not a tokenizer.json: {error}") from None

    def decode(self, ids: Sequence[int]) -> str:
        """Return the text of `ids`, special tokens left out, without surrounding space."""
        return str(self._tokenizer.decode(list(ids), skip_special_tokens=True)).strip()
