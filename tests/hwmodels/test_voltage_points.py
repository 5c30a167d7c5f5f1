"""hwmodels.voltage: joules, leakage and clocks at another voltage."""

from dataclasses import replace

import pytest
from hw_samples import feed_forward
from hypothesis import given, settings
from hypothesis import strategies as st

from hwmodels.energy_table import EnergyTable, find_action, interpolate_sram, table_problems
from hwmodels.simulate import simulate
from hwmodels.voltage import ALPHA, THRESHOLD_V, at_voltage, clock_share, slowed


@pytest.fixture
def nominal(table) -> EnergyTable:
    return replace(table, voltage_v=0.8)


def test_half_the_square_and_the_cube_by_hand(nominal):
    made = at_voltage("low", 0.6, nominal)
    assert find_action(made, "mac_i8xi8").value == pytest.approx(1e-12 * 9 / 16)
    assert interpolate_sram(made, 1024, way="write").value == pytest.approx(2e-12 * 9 / 16)
    assert made.cell_leakage_w.value == pytest.approx(1e-6 * 27 / 64)
    assert made.actions["vector_op"].source.startswith("at 0.6 V, 0.562 of: assumed")
    assert (made.name, made.voltage_v, made.node_m) == ("low", 0.6, nominal.node_m)
    assert not table_problems(made)


def test_voltages_far_away_and_tables_without_one_are_refused(nominal, table):
    for volts in (0.3, 0.47, 1.1):
        with pytest.raises(ValueError, match=r"low: voltage_v: found .* expected 0\.48 to 1\.04"):
            at_voltage("low", volts, nominal)
    with pytest.raises(ValueError, match="low: of: found round, which says no voltage_v"):
        at_voltage("low", 0.6, table)
    with pytest.raises(ValueError, match=r"voltage_v: found 0\.3 and 0\.8"):
        clock_share(0.3, 0.8)


@settings(max_examples=30, deadline=None)
@given(st.floats(0.4, 1.2), st.floats(0.4, 1.2))
def test_a_higher_voltage_is_never_slower(first, second):
    low, high = sorted((first, second))
    assert clock_share(low, 0.8) <= clock_share(high, 0.8) * (1 + 1e-12)
    speeds = [(volts - THRESHOLD_V) ** ALPHA / volts for volts in (low, 0.8)]
    assert clock_share(low, 0.8) == pytest.approx(speeds[0] / speeds[1])


def test_a_slower_chip_takes_as_many_cycles_less_dynamic_energy_and_more_time(
    make_chip, ideal, nominal
):
    chip = make_chip(size=1 << 14)
    share = clock_share(0.6, 0.8)
    fast = simulate(feed_forward(), chip, technology=ideal, energy=nominal)
    slow = simulate(
        feed_forward(), slowed(chip, share), technology=ideal, energy=at_voltage("l", 0.6, nominal)
    )
    assert slow.cycles.total == pytest.approx(fast.cycles.total, rel=1e-3)
    assert slow.seconds == pytest.approx(fast.seconds / share, rel=1e-3)
    macs = [
        next(row.energy_j for row in stats.energy if row.action == "mac_i8xi8")
        for stats in (fast, slow)
    ]
    assert macs[1] == pytest.approx(macs[0] * 9 / 16)
