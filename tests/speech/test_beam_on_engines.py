"""Beam search on the engines themselves: hypotheses share saved caches, and none is mixed up."""

from dataclasses import dataclass, field

import numpy as np
import pytest
import small_whisper

from cosim.execute import ProgramEngine, Weights
from cosim.models import AttentionRules
from cosim.models.torch_engine import TorchEngine
from cosim.speech.decoding import decode

VOCABULARY = small_whisper.DIMENSIONS.vocabulary


@dataclass
class Varied:
    """An engine whose logits are kept, and changed by position so that texts are not monotonous."""

    engine: object
    seen: list[np.ndarray] = field(default_factory=list)

    def step(self, token, past):
        logits = self.engine.step(token, past).copy()
        self.seen.append(logits)
        return logits + np.random.default_rng(past).normal(0, 8, VOCABULARY).astype(np.float32)

    def __getattr__(self, name):
        return getattr(self.engine, name)


def kernels():
    encodings = {f"@{k}": v for k, v in small_whisper.encodings(quantized=False).items()}
    weights = Weights(small_whisper.program(quantized=False), encodings)
    return Varied(ProgramEngine(weights, length=32))


def features(seed):
    shape = (small_whisper.DIMENSIONS.mels, 32)
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def rules(beam):
    """Return rules with a reward a token, so that texts grow to the limit and beams stay wide."""
    return AttentionRules(1, 2, 0, beam=beam, penalty=9.0, max_tokens=7)


@pytest.mark.parametrize("beam", [1, 3, 8])
def test_every_hypothesis_of_a_beam_has_the_logits_that_torch_has(beam):
    ours, theirs = kernels(), Varied(TorchEngine(small_whisper.module().graphs()))
    found = decode(ours, features(4), rules(beam))
    expected = decode(theirs, features(4), rules(beam))
    np.testing.assert_allclose(ours.seen, theirs.seen, atol=1e-4)
    assert (found.tokens, found.widths) == (expected.tokens, expected.widths)
    assert found.score == pytest.approx(expected.score, rel=1e-5)
    assert len(set(found.tokens)) > 3
    assert max(found.widths) >= beam - 1  # the end may hold a place


def test_decoding_twice_on_one_engine_gives_the_same():
    engine = kernels()
    first = decode(engine, features(5), rules(4))
    decode(engine, features(6), rules(4))
    assert decode(engine, features(5), rules(4)) == first
