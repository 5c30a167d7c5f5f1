"""Decoding token by token with attention, jointly with CTC prefix scores, by beam search.

Watanabe et al. 2017, "Hybrid CTC/attention architecture for end-to-end speech recognition", section
IV: equation 12 for the score, algorithms 1 and 2 for the search.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from cosim.errors import CosimError
from cosim.models import AttentionRules
from cosim.speech.ctc import Prefix, empty_prefix, extended, prefix_scores, text_score
from cosim.speech.engine import F32, F64, Decoded, Engine, largest, log_probabilities

PRESELECTED = 1.5
"""Tokens that attention hands to CTC, per hypothesis of the beam, as ESPnet's pre_beam_ratio."""

_END_LENGTHS = 3
_END_DISTANCE = 10.0


@dataclass(frozen=True)
class _Hypothesis:
    """Tokens without start; `caches` are those before the last token, None where they are live.

    `score` is the sum that is maximised, `attention` the decoder's part of it, unweighted.
    """

    tokens: tuple[int, ...]
    score: float
    attention: float
    prefix: Prefix | None
    caches: object


@dataclass(frozen=True)
class _Extensions:
    """What may follow one hypothesis: tokens [few] with the score and decoder's part of each."""

    tokens: NDArray[np.intp]
    scores: F64
    attention: F64
    caches: object


def beam_search(engine: Engine, outputs: Mapping[str, F32], rules: AttentionRules) -> Decoded:
    """Return the best text found, from what `engine.encode` has just returned.

    Each hypothesis costs one step a token: extensions of one share its saved caches. A text ends
    with the end token, or is cut at the limit, which counts the end token too; a cut one has the
    score it has so far. The search is over when no running hypothesis can become better than the
    best that has ended, or none of the last three lengths came near it (equation 50). With
    ctc_weight 1 the decoder is not called. Raises CosimError for rules that do not fit the outputs,
    FloatingPointError when logits are not finite.
    """
    search = _begun(engine, outputs, rules)
    running = [_Hypothesis((), 0.0, 0.0, search.empty, None)]
    ended: list[_Hypothesis] = []
    widths: list[int] = []
    for length in range(1, search.limit + 1):
        widths.append(len(running))
        going = search.extend(running, length)
        ended += [one for one in going if one.tokens[-1] == rules.end]
        running = [one for one in going if one.tokens[-1] != rules.end]
        if _is_over(running, ended, rules, length=length, limit=search.limit):
            running = []
            break
    best = max((*ended, *running), key=lambda one: one.score)
    hit_limit = best.tokens[-1] != rules.end
    return Decoded(
        best.tokens if hit_limit else best.tokens[:-1],
        search.steps,
        hit_limit,
        best.score,
        tuple(widths) if search.steps else (),
    )


