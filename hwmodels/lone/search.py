"""The search for the cut that ends soonest, among a fixed set, by how soon each may end at best.

What is tried hangs on the product and the array alone, the buffers only decide what fits: with more
room there is more to choose from, never less. Numbers of parts lie close up to some and a sixth
apart from there, so that a tiling between them may be missed in large products.

Of what ends about as soon it is the cut that counts least. What it counts says what others have to
wait for: the array's own cycles, and those in which memory moves operands.
"""

import numpy as np

from hwmodels.dram.jit import Integers, Record, borrowed, entry, helper
from hwmodels.lone.cut import array_cycles, is_wasteful, least_cycles, operand_bytes, parts
from hwmodels.lone.follow import follow
from hwmodels.lone.state import INPUT, NEVER, OUTPUT, WEIGHT, K, M, N, Structured, Track

MOST_STEPS = 1 << 12  # of all products under a cut; the seed may have more
MOST_CUTS = 1 << 14  # the first so many that may end sooner are looked at
DENSE = 24  # so many parts of m and n are all tried, and from there each a sixth more
DENSE_K = 8
DENSE_HELD = 12
TOLERANCE = 0.006
"""What ends later than the soonest by up to this share may be chosen for what it counts."""
SLACK = 0.003
"""A cut that could end sooner than the soonest so far by under this share is not followed."""
EARLY_PRICE = 0.25  # cycles a step, by which cuts of few steps are followed before others
LEAST_PRICE = 0.5  # cycles that a step counts: it takes time to simulate
STEP_SHARE = 0.1
"""Of the latency of memory, what a step counts besides: many short loads cost more there."""
TRIES = 32  # cuts that may count less are followed behind the soonest


@entry
def judge(product: Record, cut: Record, room: Track) -> None:
    """Put down the cycles that a cut takes; `room` is for its steps, see `state.track_of`."""
    cut.cycles = _follow(product, cut, _borrowed(room), NEVER)


@entry
def search(product: Record, seed: Record, found: Structured, room: Track) -> int:
    """Return the number of the best of `found`, which has room for cuts; -1 for the seed.

    It counts least of those that end within TOLERANCE of the soonest. A cut that could end sooner
    than the soonest by under SLACK is not looked for.
    """
    track, cuts = _borrowed(room), borrowed(found)
    seed.moved = operand_bytes(product, seed)
    seed.cycles = _follow(product, seed, track, NEVER)
    if seed.cycles == NEVER:
        return -1
    cuts = cuts[: _list_cuts(product, cuts, seed.cycles * (1 + TOLERANCE))]
    return int(_cheapest(product, cuts, track, seed, _soonest(product, cuts, track, seed.cycles)))


@helper
def _borrowed(room: Track) -> Track:
    """Return room that the caller keeps."""
    return Track(
        borrowed(room.run),
        borrowed(room.steps),
        borrowed(room.early),
        borrowed(room.tiles),
        borrowed(room.channels),
    )


@helper
def _follow(product: Record, cut: Record, room: Track, limit: float) -> float:
    """Return the cycles of the product under a cut, NEVER where they are over `limit`."""
    steps = room.steps[: _steps(product, cut) * product.products]
    track = Track(room.run, steps, room.early, room.tiles, room.channels)
    cycles = float(follow(product, cut, room.run[0], track, limit))
    return cycles if cycles <= limit else NEVER


@helper
def _steps(product: Record, cut: Record) -> int:
    """Return the steps of one product."""
    number = 1
    for axis in range(3):
        number *= parts(product.size[axis], cut.tile[axis])
    return number


@helper
def _soonest(product: Record, cuts: Record, track: Track, limit: float) -> int:
    """Return the number of the cut that ends soonest, before `limit`; -1 for none.

    Those of few steps come first of about equal ones.
    """
    best = -1
    for number in range(len(cuts)):
        cut = cuts[number]
        cut.rank = cut.bound + EARLY_PRICE * _steps(product, cut) * product.products
    for number in np.argsort(cuts["rank"]):
        cut = cuts[number]
        if cut.bound > limit / (1 + SLACK):
            continue
        cut.cycles = _follow(product, cut, track, limit * (1 + TOLERANCE))
        if cut.cycles < limit:
            limit = cut.cycles
            best = number
    return best


@helper
def _cheapest(product: Record, cuts: Record, track: Track, seed: Record, soonest: int) -> int:
    """Return the number of the cut that counts least of those that end about as soon as `soonest`.

    -1 stands for the seed, which is the soonest where no other one is.
    """
    best = soonest
    first = seed.cycles if soonest < 0 else cuts[soonest].cycles
    allowed, least = first * (1 + TOLERANCE), NEVER
    _rank(product, seed)
    if seed.cycles <= allowed:
        best, least = -1, seed.rank + seed.cycles
    for number in range(len(cuts)):
        cut = cuts[number]
        _rank(product, cut)
        if 0 < cut.cycles <= allowed and cut.rank + cut.cycles < least:
            best, least = number, cut.rank + cut.cycles
    tries = 0
    for number in np.argsort(cuts["rank"] + cuts["bound"]):
        cut = cuts[number]
        most = min(allowed, least - cut.rank)
        if cut.bound >= least - cut.rank or tries == TRIES:
            break
        if cut.cycles > 0 or first / (1 + SLACK) >= most:
            continue
        tries += 1
        cut.cycles = _follow(product, cut, track, most)
        if cut.cycles < most:
            best, least = number, cut.rank + cut.cycles
    return int(best)


@helper
def _rank(product: Record, cut: Record) -> None:
    """Put down what a cut counts besides its end."""
    price = LEAST_PRICE + STEP_SHARE * product.latency
    each = array_cycles(product, cut) + price * _steps(product, cut)
    if product.memory > 0:
        each += cut.moved / product.memory
    cut.rank = product.products * each


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
    if (cut.is_leaving and not product.may_leave) or is_wasteful(product, cut):
        return count
    for input_chunk in range(2):
        for weight_chunk in range(2):
            cut.is_chunk[INPUT], cut.is_chunk[WEIGHT] = input_chunk, weight_chunk
            if is_split < max(input_chunk, weight_chunk):
                continue
            if product.is_kept[INPUT] * input_chunk or product.is_kept[WEIGHT] * weight_chunk:
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
    is_chunk = cut.is_chunk[INPUT] or cut.is_chunk[WEIGHT]
    is_one = is_chunk or is_kept or min(number, others) == 1
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
    cut.moved = operand_bytes(product, cut)
    cut.bound = least_cycles(product, cut, cut.moved)
    cut.cycles = 0.0
    if cut.bound > limit or count == len(found) - 1:
        return count
    found[count] = cut
    return count + 1
