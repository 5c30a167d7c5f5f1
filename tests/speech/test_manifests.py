"""The three input formats, and how their broken rows are told."""

import json

import pytest

from cosim import config
from cosim.errors import CosimError
from cosim.speech.manifest import (
    SpeechConfig,
    Utterance,
    read_kaldi,
    read_librispeech,
    read_manifest,
)


def manifest(folder, *rows):
    path = folder / "m.jsonl"
    lines = [row if isinstance(row, str) else json.dumps(row) for row in rows]
    path.write_text("\n".join(lines) + "\n")
    return path


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "wavs").mkdir()
    for name in ("a", "b", "c"):
        (tmp_path / "wavs" / f"{name}.wav").write_bytes(b"x")
    return tmp_path


def test_rows_of_a_manifest_become_utterances(folder):
    path = manifest(
        folder,
        {"audio": "wavs/a.wav", "text": "one two", "duration": 1, "speaker": "s", "other": []},
        "",
        {"audio_filepath": str(folder / "wavs/b.wav"), "text": "three", "id": 7},
        {"audio": "wavs/c.wav", "text": "four", "offset": 1.5, "duration": 0.5},
    )
    assert read_manifest(path).utterances == (
        Utterance("wavs/a", folder / "wavs/a.wav", "one two", 1, "s"),
        Utterance("7", folder / "wavs/b.wav", "three"),
        Utterance("wavs/c@1.5", folder / "wavs/c.wav", "four", 0.5, "", 1.5, 2.0),
    )


def test_every_broken_row_is_told_with_its_line(folder):
    good = {"audio": "wavs/a.wav", "text": "one"}
    path = manifest(
        folder,
        good,
        {"audio": "wavs/a.wav"},
        {"audio": "wavs/bb.wav", "text": "two"},
        '{"audio": ',
        {"text": "  "},
        good,
        "[1]",
        {**good, "duration": "3", "offset": True},
        {**good, "offset": 1.0},
        '{"audio": "wavs/b.wav", "text": "x", "duration": NaN}',
    )
    said = [
        "line 2: text: found null, expected what is said",
        f'line 3: no such audio file: {folder}/wavs/bb.wav; did you mean "b.wav"?',
        "line 4: not valid JSON: Expecting value at column 10",
        (
            "line 5: audio: missing, expected a path in `audio` or `audio_filepath`; "
            'text: found "  ", expected what is said'
        ),
        "line 6: id wavs/a occurs a second time",
        "line 7: found [1], expected a JSON object",
        'line 8: duration: found "3", expected seconds; offset: found true, expected seconds',
        "line 9: duration: missing, expected it beside `offset`",
        "line 10: duration: found NaN, expected seconds",
    ]
    said = [f"{path}: {line}" for line in said]
    with pytest.raises(CosimError) as caught:
        read_manifest(path)
    assert caught.value.problems == said
    listing = read_manifest(path, keep_going=True)
    assert [utterance.id for utterance in listing.utterances] == ["wavs/a"]
    assert list(listing.skipped) == said


def test_a_manifest_with_nothing_usable_is_refused_even_when_going_on(folder):
    path = manifest(folder, {"audio": "wavs/a.wav"})
    with pytest.raises(CosimError, match="found no usable utterance, expected a JSON-lines"):
        read_manifest(path, keep_going=True)
    with pytest.raises(CosimError, match="found no usable utterance"):
        read_manifest(manifest(folder))


def test_a_split_picks_its_rows_and_only_its_mistakes(folder):
    path = manifest(
        folder,
        {"audio": "wavs/a.wav", "text": "one", "split": "train"},
        {"audio": "wavs/b.wav", "text": "two", "split": "test"},
        {"audio": "wavs/c.wav", "split": "train"},
    )
    (utterance,) = read_manifest(path, split="test").utterances
    assert utterance.text == "two"
    with pytest.raises(CosimError, match="line 3: text: found null"):
        read_manifest(path, split="train")
    with pytest.raises(CosimError, match=r"no row of split 'tset'; did you mean \"test\"\?"):
        read_manifest(path, split="tset", keep_going=True)


def test_a_missing_manifest_names_its_nearest_neighbour(folder):
    manifest(folder)
    with pytest.raises(CosimError, match=r'n\.jsonl: no such file; did you mean "m\.jsonl"\?'):
        read_manifest(folder / "n.jsonl")


@pytest.fixture
def tree(tmp_path):
    for split, speaker, lines in (
        ("test-clean", "12", "12-7-0000 HELLO THERE\n12-7-0001 AGAIN\n"),
        ("dev-clean", "3", "3-7-0000 OTHER\n"),
    ):
        chapter = tmp_path / split / speaker / "7"
        chapter.mkdir(parents=True)
        (chapter / f"{speaker}-7.trans.txt").write_text(lines)
        for line in lines.splitlines():
            (chapter / f"{line.split()[0]}.flac").write_bytes(b"x")
    return tmp_path


