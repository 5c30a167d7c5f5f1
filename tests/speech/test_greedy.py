"""Greedy decoding on an engine that follows a script."""

from dataclasses import dataclass, field

import numpy as np
import pytest

from cosim.errors import CosimError
from cosim.models import DecodingValues
from cosim.speech.decoding import Decoded, Tokenizer, greedy

END, SPACE, VOCABULARY = 8, 3, 12
RULES = DecodingValues(
    prompt=(9, 10), end=END, first_suppressed=(SPACE, END), suppressed=(2,), max_steps=5
)


@dataclass
class Scripted:
    """Prefers, after the step at position i, the tokens of script[i], best first."""

    script: dict[int, tuple[int, ...]]
    log: list[tuple[int, int]] = field(default_factory=list)
    features: np.ndarray | None = None

    def encode(self, features):
        self.features = features

    def step(self, token, past):
        self.log.append((token, past))
        logits = np.zeros(VOCABULARY, dtype=np.float32)
        for rank, best in enumerate(self.script.get(past, ())):
            logits[best] = 10.0 - rank
        return logits


def run(script, rules=RULES):
    engine = Scripted(script)
    return greedy(engine, np.ones((80, 3000), dtype=np.float32), rules), engine


def test_prompt_and_every_token_but_the_last_run_through_step():
    decoded, engine = run({1: (4,), 2: (5,), 3: (END,)})
    assert decoded == Decoded((4, 5), steps=4, hit_limit=False)
    assert engine.log == [(9, 0), (10, 1), (4, 2), (5, 3)]
    assert engine.features.shape == (80, 3000)


def test_what_is_suppressed_first_is_allowed_later():
    decoded, _ = run({1: (END, SPACE, 4), 2: (SPACE,), 3: (END,)})
    assert decoded.tokens == (4, SPACE)


def test_suppressed_ids_and_ids_above_the_end_never_come():
    decoded, _ = run({1: (9, 2, 4), 2: (11, 2, 5), 3: (10, END)})
    assert decoded.tokens == (4, 5)


def test_the_limit_counts_sampled_tokens():
    decoded, engine = run(dict.fromkeys(range(20), (4,)))
    assert decoded == Decoded((4,) * 5, steps=6, hit_limit=True)
    assert len(engine.log) == 6


def test_the_end_at_the_last_allowed_step_is_no_hit():
    decoded, _ = run({1: (4,), 2: (4,), 3: (4,), 4: (4,), 5: (END,)})
    assert decoded == Decoded((4,) * 4, steps=6, hit_limit=False)


def test_equal_logits_give_the_lowest_id():
    decoded, _ = run({2: (END,)})
    assert decoded.tokens == (0,)


def test_logits_that_are_not_finite_stop_decoding():
    class Broken(Scripted):
        def step(self, token, past):
            return super().step(token, past) * np.nan

    with pytest.raises(FloatingPointError, match="after position 1"):
        greedy(Broken({}), np.ones((80, 3000), dtype=np.float32), RULES)


def test_tokenizer_leaves_special_tokens_out(tmp_path):
    tokenizers = pytest.importorskip("tokenizers")
    words = {"hello": 0, "world": 1, "[UNK]": 2}
    made = tokenizers.Tokenizer(tokenizers.models.WordLevel(words, unk_token="[UNK]"))  # noqa: S106
    made.add_special_tokens(["<|end|>"])
    made.save(str(tmp_path / "tokenizer.json"))
    tokenizer = Tokenizer(tmp_path / "tokenizer.json")
    assert tokenizer.decode([0, 1, 3]) == "hello world"
    assert tokenizer.decode([]) == ""


def test_a_file_that_is_no_tokenizer_is_refused(tmp_path):
    with pytest.raises(CosimError, match=r"tokenizer\.json: no such file"):
        Tokenizer(tmp_path / "tokenizer.json")
    (tmp_path / "tokenizer.json").write_text("{}")
    with pytest.raises(CosimError, match=r"tokenizer\.json: not a tokenizer"):
        Tokenizer(tmp_path / "tokenizer.json")
