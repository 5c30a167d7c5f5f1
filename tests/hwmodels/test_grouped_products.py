"""Depthwise and grouped convolutions on the cheaper unit, at their true utilisation."""

from dataclasses import replace

import pytest
from hw_samples import figure, tensor, vector
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from hwmodels.architecture import MappingChoice
from hwmodels.simulate import simulate
from hwmodels.workload import NUMBER_BITS, Gemm, Workload


def grouped(count, m, n, k, *, number="i8", taps=None):
    """Return the GEMM of a convolution in groups; positions as many as before im2col."""
    bits = NUMBER_BITS[number]
    channels = count * (1 if taps is None else k // taps)
    a = tensor("x", "input", (channels, m), bits)
    w = tensor("w", "constant", (count * n, k), bits)
    y = tensor("y", "output", (count * n, m), 32)
    accumulator = "i32" if number == "i8" else "f32"
    return Gemm("dw", "conv", m, n, k, a, w, y, number, number, accumulator, count)


def run(gemm, chip, memory, table, *epilogues):
    work = Workload("w", (gemm, *epilogues))
    return simulate(work, chip, technology=memory, energy=table)


def test_depthwise_results_lie_side_by_side_on_the_lanes(make_chip, ideal, table):
    # 6 channels x 5 positions on 4 lanes: ceil(30 / 4) = 8 rounds of 3 multiply-accumulates. One
    # channel at a time would leave 3 of 4 lanes idle: 6 x 5 x 3 = 90 cycles.
    chip = make_chip(lanes=4, fallback=True)
    (layer,) = run(grouped(6, 5, 1, 3, number="f32"), chip, ideal, table).layers
    assert (layer.unit, layer.mapping) == ("vector", "lanes over groups, m5")
    assert layer.cycles.vector == layer.cycles.total == 24
    counts = {(row.component, row.action): row.count for row in layer.energy}
    assert counts["vector_unit", "vector_mac"] == 6 * 5 * 3
    traffic = layer.traffic
    assert traffic.dram_read == 4 * (6 * 5 + 6 * 3)  # operands once, taps not materialised
    assert traffic.dram_write == 4 * 30
    # Every product reads its weight and its activation; 32-bit sums leave once, for memory.
    assert traffic.input_buffer_read == traffic.weight_buffer_read == 4 * 90
    assert (traffic.partial_sums_written, traffic.partial_sums_read) == (120, 0)
    assert (traffic.output_buffer_write, traffic.output_buffer_read) == (120, 120)


def test_groups_lie_block_diagonally_on_the_array(make_chip, ideal, table):
    # 8 rows hold the 3 taps of 2 channels: 5 rounds of 2R + C + M - 2 = 42 cycles, not 10.
    chip = make_chip(8, 8, lanes=2, fallback=True)
    (layer,) = run(grouped(10, 20, 1, 3), chip, ideal, table).layers
    assert (layer.unit, layer.cycles.total) == ("array", 210)
    assert layer.mapping.endswith("block_diagonal2")
    assert layer.array_macs == 10 * 20 * 3
    assert layer.utilization == pytest.approx(600 / (210 * 64))
    # Zeros between the blocks are not fetched: 5 rounds read 2 channels x 3 taps x 20 positions.
    assert layer.traffic.input_buffer_read == 5 * 2 * 3 * 20
    assert layer.traffic.weight_buffer_read == 30
    assert layer.traffic.partial_sums_written == 4 * 200
    assert layer.traffic.dram_read == 200 + 30


def test_groups_follow_one_another_in_time_where_results_stay(make_chip, ideal, table):
    # 4 columns for 4 channels of 3 taps: each tile of 4 positions takes (4 + 4 - 2) fill + 12 + 4
    # drain, once for 4 channels instead of (6 + 3 + 4) for each.
    chip = make_chip(4, 4, dataflow="output_stationary", lanes=1, fallback=False)
    (layer,) = run(grouped(4, 8, 1, 3), chip, ideal, table).layers
    assert layer.mapping.endswith("block_diagonal4")
    assert layer.cycles.total == 2 * (6 + 12 + 4)
    assert layer.array_macs == 4 * 8 * 3


@pytest.mark.parametrize(("lanes", "unit", "cycles"), [(2, "array", 210), (4, "vector", 150)])
def test_the_unit_with_fewer_cycles_takes_the_groups(lanes, unit, cycles, make_chip, ideal, table):
    chip = make_chip(8, 8, lanes=lanes, fallback=True)
    (layer,) = run(grouped(10, 20, 1, 3), chip, ideal, table).layers
    assert (layer.unit, layer.cycles.total) == (unit, cycles)


def test_for_energy_groups_go_where_products_cost_less(make_chip, ideal, table):
    # 600 products at 1 pJ on cells, 4 pJ on lanes; with next to no static power that decides.
    quiet = replace(table, cell_leakage_w=figure(0.0))
    chip = make_chip(8, 8, lanes=4, fallback=True)
    frugal = replace(chip, mapping=MappingChoice("energy"))
    units = [run(grouped(10, 20, 1, 3), one, ideal, quiet).layers[0].unit for one in (chip, frugal)]
    assert units == ["vector", "array"]


def test_lanes_need_a_vector_unit_that_takes_products(make_chip, ideal, table):
    chip = make_chip(8, 8, lanes=64, fallback=False)
    assert run(grouped(10, 20, 1, 3), chip, ideal, table).layers[0].unit == "array"


def test_weights_without_a_place_of_their_own_come_with_every_chunk(make_chip, ideal, table):
    # The weight buffer keeps 16 bytes and streams 24, all weights. The input buffer streams 36: 6
    # positions of 6 channels, so that 20 positions fall into 4 chunks of 5.
    chip = make_chip(2, 2, lanes=4, fallback=True, size=96, weight_size=64, output_size=1024)
    (layer,) = run(grouped(6, 20, 1, 4), chip, ideal, table).layers
    assert layer.mapping == "lanes over groups, m5"
    assert layer.traffic.dram_read == 6 * 20 + 4 * 24


def test_fused_ops_follow_on_the_lanes(make_chip, ideal, table):
    item = grouped(6, 5, 1, 3)
    bias = tensor("b", "constant", (6,), 32)
    add = vector("bias", "bias", (item.result, bias), (item.result,), is_fused=True)
    chip = make_chip(lanes=4, fallback=True)
    layers = run(item, chip, ideal, table, add).layers
    assert [layer.cycles.vector for layer in layers] == [24, 8]
    assert layers[1].traffic.dram_read == 24


@settings(
    deadline=None,
    max_examples=40,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(
    shape=st.tuples(st.integers(2, 7), st.integers(1, 9), st.integers(1, 3), st.integers(1, 6)),
    cells=st.tuples(st.integers(1, 9), st.integers(1, 9)),
    dataflow=st.sampled_from(["weight_stationary", "output_stationary", "input_stationary"]),
    schedule=st.sampled_from(["serial", "double_buffered"]),
    lanes=st.integers(1, 8),
)
def test_ledgers_balance_and_no_group_alone_would_be_faster(
    shape, cells, dataflow, schedule, lanes, make_chip, ideal, table
):
    count, m, n, k = shape
    chip = make_chip(*cells, schedule, dataflow=dataflow, lanes=lanes, fallback=True)
    gemm = grouped(count, m, n, k)
    (layer,) = run(gemm, chip, ideal, table).layers
    one = replace(
        gemm,
        count=1,
        a=tensor("x", "input", (1, m)),
        w=tensor("w", "constant", (n, k)),
        result=tensor("y", "output", (n, m), 32),
    )
    (alone,) = run(one, chip, ideal, table).layers
    results = count * m * n
    assert layer.cycles.total <= min(count * alone.cycles.total, -(-results // lanes) * k)
    assert layer.cycles.total * layer.cells * (layer.unit == "array") >= layer.array_macs
    traffic = layer.traffic
    assert traffic.partial_sums_written - traffic.partial_sums_read == 4 * results
    assert traffic.dram_read >= gemm.a.size_bytes + gemm.w.size_bytes
    assert traffic.dram_write >= gemm.result.size_bytes
