"""hwmodels.sparse_timing: cycles by hand, the closed form of the folds that run, lists of GEMMs."""

from dataclasses import replace

import numpy as np
import pytest
from hw_samples import gemm
from hypothesis import given, settings
from hypothesis import strategies as st

from hwmodels.architecture import ProcessingArray, SparseUnit
from hwmodels.array import Split, closed_form, fold
from hwmodels.skipping import POLICIES, Cut, executed
from hwmodels.sparse_chip import pattern_of, sparsity_problems
from hwmodels.sparse_timing import Place, block_cycles, policy_cycles
from hwmodels.sparsity import full_mask, uniform_mask
from hwmodels.workload import Nonzero

UNIT = SparseUnit(None, banks=4, kept=1, run=2)
SCHEDULES = ["serial", "double_buffered"]


def pack(weights):
    return np.packbits(np.asarray(weights) != 0, axis=1, bitorder="little")


def lanes(schedule, drain="shift_out"):
    return ProcessingArray(
        2,
        2,
        1e9,
        dataflow="output_stationary",
        schedule=schedule,
        drain=drain,
        sparsity="csr_gather",
        sparse_unit=SparseUnit(None, banks=2),
    )


@pytest.mark.parametrize(
    ("schedule", "drain", "steps", "split"),
    [
        # 5 activation rows on 2 rows of lanes: 3 folds. 3 steps hide the 2 cycles of a drain.
        ("serial", "shift_out", 3, Split(compute=9, drain=6)),
        ("double_buffered", "shift_out", 3, Split(compute=9, drain=2)),
        ("double_buffered", "none", 3, Split(compute=9)),
        # one step does not: the two folds before the last wait a cycle each
        ("double_buffered", "shift_out", 1, Split(compute=3, drain=1 + 1 + 2)),
        ("double_buffered", "shift_out", 0, Split()),
    ],
)
def test_lanes_take_their_steps_and_the_way_out_by_hand(schedule, drain, steps, split):
    w = np.zeros((2, 9), int)
    w[1, :steps] = 1
    chip, cut = lanes(schedule, drain), Cut(2, 9, ((0, 2),), ((0, 9),))
    (done,) = executed(chip, Nonzero(pack(w), f"steps {steps}"), cut)
    assert block_cycles(chip, done, cut, Place(0, 0, 5)) == split


def test_chunks_of_a_sum_add_to_the_whole_fold():
    w = np.ones((2, 9), int)
    chip = lanes("double_buffered")
    cut = Cut(2, 9, ((0, 2),), ((0, 4), (4, 9)))
    (done,) = executed(chip, Nonzero(pack(w), "ones 2 x 9"), cut)
    first, last = (block_cycles(chip, done, cut, Place(0, chunk, 2)) for chunk in (0, 1))
    assert (first, last) == (Split(compute=4), Split(compute=5, drain=2))
    plain = replace(chip, sparsity="skip_zero_fold", sparse_unit=None)
    (done,) = executed(plain, Nonzero(pack(w), "ones 2 x 9"), cut)
    first, last = (block_cycles(plain, done, cut, Place(0, chunk, 2)) for chunk in (0, 1))
    assert first + last == fold(plain, m=2, n=2, k=9)


