"""Energy tables: what they say between their points, and what they take from each other."""

from dataclasses import replace
from math import sqrt
from pathlib import Path

import pytest
from hw_samples import figure
from hypothesis import given, settings
from hypothesis import strategies as st

from cosim.energy_tables import load_table, parse_table
from cosim.errors import CosimError
from hwmodels.energy import extrapolations, needed_actions, prices
from hwmodels.energy_files import Extension, at_node, extend
from hwmodels.energy_table import (
    EnergyFigure,
    SramPoint,
    WidthPoint,
    at_width,
    falls,
    find_action,
    interpolate_sram,
    named_figures,
    table_problems,
)
from hwmodels.upkeep import UPKEEP

FOLDER = Path(__file__).resolve().parents[2] / "configs" / "energy"
TABLES = {path.stem: load_table(path) for path in sorted(FOLDER.glob("*.yaml"))}
BY_NODE = [TABLES[f"aladdin_cacti_{nm}nm"] for nm in (7, 12, 16, 22, 28, 32, 45, 65)]


def points(*pairs):
    return tuple(WidthPoint(bits, figure(joules)) for bits, joules in pairs)


@pytest.fixture
def plain(table):
    """Return a table with multiply and add: 8 bits 4 J and 1 J, quadratic and linear in width."""
    return replace(
        table,
        actions={name: one for name, one in table.actions.items() if name != "mac_i8xi8"}
        | {"vector_op": figure(2.0), "vector_mac": figure(4.0)},
        multiply=points((4, 1.0), (8, 4.0), (16, 16.0)),
        add=points((8, 1.0), (32, 4.0)),
    )


@pytest.mark.parametrize("table", TABLES.values(), ids=TABLES)
def test_every_figure_of_a_table_has_a_source_and_a_range_that_holds_it(table):
    assert not table_problems(table)
    for name, one, _ in named_figures(table):
        assert one.source, name
        assert one.bounds[0] <= one.value <= one.bounds[1], name


def test_a_product_of_two_widths_takes_what_a_square_of_as_many_bits_takes(plain):
    # 8 x 4 bits are as many partial products as sqrt(32) squared: 4 J * 32 / 64 = 2 J, add 4 J
    assert find_action(plain, "mac_i8xi4").value == pytest.approx(2.0 + 4.0)
    assert find_action(plain, "mac_i8xi8").value == 8.0
    assert find_action(plain, "mac_i8xi8", accumulator_bits=8).value == 5.0
    # a sign takes two bits: 8 x 2 = 4 x 4
    assert find_action(plain, "mac_i8xi1").value == find_action(plain, "mac_i4xi4").value == 5.0
    # a cell that does not gate takes 8 x 8 whatever comes, and one more add for a ninth bit
    assert find_action(plain, "mac_i4xi4").bounds == (5.0, 8.0)
    assert find_action(plain, "mac_u8xi4").bounds[1] == 12.0


def test_floats_and_single_bits_need_prices_of_their_own(plain):
    for name in ("mac_f16xf16", "mac_i1xi1", "mac_f16xi8", "gather"):
        assert find_action(plain, name) is None


def test_a_float_times_an_integer_takes_what_is_left_of_the_multiplier_and_the_whole_adder(plain):
    floats = {"mac_f16xf16": figure(15.0, 15.0, 20.0), "mac_f32xf32": figure(46.0)}
    table = replace(plain, actions=plain.actions | floats)
    # f16: multiply 11 of 15; its multiplier has 11 x 11 bits, so 8 bits of weight leave 8 of 11
    half = find_action(table, "mac_f16xi8")
    assert (half.value, *half.bounds) == pytest.approx((8.0 + 4.0, 12.0, 20.0))
    assert find_action(table, "mac_f16xi4").value == pytest.approx(4.0 + 4.0)
    # f32: multiply 37 of 46, 24 bits; a sign takes two bits
    assert find_action(table, "mac_f32xu1").value == pytest.approx(37 * 2 / 24 + 9)
    assert half.source.startswith("assumed: 0.8 of mac_f16xf16 for a multiplier of 11 x 8 bits: ")
    assert find_action(table, "mac_bf16xi8") is None
    assert find_action(table, "mac_f16xf32") is None
    stated = replace(table, actions=table.actions | {"mac_f16xi8": figure(1.0)})
    assert find_action(stated, "mac_f16xi8").value == 1.0


def test_beyond_the_widest_point_the_source_says_extrapolated(plain):
    assert at_width(plain.multiply, 32).value == pytest.approx(64.0)
    assert at_width(plain.multiply, 32).source.startswith("extrapolated to 32 bits")
    assert at_width(plain.multiply, 6).source.startswith("interpolated to 6 bits")


