"""Tiles and loop order of one GEMM under the buffer sizes.

A product is cut into tiles of `tile_m` activation rows, panels of `tile_n` result columns and
chunks of `tile_k` along the sum; sizes need not divide anything. Along the dimensions that lie on
the array's rows and columns, tiles are whole folds; the dimension that passes through in time is
cut anywhere. No partial sum ever goes to memory: where weights or activations stay in the cells,
the sums of a tile and panel stay in the output buffer over all chunks. Where results stay, so they
do in the cells if the tile is one fold; those of larger ones leave their cells behind every chunk
and are added up in the output buffer.
"""

from dataclasses import dataclass
from itertools import pairwise
from typing import Literal

from hwmodels.architecture import Architecture, MappingChoice, ProcessingArray
from hwmodels.dataflow import DATAFLOWS, Axis, Grains, grains

# Moving 1 MiB takes 4 us at 256 GB/s, a hundred memory latencies: longer units gain nothing.
LARGEST_UNIT_BYTES = 1 << 20

Order = Literal["weights_outer", "activations_outer"]
Unit = Literal["whole_k", "chunk"]
ORDERS: tuple[Order, ...] = ("weights_outer", "activations_outer")


@dataclass(frozen=True)
class Room:
    """Bytes that one step may hold of each buffer.

    Of an operand buffer it holds one unit while the next step's unit arrives, and what two units
    leave keeps resident tensors. Of the output buffer it holds half while the tile before is being
    emptied.
    """

    input_bytes: int
    weight_bytes: int
    output_bytes: int


def room(architecture: Architecture) -> Room:
    """Return the bytes that one step may hold on this chip."""
    buffers, share = architecture.buffers, architecture.mapping.resident_share
    return Room(
        unit_bytes(buffers.input.size_bytes, share),
        unit_bytes(buffers.weight.size_bytes, share),
        buffers.output.size_bytes // 2,
    )


