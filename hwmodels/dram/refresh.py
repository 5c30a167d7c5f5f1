"""Refresh before everything but active requests, and row commands at two edges of a clock."""

import numpy as np

from hwmodels.dram.commands import ACT, PRE, PREAB, REFAB, REFPB
from hwmodels.dram.issue import delay, precharge, precharge_rank, rank_ready, ready_at, record
from hwmodels.dram.jit import Record, helper
from hwmodels.dram.state import ACTIVE_HERE, MAX_REFRESHES, NEVER, OPEN_ROW, SHIFT


@helper
def note_due(rules: Record, ch: Record, tick: int) -> None:
    """Note the refreshes that fall due at a tick: of all ranks, or of one bank after another.

    Banks take turns in their order. `refreshed_ranks` that are refreshed together have the turn of
    the same bank at once, as the pseudo-channels of HBM3 in Ramulator 2.1.
    """
    if tick < ch.next_refresh or ch.refresh_count > MAX_REFRESHES - rules.ranks:
        return
    ch.next_refresh += rules.refresh_interval
    ch.row_wake = 0
    if rules.is_refreshing == 1:
        for rank in range(rules.ranks):
            ch.refresh_bank[ch.refresh_count] = rank * rules.rank_banks
            ch.refresh_count += 1
    else:
        for rank in range(rules.refreshed_ranks):
            ch.refresh_bank[ch.refresh_count] = ch.refresh_turn + rank * rules.rank_banks
            ch.refresh_count += 1
        ch.refresh_turn = (ch.refresh_turn + 1) % (rules.banks // rules.refreshed_ranks)


@helper
def next_command(rules: Record, ch: Record, tick: int) -> tuple[int, int]:
    """Return the command that the refresh in turn needs, and when it may go.

    NEVER if an active request keeps a bank open.
    """
    bank = ch.refresh_bank[0]
    command = REFAB
    last = bank + rules.rank_banks
    if rules.is_refreshing == 2:
        command = REFPB
        last = bank + 1
    for b in range(bank, last):
        if ch.banks[b, ACTIVE_HERE]:
            return PRE, NEVER
        if ch.banks[b, OPEN_ROW] >= 0:
            command = PRE if rules.is_refreshing == 2 else PREAB
    if rules.is_refreshing == 2:
        ready = ready_at(rules, ch, command, bank)
    else:
        ready = rank_ready(rules, ch, command, bank)
    ready = max(ready, ch.row_free) >> SHIFT
    if rules.bus == 2:
        if command in (REFAB, REFPB):
            ready = rising(ready, tick)
        elif ready <= tick and not pairs(rules, ch, command, bank, tick):
            ready = tick + 1
    return command, ready


@helper
def issue_next(
    rules: Record,
    ch: Record,
    tick: int,
    run: Record,
    log: np.ndarray,
    command: int,
) -> None:
    """Issue a command of the refresh in turn, which is over with REF."""
    bank = ch.refresh_bank[0]
    record(rules, ch, tick, run, log, command, bank, ch.banks[bank, OPEN_ROW], -1)
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
        ch.hit_wake = 0


@helper
def rising(ready: int, tick: int) -> int:
    """Return the first rising edge (odd tick) from `ready` that is not before `tick`."""
    return max(ready, tick) | 1


@helper
def pairs(rules: Record, ch: Record, command: int, bank: int, tick: int) -> bool:
    """Whether PRE or PREab may follow the row command of the rising edge before (JESD238)."""
    if tick != ch.pair_tick or bank >> rules.rank_shift != ch.pair_rank:
        return True
    return bool(command == PRE and ch.pair_bank >= 0 and bank != ch.pair_bank)


@helper
def remember_edge(rules: Record, ch: Record, command: int, bank: int, tick: int) -> None:
    """Keep the row command of a rising edge for the falling edge that it pairs with."""
    if rules.bus == 2 and tick & 1:
        ch.pair_tick = tick + (3 if command == ACT else 1)
        ch.pair_rank = bank >> rules.rank_shift
        ch.pair_bank = -1 if command in (PREAB, REFAB) else bank