def test_a_wide_port_is_several_narrow_ones_and_a_narrow_one_pays_for_all_of_the_narrowest(table):
    grid = tuple(
        SramPoint(size, figure(joules), figure(joules), width)
        for size, width, joules in (
            (1024, 64, 4.0),
            (4096, 64, 8.0),
            (1024, 256, 2.0),
            (4096, 256, 4.0),
        )
    )
    wide = replace(table, sram=grid)

    def read(size, width):
        return interpolate_sram(wide, size, way="read", width_bits=width)

    assert read(1024, 64).value == 4.0
    assert read(2048, 256).value == pytest.approx(2.0 * sqrt(2))
    # one access: 8 bytes 32 J, 32 bytes 64 J, so 16 bytes sqrt(2) times 32 J
    assert read(1024, 128).value == pytest.approx(32 * sqrt(2) / 16)
    assert read(1024, 2048).value == 2.0
    assert read(1024, 16).value == pytest.approx(4.0 * 64 / 16)
    assert read(1024, 16).source.startswith("extrapolated to 16 bits wide")
    assert not list(falls(wide))


def test_a_figure_that_falls_where_it_should_grow_needs_its_reason(plain):
    wrong = replace(plain, multiply=points((4, 2.0), (8, 1.0)))
    assert [line.split(":")[0] for line in table_problems(wrong)] == ["multiply.8"]
    assert not table_problems(replace(wrong, not_monotone={"multiply": "measured so"}))


def test_an_extension_marks_what_it_takes_and_keeps_its_source(plain):
    base = replace(plain, voltage_v=0.8)
    own = Extension(
        "mine", "round", 45e-9, actions={"vector_op": figure(3.0)}, add=points((32, 7.0))
    )
    made = extend(own, base)
    assert (made.name, made.node_m) == ("mine", 45e-9)
    assert made.actions["vector_op"].inherited is None
    taken = made.actions["vector_mac"]
    assert (taken.value, taken.source, taken.inherited) == (4.0, "assumed for a test", "round")
    assert (taken.node_m, taken.voltage_v, taken.factor) == (28e-9, 0.8, "round")
    assert [point.energy_j.inherited for point in made.add] == [None]
    again = extend(Extension("third", "mine", 7e-9), made)
    assert again.actions["vector_mac"].inherited == "round"
    assert again.actions["vector_op"].inherited == "mine"


def test_multiples_of_an_anchor_take_both_ranges(plain):
    times = EnergyFigure(3.0, "three", 2.0, 4.0, unit="anchor")
    own = Extension("r", "round", 65e-9, {"vector_op": times}, anchor=figure(10.0, 5.0, 20.0))
    found = extend(own, plain).actions["vector_op"]
    assert (found.value, *found.bounds, found.unit) == (30.0, 10.0, 80.0, None)
    with pytest.raises(ValueError, match='r: vector_op: unit: found "anchor"'):
        extend(replace(own, anchor=None), plain)


def test_a_chip_lists_every_action_that_a_table_and_those_it_extends_lack(
    make_chip, make_memory, plain
):
    made = extend(Extension("mine", "round", 45e-9), replace(plain, actions={}))
    wanted = make_chip(supports=("i8xi8", "i8xi4", "i1xi1", "f16xf16"), fallback=True)
    wanted = replace(wanted, array=replace(wanted.array, rescale="accumulators"))
    with pytest.raises(ValueError, match="mine: no action") as error:
        prices(wanted, make_memory(), made)
    missing = [line.split('"')[1] for line in str(error.value).splitlines()]
    assert missing[:4] == ["mac_i1xi1", "rescale", "vector_op", "vector_mac"]
    assert missing[4:] == [name for _, name in UPKEEP]
    assert {"mac_i8xi8", "mac_i8xi4"} < {name for _, name in needed_actions(wanted)}


def test_a_node_between_two_lies_on_their_power_law(plain):
    def scaled(times, node_m):
        return replace(
            plain,
            name=f"t{times}",
            node_m=node_m,
            actions={"vector_op": figure(2.0 * times)},
            cell_leakage_w=figure(1.0 / times),
        )

    made = at_node("middle", 20e-9, [scaled(1, 10e-9), scaled(4, 40e-9)])
    assert made.actions["vector_op"].value == pytest.approx(4.0)
    assert made.actions["vector_op"].source.startswith("interpolated to 20 nm")
    assert made.cell_leakage_w.value == pytest.approx(0.5)
    assert made.multiply[0].energy_j.value == pytest.approx(1.0)
    beyond = at_node("beyond", 5e-9, [scaled(1, 10e-9), scaled(4, 40e-9)])
    assert beyond.actions["vector_op"].value == pytest.approx(1.0)
    with pytest.raises(ValueError, match=r"x: between: actions\.vector_op: found in t1 alone"):
        at_node("x", 2e-8, [scaled(1, 1e-8), replace(scaled(4, 4e-8), actions={})])


