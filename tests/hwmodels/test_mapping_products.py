"""hwmodels.mapping: traffic against a walk over the loop nest, and the best of all tilings."""

from itertools import product as cartesian

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hwmodels.architecture import ProcessingArray
from hwmodels.array import fold
from hwmodels.dataflow import DATAFLOWS, grains
from hwmodels.mapping import (
    Mapping,
    Room,
    Shape,
    even_tiles,
    lengths,
    map_product,
    operand_traffic,
)

FLOWS = sorted(DATAFLOWS)


def array_of(dataflow, schedule="double_buffered"):
    return ProcessingArray(2, 3, 1e9, dataflow=dataflow, schedule=schedule)


def walk(shape, mapping):
    """Return the traffic of a walk that loads a unit whenever it is not the one held."""
    rows = lengths(mapping.row_tiles(shape.m))
    columns = lengths(mapping.column_panels(shape.n))
    chunks = lengths(mapping.chunks(shape.k))
    nest = list(cartesian(enumerate(columns), enumerate(rows)))
    if mapping.order == "activations_outer":
        nest = [(n, m) for m, n in cartesian(enumerate(rows), enumerate(columns))]
    held = {"input": None, "weight": None}
    seen = {"input": set(), "weight": set()}
    moved = {"input": 0, "weight": 0}
    for (n, width), (m, height) in nest:
        for k, depth in enumerate(chunks):
            for name, index, size, unit, is_kept in (
                ("input", m, height, mapping.input_unit, shape.is_input_kept),
                ("weight", n, width, mapping.weight_unit, shape.is_weight_kept),
            ):
                key = (index, k if unit == "chunk" else -1)
                known = key in seen[name] if is_kept else key == held[name]
                if not known:
                    moved[name] += size * (depth if unit == "chunk" else shape.k)
                held[name] = key
                seen[name].add(key)
    return moved["input"], moved["weight"]


@pytest.mark.parametrize("dataflow", FLOWS)
@settings(max_examples=50, deadline=None)
@given(
    m=st.integers(1, 12),
    n=st.integers(1, 12),
    k=st.integers(1, 12),
    tile_m=st.integers(1, 6),
    tile_n=st.integers(1, 4),
    tile_k=st.integers(1, 6),
    order=st.sampled_from(["weights_outer", "activations_outer"]),
    units=st.sampled_from([("whole_k", "whole_k"), ("chunk", "whole_k"), ("chunk", "chunk")]),
    kept=st.tuples(st.booleans(), st.booleans()),
)
def test_traffic_equals_a_walk_over_the_loop_nest(
    dataflow, m, n, k, tile_m, tile_n, tile_k, order, units, kept
):
    grain = grains(dataflow, rows=2, columns=3)
    tile_k = min(tile_k * grain["k"], k)
    if tile_k == k:
        units = ("whole_k", "whole_k")
    shape = Shape(m, n, k, m * k, n * k, *kept)
    tile_m, tile_n = tile_m * grain["m"], tile_n * grain["n"]
    mapping = Mapping(dataflow, order, tile_m, tile_n, tile_k, *units, 0)
    assert operand_traffic(shape, mapping) == walk(shape, mapping)


def fits(shape, mapping, limits):
    """Whether every step of a mapping stays within its room."""
    height = max(lengths(mapping.row_tiles(shape.m)))
    width = max(lengths(mapping.column_panels(shape.n)))
    depth = {"whole_k": shape.k, "chunk": mapping.tile_k}
    needs = (
        0 if shape.is_input_kept else height * depth[mapping.input_unit],
        0 if shape.is_weight_kept else width * depth[mapping.weight_unit],
        4 * height * width,
    )
    have = (limits.input_bytes, limits.weight_bytes, limits.output_bytes)
    return all(need <= room for need, room in zip(needs, have, strict=True))


def all_mappings(shape, array, limits):
    """Yield every mapping whose tiles are whole folds and whose steps fit."""
    grain = grains(array.dataflow, rows=2, columns=3)
    tiles = [
        range(grain[axis], size + grain[axis], grain[axis]) for axis, size in shape.sizes.items()
    ]
    for tile_m, tile_n, tile_k in cartesian(*tiles):
        is_one_fold = tile_m <= grain["m"] and tile_n <= grain["n"]
        if array.dataflow == "output_stationary" and tile_k < shape.k and not is_one_fold:
            continue  # sums would leave their cells before they are complete
        for order in ("weights_outer", "activations_outer"):
            for units in cartesian(("whole_k", "chunk"), repeat=2):
                depth = min(tile_k, shape.k)
                mapping = Mapping(array.dataflow, order, tile_m, tile_n, depth, *units, 0)
                if fits(shape, mapping, limits):
                    yield mapping


