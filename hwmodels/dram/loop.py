"""The loop over time: requests are offered, channels take their turns, idle ticks are skipped."""

import numpy as np

from hwmodels.dram import bank_queues, links, shared_queues
from hwmodels.dram.bank_queues import tick_banks
from hwmodels.dram.jit import Integers, Record, borrowed, entry, piece
from hwmodels.dram.shared_queues import tick_dual, tick_single
from hwmodels.dram.split_activate import tick_split
from hwmodels.dram.state import NEVER

IS_OVER, LOG_IS_FULL = range(2)
"""Why `advance` came back."""


@entry
def advance(
    rules: Record,
    state: np.ndarray,
    requests: np.ndarray,
    run: Record,
    wakes: Integers,
    log: np.ndarray,
    until: int,
) -> int:
    """Let time pass until a tick is over or all is served; LOG_IS_FULL asks for a larger log.

    While it rests, time passes though all is served. `wakes`, (channels,), are those of `state`
    side by side.
    """
    state, requests = borrowed(state), borrowed(requests)
    wakes, log = borrowed(wakes), borrowed(log)
    while True:
        is_refused = offer(rules, state, requests, run, wakes)
        if run.is_flushing == 1 and run.next == run.count:
            wake_all(rules, state, run, wakes)
        if run.is_stopping:
            until = min(until, run.stop - rules.lead)
        if run.next == run.count and not run.is_resting and is_done(rules, state, run):
            return IS_OVER
        soon = next_tick(rules, state, requests, run, wakes)
        if run.next < run.count and not is_refused:
            arrival = requests[run.next].arrival - rules.lead
            soon = min(soon, max(arrival, run.clock + 1))
        if soon > until:
            run.clock = max(run.clock, until)
            return IS_OVER
        if rules.is_logging and log.size - run.logged < 4 * rules.channels:
            return LOG_IS_FULL
        run.clock = soon
        run.taken = 0
        step_all(rules, state, soon, requests, run, log, wakes)


@piece
def is_done(rules: Record, state: np.ndarray, run: Record) -> bool:
    """Whether every request known is served."""
    finished = 0
    for c in range(rules.channels):
        finished += state[c].finished
    return bool(finished == run.base + run.count and run.away == 0)


@piece
def offer(
    rules: Record, state: np.ndarray, requests: np.ndarray, run: Record, wakes: Integers
) -> bool:
    """Offer what has arrived, in order; whether a channel refused."""
    while run.taken < rules.offers:
        index = run.next
        if index == run.count or requests[index].arrival > run.clock + rules.lead:
            return False
        channel = requests[index].channel
        ch = state[channel]
        if rules.links:
            taken = links.accept(rules, requests, run, index, run.clock + 1)
        elif rules.lead:
            taken = bank_queues.accept(rules, ch, requests, run, index, run.clock + 1)
        else:
            taken = shared_queues.accept(rules, ch, requests, run, index, run.clock)
        wakes[channel] = ch.wake
        if not taken:
            return True
        run.next = index + 1
        run.taken += 1
    return False


@piece
def wake_all(rules: Record, state: np.ndarray, run: Record, wakes: Integers) -> None:
    """Let every channel know that no request follows."""
    run.is_flushing = 2
    for c in range(rules.channels):
        wakes[c] = state[c].wake = min(state[c].wake, run.clock + 1)


@piece
def next_tick(
    rules: Record, state: np.ndarray, requests: np.ndarray, run: Record, wakes: Integers
) -> int:
    """Return the next tick in which a channel, or a link, may do anything."""
    if rules.is_every_tick:
        return int(run.clock + 1)
    soon = NEVER
    if rules.links:
        soon = links.next_step(rules, state, requests, run)
    for c in range(wakes.size):
        soon = min(soon, wakes[c])
    return int(max(soon, run.clock + 1))


@piece
def step_all(
    rules: Record,
    state: np.ndarray,
    tick: int,
    requests: np.ndarray,
    run: Record,
    log: np.ndarray,
    wakes: Integers,
) -> None:
    """Do one tick of every channel that may do anything, and of the links before them."""
    if rules.links:
        links.before_channels(rules, state, requests, run, tick)
    for c in range(rules.channels):
        if wakes[c] <= tick or rules.is_every_tick:
            step(rules, state[c], tick, requests, run, log)
            wakes[c] = state[c].wake
    if rules.links:
        links.after_channels(rules, state, requests, run, wakes, tick)


@piece
def step(
    rules: Record,
    ch: Record,
    tick: int,
    requests: np.ndarray,
    run: Record,
    log: np.ndarray,
) -> None:
    """Do one tick of a channel."""
    if rules.is_every_tick:
        ch.active_wake = 0
        ch.hit_wake = 0
        ch.row_wake = 0
        ch.bank_wake = 0
    if rules.lead:
        tick_banks(rules, ch, tick, requests, run, log)
    elif rules.bus == 0:
        tick_single(rules, ch, tick, requests, run, log)
    elif rules.bus == 3:
        tick_split(rules, ch, tick, requests, run, log)
    else:
        tick_dual(rules, ch, tick, requests, run, log)
