"""Claims about ranking: the lowest of all arrays, exactly so many, of equals the first ones."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from cosim.compress.ranking import lowest, share_of

# Equal upper halves of bits, equal values, both ends of float32: what a selection by bits can miss.
SCORES = [0.0, 1e-45, 1e-38, 1.0, float(np.nextafter(np.float32(1), np.float32(2))), 1.5, 3e38]


def makers(tables):
    return [lambda table=table: table for table in tables]


@given(
    st.lists(arrays(np.float32, st.integers(0, 12), elements=st.sampled_from(SCORES)), max_size=5),
    st.data(),
)
def test_the_lowest_of_all_arrays_are_chosen_and_of_equals_the_first(tables, data):
    ranked = sorted(
        (float(score), index, place)
        for index, table in enumerate(tables)
        for place, score in enumerate(table)
    )
    count = data.draw(st.integers(0, len(ranked)))
    found = list(lowest(makers(tables), count))
    assert [mask.shape for mask in found] == [table.shape for table in tables]
    places = {(i, int(p)) for i, mask in enumerate(found) for p in np.flatnonzero(mask)}
    assert places == {(index, place) for _, index, place in ranked[:count]}


def test_arrays_longer_than_a_count_takes_at_once_are_ranked_as_one():
    table = np.random.default_rng(1).integers(0, 5000, 600_000).astype(np.float32)
    (mask,) = lowest(makers([table]), 299_999)
    wanted = np.zeros(table.size, np.bool_)
    wanted[np.argsort(table, kind="stable")[:299_999]] = True
    np.testing.assert_array_equal(mask, wanted)


def test_infinite_scores_come_last():
    (mask,) = lowest(makers([np.array([np.inf, 2, np.inf, 1], np.float32)]), 3)
    assert mask.tolist() == [True, True, False, True]


def test_more_than_there_are_is_refused():
    with pytest.raises(ValueError, match="found 2 scores, expected at least 3"):
        list(lowest(makers([np.ones(2, np.float32)]), 3))


@pytest.mark.parametrize(
    ("rate", "total", "count"), [(0.29, 100, 29), (0.57, 100, 57), (0.3, 9, 2)]
)
def test_share_counts_the_decimal_that_was_written(rate, total, count):
    assert share_of(rate, total) == count
