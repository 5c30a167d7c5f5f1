"""hwmodels.skipping: folds listed one by one give the product, and are those that are counted."""

from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hwmodels.architecture import ProcessingArray, SparseUnit
from hwmodels.skipping import POLICIES, Cut, executed
from hwmodels.workload import Nonzero

FLOWS = [(name, flow) for name, one in POLICIES.items() for flow in one.dataflows]
UNITS = {
    "row_skip": SparseUnit(4),
    "column_compact": SparseUnit(4),
    "nm": SparseUnit(4, kept=1, run=2),
    "csr_gather": SparseUnit(4, banks=2),
}


def pack(weights):
    return np.packbits(weights != 0, axis=1, bitorder="little")


def array(name, flow, rows, columns):
    return ProcessingArray(
        rows, columns, 1e9, dataflow=flow, sparsity=name, sparse_unit=UNITS.get(name)
    )


def blocks(size, step):
    return tuple((at, min(at + step, size)) for at in range(0, size, step))


def parts(span, step):
    return [range(at, min(at + step, span[1])) for at in range(span[0], span[1], step)]


def zero_folds(w, chip, panel, chunk):
    """Yield (columns, terms) of every fold that holds a weight that is not zero."""
    flow = chip.dataflow
    columns = [range(*panel)] if flow == "input_stationary" else parts(panel, chip.columns)
    terms = [range(*chunk)] if flow == "output_stationary" else parts(chunk, chip.rows)
    for ns in columns:
        for ks in terms:
            if flow == "output_stationary":
                is_kept = any(w[n].any() for n in ns)
            else:
                is_kept = any(w[n, k] for n in ns for k in ks)
            if is_kept:
                yield ns, ks


def every_fold(w, chip, panel, chunk):
    yield from zero_folds(np.ones_like(w), chip, panel, chunk)


def row_folds(w, chip, panel, chunk):
    for ns in parts(panel, chip.columns):
        left = [k for k in range(*chunk) if any(w[n, k] for n in ns)]
        for at in range(0, len(left), chip.rows):
            yield ns, left[at : at + chip.rows]


def column_folds(w, chip, panel, chunk):
    for ks in parts(chunk, chip.rows):
        left = [n for n in range(*panel) if any(w[n, k] for k in ks)]
        for at in range(0, len(left), chip.columns):
            yield left[at : at + chip.columns], ks


ORACLES = {
    "dense": every_fold,
    "skip_zero_fold": zero_folds,
    "row_skip": row_folds,
    "column_compact": column_folds,
}


@st.composite
def products(draw):
    """Weights with zeros in one of four patterns, a chip and the blocks its dataflow allows."""
    name, flow = draw(st.sampled_from([pair for pair in FLOWS if pair[0] in ORACLES]))
    rows, columns = draw(st.integers(1, 4)), draw(st.integers(1, 3))
    n, k = draw(st.integers(1, 9)), draw(st.integers(1, 11))
    generator = np.random.default_rng(draw(st.integers(0, 99)))
    kept = generator.random((n, k)) < draw(st.sampled_from([0.0, 0.15, 0.6, 1.0]))
    kept[:, generator.random(k) < draw(st.sampled_from([0.0, 0.5]))] = False
    kept[generator.random(n) < draw(st.sampled_from([0.0, 0.5]))] = False
    wide = 1 if flow == "input_stationary" else columns
    high = 1 if flow == "output_stationary" else rows
    across = blocks(n, wide * draw(st.integers(1, 3)))
    deep = blocks(k, high * draw(st.integers(1, 3)))
    w = np.where(kept, generator.integers(1, 9, (n, k)), 0)
    return w, array(name, flow, rows, columns), Cut(n, k, across, deep)


@settings(max_examples=60, deadline=None)
@given(products())
def test_the_folds_of_a_policy_give_the_product_and_are_counted(case):
    w, chip, cut = case
    a = np.random.default_rng(1).integers(-9, 9, (2, cut.k))
    out = np.zeros((2, cut.n), int)
    writes = np.zeros(cut.n, int)
    (done,) = executed(chip, Nonzero(pack(w), f"{w.tolist()}"), cut)
    for i, panel in enumerate(cut.panels):
        for j, chunk in enumerate(cut.chunks):
            folds = [
                (list(ns), list(ks)) for ns, ks in ORACLES[chip.sparsity](w, chip, panel, chunk)
            ]
            for ns, ks in folds:
                out[:, ns] += a[:, ks] @ w[np.ix_(ns, ks)].T
                writes[ns] += 1
            assert done.folds[i, j] == len(folds)
            assert done.weights[i, j] == sum(len(ns) * len(ks) for ns, ks in folds)
            assert done.activations[i, j] == sum(len(ks) for _, ks in folds)
            if chip.sparsity == "row_skip":
                assert done.indices[i, j] == done.moved[i, j] == sum(len(ks) for _, ks in folds)
            if chip.sparsity == "column_compact":
                assert done.indices[i, j] == done.moved[i, j] == sum(len(ns) for ns, _ in folds)
    assert (out == a @ w.T).all()
    if chip.dataflow == "output_stationary":
        writes[:] = 1
    assert done.result_writes == np.maximum(writes, 1).sum()


