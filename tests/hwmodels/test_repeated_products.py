"""hwmodels.repeats: products that repeat the first do to the byte what each does by itself."""

import pytest
from hw_samples import gemm, tensor, vector
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

from hwmodels import gemm_steps
from hwmodels.dataflow import DATAFLOWS
from hwmodels.layout import place
from hwmodels.pattern import Patterns, setting
from hwmodels.repeats import pitches
from hwmodels.simulate import plan_workload, simulate
from hwmodels.workload import Runs, Workload


def descriptor(it):
    return it.base, it.bytes, it.stride, it.rows, it.is_write, it.requester, it.priority


def described(pattern):
    """Return all that a pattern says, with loads by their place in it."""
    places = {}
    steps = []
    for step in pattern.steps:
        for load in step.loads:
            assert load not in places
            places[load] = len(places)
        steps.append(
            (
                [
                    (
                        one.port,
                        one.source,
                        *descriptor(one.descriptor),
                        one.credit_bytes,
                        one.shift_cycles,
                    )
                    for one in step.loads
                ],
                [places[load] for load in step.releases],
                (step.array, step.vector, step.opens_bytes, step.closes_bytes),
                [(one.target, descriptor(one.descriptor)) for one in step.stores],
            )
        )
    by_port = {port: [places[load] for load in found] for port, found in pattern.loads.items()}
    sums = (pattern.dram_read, pattern.loaded, pattern.dram_written, pattern.stores)
    return steps, by_port, sums, pattern.work, pattern.head_cycles, pattern.held


def heads(count, m, n, k, *, runs=None, bias=0, odd_bits=0):
    """Return `count` products with an op behind them that may read a bias and a residual."""
    a = tensor("a", "input", (count, m, k))
    if runs is not None:
        a = tensor("a", "input", (m, count * k), runs=runs)
    y = tensor("y", "activation", (count, m, n), 32)
    product = gemm("product", m, n, k, count=count, a=a, result=y)
    reads = (y, tensor("r", "input", (count, m, n), 32), tensor("b", "constant", (bias or 1,), 32))
    out = tensor("out", "output", (count, m, n), 32, index_bits=8 * odd_bits)
    behind = vector("behind", "add", reads, (out,), elements=count * m * n, is_fused=True)
    return Workload("heads", (product, behind))


def planned(workload, chip, memory):
    (layout,) = place([workload], chip, memory)
    return plan_workload(
        workload, chip, patterns=Patterns(setting(chip, memory)), layout=layout
    ).groups


@given(
    count=st.integers(2, 5),
    m=st.integers(1, 7),
    n=st.integers(1, 7),
    k=st.integers(1, 9),
    bias=st.integers(0, 9),
    odd_bits=st.integers(0, 2),
    burst=st.sampled_from([1, 16]),
    size=st.sampled_from([96, 160, 256, 4096]),
    flow=st.sampled_from(sorted(DATAFLOWS)),
    schedule=st.sampled_from(["serial", "double_buffered"]),
    is_strided=st.booleans(),
)
@settings(
    max_examples=50, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
def test_repeated_steps_are_those_of_every_product(
    make_chip, make_memory, count, m, n, k, bias, odd_bits, burst, size, flow, schedule, is_strided
):
    runs = Runs(k, count * k, k) if is_strided else None
    workload = heads(count, m, n, k, runs=runs, bias=bias, odd_bits=odd_bits)
    chip = make_chip(2, 2, schedule, dataflow=flow, size=size)
    memory = make_memory(channels=2, burst=burst)
    try:
        repeated = planned(workload, chip, memory)
    except ValueError:  # too small a buffer for these
        assume(False)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(gemm_steps, "pitches", lambda *_: None)
        each = planned(workload, chip, memory)
    assert [described(group.pattern) for group in repeated] == [
        described(group.pattern) for group in each
    ]


@pytest.mark.parametrize(("odd_bits", "is_equal"), [(0, True), (1, False)])
def test_products_that_share_a_byte_are_built_one_by_one(
    odd_bits, is_equal, make_chip, make_memory, monkeypatch
):
    found = []

    def noted(kind, block):
        found.append(pitches(kind, block))
        return found[-1]

    monkeypatch.setattr(gemm_steps, "pitches", noted)
    planned(heads(3, 2, 4, 5, odd_bits=odd_bits), make_chip(), make_memory())
    assert found
    assert all((one is not None) == is_equal for one in found)
    if is_equal:  # of a, w, the residual and (kept) the bias; of the sums
        assert found[-1].reads[:3] == (2 * 5, 4 * 5, 2 * 4 * 4)
        assert found[-1].writes == (2 * 4 * 4,)


def test_two_products_take_the_loads_worked_out_by_hand(make_chip, make_memory):
    workload = Workload("two", (gemm("two", 3, 2, 2, count=2),))
    (group,) = planned(workload, make_chip(), make_memory())
    loads = [
        (load.source, *descriptor(load.descriptor)[:2])
        for step in group.pattern.steps
        for load in step.loads
    ]
    assert loads == [(0, 0, 6), (1, 0, 4), (0, 6, 6), (1, 4, 4)]
    stores = [
        descriptor(store.descriptor)[:2] for step in group.pattern.steps for store in step.stores
    ]
    assert stores == [(0, 24), (24, 24)]


def test_sharing_changes_neither_cycles_nor_joules(make_chip, make_memory, table, monkeypatch):
    workload, chip, memory = heads(4, 5, 6, 7), make_chip(size=256, port=3), make_memory(burst=16)
    alike = simulate(workload, chip, technology=memory, energy=table)
    monkeypatch.setattr(gemm_steps, "pitches", lambda *_: None)
    assert simulate(workload, chip, technology=memory, energy=table) == alike
