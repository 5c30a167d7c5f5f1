"""Claims about memberships: equation 2 case by case, ranges, continuity, slopes, ties, signs."""

from collections import Counter

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from cosim.compress.fuzzy_classes import decide, knots_of, trapezoid

NUMBERS = st.floats(-1000, 1000, width=32)
KNOTS = st.tuples(NUMBERS, NUMBERS, NUMBERS, NUMBERS).map(lambda knots: tuple(sorted(knots)))
WEIGHTS = arrays(np.float32, st.integers(1, 60), elements=st.floats(-100, 100, width=32))
PARAMETERS = st.sampled_from([(0.5, 1.0), (0.5, 0.5), (1.0, 0.25), (0.0, 2.0), (0.5, None)])


def printed(x, a, b, c, d):
    """Equation 2 in its order, with plateaus that hold their ends."""
    if b <= x <= c:
        return 1.0
    if x <= a or x >= d:
        return 0.0
    return (x - a) / (b - a) if x < b else (d - x) / (d - c)


@given(KNOTS, st.lists(NUMBERS, min_size=1, max_size=20))
def test_a_membership_is_equation_2_within_0_and_1(knots, x):
    places = np.array([*x, *knots])
    found = trapezoid(places, knots)
    np.testing.assert_allclose(found, [printed(value, *knots) for value in places], atol=1e-12)
    assert found.min() >= 0
    assert found.max() <= 1


@given(KNOTS, NUMBERS, NUMBERS)
def test_a_membership_rises_up_to_its_plateau_and_falls_after_it(knots, x, y):
    left, right = np.sort([x, y])
    before, after = trapezoid(np.array([left, right]), knots)
    if right <= knots[2]:
        assert before <= after
    if left >= knots[1]:
        assert before >= after


@given(KNOTS, NUMBERS, st.floats(1e-3, 10))
def test_a_membership_with_ramps_is_continuous(knots, x, step):
    a, b, c, d = knots
    assume(min(b - a, d - c) > 0.01)
    before, after = trapezoid(np.array([x, x + step]), knots)
    assert abs(after - before) <= step / min(b - a, d - c) * (1 + 1e-9)


def test_equal_knots_are_a_step_that_holds_its_end():
    x = np.array([0.0, 1.0, 2.0, 3.0])
    assert trapezoid(x, (1.0, 1.0, 2.0, 2.0)).tolist() == [0.0, 1.0, 1.0, 0.0]


@given(WEIGHTS, PARAMETERS)
def test_knots_ascend_for_all_weights(weights, parameters):
    alpha, beta = parameters
    knots = knots_of(np.abs(weights, dtype=np.float64), alpha=alpha, beta=beta)
    for values in knots.by_class.values():
        assert list(values) == sorted(values)
    assert (knots.medium is None) == (beta is None)


def one_by_one(weights, alpha, beta):
    """Class of each weight and its memberships, by the equations and the order of ties."""
    sizes = np.abs(weights.astype(np.float64))
    least, most, middle, spread = sizes.min(), sizes.max(), np.median(sizes), sizes.std()
    functions = {"H": sorted((most, most, most - spread, middle + alpha * spread))}
    if beta is not None:
        functions["M"] = (middle - beta * spread, middle, middle, middle + beta * spread)
    functions["L"] = sorted((least, least, least + spread, middle - alpha * spread))
    for size in sizes:
        degrees = {letter: printed(size, *knots) for letter, knots in functions.items()}
        best = max(degrees.values())
        tied = next(letter for letter, degree in degrees.items() if degree == best)
        yield (tied if best else "M" if beta is not None else "H"), degrees


