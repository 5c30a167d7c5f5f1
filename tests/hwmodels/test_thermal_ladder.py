"""Heat through a stack: analytic solutions, conservation, time constants."""

from dataclasses import replace
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cosim import config
from cosim.errors import CosimError
from hwmodels.thermal import Ladder, ThermalStack, make_ladder, temperatures, time_constant_s

FOLDER = Path(__file__).resolve().parents[2] / "configs/memory/thermal"
FILES = sorted(FOLDER.glob("*.yaml"))
RESISTANCE = st.floats(1e-3, 1e2)


@st.composite
def ladders(draw):
    count = draw(st.integers(1, 9))
    values = [draw(st.lists(RESISTANCE, min_size=count, max_size=count)) for _ in range(2)]
    board = draw(st.none() | RESISTANCE)
    power = draw(st.lists(st.floats(0, 50), min_size=count, max_size=count))
    nodes = tuple(f"dram_{i}" for i in range(count))
    return Ladder("any", nodes, tuple(values[0]), tuple(values[1]), 40.0, board), tuple(power)


def conductances(ladder):
    """Return the matrix of heat balances, written down resistor by resistor."""
    count = len(ladder.nodes)
    matrix = np.zeros((count, count))
    for i, r in enumerate(ladder.up_k_per_w):
        matrix[i, i] += 1 / r
        if i + 1 < count:
            matrix[i + 1, i + 1] += 1 / r
            matrix[i, i + 1] -= 1 / r
            matrix[i + 1, i] -= 1 / r
    if ladder.board_k_per_w is not None:
        matrix[0, 0] += 1 / ladder.board_k_per_w
    return matrix


def test_two_dies_between_board_and_sink_are_as_worked_out_by_hand():
    # 3 W and 5 W; 2 K/W to the board, 1 K/W between, 4 K/W to the sink. Balances of heat:
    # x/2 + (x - y) = 3 and y/4 + (y - x) = 5, so 3x/2 - y = 3 and 5y/4 - x = 5.
    y = (5 + Fraction(2, 3) * 3) / (Fraction(5, 4) - Fraction(2, 3))
    x = Fraction(2, 3) * (3 + y)
    ladder = Ladder("two", ("a", "b"), (1.0, 4.0), (1.0, 1.0), 20.0, 2.0)
    expected = [float(20 + x), float(20 + y)]
    assert temperatures(ladder, (3.0, 5.0)) == pytest.approx(expected, rel=1e-14)
    assert (x, y) == (10, 12)


@settings(max_examples=60, deadline=None)
@given(case=ladders())
def test_steady_state_solves_the_balances_of_heat(case):
    ladder, power = case
    found = np.array(temperatures(ladder, power)) - ladder.ambient_c
    solved = np.linalg.solve(conductances(ladder), np.array(power))
    np.testing.assert_allclose(found, solved, rtol=1e-9, atol=1e-9 * (1 + solved.max()))


@settings(max_examples=40, deadline=None)
@given(case=ladders(), times=st.floats(0, 3))
def test_all_heat_leaves_and_rises_add_up(case, times):
    ladder, power = case
    rise = np.array(temperatures(ladder, power)) - ladder.ambient_c
    leaving = rise[-1] / ladder.up_k_per_w[-1]
    if ladder.board_k_per_w is not None:
        leaving += rise[0] / ladder.board_k_per_w
    assert leaving == pytest.approx(sum(power), rel=1e-9, abs=1e-9)
    more = np.array(temperatures(ladder, tuple(times * p for p in power))) - ladder.ambient_c
    np.testing.assert_allclose(more, times * rise, rtol=1e-9, atol=1e-8)


def test_a_ladder_without_power_is_as_warm_as_its_surroundings():
    ladder = make_ladder(config.load(FOLDER / "stack_8high.yaml", ThermalStack))
    assert set(temperatures(ladder, (0.0,) * 10)) == {40.0}