@dataclass
class _Search:
    """One search: `steps` counts the calls of the engine, which holds the live caches.

    `ctc` are log-probabilities [positions, vocabulary], None where they have no weight; `empty` is
    the prefix that every text begins as; `limit` the number of tokens after which texts are cut.
    """

    engine: Engine
    rules: AttentionRules
    ctc: F64 | None
    empty: Prefix | None
    limit: int
    steps: int = 0

    def extend(self, running: Sequence[_Hypothesis], length: int) -> list[_Hypothesis]:
        """Return the best hypotheses of `length` tokens that begin with one that is running."""
        found = [self._extensions(one, length - 1) for one in running]
        owners = np.repeat(np.arange(len(found)), [one.tokens.size for one in found])
        tokens = np.concatenate([one.tokens for one in found])
        scores = np.concatenate([one.scores for one in found])
        attention = np.concatenate([one.attention for one in found])
        kept = largest(scores, self.rules.beam)
        return [
            self._longer(
                running[owners[i]],
                int(tokens[i]),
                float(scores[i]),
                float(attention[i]),
                found[owners[i]].caches,
            )
            for i in kept[scores[kept] > -np.inf]
        ]

    def _extensions(self, one: _Hypothesis, past: int) -> _Extensions:
        rules, caches = self.rules, None
        if self.ctc is not None and rules.ctc_weight == 1:
            tokens = np.arange(self.ctc.shape[1])
            attention = np.zeros(tokens.size)
        else:
            if one.caches is not None:
                self.engine.restore(one.caches)
            logits = self.engine.step(one.tokens[-1] if one.tokens else rules.start, past)
            self.steps += 1
            steps = log_probabilities(logits, f"after position {past}")
            if rules.beam > 1:
                caches = self.engine.saved(past + 1)
            tokens = self._preselected(steps)
            attention = one.attention + steps[tokens]
        scores = (1.0 - rules.ctc_weight) * attention + rules.penalty * (past + 1)
        if self.ctc is not None and one.prefix is not None:
            scores += rules.ctc_weight * self._ctc_scores(self.ctc, one.prefix, tokens)
        return _Extensions(tokens, scores, attention, caches)

    def _preselected(self, attention: F64) -> NDArray[np.intp]:
        """Return the tokens to be scored jointly: the likeliest for the decoder, and the end."""
        rules = self.rules
        if self.ctc is None:
            return largest(attention, rules.beam)
        if self.ctc.shape[1] != attention.size:
            raise CosimError(
                f"decoding: the decoder has {attention.size} tokens and the CTC head "
                f"{self.ctc.shape[1]}, expected the same"
            )
        tokens = largest(attention, math.ceil(PRESELECTED * rules.beam))
        return tokens if rules.end in tokens else np.append(tokens, rules.end)

    def _ctc_scores(self, ctc: F64, prefix: Prefix, tokens: NDArray[np.intp]) -> F64:
        """Return the score of each longer prefix; at the end token, of the text as it is."""
        scores = prefix_scores(ctc, prefix, tokens)
        scores[tokens == self.rules.blank] = -np.inf
        scores[tokens == self.rules.end] = text_score(prefix)
        return scores

    def _longer(
        self, one: _Hypothesis, token: int, score: float, attention: float, caches: object
    ) -> _Hypothesis:
        prefix = one.prefix
        if self.ctc is not None and prefix is not None and token != self.rules.end:
            prefix = extended(self.ctc, prefix, token, self.rules.blank)
        return _Hypothesis((*one.tokens, token), score, attention, prefix, caches)


def _begun(engine: Engine, outputs: Mapping[str, F32], rules: AttentionRules) -> _Search:
    problems = _problems(rules, outputs)
    if problems:
        raise CosimError(f"decoding: {text}" for text in problems)
    logits = outputs.get("ctc_logits")
    positions = outputs["cross_k_0"].shape[2] if logits is None else logits.shape[1]
    limit = max(1, min(rules.max_tokens, int(rules.max_ratio * positions)))
    if logits is None or not rules.ctc_weight:
        return _Search(engine, rules, None, None, limit)
    ctc = log_probabilities(logits[0], "in the CTC head")
    return _Search(engine, rules, ctc, empty_prefix(ctc, rules.blank), limit)


def _problems(rules: AttentionRules, outputs: Mapping[str, F32]) -> list[str]:
    found = []
    if rules.beam < 1:
        found.append(f"beam: found {rules.beam}, expected at least 1")
    if not 0.0 <= rules.ctc_weight <= 1.0:
        found.append(f"ctc_weight: found {rules.ctc_weight}, expected a number from 0 to 1")
    if "ctc_logits" in outputs:
        count = outputs["ctc_logits"].shape[2]
        for name, token in (("end", rules.end), ("blank", rules.blank)):
            if not 0 <= token < count:
                found.append(f"{name}: found token {token}, expected one of {count}")
    elif rules.ctc_weight:
        found.append(f"ctc_weight: found {rules.ctc_weight}, expected 0 for a model without CTC")
    elif "cross_k_0" not in outputs:
        found.append("found an encoder alone, expected one that a decoder attends to")
    return found


def _is_over(
    running: Sequence[_Hypothesis],
    ended: Sequence[_Hypothesis],
    rules: AttentionRules,
    *,
    length: int,
    limit: int,
) -> bool:
    """Return whether going on after `length` tokens cannot or will hardly find a better text.

    Log-probabilities never grow with the text, only a penalty above 0 adds to them.
    """
    if not running or not ended:
        return not running
    best = max(one.score for one in ended)
    hope = max(one.score for one in running) + max(0.0, rules.penalty) * (limit - length)
    if hope <= best:
        return True
    recent = [
        max((one.score for one in ended if len(one.tokens) == length - ago), default=best)
        for ago in range(_END_LENGTHS)
    ]
    return all(score < best - _END_DISTANCE for score in recent)
