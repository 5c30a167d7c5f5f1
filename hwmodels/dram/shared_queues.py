"""One read and one write queue a channel, first ready then oldest: the rules of Ramulator 2.1.

A request whose row was opened for it moves to the active queue, which is served first, and keeps
its bank open. Refreshes go before everything but active requests. Three bounds per channel,
`active_wake`, `hit_wake` and `row_wake`, say before which tick none of a kind can go; whatever
could allow one sooner lowers them.

Beyond those rules a request waits for an older one to the same address where the order matters, so
that reads see the writes before them and none after.
"""

import numpy as np

from hwmodels.dram.commands import ACT, PRE, RD, WR
from hwmodels.dram.issue import access, open_row, precharge, ready_at, record
from hwmodels.dram.jit import Record, helper, piece
from hwmodels.dram.queues import (
    append,
    are_all_held,
    classify,
    complete,
    hazard,
    holds,
    is_held,
    length,
    remove,
    wants,
)
from hwmodels.dram.refresh import issue_next, next_command, note_due, pairs, remember_edge, rising
from hwmodels.dram.state import (
    ACTIVE,
    ACTIVE_HERE,
    HAS_HAZARD,
    IS_WRITE,
    NEVER,
    OPEN_ROW,
    READS,
    SHIFT,
    WRITES,
)


@piece
def accept(
    rules: Record, ch: Record, requests: np.ndarray, run: Record, index: int, clock: int
) -> bool:
    """Take a request into its queue; False if that is full.

    A write is complete then: its source need not keep it any longer. A read of an address that a
    write waits for is answered from the queue, a write to it replaces what waits; neither needs
    room. A read answered so is delivered after those before it.
    """
    request = requests[index]
    line, bank, row = request.line, request.bank, request.row
    kind = WRITES if request.is_write else READS
    if index != run.refused and length(ch, WRITES) and holds(ch, WRITES, line):
        request.accepted = clock
        ch.finished += 1
        if kind == READS:
            ch.last_due = max(ch.last_due, clock)
            ch.forwarded += 1
            complete(requests, run, index, ch.last_due)
        else:
            ch.merged += 1
            complete(requests, run, index, clock)
        return True
    if length(ch, kind) >= rules.capacity[kind]:
        run.refused = index  # until it is accepted no write comes that could answer it
        return False
    request.accepted = clock
    flags = hazard(ch, line, kind == WRITES)
    append(
        rules, ch, kind, bank, row, line, index, flags | (IS_WRITE if kind == WRITES else 0), clock
    )
    if kind == WRITES:
        complete(requests, run, index, clock)
    ch.wake = min(ch.wake, clock + 1)
    if kind == ch.is_writing:
        if ch.banks[bank, OPEN_ROW] == row:
            ch.hit_wake = min(ch.hit_wake, ready_at(rules, ch, RD + kind, bank) >> SHIFT)
        else:
            command = ACT if ch.banks[bank, OPEN_ROW] < 0 else PRE
            ready = max(ready_at(rules, ch, command, bank) >> SHIFT, ch.movable[bank])
            ch.row_wake = min(ch.row_wake, ready)
    return True


@helper
def choose_mode(rules: Record, ch: Record) -> None:
    """Decide whether the read or the write queue is served."""
    reads, writes = length(ch, READS), length(ch, WRITES)
    mode = ch.is_writing
    if mode:
        if writes < rules.write_low and reads:
            mode = 0
    elif writes > rules.write_high or reads == 0:
        mode = 1
    if ch.hazards and mode and reads and writes and ch.flags[ch.head[WRITES]] & HAS_HAZARD:
        mode = 0 if are_all_held(ch) else 1
    if mode != ch.is_writing:
        ch.is_writing = mode
        ch.hit_wake = 0
        ch.row_wake = 0


@helper
def best_active(rules: Record, ch: Record, tick: int) -> int:
    """Return the place of the oldest active request that may go; -1 sets `active_wake`."""
    best, oldest, soon = -1, NEVER, NEVER
    if ch.column_free >> SHIFT > tick:
        ch.active_wake = ch.column_free >> SHIFT
        return -1
    for j in range(ch.head[ACTIVE], ch.tail[ACTIVE]):
        command = WR if ch.flags[j] & IS_WRITE else RD
        ready = ready_at(rules, ch, command, ch.bank[j]) >> SHIFT
        if ready > tick:
            soon = min(soon, ready)
        else:
            accepted = ch.accepted[j]
            if accepted < oldest:
                best, oldest = j, accepted
    ch.active_wake = soon
    return best


