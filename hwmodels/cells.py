"""What the cells of an array multiply: kinds of cells, the edges that feed them, what fits them.

`supports` of an array lists which operands it accepts, as activation x weight; the cell says how
fast it multiplies them, and `check_cell` which of them it cannot multiply at all.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from itertools import product
from typing import Annotated, Literal

from annotated_types import Ge, Gt, Le

from hwmodels.workload import NUMBER_BITS, Number

Serial = Literal["activations", "weights", "both"]
Dequantizing = Literal["edge", "cell"]
Rescaling = Literal["vector_unit", "accumulators"]

COMPOSABLE_BITS = 8  # widest operand of a cell of sixteen 2 x 2 bit multipliers
SIGNS = ("i1xi1", "u1xi1")  # what an xnor unit multiplies: signs, or steps, times signs
SIGNIFICANDS = {"f32": 24, "f16": 11, "bf16": 8}
"""Bits that the multiplier of a floating-point format takes, the hidden one included."""


@dataclass(frozen=True)
class FixedCell:
    """A cell that multiplies one pair of integers of up to `bits` bits per cycle.

    Narrow operands are widened at the cell: they save bytes and energy, but no time.
    """

    kind: Literal["fixed"] = "fixed"
    bits: Annotated[int, Ge(1), Le(32)] = 8


@dataclass(frozen=True)
class ComposableCell:
    """A cell of sixteen 2 x 2 bit multipliers that work together or apart (Sharma et al. 2018).

    It makes 64 / (a x w) products per cycle of operands a and w bits wide, 2, 4 or 8, side by side
    along the sum; other widths up to 8 take the next of these.
    """

    kind: Literal["composable"]


@dataclass(frozen=True)
class BitSerialCell:
    """A cell that takes `products` pairs at once and one bit of the `serial` operand per cycle.

    A word takes as many cycles as that operand has bits (Judd et al. 2016), or, with `both`, as the
    product of both widths (Sharify et al. 2018). Eight products of `activations` are as fast as a
    fixed cell at 8 bits.
    """

    kind: Literal["bit_serial"]
    serial: Serial = "activations"
    products: Annotated[int, Ge(1), Le(64)] = 8


@dataclass(frozen=True)
class FloatCell:
    """A cell that multiplies one pair of floating-point numbers of one format per cycle.

    Integers of up to 8 bits on both sides run in an integer mode of equal speed. Integer weights
    under floating-point activations are brought to the format of the activations, scale included,
    at the `edge` of the array, one per column and cycle, or enter a mixed multiplier in the `cell`.
    """

    kind: Literal["float"]
    dequantize: Dequantizing = "edge"


Cell = FixedCell | ComposableCell | BitSerialCell | FloatCell


@dataclass(frozen=True)
class Edge:
    """Bits that enter each row at the left and each column at the top of the array per cycle.

    None: as wide as the words that the cells take.
    """

    row_bits: Annotated[int, Ge(1)] | None = None
    column_bits: Annotated[int, Ge(1)] | None = None


@dataclass(frozen=True)
class XnorUnit:
    """An array of its own for products of single bits: exclusive nor and count, no multiplier.

    Each cell takes `word_bits` pairs per cycle from edges as wide; it follows the dataflow and the
    schedule of the array. `cell_area_ratio` is the area of one of its cells in cells of the array:
    leakage is charged for it.
    """

    rows: Annotated[int, Ge(1)]
    columns: Annotated[int, Ge(1)]
    word_bits: Annotated[int, Ge(1)] = 32
    cell_area_ratio: Annotated[float, Gt(0)] = 0.25  # assumed


@dataclass(frozen=True)
class Pace:
    """How words pass through an array: what one word holds and how long it takes.

    `depth` operands lie side by side along the sum and are multiplied and added in one cell.
    `beats` cycles lie between two words that stream; a row of words that stays takes `load_beats`
    cycles to shift in. `group` places along the sum hold one scale group, whose results leave the
    array apart; 0 where one scale covers the sum.
    """

    depth: int = 1
    beats: int = 1
    load_beats: int = 1
    group: int = 0


def is_float(number: Number) -> bool:
    """Whether a number is in a floating-point format."""
    return number in ("f32", "f16", "bf16")


def operand_numbers(operands: str) -> tuple[Number, Number]:
    """Return the activation and weight of a name such as `i8xi4`.

    Raises ValueError saying what was expected.

    Example:
        >>> operand_numbers("u8xi4")
        ('u8', 'i4')

    """
    names = tuple(operands.split("x"))
    for a, w in product(NUMBER_BITS, NUMBER_BITS):
        if (a, w) == names:
            return a, w
    raise ValueError(
        f'found "{operands}", expected activation x weight, each one of {", ".join(NUMBER_BITS)}'
    )


def multiplies(cell: Cell, a: Number, w: Number) -> bool:
    """Whether a cell can multiply activations `a` and weights `w` at all."""
    widest = max(NUMBER_BITS[a], NUMBER_BITS[w])
    if not is_float(a) and not is_float(w):
        return widest <= (cell.bits if isinstance(cell, FixedCell) else COMPOSABLE_BITS)
    if not isinstance(cell, FloatCell) or not is_float(a):
        return False
    return a == w or (not is_float(w) and NUMBER_BITS[w] <= COMPOSABLE_BITS)


def accepts(cell: Cell, operands: str, *, xnor: XnorUnit | None) -> bool:
    """Whether an entry of `supports` names numbers that the cell, or the xnor unit, multiplies."""
    try:
        a, w = operand_numbers(operands)
    except ValueError:
        return False
    return multiplies(cell, a, w) or (xnor is not None and operands in SIGNS)


def check_cell(cell: Cell, supports: Sequence[str], *, xnor: XnorUnit | None) -> list[str]:
    """Return a line for every entry of `supports` that names no numbers or that no cell multiplies.

    Example:
        >>> check_cell(FixedCell(), ["i8xi8", "i8xi5"], xnor=None)[0].partition("; ")[2]
        'did you mean "i8xi8"?'

    """
    problems: list[str] = []
    fitting = [f"{a}x{w}" for a, w in product(NUMBER_BITS, NUMBER_BITS) if multiplies(cell, a, w)]
    for number, operands in enumerate(supports):
        at = f"array.supports.{number}"
        try:
            operand_numbers(operands)
        except ValueError as error:
            problems.append(f"{at}: {error}{_near(operands, fitting)}")
            continue
        if operands in supports[:number]:
            problems.append(f'{at}: found "{operands}" a second time')
        if not accepts(cell, operands, xnor=xnor):
            problems.append(
                f'{at}: found "{operands}", but {_ability(cell)}{_near(operands, fitting)}'
            )
    if xnor and not set(SIGNS) & set(supports):
        problems.append(
            f"array.xnor: no operands for it in array.supports; expected {' or '.join(SIGNS)}"
        )
    return problems


def _ability(cell: Cell) -> str:
    """Return what a cell can multiply, in words."""
    if isinstance(cell, FixedCell):
        return f"a fixed cell of {cell.bits} bits multiplies integers of up to {cell.bits} bits"
    if isinstance(cell, FloatCell):
        return (
            "a float cell multiplies two numbers of one format, floating point by integers of up "
            f"to {COMPOSABLE_BITS} bits, or two such integers"
        )
    return f"a {cell.kind} cell multiplies integers of up to {COMPOSABLE_BITS} bits"


def _near(found: str, known: Sequence[str]) -> str:
    near = get_close_matches(found, known, n=1)
    return f'; did you mean "{near[0]}"?' if near else ""


def widest_bits(supports: Sequence[str], place: int) -> int:
    """Return the bits of the widest activation (`place` 0) or weight (1) that is supported.

    Names that no number has are left to `check_cell`.

    Example:
        >>> widest_bits(["i8xi4", "u8xi2"], 1)
        4

    """
    bits = {str(name): width for name, width in NUMBER_BITS.items()}
    names = [(*operands.split("x"), "")[place] for operands in supports]
    return max(bits.get(name, 0) for name in names)
