"""Traces that bench a memory: streams, strides, random places and a mix, each by an exact rule."""

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

import cosim.guard  # noqa: F401 (the check is the import)
from hwmodels.dram.controller import Trace, trace
from hwmodels.dram.spec import PICO, DramSpec

WINDOW = 1 << 30
"""Bytes that every trace stays within."""
TRACES: Mapping[str, str] = {
    "SR": "reads of one burst after another",
    "SW": "the same, writes",
    "RR": "reads of random bursts (SplitMix64 of the number of the request)",
    "RW": "the same, writes",
    "RM": "the same, a third of them writes",
    "MIX": "64 bursts of one stream after 64 of another: two of reads twice each, one of writes",
}
"""What the named traces are; `S256` and the like are reads so many bytes apart."""
_STREAMS = np.array([0, 0, 1, 1, 2])
_BASES = (0, 1 << 28, 1 << 29)


def mix(numbers: NDArray[np.int64]) -> NDArray[np.uint64]:
    """Return the 64-bit hash of each number (Steele, Lea and Flood 2014: SplitMix64)."""
    x = numbers.astype(np.uint64) + np.uint64(0x9E3779B97F4A7C15)
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return x ^ (x >> np.uint64(31))


def addresses(name: str, count: int, burst: int) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
    """Return byte addresses and which of them are writes: (count,) each.

    Raises ValueError for a name that is neither in `TRACES` nor S and a number of bytes.
    """
    i = np.arange(count, dtype=np.int64)
    if name in {"SR", "SW"}:
        return i * burst % WINDOW, np.full(count, name == "SW")
    if name in {"RR", "RW", "RM"}:
        hashed = mix(i + 1)
        places = burst * (hashed % np.uint64(WINDOW // burst)).astype(np.int64)
        if name == "RM":
            return places, (hashed >> np.uint64(40)) % np.uint64(3) == 0
        return places, np.full(count, name == "RW")
    if name == "MIX":
        stream = _STREAMS[i // 64 % len(_STREAMS)]
        places = np.empty(count, dtype=np.int64)
        for number, base in enumerate(_BASES):
            mine = stream == number
            places[mine] = base + burst * np.arange(mine.sum())
        return places % WINDOW, stream == 2
    if name[:1] != "S" or not name[1:].isdecimal() or not int(name[1:]):
        raise ValueError(f'trace: found "{name}", expected {", ".join(TRACES)} or a stride as S256')
    stride = int(name[1:])
    wraps = burst * (stride * i // WINDOW) % stride
    return stride * i % WINDOW + wraps, np.zeros(count, dtype=np.bool_)


def make_trace(
    spec: DramSpec, name: str, count: int = 100_000, *, load: float | None = None
) -> Trace:
    """Return a trace of `count` requests, as fast as accepted or at a share of the peak.

    Raises ValueError as `addresses` does.
    """
    burst = spec.organisation.burst_bytes
    places, writes = addresses(name, count, burst)
    if load is None:
        return trace(places, writes)
    seconds = np.arange(count) * burst / (load * spec.peak_bytes_per_s)
    return trace(places, writes, seconds * PICO / spec.clock_ps)
