"""README.md: short, its Python runs, and its commands exist."""

import re
import shlex
import shutil
from pathlib import Path

import pytest
from sybil import Sybil
from sybil.parsers.markdown import PythonCodeBlockParser

from cosim.cli import main

ROOT = Path(__file__).resolve().parents[1]
README = ROOT / "README.md"
TEXT = README.read_text()
SHELLS = ("sh", "bash", "shell", "console")
EXAMPLES = list(Sybil([PythonCodeBlockParser()], path=str(ROOT)).parse(README))


def blocks(*languages):
    found = re.findall(r"^```(\w*)\n(.*?)^```", TEXT, re.MULTILINE | re.DOTALL)
    return [body for language, body in found if language in languages]


def commands():
    """Yield the words of every command in the shell blocks, joined over continued lines."""
    for body in blocks(*SHELLS):
        lines = body.replace("\\\n", " ").splitlines()
        prompts = any(line.startswith("$ ") for line in lines)
        for line in lines:
            if prompts and not line.startswith("$ "):
                continue  # output
            words = shlex.split(line.removeprefix("$ "), comments=True)
            if words[:1] == ["sudo"]:
                words = words[1:]
            if words:
                yield words


def test_it_is_read_in_three_minutes():
    assert len(TEXT.split()) < 600


def test_it_has_python_and_commands():
    assert EXAMPLES
    assert list(commands())


def test_its_make_targets_exist():
    makefile = (ROOT / "Makefile").read_text()
    targets = set(re.findall(r"^([a-z]+):", makefile, re.MULTILINE))
    named = {word for words in commands() if words[0] == "make" for word in words[1:]}
    assert {name for name in named if "=" not in name} <= targets


def test_its_cosim_commands_and_options_exist():
    unknown = []
    for words in commands():
        if Path(words[0]).name != "cosim":
            continue
        command = main.commands.get(words[1]) if len(words) > 1 else main
        options = {name for one in getattr(command, "params", ()) for name in one.opts}
        used = {word.partition("=")[0] for word in words[2:] if word.startswith("--")}
        if command is None or used - options - {"--help"}:
            unknown.append(" ".join(words))
    assert unknown == []


def test_its_other_programs_exist():
    programs = {Path(words[0]).name for words in commands()} - {"make", "cosim", "cd"}
    assert {name for name in programs if not shutil.which(name)} == set()


def test_its_files_exist():
    named = re.findall(r"(?<![\w/])(?:configs|docs|tests)/[\w./-]*\w", TEXT)
    assert [name for name in named if not (ROOT / name).exists()] == []
    linked = re.findall(r"\]\((?!https?:|#)([^)#]+)", TEXT)
    assert [name for name in linked if not (ROOT / name).exists()] == []


@pytest.mark.slow
def test_its_python_runs_and_prints_what_it_says(monkeypatch):
    monkeypatch.chdir(ROOT)
    for example in EXAMPLES:
        example.evaluate()
