"""hwmodels.mapping: traffic against a walk over the loop nest, and the best of all tilings."""

from itertools import product as cartesian

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hwmodels.architecture import ProcessingArray
from hwmodels.array import product
from hwmodels.mapping import (
    Mapping,
    Room,
    Shape,
    even_tiles,
    m_tiles,
    map_product,
    operand_traffic,
    panels,
)

ARRAY = ProcessingArray(2, 3, 1e9)


def walk(shape, mapping):
    """Return the traffic of a walk that loads a unit whenever it is not the one held."""
    rows = even_tiles(shape.m, -(-shape.m // mapping.tile_m))
    columns = [stop - start for start, stop in panels(shape.n, mapping.tile_n)]
    chunks = [stop - start for start, stop in panels(shape.k, mapping.tile_k)]
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


@given(
    m=st.integers(1, 12),
    n=st.integers(1, 12),
    k=st.integers(1, 12),
    tile_m=st.integers(1, 12),
    blocks=st.integers(1, 4),
    folds=st.integers(1, 6),
    order=st.sampled_from(["weights_outer", "activations_outer"]),
    units=st.sampled_from([("whole_k", "whole_k"), ("chunk", "whole_k"), ("chunk", "chunk")]),
    kept=st.tuples(st.booleans(), st.booleans()),
)
def test_traffic_equals_a_walk_over_the_loop_nest(
    m, n, k, tile_m, blocks, folds, order, units, kept
):
    tile_k = min(2 * folds, k)
    if tile_k == k:
        units = ("whole_k", "whole_k")
    shape = Shape(m, n, k, m * k, n * k, *kept)
    mapping = Mapping(order, min(tile_m, m), 3 * blocks, tile_k, *units, 0)
    assert operand_traffic(shape, mapping) == walk(shape, mapping)


def fits(shape, mapping, limits):
    """Whether every step of a mapping stays within its room."""
    height, width = max(m_tiles(shape.m, mapping.tile_m)), min(mapping.tile_n, shape.n)
    depth = {"whole_k": shape.k, "chunk": mapping.tile_k}
    needs = (
        0 if shape.is_input_kept else height * depth[mapping.input_unit],
        0 if shape.is_weight_kept else width * depth[mapping.weight_unit],
        4 * height * width,
    )
    have = (limits.input_bytes, limits.weight_bytes, limits.output_bytes)
    return all(need <= room for need, room in zip(needs, have, strict=True))


def all_mappings(shape, limits):
    for tile_m in range(1, shape.m + 1):
        for blocks in range(1, -(-shape.n // 3) + 1):
            for tile_k in {*range(2, shape.k, 2), shape.k}:
                for order in ("weights_outer", "activations_outer"):
                    for units in cartesian(("whole_k", "chunk"), repeat=2):
                        mapping = Mapping(order, tile_m, 3 * blocks, tile_k, *units, 0)
                        if fits(shape, mapping, limits):
                            yield mapping


SHAPES = st.builds(
    lambda m, n, k, kept: Shape(m, n, k, m * k, n * k, *kept),
    st.integers(1, 9),
    st.integers(1, 12),
    st.integers(1, 8),
    st.tuples(st.booleans(), st.booleans()),
)
ROOMS = st.builds(Room, st.integers(12, 60), st.integers(12, 60), st.integers(12, 200))


@settings(max_examples=120, deadline=None)
@given(shape=SHAPES, limits=ROOMS)
def test_no_mapping_of_all_has_fewer_cycles_or_with_as_many_fewer_bytes(shape, limits):
    mapping = map_product(shape, ARRAY, limits)
    assert fits(shape, mapping, limits)
    assert mapping.dram_bytes == sum(walk(shape, mapping)) >= shape.input_bytes + shape.weight_bytes

    def cycles(one):
        return product(ARRAY, m_tiles=m_tiles(shape.m, one.tile_m), n=shape.n, k=shape.k).total

    best = min((cycles(one), sum(walk(shape, one))) for one in all_mappings(shape, limits))
    assert (cycles(mapping), mapping.dram_bytes) == best


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
    assert len(m_tiles(499, mapping.tile_m)) in (4, 5)


def test_a_buffer_too_small_for_one_fold_is_named_with_what_it_lacks():
    shape = Shape(4, 4, 4, 16, 16, is_input_kept=False, is_weight_kept=False)
    with pytest.raises(
        ValueError, match=r"output buffer: .* needs 12 bytes, a step may hold 8: 4 bytes"
    ) as e:
        map_product(shape, ARRAY, Room(1, 1, 8))
    assert [line.split()[0] for line in str(e.value).splitlines()] == ["output", "input", "weight"]
