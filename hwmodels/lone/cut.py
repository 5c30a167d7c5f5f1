"""What follows from how a product is cut: lengths of tiles, array cycles, bytes, a lower bound."""

from hwmodels.dram.jit import Record, helper
from hwmodels.lone.state import INPUT, OUTPUT, WEIGHT, K, M, N


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
    """Return the bytes that one product loads of its operands, see `mapping.operand_traffic`.

    Chunks of activations are pieces of rows, which move in whole bursts.
    """
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
    inputs = product.bytes[INPUT] * size[M] * size[K] * input_times
    piece = product.bytes[INPUT] * cut.tile[K]
    if input_chunks > 1 and piece > 0:
        inputs *= _in_bursts(product, piece, int(product.bytes[INPUT] * size[K])) / piece
    return float(inputs + product.bytes[WEIGHT] * size[N] * size[K] * weight_times)


@helper
def least_cycles(product: Record, cut: Record, moved: float) -> float:
    """Return the cycles that the products take at least.

    The array begins behind its first loads; memory and ports have all bytes to move. Pieces of rows
    count in bursts as they do on average, so that now and then a run of `follow` is shorter: one in
    a thousand random cuts, by under 2 %.
    """
    size = product.size
    tiles, panels = parts(size[M], cut.tile[M]), parts(size[N], cut.tile[N])
    rows = size[M] // tiles if product.time == M else min(cut.tile[M], size[M])
    columns = size[N] // panels if product.time == N else min(cut.tile[N], size[N])
    depth = size[K] // parts(size[K], cut.tile[K]) // product.grain[K] * product.grain[K]
    begins = product.bytes[INPUT] * rows * (depth if cut.is_chunk[INPUT] else size[K])
    begins += product.bytes[WEIGHT] * columns * (depth if cut.is_chunk[WEIGHT] else size[K])
    first = product.latency if begins > 0 else 0.0
    if product.memory > 0:
        first += begins / product.memory
    stored = product.bytes[OUTPUT] * size[M] * size[N]
    last = product.latency if stored > 0 else 0.0
    found = first + product.products * array_cycles(product, cut) + last
    if product.port[OUTPUT] > 0:
        found = max(found, first + product.products * stored / product.port[OUTPUT])
    inputs, weights = product.bytes[INPUT] * size[M], product.bytes[WEIGHT] * size[N]
    if product.port[INPUT] > 0:
        found = max(found, last + product.products * inputs * size[K] / product.port[INPUT])
    if product.port[WEIGHT] > 0:
        found = max(found, last + product.products * weights * size[K] / product.port[WEIGHT])
    if product.memory > 0:
        wide = product.bytes[OUTPUT] * columns
        if panels > 1 and stored > 0:
            stride = int(product.bytes[OUTPUT] * size[N])
            stored *= _in_bursts(product, wide, stride) / wide
        all_bytes = product.products * (moved + stored)
        found = max(found, all_bytes / product.memory + product.latency)
    return float(found)


@helper
def _in_bursts(product: Record, size: float, stride: int) -> float:
    """Return the bytes in whole bursts of a piece of a row, on average over rows and pieces.

    Rows lie a stride apart and pieces one behind the other.
    """
    common = 1
    if size == int(size):
        common = _common_divisor(_common_divisor(product.burst, stride), int(size))
    return float(size + product.burst - common)


@helper
def _common_divisor(one: int, other: int) -> int:
    """Return the greatest common divisor."""
    while other:
        one, other = other, one % other
    return int(one)
