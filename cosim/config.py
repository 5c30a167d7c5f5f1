"""YAML files into frozen dataclasses: reading, `--set` overrides and finding shipped files.

The text is YAML with the scalars of YAML 1.2: `1e9` is a number, `no` and `08:30` are text. What
the values may be is checked by `cosim.validate`.
"""

import difflib
import re
from collections.abc import Hashable, Sequence
from pathlib import Path
from typing import Any, TypeVar, cast

import yaml

from cosim.errors import CosimError, suggestion
from cosim.validate import found, parse

__all__ = [
    "about",
    "configs_root",
    "item_lines",
    "load",
    "override",
    "parse",
    "read",
    "resolve",
]

T = TypeVar("T")


class _Loader(yaml.SafeLoader):
    """YAML 1.2 scalars, no repeated key, no value that contains itself."""

    yaml_implicit_resolvers = {}  # noqa: RUF012, declared by the base class


_SCALARS: Sequence[tuple[str, str, str]] = (
    ("null", r"~|null|Null|NULL|", "~nN\0"),
    ("bool", r"true|True|TRUE|false|False|FALSE", "tTfF"),
    ("int", r"[-+]?[0-9]+|0o[0-7]+|0x[0-9a-fA-F]+", "-+0123456789"),
    (
        "float",
        r"[-+]?(?:\.[0-9]+|[0-9]+(?:\.[0-9]*)?)(?:[eE][-+]?[0-9]+)?|[-+]?\.inf|\.nan",
        "-+.0123456789",
    ),
    ("merge", r"<<", "<"),
)
for _tag, _pattern, _first in _SCALARS:
    _Loader.add_implicit_resolver(
        f"tag:yaml.org,2002:{_tag}",
        re.compile(f"(?:{_pattern})$"),
        ["" if letter == "\0" else letter for letter in _first],
    )


def _integer(loader: yaml.SafeLoader, node: yaml.ScalarNode) -> int:
    text = loader.construct_scalar(node)
    return int(text, {"0x": 16, "0o": 8}.get(text[:2], 10))


def _mapping(loader: yaml.SafeLoader, node: yaml.MappingNode) -> dict[Hashable, Any]:
    lines: dict[tuple[str, str], int] = {}
    for key, _ in node.value:
        name = (key.tag, str(key.value))
        if name in lines:
            problem = f'key "{key.value}" repeats line {lines[name]}'
            raise yaml.constructor.ConstructorError(None, None, problem, key.start_mark)
        lines[name] = key.start_mark.line + 1
    loader.flatten_mapping(node)
    return loader.construct_mapping(node, deep=True)


def _sequence(loader: yaml.SafeLoader, node: yaml.SequenceNode) -> list[Any]:
    return loader.construct_sequence(node, deep=True)


_Loader.add_constructor("tag:yaml.org,2002:int", _integer)
_Loader.add_constructor("tag:yaml.org,2002:map", _mapping)
_Loader.add_constructor("tag:yaml.org,2002:seq", _sequence)


def load(path: Path, kind: type[T]) -> T:
    """Return the `kind` that the YAML file `path` describes.

    Raises CosimError with one line per mistake: no such file, not YAML, unknown or missing keys,
    values of a wrong type or out of range.
    """
    return parse(read(path), kind, source=str(path))


def read(path: Path) -> dict[str, Any]:
    """Return the mapping in the YAML file `path`, unchecked: what `override` and `parse` take."""
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise CosimError(f"{path}: no such file{_nearest(path)}") from None
    except UnicodeDecodeError as error:
        raise CosimError(f"{path}: not UTF-8 text, first at byte {error.start}") from None
    except OSError as error:
        raise CosimError(f"{path}: cannot be read: {error.strerror}") from None
    data = _from_yaml(text, source=str(path))
    if not isinstance(data, dict):
        raise CosimError(f"{path}: found {found(data)}, expected a mapping of keys to values")
    return data


def item_lines(path: Path, key: str) -> tuple[int, ...]:
    """Return the lines on which the items of the list under `key` begin; empty for no list."""
    root = yaml.compose(path.read_text(encoding="utf-8"), Loader=_Loader)
    for name, value in root.value if isinstance(root, yaml.MappingNode) else ():
        if name.value == key and isinstance(value, yaml.SequenceNode):
            return tuple(item.start_mark.line + 1 for item in value.value)
    return ()


def about(path: Path) -> str:
    """Return what the first line of a YAML file says in a comment; empty without one."""
    first = path.read_text(encoding="utf-8").partition("\n")[0]
    return first[1:].strip() if first.startswith("#") else ""


