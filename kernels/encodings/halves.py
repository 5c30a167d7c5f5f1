"""Floats of 16 bits: IEEE half precision (f16) and the upper half of float32 (bf16)."""

from typing import Any, Literal, get_args

import numpy as np
from numpy.typing import NDArray

F32 = NDArray[np.float32]
Halves = NDArray[np.float16] | NDArray[np.uint16]
"""float16 values, or the bits of bfloat16 ones, for which numpy has no type."""
HalfNumber = Literal["f16", "bf16"]
HALF_NUMBERS: tuple[HalfNumber, ...] = get_args(HalfNumber)
HALF_TYPES: dict[HalfNumber, type[np.float16] | type[np.uint16]] = {
    "f16": np.float16,
    "bf16": np.uint16,
}


def narrowed(values: NDArray[np.floating[Any]], number: HalfNumber) -> Halves:
    """Round values to 16 bits, to nearest and half to even; NaN stays NaN.

    ValueError where a finite value is beyond the largest one of the format.

    >>> narrowed(np.array([1.0, -2.5]), "bf16").tolist() == [0x3F80, 0xC020]
    True
    """
    if number not in HALF_NUMBERS:
        raise ValueError(f"number: found {number!r}, expected one of {', '.join(HALF_NUMBERS)}")
    single = np.ascontiguousarray(values, np.float32)
    if number == "f16":
        with np.errstate(over="ignore"):  # refused below, with what is too large
            made: Halves = single.astype(np.float16)
    else:
        bits = single.view(np.uint32)
        rounded = bits + np.uint32(0x7FFF) + ((bits >> np.uint32(16)) & np.uint32(1))
        quiet = bits | np.uint32(1 << 22)
        made = (np.where(np.isnan(single), quiet, rounded) >> np.uint32(16)).astype(np.uint16)
    too_large = np.isinf(widened(made)) & np.isfinite(single)
    if too_large.any():
        raise ValueError(f"found {single[too_large].flat[0]}, which is beyond what {number} holds")
    return made


def widened(halves: NDArray[Any]) -> F32:
    """Return exactly the same values as float32.

    >>> widened(np.array([0x3F80, 0xC020], np.uint16)).tolist()
    [1.0, -2.5]
    """
    if halves.dtype == np.uint16:
        return (halves.astype(np.uint32) << np.uint32(16)).view(np.float32)
    return halves.astype(np.float32)


def number_of(halves: NDArray[Any]) -> HalfNumber:
    """Return which of the two formats an array holds."""
    return "bf16" if halves.dtype == np.uint16 else "f16"
