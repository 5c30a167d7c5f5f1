"""A GEMM whose zeros are left out, as planning needs it: cycles of its blocks, counts of its parts.

Memory and the weight buffer hold weights as they are stored. Index bits of the policy are made as
weights arrive: they are written to the weight buffer with every load and read with the weights,
each time these enter the array.
"""

from collections.abc import Iterable, Sequence
from typing import NamedTuple

from hwmodels.architecture import ProcessingArray
from hwmodels.array import Split
from hwmodels.mapping import Mapping, array_passes
from hwmodels.precision import engine_of
from hwmodels.products import array_operands
from hwmodels.skipping import POLICIES, Cut, Executed, executed
from hwmodels.sparse_chip import pattern_of, why_dense
from hwmodels.sparse_timing import Place, block_cycles
from hwmodels.workload import NUMBER_BITS, Gemm, Nonzero, WorkItem


class Spot(NamedTuple):
    """Where a block begins: its product, its panel of n, its chunk of k; and its m rows."""

    product: int
    n: int
    k: int
    rows: int


def cut_of(mapping: Mapping, n: int, k: int) -> Cut:
    """Return how a mapping cuts the weights of one product."""
    return Cut(n, k, tuple(mapping.column_panels(n)), tuple(mapping.chunks(k)))


def block_splits(
    array: ProcessingArray, nonzero: Nonzero, cut: Cut, spots: Sequence[Spot]
) -> list[Split]:
    """Return the array cycles of all blocks of a GEMM, in the order in which they run.

    Every product runs its blocks in the same order.
    """
    panels = {start: number for number, (start, _) in enumerate(cut.panels)}
    chunks = {start: number for number, (start, _) in enumerate(cut.chunks)}
    places = [
        Place(panels[spot.n], chunks[spot.k], spot.rows) for spot in spots if spot.product == 0
    ]
    products = [_product_splits(array, done, cut, places) for done in executed(array, nonzero, cut)]
    count = len(spots) // len(places)
    return [split for number in range(count) for split in products[number % len(products)]]


def _product_splits(
    array: ProcessingArray, done: Executed, cut: Cut, places: Sequence[Place]
) -> list[Split]:
    busy = [at for at, place in enumerate(places) if done.folds[place.panel, place.chunk]]
    first, last = (busy[0], busy[-1]) if busy else (-1, -1)
    return [
        block_cycles(array, done, cut, place, is_first=at == first, is_last=at == last)
        for at, place in enumerate(places)
    ]


class Totals(NamedTuple):
    """What all products of a GEMM do: counts as in `plan.Tally`, of one run of the GEMM.

    `input_bytes` and `weight_bytes` enter the array, the latter with their indices. `results` leave
    the cells, the parts of a sum each by itself. `index_bytes` are written to the weight buffer.
    """

    array_macs: int
    input_bytes: int
    weight_bytes: int
    results: int
    index_bytes: int
    indices: int
    moved: int


def totals(
    gemm: Gemm,
    array: ProcessingArray,
    nonzero: Nonzero | None,
    mapping: Mapping,
    *,
    loaded_bytes: int,
) -> Totals | None:
    """Return what the array does of a GEMM of which memory loads `loaded_bytes` of weights.

    None where it leaves nothing out. Of the weight buffer it reads the weights that enter, never
    more than what is stored.
    """
    if nonzero is None:
        return None
    _, passes = array_passes(gemm.m, gemm.n, array, mapping)
    depth = array.pace.depth
    found = executed(array, nonzero, cut_of(mapping, gemm.n, -(-gemm.k // depth)))
    times = gemm.count // len(found)

    def add(counts: Iterable[int]) -> int:
        return times * sum(int(count) for count in counts)

    weights = min(gemm.macs // gemm.m, depth * add(done.weights.sum() for done in found))
    index_bytes = add(-(-int(done.index_bits.sum()) // 8) for done in found)
    weight_bytes = min(gemm.w.size_bytes, -(-weights * NUMBER_BITS[gemm.w_number] // 8))
    entered = gemm.m * depth * add(done.activations.sum() for done in found)
    return Totals(
        gemm.m * weights,
        entered * NUMBER_BITS[gemm.a_number] // 8,
        passes * (weight_bytes + index_bytes),
        gemm.m * add(done.result_writes for done in found),
        index_bytes * loaded_bytes // max(1, gemm.w.size_bytes),
        passes * add(done.indices.sum() for done in found),
        gemm.m * add(done.moved.sum() for done in found),
    )


def gating_notes(items: Iterable[WorkItem], array: ProcessingArray) -> tuple[str, ...]:
    """Return a note where an array gates zeros of activations that nobody measured."""
    gemms = [item for item in items if isinstance(item, Gemm)]
    unknown = [item.name for item in gemms if item.a_density is None]
    if array.gating == "none" or not unknown:
        return ()
    share = f"{len(unknown)} of {len(gemms)} products ({unknown[0]}, ...)"
    return (f"array.gating: zeros of activations not measured for {share}: nothing gated there",)


def density_notes(items: Iterable[WorkItem], array: ProcessingArray) -> tuple[str, ...]:
    """Return a note per GEMM whose zeros are only known by their share."""
    how = "computed dense" if array.sparsity == "dense" else f"as {array.sparsity} sees it"
    return tuple(
        f"{item.name}: assumed uniform density {item.nonzero:g}, {how}"
        for item in items
        if isinstance(item, Gemm) and isinstance(item.nonzero, float)
    )


def dense_warnings(items: Iterable[WorkItem], array: ProcessingArray) -> tuple[str, ...]:
    """Return a warning per GEMM on the array with zeros that its policy cannot leave out.

    Weights without any zero are no surprise and get none.
    """
    if array.sparsity == "dense":
        return ()
    return tuple(
        f"{item.name}: {reason}"
        for item in items
        if isinstance(item, Gemm) and item.nonzero is not None
        if array_operands(item) in array.supports
        for reason in _dense_reasons(item, engine_of(array, item).array)
    )


def _dense_reasons(gemm: Gemm, array: ProcessingArray) -> Iterable[str]:
    """Return why a GEMM with zeros is computed dense, nothing when it is not."""
    pattern = pattern_of(gemm, array)
    if pattern is None:
        return [why_dense(array)]
    if not POLICIES[array.sparsity].is_choosy:
        return ()
    cut = Cut(gemm.n, gemm.k, ((0, gemm.n),), ((0, gemm.k),))
    return dict.fromkeys(done.note for done in executed(array, pattern, cut) if done.note)