@helper
def best_hit(rules: Record, ch: Record, tick: int) -> int:
    """Return the oldest request of the queue in turn whose row is open and that may go.

    Without one, -1, `hit_wake` is set.
    """
    queue = ch.is_writing
    soon = NEVER
    if ch.column_free >> SHIFT > tick:
        ch.hit_wake = ch.column_free >> SHIFT
        return -1
    for j in range(ch.head[queue], ch.tail[queue]):
        bank = ch.bank[j]
        if ch.banks[bank, OPEN_ROW] == ch.row[j]:
            ready = ready_at(rules, ch, RD + queue, bank) >> SHIFT
            if ready > tick:
                soon = min(soon, ready)
            elif not is_held(ch, queue, j):
                return j
    ch.hit_wake = soon
    return -1


@helper
def best_row(rules: Record, ch: Record, tick: int) -> int:
    """Return the oldest request of the queue in turn whose bank may be opened or closed for it.

    Without one, -1, `row_wake` is set.
    """
    if ch.row_free >> SHIFT > tick:
        ch.row_wake = ch.row_free >> SHIFT
        return -1
    queue = ch.is_writing
    soon = NEVER
    for j in range(ch.head[queue], ch.tail[queue]):
        bank = ch.bank[j]
        if ch.movable[bank] > tick:
            soon = min(soon, ch.movable[bank])
            continue
        row = ch.banks[bank, OPEN_ROW]
        if row != ch.row[j]:
            if ch.banks[bank, ACTIVE_HERE] or (row < 0 <= ch.half_bank):
                continue
            ready = ready_at(rules, ch, ACT if row < 0 else PRE, bank) >> SHIFT
            if rules.bus == 2:
                ready = at_edge(rules, ch, bank, ready, tick)
            if ready > tick:
                ch.movable[bank] = ready
                soon = min(soon, ready)
            elif not is_held(ch, queue, j):
                return j
    ch.row_wake = soon
    return -1


@piece
def at_edge(rules: Record, ch: Record, bank: int, ready: int, tick: int) -> int:
    """Let ACT wait for a rising edge, and PRE where it may not follow the edge before."""
    if ch.banks[bank, OPEN_ROW] < 0:
        return int(rising(ready, tick))
    if ready <= tick and not pairs(rules, ch, PRE, bank, tick):
        return tick + 1
    return int(ready)


@helper
def issue_access(
    rules: Record,
    ch: Record,
    tick: int,
    requests: np.ndarray,
    run: Record,
    log: np.ndarray,
    queue: int,
    at: int,
) -> None:
    """Issue the column command of a request, which is then served."""
    bank, index = ch.bank[at], ch.request[at]
    is_write = ch.flags[at] & IS_WRITE != 0
    if queue == ACTIVE:
        ch.banks[bank, ACTIVE_HERE] -= 1
        ch.movable[bank] = 0
    else:
        classify(ch, at, 0)
    closes = rules.is_closed != 0 and ch.banks[bank, ACTIVE_HERE] == 0
    row = ch.banks[bank, OPEN_ROW]
    command = access(rules, ch, bank, tick, ch.accepted[at], is_write, closes)
    record(rules, ch, tick, run, log, command, bank, row, index)
    ch.finished += 1
    if not is_write:
        ch.last_due = max(ch.last_due, tick - 1 + rules.read_latency)
        complete(requests, run, index, ch.last_due)
    remove(ch, queue, at)
    if queue == ACTIVE:
        ch.active_wake = 0
        ch.row_wake = min(ch.row_wake, ready_at(rules, ch, PRE, bank) >> SHIFT)
    if closes or ch.refresh_count or ch.hazards:
        ch.row_wake = 0
        ch.hit_wake = 0


