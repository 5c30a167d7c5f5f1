"""One read and one write queue a channel, first ready then oldest: the rules of Ramulator 2.1.

A request whose row was opened for it moves to the active queue, which is served first, and keeps
its bank open. Refreshes go before everything but active requests. Two bounds per channel,
`column_wake` and `row_wake`, say before which tick no command of that kind can go; they are lowered
whenever something happens that could allow one sooner.

Beyond those rules a request waits for an older one to the same address where the order matters, so
that reads see the writes before them and none after.
"""

import numpy as np

from hwmodels.dram.commands import ACT, PRE, PREAB, RD, REFAB, REFPB, WR
from hwmodels.dram.issue import (
    access,
    delay,
    open_row,
    precharge,
    precharge_rank,
    record,
)
from hwmodels.dram.jit import Record, compiled
from hwmodels.dram.state import (
    ACTIVE,
    HAS_HAZARD,
    IS_SEEN,
    IS_WRITE,
    NEVER,
    READS,
    SHIFT,
    WRITES,
)


@compiled
def accept(rules: Record, ch: Record, requests: np.ndarray, index: int, clock: int) -> bool:
    """Take a request into its queue; False if that is full.

    A read of an address that a write waits for is answered from the queue, a write to it replaces
    what waits; neither needs room.
    """
    request = requests[index]
    line = request.line
    kind = WRITES if request.is_write else READS
    if ch.count[WRITES] and holds(ch, WRITES, line):
        request.accepted = clock
        ch.finished += 1
        if kind == READS:
            ch.last_due = max(ch.last_due, clock)
            request.completed = ch.last_due
            ch.forwarded += 1
        else:
            request.completed = clock
            ch.merged += 1
        return True
    n = ch.count[kind]
    if n >= rules.capacity[kind]:
        return False
    request.accepted = clock
    flags = 0
    if kind == WRITES:
        flags = IS_WRITE
        if holds(ch, READS, line) or is_active(ch, line, 0):
            flags |= HAS_HAZARD
    elif is_active(ch, line, IS_WRITE):
        flags |= HAS_HAZARD
    append(ch, kind, request.bank, request.row, line, index, flags)
    ch.wake = min(ch.wake, clock + 1)
    if kind == ch.is_writing:
        bank = request.bank
        if ch.open_row[bank] == request.row:
            ch.column_wake = min(ch.column_wake, ch.ready[RD + kind, bank] >> SHIFT)
        elif ch.open_row[bank] < 0:
            ch.row_wake = min(ch.row_wake, ch.ready[ACT, bank] >> SHIFT)
        else:
            ch.row_wake = min(ch.row_wake, ch.ready[PRE, bank] >> SHIFT)
    return True


@compiled
def holds(ch: Record, queue: int, line: int) -> bool:
    """Whether a request to an address waits in a queue."""
    found = 0
    for j in range(ch.count[queue]):
        found |= ch.line[queue, j] == line
    return found != 0


@compiled
def is_active(ch: Record, line: int, kind: int) -> bool:
    """Whether a request to an address has its row open; `kind` is IS_WRITE or 0."""
    for j in range(ch.count[ACTIVE]):
        if ch.line[ACTIVE, j] == line and ch.flags[ACTIVE, j] & IS_WRITE == kind:
            return True
    return False


@compiled
def append(ch: Record, queue: int, bank: int, row: int, line: int, index: int, flags: int) -> None:
    """Put a request at the end of a queue."""
    n = ch.count[queue]
    ch.bank[queue, n] = bank
    ch.row[queue, n] = row
    ch.line[queue, n] = line
    ch.request[queue, n] = index
    ch.flags[queue, n] = flags
    ch.count[queue] = n + 1


@compiled
def remove(ch: Record, queue: int, at: int) -> None:
    """Take a request out of a queue; the others keep their order."""
    n = ch.count[queue] - 1
    for j in range(at, n):
        ch.bank[queue, j] = ch.bank[queue, j + 1]
        ch.row[queue, j] = ch.row[queue, j + 1]
    for j in range(at, n):
        ch.line[queue, j] = ch.line[queue, j + 1]
        ch.request[queue, j] = ch.request[queue, j + 1]
    for j in range(at, n):
        ch.flags[queue, j] = ch.flags[queue, j + 1]
    ch.count[queue] = n


