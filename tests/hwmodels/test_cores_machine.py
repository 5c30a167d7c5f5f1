"""Several cores on one memory: time lines by hand, closed forms, and ledgers that sum."""

from collections import Counter
from dataclasses import replace
from itertools import pairwise

import pytest
from hw_samples import feed_forward, gemm, tensor, vector
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from hwmodels.architecture import Cores
from hwmodels.array import closed_form
from hwmodels.cores import IDLE, efficiency, speed_up
from hwmodels.energy import STATIC, prices
from hwmodels.layout import place
from hwmodels.simulate import simulate, simulate_calls
from hwmodels.stats import Cycles
from hwmodels.workload import Workload

SHARED = settings(
    suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None, max_examples=8
)


@pytest.fixture
def on(table):
    """Return a function that simulates a workload on a chip of so many cores."""

    def run(workload, chip, memory, *, cores=1, split="columns"):
        chip = replace(chip, cores=Cores(cores, split))
        return simulate(workload, chip, technology=memory, energy=table)

    return run


def test_two_cores_take_turns_on_one_memory(make_chip, make_memory, on):
    # 8 bytes per ns, 10 ns. Each core has one fold of 3 rows on 2x2 cells: 7 cycles. At 0 the
    # engines ask for a (6 bytes) and w (4 bytes) of core 0, then of core 1: the bus is done at
    # 0.75, 1.25, 2.0 and 2.5, the bytes arrive 10 ns later. Core 0 works from 12 to 19, core 1 from
    # 13 to 20. Each writes 24 bytes, 3 ns: 19-22 and, behind them, 22-25; done at 32 and at 35.
    stats = on(Workload("w", (gemm("g", 3, 4, 2),)), make_chip(), make_memory(), cores=2)
    first, second = stats.cores
    busy = {"compute": 3, "fill": 1, "drain": 1, "weight_load": 2}
    assert [layer.cycles for layer in first.layers] == [
        Cycles(**busy, stall_input=11, stall_weight=1, stall_output=13),
        Cycles(stall_dependency=3),
    ]
    assert first.layers[1].name == IDLE
    assert [layer.cycles for layer in second.layers] == [
        Cycles(**busy, stall_input=12, stall_weight=1, stall_output=15)
    ]
    assert stats.cycles.total == 35
    assert stats.layers[0].cycles == second.layers[0].cycles


def test_a_reader_waits_until_the_other_core_has_written(make_chip, make_memory, on):
    # 2 rows of softmax over 4 columns of which each core makes 2. A row is 4 x 4 bytes, half of it
    # from the other core: the load begins when the later core has written its 16 bytes.
    y = tensor("y", "activation", (2, 4), 32)
    p = tensor("p", "output", (2, 4), 32)
    items = (gemm("g", 2, 4, 2, result=y), vector("softmax", "softmax", (y,), (p,)))
    stats = on(Workload("w", items), make_chip(), make_memory(), cores=2)
    written = max(
        sum(layer.cycles.total - layer.cycles.stall_output for layer in core.layers[:1])
        for core in stats.cores
    )
    for core in stats.cores:
        softmax = core.layers[1]
        assert softmax.cycles.stall_dependency > 0
        assert softmax.traffic.dram_read == 16
        assert core.layers[0].traffic.dram_write == 16
        assert core.cycles.total > written + 10 + 10  # written, then read, 10 ns each


def test_an_op_is_not_fused_across_what_another_core_makes(make_chip, make_memory, on):
    # The largest of all y is found by core 0, so core 1 can scale its columns only when it has
    # written them and core 0 has read them: a wait inside a group would never end.
    y, q = tensor("y", "activation", (4, 4), 32), tensor("q", "activation", (4, 4))
    s, z = tensor("s", "activation", (1,), 32), tensor("z", "output", (4, 4), 32)
    items = (
        gemm("g", 4, 4, 2, result=y),
        vector("top", "dynamic_quantize_tensor", (y,), (q, s)),
        vector("scale", "mul", (y, s), (z,)),
    )
    stats = on(Workload("w", items), make_chip(), make_memory(), cores=2)
    assert [layer.name for layer in stats.cores[1].layers] == ["g", "scale"]
    assert stats.cores[1].layers[1].cycles.stall_dependency > 0


