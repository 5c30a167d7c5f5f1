"""What one product does under a mapping: cycles, bytes, and what it waits for."""

from hwmodels.architecture import ProcessingArray
from hwmodels.array import product, shift_in_cycles
from hwmodels.costs import Ends, Work
from hwmodels.mapping import (
    Mapping,
    Room,
    Shape,
    array_passes,
    counts,
    is_leaving,
    lengths,
    operand_traffic,
    sum_bytes,
)


def work(shape: Shape, array: ProcessingArray, mapping: Mapping, cycles: int, limits: Room) -> Work:
    """Return what one product does under a mapping that takes `cycles` of the array.

    A unit larger than its room in `limits` is waited for whenever it is replaced. Where it is made
    of several tiles, these go during its last pass, when its successor's tiles take their place.
    """
    input_passes, weight_passes = array_passes(shape.m, shape.n, array, mapping)
    moved = operand_traffic(shape, mapping)
    tiles, parts, _ = counts(shape, mapping)
    is_outer = mapping.order == "activations_outer", mapping.order == "weights_outer"
    input_rows, weight_rows = (
        min(tile * (mapping.held_tiles if outer else 1), size)
        for outer, tile, size in zip(
            is_outer, (mapping.tile_m, mapping.tile_n), (shape.m, shape.n), strict=True
        )
    )
    is_input_held = (
        mapping.input_unit == "whole_k"
        and not shape.is_input_kept
        and -(-shape.input_bytes * input_rows // shape.m) > limits.input_bytes
    )
    is_weight_held = (
        mapping.weight_unit == "whole_k"
        and not shape.is_weight_kept
        and -(-shape.weight_bytes * weight_rows // shape.n) > limits.weight_bytes
    )
    shifts, passing = 0, 0
    if mapping.held_tiles > 1:
        passing = cycles // (tiles if is_outer[1] else parts)
    elif array.schedule == "double_buffered":
        shifts = {
            "weight_stationary": is_weight_held * (parts - 1),
            "input_stationary": is_input_held * (tiles - 1),
        }.get(array.dataflow, 0)
    return Work(
        cycles,
        *moved,
        input_passes * shape.array_input_bytes,
        weight_passes * shape.weight_bytes,
        shape.stored_bytes,
        is_input_held * moved[0],
        is_weight_held * moved[1],
        shifts * shift_in_cycles(array),
        passing,
        shape.stored_bytes if _is_output_held(shape, array, mapping, limits) else 0,
    )


def _is_output_held(shape: Shape, array: ProcessingArray, mapping: Mapping, limits: Room) -> bool:
    """Whether the sums of a tile leave no room for those of the next."""
    height, width = min(mapping.tile_m, shape.m), min(mapping.tile_n, shape.n)
    return height * width * sum_bytes(array) > limits.output_bytes


def ends(shape: Shape, mapping: Mapping, cycles: int) -> Ends:
    """Return what the first step of a product waits for, and what comes with its last.

    All its steps take `cycles`.
    """
    height, width = min(mapping.tile_m, shape.m), min(mapping.tile_n, shape.n)
    depth = min(mapping.tile_k, shape.k)
    first_input = -(-shape.input_bytes * height * depth // (shape.m * shape.k))
    first_weight = -(-shape.weight_bytes * width * depth // (shape.n * shape.k))
    last = -(-shape.stored_bytes * height * width // (shape.m * shape.n))
    return Ends(first_input, first_weight, last, cycles // steps(shape, mapping))


def array_cycles(shape: Shape, array: ProcessingArray, mapping: Mapping) -> int:
    """Return the array cycles of one product without any wait."""
    chunks = [shape.k]
    if is_leaving(array, mapping, **shape.sizes):
        chunks = lengths(mapping.chunks(shape.k))
    return product(
        array,
        m_tiles=lengths(mapping.row_tiles(shape.m)),
        n_tiles=lengths(mapping.column_panels(shape.n)),
        chunks=chunks,
    ).total


def steps(shape: Shape, mapping: Mapping) -> int:
    """Return the number of steps of one product."""
    tiles, parts, chunks = counts(shape, mapping)
    return tiles * parts * chunks
