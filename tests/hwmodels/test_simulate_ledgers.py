"""hwmodels.simulate: ledgers balance, nothing is lost, equal calls give equal results."""

from dataclasses import replace
from math import isclose

import pytest
from hw_samples import feed_forward, gemm, tensor, vector
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from hwmodels.architecture import MappingChoice
from hwmodels.cells import FloatCell
from hwmodels.rtl_checked import UNCHECKED
from hwmodels.simulate import Reuse, simulate, simulate_calls
from hwmodels.stats import Cycles, Traffic, combine, row
from hwmodels.workload import Gemm, Transfer, Workload

SHARED = settings(
    max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None
)
CHIPS = {
    "rows": st.integers(1, 6),
    "columns": st.integers(1, 6),
    "schedule": st.sampled_from(["serial", "double_buffered"]),
    "dataflow": st.sampled_from(["weight_stationary", "input_stationary", "output_stationary"]),
    "lanes": st.integers(1, 5),
    "size": st.sampled_from([256, 700, 4096]),
    "output_size": st.sampled_from([128, 1024]),
    "port": st.sampled_from([None, 1, 3, 16]),
    "vector_clock_hz": st.sampled_from([1e9, 7e8, 2.3e9]),
    "fallback": st.just(True),
    "supports": st.sampled_from([("i8xi8",), ("i4xi4",)]),
    "arbitration": st.sampled_from(["fifo", "priority"]),
    "channels": st.integers(1, 3),
}
MEMORIES = {
    "channels": st.just(3),
    "bandwidth": st.sampled_from([None, 1e9, 13e9]),
    "latency": st.sampled_from([0.0, 3.3e-9, 40e-9]),
    "burst": st.sampled_from([1, 16]),
}


def with_prices(table):
    return replace(table, actions={**table.actions, "mac_i4xi4": table.actions["mac_i8xi8"]})


def compulsory_bytes(workload):
    """Return the least that memory must deliver and take in one call that starts with nothing."""
    made, read, written = set(), 0, 0
    for ref in workload.tensors():
        if ref.kind in ("output", "state"):
            written += ref.size_bytes if ref.kind == "output" else 0
        is_read_first = False
        for item in workload.items:
            if any(one.id == ref.id for one in item.reads) and ref.id not in made:
                is_read_first = not isinstance(item, Transfer)
                break
            if any(one.id == ref.id for one in item.writes):
                made.add(ref.id)
                break
        read += ref.size_bytes if is_read_first else 0
    return read, written


@SHARED
@given(
    chip=st.fixed_dictionaries(CHIPS), memory=st.fixed_dictionaries(MEMORIES), m=st.integers(1, 9)
)
def test_every_ledger_balances(chip, memory, m, make_chip, make_memory, table):
    workload = feed_forward(m)
    stats = simulate(
        workload, make_chip(**chip), technology=make_memory(**memory), energy=with_prices(table)
    )
    assert len(stats.layers) == len(workload.items)
    # cycles: parts sum to ops, ops to the run, and no run beats its bound
    for layer in stats.layers:
        assert layer.cycles.total == sum(vars(layer.cycles).values()) >= 0
        assert min(vars(layer.cycles).values()) >= 0
    assert stats.cycles.total == sum(layer.cycles.total for layer in stats.layers)
    assert stats.cycles.total >= stats.bound_cycles
    # work: every multiply-accumulate once, on one unit
    on_array = chip["supports"] == ("i8xi8",)
    assert stats.macs == workload.macs
    assert sum(layer.array_macs for layer in stats.layers) == (workload.macs if on_array else 0)
    assert bool(stats.warnings) is not on_array
    # bytes: the memory moved what the ops are charged for, and at least what it must
    moved = stats.memory.values()
    assert sum(one["read_bytes"] for one in moved) == stats.traffic.dram_read
    assert sum(one["write_bytes"] for one in moved) == stats.traffic.dram_write
    read, written = compulsory_bytes(workload)
    assert stats.traffic.dram_read >= read
    assert stats.traffic.dram_write >= written
    for layer, item in zip(stats.layers, workload.items, strict=True):
        if isinstance(item, Gemm):
            sums = layer.traffic
            outputs = 4 * item.count * item.m * item.n
            assert sums.partial_sums_read == sums.partial_sums_written - outputs
    # energy: totals are sums of rows
    assert isclose(stats.energy_j, sum(layer.energy_j for layer in stats.layers))
    assert stats.energy_j == sum(one.count * one.energy_per_action_j for one in stats.energy)
    assert stats.energy_low_j <= stats.energy_j <= stats.energy_high_j
    assert all(one.source for one in stats.energy)


