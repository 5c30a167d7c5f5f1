"""Every request is served once, in an order that keeps what memory holds, however time passes."""

from collections import defaultdict
from dataclasses import replace

import numpy as np
import pytest
from dram_draws import few_places
from dram_traces import make_trace, memory
from hypothesis import given, settings
from hypothesis import strategies as st

from hwmodels.dram.address import locate
from hwmodels.dram.commands import COMMANDS
from hwmodels.dram.controller import Controller, simulate, trace
from hwmodels.dram.policy import POLICIES

SPECS = {
    name: memory(name)
    for name in ("hbm2_2000", "hbm2_2000_legacy", "ddr4_3200", "ddr4_3200_2rank", "hmc1_4gb")
}
SPECS["five channels"] = replace(
    SPECS["hbm2_2000"],
    organisation=replace(SPECS["hbm2_2000"].organisation, channels=5),
    address_map="row bank^row column bank_group pseudo_channel^column channel^column^row",
)
COLUMN = {"RD", "WR", "RDA", "WRA"}


def issued(stats):
    """Return the ticks of column commands by request; each request may have one at most."""
    ticks = {}
    for entry in stats.log:
        if COMMANDS[entry["command"]] in COLUMN:
            request = int(entry["request"])
            assert request not in ticks, f"request {request} is served twice"
            ticks[request] = int(entry["tick"])
    return ticks


def check_places(spec, requests, stats):
    """Assert that each column command goes where the address of its request lies."""
    places = locate(spec, requests.address)
    for entry in stats.log:
        name = COMMANDS[entry["command"]]
        if name in COLUMN:
            channel, bank, row, _ = places[entry["request"]]
            assert (entry["channel"], entry["bank"], entry["row"]) == (channel, bank, row)
            assert requests.is_write[entry["request"]] == (name in {"WR", "WRA"})


