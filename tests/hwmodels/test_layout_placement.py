"""hwmodels.layout: every tensor once, apart, aligned, and inside the stack."""

from dataclasses import replace
from itertools import combinations, pairwise

import pytest
from hw_samples import feed_forward, gemm, tensor, vector
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from hwmodels.layout import place
from hwmodels.workload import Gemm, Transfer, Workload


def spans(layout):
    return sorted((p.base, p.base + p.size_bytes, name) for name, p in layout.placements.items())


def phases(workload):
    """Return between which products each tensor is needed, from the first to the last use."""
    found, phase = {}, 0
    for item in workload.items:
        phase += isinstance(item, Gemm | Transfer)
        for ref in (*item.reads, *item.writes):
            is_lasting = ref.kind != "activation"
            known = found.get(ref.id, (phase, phase))
            found[ref.id] = (-1, 1 << 30) if is_lasting else (known[0], phase)
    return found


def overlaps(first, second):
    return first[0] < second[1] and second[0] < first[1]


def check_apart(workload, layout):
    needed = phases(workload)
    for (start, stop, name), (start2, stop2, name2) in combinations(spans(layout), 2):
        if overlaps((start, stop), (start2, stop2)):
            (first, last), (first2, last2) = needed[name], needed[name2]
            assert last < first2 or last2 < first, (name, name2)


def test_tensors_are_aligned_and_apart_while_they_are_needed(make_chip, make_memory):
    (layout,) = place([feed_forward()], make_chip(channels=2), make_memory(channels=2))
    assert set(layout.placements) == {ref.id for ref in feed_forward().tensors()}
    assert all(start % 128 == 0 for start, _, _ in spans(layout))
    check_apart(feed_forward(), layout)


@settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(data=st.data())
def test_activations_share_room_only_when_not_needed_together(make_chip, make_memory, data):
    sizes = data.draw(st.lists(st.integers(1, 400), min_size=2, max_size=14))
    refs = [tensor(f"t{i}", "activation", (1, size)) for i, size in enumerate(sizes)]
    items = []
    for i, ref in enumerate(refs[1:], start=1):
        source = refs[data.draw(st.integers(0, i - 1))]
        if data.draw(st.booleans()):
            items.append(gemm(f"g{i}", 1, ref.elements, source.elements, a=source, result=ref))
        else:
            items.append(vector(f"v{i}", "gelu", (source,), (ref,), elements=ref.elements))
    workload = Workload("drawn", tuple(items))
    (layout,) = place([workload], make_chip(channels=2), make_memory(channels=2))
    check_apart(workload, layout)
    used = [span for span in spans(layout) if span[2] in {ref.id for ref in refs}]
    needed = phases(workload)
    rooms = {name: -(-(stop - start) // 128) * 128 for start, stop, name in used}
    together = max(
        sum(room for name, room in rooms.items() if needed[name][0] <= at <= needed[name][1])
        for at in range(len(items) + 1)
    )
    low = min(start for start, _, _ in used)
    assert together <= max(start + rooms[name] for start, _, name in used) - low
    assert max(start + rooms[name] for start, _, name in used) - low <= sum(rooms.values())


def test_a_chain_of_products_needs_room_for_two_results(make_chip, make_memory):
    refs = [tensor(f"t{i}", "activation", (8, 16)) for i in range(9)]
    chain = [gemm(f"g{i}", 8, 16, 16, a=a, result=y) for i, (a, y) in enumerate(pairwise(refs))]
    (layout,) = place([Workload("chain", tuple(chain))], make_chip(), make_memory())
    assert len({layout.base(ref) for ref in refs}) == 2


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
