"""What the compiled controller reads and changes: one record of rules, one record per channel.

A tick is one step of the command bus. For every bank and command there is a `ready` value: the
first tick at which all delays so far allow it, times 16, plus the number of the limit that set it.
So one comparison tells whether a command may go, and a maximum keeps the reason. Delays of a bank,
of its bank group and of its stack id are kept apart: `ready` is the greatest of the three.
"""

import math
from bisect import bisect_left
from collections.abc import Iterable
from typing import Any

import numpy as np

from hwmodels.dram.commands import (
    CHANNEL,
    COMMANDS,
    GROUP,
    LIMITS,
    PREAB,
    RANK,
    RDA,
    REFAB,
    REFPB,
    STACK,
    WRA,
    Constraint,
    constraints,
)
from hwmodels.dram.jit import Record
from hwmodels.dram.policy import (
    MAX_BANK_QUEUE,
    MAX_QUEUE,
    Policy,
    refresh_interval,
    refreshed_ranks,
)
from hwmodels.dram.spec import MAX_BANKS, MAX_LINKS, DramSpec, Links

SHIFT = 4
"""Bits of a `ready` value that hold the limit."""
NEVER = 1 << 58
"""A tick that does not come."""
PLACES = 2 * (2 * MAX_QUEUE + MAX_BANKS)
"""Most places of all queues; each moves through its own and back when it meets their end."""
MAX_ROWS = 128
MAX_RANKS = 16
MAX_REFRESHES = 256
"""Refreshes that may be due at a time; more wait to be noted."""
LINE_BYTES, PAGE_BYTES = 64, 4096
SET_STEP = 21 * LINE_BYTES
"""Bytes from one channel to the next, modulo a page: an odd number of lines."""
LINE = LINE_BYTES // 8
"""Numbers in a line of the cache; commands that wait for others, ACT to REFpb, have a place each.

The rest are as ready as what they stand for.
"""
OPEN_ROW, ACTIVE_HERE = PREAB, REFAB
"""Columns of a bank that are of no command of one bank, so that a bank fits in a line.

Its open row or -1; requests whose row was opened for them.
"""
HITS, OPENING, OPENING_LATE, OPENING_WAIT = range(4)
"""Columns of a bank's open row: accesses since ACT, and what held ACT back.

That is a limit, the ticks that it could have gone sooner but for another one, and that one: the
bus, or the turn of others.
"""

READS, WRITES, ACTIVE = range(3)
"""Queues of a channel: reads, writes, and requests whose row was opened for them."""
IS_WRITE, IS_SEEN, HAS_HAZARD = 1, 2, 4
"""Flags of a waiting request: a command of it was issued; its address was in use when it came."""
AWAY, BACK = range(2)
"""Ways of a packet: from the source, and to it. Also queues, before the crossing of that way."""
LINE_MARKS = 1024
"""Addresses on their way through links are told apart by what is left of this."""
RESPONSE = 2
"""A queue behind the crossing of a way is that many after the one before it."""

