"""A single command bus with ACT in two halves and a write clock: LPDDR5 (JESD209-5).

The first half of ACT carries its timing, the second one opens the row, from the next clock on and
at the latest `act2` clocks later. While a second half is due there is no other ACT. A column
command needs the write clock; when that has run out, CAS starts it and the column command follows
in the next clock with nothing between.
"""

import numpy as np

from hwmodels.dram.commands import ACT2, CAS
from hwmodels.dram.issue import record
from hwmodels.dram.jit import Record, helper, piece
from hwmodels.dram.refresh import issue_next, next_command, note_due
from hwmodels.dram.shared_queues import (
    best_active,
    best_waiting,
    choose_mode,
    issue_access,
    issue_row,
)
from hwmodels.dram.state import ACTIVE, IS_WRITE, OPEN_ROW


@helper
def second_half(rules: Record, ch: Record, tick: int, run: Record, log: np.ndarray) -> None:
    """Issue the second half of the ACT that is under way."""
    bank = ch.half_bank
    at = ch.tail[ACTIVE] - 1  # the last to become active, as no other ACT came between
    record(rules, ch, tick, run, log, ACT2, bank, ch.banks[bank, OPEN_ROW], ch.request[at])
    ch.half_bank = -1
    ch.active_wake = 0
    ch.row_wake = 0
    ch.wake = tick + 1


@helper
def access_or_start(
    rules: Record,
    ch: Record,
    tick: int,
    requests: np.ndarray,
    run: Record,
    log: np.ndarray,
    queue: int,
    at: int,
) -> None:
    """Issue a column command if the write clock runs, else CAS for it."""
    ch.wake = tick + 1
    if tick < ch.clock_until or ch.started >= 0:
        is_write = ch.flags[at] & IS_WRITE
        after = rules.write_clock[1] if is_write else rules.write_clock[0]
        ch.clock_until = max(ch.clock_until, tick + after)
        ch.started = -1
        issue_access(rules, ch, tick, requests, run, log, queue, at)
    elif ch.half_bank >= 0 and ch.half_since + rules.act2 <= tick + 1:
        second_half(rules, ch, tick, run, log)
    else:
        bank, index = ch.bank[at], ch.request[at]
        record(rules, ch, tick, run, log, CAS, bank, ch.banks[bank, OPEN_ROW], index)
        ch.started = queue
        ch.started_at = at - ch.head[queue]


@piece
def tick_split(
    rules: Record,
    ch: Record,
    tick: int,
    requests: np.ndarray,
    run: Record,
    log: np.ndarray,
) -> None:
    """Do one tick of a channel: what is due, then active, refresh, others, then a second half."""
    note_due(rules, ch, tick)
    ch.wake = tick + 1
    if ch.started >= 0:
        at = ch.head[ch.started] + ch.started_at
        access_or_start(rules, ch, tick, requests, run, log, ch.started, at)
    elif ch.half_bank >= 0 and tick >= ch.half_since + rules.act2:
        second_half(rules, ch, tick, run, log)
    else:
        soon = choose_and_issue(rules, ch, tick, requests, run, log)
        if soon > tick and ch.half_bank >= 0:
            second_half(rules, ch, tick, run, log)
        elif soon > tick:
            ch.wake = min(soon, ch.next_refresh)


@piece
def choose_and_issue(
    rules: Record,
    ch: Record,
    tick: int,
    requests: np.ndarray,
    run: Record,
    log: np.ndarray,
) -> int:
    """Issue what is first among active, refresh and others; returns `tick`, else when to ask."""
    if ch.active_wake <= tick:
        at = best_active(rules, ch, tick)
        if at >= 0:
            access_or_start(rules, ch, tick, requests, run, log, ACTIVE, at)
            return tick
    if ch.refresh_count:
        command, ready = next_command(rules, ch, tick)
        if ready <= tick:
            issue_next(rules, ch, tick, run, log, command)
        return int(min(ch.active_wake, max(ready, tick)))
    choose_mode(rules, ch)
    queue, at = best_waiting(rules, ch, tick)
    if at < 0:
        return int(min(ch.active_wake, ch.hit_wake, ch.row_wake))
    bank = ch.bank[at]
    if ch.banks[bank, OPEN_ROW] == ch.row[at]:
        access_or_start(rules, ch, tick, requests, run, log, queue, at)
        return tick
    if ch.banks[bank, OPEN_ROW] < 0:
        ch.half_bank = bank
        ch.half_since = tick
    issue_row(rules, ch, tick, run, log, at)
    return tick
