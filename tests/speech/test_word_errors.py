"""Normalisers and word error counts, against hand counts and an edit distance of our own."""

import json
from importlib.metadata import version
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cosim.errors import CosimError
from cosim.speech.normalize import NORMALIZERS, describe, normalizer
from cosim.speech.wer import align, paired_interval, score, speaker_groups, total, write_trn

SHARED = Path(__file__).resolve().parents[2].parent / "shared/speech/corpus"
BASIC = normalizer("basic")


def test_counts_equal_those_of_a_hand_alignment():
    # one TOO(s) three . ; the (i) cat sat ; (d)
    result = score(
        ["One two, three.", "Cat sat!", "gone"], ["one too three", "the cat sat", ""], BASIC
    )
    assert (result.substitutions, result.insertions, result.deletions) == (1, 1, 1)
    assert (result.words, result.utterances, result.left_out) == (6, 3, 0)
    assert result.wer == 0.5
    # two -> too: 1; "the " in front: 4; gone: 4; of 13 + 7 + 4 characters
    assert (result.character_errors, result.characters) == (9, 24)
    assert result.cer == 9 / 24
    assert result.normalizer == "lower case, no punctuation"


def test_references_without_words_are_left_out_and_counted():
    rows = align(["...", "one"], ["something", "one"], BASIC)
    result = total(rows, BASIC)
    assert (result.utterances, result.left_out, result.errors, result.words) == (1, 1, 0, 1)
    with pytest.raises(ValueError, match="nothing to score"):
        _ = score(["..."], ["a"], BASIC).wer


def test_as_many_hypotheses_as_references_are_needed():
    with pytest.raises(ValueError, match="argument 2 is shorter"):
        score(["a", "b"], ["a"], BASIC)


def edit_distance(left, right):
    row = list(range(len(right) + 1))
    for i, a in enumerate(left, start=1):
        previous, row[0] = row[0], i
        for j, b in enumerate(right, start=1):
            previous, row[j] = row[j], min(row[j] + 1, row[j - 1] + 1, previous + (a != b))
    return row[-1]


@settings(max_examples=60, deadline=None)
@given(st.lists(st.sampled_from("abc"), min_size=1, max_size=8), st.lists(st.sampled_from("abc")))
def test_errors_are_the_edit_distance(left, right):
    (row,) = align([" ".join(left)], [" ".join(right)], BASIC)
    assert row.errors == edit_distance(left, right)
    assert row.character_errors == edit_distance(" ".join(left), " ".join(right))
    assert row.words == len(left)


def test_the_whisper_normaliser_joins_digits_so_digit_strings_need_their_own():
    spoken, recognised = "six eight five", "6 8 5"
    whisper = normalizer("whisper_english")
    assert whisper.apply(spoken) == "685"
    assert score([spoken], [recognised], whisper).wer > 1
    assert score([spoken], [recognised], normalizer("digits")).wer == 0
    assert score([spoken], ["685"], normalizer("digits")).wer == 0


@pytest.mark.parametrize(
    ("name", "text", "expected"),
    [
        ("whisper_english", "Wait... I'm the colour of twenty-one!", "wait i am the color of 21"),
        ("whisper_english", "...", ""),
        (
            "basic",
            "It\N{RIGHT SINGLE QUOTATION MARK}s 'well-known', 3 x_y.",
            "it's well known 3 x y",
        ),
        ("basic", "", ""),
        ("digits", "Call 10 2nd oh", "call one zero two nd oh"),
        ("digits", "7", "seven"),
    ],
)
def test_normalisers_do_what_their_names_say(name, text, expected):
    assert normalizer(name).apply(text) == expected


@pytest.mark.parametrize("name", sorted(NORMALIZERS))
@settings(max_examples=30, deadline=None)
@given(text=st.text(max_size=30))
def test_every_normaliser_gives_words_with_single_spaces(name, text):
    said = normalizer(name).apply(text)
    assert said == " ".join(said.split())