def override(data: dict[str, Any], assignment: str) -> dict[str, Any]:
    """Return a copy of `data` with one `a.b=value` applied; the value is read as YAML.

    A number in the path picks from a list (`methods.0.rate=0.3`). Raises CosimError when there is
    no `=` or the path leads through something that is neither mapping nor list.

    Example:
        >>> override({"array": {"rows": 8}}, "array.rows=16")
        {'array': {'rows': 16}}

    """
    path, equals, text = assignment.partition("=")
    keys = path.strip().split(".")
    source = f"--set {assignment}"
    if not equals or not all(keys):
        raise CosimError(f"{source}: expected a.b=value")
    return cast("dict[str, Any]", _replace(data, keys, _from_yaml(text, source=source), source))


def configs_root() -> Path:
    """Return the folder of the shipped configurations (in the wheel, or in a checkout)."""
    package = Path(__file__).resolve().parent
    for folder in (package / "_configs", package.parent / "configs"):
        if folder.is_dir():
            return folder
    raise CosimError(f"{package}: the shipped configs/ folder is missing; install cosim again")


def resolve(path_text: str, relative_to: Path | None = None, *, key: str = "") -> Path:
    """Return the existing path that `path_text` means.

    Tried in this order: as it stands, beside the file (or in the folder) `relative_to` that names
    it, among the shipped configurations (with or without the leading `configs/`). Raises CosimError
    naming the `key` that holds it, the places tried and the nearest name.
    """
    path = Path(path_text).expanduser()
    root = configs_root()
    places = [path]
    if not path.is_absolute():
        if relative_to is not None:
            folder = relative_to if relative_to.is_dir() else relative_to.parent
            places.append(folder / path)
        shipped = path.relative_to("configs") if path.parts[:1] == ("configs",) else path
        places.append(root / shipped)
    for place in places:
        if path_text and place.exists():
            return place
    where = "".join(f"{part}: " for part in (relative_to, key) if part)
    stems = sorted({place.stem for place in root.glob("*/*.yaml")})
    near = (
        _shipped_as(path_text)
        or next((hint for hint in map(_nearest, places) if "did you mean" in hint), "")
        or "".join(map(_shipped_as, difflib.get_close_matches(path_text, stems, n=1)))
    )
    tried = ", ".join(dict.fromkeys(str(place) for place in places))
    raise CosimError(f'{where}"{path_text}" does not exist, tried {tried}{near}')


def _from_yaml(text: str, *, source: str) -> Any:
    try:
        return yaml.load(text, Loader=_Loader)  # noqa: S506, a SafeLoader with fewer scalars
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        where = f"line {mark.line + 1}, column {mark.column + 1}: " if mark else ""
        problem = error.problem or error.context
        raise CosimError(f"{source}: {where}not valid YAML: {problem}") from None
    except yaml.reader.ReaderError as error:
        line = text.count("\n", 0, error.position) + 1
        raise CosimError(f"{source}: line {line}: not valid YAML: {error.reason}") from None


def _shipped_as(name: str) -> str:
    """Return the did-you-mean for a bare name, as `cosim list` prints it."""
    found = [
        place.parent.name for place in sorted(configs_root().glob("*/*.yaml")) if place.stem == name
    ]
    hints = " or ".join(f'"configs/{folder}/{name}.yaml"' for folder in found)
    return f"; did you mean {hints}?" if hints else ""


def _nearest(path: Path) -> str:
    """Return the did-you-mean among the files beside `path`, or where the folder chain breaks."""
    folder = path.parent
    while not folder.is_dir() and folder != folder.parent:
        path, folder = folder, folder.parent
    names = [entry.name for entry in folder.iterdir() if not entry.name.startswith(".")]
    return suggestion(path.name, names) if names else ""


def _replace(data: object, keys: list[str], value: object, source: str) -> object:
    if not keys:
        return value
    key, rest = keys[0], keys[1:]
    if isinstance(data, dict):
        return {**data, key: _replace(data.get(key, {}), rest, value, source)}
    if isinstance(data, list):
        if not key.isdecimal() or int(key) >= len(data):
            expected = f"an index below {len(data)}" if data else "another key: this list is empty"
            raise CosimError(f"{source}: found {key}, expected {expected}")
        at = int(key)
        return [*data[:at], _replace(data[at], rest, value, source), *data[at + 1 :]]
    raise CosimError(f"{source}: {key}: found {found(data)} above it, expected a mapping or list")
