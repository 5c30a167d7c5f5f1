"""The search for the best tiling of one product: exhaustive, but for tilings that cannot win."""

from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import lru_cache
from itertools import product as cartesian

from hwmodels.architecture import ProcessingArray
from hwmodels.costs import Costs, alone, latency
from hwmodels.dataflow import DATAFLOWS, Axis
from hwmodels.mapping import (
    ORDERS,
    Mapping,
    Order,
    Room,
    Shape,
    Unit,
    array_grains,
    counts,
    is_leaving,
    may_leave,
    operand_traffic,
    sum_bytes,
)
from hwmodels.mapping_work import array_cycles, ends, steps, work

# What a step has to save at a product's ends to be worth the time it takes to simulate: so many
# cycles, but no more than 2 ** -9 of what the product takes.
STEP_CYCLES = 32
STEP_BITS = 9

# Cost, array cycles, DRAM bytes, cycles alone with the price of all steps, steps, if by columns.
Rank = tuple[float, int, int, int, int, bool]

# Tiles tried only to begin and end sooner: more of them show little less, and each is a step.
MOST_PARTS = 8


def map_products(
    shape: Shape,
    array: ProcessingArray,
    limits: Room,
    costs: Costs,
    *,
    is_holding: bool,
    is_whole: bool,
    row: int,
    products: int,
) -> Mapping:
    """Return the mapping of so many products in a row, 0 where they are not on the array.

    That of `map_product`, unless the chip asks for the one that is done soonest and products on
    this array are followed, see `why_not_followed`. Zeros that it leaves out count as others.

    Raises ValueError as `map_product`.
    """
    found = map_product(
        shape, array, limits, costs, is_holding=is_holding, is_whole=is_whole, row=row
    )
    if costs.objective != "soonest" or not products or why_not_followed(array):
        return found
    from hwmodels.lone.product import soonest  # noqa: PLC0415 (brings numba)

    return soonest(
        shape,
        array,
        limits,
        costs,
        found,
        is_holding=is_holding,
        is_whole=is_whole,
        row=row,
        products=products,
    )


def why_not_followed(array: ProcessingArray) -> str:
    """Return why products on an array are not followed load by load, nothing where they are."""
    if array.coupling is not None:
        return "as the core moves all operands of the array itself"
    if DATAFLOWS[array.dataflow].time == "k" and array.pace.group > 0:  # folds take unlike times
        return "as scale groups part sums that stay in the cells"
    return ""


@lru_cache(maxsize=65536)
def map_product(
    shape: Shape,
    array: ProcessingArray,
    limits: Room,
    costs: Costs,
    *,
    is_holding: bool = False,
    is_whole: bool = False,
    row: int = 0,
) -> Mapping:
    """Return the mapping of lowest cost, then fewest array cycles, then fewest DRAM bytes.

    Of those that are equal in all three, the one that is done first when it runs alone, with its
    first loads and last stores, where each step counts as up to STEP_CYCLES more.
    Of equal ones tiles come row by row: rows of results a stride apart meet on the same channels.

    With `is_holding` the operand of the outer loop may take the room of two units, if that holds
    its tiles over all of k: it is replaced seldom, and then the array waits for it, but for the
    time in which one tile after the other goes. With `is_whole` the sums of a tile may take the
    whole output buffer, and the next ones wait until its results are stored.

    The search covers all numbers of panels along one dimension that lies on the array, both orders,
    and for the other dimension the largest tile with which results, a whole operand, some number
    of whole tiles or a chunk fit. Smaller tiles leave everything as it is but their number, and
    with more of them neither array cycles nor any bytes get fewer. Where sums stay in the cells it
    covers all numbers of tiles, as sums of smaller ones leave less often. Of the outer loop's
    operand as many tiles are held as fit: with fewer, the inner loop's is loaded more often, and
    nothing is waited for less unless one unit is room enough. So no mapping of all beats the best
    of these, whatever the objective. Smaller tiles are tried where they cost no cycles, as they
    begin and end sooner.

    With a `row`, tiles hold whole rows of so many results, for what follows tile by tile.

    Raises ValueError naming each buffer that cannot hold one fold and the bytes it lacks.
    """
    _require_one_fold(shape, array, limits)
    best: tuple[Rank, Mapping] | None = None
    for cut in _cuts(shape, array, limits, is_holding=is_holding, is_whole=is_whole):
        if row and cut.tile_n < shape.n and cut.tile_n % row:
            continue
        cut_cycles = array_cycles(shape, array, cut)
        for order in ORDERS:
            rooms = (limits, _holding(limits, order)) if is_holding else (limits,)
            for candidate in _completed(shape, array, limits, replace(cut, order=order), rooms):
                is_parted = is_leaving(array, candidate, **shape.sizes)
                cycles = array_cycles(shape, array, candidate) if is_parted else cut_cycles
                rank = _rank(shape, array, candidate, cycles, limits, costs)
                if best is None or rank < best[0]:
                    best = rank, candidate
    if best is None:
        raise ValueError(f"product m={shape.m} n={shape.n} k={shape.k}: no tiling fits {limits}")
    return _finer(shape, array, best, limits, costs)