def test_a_run_on_extrapolated_prices_warns(make_chip, make_memory, plain):
    chip = make_chip()
    assert not extrapolations(prices(chip, make_memory(), plain))
    beyond = at_node("beyond", 5e-9, [replace(plain, node_m=1e-8), replace(plain, node_m=4e-8)])
    warned = extrapolations(prices(chip, make_memory(), beyond))
    assert any(line.startswith("array mac_i8xi8: ") for line in warned)


def test_a_table_that_leads_back_to_itself_is_refused(tmp_path):
    for name, other in (("a", "b"), ("b", "a")):
        text = f"name: {name}\nnode_m: 1.0e-9\nextends: {other}.yaml\n"
        (tmp_path / f"{name}.yaml").write_text(text)
    with pytest.raises(CosimError, match="leads back to itself"):
        load_table(tmp_path / "a.yaml")
    with pytest.raises(CosimError, match="does not exist"):
        parse_table(
            {"name": "n", "node_m": 1e-9, "extends": "no.yaml"}, source="n", relative_to=tmp_path
        )


sizes = st.integers(4096, 1 << 26)
widths = st.sampled_from([8, 32, 64, 96, 128, 200, 256, 512, 1024, 4096])
numbers = st.sampled_from(["i1", "i2", "i4", "i8"])
ways = st.sampled_from(["read", "write"])


@settings(max_examples=60, deadline=None)
@given(
    st.sampled_from(sorted(TABLES)),
    sizes,
    sizes,
    widths,
    widths,
    st.sampled_from(["read", "write"]),
)
def test_an_access_to_a_larger_or_wider_buffer_is_never_cheaper(name, s1, s2, w1, w2, way):
    (small, large), (narrow, wide) = sorted((s1, s2)), sorted((w1, w2))
    table = TABLES[name]

    def access(size, width):
        per_byte = interpolate_sram(table, size, way=way, width_bits=width)
        assert per_byte.bounds[0] <= per_byte.value <= per_byte.bounds[1]
        return per_byte.value * width / 8

    assert access(small, narrow) <= access(large, narrow) * (1 + 1e-9)
    assert access(small, narrow) <= access(small, wide) * (1 + 1e-9)


@settings(max_examples=40, deadline=None)
@given(st.sampled_from(sorted(TABLES)), numbers, numbers, numbers, numbers)
def test_a_product_of_more_bits_is_never_cheaper(name, a1, a2, w1, w2):
    (a, more_a), (w, more_w) = sorted((a1, a2)), sorted((w1, w2))
    few, many = (
        find_action(TABLES[name], f"mac_{one}x{two}") for one, two in ((a, w), (more_a, more_w))
    )
    assert few.value <= many.value * (1 + 1e-9)
    assert few.bounds[1] <= many.bounds[1] * (1 + 1e-9)


@settings(max_examples=40, deadline=None)
@given(st.sampled_from(sorted(TABLES)), st.sampled_from(["f16", "bf16", "f32"]), numbers, numbers)
def test_more_bits_of_a_weight_under_a_float_are_never_cheaper(name, a, w1, w2):
    w, more_w = sorted((w1, w2))
    few, many, floats = (
        find_action(TABLES[name], f"mac_{a}x{one}").value for one in (w, more_w, a)
    )
    assert 0 < few <= many * (1 + 1e-9)
    assert many <= floats * (1 + 1e-9)
    assert find_action(TABLES[name], f"mac_f32x{w}").value >= few * (1 - 1e-9)


@settings(max_examples=40, deadline=None)
@given(st.integers(0, len(BY_NODE) - 2), sizes, widths, numbers, numbers)
def test_a_coarser_node_is_never_cheaper_but_in_leakage(at, size, width, a, w):
    fine, coarse = BY_NODE[at : at + 2]
    for way in ("read", "write"):
        joules = [
            interpolate_sram(table, size, way=way, width_bits=width).value
            for table in (fine, coarse)
        ]
        assert joules[0] <= joules[1] * (1 + 1e-9)
    for action in (f"mac_{a}x{w}", *fine.actions):
        joules = [find_action(table, action).value for table in (fine, coarse)]
        assert joules[0] <= joules[1] * (1 + 1e-9), action
    assert "leakage" in fine.not_monotone
