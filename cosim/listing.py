"""What exists, read from files: nothing heavy is imported."""

import re
from collections.abc import Mapping
from pathlib import Path

from cosim.config import about, configs_root
from cosim.errors import CosimError, suggestion

_PACKAGE = Path(__file__).resolve().parent
_CONFIGS = ("models", "recipes", "hardware", "memory", "energy", "experiments")
# How a file registers what it adds: a family under its name, a method under its config.
_REGISTERS = {
    "models": re.compile(r'^@model\("(\w+)"\)', re.MULTILINE),
    "compress": re.compile(r'^    method: Literal\["(\w+)"\]', re.MULTILINE),
}
_CORPORA = ("prompts",)


def listing(kind: str | None = None) -> Mapping[str, tuple[str, ...]]:
    """Return the names of every kind, or of one; CosimError for an unknown kind."""
    found: dict[str, tuple[str, ...]] = {
        name: _stems(configs_root() / name, ".yaml") for name in _CONFIGS
    }
    found["families"] = _registered("models")
    found["methods"] = _registered("compress")
    found["corpora"] = _CORPORA
    if kind is None:
        return found
    if kind not in found:
        raise CosimError(f"list: found {kind!r}, expected a kind{suggestion(kind, list(found))}")
    return {kind: found[kind]}


def summaries(kind: str) -> Mapping[str, str]:
    """Return what each configuration of a kind says of itself, by name; empty for other kinds."""
    folder = configs_root() / kind
    if kind not in _CONFIGS:
        return {}
    return {path.stem: about(path) for path in sorted(folder.glob("*.yaml"))}


def _registered(package: str) -> tuple[str, ...]:
    """Return what the files of a package register, read as text."""
    pattern = _REGISTERS[package]
    texts = (path.read_text(encoding="utf-8") for path in (_PACKAGE / package).glob("*.py"))
    return tuple(sorted(name for text in texts for name in pattern.findall(text)))


def _stems(folder: Path, suffix: str) -> tuple[str, ...]:
    return tuple(sorted(path.stem for path in folder.glob(f"*{suffix}")))
