"""The steps of a cut in order, as `hwmodels.gemm_steps` has them: what comes, stays and goes."""

from hwmodels.dram.jit import Record, helper
from hwmodels.lone.cut import edge, fold_cycles, parts
from hwmodels.lone.state import INPUT, OUTPUT, WEIGHT, K, M, N


@helper
def lay_steps(product: Record, cut: Record, steps: Record) -> None:
    """Fill in the steps of all products in a row."""
    size = product.size
    tiles, panels = parts(size[M], cut.tile[M]), parts(size[N], cut.tile[N])
    chunks = parts(size[K], cut.tile[K])
    outer, inner = (panels, tiles) if cut.is_weights_outer else (tiles, panels)
    number = 0
    for which in range(product.products):
        begin = number
        for group in range(0, outer, cut.held_tiles):
            for passing in range(inner):
                for staying in range(group, min(group + cut.held_tiles, outer)):
                    tile, panel = passing, staying
                    if not cut.is_weights_outer:
                        tile, panel = staying, passing
                    for chunk in range(chunks):
                        _lay(product, cut, steps[number], which, tile, panel, chunk)
                        number += 1
        steps[begin].cycles += product.first
        if not product.is_serial:
            end = steps[number - 1]
            end.cycles += product.last - _behind(product, cut)


@helper
def _behind(product: Record, cut: Record) -> int:
    """Return the cycles of the last fold of all in which no element passes."""
    axis = product.time
    length = product.size[K]
    if axis != K or cut.is_leaving:
        last = parts(product.size[axis], cut.tile[axis])
        length = edge(product, cut, axis, last) - edge(product, cut, axis, last - 1)
    return int(fold_cycles(product, length) - product.beats * length)


@helper
def _lay(
    product: Record, cut: Record, step: Record, number: int, tile: int, panel: int, chunk: int
) -> None:
    """Fill in one step of product `number`."""
    row, column = edge(product, cut, M, tile), edge(product, cut, N, panel)
    term = edge(product, cut, K, chunk)
    rows = edge(product, cut, M, tile + 1) - row
    columns = edge(product, cut, N, panel + 1) - column
    depth = edge(product, cut, K, chunk + 1) - term
    is_done = edge(product, cut, K, chunk + 1) == product.size[K]
    is_held = product.time == K and not cut.is_leaving
    step.cycles = _cycles(product, cut, rows, columns, depth, chunk, is_done)
    _lay_operand(product, cut, step, INPUT, number, row, rows, panel, term, depth)
    _lay_operand(product, cut, step, WEIGHT, number, column, columns, tile, term, depth)
    step.opens = step.closes = step.store = 0.0
    sums = rows * columns * product.sum_bytes
    if is_done if is_held else chunk == 0:
        step.opens = sums
    if is_done:
        step.closes = sums
        step.store = product.bytes[OUTPUT] * rows * columns
        begin = (number * product.size[M] + row) * product.size[N]
        step.result.base = int(product.bytes[OUTPUT] * (begin + column))
        step.result.bytes = -int(-product.bytes[OUTPUT] * columns // 1)
        step.result.stride = int(product.bytes[OUTPUT] * product.size[N])
        step.result.rows = rows


@helper
def _lay_operand(
    product: Record,
    cut: Record,
    step: Record,
    port: int,
    number: int,
    first: int,
    wide: int,
    other: int,
    term: int,
    depth: int,
) -> None:
    """Fill in what a step of product `number` uses of an operand: part of `wide` vectors."""
    size = product.bytes[port] * wide * depth
    step.load[port] = size if _comes(product, cut, port, other) else 0.0
    step.release[port] = size if _goes(product, cut, port, other) else 0.0
    runs = step.operand[port]
    begin = (number * product.size[port] + first) * product.size[K]
    if depth < product.size[K] and product.is_by_row[port]:
        runs.base = int(product.bytes[port] * (begin + term))
        runs.bytes = -int(-product.bytes[port] * depth // 1)
        runs.stride = int(product.bytes[port] * product.size[K])
        runs.rows = wide
    else:
        runs.base = int(product.bytes[port] * (begin + wide * term))
        runs.bytes = runs.stride = -int(-size // 1)
        runs.rows = 1


@helper
def _cycles(
    product: Record, cut: Record, rows: int, columns: int, depth: int, chunk: int, is_done: int
) -> int:
    """Return the array cycles of a step, but for those of the product's first and last fold."""
    if product.time == M:
        folds = parts(columns, product.grain[N]) * parts(depth, product.grain[K])
        return int(folds * fold_cycles(product, rows))
    if product.time == N:
        folds = parts(rows, product.grain[M]) * parts(depth, product.grain[K])
        return int(folds * fold_cycles(product, columns))
    folds = parts(rows, product.grain[M]) * parts(columns, product.grain[N])
    if cut.is_leaving:
        return int(folds * fold_cycles(product, depth))
    cycles = folds * product.beats * depth
    if chunk == 0:
        cycles += folds * product.before
    if is_done:
        whole = product.size[K]
        behind = fold_cycles(product, whole) - product.beats * whole - product.before
        cycles += folds * behind
    return int(cycles)


@helper
def _comes(product: Record, cut: Record, port: int, other: int) -> int:
    """Whether part of an operand comes for a step at tile or panel `other` of the other operand.

    A unit stays for the steps in a row that use it; what is kept, and the tiles that the outer loop
    holds, come for their first use.
    """
    if product.is_kept[port]:
        return int(other == 0)
    if cut.is_chunk[port]:
        return 1
    if _is_staying(product, cut, port):
        return int(other == 0)
    return int(other % cut.held_tiles == 0)


@helper
def _goes(product: Record, cut: Record, port: int, other: int) -> int:
    """Whether part of an operand goes behind a step."""
    if product.is_kept[port]:
        return 0
    if cut.is_chunk[port]:
        return 1
    others = parts(product.size[1 - port], cut.tile[1 - port])
    if other == others - 1:
        return 1
    return int(not _is_staying(product, cut, port) and (other + 1) % cut.held_tiles == 0)


@helper
def _is_staying(product: Record, cut: Record, port: int) -> int:
    """Whether a unit of an operand stays while all tiles or panels of the other one pass."""
    is_outer = cut.is_weights_outer == (port == WEIGHT)
    return int(is_outer or parts(product.size[port], cut.tile[port]) == 1)
