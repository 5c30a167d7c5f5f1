"""Token ids to text: sentencepiece lists, character tables, tokenizer files."""

import json

import pytest

from cosim.errors import CosimError
from cosim.models import Tokens
from cosim.speech.tokens import text_of


def pieces(tmp_path, *lines):
    path = tmp_path / "tokens.txt"
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return Tokens("pieces", path)


def characters(tmp_path, table):
    path = tmp_path / "vocab.json"
    path.write_text(json.dumps(table), encoding="utf-8")
    return Tokens("characters", path)


def test_pieces_begin_words_at_their_mark(tmp_path):
    lines = ("<blank>", "<unk>", "▁THE", "S", "▁CAT", "▁", "'", "<sos/eos>")
    text = text_of(pieces(tmp_path, *lines))
    assert text([2, 4, 3]) == "THE CATS"
    assert text([4, 6, 3]) == "CAT'S"
    assert text([5, 4, 5, 5, 4]) == "CAT CAT"
    assert text([0, 2, 1, 7]) == "THE"
    assert text([]) == ""


def test_a_list_of_characters_names_its_space(tmp_path):
    text = text_of(pieces(tmp_path, "<blank>", "a", "<space>", "b", "ü", "[noise]"))
    assert text([2, 1, 3, 2, 5, 4, 2]) == "ab ü"


def test_brackets_are_text_where_they_do_not_enclose(tmp_path):
    text = text_of(pieces(tmp_path, "<", ">", "<>", "[", "a>", "<a"))
    assert text([0, 1, 2, 3, 4, 5]) == "<><>[a><a"


def test_a_line_break_of_windows_or_a_rare_one_inside_a_token_makes_no_token(tmp_path):
    path = tmp_path / "tokens.txt"
    path.write_bytes("<blank>\r\na\u2028\r\nb\r\n".encode())
    assert text_of(Tokens("pieces", path))([1, 2]) == "a b"  # U+2028 counts as white space


def test_characters_of_a_vocabulary_join_to_words(tmp_path):
    table = {"<pad>": 0, "<s>": 1, "|": 4, "E": 5, "T": 6, "[UNK]": 3, "'": 27}
    text = text_of(characters(tmp_path, table))
    assert text([4, 6, 5, 4, 4, 3, 5, 27, 0, 4]) == "TE E'"


def test_a_tokenizer_file_is_read_by_its_library(tmp_path):
    tokenizers = pytest.importorskip("tokenizers")
    words = {"hello": 0, "world": 1, "[UNK]": 2}
    made = tokenizers.Tokenizer(tokenizers.models.WordLevel(words, unk_token="[UNK]"))  # noqa: S106
    made.save(str(tmp_path / "tokenizer.json"))
    assert text_of(Tokens("tokenizer_json", tmp_path / "tokenizer.json"))([0, 1]) == "hello world"


def test_tokens_that_the_file_does_not_have_are_named(tmp_path):
    tokens = pieces(tmp_path, "<blank>", "a")
    with pytest.raises(CosimError, match=r"tokens\.txt: found no token 2, 5, .* has 2 tokens"):
        text_of(tokens)([1, 5, 2, 5])


def test_files_of_another_kind_are_refused_by_name(tmp_path):
    for kind, name in {
        "pieces": "tokens.txt",
        "characters": "vocab.json",
        "tokenizer_json": "tokenizer.json",
    }.items():
        with pytest.raises(CosimError, match=rf"{name}: no such file"):
            text_of(Tokens(kind, tmp_path / name))
    with pytest.raises(CosimError, match=r"tokens\.txt: line 2, 4: found nothing"):
        text_of(pieces(tmp_path, "a", "", "b", "", "c"))
    (tmp_path / "vocab.json").write_bytes(b"\xff\xfe")
    with pytest.raises(CosimError, match=r"vocab\.json: not UTF-8 text"):
        text_of(Tokens("characters", tmp_path / "vocab.json"))
    (tmp_path / "vocab.json").write_text("{")
    with pytest.raises(CosimError, match=r"vocab\.json: not JSON"):
        text_of(Tokens("characters", tmp_path / "vocab.json"))
    with pytest.raises(CosimError, match=r"vocab\.json: found list"):
        text_of(characters(tmp_path, ["a"]))
    with pytest.raises(CosimError) as caught:
        text_of(characters(tmp_path, {"a": 0, "b": "1", "c": 0, "d": True, "e": -1, "it": {}}))
    said = [problem.split("vocab.json: ")[1] for problem in caught.value.problems]
    assert said == [
        "'b': found \"1\", expected an id from 0",
        "'c': found id 0 a second time",
        "'d': found true, expected an id from 0",
        "'e': found -1, expected an id from 0",
        "'it': found {}, expected an id from 0",
    ]