def test_energy_by_hand(make_chip, make_memory, table):
    stats = simulate(
        Workload("w", (gemm("g", 3, 5, 4),)),
        make_chip(size=1024, output_size=1024),
        technology=make_memory(),
        energy=table,
    )
    cycles = stats.cycles.total
    counts = {(one.component, one.action): one.count for one in stats.energy}
    assert counts == {
        ("array", "mac_i8xi8"): 60,
        ("memory", "read_bit"): 8 * 32,
        ("memory", "write_bit"): 8 * 60,
        ("input_buffer", "read_byte"): 36,
        ("input_buffer", "write_byte"): 12,
        ("weight_buffer", "read_byte"): 20,
        ("weight_buffer", "write_byte"): 20,
        ("output_buffer", "read_byte"): 120,
        ("output_buffer", "write_byte"): 120,
        # two folds along the sum: each of 15 results comes back once and is added to
        ("output_buffer", "accumulate"): 15,
        # 8 bits of activation and 32 of sum move on for each product
        ("array", "register_bit"): 60 * 40,
        ("array", "clock"): stats.cycles.array,
        ("host", "op"): 1,
        ("array", "leakage"): cycles,
        ("vector_unit", "leakage"): cycles,
        ("buffers", "leakage"): cycles,
        ("memory", "background"): cycles,
    }
    # 1 pJ a MAC, 2 and 3 pJ a bit of memory, 1 and 2 pJ a byte of a 1 KiB buffer; at rest per ns:
    # 4 cells of 1 uW, 2 lanes of 10 uW, 3072 bytes of 1 nW, one channel of 1 mW
    dynamic = 60e-12 + 512e-12 + 1440e-12 + (36 + 20 + 120) * 1e-12 + (12 + 20 + 120) * 2e-12
    static = (4e-6 + 20e-6 + 3072e-9 + 1e-3) * cycles * 1e-9
    assert stats.energy_j == pytest.approx(dynamic + static)


def test_rows_are_flat_and_complete(make_chip, make_memory, table):
    stats = simulate(feed_forward(), make_chip(), technology=make_memory(), energy=table)
    found = row(stats.layers[1])
    assert {f"{name}_cycles" for name in Cycles.__dataclass_fields__} <= found.keys()
    assert {f"{name}_bytes" for name in Traffic.__dataclass_fields__} <= found.keys()
    assert (found["name"], found["unit"]) == ("up", "array")
    assert found["cycles"] == sum(found[f"{name}_cycles"] for name in Cycles.__dataclass_fields__)
    assert found["energy_j"] == sum(one["energy_j"] for one in found["energy"])


def test_rows_say_how_the_array_ran_and_what_confirms_its_cycles(make_chip, make_memory, table):
    chip = make_chip(
        dataflow="output_stationary", drain="none", fallback=True, supports=("i8xi8", "f16xf16")
    )
    chip = replace(chip, array=replace(chip.array, cell=FloatCell("float")))
    prices = replace(table, actions={**table.actions, "mac_f16xf16": table.actions["vector_op"]})
    items = (
        gemm("integers", 3, 5, 4),
        gemm("floats", 3, 5, 4, a_number="f16", w_number="f16"),
        gemm("elsewhere", 3, 5, 4, w_number="i4"),
    )
    stats = simulate(Workload("w", items), chip, technology=make_memory(), energy=prices)
    integers, floats, elsewhere = (row(layer) for layer in stats.layers)
    for one in (integers, floats):
        how = one["dataflow"], one["schedule"], one["drain"]
        assert how == ("output_stationary", "serial", "none")
    assert (elsewhere["dataflow"], elsewhere["schedule"], elsewhere["drain"]) == ("", "", "")
    assert [one["cycles_note"] for one in (integers, floats, elsewhere)] == ["", UNCHECKED, ""]
    assert stats.cycle_notes == (f"1 of 2 ops on the array: {UNCHECKED}",)
    assert {one["convention_cycles"] for one in (integers, floats, elsewhere)} == {None}


