"""From a product on a chip to numbers for compiled code, and back to a mapping."""

from dataclasses import replace
from functools import lru_cache

import numpy as np

from hwmodels.architecture import ProcessingArray
from hwmodels.array import Split, fold, shift_in_cycles
from hwmodels.costs import Costs, Rates
from hwmodels.dataflow import DATAFLOWS, Axis
from hwmodels.lone.search import MOST_CUTS, MOST_STEPS, judge, search
from hwmodels.lone.state import CUT, PRODUCT, track_of
from hwmodels.mapping import (
    Mapping,
    Room,
    Shape,
    Unit,
    array_grains,
    is_leaving,
    may_leave,
    operand_traffic,
    sum_bytes,
)
from hwmodels.mapping_work import steps

AXES: tuple[Axis, ...] = ("m", "n", "k")
OPERANDS = "input_stationary", "weight_stationary"
WHOLE_FOLDS = "dense", "skip_zero_fold"
"""Policies under which folds are as full in small tiles as in large ones."""
MOST_PRODUCTS = 4
"""Products in a row that are followed: one after the other shows by then."""


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

    Of those that end within `search.TOLERANCE` of the soonest it is the one that keeps array and
    memory busy for the fewest cycles. Products take as long as without zeros; where an array leaves
    out rows or columns of zeros it fills its folds from one panel and chunk, and none is cut
    smaller than the seed does. Arguments are those of `mapper.map_product`.
    """
    product = _product(shape, array, limits, costs.rates)
    product["products"] = min(products, MOST_PRODUCTS)
    product["is_holding"], product["is_whole"], product["row"] = is_holding, is_whole, row
    if array.sparsity not in WHOLE_FOLDS:
        product["least_tile"] = 0, seed.tile_n, seed.tile_k
    found = np.zeros(MOST_CUTS, CUT)
    number_of_steps = max(MOST_STEPS, steps(shape, seed) * int(product["products"]))
    room = track_of(number_of_steps, costs.rates.buses.channels)
    number = search(product, _cut(shape, array, seed), found, room)
    return seed if number < 0 else _mapping(shape, seed, found[number])


def alone(
    shape: Shape,
    array: ProcessingArray,
    limits: Room,
    costs: Costs,
    mapping: Mapping,
    *,
    products: int = 1,
) -> float:
    """Return the array cycles of so many products in a row that run alone.

    They are those of `hwmodels.machine` on the roofline, to a few cycles where tensors begin on the
    first channel and heads do not lie side by side.
    """
    product = _product(shape, array, limits, costs.rates)
    product["products"] = products
    cut = _cut(shape, array, mapping)
    judge(product, cut, track_of(steps(shape, mapping) * products, costs.rates.buses.channels))
    return float(cut["cycles"])


def _cut(shape: Shape, array: ProcessingArray, mapping: Mapping) -> np.void:
    """Return a record of a mapping."""
    cut: np.void = np.zeros(1, CUT)[0]
    cut["tile"] = mapping.tile_m, mapping.tile_n, mapping.tile_k
    cut["is_weights_outer"] = mapping.order == "weights_outer"
    cut["held_tiles"] = mapping.held_tiles
    cut["is_chunk"] = mapping.input_unit == "chunk", mapping.weight_unit == "chunk"
    cut["is_leaving"] = is_leaving(array, mapping, **shape.sizes)
    return cut


def _product(shape: Shape, array: ProcessingArray, limits: Room, rates: Rates) -> np.void:
    """Return a record of a product on a chip."""
    product: np.void = np.zeros(1, PRODUCT)[0]
    grain, flow = array_grains(array), DATAFLOWS[array.dataflow]
    product["size"] = shape.m, shape.n, shape.k
    product["grain"] = [grain[axis] for axis in AXES]
    product["time"] = AXES.index(flow.time)
    product["held"] = OPERANDS.index(array.dataflow) if array.dataflow in OPERANDS else -1
    product["is_kept"] = shape.is_input_kept, shape.is_weight_kept
    product["is_by_row"] = shape.is_input_by_row, shape.is_weight_by_row
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
    product["burst_bytes"] = rates.buses.burst_bytes
    product["interleave_bytes"] = rates.buses.interleave_bytes
    product["turn_bytes"] = rates.buses.channels * rates.buses.interleave_bytes
    product["may_leave"] = may_leave(array)
    return product


def _put_folds(product: np.void, array: ProcessingArray) -> None:
    """Put down how long folds take, from those of one element."""
    m, n, k = (array_grains(array)[axis] for axis in AXES)
    is_serial = array.schedule == "serial"
    beats = array.pace.beats

    def one(*, is_first: bool, is_last: bool) -> Split:
        return fold(array, m=m, n=n, k=k, is_first=is_first, is_last=is_last)

    total = one(is_first=False, is_last=False).total
    first = one(is_first=True, is_last=False)
    product["beats"], product["is_serial"] = beats, is_serial
    product["rest"] = total - beats if is_serial else 0
    product["least"] = 0 if is_serial else total
    product["before"] = first.fill if is_serial and DATAFLOWS[array.dataflow].time == "k" else 0
    product["first"] = first.total - total
    product["last"] = 0 if is_serial else one(is_first=False, is_last=True).drain
    product["shift"] = 0 if is_serial else shift_in_cycles(array)


def _mapping(shape: Shape, seed: Mapping, cut: np.void) -> Mapping:
    """Return the mapping of a cut."""
    tile_m, tile_n, tile_k = (int(size) for size in cut["tile"])
    units: list[Unit] = ["chunk" if is_chunk else "whole_k" for is_chunk in cut["is_chunk"]]
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
