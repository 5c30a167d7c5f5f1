"""A CSV list of GEMMs as a workload, for studies without a model."""

import csv
from collections.abc import Iterator
from difflib import get_close_matches
from pathlib import Path
from typing import get_args

from hwmodels.workload import NUMBER_BITS, Gemm, Number, TensorRef, Workload

HEADER = ("name", "m", "n", "k", "count", "a_number", "w_number", "density", "a_density")
_NEEDED = HEADER[:-2]
_DENSITIES = HEADER[-2:]
_SIZES = HEADER[1:5]
_NUMBERS = HEADER[5:7]


def gemms_from_csv(path: Path) -> Workload:
    """Return the GEMMs of a CSV file as independent ops, in order.

    The header is `name,m,n,k,count,a_number,w_number` and optionally `density` (of the weights) and
    `a_density` (of the activations), both in (0, 1], empty for dense. Every op reads its own
    activations and weights (stored dense) and writes 32-bit results. A density of the weights is
    noted as `assumed uniform` in the statistics.

    Raises ValueError with every mistake: file, line, column, what was found and expected.
    """
    problems: list[str] = []
    gemms: list[Gemm] = []
    seen: dict[str, int] = {}
    try:
        text = path.read_text(encoding="utf-8-sig")
    except FileNotFoundError:
        raise ValueError(f"{path}: no such file") from None
    except UnicodeDecodeError as error:
        raise ValueError(f"{path}: not UTF-8 text, first at byte {error.start}") from None
    reader = csv.DictReader(text.splitlines(), skipinitialspace=True, restval="")
    problems += _header_problems(reader.fieldnames or ())
    if not problems:
        for row in reader:
            line = reader.line_num
            found = list(_row_problems(row))
            name = row["name"].strip()
            if name in seen:
                found.append(f'name: found "{name}" again, first in line {seen[name]}')
            seen.setdefault(name, line)
            problems += [f"line {line}: {problem}" for problem in found]
            if not found:
                gemms.append(_gemm(row))
        if not gemms and not problems:
            problems.append("no GEMM below the header")
    if problems:
        raise ValueError("\n".join(f"{path}: {problem}" for problem in problems))
    return Workload(path.stem, tuple(gemms))


def _header_problems(names: object) -> Iterator[str]:
    found = [str(name).strip() for name in names] if isinstance(names, list | tuple) else []
    expected = f"expected {','.join(_NEEDED)} and optionally density, a_density"
    for name in found:
        if name not in HEADER:
            near = get_close_matches(name, HEADER, n=1)
            hint = f'; did you mean "{near[0]}"?' if near else ""
            yield f'line 1: unknown column "{name}"{hint}; {expected}'
    if missing := [name for name in _NEEDED if name not in found]:
        yield f"line 1: column {', '.join(missing)} missing; {expected}"
    if len(set(found)) < len(found):
        yield f"line 1: a column appears twice; {expected}"


def _row_problems(row: dict[str, str]) -> Iterator[str]:
    if None in row:
        yield f"more values than the {len(row) - 1} columns of the header"
    if not row["name"].strip():
        yield "name: found nothing, expected a name"
    for column in _SIZES:
        text = row[column].strip()
        if not text.isdecimal() or int(text) < 1:
            yield f'{column}: found "{text}", expected an integer >= 1'
    for column in _NUMBERS:
        text = row[column].strip()
        if text not in get_args(Number):
            yield f'{column}: found "{text}", expected one of {", ".join(get_args(Number))}'
    for column in _DENSITIES:
        text = (row.get(column) or "").strip()
        if text and not _is_density(text):
            yield f'{column}: found "{text}", expected a number in (0, 1] or nothing'


def _is_density(text: str) -> bool:
    try:
        return 0 < float(text) <= 1
    except ValueError:
        return False


def _gemm(row: dict[str, str]) -> Gemm:
    name = row["name"].strip()
    m, n, k, count = (int(row[column]) for column in _SIZES)
    a_number, w_number = (_number(row[column]) for column in _NUMBERS)
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


def _density(row: dict[str, str], column: str) -> float | None:
    text = (row.get(column) or "").strip()
    return float(text) if text else None


def _number(text: str) -> Number:
    return next(number for number in NUMBER_BITS if number == text.strip())
