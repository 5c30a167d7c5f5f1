"""The loop nest of one GEMM: its blocks in order, and how long each of them keeps an operand."""

from collections.abc import Iterator, Sequence
from itertools import groupby
from operator import itemgetter
from typing import NamedTuple

from hwmodels.mapping import Mapping


class Block(NamedTuple):
    """What one step computes in product number `product`.

    Result rows `m`, columns `n` and part `k` of the sum, each as (start, stop).
    """

    product: int
    m: tuple[int, int]
    n: tuple[int, int]
    k: tuple[int, int]

    @property
    def rows(self) -> int:
        """Activation rows."""
        return self.m[1] - self.m[0]

    @property
    def columns(self) -> int:
        """Result columns."""
        return self.n[1] - self.n[0]

    @property
    def depth(self) -> int:
        """Products summed into each result."""
        return self.k[1] - self.k[0]


class Stay(NamedTuple):
    """Which part of an operand a block uses, if it comes for it, and if it may go behind it."""

    key: tuple[int, ...]
    comes: bool
    goes: bool


def blocks_of(mapping: Mapping, products: int, m: int, n: int, k: int) -> Iterator[Block]:
    """Yield the blocks in order: products, then the loops of the mapping, chunks innermost.

    The inner loop passes once for all held tiles of the outer one, which each of its rounds visits
    one after the other.
    """
    rows, columns, held = mapping.row_tiles(m), mapping.column_panels(n), mapping.held_tiles
    if mapping.order == "weights_outer":
        groups = [columns[at : at + held] for at in range(0, len(columns), held)]
        tiles = [(row, column) for group in groups for row in rows for column in group]
    else:
        groups = [rows[at : at + held] for at in range(0, len(rows), held)]
        tiles = [(row, column) for group in groups for column in columns for row in group]
    chunks = mapping.chunks(k)
    for index in range(products):
        for row, column in tiles:
            for chunk in chunks:
                yield Block(index, row, column, chunk)


def stays(
    mapping: Mapping, source: int, blocks: Sequence[Block], *, is_here: bool, is_kept: bool
) -> list[Stay]:
    """Return for each block how it uses operand number `source`: 0 activations, 1 weights.

    A unit over all of k comes in one part per chunk, each for the first block that uses it, and
    goes in such parts behind the last ones. What is kept on chip comes once. Held tiles of the
    outer loop stay from their first block to their last; everything else goes when the next block
    needs another unit.
    """
    units = [(block.product, (block.m, block.n)[source][0]) for block in blocks]
    keys = [(*unit, block.k[0]) for unit, block in zip(units, blocks, strict=True)]
    if is_here:
        return [Stay(key, comes=False, goes=False) for key in keys]
    is_outer = mapping.order == ("activations_outer", "weights_outer")[source]
    if is_kept or (is_outer and mapping.held_tiles > 1):
        return _within(keys, is_kept=is_kept)
    is_chunk = (mapping.input_unit, mapping.weight_unit)[source] == "chunk"
    runs = groupby(keys, key=None if is_chunk else itemgetter(0, 1))
    return [stay for _, run in runs for stay in _within(list(run), is_kept=False)]


def _within(keys: Sequence[tuple[int, ...]], *, is_kept: bool) -> list[Stay]:
    """Return how blocks use parts that stay from their first use to their last, or for good."""
    last = {key: number for number, key in enumerate(keys)}
    first = {key: number for number, key in reversed(list(enumerate(keys)))}
    return [
        Stay(key, first[key] == number, not is_kept and last[key] == number)
        for number, key in enumerate(keys)
    ]
