"""Whether what was read of an artefact fits together: each misfit with the name of its tensor."""

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from numpy.typing import NDArray

import cosim.guard  # noqa: F401 (the check is the import)
from cosim.errors import suggestion
from cosim.ir import Program
from kernels.encodings import Encoding, digest, kind, rebuild, size_bits


def rebuilt(
    entries: Mapping[str, Mapping[str, Any]], stored: Mapping[str, NDArray[Any]]
) -> tuple[dict[str, Encoding], list[str]]:
    """Return the encodings that are sound, and what is wrong with each other tensor.

    `entries` say how constants are stored, with the digests they were written with; `stored` holds
    the arrays as `CONSTANT|PART`.
    """
    parts: dict[str, dict[str, NDArray[Any]]] = {}
    for key, values in stored.items():
        name, _, part = key.partition("|")
        parts.setdefault(name, {})[part] = values
    unknown = [name for name in parts if name not in entries]
    missing = [name for name in entries if name not in parts]
    wrong = [f"{name}: no tensor of this name{_near(name, unknown)}" for name in missing]
    wrong += [f"{name}: found, but not written by cosim{_near(name, missing)}" for name in unknown]
    encodings: dict[str, Encoding] = {}
    for name in (name for name in entries if name in parts):
        entry = entries[name]
        try:
            encodings[name] = rebuild(entry["kind"], entry["attributes"], parts[name])
        except (ValueError, KeyError) as error:
            wrong.append(f"{name}: {error.args[0]}")
            continue
        if digest(encodings[name]) != entry["digest"]:
            wrong.append(f"{name}: found other values than were written (its digest differs)")
    return encodings, wrong


def _near(name: str, known: list[str]) -> str:
    return suggestion(name, known) if known else ""


def unlike(ledger: Iterable[Mapping[str, Any]], encodings: Mapping[str, Encoding]) -> Iterator[str]:
    """Yield what a ledger says of tensors that is not true of them."""
    rows = {f"@{row['name']}": row for row in ledger}
    for name in sorted(rows.keys() ^ encodings.keys()):
        where = "no row" if name in encodings else "a row, but no sound tensor"
        yield f"{name}: found {where}, expected one for every tensor"
    for name in rows.keys() & encodings.keys():
        row, encoding = rows[name], encodings[name]
        said = (row["encoding"], row["size_bits"], tuple(row["shape"]))
        true = (kind(encoding), size_bits(encoding), encoding.shape)
        if said != true:
            yield f"{name}: found {_told(*said)}, expected {_told(*true)} as stored"


def strange(program: Program, encodings: Mapping[str, Encoding]) -> Iterator[str]:
    """Yield each constant of a program that the tensors do not have, or have otherwise."""
    for name, constant in program.constants.items():
        encoding = encodings.get(name)
        if encoding is None:
            yield f"{name}: a constant without a sound tensor"
            continue
        said = (constant.encoding, constant.size_bits, constant.type.shape)
        true = (kind(encoding), size_bits(encoding), encoding.shape)
        if said != true:
            yield f"{name}: found {_told(*said)}, expected {_told(*true)} as stored"
        elif digest(encoding) != constant.digest:
            yield f"{name}: the stored weights are not those of the program (its digest differs)"


def _told(kind: str, bits: int, shape: Iterable[object]) -> str:
    return f"{kind} ({', '.join(map(str, shape))}) of {bits} bits"
