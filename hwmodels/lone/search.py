"""The search for the cut that ends soonest, among a fixed set, by how soon each may end at best.

What is tried hangs on the product and the array alone, the buffers only decide what fits: with more
room there is more to choose from, never less. Numbers of parts lie close up to some and a sixth
apart from there, so that a tiling between them may be missed in large products.
"""

import numpy as np

from hwmodels.dram.jit import Integers, Record, entry, helper
from hwmodels.lone.cut import least_cycles, operand_bytes, parts
from hwmodels.lone.follow import follow
from hwmodels.lone.state import (
    INPUT,
    MOVE,
    NEVER,
    OUTPUT,
    RUN,
    STEP,
    WEIGHT,
    K,
    M,
    N,
    Structured,
    Track,
)

MOST_STEPS = 1 << 16  # of a cut; the seed may have more
MOST_CUTS = 1 << 14  # the first so many that may cost less are looked at
DENSE = 24  # so many parts of m and n are all tried, and from there each a sixth more
DENSE_K = 8
DENSE_HELD = 12
TOLERANCE = 0.008
"""What costs less by under this share is not worth other bytes or more steps."""
SLACK = 0.0015
"""A cut that could cost less than the best so far by under this share is not followed."""
BYTES_COUNT = 0.25
"""What a cycle counts in which memory moves operands: others have to wait for it, too."""
STEP_CYCLES = 8.0  # what a step counts where cuts end about as soon
TRIES = 400  # cuts of fewer bytes that are followed behind the cheapest


@entry
def judge(product: Record, cut: Record) -> None:
    """Put down what a cut takes, and what its bytes count."""
    _weigh(product, cut)
    cut.cycles = _weighed(product, cut, NEVER)


@entry
def search(product: Record, seed: Record, found: Structured) -> int:
    """Return the number of the best of `found`, which has room for cuts; -1 for the seed.

    The seed stays unless another one costs less by more than TOLERANCE: cycles, and BYTES_COUNT of
    those in which memory moves its operands. Of those within TOLERANCE of the cheapest it is the
    one with the fewest bytes and steps. A cut that could cost less than the cheapest by under SLACK
    is not looked for.
    """
    judge(product, seed)
    if seed.cycles == NEVER:
        return -1
    limit = seed.cycles / (1 + TOLERANCE)
    count = _list_cuts(product, found, limit)
    soonest = _soonest(product, found[:count], limit)
    if soonest < 0:
        return -1
    return int(_cheapest(product, found[:count], soonest))


@helper
def _weigh(product: Record, cut: Record) -> None:
    """Put down the least that a cut takes, and what its bytes count."""
    cut.moved = operand_bytes(product, cut)
    cut.bytes_count = 0.0
    if product.memory > 0:
        cut.bytes_count = BYTES_COUNT * product.products * cut.moved / product.memory
    cut.bound = least_cycles(product, cut, cut.moved) + cut.bytes_count
    cut.cycles = 0.0


@helper
def _weighed(product: Record, cut: Record, limit: float) -> float:
    """Return the cycles of the product under a cut and what its bytes count, NEVER over `limit`."""
    cycles = _follow(product, cut, limit - cut.bytes_count)
    return NEVER if cycles == NEVER else float(cycles + cut.bytes_count)


@helper
def _follow(product: Record, cut: Record, limit: float) -> float:
    """Return the cycles of the product under a cut, NEVER where they are over `limit`."""
    steps = _steps(product, cut) * product.products
    channels = product.channels
    track = Track(
        np.empty(steps, STEP),
        np.empty(2 * steps, MOVE),
        np.empty(steps, MOVE),
        np.zeros(channels),
        np.zeros(channels),
    )
    run = np.zeros(1, RUN)
    return float(follow(product, cut, run[0], track, limit))


@helper
def _steps(product: Record, cut: Record) -> int:
    """Return the steps of one product."""
    number = 1
    for axis in range(3):
        number *= parts(product.size[axis], cut.tile[axis])
    return number


@helper
def _soonest(product: Record, cuts: Record, limit: float) -> int:
    """Return the number of the cut that costs least, less than `limit`; -1 for none."""
    best = -1
    for number in np.argsort(cuts["bound"]):
        cut = cuts[number]
        if cut.bound > limit / (1 + SLACK):
            break
        cut.cycles = _weighed(product, cut, limit * (1 + TOLERANCE))
        if cut.cycles < limit:
            limit = cut.cycles
            best = number
    return best


@helper
def _cheapest(product: Record, cuts: Record, soonest: int) -> int:
    """Return the number of the cut with fewest bytes and steps of those that cost about as much."""
    best = soonest
    allowed = cuts[soonest].cycles * (1 + TOLERANCE)
    for number in range(len(cuts)):
        cut = cuts[number]
        cut.rank = STEP_CYCLES * _steps(product, cut)
        if product.memory > 0:
            cut.rank += cut.moved / product.memory
        if 0 < cut.cycles <= allowed and cut.rank < cuts[best].rank:
            best = number
    tries = 0
    for number in np.argsort(cuts["rank"]):
        cut = cuts[number]
        if cut.rank >= cuts[best].rank or tries == TRIES:
            break
        if cut.cycles == 0 and cut.bound <= allowed:
            tries += 1
            cut.cycles = _weighed(product, cut, allowed)
            if cut.cycles <= allowed:
                return int(number)
    return best


# --- what is tried ----------------------------------------------------------------------------


