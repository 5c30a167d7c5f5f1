"""hwmodels.machine: whole time lines worked out by hand, and closed forms with ideal memory."""

from dataclasses import replace

import pytest
from hw_samples import gemm, tensor, vector
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from hwmodels.architecture import Buffer, MappingChoice, MemoryStack
from hwmodels.array import closed_form
from hwmodels.dma import Clock, Engine
from hwmodels.layout import place
from hwmodels.machine import run as run_plans
from hwmodels.mapping import panels
from hwmodels.memory import Channels, Descriptor, MemoryServer
from hwmodels.pattern import Patterns, setting
from hwmodels.simulate import plan_workload, simulate
from hwmodels.stats import Cycles
from hwmodels.vector import FUNCTIONS, function_cycles
from hwmodels.workload import Transfer, Workload

NS = 10**6  # femtoseconds
SHARED = settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)


def run(items, chip, memory):
    workload = Workload("w", tuple(items))
    (layout,) = place([workload], chip, memory)
    patterns = Patterns(setting(chip, memory))
    plan = plan_workload(workload, chip, patterns=patterns, layout=layout)
    return run_plans([plan], chip, patterns.setting.channels).timelines[0], plan


def nanoseconds(spans):
    return [(start / NS, end / NS, what) for start, end, what in spans]


def test_a_3x5x4_gemm_on_2x2_cells_in_three_panels(make_chip, make_memory):
    # Output buffer 64 bytes: one of two tiles holds 3 rows x 2 columns of 4 bytes. Memory: 8 bytes
    # per ns, 10 ns. At 0 the engines ask for a (12 bytes: bus until 1.5), then the three panels of
    # w (8, 8, 4 bytes: until 2.5, 3.5, 4.0); all arrive 10 ns later.
    # 0-12 input (11.5), 12-13 first panel (12.5), then three panels of two folds of 7 cycles:
    # 13-27, 27-41, 41-55. Result tiles leave at 27, 41 and 55 (24, 24, 12 bytes); the last one
    # has moved at 55 + 1.5 + 10 = 66.5, the next edge is 67.
    chip = replace(make_chip(output_size=64), mapping=MappingChoice("latency"))
    timeline, plan = run([gemm("g", 3, 5, 4)], chip, make_memory())
    assert [step.array.total for step in plan.groups[0].pattern.steps] == [14, 14, 14]
    assert nanoseconds(timeline.records[0].waits) == [
        (0, 12, "input"),
        (12, 13, "weight"),
        (55, 67, "output"),
    ]
    assert timeline.cycles == (
        Cycles(
            compute=18,
            fill=6,
            drain=6,
            weight_load=12,
            stall_input=12,
            stall_weight=1,
            stall_output=12,
        ),
    )


def test_its_bytes_and_macs_by_hand(make_chip, make_memory, table):
    stats = simulate(
        Workload("w", (gemm("g", 3, 5, 4),)),
        replace(make_chip(output_size=64), mapping=MappingChoice("latency")),
        technology=make_memory(),
        energy=table,
    )
    (layer,) = stats.layers
    traffic = layer.traffic
    assert (layer.macs, layer.array_macs) == (60, 60)
    assert (traffic.dram_read, traffic.dram_write) == (12 + 20, 60)
    # each of 3 column blocks streams all 12 activations; each weight is loaded into the array once
    assert (traffic.input_buffer_write, traffic.input_buffer_read) == (12, 36)
    assert (traffic.weight_buffer_write, traffic.weight_buffer_read) == (20, 20)
    # two folds along k: every one of 15 sums of 4 bytes is written twice and read back once
    assert (traffic.partial_sums_written, traffic.partial_sums_read) == (120, 60)
    assert (traffic.output_buffer_write, traffic.output_buffer_read) == (120, 60 + 60)
    # 42 cycles of work; 92 bytes at 8 per ns would take 11
    assert (layer.bound_cycles, stats.bound_cycles, layer.cycles.total) == (42, 42, 67)
    assert layer.utilization == 60 / (67 * 4)


def test_fused_work_overlaps_with_the_array(make_chip, ideal):
    # Double buffered: 9 + 6 + 7 = 22 cycles; dequantising 6, 6 and 3 results on 2 lanes takes 3, 3
    # and 2 cycles behind each panel: 9-12, 15-18, 22-24.
    y = tensor("y", "output", (3, 5), 32)
    items = [gemm("g", 3, 5, 4, result=y), vector("d", "dequantize", (y,), (y,), is_fused=True)]
    timeline, _ = run(items, make_chip(schedule="double_buffered", output_size=64), ideal)
    (record,) = timeline.records
    assert nanoseconds(record.vector) == [(9, 12, 1), (15, 18, 1), (22, 24, 1)]
    assert timeline.cycles == (
        Cycles(compute=18, fill=1, drain=1, weight_load=2),
        Cycles(vector=2),
    )