RULES = np.dtype(
    [
        ("channels", np.int64),
        ("banks", np.int64),  # of a channel
        ("rank_banks", np.int64),
        ("rank_shift", np.int64),  # bank >> rank_shift is its rank
        ("ranks", np.int64),  # of a channel; pseudo-channels count as ranks
        ("is_shared_bus", np.int64),  # ranks share one data bus
        ("bus", np.int64),  # 0 single, 1 dual, 2 dual_edge, 3 split_activate
        ("first", np.int64, (len(COMMANDS) + 1,)),  # rows of a command
        ("following", np.int64, (MAX_ROWS,)),
        ("value", np.int64, (MAX_ROWS,)),  # delay and limit, as in `ready`
        ("level", np.int64, (MAX_ROWS,)),
        ("is_sibling", np.int64, (MAX_ROWS,)),
        ("mask", np.int64, (5,)),  # bank & mask is the first bank of its part, by level
        ("span", np.int64, (5,)),  # banks of a part, by level
        ("stack_shift", np.int64),  # bank >> stack_shift is its stack id, counted over all ranks
        ("group_shift", np.int64),  # and its bank group
        ("window", np.int64),  # tFAW, as in `ready`
        ("activate_ticks", np.int64),  # how long ACT holds the bus of row commands
        ("column_ticks", np.int64),  # how long column commands hold theirs
        ("is_bus_held", np.int64),  # from all commands, as there is one bus
        ("burst", np.int64),  # ticks on the data bus
        ("read_latency", np.int64),
        ("refresh_interval", np.int64),
        ("refreshed_ranks", np.int64),  # whose banks are refreshed together, one of each
        ("is_refreshing", np.int64),  # 0 none, 1 all banks of a rank, 2 bank by bank
        ("is_closed", np.int64),
        ("is_unified", np.int64),
        ("capacity", np.int64, (2,)),
        ("start", np.int64, (4,)),  # first place of a queue, and of the next: few stay in the cache
        ("write_high", np.int64),  # writes are served above it
        ("write_low", np.int64),  # and until they are below it
        ("bank_queue", np.int64),
        ("row_hits", np.int64),
        ("idle_writes", np.int64),
        ("offers", np.int64),  # requests a source offers in one tick
        ("lead", np.int64),  # ticks that a tick's number is ahead of the source's clock
        ("links", np.int64),  # 0: the source is at the channels
        ("quadrants", np.int64),
        ("link_queue", np.int64),
        ("flits", np.int64, (2, 2)),  # of packets by way, of reads and of writes
        ("flit_ps", np.int64),
        ("clock_ps", np.int64),
        ("act2", np.int64),  # latest second half of a split ACT
        ("write_clock", np.int64, (2,)),  # ticks that it runs on after RD, after WR
        ("is_logging", np.int64),
        ("is_every_tick", np.int64),  # no tick is skipped; for tests
    ],
    align=True,
)


def _spread(fields: list[Any]) -> np.dtype[np.void]:
    """Return a record of whole lines of the cache; neighbours begin in different sets of it."""
    rest = (SET_STEP - np.dtype(fields, align=True).itemsize) % PAGE_BYTES
    return np.dtype([*fields, ("rest", np.uint8, (rest,))], align=True)


