"""hwmodels.planned: calls of one sequence that share groups do what each does planned by itself."""

from dataclasses import replace
from unittest.mock import patch

import pytest
from hw_samples import feed_forward, gemm, tensor, vector
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from hwmodels.architecture import MappingChoice
from hwmodels.division import divide
from hwmodels.layout import place
from hwmodels.pattern import Patterns, setting
from hwmodels.planned import PlannedGroups
from hwmodels.simulate import plan_cores, simulate_calls
from hwmodels.stats import combine
from hwmodels.workload import Transfer, Workload

D = 8


def step(past, *, d=D):
    """Return a decoding step: a projection, attention to a growing cache, and a feed-forward."""
    x, q = tensor("x", "input", (1, d)), tensor("q", "activation", (1, d))
    cache = tensor("cache", "state", (past + 1, d), reserved_bits=16 * d * 8)
    scores = tensor("scores", "activation", (1, past + 1), 32)
    p, c = tensor("p", "activation", (1, past + 1)), tensor("c", "activation", (1, d))
    h, out = tensor("h", "activation", (1, d)), tensor("out", "output", (1, d), 32)
    return Workload(
        f"step {past}",
        (
            gemm("q", 1, d, d, a=x, w=tensor("q.w", "constant", (d, d)), result=q),
            Transfer("append", "cache", (q,), (cache,), d, d),
            gemm("scores", 1, past + 1, d, a=q, w=cache, result=scores),
            vector("softmax", "softmax", (scores,), (p,)),
            gemm("context", 1, d, past + 1, a=p, w=cache, result=c),
            gemm("up", 1, d, d, a=c, w=tensor("up.w", "constant", (d, d)), result=h),
            gemm("down", 1, d, d, a=h, w=tensor("down.w", "constant", (d, d)), result=out),
            vector("residual", "add", (out, x), (out,), is_fused=True),
        ),
    )


@given(
    size=st.sampled_from([96, 160, 256, 512, 4096]),
    output=st.sampled_from([64, 256]),
    widths=st.lists(st.integers(0, 7), min_size=2, max_size=6),
    fusion=st.sampled_from(["chunks", "marked"]),
    rate=st.sampled_from([None, 1e9, 8e9]),
    call=st.sampled_from([step, lambda past: feed_forward(past + 1)]),
)
@settings(
    max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
def test_groups_planned_before_change_nothing(
    make_chip, make_memory, table, size, output, widths, fusion, rate, call
):
    chip = replace(make_chip(size=size, output_size=output), mapping=MappingChoice(fusion=fusion))
    calls = [call(past) for past in widths]
    parts = {"technology": make_memory(bandwidth=rate), "energy": table}
    shared = simulate_calls(calls, chip, **parts)
    with patch.object(PlannedGroups, "find", lambda _self, _key, _pools: None):
        alone = simulate_calls(calls, chip, **parts)
    assert shared == alone
    assert combine(shared, name="all") == combine(alone, name="all")


def test_a_step_plans_only_what_depends_on_the_past(make_chip, make_memory):
    # The third step finds the chip as the second left it, with all constants on chip. Anew: what
    # touches the cache, and what lies between.
    chip, memory = make_chip(size=4096), make_memory()
    chip = replace(chip, mapping=MappingChoice(fusion="marked"))
    calls = [step(past) for past in range(4)]
    patterns, planned, kept = Patterns(setting(chip, memory)), PlannedGroups(), ()
    anew = []
    for call, layout in zip(calls, place(calls, chip, memory), strict=True):
        before = planned.misses
        (plan,) = plan_cores(
            call,
            divide(call, count=1, split="columns"),
            chip,
            patterns=patterns,
            layout=layout,
            kept=(kept,),
            planned=planned,
        )
        kept = plan.kept
        anew.append(planned.misses - before)
    assert [len(plan.groups), *anew] == [7, 7, 7, 4, 4]
    assert dict(plan.kept) == {"q.w": D * D, "up.w": D * D, "down.w": D * D}


def test_a_call_that_comes_again_is_the_same_plan(make_chip, make_memory):
    # Small buffers: constants take turns, so the chip is in the same state from the second call on.
    # The first group, too, which claims room: its input is loaded as early as there is some.
    chip, memory = make_chip(size=256), make_memory()
    call = step(3)
    patterns, planned, kept, plans = Patterns(setting(chip, memory)), PlannedGroups(), (), []
    for layout in place([call] * 4, chip, memory):
        (plan,) = plan_cores(
            call,
            divide(call, count=1, split="columns"),
            chip,
            patterns=patterns,
            layout=layout,
            kept=(kept,),
            planned=planned,
        )
        kept = plan.kept
        plans.append(plan)
    before, after = plans[2].groups, plans[3].groups
    assert all(one is two for one, two in zip(before, after, strict=True))
    assert plans[2].tallies == plans[3].tallies


@pytest.mark.parametrize("is_reversed", [False, True])
def test_an_equal_op_follows_only_where_what_it_reads_is_not_read_again(
    make_chip, make_memory, is_reversed
):
    # Rows of 16 results on 8 cells: whole ones are worth it only if the products stay on chip.
    y, p = tensor("y", "activation", (8, 16), 32), tensor("p", "output", (8, 16), 32)
    items = (gemm("g", 8, 16, 64, result=y), vector("softmax", "softmax", (y,), (p,)))
    last = tensor("last", "output", (8, 16), 32)
    calls = [
        Workload("once", items),
        Workload("twice", (*items, vector("again", "gelu", (y,), (last,)))),
    ]
    chip, memory = make_chip(4, 4, size=1024, output_size=512), make_memory(bandwidth=1e9)
    chip = replace(chip, mapping=MappingChoice(fusion="chunks"))
    patterns, found = Patterns(setting(chip, memory)), {}
    for call in reversed(calls) if is_reversed else calls:
        (layout,) = place([call], chip, memory)
        whole = divide(call, count=1, split="columns")
        (plan,) = plan_cores(call, whole, chip, patterns=patterns, layout=layout, kept=((),))
        found[call.name] = [group.items for group in plan.groups]
    assert found == {"once": [(0, 1)], "twice": [(0,), (1,), (2,)]}


def test_equal_ops_of_other_names_have_rows_of_their_own(make_chip, make_memory, table):
    work = {name: Workload(name, (gemm(name, 4, D, D),)) for name in "ab"}
    parts = {"technology": make_memory(), "energy": table}
    chip = make_chip(size=4096)
    both = simulate_calls([work["a"], work["b"]], chip, **parts)
    alone = [simulate_calls([work[name]], chip, **parts)[0] for name in "ab"]
    assert both == alone
    assert [run.layers[0].name for run in both] == ["a", "b"]