def test_a_late_panel_of_weights_shows_its_shift_into_the_array(make_chip, make_memory):
    # 4 x 4 cells, 1 byte/ns, no latency. a: 4 bytes at 0-4, two panels of w of 16 bytes each: 4-20
    # and 20-36. First panel: 20-31 (load 4, fill 3, compute 1, load of the next fold 3). The second
    # panel is there at 36 and needs 4 cycles to shift in: it streams from 40, for 1 + 3 cycles.
    chip = make_chip(4, 4, "double_buffered", output_size=64, weight_size=64)
    chip = replace(
        chip, buffers=replace(chip.buffers, output=replace(chip.buffers.output, size_bytes=32))
    )
    memory = make_memory(bandwidth=1e9, latency=0.0)
    timeline, plan = run([gemm("g", 1, 8, 4)], chip, memory)
    assert len(plan.groups[0].pattern.steps) == 2
    assert nanoseconds(timeline.records[0].waits)[:4] == [
        (0, 4, "input"),
        (4, 20, "weight"),
        (31, 36, "weight"),
        (36, 40, "weight"),
    ]
    cycles = timeline.cycles[0]
    assert cycles.array == closed_form("double_buffered", m=1, n=8, k=4, rows=4, columns=4) == 15


def test_an_op_waits_for_what_is_still_being_written(make_chip, make_memory):
    # The state is written by the transfer and read by the next op: the read may start only when
    # the write has ended. 40 bytes at 8 per ns + 10 ns: loaded at 15, written 15-30, read 30-45.
    x, out = tensor("x", "input", (10,), 32), tensor("out", "output", (10,), 32)
    cache = tensor("cache", "state", (10,), 32)
    items = [
        Transfer("append", "cache", (x,), (cache,), 40, 40),
        vector("copy", "copy", (cache,), (out,)),
    ]
    timeline, _ = run(items, make_chip(), make_memory())
    assert nanoseconds(timeline.records[0].waits) == [(0, 15, "input")]
    assert nanoseconds(timeline.records[1].waits) == [
        (15, 30, "dependency"),
        (30, 45, "input"),
        (50, 65, "output"),
    ]
    assert timeline.cycles[1].vector == 5


def test_operands_of_later_ops_are_fetched_while_an_op_runs(make_chip, make_memory):
    x, y = tensor("x", "input", (8, 8), 32), tensor("y", "output", (8, 8), 32)
    first = vector("soft", "softmax", (x,), (y,))
    items = [first, gemm("g", 4, 4, 4, a=tensor("b", "input", (4, 4)))]
    timeline, _ = run(items, make_chip(), make_memory())
    assert timeline.cycles[0].vector == 7 * 32
    assert timeline.cycles[1].stall_weight == 0
    assert timeline.cycles[1].stall_input == 0  # the room to keep them was free all the time


def test_a_slow_vector_clock_is_rounded_to_its_own_edges(make_chip, ideal):
    # Vector clock 400 MHz: 2.5 ns. The GEMM ends at 7 (one fold); the vector op takes the unit at
    # 7, works from the edge 7.5 for 2 cycles and ends at 12.5; the run ends on the array's edge 13.
    y, z = tensor("y", "activation", (3, 2), 32), tensor("z", "output", (3, 2), 32)
    items = [
        gemm("g", 3, 2, 2, result=y),
        vector("v", "relu", (y,), (z,), elements=4, row_length=4),
    ]
    timeline, _ = run(items, make_chip(vector_clock_hz=4e8), ideal)
    assert nanoseconds(timeline.records[1].vector) == [(7, 12.5, 1)]
    assert [cycles.total for cycles in timeline.cycles] == [7, 6]


def test_a_port_moves_its_bytes_per_cycle_one_descriptor_after_the_other(ideal):
    env = Clock()
    server = MemoryServer(env, Channels(MemoryStack("test", 1), ideal))
    engine = Engine(env, server, Buffer(1024, port_bytes=4), period_fs=NS)
    ends = []
    for size in (40, 42):  # 10 cycles, and 10.5 behind them
        done = engine.move(Descriptor(0, size)).wait()
        done.callbacks.append(lambda _: ends.append(env.now / NS))
    env.run()
    assert ends == [10, 20.5]


ORDERS = [
    ("weight_stationary", "shift_out"),
    ("input_stationary", "shift_out"),
    ("output_stationary", "shift_out"),
    ("output_stationary", "none"),
]
SIZES = st.one_of(st.sampled_from([1, 2, 3, 7, 37]), st.integers(1, 40))


