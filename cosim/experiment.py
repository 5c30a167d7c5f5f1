"""An experiment file: model, recipe, speech, chip and energy table, each a path or inline.

Everything is read, overridden and checked before any work starts; all mistakes are told at once.
"""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Annotated, Any, TypeVar

from annotated_types import Ge, MinLen

from cosim.chip import Chip, parse_chip
from cosim.compress.recipe import Recipe, parse_recipe
from cosim.config import item_lines, override, parse, read, resolve
from cosim.errors import CosimError, collect
from cosim.models import ModelConfig
from cosim.speech.manifest import SpeechConfig
from cosim.speech.selection import source_problems

_PARTS = ("model", "recipe", "hardware", "energy")


@dataclass(frozen=True)
class Frame:
    """The keys of an experiment file; parts are paths or mappings and checked one by one."""

    name: Annotated[str, MinLen(1)]
    model: str | dict[str, Any]
    recipe: str | dict[str, Any]
    speech: SpeechConfig
    hardware: str | dict[str, Any]
    energy: str | dict[str, Any]
    calibration: SpeechConfig | None = None
    seed: Annotated[int, Ge(0)] = 0


@dataclass(frozen=True)
class Experiment:
    """A checked experiment; `document` is all of it as plain data, the files it names included.

    `calibration` is the speech from which static ranges of activations are taken.
    """

    name: str
    path: Path
    model: ModelConfig
    recipe: Recipe
    recipe_source: str
    speech: SpeechConfig
    calibration: SpeechConfig | None
    chip: Chip
    seed: int
    document: dict[str, Any]


T = TypeVar("T")


def load_experiment(path: Path, assignments: Iterable[str] = ()) -> Experiment:
    """Return the experiment in a YAML file after `--set a.b=value` assignments.

    Raises CosimError listing every mistake of every file.

    Example:
        load_experiment(Path("configs/experiments/quickstart.yaml"), ["speech.limit=5"])

    """
    data = read(path)
    listed = list(assignments)
    for text in listed:
        if "." not in text.partition("=")[0]:
            data = override(data, text)
    problems: list[str] = []
    sources = _inline_parts(data, path, problems)
    for text in listed:
        if "." in text.partition("=")[0]:
            data = override(data, text)
    frame = collect(problems, lambda: parse(data, Frame, source=str(path)))
    problems += _speech_problems(data, path)

    def part(key: str, read_part: Callable[[dict[str, Any], str], T]) -> T | None:
        value = data.get(key)
        if not isinstance(value, dict):
            return None
        return collect(problems, lambda: read_part(value, sources[key]))

    model = part("model", lambda value, source: parse(value, ModelConfig, source=source))
    recipe = part(
        "recipe",
        lambda value, source: parse_recipe(
            value, name=_recipe_name(source), source=source, lines=_lines(source)
        ),
    )
    energy = data.get("energy")
    chip = part(
        "hardware",
        lambda value, source: parse_chip(
            value,
            energy if isinstance(energy, dict) else None,
            source=source,
            table_source=sources["energy"],
            relative_to=path,
        ),
    )
    if problems or frame is None or model is None or recipe is None or chip is None:
        raise CosimError(problems)
    return Experiment(
        name=frame.name,
        path=path,
        model=model,
        recipe=recipe,
        recipe_source=sources["recipe"],
        speech=frame.speech,
        calibration=frame.calibration,
        chip=chip,
        seed=frame.seed,
        document={**data, **chip.document},
    )


def _inline_parts(data: dict[str, Any], path: Path, problems: list[str]) -> dict[str, str]:
    """Put the content of files in the place of their paths; return where each part was written."""
    sources = {part: f"{path}: {part}" for part in _PARTS}
    for part in _PARTS:
        named = data.get(part)
        if not isinstance(named, str):
            continue
        try:
            file = resolve(named, path)
            data[part] = read(file)
            sources[part] = str(file)
        except CosimError as error:
            problems += error.problems
    return sources


def _speech_problems(data: dict[str, Any], path: Path) -> Iterator[str]:
    """Yield what is wrong with corpora and paths of speech; mistakes in keys are told elsewhere."""
    for key in ("speech", "calibration"):
        value = data.get(key)
        if isinstance(value, dict):
            told: list[str] = []
            speech = collect(told, partial(parse, value, SpeechConfig, source=""))
            for line in () if speech is None else source_problems(speech, path):
                yield f"{path}: {key}: {line}"


def _recipe_name(source: str) -> str:
    return "inline" if ": " in source else Path(source).stem


def _lines(source: str) -> tuple[int, ...]:
    """Return the lines of a recipe's entries; none for one that stands in an experiment."""
    return () if ": " in source else item_lines(Path(source), "methods")
