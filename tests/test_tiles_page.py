"""docs/tiles.md: blocks of zeros as large as the array, beside what SASP publishes."""

from pathlib import Path

import pytest
from silent import Silent

from cosim import bench
from cosim.bench.tiles import RATES, SIZES, tile_rows
from cosim.errors import CosimError
from cosim.report.tiles_markdown import most, tiles_markdown

PAGE = Path(__file__).parents[1] / "docs" / "tiles.md"
ROW = {
    "case": "ticsat_4/50%",
    "chip": "ticsat_4",
    "size": 4,
    "rate": 0.5,
    "model": "small",
    "seconds": 10.0,
    "is_random": True,
    "dense_cycles": 100,
    "cycles": 80,
    "dense_array_cycles": 90,
    "array_cycles": 60,
    "feed_forward_cycles": 60,
    "dense_energy_j": 2.0,
    "energy_j": 1.5,
    "notes": ["cycles: closed form, not RTL-checked"],
    "note": "",
}
TOTAL = {
    "cpu": "some",
    "cores": 2,
    "load_average": [0.0],
    "load_average_after": [0.0],
    "created": "today",
    "versions": {},
}


def lines():
    """Return the cells of the table of the page, a list per array and share."""
    cells = [line.strip("| ").split(" | ") for line in PAGE.read_text().splitlines()]
    return [one for one in cells if len(one) == 9 and one[1].endswith("%")]


def number(text):
    return float(text.replace(",", "").removesuffix(" %"))


def test_speedups_are_more_of_the_work_in_the_same_time():
    assert most(ROW) == 1.5  # 100 cycles of which 60 are the feed-forward layers'
    page = tiles_markdown([ROW], TOTAL)
    cells = ["4 x 4", "50%", "60", "80", "50.00 %", "25.00 %", "44.00 %", "150.00 %", "-25.0 %"]
    assert f"| {' | '.join(cells)} |" in page
    assert "- cycles: closed form, not RTL-checked" in page


def test_the_page_has_every_array_and_share():
    assert [(one[0], one[1]) for one in lines()] == [
        (f"{size} x {size}", f"{rate:.0%}") for size in SIZES for rate in RATES
    ]


def test_every_pruned_block_saves_the_same_number_of_array_cycles():
    for half, three_quarters in zip(lines()[::2], lines()[1::2], strict=True):
        dense = number(half[2]) * (1 + number(half[4]) / 100)
        saved = dense - number(half[2]), dense - number(three_quarters[2])
        assert saved[1] / saved[0] == pytest.approx(0.75 / 0.5, rel=0.01)


def test_no_speedup_is_above_what_the_layers_take():
    for one in lines():
        assert 0 < number(one[5]) < number(one[7])


def test_an_unknown_case_is_told():
    with pytest.raises(CosimError, match=r"no case contains 'ticsat_5'; cases are ticsat_SIZE/"):
        bench.bench_tiles("ticsat_5", progress=Silent())
    with pytest.raises(CosimError):
        next(tile_rows("75 %", Silent()))