@given(WEIGHTS, PARAMETERS)
def test_classes_are_those_of_each_weight_on_its_own(weights, parameters):
    alpha, beta = parameters
    found = decide(weights, alpha=alpha, beta=beta)
    expected = list(one_by_one(weights, alpha, beta))
    counts = Counter(letter for letter, _ in expected)
    for letter, share in found.shares.items():
        assert share * weights.size == pytest.approx(counts[letter], abs=1e-6)
        total = sum(degrees[letter] for _, degrees in expected)
        assert found.memberships[letter] == pytest.approx(total, abs=1e-6)
    low = [letter == "L" for letter, _ in expected]
    assert found.is_low.tolist() == low
    assert found.decided == max("HML", key=lambda letter: counts[letter])


@given(WEIGHTS, PARAMETERS)
def test_signs_do_not_matter(weights, parameters):
    alpha, beta = parameters
    found = decide(weights, alpha=alpha, beta=beta)
    for other in (-weights, np.abs(weights)):
        same = decide(other, alpha=alpha, beta=beta)
        assert (same.shares, same.decided) == (found.shares, found.decided)
        np.testing.assert_array_equal(same.is_low, found.is_low)


def test_five_weights_by_hand():
    # magnitudes 0, 1, 2, 3, 4: median 2, deviation sqrt(2)
    found = decide(np.array([0.0, -1.0, 2.0, -3.0, 4.0]), alpha=0.5, beta=1.0)
    # low: 1 up to 2 - 0.707, 0 from 1.414; medium: triangle of half width 1.414 about 2;
    # high: 0 up to 2.586 or 2.707, 1 from there
    assert found.shares == {"L": 0.4, "M": 0.2, "H": 0.4}
    # 0 and 1 are low, 3 and 4 high: of two classes as large, the one that keeps more
    assert found.decided == "H"
    assert found.is_low.tolist() == [True, True, False, False, False]
    root = 2**0.5
    assert found.memberships["L"] == pytest.approx(2.0)
    assert found.memberships["M"] == pytest.approx(1 + 2 * (1 - 1 / root))
    assert found.memberships["H"] == pytest.approx(2.0)
    assert found.unclassified == 0.0


@pytest.mark.parametrize("value", [0.0, 0.1, -3.0, 1e-30])
@pytest.mark.parametrize("count", [1, 7])
@pytest.mark.parametrize("beta", [0.5, None])
def test_weights_that_are_all_equal_are_kept(value, count, beta):
    found = decide(np.full(count, value, np.float32), alpha=0.5, beta=beta)
    assert found.decided == "H"
    assert found.shares["H"] == 1
    assert not found.is_low.any()


def test_two_weights_are_low_and_high():
    found = decide(np.array([[1.0], [-5.0]]), alpha=0.5, beta=1.0)
    # median 3, deviation 2: medium is 0 at both ends
    assert found.shares == {"L": 0.5, "M": 0.0, "H": 0.5}
    assert found.decided == "H"
    assert found.is_low.tolist() == [[True], [False]]


def test_weights_of_no_class_are_medium_or_high():
    weights = np.random.default_rng(2).standard_normal(20_000)
    three = decide(weights, alpha=1.0, beta=0.25)  # a narrow triangle leaves gaps at both sides
    assert three.unclassified > 0.05
    assert three.shares["M"] >= three.unclassified
    two = decide(weights, alpha=0.5, beta=None)
    assert two.unclassified > 0.2
    assert two.shares["H"] >= two.unclassified


def test_many_weights_are_classified_as_few():
    rng = np.random.default_rng(4)
    weights = rng.laplace(size=150_000).astype(np.float32)
    found = decide(weights, alpha=0.5, beta=0.5)
    knots = knots_of(np.abs(weights, dtype=np.float64), alpha=0.5, beta=0.5)
    degrees = np.array(
        [trapezoid(np.abs(weights, dtype=np.float64), k) for k in knots.by_class.values()]
    )
    np.testing.assert_array_equal(found.is_low, degrees.argmax(axis=0) == 2)
    np.testing.assert_allclose(list(found.memberships.values()), degrees.sum(axis=1))