def _rank(
    shape: Shape, array: ProcessingArray, mapping: Mapping, cycles: int, limits: Room, costs: Costs
) -> Rank:
    """Return what is least of the best mapping, what counts most first."""
    done = work(shape, array, mapping, cycles, limits)
    whole = alone(done, ends(shape, mapping, cycles), costs.rates)
    price, number = min(STEP_CYCLES, latency(done, costs.rates) >> STEP_BITS), steps(shape, mapping)
    tiles, parts, _ = counts(shape, mapping)
    is_in_columns = mapping.order == "weights_outer" and min(tiles, parts) > 1
    whole += price * number
    return costs.of(done), cycles, mapping.dram_bytes, whole, number, is_in_columns


def _finer(
    shape: Shape, array: ProcessingArray, best: tuple[Rank, Mapping], limits: Room, costs: Costs
) -> Mapping:
    """Return a mapping with smaller chunks of the sum where it ends sooner for that.

    It does where memory or a port takes longer than the array: the last step waits for the last
    load. Cost, cycles and bytes are those of the best mapping. Of equal ones, units stay whole.
    """
    (_, cycles, *_), mapping = best
    is_bound = latency(work(shape, array, mapping, cycles, limits), costs.rates) > cycles
    if not is_bound or mapping.held_tiles > 1 or DATAFLOWS[mapping.dataflow].time == "k":
        return mapping
    grain = array_grains(array)["k"]
    chunk: Unit = "chunk"
    inputs = dict.fromkeys((mapping.input_unit, chunk))
    weights = dict.fromkeys((mapping.weight_unit, chunk))
    for pieces, input_unit, weight_unit in cartesian((2, 4), inputs, weights):
        depth = _even_chunk(shape.k, -(-mapping.tile_k // pieces), grain)
        if not 0 < depth < mapping.tile_k:
            continue
        finer = replace(mapping, tile_k=depth, input_unit=input_unit, weight_unit=weight_unit)
        finer = _with_traffic(shape, finer, 1)
        rank = _rank(shape, array, finer, cycles, limits, costs)
        if rank < best[0]:
            best = rank, finer
    return best[1]


def _holding(limits: Room, order: Order) -> Room:
    """Return the room of whole operands when that of the outer loop may take two units."""
    if order == "weights_outer":
        return replace(limits, weight_bytes=2 * limits.weight_bytes)
    return replace(limits, input_bytes=2 * limits.input_bytes)


def _cuts(
    shape: Shape, array: ProcessingArray, limits: Room, *, is_holding: bool, is_whole: bool
) -> Iterator[Mapping]:
    """Yield the tiles of rows and columns worth a try, each with the whole sum."""
    wide: Axis = "m" if DATAFLOWS[array.dataflow].time == "n" else "n"
    grain = array_grains(array)
    size = shape.sizes
    rooms = [limits]
    if is_whole:
        rooms.append(replace(limits, output_bytes=2 * limits.output_bytes))
    tiles = {
        (width, height): None
        for room in rooms
        for width in _panel_widths(size[wide], grain[wide])
        for height in _tile_heights(shape, array, room, wide, width, is_holding=is_holding)
    }
    for width, height in tiles:
        tile_m, tile_n = (width, height) if wide == "m" else (height, width)
        yield Mapping(
            array.dataflow,
            "weights_outer",
            tile_m,
            tile_n,
            shape.k,
            "whole_k",
            "whole_k",
            0,
            grain["k"],
        )


def _panel_widths(size: int, grain: int) -> list[int]:
    """Return the narrowest width for each possible number of panels, widest first."""
    blocks = -(-size // grain)
    widths = {-(-blocks // parts) for parts in range(1, blocks + 1)}
    return [grain * width for width in sorted(widths, reverse=True)]


def _tile_heights(
    shape: Shape,
    array: ProcessingArray,
    limits: Room,
    wide: Axis,
    width: int,
    *,
    is_holding: bool,
) -> list[int]:
    """Return the largest tiles with which results, a whole operand or a chunk of it fit.

    They are those of the dimension that is not `wide`, for panels of `width` along that one.
    """
    tall: Axis = "n" if wide == "m" else "m"
    grain, size = array_grains(array), shape.sizes[tall]
    operand, room_bytes, other = (
        (shape.input_bytes, limits.input_bytes, shape.n)
        if tall == "m"
        else (shape.weight_bytes, limits.weight_bytes, shape.m)
    )
    whole = -(-size // grain[tall])

    def blocks(fitting: int) -> int:
        return whole if fitting >= size else fitting // grain[tall]

    tallest = blocks(limits.output_bytes // (min(width, other) * sum_bytes(array)))
    if tallest < 1:
        return []
    heights = {tallest}
    chunk = blocks(room_bytes // max(1, _row_bytes(operand, size * shape.k, grain["k"])))
    if 1 <= chunk < tallest:
        heights.add(chunk)
    for have in (room_bytes, 2 * room_bytes) if is_holding else (room_bytes,):
        heights |= _sharing(whole, blocks(have * size // max(1, operand)), tallest)
    if DATAFLOWS[array.dataflow].time == "k":
        heights |= {-(-whole // parts) for parts in range(-(-whole // tallest), whole + 1)}
    else:
        parts = min(MOST_PARTS, whole // array.rows)  # with R rows each, weights shift in behind
        heights |= {min(tallest, -(-whole // max(1, few))) for few in (parts // 2, parts)}
    even = {-(-whole // -(-whole // height)) for height in heights}
    return [grain[tall] * height for height in sorted(even, reverse=True)]


def _sharing(whole: int, fits: int, tallest: int) -> set[int]:
    """Return the tallest tiles of which some number fits, in ever fewer groups of `whole` blocks.

    `fits` blocks have room at once, and a tile is at most `tallest` blocks.
    """
    heights: set[int] = set()
    least = whole + 1
    for held in range(1, fits + 1):
        height = min(tallest, fits // held)
        tiles = -(-whole // height)
        groups = -(-tiles // held)
        if groups < least:
            heights.add(height)
            least = groups
        if groups <= -(-whole // fits):
            break
    return heights


def _completed(
    shape: Shape, array: ProcessingArray, limits: Room, cut: Mapping, rooms: Sequence[Room]
) -> Iterator[Mapping]:
    """Yield the mappings of a cut and an order, whole operands within each of `rooms`."""
    found: set[Mapping] = set()
    for holds in rooms:
        candidate = _complete(shape, array, limits, cut, holds=holds)
        if candidate is None or candidate in found:
            continue
        found.add(candidate)
        for held in _held_tiles(shape, candidate, limits, rooms[-1]):
            yield _with_traffic(shape, candidate, held)


def _held_tiles(shape: Shape, mapping: Mapping, limits: Room, holds: Room) -> set[int]:
    """Return of how many tiles of the outer loop's operand a unit may consist.

    As many as fit in one room, or in what may be held; fewer if that makes no more units.
    """
    tiles, parts, _ = counts(shape, mapping)
    units = mapping.input_unit, mapping.weight_unit
    is_kept = shape.is_input_kept or shape.is_weight_kept
    if is_kept or units != ("whole_k", "whole_k") or min(tiles, parts) == 1:
        return {1}
    if mapping.order == "weights_outer":
        number, rooms = parts, (limits.weight_bytes, holds.weight_bytes)
        whole = shape.weight_bytes
        tile = -(-whole * min(mapping.tile_n, shape.n) // shape.n)
    else:
        number, rooms = tiles, (limits.input_bytes, holds.input_bytes)
        whole = shape.input_bytes
        tile = -(-whole * min(mapping.tile_m, shape.m) // shape.m)
    fitting = {number if whole <= have else min(number, have // tile) for have in rooms}
    return {-(-number // -(-number // held)) for held in fitting if held}


def _complete(
    shape: Shape, array: ProcessingArray, limits: Room, mapping: Mapping, *, holds: Room
) -> Mapping | None:
    """Return the mapping with the largest chunk that fits, None when not even one fold does.

    Whole operands fit where `holds` has room for them, chunks where `limits` has.
    """
    grain = array_grains(array)
    height, width = min(mapping.tile_m, shape.m), min(mapping.tile_n, shape.n)
    input_tile = -(-shape.input_bytes * height // shape.m)
    weight_tile = -(-shape.weight_bytes * width // shape.n)
    is_input_whole = shape.is_input_kept or input_tile <= holds.input_bytes
    is_weight_whole = shape.is_weight_kept or weight_tile <= holds.weight_bytes
    tile_k = shape.k
    if not is_input_whole:
        row = limits.input_bytes // height
        tile_k = min(tile_k, row * shape.m * shape.k // shape.input_bytes)
    if not is_weight_whole:
        row = limits.weight_bytes // width
        tile_k = min(tile_k, row * shape.n * shape.k // shape.weight_bytes)
    if tile_k < shape.k:
        tile_k = _even_chunk(shape.k, tile_k, grain["k"])
        found = replace(mapping, tile_k=tile_k)
        if is_leaving(array, found, **shape.sizes) and not may_leave(array):
            return None
    if tile_k <= 0:
        return None
    return replace(
        mapping,
        tile_k=tile_k,
        input_unit="whole_k" if is_input_whole else "chunk",
        weight_unit="whole_k" if is_weight_whole else "chunk",
    )


def _even_chunk(size: int, largest: int, grain: int) -> int:
    """Return the longest of as few chunks of whole folds as `largest` allows, all about equal.

    0 when not even one fold fits.
    """
    folds, most = -(-size // grain), largest // grain
    if most == 0:
        return 0
    return grain * -(-folds // -(-folds // most))


def _with_traffic(shape: Shape, mapping: Mapping, held: int) -> Mapping:
    found = mapping if held == 1 else replace(mapping, held_tiles=held)
    return replace(found, dram_bytes=sum(operand_traffic(shape, found)))


def _row_bytes(size_bytes: int, elements: int, depth: int) -> int:
    """Return the whole bytes that hold `depth` elements of one row."""
    return -(-size_bytes * depth // elements)


def _require_one_fold(shape: Shape, array: ProcessingArray, limits: Room) -> None:
    m, n, k = (min(array_grains(array)[axis], size) for axis, size in shape.sizes.items())
    needs = {
        "output": (m * n * sum_bytes(array), limits.output_bytes),
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
