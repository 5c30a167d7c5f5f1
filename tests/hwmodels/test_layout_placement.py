"""hwmodels.layout: every tensor once, apart, aligned, and inside the stack."""

from dataclasses import replace
from itertools import pairwise

import pytest
from hw_samples import feed_forward, gemm, tensor, vector

from hwmodels.layout import place
from hwmodels.workload import Workload


def spans(layout):
    return sorted((p.base, p.base + p.size_bytes, name) for name, p in layout.placements.items())


def test_tensors_are_aligned_and_do_not_overlap(make_chip, make_memory):
    (layout,) = place([feed_forward()], make_chip(channels=2), make_memory(channels=2))
    assert set(layout.placements) == {ref.id for ref in feed_forward().tensors()}
    assert all(start % 128 == 0 for start, _, _ in spans(layout))
    for (_, stop, _), (start, _, _) in pairwise(spans(layout)):
        assert stop <= start


def test_each_kind_has_its_layout_and_a_state_its_reserved_room(make_chip, make_memory):
    (layout,) = place([feed_forward()], make_chip(), make_memory())
    assert layout.placements["up.w"].layout == "tile_major"
    assert layout.placements["q"].layout == "row_major"
    cache = layout.placements["cache"]
    assert (cache.layout, cache.size_bytes) == ("append", 64 * 12 * 4)


def test_lasting_tensors_stay_where_they_are_when_lengths_change(make_chip, make_memory):
    first, second, alone = (
        layout.placements
        for layout in (
            *place([feed_forward(5), feed_forward(9)], make_chip(), make_memory()),
            *place([feed_forward(9)], make_chip(), make_memory()),
        )
    )
    for name in ("x", "out", "up.w", "down.w", "b", "cache"):
        assert first[name] == second[name]
    for name in ("up.w", "down.w", "b", "cache"):
        assert second[name] == alone[name]
    assert first["x"].size_bytes == 9 * 12 * 4


def test_a_full_stack_tells_what_it_lacks(make_chip, make_memory):
    with pytest.raises(
        ValueError, match=r"hold 64 bytes, .* need \d+: \d+ bytes are missing; .*cache"
    ):
        place([feed_forward()], make_chip(), make_memory(capacity=64))


def test_one_id_means_one_constant(make_chip, make_memory):
    w = tensor("w", "constant", (4, 4), digest="one")
    first = Workload("first", (gemm("g", 2, 4, 4, w=w),))
    second = Workload("second", (gemm("g", 2, 4, 4, w=replace(w, digest="two")),))
    with pytest.raises(ValueError, match='second: constant "w" has 16 bytes, digest "two"'):
        place([first, second], make_chip(), make_memory())


def test_an_output_that_a_later_call_reads_has_one_place(make_chip, make_memory):
    y = tensor("y", "output", (4, 4), 32)
    first = Workload("first", (gemm("g", 4, 4, 4, result=y),))
    z = tensor("z", "output", (4, 4), 32)
    second = Workload("second", (vector("v", "gelu", (replace(y, kind="input"),), (z,)),))
    one, two = place([first, second], make_chip(), make_memory())
    assert one.placements["y"] == two.placements["y"]
