"""hwmodels.alike: a machine that goes past what it knows does what one that runs all of it does."""

from dataclasses import replace

import pytest
from hw_samples import feed_forward, gemm, tensor, vector
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

from hwmodels.alike import Passages, can_repeat, run_alike
from hwmodels.dataflow import DATAFLOWS
from hwmodels.layout import place
from hwmodels.machine import run
from hwmodels.memory import RequesterStats
from hwmodels.pattern import Patterns, setting
from hwmodels.simulate import Reuse, plan_workload, simulate_calls
from hwmodels.workload import Transfer, Workload


def layers(number, d, h, *, past=0, m=1):
    """Return so many layers of equal shape: a cache that grows, its product, two linear layers."""
    x = tensor("x", "input", (m, d), 32)
    items = []
    for layer in range(number):

        def made(name, *shape, bits=8, layer=layer):
            return tensor(f"{layer}.{name}", "activation", shape, bits)

        def weights(name, *shape, layer=layer):
            return tensor(f"{layer}.{name}", "constant", shape)

        q, s = made("q", m, d), made("s", m, bits=32)
        rows = past + m
        new, scores = made("new", m, d, bits=32), made("scores", m, rows, bits=32)
        room = (past // 64 + 1) * 64 * d * 32
        cache = tensor(f"{layer}.cache", "state", (rows, d), 32, reserved_bits=room)
        kept = made("keys", rows, d)
        up, uq, us = made("up", m, h, bits=32), made("uq", m, h), made("us", m, bits=32)
        down = made("down", m, d, bits=32)
        is_last = layer + 1 == number
        y = tensor("y", "output", (m, d), 32) if is_last else made("out", m, d, bits=32)
        items += [
            vector(f"{layer}.quantize", "dynamic_quantize_row", (x,), (q, s)),
            gemm(f"{layer}.new", m, d, d, a=q, w=weights("k", d, d), result=new),
            Transfer(f"{layer}.append", "cache", (new,), (cache,), new.size_bytes, new.size_bytes),
            vector(f"{layer}.keys", "quantize", (cache,), (kept,)),
            gemm(f"{layer}.scores", m, rows, d, a=q, w=kept, result=scores),
            vector(f"{layer}.softmax", "softmax", (scores,), (scores,)),
            gemm(f"{layer}.up", m, h, d, a=q, w=weights("up", h, d), result=up),
            vector(f"{layer}.gelu", "gelu", (up,), (up,), is_fused=True),
            vector(f"{layer}.again", "dynamic_quantize_row", (up,), (uq, us)),
            gemm(f"{layer}.down", m, d, h, a=uq, w=weights("down", d, h), result=down),
            vector(f"{layer}.add", "add", (down, x), (y,)),
        ]
        x = y
    return Workload(f"past {past}", tuple(items))


def planned(workload, chip, memory):
    (layout,) = place([workload], chip, memory)
    patterns = Patterns(setting(chip, memory))
    return plan_workload(workload, chip, patterns=patterns, layout=layout), patterns


def both(calls, chip, memory, table):
    """Return the results of calls with everything run, and with what is known gone past."""
    return [
        simulate_calls(calls, chip, technology=memory, energy=table, reuse=reuse)
        for reuse in (None, Reuse())
    ]


@given(
    shape=st.tuples(st.integers(1, 4), st.integers(1, 9), st.integers(1, 14)),
    m=st.sampled_from([1, 1, 3]),
    past=st.integers(0, 5),
    flow=st.sampled_from(sorted(DATAFLOWS)),
    schedule=st.sampled_from(["serial", "double_buffered"]),
    size=st.sampled_from([128, 256, 700, 4096]),
    port=st.sampled_from([None, 1, 3, 16]),
    vector_clock_hz=st.sampled_from([1e9, 7e8]),
    bandwidth=st.sampled_from([None, 1e9, 13e9]),
    latency=st.sampled_from([0.0, 3.3e-9, 40e-9]),
    burst=st.sampled_from([1, 16]),
)
@settings(
    max_examples=30, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
def test_groups_gone_past_take_what_they_take_when_run(
    make_chip, make_memory, table, shape, m, past, flow, schedule, size, port, **more
):
    chip = make_chip(
        2,
        3,
        schedule,
        dataflow=flow,
        size=size,
        port=port,
        vector_clock_hz=more["vector_clock_hz"],
        fallback=True,
        channels=2,
    )
    memory = make_memory(
        channels=2, bandwidth=more["bandwidth"], latency=more["latency"], burst=more["burst"]
    )
    calls = [layers(*shape, past=past + step, m=m) for step in range(3)] + [feed_forward()]
    try:
        run_all, known = both(calls, chip, memory, table)
    except ValueError:  # too small a buffer for these
        assume(False)
    assert known == run_all


def test_layers_after_the_second_are_gone_past_but_for_the_last(make_chip, make_memory):
    chip, memory = make_chip(port=4, size=512), make_memory(burst=16)
    runs = []
    for number in (6, 12):
        plan, patterns = planned(layers(number, 8, 16), chip, memory)
        passages = Passages()
        channels = patterns.setting.channels
        known = run_alike(plan, chip, channels, passages)
        whole = run([plan], chip, channels)
        assert known.timelines[0].cycles == whole.timelines[0].cycles
        assert (known.memory, known.events) == (whole.memory, whole.events)
        assert passages.hits + passages.misses == len(plan.groups)
        runs.append((passages.misses, len(plan.groups)))
    (misses, _), (again, groups) = runs
    assert again == misses < groups / 2  # six more layers, none of which had to run


def test_an_equal_plan_is_gone_past_whole(make_chip, make_memory):
    chip, memory = make_chip(), make_memory()
    plan, patterns = planned(feed_forward(), chip, memory)
    passages = Passages()
    first = run_alike(plan, chip, patterns.setting.channels, passages)
    second = run_alike(plan, chip, patterns.setting.channels, passages)
    assert (passages.hits, passages.misses) == (len(plan.groups), len(plan.groups))
    assert second == first


def test_what_is_served_is_counted_by_requester(make_chip, make_memory):
    chip, memory = make_chip(), make_memory()
    plan, patterns = planned(Workload("one", (gemm("one", 4, 4, 4),)), chip, memory)
    passages = Passages()
    for _ in range(2):
        found = run_alike(plan, chip, patterns.setting.channels, passages).memory
    assert set(found) == {"input", "weight", "output"}
    assert all(set(one) == set(vars(RequesterStats())) for one in found.values())
    reads = {name: one["read_bytes"] for name, one in found.items()}
    assert reads == {"input": 16, "weight": 16, "output": 0}
    assert found["output"]["write_bytes"] == 64


@pytest.mark.parametrize(
    "memory",
    [{"arbitration": "priority"}, {"prefetch": 2}, {"fidelity": "exact"}],
)
def test_memories_that_look_further_back_run_everything(make_chip, memory):
    chip = make_chip()
    assert can_repeat(chip)
    assert not can_repeat(replace(chip, memory=replace(chip.memory, **memory)))
