"""Data with mistakes as it may have been meant, so that rules between fields are checked, too."""

import copy
import dataclasses
import re
import types
import typing
from collections.abc import Callable, Sequence
from functools import partial
from typing import Annotated, Any, Literal, TypeVar, Union, cast, get_args, get_origin

from cosim.validate import BROKEN, Problems, build, needed

T = TypeVar("T")


def mend(data: object, kind: type[T]) -> tuple[T, tuple[str, ...]] | None:
    """Return the `kind` that `data` would describe without its mistakes, and what is guessed in it.

    It serves rules between fields, so that these are told together with mistakes in the fields. A
    key or word that is nearly right counts as the right one. Of what else is wrong the default
    stands in or, where it is allowed, nothing; else the least that the field may be, which is a
    guess: its key path is returned, and what a rule says about it means nothing. None where rules
    of `kind` itself are broken.

    Example:
        >>> @dataclasses.dataclass(frozen=True)
        ... class Array:
        ...     rows: int
        ...     columns: int = 8
        >>> mend({"rows": 4, "colums": 2}, Array)
        (Array(rows=4, columns=2), ())
        >>> mend({"rows": "x"}, Array)
        (Array(rows=1, columns=8), ('rows',))

    """
    draft = copy.deepcopy(data)
    guessed: tuple[str, ...] = ()
    for stand_in in (_left_out, _nothing, _least_at):
        problems: Problems = []
        value = build(draft, kind, "", problems)
        if not problems:
            return cast("T", value), guessed
        if stand_in is _least_at:
            guessed = tuple(dict.fromkeys(at for at, _ in problems))
        for at, message in problems:
            _mend_key(draft, at, message, partial(stand_in, kind))
    problems = []
    value = build(draft, kind, "", problems)
    return None if problems else (cast("T", value), guessed)


def _left_out(_kind: type, _path: Sequence[str]) -> object:
    return BROKEN


def _nothing(_kind: type, _path: Sequence[str]) -> object:
    return None


def _least_at(kind: type, path: Sequence[str]) -> object:
    """Return the least plain value that the field at a key path may have."""
    hint: Any = kind
    for key in path:
        while get_origin(hint) in (Annotated, Union, types.UnionType):
            hint = get_args(hint)[0]
        if not dataclasses.is_dataclass(hint):
            return None
        hint = typing.get_type_hints(hint, include_extras=True).get(key)
    return _least(hint)


def _least(hint: Any) -> object:
    """Return the least plain value of a type: 1 of a number without bounds, the fewest keys."""
    origin, arguments = get_origin(hint), get_args(hint)
    if origin is Annotated:
        inner, *bounds = arguments
        least = _least(inner)
        for bound in bounds:
            least = getattr(bound, "ge", least)
        return least
    if origin in (Union, types.UnionType, Literal):
        return arguments[0] if origin is Literal else _least(arguments[0])
    if dataclasses.is_dataclass(hint):
        hints = typing.get_type_hints(hint, include_extras=True)
        return {name: _least(hints[name]) for name in needed(hint)}
    return {int: 1, float: 1.0, bool: False, str: ""}.get(hint)


def _mend_key(
    draft: object, at: str, message: str, stand_in: Callable[[Sequence[str]], object]
) -> None:
    """Put right what is wrong at a key path of plain data, see `mend`."""
    *path, last = at.split(".")
    for key in path:
        draft = draft.get(key) if isinstance(draft, dict) else None
    if not isinstance(draft, dict):
        return
    value = draft.pop(last, None)
    meant = re.search(r'did you mean "(.*)"\?$', message)
    if meant and message.startswith("unknown key"):
        draft.setdefault(meant[1], value)
    elif meant:
        draft[last] = meant[1]
    elif (instead := stand_in((*path, last))) is not BROKEN:
        draft[last] = instead
