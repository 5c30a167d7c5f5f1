"""Which arrays belong together in attention."""

import numpy as np
from numpy.typing import NDArray

from kernels.jit import compiled


@compiled
def fits(q, k, v, out):
    """Tell whether the shapes belong together and every inner stride is one element."""
    heads, rows, depth = q.shape
    length = k.shape[1]
    if heads * rows * depth * length == 0 or k.shape != v.shape:
        return False
    if k.shape[0] != heads or k.shape[2] != depth:
        return False
    if out.shape[0] != rows or out.shape[1] != heads * depth:
        return False
    flat = q.strides[2] == q.itemsize and k.strides[2] == k.itemsize
    flat = flat and v.strides[2] == v.itemsize
    return (depth == 1 or flat) and (out.shape[1] == 1 or out.strides[1] == out.itemsize)


def misfit(name: str, *arrays: NDArray[np.generic]) -> str:
    """Message about q, k, v and out that ``fits`` refuses."""
    q, k, v, out = (f"{a.dtype} {a.shape} strides {a.strides}" for a in arrays)
    return (
        f"{name}: found q {q}, k {k}, v {v}, out {out}; expected q (H, T, D), k and v (H, S, D) "
        "and out (T, H * D), none empty, with unit inner strides"
    )
