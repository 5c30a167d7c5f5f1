"""Tiles and loop order of one GEMM under the buffer sizes.

A product is cut into tiles of `tile_m` activation rows, panels of `tile_n` result columns and
chunks of `tile_k` along the sum; sizes need not divide anything. Along the dimensions that lie on
the array's rows and columns, tiles are whole folds; the dimension that passes through in time is
cut anywhere. No partial sum is ever spilled: where weights or activations stay in the cells, the
sums of a tile and panel stay in the output buffer over all chunks. Where results stay, a tile whose
sum comes in chunks is one fold, so that its sums stay in the cells.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import lru_cache
from itertools import pairwise
from typing import Literal

from hwmodels.architecture import Architecture, ProcessingArray
from hwmodels.array import product
from hwmodels.costs import Costs, Work
from hwmodels.dataflow import DATAFLOWS, Axis, grains

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
    buffers = architecture.buffers
    return Room(
        unit_bytes(buffers.input.size_bytes),
        unit_bytes(buffers.weight.size_bytes),
        buffers.output.size_bytes // 2,
    )


def unit_bytes(size_bytes: int) -> int:
    """Return the largest unit that streams through an operand buffer.

    Three eighths of the buffer, but not more than LARGEST_UNIT_BYTES.
    """
    return min((size_bytes - size_bytes // 4) // 2, LARGEST_UNIT_BYTES)


def resident_bytes(size_bytes: int) -> int:
    """Return how much of an operand buffer keeps resident tensors: what two units leave.

    Both this and a unit grow with the buffer, byte by byte.
    """
    return max(size_bytes // 4, size_bytes - 2 * LARGEST_UNIT_BYTES)


@dataclass(frozen=True)
class Shape:
    """One product as the mapper sees it; the bytes are those of one product.

    `input_bytes` and `weight_bytes` are loaded, `stored_bytes` of results go to memory, and
    `array_input_bytes` of activations enter the array in one pass, a convolution's after im2col.
    `is_input_kept` says that the activations are on chip, or stay there once loaded; likewise
    `is_weight_kept`.
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

    @property
    def sizes(self) -> dict[Axis, int]:
        """m, n and k by name."""
        return {"m": self.m, "n": self.n, "k": self.k}


@dataclass(frozen=True)
class Mapping:
    """How one product is cut and in which order its steps run.

    `input_unit` and `weight_unit` say what is loaded at a time: the operand of a tile or panel over
    all of k, or one chunk of it. `dram_bytes` counts operands as loaded once per use that finds
    them gone.
    """

    dataflow: str
    order: Order
    tile_m: int
    tile_n: int
    tile_k: int
    input_unit: Unit
    weight_unit: Unit
    dram_bytes: int

    def describe(self) -> str:
        """Return the mapping as a short text."""
        return f"{self.order} m{self.tile_m} n{self.tile_n} k{self.tile_k}"

    def row_tiles(self, m: int) -> list[tuple[int, int]]:
        """Return (start, stop) of the tiles of m rows."""
        return self._cut("m", m, self.tile_m)

    def column_panels(self, n: int) -> list[tuple[int, int]]:
        """Return (start, stop) of the panels of n columns."""
        return self._cut("n", n, self.tile_n)

    def chunks(self, k: int) -> list[tuple[int, int]]:
        """Return (start, stop) of the chunks of a sum of k terms."""
        return panels(k, self.tile_k)

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


@lru_cache(maxsize=65536)
def map_product(shape: Shape, array: ProcessingArray, limits: Room, costs: Costs) -> Mapping:
    """Return the mapping of lowest cost, then fewest array cycles, then DRAM bytes, then steps.

    The search covers all numbers of panels along one dimension that lies on the array, both orders,
    and for the other dimension the largest tile with which results, a whole operand or a chunk of
    it fit. Smaller tiles leave everything as it is but their number, and with more of them neither
    array cycles nor any bytes get fewer: no mapping of all beats the best of these, whatever the
    objective.

    Raises ValueError naming each buffer that cannot hold one fold and the bytes it lacks.
    """
    _require_one_fold(shape, array, limits)
    best: tuple[tuple[float, int, int, int], Mapping] | None = None
    for cut in _cuts(shape, array, limits):
        candidate = _complete(shape, array, limits, cut)
        if candidate is None:
            continue
        cycles = array_cycles(shape, array, candidate)
        for order in ORDERS:
            ordered = _with_traffic(shape, candidate, order)
            cost = costs.of(work(shape, array, ordered, cycles))
            rank = (cost, cycles, ordered.dram_bytes, _steps(shape, ordered))
            if best is None or rank < best[0]:
                best = rank, ordered
    if best is None:
        raise ValueError(f"product m={shape.m} n={shape.n} k={shape.k}: no tiling fits {limits}")
    return best[1]


