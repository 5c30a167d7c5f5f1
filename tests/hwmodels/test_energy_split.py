"""hwmodels.energy_split: the same joules seen from other sides."""

from itertools import product
from math import isclose
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hwmodels.energy import EnergyRow, prices
from hwmodels.energy_split import (
    by_cause,
    by_component,
    by_factor,
    cause,
    inherited_share,
    ratio,
)

CHIPS = sorted(
    path.stem
    for path in (Path(__file__).resolve().parents[2] / "configs" / "hardware").glob("*.yaml")
)


def row(component, action, joules, *, low=None, high=None, factor="f", inherited=None):
    low, high = joules if low is None else low, joules if high is None else high
    return EnergyRow(component, action, 1, joules, low, high, "assumed", factor, inherited)


ROWS = (
    row("array", "mac_i8xi8", 5.0),
    row("array", "register_bit", 1.0),
    row("weight_buffer", "read_byte", 2.0, inherited="base"),
    row("memory", "read_bit", 4.0),
    row("memory", "refresh_rank", 3.0),
    row("array", "leakage", 0.5),
    row("memory", "background", 0.25),
    row("host", "op", 0.25, inherited="base"),
)


def test_causes_and_components_share_out_every_joule():
    assert by_cause(ROWS) == {
        "compute": 5.25,
        "on_chip_movement": 3.0,
        "off_chip_movement": 4.0,
        "static": 3.75,
    }
    assert by_component(ROWS) == {
        "array": 6.5,
        "weight_buffer": 2.0,
        "memory": 7.25,
        "host": 0.25,
    }
    assert inherited_share(ROWS) == 2.25 / 16
    assert inherited_share([]) == 0.0


@pytest.mark.parametrize("name", CHIPS)
def test_every_action_that_a_chip_has_belongs_where_it_should(name, shipped):
    for component, action in prices(*shipped(name)):
        found = cause((component, action))
        assert (found == "static") is (action in ("leakage", "background"))
        assert (found == "off_chip_movement") is (action in ("read_bit", "write_bit"))
        if component.endswith("_buffer") and action.endswith("_byte"):
            assert found == "on_chip_movement"
        if "mac" in action or action in ("vector_op", "clock", "op", "cycle"):
            assert found == "compute"


def test_a_factor_that_both_share_leaves_their_ratio_alone():
    mine = [row("array", "mac_i8xi4", 2.0, low=1.0, high=4.0, factor="mac")]
    other = [row("array", "mac_i8xi8", 4.0, low=2.0, high=8.0, factor="mac")]
    found = ratio(mine, other)
    assert (found.value, found.low, found.high) == (0.5, 0.5, 0.5)
    assert (found.loose_low, found.loose_high) == (1 / 8, 4 / 2)


def test_factors_of_one_side_move_freely():
    mine = [row("array", "mac_i8xi8", 2.0, low=1.0, high=4.0, factor="a")]
    other = [row("memory", "read_bit", 4.0, low=2.0, high=8.0, factor="b")]
    found = ratio(mine, other)
    assert (found.low, found.high) == (found.loose_low, found.loose_high) == (1 / 8, 4 / 2)
    assert ratio(mine, []) is None


joules = st.floats(0.1, 10.0)
ledgers = st.lists(
    st.tuples(st.sampled_from("abc"), joules, joules, joules), min_size=1, max_size=4
)


@settings(max_examples=60, deadline=None)
@given(ledgers, ledgers)
def test_the_range_of_a_ratio_is_that_of_all_places_of_all_factors(mine, other):
    def rows(ledger):
        return [
            row("array", "mac", ends[1], low=ends[0], high=ends[2], factor=factor)
            for factor, *some in ledger
            for ends in [sorted(some)]
        ]

    above, below = rows(mine), rows(other)
    found = ratio(above, below)
    sums = by_factor(above), by_factor(below)
    factors = sorted(sums[0] | sums[1])
    tried = []
    for places in product(("value", "low", "high"), repeat=len(factors)):
        at = dict(zip(factors, places, strict=True))
        totals = [sum(getattr(one, at[name]) for name, one in side.items()) for side in sums]
        tried.append(totals[0] / totals[1])
    assert isclose(found.low, min(tried), rel_tol=1e-9)
    assert isclose(found.high, max(tried), rel_tol=1e-9)
    assert found.loose_low <= found.low * (1 + 1e-12) <= found.value * (1 + 1e-9)
    assert found.value <= found.high * (1 + 1e-9) <= found.loose_high * (1 + 1e-9)
