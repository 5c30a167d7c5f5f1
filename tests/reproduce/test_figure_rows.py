"""cosim.reproduce.rows: when a printed figure and ours agree, and what is said when not."""

import json

import pytest
from click.testing import CliRunner

from cosim.cli import main
from cosim.errors import CosimError
from cosim.reproduce import PAPERS, reproduce, tables
from cosim.reproduce.rows import Judge, Remark, agrees, by_cell


@pytest.mark.parametrize(
    ("printed", "ours"),
    [("26.62", 26.625), ("26.63", 26.625), ("107", 106.54), ("397", 397.9), ("5.0", 4.96)],
)
def test_a_figure_agrees_when_rounded_or_cut_to_the_printed_digits(printed, ours):
    assert agrees(printed, ours)


@pytest.mark.parametrize(
    ("printed", "ours"), [("26.62", 26.635), ("108", 106.54), ("397", 396.4), ("-", 1.0), ("", 0.0)]
)
def test_a_figure_disagrees_when_no_way_of_printing_it_gives_the_digits(printed, ours):
    assert not agrees(printed, ours)


def test_bounds_are_claims_about_a_side():
    assert agrees("<5", 4.99)
    assert not agrees("<5", 5.0)
    assert agrees(">60", 60.1)
    assert not agrees(">60", 59.9)


def test_a_tolerance_is_relative_to_the_printed_value():
    assert agrees("48.71", 48.76, within=0.002)
    assert not agrees("48.71", 48.76, within=0.001)


def remarks(**given):
    return {f"T/{name}": Remark(f"T/{name}", *values) for name, values in given.items()}


def test_agreement_under_an_assumption_is_ambiguous():
    judge = Judge("T", remarks(size=("ambiguous", "assumed half precision")))
    row = judge("size", "5.0", 5.0)
    assert (row.verdict, row.note) == ("ambiguous", "assumed half precision")


def test_a_misprint_tells_the_corrected_value_first():
    judge = Judge("T", remarks(size=("misprint", "copied from elsewhere")))
    row = judge("size", "5.10", 4.0)
    assert (row.verdict, row.note) == ("misprint", "4.00; copied from elsewhere")
    assert row.difference == pytest.approx(-1.1)


def test_a_corrected_value_that_ours_contradicts_is_not_believed():
    judge = Judge("T", remarks(size=("misprint", "rotated", "467")))
    assert judge("size", "596", 467.7).verdict == "misprint"
    assert judge("size", "596", 470.0).verdict == "not reproducible"


def test_what_differs_without_a_reason_is_not_reproducible():
    row = Judge("T", {})("size", "5.10", 4.0)
    assert row.verdict == "not reproducible"
    assert "no reason" in row.note


def test_a_cell_has_one_remark():
    twice = [Remark("I/x", "misprint", "a"), Remark("I/x", "ambiguous", "b")]
    with pytest.raises(CosimError, match="I/x: found twice"):
        by_cell(twice, source="file")


def test_an_unknown_paper_or_table_names_the_known_ones():
    with pytest.raises(CosimError, match=r"expected one of 000, 001, 002, 003, 004"):
        tables("005")
    with pytest.raises(CosimError, match=r"--table: found 'A9'.*A1.*A6"):
        reproduce("002", table="A9")


def test_tables_are_found_by_arabic_numbers_too():
    assert reproduce("000", table="6") == reproduce("000", table="VI")


def test_every_paper_has_tables():
    assert all(tables(paper) for paper in PAPERS)


def test_json_has_the_five_columns_and_counts_verdicts():
    result = CliRunner().invoke(main, ["reproduce", "002", "--table", "2", "--json"])
    assert result.exit_code == 0, result.output
    table = json.loads(result.stdout)
    assert {"quantity", "paper", "ours", "difference", "verdict"} <= set(table["rows"][0])
    assert sum(table["total"].values()) == len(table["rows"]) == 21


def test_the_printed_table_shows_the_papers_own_digits():
    result = CliRunner().invoke(main, ["reproduce", "002", "--table", "2"])
    assert result.exit_code == 0, result.output
    assert "31.62" in result.stdout
    assert "misprint" in result.stdout