@compiled
def is_held(ch: Record, queue: int, at: int) -> bool:
    """Whether an older request to the same address has to go first; forgets one that went."""
    if not ch.flags[queue, at] & HAS_HAZARD:
        return False
    line = ch.line[queue, at]
    if queue == WRITES:
        if is_active(ch, line, 0):
            return True
        for j in range(ch.count[READS]):
            if ch.line[READS, j] == line and ch.request[READS, j] < ch.request[WRITES, at]:
                return True
    elif is_active(ch, line, IS_WRITE):
        return True
    ch.flags[queue, at] &= ~HAS_HAZARD
    return False


@compiled
def choose_mode(rules: Record, ch: Record) -> None:
    """Decide whether the read or the write queue is served."""
    reads, writes = ch.count[READS], ch.count[WRITES]
    was = ch.is_writing
    if was:
        if writes < rules.write_low and reads:
            ch.is_writing = 0
    elif writes > rules.write_high or reads == 0:
        ch.is_writing = 1
    if ch.is_writing and reads and writes:
        held = 0
        for j in range(writes):
            if not ch.flags[WRITES, j] & HAS_HAZARD:
                break
            held += is_held(ch, WRITES, j)
        if held == writes:
            ch.is_writing = 0  # only reads can set these writes free
    if ch.is_writing != was:
        ch.column_wake = 0
        ch.row_wake = 0


@compiled
def best_active(ch: Record, requests: np.ndarray, tick: int) -> tuple[int, int]:
    """Return the oldest active request that may go, or -1, and when the next one may."""
    best, soon, oldest = -1, NEVER, NEVER
    for j in range(ch.count[ACTIVE]):
        command = WR if ch.flags[ACTIVE, j] & IS_WRITE else RD
        ready = ch.ready[command, ch.bank[ACTIVE, j]] >> SHIFT
        if ready > tick:
            soon = min(soon, ready)
        elif requests[ch.request[ACTIVE, j]].accepted < oldest:
            best, oldest = j, requests[ch.request[ACTIVE, j]].accepted
    return best, soon


@compiled
def best_hit(ch: Record, tick: int) -> tuple[int, int]:
    """Return the oldest request of the queue in turn whose row is open and that may go."""
    queue = ch.is_writing
    soon = NEVER
    for j in range(ch.count[queue]):
        bank = ch.bank[queue, j]
        if ch.open_row[bank] == ch.row[queue, j]:
            ready = ch.ready[RD + queue, bank] >> SHIFT
            if ready > tick:
                soon = min(soon, ready)
            elif not is_held(ch, queue, j):
                return j, soon
    return -1, soon


@compiled
def best_row(rules: Record, ch: Record, tick: int) -> tuple[int, int]:
    """Return the oldest request of the queue in turn whose bank may be opened or closed for it.

    With `dual_edge` a falling edge (even tick) takes PRE alone, and not every one.
    """
    queue = ch.is_writing
    soon = NEVER
    is_falling = rules.bus == 2 and tick & 1 == 0
    for j in range(ch.count[queue]):
        bank = ch.bank[queue, j]
        row = ch.open_row[bank]
        if row == ch.row[queue, j]:
            continue
        if row < 0:
            if ch.half_bank >= 0:
                continue
            ready = ch.ready[ACT, bank] >> SHIFT
            if rules.bus == 2:
                ready = rising(ready, tick)
        elif ch.active[bank]:
            continue
        else:
            ready = ch.ready[PRE, bank] >> SHIFT
            if ready <= tick and is_falling and not pairs(rules, ch, bank, tick):
                ready = tick + 1
        if ready > tick:
            soon = min(soon, ready)
        elif not is_held(ch, queue, j):
            return j, soon
    return -1, soon


@compiled
def rising(ready: int, tick: int) -> int:
    """Return the first rising edge (odd tick) from `ready` that is not before `tick`."""
    return max(ready, tick) | 1


@compiled
def pairs(rules: Record, ch: Record, bank: int, tick: int) -> bool:
    """Whether PRE may follow the row command of the rising edge before (JESD238)."""
    if tick != ch.pair_tick or bank // rules.rank_banks != ch.pair_rank:
        return True
    return bool(ch.pair_bank >= 0 and bank != ch.pair_bank)


@compiled
def remember_edge(rules: Record, ch: Record, command: int, bank: int, tick: int) -> None:
    """Keep the row command of a rising edge for the falling edge that it pairs with."""
    if rules.bus == 2 and tick & 1:
        ch.pair_tick = tick + (3 if command == ACT else 1)
        ch.pair_rank = bank // rules.rank_banks
        ch.pair_bank = -1 if command in (PREAB, REFAB) else bank


