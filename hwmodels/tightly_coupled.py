"""Instructions of a systolic array that is a functional unit of a processor core.

Nothing but instructions moves operands: the core writes weights, queues activations and reads
results word by word over its register bus, as in TiC-SAT (Amirshahi et al., ASP-DAC 2023; figures
from gem5-X/TiC-SAT 5b48d53, `accelerator/sparseMatrixMultiplication.cpp`). For each tile of R x R
weights it executes

    R ceil(R / w)                    parameter writes, w weights to a bus word
    ceil(R / a) (M + 2R - 1) - 1     queue and stream instructions, a activations to a bus word

A stream is the last word of a row and moves the array one step on; each instruction returns a word
of results, and from the one numbered (2R - 1) ceil(R / a) - 1 on (the first being 0) the core adds
it to the sums in memory. Tiles of zeros are left out; finding them is not counted.
"""

from dataclasses import dataclass
from typing import Annotated

from annotated_types import Ge


@dataclass(frozen=True)
class Coupling:
    """The core in front of the array: its bus, the operands it was built for, cycles it takes.

    `activation_bits` and `weight_bits` are the places of an operand in a bus word; narrower ones
    take as much. `instruction_cycles`, in cycles of the array, is what TiC-SAT calls opLat, 1 in
    its core models. `load_cycles` are those of the ordinary load before each word of operands,
    `add_cycles` those of adding one word of results to memory. `result_bits` is the width in which
    sums come back, 0 for that of the activations, as in TiC-SAT; there 8-bit sums wrap, so that a
    chip whose results must equal 32-bit sums says 32 and reads more words per row.
    """

    bus_bits: Annotated[int, Ge(1)] = 32
    activation_bits: Annotated[int, Ge(1)] = 8
    weight_bits: Annotated[int, Ge(1)] = 8
    instruction_cycles: Annotated[int, Ge(1)] = 1
    load_cycles: Annotated[int, Ge(0)] = 1
    add_cycles: Annotated[int, Ge(0)] = 1
    result_bits: Annotated[int, Ge(0)] = 0


@dataclass(frozen=True)
class Instructions:
    """What the core executes, by kind.

    `parameter_writes`, `queues` and `streams` are custom instructions; `loads` of operand words and
    `additions` of result words are ordinary ones. `fill` of the queues and streams come before the
    first result, and carry `fill_loads` of the loads.
    """

    parameter_writes: int = 0
    queues: int = 0
    streams: int = 0
    loads: int = 0
    additions: int = 0
    fill: int = 0
    fill_loads: int = 0

    @property
    def custom(self) -> int:
        """Custom instructions, the figure of the publications."""
        return self.parameter_writes + self.queues + self.streams

    def times(self, number: int) -> "Instructions":
        """Return what `number` such pieces take."""
        return Instructions(*(number * count for count in vars(self).values()))


@dataclass(frozen=True)
class Phases:
    """Cycles of the core by what they serve, no two instructions at once.

    `weight_load` writes weights, `fill` feeds rows before a result comes, `compute` feeds and reads
    the rest, `addition` adds results to memory.
    """

    weight_load: int
    fill: int
    compute: int
    addition: int

    @property
    def total(self) -> int:
        """Cycles of all four."""
        return self.weight_load + self.fill + self.compute + self.addition


