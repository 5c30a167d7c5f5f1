"""hwmodels.division: what cores compute, keep and exchange of a workload, worked out by hand."""

from dataclasses import replace

import numpy as np
import pytest
from hw_samples import feed_forward, gemm, tensor, vector
from hypothesis import given, settings
from hypothesis import strategies as st

from hwmodels.division import divide
from hwmodels.parts import Part
from hwmodels.workload import Gemm, Nonzero, Transfer, Workload


def attention(heads=4, m=6, depth=8):
    """Scores, softmax and context of a head each; queries lie column by column of heads."""
    q = tensor("q", "activation", (1, m, heads * depth))
    p = tensor("p", "activation", (heads, m, m))
    v = tensor("v", "input", (heads, depth, m))
    return Workload(
        "attention",
        (
            gemm("q", m, heads * depth, 16, result=q),
            gemm("qk", m, m, depth, count=heads, a=q, result=p),
            vector("softmax", "softmax", (p,), (p,)),
            gemm("pv", m, depth, m, count=heads, a=p, w=v),
        ),
    )


def gemms(divided):
    return [item for core in divided.cores for item in core.workload.items if type(item) is Gemm]


@pytest.mark.parametrize("split", ["columns", "heads", "utterances"])
def test_one_core_has_the_workload_itself(split):
    workload = feed_forward()
    (core,) = divide(workload, count=1, split=split).cores
    assert core.workload is workload
    assert core.numbers == tuple(range(len(workload.items)))


def test_columns_are_as_even_as_they_can_be_and_all_activations_are_read():
    workload = Workload("w", (gemm("g", 3, 7, 4),))
    parts = gemms(divide(workload, count=3, split="columns"))
    assert [part.n for part in parts] == [3, 2, 2]
    assert [part.a for part in parts] == [workload.items[0].a] * 3
    assert [part.w.shape for part in parts] == [(12,), (8,), (8,)]
    assert [part.result.shape for part in parts] == [(1, 3, 3), (1, 3, 2), (1, 3, 2)]
    assert len({part.w.id for part in parts}) == 3


def test_heads_take_their_columns_of_what_lies_side_by_side():
    divided = divide(attention(), count=2, split="heads")
    first, second = (core.workload.items[1] for core in divided.cores)
    assert (first.count, second.count) == (2, 2)
    assert (first.a.id, second.a.id) == ("q[columns 0:16 of 32]", "q[columns 16:32 of 32]")
    assert (first.w.id, second.w.id) == ("qk.w[run 0:96 of 192]", "qk.w[run 96:192 of 192]")


def test_heads_of_one_column_are_still_divided_by_head():
    work = Workload("w", (gemm("g", 2, 1, 1, count=2),))
    for part in gemms(divide(work, count=2, split="heads")):
        assert part.result.shape == (2,)
        assert part.result.id.startswith("g.y[run")


def test_heads_exchange_nothing_between_their_products():
    # Each core makes the columns of q that its heads read, and softmax works on rows of one head.
    divided = divide(attention(), count=2, split="heads")
    for core in divided.cores:
        kinds = {ref.id: ref.kind for item in core.workload.items for ref in item.writes}
        assert list(kinds.values()) == ["activation", "activation", "output"]
    assert not divided.waits


def test_columns_of_heads_do_exchange_and_wait_for_all_parts():
    divided = divide(attention(), count=2, split="columns")
    (scores,) = {item.result.kind for item in gemms(divided) if item.name == "qk"}
    assert scores == "output"  # softmax needs whole rows, of which each core has half
    assert divided.waits["q"] == ("q[columns 0:16 of 32]", "q[columns 16:32 of 32]")


def test_epilogues_stay_with_the_columns_of_their_product():
    divided = divide(feed_forward(), count=4, split="columns")
    for core in divided.cores:
        items = core.workload.items
        up = next(i for i, item in enumerate(items) if item.name == "up")
        assert [item.name for item in items[up : up + 4]] == ["up", "up.deq", "up.bias", "gelu"]
        deq, bias, gelu = items[up + 1 : up + 4]
        assert [item.is_fused for item in (deq, bias, gelu)] == [True, True, False]
        assert deq.reads[1].id == "s"  # a scale per row serves all columns
        assert bias.reads[1].elements == 5  # a bias per column is divided
        assert gelu.elements == 5 * items[up].n


