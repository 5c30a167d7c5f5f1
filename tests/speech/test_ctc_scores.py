"""CTC against sums over all alignments, written out."""

import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cosim.speech.ctc import (
    best_path,
    empty_prefix,
    extended,
    prefix_beam,
    prefix_scores,
    text_score,
)
from cosim.speech.engine import largest, log_probabilities

BLANK = 1  # not 0, so that an index is not taken for it by chance


def drawn(seed, positions, vocabulary, spread=2.0):
    rng = np.random.default_rng(seed)
    logits = rng.normal(0, spread, (positions, vocabulary)).astype(np.float32)
    return log_probabilities(logits, "here")


def collapse(alignment, blank=BLANK):
    return tuple(token for token, _ in itertools.groupby(alignment) if token != blank)


def texts(log_probs, blank=BLANK):
    """Return the probability of every text: the sum over its alignments."""
    found = {}
    positions, vocabulary = log_probs.shape
    for alignment in itertools.product(range(vocabulary), repeat=positions):
        chance = np.exp(sum(row[token] for row, token in zip(log_probs, alignment, strict=True)))
        text = collapse(alignment, blank)
        found[text] = found.get(text, 0.0) + chance
    return found


CASES = st.tuples(st.integers(0, 10_000), st.integers(1, 5), st.integers(2, 4))


@given(CASES)
def test_a_full_beam_has_the_sum_over_all_alignments_of_every_text(case):
    log_probs = drawn(*case)
    expected = texts(log_probs)
    found = prefix_beam(log_probs, BLANK, beam=1000)
    assert {text for text, _ in found} == set(expected)
    for text, score in found:
        assert score == pytest.approx(np.log(expected[text]), abs=1e-9)
    scores = [score for _, score in found]
    assert scores == sorted(scores, reverse=True)


@given(CASES)
def test_the_best_path_is_the_most_likely_alignment_collapsed(case):
    log_probs = drawn(*case)
    ways = itertools.product(range(log_probs.shape[1]), repeat=log_probs.shape[0])
    best = max(ways, key=lambda way: sum(log_probs[t, token] for t, token in enumerate(way)))
    text, score = best_path(log_probs, BLANK)
    assert text == collapse(best)
    assert score == pytest.approx(sum(log_probs[t, token] for t, token in enumerate(best)))


def plain_prefix_beam(log_probs, blank, beam):
    """Hannun et al. 2014, algorithm 1, over every token, with dictionaries of probabilities."""
    kept = {(): (1.0, 0.0)}
    for row in np.exp(log_probs):
        grown = {}

        def add(text, ends_blank, ends_token, grown=grown):
            old = grown.get(text, (0.0, 0.0))
            grown[text] = (old[0] + ends_blank, old[1] + ends_token)

        for text, (ends_blank, ends_token) in kept.items():
            add(text, (ends_blank + ends_token) * row[blank], 0.0)
            for token, chance in enumerate(row):
                if token == blank:
                    continue
                if text and token == text[-1]:
                    add(text, 0.0, ends_token * chance)
                    add((*text, token), 0.0, ends_blank * chance)
                else:
                    add((*text, token), 0.0, (ends_blank + ends_token) * chance)
        best = sorted(grown.items(), key=lambda item: -sum(item[1]))[:beam]
        kept = {text: chances for text, chances in best if sum(chances)}
    return [(text, np.log(sum(chances))) for text, chances in kept.items()]


@given(
    st.integers(0, 10_000), st.integers(1, 9), st.integers(2, 12), st.integers(2, 5), st.booleans()
)
def test_a_narrow_beam_keeps_what_hannuns_algorithm_keeps(seed, positions, vocabulary, beam, sharp):
    # the few tokens tried at each position are all that can matter, also with clear winners
    log_probs = drawn(seed, positions, vocabulary, spread=6.0 if sharp else 1.0)
    found = prefix_beam(log_probs, BLANK, beam)
    expected = plain_prefix_beam(log_probs, BLANK, beam)
    assert [text for text, _ in found] == [text for text, _ in expected]
    np.testing.assert_allclose([s for _, s in found], [s for _, s in expected], atol=1e-9)


@given(CASES, st.lists(st.integers(0, 3), max_size=4))
def test_prefix_scores_are_sums_over_all_texts_that_begin_so(case, beginning):
    log_probs = drawn(*case)
    vocabulary = log_probs.shape[1]
    beginning = tuple(token for token in beginning if token < vocabulary and token != BLANK)
    chances = texts(log_probs)
    prefix = empty_prefix(log_probs, BLANK)
    for token in beginning:
        prefix = extended(log_probs, prefix, token, BLANK)
    with np.errstate(divide="ignore"):
        assert text_score(prefix) == pytest.approx(np.log(chances.get(beginning, 0.0)), abs=1e-9)
        tokens = np.array([token for token in range(vocabulary) if token != BLANK], dtype=np.intp)
        expected = [
            np.log(sum(p for text, p in chances.items() if text[: len(start)] == start))
            for start in [(*beginning, int(token)) for token in tokens]
        ]
    np.testing.assert_allclose(prefix_scores(log_probs, prefix, tokens), expected, atol=1e-9)


def test_forward_scores_stay_exact_over_a_minute_of_sharp_probabilities():
    # the recursions of algorithm 2, one position at a time
    log_probs = drawn(0, 1500, 20, spread=15.0)
    prefix, slow = empty_prefix(log_probs, BLANK), None
    for token in (3, 7, 7, 0, 19):
        last = prefix.last
        slow = [(-np.inf, -np.inf)]
        for t, row in enumerate(log_probs):
            ended = (prefix.ends_token[t - 1], prefix.ends_blank[t - 1])
            before = ended[1] if token == last else np.logaddexp(*ended)
            if t == 0:
                before = 0.0 if last < 0 else -np.inf
            ends_token = np.logaddexp(slow[-1][0], before) + row[token]
            slow.append((ends_token, np.logaddexp(*slow[-1]) + row[BLANK]))
        prefix = extended(log_probs, prefix, token, BLANK)
        expected = np.array(slow[1:])
        np.testing.assert_allclose(prefix.ends_token, expected[:, 0], rtol=1e-12, atol=1e-9)
        np.testing.assert_allclose(prefix.ends_blank, expected[:, 1], rtol=1e-12, atol=1e-9)


def test_audio_without_positions_has_the_empty_text():
    nothing = np.zeros((0, 4))
    assert best_path(nothing, BLANK) == ((), 0.0)
    assert prefix_beam(nothing, BLANK, 3) == [((), 0.0)]


@given(st.lists(st.integers(-3, 3), min_size=1, max_size=30), st.integers(1, 40))
def test_the_largest_come_in_order_and_equal_ones_by_index(values, count):
    order = sorted(range(len(values)), key=lambda i: (-values[i], i))
    assert largest(np.array(values, dtype=float), count).tolist() == order[:count]


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_logits_that_are_no_numbers_stop_with_their_place(bad):
    with pytest.raises(FloatingPointError, match="logits are not finite in the CTC head"):
        log_probabilities(np.array([[0.0, bad]], np.float32), "in the CTC head")


def test_log_probabilities_of_large_logits_do_not_overflow():
    found = log_probabilities(np.array([[1e30, 1e30, -1e30]], np.float32), "here")
    np.testing.assert_allclose(found[0, :2], np.log(0.5))
