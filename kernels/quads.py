"""Panels of 8-bit and 4-bit weight codes: 16 outputs side by side, four steps of k together.

Four steps are a quad: ``[ceil(n / 16)][ceil(k / 4)][16][4]`` bytes of code + 127, or
``[..][..][32]`` bytes of two codes + 7 each (outputs 0 to 7 low, 8 to 15 high).
"""

import numpy as np
from numpy.typing import NDArray

from kernels.memory import aligned_zeros
from kernels.registry import Arguments, Layout

WIDTH, QUAD = 16, 4
OFFSET_8, OFFSET_4 = 127, 7
SLACK_BYTES = 32 * WIDTH * QUAD
"""Bytes after the last panel that a kernel may read past it, against activations that are 0."""
LONGEST_K = 2**31 // (127 * 127)
"""Beyond this many steps a sum of products may not fit int32."""


def _quads(table: NDArray[np.int8], offset: int) -> NDArray[np.uint8]:
    """Codes plus offset as ``[panels][quads][16][4]``, code 0 in the padding."""
    n, k = table.shape
    if k > LONGEST_K:
        raise ValueError(f"integer panel: found k {k}, expected at most {LONGEST_K} for int32 sums")
    padded = np.full((-(-n // WIDTH) * WIDTH, -(-k // QUAD) * QUAD), offset, np.uint8)
    padded[:n, :k] = table.view(np.uint8) + np.uint8(offset)
    return padded.reshape(-1, WIDTH, padded.shape[1] // QUAD, QUAD).transpose(0, 2, 1, 3)


def _with_slack(quads: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Copy to one run of bytes with room to read past it: activations are padded with zeros."""
    panels = aligned_zeros((quads.size + SLACK_BYTES,), np.uint8)
    panels[: quads.size].reshape(quads.shape)[...] = quads
    return panels


def _pack_8(table: NDArray[np.int8]) -> Arguments:
    quads = _quads(table, OFFSET_8)
    return (_with_slack(quads), *table.shape, 0)


def _rows_8(arguments: Arguments, ids: NDArray[np.int64]) -> NDArray[np.float32]:
    panels, _, k, _ = arguments
    quads = panels[:-SLACK_BYTES].reshape(-1, -(-k // QUAD), WIDTH, QUAD)
    found = quads[ids // WIDTH, :, ids % WIDTH].reshape(len(ids), -1)[:, :k]
    return np.subtract(found, np.float32(OFFSET_8), dtype=np.float32)


def _pack_4(table: NDArray[np.int8]) -> Arguments:
    if table.size and np.abs(table).max() > OFFSET_4:
        raise ValueError(f"4-bit panel: found a code beyond {OFFSET_4}")
    quads = _quads(table, OFFSET_4)
    packed = quads[:, :, :8] | (quads[:, :, 8:] << np.uint8(4))
    return (_with_slack(packed), *table.shape, 1)


def _rows_4(arguments: Arguments, ids: NDArray[np.int64]) -> NDArray[np.float32]:
    panels, _, k, _ = arguments
    quads = panels[:-SLACK_BYTES].reshape(-1, -(-k // QUAD), WIDTH // 2, QUAD)
    lane = ids % WIDTH
    found = quads[ids // WIDTH, :, lane % 8].reshape(len(ids), -1)[:, :k]
    codes = (found >> (lane // 8 * 4).astype(np.uint8)[:, None]) & np.uint8(15)
    return np.subtract(codes, np.float32(OFFSET_4), dtype=np.float32)


PANELS_8 = Layout("panels_8", _pack_8, _rows_8)
PANELS_4 = Layout("panels_4", _pack_4, _rows_4)