STATE = _spread(
    [
        ("number", np.int64),  # of the channel
        ("wake", np.int64),  # nothing can happen before this tick
        ("active_wake", np.int64),  # no active request can go before this tick
        ("hit_wake", np.int64),  # no waiting request whose row is open can
        ("row_wake", np.int64),  # no ACT, PRE or REF can
        ("is_writing", np.int64),
        ("last_due", np.int64),  # delivery of the youngest read
        ("next_refresh", np.int64),
        ("refresh_turn", np.int64),
        ("refresh_count", np.int64),
        ("draining", np.int64),  # writes still to be moved to the queues of banks
        ("turn", np.int64),  # the queue of a bank asked last
        ("pair_tick", np.int64),  # falling edge that pairs with the last row command
        ("pair_rank", np.int64),
        ("pair_bank", np.int64),
        ("half_bank", np.int64),  # bank between two halves of ACT, or -1
        ("half_since", np.int64),
        ("started", np.int64),  # queue of the request whose CAS was issued, or -1
        ("started_at", np.int64),  # its place behind the head of that queue
        ("clock_until", np.int64),  # the write clock runs until then
        ("hazards", np.int64),  # waiting requests with HAS_HAZARD
        ("row_free", np.int64),  # like `ready`, for all row commands
        ("column_free", np.int64),  # for all column commands
        ("open_ticks", np.int64),  # ranks with a row open, times ticks
        ("row_hits", np.int64),
        ("row_misses", np.int64),
        ("row_conflicts", np.int64),
        ("forwarded", np.int64),
        ("merged", np.int64),
        ("finished", np.int64),  # requests served
        ("commands", np.int64, (len(COMMANDS),)),
        ("lost", np.int64, (len(LIMITS),)),  # ticks that data buses did not move data, by limit
        ("head", np.int64, (3,)),  # a queue lies in the places [head, tail)
        ("tail", np.int64, (3,)),
        ("act_tick", np.int64, (MAX_RANKS, 4)),
        ("act_turn", np.int64, (MAX_RANKS,)),
        ("open_banks", np.int64, (MAX_RANKS,)),
        ("open_since", np.int64, (MAX_RANKS,)),
        ("bus_free", np.int64, (MAX_RANKS,)),
        ("movable", np.int64, (MAX_BANKS,)),  # neither ACT nor PRE may come before this tick
        ("bank", np.int32, (PLACES,)),
        ("row", np.int32, (PLACES,)),
        ("flags", np.int32, (PLACES,)),
        ("line", np.int64, (PLACES,)),
        ("request", np.int64, (PLACES,)),
        ("accepted", np.int64, (PLACES,)),
        ("banks", np.int64, (MAX_BANKS, LINE)),  # columns: of commands `ready`, and the two above
        ("group_ready", np.int64, (MAX_BANKS, LINE)),  # of commands, by delays of bank groups
        ("stack_ready", np.int64, (MAX_BANKS, LINE)),  # and by those of stack ids and ranks
        ("opened", np.int64, (MAX_BANKS, 4)),  # see `HITS`
        ("queued", np.int64),  # requests in the queues of banks
        ("queue_count", np.int32, (MAX_BANKS,)),  # of each
        ("queue_wake", np.int64, (MAX_BANKS,)),  # nothing of it can go before; empty: NEVER
        ("bank_wake", np.int64),  # nothing of any of them can, but of a rank to be refreshed
        ("queue_row", np.int32, (MAX_BANKS, MAX_BANK_QUEUE)),
        ("queue_flags", np.int32, (MAX_BANKS, MAX_BANK_QUEUE)),
        ("queue_line", np.int64, (MAX_BANKS, MAX_BANK_QUEUE)),
        ("queue_request", np.int64, (MAX_BANKS, MAX_BANK_QUEUE)),
        ("back_head", np.int64, (2,)),  # reads and writes whose answers leave for the links, or -1
        ("back_tail", np.int64, (2,)),
        ("refresh_bank", np.int64, (MAX_REFRESHES,)),  # those due, oldest first
    ]
)
REQUEST = np.dtype(
    [
        ("arrival", np.int64),  # first clock at which the source offers it
        ("accepted", np.int64),  # -1: not yet
        ("completed", np.int64),  # -1: not known yet
        ("line", np.int64),  # its address in bursts
        ("chain", np.int64),  # the next read that shares its burst, or -1
        ("batch", np.int64),  # the last request of its batch, which keeps the next two
        ("left", np.int64),  # requests of the batch that are not complete yet
        ("latest", np.int64),  # completion of the latest one so far
        ("follow", np.int64),  # the next one in the same queue of links, or -1
        ("due", np.int64),  # step of the links, or tick of the channel, at which it is there
        ("row", np.int32),
        ("bank", np.int32),
        ("channel", np.int32),
        ("is_write", np.int32),
        ("link", np.int32),
    ],
    align=True,
)
LOG = np.dtype(
    [
        ("tick", np.int64),
        ("request", np.int64),  # -1: none
        ("command", np.int32),
        ("channel", np.int32),
        ("bank", np.int32),  # the first one of a rank where the command is for a rank
        ("row", np.int32),
    ],
    align=True,
)
RUN = np.dtype(
    [
        ("clock", np.int64),  # last tick done
        ("count", np.int64),  # requests known
        ("base", np.int64),  # requests released before them
        ("next", np.int64),  # request that the source offers next
        ("taken", np.int64),  # requests accepted in this tick
        ("refused", np.int64),  # the last one refused
        ("logged", np.int64),
        ("stop", np.int64),  # the next tick at which a batch is complete
        ("is_stopping", np.int64),  # time passes no further than that
        ("is_resting", np.int64),  # time passes though all is served
        ("is_flushing", np.int64),  # nothing will follow: waiting writes need no company; 2: told
        ("away", np.int64),  # requests that links accepted and that are not complete
        ("moving", np.int64),  # those of them that are not in a channel
        ("link_turn", np.int64),  # the link that is offered the next request
        ("link_head", np.int64, (4, MAX_LINKS)),
        ("link_tail", np.int64, (4, MAX_LINKS)),
        ("link_count", np.int64, (4, MAX_LINKS)),
        ("link_age", np.int64, (2, MAX_LINKS)),  # steps that the first has waited to cross; 0: none
        ("link_free", np.int64, (2, MAX_LINKS)),  # step at which another may cross to it
        ("link_lines", np.int64, (LINE_MARKS,)),  # requests on the way to channels, by address
        ("link_order", np.int64, (MAX_LINKS,)),  # scratch: the turn of those who cross
    ],
    align=True,
)
_BUSES = {"single": 0, "dual": 1, "dual_edge": 2, "split_activate": 3}
_REFRESH = {"none": 0, "all_bank": 1, "per_bank": 2}


