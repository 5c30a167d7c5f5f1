"""Scores by relative position turned into scores by key."""

import numpy as np
from numpy.lib.stride_tricks import as_strided
from numpy.typing import NDArray

from kernels.arguments import FLOATS, require, told

F32 = NDArray[np.float32]


def rel_shift(scores: F32) -> F32:
    """View scores ``(T, T + S - 1)`` by relative position as ``(T, S)`` by key.

    Column c stands for the distance T - 1 - c from a query to a key before it, so
    out[i, j] = scores[i, T - 1 - i + j] (Dai et al. 2019, Transformer-XL, appendix B, where
    S = T). Heads may come before: ``(H, T, T + S - 1)`` gives ``(H, T, S)``. Nothing is copied;
    the view is read-only and its inner stride is one element.

    >>> rel_shift(np.arange(6, dtype=np.float32).reshape(2, 3)).tolist()
    [[1.0, 2.0], [3.0, 4.0]]
    """
    if not isinstance(scores, np.ndarray) or scores.ndim not in {2, 3}:
        raise ValueError(f"rel_shift: found {told(scores)}; expected 2 or 3 dimensions")
    require("rel_shift", FLOATS, scores.ndim, scores)
    rows, columns = scores.shape[-2:]
    keys = columns - rows + 1
    if rows < 1 or keys < 1 or scores.strides[-1] != scores.itemsize:
        raise ValueError(
            f"rel_shift: found {told(scores)} strides {scores.strides}; expected (T, T + S - 1) "
            "with T and S at least 1 and a unit inner stride"
        )
    step = scores.strides[-2] - scores.itemsize
    return as_strided(
        scores[..., rows - 1 :],
        (*scores.shape[:-1], keys),
        (*scores.strides[:-2], step, scores.itemsize),
        writeable=False,
    )
