"""Named arrays in a safetensors file: written array by array, and read with every bound checked.

The format is a header of JSON behind its length in 8 bytes (little endian), then the bytes of all
arrays without gaps: https://huggingface.co/docs/safetensors. Nothing in it can be executed. What
does not fit is told by the name of its tensor.
"""

import json
import os
import tempfile
from collections.abc import Callable, Mapping
from math import prod
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

import cosim.guard  # noqa: F401 (the check is the import)
from cosim.errors import CosimError

Array = NDArray[Any]
_NAMES: dict[np.dtype[Any], str] = {
    np.dtype(np.float32): "F32",
    np.dtype(np.float16): "F16",
    np.dtype(np.uint32): "U32",
    np.dtype(np.uint16): "U16",
    np.dtype(np.uint8): "U8",
    np.dtype(np.int8): "I8",
}
_TYPES = {name: dtype for dtype, name in _NAMES.items()}
_LENGTH_BYTES = 8
_LARGEST_HEADER = 100_000_000  # bytes, the limit of the format's own library
_ALIGNMENT = 8


def header_of(arrays: Mapping[str, Array]) -> bytes:
    """Return what stands before the data of arrays: length and table, filled up with spaces.

    Arrays of wide elements stand first, then by name, so that each begins at a multiple of its
    element. TypeError for elements that no encoding has.
    """
    table: dict[str, object] = {}
    first = 0
    for name in _order(arrays):
        array = arrays[name]
        if array.dtype not in _NAMES:
            raise TypeError(f"{name}: found {array.dtype}, expected one of {', '.join(_TYPES)}")
        last = first + array.nbytes
        table[name] = {
            "dtype": _NAMES[array.dtype],
            "shape": list(array.shape),
            "data_offsets": [first, last],
        }
        first = last
    text = json.dumps(table, separators=(",", ":")).encode()
    text += b" " * (-len(text) % _ALIGNMENT)
    return len(text).to_bytes(_LENGTH_BYTES, "little") + text


def write(
    path: Path, arrays: Mapping[str, Array], *, report: Callable[[str], None] = lambda _text: None
) -> int:
    """Write arrays into a file that appears whole or not at all; return the bytes of its header.

    `report` is told now and then how much is written.

    Example:
        >>> folder = Path(tempfile.mkdtemp())
        >>> header = write(folder / "one.safetensors", {"a": np.ones(3, np.float32)})
        >>> (folder / "one.safetensors").stat().st_size == header + 12
        True

    """
    header = header_of(arrays)
    total = sum(array.nbytes for array in arrays.values())
    step, done = max(1, total // 5), 0
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(header)
            for name in _order(arrays):
                file.write(np.ascontiguousarray(arrays[name]).data)
                before, done = done, done + arrays[name].nbytes
                if done // step > before // step:
                    report(f"writing: {done / 1e6:.0f} of {total / 1e6:.0f} MB")
            file.flush()
            os.fsync(file.fileno())
        Path(temporary).chmod(0o644)
        Path(temporary).replace(path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise
    return len(header)


def read(path: Path) -> dict[str, Array]:
    """Return the arrays of a file by name, each in memory of its own.

    CosimError lists every tensor that lies outside the file, overlaps another, leaves a gap or does
    not have the bytes of its shape; a header that cannot be read is told with its place.
    """
    size = path.stat().st_size
    with path.open("rb") as file:
        table, begin = _table(path, file, size)
    problems = _misplaced(table, size - begin)
    if problems:
        raise CosimError(f"{path}: {text}" for text in problems)
    return {name: _array(path, begin, entry) for name, entry in table.items()}


def _order(arrays: Mapping[str, Array]) -> list[str]:
    return sorted(arrays, key=lambda name: (-arrays[name].itemsize, name))


def _table(path: Path, file: BinaryIO, size: int) -> tuple[dict[str, Any], int]:
    """Return the header's entries by name, and where the data begin."""
    length = int.from_bytes(file.read(_LENGTH_BYTES), "little")
    begin = _LENGTH_BYTES + length
    if length > _LARGEST_HEADER or begin > size:
        raise CosimError(
            f"{path}: header: found a length of {length} bytes in a file of {size} bytes"
        )
    text = file.read(length)
    try:
        table = json.loads(text.decode("utf-8"), object_pairs_hook=_without_repetition)
    except (ValueError, RecursionError) as error:
        raise CosimError(f"{path}: header: not a table of tensors: {error}") from None
    if not isinstance(table, dict):
        raise CosimError(f"{path}: header: found {type(table).__name__}, expected a table")
    table.pop("__metadata__", None)
    return table, begin


def _without_repetition(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in names if names.count(name) > 1)
        raise ValueError(f"{twice} stands twice")
    return found


def _misplaced(table: Mapping[str, Any], size: int) -> list[str]:
    """Return what is wrong with entries whose data should fill `size` bytes without a gap."""
    problems = [
        f"{name}: {wrong}" for name, entry in table.items() if (wrong := _entry(entry, size))
    ]
    if problems:
        return problems
    end = 0
    for name, entry in sorted(table.items(), key=lambda item: item[1]["data_offsets"]):
        first, last = entry["data_offsets"]
        if first != end:
            return [f"{name}: data begin at byte {first}, expected {end}, where those before end"]
        end = last
    return [] if end == size else [f"found {size} bytes of data, expected {end}"]


def _entry(entry: object, size: int) -> str:
    """Return what is wrong with one entry, "" if nothing is."""
    if not isinstance(entry, dict) or entry.keys() != {"dtype", "shape", "data_offsets"}:
        return f"found {entry!r:.80}, expected dtype, shape and data_offsets"
    dtype, shape, offsets = entry["dtype"], entry["shape"], entry["data_offsets"]
    if not isinstance(dtype, str) or dtype not in _TYPES:
        return f"found elements {dtype!r}, expected one of {', '.join(_TYPES)}"
    if not _are_sizes(shape) or not _are_sizes(offsets) or len(offsets) != 2:
        return f"found shape {shape!r} and data_offsets {offsets!r}, expected whole numbers"
    first, last = offsets
    if last > size or first > last:
        return f"data from byte {first} to {last}, found {size} bytes of data"
    wanted = prod(shape) * _TYPES[dtype].itemsize
    if last - first != wanted:
        return f"found {last - first} bytes, expected {wanted} of {dtype} {tuple(shape)}"
    return ""


def _are_sizes(found: object) -> bool:
    return isinstance(found, list) and all(type(item) is int and item >= 0 for item in found)


def _array(path: Path, begin: int, entry: Mapping[str, Any]) -> Array:
    first, shape = begin + entry["data_offsets"][0], entry["shape"]
    made: Array = np.fromfile(path, _TYPES[entry["dtype"]], prod(shape), offset=first)
    return made.reshape(shape)