def test_a_convention_counts_beside_the_ledger(make_chip, make_memory, table):
    # 2 x 2 cells, weights stay: 3 x 5 x 4 is 6 folds of 2 R + C + M - 2 = 7, and SCALE-Sim prints
    # one cycle less, for each of 2 products.
    chip = make_chip()
    parts = {"technology": make_memory(), "energy": table}
    work = Workload("w", (gemm("g", 3, 5, 4, count=2), gemm("h", 1, 1, 1)))
    plain = simulate(work, chip, **parts)
    chip = replace(chip, array=replace(chip.array, convention="scale_sim"))
    counted = simulate(work, chip, **parts)
    assert [layer.convention_cycles for layer in counted.layers] == [2 * (6 * 7 - 1), 5 - 1]
    assert counted.cycles == plain.cycles
    assert [layer.cycles for layer in counted.layers] == [layer.cycles for layer in plain.layers]
    twice = combine([counted, counted], name="twice")
    assert twice.layers[0].convention_cycles == 2 * 2 * 41
    assert (twice.convention, twice.convention_cycles) == ("scale_sim", 2 * (2 * 41 + 4))
    assert (plain.convention, plain.convention_cycles) == ("", None)


def test_a_chip_says_what_its_mappings_are_chosen_for(make_chip, ideal, table):
    # Buffers so small that fewer bytes cost cycles: ideal memory has no use for them, the energy of
    # a byte has.
    chip = make_chip(2, 3, size=40, weight_size=64, output_size=48)
    memory = replace(ideal, read_j_per_bit=replace(ideal.read_j_per_bit, value=1e-6, high=1e-6))
    found = {}
    for objective in ("latency", "energy", "product"):
        chosen = replace(chip, mapping=MappingChoice(objective))
        work = Workload("w", (gemm("g", 8, 6, 8),))
        stats = simulate(work, chosen, technology=memory, energy=table)
        found[objective] = stats.cycles.total, stats.traffic.dram_read
    assert found["latency"] == (144, 176)
    assert found["energy"] == found["product"] == (224, 112)


def test_impossible_arrays_are_one_error(make_chip, make_memory, table):
    chip = make_chip(drain="none")
    chip = replace(chip, array=replace(chip.array, convention="stonne"))
    with pytest.raises(ValueError, match="drain") as error:
        simulate(feed_forward(), chip, technology=make_memory(), energy=table)
    drain, convention = str(error.value).splitlines()
    assert drain.startswith('tiny: array.drain: found "none", but weight_stationary moves results')
    assert drain.endswith('expected "shift_out", or "dataflow: output_stationary"')
    assert convention == (
        'tiny: array.convention: found "stonne", which counts output_stationary only; the array is '
        "weight_stationary"
    )


def test_what_fits_stays_on_chip_and_what_does_not_is_read_again(make_chip, make_memory, table):
    m, d, h = 5, 12, 20
    weights = 2 * h * d + 4 * h
    big = simulate(
        feed_forward(m, d, h), make_chip(size=1 << 16), technology=make_memory(), energy=table
    )
    # x once (kept for the residual), weights and bias, and the cache, which never stays
    assert big.traffic.dram_read == 4 * m * d + weights + 4 * (m + 3) * d
    assert big.traffic.dram_write == 4 * m * d + 4 * m * d + 4 * (m + 3) * d
    small = simulate(
        feed_forward(m, d, h), make_chip(size=256), technology=make_memory(), energy=table
    )
    assert small.traffic.dram_read > big.traffic.dram_read
    assert small.traffic.dram_write > big.traffic.dram_write


