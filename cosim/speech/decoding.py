"""Decoding over any engine, by the rules of a checkpoint: greedy, CTC, attention."""

import numpy as np
from numpy.typing import NDArray

from cosim.errors import CosimError
from cosim.models import AttentionRules, CtcRules, Decoding, DecodingValues
from cosim.speech.beam import beam_search
from cosim.speech.ctc import best_path, prefix_beam
from cosim.speech.engine import F32, Decoded, Engine, log_probabilities
from cosim.speech.tokens import Tokenizer

__all__ = ["Decoded", "Engine", "Tokenizer", "decode", "greedy"]


def decode(engine: Engine, features: F32, rules: Decoding) -> Decoded:
    """Return the tokens that `engine` hears in `features`, which have no batch axis.

    The type of `rules` says how: Whisper's greedy rules, CTC over the encoder's outputs, or
    attention with CTC. Raises CosimError for rules that the model's outputs do not fit and
    FloatingPointError when its logits are not finite.
    """
    if isinstance(rules, DecodingValues):
        return greedy(engine, features, rules)
    if isinstance(rules, AttentionRules):
        return beam_search(engine, engine.encode(features), rules)
    return _ctc(engine, features, rules)


def greedy(engine: Engine, features: F32, rules: DecodingValues) -> Decoded:
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


def _ctc(engine: Engine, features: F32, rules: CtcRules) -> Decoded:
    """Decode the encoder alone: its one head, or the CTC head beside a decoder.

    The score is that of the best alignment for a beam of 1, else the sum over those that were kept.
    """
    outputs = engine.encode(features)
    logits = outputs.get("logits", outputs.get("ctc_logits"))
    if logits is None:
        raise CosimError(
            f"decoding: CTC needs an encoder output logits or ctc_logits, found {sorted(outputs)}"
        )
    problems = []
    if rules.beam < 1:
        problems.append(f"decoding: beam: found {rules.beam}, expected at least 1")
    if not 0 <= rules.blank < logits.shape[2]:
        problems.append(
            f"decoding: blank: found token {rules.blank}, expected one of {logits.shape[2]}"
        )
    if problems:
        raise CosimError(problems)
    log_probs = log_probabilities(logits[0], "in the CTC head")
    if rules.beam == 1:
        tokens, score = best_path(log_probs, rules.blank)
    else:
        tokens, score = prefix_beam(log_probs, rules.blank, rules.beam)[0]
    return Decoded(tokens, 0, hit_limit=False, score=score)
