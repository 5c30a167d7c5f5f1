"""A command queue for every bank, asked in turn: the rules of DRAMsim3.

Requests wait in a read and a write queue (or a unified one) and move, one a tick, to the queue of
their bank, from which commands are issued. A write is complete when it is accepted; its data wait
until WR is issued and answer reads of the same address meanwhile.
"""

import numpy as np

from hwmodels.dram.commands import ACT, PRE, RD, RDA, REFAB, WR, WRA
from hwmodels.dram.issue import access, delay, open_row, precharge, rank_ready, ready_at, record
from hwmodels.dram.jit import Record, helper, piece
from hwmodels.dram.queues import answer, append, holds, length, remove
from hwmodels.dram.state import (
    HITS,
    IS_SEEN,
    IS_WRITE,
    MAX_REFRESHES,
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
    """Take a request into its queue; False if that is full, whatever its address."""
    request = requests[index]
    kind = WRITES if request.is_write and not rules.is_unified else READS
    if length(ch, kind) >= rules.capacity[kind]:
        return False
    if not rules.links:
        request.accepted = clock
    ch.wake = min(ch.wake, clock)
    line, bank = request.line, request.bank
    is_written = waiting(rules, ch, bank, line, IS_WRITE) >= 0
    if request.is_write:
        answer(rules, ch, requests, run, index, clock + 1, 1)
        if is_written:
            ch.merged += 1
            ch.finished += 1
        else:
            append(rules, ch, kind, bank, request.row, line, index, IS_WRITE, clock)
        return True
    if is_written:
        answer(rules, ch, requests, run, index, clock + 1, 1)
        ch.forwarded += 1
        ch.finished += 1
        return True
    first = waiting(rules, ch, bank, line, 0)
    if first >= 0:
        request.chain = requests[first].chain
        requests[first].chain = index
        ch.merged += 1
    else:
        append(rules, ch, kind, bank, request.row, line, index, 0, clock)
    return True


@helper
def waiting(rules: Record, ch: Record, bank: int, line: int, kind: int) -> int:
    """Return a request to an address that waits for its command, or -1; `kind` IS_WRITE or 0."""
    queue = WRITES if kind == IS_WRITE and not rules.is_unified else READS
    found = -1
    if holds(ch, queue, line):
        for j in range(ch.head[queue], ch.tail[queue]):
            if ch.line[j] == line and ch.flags[j] & IS_WRITE == kind:
                found = ch.request[j]
    for j in range(ch.queue_count[bank]):
        if ch.queue_line[bank, j] == line and ch.queue_flags[bank, j] & IS_WRITE == kind:
            found = ch.queue_request[bank, j]
    return found


@piece
def move_one(rules: Record, ch: Record, run: Record) -> bool:
    """Move the first request whose bank has room to the queue of its bank; whether one was.

    A write waits for an older read of its burst, which ends the turn of writes. Where all banks
    are idle reads then move at once: DRAMsim3 begins the next turn instead and is stuck.
    """
    writes = length(ch, WRITES)
    if ch.draining == 0 and writes and not rules.is_unified:
        is_last = run.is_flushing and run.next == run.count and length(ch, READS) == 0
        is_enough = writes > rules.idle_writes or is_last
        if writes >= rules.capacity[WRITES] or (is_enough and ch.queued == 0):
            ch.draining = writes
    queue = WRITES if ch.draining > 0 else READS
    at = first_with_room(rules, ch, queue)
    if at >= 0 and queue == WRITES:
        if waiting(rules, ch, ch.bank[at], ch.line[at], 0) < 0:
            ch.draining -= 1
        else:
            ch.draining = 0
            is_full = writes >= rules.capacity[WRITES] or writes > rules.idle_writes
            if ch.queued or not is_full:
                return True
            queue = READS  # the read is there; without it writes would be asked again for ever
            at = first_with_room(rules, ch, READS)
    if at < 0:
        return False
    bank = ch.bank[at]
    n = ch.queue_count[bank]
    ch.queue_row[bank, n] = ch.row[at]
    ch.queue_flags[bank, n] = ch.flags[at]
    ch.queue_line[bank, n] = ch.line[at]
    ch.queue_request[bank, n] = ch.request[at]
    ch.queue_count[bank] = n + 1
    ch.queued += 1
    ch.queue_wake[bank] = 0
    ch.bank_wake = 0
    remove(ch, queue, at)
    return True


@helper
def first_with_room(rules: Record, ch: Record, queue: int) -> int:
    """Return the place of the first request whose bank's queue has room, -1 without one."""
    for j in range(ch.head[queue], ch.tail[queue]):
        if ch.queue_count[ch.bank[j]] < rules.bank_queue:
            return j
    return -1


@piece
def first_ready(rules: Record, ch: Record, bank: int, tick: int) -> tuple[int, int, int]:
    """Return the first request of a bank's queue that may go and its command, else -1.

    The third value is a tick before which none may, as long as nothing happens to this bank.
    """
    row = ch.banks[bank, OPEN_ROW]
    if row < 0:
        ready = ready_at(rules, ch, ACT, bank)
        if rules.activate_ticks > 1:
            ready = max(ready, ch.row_free)
        ready >>= SHIFT
        return (0 if ready <= tick else -1), ACT, ready
    soon = NEVER
    reads = ready_at(rules, ch, RD, bank) >> SHIFT
    writes = ready_at(rules, ch, WR, bank) >> SHIFT
    for j in range(ch.queue_count[bank]):
        is_write = ch.queue_flags[bank, j] & IS_WRITE
        if row == ch.queue_row[bank, j]:
            command, ready = (WR, writes) if is_write else (RD, reads)
            if is_write and follows_read(ch, bank, j):
                continue
        elif j > 0 or not may_close(rules, ch, bank):
            continue
        else:
            command, ready = PRE, ready_at(rules, ch, PRE, bank)
            if rules.activate_ticks > 1:
                ready = max(ready, ch.row_free)
            ready >>= SHIFT  # a command of one tick leaves the bus free: see `tick_banks`
        if ready <= tick:
            return j, command, soon
        soon = min(soon, ready)
    return -1, ACT, soon


@piece
def follows_read(ch: Record, bank: int, at: int) -> bool:
    """Whether an older read of the same burst waits in the queue."""
    for j in range(at):
        if ch.queue_line[bank, j] == ch.queue_line[bank, at] and not (
            ch.queue_flags[bank, j] & IS_WRITE
        ):
            return True
    return False


@piece
def may_close(rules: Record, ch: Record, bank: int) -> bool:
    """Whether the open row has been used enough, or nothing in the queue hits it."""
    if ch.opened[bank, HITS] >= rules.row_hits:
        return True
    hits = 0
    for j in range(ch.queue_count[bank]):
        hits += ch.queue_row[bank, j] == ch.banks[bank, OPEN_ROW]
    return hits == 0


@helper
def ask_banks(rules: Record, ch: Record, tick: int) -> tuple[int, int, int]:
    """Return bank, place in its queue and command of the next one that may go; bank -1 if none.

    The turn stays at the bank found. A rank with a refresh due is passed over. Without one,
    `bank_wake` is set.
    """
    if ch.bank_wake > tick:
        return -1, 0, ACT
    low = ch.refresh_bank[0] if ch.refresh_count else rules.banks
    high = low + rules.rank_banks
    bank = ch.turn
    first = NEVER
    for _ in range(rules.banks):
        bank += 1
        if bank == rules.banks:
            bank = 0
        wake = ch.queue_wake[bank]
        if wake > tick:
            first = min(first, wake)
            continue
        if low <= bank < high:
            continue
        at, command, soon = first_ready(rules, ch, bank, tick)
        if at >= 0:
            ch.turn = bank
            return bank, at, command
        ch.queue_wake[bank] = soon
        first = min(first, soon)
    ch.bank_wake = first
    return -1, 0, ACT


@helper
def issue(
    rules: Record,
    ch: Record,
    tick: int,
    requests: np.ndarray,
    run: Record,
    log: np.ndarray,
    bank: int,
    at: int,
    command: int,
) -> None:
    """Issue a command for a request in the queue of a bank."""
    index, row = ch.queue_request[bank, at], ch.queue_row[bank, at]
    ch.queue_wake[bank] = 0
    ch.bank_wake = 0
    if not ch.queue_flags[bank, at] & IS_SEEN:
        ch.queue_flags[bank, at] |= IS_SEEN
        if command == ACT:
            ch.row_misses += 1
        elif command == PRE:
            ch.row_conflicts += 1
        else:
            ch.row_hits += 1
    if command == ACT:
        record(rules, ch, tick, run, log, ACT, bank, row, index)
        open_row(rules, ch, bank, row, tick, requests[index].accepted)
    elif command == PRE:
        record(rules, ch, tick, run, log, PRE, bank, ch.banks[bank, OPEN_ROW], index)
        precharge(rules, ch, bank, tick)
    else:
        closes = rules.is_closed != 0
        access(rules, ch, bank, tick, requests[index].accepted, command == WR, closes)
        if closes:
            command = WRA if command == WR else RDA
        record(rules, ch, tick, run, log, command, bank, row, index)
        serve(rules, ch, tick, requests, run, bank, at)


@piece
def serve(
    rules: Record, ch: Record, tick: int, requests: np.ndarray, run: Record, bank: int, at: int
) -> None:
    """Take a request out of the queue of a bank, and with it all reads that share its burst."""
    index = ch.queue_request[bank, at]
    is_write = ch.queue_flags[bank, at] & IS_WRITE
    n = ch.queue_count[bank] - 1
    for j in range(at, n):
        ch.queue_row[bank, j] = ch.queue_row[bank, j + 1]
        ch.queue_flags[bank, j] = ch.queue_flags[bank, j + 1]
        ch.queue_line[bank, j] = ch.queue_line[bank, j + 1]
        ch.queue_request[bank, j] = ch.queue_request[bank, j + 1]
    ch.queue_count[bank] = n
    if n == 0:
        ch.queue_wake[bank] = NEVER
    ch.queued -= 1
    while index >= 0:
        following = requests[index].chain
        if not is_write:
            answer(rules, ch, requests, run, index, tick + rules.read_latency, 0)
        ch.finished += 1
        index = following


@piece
def refresh(rules: Record, ch: Record, tick: int, run: Record, log: np.ndarray) -> tuple[bool, int]:
    """Take one step of the refresh in turn; whether one was, and when the next may be."""
    low = ch.refresh_bank[0]
    soon = NEVER
    is_open = False
    for bank in range(low, low + rules.rank_banks):
        if ch.banks[bank, OPEN_ROW] >= 0:
            is_open = True
            ready = max(ready_at(rules, ch, PRE, bank), ch.row_free) >> SHIFT
            if ready <= tick:
                record(rules, ch, tick, run, log, PRE, bank, ch.banks[bank, OPEN_ROW], -1)
                precharge(rules, ch, bank, tick)
                if ch.queue_count[bank]:
                    ch.queue_wake[bank] = 0
                return True, tick + 1
            soon = min(soon, ready)
    if is_open:
        return False, soon
    ready = max(rank_ready(rules, ch, REFAB, low), ch.row_free) >> SHIFT
    if ready > tick:
        return False, ready
    record(rules, ch, tick, run, log, REFAB, low, -1, -1)
    delay(rules, ch, REFAB, low, tick)
    ch.bank_wake = 0
    ch.refresh_count -= 1
    for j in range(ch.refresh_count):
        ch.refresh_bank[j] = ch.refresh_bank[j + 1]
    return True, tick + 1


@piece
def tick_banks(
    rules: Record,
    ch: Record,
    tick: int,
    requests: np.ndarray,
    run: Record,
    log: np.ndarray,
) -> None:
    """Do one tick of a channel: refresh, else one command (two on a dual bus), then move one.

    The second command of a dual bus is the next one that its bank would allow; where it needs the
    bus of the first it is not issued, but the turn has moved on.
    """
    if tick >= ch.next_refresh and ch.refresh_count < MAX_REFRESHES:
        ch.next_refresh += rules.refresh_interval
        ch.refresh_bank[ch.refresh_count] = ch.refresh_turn * rules.rank_banks
        ch.refresh_count += 1
        ch.refresh_turn = (ch.refresh_turn + 1) % rules.ranks
    issued, soon = False, NEVER
    is_column = False
    if ch.refresh_count:
        issued, soon = refresh(rules, ch, tick, run, log)
    if not issued:
        bank, at, command = ask_banks(rules, ch, tick)
        if bank >= 0:
            issued = True
            is_column = command in (RD, WR)
            issue(rules, ch, tick, requests, run, log, bank, at, command)
    if issued and rules.bus == 1:
        bank, at, command = ask_banks(rules, ch, tick)
        if bank >= 0 and is_column != (command in (RD, WR)):
            issue(rules, ch, tick, requests, run, log, bank, at, command)
    if move_one(rules, ch, run) or issued:
        ch.wake = tick + 1
        return
    ch.wake = min(soon, ch.next_refresh, max(ch.bank_wake, tick + 1))
