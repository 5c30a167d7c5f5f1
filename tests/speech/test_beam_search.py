"""Joint CTC/attention beam search on networks small enough to try every text."""

import itertools
import math
from dataclasses import dataclass, field

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cosim.errors import CosimError
from cosim.models import AttentionRules, CtcRules, DecodingValues
from cosim.speech.decoding import Decoded, decode, greedy

BLANK, END, VOCABULARY, POSITIONS = 0, 3, 4, 4
FEATURES = np.ones((7, 5), dtype=np.float32)


@dataclass
class Network:
    """Random logits for every history, which it reads from its cache as a decoder would."""

    seed: int = 0
    spread: float = 1.5
    vocabulary: int = VOCABULARY
    positions: int = POSITIONS
    heads: dict[str, np.ndarray] = field(default_factory=dict)
    cache: np.ndarray = field(default_factory=lambda: np.full(400, -1))
    log: list[tuple[str, int]] = field(default_factory=list)

    def encode(self, features):
        assert features is FEATURES
        self.cache[:] = -1
        rng = np.random.default_rng([self.seed, 1])
        logits = rng.normal(0, self.spread, (1, self.positions, self.vocabulary))
        self.heads = {
            "ctc_logits": logits.astype(np.float32),
            "cross_k_0": np.zeros((1, 2, self.positions, 8), np.float32),
        }
        return self.heads

    def logits(self, history):
        rng = np.random.default_rng([self.seed, 2, *history])
        return rng.normal(0, self.spread, self.vocabulary).astype(np.float32)

    def step(self, token, past):
        self.log.append(("step", past))
        self.cache[past] = token
        assert (self.cache[: past + 1] >= 0).all()
        return self.logits(self.cache[: past + 1])

    def saved(self, past):
        self.log.append(("saved", past))
        return self.cache[:past].copy()

    def restore(self, saved):
        self.log.append(("restore", saved.size))
        self.cache[:] = -1
        self.cache[: saved.size] = saved


def rules(**changes):
    given = {"start": END, "end": END, "blank": BLANK, "beam": 1000, "max_ratio": 0.75}
    return AttentionRules(**{**given, **changes})


def softmax(logits):
    powers = np.exp(np.asarray(logits, dtype=np.float64))
    return powers / powers.sum(axis=-1, keepdims=True)


def texts(chances):
    """Return the CTC probability of every text: the sum over its alignments."""
    found = {}
    for alignment in itertools.product(range(chances.shape[1]), repeat=chances.shape[0]):
        text = tuple(token for token, _ in itertools.groupby(alignment) if token != BLANK)
        chance = math.prod(row[token] for row, token in zip(chances, alignment, strict=True))
        found[text] = found.get(text, 0.0) + chance
    return found


def every_text(network, wanted, limit):
    """Return the score of every text that ends, and of every one that is cut at the limit."""
    network.encode(FEATURES)
    ctc = texts(softmax(network.heads["ctc_logits"][0]))
    scores = {}

    def score(attention, chance, length):
        with np.errstate(divide="ignore"):
            joint = wanted.ctc_weight * np.log(chance) if wanted.ctc_weight else 0.0
        return (1 - wanted.ctc_weight) * attention + joint + wanted.penalty * length

    def grow(text, attention):
        steps = np.log(softmax(network.logits([wanted.start, *text])))
        ended = score(attention + steps[wanted.end], ctc.get(text, 0.0), len(text) + 1)
        scores[text, False] = ended
        for token in range(VOCABULARY):
            if token == wanted.end or (token == BLANK and wanted.ctc_weight):
                continue
            longer = (*text, token)
            if len(longer) < limit:
                grow(longer, attention + steps[token])
            else:
                chance = sum(p for known, p in ctc.items() if known[:limit] == longer)
                scores[longer, True] = score(attention + steps[token], chance, limit)

    grow((), 0.0)
    return scores


@given(
    st.integers(0, 100_000),
    st.sampled_from([0.0, 0.3, 0.5, 1.0]),
    st.sampled_from([-0.7, 0.0, 0.4]),
    st.sampled_from([0.25, 0.5, 0.75]),
)
def test_a_full_beam_finds_the_best_of_all_texts(seed, ctc_weight, penalty, max_ratio):
    wanted = rules(ctc_weight=ctc_weight, penalty=penalty, max_ratio=max_ratio)
    network = Network(seed)
    found = decode(network, FEATURES, wanted)
    scores = every_text(network, wanted, limit=int(max_ratio * POSITIONS))
    best = max(scores, key=scores.__getitem__)
    assert (found.tokens, found.hit_limit) == best
    assert found.score == pytest.approx(scores[best], abs=1e-6)


@given(st.integers(0, 100_000), st.integers(2, 9), st.sampled_from([0.0, 0.3]))
def test_the_score_of_a_narrow_beam_is_that_of_its_text(seed, beam, ctc_weight):
    wanted = rules(ctc_weight=ctc_weight, beam=beam, penalty=0.1)
    network = Network(seed)
    found = decode(network, FEATURES, wanted)
    scores = every_text(network, wanted, limit=3)
    assert found.score == pytest.approx(scores[found.tokens, found.hit_limit], abs=1e-6)
    assert found.score <= max(scores.values()) + 1e-6


