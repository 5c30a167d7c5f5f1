"""The prompts corpus: its splits, its errors, and (slow, over the network) the real thing."""

import gzip
import hashlib
import io
import json
import shutil
import tarfile
from dataclasses import asdict
from pathlib import Path

import pytest
import soundfile

from cosim.errors import CosimError
from cosim.speech import corpora
from cosim.speech.manifest import SpeechConfig, read_manifest
from cosim.speech.selection import select

SHARED = Path(__file__).resolve().parents[2].parent / "shared/speech/corpus"


def shared_rows():
    if not SHARED.is_dir():
        pytest.skip("the shared speech folder is not beside this checkout")
    rows = [json.loads(line) for line in (SHARED / "manifest.jsonl").read_text().splitlines()]
    return {row["orig"].removesuffix(".g722"): row for row in rows if "asterisk" in row["source"]}


def test_no_prompt_is_in_two_splits():
    splits = asdict(corpora.prompt_splits())
    assert {name: len(ids) for name, ids in splits.items()} == {"train": 276, "dev": 47, "test": 89}
    assert len(set().union(*splits.values())) == 412


def test_the_splits_are_those_of_the_shared_corpus_in_its_order():
    rows = shared_rows()
    for split, names in asdict(corpora.prompt_splits()).items():
        assert list(names) == [name for name, row in rows.items() if row["split"] == split]


def test_without_apt_the_three_input_formats_are_named(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(CosimError, match="apt-get is not on this machine") as caught:
        corpora.fetch("prompts", progress=print, cache=tmp_path)
    for word in ("JSON-lines manifest", "LibriSpeech tree", "Kaldi data directory"):
        assert word in str(caught.value)
    assert list((tmp_path / "prompts").iterdir()) == []


def test_what_apt_says_reaches_the_user(tmp_path, monkeypatch):
    (tmp_path / "bin").mkdir()
    script = tmp_path / "bin" / "apt-get"
    script.write_text('#!/bin/sh\necho "E: no $*" >&2\nexit 100\n')
    script.chmod(0o755)
    monkeypatch.setenv("PATH", str(script.parent))
    with pytest.raises(CosimError) as caught:
        corpora.fetch("prompts", progress=print, cache=tmp_path / "cache")
    said = str(caught.value)
    assert "cannot download asterisk-core-sounds-en=1.6.1-1" in said
    assert "E: no -q -o Dir::State::lists=" in said
    assert list((tmp_path / "cache/prompts").iterdir()) == []


def test_a_package_with_another_hash_is_refused(tmp_path):
    packages = {name: tmp_path / f"{name}.deb" for name in corpora.PROMPTS_SHA256}
    for path in packages.values():
        path.write_bytes(b"!<arch>\n")
    with pytest.raises(CosimError) as caught:
        corpora.build_prompts(packages, tmp_path / "out", progress=print)
    found = hashlib.sha256(b"!<arch>\n").hexdigest()
    assert [f"found sha256 {found}" in line for line in caught.value.problems] == [True, True]
    assert not (tmp_path / "out").exists()


def test_files_of_a_debian_package_are_read(tmp_path):
    content = io.BytesIO()
    with tarfile.open(fileobj=content, mode="w:xz") as tar:
        info = tarfile.TarInfo("./usr/a")
        info.size = 3
        tar.addfile(info, io.BytesIO(b"abc"))
        tar.addfile(tarfile.TarInfo("./usr/empty"))
    package = b"!<arch>\n"
    for name, data in (("debian-binary", b"2.0\n\n"), ("data.tar.xz", content.getvalue())):
        header = f"{name:<16}{0:<12}{0:<6}{0:<6}{100644:<8}{len(data):<10}`\n"
        package += header.encode() + data + b"\n" * (len(data) % 2)
    path = tmp_path / "x.deb"
    path.write_bytes(package)
    assert dict(corpora._members(path)) == {"./usr/a": b"abc", "./usr/empty": b""}


def test_transcript_lines_are_split_at_the_first_colon():
    content = gzip.compress(b"; a: comment\n\nvm/x:  At: ten. \ny:\n")
    assert corpora._transcripts(content) == {"vm/x": "At: ten.", "y": ""}


def test_an_unknown_corpus_is_refused_with_the_nearest_name(tmp_path):
    with pytest.raises(CosimError, match=r"found 'promts'; did you mean \"prompts\"\?"):
        corpora.fetch("promts", progress=print, cache=tmp_path)


def test_the_cache_follows_the_environment(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert corpora.cache_root() == tmp_path / "cosim"
    monkeypatch.setenv("XDG_CACHE_HOME", "relative")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert corpora.cache_root() == tmp_path / ".cache" / "cosim"


@pytest.mark.slow
def test_fetched_prompts_equal_the_shared_corpus_bit_for_bit(tmp_path):
    if shutil.which("apt-get") is None:
        pytest.skip("apt-get is not on this machine")
    rows = shared_rows()
    said = []
    corpus = corpora.fetch("prompts", progress=said.append, cache=tmp_path)
    assert said[-1] == "decoding 412 prompts"
    utterances = read_manifest(corpus.manifest).utterances
    assert {utterance.id for utterance in utterances} == set(rows)
    for utterance in utterances:
        row = rows[utterance.id]
        assert (utterance.text, utterance.duration_s) == (row["text"], row["duration"])
        ours, rate = soundfile.read(utterance.audio, dtype="int16")
        theirs, _ = soundfile.read(SHARED / row["audio"], dtype="int16")
        assert rate == 16000
        assert ours.tobytes() == theirs.tobytes()
    assert "CC-BY-SA-3.0" in corpus.attribution
    again = corpora.fetch("prompts", progress=said.append, cache=tmp_path)
    assert again == corpus
    assert said[-1] == "decoding 412 prompts"
    assert len(said) == 3
    speech = select(
        SpeechConfig(corpus="prompts", split="test", limit=25), progress=said.append, cache=tmp_path
    )
    assert (speech.name, len(speech.utterances)) == ("prompts test, first 25", 25)
