"""Arrays that start on a cache line."""

import math

import numpy as np
from numpy.typing import DTypeLike, NDArray

LINE_BYTES = 64


def aligned_zeros(shape: tuple[int, ...], dtype: DTypeLike) -> NDArray[np.generic]:
    """Zeros whose first byte is at a multiple of 64, so that no vector crosses a cache line."""
    size = math.prod(shape) * np.dtype(dtype).itemsize
    raw = np.zeros(size + LINE_BYTES, np.uint8)
    start = -raw.ctypes.data % LINE_BYTES
    return raw[start : start + size].view(dtype).reshape(shape)
