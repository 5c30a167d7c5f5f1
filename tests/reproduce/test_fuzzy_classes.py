"""Paper 000: what drawn weights of known distributions are by the fuzzy classes."""

import math

import pytest

from cosim.reproduce import reproduce
from cosim.reproduce.adaptive_compression import THREE_CLASSES, TWO_CLASSES, classes


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
    found = classes(exponent, THREE_CLASSES[which])
    shares = [100 * found.shares[letter] for letter in "LMH"]
    assert shares == pytest.approx(expected, abs=0.8)
    assert sum(shares) == pytest.approx(100)
    assert found.unclassified == 0
    if which == "first":
        assert found.decided == "M"
    else:
        assert found.decided in ("L", "H")


def test_low_weights_of_two_classes_are_those_within_a_deviation_of_the_least():
    # magnitudes of normal weights deviate by sqrt(1 - 2 / pi), those of Laplace weights by 1
    normal, laplace = classes(2.0, TWO_CLASSES), classes(1.0, TWO_CLASSES)
    deviation = math.sqrt(1 - 2 / math.pi)
    assert normal.shares["L"] == pytest.approx(math.erf(deviation / math.sqrt(2)), abs=0.003)
    assert laplace.shares["L"] == pytest.approx(1 - math.exp(-1), abs=0.003)
    assert (normal.decided, laplace.decided) == ("H", "L")


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


def test_table_six_tells_which_layers_are_low():
    rows = {row.quantity: row for row in reproduce("000", table="VI")}
    normal = rows["share of weights of class L, normal weights, two classes"]
    assert normal.note.startswith("such a layer is of class H, 4 bits")
    laplace = rows["share of weights of class L, Laplace weights, two classes"]
    assert laplace.note.startswith("such a layer is of class L, 2 bits")
    # 87 - 0.3383 (87 - 51)
    assert rows["Ebranch zipped"].ours == pytest.approx(74.82, abs=0.005)