@settings(max_examples=40, deadline=None)
@given(
    schedule=st.sampled_from(SCHEDULES),
    pair=st.sampled_from([(n, f) for n, one in POLICIES.items() for f in one.dataflows]),
    m=st.integers(1, 9),
    n=st.integers(1, 12),
    k=st.integers(1, 12),
    density=st.sampled_from([0.0, 0.1, 0.4, 1.0]),
)
def test_folds_that_run_take_the_closed_form_and_never_more_than_all(
    schedule, pair, m, n, k, density
):
    name, flow = pair
    shape = {"m": m, "n": n, "k": k}
    chip = ProcessingArray(
        2, 3, 1e9, dataflow=flow, schedule=schedule, sparsity=name, sparse_unit=UNIT
    )
    mask = uniform_mask(n, k, density=density, generator=np.random.default_rng(n + 17 * k))
    cut = Cut(n, k, ((0, n),), ((0, k),))
    (done,) = executed(chip, Nonzero(mask, f"{n} {k} {density}"), cut)
    found = block_cycles(chip, done, cut, Place(0, 0, m)).total
    if name != "csr_gather":
        blocks = {"weight_stationary": 1, "input_stationary": -(-m // 3)}.get(flow, -(-m // 2))
        folds = blocks * int(done.folds.sum())
        sizes = {"rows": 2, "columns": 3, "dataflow": flow}
        assert found == closed_form(schedule, **shape, **sizes, occupied=folds)
        assert found <= closed_form(schedule, **shape, **sizes)
    if density == 1.0 and name not in ("nm", "csr_gather"):
        assert found == fold(chip, **shape).total


def test_a_slow_decoder_shows_where_weights_shift_in():
    # 4 x 8 cells of N:M decode 8 indices per row of weights: 2 per cycle take 16 cycles a fold.
    unit = SparseUnit(2, kept=2, run=4)
    chip = ProcessingArray(4, 8, 1e9, schedule="serial", sparsity="nm", sparse_unit=unit)
    assert fold(chip, m=5, n=8, k=4) == Split(compute=5, fill=3, drain=7, weight_load=16)
    hidden = replace(chip, schedule="double_buffered")
    assert fold(hidden, m=5, n=16, k=4).weight_load == 16 + (16 - 5)
    assert fold(hidden, m=16, n=16, k=4).weight_load == 16
    columns = replace(chip, sparsity="column_compact", sparse_unit=SparseUnit(1))
    assert fold(columns, m=5, n=8, k=4).weight_load == 8
    rows = replace(chip, sparsity="row_skip", sparse_unit=SparseUnit(1))
    assert fold(rows, m=5, n=8, k=4).weight_load == 4


def test_a_list_of_gemms_under_every_policy():
    # 8 x 8 weights on 4 x 4 cells, weights stay, serial: one fold is 4 + 3 + 5 + 3 = 15 cycles.
    w = np.zeros((8, 8), int)
    w[:4, ::2] = 1  # even k of the first four columns
    half = replace(gemm("half", 5, 8, 8), nonzero=Nonzero(pack(w), "even k of four"))
    whole = gemm("whole", 5, 8, 8, count=2)
    chip = ProcessingArray(4, 4, 1e9, schedule="serial", sparse_unit=UNIT)
    rows = list(policy_cycles([half, whole], chip))
    found = {(row.name, row.policy): row for row in rows}
    assert len(rows) == len(found) == 2 * len(POLICIES)
    cycles = {policy: found["half", policy].cycles for policy in POLICIES}
    lane = 2 * (4 + 4)  # two blocks of rows; the second block of columns has nothing to do
    assert cycles == {
        "dense": 60,
        "skip_zero_fold": 30,
        "row_skip": 15,
        "column_compact": 30,
        "nm": 30,
        "csr_gather": lane,
    }
    assert found["half", "csr_gather"].dataflow == "output_stationary"
    assert found["half", "csr_gather"].dense_cycles == 4 * (4 + 4 + 8 - 2 + 4)
    assert found["half", "row_skip"].array_macs == found["half", "csr_gather"].array_macs == 5 * 16
    assert found["half", "row_skip"].index_bytes == 2  # 4 rows of 3 bits
    assert found["whole", "nm"].note.endswith("computed dense")
    for policy in ("dense", "skip_zero_fold", "row_skip", "column_compact", "nm"):
        row = found["whole", policy]
        assert (row.cycles, row.dense_cycles, row.array_macs) == (120, 120, row.macs)


def test_a_bare_density_is_drawn_uniform_and_the_same_each_time():
    array = ProcessingArray(4, 4, 1e9, sparsity="row_skip", sparse_unit=SparseUnit(1))
    some = replace(gemm("some", 5, 100, 90), nonzero=0.25)
    first, again = pattern_of(some, array), pattern_of(some, array)
    assert first == again
    assert abs(np.bitwise_count(first.mask).sum() / 9000 - 0.25) < 0.02
    assert pattern_of(some, replace(array, sparsity="dense")) is None
    assert (pattern_of(gemm("all", 5, 3, 11), array).mask == full_mask(3, 11)).all()
    pruned = replace(array, sparsity="nm", sparse_unit=SparseUnit(None, kept=2, run=4))
    ones = np.unpackbits(pattern_of(some, pruned).mask, axis=1, bitorder="little")
    assert (ones[:, :88].reshape(100, 22, 4).sum(axis=2) == 2).all()


@pytest.mark.parametrize(
    ("change", "text"),
    [
        ({"sparsity": "row_skip"}, "array.sparse_unit: missing, row_skip needs it with decoded"),
        (
            {"sparsity": "row_skip", "dataflow": "output_stationary", "sparse_unit": SparseUnit(1)},
            (
                'found "row_skip", which leaves out rows of the weights that stay in the cells; '
                'expected "dataflow: weight_stationary", found output_stationary'
            ),
        ),
        ({"sparse_unit": SparseUnit(1)}, "array.sparse_unit: found one, but dense uses none"),
        (
            {"sparsity": "nm", "sparse_unit": SparseUnit(1, banks=2, kept=2)},
            (
                "array.sparse_unit.banks: found one, but nm uses none\n"
                "array.sparse_unit.run: missing, nm needs it"
            ),
        ),
        (
            {"sparsity": "nm", "sparse_unit": SparseUnit(1, kept=3, run=3)},
            (
                "array.sparse_unit.kept: found 3, expected less than run, 3\n"
                "array.rows: found 4, expected a multiple of array.sparse_unit.run, 3"
            ),
        ),
    ],
)
def test_mistakes_in_a_chip_say_what_is_expected(change, text):
    array = replace(ProcessingArray(4, 4, 1e9), **change)
    assert text in "\n".join(sparsity_problems(array))


def test_a_list_needs_what_its_policies_need():
    with pytest.raises(ValueError, match=r"csr_gather: array\.sparse_unit\.banks: missing"):
        list(policy_cycles([], ProcessingArray(4, 4, 1e9, sparse_unit=SparseUnit(1))))