@SHARED
@given(
    m=st.integers(1, 12), k=st.integers(1, 12), blocks=st.integers(1, 3), cores=st.integers(2, 4)
)
@pytest.mark.parametrize("schedule", ["serial", "double_buffered"])
def test_with_ideal_memory_cores_take_their_share_of_the_folds_and_the_ends(
    m, k, blocks, cores, schedule, make_chip, ideal, on
):
    chip = make_chip(2, 3, schedule, size=1 << 20)
    work = Workload("w", (gemm("g", m, 3 * blocks * cores, k),))
    one, many = on(work, chip, ideal), on(work, chip, ideal, cores=cores)
    part = closed_form(schedule, m=m, n=3 * blocks, k=k, rows=2, columns=3)
    assert [core.cycles.total for core in many.cores] == [part] * cores
    if schedule == "serial":  # every fold has its own ends
        assert cores * many.cycles.total == one.cycles.total
        assert efficiency(one, many) == 1
    else:  # a run of folds has them once: weights in, and the skew of rows and columns
        step = max(m, 2)
        ends = part - step * blocks * -(-k // 2)
        assert one.cycles.total == step * cores * blocks * -(-k // 2) + ends
        assert 1 <= speed_up(one, many) <= cores


def test_one_narrow_memory_takes_no_less_than_the_bytes(make_chip, make_memory, on):
    memory = make_memory(bandwidth=1e9, latency=0.0)
    work = Workload("w", (gemm("g", 24, 48, 16),))
    chip = make_chip(4, 4, "double_buffered", size=1 << 16)
    alone, found = on(work, chip, memory), [on(work, chip, memory, cores=n) for n in (2, 4)]
    for stats in found:
        assert stats.cycles.total >= stats.traffic.dram  # one byte per cycle
        assert stats.cycles.total >= stats.bound_cycles >= stats.traffic.dram
    assert [speed_up(alone, stats) < 1 for stats in found] == [True, True]


def test_sharing_the_memory_makes_every_core_wait_longer(make_chip, make_memory, on):
    memory, chip = make_memory(), make_chip(4, 4, "double_buffered", size=1 << 16)
    shared = on(Workload("w", (gemm("g", 24, 48, 16),)), chip, memory, cores=4)
    own = on(Workload("w", (gemm("g", 24, 12, 16),)), chip, memory)  # as much, with all memory
    causes = ("stall_input", "stall_weight", "stall_output")
    for core in shared.cores[1:]:
        found = [getattr(core.layers[0].cycles, cause) for cause in causes]
        alone = [getattr(own.cycles, cause) for cause in causes]
        assert sum(found) > sum(alone)
        assert core.cycles.array == own.cycles.array
    assert shared.cores[-1].cycles.stall_input > own.cycles.stall_input
    assert shared.cores[-1].cycles.stall_output > own.cycles.stall_output


def test_a_shared_memory_is_charged_once_and_every_core_leaks(make_chip, make_memory, table, on):
    chip, memory = make_chip(), make_memory()
    stats = on(feed_forward(), chip, memory, cores=3)
    total = stats.cycles.total
    rows = {(row.component, row.action): row for row in stats.energy}
    one = prices(chip, memory, table)
    assert {core.cycles.total for core in stats.cores} == {total}
    for action in STATIC:
        times = 1 if action[0] == "memory" else 3
        assert rows[action].count == 3 * total
        assert rows[action].energy_j == pytest.approx(times * total * one[action].value_j)


@pytest.mark.parametrize("split", ["columns", "heads", "utterances"])
def test_one_core_changes_not_one_figure(split, make_chip, make_memory, table, on):
    chip, memory = make_chip(), make_memory()
    assert on(feed_forward(), chip, memory, split=split) == simulate(
        feed_forward(), chip, technology=memory, energy=table
    )


def test_whole_calls_leave_the_other_cores_to_wait_and_leak(make_chip, make_memory, on):
    chip, memory = make_chip(), make_memory(bandwidth=None)  # cores do not map for a share of it
    one = on(feed_forward(), chip, memory)
    many = on(feed_forward(), chip, memory, cores=2, split="utterances")
    assert many.cycles == one.cycles
    assert many.traffic == one.traffic
    assert [core.cycles.stall_dependency for core in many.cores][1] == one.cycles.total
    assert many.energy_j > one.energy_j


@SHARED
@given(
    m=st.integers(1, 9),
    d=st.integers(1, 14),
    h=st.integers(1, 21),
    cores=st.integers(2, 5),
    size=st.sampled_from([256, 4096]),
    burst=st.sampled_from([1, 32]),
    split=st.sampled_from(["columns", "heads"]),
)
def test_ledgers_balance_per_core_and_in_total(
    m, d, h, cores, size, burst, split, make_chip, make_memory, on
):
    work = feed_forward(m, d, h)
    chip, memory = make_chip(size=size, fallback=True), make_memory(channels=2, burst=burst)
    one, many = on(work, chip, memory), on(work, chip, memory, cores=cores, split=split)
    assert many.macs == one.macs == sum(core.macs for core in many.cores)
    assert many.cycles.total == max(core.cycles.total for core in many.cores)
    assert many.cycles.total >= many.bound_cycles
    assert many.cells == cores * one.cells
    total = many.traffic.dram
    assert total == sum(core.traffic.dram for core in many.cores)
    assert total == sum(c["read_bytes"] + c["write_bytes"] for c in many.memory.values())
    constants = sum(ref.size_bytes for ref in work.tensors() if ref.kind == "constant")
    assert many.traffic.weight_buffer_write >= constants
    assert many.energy_j == pytest.approx(sum(core.energy_j for core in many.cores))
    names = Counter(layer.name for layer in many.layers)
    assert set(names) - {IDLE} == {item.name for item in work.items}
    assert max(names.values()) == 1


def test_equal_layers_fetch_their_part_of_the_weights_once(make_chip, make_memory, table):
    # 4 x 6 bytes of weights in all, whatever the cores; the second call finds them on chip.
    work = Workload("w", (gemm("g", 2, 6, 4),))
    chip = replace(make_chip(), cores=Cores(3))
    first, second = simulate_calls([work, work], chip, technology=make_memory(), energy=table)
    assert first.traffic.weight_buffer_write == 24
    assert second.traffic.weight_buffer_write == 0


def test_cores_that_are_at_different_ops_share_no_room(make_chip, make_memory):
    work, chip, memory = feed_forward(), make_chip(), make_memory(capacity=1 << 20)
    (alone,) = place([work], chip, memory)
    (layout,) = place([work], replace(chip, cores=Cores(2)), memory)
    used = [range(p.base, p.base + p.size_bytes) for p in layout.placements.values()]
    ends = sorted((span.start, span.stop) for span in used)
    assert all(first[1] <= second[0] for first, second in pairwise(ends))
    assert max(p.base for p in alone.placements.values()) < ends[-1][0]


def test_constants_at_entry_are_refused_where_cores_keep_parts_of_them(
    make_chip, make_memory, table
):
    chip = replace(make_chip(), cores=Cores(2))
    with pytest.raises(ValueError, match="residency: found 1 constants, expected none"):
        simulate(
            feed_forward(),
            chip,
            technology=make_memory(),
            energy=table,
            residency=(("up.w", 240),),
        )


def test_a_buffer_too_small_is_told_once_for_all_cores(make_chip, make_memory, on):
    work = Workload("w", (gemm("g", 8, 32, 3),))
    with pytest.raises(ValueError, match="buffer") as found:
        on(work, make_chip(8, 8, output_size=32), make_memory(), cores=4)
    assert len(set(str(found.value).splitlines())) == len(str(found.value).splitlines())
