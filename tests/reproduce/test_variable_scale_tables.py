"""Paper 002: every cell of its sparsity tables, with numpy as the oracle of the formula."""

from fractions import Fraction

import numpy as np
import pytest

from cosim.reproduce import reproduce
from cosim.reproduce.variable_scale import Shares, published, shares_of

# printed -> correct, by (U0, V0)
MISPRINTS = {
    "A1": {(60, 45): 45.37},
    "A2": {(35, 50): 35.37},
    "A3": {(30, 55): 35.37, (55, 55): 47.87, (60, 60): 51.62},
    "A4": {
        (70, 60): 54.39,
        (75, 60): 57.57,
        (50, 65): 42.33,
        (75, 65): 58.20,
        (50, 70): 42.96,
        (75, 70): 58.84,
        (45, 75): 40.42,
        (75, 75): 59.47,
        (70, 80): 56.93,
        (55, 90): 48.68,
    },
    "A5": {
        (50, 60): 42.88,
        (45, 70): 40.98,
        (65, 70): 53.68,
        (75, 75): 60.66,
        (75, 80): 61.30,
        (75, 85): 61.93,
        (45, 90): 43.52,
    },
    "A6": {(70, 70): 61.11},
}
CELLS = {"A1": 64, "A2": 90, "A3": 64, "A4": 49, "A5": 49, "A6": 49}


def cells_of(table):
    return [row for row in reproduce("002", table=table) if row.quantity.startswith("sparsity at")]


@pytest.mark.parametrize("table", CELLS)
def test_every_cell_follows_the_formula_but_for_the_misprints(table):
    rows = cells_of(table)
    assert len(rows) == CELLS[table]
    agreeing = "reproduced" if table in ("A1", "A2", "A3") else "ambiguous"
    wrong = {
        (u0, v0)
        for u0 in range(30, 95, 5)
        for v0 in range(30, 95, 5)
        for row in rows
        if row.quantity == f"sparsity at U0 = {u0} %, V0 = {v0} %" and row.verdict == "misprint"
    }
    assert wrong == set(MISPRINTS[table])
    assert {row.verdict for row in rows} == {agreeing, "misprint"}
    for (u0, v0), correct in MISPRINTS[table].items():
        row = next(r for r in rows if r.quantity == f"sparsity at U0 = {u0} %, V0 = {v0} %")
        assert row.ours == correct
        assert row.note.startswith(f"{correct:.2f}")


@pytest.mark.parametrize("rate", [30, 35, 40])
def test_libri_trans_prints_the_mean_rate_less_the_half_cent_that_cutting_takes(rate):
    table = published().appendix[{30: "A1", 35: "A2", 40: "A3"}[rate]]
    encoder, decoder = np.arange(12), np.arange(6)
    residuals = []
    for u0, v0, _, printed in table.cells():
        # each layer has equal weights, encoder layers half of them
        mean = np.mean(u0 - encoder) / 2 + np.mean(v0 - decoder) / 4 + rate / 4
        residuals.append(round(float(printed) - mean, 4))
    assert sorted(residuals)[len(residuals) // 2] == -0.005
    assert residuals.count(-0.005) == len(residuals) - len(MISPRINTS[f"A{rate // 5 - 5}"])


def test_shares_are_counted_in_the_models():
    systems = published().systems
    libri, voxforge = (shares_of(systems[name]) for name in ("libri_trans", "voxforge_it"))
    assert (libri.encoder, libri.decoder, libri.attention) == (24, 12, 12)
    assert (voxforge.encoder, voxforge.decoder, voxforge.attention) == (36, 12, 15)
    assert voxforge.fall == 336


def test_sparsity_of_one_layer_each_is_the_weighted_mean():
    shares = Shares(*map(Fraction, (3, 2, 5, 0)))
    assert shares.sparsity(10, 20, 40) == 27  # (30 + 40 + 200) / 10


def test_sizes_agree_to_the_printed_digits():
    rows = {row.quantity: row for row in reproduce("002", table="text")}
    for name in ("libri_trans", "voxforge_it"):
        assert rows[f"{name} parameters"].verdict == "reproduced"
        assert rows[f"{name} memory"].verdict == "reproduced"


def closed_form(blocks, hidden, vocabulary, *, width=256, features=83):
    """Return the parameters of ESPnet1's Transformer, counted by hand."""
    attention = 4 * (width**2 + width)
    feed_forward = 2 * width * hidden + hidden + width
    encoder = blocks * (attention + feed_forward + 4 * width) + 2 * width
    decoder = 6 * (2 * attention + feed_forward + 6 * width) + 2 * width
    bands = ((features - 1) // 2 - 1) // 2
    subsampling = 9 * width + width + 9 * width**2 + width + bands * width**2 + width
    return encoder + decoder + subsampling + 3 * vocabulary * width + 2 * vocabulary


@pytest.mark.parametrize(
    ("system", "blocks", "vocabulary"), [("libri_trans", 12, 1000), ("voxforge_it", 18, 35)]
)
def test_parameters_are_those_of_the_closed_form(system, blocks, vocabulary):
    rows = {row.quantity: row for row in reproduce("002", table="text")}
    count = closed_form(blocks, 2048, vocabulary)
    assert round(rows[f"{system} parameters"].ours * 1e6) == count


def test_1024_hidden_units_would_be_another_model():
    assert f"{closed_form(12, 1024, 1000) / 1e6:.2f}" == "18.47"
    row = next(r for r in reproduce("002", table="1") if "libri_trans feed" in r.quantity)
    assert (row.paper, row.ours, row.verdict) == ("1024", 2048, "misprint")


def test_best_pairs_are_cells_of_the_appendix_with_their_misprints():
    rows = [*reproduce("002", table="2"), *reproduce("002", table="3")]
    wrong = {(row.paper, row.ours) for row in rows if row.verdict == "misprint"}
    assert wrong == {("51.12", 51.62), ("49.68", 48.68), ("61.37", 61.38), ("63.96", 63.96)}
    assert all(row.verdict in ("reproduced", "misprint") for row in rows)
    assert len(rows) == 39
