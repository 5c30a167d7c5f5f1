"""`hwmodels.memory` and the ports before it, compiled: descriptors in order of submission."""

from hwmodels.dram.jit import Record, entry, helper, nth
from hwmodels.flat.state import CARRY, INPUT, WEIGHT, State

FEMTO = 1e15


@helper
def submit(chip: Record, run: Record, state: State, move: Record, origin: int, engine: int) -> int:
    """Start a descriptor; returns when memory and port will be done with it."""
    free = max(run.now, run.port_free_fs[engine])
    if chip.port_bytes[engine]:
        free += -(-move.bytes * move.rows * chip.period_fs // chip.port_bytes[engine])
    run.port_free_fs[engine] = free
    moved = _share(chip, state.channels, move, origin)
    last = run.now
    size, busy = 0, 0
    for number in range(chip.channels):
        channel = nth(state.channels, number)
        if channel.bytes:
            if channel.bytes != size:
                size = channel.bytes
                busy = service_fs(chip.bytes_per_s, size)
            channel.free_fs = max(channel.free_fs, run.now) + busy
            last = max(last, channel.free_fs)
    end = last + chip.latency_fs
    _count(run, nth(state.requesters, move.requester), moved, end)
    return int(max(end, free))


@helper
def _count(run: Record, requester: Record, moved_bytes: int, end_fs: int) -> None:
    """Count a descriptor for its requester; times may add up to more than 64 bits hold."""
    if not requester.descriptors:
        requester.first = run.started[INPUT] + run.started[WEIGHT] + run.stores
    requester.descriptors += 1
    requester.bytes += moved_bytes
    requester.total_fs += end_fs - run.now
    if requester.total_fs >= CARRY:
        requester.total_fs -= CARRY
        requester.carries += 1


@helper
def _share(chip: Record, channels: Record, move: Record, origin: int) -> int:
    """Set the bytes that each channel moves, in whole bursts for every row; returns their sum.

    Rows come round to the same place on the same channel after some: those are counted at once.
    """
    for number in range(chip.channels):
        nth(channels, number).bytes = 0
    base = (move.base + origin) % chip.turn_bytes
    rows, row_bytes = move.rows, move.bytes
    if move.stride == row_bytes:
        rows, row_bytes = 1, rows * row_bytes
    again = rows
    if rows > 1:
        again = min(rows, _rows_until_again(chip, move.stride))
    moved = 0
    for row in range(again):
        times = (rows - row + again - 1) // again
        start = base + row * move.stride
        first = start // chip.burst_bytes * chip.burst_bytes
        stop = -(-(start + row_bytes) // chip.burst_bytes) * chip.burst_bytes
        moved += times * (stop - first)
        _share_run(chip, channels, first, stop, times)
    return moved


@helper
def _rows_until_again(chip: Record, stride: int) -> int:
    """Return after how many rows one begins at the same place of a burst and of the channels."""
    period = chip.turn_bytes // _gcd(chip.turn_bytes, chip.burst_bytes) * chip.burst_bytes
    return int(period // _gcd(period, stride))


@helper
def _gcd(one: int, other: int) -> int:
    while other:
        one, other = other, one % other
    return one


@helper
def _share_run(chip: Record, channels: Record, first: int, stop: int, times: int) -> None:
    """Add the bytes of [first, stop) to each channel, so many times."""
    size = chip.interleave_bytes
    turns, left = divmod(stop - first, chip.turn_bytes)
    if turns:
        for number in range(chip.channels):
            nth(channels, number).bytes += times * turns * size
    number, offset = divmod(first % chip.turn_bytes, size)
    while left:
        part = min(left, size - offset)
        nth(channels, number).bytes += times * part
        left -= part
        number, offset = (number + 1) % chip.channels, 0


@entry
def service_fs(bytes_per_s: float, size_bytes: int) -> int:
    """Return the femtoseconds one channel is busy, as `hwmodels.memory.service_fs` does."""
    if not bytes_per_s:
        return 0
    return -int(-(size_bytes * FEMTO) // bytes_per_s)
