"""How fast a memory served what it was asked for: the roofline's channels, fitted to a controller.

The roofline's arithmetic moves descriptors in order through channels that are busy for their bytes.
In order, too, a controller takes them: no burst before those in front. Here the two are put beside
each other: a factor on the busy times and a delay after them, for each kind of traffic, such that
the times at which the last bursts are taken differ least in the mean square.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from hwmodels.dram.jit import Integers, entry, helper

Floats = NDArray[np.float64]

SMALLEST, LARGEST = 0.5, 256.0
"""Range of factors that is searched."""
SCALE_FS = 1e7
"""What a factor e times another must change in the ends of descriptors to be told from it."""
DELAYED = 0.5
"""Share of the squares of a common delay that counts as explained by it."""
GRID, SMALLEST_STEP = 24, 1e-4
"""Factors tried over the whole range, and when logarithms of them are known well enough."""


@dataclass(frozen=True)
class Sample:
    """One descriptor that the controller served, in femtoseconds.

    It came at `arrival_fs`, its first burst was accepted at `accepted_fs`, its last at `taken_fs`;
    `busy` are the pairs of channel and time of the roofline. `before_fs` is when the channels were
    free where nothing is known of the descriptor before it, -1 elsewhere.
    """

    kind: int
    arrival_fs: int
    busy: tuple[tuple[int, int], ...]
    before_fs: int
    accepted_fs: int
    taken_fs: int


@dataclass(frozen=True)
class Fit:
    """Service of each kind of traffic: busy times a factor, taken `delay_fs` after that.

    `accept_fs` is how much later than the channels the controller begins; `delay_error_fs` and
    `rate_error` are standard errors of the delay and, as a share, of the busy times together.
    """

    factor: tuple[float, ...]
    delay_fs: tuple[float, ...]
    accept_fs: tuple[float, ...]
    delay_error_fs: tuple[float, ...]
    rate_error: float


def fit(samples: Sequence[Sample], kinds: int, *, channels: int, block_fs: int) -> Fit:
    """Return the service of `kinds` kinds of traffic that explains the samples best.

    Errors come from the spread over blocks of time of `block_fs`. A kind without samples keeps the
    roofline's rate and ends with its last byte.
    """
    origin = samples[0].arrival_fs
    kind = np.array([one.kind for one in samples], dtype=np.int64)
    arrival = np.array([one.arrival_fs - origin for one in samples], dtype=np.float64)
    taken = np.array([one.taken_fs - origin for one in samples], dtype=np.float64)
    before = np.array([max(one.before_fs - origin, 0) for one in samples], dtype=np.float64)
    is_first = np.array([one.before_fs >= 0 for one in samples])
    busy = np.zeros((len(samples), channels))
    for row, one in zip(busy, samples, strict=True):
        for channel, time in one.busy:
            row[channel] = time
    starts = np.where(is_first, before, -1.0)
    factor = np.ones(kinds)
    _search(arrival, busy, kind, starts, taken, _moves(kinds), factor)
    begins, ends = np.zeros(len(samples)), np.zeros(len(samples))
    _replay(arrival, busy, kind, starts, factor, begins, ends)
    numbers = np.bincount(kind, minlength=kinds)
    delay = np.bincount(kind, taken - ends, kinds) / np.maximum(1, numbers)
    accepted = np.array([one.accepted_fs - origin for one in samples], dtype=np.float64)
    is_queued = begins > arrival
    queued = np.bincount(kind[is_queued], minlength=kinds)
    late = np.bincount(kind[is_queued], (accepted - begins)[is_queued], kinds)
    left = taken - ends - delay[kind]
    spread = np.sqrt(np.bincount(kind, left**2, kinds) / np.maximum(1, numbers - 1))
    return Fit(
        tuple(factor.tolist()),
        tuple(delay.tolist()),
        tuple((late / np.maximum(1, queued)).tolist()),
        tuple((spread / np.sqrt(np.maximum(1, numbers))).tolist()),
        _rate_error(arrival, ends, taken - delay[kind], starts, (arrival // block_fs).astype(int)),
    )


def _moves(kinds: int) -> Floats:
    """Return the directions to try: each factor alone, one against another, all; (moves, kinds)."""
    alone = np.eye(kinds)
    pairs = [a - b for i, a in enumerate(alone) for b in alone[:i]]
    found: Floats = np.array([*alone, *pairs, np.ones(kinds)])
    return np.concatenate((found, -found))


def _rate_error(
    arrival: Floats, ends: Floats, true: Floats, starts: Floats, block: Integers
) -> float:
    """Return the standard error of the time served, as a share, from its spread over blocks.

    A descriptor is served from the end of the one before, or its arrival, until its own.
    """
    model, found = (_served(arrival, end, starts) for end in (ends, true))
    own = np.unique(block, return_inverse=True)[1]
    blocks = [np.bincount(own, times).astype(np.float64) for times in (found, model)]
    return ratio_error(blocks[0], blocks[1])


def _served(arrival: Floats, ends: Floats, starts: Floats) -> Floats:
    earlier = np.concatenate(([0.0], np.maximum.accumulate(ends)[:-1]))
    earlier = np.where(starts >= 0, starts, earlier)
    served: Floats = np.maximum(ends - np.maximum(earlier, arrival), 0.0)
    return served


def ratio_error(found: Floats, size: Floats) -> float:
    """Return the standard error of the sum of `found` over that of `size`, as a share of itself.

    Both have an entry per block (Cochran 1977, equation 2.46). 0 with fewer than two blocks or none
    found.

    Example:
        >>> ratio_error(np.array([2.0, 4.0]), np.array([1.0, 2.0]))
        0.0

    """
    blocks, total = len(found), float(np.sum(found))
    if blocks < 2 or total <= 0 or np.sum(size) <= 0:
        return 0.0
    left = found - total / np.sum(size) * size
    return float(np.sqrt(blocks / (blocks - 1) * np.sum(left**2)) / total)


@helper
def _end(arrival: float, busy: Floats, factor: float, free: Floats) -> float:
    """Put a descriptor on its channels; returns when the last of them is done."""
    last = arrival
    for channel in range(busy.size):
        if busy[channel] > 0:
            free[channel] = max(free[channel], arrival) + factor * busy[channel]
            last = max(last, free[channel])
    return last


@entry
def _replay(
    arrival: Floats,
    busy: Floats,
    kind: Integers,
    starts: Floats,
    factor: Floats,
    begins: Floats,
    ends: Floats,
) -> None:
    """Fill in when descriptors begin and end on channels that are busy `factor` times as long."""
    free = np.zeros(busy.shape[1])
    for i in range(arrival.size):
        if starts[i] >= 0:
            free[:] = starts[i]
        begins[i] = max(arrival[i], free.max())
        ends[i] = _end(arrival[i], busy[i], factor[kind[i]], free)


@entry
def _search(
    arrival: Floats,
    busy: Floats,
    kind: Integers,
    starts: Floats,
    taken: Floats,
    moves: Floats,
    factor: Floats,
) -> None:
    """Improve the factors: all together first, then along `moves` with ever smaller steps."""
    low, high = np.log(SMALLEST), np.log(LARGEST)
    step = (high - low) / GRID
    best, least = np.zeros(factor.size), np.inf
    for number in range(GRID + 1):
        tried = np.full(factor.size, low + number * step)
        cost = _cost(arrival, busy, kind, starts, taken, tried)
        if cost < least:
            best, least = tried, cost
    while step > SMALLEST_STEP:
        is_better = False
        for move in moves:
            tried = best + step * move
            cost = _cost(arrival, busy, kind, starts, taken, tried)
            if cost < least:
                best, least, is_better = tried, cost, True
        if not is_better:
            step /= 2
    factor[:] = np.exp(best)


@entry
def _cost(
    arrival: Floats,
    busy: Floats,
    kind: Integers,
    starts: Floats,
    taken: Floats,
    tried: Floats,
) -> float:
    """Return the squares of what no delay explains, with the exponentials of `tried` as factors.

    A long delay has its price, so that factors explain what they can: where all descriptors are of
    one size and wait for none, either might.
    """
    kinds = tried.size
    factor = np.exp(tried)
    count, total, squares = np.zeros(kinds), np.zeros(kinds), np.zeros(kinds)
    free = np.zeros(busy.shape[1])
    for i in range(arrival.size):
        if starts[i] >= 0:
            free[:] = starts[i]
        own = kind[i]
        late = taken[i] - _end(arrival[i], busy[i], factor[own], free)
        count[own] += 1
        total[own] += late
        squares[own] += late * late
    cost = arrival.size * SCALE_FS**2 * np.sum(tried**2)
    for own in range(kinds):
        if count[own]:
            cost += squares[own] - DELAYED * total[own] ** 2 / count[own]
    return cost