def unit_bytes(size_bytes: int, share: float = MappingChoice.resident_share) -> int:
    """Return the largest unit that streams through an operand buffer.

    Half of what the resident share leaves, but not more than LARGEST_UNIT_BYTES.
    """
    return min((size_bytes - int(size_bytes * share)) // 2, LARGEST_UNIT_BYTES)


def resident_bytes(size_bytes: int, share: float = MappingChoice.resident_share) -> int:
    """Return how much of an operand buffer keeps resident tensors: what two units leave.

    Both this and a unit grow with the buffer, byte by byte.
    """
    return max(int(size_bytes * share), size_bytes - 2 * LARGEST_UNIT_BYTES)


@dataclass(frozen=True)
class Shape:
    """One product as the mapper sees it; the bytes are those of one product.

    `input_bytes` and `weight_bytes` are loaded, `stored_bytes` of results go to memory, and
    `array_input_bytes` of activations enter the array in one pass, a convolution's after im2col.
    `is_input_kept` says that the activations are on chip, or stay there once loaded; likewise
    `is_weight_kept`. Of an operand that lies by row, each row or column of the product over all of
    k, a chunk is as many runs of bytes; of others it is one run.
    """

    m: int
    n: int
    k: int
    input_bytes: int
    weight_bytes: int
    is_input_kept: bool
    is_weight_kept: bool
    array_input_bytes: int = 0
    stored_bytes: int = 0
    is_input_by_row: bool = True
    is_weight_by_row: bool = False

    @property
    def sizes(self) -> dict[Axis, int]:
        """m, n and k by name."""
        return {"m": self.m, "n": self.n, "k": self.k}


@dataclass(frozen=True)
class Mapping:
    """How one product is cut and in which order its steps run.

    `input_unit` and `weight_unit` say what stays on chip at a time: the operand of a tile or panel
    over all of k, which comes and goes chunk by chunk, or one chunk of it, which is a multiple of
    `fold_k`. Of the outer loop's operand `held_tiles` such tiles or panels stay while the inner
    loop passes once; more than one only over all of k. `dram_bytes` counts operands as loaded once
    per use that finds them gone.
    """

    dataflow: str
    order: Order
    tile_m: int
    tile_n: int
    tile_k: int
    input_unit: Unit
    weight_unit: Unit
    dram_bytes: int
    fold_k: int = 1
    held_tiles: int = 1

    def describe(self) -> str:
        """Return the mapping as a short text, `4 x n32` where four panels of 32 stay."""
        held = f"{self.held_tiles} x " if self.held_tiles > 1 else ""
        in_m, in_n = (held, "") if self.order == "activations_outer" else ("", held)
        return f"{self.order} {in_m}m{self.tile_m} {in_n}n{self.tile_n} k{self.tile_k}"

    def row_tiles(self, m: int) -> list[tuple[int, int]]:
        """Return (start, stop) of the tiles of m rows."""
        return self._cut("m", m, self.tile_m)

    def column_panels(self, n: int) -> list[tuple[int, int]]:
        """Return (start, stop) of the panels of n columns."""
        return self._cut("n", n, self.tile_n)

    def chunks(self, k: int) -> list[tuple[int, int]]:
        """Return (start, stop) of the chunks of a sum of k terms: whole folds, about equal.

        A short last chunk would leave too little time to load a long next one behind it.
        """
        folds = even_parts(-(-k // self.fold_k), -(-k // self.tile_k))
        return [(start * self.fold_k, min(stop * self.fold_k, k)) for start, stop in folds]

    def _cut(self, axis: Axis, size: int, tile: int) -> list[tuple[int, int]]:
        if DATAFLOWS[self.dataflow].time == axis:
            return even_parts(size, -(-size // tile))
        return panels(size, tile)


def even_tiles(size: int, count: int) -> tuple[int, ...]:
    """Return `count` tile sizes that differ by at most one and sum to `size`."""
    return tuple(lengths(even_parts(size, count)))


def even_parts(size: int, count: int) -> list[tuple[int, int]]:
    """Return (start, stop) of `count` parts of `size` whose lengths differ by at most one.

    Example:
        >>> even_parts(499, 4)
        [(0, 124), (124, 249), (249, 374), (374, 499)]

    """
    return list(pairwise(size * i // count for i in range(count + 1)))


def panels(size: int, width: int) -> list[tuple[int, int]]:
    """Return (start, stop) of panels of `width`, the last one as narrow as it must be."""
    return [(start, min(start + width, size)) for start in range(0, size, width)]


def lengths(parts: list[tuple[int, int]]) -> list[int]:
    """Return the sizes of parts given by (start, stop)."""
    return [stop - start for start, stop in parts]


def array_passes(m: int, n: int, array: ProcessingArray, mapping: Mapping) -> tuple[int, int]:
    """Return how often all activations and all weights of a product enter the array.

    What stays enters once per tile of what passes; what passes enters once per block of folds
    along the dimension it does not have.
    """
    grain = array_grains(array)
    row_blocks, column_blocks = -(-m // grain["m"]), -(-n // grain["n"])
    if array.dataflow == "weight_stationary":
        row_blocks = -(-m // mapping.tile_m)
    if array.dataflow == "input_stationary":
        column_blocks = -(-n // mapping.tile_n)
    return column_blocks, row_blocks


def may_leave(array: ProcessingArray) -> bool:
    """Whether sums that stay in the cells may leave them before they are complete.

    Not where scale groups part them already, nor where zeros are left out of whole sums.
    """
    is_plain = not array.pace.group and array.sparsity == "dense"
    return DATAFLOWS[array.dataflow].time == "k" and is_plain


def is_leaving(array: ProcessingArray, mapping: Mapping, *, m: int, n: int, k: int) -> bool:
    """Whether sums leave the cells they stay in behind every chunk of a product's sum."""
    grain = array_grains(array)
    is_one_fold = min(mapping.tile_m, m) <= grain["m"] and min(mapping.tile_n, n) <= grain["n"]
    return DATAFLOWS[array.dataflow].time == "k" and mapping.tile_k < k and not is_one_fold


def sum_bytes(array: ProcessingArray) -> int:
    """Return the whole bytes of one partial sum."""
    return -(-array.accumulator_bits // 8)


def array_grains(array: ProcessingArray) -> Grains:
    """Return how much of m, n and k one fold of this array takes, 1 for what passes in time."""
    return grains(array.dataflow, rows=array.rows, columns=array.columns)


def smallest_tile_bytes(array: ProcessingArray, m: int, n: int) -> int:
    """Return the bytes of the results of one fold that passes one element, all that must fit."""
    grain = array_grains(array)
    return min(grain["m"], m) * min(grain["n"], n) * sum_bytes(array)


def counts(shape: Shape, mapping: Mapping) -> tuple[int, int, int]:
    """Return the number of tiles, panels and chunks."""
    return (
        -(-shape.m // mapping.tile_m),
        -(-shape.n // mapping.tile_n),
        -(-shape.k // mapping.tile_k),
    )


def operand_traffic(shape: Shape, mapping: Mapping) -> tuple[int, int]:
    """Return the DRAM bytes of activations and weights of one product, before burst rounding.

    An operand unit is loaded again whenever the step before used another unit of that operand:
    inner-loop operands once per outer iteration, outer-loop operands once, or once per inner
    iteration when they come in chunks. All held tiles share one outer iteration, but for chunks,
    which each of them needs anew. Kept operands are loaded once.
    """
    tiles, parts, chunks = counts(shape, mapping)
    input_chunks = chunks if mapping.input_unit == "chunk" else 1
    weight_chunks = chunks if mapping.weight_unit == "chunk" else 1
    if mapping.order == "weights_outer":
        passes = parts if input_chunks > 1 else -(-parts // mapping.held_tiles)
        input_times = passes if tiles * input_chunks > 1 else 1
        weight_times = tiles if weight_chunks > 1 else 1
    else:
        passes = tiles if weight_chunks > 1 else -(-tiles // mapping.held_tiles)
        weight_times = passes if parts * weight_chunks > 1 else 1
        input_times = parts if input_chunks > 1 else 1
    return (
        shape.input_bytes * (1 if shape.is_input_kept else input_times),
        shape.weight_bytes * (1 if shape.is_weight_kept else weight_times),
    )
