"""hwmodels.energy: prices, interpolation and ledgers."""

from dataclasses import replace

import pytest
from hw_samples import figure
from hypothesis import given
from hypothesis import strategies as st

from hwmodels.chip import chip
from hwmodels.energy import (
    EnergyRow,
    EnergyTable,
    Ledger,
    SramPoint,
    interpolate_sram,
    prices,
    sum_rows,
)

TABLE = EnergyTable(
    "two_points",
    28e-9,
    {},
    (SramPoint(1024, figure(1e-12), figure(2e-12)), SramPoint(16384, figure(4e-12), figure(8e-12))),
    figure(0.0),
    figure(0.0),
    figure(0.0),
)


def test_sram_energy_follows_the_power_law_through_its_neighbours():
    # four times the energy for sixteen times the size: energy grows with the square root
    assert interpolate_sram(TABLE, 4096, way="read").value == pytest.approx(2e-12)
    assert interpolate_sram(TABLE, 65536, way="write").value == pytest.approx(16e-12)
    assert interpolate_sram(TABLE, 1024, way="read").value == 1e-12
    assert interpolate_sram(TABLE, 16384, way="read").value == 4e-12


def test_the_source_says_what_was_interpolated_and_extrapolated():
    sources = [
        interpolate_sram(TABLE, size, way="read").source for size in (1024, 2048, 99999, 100)
    ]
    assert [source.split()[0] for source in sources] == [
        "assumed",
        "interpolated",
        "extrapolated",
        "extrapolated",
    ]


@given(st.integers(64, 1 << 26), st.integers(64, 1 << 26))
def test_sram_energy_grows_with_size(first, second):
    small, large = sorted((first, second))
    for way in ("read", "write"):
        a, b = (interpolate_sram(TABLE, size, way=way) for size in (small, large))
        assert a.value <= b.value
        assert a.bounds[0] <= a.bounds[1]


def test_every_missing_action_is_listed(make_chip, make_memory, table):
    bare = replace(table, actions={})
    wanted = make_chip(supports=("i8xi8", "i8xi4"), fallback=True)
    with pytest.raises(ValueError, match='round: no action "mac_i8xi8", which tiny needs') as error:
        prices(wanted, make_memory(), bare)
    assert len(str(error.value).splitlines()) == 9
    assert [line.split('"')[1] for line in str(error.value).splitlines()] == [
        "mac_i8xi8",
        "mac_i8xi4",
        "vector_op",
        "vector_mac",
        "register_bit",
        "clock_bit",
        "accumulate",
        "quantize_op",
        "host_op",
    ]


def test_a_range_that_misses_its_value_is_refused(make_chip, make_memory, table):
    wrong = replace(table, cell_leakage_w=figure(1.0, 2.0, 3.0))
    with pytest.raises(ValueError, match="round: cell_leakage_w: found low 2, value 1, high 3"):
        prices(make_chip(), make_memory(), wrong)


def test_problems_of_chip_memory_and_table_come_together(make_chip, make_memory, table):
    bad_chip = make_chip(channels=4)
    bad_chip = replace(bad_chip, memory=replace(bad_chip.memory, fidelity="exact"))
    bad_memory = replace(make_memory(burst=48), efficiency=figure(1.5))
    with pytest.raises(ValueError, match=r"tiny: memory\.fidelity") as error:
        chip(bad_chip, technology=bad_memory, energy=replace(table, actions={}))
    text = str(error.value)
    for word in (
        "memory.channels: found 4",
        "efficiency: found 1.5",
        "interleave_bytes",
        "mac_i8xi8",
    ):
        assert word in text


def test_a_ledger_has_a_row_per_action_that_happened(make_chip, make_memory, table):
    priced = prices(make_chip(rows=4, columns=8), make_memory(), table)
    rows = Ledger(priced).rows({("array", "mac_i8xi8"): 7, ("vector_unit", "vector_op"): 0})
    assert rows == (
        EnergyRow("array", "mac_i8xi8", 7, 1e-12, 5e-13, 2e-12, "assumed for a test", "round"),
    )
    assert (rows[0].energy_j, rows[0].energy_low_j, rows[0].energy_high_j) == (
        7e-12,
        3.5e-12,
        14e-12,
    )
    # 32 cells at 1 microwatt for one cycle of a nanosecond
    assert priced["array", "leakage"].value_j == pytest.approx(32e-6 * 1e-9)
    assert priced["memory", "background"].factor == "test"


def test_equal_rows_add_their_counts():
    row = EnergyRow("array", "mac", 2, 1.0, 1.0, 1.0, "s", "f")
    other = replace(row, energy_per_action_j=2.0)
    assert sum_rows([(row, 3), (other, 1), (row, 1)]) == (replace(row, count=8), other)
