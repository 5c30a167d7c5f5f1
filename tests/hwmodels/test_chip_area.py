"""hwmodels.area: what a chip's area is made of."""

from dataclasses import replace

import pytest
from hw_samples import figure

from hwmodels.architecture import Cores, Vias
from hwmodels.area import chip_area, via_share
from hwmodels.energy_files import Extension, extend
from hwmodels.energy_table import AreaFigures, SramPoint


@pytest.fixture
def priced(table):
    """Return a table whose areas are round numbers."""
    area = AreaFigures(figure(1.0), figure(10.0), figure(100.0), figure(5.0), figure(7.0))
    sram = (
        SramPoint(1024, figure(1.0), figure(1.0), 128, figure(16.0)),
        SramPoint(16384, figure(2.0), figure(2.0), 128, figure(256.0)),
    )
    return replace(table, area=area, sram=sram)


def test_every_part_of_a_small_chip_by_hand(make_chip, make_memory, priced):
    chip = make_chip(rows=2, columns=3, lanes=4, size=4096, supports=("i8xi8", "i8xi4"))
    memory = replace(make_memory(), vias=Vias(50, figure(2.0, 1.0, 3.0), "assumed for a test"))
    rows = chip_area(chip, memory, priced)
    found = {(row.component, row.part): row.area_m2 for row in rows}
    assert found == {
        ("array", "multiplier_bit2"): 6 * 64 * 1.0,
        ("array", "adder_bit"): 6 * 32 * 10.0,
        ("array", "register_bit"): 6 * (8 + 8 + 32) * 100.0,
        ("vector_unit", "lane"): 4 * 5.0,
        # a power law with area in proportion to size: four times 1 KiB
        ("input_buffer", "buffer"): pytest.approx(64.0),
        ("weight_buffer", "buffer"): pytest.approx(64.0),
        ("output_buffer", "buffer"): pytest.approx(64.0),
        ("vias", "via"): 50 * 4.0,
    }
    assert (rows[-1].area_low_m2, rows[-1].area_high_m2) == (50.0, 450.0)
    assert via_share(rows) == pytest.approx(200 / sum(found.values()))
    assert all(row.source for row in rows)


def test_a_float_cell_has_a_multiplier_of_its_significand_and_more_adders(
    make_chip, make_memory, priced
):
    parts = {}
    for supports in (("i8xi8",), ("f16xf16", "i8xi8")):
        rows = chip_area(make_chip(supports=supports), make_memory(), priced)
        parts[supports] = {row.part: row.count for row in rows}
    integers, floats = parts.values()
    assert (integers["multiplier_bit2"], floats["multiplier_bit2"]) == (4 * 64, 4 * 121)
    assert floats["adder_bit"] == 5 * integers["adder_bit"]


def test_a_memory_beside_the_chip_takes_no_vias_and_a_table_without_areas_says_nothing(
    make_chip, make_memory, priced
):
    assert via_share(chip_area(make_chip(), make_memory(), priced)) == 0.0
    assert chip_area(make_chip(), make_memory(), replace(priced, area=None)) == ()
    assert via_share(()) == 0.0


def test_two_cores_take_two_of_everything_but_vias(make_chip, make_memory, priced):
    memory = replace(make_memory(), vias=Vias(50, figure(2.0), "assumed for a test"))
    one, two = (
        chip_area(replace(make_chip(), cores=Cores(number)), memory, priced) for number in (1, 2)
    )
    shares = [b.area_m2 / a.area_m2 for a, b in zip(one, two, strict=True)]
    assert shares == [2.0] * (len(one) - 1) + [1.0]


def test_an_extension_takes_areas_from_its_base(priced):
    made = extend(Extension("mine", "round", 45e-9), priced)
    assert made.area.lane_m2.value == 5.0
    assert made.area.lane_m2.inherited == "round"