def _cuts(shape: Shape, array: ProcessingArray, limits: Room) -> Iterator[Mapping]:
    """Yield the tiles of rows and columns worth a try, each with the whole sum."""
    wide: Axis = "m" if DATAFLOWS[array.dataflow].time == "n" else "n"
    for width in _panel_widths(shape.sizes[wide], _grains(array)[wide]):
        for height in _tile_heights(shape, array, limits, wide, width):
            tile_m, tile_n = (width, height) if wide == "m" else (height, width)
            yield Mapping(
                array.dataflow, "weights_outer", tile_m, tile_n, shape.k, "whole_k", "whole_k", 0
            )


def _with_traffic(shape: Shape, mapping: Mapping, order: Order) -> Mapping:
    ordered = replace(mapping, order=order)
    return replace(ordered, dram_bytes=sum(operand_traffic(shape, ordered)))


def work(shape: Shape, array: ProcessingArray, mapping: Mapping, cycles: int) -> Work:
    """Return what one product does under a mapping that takes `cycles` of the array."""
    input_passes, weight_passes = array_passes(shape.m, shape.n, array, mapping)
    return Work(
        cycles,
        *operand_traffic(shape, mapping),
        input_passes * shape.array_input_bytes,
        weight_passes * shape.weight_bytes,
        shape.stored_bytes,
    )


