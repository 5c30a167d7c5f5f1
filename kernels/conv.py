"""The zero-padded time-major workspace that makes a 1-D convolution a linear layer.

In a workspace of ``(padding + T + padding, C)`` the inputs of output frame t are the
``size * C`` consecutive numbers from row ``stride * t`` on. A linear layer over these overlapping
rows, with weights ordered (size, C), is the convolution; no column matrix is ever made.
"""

import numpy as np
from numpy.lib.stride_tricks import as_strided
from numpy.typing import NDArray

Codes = NDArray[np.float32] | NDArray[np.int8]


def pad_time(x: Codes, workspace: Codes, *, padding: int) -> None:
    """Copy ``x (T, C)``, any strides, between ``padding`` rows of zeros of the workspace.

    A channel-major ``(C, T)`` array is passed as its transpose.

    >>> work = np.empty((4, 1), np.float32)
    >>> pad_time(np.array([[1.0], [2.0]], np.float32), work, padding=1)
    >>> work[:, 0].tolist()
    [0.0, 1.0, 2.0, 0.0]
    """
    frames, channels = x.shape
    if workspace.shape != (frames + 2 * padding, channels) or workspace.dtype != x.dtype:
        raise ValueError(
            f"pad_time: workspace: found {workspace.dtype} {workspace.shape}, expected {x.dtype} "
            f"{(frames + 2 * padding, channels)}"
        )
    workspace[:padding] = 0
    workspace[padding : padding + frames] = x
    workspace[padding + frames :] = 0


def windows(workspace: Codes, *, size: int, stride: int) -> Codes:
    """View a contiguous workspace as overlapping rows ``(frames, size * C)``, one per output.

    >>> windows(np.arange(5, dtype=np.float32).reshape(5, 1), size=3, stride=2).tolist()
    [[0.0, 1.0, 2.0], [2.0, 3.0, 4.0]]
    """
    rows, channels = workspace.shape
    if size < 1 or stride < 1 or rows < size or not workspace.flags.c_contiguous:
        raise ValueError(
            f"windows: found size {size}, stride {stride} over a workspace {workspace.shape} with "
            f"strides {workspace.strides}; expected size in [1, {rows}], stride at least 1, "
            "contiguous rows"
        )
    frames = (rows - size) // stride + 1
    step = workspace.strides[0]
    return as_strided(workspace, (frames, size * channels), (stride * step, workspace.itemsize))
