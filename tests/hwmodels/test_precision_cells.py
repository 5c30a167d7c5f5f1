"""hwmodels.cells and hwmodels.precision against multipliers taken apart and by hand."""

from fractions import Fraction
from itertools import product

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hwmodels.architecture import ProcessingArray
from hwmodels.array import closed_form, fold, macs_per_cell
from hwmodels.cells import (
    BitSerialCell,
    ComposableCell,
    Edge,
    FixedCell,
    FloatCell,
    Pace,
    XnorUnit,
    check_cell,
    multiplies,
    operand_numbers,
)
from hwmodels.precision import (
    array_actions,
    engine,
    group_ends,
    leaking_cells,
    paces,
    products_per_cycle,
)
from hwmodels.workload import NUMBER_BITS

COMPOSABLE = ComposableCell("composable")
SERIAL = BitSerialCell("bit_serial")
FLOAT = FloatCell("float")
FLOWS = ["weight_stationary", "output_stationary", "input_stationary"]
QUICK = settings(max_examples=40, deadline=None)


def chip(rows=4, columns=3, *, cell=COMPOSABLE, **more):
    return ProcessingArray(rows, columns, 1e9, cell=cell, **more)


def digits(value, bits):
    """Return a two's complement number as base-4 digits, the last one signed."""
    found = [(value >> at) & 3 for at in range(0, bits, 2)]
    return [*found[:-1], found[-1] - 4 if found[-1] > 1 else found[-1]]


@pytest.mark.parametrize(("a_bits", "w_bits"), list(product((2, 4, 8), repeat=2)))
def test_sixteen_2x2_multipliers_make_as_many_products_as_a_composable_cell(a_bits, w_bits):
    generator = np.random.default_rng(a_bits + 10 * w_bits)
    number = macs_per_cell(a_bits, w_bits)
    used, total, wanted = 0, 0, 0
    for _ in range(number):
        a = int(generator.integers(-(2 ** (a_bits - 1)), 2 ** (a_bits - 1)))
        w = int(generator.integers(-(2 ** (w_bits - 1)), 2 ** (w_bits - 1)))
        for (i, x), (j, y) in product(enumerate(digits(a, a_bits)), enumerate(digits(w, w_bits))):
            used += 1
            total += x * y << 2 * (i + j)
        wanted += a * w
    assert total == wanted
    assert used == 16


def test_a_composable_cell_rounds_widths_up_and_takes_fewer_at_once_if_it_pays():
    assert products_per_cycle(COMPOSABLE, "i8", "i4") == 2
    assert products_per_cycle(COMPOSABLE, "i4", "i4") == 4
    assert products_per_cycle(COMPOSABLE, "i8", "i1") == 4  # a sign takes a 2-bit multiplier
    assert products_per_cycle(COMPOSABLE, "i1", "i1") == 16
    assert [pace.depth for pace in paces(chip(), "i4", "i4")] == [1, 2, 4]


def test_edges_bind_by_the_bits_that_enter_them():
    edge = Edge(row_bits=8, column_bits=16)
    # words of 1, 2 and 4 pairs of 4 bits: 4, 8, 16 bits of each operand
    left = [
        (pace.depth, pace.beats, pace.load_beats) for pace in paces(chip(edge=edge), "i4", "i4")
    ]
    assert left == [(1, 1, 1), (2, 1, 1), (4, 2, 1)]
    both = paces(chip(edge=edge, dataflow="output_stationary"), "i8", "i4")
    assert list(both) == [Pace(1, 1), Pace(2, 2)]  # 16 bits of activations through 8
    # where activations stay, weights enter at the left and activations at the top
    turned = paces(chip(edge=edge, dataflow="input_stationary"), "i8", "i4")
    assert list(turned) == [Pace(1, 1, 1), Pace(2, 1, 1)]


@pytest.mark.parametrize(("serial", "cycles"), [("activations", 4), ("weights", 8), ("both", 32)])
def test_a_bit_serial_cell_takes_cycles_in_proportion_to_bits(serial, cycles):
    cell = BitSerialCell("bit_serial", serial, products=16)
    assert list(paces(chip(cell=cell), "i4", "i8")) == [Pace(16, cycles)]
    assert products_per_cycle(cell, "i4", "i8") == Fraction(16, cycles)


def simulate_serial_word(a, w, bits):
    """Return (sum of products, cycles) of a cell that sees one bit of every activation a cycle."""
    total, cycles = 0, 0
    for bit in range(bits):
        weight = -(1 << bit) if bit == bits - 1 else 1 << bit
        total += weight * int(w @ (a >> bit & 1))
        cycles += 1
    return total, cycles


@QUICK
@given(bits=st.sampled_from([4, 8]), seed=st.integers(0, 99))
def test_a_word_of_a_bit_serial_cell_is_done_after_its_last_bit(bits, seed):
    generator = np.random.default_rng(seed)
    a = generator.integers(-(2 ** (bits - 1)), 2 ** (bits - 1), SERIAL.products)
    w = generator.integers(-128, 128, SERIAL.products)
    total, cycles = simulate_serial_word(a, w, bits)
    assert total == a @ w
    (pace,) = paces(chip(cell=SERIAL), f"i{bits}", "i8")
    assert (pace.depth, pace.beats) == (len(a), cycles)