@pytest.mark.parametrize("schedule", ["serial", "double_buffered"])
@pytest.mark.parametrize(("dataflow", "drain"), ORDERS)
@settings(SHARED, max_examples=15)
@given(
    m=SIZES,
    n=SIZES,
    k=SIZES,
    count=st.integers(1, 3),
    size=st.sampled_from([1 << 10, 1 << 13, 1 << 16]),
)
def test_with_ideal_memory_cycles_equal_the_closed_form(
    dataflow, drain, schedule, m, n, k, count, size, make_chip, ideal
):
    chip = make_chip(4, 3, schedule, dataflow=dataflow, drain=drain, size=size, output_size=1 << 14)
    timeline, _ = run([gemm("g", m, n, k, count=count)], chip, ideal)
    (cycles,) = timeline.cycles
    how = {"rows": 4, "columns": 3, "dataflow": dataflow, "drain": drain}
    whole = count * closed_form(schedule, m=m, n=n, k=k, **how)
    assert cycles.array == cycles.total == whole


def test_sums_that_stay_in_the_cells_are_cut_into_chunks_without_a_cycle(make_chip, ideal):
    # 2 x 2 cells, buffers of 64 bytes: a step may hold 24 bytes of each operand, 2 rows of 12
    # terms. A sum of 29 terms comes in chunks of 9, 10 and 10; 3 x 5 results are 2 x 3 folds.
    # Each fold: skew 2, sum 29, drain 2 = 33, all in the first and the last chunk.
    chip = make_chip(dataflow="output_stationary", size=64, output_size=64)
    timeline, plan = run([gemm("g", 3, 5, 29)], chip, ideal)
    steps = plan.groups[0].pattern.steps
    assert [vars(step.array) for step in steps[:3]] == [
        {"compute": 9, "fill": 2, "drain": 0, "weight_load": 0},
        {"compute": 10, "fill": 0, "drain": 0, "weight_load": 0},
        {"compute": 10, "fill": 0, "drain": 2, "weight_load": 0},
    ]
    assert [(step.opens_bytes, step.closes_bytes) for step in steps[:3]] == [
        (0, 0),
        (0, 0),
        (16, 16),
    ]
    assert timeline.cycles == (Cycles(compute=6 * 29, fill=6 * 2, drain=6 * 2),)
    # Results leave once: nothing is added up outside the cells.
    (tally,) = plan.tallies
    assert (tally.partial_sums_written, tally.partial_sums_read) == (60, 0)


def test_activations_that_stay_shift_in_behind_the_step_before(make_chip, ideal):
    # 4 x 4 cells, ports of 1 byte per cycle. 8 rows of 4 activations come in two panels of 4 rows,
    # 16 bytes each, at 16 and 32; the one column of w (4 bytes) is there at 4. First panel: 16-27
    # (shift in 4, fill 3, compute 1, shift in of the next 3). The second one is there at 32 and
    # needs 4 cycles to shift in: its 1 + 3 cycles begin at 36.
    chip = make_chip(
        4,
        4,
        "double_buffered",
        dataflow="input_stationary",
        size=64,
        output_size=32,
        port=1,
    )
    a, w = tensor("a", "input", (8, 4)), tensor("w", "constant", (1, 4))
    timeline, plan = run([gemm("g", 8, 1, 4, a=a, w=w)], chip, ideal)
    assert len(plan.groups[0].pattern.steps) == 2
    assert nanoseconds(timeline.records[0].waits)[:3] == [
        (0, 16, "input"),
        (27, 32, "input"),
        (32, 36, "input"),
    ]
    cycles = timeline.cycles[0]
    how = {"rows": 4, "columns": 4, "dataflow": "input_stationary"}
    assert cycles.array == closed_form("double_buffered", m=8, n=1, k=4, **how) == 15


@SHARED
@given(n=st.integers(1, 60), lanes=st.integers(1, 8), columns=st.integers(1, 5))
def test_with_ideal_memory_fused_work_is_a_two_stage_pipeline(n, lanes, columns, make_chip, ideal):
    m, k = 6, 5
    chip = make_chip(3, columns, lanes=lanes, output_size=2 * 4 * m * columns)
    y = tensor("y", "output", (m, n), 32)
    items = [gemm("g", m, n, k, result=y), vector("e", "gelu", (y,), (y,), is_fused=True)]
    timeline, plan = run(items, chip, ideal)
    if any(step.closes_bytes > 4 * m * columns for step in plan.groups[0].pattern.steps):
        pytest.fail("a tile is larger than half of the output buffer")
    array_end, tile_ends = 0, [0, 0]
    for start, stop in panels(n, columns):
        # a tile may begin when the tile two before has left the output buffer
        begin = max(array_end, tile_ends[-2])
        array_end = begin + closed_form("serial", m=m, n=stop - start, k=k, rows=3, columns=columns)
        work = function_cycles(FUNCTIONS["gelu"].operations, m * (stop - start), lanes)
        tile_ends.append(max(array_end, tile_ends[-1]) + work)
    assert sum(cycles.total for cycles in timeline.cycles) == tile_ends[-1]
