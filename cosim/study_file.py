"""A study file: one model, many recipes, several corpora; each recipe is a path or inline.

Everything is read, overridden and checked before any work starts; all mistakes are told at once.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

from annotated_types import Ge, MinLen

from cosim.compress.recipe import Recipe, parse_recipe
from cosim.config import about, item_lines, override, parse, read, resolve
from cosim.errors import CosimError, collect
from cosim.models import ModelConfig
from cosim.speech.manifest import SpeechConfig

Question = Literal["compression", "sensitivity"]


@dataclass(frozen=True)
class StudyFrame:
    """The keys of a study file; model and recipes are paths or mappings and checked one by one.

    `question` says what its page shows: how small each recipe makes the model at which word error
    rate, or how much each part of the model loses under one method.
    """

    name: Annotated[str, MinLen(1)]
    model: str | dict[str, Any]
    recipes: Annotated[tuple[str | dict[str, Any], ...], MinLen(1)]
    speech: Annotated[tuple[SpeechConfig, ...], MinLen(1)]
    question: Question = "compression"
    calibration: SpeechConfig | None = None
    seed: Annotated[int, Ge(0)] = 0


@dataclass(frozen=True)
class Title:
    """What an inline recipe says beside its methods."""

    name: Annotated[str, MinLen(1)]
    about: str = ""


@dataclass(frozen=True)
class Entry:
    """One recipe of a study; `source` names where it is written, `about` says what it does."""

    recipe: Recipe
    source: str
    about: str
    document: Mapping[str, Any]


@dataclass(frozen=True)
class Study:
    """A checked study; `document` is all of it as plain data, the files it names included.

    Its first entry is the baseline, which has no methods. Names of recipes are unique.
    """

    name: str
    path: Path
    model: ModelConfig
    entries: tuple[Entry, ...]
    speech: tuple[SpeechConfig, ...]
    question: Question
    calibration: SpeechConfig | None
    seed: int
    document: dict[str, Any]


def is_study(path: Path, assignments: Iterable[str] = ()) -> bool:
    """Return whether a YAML file is a study: whether it has `recipes`, or is given them."""
    given = any(text.partition("=")[0].strip() == "recipes" for text in assignments)
    return given or "recipes" in read(path)


def load_study(path: Path, assignments: Iterable[str] = ()) -> Study:
    """Return the study in a YAML file after `--set a.b=value` assignments.

    A number picks from a list: `recipes.0.methods.0.rate=0.3`. Raises CosimError listing every
    mistake of every file.

    Example:
        load_study(Path("configs/experiments/whisper_compression.yaml"), ["speech.0.limit=5"])

    """
    data, listed = read(path), list(assignments)
    problems: list[str] = []
    files: dict[str, Path | None] = {}
    for has_dot in (False, True):
        for text in listed:
            if ("." in text.partition("=")[0]) == has_dot:
                data = override(data, text)
        data = _with_files(data, path, files, problems)
    frame = collect(problems, lambda: parse(data, StudyFrame, source=str(path)))
    model = None
    source = files.get("model", f"{path}: model")
    if source is not None and isinstance(data.get("model"), dict):
        model = collect(problems, lambda: parse(data["model"], ModelConfig, source=str(source)))
    entries = _entries(data.get("recipes"), path, files, problems)
    if frame is not None:
        problems += _missing(frame, path)
    if problems or frame is None or model is None:
        raise CosimError(problems)
    baseline = [entry for entry in entries if not entry.recipe.methods][:1]
    if not baseline:
        plain = Entry(Recipe("fp32"), "fp32", "Nothing compressed.", {"methods": []})
        baseline = [plain]
    return Study(
        name=frame.name,
        path=path,
        model=model,
        entries=(*baseline, *(entry for entry in entries if entry not in baseline)),
        speech=frame.speech,
        question=frame.question,
        calibration=frame.calibration,
        seed=frame.seed,
        document=data,
    )


def _with_files(
    data: dict[str, Any], path: Path, files: dict[str, Path | None], problems: list[str]
) -> dict[str, Any]:
    """Return the data with files in the place of their paths.

    `files` notes by key where each was read, None where it could not be.
    """

    def content(value: object, key: str) -> object:
        if not isinstance(value, str):
            return value
        try:
            file = resolve(value, path)
            found = read(file)
        except CosimError as error:
            problems.extend(error.problems)
            files[key] = None
            return {}
        files[key] = file
        return found

    changed = dict(data)
    if "model" in data:
        changed["model"] = content(data["model"], "model")
    if isinstance(data.get("recipes"), list):
        listed = enumerate(data["recipes"])
        changed["recipes"] = [content(value, f"recipes.{index}") for index, value in listed]
    return changed


def _entries(
    found: object, path: Path, files: Mapping[str, Path | None], problems: list[str]
) -> tuple[Entry, ...]:
    """Return the recipes that are right, each under a name of its own; note what is wrong."""
    entries: list[Entry] = []
    names: dict[str, str] = {}
    for index, data in enumerate(found if isinstance(found, list) else ()):
        key = f"recipes.{index}"
        if not isinstance(data, dict) or (key in files and files[key] is None):
            continue  # noted already
        entry = collect(problems, lambda: _entry(data, key, path, files.get(key)))  # noqa: B023
        if entry is None:
            continue
        name = entry.recipe.name
        if name in names:
            problems.append(
                f'{path}: {key}: name: found "{name}" again, expected another than {names[name]} '
                "has; give one of them inline with a name of its own"
            )
        names[name] = key
        entries.append(entry)
    return tuple(entries)


def _entry(data: Mapping[str, Any], key: str, path: Path, file: Path | None) -> Entry:
    if file is not None:
        source = str(file)
        recipe = parse_recipe(
            data, name=file.stem, source=source, lines=item_lines(file, "methods")
        )
        return Entry(recipe, source, about(file), {"name": file.stem, **data})
    problems: list[str] = []
    methods = {name: value for name, value in data.items() if name not in ("name", "about")}
    said = {name: value for name, value in data.items() if name in ("name", "about")}
    title = collect(problems, lambda: parse(said, Title, source=str(path), at=key))
    name = title.name if title is not None else key
    source = f"{path}: {key}"
    inline = collect(problems, lambda: parse_recipe(methods, name=name, source=source))
    if problems or title is None or inline is None:
        raise CosimError(problems)
    return Entry(inline, source, title.about, data)


def _missing(frame: StudyFrame, path: Path) -> list[str]:
    """Return which lists of speech do not exist."""
    problems: list[str] = []
    for speech in (*frame.speech, *filter(None, (frame.calibration,))):
        given = speech.manifest or speech.librispeech or speech.kaldi
        if given is not None:
            collect(problems, lambda: resolve(given, path))  # noqa: B023, called at once
    return problems
