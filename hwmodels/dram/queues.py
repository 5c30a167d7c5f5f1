"""Waiting requests of a channel: queues in order of arrival, and which address waits where."""

import numpy as np

from hwmodels.dram.jit import Record, helper, piece
from hwmodels.dram.state import (
    ACTIVE,
    HAS_HAZARD,
    IS_SEEN,
    IS_WRITE,
    READS,
    WRITES,
)


@helper
def length(ch: Record, queue: int) -> int:
    """Return how many requests wait in a queue."""
    return int(ch.tail[queue] - ch.head[queue])


@helper
def append(
    rules: Record,
    ch: Record,
    queue: int,
    bank: int,
    row: int,
    line: int,
    index: int,
    flags: int,
    accepted: int,
) -> None:
    """Put a request at the end of a queue."""
    if ch.tail[queue] == rules.start[queue + 1]:
        start, n = rules.start[queue], length(ch, queue)
        copy(ch, ch.head[queue], start, n)
        ch.head[queue] = start
        ch.tail[queue] = start + n
    at = ch.tail[queue]
    ch.bank[at] = bank
    ch.row[at] = row
    ch.line[at] = line
    ch.request[at] = index
    ch.flags[at] = flags
    ch.accepted[at] = accepted
    ch.tail[queue] = at + 1


@helper
def copy(ch: Record, source: int, target: int, count: int) -> None:
    """Copy places of a queue to lower ones."""
    for j in range(count):
        ch.bank[target + j] = ch.bank[source + j]
        ch.row[target + j] = ch.row[source + j]
        ch.flags[target + j] = ch.flags[source + j]
        ch.line[target + j] = ch.line[source + j]
        ch.request[target + j] = ch.request[source + j]
        ch.accepted[target + j] = ch.accepted[source + j]


@helper
def remove(ch: Record, queue: int, at: int) -> None:
    """Take a request out of a queue; the others keep their order, the fewer of them move."""
    head, tail = ch.head[queue], ch.tail[queue]
    if at - head >= tail - 1 - at:
        copy(ch, at + 1, at, tail - 1 - at)
        ch.tail[queue] = tail - 1
        return
    for j in range(at, head, -1):
        ch.bank[j] = ch.bank[j - 1]
        ch.row[j] = ch.row[j - 1]
        ch.flags[j] = ch.flags[j - 1]
        ch.line[j] = ch.line[j - 1]
        ch.request[j] = ch.request[j - 1]
        ch.accepted[j] = ch.accepted[j - 1]
    ch.head[queue] = head + 1


@helper
def holds(ch: Record, queue: int, line: int) -> bool:
    """Whether a request to an address waits in a queue."""
    lines = ch.line[ch.head[queue] : ch.tail[queue]]
    found = 0
    for j in range(lines.size):
        found |= lines[j] == line
    return found != 0


@piece
def wants(ch: Record, queue: int, bank: int, row: int) -> bool:
    """Whether a request to a row waits in a queue."""
    head, tail = ch.head[queue], ch.tail[queue]
    banks, rows = ch.bank[head:tail], ch.row[head:tail]
    found = 0
    for j in range(banks.size):
        found |= (banks[j] == bank) & (rows[j] == row)
    return found != 0


@helper
def is_active(ch: Record, line: int, kind: int) -> bool:
    """Whether a request to an address has its row open; `kind` is IS_WRITE or 0."""
    found = 0
    for j in range(ch.head[ACTIVE], ch.tail[ACTIVE]):
        found |= ch.line[j] == line and ch.flags[j] & IS_WRITE == kind
    return found != 0


@piece
def hazard(ch: Record, line: int, is_write: bool) -> int:
    """Return HAS_HAZARD if a waiting request to the address must go before a new one, else 0."""
    found = is_active(ch, line, 0 if is_write else IS_WRITE)
    if is_write and not found:
        found = holds(ch, READS, line)
    if not found:
        return 0
    ch.hazards += 1
    return HAS_HAZARD


@helper
def is_held(ch: Record, queue: int, at: int) -> bool:
    """Whether an older request to the same address has to go first; forgets one that went."""
    if not ch.flags[at] & HAS_HAZARD:
        return False
    line = ch.line[at]
    if queue == WRITES:
        if is_active(ch, line, 0):
            return True
        for j in range(ch.head[READS], ch.tail[READS]):
            if ch.line[j] == line and ch.request[j] < ch.request[at]:
                return True
    elif is_active(ch, line, IS_WRITE):
        return True
    ch.flags[at] &= ~HAS_HAZARD
    ch.hazards -= 1
    return False


@piece
def are_all_held(ch: Record) -> bool:
    """Whether only reads can set any of the waiting writes free."""
    held = 0
    for j in range(ch.head[WRITES], ch.tail[WRITES]):
        held += is_held(ch, WRITES, j)
    return bool(held == length(ch, WRITES))


@helper
def complete(requests: np.ndarray, run: Record, index: int, tick: int) -> None:
    """Note when a request is complete, and its batch with the last of it."""
    requests[index].completed = tick
    batch = requests[requests[index].batch]
    batch.left -= 1
    batch.latest = max(batch.latest, tick)
    if batch.left == 0:
        run.stop = min(run.stop, batch.latest)


@helper
def answer(
    rules: Record,
    ch: Record,
    requests: np.ndarray,
    run: Record,
    index: int,
    tick: int,
    kind: int,
) -> None:
    """Let a request be complete at a tick, or its answer leave for the links; `kind` 1 at once."""
    if not rules.links:
        complete(requests, run, index, tick)
        return
    requests[index].due = tick
    requests[index].follow = -1
    if ch.back_head[kind] >= 0:
        requests[ch.back_tail[kind]].follow = index
    else:
        ch.back_head[kind] = index
    ch.back_tail[kind] = index


@helper
def classify(ch: Record, at: int, kind: int) -> None:
    """Count a request as hit (0), miss (1) or conflict (2) by its first command."""
    if not ch.flags[at] & IS_SEEN:
        ch.flags[at] |= IS_SEEN
        ch.row_hits += kind == 0
        ch.row_misses += kind == 1
        ch.row_conflicts += kind == 2
