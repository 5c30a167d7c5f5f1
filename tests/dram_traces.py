"""The shipped memories as parameters of tests, and the traces of `cosim bench --filter memory`."""

from pathlib import Path

import pytest

from cosim import config
from cosim.bench.memory_traces import make_trace
from hwmodels.dram.spec import DramSpec

__all__ = ["NAMES", "is_possible", "make_trace", "memories", "memory"]
FOLDER = Path(__file__).resolve().parents[1] / "configs/memory/timing"
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
    if policy.front == "links" and spec.links is None:
        return False
    return policy.refresh != "per_bank" or "tRFCpb" in spec.timings
