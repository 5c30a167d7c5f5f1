"""Tiles and loop order of one GEMM under the buffer sizes.

A product is cut into tiles of `tile_m` activation rows, panels of `tile_n` result columns (a
multiple of the array's columns) and chunks of `tile_k` along the sum (a multiple of its rows);
sizes need not divide anything. Partial sums of a tile and panel stay in the output buffer over all
chunks, so none is ever spilled.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from itertools import pairwise
from typing import Literal

from hwmodels.architecture import Architecture, ProcessingArray
from hwmodels.array import product

# Moving 1 MiB takes 4 us at 256 GB/s, a hundred memory latencies: longer units gain nothing.
LARGEST_UNIT_BYTES = 1 << 20

Order = Literal["weights_outer", "activations_outer"]
Unit = Literal["whole_k", "chunk"]


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
    return min(3 * size_bytes // 8, LARGEST_UNIT_BYTES)


def resident_bytes(size_bytes: int) -> int:
    """Return how much of an operand buffer keeps resident tensors."""
    return size_bytes - 2 * unit_bytes(size_bytes)


@dataclass(frozen=True)
class Shape:
    """One product as the mapper sees it; the bytes are those of one product's operands.

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


@dataclass(frozen=True)
class Mapping:
    """How one product is cut and in which order its steps run.

    `input_unit` and `weight_unit` say what is loaded at a time: the operand of a tile or panel over
    all of k, or one chunk of it. `dram_bytes` counts operands as loaded once per use that finds
    them gone.
    """

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


def even_tiles(size: int, count: int) -> tuple[int, ...]:
    """Return `count` tile sizes that differ by at most one and sum to `size`."""
    edges = [size * i // count for i in range(count + 1)]
    return tuple(stop - start for start, stop in pairwise(edges))


def panels(size: int, width: int) -> Iterator[tuple[int, int]]:
    """Yield (start, stop) of panels of `width`, the last one as narrow as it must be."""
    for start in range(0, size, width):
        yield start, min(start + width, size)


def m_tiles(shape_m: int, tile_m: int) -> tuple[int, ...]:
    """Return the tiles of m rows, none larger than `tile_m`."""
    return even_tiles(shape_m, -(-shape_m // tile_m))


@lru_cache(maxsize=65536)
def map_product(shape: Shape, array: ProcessingArray, limits: Room) -> Mapping:
    """Return the mapping with the fewest array cycles, then DRAM bytes, then steps.

    Array cycles come first so that tiling never costs what the schedule's closed form does not:
    all candidates are equal there unless a tile has fewer rows than the array (double buffered) or
    the partial sums of all rows do not fit (serial). The search is exhaustive over panel widths
    with different numbers of panels, over the tile heights at which something begins to fit, and
    over both orders.

    Raises ValueError naming each buffer that cannot hold one fold and the bytes it lacks.
    """
    _require_one_fold(shape, array, limits)
    best: tuple[tuple[int, int, int], Mapping] | None = None
    for tile_n in _panel_widths(shape, array):
        for tile_m in _tile_heights(shape, array, limits, tile_n):
            cycles = product(array, m_tiles=m_tiles(shape.m, tile_m), n=shape.n, k=shape.k).total
            if best is not None and cycles > best[0][0]:
                continue
            for order in ("weights_outer", "activations_outer"):
                candidate = _complete(shape, array, limits, tile_m, tile_n, order)
                if candidate is None:
                    continue
                rank = (cycles, candidate.dram_bytes, _steps(shape, candidate))
                if best is None or rank < best[0]:
                    best = rank, candidate
    if best is None:
        raise ValueError(f"product m={shape.m} n={shape.n} k={shape.k}: no tiling fits {limits}")
    return best[1]


def _panel_widths(shape: Shape, array: ProcessingArray) -> list[int]:
    blocks = -(-shape.n // array.columns)
    widths = {-(-blocks // parts) for parts in range(1, min(blocks, 64) + 1)}
    width = blocks
    while width > 1:  # beyond 64 panels, every halving
        width = -(-width // 2)
        widths.add(width)
    return [array.columns * width for width in sorted(widths | {1}, reverse=True)]


def _tile_heights(shape: Shape, array: ProcessingArray, limits: Room, tile_n: int) -> list[int]:
    """Return the heights at which partial sums, whole rows or chunks of rows begin to fit."""
    sum_bytes = -(-array.accumulator_bits // 8)
    tallest = min(shape.m, limits.output_bytes // (min(tile_n, shape.n) * sum_bytes))
    if tallest < 1:
        return []
    heights = {tallest}
    for depth in (shape.k, min(shape.k, array.rows)):
        fits = limits.input_bytes // max(1, _row_bytes(shape.input_bytes, shape.m * shape.k, depth))
        if 1 <= fits < tallest:
            heights.add(fits)
    floor = min(array.rows, tallest)
    heights |= {height for height in (4 * floor, floor) if height < tallest}
    even = {max(m_tiles(shape.m, height)) for height in heights}
    return sorted(even, reverse=True)


def _complete(
    shape: Shape,
    array: ProcessingArray,
    limits: Room,
    tile_m: int,
    tile_n: int,
    order: Order,
) -> Mapping | None:
    """Return the mapping with the largest chunk that fits, None when not even one fold does."""
    input_tile = -(-shape.input_bytes * tile_m // shape.m)
    weight_tile = -(-shape.weight_bytes * min(tile_n, shape.n) // shape.n)
    is_input_whole = shape.is_input_kept or input_tile <= limits.input_bytes
    is_weight_whole = shape.is_weight_kept or weight_tile <= limits.weight_bytes
    tile_k = shape.k
    if not is_input_whole:
        row = limits.input_bytes // tile_m
        tile_k = min(tile_k, row * shape.m * shape.k // shape.input_bytes)
    if not is_weight_whole:
        row = limits.weight_bytes // min(tile_n, shape.n)
        tile_k = min(tile_k, row * shape.n * shape.k // shape.weight_bytes)
    if tile_k < shape.k:
        tile_k = tile_k // array.rows * array.rows
    if tile_k <= 0:
        return None
    mapping = Mapping(
        order,
        tile_m,
        tile_n,
        tile_k,
        "whole_k" if is_input_whole else "chunk",
        "whole_k" if is_weight_whole else "chunk",
        0,
    )
    input_bytes, weight_bytes = operand_traffic(shape, mapping)
    return Mapping(
        order,
        tile_m,
        tile_n,
        tile_k,
        mapping.input_unit,
        mapping.weight_unit,
        input_bytes + weight_bytes,
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
    rows, columns = min(array.rows, shape.k), min(array.columns, shape.n)
    needs = {
        "output": (columns * -(-array.accumulator_bits // 8), limits.output_bytes),
        "input": (
            0 if shape.is_input_kept else _row_bytes(shape.input_bytes, shape.m * shape.k, rows),
            limits.input_bytes,
        ),
        "weight": (
            0
            if shape.is_weight_kept
            else columns * _row_bytes(shape.weight_bytes, shape.n * shape.k, rows),
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
