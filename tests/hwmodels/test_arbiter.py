"""hwmodels.arbiter: who comes first at a memory that takes descriptors in order."""

from dataclasses import replace
from math import isclose
from pathlib import Path

import pytest
import simpy
from hw_samples import gemm

from cosim.chip import load_chip
from hwmodels.arbiter import Arbiter
from hwmodels.memory import Channels, Descriptor
from hwmodels.sampled_memory import SampledServer
from hwmodels.simulate import simulate
from hwmodels.workload import Workload

CHIP = Path(__file__).resolve().parents[2] / "configs/hardware/stacked_edge_32.yaml"
NS = 10**6  # femtoseconds


@pytest.fixture(scope="module", params=["exact", "sampled"])
def make(request):
    """Return what makes an HBM2 server of a fidelity."""
    chip = load_chip(CHIP, assignments=[f"memory.fidelity={request.param}"])
    if request.param == "exact":
        return chip.dram.serve
    channels = Channels(chip.architecture.memory, chip.technology)
    return lambda env: SampledServer(env, chip.dram, channels)


def serve(make, submissions, is_arbitrated=True):
    """Submit (nanosecond, name, priority, size) and return when each was done, and the server."""
    env = simpy.Environment()
    server = Arbiter(env, make(env)) if is_arbitrated else make(env)
    ends = {}

    def submit(at, name, priority, size, base):
        yield env.timeout(at * NS)
        one = Descriptor(base, size, requester=name[0], priority=priority)
        yield server.submit(one).wait()
        ends[name] = env.now / NS

    for number, (at, name, priority, size) in enumerate(submissions):
        env.process(submit(at, name, priority, size, number << 20))
    env.run()
    server.finish()
    return ends, server


BULK = [(0, f"b{number}", 2, 1 << 16) for number in range(8)]


def test_the_best_of_those_that_wait_goes_first_and_nothing_is_interrupted(make):
    ends, server = serve(make, [*BULK, (100, "urgent", 0, 4096), (101, "later", 1, 4096)])
    assert list(ends) == ["b0", "urgent", "b1", "later", *(f"b{n}" for n in range(2, 8))] or list(
        ends
    ) == ["b0", "b1", "urgent", "later", *(f"b{n}" for n in range(2, 8))]
    assert server.statistics["b"].descriptors == 8
    assert server.statistics["b"].read_bytes == 8 << 16
    assert server.statistics["u"].queued_fs > 0
    assert server.statistics["u"].queued_fs < server.statistics["b"].queued_fs / 8


def test_equal_priorities_are_served_in_order_and_as_fast_as_without_an_arbiter(make):
    equal = [(0, f"b{number}", 1, 1 << 16) for number in range(30)]
    ends, _ = serve(make, equal)
    plain, _ = serve(make, equal, is_arbitrated=False)
    assert list(ends) == list(plain) == [name for _, name, _, _ in equal]
    assert isclose(ends["b29"], plain["b29"], rel_tol=0.02)


def test_a_chip_may_ask_for_priorities():
    work = Workload("g", (gemm("g", 64, 256, 256),))
    found = []
    for arbitration in ("fifo", "priority"):
        chip = load_chip(CHIP, assignments=["memory.fidelity=sampled"])
        memory = replace(chip.architecture.memory, arbitration=arbitration)
        stats = simulate(
            work,
            replace(chip.architecture, memory=memory),
            technology=chip.technology,
            energy=chip.energy,
            dram=chip.dram,
        )
        found.append(stats)
    fifo, priority = found
    assert priority.traffic == fifo.traffic
    assert isclose(priority.cycles.total, fifo.cycles.total, rel_tol=0.1)
