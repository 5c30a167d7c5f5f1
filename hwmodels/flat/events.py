"""The queue of events and the flags, compiled: what SimPy keeps for `hwmodels.machine`."""

from hwmodels.dram.jit import Record, helper, nth
from hwmodels.flat.state import FLAG_SET, KINDS, State


@helper
def push(run: Record, state: State, time_fs: int, what: int) -> None:
    """Let an event happen at a time, behind all that were pushed for the same time."""
    events = state.events
    at = run.queued
    run.queued += 1
    while at:
        above = nth(events, (at - 1) >> 1)
        if above.time_fs <= time_fs:
            break
        nth(events, at).time_fs = above.time_fs
        nth(events, at).turn = above.turn
        nth(events, at).what = above.what
        at = (at - 1) >> 1
    nth(events, at).time_fs = time_fs
    nth(events, at).turn = run.turn
    nth(events, at).what = what
    run.turn += 1


@helper
def pop(run: Record, state: State) -> int:
    """Go on to the next event; returns what happens."""
    events = state.events
    run.now = nth(events, 0).time_fs
    what = nth(events, 0).what
    run.queued -= 1
    last = nth(events, run.queued)
    at, below = 0, 1
    while below < run.queued:
        if below + 1 < run.queued and _is_before(nth(events, below + 1), nth(events, below)):
            below += 1
        if not _is_before(nth(events, below), last):
            break
        nth(events, at).time_fs = nth(events, below).time_fs
        nth(events, at).turn = nth(events, below).turn
        nth(events, at).what = nth(events, below).what
        at, below = below, 2 * below + 1
    nth(events, at).time_fs = last.time_fs
    nth(events, at).turn = last.turn
    nth(events, at).what = last.what
    return int(what)


@helper
def _is_before(one: Record, other: Record) -> bool:
    if one.time_fs != other.time_fs:
        return bool(one.time_fs < other.time_fs)
    return bool(one.turn < other.turn)


@helper
def set_flag(run: Record, state: State, number: int) -> None:
    """Set a flag."""
    flag = nth(state.flags, number)
    flag.is_set = 1
    if flag.waiting:
        push(run, state, run.now, FLAG_SET + KINDS * number)


@helper
def wait_for(state: State, number: int, who: int) -> None:
    """Put somebody behind those who wait for a flag."""
    flag, shift = nth(state.flags, number), 0
    while flag.waiting >> shift:
        shift += 2
    flag.waiting |= who << shift
