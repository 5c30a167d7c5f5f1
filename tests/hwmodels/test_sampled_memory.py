"""hwmodels.sampled_memory: the controller serves a part, and all comes out as if it served all."""

from dataclasses import replace
from math import isclose
from pathlib import Path

import numpy as np
import pytest
import simpy
from hw_samples import burst_addresses, feed_forward, gemm, tensor, vector
from hypothesis import given, settings
from hypothesis import strategies as st

from cosim import config
from cosim.chip import load_chip
from cosim.errors import CosimError
from cosim.totals import totals_of
from hwmodels.dram.address import locate
from hwmodels.dram.energy import DramEnergy
from hwmodels.dram.spec import DramSpec
from hwmodels.exact_memory import ExactServer, dram
from hwmodels.mapped_channels import MappedChannels, turn_bytes
from hwmodels.memory import Channels, Descriptor
from hwmodels.sampled_memory import SampledServer
from hwmodels.service_fit import Sample, fit, ratio_error
from hwmodels.simulate import simulate
from hwmodels.workload import Workload

CONFIGS = Path(__file__).resolve().parents[2] / "configs"
TIMING = "configs/memory/timing/hbm2_2000.yaml"
NS = 10**6  # femtoseconds


@pytest.fixture(scope="module")
def hbm2():
    """Return one HBM2 channel as the roofline and as the controller know it."""
    technology = load_chip(CONFIGS / "hardware/stacked_edge_32.yaml").technology
    architecture = load_chip(CONFIGS / "hardware/stacked_edge_32.yaml").architecture
    stack = replace(architecture.memory, timing=TIMING, channels=1)
    spec = config.load(CONFIGS.parent / TIMING, DramSpec)
    energy = config.load(CONFIGS / "memory/energy/hbm2_2000.yaml", DramEnergy)
    return Channels(stack, technology), dram(stack, spec, energy)


def both(shipped, workload, **memory):
    """Return what an edge chip with wide ports on one HBM2 channel does, exact and sampled."""
    architecture, technology, energy = shipped("stacked_edge_32")
    buffers = architecture.buffers
    wide = replace(
        buffers,
        input=replace(buffers.input, port_bytes=None),
        weight=replace(buffers.weight, port_bytes=None),
        output=replace(buffers.output, port_bytes=None),
    )
    array = replace(architecture.array, rows=128, columns=128)
    stack = replace(architecture.memory, timing=TIMING, channels=1, **memory)
    spec = config.load(CONFIGS.parent / TIMING, DramSpec)
    figures = config.load(CONFIGS / "memory/energy/hbm2_2000.yaml", DramEnergy)
    behind = dram(stack, spec, figures)
    return [
        simulate(
            workload,
            replace(
                architecture, array=array, buffers=wide, memory=replace(stack, fidelity=fidelity)
            ),
            technology=technology,
            energy=energy,
            dram=behind,
        )
        for fidelity in ("exact", "sampled")
    ]


WORK = {
    "weights": Workload("weights", (gemm("g", 1, 4096, 2048),)),
    "reads_and_writes": Workload("mixed", (gemm("g", 2048, 1024, 512),)),
    "vectors": Workload(
        "vectors",
        (
            vector(
                "v",
                "gelu",
                (tensor("x", "input", (1024, 1536), 32),),
                (tensor("y", "output", (1024, 1536), 32),),
            ),
        ),
    ),
}


@pytest.mark.parametrize("name", WORK)
def test_time_and_energy_are_within_one_percent_of_the_controller_or_the_error_told(shipped, name):
    exact, sampled = both(shipped, WORK[name])
    sampling = sampled.controller.sampling
    assert sampling.exact_share < 0.7
    told = sampling.time_error_s * sampled.clock_hz if name == "reads_and_writes" else 0
    allowed = max(0.01 * exact.cycles.total, told)
    assert abs(sampled.cycles.total - exact.cycles.total) <= allowed
    assert isclose(sampled.energy_j, exact.energy_j, rel_tol=0.01)
    for row in exact.energy:
        if row.component == "memory" and row.energy_j > 0.02 * exact.energy_j:
            own = sum(r.count for r in sampled.energy if r.action == row.action)
            assert isclose(own, row.count, rel_tol=0.15), row.action
    assert sampled.traffic == exact.traffic
    assert 0 < sampling.time_error_s < 0.1 * exact.seconds
    told = totals_of(sampled)["memory"]["sampling"]
    assert told["cycles_error"] == sampling.time_error_s * sampled.clock_hz
    assert told["exact_share"] == sampling.exact_share
    assert "sampling" not in totals_of(exact)["memory"]


