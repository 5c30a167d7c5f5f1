"""Which kernel wins where on this machine: measured once, kept in the user's cache.

`cosim bench --calibrate` writes the file; whoever chooses kernels may read it. It belongs to one
processor and one state of the kernels' sources: after a change of either it is not found, and the
defaults that come with the kernels hold.
"""

import hashlib
import inspect
import json
import math
from collections.abc import Iterator
from dataclasses import asdict, dataclass, fields
from pathlib import Path

import cosim.guard  # noqa: F401 (the check is the import)
from cosim import results
from cosim.cache import cache_folder
from cosim.errors import CosimError
from kernels import panels  # (registers every linear kernel)
from kernels.jit import fingerprint
from kernels.registry import KERNELS

SCHEMA = 1
_REMEDY = 'delete it, or run "cosim bench --calibrate"'


@dataclass(frozen=True)
class Point:
    """One measurement: how many times a stored form is faster than the dense float one.

    ``values`` is the registry's name of the form, ``rows`` the activation rows of a call and
    ``density`` the share of weights that are not zero.
    """

    values: str
    rows: int
    density: float
    ratio: float


@dataclass(frozen=True)
class Dispatch:
    """The measurements of one machine."""

    cpu: str
    kernels: str
    created: str
    points: tuple[Point, ...]

    def break_even(self, values: str, rows: int) -> float | None:
        """Density below which a form wins over the dense one at so many rows.

        None where it was not measured. Between two measured densities the ratio is taken as
        linear; 0.0 if it never wins, the highest measured density if it always does. Rows are
        those of the nearest measurement, in proportion.

        Example:
            >>> points = (Point("f32_csr", 16, 0.4, 2.0), Point("f32_csr", 16, 0.8, 0.5))
            >>> Dispatch("", "", "", points).break_even("f32_csr", 20)
            0.6667

        """
        mine = [point for point in self.points if point.values == values]
        if not mine:
            return None
        nearest = min({point.rows for point in mine}, key=lambda r: abs(math.log(r / rows)))
        curve = sorted((point.density, point.ratio) for point in mine if point.rows == nearest)
        wins = 0.0
        for i, (density, ratio) in enumerate(curve):
            if ratio < 1:
                if i == 0:
                    return 0.0
                before, faster = curve[i - 1]
                share = (faster - 1) / (faster - ratio)
                return round(before + (density - before) * share, 4)
            wins = density
        return wins


def kernels_hash() -> str:
    """Return a hash of the sources of every registered linear kernel, the CPU and versions."""
    if not KERNELS:
        raise ValueError(f"kernels_hash: {panels.__name__} registered no kernel")
    files = sorted({inspect.getfile(row.run.py_func) for row in KERNELS.values()})
    state = hashlib.sha256()
    for file in files:
        state.update(fingerprint(Path(file)).encode())
    return state.hexdigest()


def dispatch_file(cpu: str, kernels: str) -> Path:
    """Return where the measurements of a processor and a state of the kernels are kept."""
    key = hashlib.sha256(f"{cpu}\n{kernels}".encode()).hexdigest()[:16]
    return cache_folder("kernels") / f"dispatch-{key}.json"


def save(found: Dispatch) -> Path:
    """Write the measurements into the user's cache; return the file."""
    path = dispatch_file(found.cpu, found.kernels)
    results.write_json(path, {"schema": SCHEMA, **asdict(found)})
    return path


def load(cpu: str, kernels: str) -> Dispatch | None:
    """Read the measurements of a processor and a state of the kernels; None if there are none.

    Raises CosimError that lists everything wrong with the file.
    """
    path = dispatch_file(cpu, kernels)
    if not path.exists():
        return None
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise CosimError(f"{path}: cannot be read: {error.strerror}; {_REMEDY}") from None
    except ValueError as error:
        raise CosimError(f"{path}: not JSON: {error}; {_REMEDY}") from None
    problems = list(_problems(document, cpu, kernels))
    if problems:
        raise CosimError([f"{path}: {problem}; {_REMEDY}" for problem in problems])
    points = tuple(Point(**point) for point in document["points"])
    return Dispatch(cpu, kernels, document["created"], points)


def _problems(document: object, cpu: str, kernels: str) -> Iterator[str]:
    if not isinstance(document, dict):
        yield f"found {type(document).__name__}, expected an object"
        return
    expected: dict[str, object] = {"schema": SCHEMA, "cpu": cpu, "kernels": kernels}
    for key, value in expected.items():
        if document.get(key) != value:
            yield f"{key}: found {document.get(key)!r}, expected {value!r}"
    if not isinstance(document.get("created"), str):
        yield f"created: found {document.get('created')!r}, expected a date"
    points = document.get("points")
    if not isinstance(points, list) or not points:
        yield f"points: found {points!r}, expected measurements"
        return
    for i, point in enumerate(points):
        yield from (f"points[{i}]: {problem}" for problem in _point_problems(point))


def _point_problems(point: object) -> Iterator[str]:
    names = {field.name for field in fields(Point)}
    if not isinstance(point, dict) or set(point) != names:
        yield f"found {point!r}, expected {', '.join(sorted(names))}"
        return
    if not isinstance(point["values"], str):
        yield f"values: found {point['values']!r}, expected a name"
    if type(point["rows"]) is not int or point["rows"] < 1:
        yield f"rows: found {point['rows']!r}, expected an integer of at least 1"
    density, ratio = point["density"], point["ratio"]
    if not _is_number(density) or not 0 < density <= 1:
        yield f"density: found {density!r}, expected a number in (0, 1]"
    if not _is_number(ratio) or not ratio > 0:
        yield f"ratio: found {ratio!r}, expected a positive number"


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
