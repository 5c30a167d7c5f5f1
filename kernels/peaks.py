"""Peaks of one core of this CPU, measured: what the rates of kernels are held to.

Each arithmetic peak is the inner step of a family of kernels, run from registers and L1 with as
many independent sums as hide its latency. Streams are read through a buffer of the size of a
cache level. CPUs without AVX2 get the rates of plain loops, the ceiling of plain kernels.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path

import numpy as np
from numba import float32, int8, int16, int32, int64
from numpy.typing import NDArray

from kernels.jit import Entry, entry, host_features, in1, out1
from kernels.memory import aligned_zeros
from kernels.registry import SIMD
from kernels.simd import F32X8, I8X32, I16X16, I32X8, I64, Value, Writer, constant, row_at, tile

ROUNDS = 40
LANES = 8
ACCUMULATORS = 12
FIXED = 4
SUMS = 2 * FIXED
L1_BYTES = 4096
STREAM_RUN = 256
STREAMED_S = 0.1
"""Least time that each stream is read for."""
L2_STREAM_BYTES = 256 << 10
L3_STREAM_BYTES = 8 << 20
DRAM_STREAM_BYTES = 128 << 20
_CACHES = Path("/sys/devices/system/cpu/cpu0/cache")
_SIZES = {"K": 1 << 10, "M": 1 << 20, "G": 1 << 30}


@dataclass(frozen=True)
class Peak:
    """A measured limit: operations a second (a multiply-add is two), or bytes a second."""

    name: str
    meaning: str
    rate: float


@cache
def cache_sizes() -> dict[str, int]:
    """Bytes of the data caches that core 0 sees, by level; empty where the system does not say.

    >>> all(size > 0 for size in cache_sizes().values())
    True
    """
    found: dict[str, int] = {}
    for folder in sorted(_CACHES.glob("index*")):
        try:
            kind, level, size = (
                (folder / name).read_text().strip() for name in ("type", "level", "size")
            )
        except OSError:
            continue
        if kind != "Instruction" and size[:-1].isdigit() and size[-1] in _SIZES:
            found[f"L{level}"] = int(size[:-1]) * _SIZES[size[-1]]
    return found


# --- AVX2 -----------------------------------------------------------------------------------


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


def _integer_tile(kind, add: Callable[[Writer, Value, Value, Value], Value]):
    """Make a tile of 8 sums: ``add(w, sum, one of 4 fixed vectors, one of 2 fresh)``, in ``kind``.

    Fresh operands come from L1: with fixed ones a compiler would take the product out of the loop.
    """

    def generate(w: Writer, left, right, sums, steps) -> None:
        b = w.b
        fixed = [w.load(I8X32, left, 32 * i) for i in range(FIXED)]

        def body(index: Value, *acc: Value) -> list[Value]:
            at = b.add(right, b.and_(b.mul(index, I64(64)), I64(L1_BYTES - 1)))
            fresh = [w.load(I8X32, at), w.load(I8X32, at, 32)]
            return [add(w, one, fixed[i % FIXED], fresh[i // FIXED]) for i, one in enumerate(acc)]

        start = [w.load(kind, sums, 32 * i) for i in range(SUMS)]
        for i, total in enumerate(w.loop(steps, start, body)):
            w.store(total, sums, 32 * i)

    return tile(4)(generate)


def _add_words(w: Writer, total: Value, fixed: Value, fresh: Value) -> Value:
    a, b = w.b.bitcast(fixed, I16X16), w.b.bitcast(fresh, I16X16)
    return w.b.add(total, w.madd_words(a, b))


def _add_bytes(w: Writer, total: Value, fixed: Value, fresh: Value) -> Value:
    pairs = w.madd_bytes(fixed, fresh)
    return w.b.add(total, w.madd_words(pairs, constant(I16X16, 1)))


def _add_pairs(w: Writer, total: Value, fixed: Value, fresh: Value) -> Value:
    return w.b.add(total, w.madd_bytes(fixed, fresh))


def _add_looked_up(w: Writer, total: Value, fixed: Value, fresh: Value) -> Value:
    return w.b.add(total, w.call("llvm.x86.avx2.pshuf.b", I8X32, [fixed, fresh]))


_words_tile = _integer_tile(I32X8, _add_words)
_bytes_tile = _integer_tile(I32X8, _add_bytes)
_pairs_tile = _integer_tile(I16X16, _add_pairs)
_lookup_tile = _integer_tile(I8X32, _add_looked_up)


@entry(in1(int8), in1(int8), out1(int32), int64)
def _words_peak(left, right, sums, steps):
    _words_tile(left.ctypes.data, right.ctypes.data, sums.ctypes.data, steps)
    return 0


@entry(in1(int8), in1(int8), out1(int32), int64)
def _bytes_peak(left, right, sums, steps):
    _bytes_tile(left.ctypes.data, right.ctypes.data, sums.ctypes.data, steps)
    return 0


@entry(in1(int8), in1(int8), out1(int32), int64)
def _pairs_peak(left, right, sums, steps):
    _pairs_tile(left.ctypes.data, right.ctypes.data, sums.ctypes.data, steps)
    return 0


@entry(in1(int8), in1(int8), out1(int32), int64)
def _lookup_peak(left, right, sums, steps):
    _lookup_tile(left.ctypes.data, right.ctypes.data, sums.ctypes.data, steps)
    return 0


@tile(3)
def _stream_tile(w: Writer, source, sums, steps) -> None:
    """Add up ``steps`` runs of 8 vectors."""
    b = w.b

    def body(index: Value, *acc: Value) -> list[Value]:
        at = b.add(source, b.mul(index, I64(STREAM_RUN)))
        return [b.add(one, w.load(I32X8, at, 32 * i)) for i, one in enumerate(acc)]

    start = [w.load(I32X8, sums, 32 * i) for i in range(8)]
    for i, total in enumerate(w.loop(steps, start, body)):
        w.store(total, sums, 32 * i)


@entry(in1(int32), out1(int32), int64, int64)
def _stream_peak(source, sums, steps, passes):
    for _ in range(passes):
        _stream_tile(source.ctypes.data, sums.ctypes.data, steps)
    return 0


# --- plain loops over contiguous rows, which the compiler vectorises as far as the CPU can -----


@entry(in1(float32), out1(float32), int64, contract=True)
def _fma_loop(factors, sums, steps):
    a, b = factors[0], factors[1]
    row = row_at(sums.ctypes.data, sums.size, np.float32)
    for _ in range(steps):
        for i in range(row.size):
            row[i] = row[i] * a + b
    return 0


@entry(in1(int8), in1(int8), out1(int32), int64)
def _words_loop(left, right, sums, steps):
    total = row_at(sums.ctypes.data, sums.size, np.int32)
    fixed = row_at(left.ctypes.data, sums.size, np.int16)
    for step in range(steps):
        fresh = row_at(right.ctypes.data + 2 * (step & 7), sums.size, np.int16)
        for i in range(total.size):
            total[i] = int32(total[i] + int32(fixed[i]) * int32(fresh[i]))
    return 0


@entry(in1(int8), in1(int8), out1(int32), int64)
def _bytes_loop(left, right, sums, steps):
    total = row_at(sums.ctypes.data, sums.size, np.int32)
    fixed = row_at(left.ctypes.data, sums.size, np.int8)
    for step in range(steps):
        fresh = row_at(right.ctypes.data + (step & 7), sums.size, np.int8)
        for i in range(total.size):
            total[i] = int32(total[i] + int32(fixed[i]) * int32(fresh[i]))
    return 0


@entry(in1(int8), in1(int8), out1(int32), int64)
def _pairs_loop(left, right, sums, steps):
    total = row_at(sums.ctypes.data, sums.size, np.int16)
    fixed = row_at(left.ctypes.data, sums.size, np.int8)
    for step in range(steps):
        fresh = row_at(right.ctypes.data + (step & 7), sums.size, np.int8)
        for i in range(total.size):
            total[i] = int16(total[i] + int16(fixed[i]) * int16(fresh[i]))
    return 0


@entry(in1(int8), in1(int8), out1(int32), int64)
def _bits_loop(left, right, sums, steps):
    total = row_at(sums.ctypes.data, sums.size, np.int32)
    fixed = row_at(left.ctypes.data, sums.size, np.int32)
    for step in range(steps):
        fresh = row_at(right.ctypes.data + 4 * (step & 7), sums.size, np.int32)
        for i in range(total.size):
            v = fixed[i] ^ fresh[i]
            v = v - ((v >> 1) & 0x55555555)
            v = (v & 0x33333333) + ((v >> 2) & 0x33333333)
            total[i] = int32(total[i] + ((((v + (v >> 4)) & 0x0F0F0F0F) * 0x01010101) >> 24))
    return 0


@entry(in1(int32), out1(int32), int64, int64)
def _stream_loop(source, sums, steps, passes):
    row = row_at(source.ctypes.data, steps * 64, np.int32)
    total = int32(0)
    for _ in range(passes):
        for i in range(row.size):
            total = int32(total + row[i])
        sums[0] = total
    return 0


# --- calibration ----------------------------------------------------------------------------

# name, meaning, tile, loop, products of one step for a vector of sums and for one sum of a loop
_MIXES: tuple[tuple[str, str, Entry, Entry, int, int], ...] = (
    ("pmaddwd", "vpmaddwd + vpaddd: exact 16-bit products", _words_peak, _words_loop, 16, 1),
    (
        "pmaddubsw_pmaddwd",
        "vpmaddubsw + vpmaddwd + vpaddd: 8-bit products, 32-bit sums",
        _bytes_peak,
        _bytes_loop,
        32,
        1,
    ),
    (
        "pmaddubsw",
        "vpmaddubsw + vpaddw: 8-bit products, 16-bit sums",
        _pairs_peak,
        _pairs_loop,
        32,
        1,
    ),
    (
        "pshufb",
        "vpshufb + vpaddb: tables of four one-bit products",
        _lookup_peak,
        _bits_loop,
        128,
        32,
    ),
)


def calibrate() -> dict[str, Peak]:
    """Peaks of one core by name, the best of many rounds, in one to two seconds.

    ``fma`` is float32 fused multiply-add, the next four integer instruction mixes; ``L2``, ``L3``
    and ``DRAM`` are bytes a second read through 256 KiB, 8 MiB and at least 128 MiB.
    """
    is_simd = host_features().issuperset(SIMD)
    steps = 50_000
    floats = aligned_zeros((ACCUMULATORS * LANES,), np.float32)
    factors = np.full(16, 0.5, np.float32)
    codes = aligned_zeros((L1_BYTES + 64,), np.int8)
    codes[:] = np.arange(codes.size) % 251 - 125
    sums = aligned_zeros((SUMS * LANES,), np.int32)
    fma = _fma_peak if is_simd else _fma_loop
    peaks = {"fma": Peak("fma", "float32 fused multiply-add", 0.0)}
    calls: dict[str, Callable[[], object]] = {"fma": partial(fma, factors, floats, steps)}
    work = {"fma": 2 * steps * floats.size}
    for name, meaning, vectors, loop, many, one in _MIXES:
        peaks[name] = Peak(name, meaning if is_simd else f"plain loop in place of {meaning}", 0.0)
        calls[name] = partial(vectors if is_simd else loop, codes, codes, sums, steps)
        work[name] = 2 * steps * (SUMS * many if is_simd else sums.size * one)
    best = dict.fromkeys(calls, float("inf"))
    for name, call in calls.items():
        call()
        for _ in range(ROUNDS):
            best[name] = min(best[name], _timed(call))
    measured = {
        name: Peak(name, peak.meaning, work[name] / best[name]) for name, peak in peaks.items()
    }
    return measured | _streams(_stream_peak if is_simd else _stream_loop, sums)


def _streams(read: Entry, sums: NDArray[np.int32]) -> dict[str, Peak]:
    last = max(cache_sizes().values(), default=0)
    found = {}
    memory = aligned_zeros((max(DRAM_STREAM_BYTES, 4 * last) // 4,), np.int32)
    memory[:] = 1
    for name, size in (
        ("L2", L2_STREAM_BYTES),
        ("L3", L3_STREAM_BYTES),
        ("DRAM", memory.nbytes),
    ):
        passes = max(1, L3_STREAM_BYTES // size)
        call = partial(read, memory[: size // 4], sums, size // STREAM_RUN, passes)
        call()
        best, spent, rounds = float("inf"), 0.0, 0
        while spent < STREAMED_S or rounds < 5:
            one = _timed(call)
            best, spent, rounds = min(best, one), spent + one, rounds + 1
        found[name] = Peak(name, f"bytes read through {size >> 10} KiB", passes * size / best)
    return found


def _timed(call: Callable[[], object]) -> float:
    """Elapsed seconds: never less than the call took.

    The CPU clock of a thread may stand still while a virtual machine pays back time that its host
    took, and the least of many would be such a moment. Waiting only makes a round not the least.
    """
    started = time.perf_counter()
    call()
    return time.perf_counter() - started
