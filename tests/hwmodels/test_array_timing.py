"""hwmodels.array and hwmodels.dataflow against a simulation of every cell, cycle by cycle."""

from itertools import product as cartesian

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hwmodels.architecture import ProcessingArray
from hwmodels.array import Split, closed_form, fold, macs_per_cell, product, stream
from hwmodels.dataflow import DATAFLOWS, dataflow, fold_count, fold_length

SMALL = st.integers(1, 6)


def array(rows, columns, schedule):
    return ProcessingArray(rows, columns, 1e9, schedule=schedule)


def held_weights(w, rows, columns):
    """Return (first column, first k, weights as the cells hold them) of every fold."""
    folds = []
    for n0 in range(0, w.shape[0], columns):
        for k0 in range(0, w.shape[1], rows):
            held = np.zeros((rows, columns), dtype=np.int64)
            part = w[n0 : n0 + columns, k0 : k0 + rows].T
            held[: part.shape[0], : part.shape[1]] = part
            folds.append((n0, k0, held))
    return folds


def simulate_cells(a, w, rows, columns, *, is_double_buffered):
    """Return (a @ w.T, cycles) of a grid of cells that move data one neighbour per clock.

    A cell holds one weight per fold. An activation enters row i with a delay of i and moves right,
    a partial sum moves down and leaves the bottom row. Weights take `rows` clocks to shift in, in
    their own registers when double buffered, and become active with the fold's first activation.
    """
    m, n = len(a), len(w)
    result = np.zeros((m, n + columns), dtype=np.int64)
    folds = held_weights(w, rows, columns)
    padded = np.pad(a, ((0, 0), (0, rows)))
    apart = max(m, rows) if is_double_buffered else m + 2 * rows + columns - 2
    starts = [rows + apart * number for number in range(len(folds))]
    moving = np.full((rows, columns, 2), -1)  # fold and row of each activation
    sums = np.zeros((rows, columns), dtype=np.int64)
    last = 0
    for now in range(starts[-1] + m + rows + columns):
        above = np.vstack([np.zeros((1, columns), dtype=np.int64), sums[:-1]])
        moving = np.concatenate([np.full((rows, 1, 2), -1), moving[:, :-1]], axis=1)
        for (number, start), i in cartesian(enumerate(starts), range(rows)):
            if 0 <= now - start - i < m:
                assert moving[i, 0, 0] < 0  # one activation per port and clock
                moving[i, 0] = number, now - start - i
        sums = np.zeros((rows, columns), dtype=np.int64)
        for i, j in zip(*np.nonzero(moving[:, :, 0] >= 0), strict=True):
            number, row = moving[i, j]
            n0, k0, held = folds[number]
            sums[i, j] = above[i, j] + padded[row, k0 + i] * held[i, j]
            if i == rows - 1:
                last = now + 1
                result[row, n0 + j] += sums[i, j]
    return result[:, :n], last


@pytest.mark.parametrize("schedule", ["serial", "double_buffered"])
@settings(max_examples=40, deadline=None)
@given(m=SMALL, n=SMALL, k=st.integers(1, 7), rows=st.integers(1, 4), columns=st.integers(1, 4))
def test_cycles_equal_a_simulation_of_every_cell(schedule, m, n, k, rows, columns):
    generator = np.random.default_rng(m + 10 * n + 100 * k)
    a = generator.integers(-128, 128, (m, k))
    w = generator.integers(-128, 128, (n, k))
    result, cycles = simulate_cells(
        a, w, rows, columns, is_double_buffered=schedule == "double_buffered"
    )
    np.testing.assert_array_equal(result, a @ w.T)
    split = product(array(rows, columns, schedule), m_tiles=[m], n_tiles=[n], chunks=[k])
    assert split.total == cycles
    assert closed_form(schedule, m=m, n=n, k=k, rows=rows, columns=columns) == cycles


def test_a_3x5x4_product_on_2x2_cells_by_hand():
    # m = 3 activation rows, n = 5 columns, k = 4: ceil(4/2) = 2 folds per block of 2 columns,
    # 3 blocks, 6 folds. Serial: load 2, fill 1, compute 3, drain 1 = 7 each, 42 in all.
    assert product(array(2, 2, "serial"), m_tiles=[3], n_tiles=[5], chunks=[4]) == Split(
        compute=18, fill=6, drain=6, weight_load=12
    )
    # Double buffered: load 2 and fill 1 once, 6 folds of 3, drain 1 = 22 = 7 + 5 x 3.
    assert product(array(2, 2, "double_buffered"), m_tiles=[3], n_tiles=[5], chunks=[4]) == Split(
        compute=18, fill=1, drain=1, weight_load=2
    )


def test_fewer_rows_than_the_array_leave_weight_load_uncovered():
    split = stream(array(4, 2, "double_buffered"), m=1, folds=3)
    assert split == Split(compute=3, fill=3, drain=1, weight_load=4 + 2 * 3)


@given(
    m=st.integers(1, 2000),
    n=st.integers(1, 500),
    k=st.integers(1, 500),
    rows=st.integers(1, 64),
    columns=st.integers(1, 64),
)
def test_double_buffered_is_never_slower_than_serial(m, n, k, rows, columns):
    shape = {"m": m, "n": n, "k": k, "rows": rows, "columns": columns}
    assert closed_form("double_buffered", **shape) <= closed_form("serial", **shape)