@helper
def _part_numbers(most: int, dense: int) -> Integers:
    """Return numbers of parts: all up to `dense`, then each a sixth more, and `most`."""
    found = np.empty(128, np.int64)
    count, number = 0, 1
    while number <= most and count < 128:
        found[count] = number
        count += 1
        more = 1 if number < dense else max(1, number // 6)
        number = most if number < most < number + more else number + more
    return found[:count]


@helper
def _tiles(product: Record, axis: int, dense: int) -> Integers:
    """Return sizes of tiles along a dimension, largest first."""
    grain = product.grain[axis]
    blocks = parts(product.size[axis], grain)
    numbers = _part_numbers(blocks, dense)
    found = np.empty(len(numbers), np.int64)
    count = 0
    for number in numbers:
        tile = parts(blocks, number) * grain
        if count == 0 or found[count - 1] != tile:
            found[count] = tile
            count += 1
    return found[:count]


@helper
def _list_cuts(product: Record, found: Record, limit: float) -> int:
    """Put down the cuts that may end within `limit`; returns how many."""
    count = 0
    size, cut = product.size, found[len(found) - 1]
    sums_room = product.room[OUTPUT] * (2 if product.is_whole else 1)
    for tile_m in _tiles(product, M, DENSE):
        for tile_n in _tiles(product, N, DENSE):
            if tile_n < product.least_tile[N]:
                break
            rows, columns = min(tile_m, size[M]), min(tile_n, size[N])
            is_cut_row = product.row > 0 and tile_n < size[N] and tile_n % product.row > 0
            if is_cut_row or rows * columns * product.sum_bytes > sums_room:
                continue
            cut.tile[M], cut.tile[N], cut.tile[K] = tile_m, tile_n, product.grain[K]
            cut.held_tiles = cut.is_chunk[INPUT] = cut.is_chunk[WEIGHT] = 1
            cut.is_weights_outer = cut.is_leaving = 0
            if least_cycles(product, cut, 0.0) > limit:
                continue
            for is_weights_outer in range(2):
                cut.is_weights_outer = is_weights_outer
                for tile_k in _tiles(product, K, DENSE_K):
                    if tile_k < product.least_tile[K]:
                        break
                    cut.tile[K] = tile_k
                    count = _list_units(product, found, count, rows, columns, limit)
    return count


@helper
def _list_units(
    product: Record, found: Record, count: int, rows: int, columns: int, limit: float
) -> int:
    """Put down the cuts of one tiling and order by what is loaded at a time; returns how many."""
    cut, size = found[len(found) - 1], product.size
    is_split = int(cut.tile[K] < size[K])
    is_fold = rows <= product.grain[M] and columns <= product.grain[N]
    cut.is_leaving = int(product.time == K and is_split and not is_fold)
    if _steps(product, cut) * product.products > MOST_STEPS:
        return count
    if cut.is_leaving and not product.may_leave:
        return count
    for input_chunk in range(2):
        for weight_chunk in range(2):
            cut.is_chunk[INPUT], cut.is_chunk[WEIGHT] = input_chunk, weight_chunk
            if is_split != max(input_chunk, weight_chunk):
                continue
            cut.held_tiles = 1
            if not _fits(product, cut, INPUT, rows) or not _fits(product, cut, WEIGHT, columns):
                continue
            count = _list_held(product, found, count, rows, columns, limit)
    return count


@helper
def _list_held(
    product: Record, found: Record, count: int, rows: int, columns: int, limit: float
) -> int:
    """Put down the cuts of one choice of units by how many tiles stay; returns how many."""
    cut = found[len(found) - 1]
    outer = N if cut.is_weights_outer else M
    number = parts(product.size[outer], cut.tile[outer])
    others = parts(product.size[1 - outer], cut.tile[1 - outer])
    is_kept = product.is_kept[INPUT] or product.is_kept[WEIGHT]
    is_split = cut.is_chunk[INPUT] or cut.is_chunk[WEIGHT]
    is_one = is_split or is_kept or min(number, others) == 1
    before = 0
    for groups in _part_numbers(number, DENSE_HELD):
        cut.held_tiles = 1 if is_one else parts(number, groups)
        if cut.held_tiles == before:
            continue
        before = cut.held_tiles
        wide = columns if cut.is_weights_outer else rows
        if cut.held_tiles == 1 or _fits(product, cut, outer, wide):
            count = _list(product, found, count, limit)
        if is_one:
            break
    return count


@helper
def _fits(product: Record, cut: Record, port: int, wide: int) -> int:
    """Whether a unit of an operand has room: vectors of so many rows or columns, held ones all.

    Whole ones of the outer loop may take the room of two units.
    """
    if product.is_kept[port]:
        return 1
    room, each = product.room[port], product.bytes[port]
    if cut.is_chunk[port]:
        return int(wide * -(-(each * cut.tile[K] - 1e-6) // 1) <= room)
    if product.is_holding and cut.is_weights_outer == (port == WEIGHT):
        room *= 2
    wide = min(wide * cut.held_tiles, product.size[port])
    return int(-(-(each * wide * product.size[K] - 1e-6) // 1) <= room)


@helper
def _list(product: Record, found: Record, count: int, limit: float) -> int:
    """Put down one cut if it may end within `limit` and there is room; returns how many."""
    cut = found[len(found) - 1]
    _weigh(product, cut)
    if cut.bound > limit or count == len(found) - 1:
        return count
    found[count] = cut
    return count + 1
