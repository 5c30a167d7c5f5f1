"""What must hold for every memory: peak without refresh, less with it, no harm from more of it."""

from dataclasses import replace

import numpy as np
import pytest
from dram_traces import is_possible, make_trace, memories, memory

from cosim.bench.memory_changes import stack_last
from hwmodels.dram.controller import simulate, trace
from hwmodels.dram.policy import POLICIES
from hwmodels.dram.spec import Timing

OPEN_PAGE = ("ramulator2", "dramsim3")
QUICK = ("hbm2_2000", "ddr4_3200")


def assert_peak(spec, policy, count, least=0.9999):
    stats = simulate(spec, replace(policy, refresh="none"), make_trace(spec, "SR", count))
    done = np.sort(stats.completed)
    end, burst = done[count * 9 // 10], spec.cycles("tBL") * spec.ticks_per_clock
    start = end - (end - done[count // 2]) // burst * burst
    served = ((start < done) & (done <= end)).sum() * spec.organisation.burst_bytes
    share = served / ((end - start) * spec.tick_s) / spec.peak_bytes_per_s
    assert least <= share <= 1.0001
    assert stats.binding_limit == "bus"


@pytest.mark.parametrize("name", QUICK)
def test_a_stream_without_refresh_reaches_the_peak(name):
    assert_peak(memory(name), POLICIES["ramulator2"], 20_000)


def all_banks(spec):
    """Return the bursts after which a stream comes back to a bank that another row is open in."""
    o = spec.organisation
    return o.columns * o.banks_per_channel * o.channels


@pytest.mark.parametrize("name", memories())
def test_with_queues_that_look_far_enough_ahead_all_memories_reach_their_peak(name):
    # A change of rank or stack id costs a gap on the bus, so it must not come within a stream.
    spec = memory(name)
    spec = replace(spec, address_map=stack_last(spec.address_map))
    assert_peak(spec, POLICIES["ramulator2_deep"], max(20_000, 3 * all_banks(spec)))


@pytest.mark.slow
def test_a_change_of_stack_id_within_a_stream_costs_its_gap():
    spec = memory("hbm3_6400")
    o, t = spec.organisation, spec.cycles
    gap = (t("tCCD_R") - t("tCCD_S")) / (o.columns * o.bank_groups * t("tBL"))
    with pytest.raises(AssertionError):
        assert_peak(spec, POLICIES["ramulator2_deep"], 3 * all_banks(spec))
    assert_peak(spec, POLICIES["ramulator2_deep"], 3 * all_banks(spec), 1 - 1.05 * gap)


def test_a_stream_reaches_the_peak_with_queues_of_banks_too():
    assert_peak(memory("hbm2_2000_legacy"), POLICIES["dramsim3"], 20_000)


# With two ranks the other one works meanwhile.
@pytest.mark.parametrize("kind", ["SR", "SW"])
@pytest.mark.parametrize("name", memories("ddr4_3200", most_ranks=1))
def test_refresh_takes_at_least_its_time_from_a_stream(name, kind):
    spec = memory(name)
    able = [policy for policy in OPEN_PAGE if is_possible(spec, POLICIES[policy])]
    assert able
    for policy in able:
        assert_refresh_is_paid(spec, policy, kind)


def assert_refresh_is_paid(spec, policy, kind):
    interval = spec.cycles("tREFI") * spec.ticks_per_clock
    per_tick = spec.peak_bytes_per_s * spec.tick_s / spec.organisation.burst_bytes
    stats = simulate(spec, POLICIES[policy], make_trace(spec, kind, int(5 * interval * per_tick)))
    window = (stats.accepted >= interval) & (stats.accepted < 4 * interval)
    served = window.sum() / (3 * interval * per_tick)
    assert served <= 1 - spec.cycles("tRFC") / spec.cycles("tREFI") + 1e-3
    assert served > 0.5


@pytest.mark.parametrize("kind", ["SR", "SW", "MIX"])
@pytest.mark.parametrize("name", memories(*QUICK))
def test_more_channels_a_faster_clock_and_deeper_queues_do_no_harm(name, kind):
    spec = memory(name)
    policy = POLICIES["ramulator2"]
    count = 12_000

    def bandwidth(spec, rules):
        stats = simulate(spec, rules, make_trace(spec, kind, count))
        return stats.bandwidth_bytes_per_s(count // 10)

    base = bandwidth(spec, policy)
    deeper = replace(policy, read_queue=64, write_queue=64)
    assert bandwidth(spec, deeper) >= 0.99 * base
    faster = replace(spec, clock_ps=spec.clock_ps * 0.8)
    assert bandwidth(faster, policy) >= 0.99 * base
    if kind != "MIX":
        twice = 2 * spec.organisation.channels
        fields = spec.address_map.replace(" channel", "")
        more = replace(
            spec,
            organisation=replace(spec.organisation, channels=twice),
            address_map=f"{fields} channel",
        )
        assert bandwidth(more, policy) >= 0.99 * base


def test_more_frequent_refresh_costs_what_was_measured():
    # Halving tREFI costs about 8 % of a stream on HBM2.
    spec = memory("hbm2_2000")
    requests = make_trace(spec, "SR", 60_000)
    shares = [
        simulate(spec, POLICIES["ramulator2"], requests, refresh_rate=rate).bandwidth_bytes_per_s(
            6000
        )
        for rate in (1, 2, 4)
    ]
    assert 0.075 < 1 - shares[1] / shares[0] < 0.115
    assert shares[2] < shares[1] * 0.85


def test_every_command_is_counted_again_with_more_time_and_more_requests():
    spec = memory("hbm2_2000")
    short, long = (
        simulate(spec, POLICIES["ramulator2"], make_trace(spec, "RM", count))
        for count in (3000, 9000)
    )
    for name in ("ACT", "RD", "WR", "REFab"):
        assert long.commands[name] > short.commands[name]
    assert long.rank_ticks > short.rank_ticks
    assert short.open_rank_ticks < short.rank_ticks
    slow = make_trace(spec, "RM", 1000, load=0.005)
    idle = simulate(spec, POLICIES["ramulator2"], slow)
    assert idle.commands["REFab"] > short.commands["REFab"]
    assert idle.limits["demand"] > 0.8


def test_time_with_open_rows_is_counted_by_rank():
    # One read, then nothing until the first refresh closes the row at tREFI.
    spec = memory("ddr4_3200")
    stats = simulate(
        spec, POLICIES["ramulator2"], trace([0, 0], arrival_cycles=[0, 13_400]), is_logging=True
    )
    opened = 12_480 - 1
    second = stats.ticks - int(stats.log["tick"][stats.log["command"] == 0][-1])
    assert stats.open_rank_ticks == opened + second


def test_two_bank_groups_in_turn_are_twice_as_fast_as_one():
    spec = memory("ddr4_3200")
    policy = replace(POLICIES["ramulator2"], refresh="none")
    count = 4000
    one = simulate(spec, policy, trace(np.arange(count) * 256 % 8192))
    assert one.bandwidth_bytes_per_s(400) == pytest.approx(spec.peak_bytes_per_s / 2, rel=2e-3)
    assert one.limits["tCCD_L"] == pytest.approx(0.5, abs=0.02)


def test_limits_name_activates_and_row_cycles_where_they_bind():
    spec = memory("ddr4_3200")
    policy = replace(POLICIES["ramulator2"], refresh="none")
    row = spec.organisation.capacity_bytes // spec.organisation.rows
    same_bank = simulate(spec, policy, trace(np.arange(2000) * row))
    assert same_bank.binding_limit == "tRC"
    slow = replace(spec, timings={**spec.timings, "tFAW": Timing(source="r2", cycles=200)})
    random = simulate(slow, policy, make_trace(slow, "RR", 4000))
    assert random.binding_limit == "tFAW"
    idle = simulate(spec, policy, make_trace(spec, "SR", 2000, load=0.1))
    assert idle.binding_limit == "demand"
    assert idle.limits["bus"] == pytest.approx(0.1, abs=0.01)


def test_bandwidth_over_time_adds_up_to_all_bytes():
    spec = memory("hbm2_2000")
    stats = simulate(spec, POLICIES["ramulator2"], make_trace(spec, "MIX", 5000))
    steps = stats.bandwidth_over_time(1e-6)
    assert steps.shape[1] == 8
    assert steps.sum() * 1e-6 == pytest.approx(5000 * 32)
    assert steps.max() * 8 <= spec.peak_bytes_per_s * 1.05
