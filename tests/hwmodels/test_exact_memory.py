"""hwmodels.exact_memory: descriptors on the controller end when the controller alone says so."""

from dataclasses import replace
from math import isclose
from pathlib import Path

import numpy as np
import pytest
import simpy
from hw_samples import burst_addresses, feed_forward, gemm
from hypothesis import given, settings
from hypothesis import strategies as st

from cosim import config
from cosim.chip import load_chip, parse_chip
from cosim.errors import CosimError
from hwmodels.dram import controller
from hwmodels.dram.batches import count_runs
from hwmodels.dram.energy import DramEnergy
from hwmodels.dram.spec import DramSpec
from hwmodels.exact_memory import dram
from hwmodels.mapped_channels import one_run
from hwmodels.memory import Descriptor
from hwmodels.simulate import Reuse, simulate, simulate_calls
from hwmodels.stats import combine
from hwmodels.workload import Workload

CONFIGS = Path(__file__).resolve().parents[2] / "configs"
TIMING = "configs/memory/timing/hbm2_2000.yaml"
NS = 10**6  # femtoseconds


def hbm2(architecture, **memory):
    """Return a chip's parts with the HBM2 controller behind it."""
    stack = replace(architecture.memory, fidelity="exact", timing=TIMING, **memory)
    spec = config.load(CONFIGS.parent / TIMING, DramSpec)
    energy = config.load(CONFIGS / "memory/energy/hbm2_2000.yaml", DramEnergy)
    return replace(architecture, memory=stack), dram(stack, spec, energy)


@pytest.fixture
def edge(shipped):
    """Return a shipped chip, its parts by keyword, and the memory behind its controller."""
    architecture, technology, energy = shipped("stacked_edge_32")
    architecture, memory = hbm2(architecture)
    return architecture, {"technology": technology, "energy": energy, "dram": memory}


