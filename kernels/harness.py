"""Fair timing: callables in alternation, so that a busy machine slows all sides alike.

A sample is thread CPU time unless another clock is given, so that waiting does not count, and the
sides take turns (A B C A B C). What to compare are ratios within a round; times of different calls
are not comparable. The peaks that rates are held to are in ``kernels.peaks``.
"""

import gc
import math
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from itertools import cycle

import numpy as np

from kernels.peaks import cache_sizes

SAMPLE_S = 3e-4
"""A sample repeats its callable until it takes about this long: 300 ticks of a 1 us clock."""
WARM_S = 1e-2
"""Up to this time a call is repeated once, untimed, before a sample of hot weights."""
COLD_LAYERS = 24
COLD_BYTES = 64 << 20
CONFIDENCE = 0.95

Call = Callable[[], object]
Clock = Callable[[], float]


@dataclass(frozen=True)
class Sample:
    """Seconds of one call of a side, round by round."""

    seconds: tuple[float, ...]

    @property
    def median_s(self) -> float:
        """Median over the rounds."""
        return float(np.median(self.seconds))

    @property
    def best_s(self) -> float:
        """Least over the rounds."""
        return min(self.seconds)


@dataclass(frozen=True)
class Ratio:
    """Median of per-round ratios, and an interval that holds their true median.

    ``coverage`` is the probability that it does: at least 0.95 from six rounds on; with fewer the
    interval is the whole range and ``coverage`` says what that is worth.
    """

    median: float
    low: float
    high: float
    coverage: float


def ratio(slow: Sample, fast: Sample) -> Ratio:
    """How many times ``fast`` is faster: per-round ratios of two sides of one ``alternate``.

    The interval is that of order statistics, which assumes no distribution: of n values the l-th
    smallest and l-th largest enclose the median with probability 1 - 2 P(B < l), B binomial
    (n, 1/2) (David and Nagaraja, Order Statistics, 3rd ed. 2003, section 7.1).

    >>> ratio(Sample((2.0, 6.0, 4.0)), Sample((1.0, 2.0, 2.0)))
    Ratio(median=2.0, low=2.0, high=3.0, coverage=0.75)
    """
    if len(slow.seconds) != len(fast.seconds):
        raise ValueError(
            f"ratio: found {len(slow.seconds)} and {len(fast.seconds)} rounds, expected as many"
        )
    values = sorted(a / b for a, b in zip(slow.seconds, fast.seconds, strict=True))
    count, rank, outside = len(values), 1, 2.0 ** (1 - len(values))
    while rank < (count + 1) // 2:
        more = outside + 2 * math.comb(count, rank) / 2.0**count
        if more > 1 - CONFIDENCE:
            break
        rank, outside = rank + 1, more
    return Ratio(
        float(np.median(values)), values[rank - 1], values[count - rank], max(0.0, 1 - outside)
    )


def alternate(
    callables: Mapping[str, Call],
    *,
    rounds: int = 15,
    clock: Clock = time.thread_time,
    is_hot: bool = True,
) -> dict[str, Sample]:
    """Time every callable ``rounds`` times in turn, after a warm-up, without garbage collection.

    ``clock`` returns seconds; the default counts the CPU time of this thread alone, so a callable
    that uses other threads needs ``time.process_time`` (the work) or ``time.perf_counter`` (the
    time it takes). ``is_hot`` repeats a short call once, untimed, before each of its samples, so
    that the other sides do not decide what is in its caches. Raises ValueError for less than one
    round or callable.

    >>> sorted(alternate({"sum": lambda: sum(range(9)), "pass": lambda: None}, rounds=2))
    ['pass', 'sum']
    """
    if rounds < 1 or not callables:
        raise ValueError(
            f"alternate: found {len(callables)} callables and {rounds} rounds, expected one or more"
        )
    repeats, warm = {}, {}
    for name, call in callables.items():
        repeats[name], spent = _repeats(call, clock)
        warm[name] = is_hot and spent < WARM_S
    seconds: dict[str, list[float]] = {name: [] for name in callables}
    collecting = gc.isenabled()
    gc.disable()
    try:
        for _ in range(rounds):
            for name, call in callables.items():
                if warm[name]:
                    call()
                seconds[name].append(_moved(call, repeats[name], clock))
    finally:
        if collecting:
            gc.enable()
    return {name: Sample(tuple(values)) for name, values in seconds.items()}


def rotation(calls: Iterable[Call]) -> Call:
    """One callable that runs the next of ``calls`` each time, round and round.

    With as many layers as ``cold_layers`` says, their weights come from memory at every call.

    >>> one = rotation([lambda: "a", lambda: "b"])
    >>> one(), one(), one()
    ('a', 'b', 'a')
    """
    turns = cycle(calls)

    def turn() -> object:
        return next(turns)()

    return turn


def cold_layers(layer_bytes: int) -> int:
    """Count the layers that a rotation needs so that no cache still holds the next one.

    At least 24, and together at least 64 MiB and twice the last cache, where that is known.
    """
    last = max(cache_sizes().values(), default=0)
    return max(COLD_LAYERS, -(-max(COLD_BYTES, 2 * last) // max(1, layer_bytes)))


def _repeats(call: Call, clock: Clock) -> tuple[int, float]:
    """Warm up and find how many calls make a sample, and the seconds of one."""
    call()
    repeats = 1
    while True:
        spent = _sample(call, repeats, clock) * repeats
        if spent >= SAMPLE_S:
            return repeats, spent / repeats
        # grow by what is missing, at most tenfold: a first short sample is a rough guess
        missing = SAMPLE_S / spent if spent > 0 else 10.0
        repeats = math.ceil(repeats * min(10.0, max(1.2, missing)))


def _moved(call: Call, repeats: int, clock: Clock) -> float:
    """Take a sample, and another where the clock stood still.

    That of a thread may, while a virtual machine pays back time that its host took.
    """
    while True:
        spent = _sample(call, repeats, clock)
        if spent > 0:
            return spent


def _sample(call: Call, repeats: int, clock: Clock) -> float:
    started = clock()
    for _ in range(repeats):
        call()
    return (clock() - started) / repeats
