"""Refresh follows temperature, and temperature the power that refresh takes."""

from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cosim import config
from hwmodels.energy import EnergyRow
from hwmodels.thermal import (
    REFRESH_STEPS,
    Ladder,
    StackPower,
    ThermalError,
    ThermalStack,
    make_ladder,
    power_of,
    settle,
    temperatures,
)

FOLDER = Path(__file__).resolve().parents[2] / "configs/memory/thermal"
# One kelvin per watt from one DRAM die straight to the ambient, and a logic die that is no hotter.
PLAIN = Ladder("plain", ("logic", "dram_0"), (1e-9, 1.0), (1.0, 1.0), 0.0)


def constant(dram_w):
    return lambda _: StackPower(0.0, dram_w)


@pytest.mark.parametrize(
    ("celsius", "rate"),
    [(20, 1), (85, 1), (85.001, 2), (95, 2), (95.001, 4), (105, 4)],
)
def test_each_rate_holds_up_to_its_limit(celsius, rate):
    found = settle(constant(celsius), PLAIN)
    assert found.refresh_multiplier == rate
    assert found.dram_c == pytest.approx(celsius, rel=1e-12)
    assert not found.is_alternating


def test_above_the_last_limit_the_design_is_refused_with_every_temperature():
    with pytest.raises(ThermalError) as caught:
        settle(lambda rate: StackPower(0.0, 110.0 + rate), PLAIN)
    text = str(caught.value)
    for part in ("1 x refresh: 111.0 C", "2 x refresh: 112.0 C", "4 x refresh: 114.0 C"):
        assert f"plain: {part} in the hottest DRAM die" in text
    assert "plain: expected at most 105 C" in text


def test_a_logic_die_beyond_every_limit_is_refused_though_the_dram_is_cool():
    ladder = Ladder("hot logic", ("logic", "dram_0"), (10.0, 1.0), (1.0, 1.0), 20.0)
    with pytest.raises(ThermalError, match=r"hot logic: logic: 130\.0 C, expected at most 105 C"):
        settle(lambda _: StackPower(10.0, 0.0), ladder)


def test_refresh_that_heats_beyond_its_own_limit_asks_for_the_next_rate():
    # Each refresh of every 64 ms takes 4 W here: 92 C as usual, 96 C twice as often.
    found = settle(lambda rate: StackPower(0.0, 88.0 + 4.0 * rate), PLAIN)
    assert found.refresh_multiplier == 4
    assert found.tried == ((1, 92.0), (2, 96.0), (4, 104.0))


def test_refresh_that_slows_and_cools_the_stack_keeps_the_higher_rate_and_says_so():
    # 86 C at full bandwidth; refreshed twice as often it moves less, and cools to 84 C.
    found = settle(lambda rate: StackPower(0.0, 88.0 - 2.0 * rate), PLAIN)
    assert found.refresh_multiplier == 2
    assert found.is_alternating
    assert found.tried == ((1, 86.0), (2, 84.0))


@settings(max_examples=60, deadline=None)
@given(powers=st.lists(st.floats(0, 130), min_size=3, max_size=3))
def test_whatever_refresh_does_to_power_the_result_is_safe_and_the_lowest_that_is(powers):
    asked = []

    def power(rate):
        asked.append(rate)
        return StackPower(0.0, powers[(1, 2, 4).index(rate)])

    safe = [rate for (limit, rate), p in zip(REFRESH_STEPS, powers, strict=True) if p <= limit]
    if safe:
        found = settle(power, PLAIN)
        assert found.refresh_multiplier == safe[0]
        assert found.dram_c == pytest.approx(powers[(1, 2, 4).index(safe[0])], abs=1e-9)
    else:
        with pytest.raises(ThermalError):
            settle(power, PLAIN)
    assert asked == [1, 2, 4][: len(asked)]


def test_a_settled_stack_is_at_its_steady_temperatures_and_gets_there_in_time():
    stack = config.load(FOLDER / "stack_4high.yaml", ThermalStack)
    ladder = make_ladder(stack)
    found = settle(lambda _: StackPower(8.0, 2.0), ladder)
    expected = temperatures(ladder, (8.0, 0.5, 0.5, 0.5, 0.5, 0.0))
    assert tuple(found.temperatures_c.values()) == expected
    assert found.dram_c == max(expected[1:5])
    end, tau = found.temperatures_c["logic"], found.time_constant_s
    assert found.after(0.0, "logic") == 40.0
    assert found.after(tau, "logic") == pytest.approx(end + (40.0 - end) * 0.36787944, rel=1e-7)
    assert found.after(0.0, "logic", start_c=70.0) == 70.0
    assert found.after(60 * tau, "logic", start_c=70.0) == pytest.approx(end, abs=1e-9)


def test_the_power_of_the_logic_die_decides_the_temperature_of_the_dram():
    # Eight dies of HBM2 at full stream take 3.7 W; thirteen watts below them make them hot.
    ladder = make_ladder(config.load(FOLDER / "stack_8high.yaml", ThermalStack))
    rates = [
        settle(lambda _, watts=watts: StackPower(watts, 3.7), ladder).refresh_multiplier
        for watts in (0.0, 3.0, 6.0)
    ]
    assert rates == [1, 1, 2]
    with pytest.raises(ThermalError):
        settle(lambda _: StackPower(20.0, 3.7), ladder)


def test_the_memory_heats_its_dies_and_everything_else_the_logic():
    rows = [
        EnergyRow(component, action, count, 1e-12, 1e-12, 1e-12, "test", "test")
        for component, action, count in (
            ("memory", "activate", 1_000_000),
            ("memory", "io_bit", 20_000_000),
            ("memory", "via_bit", 3_000_000),
            ("array", "mac_i8xi8", 400_000_000),
        )
    ]
    found = power_of(rows, 1e-4)
    assert found.dram_w == pytest.approx(0.04, rel=1e-12)
    assert found.logic_w == pytest.approx(4.2, rel=1e-12)
    with pytest.raises(ValueError, match="seconds: found 0, expected more than 0"):
        power_of(rows, 0.0)
