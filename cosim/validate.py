"""Plain data (mappings, lists, scalars) into frozen dataclasses, with every mistake noted at once.

The walk knows dataclasses, lists and unions; pydantic checks each single value and each
`annotated_types` bound. A value must have the type its field says: an integer may stand for a
number and text for a path, nothing else is converted. Keys that no field carries are refused.
"""

import dataclasses
import json
import math
import types
import typing
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar, Union, cast, get_args, get_origin

from cosim.errors import CosimError, suggestion

T = TypeVar("T")
Problems = list[tuple[str, str]]  # key path and what is wrong there
BROKEN = object()  # stands where a value could not be built; its problem is already noted


def parse(data: object, kind: type[T], *, source: str, at: str = "") -> T:
    """Return the `kind` that plain `data` (mappings, lists, scalars) describes.

    `source` names the file, `at` the key inside it where `data` stands; both only serve messages.
    Raises CosimError with all mistakes, each `SOURCE: KEY: found X, expected Y`.

    Example:
        >>> @dataclasses.dataclass(frozen=True)
        ... class Array:
        ...     rows: int
        ...     columns: int = 8
        >>> parse({"rows": 4}, Array, source="edge.yaml")
        Array(rows=4, columns=8)
        >>> parse({"rows": "4", "colums": 4}, Array, source="edge.yaml")
        Traceback (most recent call last):
        cosim.errors.CosimError: edge.yaml: rows: found "4", expected an integer
        edge.yaml: colums: unknown key; did you mean "columns"?

    """
    problems: Problems = []
    value = build(data, kind, at, problems)
    if problems:
        raise CosimError(": ".join(filter(None, (source, *problem))) for problem in problems)
    return cast("T", value)


def build(data: object, hint: Any, at: str, problems: Problems) -> Any:
    """Return `data` as `hint`, or BROKEN after noting (key path, message) in `problems`."""
    origin = get_origin(hint)
    if origin is Annotated:
        return _build_bounded(data, hint, at, problems)
    if origin in (Union, types.UnionType):
        return _build_union(data, hint, at, problems)
    if dataclasses.is_dataclass(hint) and isinstance(hint, type):
        return _build_dataclass(data, hint, at, problems)
    if (origin or hint) in (tuple, list, dict):
        return _build_container(data, hint, at, problems)
    if hint is Any or _is_valid(data, hint):
        return data if hint is Any else _adapter(hint).validate_json(_json(data), strict=True)
    problems.append((at, _mismatch(data, hint)))
    return BROKEN


def _build_bounded(data: object, hint: Any, at: str, problems: Problems) -> Any:
    inner, *bounds = get_args(hint)
    before = len(problems)
    value = build(data, inner, at, problems)
    if len(problems) > before:
        problems[before:] = [
            (at, _mismatch(data, hint)) if problem == (at, _mismatch(data, inner)) else problem
            for problem in problems[before:]
        ]
        return BROKEN
    if value is None or _accepts(Annotated[(Any, *bounds)], value):
        return value
    problems.append((at, _mismatch(data, hint)))
    return BROKEN


def _build_container(data: object, hint: Any, at: str, problems: Problems) -> Any:
    make, arguments = get_origin(hint) or hint, get_args(hint)
    if not isinstance(data, dict if make is dict else list):
        problems.append((at, _mismatch(data, hint)))
        return BROKEN
    if isinstance(data, dict):
        key_hint, value_hint = arguments or (Any, Any)
        pairs = [(key, value, _join(at, key)) for key, value in data.items()]
        return {
            build(key, key_hint, place, problems): build(value, value_hint, place, problems)
            for key, value, place in pairs
        }
    values: list[Any] = data
    if make is list or not arguments or arguments[-1] is ...:
        arguments = (arguments or (Any,))[:1] * len(values)
    elif len(arguments) != len(values):
        problems.append((at, f"found {len(values)} values, expected {len(arguments)}"))
        return BROKEN
    pairs = [
        (value, argument, _join(at, i))
        for i, (value, argument) in enumerate(zip(values, arguments, strict=True))
    ]
    return make([build(value, argument, place, problems) for value, argument, place in pairs])


