"""docs/precision.md: what narrow operands save on which cells, from rows of `bench --precision`."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from cosim.report.chips_tables import (
    base_of,
    change,
    on_chip,
    page,
    speedup,
)
from cosim.report.markdown import table
from cosim.report.numbers import percent, scaled

Row = Mapping[str, Any]
_ON_VECTOR_UNIT = "vector_mac"
_PAGE = """# Precision: what narrow operands save on which cells

Written by `cosim bench --precision --rounds {rounds} --markdown docs/precision.md`.

- `w8a8`, `w4a8`, `w2a8`: weights of 8, 4 and 2 bits throughout, activations of 8 bits per row.
- `w1a1`: weights and operands of the blocks are single bits, both products of attention too; what
  lies outside the blocks is as in `w8a8`.

Nothing is trained, so what narrow operands cost in word errors is another question
(`docs/compression.md`). Every chip is the shipped one with other cells:

- `fixed` multiplies two 8-bit integers per cycle, narrow ones too.
- `composable and xnor` is made of sixteen 2 x 2 bit multipliers, 64 / (a x w) products per cycle,
  with edges of 16 bits per cycle: two activations of 8 bits, too few for weights of 2 bits. Beside
  the array stands an xnor unit of as many cells with words of 32 bits; scales of groups are applied
  at the accumulators.
- `bit-serial weights` takes eight products at once, one bit of the weights per cycle, from edges as
  wide as that.

The energy table has one price per product of two widths, whatever the cell (assumed).

Operands that a chip does not list as supported run on its vector unit. Speed-ups are cycles of
`w8a8` on `fixed` cells over those of the row: the whole simulated utterance, and behind it, in
brackets, the array alone without any stall.

*Quantising* is the vector unit's work that makes codes or bits of floats, and floats of codes, its
cycles where it runs by itself and all its energy. *Partial sums* are the bytes of sums that move to
and from the accumulators, *accumulators* the energy of all that moves through the output buffer.
Sums have 32 bits at every width of the operands; where a cell takes several products at once, a sum
has fewer folds and fewer partial sums move.

Executed: CPU time of the linear layers of one block in the kernels of `w8a8` over that of the same
layers in the kernels of the version, one thread, in turns, median of {rounds} rounds with its
interval. Activations are codes already.

{machine}
"""


def precision_markdown(rows: Iterable[Row], total: Row) -> str:
    """Return the page as Markdown: a section per model, in it one per chip."""
    return page(_PAGE, rows, total, findings=_findings, costs=_costs)


def _findings(rows: Sequence[Row], chip: str) -> Iterator[str]:
    """Yield the best cells of each version, what they cannot shorten, and what falls off them."""
    base = base_of(rows, chip)
    for row in rows[1:]:
        found = _best(row, chip)
        if not found:
            continue
        best = found[0]
        vector, stalls = (best[key] / best["cycles"] for key in ("vector_cycles", "stall_cycles"))
        yield (
            f"{row['version']}: {speedup(best, base):.2f} times on `{best['variant']}`, the array "
            f"alone {speedup(best, base, 'array_cycles'):.2f} times; of all cycles "
            f"{percent(vector)} are the vector unit's and {percent(stalls)} stalls. Energy "
            f"{change(best['energy_j'], base['energy_j'])}, DRAM bytes "
            f"{change(best['dram_bytes'], base['dram_bytes'])}."
        )
    yield from _fallen(rows, chip)
    yield (
        "Accumulators, and quantising, take of the energy, each version on its fastest cells: "
        + ", ".join(
            f"{row['version']} {percent(one['accumulator_j'] / one['energy_j'])} and "
            f"{percent(one['quantize_j'] / one['energy_j'])}"
            for row in rows
            for one in _best(row, chip)
        )
        + "."
    )


def _best(row: Row, chip: str) -> list[Row]:
    sound = [one for one in on_chip(row, chip) if not one["note"]]
    return [min(sound, key=lambda one: one["cycles"])] if sound else []


def _fallen(rows: Sequence[Row], chip: str) -> Iterator[str]:
    """Yield which versions run on the vector unit in part, and how much."""
    told = [
        f"{row['version']} on `{one['variant']}` {percent(_on_vector_unit(one) / one['macs'])}"
        for row in rows
        for one in on_chip(row, chip)
        if not one["note"] and _on_vector_unit(one) > one["macs"] / 1000
    ]
    if told:
        yield f"Products that the array does not support run on the vector unit: {', '.join(told)}."


def _on_vector_unit(one: Row) -> int:
    return int(one["products"].get(_ON_VECTOR_UNIT, 0))


def _costs(rows: Sequence[Row], chip: str) -> list[str]:
    """Return cycles, bytes and joules of every version on all cells."""
    return table(
        (
            *("version, cells", "array cycles", "vector", "stalls", "simulated cycles"),
            *("quantising", "its energy", "partial sums", "accumulators"),
            *("DRAM", "energy"),
        ),
        (
            (
                f"{row['version']}, `{one['variant']}`",
                f"{one['array_cycles']:,}",
                f"{one['vector_cycles']:,}",
                f"{one['stall_cycles']:,}",
                f"{one['cycles']:,}",
                f"{one['quantize_cycles']:,}",
                scaled(one["quantize_j"], "J"),
                scaled(one["partial_sum_bytes"], "B"),
                scaled(one["accumulator_j"], "J"),
                scaled(one["dram_bytes"], "B"),
                scaled(one["energy_j"], "J"),
            )
            for row in rows
            for one in on_chip(row, chip)
            if not one["note"]
        ),
    )
