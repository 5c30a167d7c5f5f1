"""Utterances that arrive over time: queueing against recursions and closed forms."""

import heapq
import math
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hwmodels.arrivals import FEMTO, Task, edge, idle_rows, poisson, serve
from hwmodels.energy import STATIC, EnergyRow

STREAMS = st.lists(st.tuples(st.integers(0, 60), st.integers(1, 30)), min_size=1, max_size=12)


def tasks_of(pairs):
    return [Task(f"u{number}", *pair) for number, pair in enumerate(pairs)]


def recursion(pairs, chips):
    """Return start and end of each task in order of arrival (Kiefer and Wolfowitz 1955)."""
    free = [0] * chips
    found = []
    for arrival, service in sorted(pairs, key=lambda pair: pair[0]):
        start = max(arrival, heapq.heappop(free))
        heapq.heappush(free, start + service)
        found.append((start, start + service))
    return found


def present_area(served):
    """Return the number present integrated over time, by sweeping through arrivals and ends."""
    changes = sorted(
        [(one.task.arrival_fs, 1) for one in served] + [(one.end_fs, -1) for one in served]
    )
    area = present = last = 0
    for time, change in changes:
        area += present * (time - last)
        present, last = present + change, time
    return area


def test_two_chips_share_one_queue_by_hand():
    found = serve(tasks_of([(0, 10), (2, 3), (3, 4), (4, 1), (30, 5)]), chips=2)
    log = [(one.task.name, one.chip, one.start_fs, one.end_fs) for one in found.served]
    assert log == [
        ("u0", 0, 0, 10),
        ("u1", 1, 2, 5),
        ("u2", 1, 5, 9),
        ("u3", 1, 9, 10),
        ("u4", 0, 30, 35),
    ]
    assert [one.waiting_fs for one in found.served] == [0, 0, 2, 5, 0]
    assert (found.window_fs, found.busy_fs, found.idle_fs) == (35, 23, 47)
    assert found.present_fs == 10 + 3 + 6 + 6 + 5


@settings(max_examples=40, deadline=None)
@given(STREAMS, st.integers(1, 4))
def test_starts_and_ends_are_those_of_the_recursion(pairs, chips):
    found = serve(tasks_of(pairs), chips=chips)
    assert [(one.start_fs, one.end_fs) for one in found.served] == recursion(pairs, chips)


@settings(max_examples=40, deadline=None)
@given(STREAMS, st.integers(1, 4))
def test_work_and_time_balance(pairs, chips):
    found = serve(tasks_of(pairs), chips=chips)
    assert found.busy_fs == sum(service for _, service in pairs)
    assert found.busy_fs + found.idle_fs == chips * found.window_fs
    assert found.present_fs == present_area(found.served)
    assert found.present_fs == sum(one.response_fs for one in found.served)
    for chip in range(chips):  # never two at once
        spans = sorted((one.start_fs, one.end_fs) for one in found.served if one.chip == chip)
        assert all(first[1] <= second[0] for first, second in pairwise(spans))
    for one in found.served:  # nobody waits while a chip is free
        working = {
            other.chip
            for other in found.served
            if other.start_fs < one.start_fs and other.end_fs >= one.start_fs
        }
        assert one.waiting_fs == 0 or len(working) == chips


@settings(max_examples=30, deadline=None)
@given(STREAMS, st.integers(1, 3))
def test_one_more_chip_lets_nobody_wait_longer(pairs, chips):
    few, many = (serve(tasks_of(pairs), chips=number).served for number in (chips, chips + 1))
    assert all(a.waiting_fs >= b.waiting_fs for a, b in zip(few, many, strict=True))


def test_a_batch_is_served_in_its_order():
    services = (5, 1, 9, 2)
    found = serve([Task(f"u{index}", 0, fs) for index, fs in enumerate(services)])
    assert [one.task.name for one in found.served] == ["u0", "u1", "u2", "u3"]
    assert [one.waiting_fs for one in found.served] == [0, 5, 6, 15]
    assert found.window_fs == sum(services)
    assert found.utilization == 1


@pytest.mark.parametrize("gap", [7, 10])
def test_regular_arrivals_that_one_chip_keeps_up_with_never_wait(gap):
    """D/D/1 with load 1 at most: busy 7 of every `gap`."""
    found = serve([Task(f"u{index}", gap * index, 7) for index in range(50)])
    assert found.waiting.max == 0
    assert found.window_fs == 49 * gap + 7
    assert found.busy_fs == 350


def test_regular_arrivals_beyond_the_load_wait_ever_longer():
    """D/D/1 overloaded: the i-th waits i times what each is late."""
    found = serve([Task(f"u{index}", 5 * index, 7) for index in range(50)])
    assert [one.waiting_fs for one in found.served] == [2 * index for index in range(50)]


def interval_of(cycles):
    """Return mean wait and standard error from (tasks, summed wait) of independent busy cycles.

    The ratio estimator of regenerative simulation (Crane and Lemoine 1977).
    """
    counts, waits = np.array(cycles, dtype=float).T
    mean = waits.sum() / counts.sum()
    spread = np.std(waits - mean * counts, ddof=1)
    return mean, spread / (counts.mean() * math.sqrt(len(counts)))