def array_passes(m: int, n: int, array: ProcessingArray, mapping: Mapping) -> tuple[int, int]:
    """Return how often all activations and all weights of a product enter the array.

    What stays enters once per tile of what passes; what passes enters once per block of folds
    along the dimension it does not have.
    """
    grain = _grains(array)
    row_blocks, column_blocks = -(-m // grain["m"]), -(-n // grain["n"])
    if array.dataflow == "weight_stationary":
        row_blocks = -(-m // mapping.tile_m)
    if array.dataflow == "input_stationary":
        column_blocks = -(-n // mapping.tile_n)
    return column_blocks, row_blocks


def array_cycles(shape: Shape, array: ProcessingArray, mapping: Mapping) -> int:
    """Return the array cycles of one product without any wait."""
    return product(
        array,
        m_tiles=lengths(mapping.row_tiles(shape.m)),
        n_tiles=lengths(mapping.column_panels(shape.n)),
        k=shape.k,
    ).total


def _grains(array: ProcessingArray) -> dict[Axis, int]:
    return grains(array.dataflow, rows=array.rows, columns=array.columns)


def _sum_bytes(array: ProcessingArray) -> int:
    return -(-array.accumulator_bits // 8)


def smallest_tile_bytes(array: ProcessingArray, m: int, n: int) -> int:
    """Return the bytes of the results of one fold that passes one element, all that must fit."""
    grain = _grains(array)
    return min(grain["m"], m) * min(grain["n"], n) * _sum_bytes(array)


def _panel_widths(size: int, grain: int) -> list[int]:
    """Return the narrowest width for each possible number of panels, widest first."""
    blocks = -(-size // grain)
    widths = {-(-blocks // parts) for parts in range(1, blocks + 1)}
    return [grain * width for width in sorted(widths, reverse=True)]


def _tile_heights(
    shape: Shape, array: ProcessingArray, limits: Room, wide: Axis, width: int
) -> list[int]:
    """Return the largest tiles with which results, a whole operand or a chunk of it fit.

    They are those of the dimension that is not `wide`, for panels of `width` along that one.
    """
    tall: Axis = "n" if wide == "m" else "m"
    grain, size = _grains(array), shape.sizes[tall]
    operand, room_bytes, other = (
        (shape.input_bytes, limits.input_bytes, shape.n)
        if tall == "m"
        else (shape.weight_bytes, limits.weight_bytes, shape.m)
    )
    whole = -(-size // grain[tall])

    def blocks(fitting: int) -> int:
        return whole if fitting >= size else fitting // grain[tall]

    tallest = blocks(limits.output_bytes // (min(width, other) * _sum_bytes(array)))
    if tallest < 1:
        return []
    heights = {tallest}
    for depth in (shape.k, min(shape.k, grain["k"])):
        fits = blocks(room_bytes // max(1, _row_bytes(operand, size * shape.k, depth)))
        if 1 <= fits < tallest:
            heights.add(fits)
    if DATAFLOWS[array.dataflow].time == "k":
        heights.add(1)  # the only one whose sums may come in chunks
    even = {-(-whole // -(-whole // height)) for height in heights}
    return [grain[tall] * height for height in sorted(even, reverse=True)]


def _complete(
    shape: Shape, array: ProcessingArray, limits: Room, mapping: Mapping
) -> Mapping | None:
    """Return the mapping with the largest chunk that fits, None when not even one fold does."""
    grain = _grains(array)
    height, width = min(mapping.tile_m, shape.m), min(mapping.tile_n, shape.n)
    input_tile = -(-shape.input_bytes * height // shape.m)
    weight_tile = -(-shape.weight_bytes * width // shape.n)
    is_input_whole = shape.is_input_kept or input_tile <= limits.input_bytes
    is_weight_whole = shape.is_weight_kept or weight_tile <= limits.weight_bytes
    tile_k = shape.k
    if not is_input_whole:
        row = limits.input_bytes // height
        tile_k = min(tile_k, row * shape.m * shape.k // shape.input_bytes)
    if not is_weight_whole:
        row = limits.weight_bytes // width
        tile_k = min(tile_k, row * shape.n * shape.k // shape.weight_bytes)
    if tile_k < shape.k:
        tile_k = tile_k // grain["k"] * grain["k"]
        is_one_fold = height <= grain["m"] and width <= grain["n"]
        if DATAFLOWS[mapping.dataflow].time == "k" and not is_one_fold:
            return None
    if tile_k <= 0:
        return None
    return replace(
        mapping,
        tile_k=tile_k,
        input_unit="whole_k" if is_input_whole else "chunk",
        weight_unit="whole_k" if is_weight_whole else "chunk",
    )


def _row_bytes(size_bytes: int, elements: int, depth: int) -> int:
    """Return the whole bytes that hold `depth` elements of one row."""
    return -(-size_bytes * depth // elements)


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
    iteration when they come in chunks. Kept operands are loaded once.
    """
    tiles, parts, chunks = counts(shape, mapping)
    input_units = tiles * (chunks if mapping.input_unit == "chunk" else 1)
    weight_units = parts * (chunks if mapping.weight_unit == "chunk" else 1)
    input_is_inner = mapping.order == "weights_outer"
    input_times = _times(input_units, tiles, parts, is_inner=input_is_inner)
    weight_times = _times(weight_units, parts, tiles, is_inner=not input_is_inner)
    return (
        shape.input_bytes * (1 if shape.is_input_kept else input_times),
        shape.weight_bytes * (1 if shape.is_weight_kept else weight_times),
    )


def _times(units: int, own: int, other: int, *, is_inner: bool) -> int:
    """Return how often an operand of `units` units (`own` tiles) is loaded."""
    if units == 1:
        return 1
    if is_inner:
        return other
    return 1 if units == own else other


def _steps(shape: Shape, mapping: Mapping) -> int:
    tiles, parts, chunks = counts(shape, mapping)
    return tiles * parts * chunks


def _require_one_fold(shape: Shape, array: ProcessingArray, limits: Room) -> None:
    m, n, k = (min(_grains(array)[axis], size) for axis, size in shape.sizes.items())
    needs = {
        "output": (m * n * _sum_bytes(array), limits.output_bytes),
        "input": (
            0 if shape.is_input_kept else m * _row_bytes(shape.input_bytes, shape.m * shape.k, k),
            limits.input_bytes,
        ),
        "weight": (
            0 if shape.is_weight_kept else n * _row_bytes(shape.weight_bytes, shape.n * shape.k, k),
            limits.weight_bytes,
        ),
    }
    problems = [
        f"{name} buffer: one fold of m={shape.m} n={shape.n} k={shape.k} needs {need} bytes, "
        f"a step may hold {have}: {need - have} bytes are missing"
        for name, (need, have) in needs.items()
        if need > have
    ]
    if problems:
        raise ValueError("\n".join(problems))