def test_a_state_is_read_from_memory_at_every_use(make_chip, make_memory, table):
    cache = tensor("cache", "state", (10,), 32)
    other = tensor("other", "input", (10,), 32)
    for ref, times in ((cache, 2), (other, 1)):
        outs = [tensor(name, "output", (10,), 32) for name in ("o1", "o2")]
        items = tuple(vector(out.id, "relu", (ref,), (out,)) for out in outs)
        stats = simulate(Workload("w", items), make_chip(), technology=make_memory(), energy=table)
        assert stats.traffic.dram_read == times * 40


def test_constants_survive_a_call_and_nothing_else_does(make_chip, make_memory, table):
    call = feed_forward()
    first, second = simulate_calls(
        [call, call], make_chip(size=1 << 16), technology=make_memory(), energy=table
    )
    weights = 2 * 20 * 12 + 4 * 20
    assert first.traffic.dram_read - second.traffic.dram_read == weights
    assert first.traffic.dram_write == second.traffic.dram_write


def test_a_result_that_must_go_before_its_reader_is_written_and_read_back(
    make_chip, make_memory, table
):
    # The kept part of the input buffer holds 512 bytes: y and z are 400 each, so y goes for z.
    def act(name, kind="activation"):
        return tensor(name, kind, (100,), 32)

    y, z = act("y"), act("z")
    items = (
        vector("y", "relu", (act("x1", "input"),), (y,)),
        vector("z", "relu", (act("x2", "input"),), (z,)),
        vector("out", "relu", (z,), (act("o1", "output"),)),
        vector("out2", "relu", (y,), (act("o2", "output"),)),
    )
    apart = replace(make_chip(size=2048), mapping=MappingChoice(fusion="marked"))
    stats = simulate(Workload("w", items), apart, technology=make_memory(), energy=table)
    traffic = {layer.name: layer.traffic for layer in stats.layers}
    assert traffic["z"].dram_write == 400
    assert (traffic["out"].dram_read, traffic["out2"].dram_read) == (0, 400)


@settings(SHARED, max_examples=20)
@given(chip=st.fixed_dictionaries(CHIPS), memory=st.fixed_dictionaries(MEMORIES))
def test_reuse_changes_nothing(chip, memory, make_chip, make_memory, table):
    calls = [feed_forward(m) for m in (2, 3, 3, 2, 3, 3)]
    parts = {"technology": make_memory(**memory), "energy": with_prices(table)}
    reuse = Reuse()
    plain = simulate_calls(calls, make_chip(**chip), **parts)
    reused = simulate_calls(calls, make_chip(**chip), reuse=reuse, **parts)
    again = simulate_calls(calls, make_chip(**chip), reuse=reuse, **parts)
    assert plain == reused == again
    assert reuse.hits >= len(calls)
    assert combine(plain, name="all") == combine(reused, name="all")
    total = combine(again, name="all")
    assert total.cycles.total == sum(one.cycles.total for one in plain)
    assert total.traffic.dram == sum(one.traffic.dram for one in plain)
    assert isclose(total.energy_j, sum(one.energy_j for one in plain))
    assert total.calls == 6


def test_another_chip_memory_or_table_is_not_reused(make_chip, make_memory, table):
    reuse, call = Reuse(), feed_forward()
    dear = replace(table, actions={**table.actions, "vector_op": table.actions["vector_mac"]})
    chip, memory = make_chip(), make_memory()
    one = simulate(call, chip, technology=memory, energy=table, reuse=reuse)
    two = simulate(call, make_chip(rows=3), technology=memory, energy=table, reuse=reuse)
    three = simulate(call, chip, technology=make_memory(latency=1e-9), energy=table, reuse=reuse)
    four = simulate(call, chip, technology=memory, energy=dear, reuse=reuse)
    assert (reuse.hits, reuse.misses) == (0, 4)
    assert one.cycles.total != two.cycles.total
    assert one.cycles.total > three.cycles.total
    assert one.energy_j < four.energy_j


