"""The queue of events and the flags, compiled: what SimPy keeps for `hwmodels.machine`."""

from hwmodels.dram.jit import Record, helper
from hwmodels.flat.state import FLAG_SET, KINDS, State


@helper
def push(run: Record, state: State, time_fs: int, what: int) -> None:
    """Let an event happen at a time, behind all that were pushed for the same time."""
    events = state.events
    at = run.queued
    run.queued += 1
    while at:
        above = events[(at - 1) >> 1]
        if above.time_fs <= time_fs:
            break
        events[at].time_fs = above.time_fs
        events[at].turn = above.turn
        events[at].what = above.what
        at = (at - 1) >> 1
    events[at].time_fs = time_fs
    events[at].turn = run.turn
    events[at].what = what
    run.turn += 1


@helper
def pop(run: Record, state: State) -> int:
    """Go on to the next event; returns what happens."""
    events = state.events
    run.now = events[0].time_fs
    what = events[0].what
    run.queued -= 1
    last = events[run.queued]
    at, below = 0, 1
    while below < run.queued:
        if below + 1 < run.queued and _is_before(events[below + 1], events[below]):
            below += 1
        if not _is_before(events[below], last):
            break
        events[at].time_fs = events[below].time_fs
        events[at].turn = events[below].turn
        events[at].what = events[below].what
        at, below = below, 2 * below + 1
    events[at].time_fs = last.time_fs
    events[at].turn = last.turn
    events[at].what = last.what
    return what


@helper
def _is_before(one: Record, other: Record) -> bool:
    if one.time_fs != other.time_fs:
        return one.time_fs < other.time_fs
    return one.turn < other.turn


@helper
def set_flag(run: Record, state: State, number: int) -> None:
    """Set a flag."""
    flag = state.flags[number]
    flag.is_set = 1
    if flag.waiting:
        push(run, state, run.now, FLAG_SET + KINDS * number)


@helper
def wait_for(state: State, number: int, who: int) -> None:
    """Put somebody behind those who wait for a flag."""
    flag, shift = state.flags[number], 0
    while flag.waiting >> shift:
        shift += 2
    flag.waiting |= who << shift