@given(
    tiles=st.lists(st.integers(4, 50), min_size=1, max_size=5),
    n=st.integers(1, 30),
    k=st.integers(1, 30),
)
def test_double_buffered_hides_tiling_while_tiles_have_as_many_rows_as_the_array(tiles, n, k):
    split = product(array(4, 3, "double_buffered"), m_tiles=tiles, n_tiles=[n], chunks=[k])
    whole = closed_form("double_buffered", m=sum(tiles), n=n, k=k, rows=4, columns=3)
    assert split.total == whole


def test_published_cycles_of_wav2vec2_base_are_met():
    # 499 x 768 x 768 weight stationary on 16 x 16 is 1,255,680 cycles in Verilog; whole
    # layers on 32 x 32 and 128 x 128 from the same table.
    for rows, layer, cycles in [
        (16, (499, 768, 768), 1_255_680),
        (32, (499, 768, 768), 341_568),
        (128, (499, 768, 768), 31_716),
        (32, (15_999, 512, 1536), 12_359_424),
        (128, (499, 3072, 768), 126_864),
    ]:
        m, n, k = layer
        assert closed_form("serial", m=m, n=n, k=k, rows=rows, columns=rows) == cycles
        split = product(array(rows, rows, "serial"), m_tiles=[m], n_tiles=[n], chunks=[k])
        assert split.total == cycles


@pytest.mark.parametrize("name", sorted(DATAFLOWS))
@given(m=SMALL, n=SMALL, k=SMALL, rows=st.integers(1, 7), columns=st.integers(1, 7))
def test_every_dataflow_makes_each_product_exactly_once(name, m, n, k, rows, columns):
    made = np.zeros((m, n, k), dtype=int)
    flow = DATAFLOWS[name]
    tiles = list(flow.tiles(m, n, k, rows, columns))
    for tile in tiles:
        made[slice(*tile.m), slice(*tile.n), slice(*tile.k)] += 1
        sizes = {axis: stop - start for axis, (start, stop) in vars(tile).items()}
        assert sizes[flow.rows] <= rows
        assert sizes[flow.columns] <= columns
        assert sizes[flow.time] == fold_length(name, m=m, n=n, k=k)
        assert tile.macs == sizes["m"] * sizes["n"] * sizes["k"]
    assert (made == 1).all()
    assert fold_count(name, m=m, n=n, k=k, rows=rows, columns=columns) == len(tiles)


@pytest.mark.parametrize("drain", ["shift_out", "none"])
@pytest.mark.parametrize("schedule", ["serial", "double_buffered"])
@pytest.mark.parametrize("name", sorted(DATAFLOWS))
@settings(max_examples=25)
@given(
    m=st.integers(1, 60),
    n=st.integers(1, 60),
    k=st.integers(1, 60),
    rows=st.integers(1, 9),
    columns=st.integers(1, 9),
    part=st.floats(0, 1),
)
def test_the_split_sums_to_the_closed_form(name, schedule, drain, m, n, k, rows, columns, part):
    sizes = {"m": m, "n": n, "k": k}
    occupied = round(part * fold_count(name, **sizes, rows=rows, columns=columns))
    chip = ProcessingArray(rows, columns, 1e9, dataflow=name, schedule=schedule, drain=drain)
    split = fold(chip, **sizes, occupied=occupied)
    assert min(vars(split).values()) >= 0
    assert split.compute == occupied * fold_length(name, **sizes)
    assert split.total == closed_form(
        schedule,
        **sizes,
        rows=rows,
        columns=columns,
        dataflow=name,
        drain=drain,
        occupied=occupied,
    )


def test_a_3x5x4_product_whose_results_stay_on_2x2_cells_by_hand():
    # Two blocks of 2 rows, three of 2 columns: 6 folds of 4 terms. Each: skew 2, sum 4, drain 2.
    def cycles(schedule, drain, k):
        chip = ProcessingArray(
            2, 2, 1e9, dataflow="output_stationary", schedule=schedule, drain=drain
        )
        return fold(chip, m=3, n=5, k=k)

    assert cycles("serial", "shift_out", 4) == Split(compute=24, fill=12, drain=12)
    assert cycles("serial", "none", 4) == Split(compute=24, fill=12)
    # One term per fold: the next results are ready after 1 cycle and wait 1 for the way out.
    assert cycles("double_buffered", "shift_out", 1) == Split(compute=6, fill=2, drain=2 + 5)
    assert cycles("double_buffered", "none", 1) == Split(compute=6, fill=2)


def test_a_product_of_zero_folds_takes_no_cycles():
    for schedule in ("serial", "double_buffered"):
        assert fold(array(4, 2, schedule), m=3, n=5, k=4, occupied=0) == Split()


@pytest.mark.parametrize(
    ("a_bits", "w_bits", "products"),
    [(8, 8, 1), (8, 4, 2), (4, 8, 2), (8, 2, 4), (4, 4, 4), (4, 2, 8), (2, 2, 16)],
)
def test_a_cell_of_sixteen_2x2_multipliers_makes_64_over_the_bits_products(
    a_bits, w_bits, products
):
    assert macs_per_cell(a_bits, w_bits) == products


def test_widths_that_no_cell_composes_are_refused():
    with pytest.raises(ValueError, match=r"a_bits: found 3, expected 2, 4 or 8"):
        macs_per_cell(3, 8)


def test_a_dataflow_name_is_taken_once():
    with pytest.raises(KeyError, match="registered twice"):
        dataflow("weight_stationary", rows="k", columns="n", time="m")(
            DATAFLOWS["weight_stationary"].tiles
        )
