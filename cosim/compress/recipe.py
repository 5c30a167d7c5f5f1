"""Recipes: an ordered list of method configs, and the registry from config type to function."""

import importlib
import pkgutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass, make_dataclass
from functools import reduce
from operator import or_
from pathlib import Path
from types import GenericAlias
from typing import Any, Protocol, TypeVar, get_args, get_type_hints

from cosim import compress as package
from cosim.compress.network import Kind, Layer, Selector, State, select
from cosim.config import item_lines, parse, read
from cosim.errors import CosimError


class MethodConfig(Protocol):
    """What every method's config has: a Literal `method`, selectors, and the kinds it touches.

    Class attributes that a config may set to True: `sets_format` (decides how weights are stored,
    which one method may do for a weight), `makes_zeros`, `holds_zeros` (True where it is left out:
    False for signs, which have no zero, and for codes with a shift that no code stands for), and
    `changes_structure` (edits the module, so that later selectors meet other layers). A method
    `takes(layer)` may narrow the kinds.
    """

    @property
    def method(self) -> str:
        """The name in recipes."""

    @property
    def layers(self) -> Selector:
        """Which layers, by name and place."""

    @property
    def kinds(self) -> tuple[Kind, ...]:
        """Kinds of layers that this entry works on."""


C = TypeVar("C", bound=MethodConfig)
Method = Callable[[State, C, tuple[Layer, ...]], State]
METHODS: dict[type[Any], Method[Any]] = {}


@dataclass(frozen=True)
class Recipe:
    """Methods in the order they are applied; each sees what the ones before it made.

    `lines` are those of the file where entries begin, empty for a recipe that is in no file.
    """

    name: str
    methods: tuple[MethodConfig, ...] = ()
    lines: tuple[int, ...] = ()

    def place(self, index: int) -> str:
        """Return where an entry stands, for messages."""
        where = f"methods.{index} ({self.methods[index].method})"
        return f"line {self.lines[index]}: {where}" if self.lines else where


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
    lines = item_lines(path, "methods")
    return parse_recipe(read(path), name=path.stem, source=str(path), lines=lines)


def parse_recipe(
    data: object, *, name: str, source: str, at: str = "", lines: tuple[int, ...] = ()
) -> Recipe:
    """Return the recipe that plain `data` describes; `source`, `at` and `lines` serve messages.

    Example:
        >>> parse_recipe({"methods": []}, name="fp32", source="fp32.yaml")
        Recipe(name='fp32', methods=(), lines=())

    """
    entry = reduce(or_, methods().values())
    schema: type[Any] = make_dataclass("Methods", [("methods", GenericAlias(tuple, (entry, ...)))])
    entries = parse(data, schema, source=source, at=at).methods
    return Recipe(name, entries, lines if len(lines) == len(entries) else ())


def apply(
    recipe: Recipe,
    state: State,
    *,
    source: str,
    report: Callable[[str], None] = lambda _text: None,
) -> State:
    """Return `state` after all methods of the recipe; `report` is told of each before its work.

    Raises CosimError listing every selector that selects nothing and every contradiction between
    entries. Nothing is done before all entries up to the next one that changes the structure are
    known to be right.
    """
    waiting = list(range(len(recipe.methods)))
    decided: dict[str, int] = {}  # weight -> the entry that decided its format
    while waiting:
        known = _up_to_structure(recipe, waiting)
        problems: list[str] = []
        steps = []
        for index in known:
            config = recipe.methods[index]
            takes = getattr(config, "takes", lambda _layer: True)
            layers = tuple(layer for layer in state.layers if takes(layer))
            chosen, wrong = select(layers, config.layers, config.kinds)
            problems += [f"{source}: {recipe.place(index)}: layers: {text}" for text in wrong]
            problems += _contradictions(recipe, index, chosen, decided, source)
            steps.append((index, chosen))
        if problems:
            raise CosimError(problems)
        for index, chosen in steps:
            config = recipe.methods[index]
            report(f"{config.method}: {len(chosen)} layers")
            try:
                state = METHODS[type(config)](state, config, chosen)
            except CosimError as error:
                place = f"{source}: {recipe.place(index)}"
                raise CosimError(f"{place}: {text}" for text in error.problems) from error
        waiting = waiting[len(known) :]
    return state


def _up_to_structure(recipe: Recipe, waiting: list[int]) -> list[int]:
    """Return the entries up to and with the first that changes the structure."""
    for count, index in enumerate(waiting, start=1):
        if getattr(recipe.methods[index], "changes_structure", False):
            return waiting[:count]
    return waiting


def _contradictions(
    recipe: Recipe,
    index: int,
    chosen: tuple[Layer, ...],
    decided: dict[str, int],
    source: str,
) -> list[str]:
    """Return what an entry asks that an earlier one has ruled out; note what it decides itself."""
    config = recipe.methods[index]
    is_format = getattr(config, "sets_format", False)
    needs_values = is_format or getattr(config, "changes_structure", False)
    met: dict[int, list[str]] = {}
    for name in dict.fromkeys(layer.weight for layer in chosen if layer.weight):
        earlier = decided.get(name)
        if earlier is None:
            if is_format:
                decided[name] = index
        elif needs_values or (
            getattr(config, "makes_zeros", False)
            and not getattr(recipe.methods[earlier], "holds_zeros", True)
        ):
            met.setdefault(earlier, []).append(name)
    what = "cannot change" if needs_values else "cannot put zeros into"
    return [
        f"{source}: {recipe.place(index)}: {what} {len(names)} weights ({names[0]}"
        f"{', ...' if len(names) > 1 else ''}): {recipe.place(earlier)} has decided how they are "
        "stored; leave them out of one of the two"
        for earlier, names in met.items()
    ]
