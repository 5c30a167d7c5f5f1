"""Layers of narrow, floating-point and grouped weights on chips whose cells multiply them."""

from dataclasses import replace

import pytest
from hw_samples import figure, gemm, tensor, vector

from hwmodels.array import closed_form
from hwmodels.cells import BitSerialCell, ComposableCell, Edge, FloatCell, XnorUnit
from hwmodels.simulate import simulate
from hwmodels.stats import combine
from hwmodels.workload import NUMBER_BITS, Workload

COMPOSABLE = ComposableCell("composable")
FLOWS = ["weight_stationary", "output_stationary", "input_stationary"]
M, N, K = 13, 11, 70


def layer(a, w, *, m=M, n=N, k=K, count=1, group=0, name="g"):
    made = gemm(
        name,
        m,
        n,
        k,
        count=count,
        a=tensor(f"{name}.a", "input", (count, m, k), NUMBER_BITS[a]),
        w=tensor(f"{name}.w", "constant", (count, n, k), NUMBER_BITS[w]),
        a_number=a,
        w_number=w,
    )
    return replace(made, scale_group=group)


@pytest.fixture
def run(make_chip, make_memory, table):
    """Return a function that runs ops on a 4 x 3 chip with wide buffers: statistics."""
    made = {f"mac_{a}x{w}": figure(1e-12) for a in NUMBER_BITS for w in NUMBER_BITS}
    made |= {"rescale": figure(3e-12), "dequantize": figure(5e-12)}
    priced = replace(table, actions={**table.actions, **made})
    memory = make_memory(bandwidth=None, latency=0.0, interleave=1, capacity=1 << 30)

    def simulated(*items, size=1 << 16, schedule="serial", **array):
        supports = tuple(dict.fromkeys(f"{one.a_number}x{one.w_number}" for one in items[:1]))
        chip = make_chip(4, 3, schedule, size=size, supports=supports)
        chip = replace(chip, array=replace(chip.array, **array))
        return simulate(Workload("w", items), chip, technology=memory, energy=priced)

    return simulated


def counts(stats):
    return {(one.component, one.action): one.count for one in stats.energy}