def words(values: int, bits: int, bus_bits: int) -> int:
    """Return the bus words that carry `values` of `bits` bits, none of them in two words.

    Raises ValueError when a word cannot hold one value.

    Example:
        >>> words(16, 8, 32), words(5, 8, 32), words(4, 24, 32)
        (4, 2, 4)

    """
    if not 1 <= bits <= bus_bits:
        raise ValueError(f"bus_bits: found {bus_bits}, expected at least the {bits} of a value")
    return -(-values // (bus_bits // bits))


def row_words(size: int, coupling: Coupling, *, a_bits: int) -> int:
    """Return the instructions per row of activations: its words in, or its words of results out."""
    ways = (a_bits, coupling.result_bits or a_bits)
    return max(words(size, bits, coupling.bus_bits) for bits in ways)


def tile_instructions(
    size: int, coupling: Coupling, *, m: int, a_bits: int, w_bits: int
) -> Instructions:
    """Return what one tile of `size` x `size` weights takes with `m` rows of activations.

    Every row has its words of input; the 2R - 1 rows behind them only push the results out. The
    last row lacks its stream, because all results are out.

    Example:
        >>> tile = tile_instructions(16, Coupling(), m=499, a_bits=8, w_bits=8)
        >>> tile.custom == 16 * 4 + 4 * (499 + 31) - 1, tile.additions
        (True, 1996)

    """
    per_row = row_words(size, coupling, a_bits=a_bits)
    weight_words = size * words(size, w_bits, coupling.bus_bits)
    input_words = words(size, a_bits, coupling.bus_bits)
    rows = m + 2 * size - 1
    fill = first_result(size, coupling, a_bits=a_bits)
    # Of the instructions of a row the first carry its words, the others nothing.
    full, part = divmod(fill, per_row)
    fill_loads = min(m, full) * input_words + (min(part, input_words) if full < m else 0)
    return Instructions(
        parameter_writes=weight_words,
        queues=rows * (per_row - 1),
        streams=rows - 1,
        loads=weight_words + m * input_words,
        additions=m * per_row,
        fill=fill,
        fill_loads=fill_loads,
    )


def first_result(size: int, coupling: Coupling, *, a_bits: int) -> int:
    """Return how many queue and stream instructions of a tile come before the first result.

    Example:
        >>> first_result(8, Coupling(), a_bits=8)
        29

    """
    return (2 * size - 1) * row_words(size, coupling, a_bits=a_bits) - 1


def product_instructions(
    size: int,
    coupling: Coupling,
    *,
    m: int,
    n: int,
    k: int,
    a_bits: int,
    w_bits: int,
    occupied: int | None = None,
) -> Instructions:
    """Return what one product result[m, n] over k takes, tile after tile.

    `occupied` is how many of its ceil(k / R) ceil(n / R) tiles hold a weight that is not zero; by
    default all of them. Tiles at the edges are padded to R x R.

    Example:
        >>> product_instructions(
        ...     4, Coupling(), m=3, n=5, k=4, a_bits=8, w_bits=8, occupied=1
        ... ).custom
        13

    """
    tiles = -(-k // size) * -(-n // size)
    tile = tile_instructions(size, coupling, m=m, a_bits=a_bits, w_bits=w_bits)
    return tile.times(tiles if occupied is None else occupied)


def phases(count: Instructions, coupling: Coupling) -> Phases:
    """Return the cycles of instructions on an in-order core that starts one at a time.

    Example:
        >>> tile = tile_instructions(4, Coupling(), m=3, a_bits=8, w_bits=8)
        >>> phases(tile, Coupling())
        Phases(weight_load=8, fill=9, compute=3, addition=3)

    """
    each, load = coupling.instruction_cycles, coupling.load_cycles
    feeds = count.queues + count.streams
    input_loads = count.loads - count.parameter_writes
    return Phases(
        count.parameter_writes * (each + load),
        count.fill * each + count.fill_loads * load,
        (feeds - count.fill) * each + (input_loads - count.fill_loads) * load,
        count.additions * coupling.add_cycles,
    )


def tile_phases(size: int, coupling: Coupling, *, m: int) -> Phases:
    """Return the cycles of one tile of operands that the array was built for.

    Example:
        >>> tile_phases(4, Coupling(), m=3).total
        23

    """
    bits = {"a_bits": coupling.activation_bits, "w_bits": coupling.weight_bits}
    return phases(tile_instructions(size, coupling, m=m, **bits), coupling)


def coupling_problems(
    coupling: Coupling, *, rows: int, columns: int, how: str, a_bits: int, w_bits: int
) -> list[str]:
    """Return a line per rule that an array inside a core breaks.

    `how` is its dataflow and schedule, `a_bits` and `w_bits` its widest operands.
    """
    problems = []
    if rows != columns:
        problems.append(
            f"array.coupling: found {rows} rows and {columns} columns, expected as many of both"
        )
    if how != "weight_stationary serial":
        problems.append(
            f"array.coupling: the core writes weights, then streams activations; found {how}, "
            "expected weight_stationary and serial"
        )
    places = {"activation_bits": a_bits, "weight_bits": w_bits}
    for name, bits in places.items():
        found = getattr(coupling, name)
        if found < bits:
            problems.append(
                f"array.coupling.{name}: found {found}, expected at least the {bits} of the "
                "operands in array.supports"
            )
    widest = max(coupling.activation_bits, coupling.weight_bits, coupling.result_bits)
    if coupling.bus_bits < widest:
        problems.append(
            f"array.coupling.bus_bits: found {coupling.bus_bits}, expected at least the {widest} "
            "of a value"
        )
    return problems