def test_a_librispeech_tree_is_read_by_split_or_from_the_split_itself(tree):
    listing = read_librispeech(tree, split="test-clean")
    audio = tree / "test-clean/12/7/12-7-0000.flac"
    assert listing.utterances[0] == Utterance("12-7-0000", audio, "HELLO THERE", speaker="12")
    assert read_librispeech(tree / "test-clean").utterances == listing.utterances
    assert len(read_librispeech(tree).utterances) == 3


def test_broken_lines_of_a_librispeech_tree_are_told(tree):
    chapter = tree / "test-clean/12/7"
    with (chapter / "12-7.trans.txt").open("a") as file:
        file.write("12-7-0002\n12-7-0003 GONE\n")
    with pytest.raises(CosimError) as caught:
        read_librispeech(tree, split="test-clean")
    assert [str(tree) in line for line in caught.value.problems] == [True, True]
    assert "line 3: 12-7-0002: text: missing" in caught.value.problems[0]
    assert "line 4: no such audio file" in caught.value.problems[1]
    assert len(read_librispeech(tree, split="test-clean", keep_going=True).skipped) == 2
    with pytest.raises(CosimError, match=r'split: found .test-claen.; did you mean "test-clean"'):
        read_librispeech(tree, split="test-claen")
    with pytest.raises(CosimError, match="no such folder"):
        read_librispeech(tree / "nowhere")


def kaldi(folder, **tables):
    for name, text in tables.items():
        (folder / name.replace("_", ".")).write_text(text)
    return folder


def test_a_kaldi_directory_with_and_without_segments(folder):
    kaldi(
        folder,
        wav_scp=f"r1 wavs/a.wav\nr2 {folder}/wavs/b.wav\n",
        text="r1 one two\nr2 three\n",
        utt2spk="r1 s1\nr2 s2\n",
    )
    assert read_kaldi(folder).utterances == (
        Utterance("r1", folder / "wavs/a.wav", "one two", speaker="s1"),
        Utterance("r2", folder / "wavs/b.wav", "three", speaker="s2"),
    )
    kaldi(folder, segments="u1 r1 0.5 1.25\nu2 r1 2 -1\n", text="u1 one\nu2 two\n")
    assert read_kaldi(folder).utterances == (
        Utterance("u1", folder / "wavs/a.wav", "one", start_s=0.5, end_s=1.25),
        Utterance("u2", folder / "wavs/a.wav", "two", start_s=2.0),
    )


def test_broken_kaldi_lines_are_told_and_pipes_refused(folder):
    kaldi(
        folder,
        wav_scp="r1 sph2pipe -f wav x.sph |\nr2 wavs/gone.wav\nr3 wavs/a.wav\n",
        text="r1 one\nr2 two\nr9 nine\n",
    )
    with pytest.raises(CosimError) as caught:
        read_kaldi(folder)
    said = "\n".join(caught.value.problems)
    assert len(caught.value.problems) == 4
    assert f"{folder}/wav.scp: line 1: found a piped command" in said
    assert f"{folder}/wav.scp: line 2: no such audio file: wavs/gone.wav" in said
    assert f"{folder}/wav.scp: line 3: r3: text: missing, expected `r3 WORDS`" in said
    assert f"{folder}/text: line 3: r9 is not in wav.scp" in said
    kaldi(folder, segments="u1 r1 0.5\nu2 rec3 0 1\nu3 r3 a 1\n", text="u1 one\nu2 two\nu3 three\n")
    with pytest.raises(CosimError) as caught:
        read_kaldi(folder)
    assert [line.removeprefix(f"{folder}/segments: ") for line in caught.value.problems] == [
        "line 1: found 'r1 0.5', expected `ID RECORDING START END` in seconds",
        "line 2: recording 'rec3' is not in wav.scp; did you mean \"r3\"?",
        "line 3: found 'r3 a 1', expected `ID RECORDING START END` in seconds",
    ]


@pytest.mark.parametrize(
    ("data", "said"),
    [
        ({}, "found none of them, expected exactly one of corpus, manifest, librispeech, kaldi"),
        ({"corpus": "prompts", "kaldi": "x"}, "found corpus and kaldi, expected exactly one"),
        ({"kaldi": "x", "split": "test"}, "split: a Kaldi data directory holds one split"),
        ({"corpus": "prompts", "limit": 0}, "limit: found 0, expected an integer >= 1"),
    ],
)
def test_the_speech_key_names_one_source(data, said):
    with pytest.raises(CosimError, match=said):
        config.parse(data, SpeechConfig, source="e.yaml", at="speech")
