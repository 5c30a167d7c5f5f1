"""Recipes: an ordered list of method configs, and the registry from config type to function."""

import importlib
import pkgutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass, make_dataclass
from functools import reduce
from operator import or_
from pathlib import Path
from types import GenericAlias
from typing import Annotated, Any, Protocol, TypeVar, get_args, get_type_hints

from annotated_types import MinLen

from cosim import compress as package
from cosim.compress.network import Kind, Layer, State, select
from cosim.config import parse, read
from cosim.errors import CosimError

Selector = Annotated[str, MinLen(1)] | Annotated[tuple[Annotated[str, MinLen(1)], ...], MinLen(1)]


class MethodConfig(Protocol):
    """What every method's config has: a Literal `method`, selectors, and the kinds it touches."""

    @property
    def method(self) -> str:
        """The name in recipes."""

    @property
    def layers(self) -> str | tuple[str, ...]:
        """Globs on module names."""

    @property
    def kinds(self) -> tuple[Kind, ...]:
        """Kinds of layers that this entry works on."""


C = TypeVar("C", bound=MethodConfig)
Method = Callable[[State, C, tuple[Layer, ...]], State]
METHODS: dict[type[Any], Method[Any]] = {}


@dataclass(frozen=True)
class Recipe:
    """Methods in the order they are applied; each sees what the ones before it made."""

    name: str
    methods: tuple[MethodConfig, ...] = ()


def compressor(config: type[C]) -> Callable[[Method[C]], Method[C]]:
    """Register the function that carries out a config type.

    It takes a state, the config and the selected layers, and returns a new state.
    """

    def register(method: Method[C]) -> Method[C]:
        METHODS[config] = method
        return method

    return register


def methods() -> Mapping[str, type[Any]]:
    """Return the config types by method name, after importing every file of the package."""
    for module in pkgutil.iter_modules(package.__path__):
        importlib.import_module(f"{package.__name__}.{module.name}")
    return {get_args(get_type_hints(config)["method"])[0]: config for config in METHODS}


def load_recipe(path: Path) -> Recipe:
    """Return the recipe in a YAML file, named after the file.

    Raises CosimError listing every unknown method, unknown key and value out of range.

    Example:
        load_recipe(Path("configs/recipes/w8a8.yaml")).methods

    """
    return parse_recipe(read(path), name=path.stem, source=str(path))


def parse_recipe(data: object, *, name: str, source: str, at: str = "") -> Recipe:
    """Return the recipe that plain `data` describes; `source` and `at` serve messages.

    Example:
        >>> parse_recipe({"methods": []}, name="fp32", source="fp32.yaml")
        Recipe(name='fp32', methods=())

    """
    entry = reduce(or_, methods().values())
    schema: type[Any] = make_dataclass("Methods", [("methods", GenericAlias(tuple, (entry, ...)))])
    return Recipe(name, parse(data, schema, source=source, at=at).methods)


def apply(recipe: Recipe, state: State, *, source: str) -> State:
    """Return `state` after all methods of the recipe.

    Raises CosimError listing every selector that selects nothing, before any work is done.
    """
    problems: list[str] = []
    steps = []
    for index, config in enumerate(recipe.methods):
        chosen, wrong = select(state.layers, config.layers, config.kinds)
        where = f"{source}: methods.{index} ({config.method}): layers"
        problems += [f"{where}: {problem}" for problem in wrong]
        steps.append((config, chosen))
    if problems:
        raise CosimError(problems)
    for config, chosen in steps:
        state = METHODS[type(config)](state, config, chosen)
    return state
