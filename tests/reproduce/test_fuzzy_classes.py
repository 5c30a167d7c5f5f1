"""Fuzzy classes of weights: memberships by hand, shares of known distributions."""

import numpy as np
import pytest

from cosim.reproduce import reproduce
from cosim.reproduce.adaptive_compression import classes
from cosim.reproduce.fuzzy import knots_of, shares_of, trapezoid


def test_a_trapezoid_rises_stays_and_falls():
    x = np.array([0.0, 1.0, 1.5, 2.0, 3.0, 3.5, 4.0, 5.0])
    found = trapezoid(x, (1.0, 2.0, 3.0, 4.0))
    assert found.tolist() == [0.0, 0.0, 0.5, 1.0, 1.0, 0.5, 0.0, 0.0]


def test_equal_knots_are_a_step_that_holds_its_end():
    x = np.array([0.0, 1.0, 2.0, 3.0])
    assert trapezoid(x, (1.0, 1.0, 2.0, 2.0)).tolist() == [0.0, 1.0, 1.0, 0.0]


def test_knots_ascend_for_every_shape():
    rng = np.random.default_rng(0)
    for magnitudes in (rng.random(1000), rng.exponential(size=1000), np.full(10, 3.0)):
        knots = knots_of(magnitudes, 0.5, 1.0)
        for values in (knots.low, knots.medium, knots.high):
            assert list(values) == sorted(values)


def test_five_weights_by_hand():
    # magnitudes 0, 1, 2, 3, 4: median 2, deviation sqrt(2)
    found = shares_of(np.array([0.0, -1.0, 2.0, -3.0, 4.0]), 0.5, 1.0)
    # low: 1 up to 2 - 0.707, 0 from 1.414; medium: triangle of half width 1.414 about 2;
    # high: 0 up to 2.586 or 2.707, 1 from there
    assert (found.low, found.medium, found.high) == pytest.approx((0.4, 0.2, 0.4))
    assert found.unclassified == 0.0


@pytest.mark.parametrize(
    ("which", "exponent", "expected"),
    [
        ("first", 0.8, (32, 50, 18)),
        ("first", 1.0, (34, 47, 19)),
        ("first", 2.0, (35, 43, 22)),
        ("first", 8.0, (33, 41, 26)),
        ("second", 0.8, (39, 32, 29)),
        ("second", 1.0, (39, 30, 30)),
        ("second", 2.0, (39, 29, 33)),
        ("second", 8.0, (35, 31, 35)),
    ],
)
def test_shares_of_generalised_normal_weights(which, exponent, expected):
    found = classes(exponent, which)
    shares = [100 * share for share in (found.low, found.medium, found.high)]
    assert shares == pytest.approx(expected, abs=0.8)
    assert sum(shares) == pytest.approx(100)


def test_weights_of_no_class_are_medium():
    # beta far below alpha: the triangle is narrow and leaves gaps on both sides
    weights = np.random.default_rng(2).standard_normal(20_000)
    found = shares_of(weights, 1.0, 0.25)
    assert found.unclassified > 0.05
    assert found.medium >= found.unclassified


def test_most_layers_are_of_the_class_that_most_weights_have():
    rows = [row for row in reproduce("000", table="V") if row.quantity.startswith("share")]
    assert len(rows) == 8
    assert all(row.verdict == "ambiguous" for row in rows)


def test_the_pruning_rate_is_the_share_of_low_weights_for_the_second_parameters_only():
    rows = [row for row in reproduce("000", table="V") if row.quantity.startswith("pruning")]
    for row in rows:
        is_second = row.quantity.endswith("beta = 0.5 std")
        assert row.verdict == ("ambiguous" if is_second else "not reproducible")
        assert row.paper == ("36" if is_second else "48")
