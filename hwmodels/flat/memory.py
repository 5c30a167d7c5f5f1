"""`hwmodels.memory` and the ports before it, compiled: descriptors in order of submission."""

from hwmodels.dram.interleave import spread
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
    moved = spread(chip, state.channels, move, origin)
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


@entry
def service_fs(bytes_per_s: float, size_bytes: int) -> int:
    """Return the femtoseconds one channel is busy, as `hwmodels.memory.service_fs` does."""
    if not bytes_per_s:
        return 0
    return -int(-(size_bytes * FEMTO) // bytes_per_s)
