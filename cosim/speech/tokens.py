"""Token ids to text, for each way in which a checkpoint tells its tokens."""

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from cosim.errors import CosimError
from cosim.models import Tokens

TextOf = Callable[[Sequence[int]], str]

_WORD = "\u2581"  # begins a word in sentencepiece's pieces


def text_of(tokens: Tokens) -> TextOf:
    """Return the function from token ids to text, without surrounding space.

    Raises CosimError when the file is missing or of another kind; the function raises it for an id
    that the file does not have.
    """
    if tokens.kind == "tokenizer_json":
        return Tokenizer(tokens.file).decode
    if tokens.kind == "pieces":
        return Pieces(_pieces(tokens.file), tokens.file).decode
    return Pieces(_characters(tokens.file), tokens.file).decode


class Tokenizer:
    """Token ids to text by a Hugging Face `tokenizer.json`.

    Raises CosimError when the file is missing or is no tokenizer.
    """

    def __init__(self, path: Path) -> None:
        from tokenizers import Tokenizer as FileTokenizer  # noqa: PLC0415, slow to import

        if not path.is_file():
            raise CosimError(f"{path}: no such file, expected a tokenizer.json")
        try:
            self._tokenizer = FileTokenizer.from_file(str(path))
        except Exception as error:  # noqa: BLE001, the library raises the bare class
            raise CosimError(f"{path}: not a tokenizer.json: {error}") from None

    def decode(self, ids: Sequence[int]) -> str:
        """Return the text of `ids`, special tokens left out, without surrounding space."""
        return str(self._tokenizer.decode(list(ids), skip_special_tokens=True)).strip()


class Pieces:
    """Token ids to text by a table of what each stands for; `source` is named in errors.

    Example:
        >>> Pieces({0: "<blank>", 1: " HE", 2: "LLO", 3: " YOU"}, Path("tokens.txt")).decode([1, 2])
        'HELLO'

    """

    def __init__(self, pieces: Mapping[int, str], source: Path) -> None:
        self._pieces = {
            token: "" if _is_special(piece) else piece for token, piece in pieces.items()
        }
        self._source = source

    def decode(self, ids: Sequence[int]) -> str:
        """Return the text of `ids`, special tokens left out, words one space apart."""
        unknown = sorted({token for token in ids if token not in self._pieces})
        if unknown:
            raise CosimError(
                f"{self._source}: found no token {', '.join(map(str, unknown))}, which the model "
                f"gave; the file has {len(self._pieces)} tokens"
            )
        return " ".join("".join(self._pieces[token] for token in ids).split())


def _is_special(piece: str) -> bool:
    return len(piece) > 2 and (piece[0], piece[-1]) in {("<", ">"), ("[", "]")}


def _pieces(path: Path) -> dict[int, str]:
    """Return what each line of a token list stands for."""
    lines = _read(path, "a text file with a token a line").removesuffix("\n").split("\n")
    lines = [line.removesuffix("\r") for line in lines]
    empty = [str(number) for number, line in enumerate(lines, 1) if not line]
    if empty:
        raise CosimError(f"{path}: line {', '.join(empty)}: found nothing, expected a token")
    return {
        token: " " if line == "<space>" else line.replace(_WORD, " ")
        for token, line in enumerate(lines)
    }


def _characters(path: Path) -> dict[int, str]:
    """Return what each token of a Hugging Face vocab.json stands for."""
    expected = "a vocab.json of tokens and their ids"
    try:
        table = json.loads(_read(path, expected))
    except ValueError as error:
        raise CosimError(f"{path}: not JSON, expected {expected}: {error}") from None
    if not isinstance(table, dict) or not table:
        raise CosimError(f"{path}: found {type(table).__name__}, expected {expected}")
    problems, pieces = [], dict[int, str]()
    for piece, token in table.items():
        if not isinstance(token, int) or isinstance(token, bool) or token < 0:
            problems.append(f"{path}: {piece!r}: found {json.dumps(token)}, expected an id from 0")
        elif token in pieces:
            problems.append(f"{path}: {piece!r}: found id {token} a second time")
        else:
            pieces[token] = " " if piece == "|" else piece
    if problems:
        raise CosimError(problems)
    return pieces


def _read(path: Path, expected: str) -> str:
    if not path.is_file():
        raise CosimError(f"{path}: no such file, expected {expected}")
    try:
        return path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise CosimError(f"{path}: not UTF-8 text, expected {expected}: {error}") from None
