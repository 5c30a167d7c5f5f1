"""Compare features and beam search with espnet 202511's, on random audio and random networks.

Not part of the suite. In an environment of its own, because espnet pins old packages:

    pip install --no-deps espnet==202511
    pip install torch typeguard==2.13.3 humanfriendly configargparse packaging librosa einops \
        editdistance kaldiio h5py opt-einsum sentencepiece torch_complex "setuptools<74" pydantic
    PYTHONPATH=. python tests/cross/espnet_decoding.py

Two differences are known. ESPnet tries the end token only where the decoder ranks it among the 1.5
beams of tokens; we always try it, and our text scores at least as high. ESPnet appends a second end
token to a text that ends just at the length limit.
"""

# ruff: noqa: T201  (a script prints)

import logging

import numpy as np
import torch
from espnet.nets.beam_search import BeamSearch
from espnet.nets.scorer_interface import ScorerInterface
from espnet.nets.scorers.ctc import CTCPrefixScorer
from espnet.nets.scorers.length_bonus import LengthBonus
from espnet2.layers.log_mel import LogMel
from espnet2.layers.stft import Stft

from cosim.models import AttentionRules, FrontEnd
from cosim.speech.decoding import decode
from cosim.speech.features import features

VOCABULARY, POSITIONS, SEEDS = 40, 30, 60
END = VOCABULARY - 1
RULES = [  # beam, ctc_weight, penalty
    (4, 0.3, 0.0),
    (10, 0.3, 0.0),
    (10, 0.5, 0.5),
    (4, 0.0, 0.0),
    (10, 0.0, 0.3),
]


def decoder_logits(seed, history):
    return np.random.default_rng([seed, 2, *history]).normal(0, 3.0, VOCABULARY).astype("float32")


def ctc_logits(seed):
    """Return logits that are blank but for a token in every fourth position."""
    rng = np.random.default_rng([seed, 1])
    logits = rng.normal(0, 2, (POSITIONS, VOCABULARY)).astype(np.float32)
    logits[:, 0] += 3
    for position in range(2, POSITIONS, 4):
        logits[position, rng.integers(1, VOCABULARY)] += 9
    return logits


class TheirDecoder(ScorerInterface, torch.nn.Module):
    def __init__(self, seed):
        super().__init__()
        self.seed = seed

    def init_state(self, x):
        del x

    def score(self, y, state, x):
        del state, x
        logits = torch.from_numpy(decoder_logits(self.seed, y.tolist()))
        return torch.log_softmax(logits, -1), None


class TheirHead(torch.nn.Module):
    def __init__(self, logits):
        super().__init__()
        self.logits = torch.from_numpy(logits)

    def log_softmax(self, x):
        del x
        return torch.log_softmax(self.logits, -1)


class Engine:
    def __init__(self, seed):
        self.seed, self.tokens = seed, []

    def encode(self, features):
        del features
        return {"ctc_logits": ctc_logits(self.seed)[None]}

    def step(self, token, past):
        self.tokens = [*self.tokens[:past], token]
        return decoder_logits(self.seed, self.tokens)

    def saved(self, past):
        return self.tokens[:past]

    def restore(self, saved):
        self.tokens = saved


def theirs(seed, beam, ctc_weight, penalty):
    scorers = {
        "decoder": TheirDecoder(seed),
        "ctc": CTCPrefixScorer(TheirHead(ctc_logits(seed)), END),
        "length_bonus": LengthBonus(VOCABULARY),
    }
    search = BeamSearch(
        scorers=scorers,
        weights={"decoder": 1 - ctc_weight, "ctc": ctc_weight, "length_bonus": penalty},
        beam_size=beam,
        vocab_size=VOCABULARY,
        sos=END,
        eos=END,
        pre_beam_score_key="full" if ctc_weight else None,
    )
    with torch.no_grad():
        best = search(torch.zeros(POSITIONS, 1), maxlenratio=1.0)[0]
    tokens = tuple(token for token in best.yseq.tolist() if token != END)
    return tokens, float(best.score)


def compare_features():
    samples = np.random.default_rng(0).normal(0, 0.1, 32001).astype(np.float32)
    for width, hop in ((None, 128), (400, 160), (None, 160)):
        audio, count = torch.from_numpy(samples)[None], torch.tensor([samples.size])
        spectrum, lengths = Stft(512, width, hop)(audio, count)
        expected, _ = LogMel(fs=16000, n_fft=512, n_mels=80)(spectrum.square().sum(-1), lengths)
        front = FrontEnd("espnet_log_mel", mels=80, hop=hop, window_samples=width)
        found = features(samples, front)
        largest = np.abs(found - expected[0].numpy()).max()
        print(f"log-mel, window {width or 512}, hop {hop}: largest difference {largest:.1e}")


def compare_searches():
    same, higher, lower, largest = 0, 0, 0, 0.0
    for seed in range(SEEDS):
        for beam, ctc_weight, penalty in RULES:
            tokens, score = theirs(seed, beam, ctc_weight, penalty)
            rules = AttentionRules(END, END, 0, beam=beam, ctc_weight=ctc_weight, penalty=penalty)
            found = decode(Engine(seed), np.zeros((1, 1), np.float32), rules)
            if found.tokens == tokens:
                same += 1
                largest = max(largest, abs(found.score - score) / abs(score))
            else:
                higher += found.score > score
                lower += found.score < score
    print(f"beam search: {same} equal texts (scores to {largest:.1e}), of the others")
    print(f"{higher} of ours score higher and {lower} lower")


if __name__ == "__main__":
    logging.disable(logging.CRITICAL)
    torch.set_num_threads(1)
    compare_features()
    compare_searches()
