"""An exact memory that knows busy periods again agrees with one that does every burst."""

import numpy as np
import pytest
import simpy
from hw_samples import gemm

from cosim.chip import load_chip
from hwmodels.exact_memory import Dram, ExactServer
from hwmodels.memo_memory import MemoServer
from hwmodels.memo_periods import row_map
from hwmodels.memory import Completion, Descriptor, Process
from hwmodels.memory_totals import MemoryTotals
from hwmodels.simulate import Reuse, simulate
from hwmodels.workload import Workload

EXACT = ["memory.fidelity=exact"]


@pytest.fixture(scope="module")
def memory() -> Dram:
    found = load_chip("configs/hardware/stacked_edge_32.yaml").dram
    assert found is not None
    return found


def layers(repeats: int) -> list[tuple[int, Descriptor]]:
    """Return the traffic of equal layers at other addresses, with the pauses before it in ns."""
    found = []
    for layer in range(repeats):
        base = layer * 7_077_888
        for tile in range(12):
            place = base + tile * 24_576
            found.append((2_000, Descriptor(place, 24_576, requester="weight")))
            found.append((40, Descriptor(place, 256, 3_072, 31, is_write=True, requester="output")))
    return found


def served(env: simpy.Environment, server: ExactServer, repeats: int) -> MemoryTotals:
    """Return what a memory counts, once the last descriptor of `layers` is done."""

    def source() -> Process:
        done: list[Completion] = []
        for pause_ns, descriptor in layers(repeats):
            yield env.timeout(pause_ns * 10**6)
            done.append(server.submit(descriptor))
        for one in done:
            if one.done_fs > env.now:
                yield one.wait()

    env.run(until=env.process(source()))
    return server.finish()


def test_periods_from_memory_agree_with_every_burst(memory: Dram) -> None:
    env = simpy.Environment()
    every = served(env, ExactServer(env, memory), 12)
    env = simpy.Environment()
    server = MemoServer(env, memory)
    known = served(env, server, 12)
    assert server.memo.known > server.memo.asked
    for name in ("RD", "WR", "REFab"):
        assert known.commands[name] == every.commands[name]
    assert known.ticks == pytest.approx(every.ticks, rel=0.01)
    prices = memory.prices()
    joules = [
        sum(prices[action].value_j * number for action, number in totals.actions.items())
        for totals in (every, known)
    ]
    assert joules[1] == pytest.approx(joules[0], rel=0.01)
    assert sum(known.read_ticks.values()) == sum(every.read_ticks.values())


def test_rows_of_a_stretch_lie_above_columns_and_below_the_row(memory: Dram) -> None:
    found = row_map(memory.spec)
    assert found.is_known
    organisation = memory.spec.organisation
    rows = organisation.capacity_bytes >> found.shift + found.bits
    assert rows == organisation.sizes["row"]
    assert np.log2(organisation.capacity_bytes) == found.shift + found.bits + np.log2(rows)


def test_a_chip_that_knows_periods_agrees_with_one_that_does_every_burst() -> None:
    found = load_chip("configs/hardware/stacked_edge_32.yaml", assignments=EXACT)
    work = Workload("layers", tuple(gemm(name, 256, 192, 384) for name in "abcd"))
    every, known = (
        simulate(
            work,
            found.architecture,
            technology=found.technology,
            energy=found.energy,
            dram=found.dram,
            reuse=reuse,
        )
        for reuse in (None, Reuse())
    )
    assert known.traffic == every.traffic
    assert known.cycles.total == pytest.approx(every.cycles.total, rel=0.01)
    assert known.energy_j == pytest.approx(every.energy_j, rel=0.015)  # rows opened differ
    for requester, served in every.memory.items():
        for count in ("descriptors", "read_bytes", "write_bytes"):
            assert known.memory[requester][count] == served[count]
