"""hwmodels.tightly_coupled against a core that feeds a small array word by word."""

from itertools import count

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hwmodels.tightly_coupled import (
    Coupling,
    first_result,
    phases,
    product_instructions,
    row_words,
    tile_instructions,
    words,
)


class Cells:
    """R x R multiply-accumulate cells with skewed inputs and outputs, one step per stream."""

    def __init__(self, weights):
        self.weights = weights
        self.size = len(weights)
        self.inputs = np.zeros((self.size, self.size), dtype=np.int64)
        self.sums = np.zeros((self.size, self.size), dtype=np.int64)
        self.waiting_in = [[0] * row for row in range(self.size)]
        self.waiting_out = [[0] * (self.size - 1 - column) for column in range(self.size)]

    def step(self, row):
        """Take one row of activations and return the row of results that leaves."""
        late = [pipe.append(value) or pipe.pop(0) for pipe, value in zip(self.waiting_in, row)]  # noqa: B905
        self.inputs = np.column_stack([late, self.inputs[:, :-1]])
        above = np.vstack([np.zeros(self.size, dtype=np.int64), self.sums[:-1]])
        self.sums = above + self.inputs * self.weights
        out = zip(self.waiting_out, self.sums[-1], strict=True)
        return [pipe.append(value) or pipe.pop(0) for pipe, value in out]


def feed(weights, rows, coupling, bits):
    """Let a core do one tile until it has read all results; return them and what it executed."""
    size = len(weights)
    words_in = -(-size // (coupling.bus_bits // bits))
    words_out = -(-size // (coupling.bus_bits // (coupling.result_bits or bits)))
    per_row = max(words_in, words_out)
    cells, done = Cells(weights), {"queues": 0, "streams": 0, "loads": 0}
    results, fresh, first = [], [], None
    for number in count():
        row, place = divmod(number, per_row)
        done["loads"] += row < len(rows) and place < words_in
        if place == per_row - 1:
            done["streams"] += 1
            fresh = cells.step(rows[row] if row < len(rows) else [0] * size)
            if row >= 2 * size - 2:
                results.append(fresh)
        else:
            done["queues"] += 1
        if results and first is None:
            first = number, done["loads"] - (row < len(rows) and place < words_in)
        # The last row is whole when the words behind its first one have been asked for.
        if len(results) == len(rows) and place == (per_row - 2 if per_row > 1 else 0):
            return np.array(results), done, first
    return None


@settings(max_examples=25, deadline=None)
@given(
    size=st.integers(1, 6),
    m=st.integers(1, 9),
    bits=st.sampled_from([8, 16, 32]),
    result_bits=st.sampled_from([0, 32]),
    bus_bits=st.sampled_from([32, 64]),
)
def test_a_core_that_feeds_cells_needs_the_formula_and_gets_the_product(
    size, m, bits, result_bits, bus_bits
):
    rng = np.random.default_rng([size, m])
    weights, rows = rng.integers(-9, 9, (size, size)), rng.integers(-9, 9, (m, size))
    coupling = Coupling(bus_bits=bus_bits, result_bits=result_bits)
    results, done, (first, early_loads) = feed(weights, rows, coupling, bits)
    np.testing.assert_array_equal(results, rows @ weights)
    tile = tile_instructions(size, coupling, m=m, a_bits=bits, w_bits=bits)
    assert (tile.queues, tile.streams) == (done["queues"], done["streams"])
    assert tile.loads - tile.parameter_writes == done["loads"]
    assert tile.fill == first_result(size, coupling, a_bits=bits) == first
    assert tile.fill_loads == early_loads
    assert tile.additions == m * row_words(size, coupling, a_bits=bits)


def test_one_tile_is_the_published_formula():
    for size, m, a_bits, w_bits in [(4, 499, 8, 8), (8, 1, 16, 8), (16, 128, 8, 4), (32, 7, 32, 8)]:
        a, w = 32 // a_bits, 32 // w_bits
        tile = tile_instructions(size, Coupling(), m=m, a_bits=a_bits, w_bits=w_bits)
        assert tile.custom == size * -(-size // w) + -(-size // a) * (m + 2 * size - 1) - 1


def test_every_cycle_of_a_tile_of_two_by_two():
    # R = 2, M = 3, 8 bits: a word carries a whole row. 2 weights, rows 0 1 2 and two empty ones;
    # results come with rows 2, 3, 4.
    coupling = Coupling(instruction_cycles=2, load_cycles=3, add_cycles=5)
    tile = tile_instructions(2, coupling, m=3, a_bits=8, w_bits=8)
    assert (tile.parameter_writes, tile.queues, tile.streams, tile.loads) == (2, 0, 5, 5)
    found = phases(tile, coupling)
    assert found.weight_load == 2 * (2 + 3)
    assert found.fill == 2 * (2 + 3)
    assert found.compute == (2 + 3) + 2 * 2
    assert found.addition == 3 * 5
    assert found.total == 44


def test_tiles_of_zeros_cost_nothing_and_edges_count_whole():
    sizes = {"m": 10, "n": 9, "k": 5, "a_bits": 8, "w_bits": 8}
    one = tile_instructions(4, Coupling(), m=10, a_bits=8, w_bits=8)
    assert product_instructions(4, Coupling(), **sizes) == one.times(6)
    assert product_instructions(4, Coupling(), **sizes, occupied=2) == one.times(2)
    assert product_instructions(4, Coupling(), **sizes, occupied=0).custom == 0


def test_cycles_of_a_product_are_those_of_its_tiles():
    coupling = Coupling(load_cycles=2, add_cycles=3)
    one = tile_instructions(8, coupling, m=77, a_bits=8, w_bits=8)
    assert phases(one.times(30), coupling).total == 30 * phases(one, coupling).total


def test_sums_of_32_bits_take_more_words_out_than_came_in():
    eight = tile_instructions(16, Coupling(), m=499, a_bits=8, w_bits=8)
    whole = tile_instructions(16, Coupling(result_bits=32), m=499, a_bits=8, w_bits=8)
    assert (eight.additions, whole.additions) == (499 * 4, 499 * 16)
    assert eight.streams == whole.streams
    assert whole.custom > 3 * eight.custom


def test_narrow_operands_save_words_until_one_word_holds_a_row():
    def custom(bits):
        return tile_instructions(8, Coupling(), m=499, a_bits=bits, w_bits=bits).custom

    assert custom(16) > custom(8) > custom(4) == custom(2)


def test_a_bus_that_cannot_hold_one_value_is_refused():
    with pytest.raises(ValueError, match="bus_bits: found 8, expected at least the 16 of a value"):
        tile_instructions(4, Coupling(bus_bits=8), m=3, a_bits=16, w_bits=8)
    assert words(7, 12, 32) == 4
