"""`mapping.objective: soonest`: products followed alone, beside the machine and all mappings."""

from dataclasses import replace
from math import ceil

import pytest
from hw_samples import gemm
from hypothesis import example, given, settings
from hypothesis import strategies as st
from numba import njit
from test_mapping_products import FLOWS, all_mappings, array_of

from hwmodels import gemm_steps
from hwmodels.architecture import MappingChoice, SparseUnit
from hwmodels.costs import Costs, Rates, costs
from hwmodels.gemm_steps import judging_notes
from hwmodels.lone import product
from hwmodels.lone.cut import is_wasteful, least_cycles, operand_bytes
from hwmodels.lone.product import alone
from hwmodels.lone.search import SLACK, TOLERANCE
from hwmodels.mapper import map_product, map_products
from hwmodels.mapping import Mapping, Room, Shape, array_grains, room
from hwmodels.memory import BusShape
from hwmodels.simulate import simulate
from hwmodels.workload import Workload

# What `hwmodels.lone.search` leaves on the table: fewer bytes or steps, and cuts not looked for.
WORSE = (1 + TOLERANCE) * (1 + SLACK) + 1e-6
FREE = {"is_holding": False, "is_whole": False, "row": 0}


def chip_of(chip, size, dataflow, schedule, objective="soonest"):
    array = replace(chip.array, rows=size, columns=size, dataflow=dataflow, schedule=schedule)
    return replace(chip, array=array, mapping=replace(chip.mapping, objective=objective))


@pytest.fixture(scope="module")
def chips(shipped):
    return [shipped(name) for name in ("stacked_edge_32", "stacked_server_128")]


@settings(max_examples=60, deadline=None, derandomize=True)
@given(
    sizes=st.tuples(st.integers(1, 600), st.integers(1, 900), st.integers(32, 1000)),
    count=st.sampled_from([1, 1, 3]),
    number=st.integers(0, 1),
    size=st.sampled_from([32, 128]),
    dataflow=st.sampled_from(FLOWS),
    schedule=st.sampled_from(["serial", "double_buffered"]),
    objective=st.sampled_from(["latency", "soonest"]),
)
def test_a_product_alone_takes_what_the_machine_takes(
    chips, sizes, count, number, size, dataflow, schedule, objective
):
    chip, memory, energy = chips[number]
    chip = chip_of(chip, size, dataflow, schedule, objective)
    asked = []

    def noted(shape, array, limits, costs, **more):
        mapping = map_products(shape, array, limits, costs, **more)
        asked.append((shape, array, limits, costs, mapping))
        return mapping

    work = Workload("w", (gemm("g", *sizes, count=count),))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(gemm_steps, "map_products", noted)
        ran = simulate(work, chip, technology=memory, energy=energy).cycles.total
    followed = alone(*asked[-1], products=count)
    assert followed == pytest.approx(ran, rel=0.0002, abs=2)


@njit
def bound_of(asked, cut):
    """Return the bound of a cut, 0 if it is not tried."""
    if is_wasteful(asked, cut):
        return 0.0
    return least_cycles(asked, cut, operand_bytes(asked, cut))


@settings(max_examples=300, deadline=None, derandomize=True)
@given(
    sizes=st.tuples(
        st.sampled_from([63, 128, 499, 768]),
        st.sampled_from([64, 499, 768]),
        st.sampled_from([80, 499, 768]),
    ),
    stored=st.sampled_from([0, 1, 4]),
    pieces=st.tuples(st.integers(1, 24), st.integers(1, 24), st.integers(1, 8)),
    units=st.sampled_from([("whole_k", "whole_k"), ("chunk", "whole_k"), ("chunk", "chunk")]),
    order=st.sampled_from(["weights_outer", "activations_outer"]),
    number=st.integers(0, 1),
    size=st.sampled_from([32, 128]),
    dataflow=st.sampled_from(FLOWS),
)
@example((128, 768, 768), 1, (1, 6, 7), ("chunk", "chunk"), "weights_outer", 1, 128, FLOWS[1])
@example((768, 499, 768), 4, (3, 4, 5), ("chunk", "whole_k"), "weights_outer", 1, 128, FLOWS[1])
def test_no_tiling_ends_before_the_bound_that_it_is_tried_by(
    chips, sizes, stored, pieces, units, order, number, size, dataflow
):
    chip, memory, _ = chips[number]
    chip = chip_of(chip, size, dataflow, "double_buffered")
    m, n, k = sizes
    shape = Shape(
        m,
        n,
        k,
        m * k,
        n * k,
        is_input_kept=False,
        is_weight_kept=False,
        array_input_bytes=m * k,
        stored_bytes=stored * m * n,
    )
    grains = array_grains(chip.array)
    tile_m, tile_n, tile_k = (
        grains[axis] * ceil(ceil(length / grains[axis]) / parts)
        for axis, length, parts in zip("mnk", sizes, pieces, strict=True)
    )
    if tile_k >= k:
        units = "whole_k", "whole_k"
    mapping = Mapping(dataflow, order, tile_m, tile_n, min(tile_k, k), *units, 0, grains["k"])
    asked, cut = (
        product._product(shape, chip.array, room(chip), costs(chip, memory).rates),
        product._cut(shape, chip.array, mapping),
    )
    asked["products"] = 1
    followed = alone(shape, chip.array, room(chip), costs(chip, memory), mapping)
    assert bound_of(asked, cut) <= 1.0001 * followed


