"""Operands that could stay on chip, but would have to wait for room, and pass through instead."""

from dataclasses import replace

import pytest
from hw_samples import gemm
from test_mapping_machine import with_buffer

from hwmodels.residency import Pool
from hwmodels.simulate import simulate, simulate_calls
from hwmodels.workload import Workload


@pytest.fixture
def run(make_chip, make_memory, table):
    """Return a function that runs products of 4 x 8 x 8 with a weight each, 64 bytes, in calls.

    A fourth of the weight buffer keeps tensors.
    """

    def of(calls, number, *, weight_size):
        work = Workload("w", tuple(gemm(f"g{i}", 4, 8, 8) for i in range(number)))
        chip = make_chip(4, 4, size=4096, weight_size=weight_size)
        runs = simulate_calls([work] * calls, chip, technology=make_memory(), energy=table)
        return [stats.traffic.weight_buffer_write for stats in runs]

    return of


def test_weights_of_one_call_do_not_push_each_other_out(run):
    # There is room for two weights of three: the third passes through, each time. Thrown out in
    # turn, each would be gone when it is read again.
    assert run(3, 3, weight_size=4 * 128) == [3 * 64, 64, 64]


def test_weights_of_a_call_push_those_of_another_out(make_chip, make_memory, table):
    first, second = (Workload("w", (gemm(name, 4, 8, 8),)) for name in "ab")
    chip = make_chip(4, 4, size=4096, weight_size=4 * 64)
    runs = simulate_calls([first, second, second], chip, technology=make_memory(), energy=table)
    assert [stats.traffic.weight_buffer_write for stats in runs] == [64, 64, 0]


@pytest.mark.parametrize(
    "products", [((1, 64, 768), (63, 499, 499)), ((499, 32, 1536), (64, 499, 499))]
)
def test_room_to_stay_is_not_waited_for(shipped, products):
    # 4 times the weight buffer has room for any of the weights, but not for two: waiting for the
    # end of the product before took up to a tenth longer than the small buffer, which streams.
    chip, memory, energy = shipped("stacked_edge_32")
    array = replace(chip.array, rows=128, columns=128, schedule="serial")
    chip = replace(chip, array=array)
    work = Workload("w", tuple(gemm(f"g{i}", *sizes) for i, sizes in enumerate(products)))
    small, large = (
        simulate(work, one, technology=memory, energy=energy)
        for one in (chip, with_buffer(chip, "weight", size_bytes=4))
    )
    assert large.cycles.total <= 1.01 * small.cycles.total
    assert large.traffic.dram <= small.traffic.dram


def test_room_asked_for_is_not_taken_but_has_to_be_found_again():
    def busy(size):
        pool = Pool(10)
        pool.insert("a", size, use=0)
        pool.drop("a")
        return pool

    first = busy(6)
    assert first.ask_before(5, use=1) == 0
    assert first.claim_before(5, use=1) == 0
    assert first.most == [6, 0]
    use = first.since(1, 0)
    again = busy(7)
    assert again.allows(use)
    again.repeat(use)
    assert again.most == [7, 0]
    assert not busy(5).allows(use)
