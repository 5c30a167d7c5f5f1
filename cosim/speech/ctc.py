"""Connectionist temporal classification: greedy, prefix beam search, prefix scores.

An alignment has one token or blank a position; its text is what is left after equal neighbours are
merged and blanks dropped (Graves et al. 2006). All scores are natural logarithms in float64, of
log-probabilities [positions, vocabulary].
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from cosim.speech.engine import F64, largest

_NEVER = -np.inf


def best_path(log_probs: F64, blank: int) -> tuple[tuple[int, ...], float]:
    """Return the text of the most likely alignment and the score of that one alignment.

    Example:
        >>> best_path(np.log([[0.1, 0.8, 0.1], [0.1, 0.7, 0.2], [0.5, 0.2, 0.3]]), 0)[0]
        (1,)

    """
    path = log_probs.argmax(axis=1)
    begins = np.append(True, path[1:] != path[:-1])[: path.size]
    tokens = path[begins & (path != blank)]
    score = log_probs[np.arange(path.size), path].sum()
    return tuple(int(token) for token in tokens), float(score)


def prefix_beam(log_probs: F64, blank: int, beam: int) -> list[tuple[tuple[int, ...], float]]:
    """Return up to `beam` texts and their scores, best first.

    Prefix beam search (Hannun et al. 2014, "First-pass large vocabulary continuous speech
    recognition using bi-directional recurrent DNNs", algorithm 1, without a language model): the
    alignments of a prefix that end in blank and those that do not are summed apart, and after each
    position the `beam` best prefixes stay. A beam that no prefix ever leaves sums every alignment.
    """
    tree = _Tree()
    nodes = np.array([tree.root])
    ends_blank, ends_token = np.zeros(1), np.full(1, _NEVER)
    for now, tokens in zip(log_probs, _candidates(log_probs, blank, beam), strict=True):
        sums = np.logaddexp(ends_blank, ends_token)
        lasts = np.array([tree.tokens[node] for node in nodes])
        repeats = lasts[:, None] == tokens  # a blank must stand between equal tokens
        longer = np.where(repeats, ends_blank[:, None], sums[:, None]) + now[tokens]
        same_blank = sums + now[blank]
        same_token = np.where(lasts >= 0, ends_token + now[lasts], _NEVER)
        # A prefix that is in the beam and is another one made longer is the same prefix.
        index = {int(node): i for i, node in enumerate(nodes)}
        for i, node in enumerate(nodes):
            parent = index.get(tree.parents[node])
            if parent is not None:
                before = (ends_blank if lasts[parent] == lasts[i] else sums)[parent]
                same_token[i] = np.logaddexp(same_token[i], before + now[lasts[i]])
                longer[parent, tokens == lasts[i]] = _NEVER
        scores = np.concatenate([np.logaddexp(same_blank, same_token), longer.ravel()])
        kept = largest(scores, beam)
        kept = kept[scores[kept] > _NEVER]
        old, new = kept[kept < nodes.size], kept[kept >= nodes.size] - nodes.size
        rows, columns = np.divmod(new, tokens.size)
        grown = [
            tree.child(int(nodes[row]), int(tokens[column]))
            for row, column in zip(rows, columns, strict=True)
        ]
        nodes = np.concatenate([nodes[old], np.array(grown, dtype=nodes.dtype)])
        ends_blank = np.concatenate([same_blank[old], np.full(new.size, _NEVER)])
        ends_token = np.concatenate([same_token[old], longer[rows, columns]])
    sums = np.logaddexp(ends_blank, ends_token)
    return [(tree.text(int(nodes[i])), float(sums[i])) for i in largest(sums, sums.size)]


def _candidates(log_probs: F64, blank: int, beam: int) -> NDArray[np.intp]:
    """Return the tokens [positions, few] that any of the `beam` best prefixes can end in.

    All prefixes share a position's probabilities. Of the extensions of one prefix, at most `beam`
    are in the beam already and one repeats its last token; so the 2 * beam + 1 most likely tokens
    hold the `beam` best extensions, and leaving out the others changes nothing.
    """
    tokens = log_probs.copy()
    tokens[:, blank] = _NEVER
    count = min(2 * beam + 1, tokens.shape[1] - 1)
    return np.argpartition(-tokens, count - 1, axis=1)[:, :count]


class _Tree:
    """Prefixes as nodes of a tree, so that equal prefixes are one number."""

    root = 0

    def __init__(self) -> None:
        self.parents = [-1]
        self.tokens = [-1]
        self._children: dict[tuple[int, int], int] = {}

    def child(self, node: int, token: int) -> int:
        """Return the node of the prefix of `node` and `token`."""
        found = self._children.setdefault((node, token), len(self.parents))
        if found == len(self.parents):
            self.parents.append(node)
            self.tokens.append(token)
        return found

    def text(self, node: int) -> tuple[int, ...]:
        """Return the tokens from the root to `node`."""
        tokens = []
        while node != self.root:
            tokens.append(self.tokens[node])
            node = self.parents[node]
        return tuple(reversed(tokens))


@dataclass(frozen=True)
class Prefix:
    """Forward scores of a prefix: of all alignments of the first positions that give just it.

    `ends_token` and `ends_blank` are float64[positions], entry t after positions 0 to t. `last` is
    the last token, -1 for the empty prefix.
    """

    last: int
    ends_token: F64
    ends_blank: F64


def empty_prefix(log_probs: F64, blank: int) -> Prefix:
    """Return the prefix without tokens: every position so far was blank."""
    positions = log_probs.shape[0]
    return Prefix(-1, np.full(positions, _NEVER), np.cumsum(log_probs[:, blank]))


def prefix_scores(log_probs: F64, prefix: Prefix, tokens: NDArray[np.intp]) -> F64:
    """Return float64[tokens], the score of all texts that begin with `prefix` and the token.

    Watanabe et al. 2017, "Hybrid CTC/attention architecture for end-to-end speech recognition",
    algorithm 2: the sum over the positions at which the token can begin.
    """
    scores = _log_sum(_before(prefix, repeats=False)[:, None] + log_probs[:, tokens])
    for again in np.flatnonzero(tokens == prefix.last):
        scores[again] = _log_sum(_before(prefix, repeats=True) + log_probs[:, prefix.last])
    return scores


def extended(log_probs: F64, prefix: Prefix, token: int, blank: int) -> Prefix:
    """Return `prefix` with one token more.

    The recursions of algorithm 2 over positions, solved: with P the running sum of a token's
    scores, the forward score that ends in it is P_t plus the logarithm of the sum over s <= t of
    exp(before_s - P_(s-1)), and likewise for blank.
    """
    token_sum, blank_sum = np.cumsum(log_probs[:, [token, blank]], axis=0).T
    before = _before(prefix, repeats=token == prefix.last)
    earlier = np.append(0.0, token_sum[:-1])
    ends_token = token_sum + np.logaddexp.accumulate(before - earlier)
    left = np.logaddexp.accumulate(ends_token - blank_sum)
    return Prefix(token, ends_token, blank_sum + np.append(_NEVER, left[:-1]))


def text_score(prefix: Prefix) -> float:
    """Return the score of the text that is `prefix` and nothing more."""
    return float(np.logaddexp(prefix.ends_token[-1], prefix.ends_blank[-1]))


def _before(prefix: Prefix, *, repeats: bool) -> F64:
    """Return the score [positions] of just `prefix` before each position, a new token to come.

    Where that token `repeats` the last one, a blank must stand between them.
    """
    ended = prefix.ends_blank
    if not repeats:
        ended = np.logaddexp(ended, prefix.ends_token)
    return np.append(0.0 if prefix.last < 0 else _NEVER, ended[:-1])


def _log_sum(scores: F64) -> F64:
    """Return log of the sum of exp over the first axis; the sum over nothing is never."""
    top = scores.max(axis=0)
    finite = np.where(np.isfinite(top), top, 0.0)
    with np.errstate(divide="ignore"):
        return np.asarray(finite + np.log(np.exp(scores - finite).sum(axis=0)))
