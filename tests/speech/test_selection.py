"""select: one list of checked utterances from any source, broken recordings told or skipped."""

import json

import numpy as np
import pytest
import soundfile

from cosim.errors import CosimError
from cosim.speech.manifest import SpeechConfig
from cosim.speech.selection import load_utterance, select


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "data").mkdir()
    rows = []
    for name, rate, seconds in (("a", 16000, 1.0), ("b", 8000, 0.5), ("c", 16000, 0.25)):
        samples = np.random.default_rng(0).uniform(-0.5, 0.5, int(rate * seconds))
        soundfile.write(tmp_path / "data" / f"{name}.wav", samples, rate)
        rows.append({"audio": f"{name}.wav", "text": f"text {name}", "speaker": name})
    (tmp_path / "data/m.jsonl").write_text("\n".join(map(json.dumps, rows)))
    return tmp_path


def choose(folder, *, keep_going=False, max_seconds=None, **keys):
    return select(
        SpeechConfig(**keys),
        relative_to=folder / "experiment.yaml",
        keep_going=keep_going,
        max_seconds=max_seconds,
        progress=print,
    )


def test_durations_are_measured_and_conversions_warned_of(folder):
    speech = choose(folder, manifest="data/m.jsonl")
    assert [utterance.duration_s for utterance in speech.utterances] == [1.0, 0.5, 0.25]
    assert speech.seconds == 1.75
    assert speech.warnings == (f"{folder}/data/b.wav: 8000 Hz resampled to 16000 Hz",)
    assert (speech.name, speech.attribution) == ("data/m.jsonl", "")
    assert load_utterance(speech.utterances[1]).size == 8000


def test_the_limit_keeps_the_first(folder):
    speech = choose(folder, manifest="data/m.jsonl", limit=2)
    assert [utterance.id for utterance in speech.utterances] == ["a", "b"]
    assert speech.name == "data/m.jsonl, first 2"


def test_broken_recordings_are_all_told_or_skipped_and_counted(folder):
    (folder / "data/b.wav").write_bytes(b"")
    (folder / "data/c.wav").write_bytes(b"not audio at all")
    with pytest.raises(CosimError) as caught:
        choose(folder, manifest="data/m.jsonl")
    assert [line.split(": ")[0] for line in caught.value.problems] == [
        f"{folder}/data/b.wav",
        f"{folder}/data/c.wav",
    ]
    speech = choose(folder, manifest="data/m.jsonl", keep_going=True)
    assert [utterance.id for utterance in speech.utterances] == ["a"]
    assert speech.skipped == tuple(caught.value.problems)


def test_too_long_recordings_are_refused_with_their_duration(folder):
    with pytest.raises(CosimError, match=r"a\.wav: found 1\.00 s of audio, expected at most 0\.5"):
        choose(folder, manifest="data/m.jsonl", max_seconds=0.5)
    speech = choose(folder, manifest="data/m.jsonl", max_seconds=0.5, keep_going=True)
    assert len(speech.utterances) == 2
    with pytest.raises(CosimError, match=r"expected at most 0\.1"):
        choose(folder, manifest="data/m.jsonl", max_seconds=0.1, keep_going=True)


def test_a_path_that_does_not_exist_is_told_with_the_nearest_name(folder):
    with pytest.raises(CosimError, match=r'"data/n\.jsonl" does not exist.*"m\.jsonl"'):
        choose(folder, manifest="data/n.jsonl")


def test_kaldi_and_librispeech_are_read_too(folder):
    (folder / "data/wav.scp").write_text("a a.wav\n")
    (folder / "data/text").write_text("a hello\n")
    assert choose(folder, kaldi="data").utterances[0].text == "hello"
    chapter = folder / "test-clean/1/2"
    chapter.mkdir(parents=True)
    (chapter / "1-2.trans.txt").write_text("1-2-0000 HELLO\n")
    soundfile.write(chapter / "1-2-0000.flac", np.zeros(1600), 16000)
    speech = choose(folder, librispeech=str(folder), split="test-clean")
    assert speech.utterances[0].speaker == "1"
    assert speech.utterances[0].duration_s == 0.1
