"""hwmodels.array against Verilog of the array: equal cycles, exact results.

Cycles are those between the first word that enters the Verilog array and the last result that
leaves it, found by its own control; nothing there knows a formula.
"""

import math
from dataclasses import astuple

import numpy as np
import pytest
import rtl_runner
from rtl_runner import OPERAND_BITS, Case, Engine

from hwmodels.array import closed_form, macs_per_cell, packed_depth
from hwmodels.dataflow import DATAFLOWS
from hwmodels.rtl_checked import RTL_CHECKED, UNCHECKED, Combination, cycles_note

needs_icarus = pytest.mark.skipif(
    "iverilog" not in rtl_runner.SIMULATORS, reason="needs iverilog, see tests/rtl/README.md"
)
needs_verilator = pytest.mark.skipif(
    "verilator" not in rtl_runner.SIMULATORS, reason="needs verilator, see tests/rtl/README.md"
)

ORDERS = [
    ("weight_stationary", "serial", "shift_out"),
    ("weight_stationary", "double_buffered", "shift_out"),
    ("input_stationary", "serial", "shift_out"),
    ("input_stationary", "double_buffered", "shift_out"),
    ("output_stationary", "serial", "shift_out"),
    ("output_stationary", "serial", "none"),
    ("output_stationary", "double_buffered", "shift_out"),
    ("output_stationary", "double_buffered", "none"),
]
SIZES = [(4, 4), (3, 5), (5, 3), (8, 8), (2, 7), (1, 4), (4, 1)]
OPERANDS = ["i8xi8", "u8xi8", "i8xi4", "u8xi4", "i4xi4", "i1xi1"]
NARROW = ["i8xi2", "u8xi2", "i4xi2", "i2xi2"]
PRIMES = [2, 3, 5, 7, 11, 13, 17, 19]
VALUES = {"i8": (-128, 128), "u8": (0, 256), "i4": (-8, 8), "i2": (-2, 2)}
DENSE_CASES, SKIPPING_CASES = 4, 4


def engines(order, *, sizes, operands=OPERANDS):
    """Return one engine per operand type on an array size of its own."""
    made = []
    for number, name in enumerate(operands):
        a, w = name.split("x")
        bits = [int(operand[1:]) for operand in (a, w)]
        per_cell = 8 if name == "i1xi1" else macs_per_cell(*bits)
        made.append(Engine(*order, *sizes[number % len(sizes)], (a, w), per_cell))
    return made


def random_shape(generator, engine, number):
    """Return m, n, k that are often prime, smaller than the array, or 1."""
    largest = 19 if engine.rows * engine.columns <= 25 else 11
    m, n, k = (int(generator.integers(1, largest + 1)) for _ in range(3))
    if number % 2:
        m, n, k = (int(generator.choice(PRIMES[:5])) for _ in range(3))
    special = generator.integers(6)
    m = 1 if special == 0 else m
    k = int(generator.integers(1, engine.rows * engine.per_cell + 1)) if special == 1 else k
    n = int(generator.integers(1, engine.columns + 1)) if special == 2 else n
    return m, n, k * int(generator.integers(1, 1 + engine.per_cell))


def operand(generator, name, shape):
    if name == "i1":
        return generator.choice([-1, 1], shape)
    return generator.integers(*VALUES[name], shape)


def folds_of(engine, m, n, k):
    """Return for every fold, in order, which part of w[n, k] it multiplies."""
    depth = packed_depth(k, engine.per_cell)
    tiles = DATAFLOWS[engine.dataflow].tiles(m, n, depth, engine.rows, engine.columns)
    return [
        (slice(*tile.n), slice(tile.k[0] * engine.per_cell, tile.k[1] * engine.per_cell))
        for tile in tiles
    ]


def dense_case(generator, engine, number):
    m, n, k = random_shape(generator, engine, number)
    a, w = engine.operands
    folds = folds_of(engine, m, n, k)
    return Case(
        operand(generator, a, (m, k)), operand(generator, w, (n, k)), np.ones(len(folds), bool)
    )


def skipping_case(generator, engine, number):
    """Return a case in which folds without a weight are passed over; some have none at all."""
    case = dense_case(generator, engine, number)
    m, k = case.a.shape
    n = len(case.w)
    parts = folds_of(engine, m, n, k)
    for part in parts:
        if generator.random() < (0.4, 0.7, 1.0)[number % 3]:
            case.w[part] = 0
    return Case(case.a, case.w, np.array([bool(case.w[part].any()) for part in parts]))


def draw(engine, *, dense, skipping):
    generator = np.random.default_rng([ord(letter) for letter in repr(astuple(engine))])
    cases = [dense_case(generator, engine, number) for number in range(dense)]
    if engine.operands != ("i1", "i1"):
        cases += [skipping_case(generator, engine, number) for number in range(skipping)]
    return cases


def expected_cycles(engine, case):
    m, k = case.a.shape
    return closed_form(
        engine.schedule,
        m=m,
        n=len(case.w),
        k=packed_depth(k, engine.per_cell),
        rows=engine.rows,
        columns=engine.columns,
        dataflow=engine.dataflow,
        drain=engine.drain,
        occupied=int(case.occupied.sum()),
    )


