"""Batches of requests: written into the list of all, read, released; and rows opened at once."""

import numpy as np

from hwmodels.dram.address import decode, line_of
from hwmodels.dram.jit import Integers, Record, entry, helper, piece
from hwmodels.dram.policy import MAX_BANK_QUEUE
from hwmodels.dram.state import HITS, NEVER, OPEN_ROW, PLACES


@piece
def note(
    table: Record,
    requests: np.ndarray,
    at: int,
    address: int,
    is_write: bool,
    arrival: int,
    last: int,
    size: int,
) -> None:
    """Write a request of a batch of `size` whose last one is at `last`, with its place."""
    request = requests[at]
    request.line = line_of(table, address)
    channel, bank, row, _ = decode(table, request.line)
    request.arrival = arrival
    request.accepted = -1
    request.completed = -1
    request.chain = -1
    request.batch = last
    request.left = size
    request.latest = -1
    request.row = row
    request.bank = bank
    request.channel = channel
    request.is_write = is_write


@entry
def enter(
    table: Record,
    address: np.ndarray,
    is_write: np.ndarray,
    arrival: Integers,
    requests: np.ndarray,
    start: int,
) -> None:
    """Write new requests into the list of all, with the place that each address means."""
    size = address.size
    last = start + size - 1
    for i in range(size):
        note(table, requests, start + i, address[i], is_write[i], arrival[i], last, size)


@entry
def enter_runs(
    table: Record,
    base: int,
    row_bytes: int,
    stride: int,
    rows: int,
    is_write: bool,
    arrival: int,
    requests: np.ndarray,
    start: int,
    size: int,
) -> None:
    """Write every burst that `rows` runs of bytes touch into the list of all requests."""
    shift = table.burst_shift
    last = start + size - 1
    at = start
    for row in range(rows):
        first = base + row * stride
        for line in range(first >> shift, stop_line(first + row_bytes, shift)):
            note(table, requests, at, line << shift, is_write, arrival, last, size)
            at += 1


@entry
def count_runs(base: int, row_bytes: int, stride: int, rows: int, shift: int) -> int:
    """Return how many bursts of `1 << shift` bytes runs of bytes touch, each run for itself."""
    total = 0
    for row in range(rows):
        first = base + row * stride
        total += stop_line(first + row_bytes, shift) - (first >> shift)
    return total


@entry
def count_buses(
    table: Record, base: int, row_bytes: int, stride: int, rows: int, banks: int, found: Integers
) -> None:
    """Count the bursts that runs of bytes touch by data bus: (channels, buses of `banks` banks)."""
    shift = table.burst_shift
    for row in range(rows):
        first = base + row * stride
        for line in range(first >> shift, stop_line(first + row_bytes, shift)):
            channel, bank, _, _ = decode(table, line_of(table, line << shift))
            found[channel, bank // banks] += 1


@helper
def stop_line(stop: int, shift: int) -> int:
    """Return the first burst that begins at `stop` or later."""
    return (stop + (1 << shift) - 1) >> shift


@entry
def next_end(
    requests: np.ndarray, ends: Integers, known: int, base: int, reached: int
) -> tuple[int, int]:
    """Return the first completion after `reached` of batches whose completion is known.

    `ends`, of which the first `known` count, are the last requests of batches, numbered from
    `base`. Those complete by then are dropped: how many are left is returned behind it.
    """
    soon, left = NEVER, 0
    for i in range(known):
        last = requests[ends[i] - base]
        if last.left == 0:
            if last.latest <= reached:
                continue
            soon = min(soon, last.latest)
        ends[left] = ends[i]
        left += 1
    return soon, left


@entry
def count_latencies(requests: np.ndarray, start: int, stop: int, found: Integers) -> int:
    """Count requests by ticks from acceptance to completion; returns the longest time.

    Nothing is counted when that has no place in `found`.
    """
    longest = 0
    for i in range(start, stop):
        longest = max(longest, requests[i].completed - requests[i].accepted)
    if longest < found.size:
        for i in range(start, stop):
            found[requests[i].completed - requests[i].accepted] += 1
    return longest


@entry
def open_rows(
    table: Record, state: np.ndarray, addresses: Integers, clock: int, rank_shift: int
) -> None:
    """Let the rows of byte addresses be open in channels that are at rest, from a tick on."""
    for i in range(addresses.size):
        channel, bank, row, _ = decode(table, line_of(table, addresses[i]))
        ch = state[channel]
        if ch.banks[bank, OPEN_ROW] < 0:
            rank = bank >> rank_shift
            if ch.open_banks[rank] == 0:
                ch.open_since[rank] = clock
            ch.open_banks[rank] += 1
        ch.banks[bank, OPEN_ROW] = row
        ch.opened[bank, HITS] = 0


def oldest_waiting(state: np.ndarray) -> int:
    """Return the first request that a queue of any channel still needs; NEVER if none does."""
    places = np.arange(PLACES)
    heads, tails = state["head"][..., None], state["tail"][..., None]
    is_used = ((places >= heads) & (places < tails)).any(axis=1)
    oldest = state["request"][is_used].min(initial=NEVER)
    is_used = np.arange(MAX_BANK_QUEUE) < state["queue_count"][..., None]
    return int(state["queue_request"][is_used].min(initial=oldest))


def shift(state: np.ndarray, requests: np.ndarray, run: Record, released: int) -> None:
    """Give all requests new numbers after the first ones were released."""
    state["request"] -= released
    state["queue_request"] -= released
    run["link_head"] -= released
    run["link_tail"] -= released
    requests["batch"] -= released
    for numbers in (requests["chain"], requests["follow"], state["back_head"], state["back_tail"]):
        numbers[numbers >= 0] -= released
