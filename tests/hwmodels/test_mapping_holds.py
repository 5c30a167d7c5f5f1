"""hwmodels.mapping where the operand of the outer loop may take the room of two units."""

from dataclasses import replace

import pytest
from hw_samples import gemm
from hypothesis import given, settings
from hypothesis import strategies as st
from test_mapping_products import (
    COSTS,
    FLOWS,
    ROOMS,
    SHAPES,
    all_mappings,
    array_of,
    cycles,
    result_bytes,
    units_of,
    walk,
)
from test_mapping_products import fits as fits_room

from hwmodels.architecture import MappingChoice
from hwmodels.costs import Costs, Rates, Work
from hwmodels.mapper import map_product
from hwmodels.mapping import Room, Shape
from hwmodels.simulate import simulate
from hwmodels.workload import Workload


def held_of(shape, mapping, limits):
    """Return for activations and weights whether a unit over all of k is larger than one room."""
    return [
        unit == "whole_k" and not is_kept and size > have
        for size, unit, is_kept, have in zip(
            units_of(shape, mapping),
            (mapping.input_unit, mapping.weight_unit),
            (shape.is_input_kept, shape.is_weight_kept),
            (limits.input_bytes, limits.weight_bytes),
            strict=True,
        )
    ]


def fits(shape, mapping, limits):
    """Whether every unit fits: one room, two for whole operands of the outer loop and for sums."""
    double = Room(*(2 * room for room in vars(limits).values()))
    outer = ("activations_outer", "weights_outer").index(mapping.order)
    kept = (shape.is_input_kept, shape.is_weight_kept)
    chunks = (mapping.input_unit == "chunk", mapping.weight_unit == "chunk")
    rooms = (limits.input_bytes, limits.weight_bytes)
    return fits_room(shape, mapping, double) and all(
        is_kept or size <= room or (number == outer and not is_chunk)
        for number, (size, is_kept, is_chunk, room) in enumerate(
            zip(units_of(shape, mapping), kept, chunks, rooms, strict=True)
        )
    )