@compiled
def classify(ch: Record, queue: int, at: int, kind: int) -> None:
    """Count a request as hit (0), miss (1) or conflict (2) by its first command."""
    if not ch.flags[queue, at] & IS_SEEN:
        ch.flags[queue, at] |= IS_SEEN
        if kind == 0:
            ch.row_hits += 1
        elif kind == 1:
            ch.row_misses += 1
        else:
            ch.row_conflicts += 1


@compiled
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
    bank = ch.bank[queue, at]
    index = ch.request[queue, at]
    is_write = ch.flags[queue, at] & IS_WRITE != 0
    if queue == ACTIVE:
        ch.active[bank] -= 1
    else:
        classify(ch, queue, at, 0)
    closes = rules.is_closed != 0 and ch.active[bank] == 0
    request = requests[index]
    row = ch.open_row[bank]
    command = access(rules, ch, bank, tick, request.accepted, is_write, closes)
    record(rules, ch, tick, run, log, command, request.channel, bank, row, index)
    if is_write:
        request.completed = tick - 1
    else:
        ch.last_due = max(ch.last_due, tick - 1 + rules.read_latency)
        request.completed = ch.last_due
    ch.finished += 1
    remove(ch, queue, at)
    ch.column_wake = tick + 1
    ch.row_wake = min(ch.row_wake, ch.ready[PRE, bank] >> SHIFT)
    if closes or ch.refresh_count:
        ch.row_wake = tick


@compiled
def issue_row(
    rules: Record,
    ch: Record,
    tick: int,
    requests: np.ndarray,
    run: Record,
    log: np.ndarray,
    at: int,
) -> None:
    """Open or close the bank of a request of the queue in turn."""
    queue = ch.is_writing
    bank, row, index = ch.bank[queue, at], ch.row[queue, at], ch.request[queue, at]
    channel = requests[index].channel
    ch.row_wake = tick + 1
    if ch.open_row[bank] >= 0:
        classify(ch, queue, at, 2)
        record(rules, ch, tick, run, log, PRE, channel, bank, ch.open_row[bank], index)
        precharge(rules, ch, bank, tick)
        remember_edge(rules, ch, PRE, bank, tick)
        return
    classify(ch, queue, at, 1)
    record(rules, ch, tick, run, log, ACT, channel, bank, row, index)
    open_row(rules, ch, bank, row, tick)
    remember_edge(rules, ch, ACT, bank, tick)
    ch.column_wake = min(ch.column_wake, min(ch.ready[RD, bank], ch.ready[WR, bank]) >> SHIFT)
    append(ch, ACTIVE, bank, row, ch.line[queue, at], index, ch.flags[queue, at])
    ch.active[bank] += 1
    remove(ch, queue, at)


@compiled
def due_refresh(rules: Record, ch: Record, tick: int) -> None:
    """Note the refreshes that fall due at a tick."""
    while tick >= ch.next_refresh:
        ch.next_refresh += rules.refresh_interval
        if rules.is_refreshing == 1:
            for rank in range(rules.ranks):
                ch.refresh_bank[ch.refresh_count] = rank * rules.rank_banks
                ch.refresh_count += 1
        else:
            turn = ch.refresh_turn
            ch.refresh_turn = (turn + 1) % rules.banks
            rank, bank = turn % rules.ranks, turn // rules.ranks
            ch.refresh_bank[ch.refresh_count] = rank * rules.rank_banks + bank
            ch.refresh_count += 1
        ch.column_wake = 0
        ch.row_wake = 0


@compiled
def next_refresh_command(rules: Record, ch: Record, tick: int) -> tuple[int, int]:
    """Return the command that the refresh in turn needs, and when it may go.

    NEVER if an active request keeps a bank open.
    """
    bank = ch.refresh_bank[0]
    if rules.is_refreshing == 2:
        if ch.open_row[bank] < 0:
            command = REFPB
        elif ch.active[bank]:
            return PRE, NEVER
        else:
            command = PRE
    else:
        command = REFAB
        for b in range(bank, bank + rules.rank_banks):
            if ch.open_row[b] >= 0:
                command = PREAB
            if ch.active[b]:
                return PREAB, NEVER
    ready = ch.ready[command, bank] >> SHIFT
    if rules.bus == 2:
        if command in (REFAB, REFPB):
            ready = rising(ready, tick)
        elif ready <= tick and tick & 1 == 0 and not pairs_refresh(rules, ch, command, tick):
            ready = tick + 1
    return command, ready