@helper
def issue_row(
    rules: Record,
    ch: Record,
    tick: int,
    run: Record,
    log: np.ndarray,
    at: int,
) -> None:
    """Open or close the bank of a request of the queue in turn."""
    queue = ch.is_writing
    bank, row, index = ch.bank[at], ch.row[at], ch.request[at]
    ch.row_wake = tick + 1
    if ch.banks[bank, OPEN_ROW] >= 0:
        classify(ch, at, 2)
        record(rules, ch, tick, run, log, PRE, bank, ch.banks[bank, OPEN_ROW], index)
        precharge(rules, ch, bank, tick)
        remember_edge(rules, ch, PRE, bank, tick)
        return
    classify(ch, at, 1)
    record(rules, ch, tick, run, log, ACT, bank, row, index)
    open_row(rules, ch, bank, row, tick, ch.accepted[at])
    remember_edge(rules, ch, ACT, bank, tick)
    own = ready_at(rules, ch, WR if ch.flags[at] & IS_WRITE else RD, bank) >> SHIFT
    ch.active_wake = min(ch.active_wake, own)
    append(rules, ch, ACTIVE, bank, row, ch.line[at], index, ch.flags[at], ch.accepted[at])
    ch.banks[bank, ACTIVE_HERE] += 1
    ch.movable[bank] = NEVER
    remove(ch, queue, at)
    if wants(ch, queue, bank, row):
        ch.hit_wake = min(ch.hit_wake, own)


@piece
def column_slot(
    rules: Record, ch: Record, tick: int, requests: np.ndarray, run: Record, log: np.ndarray
) -> None:
    """Issue at most one column command: of an active request, else of one that hits a row."""
    if ch.active_wake <= tick:
        at = best_active(rules, ch, tick)
        if at >= 0:
            issue_access(rules, ch, tick, requests, run, log, ACTIVE, at)
            return
    if ch.refresh_count == 0:
        choose_mode(rules, ch)
        if ch.hit_wake <= tick:
            at = best_hit(rules, ch, tick)
            if at >= 0:
                issue_access(rules, ch, tick, requests, run, log, ch.is_writing, at)


@piece
def row_slot(
    rules: Record,
    ch: Record,
    tick: int,
    run: Record,
    log: np.ndarray,
) -> None:
    """Issue at most one row command: of the refresh in turn, else of a waiting request."""
    if ch.refresh_count:
        if ch.row_wake <= tick:
            command, ready = next_command(rules, ch, tick)
            if ready <= tick:
                issue_next(rules, ch, tick, run, log, command)
            else:
                ch.row_wake = ready
        return
    choose_mode(rules, ch)
    if ch.row_wake <= tick:
        at = best_row(rules, ch, tick)
        if at >= 0:
            issue_row(rules, ch, tick, run, log, at)


@piece
def tick_dual(
    rules: Record,
    ch: Record,
    tick: int,
    requests: np.ndarray,
    run: Record,
    log: np.ndarray,
) -> None:
    """Do one tick of a channel that takes a column and a row command at once."""
    note_due(rules, ch, tick)
    if rules.bus == 1 or tick & 1:
        column_slot(rules, ch, tick, requests, run, log)
    row_slot(rules, ch, tick, run, log)
    column = ch.active_wake
    if ch.refresh_count == 0:
        column = min(column, ch.hit_wake)
    if rules.bus == 2:
        column = rising(column, tick + 1)
    ch.wake = min(column, ch.row_wake, ch.next_refresh)


@piece
def tick_single(
    rules: Record,
    ch: Record,
    tick: int,
    requests: np.ndarray,
    run: Record,
    log: np.ndarray,
) -> None:
    """Do one tick of a channel that takes one command: active first, then refresh, then others."""
    note_due(rules, ch, tick)
    ch.wake = tick + 1
    if ch.active_wake <= tick:
        at = best_active(rules, ch, tick)
        if at >= 0:
            issue_access(rules, ch, tick, requests, run, log, ACTIVE, at)
            return
    if ch.refresh_count:
        command, ready = next_command(rules, ch, tick)
        if ready <= tick:
            issue_next(rules, ch, tick, run, log, command)
        else:
            ch.wake = min(ch.active_wake, ready, ch.next_refresh)
        return
    choose_mode(rules, ch)
    queue, at = best_waiting(rules, ch, tick)
    if at < 0:
        ch.wake = min(ch.active_wake, ch.hit_wake, ch.row_wake, ch.next_refresh)
    elif ch.banks[ch.bank[at], OPEN_ROW] == ch.row[at]:
        issue_access(rules, ch, tick, requests, run, log, queue, at)
    else:
        issue_row(rules, ch, tick, run, log, at)


@helper
def best_waiting(rules: Record, ch: Record, tick: int) -> tuple[int, int]:
    """Return queue and place of the oldest waiting request that may go, place -1 if none may."""
    hit = best_hit(rules, ch, tick) if ch.hit_wake <= tick else -1
    row = best_row(rules, ch, tick) if ch.row_wake <= tick else -1
    if hit < 0 or (row >= 0 and row < hit):
        return ch.is_writing, row
    return ch.is_writing, hit
