"""Fair timing: callables in alternation, and the peaks of this CPU that their rates are held to.

A sample is thread CPU time, so that waiting on a busy machine does not count, and the sides take
turns (A B C A B C), so that whatever slows the machine slows all of them alike. Ratios of medians
within one call are what to compare; times of different calls are not.
"""

import gc
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial

import numpy as np
from numba import float32, int16, int32, int64

from kernels.jit import entry, host_features, in1, out1
from kernels.memory import aligned_zeros
from kernels.registry import SIMD
from kernels.simd import F32X8, I16X16, I32X8, I64, Value, Writer, row_at, tile

SAMPLE_S = 3e-4
"""A sample repeats its callable until it takes about this long: 300 ticks of a 1 us clock."""
CALIBRATION_ROUNDS = 40
LANES = 8
ACCUMULATORS = 12
PAIRS = 4
L1_BYTES = 4096
STREAM_BYTES = 128 << 20
"""Read from memory: four times the largest L3 slice of a current core complex (32 MiB)."""


@dataclass(frozen=True)
class Sample:
    """CPU seconds of one call: median and least over the rounds."""

    median_s: float
    best_s: float


def alternate(
    callables: Mapping[str, Callable[[], object]],
    *,
    rounds: int = 15,
    clock: Callable[[], float] = time.thread_time,
) -> dict[str, Sample]:
    """Time every callable ``rounds`` times in turn, after a warm-up, without garbage collection.

    ``clock`` returns seconds; the default counts the CPU time of this thread alone, so a callable
    that uses other threads needs another clock. Raises ValueError for less than one round or
    callable.

    >>> sorted(alternate({"sum": lambda: sum(range(9)), "pass": lambda: None}, rounds=2))
    ['pass', 'sum']
    """
    if rounds < 1 or not callables:
        raise ValueError(
            f"alternate: found {len(callables)} callables and {rounds} rounds, expected one or more"
        )
    repeats = {name: _repeats(call, clock) for name, call in callables.items()}
    seconds: dict[str, list[float]] = {name: [] for name in callables}
    collecting = gc.isenabled()
    gc.disable()
    try:
        for _ in range(rounds):
            for name, call in callables.items():
                seconds[name].append(_sample(call, repeats[name], clock))
    finally:
        if collecting:
            gc.enable()
    return {name: Sample(float(np.median(values)), min(values)) for name, values in seconds.items()}


def _repeats(call: Callable[[], object], clock: Callable[[], float]) -> int:
    """Warm up and find how many calls make a sample."""
    call()
    repeats = 1
    while True:
        spent = _sample(call, repeats, clock) * repeats
        if spent >= SAMPLE_S:
            return repeats
        # grow by what is missing, at most tenfold: a first short sample is a rough guess
        missing = SAMPLE_S / spent if spent > 0 else 10.0
        repeats = int(np.ceil(repeats * min(10.0, max(1.2, missing))))


def _sample(call: Callable[[], object], repeats: int, clock: Callable[[], float]) -> float:
    started = clock()
    for _ in range(repeats):
        call()
    return (clock() - started) / repeats


# --- peaks ----------------------------------------------------------------------------------


@tile(3)
def _fma_tile(w: Writer, factors, sums, steps) -> None:
    """Run ``steps`` fused multiply-adds on each of 12 independent vectors."""
    a, b = w.load(F32X8, factors), w.load(F32X8, factors, 32)

    def body(_index: Value, *acc: Value) -> list[Value]:
        return [w.fma(a, b, one) for one in acc]

    start = [w.load(F32X8, sums, 32 * i) for i in range(ACCUMULATORS)]
    for i, total in enumerate(w.loop(steps, start, body)):
        w.store(total, sums, 32 * i)


@entry(in1(float32), out1(float32), int64)
def _fma_peak(factors, sums, steps):
    _fma_tile(factors.ctypes.data, sums.ctypes.data, steps)
    return 0