def cycles(shape, array, mapping):
    """Return the array cycles of a mapping, tile after tile."""
    return sum(
        fold(
            array,
            m=m[1] - m[0],
            n=n[1] - n[0],
            k=shape.k,
            is_first=m[0] == n[0] == 0,
            is_last=m[1] == shape.m and n[1] == shape.n,
        ).total
        for m, n in cartesian(mapping.row_tiles(shape.m), mapping.column_panels(shape.n))
    )


SHAPES = st.builds(
    lambda m, n, k, kept: Shape(m, n, k, m * k, n * k, *kept),
    st.integers(1, 9),
    st.integers(1, 9),
    st.integers(1, 8),
    st.tuples(st.booleans(), st.booleans()),
)
ROOMS = st.builds(Room, st.integers(12, 60), st.integers(12, 60), st.integers(24, 200))


@pytest.mark.parametrize("schedule", ["serial", "double_buffered"])
@pytest.mark.parametrize("dataflow", FLOWS)
@settings(max_examples=25, deadline=None)
@given(shape=SHAPES, limits=ROOMS)
def test_no_mapping_of_all_has_fewer_cycles_or_with_as_many_fewer_bytes(
    dataflow, schedule, shape, limits
):
    array = array_of(dataflow, schedule)
    mapping = map_product(shape, array, limits)
    assert fits(shape, mapping, limits)
    assert mapping.dram_bytes == sum(walk(shape, mapping)) >= shape.input_bytes + shape.weight_bytes
    best = min(
        (cycles(shape, array, one), sum(walk(shape, one)))
        for one in all_mappings(shape, array, limits)
    )
    assert (cycles(shape, array, mapping), mapping.dram_bytes) == best


@pytest.mark.parametrize("schedule", ["serial", "double_buffered"])
@pytest.mark.parametrize("dataflow", FLOWS)
@settings(max_examples=40, deadline=None)
@given(shape=SHAPES, limits=ROOMS, more=st.tuples(*[st.integers(0, 40)] * 3))
def test_larger_buffers_never_cost_cycles_or_with_as_many_bytes(
    dataflow, schedule, shape, limits, more
):
    array = array_of(dataflow, schedule)
    larger = Room(*(room + extra for room, extra in zip(vars(limits).values(), more, strict=True)))
    small, large = (map_product(shape, array, one) for one in (limits, larger))
    assert (cycles(shape, array, large), large.dram_bytes) <= (
        cycles(shape, array, small),
        small.dram_bytes,
    )


@given(size=st.integers(1, 1000), count=st.integers(1, 40))
def test_even_tiles_sum_and_differ_by_at_most_one(size, count):
    tiles = even_tiles(size, min(count, size))
    assert sum(tiles) == size
    assert max(tiles) - min(tiles) <= 1


def test_a_prime_length_is_cut_in_halves_not_in_ones():
    # 499 rows, 128 columns of 32-bit sums are 255 KB: half of a 128 KiB buffer holds 127 rows.
    array = ProcessingArray(128, 128, 1e9)
    shape = Shape(499, 768, 768, 499 * 768, 768 * 768, is_input_kept=False, is_weight_kept=False)
    mapping = map_product(shape, array, Room(1 << 17, 1 << 17, 1 << 16))
    assert len(mapping.row_tiles(499)) in (4, 5)


def test_a_buffer_too_small_for_one_fold_is_named_with_what_it_lacks():
    shape = Shape(4, 4, 4, 16, 16, is_input_kept=False, is_weight_kept=False)
    with pytest.raises(
        ValueError, match=r"output buffer: .* needs 12 bytes, a step may hold 8: 4 bytes"
    ) as e:
        map_product(shape, array_of("weight_stationary"), Room(1, 1, 8))
    assert [line.split()[0] for line in str(e.value).splitlines()] == ["output", "input", "weight"]