def _build_dataclass(data: object, kind: type, at: str, problems: Problems) -> Any:
    if not isinstance(data, dict):
        problems.append((at, _mismatch(data, kind)))
        return BROKEN
    before = len(problems)
    hints = typing.get_type_hints(kind, include_extras=True)
    fields = {field.name: field for field in dataclasses.fields(kind) if field.init}
    values = {
        name: build(data[name], hints[name], _join(at, name), problems)
        for name in fields
        if name in data
    }
    meant: set[str] = set()
    for key in (key for key in data if key not in fields):
        near = suggestion(str(key), list(fields))
        meant.update(name for name in fields if near.endswith(f'"{name}"?'))
        problems.append((_join(at, key), f"unknown key{near}"))
    for name in needed(kind):
        if name not in data and name not in meant:
            problems.append((_join(at, name), _missing(hints[name])))
    if len(problems) > before:
        return BROKEN
    try:
        return kind(**values)
    except ValueError as error:  # a rule between the fields, checked by the dataclass itself
        problems.extend((at, line) for line in getattr(error, "problems", [str(error)]))
        return BROKEN


def _build_union(data: object, hint: Any, at: str, problems: Problems) -> Any:
    """Return `data` as the first fitting member; else note the mistakes of the member meant."""
    members = get_args(hint)
    if data is None and types.NoneType in members:
        return None
    meant = [member for member in members if _has_shape(data, member)]
    if isinstance(data, dict) and (tag := _shared_tag(meant)):
        names = [name for member in meant for name in _tags(member, tag)]
        if data.get(tag) not in names:
            start = f"found {found(data[tag])}" if tag in data else "missing"
            near = _near(data.get(tag), names)
            problems.append((_join(at, tag), f"{start}, expected one of {', '.join(names)}{near}"))
            return BROKEN
        meant = [member for member in meant if data[tag] in _tags(member, tag)]
    fewest: Problems = [(at, _mismatch(data, hint))]
    for member in meant:
        attempt: Problems = []
        value = build(data, member, at, attempt)
        if not attempt:
            return value
        if isinstance(data, dict | list) and (member is meant[0] or len(attempt) < len(fewest)):
            fewest = attempt
    problems.extend(fewest)
    return BROKEN


def _has_shape(data: object, hint: Any) -> bool:
    """Whether `hint` is for mappings, lists or scalars as `data` is one."""
    if get_origin(hint) is Annotated:
        return _has_shape(data, get_args(hint)[0])
    if get_origin(hint) in (Union, types.UnionType):
        return any(_has_shape(data, member) for member in get_args(hint))
    base = get_origin(hint) or hint
    if hint is Any:
        return True
    if dataclasses.is_dataclass(base) or base is dict:
        return isinstance(data, dict)
    if base in (tuple, list):
        return isinstance(data, list)
    return base is not types.NoneType and not isinstance(data, dict | list)


def _shared_tag(members: list[Any]) -> str | None:
    """Return the field that tells dataclasses apart: a Literal in each of them."""
    if len(members) < 2 or not all(dataclasses.is_dataclass(member) for member in members):
        return None
    names = (field.name for field in dataclasses.fields(members[0]))
    return next((name for name in names if all(_tags(member, name) for member in members)), None)


def _tags(member: Any, name: str) -> tuple[str, ...]:
    hint = typing.get_type_hints(member).get(name)
    return get_args(hint) if get_origin(hint) is Literal else ()


@lru_cache(maxsize=1024)
def _adapter(hint: Any) -> Any:
    from pydantic import TypeAdapter  # noqa: PLC0415, slow to import

    return TypeAdapter(hint)