def test_ledgers_balance_on_scaled_counts(shipped):
    _, sampled = both(shipped, WORK["reads_and_writes"])
    totals = sampled.controller
    assert sampled.traffic.dram_read == 32 * (totals.commands["RD"] + totals.forwarded)
    assert sampled.traffic.dram_write == 32 * (totals.commands["WR"] + totals.merged)
    assert sum(totals.read_ticks.values()) == sampled.traffic.dram_read // 32
    found = {row.action: row.count for row in sampled.energy if row.component == "memory"}
    assert found == {name: n for (_, name), n in totals.actions.items() if n}
    assert isclose(sum(totals.limits.values()), 1.0)
    assert sampled.traffic.dram == sum(
        one["read_bytes"] + one["write_bytes"] for one in sampled.memory.values()
    )


def test_the_same_work_has_the_same_result(shipped):
    (_, first), (_, second) = (both(shipped, WORK["vectors"]) for _ in range(2))
    assert (first.cycles, first.energy, first.controller) == (
        second.cycles,
        second.energy,
        second.controller,
    )


def run_pairs(make, pairs, gap_ns):
    """Return when each read and each write of some pairs, submitted together, is done, in ns."""
    env = simpy.Environment()
    server = make(env)
    ends = {False: [], True: []}

    def wait(done, is_write):
        yield done.wait()
        ends[is_write].append(env.now // NS)

    def submit():
        for number in range(pairs):
            for is_write in (False, True):
                one = Descriptor(
                    (number * 2 + is_write) << 15,
                    1 << 15,
                    is_write=is_write,
                    requester="output" if is_write else "input",
                )
                env.process(wait(server.submit(one), is_write))
            yield env.timeout(gap_ns * NS)

    env.process(submit())
    env.run()
    return np.array(ends[False]), np.array(ends[True])


@pytest.mark.parametrize("gap_ns", [1500, 4000])
def test_reads_wait_for_the_writes_that_hold_them_as_they_do_in_the_controller(hbm2, gap_ns):
    channels, memory = hbm2
    exact = run_pairs(lambda env: ExactServer(env, memory), 120, gap_ns)
    sampled = run_pairs(lambda env: SampledServer(env, memory, channels), 120, gap_ns)
    for found, expected in zip(sampled, exact, strict=True):
        assert isclose(found[-1], expected[-1], rel_tol=0.01)
        # On the way they differ by no more than a refresh, apart from the drift of the rate.
        assert np.abs(found - expected).mean() < 400 + 0.005 * expected[-1]


def test_a_fit_finds_the_service_that_samples_were_made_with():
    generator = np.random.default_rng(7)
    factor, delay = np.array([1.1, 2.5]), np.array([2e6, 5e6])
    free, now, samples = np.zeros(2), 0.0, []
    for number in range(60):
        now += generator.integers(1, 20) * 1e8
        kind = number % 2
        busy = tuple((bus, int(generator.integers(1, 5) * 1e8)) for bus in range(2))
        begin = max(now, free.max())
        for bus, time in busy:
            free[bus] = max(free[bus], now) + factor[kind] * time
        end = max(free[bus] for bus, _ in busy)
        samples.append(
            Sample(
                kind,
                int(now),
                busy,
                int(now) if not number else -1,
                int(begin + 3e7),
                int(end + delay[kind]),
            )
        )
    found = fit(samples, 3, channels=2, block_fs=int(1e9))
    np.testing.assert_allclose(found.factor[:2], factor, rtol=1e-2)
    np.testing.assert_allclose(found.delay_fs[:2], delay, atol=1e7)
    np.testing.assert_allclose(found.accept_fs[:2], 3e7, atol=1e7)
    assert found.factor[2] == pytest.approx(1, rel=1e-3)
    assert found.rate_error < 1e-3


def test_what_equal_descriptors_alone_take_is_their_rate_and_not_a_delay():
    samples = [
        Sample(0, at, ((0, 10**9),), at, at, at + 1_200_000_000)
        for at in range(0, 40 * 10**10, 10**10)
    ]
    found = fit(samples, 1, channels=1, block_fs=10**10)
    assert found.factor[0] == pytest.approx(1.2, rel=1e-3)
    assert abs(found.delay_fs[0]) < 10**6


def test_the_error_of_a_ratio_is_that_of_a_mean_where_blocks_are_equal():
    values = np.array([1.0, 3.0, 4.0, 6.0])
    expected = values.std(ddof=1) / np.sqrt(4) / values.mean()
    assert ratio_error(values, np.ones(4)) == pytest.approx(expected)
    assert ratio_error(values, 5 * values) == 0.0
    assert ratio_error(values[:1], np.ones(1)) == 0.0


@settings(max_examples=25, deadline=None)
@given(
    base=st.integers(0, 1 << 20),
    size=st.integers(1, 3000),
    stride=st.integers(0, 5000),
    rows=st.integers(1, 5),
    turns=st.integers(0, 9),
)
def test_buses_are_busy_for_the_bursts_that_the_map_puts_there(
    hbm2_8, base, size, stride, rows, turns
):
    channels, spec = hbm2_8
    found = MappedChannels(channels, spec)
    one = Descriptor(base, size, stride=stride, rows=rows)
    share = found.share(one, origin=turns * turn_bytes(spec))
    assert share == found.share(one)
    assert share.moved_bytes == channels.share(one).moved_bytes
    place = locate(spec, burst_addresses(one, 0, 32))
    bus = 2 * place[:, 0] + (place[:, 1] >= spec.organisation.banks_per_channel // 2)
    assert share.busy == tuple((b, 2 * NS * int((bus == b).sum())) for b in np.unique(bus).tolist())
    assert share.longest_fs == max(time for _, time in share.busy)


@pytest.fixture(scope="module")
def hbm2_8():
    """Return all eight channels of HBM2 for the roofline, and their timings."""
    chip = load_chip(CONFIGS / "hardware/stacked_edge_32.yaml")
    spec = config.load(CONFIGS.parent / TIMING, DramSpec)
    return Channels(chip.architecture.memory, chip.technology), spec


def test_a_map_that_hashes_channels_has_no_turn_below_the_capacity(hbm2_8):
    _, spec = hbm2_8
    assert turn_bytes(spec) == 32 * 16
    hashed = replace(spec, address_map=spec.address_map.replace(" channel", " channel^row"))
    assert turn_bytes(hashed) == spec.organisation.capacity_bytes


@pytest.mark.parametrize("channels", [5, 8])
def test_buses_come_round_again_after_a_turn(hbm2_8, channels):
    spec = hbm2_8[1]
    organisation = replace(spec.organisation, channels=channels)
    for order in (spec.address_map, "row bank pseudo_channel column channel bank_group"):
        own = replace(spec, organisation=organisation, address_map=order)
        lines = 32 * np.arange(3 * turn_bytes(own) // 32)
        place = locate(own, lines)
        bus = 2 * place[:, 0] + place[:, 1] // (organisation.banks_per_channel // 2)
        period = turn_bytes(own) // 32
        np.testing.assert_array_equal(bus[period:], bus[:-period])
        assert (bus[period // 2 :] != bus[: -(period // 2)]).any()


def test_a_chip_without_timings_is_refused():
    with pytest.raises(CosimError, match=r'fidelity: found "sampled" without memory\.timing'):
        load_chip(CONFIGS / "hardware/edge_tpu_64.yaml", assignments=["memory.fidelity=sampled"])


@pytest.mark.parametrize("name", ["stacked_edge_16", "stacked_server_128", "gemmini_16"])
def test_shipped_chips_with_timings_run_on_their_controller(name):
    chip = load_chip(CONFIGS / f"hardware/{name}.yaml", assignments=["memory.fidelity=sampled"])
    stats = simulate(
        feed_forward(),
        chip.architecture,
        technology=chip.technology,
        energy=chip.energy,
        dram=chip.dram,
    )
    assert stats.controller.commands["RD"] > 0
    assert stats.controller.sampling.exact_share == 1