def spans(spec: DramSpec) -> tuple[int, int, int, int, int]:
    """Return how many banks a channel, rank, stack id, bank group and bank have."""
    organisation = spec.organisation
    group = organisation.banks
    stack = group * organisation.bank_groups
    rank = stack * organisation.stack_ids
    return organisation.banks_per_channel, rank, stack, group, 1


def make_rules(
    spec: DramSpec, policy: Policy, *, offers: int | None, refresh_rate: int, is_logging: bool
) -> Record:
    """Return the record of `RULES` of a memory and a policy."""
    rules: Record = np.zeros(1, RULES)[0]
    organisation = spec.organisation
    span = spans(spec)
    ticks = spec.ticks_per_clock
    buses = organisation.channels * organisation.pseudo_channels
    rules["channels"] = organisation.channels
    rules["banks"], rules["rank_banks"] = span[CHANNEL], span[RANK]
    rules["rank_shift"] = span[RANK].bit_length() - 1
    rules["ranks"] = span[CHANNEL] // span[RANK]
    rules["is_shared_bus"] = organisation.ranks > 1
    rules["bus"] = _BUSES[spec.command_bus]
    rules["span"] = span
    rules["mask"] = [-banks for banks in span]
    rules["stack_shift"] = span[STACK].bit_length() - 1
    rules["group_shift"] = span[GROUP].bit_length() - 1
    rows = constraints(spec)
    _fill_rows(rules, _needed(rows, span, policy))
    rules["window"] = next(_value(row) for row in rows if row.window == 4)
    rules["activate_ticks"], rules["column_ticks"] = spec.activate_ticks, spec.column_ticks
    is_long = max(spec.activate_ticks, spec.column_ticks) > 1
    rules["is_bus_held"] = is_long and spec.command_bus == "single"
    rules["burst"] = spec.cycles("tBL") * ticks
    rules["read_latency"] = (spec.cycles("tCL") + spec.cycles("tBL")) * ticks
    rules["is_refreshing"] = _REFRESH[policy.refresh]
    rules["refresh_interval"] = refresh_interval(spec, policy, refresh_rate) or NEVER
    rules["refreshed_ranks"] = refreshed_ranks(spec)
    rules["is_closed"] = policy.page == "closed"
    rules["is_unified"] = policy.is_unified
    rules["capacity"] = policy.read_queue, policy.write_queue
    rules["start"][1:] = 2 * np.cumsum([policy.read_queue, policy.write_queue, span[CHANNEL]])
    rules["write_high"] = math.floor(policy.write_high * policy.write_queue)
    rules["write_low"] = math.ceil(policy.write_low * policy.write_queue)
    rules["bank_queue"], rules["row_hits"] = policy.bank_queue, policy.row_hits
    rules["idle_writes"] = policy.idle_writes
    rules["offers"] = buses if offers is None else offers
    rules["lead"] = policy.scheduler == "bank_queues"
    if spec.links is not None and policy.front == "links":
        _fill_links(rules, spec, spec.links)
    rules["act2"] = spec.cycles("tAAD", 0)
    after = spec.cycles("tBL") + spec.cycles("tWCKPST", 0)
    rules["write_clock"] = spec.cycles("tCL") + after, spec.cycles("tCWL") + after
    rules["is_logging"] = is_logging
    return rules