@tile(4)
def _words_tile(w: Writer, left, right, sums, steps) -> None:
    """Add the products of 4 fixed vectors of words with 2 fresh ones, ``steps`` times."""
    b = w.b
    fixed = [w.load(I16X16, left, 32 * i) for i in range(PAIRS)]

    def body(index: Value, *acc: Value) -> list[Value]:
        # fresh operands from L1: with fixed ones a compiler would take the product out of the loop
        at = b.add(right, b.and_(b.mul(index, I64(64)), I64(L1_BYTES - 1)))
        fresh = [w.load(I16X16, at), w.load(I16X16, at, 32)]
        return [
            b.add(one, w.madd_words(fixed[i % PAIRS], fresh[i // PAIRS]))
            for i, one in enumerate(acc)
        ]

    start = [w.load(I32X8, sums, 32 * i) for i in range(2 * PAIRS)]
    for i, total in enumerate(w.loop(steps, start, body)):
        w.store(total, sums, 32 * i)


@entry(in1(int16), in1(int16), out1(int32), int64)
def _words_peak(left, right, sums, steps):
    _words_tile(left.ctypes.data, right.ctypes.data, sums.ctypes.data, steps)
    return 0


@tile(3)
def _stream_tile(w: Writer, source, sums, steps) -> None:
    """Add up ``steps`` runs of 8 vectors."""
    b = w.b

    def body(index: Value, *acc: Value) -> list[Value]:
        at = b.add(source, b.mul(index, I64(256)))
        return [b.add(one, w.load(I32X8, at, 32 * i)) for i, one in enumerate(acc)]

    start = [w.load(I32X8, sums, 32 * i) for i in range(8)]
    for i, total in enumerate(w.loop(steps, start, body)):
        w.store(total, sums, 32 * i)


@entry(in1(int32), out1(int32), int64)
def _stream_peak(source, sums, steps):
    _stream_tile(source.ctypes.data, sums.ctypes.data, steps)
    return 0


# Without AVX2 the same three, as plain loops over contiguous rows that the compiler vectorises.


@entry(in1(float32), out1(float32), int64, contract=True)
def _fma_loop(factors, sums, steps):
    a, b = factors[0], factors[1]
    row = row_at(sums.ctypes.data, sums.size, np.float32)
    for _ in range(steps):
        for i in range(row.size):
            row[i] = row[i] * a + b
    return 0


@entry(in1(int16), in1(int16), out1(int32), int64)
def _words_loop(left, right, sums, steps):
    total = row_at(sums.ctypes.data, sums.size, np.int32)
    fixed = row_at(left.ctypes.data, sums.size, np.int16)
    for step in range(steps):
        fresh = row_at(right.ctypes.data + 2 * (step & 7), sums.size, np.int16)
        for i in range(total.size):
            total[i] = int32(total[i] + int32(fixed[i]) * int32(fresh[i]))
    return 0


@entry(in1(int32), out1(int32), int64)
def _stream_loop(source, sums, steps):
    row = row_at(source.ctypes.data, steps * 64, np.int32)
    total = int32(0)
    for i in range(row.size):
        total = int32(total + row[i])
    sums[0] = total
    return 0


def calibrate() -> dict[str, float]:
    """Peaks of one core, in about a second: operations per second, a multiply-add being two.

    ``fma`` is float32 fused multiply-add; ``pmaddwd`` multiplies int16 and adds up int32, the body
    of an exact integer product (vpmaddwd and vpaddd); ``stream`` is bytes per second read from
    memory. CPUs without AVX2 and FMA get the rates of plain loops, the ceiling of plain kernels.
    """
    is_simd = host_features().issuperset(SIMD)
    floats = aligned_zeros((ACCUMULATORS * LANES,), np.float32)
    factors = np.full(16, 0.5, np.float32)
    words = aligned_zeros((L1_BYTES // 2,), np.int16)
    words[:] = np.arange(words.size) % 251 - 125
    integers = aligned_zeros((2 * PAIRS * LANES,), np.int32)
    memory = np.ones(STREAM_BYTES // 4, np.int32)
    steps, runs = 100_000, STREAM_BYTES // 256
    if is_simd:
        calls = {
            "fma": partial(_fma_peak, factors, floats, steps),
            "pmaddwd": partial(_words_peak, words, words, integers, steps),
            "stream": partial(_stream_peak, memory, integers, runs),
        }
    else:
        calls = {
            "fma": partial(_fma_loop, factors, floats, steps),
            "pmaddwd": partial(_words_loop, words, words, integers, steps),
            "stream": partial(_stream_loop, memory, integers, runs),
        }
    work = {
        "fma": 2 * steps * (ACCUMULATORS * LANES if is_simd else floats.size),
        "pmaddwd": 2 * steps * (2 * PAIRS * 2 * LANES if is_simd else integers.size),
        "stream": STREAM_BYTES,
    }
    samples = alternate(calls, rounds=CALIBRATION_ROUNDS)
    return {name: work[name] / samples[name].best_s for name in calls}