def simulate_grid(a, w, *, rows, columns, beats, apart):
    """Return (a @ w.T, cycles from the first word in to the last result) where weights stay.

    Every word enters in `beats` parts, one per cycle, and moves on one cell per cycle; a cell adds
    the sum from above to its own with the last part. Word m of fold f enters row i at cycle
    apart f + beats m + i.
    """
    m, n, k = len(a), len(w), a.shape[1]
    result, last = np.zeros((m, n), dtype=int), 0
    number = 0
    for n0 in range(0, n, columns):
        for k0 in range(0, k, rows):
            ready = {}  # (row, column, word): cycle in which the sum leaves the cell, and the sum
            for word, i, j in product(range(m), range(rows), range(columns)):
                enters = apart * number + beats * word + i + j
                done = enters + beats  # the last part is in, the next cell can add from now on
                above, total = ready.get((i - 1, j, word), (0, 0))
                assert above <= done - 1 + (i == 0)
                if n0 + j < n and k0 + i < k:
                    total += a[word, k0 + i] * w[n0 + j, k0 + i]
                ready[i, j, word] = done, total
                if i == rows - 1 and n0 + j < n:
                    result[word, n0 + j] += total
                if i == rows - 1:
                    last = max(last, done)
            number += 1
    return result, last


@QUICK
@given(
    m=st.integers(1, 5),
    n=st.integers(1, 5),
    k=st.integers(1, 6),
    rows=st.integers(1, 3),
    columns=st.integers(1, 3),
    beats=st.integers(1, 4),
    load_beats=st.integers(1, 3),
    schedule=st.sampled_from(["serial", "double_buffered"]),
)
def test_words_that_take_several_cycles_stretch_compute_and_nothing_else(
    m, n, k, rows, columns, beats, load_beats, schedule
):
    generator = np.random.default_rng(m + 10 * n + 100 * k)
    a, w = generator.integers(-8, 8, (m, k)), generator.integers(-8, 8, (n, k))
    load = rows * load_beats
    apart = max(beats * m, load)
    if schedule == "serial":
        apart = load + rows - 1 + beats * m + columns - 1
    result, cycles = simulate_grid(a, w, rows=rows, columns=columns, beats=beats, apart=apart)
    np.testing.assert_array_equal(result, a @ w.T)
    # a serial array whose edges let one bit of the word in at a time
    cell = BitSerialCell("bit_serial", "activations", products=1)
    edge = Edge(column_bits=-(-8 // load_beats))
    found = engine(
        chip(rows, columns, cell=cell, edge=edge, schedule=schedule), "i8", "i8", m=m, n=n, k=k
    ).array
    assert (found.pace.beats, found.pace.load_beats) == (8, -(-8 // edge.column_bits))
    paced = type(found)(**{**vars(found), "own_pace": Pace(1, beats, load_beats)})
    split = fold(paced, m=m, n=n, k=k)
    assert split.total == load + cycles
    assert split.compute == beats * m * -(-n // columns) * -(-k // rows)


@QUICK
@given(
    m=st.integers(1, 40),
    n=st.integers(1, 40),
    k=st.integers(1, 90),
    flow=st.sampled_from(FLOWS),
    schedule=st.sampled_from(["serial", "double_buffered"]),
    a=st.sampled_from(["i8", "u8", "i4", "i1"]),
    w=st.sampled_from(["i8", "i4", "i1"]),
    edge=st.sampled_from([None, 8, 16, 32]),
)
def test_composable_cells_are_never_slower_than_fixed_ones_and_wider_edges_never_hurt(
    m, n, k, flow, schedule, a, w, edge
):
    sizes = {"m": m, "n": n, "k": k}

    def cycles(cell, bits):
        array = chip(cell=cell, dataflow=flow, schedule=schedule, edge=Edge(bits, bits))
        found = engine(array, a, w, **sizes)
        return fold(found.array, m=m, n=n, k=found.words).total

    found = cycles(COMPOSABLE, edge)
    assert found <= cycles(FixedCell(), edge)
    assert edge is None or cycles(COMPOSABLE, 2 * edge) <= found
    assert cycles(COMPOSABLE, None) <= found
    assert cycles(FixedCell(), None) == closed_form(
        schedule, **sizes, rows=4, columns=3, dataflow=flow
    )


def test_4_bit_weights_halve_the_folds_and_narrow_rows_take_that_back():
    sizes = {"m": 499, "n": 768, "k": 768}

    def cycles(row_bits, w):
        found = engine(chip(16, 16, edge=Edge(row_bits=row_bits)), "i8", w, **sizes)
        return fold(found.array, m=499, n=768, k=found.words).total

    # 48 column blocks of 48 or 24 folds of 499 rows; load 16, fill 15 and drain 15 once
    assert cycles(16, "i8") == 46 + 48 * 48 * 499
    assert cycles(16, "i4") == 46 + 48 * 24 * 499
    assert cycles(8, "i4") == 46 + 48 * 24 * 998  # two cycles a word: as slow as 8 bits
    # a single row is bound by loading weights, which 4 bits halve whatever the rows take
    found = engine(chip(16, 16, edge=Edge(row_bits=8)), "i8", "i4", m=1, n=768, k=768)
    assert (found.array.pace, found.words) == (Pace(2, 2, 1), 384)


@QUICK
@given(
    k=st.integers(1, 60),
    group=st.integers(1, 24),
    rows=st.integers(1, 5),
    w=st.sampled_from(["i8", "i4"]),
    flow=st.sampled_from(FLOWS),
)
def test_no_fold_holds_two_scale_groups_and_every_group_is_rescaled_once(k, group, rows, w, flow):
    m, n = 3, 2
    array = chip(rows, 2, dataflow=flow, schedule="serial")
    found = engine(array, "i8", w, m=m, n=n, k=k, scale_group=group)
    depth = found.array.pace.depth
    parts = [min(group, k - start) for start in range(0, k, group)]
    words = [-(-part // depth) for part in parts]
    one = {"rows": rows, "columns": 2, "dataflow": flow}
    expected = sum(closed_form("serial", m=m, n=n, k=word, **one) for word in words)
    assert fold(found.array, m=m, n=n, k=found.words).total == expected
    assert found.rescales == (len(parts) if len(parts) > 1 else 0)
    ends = group_ends(found.array.pace, first=0, stop=found.words, words=found.words)
    assert ends == found.rescales


def test_signs_run_on_the_xnor_unit_at_its_own_size():
    unit = XnorUnit(8, 6, word_bits=16, cell_area_ratio=0.5)
    array = chip(4, 3, cell=FixedCell(), xnor=unit, supports=("i8xi8", "i1xi1"))
    found = engine(array, "i1", "i1", m=5, n=7, k=50)
    assert (found.array.rows, found.array.columns, found.words) == (8, 6, 4)
    assert found.macs_per_cycle == 8 * 6 * 16
    assert engine(array, "i8", "i8", m=5, n=7, k=50).macs_per_cycle == 12
    assert leaking_cells(array) == 12 + 24


def test_floating_point_takes_one_pair_a_cycle_and_integer_weights_are_converted_where_it_says():
    at_edge = engine(chip(cell=FLOAT), "f16", "i4", m=5, n=7, k=64, scale_group=16)
    assert (at_edge.words, at_edge.action, at_edge.is_dequantizing) == (64, "mac_f16xf16", True)
    assert at_edge.rescales == 0  # the scale is in the converted weight
    mixed = FloatCell("float", "cell")
    in_cell = engine(chip(cell=mixed), "f16", "i4", m=5, n=7, k=64, scale_group=16)
    assert (in_cell.words, in_cell.action, in_cell.is_dequantizing) == (64, "mac_f16xi4", False)
    assert in_cell.rescales == 4
    array = chip(cell=FLOAT, supports=("f16xf16", "f16xi8", "i8xi8"), rescale="accumulators")
    assert array_actions(array) == ("mac_f16xf16", "mac_i8xi8", "dequantize", "rescale")


@pytest.mark.parametrize("cell", [FixedCell(), FixedCell(bits=4), COMPOSABLE, SERIAL, FLOAT])
def test_what_a_cell_multiplies_has_a_pace_and_the_rest_is_refused(cell):
    for a, w in product(NUMBER_BITS, NUMBER_BITS):
        problems = check_cell(cell, [f"{a}x{w}"], xnor=None)
        assert bool(problems) is not multiplies(cell, a, w)
        if problems:
            assert problems[0].startswith(f'array.supports.0: found "{a}x{w}", but a {cell.kind}')
            with pytest.raises(ValueError, match=f"{a}x{w}"):
                list(paces(chip(cell=cell), a, w))
        else:
            assert all(pace.depth * pace.beats for pace in paces(chip(cell=cell), a, w))


def test_all_mistakes_of_a_precision_list_are_told_at_once():
    problems = check_cell(
        FixedCell(), ["i8xi8", "i8xi5", "f16xf16", "i8xi8", "x"], xnor=XnorUnit(4, 4)
    )
    assert [line.split(":")[0] for line in problems] == [
        *(f"array.supports.{number}" for number in (1, 2, 3, 4)),
        "array.xnor",
    ]
    assert 'found "i8xi5", expected activation x weight' in problems[0]
    assert problems[0].endswith('did you mean "i8xi8"?')
    assert "a fixed cell of 8 bits multiplies integers of up to 8 bits" in problems[1]
    assert problems[2].endswith('found "i8xi8" a second time')
    assert problems[4].endswith("expected i1xi1 or u1xi1")
    assert not check_cell(FixedCell(bits=4), ["i4xi4", "i1xi1"], xnor=XnorUnit(2, 2))


def test_names_of_operands_are_taken_apart():
    assert operand_numbers("bf16xi8") == ("bf16", "i8")
    for wrong in ("", "i8", "i8xi8xi8", "i8-i8"):
        with pytest.raises(ValueError, match="expected activation x weight"):
            operand_numbers(wrong)
