"""The shipped memories, and the traces of the reference points by their exact rule."""

from pathlib import Path

import numpy as np
import pytest

from cosim import config
from hwmodels.dram.controller import trace
from hwmodels.dram.spec import DramSpec

FOLDER = Path(__file__).resolve().parents[1] / "configs/memory/timing"
WINDOW = 1 << 30
NAMES = sorted(path.stem for path in FOLDER.glob("*.yaml"))


def memory(name):
    return config.load(FOLDER / f"{name}.yaml", DramSpec)


def memories(*quick, most_ranks=None):
    """Return the names of the shipped memories as parameters; those not named here are slow."""
    assert set(quick) <= set(NAMES)
    return [
        pytest.param(name, marks=[] if name in quick else [pytest.mark.slow])
        for name in NAMES
        if most_ranks is None or memory(name).organisation.ranks <= most_ranks
    ]


def is_possible(spec, policy):
    """Return whether a memory can do what a policy asks, as the tables and queues state it."""
    if policy.scheduler == "bank_queues" and spec.command_bus in {"dual_edge", "split_activate"}:
        return False
    return policy.refresh != "per_bank" or "tRFCpb" in spec.timings


def mix(numbers):
    """Return the 64-bit hash of each number (Steele, Lea, Flood 2014: SplitMix64)."""
    x = numbers.astype(np.uint64) + np.uint64(0x9E3779B97F4A7C15)
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return x ^ (x >> np.uint64(31))


def addresses(name, count, burst):
    """Return byte addresses and which are writes, for SR, SW, RR, RW, RM, MIX or S<stride>."""
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
        stream = np.array([0, 0, 1, 1, 2])[i // 64 % 5]
        places = np.empty(count, dtype=np.int64)
        for number, base in enumerate((0, 1 << 28, 1 << 29)):
            mine = stream == number
            places[mine] = base + burst * np.arange(mine.sum())
        return places % WINDOW, stream == 2
    stride = int(name[1:])
    wraps = burst * (stride * i // WINDOW) % stride
    return (stride * i % WINDOW + wraps), np.zeros(count, dtype=bool)


def make_trace(spec, name, count=100_000, load=None):
    """Return a trace for a memory, saturated or at a share of its peak bandwidth."""
    burst = spec.organisation.burst_bytes
    places, writes = addresses(name, count, burst)
    arrivals = 0.0
    if load is not None:
        seconds = np.arange(count) * burst / (load * spec.peak_bytes_per_s)
        arrivals = seconds * 1e12 / spec.clock_ps
    return trace(places, writes, arrivals)