def test_the_same_input_gives_the_same_result(make_chip, make_memory, table):
    once, twice = (
        simulate(feed_forward(), make_chip(size=256), technology=make_memory(), energy=table)
        for _ in range(2)
    )
    assert once == twice
    assert once.simpy_events == twice.simpy_events > 0


def test_types_supported_nowhere_are_one_error_before_any_work(make_chip, make_memory, table):
    items = (
        gemm("one", 2, 2, 2, w_number="i4"),
        gemm("two", 2, 2, 2),
        gemm("six", 1, 1, 1, a_number="f32"),
    )
    with pytest.raises(ValueError, match="one: tiny supports i8xi8 and has no fallback") as error:
        simulate(Workload("w", items), make_chip(), technology=make_memory(), energy=table)
    assert [line.split(":")[0] for line in str(error.value).splitlines()] == ["one", "six"]
    stats = simulate(
        Workload("w", items), make_chip(fallback=True), technology=make_memory(), energy=table
    )
    assert [layer.unit for layer in stats.layers] == ["vector", "array", "vector"]
    assert [text.split(":")[0] for text in stats.warnings] == ["one", "six"]
    # one multiply-accumulate per lane and cycle: 2 columns on 2 lanes, 2 rows, 2 deep
    assert stats.layers[0].cycles.vector == 4


def test_unknown_vector_functions_are_one_error(make_chip, make_memory, table):
    x, y = tensor("x", "input", (4,), 32), tensor("y", "output", (4,), 32)
    items = (vector("a", "sofmax", (x,), (y,)), vector("b", "zzz", (x,), (y,)))
    with pytest.raises(KeyError) as error:
        simulate(Workload("w", items), make_chip(), technology=make_memory(), energy=table)
    text = error.value.args[0]
    assert 'a: unknown vector function "sofmax"; did you mean "softmax"?' in text
    assert 'b: unknown vector function "zzz"; known: add, sub' in text


def test_buffers_too_small_are_one_error_that_lists_every_op(make_chip, make_memory, table):
    chip = make_chip(64, 64, size=1024, output_size=256)
    items = (gemm("one", 64, 64, 64), gemm("two", 1, 1, 1), gemm("three", 64, 64, 64))
    with pytest.raises(ValueError, match="tiny: one: output buffer: one fold") as error:
        simulate(Workload("w", items), chip, technology=make_memory(), energy=table)
    assert {line.split(": ")[1] for line in str(error.value).splitlines()} == {"one", "three"}


def test_a_tensor_scale_is_a_barrier_of_two_passes(make_chip, make_memory, table):
    # 200 floats do not fit the kept part (256 bytes): both passes read them from memory.
    x, q = tensor("x", "input", (2, 100), 32), tensor("q", "output", (2, 100))
    parts = {"technology": make_memory(), "energy": table}
    for function, times in (("dynamic_quantize_tensor", 2), ("dynamic_quantize_row", 1)):
        work = Workload("w", (vector("v", function, (x,), (q,)),))
        stats = simulate(work, make_chip(size=1 << 12), **parts)
        assert stats.traffic.dram_read == 800  # fits: once
        stats = simulate(work, make_chip(size=1 << 10, output_size=1 << 12), **parts)
        assert stats.cycles.vector >= 300
        if times == 2:
            assert stats.traffic.dram_read == 1600


def test_combine_needs_runs_of_one_chip(make_chip, make_memory, table):
    parts = {"technology": make_memory(), "energy": table}
    one = simulate(feed_forward(), make_chip(), **parts)
    two = simulate(feed_forward(), make_chip(rows=3), **parts)
    for runs in ([], [one, two]):
        with pytest.raises(ValueError, match="all of one chip"):
            combine(runs, name="x")


def test_an_empty_workload_takes_no_time(make_chip, make_memory, table):
    stats = simulate(Workload("w", ()), make_chip(), technology=make_memory(), energy=table)
    assert (stats.cycles.total, stats.energy_j, stats.seconds) == (0, 0, 0)
    assert (stats.utilization, stats.bandwidth_bytes_per_s) == (0, 0)
