"""Windows of convolutions: unfolded from the buffer, while loading, or written out before."""

from dataclasses import replace

import pytest
from hw_samples import tensor

from hwmodels.architecture import MappingChoice
from hwmodels.simulate import simulate
from hwmodels.workload import Gemm, Workload

# 3 taps, 2 apart, over 2 channels of 101 positions: 50 windows of 6 elements.
CHANNELS, POSITIONS, TAPS, WINDOWS, FILTERS = 2, 101, 3, 50, 8
INPUT = CHANNELS * POSITIONS
UNFOLDED = WINDOWS * TAPS * CHANNELS
WEIGHT = FILTERS * TAPS * CHANNELS


def convolution(kind="input"):
    a = tensor("x", kind, (CHANNELS, POSITIONS))
    w = tensor("w", "constant", (FILTERS, TAPS * CHANNELS))
    y = tensor("y", "output", (WINDOWS, FILTERS), 32)
    shape = (WINDOWS, FILTERS, TAPS * CHANNELS)
    return Gemm("c", "conv", *shape, a, w, y, "i8", "i8", "i32", window_elements=UNFOLDED)


@pytest.fixture(name="run")
def _run(make_chip, make_memory, table):
    def run(im2col, **more):
        chip = replace(
            make_chip(4, 4, size=256, **more), mapping=MappingChoice("latency", im2col=im2col)
        )
        work = Workload("w", (convolution(),))
        return simulate(work, chip, technology=make_memory(), energy=table)

    return run


def test_from_the_buffer_memory_delivers_each_row_once(run):
    (layer,) = run("buffer", output_size=8192).layers
    assert layer.traffic.dram_read == INPUT + WEIGHT
    assert layer.traffic.input_buffer_write == INPUT
    # 2 blocks of 4 filters see every window
    assert layer.traffic.input_buffer_read == 2 * UNFOLDED


def test_unfolding_while_loading_reads_shared_rows_again(run):
    (layer,) = run("dma", output_size=8192).layers
    assert layer.traffic.dram_read == UNFOLDED + WEIGHT
    assert layer.traffic.input_buffer_write == UNFOLDED
    assert layer.traffic.input_buffer_read == 2 * UNFOLDED


def test_windows_written_out_are_read_like_any_operand(run):
    unfolding, layer = run("materialised", output_size=8192).layers
    assert (unfolding.name, unfolding.kind, unfolding.unit) == ("c.im2col", "im2col", "dma")
    assert (unfolding.traffic.dram_read, unfolding.traffic.dram_write) == (INPUT, UNFOLDED)
    assert layer.traffic.dram_read == UNFOLDED + WEIGHT


def test_windows_that_stay_on_chip_cost_no_memory(make_chip, make_memory, table):
    chip = replace(make_chip(4, 4, size=4096), mapping=MappingChoice(im2col="materialised"))
    work = Workload("w", (convolution(),))
    stats = simulate(work, chip, technology=make_memory(), energy=table)
    assert stats.traffic.dram_read == INPUT + WEIGHT
    assert stats.traffic.dram_write == 4 * WINDOWS * FILTERS


def test_all_ways_do_the_same_products_and_none_moves_less_than_must_be(run):
    ways = [run(name) for name in ("buffer", "dma", "materialised")]
    assert len({stats.macs for stats in ways}) == 1
    for stats in ways:
        assert stats.traffic.dram_read >= INPUT + WEIGHT
        assert stats.cycles.total == sum(layer.cycles.total for layer in stats.layers)
    assert ways[0].traffic.dram <= ways[1].traffic.dram <= ways[2].traffic.dram


def test_windows_that_do_not_overlap_cost_nothing_anywhere(make_chip, make_memory, table):
    one_tap = replace(
        convolution(),
        m=POSITIONS,
        k=CHANNELS,
        w=tensor("w", "constant", (FILTERS, CHANNELS)),
        result=tensor("y", "output", (POSITIONS, FILTERS), 32),
        window_elements=INPUT,
    )
    found = [
        simulate(
            Workload("w", (one_tap,)),
            replace(make_chip(4, 4, size=1024), mapping=MappingChoice(im2col=name)),
            technology=make_memory(),
            energy=table,
        ).layers
        for name in ("buffer", "dma", "materialised")
    ]
    assert found[0] == found[1] == found[2]
