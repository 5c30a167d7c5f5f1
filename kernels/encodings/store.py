"""Storage: an encoding as named arrays and attributes, and back; its digest."""

import hashlib
import json
from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from kernels.bits import CODE_LIMITS
from kernels.encodings.check import checked
from kernels.encodings.forms import ENCODINGS, FLOAT_BITS, Binary, Encoding
from kernels.encodings.read import ROWS, codes, kind, scales, value_bits, zero_points

Attributes = dict[str, int | str | list[int]]


def tensors(e: Encoding) -> dict[str, NDArray[np.generic]]:
    """Return the stored arrays by name; absent scales and zero points are left out."""
    named = {name: getattr(e, name) for name in ROWS[type(e)].tensors}
    return {name: array for name, array in named.items() if array is not None}


def attributes(e: Encoding) -> Attributes:
    """Return what is needed beside the arrays to build the encoding again."""
    named = {name: getattr(e, name) for name in ROWS[type(e)].attributes}
    return {key: list(found) if isinstance(found, tuple) else found for key, found in named.items()}


def rebuild(
    kind: str, attributes: Mapping[str, object], tensors: Mapping[str, NDArray[np.generic]]
) -> Encoding:
    """Make the encoding that came apart as ``attributes`` and ``tensors``.

    KeyError names what is missing or left over, ValueError what does not fit.

    >>> from kernels.encodings import encode_csr
    >>> e = encode_csr(np.eye(3, dtype=np.float32))
    >>> digest(rebuild("csr", attributes(e), tensors(e))) == digest(e)
    True
    """
    if kind not in ENCODINGS:
        raise KeyError(f"encoding: found {kind!r}, expected one of {sorted(ENCODINGS)}")
    cls = ENCODINGS[kind]
    row = ROWS[cls]
    optional = {"zero_point"}
    if attributes.get("bits") in FLOAT_BITS:
        optional.add("scale")
    missing = [f"tensor {name}" for name in row.tensors if name not in {*tensors, *optional}]
    missing += [f"attribute {name}" for name in row.attributes if name not in attributes]
    extra = [f"tensor {name}" for name in tensors if name not in row.tensors]
    extra += [f"attribute {name}" for name in attributes if name not in row.attributes]
    if missing or extra:
        raise KeyError(
            f"{kind} encoding: missing {missing or 'nothing'}, left over {extra or 'nothing'}"
        )
    fields: dict[str, object] = {name: tensors.get(name) for name in row.tensors}
    fields |= {name: _attribute(kind, name, attributes[name]) for name in row.attributes}
    made = checked(cls(**fields))
    _check_codes(made)
    return made


def _attribute(kind: str, name: str, found: object) -> int | str | tuple[int, ...]:
    """Return a whole number, the sizes of a shape or block, or the name of a number."""
    if name == "number":
        return str(found)
    sizes = found if isinstance(found, list | tuple) else [found]
    are_whole = all(isinstance(size, int) and not isinstance(size, bool) for size in sizes)
    if not are_whole or isinstance(found, list | tuple) != (name in {"shape", "block"}):
        expected = "a list of integers" if name in {"shape", "block"} else "an integer"
        raise ValueError(f"{kind} encoding: {name}: found {found!r}, expected {expected}")
    return tuple(sizes) if name in {"shape", "block"} else found


def _check_codes(e: Encoding) -> None:
    """ValueError for a symmetric code below the range that kernels compute with."""
    if scales(e) is None or isinstance(e, Binary) or zero_points(e) is not None:
        return
    lowest = -CODE_LIMITS[value_bits(e)]
    found = codes(e).min(initial=0)
    if found < lowest:
        raise ValueError(
            f"{kind(e)} encoding: payload: found code {found}, expected at least {lowest}, "
            "as codes are symmetric without zero points"
        )


def digest(e: Encoding) -> str:
    """sha256 in hex over kind, attributes and the bytes of every stored array."""
    state = hashlib.sha256()
    state.update(json.dumps([kind(e), attributes(e)], sort_keys=True).encode())
    for name, array in sorted(tensors(e).items()):
        state.update(f"{name}:{array.dtype.str}:{array.shape}".encode())
        state.update(np.ascontiguousarray(array).data)
    return state.hexdigest()
