"""Energy tables against published figures, each printed with the value, ours and the difference."""

import sys
from pathlib import Path

import pytest

from cosim.energy_tables import load_table
from hwmodels.energy_table import at_width, find_action, interpolate_sram

FOLDER = Path(__file__).resolve().parents[2] / "configs" / "energy"
PJ = 1e-12

# M. Horowitz, ISSCC 2014, 45 nm: picojoules of operations, and of 64 bits from caches by KiB.
HOROWITZ = {"add 8": 0.03, "add 32": 0.1, "multiply 8": 0.2, "multiply 32": 3.1}
HOROWITZ_FLOAT = {"mac_f16xf16": 1.1 + 0.4, "mac_f32xf32": 3.7 + 0.9}
HOROWITZ_CACHE = {8: 10.0, 32: 20.0, 1024: 100.0}

# hwcomponents-library 1.0.58: picojoules of Aladdin integer arithmetic, by node in nm and bits.
ALADDIN_MULTIPLY = {
    65: {2: 0.071, 4: 0.283, 8: 1.13, 16: 4.53, 32: 18.1},
    45: {2: 0.057, 4: 0.228, 8: 0.912, 16: 3.65, 32: 14.6},
    28: {4: 0.117, 8: 0.468, 16: 1.87, 32: 7.49},
    22: {4: 0.067, 8: 0.268, 16: 1.07, 32: 4.29},
    7: {4: 0.0215, 8: 0.086, 16: 0.344, 32: 1.38},
}
ALADDIN_MAC = {65: 1.431, 45: 1.154, 28: 0.592, 22: 0.339, 7: 0.109}

# hwcomponents-cacti 1.0.40, 128-bit port: picojoules per byte read and written, and square
# millimetres, by node in nm, of 64 KiB and of 1 MiB.
CACTI = {
    64: {
        65: ("4.39", "4.21", "0.392"),
        45: ("2.46", "2.25", "0.188"),
        32: ("1.23", "1.13", "0.115"),
        28: ("0.96", "0.87", "0.091"),
        22: ("0.56", "0.48", "0.054"),
        16: ("0.48", "0.41", "0.040"),
        7: ("0.316", "0.268", "0.017"),
    },
    1024: {
        65: ("17.77", "15.40", "6.78"),
        45: ("9.59", "8.07", "3.25"),
        32: ("5.40", "4.41", "1.64"),
        28: ("4.15", "3.43", "1.33"),
        22: ("2.27", "1.97", "0.856"),
        16: ("1.94", "1.68", "0.623"),
        7: ("1.281", "1.109", "0.273"),
    },
}


def aladdin(nm):
    return load_table(FOLDER / f"aladdin_cacti_{nm}nm.yaml")


def told(point, published, ours):
    """Print a point; return ours as a share of what was published."""
    difference = 100 * (ours / published - 1)
    sys.stdout.write(f"{point}: published {published:g}, ours {ours:.4g}, {difference:+.2f} %\n")
    return ours / published


def test_horowitz_rows_are_exact():
    table = load_table(FOLDER / "horowitz_45nm.yaml")
    for what, published in HOROWITZ.items():
        name, bits = what.split()
        ours = at_width(getattr(table, name), int(bits)).value / PJ
        assert told(f"Horowitz {what}", published, ours) == pytest.approx(1, rel=1e-12)
    for name, published in HOROWITZ_FLOAT.items():
        ours = find_action(table, name).value / PJ
        assert told(f"Horowitz {name}", published, ours) == pytest.approx(1, rel=1e-12)
    for kib, published in HOROWITZ_CACHE.items():
        per_byte = interpolate_sram(table, kib * 1024, way="read", width_bits=64).value
        ours = 8 * per_byte / PJ
        assert told(f"Horowitz {kib} KiB", published, ours) == pytest.approx(1, rel=1e-12)


@pytest.mark.parametrize("nm", ALADDIN_MULTIPLY)
def test_arithmetic_of_the_component_library_within_one_percent(nm):
    table = aladdin(nm)
    for bits, published in ALADDIN_MULTIPLY[nm].items():
        ours = at_width(table.multiply, bits).value / PJ
        assert told(f"{nm} nm, multiply {bits}", published, ours) == pytest.approx(1, abs=0.01)
    ours = find_action(table, "mac_i8xi8").value / PJ
    assert told(f"{nm} nm, 8-bit MAC", ALADDIN_MAC[nm], ours) == pytest.approx(1, abs=0.01)


@pytest.mark.parametrize("nm", CACTI[64])
def test_buffers_of_the_component_library_within_one_percent(nm):
    table = aladdin(nm)
    for kib, rows in CACTI.items():
        point = next(p for p in table.sram if (p.size_bytes, p.width_bits) == (kib * 1024, 128))
        ours = (
            point.read_j_per_byte.value / PJ,
            point.write_j_per_byte.value / PJ,
            point.area_m2.value * 1e6,
        )
        for name, published, mine in zip(("read", "write", "mm2"), rows[nm], ours, strict=True):
            last_digit = 10.0 ** -len(published.partition(".")[2])
            slack = 0.01 + last_digit / 2 / float(published)  # some have two digits only
            share = told(f"{nm} nm, {kib} KiB, {name}", float(published), mine)
            assert share == pytest.approx(1, abs=slack)


def test_tpu_v4i_rows_are_exact():
    table = load_table(FOLDER / "tpu_v4i_7nm.yaml")
    for what, published, ours in (
        ("MAC", 0.084, find_action(table, "mac_i8xi8").value / PJ),
        ("4 MiB read", 0.249, interpolate_sram(table, 1 << 22, way="read").value / PJ / 8),
        ("4 MiB write", 0.293, interpolate_sram(table, 1 << 22, way="write").value / PJ / 8),
        ("128 MiB read", 1.88, interpolate_sram(table, 1 << 27, way="read").value / PJ / 8),
        ("128 MiB write", 2.36, interpolate_sram(table, 1 << 27, way="write").value / PJ / 8),
    ):
        assert told(f"TPUv4i {what}", published, ours) == pytest.approx(1, rel=1e-6)


def test_eyeriss_ratios_are_exact():
    table = load_table(FOLDER / "eyeriss_relative.yaml")
    mac = at_width(table.multiply, 16).value + at_width(table.add, 32).value
    word = {
        "register": 16 * table.actions["register_bit"].value,
        "buffer": 2 * interpolate_sram(table, 108 * 1024, way="read").value,
    }
    assert told("Eyeriss register file", 1, word["register"] / mac) == pytest.approx(1)
    assert told("Eyeriss buffer", 6, word["buffer"] / mac) == pytest.approx(1)


def test_public_tables_differ_more_than_fourfold_in_an_8_bit_multiply():
    ours = at_width(aladdin(45).multiply, 8).value
    theirs = at_width(load_table(FOLDER / "horowitz_45nm.yaml").multiply, 8).value
    assert told("Aladdin / Horowitz at 45 nm", 4.56, ours / theirs) == pytest.approx(1, abs=0.01)