def _accepts(hint: Any, value: object) -> bool:
    from pydantic import ValidationError  # noqa: PLC0415, slow to import

    try:
        _adapter(hint).validate_python(value)
    except ValidationError:
        return False
    return True


def _is_valid(data: object, hint: Any) -> bool:
    """Whether the scalar `data` is a `hint` without conversion; not-a-number is no number."""
    from pydantic import ValidationError  # noqa: PLC0415, slow to import

    if isinstance(data, float) and math.isnan(data):
        return False
    if get_origin(hint) is Literal:
        return any(type(data) is type(value) and data == value for value in get_args(hint))
    try:
        _adapter(hint).validate_json(_json(data), strict=True)
    except ValidationError:
        return False
    return True


def _json(data: object) -> str:
    return json.dumps(data, default=str)


def _join(at: str, key: object) -> str:
    return f"{at}.{key}" if at else str(key)


def _missing(hint: Any) -> str:
    return f"missing, expected {_describe(hint)}"


def _mismatch(data: object, hint: Any) -> str:
    names = [str(value) for value in _literals(hint)]
    return f"found {found(data)}, expected {_describe(hint)}{_near(data, names)}"


def _near(data: object, names: Sequence[str]) -> str:
    near = suggestion(data, names) if isinstance(data, str) else ""
    return near if "did you mean" in near else ""


def _literals(hint: Any) -> list[Any]:
    if get_origin(hint) is Literal:
        return list(get_args(hint))
    if get_origin(hint) in (Annotated, Union, types.UnionType):
        return [value for member in get_args(hint) for value in _literals(member)]
    return []


def found(data: object) -> str:
    """Return `data` as a message shows it."""
    if data is None:
        return "nothing"
    if isinstance(data, dict):
        return "a mapping"
    if isinstance(data, list):
        return f"a list of {len(data)}"
    return json.dumps(data, ensure_ascii=False, default=str)


_WORDS: dict[Any, str] = {
    int: "an integer",
    float: "a number",
    str: "text",
    bool: "true or false",
    types.NoneType: "nothing",
    Path: "a path",
    dict: "a mapping",
}
_SIGNS = {"ge": ">=", "gt": ">", "le": "<=", "lt": "<", "multiple_of": "a multiple of"}


def _describe(hint: Any) -> str:
    """Return what a user should write for `hint`, in words."""
    origin, arguments = get_origin(hint), get_args(hint)
    if origin is Annotated:
        inner, *bounds = arguments
        return " ".join([_describe(inner), " and ".join(_bounds(bounds))]).strip()
    if origin in (Union, types.UnionType):
        return " or ".join(dict.fromkeys(_describe(member) for member in arguments))
    if origin is Literal:
        names = ", ".join(str(value) for value in arguments)
        return f"one of {names}" if len(arguments) > 1 else names
    if (origin or hint) in (tuple, list):
        several = not arguments or origin is list or arguments[-1] is ...
        members = arguments[:1] if several else arguments
        inside = ", ".join(_describe(member) for member in members)
        return f"a list ({inside}{', ...' if several else ''})"
    if dataclasses.is_dataclass(hint):
        keys = ", ".join(needed(hint))
        return "a mapping" + (f" with {keys}" if keys else "")
    return _WORDS.get(origin or hint, getattr(hint, "__name__", str(hint)))


def needed(kind: Any) -> list[str]:
    """Return the fields of a dataclass that have no default."""
    return [
        field.name
        for field in dataclasses.fields(kind)
        if field.init and field.default is field.default_factory is dataclasses.MISSING
    ]


def _bounds(bounds: Sequence[Any]) -> list[str]:
    words = []
    for bound in bounds:
        for name, sign in _SIGNS.items():
            if (value := getattr(bound, name, None)) is not None:
                words.append(f"{sign} {value}")
        if minimum := getattr(bound, "min_length", None):
            words.append(f"with at least {minimum}")
        if (maximum := getattr(bound, "max_length", None)) is not None:
            words.append(f"with at most {maximum}")
    return words