def test_a_reduction_over_a_tensor_runs_on_the_first_core_behind_all():
    divided = divide(feed_forward(), count=2, split="columns")
    names = [[item.name for item in core.workload.items] for core in divided.cores]
    assert "quant2" in names[0]
    assert "quant2" not in names[1]
    assert divided.waits["g"] == ("g[columns 0:10 of 20]", "g[columns 10:20 of 20]")


def test_parts_of_one_axis_lie_behind_each_other():
    divided = divide(Workload("w", (gemm("g", 3, 6, 4),)), count=3, split="columns")
    found = [divided.origins[f"g.w[run {first}:{first + 8} of 24]"] for first in (0, 8, 16)]
    assert found == [("g.w", 0), ("g.w", 8), ("g.w", 16)]


def test_groups_of_a_convolution_are_never_split():
    grouped = replace(
        gemm("g", 5, 6, 4, count=4), kind="conv", result=tensor("y", "output", (24, 5))
    )
    parts = gemms(divide(Workload("w", (grouped,)), count=2, split="columns"))
    assert [(part.count, part.n, part.result.shape) for part in parts] == [(2, 6, (60,))] * 2


@pytest.mark.parametrize("split", ["columns", "heads"])
def test_zero_patterns_are_cut_where_the_weights_are(split):
    count, n, k = 4, 6, 11
    mask = np.random.default_rng(0).integers(0, 256, (count * n, 2), dtype=np.uint8)
    whole = replace(gemm("g", 3, n, k, count=count), nonzero=Nonzero(mask, "pattern"))
    parts = gemms(divide(Workload("w", (whole,)), count=3, split=split))
    assert len({part.nonzero.digest for part in parts}) == 3
    if split == "heads":
        found = np.concatenate([part.nonzero.mask for part in parts])
    else:
        blocks = [part.nonzero.mask.reshape(count, part.n, -1) for part in parts]
        found = np.concatenate(blocks, axis=1).reshape(count * n, -1)
    assert np.array_equal(found, mask)


@settings(max_examples=25, deadline=None)
@given(
    st.integers(1, 9),
    st.integers(1, 40),
    st.integers(1, 9),
    st.integers(1, 7),
    st.integers(2, 5),
    st.sampled_from(["columns", "heads"]),
)
def test_products_and_stored_bits_are_conserved(m, n, k, count, cores, split):
    whole = gemm("g", m, n, k, count=count)
    parts = gemms(divide(Workload("w", (whole,)), count=cores, split=split))
    assert sum(part.macs for part in parts) == whole.macs
    for name in ("w", "result"):
        refs = [getattr(part, name) for part in parts]
        assert sum(ref.stored_bits for ref in refs) == getattr(whole, name).stored_bits
        assert sum(ref.elements for ref in refs) == getattr(whole, name).elements


@settings(max_examples=12, deadline=None)
@given(st.integers(1, 9), st.integers(1, 20), st.integers(1, 20), st.integers(2, 5))
def test_elements_and_moved_bytes_are_conserved(m, d, h, cores):
    workload = feed_forward(m, d, h)
    divided = divide(workload, count=cores, split="columns")
    for number, item in enumerate(workload.items):
        parts = [
            part
            for core in divided.cores
            for own, part in zip(core.numbers, core.workload.items, strict=True)
            if own == number
        ]
        if isinstance(item, Transfer):
            assert sum(part.write_bytes for part in parts) == item.write_bytes
        elif not isinstance(item, Gemm):
            assert sum(part.elements for part in parts) == item.elements


@settings(max_examples=25, deadline=None)
@given(st.integers(1, 300), st.integers(1, 9), st.integers(1, 40))
def test_even_columns_take_no_more_folds_than_whole_blocks_dealt_out(n, cores, columns):
    parts = gemms(divide(Workload("w", (gemm("g", 1, n, 1),)), count=cores, split="columns"))
    blocks = -(-n // columns)
    assert max(-(-part.n // columns) for part in parts) == -(-blocks // cores)


@settings(max_examples=25, deadline=None)
@given(st.integers(1, 200), st.integers(0, 60), st.integers(1, 60))
def test_parts_of_a_number_sum_to_it(number, first, size):
    total = first + size
    parts = [Part("run", 0, first, total), Part("run", first, total, total)]
    assert sum(part.of(number) for part in parts) == number