@compiled
def pairs_refresh(rules: Record, ch: Record, command: int, tick: int) -> bool:
    """Whether the PRE or PREab of a refresh may go at a falling edge."""
    bank = ch.refresh_bank[0]
    if command == PRE:
        return bool(pairs(rules, ch, bank, tick))
    return bool(tick != ch.pair_tick or bank // rules.rank_banks != ch.pair_rank)


@compiled
def issue_refresh(
    rules: Record,
    ch: Record,
    tick: int,
    run: Record,
    log: np.ndarray,
    command: int,
    channel: int,
) -> None:
    """Issue a command of the refresh in turn, which is over with REF."""
    bank = ch.refresh_bank[0]
    record(rules, ch, tick, run, log, command, channel, bank, ch.open_row[bank], -1)
    remember_edge(rules, ch, command, bank, tick)
    ch.row_wake = tick + 1
    if command == PRE:
        precharge(rules, ch, bank, tick)
    elif command == PREAB:
        precharge_rank(rules, ch, bank, tick)
    else:
        delay(rules, ch, command, bank, tick)
        ch.refresh_count -= 1
        for j in range(ch.refresh_count):
            ch.refresh_bank[j] = ch.refresh_bank[j + 1]
        if ch.refresh_count == 0:
            ch.column_wake = tick + 1


@compiled
def column_slot(
    rules: Record, ch: Record, tick: int, requests: np.ndarray, run: Record, log: np.ndarray
) -> bool:
    """Issue at most one column command; whether one was."""
    queue = ACTIVE
    at, soon = best_active(ch, requests, tick)
    if at < 0 and ch.refresh_count == 0:
        choose_mode(rules, ch)
        queue = ch.is_writing
        at, later = best_hit(ch, tick)
        soon = min(soon, later)
    if at < 0:
        ch.column_wake = soon
        return False
    issue_access(rules, ch, tick, requests, run, log, queue, at)
    return True


@compiled
def row_slot(
    rules: Record,
    ch: Record,
    tick: int,
    requests: np.ndarray,
    run: Record,
    log: np.ndarray,
    channel: int,
) -> bool:
    """Issue at most one row command; whether one was."""
    if ch.refresh_count:
        command, ready = next_refresh_command(rules, ch, tick)
        if ready > tick:
            ch.row_wake = ready
            return False
        issue_refresh(rules, ch, tick, run, log, command, channel)
        return True
    at, soon = best_row(rules, ch, tick)
    if at < 0:
        ch.row_wake = soon
        return False
    issue_row(rules, ch, tick, requests, run, log, at)
    return True


@compiled
def tick_dual(
    rules: Record,
    ch: Record,
    tick: int,
    requests: np.ndarray,
    run: Record,
    log: np.ndarray,
    channel: int,
) -> None:
    """Do one tick of a channel that takes a column and a row command at once."""
    due_refresh(rules, ch, tick)
    if rules.bus == 1 or tick & 1:
        if ch.refresh_count == 0 and ch.column_wake > tick:
            choose_mode(rules, ch)
        if ch.column_wake <= tick:
            column_slot(rules, ch, tick, requests, run, log)
    if ch.refresh_count == 0:
        choose_mode(rules, ch)
    if ch.row_wake <= tick:
        row_slot(rules, ch, tick, requests, run, log, channel)
    column = rising(ch.column_wake, tick + 1) if rules.bus == 2 else ch.column_wake
    ch.wake = min(column, ch.row_wake, ch.next_refresh)


@compiled
def tick_single(
    rules: Record,
    ch: Record,
    tick: int,
    requests: np.ndarray,
    run: Record,
    log: np.ndarray,
    channel: int,
) -> None:
    """Do one tick of a channel that takes one command: active first, then refresh, then others."""
    due_refresh(rules, ch, tick)
    at, soon = best_active(ch, requests, tick)
    if at >= 0:
        issue_access(rules, ch, tick, requests, run, log, ACTIVE, at)
        ch.wake = tick + 1
        return
    if ch.refresh_count:
        command, ready = next_refresh_command(rules, ch, tick)
        if ready <= tick:
            issue_refresh(rules, ch, tick, run, log, command, channel)
            soon = tick + 1
        ch.wake = min(soon, max(ready, tick + 1), ch.next_refresh)
        return
    choose_mode(rules, ch)
    queue = ch.is_writing
    hit, hit_soon = best_hit(ch, tick)
    row, row_soon = best_row(rules, ch, tick)
    if hit >= 0 and (row < 0 or hit < row):
        issue_access(rules, ch, tick, requests, run, log, queue, hit)
        soon = tick + 1
    elif row >= 0:
        issue_row(rules, ch, tick, requests, run, log, row)
        soon = tick + 1
    ch.wake = min(soon, hit_soon, row_soon, ch.next_refresh)