def compare(runs, folder, simulator):
    """Assert equal cycles and exact results of all cases; return how many there were."""
    compared = 0
    for (engine, cases), outcomes in zip(
        runs, rtl_runner.run(runs, folder=folder, simulator=simulator), strict=True
    ):
        for case, outcome in zip(cases, outcomes, strict=True):
            shape = case.a.shape, case.w.shape, int(case.occupied.sum())
            assert outcome.cycles == expected_cycles(engine, case), (engine, shape)
            np.testing.assert_array_equal(outcome.result, case.a @ case.w.T, str((engine, shape)))
            compared += 1
    return compared


@needs_icarus
@pytest.mark.parametrize("order", ORDERS, ids="-".join)
def test_cycles_equal_the_formula_and_results_are_exact(order, tmp_path):
    turn = ORDERS.index(order)
    runs = [
        (engine, draw(engine, dense=DENSE_CASES, skipping=SKIPPING_CASES))
        for engine in engines(order, sizes=SIZES[turn % len(SIZES) :] + SIZES)
    ]
    compared = compare(runs, tmp_path, "iverilog")
    assert compared == 5 * (DENSE_CASES + SKIPPING_CASES) + DENSE_CASES
    assert compared * len(ORDERS) >= 300


@needs_icarus
@pytest.mark.rtl
@pytest.mark.parametrize("order", ORDERS, ids="-".join)
def test_two_bit_operands_side_by_side_take_the_cycles_of_their_words(order, tmp_path):
    turn = ORDERS.index(order)
    sizes = SIZES[turn % len(SIZES) :] + SIZES
    runs = [
        (engine, draw(engine, dense=DENSE_CASES, skipping=SKIPPING_CASES))
        for engine in engines(order, sizes=sizes, operands=NARROW)
    ]
    assert {engine.per_cell for engine, _ in runs} == {4, 8, 16}
    assert compare(runs, tmp_path, "iverilog") == len(NARROW) * (DENSE_CASES + SKIPPING_CASES)


@needs_icarus
@pytest.mark.rtl
@pytest.mark.parametrize("order", ORDERS, ids="-".join)
def test_cycles_equal_the_formula_on_every_array_size(order, tmp_path):
    runs = [
        (engine, draw(engine, dense=6, skipping=6))
        for size in SIZES
        for engine in engines(order, sizes=[size])
    ]
    compare(runs, tmp_path, "iverilog")


@needs_verilator
@pytest.mark.rtl
def test_cycles_equal_the_formula_in_a_second_simulator(tmp_path):
    runs = []
    for turn, order in enumerate(ORDERS):
        engine = engines(order, sizes=SIZES[:3])[turn % len(OPERANDS)]
        runs.append((engine, draw(engine, dense=12, skipping=12)))
    assert compare(runs, tmp_path, "verilator") >= 150


@needs_verilator
@pytest.mark.rtl
@pytest.mark.parametrize(
    ("schedule", "cycles"), [("serial", 1_255_680), ("double_buffered", 545 + 2303 * 499)]
)
def test_a_whole_layer_of_wav2vec2_base_takes_the_tabulated_cycles(schedule, cycles, tmp_path):
    generator = np.random.default_rng(0)
    engine = Engine("weight_stationary", schedule, "shift_out", 16, 16, ("i8", "i8"), 1)
    case = Case(
        operand(generator, "i8", (499, 768)),
        operand(generator, "i8", (768, 768)),
        np.ones(len(folds_of(engine, 499, 768, 768)), bool),
    )
    assert expected_cycles(engine, case) == cycles
    assert compare([(engine, [case])], tmp_path, "verilator") == 1


def test_what_is_called_checked_is_what_these_tests_run():
    run = {
        Combination(*order, name, sparsity)
        for order in ORDERS
        for name in OPERANDS + NARROW
        for sparsity in ("dense", "skip_zero_fold")
        if (name, sparsity) != ("i1xi1", "skip_zero_fold")
    }
    assert run == RTL_CHECKED
    assert {cycles_note(combination) for combination in run} == {""}


def test_what_has_no_rtl_says_so():
    checked = Combination(*ORDERS[0], "i8xi8", "dense")
    for other in (
        checked._replace(sparsity="row_skip"),
        checked._replace(operands="f16xf16"),
        checked._replace(drain="none"),
        checked._replace(dataflow="csr_gather"),
    ):
        assert cycles_note(other) == UNCHECKED == "cycles: closed form, not RTL-checked"


def test_operands_fill_the_words_of_a_cell():
    for engine in engines(ORDERS[0], sizes=SIZES, operands=OPERANDS + NARROW):
        assert engine.per_cell == (
            8
            if engine.operands == ("i1", "i1")
            else 64 // math.prod(int(name[1:]) for name in engine.operands)
        )
        assert max(OPERAND_BITS[name] for name in engine.operands) * engine.per_cell <= 64