def test_one_die_of_a_stack_has_the_published_resistance():
    # Silicon 400 um, copper 5 um, insulator 20 um on 64 mm2: a quarter of a kelvin per watt, two
    # kelvin per watt for eight dies; 3.7 W in eight dies warm the stack by less than 8 K.
    ladder = make_ladder(config.load(FOLDER / "stack_8high.yaml", ThermalStack))
    assert ladder.up_k_per_w[0] == pytest.approx(0.25, abs=0.005)
    assert sum(ladder.up_k_per_w[1:9]) == pytest.approx(2.0, abs=0.01)
    found = temperatures(ladder, (0.0, *[3.7 / 8] * 8, 0.0))
    assert 1 < found[0] - found[8] < 8
    assert found[9] - 40 == pytest.approx(3.7 * 1e-3 / (4 * 64e-6), rel=1e-12)


def test_a_logic_die_next_to_the_sink_leaves_the_dram_cooler():
    stack = config.load(FOLDER / "stack_4high.yaml", ThermalStack)
    below, above = (make_ladder(replace(stack, logic=place)) for place in ("below", "above"))
    assert below.nodes[0] == "logic"
    assert above.nodes[-2] == "logic"
    power = (10.0, *[0.5] * 4)
    hot = temperatures(below, (*power, 0.0))[1:5]
    cool = temperatures(above, (*power[::-1], 0.0))[:4]
    assert max(cool) < max(hot) - 1


def test_time_constants_of_one_and_two_nodes_are_closed_forms():
    one = Ladder("one", ("a",), (2.0,), (3.0,), 25.0)
    assert time_constant_s(one) == pytest.approx(6.0, rel=1e-12)
    # Equal R and C: eigenvalues of [[1, -1], [-1, 2]] / RC are (3 -+ sqrt 5) / 2.
    two = Ladder("two", ("a", "b"), (2.0, 2.0), (3.0, 3.0), 25.0)
    assert time_constant_s(two) == pytest.approx(6 * 2 / (3 - 5**0.5), rel=1e-12)
    both = Ladder("both ways", ("a",), (2.0,), (3.0,), 25.0, 2.0)
    assert time_constant_s(both) == pytest.approx(3.0, rel=1e-12)


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_a_cooling_stack_dies_away_with_its_time_constant(path):
    # Implicit steps of the heat balances themselves; late on only the slowest mode is left.
    ladder = make_ladder(config.load(path, ThermalStack))
    tau = time_constant_s(ladder)
    capacity = np.diag(ladder.capacity_j_per_k)
    step = tau / 2000
    matrix = np.linalg.inv(capacity + step * conductances(ladder)) @ capacity
    late = np.linalg.matrix_power(matrix, 16_000) @ np.ones(len(ladder.nodes))
    later = np.linalg.matrix_power(matrix, 2000) @ late
    assert later / late == pytest.approx(np.exp(-1), rel=1e-3)
    elmore = sum(c * sum(ladder.up_k_per_w[i:]) for i, c in enumerate(ladder.capacity_j_per_k))
    assert tau <= elmore * (1 + 1e-9)


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_every_shipped_stack_is_sound(path):
    stack = config.load(path, ThermalStack)
    assert stack.name == path.stem
    for figure in (stack.area_m2, stack.ambient_c, stack.board_k_per_w):
        if figure is not None:
            low, high = figure.bounds
            assert low < figure.value < high
            assert "assumed" in figure.source
    ladder = make_ladder(stack)
    assert len(ladder.nodes) == stack.dram_dies + 2
    found = temperatures(ladder, (1.0,) * len(ladder.nodes))
    assert ladder.board_k_per_w is not None or list(found) == sorted(found, reverse=True)


def test_a_stack_that_cannot_be_is_refused_with_all_mistakes():
    data = config.read(FOLDER / "dram_under_logic.yaml")
    data["area_m2"] = {"value": 0.0, "source": "assumed"}
    data["ambient_c"] = {"value": 40.0, "low": 50.0, "source": "assumed"}
    data["board_k_per_w"] = {"value": 5.0, "low": 0.0, "source": "assumed"}
    with pytest.raises(CosimError) as caught:
        config.parse(data, ThermalStack, source="stack.yaml")
    text = str(caught.value)
    for part in (
        "dram_under_logic: area_m2: found low 0, expected more than 0",
        "ambient_c: found low 50, value 40, high 40, expected low <= value <= high",
        "board_k_per_w: found low 0, expected more than 0",
    ):
        assert part in text, part
    data["dram_dies"] = 0
    data["logic"] = "beside"
    with pytest.raises(CosimError, match="dram_dies: found 0"):
        config.parse(data, ThermalStack, source="stack.yaml")