@pytest.mark.parametrize("schedule", ["serial", "double_buffered"])
@pytest.mark.parametrize("flow", FLOWS)
def test_narrow_weights_run_as_a_shorter_sum_on_composable_cells_alone(run, flow, schedule):
    sizes = {"m": M, "n": N, "rows": 4, "columns": 3, "dataflow": flow}
    for a, w, packed in (("i8", "i4", 2), ("i4", "i4", 4), ("i8", "i8", 1)):
        item = layer(a, w, count=2)
        fast = run(item, cell=COMPOSABLE, dataflow=flow, schedule=schedule)
        slow = run(item, dataflow=flow, schedule=schedule)
        words = -(-K // packed)
        assert fast.cycles.total == 2 * closed_form(schedule, k=words, **sizes)
        assert slow.cycles.total == 2 * closed_form(schedule, k=K, **sizes)
        assert fast.macs == slow.macs == sum(one.array_macs for one in fast.layers)
        assert fast.traffic.dram == slow.traffic.dram
        useful = 2 * M * N * K / (12 * packed * fast.cycles.total)
        assert fast.utilization == pytest.approx(useful)
        assert not fast.layers[0].cycles_note
        assert combine([fast, fast], name="two").utilization == pytest.approx(useful)


def test_small_buffers_cut_packed_sums_into_chunks_without_losing_a_byte_or_a_cycle(run):
    item = layer("i8", "i4", k=400)
    whole = run(item, cell=COMPOSABLE, schedule="double_buffered")
    cut = run(item, cell=COMPOSABLE, schedule="double_buffered", size=512)
    assert cut.layers[0].mapping != whole.layers[0].mapping
    assert cut.cycles.array >= whole.cycles.array
    assert cut.traffic.dram_read >= whole.traffic.dram_read == M * 400 + N * 200
    assert cut.macs == whole.macs
    sums = cut.traffic
    assert sums.partial_sums_read == sums.partial_sums_written - 4 * M * N


def test_bits_one_after_the_other_take_cycles_in_proportion_and_say_that_no_rtl_confirms_it(run):
    cell = BitSerialCell("bit_serial", "activations", products=8)
    found = {}
    for a in ("i8", "i4", "i1"):
        stats = run(layer(a, "i8"), cell=cell)
        found[a] = stats.cycles.compute
        assert stats.layers[0].cycles_note
        assert stats.utilization <= 1
    assert found["i8"] == 2 * found["i4"] == 8 * found["i1"]
    assert found["i8"] == 8 * M * -(-N // 3) * -(-K // 32)  # 4 rows of 8 pairs


def test_a_narrow_edge_stretches_the_stream(run):
    wide = run(layer("i4", "i4", k=64), cell=COMPOSABLE)
    narrow = run(layer("i4", "i4", k=64), cell=COMPOSABLE, edge=Edge(row_bits=4, column_bits=16))
    assert narrow.cycles.compute == 4 * wide.cycles.compute
    assert narrow.cycles.weight_load == wide.cycles.weight_load
    assert narrow.layers[0].mapping.endswith(" pack4 beats4")
    assert narrow.layers[0].cycles_note


def test_signs_run_on_the_xnor_unit_and_its_cells_leak_by_their_area(run):
    item = layer("i1", "i1", n=20, k=300)
    unit = XnorUnit(5, 7, word_bits=16, cell_area_ratio=0.5)
    stats = run(item, xnor=unit)
    expected = closed_form("serial", m=M, n=20, k=-(-300 // 16), rows=5, columns=7)
    assert stats.cycles.total == expected
    assert stats.utilization == pytest.approx(M * 20 * 300 / (35 * 16 * expected))
    leaks = {one.component: one for one in stats.energy if one.action == "leakage"}
    assert leaks["array"].energy_per_action_j == pytest.approx((12 + 17.5) * 1e-6 / 1e9)
    assert counts(stats)["array", "mac_i1xi1"] == item.macs


@pytest.mark.parametrize("flow", FLOWS)
def test_each_scale_group_is_rescaled_once_per_result_by_who_the_chip_says(run, flow):
    item = layer("i8", "i4", group=24)  # groups of 24, 24 and 22
    number = 3 * M * N
    by_lanes = run(item, cell=COMPOSABLE, dataflow=flow)
    assert counts(by_lanes)["vector_unit", "vector_op"] == 2 * number
    assert ("array", "rescale") not in counts(by_lanes)
    by_sums = run(item, cell=COMPOSABLE, dataflow=flow, rescale="accumulators")
    assert counts(by_sums)["array", "rescale"] == number
    assert ("vector_unit", "vector_op") not in counts(by_sums)
    sizes = {"m": M, "n": N, "rows": 4, "columns": 3, "dataflow": flow}
    split = sum(closed_form("serial", k=words, **sizes) for words in (12, 12, 11))
    assert by_sums.cycles.total == by_sums.cycles.array == split
    assert by_lanes.cycles.array == split
    assert by_lanes.cycles.total > split  # the last results wait for the vector unit
    assert by_lanes.cycles.total >= 2 * -(-number // 2)  # two lanes, two operations
    for stats in (by_lanes, by_sums):
        sums = stats.traffic
        assert sums.partial_sums_read == sums.partial_sums_written - 4 * M * N
    one = run(replace(item, scale_group=K), cell=COMPOSABLE, dataflow=flow)
    none = run(replace(item, scale_group=0), cell=COMPOSABLE, dataflow=flow)
    assert (one.cycles, one.energy_j) == (none.cycles, none.energy_j)


def test_fused_ops_follow_rescaled_sums(run):
    item = layer("i8", "i8", group=32)
    after = vector("bias", "bias", (item.result,), (item.result,), is_fused=True)
    stats = run(item, after)
    assert counts(stats)["vector_unit", "vector_op"] == (2 * 3 + 1) * M * N
    assert stats.cycles.total == sum(one.cycles.total for one in stats.layers)
    assert stats.cycles.total >= stats.bound_cycles


def test_weights_converted_at_the_edge_are_counted_each_time_they_enter(run):
    item = layer("f16", "i8", group=16)
    stats = run(item, cell=FloatCell("float"))
    found = counts(stats)
    assert found["array", "dequantize"] == N * K  # one tile of rows: weights enter once
    assert found["array", "mac_f16xf16"] == item.macs
    assert stats.traffic.dram_read == 2 * M * K + N * K
    flowing = run(item, cell=FloatCell("float"), dataflow="output_stationary")
    assert counts(flowing)["array", "dequantize"] == -(-M // 4) * N * K
    mixed = run(item, cell=FloatCell("float", "cell"))
    assert counts(mixed)["array", "mac_f16xi8"] == item.macs
    assert ("array", "dequantize") not in counts(mixed)


def test_a_chip_that_lists_what_its_cells_cannot_multiply_is_refused_with_all_mistakes(
    make_chip, make_memory, table
):
    chip = make_chip(supports=("i8xi8", "f16xi8", "i8xi5"))
    with pytest.raises(ValueError, match="array") as error:
        simulate(Workload("w", (layer("i8", "i8"),)), chip, technology=make_memory(), energy=table)
    text = str(error.value)
    assert 'array.supports.1: found "f16xi8", but a fixed cell of 8 bits' in text
    assert 'array.supports.2: found "i8xi5", expected activation x weight' in text