@settings(max_examples=25, deadline=None)
@given(
    n=st.integers(1, 9),
    k=st.integers(1, 23),
    columns=st.integers(1, 4),
    chunk=st.integers(1, 3),
    shape=st.sampled_from([(1, 2), (2, 4), (3, 4)]),
    seed=st.integers(0, 99),
)
def test_places_of_n_in_m_hold_every_weight_that_is_not_zero(n, k, columns, chunk, shape, seed):
    kept, run = shape
    rows, generator = 4, np.random.default_rng(seed)
    w = np.zeros((n, k), int)
    for row in w:
        for at in range(0, k, run):
            here = range(at, min(at + run, k))
            row[generator.permutation(here)[: generator.integers(0, kept + 1)]] = 1
    chip = ProcessingArray(
        rows, columns, 1e9, sparsity="nm", sparse_unit=SparseUnit(None, kept=kept, run=run)
    )
    cut = Cut(n, k, blocks(n, columns), blocks(k, rows * chunk))
    (done,) = executed(chip, Nonzero(pack(w), f"{shape}{w.tolist()}"), cut)
    for j, (start, stop) in enumerate(cut.chunks):
        runs = [range(at, min(at + run, stop)) for at in range(start, stop, run)]
        places = sum(min(kept, len(one)) for one in runs)
        for one in runs:
            assert (w[:, one].sum(axis=1) <= min(kept, len(one))).all()
        for i, (left, right) in enumerate(cut.panels):
            assert done.weights[i, j] == places * (right - left)
            assert done.folds[i, j] == -(-places // rows)
            assert done.activations[i, j] == stop - start
            assert done.index_bits[i, j] == done.weights[i, j] * (1 if run == 2 else 2)
    assert not done.note


def test_weights_that_are_not_n_of_m_are_computed_dense_and_say_so():
    w = np.ones((3, 8), int)
    (done,) = executed(
        array("nm", "weight_stationary", 4, 2),
        Nonzero(pack(w), "ones"),
        Cut(3, 8, ((0, 3),), ((0, 8),)),
    )
    assert done.folds.tolist() == [[4]]
    assert done.note == "a run of 2 weights holds 2, more than 1: computed dense"
    assert done.index_bits.tolist() == done.indices.tolist() == [[0]]


def test_index_bits_by_hand():
    # 4 x 5 weights on 2 x 2 cells; columns 0 and 1 share k = 0 and 4, columns 2 and 3 are k = 1.
    w = np.zeros((4, 5), int)
    w[0, 0] = w[1, 4] = w[2, 1] = w[3, 1] = 1
    cut, found = Cut(4, 5, ((0, 4),), ((0, 5),)), {}
    for name, flow in FLOWS:
        (done,) = executed(array(name, flow, 2, 2), Nonzero(pack(w), "by hand"), cut)
        found[name, flow] = SimpleNamespace(
            folds=int(done.folds[0, 0]), bits=int(done.index_bits[0, 0])
        )
    skip = found["skip_zero_fold", "weight_stationary"]
    assert (skip.folds, skip.bits) == (3, 6)  # of 2 x 3 folds, a flag each
    rows = found["row_skip", "weight_stationary"]
    assert (rows.folds, rows.bits) == (2, 9)  # 2 rows and 1 row, 3 bits name one of 5
    columns = found["column_compact", "weight_stationary"]
    assert (columns.folds, columns.bits) == (3, 8)  # columns 0 2 3, none, 1: 2 bits name one of 4
    lanes = found["csr_gather", "output_stationary"]
    assert (lanes.folds, lanes.bits) == (2, 4 * 3 + 4 * 4)  # 4 weights, 4 lanes' numbers of them
    assert found["skip_zero_fold", "input_stationary"].folds == 2
    assert found["skip_zero_fold", "output_stationary"].folds == 2


def test_lanes_share_weights_by_product_and_chunk():
    # Two products of two columns. Steps of the first: k = 0 and 2 | 4, of the second: none | 3, 4.
    w = np.zeros((4, 5), int)
    w[0, [0, 2]] = w[1, 4] = w[3, [3, 4]] = 1
    cut = Cut(2, 5, ((0, 2),), ((0, 3), (3, 5)))
    first, second = executed(
        array("csr_gather", "output_stationary", 2, 2), Nonzero(pack(w), "two"), cut
    )
    assert first.steps.tolist() == [[2, 1]]
    assert second.steps.tolist() == [[0, 2]]
    assert first.folds.tolist() == second.folds.tolist() == [[1, 1]]
    assert first.weights.tolist() == [[2, 1]]
    assert first.result_writes == 2


@pytest.mark.parametrize(("name", "flow"), FLOWS)
def test_all_zero_weights_run_no_fold_and_every_result_is_written(name, flow):
    cut = Cut(5, 7, ((0, 5),), ((0, 7),))
    (done,) = executed(array(name, flow, 2, 2), Nonzero(np.zeros((5, 1), np.uint8), "zeros"), cut)
    if name not in ("dense", "nm"):  # these do not look at the weights
        assert not done.folds.any()
        assert not done.weights.any()
        assert not done.activations.any()
        assert done.result_writes == 5
