"""What the array executes of a product whose weights hold zeros, by named policy.

A policy is one function under `@policy(...)`: it counts folds, weights, activations and indices
from the true zero pattern. Weights are cut into panels of result columns and chunks of the sum, as
the mapping cuts them; nothing is left out across the edge of a block. Memory moves what is stored,
whatever the policy; what a policy leaves out saves array cycles and reads of the buffers. The
buffers' own sizes are checked against what is stored: index bits are charged, not given room.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Literal

import numpy as np

from hwmodels.architecture import Dataflow, ProcessingArray, Sparsity
from hwmodels.sparsity import (
    Counts,
    Mask,
    Places,
    full_mask,
    kept_blocks,
    kept_columns,
    kept_rows,
    most_of_run,
    nonzeros,
    starts,
    widths,
)
from hwmodels.workload import Nonzero

Part = tuple[int, int]
Move = Literal["", "gather", "scatter", "select"]


@dataclass(frozen=True)
class Cut:
    """How weights w[n, k] are cut: (start, stop) of the panels of n and of the chunks of k."""

    n: int
    k: int
    panels: tuple[Part, ...]
    chunks: tuple[Part, ...]


@dataclass(frozen=True)
class Executed:
    """What the array does of the weights of one product; all arrays are `(panels, chunks)`.

    `folds` are those that run per block of activation rows. `weights` are the weights that enter
    the array, each meets every activation row; `activations` enter per activation row. `indices`
    are decoded whenever the weights enter, `index_bits` are read with them. `moved` are words that
    go, per activation row, to or from a place that an index names. `result_writes` counts, per
    activation row, how often a sum leaves the cells; a result that nothing is summed into is
    written once. `steps` are the cycles of each fold where folds differ in length, `(blocks of the
    array's columns, chunks)`. `note` says why a product is computed dense.
    """

    folds: Counts
    weights: Counts
    activations: Counts
    indices: Counts
    index_bits: Counts
    moved: Counts
    result_writes: int
    steps: Counts | None = None
    note: str = ""


Execute = Callable[[Mask, Cut, ProcessingArray], Executed]


@dataclass(frozen=True)
class Policy:
    """A way to leave out zeros: the dataflows it fits, what it needs of the chip, where it is from.

    `needs` are the fields of `SparseUnit` it reads, None when it needs no such unit; `does` says
    why other dataflows do not fit. `move` is the action that `Executed.moved` counts. One that
    `is_choosy` computes weights dense that do not have its pattern.
    """

    execute: Execute
    dataflows: tuple[Dataflow, ...]
    source: str
    does: str = ""
    needs: tuple[str, ...] | None = None
    move: Move = ""
    is_choosy: bool = False


POLICIES: dict[Sparsity, Policy] = {}
_ALL: tuple[Dataflow, ...] = ("weight_stationary", "input_stationary", "output_stationary")


def policy(
    name: Sparsity,
    *,
    source: str,
    dataflows: tuple[Dataflow, ...] = ("weight_stationary",),
    does: str = "",
    needs: tuple[str, ...] | None = None,
    move: Move = "",
    is_choosy: bool = False,
) -> Callable[[Execute], Execute]:
    """Register a function `(mask, cut, array) -> Executed` under `name`."""

    def register(execute: Execute) -> Execute:
        if name in POLICIES:
            raise KeyError(f'sparsity policy "{name}" is registered twice')
        POLICIES[name] = Policy(execute, dataflows, source, does, needs, move, is_choosy)
        return execute

    return register


@policy("dense", dataflows=_ALL, source="every weight is computed")
def dense(mask: Mask, cut: Cut, array: ProcessingArray) -> Executed:
    """Return all folds: zeros are computed like other weights."""
    return _whole_folds(full_mask(len(mask), cut.k), cut, array, flag_bits=0)


@policy(
    "skip_zero_fold",
    dataflows=_ALL,
    source="TiC-SAT sparse products (Amirshahi et al. 2023); SASP (Palacios et al. 2025)",
)
def skip_zero_fold(mask: Mask, cut: Cut, array: ProcessingArray) -> Executed:
    """Return the folds whose block of weights, as large as the fold covers, is not all zero.

    One bit per fold says whether it runs. Where weights stay a block is rows x columns of the
    array; where activations stay it is the array's rows of k by all columns of the panel; where
    results stay it is the array's columns by all of k.
    """
    return _whole_folds(mask, cut, array, flag_bits=1)


@policy(
    "row_skip",
    source="defined by this simulator: K-rows without a nonzero are removed per block of columns",
    does="leaves out rows of the weights that stay in the cells",
    needs=(),
    move="gather",
)
def row_skip(mask: Mask, cut: Cut, array: ProcessingArray) -> Executed:
    """Return folds = ceil(rows left / R) for each block of C columns and chunk of k.

    A row of weights w[block of columns, k] without a nonzero is removed. Each row left names its k
    in ceil(log2 K) bits, and its activation is gathered from there.
    """
    columns, terms = starts(cut.n, array.columns), starts(cut.k, array.rows)
    rows = _over_chunks(kept_rows(mask, cut.k, n_starts=columns, k_starts=terms), terms, cut)
    folds = -(-rows // array.rows)
    wide = widths(cut.n, columns)
    kept = _over_panels(rows, columns, cut)
    return Executed(
        _over_panels(folds, columns, cut),
        _over_panels(rows * wide[:, None], columns, cut),
        kept,
        kept,
        kept * _index_bits(cut.k),
        kept,
        _writes(wide, folds),
    )


@policy(
    "column_compact",
    source="defined by this simulator: columns without a nonzero are removed per block of k",
    does="leaves out columns of the weights that stay in the cells",
    needs=(),
    move="scatter",
)
def column_compact(mask: Mask, cut: Cut, array: ProcessingArray) -> Executed:
    """Return folds = ceil(columns left / C) for each block of R terms of the sum and panel.

    A column of weights w[n, block of k] without a nonzero is removed. Each column left names its n
    in ceil(log2 N) bits, and its partial sum is scattered to there.
    """
    terms = starts(cut.k, array.rows)
    used = kept_columns(mask, cut.k, k_starts=terms)
    panels = np.array([start for start, _ in cut.panels], np.intp)
    columns = np.add.reduceat(used, panels, axis=0, dtype=np.int64)
    folds, deep = -(-columns // array.columns), widths(cut.k, terms)
    kept = _over_chunks(columns, terms, cut)
    return Executed(
        _over_chunks(folds, terms, cut),
        _over_chunks(columns * deep, terms, cut),
        _over_chunks(folds * deep, terms, cut),
        kept,
        kept * _index_bits(cut.n),
        kept,
        int(np.maximum(used.sum(axis=1), 1).sum()),
    )


@policy(
    "nm",
    source="N of M weights along k, as sparse tensor cores have 2 of 4 (Mishra et al. 2021)",
    does="keeps N of M weights in the cells beside a selector for the activations that pass",
    needs=("kept", "run"),
    move="select",
    is_choosy=True,
)
def nm(mask: Mask, cut: Cut, array: ProcessingArray) -> Executed:
    """Return the folds of a sum of K' = K N / M terms: N places for each run of M weights.

    Every cell picks one of M activations by ceil(log2 M) bits. Weights with a run that holds more
    than N are computed dense, and a note says so.
    """
    unit = array.sparse_unit
    if unit is None or unit.kept is None or unit.run is None:
        raise ValueError("array.sparse_unit: nm needs kept and run")
    most = most_of_run(mask, cut.k, run=unit.run)
    if most > unit.kept:
        note = f"a run of {unit.run} weights holds {most}, more than {unit.kept}: computed dense"
        return replace(dense(mask, cut, array), note=note)
    depths = [stop - start for start, stop in cut.chunks]
    deep = np.array([_places(depth, unit.kept, unit.run) for depth in depths], np.int64)
    wide = np.array([stop - start for start, stop in cut.panels], np.int64)[:, None]
    blocks, weights = -(-wide // array.columns), wide * deep
    folds_deep = -(-deep // array.rows)
    return Executed(
        blocks * folds_deep,
        weights,
        blocks * np.array(depths, np.int64),
        weights,
        weights * _index_bits(unit.run),
        weights,
        cut.n * int(folds_deep.sum()),
    )


@policy(
    "csr_gather",
    dataflows=("output_stationary",),
    source="lanes that each walk one compressed row; rule of the banks: see `gather_lanes`",
    does="gives every lane its own result, which stays while the lane walks its weights",
    needs=("banks",),
    move="gather",
)
def csr_gather(mask: Mask, cut: Cut, array: ProcessingArray) -> Executed:
    """Return folds of C lanes, one result each, that take only weights that are not zero.

    A fold lasts as long as `gather_lanes.gather_steps` says. The R rows of the array take one
    activation row each, with banks of their own; they share weights and indices. A weight names its
    k in ceil(log2 K) bits, a lane its number of weights in as many and one. Operands come by
    wires of their own, so nothing is skewed: there is no fill, and a pipeline of gathers takes no
    time (assumed).
    """
    unit = array.sparse_unit
    if unit is None or unit.banks is None:
        raise ValueError("array.sparse_unit: csr_gather needs banks")
    from hwmodels.gather_lanes import gather_steps  # noqa: PLC0415 (numba takes time to import)

    columns = starts(cut.n, array.columns)
    parts = {"n_starts": columns, "k_starts": np.array([one for one, _ in cut.chunks], np.intp)}
    steps, reads = gather_steps(
        mask, cut.k, **parts, banks=unit.banks, decoded=unit.decoded_per_cycle or 0
    )
    found = _over_panels(nonzeros(mask, cut.k, **parts), columns, cut)
    wide = np.array([stop - start for start, stop in cut.panels], np.int64)[:, None]
    runs = np.broadcast_to((steps.sum(axis=1) > 0)[:, None], steps.shape).astype(np.int64)
    return Executed(
        _over_panels(runs, columns, cut),
        found,
        _over_panels(reads, columns, cut),
        found,
        found * _index_bits(cut.k) + wide * (_index_bits(cut.k) + 1),
        found,
        cut.n,
        steps,
    )


def sparse_actions(array: ProcessingArray) -> tuple[str, ...]:
    """Return the actions whose energy a policy needs: of an index, and of a word it moves."""
    chosen = POLICIES[array.sparsity]
    return ("index_decode", chosen.move) if chosen.move else ()


@lru_cache(maxsize=4096)
def executed(array: ProcessingArray, nonzero: Nonzero, cut: Cut) -> tuple[Executed, ...]:
    """Return what the array executes, by product: the mask holds `cut.n` rows for each of them.

    Known by the digest of the pattern, so that ops that share weights count once.

    Example: of 4 x 4 weights on 2 x 2 cells only column 0 holds some, at k = 1 and 2.
        >>> mask = np.array([[6], [0], [0], [0]], np.uint8)
        >>> whole = Cut(4, 4, panels=((0, 4),), chunks=((0, 4),))
        >>> for name in ("dense", "skip_zero_fold", "row_skip"):
        ...     chip = ProcessingArray(2, 2, 1e9, sparsity=name)
        ...     (done,) = executed(chip, Nonzero(mask, "two"), whole)
        ...     print(name, done.folds, done.weights)
        dense [[4]] [[16]]
        skip_zero_fold [[2]] [[8]]
        row_skip [[1]] [[4]]

    """
    run = POLICIES[array.sparsity].execute
    products = np.split(nonzero.mask, range(cut.n, len(nonzero.mask), cut.n))
    return tuple(run(mask, cut, array) for mask in products)


def _whole_folds(mask: Mask, cut: Cut, array: ProcessingArray, *, flag_bits: int) -> Executed:
    """Return the folds whose block of weights in `mask` is not all zero."""
    columns, terms = starts(cut.n, array.columns), starts(cut.k, array.rows)
    if array.dataflow == "input_stationary":
        columns = np.array([start for start, _ in cut.panels], np.intp)
    if array.dataflow == "output_stationary":
        terms = np.zeros(1, np.intp)
    runs = kept_blocks(mask, cut.k, n_starts=columns, k_starts=terms).astype(np.int64)
    wide, deep = widths(cut.n, columns)[:, None], widths(cut.k, terms)
    writes = _writes(wide[:, 0], runs)
    if array.dataflow == "output_stationary":  # a fold lasts over all chunks
        terms = np.array([start for start, _ in cut.chunks], np.intp)
        runs, deep = np.repeat(runs, len(terms), axis=1), widths(cut.k, terms)

    def by_block(counts: Counts) -> Counts:
        return _over_panels(_over_chunks(counts, terms, cut), columns, cut)

    none = by_block(np.zeros_like(runs))
    return Executed(
        by_block(runs),
        by_block(runs * wide * deep),
        by_block(runs * deep),
        none,
        by_block(np.full_like(runs, flag_bits)),
        none,
        writes,
    )


def _writes(wide: Counts, folds: Counts) -> int:
    """Return how often sums of `wide` columns leave the cells over `folds`, at least once each."""
    return int((wide * np.maximum(folds.sum(axis=1), 1)).sum())


def _over_chunks(counts: Counts, terms: Places, cut: Cut) -> Counts:
    return np.add.reduceat(counts, _firsts(terms, cut.chunks), axis=1)


def _over_panels(counts: Counts, columns: Places, cut: Cut) -> Counts:
    return np.add.reduceat(counts, _firsts(columns, cut.panels), axis=0)


def _firsts(begins: Places, parts: Sequence[Part]) -> Places:
    """Return which of the pieces at `begins` is the first of each part."""
    return np.searchsorted(begins, [start for start, _ in parts])


def _index_bits(places: int) -> int:
    """Return ceil(log2 places)."""
    return (places - 1).bit_length()


def _places(depth: int, kept: int, run: int) -> int:
    return depth // run * kept + min(kept, depth % run)