SHAPES = st.builds(
    lambda m, n, k, stored: Shape(
        m,
        n,
        k,
        m * k,
        n * k,
        is_input_kept=False,
        is_weight_kept=False,
        array_input_bytes=m * k,
        stored_bytes=stored * m * n,
        is_input_by_row=False,  # runs of few bytes are not tried
    ),
    st.integers(1, 9),
    st.integers(1, 9),
    st.integers(1, 8),
    st.sampled_from([0, 1, 4]),
)
PORTS = st.sampled_from([None, 1, 4])
COSTS = st.builds(
    lambda memory, ports, latency, channels: Costs(
        "soonest", Rates(memory, *ports, latency, BusShape(channels, 2, 4))
    ),
    st.sampled_from([None, 0.7, 5.0]),
    st.tuples(PORTS, PORTS, PORTS),
    st.sampled_from([0.0, 7.0]),
    st.sampled_from([1, 2]),
)


@pytest.mark.parametrize("schedule", ["serial", "double_buffered"])
@pytest.mark.parametrize("dataflow", FLOWS)
@settings(max_examples=25, deadline=None, derandomize=True)
@given(
    shape=SHAPES,
    limits=st.builds(Room, st.integers(12, 60), st.integers(12, 60), st.integers(24, 200)),
    costs=COSTS,
    more=st.tuples(*[st.integers(0, 40)] * 3),
)
def test_no_mapping_of_all_ends_sooner_by_a_hundredth(
    dataflow, schedule, shape, limits, costs, more
):
    array = array_of(dataflow, schedule)
    roomy = Room(*(have + extra for have, extra in zip(vars(limits).values(), more, strict=True)))

    def cycles(mapping, room):
        return alone(shape, array, room, costs, mapping)

    best = min(cycles(mapping, limits) for mapping in all_mappings(shape, array, limits))
    found = map_products(shape, array, limits, costs, **FREE, products=1)
    assert cycles(found, limits) <= WORSE * best
    better = map_products(shape, array, roomy, costs, **FREE, products=1)
    assert cycles(better, roomy) <= WORSE * cycles(found, limits)


def test_what_ends_hardly_sooner_stays_as_the_closed_form_has_it():
    # One fold of 2 x 3 weights at a time: nothing can be cut in another way.
    array, costs = array_of("weight_stationary"), Costs("soonest", Rates(1.0, 1, 1, 1))
    shape = Shape(4, 3, 2, 8, 6, is_input_kept=False, is_weight_kept=False)
    limits = Room(64, 64, 96)
    seed = map_product(shape, array, limits, replace(costs, objective="latency"))
    assert map_products(shape, array, limits, costs, **FREE, products=1) == seed


def test_a_last_layer_of_wav2vec2_ends_a_tenth_sooner(chips):
    # 499 x 32 x 768 on 32 x 32 cells: smaller chunks let the array begin sooner.
    chip, memory, energy = chips[0]
    work = Workload("w", (gemm("ctc", 499, 32, 768),))
    cycles = [
        simulate(
            work,
            replace(chip, mapping=MappingChoice(objective=objective)),
            technology=memory,
            energy=energy,
        ).cycles.total
        for objective in ("latency", "soonest")
    ]
    assert cycles[1] < 0.92 * cycles[0]


@settings(max_examples=20, deadline=None, derandomize=True)
@given(
    sizes=st.tuples(st.integers(1, 600), st.integers(32, 900), st.integers(32, 1000)),
    policy=st.sampled_from(["row_skip", "column_compact", "nm", "csr_gather"]),
)
def test_where_folds_are_filled_from_a_tile_weights_are_cut_no_finer_than_by_the_closed_form(
    chips, sizes, policy
):
    chip, memory, _ = chips[0]
    unit = SparseUnit(decoded_per_cycle=64, kept=2, run=4, banks=32)
    array = replace(chip.array, sparsity=policy, sparse_unit=unit)
    asked = costs(chip, memory)
    m, n, k = sizes
    shape = Shape(m, n, k, m * k, n * k, is_input_kept=False, is_weight_kept=False)
    found = map_products(shape, array, room(chip), asked, **FREE, products=1)
    seed = map_product(shape, array, room(chip), replace(asked, objective="latency"))
    assert found.tile_n >= seed.tile_n
    assert found.tile_k >= seed.tile_k
    full = replace(array, sparsity="skip_zero_fold", sparse_unit=None)
    plain = map_products(shape, full, room(chip), asked, **FREE, products=1)
    assert plain == map_products(shape, chip.array, room(chip), asked, **FREE, products=1)


def test_products_that_are_not_followed_are_told(shipped, make_chip, make_memory, table):
    grouped = replace(gemm("g", 8, 8, 8), scale_group=4)
    chip = make_chip(dataflow="output_stationary")
    (note,) = judging_notes((grouped, gemm("plain", 8, 8, 8), grouped), chip)
    assert "2 GEMMs by the closed form of latency, as scale groups part sums" in note
    stats = simulate(Workload("w", (grouped,)), chip, technology=make_memory(), energy=table)
    assert note.replace("2 GEMMs", "1 GEMMs") in stats.notes
    assert not judging_notes((grouped,), make_chip())
    assert not judging_notes((grouped,), replace(chip, mapping=MappingChoice("latency")))
    coupled, *_ = shipped("ticsat_16")
    (note,) = judging_notes((gemm("g", 8, 8, 8),), coupled)
    assert "as the core moves all operands" in note