def work_of(shape, array, mapping, limits):
    """Return what a mapping does from walks over its nest, with what the array waits for."""
    rows, columns = len(mapping.row_tiles(shape.m)), len(mapping.column_panels(shape.n))
    passes = {
        "weight_stationary": (-(-shape.n // 3), rows),
        "input_stationary": (columns, -(-shape.m // 3)),
        "output_stationary": (-(-shape.n // 3), -(-shape.m // 2)),
    }[array.dataflow]
    moved, spent = walk(shape, mapping), cycles(shape, array, mapping)
    held = held_of(shape, mapping, limits)
    shifts = {"weight_stationary": held[1] * (columns - 1)}
    shifts["input_stationary"] = held[0] * (rows - 1)
    is_hidden = array.schedule == "double_buffered" and mapping.held_tiles == 1
    inner = rows if mapping.order == "weights_outer" else columns
    return Work(
        spent,
        *moved,
        passes[0] * shape.array_input_bytes,
        passes[1] * shape.weight_bytes,
        shape.stored_bytes,
        moved[0] * held[0],
        moved[1] * held[1],
        array.rows * is_hidden * shifts.get(array.dataflow, 0),
        spent // inner if mapping.held_tiles > 1 else 0,
        shape.stored_bytes if result_bytes(shape, mapping) > limits.output_bytes else 0,
    )


@pytest.mark.parametrize("schedule", ["serial", "double_buffered"])
@pytest.mark.parametrize("dataflow", FLOWS)
@settings(max_examples=12, deadline=None)
@given(shape=SHAPES, limits=ROOMS, costs=COSTS)
def test_no_mapping_costs_less_where_two_rooms_may_be_taken(
    dataflow, schedule, shape, limits, costs
):
    array = array_of(dataflow, schedule)
    found = map_product(shape, array, limits, costs, is_holding=True, is_whole=True)
    double = Room(*(2 * room for room in vars(limits).values()))
    every = [one for one in all_mappings(shape, array, double) if fits(shape, one, limits)]
    assert fits(shape, found, limits)
    best = min(costs.of(work_of(shape, array, one, limits)) for one in every)
    assert costs.of(work_of(shape, array, found, limits)) == best
    plain = map_product(shape, array, limits, costs)
    assert costs.of(work_of(shape, array, plain, limits)) >= best


@pytest.mark.parametrize("dataflow", FLOWS)
@settings(max_examples=15, deadline=None)
@given(shape=SHAPES, limits=ROOMS, costs=COSTS, more=st.tuples(*[st.integers(0, 40)] * 3))
def test_more_room_never_costs_more_where_two_rooms_may_be_taken(
    dataflow, shape, limits, costs, more
):
    array = array_of(dataflow)
    larger = Room(*(room + extra for room, extra in zip(vars(limits).values(), more, strict=True)))
    less, most = (
        costs.of(
            work_of(
                shape,
                array,
                map_product(shape, array, one, costs, is_holding=True, is_whole=True),
                one,
            )
        )
        for one in (limits, larger)
    )
    assert less >= most


def test_a_panel_of_weights_takes_two_rooms_when_that_saves_bytes():
    # 24 x 16 activations, 6 x 16 weights, 2 x 3 cells: a tile of 2 rows over all of k is 32 bytes,
    # a panel of 3 columns 48, and sums have room for one fold. With room for 32, weights come in
    # chunks, all of them for each of 12 tiles; with room for 64 a panel stays while all activations
    # pass, twice for two panels.
    shape = Shape(24, 6, 16, 24 * 16, 6 * 16, False, False)
    array, limits = array_of("output_stationary"), Room(40, 32, 24)
    costs = Costs("latency", Rates(1.0, None, None, None))
    plain = map_product(shape, array, limits, costs)
    found = map_product(shape, array, limits, costs, is_holding=True)
    assert (plain.dram_bytes, found.dram_bytes) == (384 + 12 * 96, 2 * 384 + 96)
    assert (found.order, found.weight_unit) == ("weights_outer", "whole_k")


def test_the_machine_waits_for_a_panel_that_takes_two_rooms(make_chip, make_memory, table):
    # As above on a chip: every byte is loaded once per use, and the ledger still sums.
    chip = make_chip(2, 3, size=108, weight_size=84, output_size=48)
    chip = replace(chip, array=replace(chip.array, dataflow="output_stationary"))
    stats = simulate(
        Workload("w", (gemm("g", 24, 6, 16),)),
        chip,
        technology=make_memory(bandwidth=1e9, latency=0.0),
        energy=table,
    )
    assert stats.traffic.dram_read == 2 * 384 + 96
    assert stats.cycles.total == sum(vars(stats.cycles).values()) >= 2 * 384 + 96 + 24 * 6 * 4


def test_several_tiles_stay_while_the_other_operand_passes(make_chip, make_memory, table):
    # 12 x 8 activations, 8 x 6 weights, 2 x 2 cells whose results stay. Results of one fold are 16
    # bytes, and half of the output buffer holds no more. 64 bytes hold all 48 of the weights: their
    # 3 panels of 2 columns stay, and 96 + 48 bytes are loaded. 32 bytes hold 2 panels, so that half
    # of the activations stays instead: 3 tiles of 2 rows, and the weights come twice.
    for size, times, tiling in ((64, 1, "3 x n2"), (32, 2, "3 x m2")):
        chip = make_chip(2, 2, size=64, weight_size=size, output_size=64)
        chip = replace(
            chip,
            array=replace(chip.array, dataflow="output_stationary"),
            mapping=MappingChoice("latency", resident_share=0.0),
        )
        work = Workload("w", (gemm("g", 12, 6, 8),))
        parts = {"technology": make_memory(bandwidth=1e9, latency=0.0), "energy": table}
        stats = simulate(work, chip, **parts)
        assert tiling in stats.layers[0].mapping
        assert stats.traffic.dram_read == 96 + times * 48
        assert stats.cycles.total == sum(vars(stats.cycles).values()) >= stats.traffic.dram
