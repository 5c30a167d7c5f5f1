"""What follows from how a product is cut: lengths of tiles, array cycles, bytes, a lower bound."""

from math import gcd

from hwmodels.dram.jit import Record, helper
from hwmodels.lone.state import INPUT, OUTPUT, WEIGHT, K, M, N

MOST_BURSTS = 4 / 3
"""Times its bytes that an operand may move; on all chips, so that more of one only adds."""
MANY_TURNS = 4
"""Rows take turns at where in a burst they begin; of so many turns no place is seldom."""


@helper
def parts(size: int, tile: int) -> int:
    """Return the number of tiles."""
    return -(-size // tile)


@helper
def edge(product: Record, cut: Record, axis: int, at: int) -> int:
    """Return where tile number `at` of a dimension begins; chunks of the sum are whole folds."""
    size, tile = product.size[axis], cut.tile[axis]
    if axis == K:
        grain = product.grain[K]
        return int(min(size, parts(size, grain) * at // parts(size, tile) * grain))
    if axis == product.time:
        return int(size * at // parts(size, tile))
    return int(min(size, at * tile))


@helper
def fold_cycles(product: Record, length: int) -> int:
    """Return the cycles of one fold of so many elements among others."""
    return int(max(product.beats * length + product.rest, product.least))


@helper
def array_cycles(product: Record, cut: Record) -> int:
    """Return the cycles of one product without any wait."""
    size, axis = product.size, product.time
    if axis == K and not cut.is_leaving:
        total = fold_cycles(product, size[K])
        shortest = size[K]
    else:
        number = parts(size[axis], cut.tile[axis])
        shortest, longer = size[axis] // number, size[axis] % number
        total = (number - longer) * fold_cycles(product, shortest)
        total += longer * fold_cycles(product, shortest + 1)
    for other in range(3):
        if other != axis:
            total *= parts(size[other], product.grain[other])
    if not product.is_serial:
        behind = fold_cycles(product, shortest) - product.beats * shortest
        total += product.first + product.last - behind
    return int(total)


@helper
def operand_bytes(product: Record, cut: Record) -> float:
    """Return the bytes that one product loads of its operands, see `mapping.operand_traffic`."""
    size, held = product.size, cut.held_tiles
    tiles, panels = parts(size[M], cut.tile[M]), parts(size[N], cut.tile[N])
    chunks = parts(size[K], cut.tile[K])
    input_chunks = chunks if cut.is_chunk[INPUT] else 1
    weight_chunks = chunks if cut.is_chunk[WEIGHT] else 1
    if cut.is_weights_outer:
        passes = panels if input_chunks > 1 else parts(panels, held)
        input_times = passes if tiles * input_chunks > 1 else 1
        weight_times = tiles if weight_chunks > 1 else 1
    else:
        passes = tiles if weight_chunks > 1 else parts(tiles, held)
        weight_times = passes if panels * weight_chunks > 1 else 1
        input_times = panels if input_chunks > 1 else 1
    if product.is_kept[INPUT]:
        input_times = 1
    if product.is_kept[WEIGHT]:
        weight_times = 1
    inputs = input_times * _moved(product, cut, INPUT, chunks)
    return float(inputs + weight_times * _moved(product, cut, WEIGHT, chunks))


@helper
def _moved(product: Record, cut: Record, port: int, chunks: int) -> float:
    """Return the bytes of an operand once: a chunk of one by row is a run of whole bursts each."""
    size, each = product.size, product.bytes[port]
    moved = each * size[port] * size[K]
    if chunks > 1 and each > 0 and product.is_by_row[port]:
        return float(_in_bursts(product, cut, K, each, size[port]))
    return float(moved)


@helper
def is_wasteful(product: Record, cut: Record) -> int:
    """Whether chunks of an operand by row are so short that whole bursts move over MOST_BURSTS."""
    chunks = parts(product.size[K], cut.tile[K])
    for port in range(2):
        once = product.bytes[port] * product.size[port] * product.size[K]
        if _moved(product, cut, port, chunks) > MOST_BURSTS * once:
            return 1
    return 0


@helper
def least_cycles(product: Record, cut: Record, moved: float) -> float:
    """Return the cycles that the products take at least.

    The array begins behind its first loads; memory and ports have all bytes to move. Pieces of rows
    that begin anywhere count in bursts as on average, so that a run of `follow` may be shorter.
    """
    size = product.size
    tiles, panels = parts(size[M], cut.tile[M]), parts(size[N], cut.tile[N])
    rows = size[M] // tiles if product.time == M else min(cut.tile[M], size[M])
    columns = size[N] // panels if product.time == N else min(cut.tile[N], size[N])
    chunks, depth = parts(size[K], cut.tile[K]), size[K]
    if chunks > 1:
        depth = size[K] // chunks // product.grain[K] * product.grain[K]
    begins = (product.bytes[INPUT] * rows + product.bytes[WEIGHT] * columns) * depth
    first = product.latency if begins > 0 else 0.0
    if product.memory > 0:
        first += begins / product.memory
    stored, last = product.bytes[OUTPUT] * size[M] * size[N], _last_store(product, cut)
    found = first + product.products * array_cycles(product, cut) + last
    if product.port[OUTPUT] > 0:
        found = max(found, first + product.products * stored / product.port[OUTPUT])
    inputs, weights = product.bytes[INPUT] * size[M], product.bytes[WEIGHT] * size[N]
    if product.port[INPUT] > 0:
        found = max(found, last + product.products * inputs * size[K] / product.port[INPUT])
    if product.port[WEIGHT] > 0:
        found = max(found, last + product.products * weights * size[K] / product.port[WEIGHT])
    if product.memory > 0:
        if panels > 1 and stored > 0:
            stored = _in_bursts(product, cut, N, product.bytes[OUTPUT], size[M])
        all_bytes = product.products * (moved + stored)
        found = max(found, all_bytes / product.memory + product.latency)
    return float(found)


@helper
def _last_store(product: Record, cut: Record) -> float:
    """Return the cycles that the store of the last tile takes at least."""
    wide = 1
    for axis in range(2):
        size = product.size[axis]
        wide *= size - edge(product, cut, axis, parts(size, cut.tile[axis]) - 1)
    stored = product.bytes[OUTPUT] * wide
    if stored == 0:
        return 0.0
    cycles = product.latency
    if product.memory > 0:
        cycles += stored / product.memory
    if product.port[OUTPUT] > 0:
        cycles = max(cycles, stored / product.port[OUTPUT])
    return float(cycles)


@helper
def _in_bursts(product: Record, cut: Record, axis: int, each: float, rows: int) -> float:
    """Return the bytes in whole bursts of rows that are cut along a dimension, `each` an element.

    Where all rows begin with a burst it is what they take, else on average over rows and pieces. Of
    few rows it is what a piece takes at least: where they begin in a burst is left to chance.
    """
    size, burst = product.size[axis], product.burst_bytes
    stride, piece, pieces = int(each * size), each * cut.tile[axis], parts(size, cut.tile[axis])
    if stride % burst == 0 and stride == each * size:
        return float(rows * _row_in_bursts(product, cut, axis, each, pieces))
    if rows < MANY_TURNS * (burst // gcd(burst, stride)):
        found = float(-(-piece // burst) * burst)
    else:
        common = 1
        if piece == int(piece):
            common = gcd(gcd(burst, stride), int(piece))
        found = piece + burst - common
    return float(rows * each * size * found / piece)


@helper
def _row_in_bursts(product: Record, cut: Record, axis: int, each: float, pieces: int) -> float:
    """Return the bytes in whole bursts of the pieces of a row that begins with a burst."""
    size, burst = product.size[axis], product.burst_bytes
    if each * cut.tile[axis] % burst == 0 and (axis != K or size % cut.tile[axis] == 0):
        return float(each * size)
    total, start = 0.0, 0.0
    for number in range(pieces):
        stop = each * edge(product, cut, axis, number + 1)
        total += -(-stop // burst) * burst - start // burst * burst
        start = stop
    return total