def busy_cycles(served):
    """Return (tasks, summed wait) of each time between two arrivals that find all chips idle."""
    cycles, end_fs = [], 0
    for one in served:
        if one.task.arrival_fs >= end_fs:
            cycles.append([0, 0.0])
        end_fs = max(end_fs, one.end_fs)
        cycles[-1][0] += 1
        cycles[-1][1] += one.waiting_fs / FEMTO
    return cycles


def pollaczek_khinchine(rate_hz, services_s):
    """Return the mean wait of M/G/1 in seconds; services are equally likely."""
    load = rate_hz * sum(services_s) / len(services_s)
    square = sum(one * one for one in services_s) / len(services_s)
    return rate_hz * square / (2 * (1 - load))


def crommelin(load, chips):
    """Return the mean wait of M/D/c in services (Crommelin 1932): a sum over Poisson tails."""

    def tail(mean, least):
        term, total = math.exp(-mean), 0.0
        for number in range(least):
            total += term
            term *= mean / (number + 1)
        return 1 - total

    return sum(
        tail(i * chips * load, i * chips) - tail(i * chips * load, i * chips + 1) / load
        for i in range(1, 400)
    )


@pytest.mark.parametrize(
    ("services_s", "chips", "expected_s"),
    [
        ((0.7,), 1, pollaczek_khinchine(1.0, (0.7,))),
        ((0.2, 1.2), 1, pollaczek_khinchine(1.0, (0.2, 1.2))),
        ((1.4,), 2, 1.4 * crommelin(0.7, 2)),
    ],
)
def test_random_arrivals_wait_as_closed_forms_say(services_s, chips, expected_s):
    """M/D/1, M/G/1 and M/D/2 at a load of 0.7, within 3.5 standard errors."""
    generator = np.random.default_rng(11)
    number = 12_000
    times = poisson(number, 1.0, generator=generator, period_fs=10**6)
    drawn = generator.integers(len(services_s), size=number)
    services = [round(services_s[index] * FEMTO) for index in drawn]
    tasks = [Task("u", *pair) for pair in zip(times, services, strict=True)]
    found = serve(tasks, chips=chips)
    mean, error = interval_of(busy_cycles(found.served))
    assert error < 0.1 * expected_s
    assert abs(mean - expected_s) < 3.5 * error
    assert math.isclose(found.waiting.mean, mean)
    assert abs(found.utilization - 0.7) < 0.02
    little = found.throughput_hz * found.response.mean
    assert math.isclose(found.mean_present, little, rel_tol=1e-12)


def test_the_closed_forms_agree_where_both_hold():
    for load in (0.1, 0.5, 0.7):
        assert math.isclose(crommelin(load, 1), pollaczek_khinchine(load, (1.0,)), rel_tol=1e-6)


def test_poisson_times_are_edges_in_order_with_exponential_gaps():
    period_fs = 952_381
    times = poisson(4000, 8.0, generator=np.random.default_rng(1), period_fs=period_fs)
    assert all(time % period_fs == 0 for time in times)
    gaps = np.diff([0, *times]) / FEMTO
    assert (gaps >= 0).all()
    # mean and standard deviation of exponential gaps are equal; five standard errors
    assert abs(gaps.mean() * 8 - 1) < 5 / math.sqrt(4000)
    assert abs(gaps.std() * 8 - 1) < 5 * math.sqrt(2 / 4000)


def test_a_higher_rate_brings_the_same_stream_sooner():
    slow, fast = (poisson(200, rate, generator=np.random.default_rng(5)) for rate in (0.5, 2.0))
    assert all(abs(a - 4 * b) <= 4 * 200 for a, b in zip(slow, fast, strict=True))
    assert slow == poisson(200, 0.5, generator=np.random.default_rng(5))


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 10**6), st.integers(1, 10**4))
def test_an_edge_is_the_first_multiple_of_the_period(time, period):
    assert edge(time, period) == period * math.ceil(time / period)


def rows(*actions):
    return [
        EnergyRow(component, action, 100, 2.0, 1.0, 4.0, "assumed", "table")
        for component, action in actions
    ]


def test_an_idle_chip_pays_its_static_rows_and_nothing_else():
    found = idle_rows(rows(("array", "mac_i8xi8"), *STATIC, ("memory", "read_bit")), 7)
    assert [(row.component, row.action) for row in found] == list(STATIC)
    assert [row.energy_j for row in found] == [14.0] * len(STATIC)
    assert sum(row.energy_low_j for row in found) == 7.0 * len(STATIC)


def test_a_ledger_without_each_static_action_once_is_refused():
    with pytest.raises(ValueError, match="memory background: found 0 rows") as told:
        idle_rows(rows(*STATIC[:-1], STATIC[0]), 7)
    assert f"{' '.join(STATIC[0])}: found 2 rows" in str(told.value)


def test_all_mistakes_of_a_stream_are_told_at_once():
    with pytest.raises(ValueError, match="u0: arrival_fs: found -1") as told:
        serve([Task("u0", -1, 0)], chips=0)
    text = str(told.value)
    assert "u0: service_fs: found 0, expected 1 or more" in text
    assert "chips: found 0, expected 1 or more" in text
    with pytest.raises(ValueError, match="tasks: found none"):
        serve([])


@pytest.mark.parametrize("rate", [0.0, -1.0, 1e-300, math.inf, math.nan])
def test_a_rate_that_is_none_is_refused(rate):
    with pytest.raises(ValueError, match="rate_hz: found"):
        poisson(3, rate, generator=np.random.default_rng(0))
