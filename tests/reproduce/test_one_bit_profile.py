"""Paper 003: rules of its profile, each against numbers worked out by hand."""

import pytest

from cosim.profile import bops_003
from cosim.reproduce import reproduce
from cosim.reproduce.attention_or_convolution import Encoder, a100_time, bop_of_flop

T = 499


@pytest.fixture(scope="module")
def table():
    return {row.quantity: row for row in reproduce("003", table="1")}


def test_operations_of_one_layer_by_hand():
    encoder = Encoder(100, layers=1, width=2, weights=10, front_macs=0)
    assert encoder.flop_saved_g(3) * 1e9 == pytest.approx(2 * 3 * 10 + 6 * 9 * 2)
    assert encoder.binary_gi(3) * 2**30 == pytest.approx(1.5 * 3 * 10 + 2 * 9 * 2)
    assert encoder.storage_saved_mb() * 1e6 == pytest.approx(10 * 3.875)


@pytest.mark.parametrize(
    ("name", "layers", "width", "saved_mb"),
    [("sparse_dn_s", 16, 256, 48.76), ("sparse_sw_s", 8, 512, 97.52)],
)
def test_sparseformers_have_twelve_square_matrices_a_layer(table, name, layers, width, saved_mb):
    weights = 12 * width**2
    assert table[f"{name} storage saved"].ours == pytest.approx(saved_mb, abs=0.005)
    assert table[f"{name} storage saved"].ours == pytest.approx(layers * weights * 3.875e-6)
    flop = 2 * T * layers * weights + 6 * T**2 * layers * width
    assert table[f"{name} FLOP saved"].ours == pytest.approx(flop / 1e9)
    binary = 1.5 * layers * weights * T + 2 * T**2 * layers * width
    assert table[f"{name} BOP BQ W1A1"].ours == pytest.approx(binary / 2**30)


def test_the_profiled_conformer_keeps_3072_hidden_units(table):
    d = 144
    weights = 4 * d**2 + 2 * (2 * d * 3072) + 3 * d**2 + 31 * d
    assert weights == 1_919_088
    assert table["conformer_s storage saved"].ours == pytest.approx(16 * weights * 3.875e-6)


def test_vanilla_storage_fits_two_byte_weights_only(table):
    saved = table["vanilla storage saved"]
    assert saved.ours == pytest.approx(12 * 12 * 768**2 * (2 - 1 / 8) / 1e6)
    assert saved.verdict == "ambiguous"


def test_storage_of_every_encoder_agrees_to_the_printed_digits(table):
    for name in ("vanilla", "conformer_s", "squeeze_xs", "sparse_dn_s", "sparse_sw_s"):
        row = table[f"{name} storage"]
        assert f"{row.ours:.2f}" == row.paper


def test_binary_transformers_hold_three_shifts_a_channel_besides(table):
    for name in ("vanilla", "sparse_dn_s", "sparse_sw_s"):
        row = table[f"{name} storage W1A1"]
        assert f"{row.ours:.2f}" == row.paper


def test_times_agree_to_the_printed_digits(table):
    printed = ["38.46", "10.31", "8.54", "12.15", "18.70", "5.53", "3.27", "3.28", "3.40", "4.12"]
    rows = [row for name, row in table.items() if name.endswith((" time", " time W1A1"))]
    assert sorted(row.paper for row in rows) == sorted(printed)
    assert all(row.verdict == "reproduced" for row in rows)
    assert a100_time(319.488) == pytest.approx(10.0)  # 312 Tera at 1.024


def test_bit_operations_are_sixteen_per_flop(table):
    assert bop_of_flop(2**30 / 16e9) == pytest.approx(1.0)
    for name in ("conformer_s", "squeeze_xs", "sparse_dn_s", "sparse_sw_s"):
        assert table[f"{name} BOP of printed FLOP"].verdict == "reproduced"
    assert table["vanilla BOP of printed FLOP"].verdict == "not reproducible"


def test_the_profile_counts_as_the_paper_does():
    macs = 5_000_000
    assert bops_003(macs, "linear", ("f32", "f32")) == pytest.approx(bop_of_flop(2 * macs / 1e9))
    assert bops_003(macs, "attention", ("i1", "i1")) == pytest.approx(macs / 2**30)
    assert bops_003(macs, "linear", ("i8", "i8")) is None


def test_nothing_differs_without_a_reason(table):
    assert not [row.quantity for row in table.values() if "no reason was found" in row.note]
    verdicts = [row.verdict for row in table.values()]
    assert verdicts.count("reproduced") >= 35


def test_sums_in_the_text_follow_from_the_table():
    rows = {row.quantity: row for row in reproduce("003", table="text")}
    assert rows["sum bop binary vanilla"].ours == pytest.approx(172.83 + 63.62)
    assert rows["baseline to sparse storage"].verdict == "reproduced"
    assert rows["binary to sparse storage"].verdict == "misprint"