def test_descriptions_carry_the_package_version():
    package = version("whisper-normalizer")
    assert describe("whisper_english") == (
        f"whisper-normalizer English {package}, stray '.' removed"
    )
    with pytest.raises(CosimError, match=r"found 'whisper'; did you mean \"whisper_english\"\?"):
        normalizer("whisper")


def test_every_utterance_of_the_prompts_test_split_has_words_to_score():
    if not SHARED.is_dir():
        pytest.skip("the shared speech folder is not beside this checkout")
    rows = [json.loads(line) for line in (SHARED / "manifest.jsonl").read_text().splitlines()]
    texts = [row["text"] for row in rows if "asterisk" in row["source"] and row["split"] == "test"]
    result = score(texts, texts, normalizer("whisper_english"))
    assert (result.utterances, result.left_out, result.words) == (89, 0, 958)
    assert result.wer == 0


def test_the_interval_of_two_utterances_is_worked_out_by_hand():
    # Draws of two: (x, x) 1/4 gives 1.0; (x, y) 1/2 gives 1/2; (y, y) 1/4 gives 0.
    assert paired_interval([10, 0], [0, 0], [10, 10]) == (0.0, 1.0)
    # The middle 40 % are all (x, y).
    assert paired_interval([10, 0], [0, 0], [10, 10], level=0.4) == (0.5, 0.5)


def test_the_interval_agrees_with_the_normal_approximation():
    generator = np.random.default_rng(1)
    a, b = generator.poisson(1.0, 400), generator.poisson(0.8, 400)
    words = np.full(400, 10)
    low, high = paired_interval(a, b, words, seed=3)
    difference = (a - b) / 10
    half = 1.96 * difference.std() / np.sqrt(400)
    assert low == pytest.approx(difference.mean() - half, abs=0.003)
    assert high == pytest.approx(difference.mean() + half, abs=0.003)
    assert paired_interval(a, b, words, seed=3) == (low, high)
    assert paired_interval(a, b, words, seed=4) != (low, high)


def test_equal_systems_differ_by_nothing_however_bad_they_are():
    assert paired_interval([3, 1, 0], [3, 1, 0], [4, 5, 6]) == (0.0, 0.0)


def test_resampling_speakers_is_wider_when_errors_cluster():
    speakers = [name for name in "abcdef" for _ in range(20)]
    errors = [4 if name in "ab" else 0 for name in speakers]
    zeros, words = [0] * 120, [10] * 120
    by_utterance = paired_interval(errors, zeros, words)
    by_speaker = paired_interval(errors, zeros, words, groups=speakers)
    assert by_speaker[1] - by_speaker[0] > 2 * (by_utterance[1] - by_utterance[0])


def test_speakers_are_resampled_together_even_when_their_utterances_lie_apart():
    errors, zeros, words = [1, 0, 2, 5], [0, 0, 0, 0], [5, 7, 5, 3]
    whole = paired_interval([3, 5], [0, 0], [10, 10])
    assert paired_interval(errors, zeros, words, groups=["x", "y", "x", "y"]) == whole


def test_utterances_without_words_do_not_count_and_nonsense_is_refused():
    assert paired_interval([1, 0, 9], [0, 0, 0], [2, 2, 0]) == paired_interval(
        [1, 0], [0, 0], [2, 2]
    )
    with pytest.raises(ValueError, match="found 1 unit"):
        paired_interval([1], [0], [2])
    with pytest.raises(ValueError, match="found 1 groups for 2 utterances"):
        paired_interval([1, 0], [0, 0], [2, 2], groups=["a"])


def test_speakers_serve_as_groups_where_all_are_known_and_there_are_five():
    assert speaker_groups(list("abcde")) == tuple("abcde")
    assert speaker_groups(["a", "b", "a", "b"]) is None
    assert speaker_groups(["a", "b", "c", "d", "e", ""]) is None


def test_trn_lines_are_those_sclite_reads(tmp_path):
    path = tmp_path / "ref.trn"
    write_trn(path, ["digits/14", "1-2-3"], ["fourteen", ""], ["allison-smith", ""])
    assert path.read_text() == "fourteen (allison.smith-digits/14)\n (unknown-1.2.3)\n"
