"""Result rows, their schema version, and the run folder they are kept in.

Files appear whole or not at all. A row that was finished is kept when a run is killed, and found
again by the run that has the same key.
"""

import hashlib
import json
import os
import tempfile
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import TextIO

from cosim.errors import CosimError

SCHEMA = 1
Json = Mapping[str, object]
_LIBRARIES = ("cosim-speech", "numpy", "numba", "llvmlite", "simpy", "torch", "jiwer")


def versions() -> dict[str, str]:
    """Return the version of this tool and of every library that shapes a result."""
    found: dict[str, str] = {}
    for name in _LIBRARIES:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            found[name] = "not installed"
    return found


def now() -> str:
    """Return the time of day as ISO 8601 in UTC."""
    return datetime.now(tz=UTC).isoformat(timespec="seconds")


def config_hash(config: object) -> str:
    """Return the SHA-256 of a configuration, over its canonical JSON.

    Example:
        >>> config_hash({"b": 1, "a": 2}) == config_hash({"a": 2, "b": 1})
        True

    """
    text = json.dumps(config, sort_keys=True, separators=(",", ":"), default=str)
    return hashlib.sha256(text.encode()).hexdigest()


def table(rows: Iterable[Json], total: Json) -> str:
    """Return the document that `--json` prints."""
    return json.dumps({"schema": SCHEMA, "rows": list(rows), "total": total}, indent=2)


def write_text(path: Path, text: str) -> None:
    """Write a file whole: into a temporary file beside it, then renamed.

    Raises CosimError where the system does not let it.
    """
    try:
        _write_whole(path, text)
    except OSError as error:
        raise CosimError(f"{path}: cannot be written: {error.strerror}") from None


def _write_whole(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(handle, "w", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        Path(name).chmod(0o644)
        Path(name).replace(path)
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise


def write_json(path: Path, document: object) -> None:
    """Write a JSON document whole."""
    write_text(path, json.dumps(document, indent=2) + "\n")


def write_rows(path: Path, rows: Iterable[Json]) -> None:
    """Write JSON lines whole."""
    write_text(path, "".join(json.dumps(row) + "\n" for row in rows))


def read_rows(path: Path) -> Iterator[dict[str, object]]:
    """Yield the finished rows of a JSON lines file; a last line cut short is left out."""
    if not path.exists():
        return
    with path.open(encoding="utf-8") as file:
        for line in file:
            if line.endswith("\n"):
                yield json.loads(line)


@dataclass(frozen=True)
class RunFolder:
    """One run on disk.

    `key.json` names what the folder is for; `parts/` holds finished pieces until `run.json`
    closes the run. A folder that holds something else is refused.
    """

    path: Path

    @property
    def document(self) -> Path:
        """The result; it exists when the run is complete."""
        return self.path / "run.json"

    def open(self, key: str) -> bool:
        """Take the folder for `key`; return whether the run is already complete.

        Raises CosimError when the folder belongs to another run or to something else.
        """
        marker = self.path / "key.json"
        if marker.exists():
            found = json.loads(marker.read_text(encoding="utf-8"))
            if found.get("key") != key:
                raise CosimError(
                    f"{self.path}: holds the run of another configuration or version "
                    f"({str(found.get('key'))[:12]}, this is {key[:12]}); choose another --out"
                )
            return self.document.exists()
        if self.path.exists() and any(self.path.iterdir()):
            raise CosimError(f"{self.path}: exists and is not a run folder; choose another --out")
        write_json(marker, {"schema": SCHEMA, "key": key})
        return False

    def part(self, name: str) -> Path:
        """Return the file of a finished piece."""
        return self.path / "parts" / name

    @contextmanager
    def appending(self, name: str) -> Iterator[TextIO]:
        """Open a JSON lines part to add rows; a line cut short by a kill is dropped first."""
        path = self.part(name)
        kept = list(read_rows(path))
        write_rows(path, kept)
        with path.open("a", encoding="utf-8") as file:
            yield file

    def close(self, document: Json) -> None:
        """Write `run.json` and drop the parts."""
        write_json(self.document, document)
        parts = self.path / "parts"
        if parts.exists():
            for piece in parts.iterdir():
                piece.unlink()
            parts.rmdir()
