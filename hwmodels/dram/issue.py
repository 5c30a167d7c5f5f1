"""Issuing commands: what each does to the banks, and what it delays. All compiled."""

import numpy as np

from hwmodels.dram.commands import (
    ACT,
    ACTIVATE,
    BANK,
    COMMAND_BUS,
    DEMAND,
    GROUP,
    PRE,
    PREAB,
    QUEUE,
    RD,
    RDA,
    WR,
    WRA,
)
from hwmodels.dram.jit import Record, helper, piece
from hwmodels.dram.state import HITS, OPEN_ROW, OPENING, OPENING_LATE, OPENING_WAIT, SHIFT

_LIMIT = (1 << SHIFT) - 1


@helper
def ready_at(rules: Record, ch: Record, command: int, bank: int) -> int:
    """Return the `ready` value of a command to one bank."""
    group, stack = bank >> rules.group_shift, bank >> rules.stack_shift
    inner = max(ch.banks[bank, command], ch.group_ready[group, command])
    return int(max(inner, ch.stack_ready[stack, command]))


@helper
def rank_ready(rules: Record, ch: Record, command: int, bank: int) -> int:
    """Return the `ready` value of a command to the rank of a bank, which only ranks delay."""
    return int(ch.stack_ready[bank >> rules.stack_shift, command])


@helper
def delay(rules: Record, ch: Record, command: int, bank: int, tick: int) -> None:
    """Push back everything that `command` to `bank` at `tick` delays."""
    now = tick << SHIFT
    for j in range(rules.first[command], rules.first[command + 1]):
        following, level = rules.following[j], rules.level[j]
        value = now + rules.value[j]
        if level == BANK:
            ch.banks[bank, following] = max(ch.banks[bank, following], value)
        elif level == GROUP:
            group = bank >> rules.group_shift
            ch.group_ready[group, following] = max(ch.group_ready[group, following], value)
        else:
            low = bank & rules.mask[level]
            high = low + rules.span[level]
            if rules.is_sibling[j]:
                start = bank & rules.mask[level - 1]
                push_back(rules, ch, following, start, low, value)
                low, high = high, start + rules.span[level - 1]
            push_back(rules, ch, following, low, high, value)


@helper
def push_back(rules: Record, ch: Record, command: int, low: int, high: int, value: int) -> None:
    """Let a command to the stack ids from bank `low` to `high` be ready no sooner than `value`."""
    for stack in range(low >> rules.stack_shift, high >> rules.stack_shift):
        ch.stack_ready[stack, command] = max(ch.stack_ready[stack, command], value)


@helper
def record(
    rules: Record,
    ch: Record,
    tick: int,
    run: Record,
    log: np.ndarray,
    command: int,
    bank: int,
    row: int,
    request: int,
) -> None:
    """Count a command, and write it down if wanted."""
    ch.commands[command] += 1
    if rules.is_logging:
        entry = log[run.logged]
        entry.tick = tick
        entry.request = request + run.base if request >= 0 else request
        entry.command = command
        entry.channel = ch.number
        entry.bank = bank
        entry.row = row
        run.logged += 1


@helper
def open_row(rules: Record, ch: Record, bank: int, row: int, tick: int, accepted: int) -> None:
    """Let ACT open a row; the second half of a split ACT changes nothing more."""
    rank = bank >> rules.rank_shift
    own = ready_at(rules, ch, ACT, bank)
    ch.opened[bank, OPENING] = own & _LIMIT if own >> SHIFT > accepted + 1 else ACTIVATE
    ch.opened[bank, OPENING_LATE] = max(0, tick - max(own >> SHIFT, accepted + 1))
    ch.opened[bank, OPENING_WAIT] = COMMAND_BUS if ch.row_free >> SHIFT == tick else QUEUE
    ch.banks[bank, OPEN_ROW] = row
    ch.movable[bank] = 0
    ch.opened[bank, HITS] = 0
    if ch.open_banks[rank] == 0:
        ch.open_since[rank] = tick
    ch.open_banks[rank] += 1
    turn = ch.act_turn[rank]
    ch.act_tick[rank, turn] = tick
    ch.act_turn[rank] = (turn + 1) & 3
    delay(rules, ch, ACT, bank, tick)
    value = (ch.act_tick[rank, (turn + 1) & 3] << SHIFT) + rules.window
    low = rank * rules.rank_banks
    push_back(rules, ch, ACT, low, low + rules.rank_banks, value)
    ch.row_free = ((tick + rules.activate_ticks) << SHIFT) + COMMAND_BUS
    if rules.is_bus_held:
        ch.column_free = max(ch.column_free, ch.row_free)


@helper
def close_row(rules: Record, ch: Record, bank: int, tick: int) -> None:
    """Close the row of a bank, if one is open."""
    if ch.banks[bank, OPEN_ROW] >= 0:
        rank = bank >> rules.rank_shift
        ch.banks[bank, OPEN_ROW] = -1
        ch.movable[bank] = 0
        ch.open_banks[rank] -= 1
        if ch.open_banks[rank] == 0:
            ch.open_ticks += tick - ch.open_since[rank]


@helper
def precharge(rules: Record, ch: Record, bank: int, tick: int) -> None:
    """Close one bank by PRE."""
    close_row(rules, ch, bank, tick)
    delay(rules, ch, PRE, bank, tick)


@piece
def precharge_rank(rules: Record, ch: Record, bank: int, tick: int) -> None:
    """Close all banks of the rank that begins at `bank` by PREab."""
    for b in range(bank, bank + rules.rank_banks):
        close_row(rules, ch, b, tick)
    delay(rules, ch, PREAB, bank, tick)


@helper
def access(
    rules: Record, ch: Record, bank: int, tick: int, accepted: int, is_write: bool, closes: bool
) -> int:
    """Issue RD or WR to an open row, or RDA or WRA; returns the command."""
    command = WR if is_write else RD
    _account(rules, ch, command, bank, tick, accepted)
    ch.column_free = ((tick + rules.column_ticks) << SHIFT) + COMMAND_BUS
    if rules.is_bus_held:
        ch.row_free = max(ch.row_free, ch.column_free)
    ch.opened[bank, HITS] += 1
    if closes:
        command = WRA if is_write else RDA
        close_row(rules, ch, bank, tick)
    delay(rules, ch, command, bank, tick)
    return command


@piece
def _account(rules: Record, ch: Record, command: int, bank: int, tick: int, accepted: int) -> None:
    """Name what kept the data bus idle before a column command.

    Until the request came, demand. While the command could have gone, the command bus that
    others held or their turn before it. Before that the delay that was over last; for a row just
    opened all that held back its ACT instead, told apart in the same way.
    """
    bus = 0 if rules.is_shared_bus else bank >> rules.rank_shift
    idle = tick - ch.bus_free[bus]
    ch.bus_free[bus] = tick + rules.burst
    if idle <= 0:
        return
    late = min(idle, max(0, accepted + 1 - (tick - idle)))
    ch.lost[DEMAND] += late
    idle -= late
    own = ready_at(rules, ch, command, bank)
    waited = min(idle, tick - (own >> SHIFT))
    ch.lost[COMMAND_BUS if ch.column_free >> SHIFT == tick else QUEUE] += waited
    idle -= waited
    limit = own & _LIMIT
    if limit == ACTIVATE:
        waited = min(idle, ch.opened[bank, OPENING_LATE])
        ch.lost[ch.opened[bank, OPENING_WAIT]] += waited
        idle -= waited
        limit = ch.opened[bank, OPENING]
    ch.lost[limit] += idle
