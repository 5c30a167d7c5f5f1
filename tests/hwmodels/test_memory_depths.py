"""Depths of a memory: loads on their way, queues of the controller, channels."""

from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from hw_samples import gemm, tensor, vector
from hypothesis import given, settings
from hypothesis import strategies as st

from cosim.chip import load_chip
from hwmodels.dram import controller
from hwmodels.simulate import simulate
from hwmodels.workload import Workload

CHIP = Path(__file__).resolve().parents[2] / "configs/hardware/stacked_edge_32.yaml"


@pytest.fixture(scope="module")
def parts():
    """Return the shipped edge chip with the controller behind it."""
    return load_chip(CHIP, assignments=["memory.fidelity=exact"])


def cycles(chip, workload, **memory):
    """Return the cycles of a workload on a chip with other figures of its memory."""
    architecture = replace(chip.architecture, memory=replace(chip.architecture.memory, **memory))
    return simulate(
        workload,
        architecture,
        technology=chip.technology,
        energy=chip.energy,
        dram=chip.dram,
    ).cycles.total


@pytest.mark.parametrize("fidelity", ["roofline", "exact"])
def test_one_load_at_a_time_waits_for_each_and_many_for_none(parts, fidelity):
    # Weights of vector products on a fast array without ports: latency shows between loads.
    work = Workload("g", (gemm("g", 1, 512, 512), gemm("h", 1, 512, 512)))
    ports = replace(
        parts.architecture.buffers,
        weight=replace(parts.architecture.buffers.weight, size_bytes=8192, port_bytes=None),
    )
    array = replace(parts.architecture.array, clock_hz=8e9)
    chip = replace(parts, architecture=replace(parts.architecture, buffers=ports, array=array))
    times = [
        cycles(chip, work, fidelity=fidelity, prefetch=depth) for depth in (1, 2, 4, 1 << 20, None)
    ]
    assert times[0] > 1.05 * times[-1]
    assert all(more <= 1.01 * fewer for fewer, more in pairwise(times))
    assert times[-2] == times[-1]


def test_a_limit_of_loads_on_their_way_is_asked_once_for_each(parts):
    # Weights of vector products, whose steps end while loads are on their way; waiting for these
    # adds at most an event to each load.
    work = Workload("g", (gemm("g", 1, 512, 512), gemm("h", 1, 512, 512)))
    weight = replace(parts.architecture.buffers.weight, size_bytes=8192, port_bytes=None)
    buffers = replace(parts.architecture.buffers, weight=weight)
    found = []
    for limit in (None, 2):
        memory = replace(parts.architecture.memory, fidelity="roofline", prefetch=limit)
        own = replace(parts.architecture, buffers=buffers, memory=memory)
        stats = simulate(work, own, technology=parts.technology, energy=parts.energy)
        loads = sum(stats.memory[port]["descriptors"] for port in ("input", "weight"))
        found.append((stats.simpy_events, loads))
    (free, loads), (limited, same) = found
    assert same == loads > 50
    assert limited <= free + loads


@settings(max_examples=12, deadline=None)
@given(
    depth=st.sampled_from([8, 16, 32]),
    gap=st.floats(0, 2),
    writes=st.integers(2, 9),
    start=st.integers(0, 1 << 12),
)
def test_deeper_queues_are_at_most_one_percent_slower_on_streams(parts, depth, gap, writes, start):
    memory = parts.dram
    number = 6000
    requests = controller.trace(
        32 * (start + np.arange(number)),
        np.arange(number) // 64 % writes == writes - 1,
        gap / 16 * np.arange(number),
    )
    times = []
    for factor in (1, 2, 4):
        own = replace(memory.policy, read_queue=factor * depth, write_queue=factor * depth)
        times.append(controller.simulate(memory.spec, own, requests).ticks)
    assert times[1] <= 1.01 * times[0]
    assert times[2] <= 1.01 * times[1]


def test_more_channels_are_not_slower():
    x, y = tensor("x", "input", (64, 1024), 32), tensor("y", "output", (64, 1024), 32)
    work = Workload("v", (vector("v", "gelu", (x,), (y,)),))
    times = []
    for channels in (1, 2, 4, 8):
        chip = load_chip(
            CHIP,
            assignments=["memory.fidelity=exact", f"memory.channels={channels}"],
        )
        times.append(cycles(chip, work))
    for fewer, more in pairwise(times):
        assert more <= 1.01 * fewer
