"""Layouts of scattered nonzeros, or nonzero 4 x 4 blocks, in blocks of outputs and columns."""

import functools
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from kernels.exact import require_exact
from kernels.memory import aligned_zeros
from kernels.registry import Arguments, Layout, Matrix
from kernels.sparse_tiles import EDGE

STEP_BLOCK, LONG_STEP_BLOCK = 96, 128
"""Columns per block: 96 lines of 64 floats are 24 KiB; few nonzeros gain from fewer blocks."""
NARROW_STEP_BLOCK = 384
"""The same for tiles of 16 floats a line: few rows of activations, or 4 x 4 blocks."""
LONG_DENSITY = 0.15
OUTPUT_BLOCK = 512
"""Outputs per block: their sums for 64 rows, 128 KiB, stay in a 512 KiB L2."""
SLACK = 8
"""Values after the last that may be read; the widened codes of a line have as many."""
LINE_BYTES = 4 * (NARROW_STEP_BLOCK * EDGE + SLACK)
"""Room for the longest line's values as floats."""


def step_block(density: float) -> int:
    """Columns per block for a share of nonzeros and many rows of activations."""
    return STEP_BLOCK if density > LONG_DENSITY else LONG_STEP_BLOCK


def blocks_of(table: NDArray[Any], edge: int) -> NDArray[Any]:
    """Return the table by blocks ``(ceil(n / edge), ceil(k / edge), edge steps, edge outputs)``."""
    n, k = table.shape
    padded = np.zeros((-(-n // edge) * edge, -(-k // edge) * edge), table.dtype)
    padded[:n, :k] = table
    split = padded.reshape(padded.shape[0] // edge, edge, padded.shape[1] // edge, edge)
    return split.transpose(0, 2, 3, 1)


def pack(matrix: Matrix, edge: int = 1, *, is_narrow: bool = False) -> Arguments:
    """Nonzeros by block of 512 outputs, block of columns, and output; then indices and sizes.

    With ``edge`` 4 blocks of 4 x 4 stand for single weights, ``[4 steps][4 outputs]`` each, and
    rows of blocks for outputs. Within a pair of output and column blocks the outputs come by
    falling number of nonzeros: loops of equal length in sequence are what a CPU predicts. A line
    is one output of a pair: ``rows`` is its place in the output block and ``starts`` where its
    ``values`` and ``columns`` (counted from the block's first) are. Outputs without nonzeros have
    a line in the first column block only, which starts the sums. ``pairs`` says where the lines of
    each pair start, and ``places (outputs, column blocks)`` which line holds an output, -1 for
    none. Last n, k, columns per block and edge. A narrow layout has longer blocks of columns.
    """
    n, k = matrix.shape
    table = blocks_of(matrix.values, edge)
    nonzero = (table != 0).any(axis=(2, 3))
    step = NARROW_STEP_BLOCK if is_narrow else step_block(float(nonzero.mean()))
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


def _pack_codes(matrix: Matrix, edge: int = 1, *, is_narrow: bool = False) -> Arguments:
    require_exact(matrix.values, "sparse panel")
    return pack(matrix, edge, is_narrow=is_narrow)


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


def _layout(name: str, packer: Callable[..., Arguments], edge: int, *, is_narrow: bool) -> Layout:
    return Layout(name, functools.partial(packer, edge=edge, is_narrow=is_narrow), _rows)


CSR_F32 = _layout("csr_f32", pack, 1, is_narrow=False)
CSR_I8 = _layout("csr_i8", _pack_codes, 1, is_narrow=False)
NARROW_F32 = _layout("narrow_csr_f32", pack, 1, is_narrow=True)
NARROW_I8 = _layout("narrow_csr_i8", _pack_codes, 1, is_narrow=True)
SQUARES_F32 = _layout("squares_f32", pack, EDGE, is_narrow=True)
SQUARES_I8 = _layout("squares_i8", _pack_codes, EDGE, is_narrow=True)
