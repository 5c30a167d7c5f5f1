"""A list of GEMMs, CSV or YAML, as a workload, for studies without a model."""

import csv
from collections.abc import Iterable, Iterator, Mapping
from difflib import get_close_matches
from pathlib import Path
from typing import get_args

from hwmodels.workload import NUMBER_BITS, Gemm, Number, TensorRef, Workload

_SIZES = ("m", "n", "k")
_NUMBERS = ("a_number", "w_number")
_DENSITIES = ("density", "a_density")
COLUMNS = ("name", *_SIZES, "count", "bits", *_NUMBERS, *_DENSITIES)
NUMBER_OF_BITS: dict[str, Number] = {
    "1": "i1",
    "2": "i2",
    "4": "i4",
    "8": "i8",
    "16": "f16",
    "32": "f32",
}
YAML_SUFFIXES = (".yaml", ".yml")
_OPTIONAL = "name, count, density, a_density"
_EXPECTED = f"expected m, n, k and bits (or a_number and w_number); optional: {_OPTIONAL}"


def read_gemms(path: Path) -> Workload:
    """Return the GEMMs of a list as independent ops, in order.

    A CSV file has a header, a YAML file a list of mappings under `gemms`. Columns or keys, in any
    case: `m`, `n` and `k`; `bits` of both operands (16 and 32 are floats) or `a_number` and
    `w_number`; optionally `name`, `count` (1), `density` (of the weights) and `a_density` (of the
    activations), both in (0, 1], empty for dense. Every op reads its own activations and weights
    (stored dense) and writes 32-bit results. A density of the weights is noted as `assumed uniform`
    in the statistics.

    Raises ValueError with every mistake: file, line, column, what was found and expected.
    """
    try:
        text = path.read_text(encoding="utf-8-sig")
    except FileNotFoundError:
        raise ValueError(f"{path}: no such file") from None
    except UnicodeDecodeError as error:
        raise ValueError(f"{path}: not UTF-8 text, first at byte {error.start}") from None
    problems: list[str] = []
    gemms: list[Gemm] = []
    seen: dict[str, str] = {}
    rows = _yaml_rows(text) if path.suffix in YAML_SUFFIXES else _csv_rows(text)
    for place, row, wrong in rows:
        found = [*wrong, *(() if row is None else _row_problems(row))]
        if row is not None:
            name = row.setdefault("name", "") or f"gemm_{len(seen) + 1}"
            if name in seen:
                found.append(f'name: found "{name}" again, first in {seen[name]}')
            seen.setdefault(name, place)
            if not found:
                gemms.append(_gemm(name, row))
        problems += [f"{place}: {problem}" if place else problem for problem in found]
    if not gemms and not problems:
        problems.append("no GEMM in it")
    if problems:
        raise ValueError("\n".join(f"{path}: {problem}" for problem in problems))
    return Workload(path.stem, tuple(gemms))


_Row = tuple[str, dict[str, str] | None, list[str]]  # where, columns to text, what is wrong


def _csv_rows(text: str) -> Iterator[_Row]:
    """Yield the rows of a table; of a wrong header only what is wrong with it."""
    reader = csv.DictReader(text.splitlines(), skipinitialspace=True, restval="")
    names = [str(name).strip().lower() for name in reader.fieldnames or ()]
    wrong = list(_column_problems(names, "column"))
    if len(set(names)) < len(names):
        wrong.append(f"a column appears twice; {_EXPECTED}")
    if wrong:
        yield "line 1", None, wrong
        return
    for found in reader:
        more = [f"more values than the {len(names)} columns of the header"] if None in found else []
        row = {str(key).strip().lower(): value for key, value in found.items() if key is not None}
        yield f"line {reader.line_num}", {key: row[key].strip() for key in names}, more


def _yaml_rows(text: str) -> Iterator[_Row]:
    """Yield the mappings under `gemms`."""
    import yaml  # noqa: PLC0415 (nothing else of this package needs it)

    try:
        document = yaml.safe_load(text)
    except yaml.YAMLError as error:
        yield "", None, [f"not YAML: {' '.join(str(error).split())}"]
        return
    listed = document.get("gemms") if isinstance(document, dict) else None
    if not isinstance(listed, list) or set(document) != {"gemms"}:
        yield "", None, ["expected one key, gemms, with a list of mappings"]
        return
    for index, found in enumerate(listed):
        place = f"gemms.{index}"
        if not isinstance(found, dict):
            yield place, None, [f"found {found!r}, expected a mapping; {_EXPECTED}"]
            continue
        row = {
            str(key).lower(): "" if value is None else str(value) for key, value in found.items()
        }
        wrong = list(_column_problems(list(row), "key"))
        yield place, None if wrong else row, wrong


def _column_problems(names: Iterable[str], what: str) -> Iterator[str]:
    known = list(names)
    for name in known:
        if name not in COLUMNS:
            near = get_close_matches(name, COLUMNS, n=1)
            hint = f'; did you mean "{near[0]}"?' if near else ""
            yield f'unknown {what} "{name}"{hint}; {_EXPECTED}'
    missing = [name for name in _SIZES if name not in known]
    if "bits" not in known:
        missing += [name for name in _NUMBERS if name not in known]
    if missing:
        yield f"{what} {', '.join(missing)} missing; {_EXPECTED}"


def _row_problems(row: Mapping[str, str]) -> Iterator[str]:
    for column in (*_SIZES, "count"):
        text = row.get(column, "")
        is_left_out = column == "count" and not text
        if not is_left_out and (not text.isdecimal() or int(text) < 1):
            yield f'{column}: found "{text}", expected an integer >= 1'
    for column in _NUMBERS:
        if (text := row.get(column, "")) and text not in get_args(Number):
            yield f'{column}: found "{text}", expected one of {", ".join(get_args(Number))}'
    bits = row.get("bits", "")
    if bits and bits not in NUMBER_OF_BITS:
        yield f'bits: found "{bits}", expected one of {", ".join(NUMBER_OF_BITS)}'
    for column in _NUMBERS:
        if not bits and not row.get(column, ""):
            yield f"{column}: found nothing, expected a number type, or bits"
    for column in _DENSITIES:
        if (text := row.get(column, "")) and not _is_density(text):
            yield f'{column}: found "{text}", expected a number in (0, 1] or nothing'


def _is_density(text: str) -> bool:
    try:
        return 0 < float(text) <= 1
    except ValueError:
        return False


def _gemm(name: str, row: Mapping[str, str]) -> Gemm:
    m, n, k = (int(row[column]) for column in _SIZES)
    count = int(row.get("count") or 1)
    a_number, w_number = (_number(row, column) for column in _NUMBERS)
    density, a_density = (_density(row, column) for column in _DENSITIES)
    is_integer = a_number[0] in "iu" and w_number[0] in "iu"
    return Gemm(
        name,
        "gemm",
        m,
        n,
        k,
        TensorRef(f"{name}.a", "input", (count, m, k), count * m * k * NUMBER_BITS[a_number]),
        TensorRef(f"{name}.w", "constant", (count, n, k), count * n * k * NUMBER_BITS[w_number]),
        TensorRef(f"{name}.result", "output", (count, m, n), count * m * n * 32),
        a_number,
        w_number,
        "i32" if is_integer else "f32",
        count,
        density,
        a_density=a_density,
    )


def _number(row: Mapping[str, str], column: str) -> Number:
    text = row.get(column) or NUMBER_OF_BITS[row["bits"]]
    return next(number for number in NUMBER_BITS if number == text)


def _density(row: Mapping[str, str], column: str) -> float | None:
    text = row.get(column)
    return float(text) if text else None