def make_state(rules: Record) -> np.ndarray:
    """Return the record of `STATE` of every channel before the first tick."""
    count = int(rules["channels"])
    room = np.zeros(count * STATE.itemsize + LINE_BYTES, np.uint8)
    first = -room.ctypes.data % LINE_BYTES
    state = room[first : first + count * STATE.itemsize].view(STATE)
    state["number"] = np.arange(state.size)
    state["banks"] = state["group_ready"] = state["stack_ready"] = -NEVER
    state["row_free"] = state["column_free"] = state["act_tick"] = -NEVER
    state["banks"][..., OPEN_ROW] = -1
    state["banks"][..., ACTIVE_HERE] = 0
    state["opened"][..., OPENING] = LIMITS.index("tRCD")
    state["head"] = state["tail"] = rules["start"][:3]
    state["next_refresh"] = rules["refresh_interval"]
    state["half_bank"] = state["started"] = state["pair_tick"] = -1
    state["last_due"] = -1
    state["queue_wake"] = NEVER
    state["back_head"] = -1
    return state


def _fill_links(rules: Record, spec: DramSpec, links: Links) -> None:
    data = spec.organisation.burst_bytes // links.flit_bytes
    rules["links"], rules["quadrants"] = links.count, links.quadrants
    rules["link_queue"] = links.queue
    rules["flits"] = (1, 1 + data), (1 + data, 1)
    rules["flit_ps"], rules["clock_ps"] = links.flit_ps, round(spec.clock_ps)


def _value(row: Constraint) -> int:
    return (row.ticks << SHIFT) + row.limit


def _needed(rows: Iterable[Constraint], span: tuple[int, ...], policy: Policy) -> list[Constraint]:
    """Return the rows whose commands the policy issues and that no other row covers.

    How long a command holds its bus is kept apart.
    """
    unused = {RDA, WRA} if policy.page == "open" else set()
    unused |= {"none": {REFAB, REFPB, PREAB}, "all_bank": {REFPB}}.get(
        policy.refresh, {REFAB, PREAB}
    )
    if policy.scheduler == "bank_queues":
        unused |= {PREAB}
    kept: dict[tuple[int, int], list[Constraint]] = {}
    for row in sorted(rows, key=lambda row: (span[row.level], row.ticks), reverse=True):
        pair = row.preceding, row.following
        if row.window > 1 or row.level == CHANNEL or not unused.isdisjoint(pair):
            continue
        alike = kept.setdefault(pair, [])
        if row.is_sibling or not any(_covers(other, row) for other in alike):
            alike.append(row)
    return [row for alike in kept.values() for row in alike]


def _covers(one: Constraint, other: Constraint) -> bool:
    """Whether a row of as large a part is at least as strict as another of the same commands."""
    return not one.is_sibling and one.ticks >= other.ticks


def _fill_rows(rules: Record, rows: Iterable[Constraint]) -> None:
    ordered = sorted(rows, key=lambda row: row.preceding)
    count = len(ordered)
    if count > MAX_ROWS:
        raise ValueError(f"{count} delays, expected at most {MAX_ROWS}")
    rules["following"][:count] = [row.following for row in ordered]
    rules["value"][:count] = [_value(row) for row in ordered]
    rules["level"][:count] = [row.level for row in ordered]
    rules["is_sibling"][:count] = [row.is_sibling for row in ordered]
    preceding = [row.preceding for row in ordered]
    rules["first"] = [bisect_left(preceding, command) for command in range(len(COMMANDS) + 1)]
