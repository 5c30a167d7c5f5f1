"""Every command of every shipped memory keeps the standards' rules, says an independent judge."""

from dataclasses import replace

import numpy as np
import pytest
from dram_draws import few_places
from dram_judge import late_refreshes, violations
from dram_traces import NAMES, is_possible, make_trace, memory
from hypothesis import given, settings
from hypothesis import strategies as st

from hwmodels.dram.commands import COMMANDS
from hwmodels.dram.controller import simulate, trace
from hwmodels.dram.policy import POLICIES, check
from hwmodels.dram.problems import SpecError

QUICK = [
    ("hbm2_2000", "ramulator2"),
    ("hbm2_2000", "ramulator2_per_bank"),
    ("ddr4_3200", "ramulator2"),
    ("ddr4_3200", "ramulator2_closed"),
    ("hbm2_2000_legacy", "dramsim3"),
    ("ddr4_3200_2rank", "dramsim3_closed"),
    ("hmc1_4gb", "dramsim3_links"),
]


def hammer(spec, count):
    """Return bursts to two rows of one bank in turn, then of all, reads and writes mixed."""
    burst = spec.organisation.burst_bytes
    rng = np.random.default_rng(7)
    rows = spec.organisation.capacity_bytes // spec.organisation.rows
    places = rng.integers(0, 3, count) * rows + rng.integers(0, 4096, count) * burst
    places[: count // 3] = rng.integers(0, 2, count // 3) * rows
    return trace(places, rng.random(count) < 0.4)


def sparse(spec, count):
    """Return bursts so far apart that refresh and idle times come between them."""
    rng = np.random.default_rng(11)
    places = rng.integers(0, 1 << 20, count) * spec.organisation.burst_bytes
    arrivals = np.sort(rng.random(count)) * 6 * spec.cycles("tREFI")
    return trace(places, rng.random(count) < 0.3, arrivals)


def assert_legal(spec, policy, requests):
    found = simulate(spec, policy, requests, is_logging=True)
    assert violations(spec, found.log, COMMANDS)[:5] == []
    assert late_refreshes(spec, found.log, COMMANDS, found.ticks)[:5] == []


@pytest.mark.parametrize(("name", "policy"), QUICK)
def test_no_command_comes_too_soon(name, policy):
    spec = memory(name)
    for requests in (make_trace(spec, "RM", 400), hammer(spec, 300), sparse(spec, 60)):
        assert_legal(spec, POLICIES[policy], requests)


def test_no_command_comes_too_soon_on_five_hashed_channels():
    spec = memory("hbm2_2000")
    text = "row bank^row column bank_group pseudo_channel^column channel^column^row"
    organisation = replace(spec.organisation, channels=5)
    spec = replace(spec, organisation=organisation, address_map=text)
    for requests in (make_trace(spec, "RM", 300), hammer(spec, 300)):
        assert_legal(spec, POLICIES["ramulator2"], requests)


def test_no_command_comes_while_one_of_several_ticks_holds_the_only_bus():
    spec = replace(memory("ddr4_3200"), activate_ticks=3, column_ticks=2)
    for requests in (make_trace(spec, "RM", 400), hammer(spec, 300), sparse(spec, 60)):
        assert_legal(spec, POLICIES["ramulator2"], requests)
    with pytest.raises(SpecError, match="bank_queues know only ACT on a bus of row commands"):
        check(spec, POLICIES["dramsim3"])


@pytest.mark.parametrize("name", NAMES)
def test_only_what_a_memory_cannot_do_is_refused(name):
    spec = memory(name)
    for policy in POLICIES.values():
        try:
            check(spec, policy)
        except SpecError:
            assert not is_possible(spec, policy), policy.name
        else:
            assert is_possible(spec, policy), policy.name


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "policy"),
    [
        (name, policy)
        for name in NAMES
        for policy, rules in POLICIES.items()
        if is_possible(memory(name), rules)
    ],
)
def test_no_command_of_any_memory_and_policy_comes_too_soon(name, policy):
    spec, policy = memory(name), POLICIES[policy]
    count = min(1500, 150 * spec.organisation.channels * spec.organisation.pseudo_channels)
    traces = [make_trace(spec, kind, count) for kind in ("RM", "MIX", "S4096")]
    for requests in (*traces, hammer(spec, 1000), sparse(spec, 200)):
        assert_legal(spec, policy, requests)


@pytest.mark.parametrize(("name", "policy"), QUICK[:5:2])
@settings(max_examples=8, deadline=None)
@given(data=st.data())
def test_no_order_of_requests_makes_a_command_come_too_soon(name, policy, data):
    spec = memory(name)
    assert_legal(spec, POLICIES[policy], data.draw(few_places(spec)))


def test_the_judge_sees_every_command_that_is_one_tick_early():
    # Two rows of one bank in turn: each command goes as soon as the one before allows it.
    spec = memory("ddr4_3200")
    rows = spec.organisation.capacity_bytes // spec.organisation.rows
    policy = replace(POLICIES["ramulator2"], refresh="none")
    log = simulate(spec, policy, trace([0, rows, 0, rows]), is_logging=True).log
    assert [COMMANDS[entry["command"]] for entry in log] == [
        *("ACT", "RD", "RD", "PRE"),
        *("ACT", "RD", "RD"),
    ]
    assert violations(spec, log, COMMANDS) == []
    for at in range(1, log.size):
        early = log.copy()
        early["tick"][at] -= 1
        assert violations(spec, early, COMMANDS) != [], at


def test_the_judge_sees_a_row_that_is_not_open_and_a_missing_refresh():
    spec = memory("hbm2_2000")
    found = simulate(spec, POLICIES["ramulator2"], make_trace(spec, "RM", 500), is_logging=True)
    names = np.array(COMMANDS)[found.log["command"]]
    wrong = found.log.copy()
    wrong["row"][np.flatnonzero(names == "RD")[50]] += 1
    assert any("is open" in problem for problem in violations(spec, wrong, COMMANDS))
    idle = simulate(
        spec, POLICIES["ramulator2"], trace([0, 0], arrival_cycles=[0, 20_000]), is_logging=True
    )
    assert late_refreshes(spec, idle.log, COMMANDS, idle.ticks) == []
    kept = idle.log[np.array(COMMANDS)[idle.log["command"]] != "REFab"]
    assert len(late_refreshes(spec, kept, COMMANDS, idle.ticks)) == 16
