"""How fast an array multiplies two kinds of numbers, and what it costs beside the products.

Operands are packed side by side along the sum into words; the array then behaves as one whose sum
is that many words long. How many fit a word and how long a word takes follow from the cell and from
the bits that enter at the edges; of all ways that are possible the one with the fewest cycles is
taken. A fold never holds two scale groups, as their results leave the array under different scales.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from fractions import Fraction
from functools import lru_cache
from math import prod

from hwmodels.architecture import ProcessingArray
from hwmodels.array import fold, macs_per_cell, packed_depth
from hwmodels.cells import (
    SIGNS,
    BitSerialCell,
    Cell,
    ComposableCell,
    FloatCell,
    Pace,
    accepts,
    is_float,
    multiplies,
    operand_numbers,
)
from hwmodels.workload import NUMBER_BITS, Gemm, Number


@dataclass(frozen=True)
class PacedArray(ProcessingArray):
    """An array, or the xnor unit beside it, as it runs one product: rows, columns and pace."""

    own_pace: Pace = field(default_factory=Pace)

    @property
    def pace(self) -> Pace:
        """How words pass through."""
        return self.own_pace


@dataclass(frozen=True)
class Engine:
    """What runs a product and how.

    The sum is `words` places long on `array`. Each result is rescaled `rescales` times, at the end
    of each scale group; each weight that enters is brought to the format of the activations if
    `is_dequantizing`. `action` is the multiply-accumulate as energy tables name it. `products` are
    multiply-accumulates per cell and cycle when nothing binds.
    """

    array: PacedArray
    words: int
    rescales: int
    is_dequantizing: bool
    action: str
    products: Fraction

    @property
    def macs_per_cycle(self) -> Fraction:
        """Multiply-accumulates per cycle of all cells when nothing binds."""
        return self.array.rows * self.array.columns * self.products

    def describe(self) -> str:
        """Return the pace as a short text that follows a mapping; empty for one pair per cycle."""
        pace = self.array.pace
        parts = {"pack": pace.depth, "beats": pace.beats, "load": pace.load_beats}
        return "".join(f" {name}{number}" for name, number in parts.items() if number > 1)


def engine_of(array: ProcessingArray, gemm: Gemm) -> Engine:
    """Return what runs a product on a chip whose array supports its operands."""
    return engine(
        array,
        gemm.a_number,
        gemm.w_number,
        m=gemm.m,
        n=gemm.n,
        k=gemm.k,
        scale_group=gemm.scale_group,
    )


@lru_cache(maxsize=4096)
def engine(
    array: ProcessingArray, a: Number, w: Number, *, m: int, n: int, k: int, scale_group: int = 0
) -> Engine:
    """Return what runs products of m x n x k with activations `a` and weights `w`.

    Of all ways to pack operands the one with the fewest cycles, whole and without tiles, is taken,
    and of equals the one with the fewest words.

    Example: 4-bit weights on composable cells whose rows take two activations per cycle.
        >>> from hwmodels.cells import ComposableCell
        >>> chip = ProcessingArray(16, 16, 1e9, cell=ComposableCell("composable"))
        >>> found = engine(chip, "i8", "i4", m=499, n=768, k=768)
        >>> found.array.pace.depth, found.words
        (2, 384)

    """
    cell, xnor = array.cell, array.xnor
    is_signs = xnor is not None and f"{a}x{w}" in SIGNS
    is_dequantizing = isinstance(cell, FloatCell) and converts(cell, a, w)
    group = 0 if is_dequantizing or scale_group >= k else scale_group
    unit = array
    if xnor is not None and is_signs:
        unit = replace(array, rows=xnor.rows, columns=xnor.columns)
        ways = [Pace(xnor.word_bits)]
        products = Fraction(xnor.word_bits)
    else:
        ways = list(paces(array, a, w))
        products = products_per_cycle(cell, a, w)
    best: tuple[tuple[int, int], Engine] | None = None
    for way in ways:
        paced = _paced(unit, replace(way, group=_group_places(unit, way, group)))
        words = _words(k, paced.pace, group)
        rank = fold(paced, m=m, n=n, k=words).total, words
        if best is None or rank < best[0]:
            ends = packed_depth(k, group) if group else 0
            action = mac_action(cell, a, w)
            best = rank, Engine(paced, words, ends, is_dequantizing, action, products)
    if best is None:
        raise ValueError(f"{a}x{w}: no way to feed {cell}")
    return best[1]


def paces(array: ProcessingArray, a: Number, w: Number) -> Iterator[Pace]:
    """Yield the ways in which the cells of an array take words of activations and weights.

    The edges bind: a word of d operands of b bits takes ceil(d b / bits) cycles to enter. In
    `weight_stationary` activations stream in at the rows and weights shift in at the columns, in
    `input_stationary` the other way round; in `output_stationary` both stream.
    """
    for depth, busy in _words_of(array.cell, a, w):
        left, top = depth * NUMBER_BITS[a], depth * NUMBER_BITS[w]
        if array.dataflow == "input_stationary":
            left, top = top, left
        rows, columns = _beats(left, array.edge.row_bits), _beats(top, array.edge.column_bits)
        if array.dataflow == "output_stationary":
            yield Pace(depth, max(busy, rows, columns))
        else:
            yield Pace(depth, max(busy, rows), columns)


def products_per_cycle(cell: Cell, a: Number, w: Number) -> Fraction:
    """Return the products of one cell and cycle when edges do not bind.

    Example:
        >>> products_per_cycle(BitSerialCell("bit_serial"), "i4", "i8")
        Fraction(2, 1)

    """
    return max(Fraction(depth, busy) for depth, busy in _words_of(cell, a, w))


def converts(cell: Cell, a: Number, w: Number) -> bool:
    """Whether weights are brought to the format of the activations at the edge of the array."""
    return (
        isinstance(cell, FloatCell)
        and cell.dequantize == "edge"
        and is_float(a)
        and not is_float(w)
    )


def mac_action(cell: Cell, a: Number, w: Number) -> str:
    """Return the name of one multiply-accumulate in energy tables: as the cell sees its operands.

    Example:
        >>> mac_action(FloatCell("float"), "f16", "i8")
        'mac_f16xf16'

    """
    return f"mac_{a}x{a if converts(cell, a, w) else w}"


def array_actions(array: ProcessingArray) -> tuple[str, ...]:
    """Return the actions of the array that an energy table has to price.

    One multiply-accumulate per operands supported, `dequantize` where weights are converted at the
    edge, `rescale` where accumulators do that. Operands that no cell multiplies have no action;
    `cells.check_cell` tells of them.
    """
    supported = [one for one in array.supports if accepts(array.cell, one, xnor=array.xnor)]
    pairs = [operand_numbers(operands) for operands in supported]
    found = [mac_action(array.cell, a, w) for a, w in pairs]
    if any(converts(array.cell, a, w) for a, w in pairs):
        found.append("dequantize")
    if array.rescale == "accumulators":
        found.append("rescale")
    return tuple(dict.fromkeys(found))


def leaking_cells(array: ProcessingArray) -> float:
    """Return the cells of the array and, by their area, those of the xnor unit."""
    cells = float(array.rows * array.columns)
    if array.xnor is not None:
        cells += array.xnor.rows * array.xnor.columns * array.xnor.cell_area_ratio
    return cells


def group_ends(pace: Pace, *, first: int, stop: int, words: int) -> int:
    """Return how many scale groups end within places [first, stop) of a sum of `words`.

    Example:
        >>> [group_ends(Pace(group=4), first=i, stop=i + 5, words=10) for i in (0, 5)]
        [1, 2]

    """
    if not pace.group:
        return 0
    ends = stop // pace.group - first // pace.group
    return ends + (stop == words and stop % pace.group > 0)


def _words_of(cell: Cell, a: Number, w: Number) -> list[tuple[int, int]]:
    """Return (operands per word, cycles that a cell is busy with one) for every way to use a cell.

    Raises ValueError when it cannot multiply them.
    """
    if not multiplies(cell, a, w):
        raise ValueError(f"{a}x{w}: a {cell.kind} cell cannot multiply these")
    if is_float(a):
        return [(1, 1)]
    if isinstance(cell, ComposableCell):
        most = macs_per_cell(_composed(NUMBER_BITS[a]), _composed(NUMBER_BITS[w]))
        return [(1 << step, 1) for step in range(most.bit_length())]
    if isinstance(cell, BitSerialCell):
        bits = {"activations": NUMBER_BITS[a], "weights": NUMBER_BITS[w]}
        busy = prod(bits.values()) if cell.serial == "both" else bits[cell.serial]
        return [(cell.products, busy)]
    return [(1, 1)]


def _composed(bits: int) -> int:
    """Return the width of the multiplier that takes an operand of up to 8 bits: 2, 4 or 8."""
    return next(width for width in (2, 4, 8) if bits <= width)


def _beats(word_bits: int, edge_bits: int | None) -> int:
    return 1 if edge_bits is None else -(-word_bits // edge_bits)


def _group_places(array: ProcessingArray, pace: Pace, group: int) -> int:
    """Return the places along the sum of one scale group: whole folds where the sum is folded."""
    words = packed_depth(group, pace.depth)
    if not group or array.dataflow == "output_stationary":
        return words
    return packed_depth(words, array.rows) * array.rows


def _words(k: int, pace: Pace, group: int) -> int:
    """Return the places along the sum of k operands, every group but the last filled up."""
    if not group:
        return packed_depth(k, pace.depth)
    before = (k - 1) // group
    return before * pace.group + packed_depth(k - before * group, pace.depth)


def _paced(array: ProcessingArray, pace: Pace) -> PacedArray:
    return PacedArray(**vars(array), own_pace=pace)
