"""hwmodels.batch: whole utterances side by side on cores that share the memory."""

from collections import Counter
from dataclasses import replace

import pytest
from hw_samples import feed_forward, gemm

from hwmodels.architecture import Cores
from hwmodels.batch import simulate_batch
from hwmodels.cores import IDLE
from hwmodels.energy import STATIC
from hwmodels.simulate import simulate_calls
from hwmodels.workload import Workload


@pytest.fixture
def batch(table):
    """Return a function that simulates utterances on a chip of so many cores."""

    def run(utterances, chip, memory, *, cores):
        chip = replace(chip, cores=Cores(cores, "utterances"))
        return simulate_batch(utterances, chip, technology=memory, energy=table)

    return run


def alone(utterance, chip, memory, table):
    found = simulate_calls(utterance, chip, technology=memory, energy=table)
    return sum(stats.cycles.total for stats in found)


def test_one_core_serves_one_after_the_other_in_the_time_of_each_alone(
    make_chip, make_memory, table, batch
):
    chip, memory = make_chip(), make_memory()
    utterances = [[feed_forward(m), feed_forward(1)] for m in (5, 2, 7)]
    times = [alone(one, chip, memory, table) for one in utterances]
    found = batch(utterances, chip, memory, cores=1)
    assert [turn.stats.cycles.total for turn in found.turns] == times
    assert [turn.end - turn.start for turn in found.turns] == times
    assert [turn.start for turn in found.turns] == [0, times[0], times[0] + times[1]]
    assert found.whole.cycles.total == sum(times)


def test_who_is_free_takes_the_next(make_chip, ideal, batch):
    # With ideal memory nobody slows another down: 4 folds, 1, 1 and 2 of 7 cycles on two cores.
    utterances = [[Workload("w", (gemm(f"g{n}", 3, 2 * n, 2),))] for n in (4, 1, 1, 2)]
    found = batch(utterances, make_chip(), ideal, cores=2)
    turns = [(turn.core, turn.start, turn.end) for turn in found.turns]
    assert turns == [(0, 0, 28), (1, 0, 7), (1, 7, 14), (1, 14, 28)]
    assert found.whole.cycles.total == 28
    assert found.throughput_hz == pytest.approx(4 / 28e-9)


def test_a_shared_memory_slows_everybody_down_but_moves_no_more(
    make_chip, make_memory, table, batch
):
    chip, memory = make_chip(4, 4, size=1 << 14), make_memory(bandwidth=2e9)
    utterances = [[feed_forward(16, 24, 32)] for _ in range(4)]
    (one,) = simulate_calls(utterances[0], chip, technology=memory, energy=table)
    found = batch(utterances, chip, memory, cores=4)
    assert all(turn.stats.cycles.total > one.cycles.total for turn in found.turns)
    assert found.whole.traffic.dram == 4 * one.traffic.dram
    assert found.whole.macs == 4 * one.macs
    assert found.whole.cycles.total >= found.whole.bound_cycles >= 4 * one.traffic.dram / 2
    assert found.whole.cycles.total < 4 * one.cycles.total


def test_joules_are_those_of_the_utterances_and_of_waiting(make_chip, make_memory, batch):
    utterances = [[feed_forward(m)] for m in (5, 2, 7)]
    found = batch(utterances, make_chip(), make_memory(), cores=2)
    whole = found.whole
    idle = [layer for core in whole.cores for layer in core.layers if layer.kind == IDLE]
    served = sum(turn.stats.energy_j for turn in found.turns)
    assert whole.energy_j == pytest.approx(served + sum(layer.energy_j for layer in idle))
    assert {core.cycles.total for core in whole.cores} == {whole.cycles.total}
    counts = Counter({(row.component, row.action): row.count for row in whole.energy})
    assert {counts[action] for action in STATIC} == {2 * whole.cycles.total}


def test_a_core_without_an_utterance_only_leaks(make_chip, make_memory, batch):
    found = batch([[feed_forward()]], make_chip(), make_memory(), cores=3)
    for core in found.whole.cores[1:]:
        assert [layer.kind for layer in core.layers] == [IDLE]
        assert core.traffic.dram == 0


def test_a_batch_that_cannot_be_is_refused(make_chip, make_memory, table, batch):
    chip, memory = make_chip(), make_memory()
    with pytest.raises(ValueError, match=r'cores.split: found "columns"[^\0]*utterances: found 0'):
        simulate_batch([], chip, technology=memory, energy=table)
    with pytest.raises(ValueError, match=r"5 utterances at once need \d+: \d+ bytes are missing"):
        batch([[feed_forward()]] * 5, chip, make_memory(capacity=8192), cores=5)