def check_order(spec, requests, stats):
    """Assert that every read sees the writes before it and none after, at every address."""
    ticks = issued(stats)
    lines = defaultdict(list)
    for index, address in enumerate(requests.address // spec.organisation.burst_bytes):
        lines[int(address)].append(index)
    for indices in lines.values():
        for index in indices:
            older = [other for other in indices if other < index]
            younger = [other for other in indices if other > index]
            if requests.is_write[index]:
                check_write(requests, stats, ticks, index, older)
            else:
                check_read(requests, stats, ticks, index, (older, younger))


def check_write(requests, stats, ticks, index, older):
    """A write without a command was absorbed by one that still waited when it came."""
    if index not in ticks:
        waiting = [o for o in older if requests.is_write[o] and o in ticks]
        assert any(ticks[o] >= stats.accepted[index] for o in waiting)
        return
    for other in older:
        if other in ticks:
            assert ticks[other] < ticks[index]


def check_read(requests, stats, ticks, index, others):
    older, younger = others
    writes = [o for o in older if requests.is_write[o]]
    if index in ticks:
        for other in writes:
            if other in ticks:
                assert ticks[other] < ticks[index], "a read passes a write before it"
        for other in younger:
            if requests.is_write[other] and other in ticks:
                assert ticks[other] > ticks[index], "a write passes a read before it"
        return
    forwarded = any(ticks[o] >= stats.accepted[index] for o in writes if o in ticks)
    shared = [
        o for o in older if not requests.is_write[o] and ticks.get(o, -1) >= stats.accepted[index]
    ]
    since = max(writes, default=-1)
    assert forwarded or any(o > since for o in shared), "a read is answered by nobody"


@pytest.mark.parametrize(
    ("memory", "policy"),
    [
        ("hbm2_2000", "ramulator2"),
        ("hbm2_2000", "ramulator2_closed"),
        ("hbm2_2000", "ramulator2_per_bank"),
        ("five channels", "ramulator2"),
        ("ddr4_3200", "ramulator2"),
        ("hbm2_2000_legacy", "dramsim3"),
        ("ddr4_3200_2rank", "dramsim3"),
        ("ddr4_3200_2rank", "dramsim3_closed"),
        ("hmc1_4gb", "dramsim3_links"),
    ],
)
@settings(max_examples=12, deadline=None)
@given(data=st.data())
def test_no_request_is_lost_doubled_or_passed_by_another_to_its_address(memory, policy, data):
    spec = SPECS[memory]
    requests = data.draw(few_places(spec))
    stats = simulate(spec, POLICIES[policy], requests, is_logging=True)
    assert (stats.accepted >= np.ceil(requests.arrival_cycles)).all()
    assert (np.diff(stats.accepted) >= 0).all()
    assert (stats.completed >= stats.accepted).all()
    assert len(issued(stats)) + stats.forwarded + stats.merged == requests.address.size
    check_places(spec, requests, stats)
    check_order(spec, requests, stats)


@pytest.mark.parametrize("memory", [name for name in SPECS if name != "hmc1_4gb"])
def test_commands_add_up_to_what_requests_needed(memory):
    spec = SPECS[memory]
    policy = POLICIES["ramulator2" if "2rank" not in memory else "dramsim3"]
    stats = simulate(spec, policy, make_trace(spec, "RM", 5000), is_logging=True)
    names = np.array(COMMANDS)[stats.log["command"]]
    assert {name: int((names == name).sum()) for name in COMMANDS} == stats.commands
    served = stats.commands["RD"] + stats.commands["WR"]
    assert served + stats.forwarded + stats.merged == 5000
    assert stats.row_hits + stats.row_misses + stats.row_conflicts == served
    assert sum(stats.limits.values()) == pytest.approx(1, abs=1e-12)


BOTH = [
    ("hbm2_2000", "ramulator2"),
    ("hbm2_2000_legacy", "dramsim3"),
    ("hmc1_4gb", "dramsim3_links"),
]


def issue_in_turn(controller, rng, count, batch=64, depth=3):
    """Keep `depth` batches in flight, each new one when one is complete; returns all requests."""
    burst = controller.spec.organisation.burst_bytes
    parts, flying, now = [], [], 0
    while len(parts) < count or flying:
        while len(parts) < count and len(flying) < depth:
            places = rng.integers(0, 1 << 25) // batch * batch * burst + np.arange(batch) * burst
            arrivals = np.full(batch, float(now))
            parts.append(trace(places, rng.random() < 0.3, arrivals))
            flying.append(controller.submit(parts[-1]))
        now = controller.advance_to(now + int(rng.integers(1, 400)))
        flying = [b for b in flying if not 0 <= controller.completion(b) <= now]
    return trace(
        np.concatenate([part.address for part in parts]),
        np.concatenate([part.is_write for part in parts]),
        np.concatenate([part.arrival_cycles for part in parts]),
    )


@pytest.mark.parametrize(("memory", "policy"), BOTH)
def test_requests_that_wait_for_others_see_what_they_would_in_one_run(memory, policy):
    # When the last batch is known, so are all arrivals: a single run must give the same.
    controller = Controller(SPECS[memory], POLICIES[policy], is_logging=True)
    requests = issue_in_turn(controller, np.random.default_rng(3), 120)
    end = int(requests.arrival_cycles[-1])  # then posted writes go that nobody waits for
    controller.finish()
    found = controller.stats()
    expected = simulate(SPECS[memory], POLICIES[policy], requests, is_logging=True)
    assert len(set(requests.arrival_cycles.tolist())) > 100
    np.testing.assert_array_equal(found.accepted, expected.accepted)
    np.testing.assert_array_equal(found.completed, expected.completed)
    logs = [stats.log[stats.log["tick"] <= end] for stats in (found, expected)]
    assert logs[0].size > requests.address.size
    np.testing.assert_array_equal(*logs)


def test_time_stops_where_a_batch_is_complete_and_goes_on_from_there():
    policy = replace(POLICIES["ramulator2"], refresh="none")
    controller = Controller(SPECS["hbm2_2000"], policy)
    one = controller.submit(trace([0, 256]))  # of one channel: ACT 1, RD 16 and 18
    two = controller.submit(trace([32], arrival_cycles=[40]))
    assert controller.completion(one) == -1
    assert controller.advance_to(10) == 10
    assert controller.advance_to(1000) == controller.completion(one) == 18 - 1 + 16
    assert controller.advance_to(35) == 35
    assert controller.advance_to(1000) == controller.completion(two) == 40 + 15 + 16
    assert controller.advance_to(1000) == 1000
    assert controller.waiting == 0
    with pytest.raises(ValueError, match="no request"):
        controller.completion(range(3, 3))


@pytest.mark.parametrize(("memory", "policy"), BOTH)
def test_requests_that_are_over_can_be_forgotten(memory, policy):
    spec = SPECS[memory]
    whole = make_trace(spec, "RM", 30_000, load=0.15)
    expected = simulate(spec, POLICIES[policy], whole, is_logging=True)
    controller = Controller(spec, POLICIES[policy], is_logging=True)
    for start in range(0, 30_000, 1000):
        part = slice(start, start + 1000)
        numbers = controller.submit(
            trace(whole.address[part], whole.is_write[part], whole.arrival_cycles[part])
        )
        controller.advance(int(whole.arrival_cycles[part][-1]) - 1)
        controller.release(numbers.start)
    controller.finish()
    first = controller.released
    assert first > 20_000
    found = controller.stats()
    np.testing.assert_array_equal(found.completed, expected.completed[first:])
    np.testing.assert_array_equal(found.log, expected.log)
    np.testing.assert_array_equal(controller.completed(numbers), expected.completed[29_000:])
    assert found.commands == expected.commands
    with pytest.raises(ValueError, match="are released"):
        controller.completed(range(first))


@pytest.mark.parametrize(("memory", "policy"), BOTH)
def test_time_may_pass_in_pieces_and_requests_come_in_batches(memory, policy):
    spec = SPECS[memory]
    whole = make_trace(spec, "MIX", 3000, load=0.6)
    expected = simulate(spec, POLICIES[policy], whole, is_logging=True)
    controller = Controller(spec, POLICIES[policy], is_logging=True)
    for start in range(0, 3000, 700):
        part = slice(start, start + 700)
        numbers = controller.submit(
            trace(whole.address[part], whole.is_write[part], whole.arrival_cycles[part])
        )
        last = int(np.ceil(whole.arrival_cycles[part][-1]))
        while controller.clock < last - 1:
            controller.advance(min(last - 1, controller.clock + 37))
    assert numbers == range(2800, 3000)
    controller.finish()
    found = controller.stats()
    np.testing.assert_array_equal(found.completed, expected.completed)
    np.testing.assert_array_equal(found.log, expected.log)
    np.testing.assert_array_equal(controller.completed(numbers), expected.completed[2800:])


@pytest.mark.parametrize(
    ("memory", "policy"),
    [
        ("hbm2_2000", "ramulator2"),
        ("hbm2_2000", "ramulator2_per_bank"),
        ("hbm2_2000", "ramulator2_closed"),
        ("ddr4_3200", "ramulator2"),
        ("ddr4_3200_2rank", "dramsim3"),
        ("hbm2_2000_legacy", "dramsim3"),
        ("hmc1_4gb", "dramsim3_links"),
    ],
)
@pytest.mark.parametrize(("name", "load"), [("RM", None), ("MIX", 0.4), ("RM", 0.05)])
def test_skipping_idle_ticks_changes_nothing(memory, policy, name, load):
    spec = SPECS[memory]
    requests = make_trace(spec, name, 1500, load=load)
    results = []
    for is_every_tick in (False, True):
        controller = Controller(
            spec, POLICIES[policy], is_logging=True, is_every_tick=is_every_tick
        )
        controller.submit(requests)
        controller.finish()
        results.append(controller.stats())
    np.testing.assert_array_equal(results[0].log, results[1].log)
    np.testing.assert_array_equal(results[0].completed, results[1].completed)


@pytest.mark.parametrize(("name", "load"), [("RM", 0.4), ("RR", 0.2)])
def test_skipping_idle_ticks_changes_nothing_where_a_second_half_comes_before_a_read(name, load):
    # The write clock of a read that may go has run out when a second half must: both wait for it.
    spec = memory("lpddr5_6400")
    soon = replace(spec.timings["tAAD"], cycles=3)
    spec = replace(spec, timings={**spec.timings, "tAAD": soon})
    logs = []
    for is_every_tick in (False, True):
        controller = Controller(
            spec, POLICIES["ramulator2"], is_logging=True, is_every_tick=is_every_tick
        )
        controller.submit(make_trace(spec, name, 1500, load=load))
        controller.finish()
        logs.append(controller.stats().log)
    np.testing.assert_array_equal(*logs)


@pytest.mark.parametrize(
    ("name", "gap", "together"),
    [
        # 3,900 cycles over 32 banks of the channel, 6,240 of two ticks over 32 of each half
        ("hbm2_2000", 122, [0]),
        ("hbm3_6400", 390, [0, 32]),
    ],
)
def test_banks_are_refreshed_in_turn_the_same_of_two_halves_together(name, gap, together):
    spec, policy = memory(name), POLICIES["ramulator2_per_bank"]
    controller = Controller(spec, policy, is_logging=True)
    controller.rest(5 * gap)
    log = controller.stats().log
    mine = log[log["channel"] == 0]
    assert {COMMANDS[one] for one in mine["command"]} == {"REFpb"}
    turns = np.arange(mine.size) // len(together)
    np.testing.assert_array_equal(mine["bank"], turns + np.resize(together, mine.size))
    late = mine["tick"] - gap * (turns + 1)
    assert late.min() >= 0
    assert late.max() <= 4  # REF at the next rising edge, of the other half at the one after


def test_one_read_of_an_idle_memory_takes_activate_read_latency_and_a_cycle():
    # Offered in cycle 0, ACT at 1, RD after tRCD + 1 for the ACT of two cycles, data after
    # tCL + tBL, handed over in the cycle before the tick that delivers them.
    spec = SPECS["hbm2_2000"]
    policy = replace(POLICIES["ramulator2"], refresh="none")
    stats = simulate(spec, policy, trace([0, 0], arrival_cycles=[0, 100]), is_logging=True)
    log = [(COMMANDS[entry["command"]], int(entry["tick"])) for entry in stats.log]
    assert log == [("ACT", 1), ("RD", 16), ("RD", 101)]
    assert (stats.completed - stats.accepted).tolist() == [15 + 16, 16]
    assert (stats.row_misses, stats.row_hits, stats.row_conflicts) == (1, 1, 0)


@pytest.mark.parametrize(
    ("name", "cycles"),
    [
        ("hbm2_2000_legacy", 31),
        ("hbm1_1000", 17),
        ("ddr4_3200_2rank", 49),
        ("lpddr4_2400_2rank", 41),
    ],
)
def test_one_read_through_queues_of_banks_takes_what_the_reference_counts(name, cycles):
    # DRAMsim3: in the queue of its bank at once, ACT a cycle later, then tRCD, tCL and tBL.
    policy = replace(POLICIES["dramsim3"], refresh="none")
    stats = simulate(memory(name), policy, trace(0))
    assert (stats.completed - stats.accepted).tolist() == [cycles]


def test_a_write_waits_for_the_read_before_it_even_when_writes_are_drained():
    # 40 writes follow a read of the same burst at once: the drain begins, but not with that burst.
    spec = SPECS["ddr4_3200"]
    policy = replace(POLICIES["ramulator2"], refresh="none")
    row = spec.organisation.capacity_bytes // spec.organisation.rows
    places = [row, 0, *(row * 2 + 4096 * i for i in range(40))]
    requests = trace([0, *places], [False, False] + [True] * 41)
    stats = simulate(spec, policy, requests, offers=64, is_logging=True)
    ticks = issued(stats)
    assert ticks[2] > ticks[0]
    check_order(spec, requests, stats)


def test_writes_that_fill_their_queue_let_the_read_go_that_the_first_of_them_waits_for():
    spec, policy = SPECS["hbm2_2000_legacy"], POLICIES["dramsim3"]
    channel = spec.organisation.channels * spec.organisation.burst_bytes
    places = [0, *(channel * 64 * i for i in range(policy.write_queue))]
    requests = trace(places, [False] + [True] * policy.write_queue)
    controller = Controller(spec, policy, offers=64, is_logging=True)
    controller.submit(requests)
    controller.advance(20_000)
    assert controller.waiting <= policy.idle_writes
    controller.finish()
    check_order(spec, requests, controller.stats())


@pytest.mark.parametrize(
    ("arguments", "problem"),
    [
        (([-64],), "none below 0"),
        (([0, 64], False, [5, 3]), "do not fall"),
        (([0], False, [-1.0]), "none below 0"),
        (([0, 64], False, [0, float("nan")]), "finite"),
    ],
)
def test_requests_that_cannot_be_are_refused(arguments, problem):
    with pytest.raises(ValueError, match=problem):
        trace(*arguments)


def test_a_batch_from_the_past_is_refused():
    controller = Controller(SPECS["ddr4_3200"], POLICIES["ramulator2"])
    controller.submit(trace([0], arrival_cycles=[10]))
    with pytest.raises(ValueError, match="found 9 after 10"):
        controller.submit(trace([0], arrival_cycles=[9]))
