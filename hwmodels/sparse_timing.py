"""Array cycles of blocks whose zeros are left out, and of whole lists of products by every policy.

A fold that has nothing to do takes no cycle. Of a product, load and fill show at the first block
with a fold, drain at the last, as in `hwmodels.array`.
"""

from collections.abc import Iterable, Iterator
from dataclasses import replace
from typing import NamedTuple

from hwmodels.architecture import ProcessingArray, Sparsity
from hwmodels.array import Split, fold, stream
from hwmodels.precision import engine_of
from hwmodels.products import array_operands
from hwmodels.skipping import POLICIES, Cut, Executed, executed
from hwmodels.sparse_chip import pattern_of, sparsity_problems, why_dense
from hwmodels.workload import Gemm


class Place(NamedTuple):
    """Which block of an executed product: its panel and chunk, and its activation rows `m`."""

    panel: int
    chunk: int
    m: int


def block_cycles(
    array: ProcessingArray,
    done: Executed,
    cut: Cut,
    place: Place,
    *,
    is_first: bool = True,
    is_last: bool = True,
) -> Split:
    """Return the array cycles of one block of a product; `cut` and `done` count words.

    `is_first` and `is_last` say whether it is the product's first and last block with a fold. Where
    results stay, the chunks of a tile share its folds: each computes its own terms, the first shows
    the fill and the last the drain.
    """
    if array.dataflow == "weight_stationary":
        folds = int(done.folds[place.panel, place.chunk])
        return stream(array, m=place.m, folds=folds, is_first=is_first, is_last=is_last)
    if array.dataflow == "input_stationary":
        start, stop = cut.panels[place.panel]
        folds = int(done.folds[place.panel, place.chunk]) * -(-place.m // array.columns)
        return stream(array, m=stop - start, folds=folds, is_first=is_first, is_last=is_last)
    start, stop = cut.chunks[place.chunk]
    is_start, is_end = place.chunk == 0, place.chunk == len(cut.chunks) - 1
    blocks = -(-place.m // array.rows)
    if done.steps is None:
        folds = int(done.folds[place.panel, place.chunk]) * blocks
        whole = stream(array, m=cut.k, folds=folds, is_first=is_first, is_last=is_last)
        return Split(
            compute=folds * (stop - start) * array.pace.beats,
            fill=whole.fill if is_start else 0,
            drain=whole.drain if is_end else 0,
        )
    own = slice(*(-(-edge // array.columns) for edge in cut.panels[place.panel]))
    steps = done.steps[own] * array.pace.beats
    lasting = [int(cycles) for cycles in steps.sum(axis=1) if cycles]
    return Split(
        compute=blocks * int(steps[:, place.chunk].sum()),
        drain=_way_out(array, lasting, blocks, is_last=is_last) if is_end else 0,
    )


def _way_out(array: ProcessingArray, lasting: list[int], blocks: int, *, is_last: bool) -> int:
    """Return the drain cycles of `blocks` times folds that compute for `lasting` cycles each.

    Double buffered, the results of a fold shift out while the next one computes, R cycles that wait
    for it where they are longer; the last results of a product have nothing to hide behind.
    """
    way_out = array.rows if array.drain == "shift_out" else 0
    if not lasting:
        return 0
    if array.schedule == "serial":
        return blocks * len(lasting) * way_out
    waits = blocks * sum(max(0, way_out - cycles) for cycles in lasting)
    return waits + (way_out - max(0, way_out - lasting[-1]) if is_last else 0)


class PolicyCycles(NamedTuple):
    """Stall-free cycles of a GEMM under a policy, all products and untiled.

    `dense_cycles` are those of the same array, with the policy's dataflow, that leaves nothing out.
    `array_macs` are the multiply-accumulates it does, of `macs`; `index_bytes` are read with the
    weights, each time they enter. `note` says why a GEMM is computed dense.
    """

    name: str
    policy: Sparsity
    dataflow: str
    cycles: int
    dense_cycles: int
    array_macs: int
    macs: int
    index_bytes: int
    note: str


def policy_cycles(
    gemms: Iterable[Gemm], array: ProcessingArray, policies: Iterable[Sparsity] = tuple(POLICIES)
) -> Iterator[PolicyCycles]:
    """Yield the stall-free cycles of each GEMM under each policy, GEMM by GEMM.

    GEMMs whose operands the array does not support are left out: they run on the vector unit.
    A policy that does not fit the array's dataflow runs with the first one it fits. `sparse_unit`
    of the array must hold what all `policies` need; each uses its own part.

    Raises ValueError listing what the array lacks for a policy.
    """
    arrays = [_array_for(name, array) for name in policies]
    problems = [
        f"{chosen.sparsity}: {line}" for chosen in arrays for line in sparsity_problems(chosen)
    ]
    if problems:
        raise ValueError("\n".join(dict.fromkeys(problems)))
    for gemm in gemms:
        if array_operands(gemm) in array.supports:
            for chosen in arrays:
                yield _policy_cycles(gemm, chosen)


def _array_for(name: Sparsity, array: ProcessingArray) -> ProcessingArray:
    policy, unit = POLICIES[name], array.sparse_unit
    flow = array.dataflow if array.dataflow in policy.dataflows else policy.dataflows[0]
    if policy.needs is None:
        unit = None
    elif unit is not None:
        needs = policy.needs
        unit = replace(
            unit,
            banks=unit.banks if "banks" in needs else None,
            kept=unit.kept if "kept" in needs else None,
            run=unit.run if "run" in needs else None,
        )
    drain = array.drain if flow == "output_stationary" else "shift_out"
    return replace(array, sparsity=name, sparse_unit=unit, dataflow=flow, drain=drain)


def _policy_cycles(gemm: Gemm, array: ProcessingArray) -> PolicyCycles:
    engine = engine_of(array, gemm)
    plain = replace(engine.array, sparsity="dense", sparse_unit=None)
    dense_cycles = gemm.count * fold(plain, m=gemm.m, n=gemm.n, k=engine.words).total
    pattern = pattern_of(gemm, engine.array)
    if pattern is None:
        cycles, macs, index_bytes, note = dense_cycles, gemm.macs, 0, why_dense(engine.array)
    else:
        cut = Cut(gemm.n, engine.words, ((0, gemm.n),), ((0, engine.words),))
        found = executed(engine.array, pattern, cut)
        times, place = gemm.count // len(found), Place(0, 0, gemm.m)
        cycles = times * sum(block_cycles(engine.array, done, cut, place).total for done in found)
        words = times * gemm.m * sum(int(done.weights.sum()) for done in found)
        macs = min(gemm.macs, words * engine.array.pace.depth)
        index_bytes = times * sum(-(-int(done.index_bits.sum()) // 8) for done in found)
        note = next((done.note for done in found if done.note), "")
    return PolicyCycles(
        gemm.name,
        array.sparsity,
        array.dataflow,
        cycles,
        dense_cycles,
        macs,
        gemm.macs,
        index_bytes,
        note,
    )
