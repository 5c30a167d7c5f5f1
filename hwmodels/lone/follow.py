"""The time line of the steps of a product that runs alone, as `hwmodels.machine` makes it.

Cycles are fractions here, and descriptors begin where their tensor does.
"""

from hwmodels.dram.interleave import spread
from hwmodels.dram.jit import Record, first, helper
from hwmodels.lone.lay import lay_steps
from hwmodels.lone.state import INPUT, NEVER, OUTPUT, WEIGHT, Track

LEAST = 1e-6  # of a byte


@helper
def follow(product: Record, cut: Record, run: Record, track: Track, limit: float) -> float:
    """Return the cycles of the product under a cut, NEVER where they are over `limit`."""
    steps = track.steps
    lay_steps(product, cut, steps)
    _begin(product, run, track)
    for number in range(len(steps)):
        if _is_over(product, run, track, limit):
            return NEVER
        if not _step(product, run, track, number):
            return NEVER
        _end(product, run, track, number)
    return float(max(run.now, run.last_store))


@helper
def _begin(product: Record, run: Record, track: Track) -> None:
    """Put a run at its beginning."""
    steps = track.steps
    run.now = run.last_store = 0.0
    run.early = run.early_stop = run.tile = run.tile_stop = 0
    run.early_bytes = 0.0
    run.wake = NEVER
    run.cycles_left = run.bytes_left = run.stores_left = 0.0
    for port in range(3):
        run.port_free[port] = 0.0
        run.free[port] = 2 * product.room[port]
    for number in range(product.channels):
        track.channels[number].free = 0.0
    for number in range(len(steps)):
        step = steps[number]
        run.cycles_left += step.cycles
        run.stores_left += step.store
        run.bytes_left += step.load[INPUT] + step.load[WEIGHT] + step.store
    for port in range(2):
        run.next[port] = _next(steps, port, 0)


@helper
def _next(steps: Record, port: int, number: int) -> int:
    """Return the first step from `number` on for which something comes through a port."""
    while number < len(steps) and steps[number].load[port] == 0:
        number += 1
    return number


@helper
def _is_over(product: Record, run: Record, track: Track, limit: float) -> int:
    """Whether the run is sure to end behind `limit`."""
    if run.now + run.cycles_left > limit:
        return 1
    port = product.port[OUTPUT]
    if port > 0 and run.port_free[OUTPUT] + run.stores_left / port > limit:
        return 1
    if product.memory == 0:
        return 0
    free = 0.0
    for number in range(product.channels):
        free += track.channels[number].free
    return int(free / product.channels + run.bytes_left / product.memory > limit)


@helper
def _step(product: Record, run: Record, track: Track, number: int) -> int:
    """Let time go on to the end of a step; returns whether there is one."""
    at, end = run.now, -1.0
    while True:
        _go_on(product, run, track, at)
        if end < 0 and run.next[INPUT] > number and run.next[WEIGHT] > number:
            end = _starts(product, run, track, number, at) + track.steps[number].cycles
        if 0 <= end < run.wake:
            break
        if run.wake == NEVER:
            return 0
        at = max(at, run.wake)
        run.wake = NEVER
    run.now = end
    return int(end < NEVER)


@helper
def _starts(product: Record, run: Record, track: Track, number: int, at: float) -> float:
    """Return when a step begins: its operands are there, and room for its sums."""
    step, begin = track.steps[number], at
    for port in range(2):
        if step.load[port] > 0:
            done = step.done[port]
            per_product = len(track.steps) // product.products
            if port == product.held and number % per_product:
                done += product.shift
            begin = max(begin, done)
    if step.opens > 0:
        while run.tile < run.tile_stop and track.tiles[run.tile].done <= at:
            run.free[OUTPUT] += track.tiles[run.tile].bytes
            run.tile += 1
        while step.opens > run.free[OUTPUT] + LEAST:
            if run.tile == run.tile_stop:
                return NEVER
            begin = max(begin, track.tiles[run.tile].done)
            run.free[OUTPUT] += track.tiles[run.tile].bytes
            run.tile += 1
        run.free[OUTPUT] -= step.opens
    return float(-(-begin // 1.0))


@helper
def _end(product: Record, run: Record, track: Track, number: int) -> None:
    """Give back what a step used, and send off its results."""
    step = track.steps[number]
    run.cycles_left -= step.cycles
    for port in range(2):
        run.free[port] += step.release[port]
    if step.closes == 0:
        return
    done = run.now
    if step.store > 0:
        run.bytes_left -= step.store
        run.stores_left -= step.store
        spread(product, first(track.channels), step.result, 0)
        done = _move(product, run, track, OUTPUT, step.store, run.now)
        run.last_store = max(run.last_store, done)
    tile = track.tiles[run.tile_stop]
    tile.done, tile.bytes = done, step.closes
    run.tile_stop += 1


@helper
def _go_on(product: Record, run: Record, track: Track, at: float) -> None:
    """Start loads in the order of their steps until something has to be waited for."""
    while _start(product, run, track, at):
        pass


@helper
def _start(product: Record, run: Record, track: Track, at: float) -> int:
    """Start the first load that can start; returns whether there was one."""
    first = INPUT if run.next[INPUT] <= run.next[WEIGHT] else WEIGHT
    blocked = len(track.steps)
    for port in (first, 1 - first):
        number = run.next[port]
        if number == len(track.steps):
            break
        size = track.steps[number].load[port]
        if not product.is_kept[port] and size > run.free[port] + LEAST:
            blocked = min(blocked, number)
            continue
        is_early = number > blocked
        if is_early and not _may_be_early(product, run, track, at):
            break
        _load(product, run, track, port, at, is_early)
        return 1
    return 0


@helper
def _may_be_early(product: Record, run: Record, track: Track, at: float) -> int:
    """Whether a load of a later step may start; if not, somebody waits for the oldest of them."""
    while run.early < run.early_stop and track.early[run.early].done <= at:
        run.early_bytes -= track.early[run.early].bytes
        run.early += 1
    if run.early == run.early_stop:
        return 1
    oldest = track.early[run.early]
    if product.memory == 0 or run.early_bytes - oldest.bytes <= product.memory * product.latency:
        return 1
    run.wake = oldest.done
    return 0


@helper
def _load(product: Record, run: Record, track: Track, port: int, at: float, is_early: int) -> None:
    """Start the next load through a port."""
    step = track.steps[run.next[port]]
    size = step.load[port]
    run.bytes_left -= size
    if not product.is_kept[port]:
        run.free[port] -= size
    spread(product, first(track.channels), step.operand[port], 0)
    step.done[port] = _move(product, run, track, port, size, at)
    if is_early:
        early = track.early[run.early_stop]
        early.done, early.bytes = step.done[port], size
        run.early_stop += 1
        run.early_bytes += size
    run.next[port] = _next(track.steps, port, run.next[port] + 1)


@helper
def _move(product: Record, run: Record, track: Track, port: int, size: float, at: float) -> float:
    """Return when a transfer is done of which each channel moves the bytes put down."""
    done = max(at, run.port_free[port])
    if product.port[port] > 0:
        done += size / product.port[port]
    run.port_free[port] = done
    last = at
    if product.memory > 0:
        each = product.memory / product.channels
        for number in range(product.channels):
            channel = track.channels[number]
            if channel.bytes > 0:
                channel.free = max(channel.free, at) + channel.bytes / each
                last = max(last, channel.free)
    return float(max(done, last + product.latency))
