"""Text normalisers for scoring, by name; the name and version stand beside every WER."""

import re
import unicodedata
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from importlib.metadata import version

from cosim.errors import CosimError, suggestion

DIGITS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")


@dataclass(frozen=True)
class Normalizer:
    """`apply` turns a text into words with single spaces; `description` names what did it."""

    name: str
    apply: Callable[[str], str]
    description: str


def normalizer(name: str) -> Normalizer:
    """Return the normaliser `name`. Raises CosimError for an unknown name."""
    if name not in NORMALIZERS:
        raise CosimError(f"normalizer: found {name!r}{suggestion(name, list(NORMALIZERS))}")
    return NORMALIZERS[name]()


def describe(name: str) -> str:
    """Return what the normaliser `name` is, with its version, as results print it.

    Example:
        >>> describe("digits")
        'lower case, no punctuation, digits spelled one by one'

    """
    return normalizer(name).description


@lru_cache(maxsize=1)
def _whisper_english() -> Normalizer:
    """Whisper's English normaliser (Radford et al. 2022, appendix C).

    It joins digits ("six eight five" becomes 685), so it makes nonsense of digit strings. "..."
    leaves a lone "." behind, which is removed here.
    """
    from whisper_normalizer.english import EnglishTextNormalizer  # noqa: PLC0415, slow to import

    normalize = EnglishTextNormalizer()

    def apply(text: str) -> str:
        return " ".join(word for word in str(normalize(text)).split() if word != ".")

    package = f"whisper-normalizer English {version('whisper-normalizer')}"
    return Normalizer("whisper_english", apply, f"{package}, stray '.' removed")


def _basic() -> Normalizer:
    return Normalizer("basic", _words, "lower case, no punctuation")


def _digits() -> Normalizer:
    def apply(text: str) -> str:
        return _words(re.sub(r"[0-9]", lambda digit: f" {DIGITS[int(digit[0])]} ", text))

    description = "lower case, no punctuation, digits spelled one by one"
    return Normalizer("digits", apply, description)


def _words(text: str) -> str:
    """Return lower-case words; an apostrophe stays inside a word, other marks part words."""
    plain = unicodedata.normalize("NFKC", text).replace("\N{RIGHT SINGLE QUOTATION MARK}", "'")
    return " ".join(re.findall(r"[^\W_]+(?:'[^\W_]+)*", plain.lower()))


NORMALIZERS: dict[str, Callable[[], Normalizer]] = {
    "whisper_english": _whisper_english,
    "basic": _basic,
    "digits": _digits,
}
