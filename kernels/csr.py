"""Layouts of scattered nonzeros, or nonzero 4 x 4 blocks, in blocks of outputs and columns."""

import functools
from typing import Any

import numpy as np
from numpy.typing import NDArray

from kernels.exact import require_exact
from kernels.memory import aligned_zeros
from kernels.registry import Arguments, Layout, Matrix
from kernels.sparse_tiles import EDGE

STEP_BLOCK, LONG_STEP_BLOCK = 96, 128
"""Columns per block: 96 lines of 64 floats are 24 KiB; few nonzeros gain from fewer blocks."""
SQUARE_STEP_BLOCK = 384
"""The same for 4 x 4 blocks, on lines of 16 floats."""
LONG_DENSITY = 0.15
OUTPUT_BLOCK = 512
"""Outputs per block: their sums for 64 rows, 128 KiB, stay in a 512 KiB L2."""
SLACK = 8
"""Values after the last that may be read; the widened codes of a line have as many."""
LINE_BYTES = 4 * (SQUARE_STEP_BLOCK * EDGE + SLACK)
"""Room for the longest line's values as floats."""


def step_block(density: float, edge: int = 1) -> int:
    """Columns per block for a share of nonzeros, or of blocks of ``edge`` columns."""
    if edge == EDGE:
        return SQUARE_STEP_BLOCK
    return STEP_BLOCK if density > LONG_DENSITY else LONG_STEP_BLOCK


def _blocks_of(table: NDArray[Any], edge: int) -> NDArray[Any]:
    """Return the table by blocks ``(ceil(n / edge), ceil(k / edge), edge steps, edge outputs)``."""
    n, k = table.shape
    padded = np.zeros((-(-n // edge) * edge, -(-k // edge) * edge), table.dtype)
    padded[:n, :k] = table
    split = padded.reshape(padded.shape[0] // edge, edge, padded.shape[1] // edge, edge)
    return split.transpose(0, 2, 3, 1)


def pack(matrix: Matrix, edge: int = 1) -> Arguments:
    """Nonzeros by block of 512 outputs, block of columns, and output; then indices and sizes.

    With ``edge`` 4 blocks of 4 x 4 stand for single weights, ``[4 steps][4 outputs]`` each, and
    rows of blocks for outputs. Within a pair of output and column blocks the outputs come by
    falling number of nonzeros: loops of equal length in sequence are what a CPU predicts. A line
    is one output of a pair: ``rows`` is its place in the output block and ``starts`` where its
    ``values`` and ``columns`` (counted from the block's first) are. Outputs without nonzeros have
    a line in the first column block only, which starts the sums. ``pairs`` says where the lines of
    each pair start, and ``places (outputs, column blocks)`` which line holds an output, -1 for
    none. Last n, k, columns per block and edge.
    """
    n, k = matrix.shape
    table = _blocks_of(matrix.values, edge)
    nonzero = (table != 0).any(axis=(2, 3))
    step = step_block(np.count_nonzero(nonzero) / nonzero.size, edge)
    blocks, height, width = -(-k // step), OUTPUT_BLOCK // edge, step // edge
    values, columns, rows, counts, pairs = [], [], [], [], [0]
    places = np.full((table.shape[0], blocks), -1, np.int64)
    for n0 in range(0, table.shape[0], height):
        for index in range(blocks):
            part = (slice(n0, n0 + height), slice(index * width, (index + 1) * width))
            count = np.count_nonzero(nonzero[part], axis=1)
            order = np.argsort(-count, kind="stable")
            if index:
                order = order[count[order] > 0]
            kept = nonzero[part][order]
            values.append(table[part][order][kept].reshape(-1))
            columns.append(np.nonzero(kept)[1].astype(np.uint16))
            rows.append(order.astype(np.int32))
            counts.append(count[order])
            places[n0 + order, index] = pairs[-1] + np.arange(order.size)
            pairs.append(pairs[-1] + order.size)
    starts = np.zeros(pairs[-1] + 1, np.int64)
    np.cumsum(np.concatenate(counts), out=starts[1:])
    packed = aligned_zeros((int(starts[-1]) * edge * edge + SLACK,), table.dtype)
    packed[:-SLACK] = np.concatenate(values)
    return (
        packed,
        np.concatenate(columns),
        np.concatenate(rows),
        starts,
        np.array(pairs, np.int64),
        places.reshape(-1),
        n,
        k,
        step,
        edge,
    )


def _pack_codes(matrix: Matrix, edge: int = 1) -> Arguments:
    require_exact(matrix.values, "sparse panel")
    return pack(matrix, edge)


def _rows(arguments: Arguments, ids: NDArray[np.int64]) -> NDArray[np.float32]:
    """Rows ``(R, k)`` of the weights in blocks."""
    values, columns, _, starts, _, places, n, k, step, edge = arguments
    kept = values[:-SLACK].reshape(-1, edge, edge)
    found = np.zeros((ids.size, -(-k // edge), edge), np.float32)
    lines = places.reshape(-(-n // edge), -1)[ids // edge]
    for r, index in zip(*np.nonzero(lines >= 0), strict=True):
        part = slice(starts[lines[r, index]], starts[lines[r, index] + 1])
        found[r, index * (step // edge) + columns[part]] = kept[part, :, ids[r] % edge]
    return found.reshape(ids.size, -1)[:, :k]


CSR_F32 = Layout("csr_blocks_f32", pack, _rows)
CSR_I8 = Layout("csr_blocks_i8", _pack_codes, _rows)
SQUARES_F32 = Layout("squares_f32", functools.partial(pack, edge=EDGE), _rows)
SQUARES_I8 = Layout("squares_i8", functools.partial(_pack_codes, edge=EDGE), _rows)
