"""Links before a memory cube: one packet by hand, what they carry at most, and who is refused."""

from dataclasses import replace

import numpy as np
import pytest
from dram_traces import make_trace, memory

from hwmodels.dram.controller import simulate, trace
from hwmodels.dram.policy import POLICIES, check
from hwmodels.dram.problems import SpecError

CUBE = memory("hmc1_4gb")
LINKED = replace(POLICIES["dramsim3_links"], refresh="none")
VAULTS = replace(POLICIES["dramsim3_closed"], refresh="none")


def test_one_read_crosses_there_waits_for_its_row_and_crosses_back():
    # Flits of 533 ps, ticks of 800 ps. Step 0: to the quadrant with one flit, there at step 1,
    # 533 ps, in tick 0: in the vault at tick 1. ACT 2, RD 2 + 17, data 25 later: tick 44, 35,200
    # ps. Step 67, 35,711 ps, crosses back with five flits: step 72, 38,376 ps, lies in tick 47.
    stats = simulate(CUBE, LINKED, trace(0))
    assert stats.accepted.tolist() == [0]
    assert stats.completed.tolist() == [48]


def test_one_write_crosses_with_its_data_and_is_answered_with_a_flit():
    # Five flits there: step 5, 2665 ps, tick 3, in the vault at tick 4, which answers at tick 5,
    # 4000 ps. Step 8, 4264 ps, crosses back with one flit: step 9, 4797 ps, lies in tick 5.
    stats = simulate(CUBE, LINKED, trace(0, is_write=True))
    assert stats.completed.tolist() == [6]


def test_a_quadrant_takes_no_more_answers_than_its_links_have_flits_for():
    # A link is held for half as many steps as a packet has flits: 3 steps for 64 bytes.
    slow = replace(CUBE, links=replace(CUBE.links, flit_ps=800))
    stats = simulate(slow, LINKED, make_trace(CUBE, "RR", 4000))
    least = 4000 / 4 * 3
    assert least < stats.completed.max() < 2 * least  # others wait behind a packet that waits


def test_links_that_cost_nothing_leave_what_the_vaults_do():
    fast = replace(CUBE.links, count=8, quadrants=8, queue=64, flit_ps=1)
    requests = make_trace(CUBE, "RM", 4000, load=0.2)
    linked = simulate(replace(CUBE, links=fast), LINKED, requests)
    direct = simulate(CUBE, VAULTS, requests)
    longer = linked.completed - direct.completed
    assert 0 < np.median(longer) <= 3
    assert linked.commands == direct.commands


def test_a_request_does_not_pass_one_to_its_address_on_another_link():
    stats = simulate(CUBE, LINKED, trace([0, 0, 64], [True, False, False]), is_logging=True)
    assert stats.accepted[0] == 0
    assert stats.accepted[1] == stats.accepted[2] == 4  # the write is in its vault at tick 4
    assert stats.forwarded == 1
    reads = simulate(CUBE, LINKED, trace([0, 0, 64]))
    assert reads.accepted.tolist() == [0, 0, 0]


def test_links_that_are_not_there_or_cannot_be_are_refused():
    with pytest.raises(SpecError, match='front: found "links", but hbm1_1000 states none'):
        check(memory("hbm1_1000"), LINKED)
    with pytest.raises(SpecError, match="only bank_queues know them"):
        check(CUBE, replace(POLICIES["ramulator2"], front="links"))
    wrong = replace(CUBE.links, source="d4", count=9, queue=0, flit_ps=900)
    with pytest.raises(SpecError) as caught:
        replace(CUBE, links=wrong)
    for part in ('links.source: unknown source "d4"', "links.count: found 9", "links.queue"):
        assert part in str(caught.value)
    assert "links.flit_ps: found 900, expected 1 to clock_ps, 800" in str(caught.value)
