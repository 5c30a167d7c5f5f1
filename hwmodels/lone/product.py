"""From a product on a chip to numbers for compiled code, and back to a mapping."""

from dataclasses import replace
from functools import lru_cache

import numpy as np

from hwmodels.architecture import ProcessingArray
from hwmodels.array import fold, shift_in_cycles
from hwmodels.costs import Costs, Rates
from hwmodels.dataflow import DATAFLOWS, Axis
from hwmodels.lone.search import MOST_CUTS, search
from hwmodels.lone.state import CUT, PRODUCT, Structured
from hwmodels.mapping import (
    Mapping,
    Room,
    Shape,
    array_grains,
    is_leaving,
    may_leave,
    operand_traffic,
    sum_bytes,
)

AXES: tuple[Axis, ...] = ("m", "n", "k")
OPERANDS = "input_stationary", "weight_stationary"
MOST_PRODUCTS = 4
"""Products in a row that are followed: one after the other shows by then."""


def is_followed(array: ProcessingArray, costs: Costs) -> bool:
    """Whether mappings are judged by how soon a product is done alone.

    Not where energy counts, where zeros are left out, nor where folds do not all take the same: on
    arrays inside a core, and where scale groups part the sums that stay in the cells.
    """
    is_parted = DATAFLOWS[array.dataflow].time == "k" and array.pace.group > 0
    is_plain = array.sparsity == "dense" and array.coupling is None and not is_parted
    return costs.objective == "latency" and is_plain


@lru_cache(maxsize=65536)
def soonest(
    shape: Shape,
    array: ProcessingArray,
    limits: Room,
    costs: Costs,
    seed: Mapping,
    *,
    is_holding: bool,
    is_whole: bool,
    row: int,
    products: int,
) -> Mapping:
    """Return the mapping under which so many products in a row are done soonest, running alone.

    The seed stays unless another one is done sooner by more than `search.TOLERANCE`. Arguments are
    those of `mapper.map_product`.
    """
    product = _product(shape, array, limits, costs.rates)[0]
    product["products"] = min(products, MOST_PRODUCTS)
    product["is_holding"], product["is_whole"], product["row"] = is_holding, is_whole, row
    cut = np.zeros(1, CUT)[0]
    cut["tile"] = seed.tile_m, seed.tile_n, seed.tile_k
    cut["is_weights_outer"] = seed.order == "weights_outer"
    cut["held_tiles"] = seed.held_tiles
    cut["is_chunk"] = seed.input_unit == "chunk", seed.weight_unit == "chunk"
    cut["is_leaving"] = is_leaving(array, seed, **shape.sizes)
    found = np.zeros(MOST_CUTS, CUT)
    number = search(product, cut, found)
    return seed if number < 0 else _mapping(shape, seed, found[number])


def _product(shape: Shape, array: ProcessingArray, limits: Room, rates: Rates) -> Structured:
    """Return a record of a product on a chip."""
    made = np.zeros(1, PRODUCT)
    product, grain, flow = made[0], array_grains(array), DATAFLOWS[array.dataflow]
    product["size"] = shape.m, shape.n, shape.k
    product["grain"] = [grain[axis] for axis in AXES]
    product["time"] = AXES.index(flow.time)
    product["held"] = OPERANDS.index(array.dataflow) if array.dataflow in OPERANDS else -1
    product["is_kept"] = shape.is_input_kept, shape.is_weight_kept
    product["bytes"] = (
        shape.input_bytes / (shape.m * shape.k),
        shape.weight_bytes / (shape.n * shape.k),
        shape.stored_bytes / (shape.m * shape.n),
    )
    product["sum_bytes"] = sum_bytes(array)
    _put_folds(product, array)
    product["room"] = limits.input_bytes, limits.weight_bytes, limits.output_bytes
    ports = rates.input_port, rates.weight_port, rates.output_port
    product["port"] = [port or 0 for port in ports]
    product["memory"] = rates.memory or 0
    product["latency"] = rates.latency_cycles
    product["channels"] = rates.buses.channels
    product["burst"] = rates.buses.burst_bytes
    product["interleave"] = rates.buses.interleave_bytes
    product["may_leave"] = may_leave(array)
    return made


def _put_folds(product: np.void, array: ProcessingArray) -> None:
    """Put down how long folds take, from those of one element."""
    grain, is_serial = array_grains(array), array.schedule == "serial"
    beats = array.pace.beats

    def one(*, is_first: bool, is_last: bool) -> tuple[int, int]:
        split = fold(array, **grain, is_first=is_first, is_last=is_last)
        return split.total, split.drain

    total, _ = one(is_first=False, is_last=False)
    first, _ = one(is_first=True, is_last=False)
    _, drain = one(is_first=False, is_last=True)
    product["beats"], product["is_serial"] = beats, is_serial
    product["rest"] = total - beats if is_serial else 0
    product["least"] = 0 if is_serial else total
    before = fold(array, **grain).fill
    product["before"] = before if is_serial and DATAFLOWS[array.dataflow].time == "k" else 0
    product["first"] = first - total
    product["last"] = 0 if is_serial else drain
    product["shift"] = 0 if is_serial else shift_in_cycles(array)


def _mapping(shape: Shape, seed: Mapping, cut: np.void) -> Mapping:
    """Return the mapping of a cut."""
    tile_m, tile_n, tile_k = (int(size) for size in cut["tile"])
    units = ["chunk" if is_chunk else "whole_k" for is_chunk in cut["is_chunk"]]
    found = replace(
        seed,
        order="weights_outer" if cut["is_weights_outer"] else "activations_outer",
        tile_m=tile_m,
        tile_n=tile_n,
        tile_k=min(tile_k, shape.k),
        input_unit=units[0],
        weight_unit=units[1],
        held_tiles=int(cut["held_tiles"]),
    )
    return replace(found, dram_bytes=sum(operand_traffic(shape, found)))