def serve(memory, submissions, ticks=()):
    """Submit (nanosecond, descriptor) pairs while others wake at `ticks`; return ends in ns."""
    env = simpy.Environment()
    server = memory.serve(env)
    ends = {}

    def submit(at, number, descriptor):
        yield env.timeout(at * NS)
        yield server.submit(descriptor).wait()
        ends[number] = env.now // NS

    def wake():
        for gap in ticks:
            yield env.timeout(gap * NS // 7)

    env.process(wake())
    for number, (at, descriptor) in enumerate(submissions):
        env.process(submit(at, number, descriptor))
    env.run()
    return [ends[number] for number in range(len(submissions))], server


def alone(memory, submissions):
    """Return when each descriptor ends if the controller is given all bursts in advance."""
    parts = [burst_addresses(one, 0, 32) for _, one in submissions]
    sizes = [part.size for part in parts]
    found = controller.simulate(
        memory.spec,
        memory.policy,
        controller.trace(
            np.concatenate(parts),
            np.repeat([one.is_write for _, one in submissions], sizes),
            np.repeat([float(at) for at, _ in submissions], sizes),
        ),
    )
    stops = np.cumsum(sizes)
    return [
        int(found.completed[stop - size : stop].max())
        for stop, size in zip(stops, sizes, strict=True)
    ]


DESCRIPTORS = st.builds(
    Descriptor,
    st.integers(0, 1 << 20),
    st.integers(1, 3000),
    stride=st.integers(0, 5000),
    rows=st.integers(1, 4),
    is_write=st.booleans(),
)


@settings(max_examples=15, deadline=None)
@given(
    work=st.lists(st.tuples(st.integers(0, 6000), DESCRIPTORS), min_size=1, max_size=7),
    ticks=st.lists(st.integers(1, 2000), max_size=30),
)
def test_look_ahead_changes_nothing(edge_memory, work, ticks):
    work = sorted(work, key=lambda pair: pair[0])
    ends, server = serve(edge_memory, work, ticks)
    assert ends == alone(edge_memory, work)
    bursts = sum(burst_addresses(one, 0, 32).size for _, one in work)
    totals = server.finish()
    kinds = ("RD", "WR")
    assert sum(totals.commands[k] for k in kinds) + totals.forwarded + totals.merged == bursts
    assert sum(totals.read_ticks.values()) == sum(
        burst_addresses(one, 0, 32).size for _, one in work if not one.is_write
    )


@pytest.fixture(scope="module")
def edge_memory():
    """Return the memory of the shipped edge chip behind the controller."""
    return hbm2(load_chip(CONFIGS / "hardware/stacked_edge_32.yaml").architecture)[1]


@settings(max_examples=25, deadline=None)
@given(DESCRIPTORS, st.integers(0, 100), st.sampled_from([0, 5, 6]))
def test_every_byte_lies_in_a_burst_and_no_row_has_one_twice(one, origin, shift):
    rows, row_bytes = one_run(one)
    found = count_runs(one.base + origin, row_bytes, one.stride, rows, shift)
    assert found == burst_addresses(one, origin, 1 << shift).size


def test_who_comes_second_waits_for_the_first(edge_memory):
    (first,), _ = serve(edge_memory, [(0, Descriptor(0, 65536, requester="weight"))])
    late = Descriptor(1 << 20, 2048, requester="input")
    (lonely,), _ = serve(edge_memory, [(0, late)])
    ends, server = serve(edge_memory, [(0, Descriptor(0, 65536, requester="weight")), (0, late)])
    assert first <= ends[0] < 1.1 * first  # rows of both share banks
    assert ends[1] > 5 * lonely
    assert server.statistics["input"].queued_fs > 100 * NS
    assert server.statistics["weight"].queued_fs == 0
    assert server.statistics["input"].read_bytes == 2048


def test_ledgers_balance_on_commands(edge):
    architecture, parts = edge
    workload = feed_forward(9, 64, 128)
    stats = simulate(workload, architecture, **parts)
    totals, memory = stats.controller, parts["dram"]
    assert stats.cycles.total == sum(layer.cycles.total for layer in stats.layers)
    assert stats.traffic.dram == sum(
        one["read_bytes"] + one["write_bytes"] for one in stats.memory.values()
    )
    assert stats.traffic.dram_read == 32 * (totals.commands["RD"] + totals.forwarded)
    assert stats.traffic.dram_write == 32 * (totals.commands["WR"] + totals.merged)
    found = {row.action: row.count for row in stats.energy if row.component == "memory"}
    assert found == {name: n for (_, name), n in totals.actions.items() if n}
    assert {"read_bit", "write_bit", "background"}.isdisjoint(found)
    time_s = (found["open_tick"] + found["closed_tick"]) * totals.tick_s / 16
    assert isclose(time_s, stats.seconds, rel_tol=0.01)
    assert isclose(stats.energy_j, sum(layer.energy_j for layer in stats.layers))
    assert memory.energy.name in {row.factor for row in stats.energy}


def test_bound_by_bandwidth_it_comes_to_the_roofline_with_the_share_measured(edge):
    # A matrix-vector product of 2 MB on wide ports: nothing but weights on the bus.
    architecture, parts = edge
    buffers = architecture.buffers
    wide = replace(
        buffers,
        weight=replace(buffers.weight, port_bytes=None),
        input=replace(buffers.input, port_bytes=None),
    )
    array = replace(architecture.array, rows=256, columns=256)
    architecture = replace(architecture, buffers=wide, array=array)
    work = Workload("mv", (gemm("g", 1, 2048, 1024),))
    exact = simulate(work, architecture, **parts)
    limits = exact.controller.limits
    assert isclose(sum(limits.values()), 1.0)
    assert isclose(
        limits["bus"], exact.traffic.dram / exact.peak_bytes_per_s / exact.seconds, rel_tol=0.02
    )
    rooflines = replace(architecture, memory=replace(architecture.memory, fidelity="roofline"))
    plain = simulate(work, rooflines, **parts)
    assert plain.controller is None
    assert isclose(exact.cycles.total, plain.cycles.total, rel_tol=0.06)
    assert exact.cycles.total >= exact.bound_cycles


def test_equal_calls_are_simulated_once_and_each_memory_on_its_own(edge):
    architecture, parts = edge
    calls, reuse = [feed_forward(5), feed_forward(5)], Reuse()
    first, _ = simulate_calls(calls, architecture, **parts, reuse=reuse)
    again, other = simulate_calls(calls, architecture, **parts)
    assert (first.cycles, first.energy, first.controller) == (
        again.cycles,
        again.energy,
        again.controller,
    )
    both = combine([again, other], name="both")
    assert both.controller.ticks == again.controller.ticks + other.controller.ticks
    assert both.controller.commands["RD"] == sum(
        one.controller.commands["RD"] for one in (again, other)
    )
    apart, memory = hbm2(
        architecture, address_map="channel row bank column bank_group pseudo_channel"
    )
    simulate_calls(calls, apart, **{**parts, "dram": memory}, reuse=reuse)
    assert reuse.misses >= 2


def test_the_address_map_decides_how_many_channels_a_stream_has(edge):
    architecture, parts = edge
    work = Workload("mv", (gemm("g", 1, 1024, 512),))
    spread = simulate(work, architecture, **parts)
    apart, memory = hbm2(
        architecture, address_map="channel row bank column bank_group pseudo_channel"
    )
    alone = simulate(work, apart, **{**parts, "dram": memory})
    assert alone.cycles.stall_weight > 1.05 * spread.cycles.stall_weight
    assert alone.controller.address_map.startswith("channel")
    assert alone.controller.mean_read_latency_s > spread.controller.mean_read_latency_s


def test_what_does_not_fit_is_refused_with_all_mistakes(edge):
    architecture, parts = edge
    with pytest.raises(ValueError, match=r"policy: unknown policy") as error:
        hbm2(architecture, policy="ramulator3", address_map="row channel")
    assert "address_map: bank is missing" in str(error.value)
    technology = replace(parts["technology"], burst_bytes=64, capacity_bytes=1 << 40)
    with pytest.raises(ValueError, match=r"burst_bytes: found 64, expected 32") as error:
        simulate(feed_forward(), architecture, **{**parts, "technology": technology})
    assert "capacity_bytes: found 8796093022208" in str(error.value)
    with pytest.raises(ValueError, match=r"memory\.fidelity: found \"exact\" without"):
        simulate(feed_forward(), architecture, **{**parts, "dram": None})


def test_a_chip_file_names_timing_policy_and_map():
    path = CONFIGS / "hardware/stacked_edge_32.yaml"
    hardware = config.read(path)
    table = config.read(CONFIGS / "energy/aladdin_cacti_28nm.yaml")
    where = {"source": "chip", "table_source": "table", "relative_to": path}
    hardware["memory"] |= {"fidelity": "exact", "timing": TIMING, "policy": "dramsim3"}
    chip = parse_chip(hardware, table, **where)
    assert chip.dram.policy.name == "dramsim3"
    assert chip.document["memory_energy"]["name"] == "hbm2_2000"
    hardware["memory"] |= {"policy": "dramsin3", "address_map": "row colum"}
    with pytest.raises(CosimError) as error:
        parse_chip(hardware, table, **where)
    assert 'did you mean "dramsim3"' in str(error.value)
    assert 'unknown field "colum"; did you mean "column"' in str(error.value)
    del hardware["memory"]["timing"]
    with pytest.raises(CosimError, match=r"without memory\.timing"):
        parse_chip(hardware, table, **where)
