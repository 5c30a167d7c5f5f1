"""Which kernel wins where on this machine: measured once, kept in the user's cache.

`cosim bench --calibrate` writes the file; whoever chooses kernels may read it. It belongs to one
processor and one state of the kernels' sources: after a change of either it is not found, and the
defaults that come with the kernels hold.
"""

import hashlib
import inspect
import json
import math
import platform
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
from kernels.sparse_speeds import DEFAULT_BREAK_EVEN, Speed

SCHEMA = 1
_CPUINFO = Path("/proc/cpuinfo")
_REMEDY = 'delete it, or run "cosim bench --calibrate"'


@dataclass(frozen=True)
class Dispatch:
    """The speeds of one machine, as ``kernels.patterns.choose_values`` takes them.

    ``cpu`` and ``kernels`` say whose they are: a processor, and a hash of the kernels' sources.
    """

    cpu: str
    kernels: str
    created: str
    table: tuple[Speed, ...]


def cpu_name() -> str:
    """Return the name of the processor as the system tells it, with family and model.

    Family and model tell apart what a virtual machine calls by one name.
    """
    try:
        lines = _CPUINFO.read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    told: dict[str, str] = {}
    for line in lines:
        key, _, value = line.partition(":")
        told.setdefault(key.strip(), value.strip())
    name = told.get("model name", platform.machine())
    numbers = [f"{key} {told[key]}" for key in ("cpu family", "model") if key in told]
    return f"{name} ({', '.join(numbers)})" if numbers else name


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
    table = tuple(
        Speed(
            row["values"],
            row["activation"],
            row["rows"],
            tuple(map(float, row["speeds"])),
            tuple(map(float, row["densities"])),
        )
        for row in document["table"]
    )
    return Dispatch(cpu, kernels, document["created"], table)


def speeds() -> tuple[Speed, ...]:
    """Return the speeds measured on this machine, or the defaults that come with the kernels.

    Raises CosimError as `load` does.
    """
    found = load(cpu_name(), kernels_hash())
    return DEFAULT_BREAK_EVEN if found is None else found.table


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
    table = document.get("table")
    if not isinstance(table, list) or not table:
        yield f"table: found {table!r}, expected measurements"
        return
    for i, row in enumerate(table):
        yield from (f"table[{i}]: {problem}" for problem in _row_problems(row))


def _row_problems(row: object) -> Iterator[str]:
    names = {field.name for field in fields(Speed)}
    if not isinstance(row, dict) or set(row) != names:
        yield f"found {row!r}, expected {', '.join(sorted(names))}"
        return
    for key in ("values", "activation"):
        if not isinstance(row[key], str):
            yield f"{key}: found {row[key]!r}, expected a name"
    if type(row["rows"]) is not int or row["rows"] < 1:
        yield f"rows: found {row['rows']!r}, expected an integer of at least 1"
    for key, most in (("speeds", math.inf), ("densities", 1.0)):
        numbers = row[key]
        if not isinstance(numbers, list) or not all(
            _is_number(v) and 0 < v <= most for v in numbers
        ):
            yield f"{key}: found {numbers!r}, expected positive numbers of at most {most:g}"
            return
    if not row["densities"] or len(row["speeds"]) != len(row["densities"]):
        yield f"found {len(row['speeds'])} speeds for {len(row['densities'])} densities"
    if sorted(set(row["densities"])) != row["densities"]:
        yield f"densities: found {row['densities']!r}, expected ascending numbers"


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
