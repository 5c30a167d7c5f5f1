"""Sums that stay in the cells and leave them before they are complete, to save loads."""

from dataclasses import replace

import pytest
from hw_samples import gemm

from hwmodels.simulate import simulate
from hwmodels.workload import Workload


@pytest.fixture
def run(make_chip, make_memory, table):
    """Return the layer of one product on 2 x 2 cells; rooms hold 8, 4 and 32 bytes."""

    def of(m, n, k, *, schedule="double_buffered", output_size=64):
        chip = make_chip(2, 2, size=16, weight_size=8, output_size=output_size)
        array = replace(chip.array, dataflow="output_stationary", schedule=schedule)
        mapping = replace(chip.mapping, resident_share=0.0, objective="latency")
        stats = simulate(
            Workload("w", (gemm("g", m, n, k),)),
            replace(chip, array=array, mapping=mapping),
            technology=make_memory(bandwidth=1e9, latency=0.0),
            energy=table,
        )
        return stats.layers[0]

    return of


def test_sums_of_two_folds_leave_their_cells_so_that_weights_come_once(run):
    # 4 x 8 activations, 2 x 8 weights: 32 and 16 bytes. One fold at a time keeps its sums, and all
    # weights come for each of two folds: 64 bytes. Both folds at a time fit with two terms of the
    # sum, 8 and 4 bytes, and everything comes once. Their 8 sums of 4 bytes are written behind each
    # of 4 chunks, and read for 3 of them. 8 folds of 2 terms hide the 2 cycles in which results
    # leave; 2 of fill and the last 2 of drain show.
    layer = run(4, 2, 8)
    assert layer.mapping == "weights_outer m4 n2 k2"
    assert layer.traffic.dram_read == 32 + 16
    assert layer.traffic.partial_sums_written == 4 * 8 * 4
    assert layer.traffic.partial_sums_read == 3 * 8 * 4
    cycles = layer.cycles
    assert (cycles.compute, cycles.fill, cycles.drain) == (8 * 2, 2, 2)
    assert cycles.total == sum(vars(cycles).values()) >= 48 + 32
    assert layer.cycles_note == "cycles: closed form, not RTL-checked"


def test_a_serial_array_drains_behind_every_chunk(run):
    layer = run(4, 2, 8, schedule="serial")
    assert layer.mapping == "weights_outer m4 n2 k2"
    assert layer.cycles.array == 2 * 4 * (2 + 2 + 2)


def test_sums_of_one_fold_stay_until_they_are_complete(run):
    layer = run(2, 2, 8)
    assert layer.mapping == "weights_outer m2 n2 k2"
    assert layer.traffic.partial_sums_written == 4 * 4
    assert layer.cycles.array == 2 + 8 + 2
    assert not layer.cycles_note


def test_sums_of_a_tile_take_the_whole_output_buffer_when_that_saves_bytes(run):
    # The 32 bytes of sums fit in 32 bytes of output buffer, but not in half of it.
    layer = run(4, 2, 8, output_size=32)
    assert layer.mapping == "weights_outer m4 n2 k2"
    # 8 rows are two such tiles; the second's sums wait for room, weights come for each of them.
    layer = run(8, 2, 8, output_size=32)
    assert layer.mapping == "weights_outer m4 n2 k2"
    assert layer.traffic.dram_read == 64 + 2 * 16
    assert layer.cycles.total == sum(vars(layer.cycles).values()) >= 64 + 32 + 64