@given(st.integers(0, 100_000), st.integers(3, 12))
def test_a_beam_of_one_without_ctc_is_greedy(seed, limit):
    network = Network(seed, vocabulary=9, positions=40)
    found = decode(network, FEATURES, rules(beam=1, end=8, start=2, max_tokens=limit))
    values = DecodingValues((2,), end=8, first_suppressed=(), suppressed=(), max_steps=limit)
    other = Network(seed, vocabulary=9, positions=40)
    expected = greedy(other, FEATURES, values)
    assert found.tokens == expected.tokens
    assert (found.steps, found.hit_limit) == (expected.steps, expected.hit_limit)
    assert network.log == other.log  # no cache is saved for a single hypothesis


def test_each_hypothesis_costs_one_step_a_token_and_one_saved_cache():
    network = Network(5, vocabulary=30, positions=8)
    found = decode(network, FEATURES, rules(beam=4, ctc_weight=0.3, end=29, max_ratio=1.0))
    kinds = [kind for kind, _ in network.log]
    assert kinds.count("step") == found.steps == sum(found.widths)
    assert found.widths[0] == 1
    assert max(found.widths) <= 4
    assert kinds.count("saved") == found.steps
    assert kinds.count("restore") == found.steps - 1  # the first begins with an empty cache
    pasts = [past for kind, past in network.log if kind == "step"]
    assert tuple(pasts.count(i) for i in range(len(found.widths))) == found.widths


def test_ctc_alone_does_not_call_the_decoder():
    network = Network(1)
    found = decode(network, FEATURES, rules(ctc_weight=1.0, max_ratio=1.0))
    assert network.log == []
    assert (found.steps, found.widths) == (0, ())


@dataclass
class Scripted(Network):
    """Gives each history the log-probabilities of a table, all else an equal share of the rest."""

    table: dict[tuple[int, ...], dict[int, float]] = field(default_factory=dict)

    def logits(self, history):
        told = self.table.get(tuple(int(token) for token in history[1:]), {})
        rest = (1.0 - sum(told.values())) / (self.vocabulary - len(told))
        chances = [told.get(token, rest) for token in range(self.vocabulary)]
        return np.log(chances).astype(np.float32)


def test_a_wider_beam_finds_what_greedy_passes_by():
    # 1 looks better at first (0.5 against 0.4), but what follows 2 is certain: 0.36 against 0.1
    table = {
        (): {1: 0.5, 2: 0.4, 3: 0.05},
        (1,): {1: 0.2, 2: 0.2, 3: 0.2},
        (2,): {3: 0.9},
    }
    found = {}
    for beam in (1, 2):
        found[beam] = decode(Scripted(table=table), FEATURES, rules(beam=beam))
    assert found[1].tokens[0] == 1
    assert found[2].tokens == (2,)
    assert found[2].score == pytest.approx(math.log(0.4 * 0.9), abs=1e-6)


def test_the_search_ends_when_nothing_that_runs_can_win():
    table = {(): {3: 0.9, 1: 0.05, 2: 0.04}}
    network = Scripted(table=table, positions=300)
    found = decode(network, FEATURES, rules(beam=2))
    assert found == Decoded((), 1, hit_limit=False, score=pytest.approx(math.log(0.9)), widths=(1,))


def test_the_search_ends_after_three_lengths_far_below_the_best():
    # A reward of 6 a token keeps hope alive to the limit; a token more costs 9.2 (1e-4) and earns
    # 6, so the text that ends at each length is 3.2 below the one before.
    table = {(1,) * n: {1: 1e-4, 3: 1.0 - 1e-4 - 2e-9} for n in range(200)}
    network = Scripted(table=table, positions=300)
    found = decode(network, FEATURES, rules(beam=2, penalty=6.0))
    assert found.tokens == ()
    assert len(found.widths) == 7  # those of 4, 5 and 6 tokens are 12.8 and more below


def test_a_text_that_fills_the_limit_is_cut_and_says_so():
    table = {(1,) * n: {1: 0.97, 3: 0.01} for n in range(9)}
    found = decode(Scripted(table=table, positions=8), FEATURES, rules(beam=3, max_ratio=0.5))
    assert (found.tokens, found.hit_limit) == ((1,) * 4, True)
    assert found.score == pytest.approx(4 * math.log(0.97), abs=1e-6)
    found = decode(Scripted(table=table, positions=8), FEATURES, rules(beam=3, max_tokens=2))
    assert (found.tokens, found.hit_limit) == ((1,) * 2, True)


def test_a_limit_below_one_token_allows_one():
    found = decode(Network(0), FEATURES, rules(max_ratio=0.01))
    assert len(found.widths) == 1


def test_without_a_ctc_head_the_limit_comes_from_what_the_decoder_attends_to():
    class Headless(Scripted):
        def encode(self, features):
            return {"cross_k_0": super().encode(features)["cross_k_0"]}

    table = {(1,) * n: {1: 0.97, 3: 0.01} for n in range(9)}
    found = decode(Headless(table=table, positions=6), FEATURES, rules(beam=2, max_ratio=0.5))
    assert found.tokens == (1,) * 3


