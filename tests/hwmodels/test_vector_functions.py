"""hwmodels.vector: operations of functions as the table has them, or as a chip names them."""

from dataclasses import replace
from math import ceil

import pytest
from hw_samples import feed_forward, tensor, vector
from hypothesis import given, settings
from hypothesis import strategies as st

from hwmodels.simulate import simulate
from hwmodels.vector import (
    FUNCTIONS,
    FunctionCost,
    check_functions,
    function_cycles,
    functions_with,
    operation_count,
)
from hwmodels.workload import Workload


def cost(name, *operations):
    return FunctionCost(name, operations, "assumed for a test")


@settings(max_examples=30, deadline=None)
@given(
    operations=st.lists(st.integers(1, 6), min_size=1, max_size=4),
    elements=st.integers(0, 500),
    lanes=st.integers(1, 64),
)
def test_every_pass_goes_over_all_elements_lanes_at_a_time(operations, elements, lanes):
    cycles = 0
    for number in operations:
        left = elements
        while left > 0:
            cycles += number
            left -= lanes
    assert function_cycles(tuple(operations), elements, lanes) == cycles
    assert operation_count(tuple(operations), elements) == sum(operations) * elements


def test_what_a_chip_does_not_name_stays_as_the_table_has_it():
    own = functions_with((cost("gelu", 2), cost("softmax", 1, 2)))
    assert own["gelu"].operations == (2,)
    assert (own["softmax"].operations, own["softmax"].scope) == ((1, 2), "row")
    assert own["softmax"].source == "assumed for a test"
    assert {name: own[name] for name in FUNCTIONS if name not in ("gelu", "softmax")} == {
        name: row for name, row in FUNCTIONS.items() if name not in ("gelu", "softmax")
    }
    assert functions_with(()) == FUNCTIONS


@pytest.fixture
def run(make_chip, make_memory, table):
    """Return a function that runs a workload on a chip whose vector unit names its functions."""

    def simulated(workload, *functions):
        chip = make_chip(size=1 << 14)
        unit = replace(chip.vector_unit, functions=functions)
        return simulate(
            workload, replace(chip, vector_unit=unit), technology=make_memory(), energy=table
        )

    return simulated


def operations(stats):
    return sum(row.count for row in stats.energy if row.action in ("vector_op", "quantize_op"))


def test_a_named_function_takes_its_own_cycles_and_operations_alone_and_fused(run):
    x, y = tensor("x", "input", (6, 8), 32), tensor("y", "output", (6, 8), 32)
    alone = Workload("alone", (vector("g", "gelu", (x,), (y,)),))
    for own, number in (((), 4), ((cost("gelu", 2),), 2), ((cost("gelu", 9),), 9)):
        stats = run(alone, *own)
        assert stats.layers[0].cycles.vector == ceil(48 / 2) * number
        assert operations(stats) == 48 * number
    fused = feed_forward()
    before, after = run(fused), run(fused, cost("bias", 5), cost("dequantize", 3))
    results = 5 * 20  # one bias, and dequantized besides 5 * 12
    assert operations(after) - operations(before) == 4 * results + 2 * (results + 5 * 12)
    assert before.traffic == after.traffic


def test_more_passes_of_a_row_function_read_its_rows_again(run):
    x, y = tensor("x", "input", (6, 8), 32), tensor("y", "output", (6, 8), 32)
    work = Workload("alone", (vector("s", "softmax", (x,), (y,)),))
    two, three = run(work, cost("softmax", 1, 5)), run(work)
    assert three.traffic.input_buffer_read - two.traffic.input_buffer_read == 6 * 8 * 4
    assert two.traffic.dram == three.traffic.dram


def test_all_mistakes_of_named_functions_are_told_at_once(run):
    wrong = (cost("gelo", 1), cost("add", 1, 1), cost("relu", 1), cost("relu", 2))
    problems = check_functions(wrong)
    assert problems[0].startswith('vector_unit.functions.0.name: found "gelo", no vector function')
    assert problems[0].endswith('did you mean "gelu"?')
    assert problems[1].startswith("vector_unit.functions.1.operations: found 2 passes, expected 1")
    assert problems[2:] == ['vector_unit.functions.3.name: found "relu" a second time']
    with pytest.raises(ValueError, match="gelo") as error:
        run(feed_forward(), *wrong)
    assert len(str(error.value).splitlines()) == 3


def test_the_table_says_where_every_figure_is_from():
    assert all(function.source for function in FUNCTIONS.values())
