"""Checks before native code runs: type, byte order, alignment, dimensions, threads."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from kernels.jit import Entry

Array = NDArray[np.generic]
FLOATS = np.dtype(np.float32)
CODES = np.dtype(np.int8)


def require(name: str, dtype: np.dtype[np.generic], dimensions: int, *arrays: Array) -> None:
    """Raise TypeError unless all are arrays of ``dtype``; ValueError unless aligned and so deep.

    numba takes an array of foreign byte order or of odd addresses for a plain one, so this is
    asked here.
    """
    for array in arrays:
        if not isinstance(array, np.ndarray) or array.dtype != dtype:
            raise TypeError(f"{name}: found {told(array)}, expected an array of {dtype}")
        if array.ndim != dimensions or not array.flags.aligned:
            state = "" if array.flags.aligned else ", misaligned"
            raise ValueError(
                f"{name}: found {told(array)}{state}; expected {dimensions} dimensions, aligned"
            )


def on_threads(run: Entry, threads: int) -> Any:
    """Return the form of an entry for that many threads; ValueError for less than one."""
    if threads < 1:
        raise ValueError(
            f"{run.__name__.lstrip('_')}: threads: found {threads}, expected 1 or more"
        )
    return run if threads == 1 else run.ready_parallel()


def told(array: Array) -> str:
    """Say type and shape of an array, or what it is instead."""
    if not isinstance(array, np.ndarray):
        return type(array).__name__
    return f"{array.dtype} {array.shape}"