def test_the_end_is_tried_though_attention_ranks_it_low():
    # CTC hears nothing but blanks: only ending is likely, which attention ranks last of 30
    class Silent(Scripted):
        def encode(self, features):
            heads = super().encode(features)
            heads["ctc_logits"] = np.full((1, self.positions, 30), -60.0, np.float32)
            heads["ctc_logits"][..., BLANK] = 0.0
            return heads

    table = {(): {29: 0.001}}
    network = Silent(table=table, vocabulary=30)
    found = decode(network, FEATURES, rules(beam=2, ctc_weight=0.5, start=29, end=29))
    assert found.tokens == ()


@pytest.mark.parametrize(("rank", "is_tried"), [(0, True), (2, True), (3, False), (4, False)])
def test_attention_hands_one_and_a_half_beams_of_tokens_to_ctc(rank, is_tried):
    # attention ranks 10, 11, 12, 13, 14, ...; CTC hears one of them, and a beam of 2 tries 3
    class Sure(Scripted):
        def encode(self, features):
            heads = super().encode(features)
            heads["ctc_logits"] = np.zeros((1, self.positions, 30), np.float32)
            heads["ctc_logits"][:, 0, 10 + rank] = 9.0
            heads["ctc_logits"][:, 1:, BLANK] = 9.0
            return heads

    ends = {(token,): {29: 0.99} for token in range(10, 15)}
    table = {(): {10: 0.3, 11: 0.2, 12: 0.15, 13: 0.1, 14: 0.05, 29: 1e-9}, **ends}
    network = Sure(table=table, vocabulary=30)
    wanted = rules(beam=2, ctc_weight=0.5, start=29, end=29)
    assert (decode(network, FEATURES, wanted).tokens == (10 + rank,)) == is_tried


@pytest.mark.parametrize("ctc_weight", [0.0, 0.3])
def test_logits_that_are_not_finite_stop_a_beam(ctc_weight):
    class Broken(Network):
        def logits(self, history):
            found = super().logits(history)
            found[1] = np.nan if len(history) == 2 else found[1]
            return found

    with pytest.raises(FloatingPointError, match="after position 1"):
        decode(Broken(0), FEATURES, rules(beam=3, ctc_weight=ctc_weight))


def test_ctc_rules_decode_the_head_beside_a_decoder_without_a_step():
    network = Network(3)
    narrow = decode(network, FEATURES, CtcRules(blank=BLANK))
    path = network.heads["ctc_logits"][0].argmax(axis=1)
    assert narrow.tokens == tuple(t for t, _ in itertools.groupby(path) if t != BLANK)
    wide = decode(network, FEATURES, CtcRules(blank=BLANK, beam=1000))
    chances = texts(softmax(network.heads["ctc_logits"][0]))
    assert wide.tokens == max(chances, key=chances.__getitem__)
    assert wide.score == pytest.approx(math.log(max(chances.values())), abs=1e-6)
    assert network.log == []
    assert (narrow.steps, wide.steps) == (0, 0)


def test_whispers_rules_go_the_greedy_way():
    values = DecodingValues((2, 1), end=3, first_suppressed=(0,), suppressed=(), max_steps=5)
    found = decode(Network(2), FEATURES, values)
    assert found == greedy(Network(2), FEATURES, values)


def test_rules_that_do_not_fit_the_outputs_are_told_together():
    with pytest.raises(CosimError) as caught:
        decode(Network(), FEATURES, rules(beam=0, ctc_weight=1.5, end=7, blank=-1))
    assert caught.value.problems == [
        "decoding: beam: found 0, expected at least 1",
        "decoding: ctc_weight: found 1.5, expected a number from 0 to 1",
        "decoding: end: found token 7, expected one of 4",
        "decoding: blank: found token -1, expected one of 4",
    ]
    with pytest.raises(CosimError) as caught:
        decode(Network(), FEATURES, CtcRules(blank=4, beam=0))
    assert caught.value.problems == [
        "decoding: beam: found 0, expected at least 1",
        "decoding: blank: found token 4, expected one of 4",
    ]


def test_rules_that_need_an_output_which_is_not_there_are_refused():
    class Bare(Network):
        def encode(self, features):
            del features
            return {"hidden": np.zeros((1, 3, 2), np.float32)}

    for wanted, said in [
        (
            CtcRules(blank=0),
            r"CTC needs an encoder output logits or ctc_logits, found \['hidden'\]",
        ),
        (rules(ctc_weight=0.3), r"ctc_weight: found 0\.3, expected 0 for a model without CTC"),
        (rules(), "found an encoder alone, expected one that a decoder attends to"),
    ]:
        with pytest.raises(CosimError, match=said):
            decode(Bare(), FEATURES, wanted)


def test_heads_of_different_vocabularies_are_refused():
    class Uneven(Network):
        def logits(self, history):
            return np.append(super().logits(history), np.float32(0))

    with pytest.raises(CosimError, match="the decoder has 5 tokens and the CTC head 4"):
        decode(Uneven(), FEATURES, rules(ctc_weight=0.3))
